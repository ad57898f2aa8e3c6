"""Id maps that agree between views, for the losses of the boundary refiner.

A boundary cannot be refined against a map that gives the whole object another id. Votes of all maps give every
Gaussian a class, and the rendered classes show what a view should show. A mask that agrees with them is kept unchanged,
with its edge: an exact edge is better than a rendered one. All other masks are overruled. If many masks were overruled,
votes are counted again without them. Otherwise an object that many views miss would shrink, because it gets too few
votes at its edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.detection import Ambiguity, ambiguity
from gradiseg_ns.boundary.snapping import edge_strength, snapped_classes
from gradiseg_ns.data.class_maps import compact
from gradiseg_ns.votes.labels import majority, render_classes
from gradiseg_ns.votes.rendered import spread_views

MIN_IOU = 0.8
"""A mask is kept if its intersection over union with the rendered classes is at least this."""
MIN_SOLID = 0.5
"""Pixels in which no class has more weight than this stay unchanged."""

SHARP = (0.75, 0.0012)
"""Edges agree if their displacement is below the first number, in pixels, or below the second, as a share of the picture's
diagonal. (At a diagonal of 640 pixels: 0.27 pixels for exact maps, 1.35 for edges that jitter by 2 pixels.)"""
MISSED = 0.9
"""The edges of the maps miss those of the photos if the photos' are weaker along them than this share of what they are along the
snapped edges. (On two scenes: about 1 for exact maps, 0.7 to 0.8 for edges that jitter by one or two pixels.)"""
CHECKED = 8
"""Number of views in which this is looked at, evenly spread."""
MIN_PIXELS = 100
"""Smaller masks are left out of the median displacement."""
EXPLAINED = 0.1
"""The render explains its photo where they differ by less than this (colours in 0..1), on average over `WINDOW`."""
WINDOW = 7
"""Pixels."""
MANY = 0.01
"""Votes are counted once more if more than this share of the labelled pixels was overruled."""

RenderError = Callable[[int, rendering.Camera, rendering.Projection], Tensor]
"""Gives, for the index of a view, the difference between its render and its photo, [H, W]."""


@dataclass(frozen=True)
class Consensus:
    """The result of the votes of all views."""

    ambiguity: Ambiguity
    classes: Tensor
    """int64 [N] class of each Gaussian by its votes, negative if unseen."""
    maps: dict[int, Tensor]
    """int16 [H, W] (`compact`) classes by index of the view, on the CPU, for the views in which they differ from the id maps."""
    overruled: float
    """Share of the labelled pixels that were overruled, 0 to 1."""
    displacement: float
    """Median over the masks of all views of the distance between their edges and those of the rendered classes, divided by `SHARP`."""
    snapped: bool = False
    """Whether the edges of the maps were moved to where all views and the photos put them."""

    @property
    def sharp(self) -> bool:
        """Whether the edges of the maps agree with each other, so that losses at them are worth adding."""
        return self.snapped or self.displacement <= 1


@torch.no_grad()
def find_consensus(
    gaussians: rendering.Gaussians,
    views: Callable[[], Iterable[tuple[rendering.Camera, Tensor]]],
    classes: int,
    *,
    agree: bool = True,
    min_iou: float = MIN_IOU,
    render_error: RenderError | None = None,
    photos: Callable[[int], Tensor] | None = None,
) -> Consensus:
    """Ambiguities, classes and agreed maps, from one to three rounds of votes.

    Args:
        gaussians: N Gaussians.
        views: gives cameras with their maps of classes [H, W] (negative: no label); called several times.
        classes: K.
        agree: overrule masks; False uses all maps as they are.
        min_iou: see :func:`agreed_classes`.
        render_error: where it exceeds `EXPLAINED` nothing is overruled or snapped, because the splat is wrong there (for
            example a floater in front of the camera).
        photos: gives the photo of a view by its index, [H, W, 3] in 0..1. If the edges of the maps miss those of the photos they
            are snapped to them (:mod:`gradiseg_ns.boundary.snapping`), and votes are counted from these maps. None: edges stay
            where they are.
    """

    view_count = 0

    def vote(maps: dict[int, Tensor]) -> Ambiguity:
        agreed = ((camera, maps.get(index, own)) for index, (camera, own) in enumerate(views()))
        return ambiguity(gaussians, agreed, classes)

    def overrule(found: Ambiguity) -> Consensus:
        voted = majority(found.votes).classes
        nonlocal view_count
        maps, changed, labelled = {}, 0, 0
        displacements: list[Tensor] = []
        for index, (camera, own) in enumerate(views()):
            projection = rendering.project(gaussians, camera)
            agreed, displacement = agreed_classes(projection, voted, own, min_iou=min_iou)
            if render_error is not None:
                agreed = torch.where(explained(render_error(index, camera, projection)), agreed, own)
            bound = max(SHARP[0], SHARP[1] * math.hypot(camera.width, camera.height))
            displacements.append(displacement / bound)
            view_count = index + 1
            different = int((agreed != own).sum())
            changed, labelled = changed + different, labelled + int((own >= 0).sum())
            if different and agree:
                maps[index] = compact(agreed.cpu())
        every = torch.cat(displacements) if displacements else torch.zeros(0)
        typical = float(every.median()) if len(every) else math.inf
        return Consensus(found, voted, maps, changed / max(1, labelled), typical)

    consensus = overrule(vote({}))
    if agree and consensus.overruled > MANY:
        consensus = overrule(vote(consensus.maps))
    if not agree or photos is None:
        return consensus
    snap = partial(_snap, gaussians, views, consensus, photos, render_error)
    chosen = spread_views(view_count, CHECKED)
    checked = list(snap(chosen))
    if not _edges_are_missed(checked, photos):
        return consensus
    rest = snap(set(range(view_count)) - set(chosen))
    maps = {index: compact(c.cpu()) for index, own, _, c in chain(checked, rest) if bool((c != own).any())}
    found = vote(maps)
    return replace(consensus, ambiguity=found, classes=majority(found.votes).classes, maps=maps, snapped=True)


def _snap(
    gaussians: rendering.Gaussians,
    views: Callable[[], Iterable[tuple[rendering.Camera, Tensor]]],
    found: Consensus,
    photos: Callable[[int], Tensor],
    render_error: RenderError | None,
    chosen: Container[int],
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Views with snapped edges: the index, and three maps of classes int64 [H, W]: the view's own, the agreed and the snapped one."""
    for index, (camera, own) in enumerate(views()):
        if index not in chosen:
            continue
        projection = rendering.project(gaussians, camera)
        rendered, _ = render_classes(projection, found.classes)
        agreed = found.maps.get(index, own).to(own)
        snapped = snapped_classes(projection, found.ambiguity.votes, rendered, agreed, photos(index))
        if render_error is not None:
            snapped = torch.where(explained(render_error(index, camera, projection)), snapped, agreed)
        yield index, own, agreed, snapped


def _edges_are_missed(
    views: Iterable[tuple[int, Tensor, Tensor, Tensor]], photos: Callable[[int], Tensor]
) -> bool:
    """Whether the photos are weaker along the agreed edges than along the snapped ones (`MISSED`)."""
    sums = [[0.0, 0], [0.0, 0]]
    for index, _, *maps in views:
        photo = photos(index)
        for place, classes in enumerate(maps):
            total, count = edge_strength(classes, photo)
            sums[place][0] += total
            sums[place][1] += count
    (agreed, edges), (snapped, moved) = sums
    return edges > 0 and moved > 0 and agreed / edges < MISSED * snapped / moved


def explained(error: Tensor) -> Tensor:
    """Pixels in which the render explains its photo: bool [H, W] from the error [H, W]."""
    mean = F.avg_pool2d(error[None, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return mean[0, 0] < EXPLAINED


@torch.no_grad()
def agreed_classes(
    projection: rendering.Projection, gaussian_classes: Tensor, classes: Tensor, *, min_iou: float = MIN_IOU
) -> tuple[Tensor, Tensor]:
    """The map of one view with its overruled masks replaced.

    Args:
        projection: of N Gaussians by the view's camera.
        gaussian_classes: int64 [N] class of each Gaussian by the votes of all views, negative if unseen.
        classes: int64 [H, W] the view's own map, negative without label.
        min_iou: see :data:`MIN_IOU`.

    Returns:
        int64 [H, W], and for each mask of at least `MIN_PIXELS` the displacement of its edge in pixels, float32 [M]: the number
        of pixels in which it differs from the rendered classes, divided by the length of its edge.
    """
    rendered, _ = render_classes(projection, gaussian_classes, min_weight=MIN_SOLID)
    both = (rendered >= 0) & (classes >= 0)
    count = (
        int(max(gaussian_classes.max(), classes.max())) + 1
        if classes.numel() and len(gaussian_classes)
        else 0
    )
    if count < 1 or not bool(both.any()):
        return classes, torch.zeros(0, device=classes.device)
    table = torch.bincount(classes[both] * count + rendered[both], minlength=count * count).reshape(
        count, count
    )
    common = table.diagonal()
    union = table.sum(dim=0) + table.sum(dim=1) - common
    trusted = common >= min_iou * union
    keep = trusted[classes.clamp(min=0)] & trusted[rendered.clamp(min=0)]
    length = torch.zeros_like(common)
    for one, other in ((classes[1:], classes[:-1]), (classes[:, 1:], classes[:, :-1])):
        differ = (one != other) & (one >= 0) & (other >= 0)
        for side in (one[differ], other[differ]):
            length += torch.bincount(side, minlength=count)
    large = (table.sum(dim=1) >= MIN_PIXELS) & (length > 0)
    displacement = (union - common)[large] / length[large]
    return torch.where(both & ~keep, rendered, classes), displacement
