"""Cut-outs against exact masks, on cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.evaluation.extraction import DEPTH_MARGIN, SOLID, ExtractionMetrics, extracted_mask

pytestmark = pytest.mark.usefixtures("device")


def test_the_cut_out_is_what_is_solid_and_known() -> None:
    alpha = torch.tensor([[0.9, SOLID, 0.51, 0.9]])
    depth, scene = torch.full((1, 4), 2.0), torch.full((1, 4), 2.0)
    truth = torch.tensor([[1, 1, 1, -1]])
    assert extracted_mask(alpha, depth, scene, truth, 1).tolist() == [[True, False, True, False]]


def test_what_an_occluder_hides_is_no_error() -> None:
    alpha = torch.ones(1, 5)
    depth = torch.full((1, 5), 2.0)
    #            own, hidden by 2, before 2, hidden by own, at the same depth as 2
    truth = torch.tensor([[1, 2, 2, 1, 2]])
    scene = torch.tensor([[2.0, 1.0, 2.5, 1.0, 2 * (1 - DEPTH_MARGIN / 2)]])
    assert extracted_mask(alpha, depth, scene, truth, 1).tolist() == [[True, False, True, True, True]]


def test_background_never_stands_in_front() -> None:
    alpha, depth, scene = torch.ones(1, 3), torch.full((1, 3), 2.0), torch.full((1, 3), 1.0)
    truth = torch.tensor([[0, 2, 7]])
    assert extracted_mask(alpha, depth, scene, truth, 1).tolist() == [[False, False, False]]
    found = extracted_mask(alpha, depth, scene, truth, 1, no_occluders=(0, 7))
    assert found.tolist() == [[True, False, True]]


def _square(size: int, shift: int = 0) -> torch.Tensor:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[10 : 10 + size, 10 + shift : 10 + size + shift] = True
    return mask


def test_a_perfect_cut_out_scores_100_and_a_spike_costs() -> None:
    truth = _square(20).long() * 3
    perfect, spiky = ExtractionMetrics(), ExtractionMetrics()
    perfect.update(3, _square(20), truth)
    assert perfect.result() == (100.0, 100.0)
    spike = _square(20)
    spike[5, :] = True
    spiky.update(3, spike, truth)
    iou, biou = spiky.result()
    assert iou is not None and biou is not None
    assert iou == pytest.approx(100 * 400 / 440)
    assert biou < iou


def test_views_are_averaged_first_then_objects() -> None:
    metrics = ExtractionMetrics()
    left = torch.zeros(40, 40, dtype=torch.int64)
    left[:, :20] = 5
    half = left == 5
    half[20:] = False
    metrics.update(5, left == 5, left)
    metrics.update(5, half, left)
    metrics.update(5, left == 5, left)
    metrics.update(2, torch.zeros_like(half), torch.full_like(left, 2))
    first, second = metrics.objects()
    assert (first.id, first.iou, first.biou, first.n_views) == (2, 0.0, 0.0, 1), "an object left behind"
    assert (second.id, second.n_views) == (5, 3)
    assert second.iou == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    iou, biou = metrics.result()
    assert iou == pytest.approx(second.iou / 2) and biou == pytest.approx(second.biou / 2)


def test_views_and_objects_that_do_not_count() -> None:
    metrics = ExtractionMetrics(ignore_ids=[0])
    metrics.update(0, torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.int64))
    metrics.update(4, torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.int64))
    assert metrics.objects() == []
    assert metrics.result() == (None, None)
