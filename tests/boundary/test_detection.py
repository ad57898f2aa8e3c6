"""Ambiguity against both definitions applied literally."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gradiseg_ns import rendering
from gradiseg_ns.boundary.detection import MIN_WEIGHT, TAU, Ambiguity, ambiguity, impurity
from gradiseg_ns.votes import accumulate as module
from gradiseg_ns.votes.accumulate import Votes, accumulate

from ..rendering.scenes import random_camera, random_gaussians
from .scenes import LEFT, camera, positions, wall

pytestmark = pytest.mark.usefixtures("device")


def _votes(matrix: list[list[float]]) -> Votes:
    dense = torch.tensor(matrix, dtype=torch.float32)
    rows, columns = dense.nonzero().unbind(1)
    return Votes((dense.shape[0], dense.shape[1]), rows, columns, dense[rows, columns])


def _views(count: int, classes: int, lowest: int = -1) -> list[tuple[rendering.Camera, torch.Tensor]]:
    views = []
    for seed in range(count):
        view = random_camera(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(lowest, classes, (7, 9), generator=generator)
        ids = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[: view.height, : view.width]
        views.append((view, ids.contiguous()))
    return views


def _shares(
    gaussians: rendering.Gaussians, views: list[tuple[rendering.Camera, torch.Tensor]], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mask values m_ivk [V, N, K], and which views have a say [V, N]."""
    shares, seen = [], []
    for view, ids in views:
        hot = (ids[..., None] == torch.arange(classes)).float()
        sums = rendering.backproject(gaussians, view, hot).double().cpu().numpy()
        total = sums.sum(axis=1)
        seen.append(total > MIN_WEIGHT)
        shares.append(sums / np.maximum(total, MIN_WEIGHT)[:, None])
    return np.stack(shares), np.stack(seen)


def test_impurity_of_two_objects() -> None:
    for share in (0.5, 0.75, 0.9):
        found = impurity(_votes([[8 * share, 8 * (1 - share)]]))
        assert float(found) == pytest.approx(4 * share * (1 - share), abs=1e-6)
    below, above = impurity(_votes([[0.83, 0.17], [0.81, 0.19]])).tolist()
    assert below < TAU < above, "the threshold is at a share of about 0.18"


def test_impurity_of_one_of_many_and_of_none() -> None:
    found = impurity(_votes([[0, 3, 0], [0, 0, 0], [1, 1, 1], [1e-6, 1e-6, 0], [2, 1, 0]]))
    torch.testing.assert_close(found, torch.tensor([0, 0, 1, 1, 8 / 9]))  # a third each would be 4/3


@pytest.mark.parametrize("classes", [4, 40])  # in one chunk and in two
def test_mask_variance_is_the_literal_one(classes: int) -> None:
    gaussians, views = random_gaussians(200), _views(5, classes)
    shares, seen = _shares(gaussians, views, classes)
    expected = np.zeros(200)
    for i in range(200):
        if seen[:, i].any():
            expected[i] = min(1.0, 2 * shares[seen[:, i], i].var(axis=0).sum())
    found = ambiguity(gaussians, views, classes)
    np.testing.assert_allclose(found.variance.cpu().numpy(), expected, atol=2e-5)
    assert 0.05 < np.mean(expected > 0.3) < 0.95, "the case tells them apart"
    assert (expected[~seen.any(axis=0)] == 0).all() and not seen.any(axis=0).all()


def test_impurity_and_votes_are_those_of_the_vote_module() -> None:
    gaussians, views = random_gaussians(200), _views(3, 5)
    found, votes = ambiguity(gaussians, views, 5), accumulate(gaussians, views, 5)
    torch.testing.assert_close(found.votes.dense(), votes.dense())
    torch.testing.assert_close(found.impurity, impurity(votes))


def test_law_of_total_variance() -> None:
    gaussians, views = random_gaussians(200), _views(4, 2, lowest=0)
    shares, seen = _shares(gaussians, views, 2)
    variance = ambiguity(gaussians, views, 2).variance.cpu().numpy()
    checked = 0
    for i in np.flatnonzero(seen.any(axis=0)):
        own = shares[seen[:, i], i]
        within = np.mean(2 * (1 - (own**2).sum(axis=1)))
        of_means = 2 * (1 - (own.mean(axis=0) ** 2).sum())
        assert of_means == pytest.approx(variance[i] + within, abs=5e-5)
        checked += 1
    assert checked > 50


def test_with_views_of_equal_weight_impurity_marks_what_variance_marks() -> None:
    gaussians = random_gaussians(200)
    view = random_camera()
    views = [(view, ids) for _, ids in _views(4, 2, lowest=0)]  # one camera: the weights are equal
    found = ambiguity(gaussians, views, 2)
    assert bool((found.impurity >= found.variance - 1e-5).all())
    assert bool((found.variance > TAU).any())


def test_each_measure_sees_what_the_other_does_not() -> None:
    gaussians, _ = wall(step=0.4)
    view = camera()
    halves = (positions(view)[0] > 0).long()
    gaussians.means[0] = torch.tensor([0.0, 0.0, 3.9])  # before the wall, across the edge
    across = ambiguity(gaussians, [(view, halves), (view, 1 - halves)], 2)
    torch.testing.assert_close(across.impurity[0], torch.tensor(1.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(across.variance[0], torch.tensor(0.0), rtol=0, atol=1e-3)
    changing = ambiguity(gaussians, [(view, torch.zeros_like(halves)), (view, torch.ones_like(halves))], 2)
    seen = changing.votes.total() > 1
    torch.testing.assert_close(changing.variance[seen], torch.ones(int(seen.sum())), rtol=0, atol=1e-4)


def test_boundary_gaussians_lie_at_the_boundary() -> None:
    gaussians, ids = wall()
    views = []
    for x in (-0.4, 0.0, 0.4):
        view = camera(x)
        across, up = positions(view)
        views.append((view, (((across + 1).abs() < 0.65) & (up.abs() < 0.65)).long() * LEFT))
    found = ambiguity(gaussians, views, 2)
    chosen = found.measured("impurity") > TAU
    x, y = gaussians.means[chosen, 0], gaussians.means[chosen, 1]
    assert len(x) > 20
    distance = (torch.maximum((x + 1).abs(), y.abs()) - 0.65).abs()  # to the edge of the board's mask
    assert float(distance.max()) < 0.1
    assert bool((ids[chosen] != LEFT).any())


def test_sparse_and_dense_storage_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, views = random_gaussians(200), _views(3, 50)
    dense = ambiguity(gaussians, views, 50)
    monkeypatch.setattr(module, "DENSE_ENTRIES", 0)
    monkeypatch.setattr(module, "_PENDING", 100)
    sparse = ambiguity(gaussians, views, 50)
    assert torch.equal(dense.votes.rows, sparse.votes.rows)
    assert torch.equal(dense.votes.columns, sparse.votes.columns)
    torch.testing.assert_close(dense.impurity, sparse.impurity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense.variance, sparse.variance, rtol=1e-4, atol=1e-5)


def test_maps_that_do_not_fit_are_refused() -> None:
    gaussians, (view, ids) = random_gaussians(20), _views(1, 5)[0]
    with pytest.raises(ValueError, match="class 5"):
        ambiguity(gaussians, [(view, torch.full_like(ids, 5))], 5)
    with pytest.raises(ValueError, match="pixels"):
        ambiguity(gaussians, [(view, ids[:-1])], 5)


def test_views_without_labels_say_nothing() -> None:
    gaussians, (view, ids) = random_gaussians(50), _views(1, 3)[0]
    nothing = ambiguity(gaussians, [(view, torch.full_like(ids, -1))], 3)
    assert not nothing.impurity.any() and not nothing.variance.any() and len(nothing.votes.rows) == 0
    once, again = (
        ambiguity(gaussians, [(view, ids), *more], 3) for more in ([], [(view, torch.full_like(ids, -1))])
    )
    assert torch.equal(once.variance, again.variance)


def test_measures_by_name() -> None:
    found = Ambiguity(torch.tensor([0.25]), torch.tensor([0.5]), _votes([[1.0]]))
    assert (float(found.measured("impurity")), float(found.measured("variance"))) == (0.25, 0.5)
    with pytest.raises(ValueError, match="boundary.measure is 'votes'"):
        found.measured("votes")


@pytest.mark.gpu
def test_ambiguity_on_cuda_is_that_of_the_cpu() -> None:
    gaussians = random_gaussians(300).map(lambda t: t.cpu())
    views = [(c._replace(viewmat=c.viewmat.cpu(), K=c.K.cpu()), ids.cpu()) for c, ids in _views(3, 40)]
    on_cuda = gaussians.map(lambda t: t.cuda())
    moved = [(c._replace(viewmat=c.viewmat.cuda(), K=c.K.cuda()), ids.cuda()) for c, ids in views]
    found, expected = ambiguity(on_cuda, moved, 40), ambiguity(gaussians, views, 40)
    seen = expected.votes.total() > 0.1  # below, a pixel more or less changes everything
    torch.testing.assert_close(found.impurity.cpu()[seen], expected.impurity[seen], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found.variance.cpu()[seen], expected.variance[seen], rtol=1e-2, atol=1e-2)
