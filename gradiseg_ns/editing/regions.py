"""Regions: parts of objects as sets of points, so that a part survives training."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.editing.checking import EditError, excerpt, read_integer

MAX_PACKED = 64
"""How many times as large as their text the points of a region may be: those of scenes are once or twice."""


@dataclass(frozen=True, eq=False)
class Region:
    """A set of Gaussians, kept as points: those in it, and those around that are not.

    A Gaussian is in it if the nearest of the points is. For Gaussians that have not moved since, that is exact; those that a
    training has moved, split or added follow their neighbours.
    """

    points: NDArray[np.float32]
    """[P, 3] positions, world units."""
    inside: NDArray[np.bool_]
    """[P]"""

    @classmethod
    def create(cls, means: Tensor, chosen: Tensor, among: Tensor) -> Region:
        """The region of the chosen ones [N] of those in question [N], at positions [N, 3].

        Raises:
            EditError: none is chosen.
        """
        among = among | chosen
        if not bool(chosen.any()):
            raise EditError("a part of an object needs a Gaussian at least: none is selected.")
        points = means[among].detach().cpu().numpy().astype(np.float32)
        inside = chosen[among].cpu().numpy()
        near = _within(points, *_bounds(points[inside]))
        return cls(points[near], inside[near])

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(self.points)

    @cached_property
    def _box(self) -> tuple[NDArray, NDArray]:
        return _bounds(self.points[self.inside])

    def contains(self, means: Tensor, among: Tensor) -> Tensor:
        """Which of those in question, bool [N], at positions [N, 3], are in the region: bool [N]."""
        result = torch.zeros_like(among)
        rows = among.nonzero()[:, 0]
        positions = means.detach()[rows].cpu().numpy()
        near = _within(positions, *self._box)
        if near.any():
            _, nearest = self._tree.query(positions[near], workers=-1)
            found = torch.from_numpy(self.inside[nearest]).to(means.device)
            result[rows[torch.from_numpy(near).to(means.device)]] = found
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "points": _pack(self.points.astype("<f4").tobytes()),
            "inside": _pack(np.packbits(self.inside).tobytes()),
            "count": len(self.points),
        }

    @classmethod
    def from_json(cls, data: Any) -> Region:
        if not isinstance(data, dict) or not {"points", "inside", "count"} <= set(data):
            raise EditError(f"found {excerpt(data)}, expected a region with points, inside and count.")
        count = read_integer(data["count"], "count", 1, 100_000_000)
        size = len(data["points"]) if isinstance(data["points"], str) else 0
        if 12 * count > MAX_PACKED * max(size, 16):
            raise EditError(
                f"found a region of {count:,} points in a text of {size:,} characters: expected {12 * count // MAX_PACKED:,} "
                "at least, positions do not get smaller than that."
            )
        points = np.frombuffer(_unpack(data["points"], 12 * count), "<f4").reshape(count, 3)
        bits = np.frombuffer(_unpack(data["inside"], (count + 7) // 8), np.uint8)
        inside = np.unpackbits(bits, count=count).astype(bool)
        if not np.isfinite(points).all() or not inside.any():
            raise EditError("found a region without a point inside, or with points that are not finite.")
        return cls(points.astype(np.float32), inside)


def _bounds(points: NDArray) -> tuple[NDArray, NDArray]:
    """The box of some points, a fifth larger on every side."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.2 * max(float((high - low).max()), 1e-3)
    return low - margin, high + margin


def _within(points: NDArray, low: NDArray, high: NDArray) -> NDArray[np.bool_]:
    return ((points >= low) & (points <= high)).all(axis=1)


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _unpack(text: Any, expected: int) -> bytes:
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), expected + 1)
    except (ValueError, TypeError, zlib.error):
        data = b""
    if len(data) != expected:
        raise EditError(f"found packed data that is damaged: expected {expected} bytes.")
    return data
