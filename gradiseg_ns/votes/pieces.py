"""Objects and parts of a splat from masks whose ids are unrelated between views.

1. The weight of every mask on every Gaussian is taken once (`masks_of_gaussians`); all votes are sums of it.
2. Masks of different views that cover the same Gaussians are one *piece* (`mask_groups`).
3. The votes of the pieces are rendered with the splat's depth. Pieces with smooth borders are one object (`seams`). A piece that other
   views overrule belongs to the piece in which most of it lies.
4. Within an object of several pieces these are its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.parts import Parts, PartTree
from gradiseg_ns.scene.selection import MIN_WEIGHT
from gradiseg_ns.votes.accumulate import Votes, view_sums
from gradiseg_ns.votes.labels import Labels, majority, render_classes
from gradiseg_ns.votes.mask_groups import (
    MIN_POINTS,
    MIN_SCORE,
    Containment,
    Ints,
    MaskTable,
    MaskTree,
    cluster_masks,
    find_parents,
    overlaps,
    supported,
    tree_of_masks,
)
from gradiseg_ns.votes.parts import part_labels
from gradiseg_ns.votes.seams import Seams, join

MAX_POINTS = 30_000
"""Largest number of Gaussians on which masks are compared."""


@dataclass(frozen=True)
class MaskWeights:
    """The masks of all views on N Gaussians."""

    table: MaskTable
    """M masks, compared on some of the Gaussians."""
    weights: Any
    """Sparse [N, M]: blending weight in pixels of each Gaussian in each mask. Of masks inside each other the smallest has a pixel."""
    device: torch.device

    def votes(self, group: Ints) -> tuple[Votes, Ints]:
        """Votes [N, K] for groups, and their numbers [K]; the groups [M] of the masks, negative for none."""
        from scipy.sparse import csr_matrix

        named = np.flatnonzero(group >= 0)
        numbers, column = np.unique(group[named], return_inverse=True)
        shape = (len(group), len(numbers))
        member = csr_matrix((np.ones(len(named), np.float32), (named, column)), shape=shape)
        sums = (self.weights @ member).tocoo()
        order = np.lexsort((sums.col, sums.row))
        rows, columns, weights = (
            torch.from_numpy(a[order]).to(self.device) for a in (sums.row, sums.col, sums.data)
        )
        return Votes(
            (self.weights.shape[0], len(numbers)), rows.long(), columns.long(), weights.float()
        ), numbers  # fmt: skip


@torch.no_grad()
def masks_of_gaussians(
    id_maps: Sequence[Tensor],
    project: Callable[[int], rendering.Projection],
    *,
    max_points: int = MAX_POINTS,
    min_weight: float = 0.5,
    progress: Callable[[], None] | None = None,
) -> MaskWeights:
    """The masks, and the Gaussians that they cover.

    A view sees a Gaussian if its blending weight in the view is at least ``min_weight`` pixels. A mask covers the Gaussian
    if it gets more than half of this weight. The weight of a Gaussian as a point is its mean weight over the views that see it.

    Args:
        id_maps: [H, W] for each view, or [L, H, W] with masks inside each other, the larger ones first and an id in one of them only;
            negative where there is no mask.
        project: projects the Gaussians by the camera of a view.
        max_points: largest number of Gaussians on which masks are compared. If two views see more, a random sample is taken.
        min_weight: in pixels.
        progress: called after each view.
    """
    labels: list[NDArray[np.int64]] = []
    seen: list[NDArray[np.bool_]] = []
    map_views: list[int] = []
    entries: list[tuple[Ints, Ints, NDArray[np.float32]]] = []
    total: Tensor | None = None
    for view, id_map in enumerate(id_maps):
        projection = project(view)
        camera = projection.camera
        ones = torch.ones(camera.height, camera.width, 1, device=projection.means2d.device)
        drawn = rendering.transpose(projection, ones)[:, 0]
        visible = drawn >= min_weight
        seen.append(visible.cpu().numpy())
        total = drawn * visible if total is None else total + drawn * visible
        levels = id_map if id_map.ndim == 3 else id_map[None]
        for level in levels:
            best, weights, found = _weigh(projection, level)
            covered = visible & (weights > 0.5 * drawn)
            labels.append(torch.where(covered, best, -1).cpu().numpy())
            map_views.append(view)
        if len(levels) > 1:
            _, _, found = _weigh(projection, _smallest(levels))
        entries.append(found)
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
    table = MaskTable.of_labels(np.stack(labels)[:, chosen], often[map_views][:, chosen], weight, map_views)
    return MaskWeights(table, _matrix(entries, table, len(count_seen)), total.device)


def _smallest(levels: Tensor) -> Tensor:
    """Of masks inside each other [L, H, W], the smallest at each pixel: [H, W]."""
    result = levels[0]
    for level in levels[1:]:
        result = torch.where(level >= 0, level, result)
    return result


def _weigh(
    projection: rendering.Projection, id_map: Tensor
) -> tuple[Tensor, Tensor, tuple[Ints, Ints, NDArray[np.float32]]]:
    """The mask with the most of each Gaussian's weight in a view, int64 [N] (-1 for none), that weight in pixels [N], and all weights
    as rows (Gaussians), ids and values."""
    count, device = projection.radii.shape[1], projection.means2d.device
    present = id_map[id_map >= 0].unique().to(device, torch.int64)
    best = torch.full((count,), -1, device=device)
    most = torch.zeros(count, device=device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    if len(present):
        ids = id_map.to(device, torch.int64)
        place = torch.searchsorted(present, ids).clamp(max=len(present) - 1)
        classes = torch.where(ids >= 0, place, -1)
        for columns, sums in view_sums(projection, classes, len(present)):
            value, which = sums.max(dim=1)
            better = value > most
            best = torch.where(better, present[columns[which]], best)
            most = torch.where(better, value, most)
            rows, column = (sums > MIN_WEIGHT).nonzero().unbind(1)
            parts.append((rows, present[columns[column]], sums[rows, column]))
    arrays = [
        np.concatenate([part[k].cpu().numpy() for part in parts]) if parts else np.zeros(0)
        for k in range(3)
    ]  # fmt: skip
    found = arrays[0].astype(np.int32), arrays[1].astype(np.int64), arrays[2].astype(np.float32)
    return best, most, found  # type: ignore[return-value]


def _matrix(entries: Sequence[tuple[Ints, Ints, NDArray[np.float32]]], table: MaskTable, count: int) -> Any:
    """The weights of all views as a sparse matrix [N, M]; masks that are not in the table are left out."""
    from scipy.sparse import csr_matrix

    rows, columns, values = [], [], []
    for view, (row, ids, value) in enumerate(entries):
        masks = np.flatnonzero(table.views == view)
        if not len(masks) or not len(row):
            continue
        masks = masks[np.argsort(table.ids[masks])]
        place = np.searchsorted(table.ids[masks], ids).clip(max=len(masks) - 1)
        known = table.ids[masks][place] == ids
        rows.append(row[known])
        columns.append(masks[place[known]].astype(np.int32))
        values.append(value[known])
    if not rows:
        return csr_matrix((count, len(table)), dtype=np.float32)
    content = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix(content, shape=(count, len(table)))


@dataclass(frozen=True)
class SplatTree:
    """Objects and parts of a splat."""

    masks: MaskTree
    """What each mask shows."""
    labels: Labels
    """Class of each Gaussian: an index into `ids`."""
    ids: tuple[int, ...]
    """Ids of the objects, ascending."""
    objects: Tensor
    """int64 [N]: id of each Gaussian's object, -1 for none."""
    parts: Parts


def tree_of_splat(
    found: MaskWeights,
    project: Callable[[int], rendering.Projection],
    views: int,
    progress: Callable[[], None] | None = None,
) -> SplatTree:
    """Objects and parts by masks and by the splat's surface.

    Args:
        found: the masks.
        project: projects the Gaussians by the camera of a view.
        views: number of views.
        progress: called after each view.
    """
    table = found.table
    pairs = overlaps(table)
    cluster = cluster_masks(table, pairs, min_score=MIN_SCORE, min_shared=MIN_POINTS)
    kept = supported(table, pairs, cluster)
    votes, numbers = found.votes(np.where(kept[cluster], cluster, -1))
    pieces = majority(votes).classes
    seams = Seams()
    for view in range(views):
        projection = project(view)
        shown, _ = render_classes(projection, pieces)
        seams.add(shown.cpu().numpy(), _depth(projection), projection.camera.K.cpu().numpy())
        if progress is not None:
            progress()
    containment = Containment.of(table, pairs, cluster)
    inside = find_parents(containment)
    place = {int(g): k for k, g in enumerate(numbers)}
    start = overruled(votes, pieces)
    if table.has_levels:  # these tell themselves what belongs together
        start |= {place[g]: place[int(p)] for g, p in enumerate(inside) if g in place and int(p) in place}

    def covered(some: Sequence[int], others: Sequence[int]) -> float:
        return containment.share(numbers[list(some)], numbers[list(others)])

    joined = join(seams.samples, seams.smooth, start, covered)
    whole = np.full(len(kept), -1, np.int64)
    for k, g in enumerate(numbers):
        whole[g] = int(numbers[joined.get(k, k)])
    same = (inside >= 0) & (whole[inside] == whole) & kept
    parent = np.where(same, inside, -1)
    size = np.bincount(whole[whole >= 0], minlength=len(whole))
    masks = tree_of_masks(table, cluster, whole, parent, kept & (size[whole] > 1))
    votes, ids = found.votes(masks.objects)
    labels = majority(votes)
    known = torch.from_numpy(ids).to(labels.classes)
    objects = torch.where(labels.seen, known[labels.classes.clamp(min=0)], -1) if len(ids) else labels.classes
    return SplatTree(masks, labels, tuple(int(i) for i in ids), objects, _parts(found, masks, objects))


def overruled(votes: Votes, pieces: Tensor) -> dict[int, int]:
    """The pieces of whose weight less than half lies in their own Gaussians, since other views divide the scene otherwise there.

    Args:
        votes: [N, K] for K pieces.
        pieces: int64 [N], the piece of each Gaussian; -1 for none.

    Returns:
        For each of them the other piece in whose Gaussians most of its weight lies.
    """
    count = votes.shape[1]
    owner = pieces[votes.rows]
    known = owner >= 0
    place = votes.columns[known] * count + owner[known]
    weights = votes.weights[known].double()
    held = torch.zeros(count * count, dtype=torch.float64, device=weights.device).index_add_(
        0, place, weights
    )
    held = held.reshape(count, count)
    own, total = held.diagonal(), held.sum(dim=1)
    others = held - torch.diag(own)
    most, which = others.max(dim=1) if count else (own, own)
    found = (own < 0.5 * total) & (most > 0)
    return {int(a): int(which[a]) for a in found.nonzero()[:, 0]}


def _depth(projection: rendering.Projection) -> NDArray[np.float32]:
    """The mean depth [H, W] of what a camera sees, world units."""
    (sums,), alpha = rendering.rasterize(projection, [projection.depths[0][:, None]])
    return (sums / alpha.clamp(min=1e-6))[..., 0].cpu().numpy()


def _parts(found: MaskWeights, masks: MaskTree, objects: Tensor) -> Parts:
    """The part of each Gaussian, by the masks that show its object: see `votes.parts`."""
    tree = PartTree.create(masks.parents)
    labels = torch.full((len(objects),), -1, dtype=torch.int64, device=objects.device)
    views = found.table.views
    for root in sorted({tree.root(part) for part in tree.ids}):
        rows = (objects == root).nonzero()[:, 0]
        own = np.flatnonzero(masks.objects == root)
        within = [tree.within(part) for part in tree.within(root)[1:]]
        member = np.stack([np.isin(masks.nodes[own], nodes) for nodes in within], axis=1)
        shown = [np.isin(views[own], views[own][column]) for column in member.T]
        weights = found.weights[rows.cpu().numpy()][:, own]
        inside, seen = (
            torch.from_numpy(np.asarray(weights @ columns.astype(np.float32), np.float32)).to(labels.device)
            for columns in (member, np.stack(shown, axis=1))
        )
        labels[rows] = part_labels(inside, seen, tree, root)
    return Parts(tree, labels)
