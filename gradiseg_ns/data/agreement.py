"""Do the ids of the views agree? A cheap test on sparse points, before hours of training.

A tracker gives an object one id in all views. A segmenter that looks at each photo on its own numbers its
segments anew every time: such maps look fine one by one, and nothing can be learned from them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradiseg_ns.data.id_maps import IGNORE

MINIMUM_SCORE = 0.3
"""Score below which ids are called unrelated between views; see docs/data.md for how it was measured."""


@dataclass(frozen=True)
class IdAgreement:
    """How often a scene point carries the same id in two views that see it."""

    agreement: float
    """Share of pairs of views of a point that show the same id, 0 to 1."""
    chance: float
    """The same share when points are shuffled within each view: what equal frequencies alone would give."""
    pairs: int
    """Number of pairs that were compared."""

    @property
    def score(self) -> float:
        """Agreement beyond chance: 1 if all pairs agree, 0 if the ids of the views are unrelated."""
        return (self.agreement - self.chance) / max(1.0 - self.chance, 1e-6)

    @property
    def consistent(self) -> bool:
        """Whether the ids can be learned from together."""
        return self.score >= MINIMUM_SCORE


def id_agreement(
    id_maps: Sequence[NDArray[np.integer] | None],
    viewmats: NDArray[np.floating],
    Ks: NDArray[np.floating],
    points: NDArray[np.floating],
    max_points: int = 4000,
    max_views: int = 64,
    seed: int = 0,
) -> IdAgreement | None:
    """Project sparse points into the views and compare the ids they hit.

    Points that something else hides in a view would count as disagreement, so a view counts for a point only
    if no other point around the same pixel (within 1/24 of the image) is clearly nearer (by more than 5 %).

    Args:
        id_maps: Object ids of each view `[H, W]`, undistorted, or None for a view without a map; V in number.
        viewmats: World-to-camera matrices, OpenCV axes (x right, y down, z forward) `[V, 4, 4]`.
        Ks: Intrinsics in pixels of the id maps `[V, 3, 3]`.
        points: Points on surfaces, in world units `[P, 3]`.
        max_points: Use at most this many points, drawn at random.
        max_views: Use at most this many views, evenly spaced.
        seed: Of the draw and of the shuffling.

    Returns:
        The agreement, or None if too few points are seen by two views (below 200 pairs) to tell, or if nearly
        all of them carry one id, so that the same id is no evidence.
    """
    rng = np.random.default_rng(seed)
    points = np.asarray(points, np.float64).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    # The nearest points are looked for among all of them (many enough to cover surfaces), labels among a few.
    if len(points) > 10 * max_points:
        points = points[rng.choice(len(points), 10 * max_points, replace=False)]
    chosen = np.arange(len(points))
    if len(points) > max_points:
        chosen = np.sort(rng.choice(len(points), max_points, replace=False))
    views = [v for v, id_map in enumerate(id_maps) if id_map is not None]
    if len(views) > max_views:
        views = [views[i] for i in np.linspace(0, len(views) - 1, max_views).round().astype(int)]
    if len(views) < 2 or len(chosen) == 0:
        return None

    labels = np.full((len(chosen), len(views)), IGNORE, np.int64)
    for column, v in enumerate(views):
        id_map = id_maps[v]
        assert id_map is not None
        labels[:, column] = project_labels(np.asarray(id_map), viewmats[v], Ks[v], points)[chosen]

    agreement, pairs = _pair_agreement(labels)
    if pairs < 200:
        return None
    shuffled = labels.copy()
    for column in range(shuffled.shape[1]):
        seen = shuffled[:, column] != IGNORE
        shuffled[seen, column] = rng.permutation(shuffled[seen, column])
    chance, _ = _pair_agreement(shuffled)
    if chance > 0.98:
        return None
    return IdAgreement(agreement, chance, pairs)


def project_labels(
    id_map: NDArray[np.integer],
    viewmat: NDArray[np.floating],
    K: NDArray[np.floating],
    points: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Id that each point `[P, 3]` hits in a view, `IGNORE` if it is not seen there; `[P]`."""
    height, width = id_map.shape
    camera = points @ np.asarray(viewmat[:3, :3], np.float64).T + np.asarray(viewmat[:3, 3], np.float64)
    depth = camera[:, 2]
    front = depth > 1e-6
    safe = np.where(front, depth, 1.0)
    x = camera[:, 0] / safe * K[0, 0] + K[0, 2]
    y = camera[:, 1] / safe * K[1, 1] + K[1, 2]
    inside = front & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    labels = np.full(len(points), IGNORE, np.int64)
    if not inside.any():
        return labels
    cell = max(height, width) / 24.0
    columns, rows = int(np.ceil(width / cell)), int(np.ceil(height / cell))
    cells = (y[inside] / cell).astype(np.int64) * columns + (x[inside] / cell).astype(np.int64)
    nearest = np.full(rows * columns, np.inf)
    np.minimum.at(nearest, cells, depth[inside])
    visible = np.flatnonzero(inside)[depth[inside] <= 1.05 * nearest[cells]]
    labels[visible] = id_map[y[visible].astype(np.int64), x[visible].astype(np.int64)]
    return labels


def _pair_agreement(labels: NDArray[np.int64]) -> tuple[float, int]:
    """Share of equal pairs within the rows of `labels [P, V]` (without `IGNORE`), and how many there are."""
    ids, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    counts = np.zeros((len(labels), len(ids)), np.int64)
    np.add.at(counts, (np.arange(len(labels))[:, None], index), 1)
    counts = counts[:, ids != IGNORE]
    seen = counts.sum(axis=1)
    pairs = int((seen * (seen - 1) // 2).sum())
    equal = int((counts * (counts - 1) // 2).sum())
    return (equal / pairs if pairs else 0.0), pairs
