"""The part of its object that each Gaussian belongs to, by votes of maps of parts.

A map of parts has, at each pixel, the id of the smallest part that is known there, or else the object's. Segmenters that see one photo
at a time divide an object differently in every photo. So a part is judged only by the views that show it: of the weight that a Gaussian
has in pixels of its object there, more than half must lie in the part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene.parts import Parts, PartTree
from gradiseg_ns.votes.accumulate import view_sums

WHOLE = 0.9
"""What covers more than this share of its object's pixels is the object, not a part of it."""


def part_labels(inside: Tensor, seen: Tensor, tree: PartTree, root: int) -> Tensor:
    """The part of each Gaussian of one object, from the votes for each part.

    From the object down: a Gaussian goes to the part with the largest share of its votes if that is more than half, and then to that
    part's parts.

    Args:
        inside: float [n, P], weight of each Gaussian in the pixels of each part, for the parts `tree.within(root)[1:]` in this order.
            A part's own parts count as in it.
        seen: float [n, P], its weight in the pixels of the object, in the views that show the part.
        tree: of all parts.
        root: id of the object.

    Returns:
        int64 [n], ids of parts; `IGNORE` for a Gaussian that is in none.
    """
    nodes = tree.within(root)
    column = {part: place for place, part in enumerate(nodes[1:])}
    share = torch.where(seen > 0, inside / seen.clamp(min=torch.finfo(seen.dtype).tiny), 0.0)
    found = torch.full((len(inside),), root, dtype=torch.int64, device=inside.device)
    for node in nodes:  # what holds others comes before them
        below = tree.children(node)
        if below:
            most, which = share[:, [column[part] for part in below]].max(dim=1)
            ids = torch.tensor(below, dtype=torch.int64, device=inside.device)
            found = torch.where((found == node) & (most > 0.5), ids[which], found)
    return torch.where(found == root, IGNORE, found)


class PartVotes:
    """Adds up the votes for parts, one view after another.

    Args:
        objects: int [N], id of the object of each Gaussian; negative for none.
        tree: of the parts.
    """

    def __init__(self, objects: Tensor, tree: PartTree) -> None:
        self.tree, self.count, device = tree, len(objects), objects.device
        roots = sorted({tree.root(part) for part in tree.ids})
        self._rows = {root: (objects == root).nonzero()[:, 0] for root in roots}
        self._nodes = {root: tree.within(root) for root in roots}
        sizes = {root: (len(self._rows[root]), len(self._nodes[root]) - 1) for root in roots}
        self._inside = {root: torch.zeros(size, device=device) for root, size in sizes.items()}
        self._seen = {root: torch.zeros(size, device=device) for root, size in sizes.items()}
        self._ids = torch.tensor(sorted(n for nodes in self._nodes.values() for n in nodes), device=device)
        self._device = device

    @torch.no_grad()
    def add(self, projection: rendering.Projection, ids: Tensor) -> None:
        """Add a view.

        Args:
            projection: of the N Gaussians by the view's camera.
            ids: integer [H, W] of parts and objects, negative for none. Ids that are not in the tree are passed over.

        Raises:
            ValueError: the map has another size than the camera.
        """
        if not len(self._ids):
            return
        ids = ids.to(self._device, torch.int64)
        place = torch.searchsorted(self._ids, ids).clamp(max=len(self._ids) - 1)
        classes = torch.where(self._ids[place] == ids, place, -1)
        found: dict[int, dict[int, Tensor]] = {}
        for part, sums in view_sums(projection, classes, len(self._ids)):
            for column, node in enumerate(self._ids[part].tolist()):
                root = self.tree.root(node)
                found.setdefault(root, {})[node] = sums[self._rows[root], column]
        for root, weights in found.items():
            if set(weights) == {root}:  # the view does not divide the object
                continue
            total = torch.stack(list(weights.values())).sum(dim=0)
            for place_, part_ in enumerate(self._nodes[root][1:]):
                own = [weights[node] for node in self.tree.within(part_) if node in weights]
                if own:
                    self._inside[root][:, place_] += torch.stack(own).sum(dim=0)
                    self._seen[root][:, place_] += total

    def result(self) -> Parts:
        """The parts by the views that were added so far."""
        labels = torch.full((self.count,), IGNORE, dtype=torch.int64, device=self._device)
        for root, rows in self._rows.items():
            labels[rows] = part_labels(self._inside[root], self._seen[root], self.tree, root)
        return Parts(self.tree, labels)


def vote_parts(
    objects: Tensor,
    tree: PartTree,
    views: Iterable[tuple[rendering.Projection, Tensor]],
    *,
    progress: Callable[[], None] | None = None,
) -> Parts:
    """The part of each Gaussian, within its object.

    Args:
        objects: int [N], id of the object of each Gaussian; negative for none.
        tree: of the parts.
        views: projections of the N Gaussians, with the ids of parts and objects [H, W]; negative for none.
        progress: called after each view.
    """
    votes = PartVotes(objects, tree)
    for projection, ids in views:
        votes.add(projection, ids)
        if progress is not None:
            progress()
    return votes.result()


def tidy(
    tree: PartTree, maps: Sequence[NDArray[np.int32]], objects: Sequence[NDArray[np.int32]]
) -> tuple[PartTree, dict[int, int]]:
    """Leave out parts that are the whole, and parts without a pixel.

    Args:
        tree: of the parts.
        maps: [H, W] of each view, ids of parts, or of objects where there is none.
        objects: [H, W] of each view, ids of objects.

    Returns:
        The tree of the others, and for each part that is left out the id that takes its place.
    """
    pixels: dict[int, int] = {}
    whole: dict[int, int] = {}
    for counts, given in ((pixels, maps), (whole, objects)):
        for ids in given:
            for i, n in zip(*(a.tolist() for a in np.unique(ids, return_counts=True)), strict=True):
                counts[i] = counts.get(i, 0) + n
    above = tree.parent_of
    gone: dict[int, int] = {}
    for part in tree.ids:
        size = sum(pixels.get(node, 0) for node in tree.within(part))
        if size == 0 or size > WHOLE * whole.get(tree.root(part), 0):
            gone[part] = above[part]

    def kept(id: int) -> int:
        while id in gone:
            id = gone[id]
        return id

    parents = {part: kept(above[part]) for part in tree.ids if part not in gone}
    names = {part: name for part, name in tree.name_of.items() if part in parents}
    return PartTree.create(parents, names), {part: kept(part) for part in gone}
