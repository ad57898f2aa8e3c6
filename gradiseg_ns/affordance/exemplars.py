"""Photos with painted regions: what labelme saves, or id maps.

Files of others are read and never executed; photos are opened in the folder of the exemplars only.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gradiseg_ns.affordance import AFFORDANCES, MAX_CLASSES
from gradiseg_ns.data.id_maps import IdMapError, read_id_map, read_object_names
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LABELS = "_labels"


class ExemplarError(GradisegError):
    """The exemplars cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Exemplar:
    """A photo with painted regions."""

    name: str
    """The photo's file name without its suffix."""
    image: NDArray[np.uint8]
    """[H, W, 3]"""
    classes: NDArray[np.int32]
    """[H, W] class of each pixel; 0 is background."""

    def mirrored(self) -> Exemplar:
        """Left and right swapped, in the photo and in what is painted on it."""
        return Exemplar(
            f"{self.name}, mirrored",
            np.ascontiguousarray(self.image[:, ::-1]),
            np.ascontiguousarray(self.classes[:, ::-1]),
        )


def read_exemplars(folder: str | Path) -> tuple[list[Exemplar], list[str]]:
    """Read all exemplars of a folder.

    Beside every photo lies what was painted on it, as one of:

    - `<photo>.json`, as labelme saves it: polygons, rectangles and circles, whose `label` is the name of the class; later
      shapes lie on top. It may stand alone if its `imagePath` leads to a photo of the folder, or if it holds the photo.
    - `<photo>_labels.png` or `labels/<photo>.png`: an id map.

    `classes.json`, like {"1": "grasp"}, names the ids and the classes that may occur. Without it, ids are those of
    `AFFORDANCES`; shapes may then have any names, which are numbered in alphabetical order unless all are in `AFFORDANCES`.

    Returns:
        the exemplars in the order of their names, and the names of the classes: class k is called names[k].

    Raises:
        ExemplarError: there are none, a photo has no labels, a file cannot be used, or nothing but background is painted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExemplarError(f"--exemplars {folder}: no such folder.")
    sources = _find_exemplars(folder)
    painted = {path: _read_shapes(path) for _, path in sources if path.suffix.lower() == ".json"}
    names = _class_names(
        folder,
        {shape.label for _, shapes in painted.values() for shape in shapes},
        len(painted) < len(sources),
    )
    exemplars = []
    for photo, path in sources:
        if path in painted:
            content, shapes = painted[path]
            image = _embedded_image(content, path) if photo is None else _read_photo(photo)
            height, width = image.shape[:2]
            size = content.get("imageHeight") or height, content.get("imageWidth") or width
            painted_classes = _paint(shapes, (height, width), names)
        else:
            assert photo is not None
            image, painted_classes = _read_photo(photo), _read_class_map(path, names)
            size = painted_classes.shape
        if tuple(size) != image.shape[:2]:
            raise ExemplarError(
                f"{path} is for a photo of {size[1]} x {size[0]} pixels, but {photo or 'the one in it'} has "
                f"{image.shape[1]} x {image.shape[0]}. Paint on this very photo, at its full size."
            )
        exemplars.append(Exemplar((photo or path).stem, image, painted_classes))
    if not any(exemplar.classes.any() for exemplar in exemplars):
        raise ExemplarError(
            f"{folder}: nothing but background is painted on the {len(exemplars)} exemplars. Paint at least one region "
            "of another class."
        )
    return exemplars, names


def _find_exemplars(folder: Path) -> list[tuple[Path | None, Path]]:
    """Photo (None: inside the labels) and labels of every exemplar, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    photos = [path for path in files if path.suffix.lower() in _PHOTOS and not path.stem.endswith(_LABELS)]
    shapes = [path for path in files if path.suffix.lower() == ".json" and path.name != "classes.json"]
    found: dict[str, tuple[Path | None, Path]] = {}
    for path in shapes:
        photo = _photo_of_shapes(path, photos)
        key = (photo or path).stem
        if key in found:
            raise ExemplarError(
                f"{found[key][1]} and {path} both belong to {photo or path}: remove one of them."
            )
        found[key] = (photo, path)
    for photo in photos:
        maps = [folder / f"{photo.stem}{_LABELS}.png", folder / "labels" / f"{photo.stem}.png"]
        maps = [path for path in maps if path.is_file()]
        if photo.stem in found or len(maps) > 1:
            taken = found.get(photo.stem)
            if maps or (taken is not None and taken[0] != photo):
                raise ExemplarError(
                    f"{photo} has more than one file of labels, or its name twice: keep one photo and one of "
                    f"{photo.stem}.json, {photo.stem}{_LABELS}.png and labels/{photo.stem}.png."
                )
            continue
        if not maps:
            raise ExemplarError(
                f"{photo} has no labels: expected {photo.stem}.json (labelme), {photo.stem}{_LABELS}.png or "
                f"labels/{photo.stem}.png. Label it, or take it out of the folder."
            )
        found[photo.stem] = (photo, maps[0])
    if not found:
        raise ExemplarError(
            f"--exemplars {folder} is empty: expected photos ({', '.join(_PHOTOS)}), each with a labelme JSON or an "
            f"id map (<photo>{_LABELS}.png) beside it."
        )
    return [found[key] for key in sorted(found)]


def _photo_of_shapes(path: Path, photos: Sequence[Path]) -> Path | None:
    """The photo a labelme file belongs to; None if the file holds it itself.

    Raises:
        ExemplarError: there is none.
    """
    beside = [photo for photo in photos if photo.stem == path.stem]
    if len(beside) == 1:
        return beside[0]
    content = _read_json(path)
    named = str(content.get("imagePath") or "")
    # A file from elsewhere may name any path of this machine: only photos of the folder are opened.
    if named:
        photo = (path.parent / named.replace("\\", "/")).resolve()
        for candidate in photos:
            if candidate.resolve() == photo:
                return candidate
    if content.get("imageData"):
        return None
    raise ExemplarError(
        f"{path} belongs to no photo: there is no single {path.stem}.jpg or .png beside it, its imagePath "
        f"({named or 'none'}) is no photo of this folder, and it holds none. Put the photo beside it."
    )


def _read_photo(path: Path) -> NDArray[np.uint8]:
    try:
        return _decode(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise ExemplarError(f"The photo {path} cannot be read ({error}).") from error


def _decode(source: Path | io.BytesIO) -> NDArray[np.uint8]:
    """[H, W, 3], turned as its orientation tag says: as the person who painted saw it."""
    with Image.open(source) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _embedded_image(content: Mapping[str, Any], path: Path) -> NDArray[np.uint8]:
    try:
        return _decode(io.BytesIO(base64.b64decode(content["imageData"], validate=True)))
    except (OSError, SyntaxError, ValueError, TypeError, binascii.Error) as error:
        raise ExemplarError(
            f"The photo inside {path} (imageData) cannot be read ({error}). Put the photo beside the file."
        ) from error


def _read_class_map(path: Path, names: Sequence[str]) -> NDArray[np.int32]:
    try:
        classes = read_id_map(path)
    except IdMapError as error:
        raise ExemplarError(str(error)) from error
    if classes.size and int(classes.max()) >= len(names):
        raise ExemplarError(
            f"{path} has the id {int(classes.max())}, but there are {len(names)} classes (0 to {len(names) - 1}: "
            f'{", ".join(names)}). Name the ids in classes.json, like {{"1": "grasp"}}.'
        )
    return classes


def _class_names(folder: Path, painted: set[str], with_maps: bool) -> list[str]:
    """Names of the classes, by id.

    Args:
        painted: names that occur in labelme files.
        with_maps: there are id maps too, so that ids must be known.

    Raises:
        ExemplarError: a name has no id, or there are too many classes.
    """
    given = folder / "classes.json"
    painted = painted - {"background"}
    if given.is_file():
        try:
            named = read_object_names(given)
        except IdMapError as error:
            raise ExemplarError(str(error)) from error
        if any(not 0 <= k < MAX_CLASSES for k in named):
            raise ExemplarError(f"{given}: expected ids from 0 to {MAX_CLASSES - 1}, found {sorted(named)}.")
        named = {0: "background", **named}
        names = [named.get(k, f"class {k}") for k in range(max(named) + 1)]
        if len(set(names)) < len(names):
            raise ExemplarError(f"{given}: two ids have the same name.")
    elif painted <= set(AFFORDANCES) or with_maps:
        given, names = Path("the classes of arXiv 2409.11681"), list(AFFORDANCES)
    else:
        names = ["background", *sorted(painted)]
    unknown = sorted(painted - set(names))
    if unknown:
        raise ExemplarError(
            f"{folder}: the shapes are called {', '.join(unknown)}, which {given} does not have "
            f"({', '.join(names)}). Correct the shapes, or name all classes in classes.json."
        )
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ExemplarError(
            f"{folder}: {len(names)} classes; expected background and at least one other, {MAX_CLASSES} at most."
        )
    return names


# ---------------------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True)
class _Shape:
    label: str
    kind: str
    points: NDArray[np.float64]
    """[P, 2] columns and rows, in pixels from the photo's upper left corner."""


_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}
"""Kinds of shapes, and how many points they have at least."""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ExemplarError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ExemplarError(f"{path} is not a file of labelme's: expected an object with a list of shapes.")
    return content


def _read_shapes(path: Path) -> tuple[dict[str, Any], list[_Shape]]:
    content = _read_json(path)
    shapes = []
    for i, shape in enumerate(content["shapes"]):
        where = f"{path}, shape {i}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ExemplarError(f"{where}: expected an object with a label, the name of a class.")
        kind = shape.get("shape_type") or "polygon"
        if kind not in _POINTS:
            raise ExemplarError(
                f"{where} ({shape['label']}) is a {kind}: expected {', '.join(_POINTS)}. Draw the region as a polygon."
            )
        try:
            points = np.asarray(shape.get("points"), dtype=np.float64)
        except (TypeError, ValueError):
            points = np.empty(0)
        fits = points.ndim == 2 and points.shape[1] == 2 and len(points) >= _POINTS[kind]
        if not fits or not np.isfinite(points).all():
            raise ExemplarError(
                f"{where} ({shape['label']}): a {kind} needs {_POINTS[kind]} points [x, y] or more."
            )
        name = (
            "background" if shape["label"] == "_background_" else shape["label"]
        )  # labelme's own name for it
        shapes.append(_Shape(name, kind, points))
    return content, shapes


def _paint(shapes: Sequence[_Shape], size: tuple[int, int], names: Sequence[str]) -> NDArray[np.int32]:
    """Classes [H, W] of the pixels: of those whose centre lies in a shape, the last shape's."""
    classes = np.zeros(size, np.int32)
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1])[None, :] + 0.5
    for shape in shapes:
        low, high = shape.points.min(axis=0), shape.points.max(axis=0)
        if shape.kind == "circle":  # the centre, and a point on the rim
            centre, rim = shape.points[:2]
            inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= ((rim - centre) ** 2).sum()
        elif shape.kind == "rectangle":
            inside = (x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1])
        else:
            inside = _inside_polygon(shape.points, size)
        classes[inside] = names.index(shape.label)
    return classes


def _inside_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether the centre of each pixel [H, W] lies inside, by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre the edge passes, the lower end excluded: two edges that meet are counted once.
        first, last = (int(np.clip(math.ceil(y - 0.5), 0, height)) for y in (y0, y1))
        rows = np.arange(first, last)
        if len(rows):
            column = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(column - 0.5), 0, width).astype(np.int64)] += 1
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1
