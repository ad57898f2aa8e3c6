"""One file per object instead of one map per view: `cup/0001.png`, `0001/cup.png`, `0001_cup.png`, `cup_0001.png`.

Such masks are merged into one id map per view. Nothing here needs nerfstudio.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.data.id_maps import IdMapError, photo_keys

MASK_SUFFIXES = (".png", ".npy", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LAYOUTS = {
    "object/view": "one folder per object",
    "view/object": "one folder per view with one file per object",
    "view_object": "one file per view and object (view_object.png)",
    "object_view": "one file per view and object (object_view.png)",
}
_SAMPLES = 12


@dataclass(frozen=True)
class ObjectMasks:
    """Masks of single objects, by photo."""

    layout: str
    """A key of `LAYOUTS`."""
    views: Mapping[Path, tuple[tuple[str, Path], ...]]
    """For each photo the objects' names and mask files."""

    @property
    def names(self) -> list[str]:
        """Names of all objects, sorted."""
        return sorted({name for masks in self.views.values() for name, _ in masks})


def find_object_masks(photos: Sequence[Path], data_dir: Path, folder: Path) -> ObjectMasks | None:
    """Find masks of single objects.

    Args:
        photos: All photos, of both splits.
        data_dir: Data folder.
        folder: Folder of the masks.

    Returns:
        The masks, or None if the folder is not laid out so: at least half of the photos must have masks, one of them several, or
        there are several objects in all; and the masks must hold two values.
    """
    if not photos or not folder.is_dir():
        return None
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".") and path.is_file():
            key = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            files.setdefault(key, path)
    keys: dict[str, list[Path]] = defaultdict(list)
    for photo in dict.fromkeys(photos):
        for key in photo_keys(photo, data_dir):
            keys[key].append(photo)
    # A map at a photo's own place is a map of all objects: that layout goes first.
    if sum(key in keys for key in files) * 2 >= len(set(photos)):
        return None
    for layout in LAYOUTS:
        views: dict[Path, dict[str, Path]] = defaultdict(dict)
        for key, path in files.items():
            for view, name in _readings(key, layout, keys):
                owners = keys.get(view, [])
                if len(owners) == 1 and name:
                    views[owners[0]].setdefault(name, path)
        names = {name for masks in views.values() for name in masks}
        if len(views) * 2 < len(set(photos)) or not names:
            continue
        if (
            len(names) < 2 and layout == "object/view"
        ):  # one subfolder, one map per photo: a map of ids as well
            continue
        if layout in ("view_object", "object_view") and not any(len(masks) > 1 for masks in views.values()):
            continue
        found = {photo: tuple(sorted(masks.items())) for photo, masks in views.items()}
        if _hold_two_values([path for masks in found.values() for _, path in masks]):
            return ObjectMasks(layout, found)
    return None


def _readings(key: str, layout: str, photos: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """(view, object) that a file's path without suffix may mean in a layout."""
    if layout == "object/view":
        first, slash, rest = key.partition("/")
        if slash:
            yield rest, first
    elif layout == "view/object":
        view, slash, name = key.rpartition("/")
        if slash:
            yield view, name
    else:
        for split in re.finditer(r"[_\-. ]+", key):
            before, after = key[: split.start()], key[split.end() :]
            view, name = (before, after) if layout == "view_object" else (after, before)
            if view in photos and "/" not in name:
                yield view, name
                return


def _hold_two_values(paths: Sequence[Path]) -> bool:
    """Whether masks, of which some are read, are of one object each: two values, or two with soft edges between."""
    chosen = sorted(set(np.linspace(0, len(paths) - 1, _SAMPLES).round().astype(int)))
    for k in chosen:
        values = _gray(paths[k])
        high = float(values.max(initial=0))
        clear = (values < 0.25 * high) | (values > 0.75 * high)
        if high > 0 and float(clear.mean()) < 0.75:
            return False
        if high > 0 and len(np.unique(values)) > 2 and high < 100:  # 0, 1, 2, 3: ids
            return False
    return True


def _gray(path: Path) -> NDArray[np.float64]:
    """A mask as gray values, or its opacity where that is what differs."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False).astype(np.float64)
            values = values[..., 0] if values.ndim == 3 else values
            if values.ndim != 2:
                raise ValueError(f"an array of shape {list(values.shape)}, expected [H, W]")
            return np.maximum(values, 0)
        with Image.open(path) as image:
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                alpha = np.asarray(image.convert("RGBA").getchannel("A"), np.float64)
                if alpha.min() < alpha.max():
                    return alpha
            if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
                return np.asarray(image).astype(np.float64)
            if image.mode == "P":
                indices = np.asarray(image)
                if len(np.unique(indices)) <= 2:  # the colours of two indices mean nothing
                    return (indices != 0).astype(np.float64)
            return np.asarray(image.convert("L"), np.float64)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise IdMapError(
            f"The mask {path} cannot be read ({error}). Write it again, or remove it."
        ) from error


def ids_of_names(names: Iterable[str], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Ids of objects by name; 0 is where no mask is.

    Names that are numbers from 1 on are the ids. Numbers from 0 on are moved up by one. Other names are numbered from 1 in the
    order of the alphabet, apart from those that are known.
    """
    known = {unicodedata.normalize("NFC", name): i for name, i in (known or {}).items()}
    names = sorted(set(names))
    numbers = {name: int(name) for name in names if name.isascii() and name.isdigit()}
    if (
        len(numbers) == len(names)
        and len(set(numbers.values())) == len(names)
        and not set(names) & set(known)
    ):
        up = int(0 in numbers.values())
        return {name: number + up for name, number in numbers.items()}
    result, free = {name: known[name] for name in names if name in known}, 1
    taken = set(known.values())
    for name in names:
        if name not in result:
            while free in taken:
                free += 1
            result[name] = free
            taken.add(free)
    return result


def merge_masks(masks: Sequence[tuple[str, Path]], ids: Mapping[str, int]) -> NDArray[np.int32]:
    """One id map of a view's masks; where several overlap, the smaller object is in front.

    Args:
        masks: Names and files of a view's objects.
        ids: Id of each name.

    Returns:
        Object ids `[H, W]`, 0 where no mask is.

    Raises:
        IdMapError: A mask cannot be read, or they differ in size.
    """
    layers: list[tuple[int, NDArray[np.bool_]]] = []
    for name, path in masks:
        values = _gray(path)
        inside = values * 2 > max(float(values.max(initial=0)), np.finfo(np.float64).tiny)
        if layers and inside.shape != layers[0][1].shape:
            (h, w), (height, width) = inside.shape, layers[0][1].shape
            raise IdMapError(
                f"The masks of one view differ in size: {path} is {w} x {h} pixels, {masks[0][1]} is {width} x {height}."
            )
        layers.append((ids[name], inside))
    result = np.zeros(layers[0][1].shape, np.int32)
    for object_id, inside in sorted(layers, key=lambda layer: -int(layer[1].sum())):
        result[inside] = object_id
    return result
