"""Extracted BIoU: an object is cut out, rendered alone on black, and compared with its exact mask.

Segmentation metrics ask which object has the most weight in a pixel. A cut-out must do more: it must contain the whole object
and nothing of its surroundings. A Gaussian that reaches out of its object costs nothing in a segmentation if the background wins
the pixel. In a cut-out, alone on black, it is a spike.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns.evaluation.metrics import boundary_iou, mask_iou

SOLID = 0.5
"""A pixel belongs to the cut-out if its accumulation is above this."""
DEPTH_MARGIN = 0.01
"""Another object is in front where the whole scene is nearer than the cut-out by more than this share of its depth."""


@dataclass(frozen=True)
class ExtractionScore:
    """Means over the views that show an object, in percent."""

    id: int
    iou: float
    biou: float
    n_views: int


def extracted_mask(
    alpha: Tensor,
    depth: Tensor,
    scene_depth: Tensor,
    truth: Tensor,
    object_id: int,
    no_occluders: Collection[int] = (),
) -> Tensor:
    """The pixels of a cut-out that are compared.

    A part of the cut-out that another object hides in the picture is no error. So a pixel of another object is left out
    where the whole scene is nearer than the cut-out.

    Args:
        alpha: [H, W] accumulation of the object's Gaussians alone.
        depth: [H, W] their depth, where alpha > 0.
        scene_depth: [H, W] depth of the whole scene.
        truth: integer [H, W] exact ids, negative where unknown.
        object_id: the object.
        no_occluders: ids that cannot stand in front, such as background and table. A cut-out's pixels on them are always
            errors.

    Returns:
        bool [H, W].
    """
    solid = (alpha > SOLID) & (truth >= 0)
    other = truth != object_id
    for id in no_occluders:
        other &= truth != id
    behind = scene_depth < depth * (1 - DEPTH_MARGIN)
    return solid & ~(other & behind)


class ExtractionMetrics:
    """Adds up the cut-outs of views: mean over an object's views, then over the objects."""

    def __init__(self, ignore_ids: Collection[int] = ()) -> None:
        self.ignore_ids = frozenset(ignore_ids)
        self._rows: dict[int, list[tuple[float, float]]] = {}

    def update(self, object_id: int, cut_out: Tensor, truth: Tensor) -> None:
        """Add an object in a view: the compared pixels of its cut-out, bool [H, W], and the exact ids [H, W].

        A view whose truth does not show the object is left out.
        """
        mask = truth == object_id
        if object_id in self.ignore_ids or not bool(mask.any()):
            return
        iou, biou = mask_iou(cut_out.cpu(), mask.cpu()), boundary_iou(cut_out.cpu(), mask.cpu())
        self._rows.setdefault(object_id, []).append((iou or 0.0, biou or 0.0))

    def objects(self) -> list[ExtractionScore]:
        """One row per object, by id."""
        scores = []
        for id, rows in sorted(self._rows.items()):
            ious, bious = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
            scores.append(ExtractionScore(id, 100 * ious, 100 * bious, len(rows)))
        return scores

    def result(self) -> tuple[float | None, float | None]:
        """Extracted IoU and BIoU, means over the objects in percent; None if there was nothing to compare."""
        rows = self.objects()
        if not rows:
            return None, None
        return sum(r.iou for r in rows) / len(rows), sum(r.biou for r in rows) / len(rows)
