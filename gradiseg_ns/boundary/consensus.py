"""Id maps that agree between views, for the losses of the boundary refiner.

A boundary cannot be refined against a map that gives the whole object another id. Votes of all maps give every
Gaussian a class, and the rendered classes show what a view should show. A mask that agrees with them is kept unchanged,
with its edge: an exact edge is better than a rendered one. All other masks are overruled. If many masks were overruled,
votes are counted again without them. Otherwise an object that many views miss would shrink, because it gets too few
votes at its edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.detection import Ambiguity, ambiguity
from gradiseg_ns.votes.labels import majority, render_classes

MIN_IOU = 0.8
"""A mask is kept if its intersection over union with the rendered classes is at least this."""
MIN_SOLID = 0.5
"""Pixels in which no class has more weight than this stay unchanged."""

SHARP = (0.75, 0.0012)
"""Edges agree if their displacement is below the first number, in pixels, or below the second, as a share of the picture's
diagonal. (At a diagonal of 640 pixels: 0.27 pixels for exact maps, 1.35 for edges that jitter by 2 pixels.)"""
MIN_PIXELS = 100
"""Smaller masks are left out of the median displacement."""
EXPLAINED = 0.1
"""The render explains its photo where they differ by less than this (colours in 0..1), on average over `WINDOW`."""
WINDOW = 7
"""Pixels."""
MANY = 0.01
"""Votes are counted once more if more than this share of the labelled pixels was overruled."""


@dataclass(frozen=True)
class Consensus:
    """The result of the votes of all views."""

    ambiguity: Ambiguity
    classes: Tensor
    """int64 [N] class of each Gaussian by its votes, negative if unseen."""
    maps: dict[int, Tensor]
    """int32 [H, W] classes by index of the view, on the CPU, for the views in which a mask was overruled."""
    overruled: float
    """Share of the labelled pixels that were overruled, 0 to 1."""
    displacement: float
    """Median over the masks of all views of the distance between their edges and those of the rendered classes, divided by `SHARP`."""

    @property
    def sharp(self) -> bool:
        """Whether the edges of the maps agree with each other, so that losses at them are worth adding."""
        return self.displacement <= 1


@torch.no_grad()
def find_consensus(
    gaussians: rendering.Gaussians,
    views: Callable[[], Iterable[tuple[rendering.Camera, Tensor]]],
    classes: int,
    *,
    agree: bool = True,
    min_iou: float = MIN_IOU,
    render_error: Callable[[int, rendering.Camera, rendering.Projection], Tensor] | None = None,
) -> Consensus:
    """Ambiguities, classes and agreed maps, from one or two rounds of votes.

    Args:
        gaussians: N Gaussians.
        views: gives cameras with their maps of classes [H, W] (negative: no label); called several times.
        classes: K.
        agree: overrule masks; False uses all maps as they are.
        min_iou: see :func:`agreed_classes`.
        render_error: gives, for the index of a view, the difference between its render and its photo, [H, W]. Where it
            exceeds `EXPLAINED` nothing is overruled, because the splat is wrong there (for example a floater in front of
            the camera).
    """

    def vote(maps: dict[int, Tensor]) -> Ambiguity:
        agreed = ((camera, maps.get(index, own)) for index, (camera, own) in enumerate(views()))
        return ambiguity(gaussians, agreed, classes)

    def overrule(found: Ambiguity) -> Consensus:
        voted = majority(found.votes).classes
        maps, changed, labelled = {}, 0, 0
        displacements: list[Tensor] = []
        for index, (camera, own) in enumerate(views()):
            projection = rendering.project(gaussians, camera)
            agreed, displacement = agreed_classes(projection, voted, own, min_iou=min_iou)
            if render_error is not None:
                agreed = torch.where(explained(render_error(index, camera, projection)), agreed, own)
            bound = max(SHARP[0], SHARP[1] * math.hypot(camera.width, camera.height))
            displacements.append(displacement / bound)
            different = int((agreed != own).sum())
            changed, labelled = changed + different, labelled + int((own >= 0).sum())
            if different and agree:
                maps[index] = agreed.to("cpu", torch.int32)
        every = torch.cat(displacements) if displacements else torch.zeros(0)
        typical = float(every.median()) if len(every) else math.inf
        return Consensus(found, voted, maps, changed / max(1, labelled), typical)

    consensus = overrule(vote({}))
    if agree and consensus.overruled > MANY:
        consensus = overrule(vote(consensus.maps))
    return consensus


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
