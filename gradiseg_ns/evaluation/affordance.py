"""Recall and IoU of maps of classes, such as affordances, over all pixels of all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AffordanceScore:
    """Agreement of maps of classes with the truth, in percent; None for classes that the truth does not show."""

    recall: tuple[float | None, ...]
    """By class: the share of its pixels that was found."""
    iou: tuple[float | None, ...]
    """By class: intersection over union."""
    mean_recall: float | None
    """Mean over the classes other than 0 that the truth shows."""
    mean_iou: float | None
    """Mean over the same classes."""


def evaluate(predicted: Tensor, truth: Tensor, classes: int) -> AffordanceScore:
    """Recall and IoU of all classes, over all given pixels. Concatenate the pixels of all views.

    Args:
        predicted: integers [...] in 0 ... classes - 1.
        truth: integers of the same shape; pixels with negative values are left out.
        classes: number of classes, background included.

    Raises:
        ValueError: the shapes differ, or a class is out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"evaluate: {list(predicted.shape)} predictions for {list(truth.shape)} labels.")
    known = truth >= 0
    found, right = predicted[known].long(), truth[known].long().to(predicted.device)
    for values in (found, right):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= classes):
            raise ValueError(
                f"evaluate: expected classes from 0 to {classes - 1}, found {int(values.min())} to {int(values.max())}."
            )
    counts = torch.bincount(right * classes + found, minlength=classes**2).view(classes, classes).double()
    hits, shown, told = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
    present = (shown > 0).tolist()
    recall, iou = (
        tuple(100 * value if there else None for value, there in zip(values.tolist(), present, strict=True))
        for values in (hits / shown, hits / (shown + told - hits))
    )
    return AffordanceScore(recall, iou, _mean(recall[1:]), _mean(iou[1:]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
