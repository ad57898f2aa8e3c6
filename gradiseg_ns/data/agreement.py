"""Do the ids of the views agree? A cheap test on sparse points, before hours of training.

A tracker gives an object one id in all views. A segmenter that looks at each photo on its own numbers its
segments anew every time: such maps look fine one by one, and nothing can be learned from them together.

Ids disagree for other reasons as well: maps that are turned, or are those of the next photo; poses, points or a lens that are
wrong. The photos know: where the cameras are right, a scene point has one colour in all of them. `explain` says which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradiseg_ns.data.id_maps import IGNORE

MINIMUM_SCORE = 0.3
"""Score below which ids are called unrelated between views; see docs/data.md for how it was measured."""
_CLEARLY = 0.25
"""A way to read the maps (turned, shifted) that scores so much better is the right one."""
PHOTOS_AGREE = 0.2
"""Colour agreement above which the cameras fit the points; wrong ones have 0, give or take 0.1."""
_FEW_POINTS, _FEW_VIEWS = 2000, 48
"""What the other ways are tried on."""


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
    # The nearest points are looked for among all of them (many enough to cover surfaces), ids among a few.
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

    hits = np.full((len(chosen), len(views)), IGNORE, np.int64)
    for column, v in enumerate(views):
        id_map = id_maps[v]
        assert id_map is not None
        hits[:, column] = project_ids(np.asarray(id_map), viewmats[v], Ks[v], points)[chosen]

    agreement, pairs = _pair_agreement(hits)
    if pairs < 200:
        return None
    shuffled = hits.copy()
    for column in range(shuffled.shape[1]):
        seen = shuffled[:, column] != IGNORE
        shuffled[seen, column] = rng.permutation(shuffled[seen, column])
    chance, _ = _pair_agreement(shuffled)
    if chance > 0.98:
        return None
    return IdAgreement(agreement, chance, pairs)


def colour_agreement(
    photos: Sequence[NDArray[Any] | None],
    viewmats: NDArray[np.floating],
    Ks: NDArray[np.floating],
    points: NDArray[np.floating],
    max_points: int = _FEW_POINTS,
    max_views: int = _FEW_VIEWS,
) -> float | None:
    """How far a scene point has one colour in the photos that see it: 1 if it always has, about 0 if cameras do not fit.

    Args:
        photos: `[H, W, 3]` each, of any range of values, or None; V in number.
        viewmats, Ks, points: as for :func:`id_agreement`.
        max_points: at most so many points are compared.
        max_views: in at most so many views.

    Returns:
        the share of the colours' variance that is between points and not within them, each view's mean taken out; None if fewer
        than 50 points are seen by two views.
    """
    points = np.asarray(points, np.float64).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    points = points[:: max(1, len(points) // (10 * max_points))]
    views = [v for v, photo in enumerate(photos) if photo is not None]
    views = views[:: max(1, len(views) // max_views)]
    if not len(points) or len(views) < 2:
        return None
    chosen = np.zeros(len(points), bool)
    chosen[:: max(1, len(points) // max_points)] = True
    index, values = [], []
    for v in views:
        photo = photos[v]
        assert photo is not None
        visible, rows, columns = _visible(photo.shape, viewmats[v], Ks[v], points)
        keep = chosen[visible]
        if keep.sum() < 2:
            continue
        colors = photo[rows[keep], columns[keep]].astype(np.float64)
        index.append(visible[keep])
        values.append(colors - colors.mean(axis=0))
    if not index:
        return None
    which, colors = np.concatenate(index), np.concatenate(values)
    count = np.bincount(which, minlength=len(points))
    if int((count > 1).sum()) < 50:
        return None
    several = count[which] > 1
    which, colors = which[several], colors[several]
    mean = (
        np.stack([np.bincount(which, c, len(points)) for c in colors.T], axis=1)
        / np.maximum(count, 1)[:, None]
    )
    degrees = len(which) - int((count > 1).sum())
    within = float(((colors - mean[which]) ** 2).sum()) / degrees
    total = float(((colors - colors.mean(axis=0)) ** 2).sum()) / (len(which) - 1)
    return 1.0 - within / total if total > 0 else None


def explain(
    found: IdAgreement | None,
    id_maps: Sequence[NDArray[np.integer] | None],
    photos: Sequence[NDArray[Any]],
    viewmats: NDArray[np.floating],
    Ks: NDArray[np.floating],
    points: NDArray[np.floating],
    *,
    names: Sequence[str],
) -> str | None:
    """Why ids do not agree: the maps, the cameras or the ids themselves, as a sentence for the user.

    Args:
        found: what :func:`id_agreement` found; None where it could not tell.
        id_maps: `[H, W]` of V views, or None.
        photos: `[H, W, 3]`, undistorted like the maps.
        viewmats, Ks, points: as for :func:`id_agreement`.
        names: of the photos.

    Returns:
        None if nothing is wrong that can be seen.
    """
    seen = viewmats, Ks, points
    colours = colour_agreement(photos, *seen)
    doubtful = None
    if colours is not None and colours < PHOTOS_AGREE:
        score, way = max(
            ((colour_agreement(way.of(photos), *seen) or 0.0, way) for way in _ways(photos)),
            key=lambda pair: pair[0],
        )
        start = (
            f"the photos do not fit the cameras: colours of one scene point agree between views with {colours:.2f} (1 is always, "
            f"below {PHOTOS_AGREE:.2f} is chance)"
        )
        if score >= PHOTOS_AGREE + 0.1 and score >= colours + _CLEARLY:
            return f"{start}, but with {score:.2f} if {way.photos}. Correct that first; the id maps may be right."
        if (found is None and colours <= 0.1) or (found is not None and not found.consistent):
            doubtful = start
    if found is not None and not found.consistent:
        score, way = max(
            ((_score(way.of(id_maps), seen), way) for way in _ways(id_maps)), key=lambda pair: pair[0]
        )
        if score >= max(MINIMUM_SCORE + 0.1, found.score + _CLEARLY):
            return (
                f"the id maps do not lie on their photos: {way.maps}. Read so, ids agree between views (score {score:.2f} instead of "
                f"{found.score:.2f}). {way.advice} Training goes on with the maps as they are, but expect a poor segmentation."
            )
    if doubtful is not None:
        return (
            f"{doubtful}. So the id maps cannot be judged, and are not the cause. Look at the poses (axes, rotation, which pose "
            f"belongs to {names[0]}), at the lens (focal length, camera_model: a fisheye is no OPENCV) and whether the sparse points "
            "are of the same reconstruction."
        )
    if found is None or found.consistent:
        return None
    return (
        f"the object ids do not agree between views: of {found.pairs} pairs of views that see the "
        f"same scene point {found.agreement:.0%} show the same id, and chance alone would give "
        f"{found.chance:.0%}. An object needs the same id in every view. Associate the maps first "
        "(`gradiseg associate --help`), or on the way (--pipeline.model.associate auto); without, "
        "training goes on, but expect a poor segmentation."
    )


@dataclass(frozen=True)
class _Way:
    """Another way to read maps or photos."""

    of: Callable[[Sequence[NDArray[Any] | None]], list[NDArray[Any] | None]]
    maps: str
    photos: str
    advice: str


def _ways(images: Sequence[NDArray[Any] | None]) -> list[_Way]:
    """Turned, mirrored, and those of a neighbour in the order of names."""

    def each(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
        return lambda given: [None if image is None else change(image) for image in given]

    def shifted(by: int) -> Any:
        return lambda given: [given[i + by] if 0 <= i + by < len(given) else None for i in range(len(given))]

    orientation = (
        "Photos carry an orientation tag (EXIF) that some programs apply and others do not: make the maps from the photos as "
        "they are stored, or store both upright."
    )
    ways = [
        _Way(each(lambda a: a[::-1, ::-1]), "they are turned by 180 degrees", "they are turned by 180 degrees", orientation),
        _Way(each(lambda a: a[:, ::-1]), "they are mirrored left to right", "they are mirrored left to right", "Mirror them."),
        _Way(each(lambda a: a[::-1]), "they are mirrored top to bottom", "they are mirrored top to bottom", "Mirror them."),
    ]  # fmt: skip
    if all(image is None or image.shape[0] == image.shape[1] for image in images):
        for turns, text in ((1, "they are turned by 90 degrees"), (3, "they are turned by 270 degrees")):
            ways.append(_Way(each(lambda a, turns=turns: np.rot90(a, turns)), text, text, orientation))
    for by in (1, -1, 2, -2):
        place = (
            f"{'next' if by > 0 else 'previous'} photo's"
            if abs(by) == 1
            else f"one {abs(by)} photos {'on' if by > 0 else 'back'}"
        )
        ways.append(
            _Way(
                shifted(by),
                f"a photo's map is the {place}: the numbers of maps and photos are shifted by {abs(by)}",
                f"each camera gets the {place}: the numbers of photos and poses are shifted by {abs(by)}",
                "Number the maps as the photos (one may start at 0, the other at 1).",
            )
        )
    return ways


def _score(id_maps: Sequence[NDArray[np.integer] | None], seen: tuple[Any, Any, Any]) -> float:
    found = id_agreement(id_maps, *seen, max_points=_FEW_POINTS, max_views=_FEW_VIEWS)
    return found.score if found is not None else 0.0


def project_ids(
    id_map: NDArray[np.integer],
    viewmat: NDArray[np.floating],
    K: NDArray[np.floating],
    points: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Id that each point `[P, 3]` hits in a view, `IGNORE` if it is not seen there; `[P]`."""
    visible, rows, columns = _visible(id_map.shape, viewmat, K, points)
    hits = np.full(len(points), IGNORE, np.int64)
    hits[visible] = id_map[rows, columns]
    return hits


def _visible(
    shape: tuple[int, ...],
    viewmat: NDArray[np.floating],
    K: NDArray[np.floating],
    points: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """The points `[P, 3]` that a view of a shape (height, width) sees: their indices, rows and columns."""
    height, width = shape[:2]
    camera = points @ np.asarray(viewmat[:3, :3], np.float64).T + np.asarray(viewmat[:3, 3], np.float64)
    depth = camera[:, 2]
    front = depth > 1e-6
    safe = np.where(front, depth, 1.0)
    x = camera[:, 0] / safe * K[0, 0] + K[0, 2]
    y = camera[:, 1] / safe * K[1, 1] + K[1, 2]
    inside = front & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if not inside.any():
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    cell = max(height, width) / 24.0
    columns, rows = int(np.ceil(width / cell)), int(np.ceil(height / cell))
    cells = (y[inside] / cell).astype(np.int64) * columns + (x[inside] / cell).astype(np.int64)
    nearest = np.full(rows * columns, np.inf)
    np.minimum.at(nearest, cells, depth[inside])
    visible = np.flatnonzero(inside)[depth[inside] <= 1.05 * nearest[cells]]
    return visible, y[visible].astype(np.int64), x[visible].astype(np.int64)


def _pair_agreement(hits: NDArray[np.int64]) -> tuple[float, int]:
    """Share of equal pairs within the rows of `hits [P, V]` (without `IGNORE`), and how many there are."""
    ids, index = np.unique(hits, return_inverse=True)
    index = index.reshape(hits.shape)
    counts = np.zeros((len(hits), len(ids)), np.int64)
    np.add.at(counts, (np.arange(len(hits))[:, None], index), 1)
    counts = counts[:, ids != IGNORE]
    seen = counts.sum(axis=1)
    pairs = int((seen * (seen - 1) // 2).sum())
    equal = int((counts * (counts - 1) // 2).sum())
    return (equal / pairs if pairs else 0.0), pairs
