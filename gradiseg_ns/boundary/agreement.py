"""Where the views outvote a mask: id maps that agree, for the losses of the boundary refiner.

A boundary cannot be refined against a map that gives the whole object another id. Votes of all maps give every Gaussian
a label; rendered again, the labels say what a view should show. Masks that agree with it are kept as they are, edge and all:
an exact edge is better than a rendered one. The others are overruled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.votes.labels import render_classes

MIN_IOU = 0.8
"""A mask is kept if its intersection over union with what the views agree on is at least that."""
MIN_SOLID = 0.5
"""Pixels in which no label has more weight than that are left as they are."""


@torch.no_grad()
def agreed_classes(
    projection: rendering.Projection, labels: Tensor, classes: Tensor, *, min_iou: float = MIN_IOU
) -> Tensor:
    """The map of one view with its overruled masks replaced.

    Args:
        projection: of N Gaussians by the view's camera.
        labels: int64 [N] class of each by the votes of all views, negative if unseen.
        classes: int64 [H, W] the view's own map, negative without label.
        min_iou: see :data:`MIN_IOU`.

    Returns:
        int64 [H, W].
    """
    rendered, _ = render_classes(projection, labels, min_weight=MIN_SOLID)
    both = (rendered >= 0) & (classes >= 0)
    count = int(max(labels.max(), classes.max())) + 1 if classes.numel() and len(labels) else 0
    if count < 1 or not bool(both.any()):
        return classes
    table = torch.bincount(
        classes[both] * count + rendered[both], minlength=count * count
    ).reshape(count, count)
    common = table.diagonal()
    union = table.sum(dim=0) + table.sum(dim=1) - common
    trusted = common >= min_iou * union
    keep = trusted[classes.clamp(min=0)] & trusted[rendered.clamp(min=0)]
    return torch.where(both & ~keep, rendered, classes)
