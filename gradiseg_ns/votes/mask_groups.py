"""Masks of single views as groups: which show the same, and which are parts of which.

A *mask* is one id of one view. It is described by the *points* that it covers: the sparse points of the scene before there is
a splat, the Gaussians after. Two masks a, b of different views u, v are compared on the points that both views see:

    s(a, b) = |A and B| / |A or B|,    A = points of a that v sees too, B = points of b that u sees too.

`cluster_masks` merges the best pair of groups again and again, with |.| summed over the pairs of their masks. It never merges two
masks of one view. `find_parents` then tells which groups lie in which: the tree of objects and parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN, UNLABELLED = -2, -1
"""Values in place of a mask: the view does not see the point, or sees it where there is no mask."""
MIN_SCORE, MIN_INSIDE, MIN_POINTS = 0.2, 0.3, 3.0
"""Thresholds of `cluster_masks` and `find_parents`, and the smallest number of points that two masks share."""
MIN_SUPPORT = 0.1
"""Of the views that see half of a cluster, this share must show it (`supported`)."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MaskTable:
    """All masks of all views, and the points that they cover. M masks, R maps, P points.

    A view has one map, or several with masks inside each other.
    """

    views: Ints
    """[M] view of each mask."""
    ids: Ints
    """[M] id of each mask in its map."""
    points: Ints
    """[R, P] mask that covers each point in each map, or `HIDDEN`, or `UNLABELLED`."""
    weights: Floats
    """[P] weight of each point, above 0."""
    map_views: Ints
    """[R] view of each map, ascending."""

    @classmethod
    def of_labels(
        cls,
        labels: NDArray[np.integer],
        seen: NDArray[np.bool_],
        weights: Floats,
        map_views: Sequence[int] | None = None,
    ) -> MaskTable:
        """From the ids that the maps show at the points.

        Args:
            labels: [R, P] ids, negative for none. An id stands in one map of a view only.
            seen: [R, P] whether the view sees the point.
            weights: [P].
            map_views: the view of each map, ascending. Default: one map a view.
        """
        points = np.where(seen, UNLABELLED, HIDDEN).astype(np.int64)
        own = np.arange(len(labels)) if map_views is None else np.asarray(map_views, np.int64)
        views: list[int] = []
        ids: list[int] = []
        for r in range(len(labels)):
            taken = np.flatnonzero(seen[r] & (labels[r] >= 0))
            present, index = np.unique(labels[r, taken], return_inverse=True)
            points[r, taken] = len(ids) + index
            ids += present.tolist()
            views += [int(own[r])] * len(present)
        return cls(
            np.array(views, np.int64), np.array(ids, np.int64), points, weights.astype(np.float32), own.astype(np.int64)
        )  # fmt: skip

    @property
    def has_levels(self) -> bool:
        """Whether a view has several maps, with masks inside each other."""
        return len(np.unique(self.map_views)) < len(self.map_views)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Overlaps:
    """The points that pairs of masks share."""

    shared: Floats
    """[M, M] weight of the points that both masks cover; 0 within a view."""
    nested: Floats | None
    """The same within a view, 0 between views: masks inside each other. None if no view has several maps."""
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
    same_view = table.views[:, None] == table.views[None, :]
    nested = np.where(same_view, shared, np.float32(0)) if table.has_levels else None
    shared[same_view] = 0.0
    _, first = np.unique(table.map_views, return_index=True)
    visible = csr_matrix((table.points[first] != HIDDEN).T.astype(np.float32))
    seen: Any = covers @ visible
    return Overlaps(shared, nested, np.asarray(seen.toarray(), np.float32))


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


@dataclass(frozen=True)
class Containment:
    """How far clusters, or sets of them, lie within others. G clusters, V views."""

    held: Floats
    """[G, G] weight that masks of one cluster share with masks of another."""
    seen: Floats
    """[G, V] weight of a cluster's masks that a view sees."""
    shows: NDArray[np.bool_]
    """[G, V] whether a view has a mask of the cluster."""
    size: Floats
    """[G] weight of a cluster's mean mask."""

    @classmethod
    def of(cls, table: MaskTable, pairs: Overlaps, cluster: Ints) -> Containment:
        """Of the clusters [M] of some masks."""
        count = int(cluster.max(initial=-1)) + 1
        member = np.zeros((count, len(table)), np.float32)
        member[cluster, np.arange(len(table))] = 1.0
        shows = np.zeros((count, pairs.seen.shape[1]), bool)
        shows[cluster, table.views] = True
        shared, elsewhere = pairs.shared, pairs.seen
        if pairs.nested is not None:
            shared = shared + pairs.nested
        else:  # A mask's own view is left out: there, the part is cut out of the mask of the whole.
            elsewhere = elsewhere.copy()
            elsewhere[np.arange(len(table)), table.views] = 0.0
        own = pairs.seen[np.arange(len(table)), table.views]
        size = (member @ own) / np.maximum(member.sum(axis=1), 1.0)
        return cls(member @ shared @ member.T, member @ elsewhere, shows, size)

    def matrix(self) -> Floats:
        """[G, G] share of a cluster's masks that lies in masks of another, over the views that have one and see it; 0 with itself."""
        visible = self.seen @ self.shows.T.astype(np.float32)
        inside = np.where(visible > 0, self.held / np.maximum(visible, 1e-12), np.float32(0))
        np.fill_diagonal(inside, 0.0)
        return inside

    def share(self, clusters: Ints, others: Ints) -> float:
        """The same for two sets of clusters as one each."""
        visible = float(self.seen[clusters].sum(axis=0) @ self.shows[others].any(axis=0))
        return float(self.held[np.ix_(clusters, others)].sum()) / visible if visible > 0 else 0.0


def find_parents(inside: Containment, *, min_inside: float = MIN_INSIDE) -> Ints:
    """Which clusters lie within larger ones.

    A cluster a is a part of b if at least the share ``min_inside`` of the points of a's masks lies in masks of b, over the
    views that have a mask of b and see those points. Of several it is a part of the one that holds most of it.

    Returns:
        [G] the cluster that each is a part of; -1 for none.
    """
    shares, size = inside.matrix(), inside.size
    parent = np.full(len(size), -1, np.int64)
    for a in range(len(size)):
        candidates = np.where(size > size[a], shares[a], 0.0)  # a parent is larger, so there are no cycles
        b = int(candidates.argmax())
        if candidates[b] >= min_inside:
            parent[a] = b
    return parent


def roots(parent: Ints) -> Ints:
    """[G] the cluster that each belongs to in the end, by the parents [G] of `find_parents`."""
    root = np.where(parent >= 0, parent, np.arange(len(parent)))
    for _ in range(len(parent)):
        following = root[root]
        if (following == root).all():
            break
        root = following
    return root


@dataclass(frozen=True)
class MaskTree:
    """Which object, and which part of it, each mask shows. Ids of objects are 1 to K by decreasing size, those of parts follow."""

    objects: Ints
    """[M] id of the object of each mask; -1 for none."""
    nodes: Ints
    """[M] id of the smallest part that the mask shows, or of the object itself; -1 for none."""
    parents: dict[int, int]
    """For each part the id of the object or part that it belongs to."""


def tree_of_masks(
    table: MaskTable, cluster: Ints, whole: Ints, parent: Ints, part: NDArray[np.bool_]
) -> MaskTree:
    """Number objects and parts. What fewer than two views show is left out: a part is then a piece of what it lies in.

    Args:
        table: the masks.
        cluster: [M] of each mask.
        whole: [G] a number for the object of each cluster; -1 for none.
        parent: [G] a larger cluster of the same object that each lies in; -1 for none.
        part: [G] whether a cluster is a part: the others are objects themselves.
    """
    objects = groups_in_several_views(table, whole[cluster])
    sizes = groups_in_several_views(table, cluster)
    count = int(objects.max(initial=-1)) + 1
    object_of, rank = np.full(len(whole), -1, np.int64), np.full(len(whole), -1, np.int64)
    object_of[cluster], rank[cluster] = objects, sizes
    node = np.full(len(whole), -1, np.int64)
    chosen = part & (rank >= 0) & (object_of >= 0)
    node[chosen] = count + 1 + np.argsort(np.argsort(rank[chosen]))

    def around(g: int) -> int:
        """The nearest thing with an id that a cluster lies in."""
        own = object_of[g]
        while parent[g] >= 0:
            g = int(parent[g])
            if chosen[g]:
                return int(node[g])
        return int(own) + 1

    parents = {int(node[g]): around(int(g)) for g in np.flatnonzero(chosen)}
    for g in np.flatnonzero(~chosen & (object_of >= 0)):
        node[g] = around(int(g))
    return MaskTree(np.where(objects >= 0, objects + 1, -1), node[cluster], parents)


def tree_by_containment(table: MaskTable) -> MaskTree:
    """Objects and parts from masks with unrelated ids: a cluster that lies in no other is an object."""
    pairs = overlaps(table)
    cluster = cluster_masks(table, pairs, min_score=MIN_SCORE, min_shared=MIN_POINTS)
    parent = find_parents(Containment.of(table, pairs, cluster))
    return tree_of_masks(table, cluster, roots(parent), parent, parent >= 0)


def supported(
    table: MaskTable, pairs: Overlaps, cluster: Ints, *, min_share: float = MIN_SUPPORT
) -> NDArray[np.bool_]:
    """[G] whether two views show a cluster, and the share ``min_share`` of the views that see half of its points."""
    count = int(cluster.max(initial=-1)) + 1
    member = np.zeros((count, len(table)), np.float32)
    member[cluster, np.arange(len(table))] = 1.0
    own = pairs.seen[np.arange(len(table)), table.views]
    sees = ((member @ pairs.seen) >= 0.5 * (member @ own)[:, None]).sum(axis=1)
    shows = np.zeros((count, pairs.seen.shape[1]), bool)
    shows[cluster, table.views] = True
    views = shows.sum(axis=1)
    return (views >= 2) & (views >= min_share * sees)


def groups_in_several_views(table: MaskTable, group: Ints, *, min_views: int = 2) -> Ints:
    """Groups [M] renumbered from 0 by decreasing weight; -1 for masks of groups in fewer than ``min_views`` views, and of none (-1)."""
    count = int(group.max(initial=-1)) + 1
    named = group >= 0
    seen_in = np.zeros((count, int(table.map_views.max(initial=-1)) + 1), bool)
    seen_in[group[named], table.views[named]] = True
    covered = np.zeros(len(table))
    row, point = np.nonzero(table.points >= 0)
    np.add.at(covered, table.points[row, point], table.weights[point])
    weight = np.bincount(group[named], weights=covered[named], minlength=count)
    kept = [g for g in np.lexsort((np.arange(count), -weight)) if seen_in[g].sum() >= min_views]
    number = np.full(count + 1, -1, np.int64)  # the last place is that of -1
    number[kept] = np.arange(len(kept))
    return number[group]


def paint(id_maps: Sequence[NDArray[np.integer]], table: MaskTable, group: Ints) -> list[NDArray[np.int32]]:
    """The maps with groups instead of ids.

    Args:
        id_maps: [H, W] for each view, or [L, H, W] with masks inside each other, the larger ones first.
        table: the masks.
        group: [M] of each mask, negative for none.

    Returns:
        [H, W] for each view: the group of the smallest mask that has one; -1 where none has.
    """
    painted = []
    for v, id_map in enumerate(id_maps):
        masks = np.flatnonzero(table.views == v)
        highest = int(max(id_map.max(initial=0), table.ids[masks].max(initial=0)))
        lookup = np.full(highest + 2, -1, np.int32)
        lookup[table.ids[masks]] = group[masks]
        result: NDArray[np.int32] | None = None
        for level in id_map if id_map.ndim == 3 else id_map[None]:
            found = lookup[np.where(level < 0, highest + 1, level)]
            result = found if result is None else np.where(found >= 0, found, result)
        assert result is not None
        painted.append(result)
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
