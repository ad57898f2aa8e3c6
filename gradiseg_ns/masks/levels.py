"""Masks of one picture beside and inside each other: which are the same, which are parts of which, and maps of ids of them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.masks.types import Mask
from gradiseg_ns.tools.errors import GradisegError

LEVELS = "levels"
"""Folder, in that of the maps, of all masks of each photo."""
SIDE = 192
"""Longer side, in pixels, at which masks are compared."""
INSIDE = 0.9
"""A mask is a part of another if this share of it lies in the other ..."""
SMALLER = 0.85
"""... and its area is at most this share of the other's."""
_DEEPEST = 2


class LevelsError(GradisegError):
    """A file of levels cannot be used."""


def small(masks: Sequence[Tensor] | Tensor) -> Tensor:
    """Masks [H, W] at the size at which they are compared: float [n, h w], the covered share of each pixel."""
    if len(masks) == 0:
        return torch.zeros(0, 1)
    height, width = masks[0].shape
    scale = max(1.0, max(height, width) / SIDE)
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    step = max(1, int(scale / 4))  # of large pictures every pixel but a few would say the same
    parts = [
        torch.stack([mask[::step, ::step] for mask in masks[k : k + 16]]).float()
        for k in range(0, len(masks), 16)
    ]
    return torch.cat([F.adaptive_avg_pool2d(part[:, None], size).flatten(1) for part in parts])


def distinct(masks: Tensor, scores: Tensor, most: float) -> list[int]:
    """The masks that remain if of any two alike the less certain one goes (non-maximum suppression), the most certain first.

    Args:
        masks: [n, P], the covered share of each pixel (`small`).
        scores: [n].
        most: two with a higher IoU are alike.
    """
    order = scores.argsort(descending=True, stable=True)
    masks = masks[order]
    area = masks.sum(1)
    kept: list[int] = []
    for start in range(0, len(masks), 256):
        block = slice(start, start + 256)
        others = torch.cat([masks[kept], masks[block]])
        shared = masks[block] @ others.T
        union = area[block, None] + torch.cat([area[kept], area[block]])[None] - shared
        alike = (shared > most * union).cpu().numpy()
        here = len(kept)
        standing = list(range(here))  # rows of `others` that remain
        for i in range(alike.shape[0]):
            if not alike[i, standing].any():
                standing.append(here + i)
                kept.append(start + i)
    return order[kept].tolist()


def parents(masks: Tensor, among: Tensor | None = None) -> list[int]:
    """For each mask the smallest one that it is a part of, or -1.

    Args:
        masks: [n, P], the covered share of each pixel (`small`).
        among: bool [n], those that may be parents; all if None.
    """
    if len(masks) == 0:
        return []
    area = masks.sum(1)
    shared = masks @ masks.T
    inside = (shared >= INSIDE * area[:, None]) & (area[:, None] <= SMALLER * area[None])
    if among is not None:
        inside &= among.to(inside.device)[None]
    found = torch.where(inside, area[None], torch.inf).min(1)
    return torch.where(found.values.isfinite(), found.indices, -1).tolist()


def depths(parents: Sequence[int]) -> list[int]:
    """The level of each mask: 0 without a parent, at most 2."""
    result = []
    for parent in parents:
        depth = 0
        while parent >= 0:
            parent, depth = parents[parent], depth + 1
        result.append(min(depth, _DEEPEST))
    return result


@dataclass(frozen=True)
class Painted:
    """Masks of one picture as maps of ids. An id is a place in the lists below, counted from 1; 0 is no mask."""

    maps: NDArray[np.int32]
    """[L, H, W]: the whole objects, then their parts, then parts of parts, as far as there are any."""
    parent: list[int]
    """The id of the mask that each is a part of; 0 for a whole object."""
    level: list[int]
    score: list[float]
    phrase: list[str]
    """What each was asked for by; empty if it was not."""

    def __len__(self) -> int:
        return len(self.parent)

    def to_bytes(self) -> bytes:
        """An .npz file of arrays with the names of the fields."""
        content = io.BytesIO()
        np.savez_compressed(
            content, maps=self.maps.astype(np.uint16 if len(self) < 1 << 16 else np.int32),
            parent=np.array(self.parent, np.int32), level=np.array(self.level, np.int32),
            score=np.array(self.score, np.float32), phrase=np.array(self.phrase, np.str_),
        )  # fmt: skip
        return content.getvalue()

    @classmethod
    def read(cls, path: Path, *, with_maps: bool = True) -> Painted:
        """What `to_bytes` wrote.

        Args:
            path: the file.
            with_maps: whether the maps are read; without, they are [0, 0, 0], and reading is quick.

        Raises:
            LevelsError: the file is missing, damaged, or another one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                maps = file["maps"].astype(np.int32) if with_maps else np.zeros((0, 0, 0), np.int32)
                lists = [file[name].tolist() for name in ("parent", "level", "score", "phrase")]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise LevelsError(
                f"{path} cannot be read ({error}): expected the levels of a photo's masks, as `gradiseg masks` writes them."
            ) from error
        count = len(lists[0])
        if maps.ndim != 3 or any(len(each) != count for each in lists) or int(maps.max(initial=0)) > count:
            raise LevelsError(
                f"{path} is not a file of levels, or is damaged: its parts do not fit each other."
            )
        return cls(maps, *lists)


def paint(masks: Sequence[Mask], height: int, width: int, *, least: int = 1) -> Painted:
    """Masks as maps. Where two of one level overlap, the more certain one is seen.

    Args:
        masks: of one picture.
        height, width: of the picture in pixels.
        least: pixels of a mask that must be seen in the end; what has fewer goes, and its parts become parts of what they lie in then.
    """
    if not masks:
        return Painted(np.zeros((1, height, width), np.int32), [], [], [], [])
    bits = small([mask.pixels for mask in masks])
    pixels = [mask.pixels.cpu().numpy() for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: masks[i].score)
    stays = torch.ones(len(masks), dtype=torch.bool)
    while True:
        above = parents(bits, stays)
        level = depths(above)
        depth = 1 + max((level[i] for i in order if stays[i]), default=0)
        maps = np.full((depth, height, width), IGNORE, np.int32)
        for i in order:
            if stays[i]:
                np.putmask(maps[level[i]], pixels[i], i)
        seen = torch.from_numpy(np.bincount(maps[maps >= 0], minlength=len(masks)))
        hidden = stays & (seen < max(least, 1))
        if not hidden.any():
            break
        stays &= ~hidden
    rest = [i for i in range(len(masks)) if stays[i]]
    ids = np.zeros(len(masks) + 1, np.int32)  # the last place is that of -1
    ids[rest] = np.arange(1, len(rest) + 1)
    return Painted(
        ids[maps], [int(ids[above[i]]) for i in rest], [level[i] for i in rest], [masks[i].score for i in rest],
        [masks[i].phrase for i in rest],
    )  # fmt: skip


def paint_phrases(
    masks: Sequence[Mask], phrases: Sequence[str], height: int, width: int
) -> NDArray[np.int32]:
    """A map [H, W] whose ids are places in the list of phrases, counted from 1; 0 is none of them. The more certain mask is seen."""
    ids = np.zeros((height, width), np.int32)
    for mask in sorted(masks, key=lambda mask: mask.score):
        ids[mask.pixels.cpu().numpy()] = 1 + phrases.index(mask.phrase)
    return ids
