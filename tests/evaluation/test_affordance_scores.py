"""Scores of affordances are counted over all pixels, class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradiseg_ns.evaluation.affordance import evaluate


def test_scores_are_counted_per_class() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(-1, 4, (2, 20, 30), generator=generator)
    found = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.7, truth, torch.randint(0, 4, truth.shape)
    ).clamp(min=0)
    score = evaluate(found, truth, 4)
    known = truth >= 0
    for k in range(4):
        both = ((found == k) & (truth == k)).sum()
        either = (((found == k) | (truth == k)) & known).sum()
        assert score.recall[k] == pytest.approx(float(100 * both / (truth == k).sum()))
        assert score.iou[k] == pytest.approx(float(100 * both / either))
    assert score.mean_recall == pytest.approx(np.mean(np.array(score.recall[1:], float)))
    assert score.mean_iou == pytest.approx(np.mean(np.array(score.iou[1:], float)))


def test_what_the_truth_does_not_show_is_not_judged() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    score = evaluate(torch.tensor([0, 2, 1, 1]), truth, 4)
    assert score.recall[:2] == (50, 100) and score.iou[:2] == (50, 100)
    assert score.recall[2:] == score.iou[2:] == (None, None)
    assert (score.mean_recall, score.mean_iou) == (100, 100)
    assert evaluate(torch.zeros(3).long(), torch.zeros(3).long(), 2).mean_iou is None


def test_scores_of_what_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions for"):
        evaluate(torch.zeros(3).long(), torch.zeros(4).long(), 2)
    with pytest.raises(ValueError, match="classes from 0 to 1"):
        evaluate(torch.full((3,), 2), torch.zeros(3).long(), 2)
