"""Two losses: the weight of other classes in a pixel, and samples that fall where their object cannot be."""

from __future__ import annotations

import math

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.boundary.clean_space import (
    EMPTY,
    UNKNOWN,
    SeenSpace,
    class_signs,
    foreign_feature,
    foreign_loss,
    see_space,
    space_loss,
)
from gradiseg_ns.boundary.hull import Hulls

from .scenes import DEPTH, LEFT, RIGHT, WALL, camera, wall

pytestmark = pytest.mark.usefixtures("device")


def test_one_channel_is_right_on_average() -> None:
    """Against the sum over all classes, one after the other."""
    gaussians, labels = wall()
    view = camera()
    labels = labels.clone()
    labels[::7] = RIGHT  # strays
    classes = torch.full((view.height, view.width), WALL, dtype=torch.int64)
    classes[20:30, 10:20] = LEFT
    classes[:4] = -1
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    weights, alpha = rendering.render(gaussians, view, one_hot)
    known = classes >= 0
    own = weights.gather(-1, classes.clamp(min=0)[..., None])[..., 0]
    exact = (alpha[..., 0] - own)[known].mean()
    estimates = []
    for step in range(64):
        signs = class_signs(3, step, labels.device)
        blended, alpha = rendering.render(gaussians, view, foreign_feature(labels, signs))
        estimates.append(foreign_loss(blended[..., 0], alpha[..., 0], classes, signs))
    assert float(torch.stack(estimates).mean()) == pytest.approx(float(exact), rel=0.2)
    assert torch.equal(class_signs(9, 4, labels.device), class_signs(9, 4, labels.device))


def test_surroundings_are_not_foreign_to_each_other() -> None:
    surroundings = torch.tensor([True, False, True, False, False])
    signs = torch.stack([class_signs(5, step, "cpu", surroundings) for step in range(64)])
    assert torch.equal(signs[:, 0], signs[:, 2])
    for one, other in ((0, 1), (1, 3), (3, 4)):
        assert abs(float((signs[:, one] * signs[:, other]).mean())) < 0.4, "all others are independent"
    assert torch.equal(class_signs(5, 3, "cpu", ~surroundings & surroundings), class_signs(5, 3, "cpu"))


def test_without_strays_there_is_no_foreign_weight() -> None:
    gaussians, labels = wall()
    view = camera()
    signs = torch.tensor([1.0, -1.0, 1.0])
    blended, alpha = rendering.render(gaussians, view, foreign_feature(torch.zeros_like(labels), signs))
    inside = torch.zeros(view.height, view.width, dtype=torch.int64)
    assert abs(float(foreign_loss(blended[..., 0], alpha[..., 0], inside, signs))) < 1e-5
    assert float(foreign_loss(blended[..., 0], alpha[..., 0], inside - 1, signs)) == 0


def test_space_before_a_wall_is_empty_and_the_wall_has_owners() -> None:
    view = camera()
    depth = torch.full((view.height, view.width), DEPTH)
    x, y = torch.meshgrid(torch.linspace(-1.4, 1.4, 200), torch.linspace(-1.1, 1.1, 200), indexing="ij")
    z = torch.linspace(DEPTH - 0.5, DEPTH, 40000)
    points = torch.stack([x.reshape(-1), y.reshape(-1), torch.full((40000,), DEPTH)], dim=1)
    front = torch.stack([x.reshape(-1), y.reshape(-1), z], dim=1)
    space = see_space({0: points[x.reshape(-1) < 0], 2: points[x.reshape(-1) >= 0]}, [(view, depth)] * 3, 64)
    assert space is not None and {UNKNOWN, 0, 2} <= set(space.owner.unique().tolist())
    probe = torch.tensor([[-0.8, 0.0, DEPTH], [0.8, 0.0, DEPTH], [0.8, 0.0, DEPTH]])
    assert space.bad(probe, torch.tensor([2, 2, -1])).tolist() == [True, False, False]
    deep = see_space({0: front}, [(view, depth)] * 3, 64)
    assert deep is not None and EMPTY in deep.owner.unique().tolist()
    assert see_space({0: front}, [(view, depth)] * 2, 64).owner.min() == UNKNOWN  # type: ignore[union-attr]
    assert see_space({}, []) is None


def test_gaussians_move_out_of_bad_space_and_shrink() -> None:
    """Half of the world, x > 0, is bad: gradient descent on the samples' score gives what the exact expectation asks."""
    owner = torch.full((2, 1, 1), UNKNOWN, dtype=torch.int16)
    owner[1] = EMPTY
    space = SeenSpace(torch.tensor([-100.0, -50.0, -50.0]), 100.0, owner)
    means = torch.tensor([[-0.5, 0.0, 0.0]]).requires_grad_()
    scales = torch.ones(1, 3).requires_grad_()
    opacities = torch.tensor([0.8]).requires_grad_()
    gaussians = rendering.Gaussians(means, torch.tensor([[1.0, 0, 0, 0]]), scales, opacities)
    torch.manual_seed(0)
    loss = space_loss(gaussians, torch.zeros(1, dtype=torch.int64), space, None, samples=200_000)
    loss.backward()
    share = 0.5 * math.erfc(0.5 / math.sqrt(2))  # P(x > 0)
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    assert float(loss) == pytest.approx(0.8 * share, rel=0.02)
    assert float(opacities.grad) == pytest.approx(share, rel=0.02)  # type: ignore[arg-type]
    assert float(means.grad[0, 0]) == pytest.approx(0.8 * density, rel=0.05)  # type: ignore[index]
    assert float(scales.grad[0, 0]) == pytest.approx(0.8 * density * 0.5, rel=0.1)  # type: ignore[index]
    assert abs(float(scales.grad[0, 1])) < 0.01  # type: ignore[index]


def test_out_of_the_hull_counts_too() -> None:
    directions = torch.cat([torch.eye(3), -torch.eye(3)])
    hulls = Hulls(directions, torch.full((1, 6), 0.1), torch.zeros(1))
    outside = rendering.Gaussians(
        torch.tensor([[5.0, 0, 0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.01),
        torch.tensor([0.5]),
    )
    own = torch.zeros(1, dtype=torch.int64)
    assert float(space_loss(outside, own, None, hulls, samples=16)) == pytest.approx(0.5)
    assert float(space_loss(outside, own - 1, None, hulls, samples=16)) == 0
    assert float(space_loss(outside, own, None, None, samples=16)) == 0
