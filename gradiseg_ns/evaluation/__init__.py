"""Figures of quality.

In: predicted and true id maps `[H, W]`, view by view. Out: plain numbers in percent (`None` where there was nothing to
measure, never NaN) and tables for people.

Not here: models, cameras, files of the scene. Nothing in this folder renders or trains. It only compares given maps and
pictures, so a figure never depends on the source of the maps.
"""

from gradiseg_ns.evaluation.metrics import (
    MaskMetrics,
    MaskScores,
    ObjectScore,
    SpuriousObject,
    boundary,
    boundary_iou,
    mask_iou,
    print_table,
    write_table,
)

__all__ = [
    "MaskMetrics",
    "MaskScores",
    "ObjectScore",
    "SpuriousObject",
    "boundary",
    "boundary_iou",
    "mask_iou",
    "print_table",
    "write_table",
]
