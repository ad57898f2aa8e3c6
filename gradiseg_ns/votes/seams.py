"""Which pieces of a scene are one object: those that the surface runs on across their border.

Segmenters cut objects in pieces, and no photo may show a mask of the whole. The splat's depth tells more. Across the border of two
pieces of one object the surface goes on, flat or around a convex edge. Between two objects the depth jumps, or the surface turns
inwards, as where a thing stands on a table.

A *sample* is a pair of neighbouring pixels of two pieces in one view, with the surface point O between them and the points A and B some
pixels further into each piece. It is *smooth* if |AB| is not much longer than a surface that faces the camera would have it, and O does
not lie far behind the line AB. Of two pieces a, b with n samples on their border, s of them smooth, and c(.) samples on the whole contour
of a piece,

    score(a, b) = s / sqrt(n min(c(a), c(b))),

the geometric mean of the smooth share of the border and of the share that smooth border has of the contour. `join` merges the pair with
the best score again and again; n, s and c add up.

Depth does not tell a flat thing that lies on another one, as a pencil on a book, from a picture printed on it. Masks do: a segmenter
misses the picture in some photos, and the mask of the whole covers it there; it does not miss the pencil. So a piece that has much of its
contour with another one joins it only if the masks of that one cover it now and then.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

REACHES = (0.006, 0.01, 0.014)
"""How far A and B are from the border: shares of the picture's longer side, at least 2 pixels."""
JUMP = 4.0
"""Depth jumps if A and B are so many times farther apart than on a surface that faces the camera."""
CONCAVE = 0.15
"""The surface turns inwards if O lies so far behind the line AB, as a share of its length: a fold of 33 degrees."""
MIN_SAMPLES = 60
"""Borders with fewer samples over all views say nothing."""
MIN_SCORE = 0.25
"""Pieces are not joined below this score."""

MUCH, COVERED = 0.4, 0.1
"""A piece with this share of its contour at another one must lie to this share in masks of that one, over the views that show both."""

Border = tuple[int, int]


class Seams:
    """Counts samples at the borders of pieces, one view after another."""

    def __init__(self) -> None:
        self.samples: dict[Border, int] = defaultdict(int)
        """n by the numbers of two pieces, the smaller one first."""
        self.smooth: dict[Border, int] = defaultdict(int)
        """s, likewise."""

    def add(self, pieces: NDArray[np.integer], depth: NDArray[np.floating], K: NDArray[np.floating]) -> None:
        """Add a view.

        Args:
            pieces: [H, W] number of the piece at each pixel; negative for none.
            depth: [H, W] distance along the optical axis, world units.
            K: [3, 3] intrinsics, pixels.
        """
        height, width = pieces.shape
        y, x = np.mgrid[:height, :width]
        rays = np.stack([(x + 0.5 - K[0, 2]) / K[0, 0], (y + 0.5 - K[1, 2]) / K[1, 1], np.ones_like(depth)], -1)  # fmt: skip
        points = rays * depth[..., None]
        reaches = sorted({max(2, round(share * max(height, width))) for share in REACHES})
        for dy, dx in ((0, 1), (1, 0)):
            one, two = pieces[: height - dy, : width - dx], pieces[dy:, dx:]
            rows, columns = np.nonzero((one != two) & (one >= 0) & (two >= 0))
            for reach in reaches:
                back, on = reach - 1, reach
                inside = (rows >= dy * back) & (columns >= dx * back)
                inside &= (rows + dy * on < height) & (columns + dx * on < width)
                self._count(
                    pieces, points, K, (rows[inside], columns[inside]), (dy, dx), reach
                )  # fmt: skip

    def _count(
        self,
        pieces: NDArray[np.integer],
        points: NDArray[np.floating],
        K: NDArray[np.floating],
        first: tuple[NDArray[np.intp], NDArray[np.intp]],
        step: tuple[int, int],
        reach: int,
    ) -> None:
        """Count the samples at some pixels, each with its neighbour one step on, at one reach."""
        (y, x), (dy, dx) = first, step
        a = y - dy * (reach - 1), x - dx * (reach - 1)
        b = y + dy * reach, x + dx * reach
        second = y + dy, x + dx
        own, other = pieces[first], pieces[second]
        taken = (pieces[a] == own) & (pieces[b] == other)
        A, B = points[a][taken], points[b][taken]
        between = 0.5 * (points[first][taken] + points[second][taken])
        length = np.linalg.norm(A - B, axis=-1)
        facing = (2 * reach - 1) * 0.5 * (A[:, 2] + B[:, 2]) / K[0, 0]
        away = between / np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), 1e-12)
        behind = ((between - 0.5 * (A + B)) * away).sum(axis=-1)
        smooth = (length <= JUMP * facing) & (behind <= CONCAVE * length)
        pairs = np.sort(np.stack([own[taken], other[taken]], axis=1), axis=1)
        found, index = np.unique(pairs, axis=0, return_inverse=True)
        counts = np.bincount(index.ravel(), minlength=len(found))
        smooths = np.bincount(index.ravel(), weights=smooth, minlength=len(found))
        for (i, j), n, s in zip(found.tolist(), counts.tolist(), smooths.tolist(), strict=True):
            self.samples[i, j] += n
            self.smooth[i, j] += int(s)


def join(
    samples: Mapping[Border, int],
    smooth: Mapping[Border, int],
    start: Mapping[int, int] | None = None,
    covered: Callable[[Sequence[int], Sequence[int]], float] | None = None,
    *,
    min_score: float = MIN_SCORE,
    min_samples: int = MIN_SAMPLES,
) -> dict[int, int]:
    """Join pieces with smooth borders.

    Args:
        samples, smooth: counts of `Seams`.
        start: pieces that are one from the start: for some of them another one of the same object.
        covered: to which share some pieces lie in masks of some others, 0 to 1. None: not asked.
        min_score, min_samples: what a border needs.

    Returns:
        For each piece with a border the smallest number among the pieces of its object.
    """
    borders: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    contour: dict[int, int] = defaultdict(int)
    group = _Union()
    for piece, other in (start or {}).items():
        group.merge(piece, other)
    for (i, j), n in samples.items():
        a, b = group.find(i), group.find(j)
        if a == b:
            continue
        for one, two in ((a, b), (b, a)):
            borders[one][two][0] += n
            borders[one][two][1] += smooth.get((i, j), 0)
            contour[one] += n

    def score(a: int, b: int) -> float:
        n, s = borders[a][b]
        least = min(contour[a], contour[b])
        return s / (n * least) ** 0.5 if n >= min_samples and least > 0 else -1.0

    heap: list[Any] = [(-score(a, b), a, b) for a in borders for b in borders[a] if a < b]
    heapq.heapify(heap)
    while heap:
        worst, a, b = heapq.heappop(heap)
        if -worst < min_score:
            break
        if group.find(a) != a or group.find(b) != b or b not in borders[a] or score(a, b) != -worst:
            continue  # one of the two has changed since
        small, large = (a, b) if contour[a] <= contour[b] else (b, a)
        if covered is not None and borders[a][b][0] >= MUCH * contour[small]:
            if covered(group.members(small), group.members(large)) < COVERED:
                continue
        a, b = min(a, b), max(a, b)
        group.merge(a, b)
        n = borders[a].pop(b)[0]
        borders[b].pop(a)
        contour[a] += contour.pop(b) - 2 * n
        for other, (m, t) in borders.pop(b).items():
            del borders[other][b]
            for one, two in ((a, other), (other, a)):
                borders[one][two][0] += m
                borders[one][two][1] += t
        for other in borders[a]:
            heapq.heappush(heap, (-score(a, other), min(a, other), max(a, other)))
    pieces = {piece for pair in (*samples, *(start or {}).items()) for piece in pair}
    return {piece: group.find(piece) for piece in sorted(pieces)}


class _Union:
    """Sets of numbers, each known by its smallest."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}

    def members(self, number: int) -> list[int]:
        """All of its set."""
        return self._members.get(number, [number])

    def find(self, number: int) -> int:
        while number in self._above:
            number = self._above[number]
        return number

    def merge(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        if a != b:
            self._above[b] = a
            self._members[a] = self.members(a) + self.members(b)
