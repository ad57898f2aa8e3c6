"""The worst view is named, and what floats is a share."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiseg_ns.evaluation.metrics import MaskMetrics
from gradiseg_ns.evaluation.views import (
    FloaterScore,
    ViewScore,
    psnr_inside,
    summary,
    worst_view,
    write_views,
)

pytestmark = pytest.mark.usefixtures("device")

VIEWS = (ViewScore("a.png", 30.0, 31.0, 98.0), ViewScore("b.png", 12.5, None, 41.0))


def test_the_worst_view_is_named() -> None:
    worst = worst_view(VIEWS)
    assert worst is not None and worst.name == "b.png"
    told = summary(VIEWS, FloaterScore.of([0.0, 0.0, 0.3]))
    assert told is not None
    assert "b.png" in told and "12.5 dB" in told and "41.0" in told and "mean 21.2 dB" in told
    assert "10.00 %" in told and "30.00 % in the worst" in told


def test_nothing_to_say_about_nothing() -> None:
    assert worst_view(()) is None and FloaterScore.of([]) is None and summary((), None) is None
    only = summary((ViewScore("a.png", 30.0, None, None),), None)
    assert only is not None and "mIoU" not in only and "floats" not in only


def test_inside_is_where_objects_are_that_count() -> None:
    photo, picture = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    ids = torch.tensor([[0, 0, 7], [-1, 3, 7]])
    picture[ids == 0] = 1.0  # all wrong, and ignored
    picture[ids == -1] = 1.0  # all wrong, and nobody knows what it is
    picture[ids == 7] = 0.1
    picture[ids == 3] = 0.1
    assert psnr_inside(picture, photo, ids, (0,)) == pytest.approx(20.0, abs=1e-4)
    assert psnr_inside(picture, photo, ids, {0, 3}) == pytest.approx(20.0, abs=1e-4)
    assert psnr_inside(picture, photo, ids, ()) is None, "then it is the PSNR of the picture"
    assert psnr_inside(picture, photo, ids, (0, 3, 7)) is None, "nothing is left"
    assert psnr_inside(picture, photo, None, (0,)) is None
    assert psnr_inside(picture, photo, ids[:1], (0,)) is None, "a map of another size"


def test_a_row_a_view_worst_first(tmp_path: Path) -> None:
    path = tmp_path / "eval_views.csv"
    write_views(path, VIEWS)
    rows = list(csv.DictReader(path.open(newline="")))
    assert [row["view"] for row in rows] == ["b.png", "a.png"]
    assert rows[0]["psnr_inside"] == "" and float(rows[1]["psnr_inside"]) == 31.0


def test_the_worst_object_is_looked_for_where_it_can_be_seen() -> None:
    """Ten wrong pixels of ten are no verdict; a hundred of a thousand are."""
    metrics = MaskMetrics(ignore_ids=[0])
    truth = np.zeros((60, 60), np.int32)
    truth[:2, :5] = 1
    missed = metrics.update("few pixels", np.zeros_like(truth), truth)
    assert missed == 0.0
    truth = np.zeros((60, 60), np.int32)
    truth[:20, :50] = 1
    predicted = truth.copy()
    predicted[:2] = 0
    found = metrics.update("many pixels", predicted, truth)
    assert found == pytest.approx(90.0)
    result = metrics.result()
    assert result.objects[0].worst_view == "few pixels" and result.objects[0].iou == pytest.approx(45.0)
    assert result.objects[0].worst_iou == result.worst_iou == pytest.approx(90.0)
    assert MaskMetrics().result().worst_iou is None
