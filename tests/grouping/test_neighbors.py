"""Neighbours and the 3-D loss, on cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gradiseg_ns.grouping.neighbors import (
    NeighborSampler,
    directional_neighbors,
    literal_directional_neighbors,
    neighbor_loss,
    outstanding,
)
from gradiseg_ns.grouping.search import index_of

pytestmark = pytest.mark.usefixtures("device")


def neighbours(means: torch.Tensor, targets: torch.Tensor, count: int) -> torch.Tensor:
    return index_of(means).nearest(means[targets], count, own=targets)


def line_and_far_slab() -> torch.Tensor:
    """A target at the origin, a row of points at x = 1, 2, 3, -1, -2, and one far aside with x = 0.1."""
    return torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [-1, 0, 0], [-2, 0, 0], [0.1, 50, 0]])


def test_local_rule_looks_to_one_side_of_the_neighbourhood() -> None:
    means = line_and_far_slab()
    targets = torch.tensor([0])
    candidates = neighbours(means, targets, 5)
    found, valid = directional_neighbors(means, targets, torch.tensor([[2.0, 0, 0]]), candidates, 2)
    assert found[valid].tolist() == [1, 2]
    found, valid = directional_neighbors(means, targets, torch.tensor([[-0.5, 0, 0]]), candidates, 3)
    assert found[valid].tolist() == [4, 5]  # only two lie on that side
    assert valid.tolist() == [[True, True, False]]


def test_literal_rule_takes_the_thin_slab_whatever_the_lateral_distance() -> None:
    means = line_and_far_slab()
    found, valid = literal_directional_neighbors(means, torch.tensor([0]), torch.tensor([[1.0, 0, 0]]), 2)
    assert found.tolist() == [[6, 1]]
    assert valid.all()


def test_literal_rule_in_chunks() -> None:
    torch.manual_seed(0)
    means, directions = torch.randn(200, 3), torch.randn(30, 3)
    targets = torch.arange(30)
    whole = literal_directional_neighbors(means, targets, directions, 4)
    parts = literal_directional_neighbors(means, targets, directions, 4, chunk=1000)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


def test_without_a_gradient_the_nearest_are_taken() -> None:
    means = line_and_far_slab()
    targets = torch.tensor([0])
    candidates = neighbours(means, targets, 5)
    found, valid = directional_neighbors(means, targets, torch.zeros(1, 3), candidates, 3)
    assert found.tolist() == candidates[:, :3].tolist()
    assert valid.all()


def test_only_outstanding_gradients_have_a_direction() -> None:
    gradients = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 9, 0], [0, 0, 0]])
    assert outstanding(gradients, 3.0).norm(dim=-1).tolist() == [0, 0, 0, 9, 0]
    assert torch.equal(outstanding(gradients, 0.0), gradients)
    assert torch.equal(outstanding(gradients[4:], 3.0), gradients[4:])


def test_loss_is_the_kl_divergence() -> None:
    target = torch.log(torch.tensor([[0.5, 0.5]]))
    neighbors = torch.log(torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    torch.testing.assert_close(neighbor_loss(target, neighbors), torch.tensor(first / 2))
    only_first = neighbor_loss(target, neighbors, torch.tensor([[True, False]]))
    torch.testing.assert_close(only_first, torch.tensor(first))
    assert float(neighbor_loss(target, neighbors, torch.zeros(1, 2, dtype=torch.bool))) == 0.0


def test_loss_pulls_neighbours_together() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, 4, requires_grad=True)
    neighbors = torch.arange(20).roll(1)[:, None]
    before = float(neighbor_loss(logits, logits[neighbors]))
    for _ in range(50):
        (gradient,) = torch.autograd.grad(neighbor_loss(logits, logits[neighbors]), logits)
        logits = (logits - 5.0 * gradient).detach().requires_grad_()
    assert float(neighbor_loss(logits, logits[neighbors])) < 0.2 * before


def test_sampler_follows_the_number_of_gaussians_and_repeats() -> None:
    torch.manual_seed(0)
    means = torch.randn(400, 3)
    sampler, again = NeighborSampler(50, 8, period=3), NeighborSampler(50, 8, period=3)
    seen = [sampler.draw(means) for _ in range(5)]
    for (targets, neighbors), (t2, n2) in zip(seen, [again.draw(means) for _ in range(5)], strict=True):
        assert torch.equal(targets, t2) and torch.equal(neighbors, n2)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert seen[0][1].shape == (50, 8)
    for targets, neighbors in seen:
        assert torch.equal(neighbors, neighbours(means, targets, 8))
    targets, neighbors = sampler.draw(means[:60])
    assert torch.equal(neighbors, neighbours(means[:60], targets, 8))
