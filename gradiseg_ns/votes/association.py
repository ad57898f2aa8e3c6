"""Ids without a tracker: masks that were made photo by photo become objects with the same id in every view.

A *mask* is one id of one view. It is described by the *points* that it covers: the sparse points of the scene before there is
a splat, the Gaussians after. Two masks a, b of different views u, v are compared on the points that both views see:

    s(a, b) = |A and B| / |A or B|,    A = points of a that v sees too, B = points of b that u sees too.

`cluster_masks` merges the best pair of clusters again and again, with |.| summed over the pairs of their masks. It never merges
two masks of one view. Then `attach_parts` joins a part that one view shows to the whole that other views show. The order of the
views has no effect. Maps whose ids already mostly agree keep them.

With a splat, `associate` then counts the votes of the new ids and renders the labels: this fills holes, and the other views
overrule masks that were missed or switched in one view. Without a splat, `relabel` corrects whole masks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.agreement import project_labels
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import VoteAccumulator, accumulate
from gradiseg_ns.votes.labels import Labels, majority, render_classes

HIDDEN, UNLABELLED = -2, -1
"""Values in place of a mask: the view does not see the point, or sees it where there is no mask."""

MAX_POINTS = 30_000
"""Largest number of Gaussians on which masks are compared."""
MIN_SCORE, MIN_INSIDE, MIN_POINTS = 0.2, 0.3, 3.0
"""Thresholds of `cluster_masks` and `attach_parts`, and the smallest number of points that two masks share."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class AssociationError(GradisegError):
    """The masks cannot be compared; the message says what is missing."""


@dataclass(frozen=True)
class MaskTable:
    """All masks of all views, and the points that they cover. M masks, V views, P points."""

    views: Ints
    """[M] view of each mask."""
    ids: Ints
    """[M] id of each mask in its view's map."""
    points: Ints
    """[V, P] mask that covers each point in each view, or `HIDDEN`, or `UNLABELLED`."""
    weights: Floats
    """[P] weight of each point, above 0."""

    @classmethod
    def of_labels(cls, labels: NDArray[np.integer], seen: NDArray[np.bool_], weights: Floats) -> MaskTable:
        """From the ids that the views show at the points.

        Args:
            labels: [V, P] ids, negative for none.
            seen: [V, P] whether the view sees the point.
            weights: [P].
        """
        points = np.where(seen, UNLABELLED, HIDDEN).astype(np.int64)
        views: list[int] = []
        ids: list[int] = []
        for v in range(len(labels)):
            taken = np.flatnonzero(seen[v] & (labels[v] >= 0))
            present, index = np.unique(labels[v, taken], return_inverse=True)
            points[v, taken] = len(ids) + index
            ids += present.tolist()
            views += [v] * len(present)
        return cls(
            np.array(views, np.int64), np.array(ids, np.int64), points, weights.astype(np.float32)
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Overlaps:
    """The points that pairs of masks share."""

    shared: Floats
    """[M, M] weight of the points that both masks cover; 0 within a view."""
    seen: Floats
    """[M, V] weight of those points of a mask that a view sees."""


def overlaps(table: MaskTable) -> Overlaps:
    """The shared points of all pairs of masks."""
    from scipy.sparse import csr_matrix

    n_points = table.points.shape[1]
    view, point = np.nonzero(table.points >= 0)
    covers = csr_matrix(
        (table.weights[point], (table.points[view, point], point)), shape=(len(table), n_points)
    )
    ones = covers.copy()
    ones.data[:] = 1.0
    product: Any = covers @ ones.T
    shared = np.asarray(product.toarray(), np.float32)
    shared[table.views[:, None] == table.views[None, :]] = 0.0
    visible = csr_matrix((table.points != HIDDEN).T.astype(np.float32))
    seen: Any = covers @ visible
    return Overlaps(shared, np.asarray(seen.toarray(), np.float32))


def cluster_masks(
    table: MaskTable, pairs: Overlaps, *, min_score: float = 0.3, min_shared: float = 3.0
) -> Ints:
    """Merge masks of different views that cover the same points.

    Args:
        table: the masks.
        pairs: the points that they share.
        min_score: clusters are not merged if their sum of intersections over their sum of unions is smaller.
        min_shared: clusters are not merged if they share less weight.

    Returns:
        [M] cluster of each mask, numbered from 0. Two masks of a view are never in one cluster.
    """
    count = len(table)
    shared = pairs.shared.copy()
    seen_by_other = pairs.seen[:, table.views]  # [a, b]: a's points that b's view sees
    united = seen_by_other + seen_by_other.T - shared
    del seen_by_other
    apart = table.views[:, None] == table.views[None, :]
    has_view = np.zeros((count, pairs.seen.shape[1]), bool)
    has_view[np.arange(count), table.views] = True
    cluster = np.arange(count)
    alive = np.ones(count, bool)

    def scores(row: int) -> Floats:
        allowed = alive & ~apart[row] & (shared[row] >= min_shared)
        return np.where(allowed, shared[row] / np.maximum(united[row], 1e-12), np.float32(-1))

    best = np.full(count, -1.0)
    partner = np.full(count, -1)

    def refresh(row: int) -> None:
        row_scores = scores(row)
        partner[row] = int(row_scores.argmax()) if count else -1
        best[row] = row_scores[partner[row]]

    for row in range(count):
        refresh(row)
    while count:
        a = int(np.where(alive, best, -1.0).argmax())
        if best[a] < min_score:
            break
        b = int(partner[a])
        # b goes into a
        shared[a] += shared[b]
        shared[:, a] = shared[a]
        united[a] += united[b]
        united[:, a] = united[a]
        has_view[a] |= has_view[b]
        apart[a] = (has_view & has_view[a]).any(axis=1)
        apart[:, a] = apart[a]
        alive[b] = False
        cluster[cluster == b] = a
        best[b] = -1.0
        refresh(a)
        changed = alive & ((partner == a) | (partner == b))
        changed[a] = False
        for row in np.flatnonzero(changed):
            refresh(int(row))
        row_scores = scores(a)
        better = alive & (row_scores > best)
        better[a] = False
        partner[better], best[better] = a, row_scores[better]
    return np.unique(cluster, return_inverse=True)[1].astype(np.int64)


def attach_parts(table: MaskTable, pairs: Overlaps, cluster: Ints, *, min_inside: float = 0.3) -> Ints:
    """Join clusters that lie within larger ones.

    A cluster a is a part of b if at least the share ``min_inside`` of the points of a's masks lies in masks of b, over the
    views that have a mask of b and see those points. Small clusters are attached first, each to the cluster that holds
    most of it.

    Returns:
        [M] group of each mask, numbered from 0. A group may hold several masks of a view: its parts.
    """
    count = int(cluster.max()) + 1 if len(cluster) else 0
    if count == 0:
        return cluster
    member = np.zeros((count, len(table)), np.float32)
    member[cluster, np.arange(len(table))] = 1.0
    shared = member @ pairs.shared @ member.T
    has_view = np.zeros((count, pairs.seen.shape[1]), np.float32)
    has_view[cluster, table.views] = 1.0
    # A mask's own view is left out: there, the part is cut out of the mask of the whole.
    elsewhere = pairs.seen.copy()
    elsewhere[np.arange(len(table)), table.views] = 0.0
    visible = (member @ elsewhere) @ has_view.T
    inside = np.where(visible > 0, shared / np.maximum(visible, 1e-12), 0.0)
    np.fill_diagonal(inside, 0.0)
    own = pairs.seen[np.arange(len(table)), table.views]
    size = (member @ own) / np.maximum(member.sum(axis=1), 1.0)  # of its mean mask
    parent = np.arange(count)
    for a in np.lexsort((np.arange(count), size)):
        larger = size > size[a]
        candidates = np.where(larger, inside[a], 0.0)
        b = int(candidates.argmax())
        if candidates[b] >= min_inside:
            parent[a] = b
    root = parent.copy()
    for _ in range(count):  # a parent is larger than its parts, so there are no cycles
        following = parent[root]
        if (following == root).all():
            break
        root = following
    return np.unique(root[cluster], return_inverse=True)[1].astype(np.int64)


def groups_in_several_views(table: MaskTable, group: Ints, *, min_views: int = 2) -> Ints:
    """Groups renumbered from 0 by decreasing weight; -1 for masks of groups with masks in fewer than ``min_views`` views."""
    count = int(group.max()) + 1 if len(group) else 0
    seen_in = np.zeros((count, len(table.points)), bool)
    seen_in[group, table.views] = True
    covered = np.zeros(len(table))
    view, point = np.nonzero(table.points >= 0)
    np.add.at(covered, table.points[view, point], table.weights[point])
    weight = np.bincount(group, weights=covered, minlength=count)
    kept = [g for g in np.lexsort((np.arange(count), -weight)) if seen_in[g].sum() >= min_views]
    number = np.full(count + 1, -1, np.int64)
    number[kept] = np.arange(len(kept))
    return number[group]


def paint(id_maps: Sequence[NDArray[np.integer]], table: MaskTable, group: Ints) -> list[NDArray[np.int32]]:
    """The maps with groups instead of ids; -1 where a pixel's mask has no group or no point."""
    painted = []
    for v, id_map in enumerate(id_maps):
        masks = np.flatnonzero(table.views == v)
        highest = int(max(id_map.max(initial=0), table.ids[masks].max(initial=0)))
        lookup = np.full(highest + 2, -1, np.int32)
        lookup[table.ids[masks]] = group[masks]
        painted.append(lookup[np.where(id_map < 0, highest + 1, id_map)])
    return painted


def relabel(table: MaskTable) -> Ints:
    """The id [M] of each mask by its points: each point has the id that most views show there, and the mask gets the most frequent.

    For maps whose ids mostly agree. A mask keeps its own id if fewer than `MIN_POINTS` points have the new id, or not more than half.
    """
    ids, index = np.unique(table.ids, return_inverse=True)
    counts = np.zeros((table.points.shape[1], len(ids)), np.float32)
    view, point = np.nonzero(table.points >= 0)
    mask = table.points[view, point]
    np.add.at(counts, (point, index[mask]), 1.0)
    consensus = counts.argmax(axis=1)
    votes = np.zeros((len(table), len(ids)), np.float32)
    np.add.at(votes, (mask, consensus[point]), table.weights[point])
    best = votes.argmax(axis=1)
    most = votes[np.arange(len(table)), best]
    sure = (most >= MIN_POINTS) & (most > 0.5 * votes.sum(axis=1))
    return np.where(sure, ids[best], table.ids)


def connected_pieces(id_maps: Sequence[NDArray[np.integer]]) -> tuple[list[NDArray[np.int64]], Ints]:
    """The connected pieces of all masks, numbered in each view (-1 for no mask), and their ids in the old maps, [V, most pieces]."""
    from scipy.ndimage import label

    maps: list[NDArray[np.int64]] = []
    ids: list[list[int]] = []
    for id_map in id_maps:
        pieces = np.full(id_map.shape, -1, np.int64)
        own: list[int] = []
        for i in np.unique(id_map[id_map >= 0]):
            found: Any = label(id_map == i)
            numbered, count = found
            pieces = np.where(numbered > 0, numbered - 1 + len(own), pieces)
            own += [int(i)] * count
        maps.append(pieces)
        ids.append(own)
    most = max((len(own) for own in ids), default=0)
    return maps, np.array([own + [-1] * (most - len(own)) for own in ids], np.int64)


# ------------------------------------------------------------------------------------------------- points of the scene


def masks_of_points(
    id_maps: Sequence[NDArray[np.integer]],
    cameras: Sequence[rendering.Camera],
    points: NDArray[np.floating],
) -> MaskTable:
    """The masks, and the sparse points [P, 3] that they cover. A view does not see points that other points hide."""
    points = np.asarray(points, np.float64)
    labels, seen = [], []
    for id_map, camera in zip(id_maps, cameras, strict=True):
        viewmat, K = camera.viewmat.cpu().numpy(), camera.K.cpu().numpy()
        labels.append(project_labels(id_map, viewmat, K, points))
        seen.append(project_labels(np.zeros(id_map.shape, np.int32), viewmat, K, points) >= 0)
    return MaskTable.of_labels(np.stack(labels), np.stack(seen), np.ones(len(points), np.float32))


@torch.no_grad()
def masks_of_gaussians(
    id_maps: Sequence[Tensor],
    project: Callable[[int], rendering.Projection],
    *,
    max_points: int = MAX_POINTS,
    min_weight: float = 0.5,
    progress: Callable[[], None] | None = None,
) -> MaskTable:
    """The masks, and the Gaussians that they cover.

    A view sees a Gaussian if its blending weight in the view is at least ``min_weight`` pixels. A mask covers the Gaussian
    if it gets more than half of this weight. The weight of a Gaussian as a point is its mean weight over the views that see it.

    Args:
        id_maps: [H, W] for each view, negative where there is no mask.
        project: projects the Gaussians by the camera of a view.
        max_points: largest number of Gaussians. If two views see more, a random sample is taken.
        min_weight: in pixels.
        progress: called after each view.
    """
    labels: list[NDArray[np.int64]] = []
    seen: list[NDArray[np.bool_]] = []
    total: Tensor | None = None
    for view, id_map in enumerate(id_maps):
        projection = project(view)
        count = projection.radii.shape[1]
        present = id_map[id_map >= 0].unique()
        table = torch.full((int(present.max()) + 2 if len(present) else 1,), -1, device=id_map.device)
        table[present.long()] = torch.arange(len(present), device=id_map.device)
        accumulator = VoteAccumulator(count, max(len(present), 1), projection.means2d.device)
        accumulator.add(projection, table[id_map.long()])
        classes, weights = accumulator.result().top(1)
        camera = projection.camera
        ones = torch.ones(camera.height, camera.width, 1, device=projection.means2d.device)
        drawn = rendering.transpose(projection, ones)[:, 0]
        visible = drawn >= min_weight
        covered = visible & (weights[:, 0] > 0.5 * drawn)
        if len(present):
            own = present.to(classes.device, torch.int64)[classes[:, 0].clamp(min=0)]
            labels.append(torch.where(covered, own, -1).cpu().numpy())
        else:
            labels.append(np.full(count, -1, np.int64))
        seen.append(visible.cpu().numpy())
        total = drawn * visible if total is None else total + drawn * visible
        if progress is not None:
            progress()
    assert total is not None
    often = np.stack(seen)
    count_seen = often.sum(axis=0)
    weight = (total.cpu().numpy() / np.maximum(count_seen, 1)).astype(np.float32)
    chosen = np.flatnonzero(count_seen >= min(2, len(id_maps)))
    if len(chosen) > max_points:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, max_points, replace=False))
    # In units of the median Gaussian, so that `min_shared` has the same meaning as with sparse points.
    weight = weight[chosen] / max(float(np.median(weight[chosen])) if len(chosen) else 1.0, 1e-9)
    return MaskTable.of_labels(np.stack(labels)[:, chosen], often[:, chosen], weight)


# ------------------------------------------------------------------------------------------------------------ all steps


@dataclass(frozen=True)
class MaskTrust:
    """The result for one mask."""

    view: int
    id: int
    """Id in the old map of the view."""
    new_id: int
    """Id of most of its pixels in the new maps; -1 for none."""
    trust: float
    """Share of its pixels that have, in the new map, the object that the mask was assigned to, 0 to 1; 0 if the mask was dropped."""
    pixels: int


@dataclass(frozen=True)
class Association:
    """Maps whose ids agree between views."""

    maps: list[NDArray[np.int32]]
    """[H, W] for each view; -1 for no label."""
    masks: list[MaskTrust]
    labels: Labels | None
    """Class of each Gaussian: an index into `ids`. None without a splat."""
    ids: tuple[int, ...]
    """Ids in the new maps, ascending."""


def group_masks(table: MaskTable) -> Ints:
    """New ids from 1 for masks with unrelated ids, by decreasing size; -1 for masks of an object that only one view has."""
    pairs = overlaps(table)
    cluster = cluster_masks(table, pairs, min_score=MIN_SCORE, min_shared=MIN_POINTS)
    group = groups_in_several_views(table, attach_parts(table, pairs, cluster, min_inside=MIN_INSIDE))
    return np.where(group >= 0, group + 1, -1)


def associate(
    id_maps: Sequence[Tensor],
    cameras: Sequence[rendering.Camera],
    *,
    gaussians: rendering.Gaussians | None = None,
    points: NDArray[np.floating] | None = None,
    ids: Literal["keep", "new"] = "new",
    progress: Callable[[str], None] | None = None,
) -> Association:
    """Give masks ids that agree between views.

    Args:
        id_maps: int [H, W] for each view, negative where there is no mask.
        cameras: of the views.
        gaussians: a trained splat. Its labels are rendered, which fills holes and corrects pixels.
        points: [P, 3] sparse points, used if there are no Gaussians.
        ids: ``new`` for ids that are unrelated between views; ``keep`` for ids that mostly agree.
        progress: called with the name of the pass, for every view of every pass.

    Raises:
        AssociationError: there are neither Gaussians nor points, or no two views see the same part of the scene.
    """
    report = progress or (lambda text: None)
    arrays = [m.cpu().numpy() for m in id_maps]

    def project(view: int) -> rendering.Projection:
        assert gaussians is not None
        with torch.no_grad():
            return rendering.project(gaussians, cameras[view])

    table: MaskTable | None = None
    pieces, piece_ids = arrays, np.zeros((0, 0), np.int64)
    if ids == "new" or gaussians is None:
        if gaussians is not None:
            table = masks_of_gaussians(id_maps, project, progress=lambda: report("Comparing masks"))
        elif points is not None and len(points):
            if ids == "keep":  # a switched object, and the object whose id it took, are two masks
                pieces, piece_ids = connected_pieces(arrays)
            table = masks_of_points(pieces, cameras, points)
        else:
            raise AssociationError(
                "associating masks needs a splat or the scene's sparse points, found neither."
            )
        if len(table) == 0 or table.points.shape[1] == 0:
            raise AssociationError(
                "no two views see the same part of the scene: are poses and maps of one scene?"
            )
    if table is not None and ids == "new":
        taken = paint(arrays, table, group_masks(table))
    elif table is not None:
        taken = paint(pieces, table, relabel(replace(table, ids=piece_ids[table.views, table.ids])))
    else:
        taken = [a.astype(np.int32) for a in arrays]
    present = np.unique(np.concatenate([np.unique(a) for a in taken]))
    present = present[present >= 0]
    labels: Labels | None = None
    maps = taken
    if gaussians is not None and len(present):
        device = gaussians.means.device
        known = torch.from_numpy(present).to(device, torch.int64)
        lookup = torch.full((int(present[-1]) + 2,), -1, dtype=torch.int64, device=device)
        lookup[known] = torch.arange(len(present), device=device)
        views = (
            (camera, lookup[torch.from_numpy(a).to(device, torch.int64)])
            for camera, a in zip(cameras, taken, strict=True)
        )
        votes = accumulate(gaussians, views, len(present), progress=lambda: report("Taking votes"))
        labels = majority(votes)
        maps = []
        for view in range(len(cameras)):
            classes, _ = render_classes(project(view), labels.classes)
            painted = torch.where(classes >= 0, known[classes.clamp(min=0)], -1)
            maps.append(painted.to(torch.int32).cpu().numpy())
            report("Rendering labels")
    trust = [
        entry
        for view, (old, before, after) in enumerate(zip(arrays, taken, maps, strict=True))
        for entry in _trust(view, old, before, after)
    ]
    return Association(maps, trust, labels, tuple(int(i) for i in present))


def _trust(
    view: int, old: NDArray[np.integer], taken: NDArray[np.int32], new: NDArray[np.int32]
) -> list[MaskTrust]:
    """The results for the masks of a view."""
    masks = old[old >= 0]
    if masks.size == 0:
        return []
    ids, index = np.unique(masks, return_inverse=True)
    after, before = new[old >= 0], taken[old >= 0]
    values, place = np.unique(after, return_inverse=True)
    counts = np.zeros((len(ids), len(values)), np.int64)
    np.add.at(counts, (index, place), 1)
    pixels = counts.sum(axis=1)
    meant = np.zeros(len(ids), np.int64)
    meant[index] = before  # one value a mask
    agreeing = np.bincount(index, weights=(after == before) & (before >= 0), minlength=len(ids))
    best = values[counts.argmax(axis=1)]
    return [
        MaskTrust(view, int(i), int(b), float(a / n) if m >= 0 else 0.0, int(n))
        for i, b, a, n, m in zip(ids, best, agreeing, pixels, meant, strict=True)
    ]
