"""The best views of each object: large, not cut off by the picture's border, from several sides; and crops of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gradiseg_ns.rendering import Camera

LOOKS = 32
"""Cameras that are enough to see all objects from several sides, evenly spread."""
HEIGHT = 512
"""Pixels that their pictures are high, at most."""
MOST = 5
"""Views of an object that are shown to a model."""
CROP = 384
"""Pixels of a crop's side, at most: models see 224 to 384."""
MARGIN = 0.15
"""Space around an object in its crop, in parts of the object's longer side."""

_SPREAD = math.radians(40.0)
"""From this angle on two views show different sides."""
_SAME = 0.1
"""A view from where there is one already counts so much."""
_CUT_OFF = 0.25
"""A view that the picture's border cuts off counts so much."""
_BORDER = 0.02
"""Share of a box's outline that may lie on the picture's border before the object counts as cut off."""
_WORSE = 0.3
"""A view that is less than this part as good as the best is no help: it is far away, or something stands before the object."""
_SPECK = 0.1
"""Parts of an object smaller than this share of its largest one are no part of its crop: floaters, mistakes at borders."""
_FEWEST = 24
"""Pixels below which nothing can be recognised."""
_GREY = 0.5
_BLUR = 12
"""The softened background has so many different places in a row."""
_FADED = 0.5
"""Part of grey in the softened background."""
_CRACK = 0.02
"""Cracks in a mask that are thinner than this part of a crop's side are closed: Gaussians of another label."""


@dataclass(frozen=True)
class View:
    """What a camera sees."""

    camera: Camera
    ids: Tensor
    """int [h, w] object ids, negative where there is none; of the camera's size."""
    picture: Tensor
    """[H, W, 3], a photo or a render: float, 0 to 1, or uint8. It may have more or fewer pixels than the ids."""


@dataclass(frozen=True)
class Sight:
    """An object in a view."""

    id: int
    view: int
    """Number of the view."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels of the ids; the last are beyond it."""
    mask: NDArray[np.bool_]
    """bool [y1 - y0, x1 - x0], without specks."""
    share: float
    """Part of the picture, 0 to 1."""
    whole: bool
    """Whether the picture's border does not cut it off."""
    direction: tuple[float, float, float]
    """From the camera to the object, a unit vector in the world."""

    @property
    def quality(self) -> float:
        """How much can be seen, for comparing views of one object."""
        return self.share * (1.0 if self.whole else _CUT_OFF)


def object_views(views: Sequence[View], most: int = MOST) -> dict[int, list[Sight]]:
    """The best few views of each object that is seen at all, the best first.

    Args:
        views: what some cameras see.
        most: views of an object, at most.

    Returns:
        by object id, ascending.
    """
    seen: dict[int, list[Sight]] = {}
    for number, view in enumerate(views):
        for sight in sights(number, view):
            seen.setdefault(sight.id, []).append(sight)
    return {id: _spread(seen[id], most) for id in sorted(seen)}


def _spread(found: list[Sight], most: int) -> list[Sight]:
    """The best views, each further one from where no chosen one was taken, as far as it is good enough."""
    found = sorted(found, key=lambda sight: -sight.quality)
    chosen, left = found[:1], [s for s in found[1:] if s.quality >= _WORSE * found[0].quality]
    while left and len(chosen) < most:

        def gain(sight: Sight) -> float:
            nearest = max(float(np.dot(sight.direction, other.direction)) for other in chosen)
            apart = math.acos(min(max(nearest, -1.0), 1.0))
            return sight.quality * min(max(apart / _SPREAD, _SAME), 1.0)

        best = max(left, key=gain)
        left.remove(best)
        chosen.append(best)
    return chosen


def sights(number: int, view: View) -> Iterator[Sight]:
    """The objects in a view that are large enough to be recognised.

    Args:
        number: of the view.
        view: what is seen.

    Raises:
        ValueError: the ids or the picture have another shape than a view's.
    """
    if view.ids.dim() != 2 or view.picture.dim() != 3 or view.picture.shape[2] != 3:
        raise ValueError(
            f"view {number} has ids of shape {list(view.ids.shape)} and a picture of shape {list(view.picture.shape)}: "
            "expected [h, w] and [H, W, 3]."
        )
    ids = view.ids.cpu().numpy()
    height, width = ids.shape
    known = np.unique(ids[ids >= 0])
    if not len(known):
        return
    labels = np.where(ids >= 0, np.searchsorted(known, ids) + 1, 0)
    turn = view.camera.viewmat[:3, :3].T.double().cpu()
    lens = torch.linalg.inv(view.camera.K.double().cpu())
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        mask = _without_specks(labels[place] == label)
        pixels = int(mask.sum())
        if pixels < _FEWEST:
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        y0, x0 = place[0].start + int(rows[0]), place[1].start + int(columns[0])
        y1, x1 = y0 + mask.shape[0], x0 + mask.shape[1]
        border = mask[0].sum() * (y0 == 0) + mask[-1].sum() * (y1 == height)
        border += mask[:, 0].sum() * (x0 == 0) + mask[:, -1].sum() * (x1 == width)
        ray = turn @ (lens @ torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, 1.0], dtype=torch.float64))
        x, y, z = (ray / ray.norm()).tolist()
        yield Sight(
            int(known[label - 1]), number, (x0, y0, x1, y1), mask, pixels / ids.size,
            bool(border <= _BORDER * 2 * sum(mask.shape)), (x, y, z),
        )  # fmt: skip


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The large parts of a mask: an object may be seen in pieces, behind something."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))  # type: ignore[misc]
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= _SPECK * sizes.max())[parts]


def crop_of(view: View, sight: Sight, size: int = CROP) -> Tensor:
    """A square picture of an object with some space around it. What is not the object is blurred and faded to grey.

    Models cut pictures into squares: what is long must fit. Beyond the picture's border everything is grey.

    Args:
        view, sight: the object, and the view that it was seen in.
        size: pixels of the side, at most.

    Returns:
        float32 [s, s, 3], 0 to 1, on the CPU.
    """
    height, width = view.ids.shape
    tall, wide = view.picture.shape[:2]
    x0, y0, x1, y1 = sight.box
    half = (0.5 + MARGIN) * max((x1 - x0) * wide / width, (y1 - y0) * tall / height)
    middle_x, middle_y = 0.5 * (x0 + x1) * wide / width, 0.5 * (y0 + y1) * tall / height
    left, top = math.floor(middle_x - half), math.floor(middle_y - half)
    side = max(1, math.ceil(2 * half))

    box = [round(v * factor) for v, factor in zip(sight.box, 2 * (wide / width, tall / height), strict=True)]
    inside = sight.mask.astype(np.float32)
    if inside.shape != (box[3] - box[1], box[2] - box[0]):
        inside = cv2.resize(inside, (max(1, box[2] - box[0]), max(1, box[3] - box[1])))
    mask = np.zeros((side, side), np.float32)
    _paste(mask, inside, left=box[0] - left, top=box[1] - top)

    thick = 2 * round(0.5 * _CRACK * side) + 1
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((thick, thick), np.uint8))

    a, b = max(left, 0), max(top, 0)
    part = view.picture[b : max(top + side, b), a : max(left + side, a)].cpu().numpy()
    picture = np.full((side, side, 3), _GREY, np.float32)
    _paste(picture, part / np.float32(255 if part.dtype == np.uint8 else 1), left=a - left, top=b - top)

    if side > size:
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    rest = cv2.resize(picture, (_BLUR, _BLUR), interpolation=cv2.INTER_AREA)
    rest = cv2.resize(_FADED * _GREY + (1 - _FADED) * rest, picture.shape[:2])
    return torch.from_numpy((rest + mask[..., None] * (picture - rest)).clip(0.0, 1.0))


def _paste(target: NDArray[Any], part: NDArray[Any], *, left: int, top: int) -> None:
    """Put a part [h, w, ...] into a picture [H, W, ...], as far as it fits. Changes the picture."""
    height = min(part.shape[0], target.shape[0] - top)
    width = min(part.shape[1], target.shape[1] - left)
    target[top : top + height, left : left + width] = part[:height, :width]
