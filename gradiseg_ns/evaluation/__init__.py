"""How good the result is.

In: predicted and true id maps `[H, W]`, view by view. Out: plain numbers in percent (`None` where nothing was
there to measure, never NaN) and tables for people.

May not be touched here: models, cameras, files of the scene. Nothing in this folder renders or trains; it
only compares what it is given, so a figure never depends on who produced the maps.
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
