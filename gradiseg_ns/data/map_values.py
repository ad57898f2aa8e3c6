"""What the values of id maps mean: rims of soft edges, "not labelled", palettes that differ, ids of what is not there.

Every question is asked of a whole set of maps, since no single map can answer it. Nothing here needs nerfstudio.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.data.id_maps import IdScan

NO_LABEL_VALUES = (255, 65535)
"""Values that VOC, DAVIS, Cityscapes, ScanNet and others write where nothing is labelled."""

IGNORE_FLAG = "--pipeline.datamanager.ignore-ids"
"""The command-line flag that takes ids for "no label"."""

_RIM_INSIDE = 0.02
_RIM_SHARE = 0.3
_EMPTY_SHARE = 0.95


def soft_edges(scan: IdScan, ignored: Collection[int] = ()) -> list[int]:
    """Ids that are no objects but the soft edges of some: antialiased, or resized with interpolation.

    They are as many as the objects at least, three or more, are never wider than a line, hold less than a third of the pixels,
    and lie mostly between the objects' values.

    Args:
        scan: Of all maps.
        ignored: Ids that are "no label" anyway.

    Returns:
        The ids, sorted; empty if edges are hard.
    """
    ids = [i for i in scan.ids if i not in ignored]
    rims = [i for i in ids if scan.inside.get(i, 0) < _RIM_INSIDE * scan.pixels[i]]
    thin = set(rims)
    solid = [i for i in ids if i not in thin]
    if len(rims) < 3 or len(rims) < len(solid) or len(solid) < 2:
        return []
    if sum(scan.pixels[i] for i in rims) > _RIM_SHARE * sum(scan.pixels.values()):
        return []
    # Most gray values lie between the objects' (some filters overshoot); codes of colours lie anywhere.
    between = sum(min(solid) < i < max(solid) for i in rims)
    if max(ids) <= 65535 and between < 0.5 * len(rims):
        return []
    return rims


def seems_unlabelled(scan: IdScan, ignored: Collection[int] = ()) -> list[int]:
    """Values of `NO_LABEL_VALUES` that look like "not labelled": only ever a thin rim, or far beyond all other ids."""
    others = [i for i in scan.ids if i not in NO_LABEL_VALUES and i not in ignored]
    if len(others) < 2:
        return []
    found = []
    for value in NO_LABEL_VALUES:
        if value in ignored or value not in scan.pixels or value - 1 in scan.pixels:
            continue
        thin = scan.deep.get(value, 0) <= 0.01 * scan.pixels[value]
        far = value == 65535 and max(others) < 32768
        if thin or far:
            found.append(value)
    return found


def palettes_differ(paths: Sequence[Path]) -> tuple[bool, str] | None:
    """Whether the palettes of maps give one index different colours.

    Args:
        paths: The maps; only palette PNGs matter, and those are only decoded if their palettes are not all the same.

    Returns:
        None if they do not. Otherwise whether the colours are the ids (most of them recur in several files), and not the indices;
        and what was found, for the user.
    """
    palettes: dict[Path, bytes] = {}
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode == "P":
                    palettes[path] = bytes(image.getpalette("RGB") or b"")
        except (OSError, SyntaxError, ValueError):  # reading it will tell
            continue
    if len(set(palettes.values())) < 2:
        return None
    colour_of: dict[int, tuple[bytes, Path]] = {}
    files: Counter[bytes] = Counter()
    example = None
    for path, palette in palettes.items():
        try:
            with Image.open(path) as image:
                used = np.unique(np.asarray(image))
        except (OSError, SyntaxError, ValueError):
            continue
        colours = {int(i): palette[3 * i : 3 * i + 3] for i in used.tolist()}
        files.update(set(colours.values()))
        for index, colour in colours.items():
            before, where = colour_of.setdefault(index, (colour, path))
            if before != colour and example is None:
                example = f"index {index} is the colour {tuple(before)} in {where.name} and {tuple(colour)} in {path.name}"
    if example is None:
        return None
    recurring = sum(count > 1 for count in files.values()) * 2 > len(files)
    return recurring, f"the palettes of the id maps differ from file to file: {example}"


def one_id_only(ids_of_views: Sequence[Collection[int]]) -> list[int]:
    """Views whose map holds one id only, while a quarter of all or more hold several; empty if that is usual."""
    labelled = [k for k, ids in enumerate(ids_of_views) if ids]
    single = [k for k in labelled if len(ids_of_views[k]) == 1]
    return single if 0 < 4 * len(single) <= 3 * len(labelled) else []


def empty_ids(
    views: Iterable[tuple[NDArray[np.number], NDArray[np.integer]]],
) -> list[int]:
    """Ids that stand for nothing: where they are, photos are transparent; for id 0 also plain black or white all over.

    A splat has no Gaussians there, so no pixel is ever of such an id, and its IoU would be that of chance.

    Args:
        views: Photos `[H, W, 3 or 4]`, 8 bits or 0 to 1, with their ids `[H, W]`.

    Returns:
        The ids, sorted: at least 95 % of their pixels are so. Never all ids.
    """
    total: Counter[int] = Counter()
    empty: dict[str, Counter[int]] = defaultdict(Counter)
    for photo, ids in views:
        if photo.shape[:2] != ids.shape or not ids.size:
            continue
        white = 1.0 if np.issubdtype(photo.dtype, np.floating) else 255.0
        step = max(1, round((ids.size / 250_000) ** 0.5))
        photo, ids = photo[::step, ::step], ids[::step, ::step]
        grounds = {
            "black": (photo[..., :3] <= 0.012 * white).all(-1),
            "white": (photo[..., :3] >= 0.988 * white).all(-1),
        }
        if photo.shape[-1] == 4:
            grounds["clear"] = photo[..., 3] < 0.5 * white
            grounds = {name: ground | grounds["clear"] for name, ground in grounds.items()}
        total.update(_counts(ids))
        for name, ground in grounds.items():
            empty[name].update(_counts(ids[ground]))
    found = sorted(
        i
        for i, n in total.items()
        if max((count[i] for name, count in empty.items() if i == 0 or name == "clear"), default=0)
        >= _EMPTY_SHARE * n
    )
    return found if len(found) < len(total) else []


def _counts(ids: NDArray[np.integer]) -> dict[int, int]:
    values, counts = np.unique(ids[ids >= 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def some(values: Sequence[object], most: int = 4) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more


def without(values: Collection[int], ids: NDArray[np.int32], fill: int) -> NDArray[np.int32]:
    """Ids `[H, W]` with some values replaced by `fill`; the input itself if none occurs."""
    if not values:
        return ids
    hit = np.isin(ids, list(values))
    return np.where(hit, np.int32(fill), ids) if hit.any() else ids
