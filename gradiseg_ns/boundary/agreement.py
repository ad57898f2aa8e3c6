"""Where the views outvote a mask: id maps that agree, for the losses of the boundary refiner.

A boundary cannot be refined against a map that gives the whole object another id. Votes of all maps give every Gaussian
a label; rendered again, the labels say what a view should show. Masks that agree with it are kept as they are, edge and all:
an exact edge is better than a rendered one. The others are overruled. Where many were, votes are taken once more from the
maps without them: what most views miss now and then would otherwise shrink, since its votes at an edge are fewer than they
should be.
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
"""A mask is kept if its intersection over union with what the views agree on is at least that."""
MIN_SOLID = 0.5
"""Pixels in which no label has more weight than that are left as they are."""

SHARP = (0.75, 0.0012)
"""Edges agree if they are displaced by less than that many pixels, or that share of the picture's diagonal. (At 640 pixels of
diagonal: exact maps 0.27 pixels, edges that move by 2 pixels 1.35.)"""
MIN_PIXELS = 100
"""Smaller masks have no say in what is typical."""
EXPLAINED = 0.1
"""A photo is explained where the render differs by less than that, of 0 to 1, on average over `WINDOW`."""
WINDOW = 7
"""Pixels."""
MANY = 0.01
"""Votes are taken once more if more than that share of the labelled pixels was overruled."""


@dataclass(frozen=True)
class Consensus:
    """What all views say together."""

    ambiguity: Ambiguity
    labels: Tensor
    """int64 [N] class of each Gaussian by its votes, negative if unseen."""
    maps: dict[int, Tensor]
    """int32 [H, W] classes by index of the view, on the CPU: of the views in which a mask was overruled."""
    overruled: float
    """Share of the labelled pixels that were."""
    displacement: float
    """Median over the masks of all views of how far their edges lie from those of the rendered labels, over `SHARP`."""

    @property
    def sharp(self) -> bool:
        """Whether the edges of the maps agree with each other, so that they are worth being sharp about."""
        return self.displacement <= 1


@torch.no_grad()
def find_consensus(
    gaussians: rendering.Gaussians,
    views: Callable[[], Iterable[tuple[rendering.Camera, Tensor]]],
    classes: int,
    *,
    antialiased: bool = False,
    agree: bool = True,
    min_iou: float = MIN_IOU,
    render_error: Callable[[int, rendering.Camera, rendering.Projection], Tensor] | None = None,
) -> Consensus:
    """Ambiguities, labels and agreed maps, from one or two rounds of votes.

    Args:
        gaussians: N Gaussians.
        views: gives cameras with their maps of classes [H, W] (negative: no label), anew at every call.
        classes: K.
        antialiased: as in `rendering.project`.
        agree: overrule masks; False takes all maps as they are.
        min_iou: see :func:`agreed_classes`.
        render_error: of a view by its index: [H, W], how far its render is from its photo. Where that is more than
            `EXPLAINED` nothing is overruled: a splat that is wrong there (a floater before the camera) knows no better.
    """

    def vote(maps: dict[int, Tensor]) -> Ambiguity:
        agreed = ((camera, maps.get(index, own)) for index, (camera, own) in enumerate(views()))
        return ambiguity(gaussians, agreed, classes, antialiased=antialiased)

    def overrule(found: Ambiguity) -> Consensus:
        labels = majority(found.votes).classes
        maps, changed, labelled = {}, 0, 0
        displacements: list[Tensor] = []
        for index, (camera, own) in enumerate(views()):
            projection = rendering.project(gaussians, camera, antialiased=antialiased)
            agreed, displacement = agreed_classes(projection, labels, own, min_iou=min_iou)
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
        return Consensus(found, labels, maps, changed / max(1, labelled), typical)

    consensus = overrule(vote({}))
    if agree and consensus.overruled > MANY:
        consensus = overrule(vote(consensus.maps))
    return consensus


def explained(error: Tensor) -> Tensor:
    """Where a render explains its photo: bool [H, W] from the error [H, W]."""
    mean = F.avg_pool2d(error[None, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return mean[0, 0] < EXPLAINED


@torch.no_grad()
def agreed_classes(
    projection: rendering.Projection, labels: Tensor, classes: Tensor, *, min_iou: float = MIN_IOU
) -> tuple[Tensor, Tensor]:
    """The map of one view with its overruled masks replaced.

    Args:
        projection: of N Gaussians by the view's camera.
        labels: int64 [N] class of each by the votes of all views, negative if unseen.
        classes: int64 [H, W] the view's own map, negative without label.
        min_iou: see :data:`MIN_IOU`.

    Returns:
        int64 [H, W], and of each mask of at least `MIN_PIXELS` the displacement of its edge, float32 [M]: the pixels in
        which it differs from what is rendered, over the length of its edge, in pixels.
    """
    rendered, _ = render_classes(projection, labels, min_weight=MIN_SOLID)
    both = (rendered >= 0) & (classes >= 0)
    count = int(max(labels.max(), classes.max())) + 1 if classes.numel() and len(labels) else 0
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
