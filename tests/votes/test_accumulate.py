"""Votes are the masked gradient, whatever way they are stored."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.votes import accumulate as module
from gradiseg_ns.votes.accumulate import MIN_WEIGHT, VoteAccumulator, accumulate, views_seen
from tests.devices import here

from ..rendering.scenes import random_camera, random_gaussians

pytestmark = pytest.mark.usefixtures("device")

CLASSES = 5


def _views(count: int, classes: int) -> list[tuple[rendering.Camera, torch.Tensor]]:
    views = []
    for seed in range(count):
        camera = random_camera(seed=seed)
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(-1, classes, (7, 9), generator=generator)
        ids = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[: camera.height, : camera.width]
        views.append((camera, ids.contiguous()))
    return views


def test_votes_are_the_gradient_of_a_masked_render() -> None:
    gaussians, views = random_gaussians(200), _views(2, CLASSES)
    votes = accumulate(gaussians, views, CLASSES).dense()
    for k in range(CLASSES):
        colors = torch.ones(len(gaussians.means), 1, requires_grad=True)
        for camera, ids in views:
            maps, _ = rendering.render(gaussians, camera, colors, backend="torch")
            maps[ids == k].sum().backward()
        assert colors.grad is not None and float(colors.grad.max()) > 1
        torch.testing.assert_close(votes[:, k], colors.grad[:, 0], rtol=1e-4, atol=1e-4)


def test_unlabelled_pixels_and_unseen_gaussians_have_no_votes() -> None:
    gaussians = random_gaussians(200)
    camera, ids = _views(1, CLASSES)[0]
    everything = rendering.backproject(gaussians, camera, torch.ones(*ids.shape, 1))[:, 0]
    labelled = rendering.backproject(gaussians, camera, (ids >= 0).float()[..., None])[:, 0]
    total = accumulate(gaussians, [(camera, ids)], CLASSES).total()
    torch.testing.assert_close(total, labelled, rtol=1e-4, atol=1e-4)
    assert float(total.sum()) < float(everything.sum())
    assert bool((total[everything == 0] == 0).all()) and bool((everything == 0).any())


def test_sparse_and_dense_storage_agree_for_many_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, views = random_gaussians(300), _views(3, 1000)
    dense = accumulate(gaussians, views, 1000)
    monkeypatch.setattr(module, "DENSE_ENTRIES", 0)
    monkeypatch.setattr(module, "_PENDING", 50)
    sparse = accumulate(gaussians, views, 1000)
    assert torch.equal(dense.rows, sparse.rows) and torch.equal(dense.columns, sparse.columns)
    torch.testing.assert_close(dense.weights, sparse.weights, rtol=1e-5, atol=1e-6)
    assert sparse.bytes() < 300 * 1000 * 4 / 4, "far below a dense matrix"


def test_a_million_gaussians_and_a_thousand_ids_fit_in_two_gigabytes() -> None:
    count = 1_000_000
    accumulator = VoteAccumulator(count, 1000, here())
    assert accumulator._dense is None, "a dense matrix would take 4 GB"
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # as if views had been added: each Gaussian carries a few ids
        keys = torch.arange(count) * 1000 + torch.randint(0, 4, (count,), generator=generator)
        accumulator._pending.append((keys, torch.rand(count, generator=generator) + 0.1))
        accumulator._merge()
    votes = accumulator.result()
    assert votes.bytes() < 100e6
    assert float(votes.total().min()) > 0.25


def test_pixels_count_as_much_as_they_are_weighted() -> None:
    gaussians = random_gaussians(100)
    camera, ids = _views(1, CLASSES)[0]
    accumulator = VoteAccumulator(100, CLASSES, here())
    accumulator.add(rendering.project(gaussians, camera), ids, torch.full(ids.shape, 0.5))
    torch.testing.assert_close(
        2 * accumulator.result().dense(), accumulate(gaussians, [(camera, ids)], CLASSES).dense()
    )


def test_top_orders_by_weight_then_by_class() -> None:
    votes = module.Votes(
        (3, 4), torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 1, 3, 1, 2]), torch.tensor([1.0, 5, 2, 3, 3])
    )
    classes, weights = votes.top(2)
    assert classes.tolist() == [[1, 3], [-1, -1], [1, 2]]
    assert weights.tolist() == [[5, 2], [0, 0], [3, 3]]
    assert votes.per_class().tolist() == [1, 8, 3, 2]
    assert votes.total().tolist() == [8, 0, 6]
    codes = torch.eye(4)
    assert torch.equal(votes.project(codes), votes.dense())


def test_maps_that_do_not_fit_are_refused() -> None:
    gaussians = random_gaussians(20)
    camera, ids = _views(1, CLASSES)[0]
    with pytest.raises(ValueError, match="class 9"):
        accumulate(gaussians, [(camera, torch.full_like(ids, 9))], CLASSES)
    with pytest.raises(ValueError, match="pixels"):
        accumulate(gaussians, [(camera, ids[:-1])], CLASSES)


def test_sums_of_a_view_are_those_of_its_one_hot_maps() -> None:
    gaussians, (camera, ids) = random_gaussians(200), _views(1, 70)[0]
    projection = rendering.project(gaussians, camera)
    parts = list(module.view_sums(projection, ids, 70))
    assert len(parts) == 2, "more classes than go through at once"
    assert torch.equal(torch.cat([part for part, _ in parts]), ids[ids >= 0].unique())
    for part, sums in parts:
        hot = (ids[..., None] == part).float()
        torch.testing.assert_close(sums, rendering.backproject(gaussians, camera, hot))
    assert list(module.view_sums(projection, torch.full_like(ids, -1), 70)) == []


def test_sums_may_be_added_in_parts_and_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = torch.tensor([[1.0, 0, 4], [0, 2, 0]])
    for entries in (100, 0):
        monkeypatch.setattr(module, "DENSE_ENTRIES", entries)
        accumulator = VoteAccumulator(2, 5, here())
        assert (accumulator._dense is None) == (entries == 0)
        accumulator.add_sums(torch.tensor([4, 0, 2]), sums)
        accumulator.add_sums(torch.tensor([2]), torch.tensor([[0.5], [0.25]]))
        votes = accumulator.result()
        assert votes.dense().tolist() == [[0, 0, 4.5, 0, 1], [2, 0, 0.25, 0, 0]]
        assert (votes.rows.tolist(), votes.columns.tolist()) == ([0, 0, 1, 1], [2, 4, 0, 2])


@pytest.mark.gpu
def test_votes_on_cuda_are_those_of_the_cpu() -> None:
    gaussians = random_gaussians(300).map(lambda t: t.cpu())
    views = [(c._replace(viewmat=c.viewmat.cpu(), K=c.K.cpu()), ids.cpu()) for c, ids in _views(3, 70)]
    on_cuda = gaussians.map(lambda t: t.cuda())
    moved = [
        (c._replace(viewmat=c.viewmat.cuda(), K=c.K.cuda()), ids.cuda())
        for c, ids in views
    ]  # fmt: skip
    found = accumulate(on_cuda, moved, 70).dense().cpu()
    torch.testing.assert_close(found, accumulate(gaussians, views, 70).dense(), rtol=1e-3, atol=1e-3)


def test_views_that_see_a_gaussian() -> None:
    gaussians = random_gaussians(200)
    cameras = [random_camera(seed=seed) for seed in range(3)]
    count, total = views_seen(gaussians, iter(cameras))
    weights = torch.stack(
        [rendering.backproject(gaussians, c, torch.ones(c.height, c.width, 1))[:, 0] for c in cameras]
    )
    assert (
        torch.equal(count, (weights > MIN_WEIGHT).sum(dim=0))
        and int(count.max()) == 3
        and int(count.min()) == 0
    )
    torch.testing.assert_close(total, weights.sum(dim=0))
