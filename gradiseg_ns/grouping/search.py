"""Nearest points: a k-d tree on the host, sorted curves on a device.

`index_of` chooses the index that fits the device of the points. The tree is exact. For points on a device it would need copies to the
host and back, and the program would wait for them. There the points are sorted along space-filling curves instead, which takes
milliseconds for a million points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

FAR = 1e15
"""Coordinate that stands for values that are not finite."""


class PointIndex(ABC):
    """Finds the nearest of N points [N, 3]. Points that are not finite are found last."""

    def __init__(self, points: Tensor) -> None:
        self._count = len(points)

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def _nearest(self, places: Tensor, count: int, own: Tensor | None) -> Tensor: ...

    def nearest(self, places: Tensor, count: int, own: Tensor | None = None) -> Tensor:
        """The nearest points of some places.

        Args:
            places: [P, 3].
            count: K, number of points for each place; fewer if there are fewer points.
            own: int64 [P], the row of the point that each place is. This point is left out.

        Returns:
            int64 [P, K] rows of the points, nearest first, on the device of the places.
        """
        count = min(count, self._count - (own is not None))
        if count < 1 or not len(places):
            return torch.zeros(len(places), max(count, 0), dtype=torch.int64, device=places.device)
        return self._nearest(places.detach(), count, own)


class TreeIndex(PointIndex):
    """A k-d tree on the host, for tensors on any device."""

    def __init__(self, points: Tensor) -> None:
        from scipy.spatial import KDTree

        super().__init__(points)
        found = points.detach().cpu().numpy()
        # An unbalanced tree is built several times faster, and queries take the same time.
        self._tree = KDTree(
            np.where(np.isfinite(found), found, FAR), balanced_tree=False, compact_nodes=False
        )

    def _nearest(self, places: Tensor, count: int, own: Tensor | None) -> Tensor:
        where = places.cpu().numpy()
        where = np.where(np.isfinite(where), where, FAR)
        wanted = count + (own is not None)
        found = np.asarray(self._tree.query(where, k=wanted, workers=-1)[1]).reshape(len(where), wanted)
        if own is not None:
            # Points may coincide (just duplicated), so a point is not always its own first neighbour.
            same = found == own.cpu().numpy()[:, None]
            same[~same.any(axis=1), -1] = True
            found = found[~same].reshape(len(where), count)
        return torch.from_numpy(found).to(places.device, torch.int64)


class CurveIndex(PointIndex):
    """Points sorted along Morton curves, on the points' device. Each curve goes through the points in another rotation.

    Points that are near in space are usually near on one of the curves. For a place, the `WINDOW` points before and behind it on every
    curve are compared, and the nearest are taken. This finds about 98 % of 16 neighbours (a test checks it); the points found instead are
    only slightly farther away. With up to `EXACT` points, all points are compared.
    """

    CURVES = 6
    WINDOW = 24
    EXACT = 2 * CURVES * WINDOW

    def __init__(self, points: Tensor) -> None:
        super().__init__(points)
        points = points.detach().float()
        self._points = torch.where(torch.isfinite(points), points, FAR)
        if self._count <= self.EXACT:
            return
        turns = torch.linalg.qr(torch.randn(self.CURVES, 3, 3, generator=torch.Generator().manual_seed(0)))[0]
        self._turns = turns.to(points.device)
        inside = self._points.abs().amax(dim=1, keepdim=True) < FAR
        # The scale is the standard deviation of the points. tanh keeps the order of far points on each axis.
        sample = torch.where(inside, self._points, 0.0)
        self._middle = sample.mean(dim=0)
        spread = (sample - self._middle).square().mean(dim=0).sum().sqrt().clamp(min=1e-12)
        self._scale = 1 / spread
        self._codes, self._order = [], []
        for turn in self._turns:
            codes, order = self._code(self._points, turn).sort()
            self._codes.append(codes)
            self._order.append(order.to(torch.int32))

    def _code(self, places: Tensor, turn: Tensor) -> Tensor:
        """Positions of places on a curve, int64 [P] >= 0. tanh maps all of space into a box."""
        unit = torch.tanh((places - self._middle) * self._scale @ turn * 0.5)
        cells = ((unit + 1) * (1 << 20)).long().clamp(0, (1 << 21) - 1)
        for shift, mask in (
            (32, 0x1F00000000FFFF),
            (16, 0x1F0000FF0000FF),
            (8, 0x100F00F00F00F00F),
            (4, 0x10C30C30C30C30C3),
            (2, 0x1249249249249249),
        ):
            cells = (cells | (cells << shift)) & mask
        return cells[:, 0] | (cells[:, 1] << 1) | (cells[:, 2] << 2)

    def _candidates(self, places: Tensor) -> Tensor:
        """int64 [P, C] rows, with repetitions."""
        if self._count <= self.EXACT:
            return torch.arange(self._count, device=places.device).expand(len(places), -1)
        window = torch.arange(-self.WINDOW, self.WINDOW, device=places.device)
        found = []
        for turn, codes, order in zip(self._turns, self._codes, self._order, strict=True):
            at = torch.searchsorted(codes, self._code(places, turn))
            found.append(order[(at[:, None] + window).clamp(0, self._count - 1)].long())
        return torch.cat(found, dim=1)

    def _nearest(self, places: Tensor, count: int, own: Tensor | None) -> Tensor:
        places = torch.where(torch.isfinite(places), places, FAR).float()
        parts = []
        rows = max(1, (1 << 24) // min(self._count, self.EXACT))
        for part, mine in zip(
            places.split(rows), (own if own is not None else places).split(rows), strict=True
        ):
            candidates = self._candidates(part).sort(dim=1).values
            distance = (self._points[candidates] - part[:, None]).square().sum(dim=-1)
            again = torch.zeros_like(candidates, dtype=torch.bool)
            again[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
            if own is not None:
                again |= candidates == mine[:, None]
            nearest = distance.masked_fill(again, torch.inf).topk(count, dim=1, largest=False).indices
            parts.append(candidates.gather(1, nearest))
        return torch.cat(parts)


def index_of(points: Tensor) -> PointIndex:
    """An index of points [N, 3] that fits their device."""
    return CurveIndex(points) if points.is_cuda else TreeIndex(points)
