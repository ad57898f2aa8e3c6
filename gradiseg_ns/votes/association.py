"""Ids without a tracker: masks that were made photo by photo become objects with the same id in every view.

Masks of different views that cover the same points are one piece (`mask_groups`). The points are the sparse points of the scene before
there is a splat, the Gaussians after. The order of the views has no effect. Maps whose ids already mostly agree keep them.

With a splat, its surface tells which pieces are one object (`pieces`). Labels by votes are rendered: this fills holes, and the other
views overrule masks that were missed or switched in one view. Without a splat a piece that lies in a larger one belongs to it, and
`relabel` corrects whole masks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.agreement import project_ids
from gradiseg_ns.scene.parts import PartTree
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import Labels, majority, render_classes
from gradiseg_ns.votes.mask_groups import (
    MaskTable,
    connected_pieces,
    paint,
    relabel,
    tree_by_containment,
)
from gradiseg_ns.votes.parts import tidy
from gradiseg_ns.votes.pieces import SplatTree, masks_of_gaussians, tree_of_splat


class AssociationError(GradisegError):
    """The masks cannot be compared; the message says what is missing."""


# ------------------------------------------------------------------------------------------------- points of the scene


def masks_of_points(
    id_maps: Sequence[NDArray[np.integer]],
    cameras: Sequence[rendering.Camera],
    points: NDArray[np.floating],
) -> MaskTable:
    """The masks, and the sparse points [P, 3] that they cover. A view does not see points that other points hide.

    Args:
        id_maps: [H, W] for each view, or [L, H, W] with masks inside each other; negative where there is no mask.
        cameras: of the views.
        points: [P, 3].
    """
    points = np.asarray(points, np.float64)
    labels, seen, map_views = [], [], []
    for view, (id_map, camera) in enumerate(zip(id_maps, cameras, strict=True)):
        viewmat, K = camera.viewmat.cpu().numpy(), camera.K.cpu().numpy()
        levels = id_map if id_map.ndim == 3 else id_map[None]
        sees = project_ids(np.zeros(levels.shape[1:], np.int32), viewmat, K, points) >= 0
        for level in levels:
            labels.append(project_ids(level, viewmat, K, points))
            seen.append(sees)
            map_views.append(view)
    return MaskTable.of_labels(
        np.stack(labels), np.stack(seen), np.ones(len(points), np.float32), map_views
    )  # fmt: skip


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
class PartsOfViews:
    """The parts of the objects."""

    tree: PartTree
    maps: list[NDArray[np.int32]]
    """[H, W] for each view: ids of parts, of objects where there is none, -1 for no label."""
    labels: Tensor | None
    """int64 [N]: id of each Gaussian's part, -1 for none. None without a splat."""


@dataclass(frozen=True)
class Association:
    """Maps whose ids agree between views."""

    maps: list[NDArray[np.int32]]
    """[H, W] for each view: ids of objects; -1 for no label."""
    masks: list[MaskTrust]
    labels: Labels | None
    """Class of each Gaussian: an index into `ids`. None without a splat."""
    ids: tuple[int, ...]
    """Ids in the new maps, ascending."""
    parts: PartsOfViews
    """Without parts if ids were kept."""


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
        id_maps: int [H, W] for each view, or, for new ids, [L, H, W] with masks inside each other, the larger ones first and an id in
            one of them only; negative where there is no mask.
        cameras: of the views.
        gaussians: a trained splat. Its labels are rendered, which fills holes and corrects pixels.
        points: [P, 3] sparse points, used if there are no Gaussians.
        ids: ``new`` for ids that are unrelated between views; ``keep`` for ids that mostly agree.
        progress: called with the name of the pass, for every view of every pass.

    Raises:
        AssociationError: there are neither Gaussians nor points, or no two views see the same part of the scene.
    """
    report = progress or (lambda text: None)
    outer = [(m if m.ndim == 2 else m[0]).cpu().numpy() for m in id_maps]

    def project(view: int) -> rendering.Projection:
        assert gaussians is not None
        with torch.no_grad():
            return rendering.project(gaussians, cameras[view])

    if gaussians is None and (points is None or not len(points)):
        raise AssociationError("associating masks needs a splat or the scene's sparse points, found neither.")
    labels: Labels | None = None
    if ids == "new":
        arrays = [m.cpu().numpy() for m in id_maps]
        if gaussians is not None:
            weights = masks_of_gaussians(id_maps, project, progress=lambda: report("Comparing masks"))
            _check(weights.table)
            tree = tree_of_splat(weights, project, len(cameras), lambda: report("Finding objects"))
            meant, labels, present = paint(outer, weights.table, tree.masks.objects), tree.labels, tree.ids
            maps = _render(project, len(cameras), tree.objects, "Rendering labels", report)
            parts = _parts_of_splat(project, maps, tree, report)
        else:
            table = masks_of_points(arrays, cameras, np.asarray(points))
            _check(table)
            masks = tree_by_containment(table)
            meant, maps = paint(outer, table, masks.objects), paint(arrays, table, masks.objects)
            parts = _tidied(PartTree.create(masks.parents), paint(arrays, table, masks.nodes), maps, None)
            present = _present(maps)
    else:
        if gaussians is None:  # a switched object, and the object whose id it took, are two masks
            pieces, own = connected_pieces(outer)
            table = masks_of_points(pieces, cameras, np.asarray(points))
            _check(table)
            meant = paint(pieces, table, relabel(replace(table, ids=own[table.views, table.ids])))
        else:
            meant = [a.astype(np.int32) for a in outer]
        maps, present = meant, _present(meant)
        if gaussians is not None and present:
            labels, objects = _majority(gaussians, cameras, meant, present, report)
            maps = _render(project, len(cameras), objects, "Rendering labels", report)
        parts = PartsOfViews(PartTree(), maps, None)
    trust = [
        entry
        for view, (old, before, after) in enumerate(zip(outer, meant, maps, strict=True))
        for entry in _trust(view, old, before, after)
    ]
    return Association(maps, trust, labels, present, parts)


def _check(table: MaskTable) -> None:
    """Whether masks can be compared.

    Raises:
        AssociationError: they cannot.
    """
    if len(table) == 0 or table.points.shape[1] == 0:
        raise AssociationError(
            "no two views see the same part of the scene: are poses and maps of one scene?"
        )


def _present(maps: Sequence[NDArray[np.int32]]) -> tuple[int, ...]:
    """The ids in some maps, ascending; -1 is none."""
    return tuple(sorted({int(i) for ids in maps for i in np.unique(ids) if i >= 0}))


def _majority(
    gaussians: rendering.Gaussians,
    cameras: Sequence[rendering.Camera],
    maps: Sequence[NDArray[np.int32]],
    present: Sequence[int],
    report: Callable[[str], None],
) -> tuple[Labels, Tensor]:
    """Labels by the votes of maps, as indices into the ids that are present, and as ids, int64 [N]; -1 for none."""
    device = gaussians.means.device
    known = torch.tensor(present, dtype=torch.int64, device=device)
    lookup = torch.full((present[-1] + 2,), -1, dtype=torch.int64, device=device)
    lookup[known] = torch.arange(len(present), device=device)
    views = (
        (camera, lookup[torch.from_numpy(a).to(device, torch.int64)])
        for camera, a in zip(cameras, maps, strict=True)
    )
    votes = accumulate(gaussians, views, len(present), progress=lambda: report("Taking votes"))
    labels = majority(votes)
    return labels, torch.where(labels.seen, known[labels.classes.clamp(min=0)], -1)


def _render(
    project: Callable[[int], rendering.Projection],
    views: int,
    ids: Tensor,
    stage: str,
    report: Callable[[str], None],
) -> list[NDArray[np.int32]]:
    """What the ids of the Gaussians, int64 [N], negative for none, look like in each view: [H, W], -1 for none."""
    maps = []
    for view in range(views):
        shown, _ = render_classes(project(view), ids)
        maps.append(shown.to(torch.int32).cpu().numpy())
        report(stage)
    return maps


def _parts_of_splat(
    project: Callable[[int], rendering.Projection],
    maps: Sequence[NDArray[np.int32]],
    tree: SplatTree,
    report: Callable[[str], None],
) -> PartsOfViews:
    """The parts of a splat and their maps; maps [H, W] of each view are those of the objects."""
    if not len(tree.parts.tree):
        return PartsOfViews(tree.parts.tree, list(maps), tree.parts.labels)
    found = _render(project, len(maps), tree.parts.nodes(tree.objects), "Rendering parts", report)
    return _tidied(tree.parts.tree, found, maps, tree.parts.labels)


def _tidied(
    tree: PartTree,
    nodes: Sequence[NDArray[np.int32]],
    maps: Sequence[NDArray[np.int32]],
    labels: Tensor | None,
) -> PartsOfViews:
    """Parts within the borders of the objects, without those that are not worth a part.

    Args:
        tree: of all parts.
        nodes: [H, W] for each view, ids of parts and objects.
        maps: [H, W] for each view, ids of objects.
        labels: int64 [N], id of each Gaussian's part, -1 for none; None without a splat.
    """
    highest = max((*tree.ids, *(int(ids.max(initial=0)) for ids in (*nodes, *maps))), default=0)
    number = np.arange(highest + 2, dtype=np.int32)
    number[-1] = -1  # the last place is that of -1
    root = number.copy()
    for part in tree.ids:
        root[part] = tree.root(part)
    inside = [np.where(root[n] == m, n, m).astype(np.int32) for n, m in zip(nodes, maps, strict=True)]
    tree, gone = tidy(tree, inside, maps)
    for part, instead in gone.items():
        number[part] = instead
    if labels is not None:
        moved = torch.from_numpy(number.astype(np.int64)).to(labels.device)[labels]
        is_part = torch.isin(moved, torch.tensor(tree.ids, dtype=torch.int64, device=labels.device))
        labels = torch.where(is_part, moved, -1)
    return PartsOfViews(tree, [number[ids] for ids in inside], labels)


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
