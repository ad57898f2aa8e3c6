"""Classes by the rendered maps: a Gaussian is what it shows, not what its encoding says, and never what it cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.votes.rendered import rendered_classes, spread_views

pytestmark = pytest.mark.usefixtures("device")
SIZE = 32
CODES = torch.eye(3)


def board() -> tuple[rendering.Gaussians, Tensor]:
    """A wall of small Gaussians at z = 4, class 0 on the left and class 1 on the right, with their codes [N, 3]."""
    x, y = torch.meshgrid(torch.linspace(-1.5, 1.5, 31), torch.linspace(-1.5, 1.5, 31), indexing="ij")
    x, y = x.reshape(-1) + 0.01, y.reshape(-1)
    count = len(x)
    gaussians = rendering.Gaussians(
        torch.stack([x, y, torch.full_like(x, 4.0)], dim=1), torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        torch.full((count, 3), 0.06), torch.full((count,), 0.95),
    )  # fmt: skip
    return gaussians, CODES.to(x.device)[(x > 0).long()]


def camera() -> rendering.Camera:
    K = torch.tensor([[32.0, 0, 16], [0, 32.0, 16], [0, 0, 1]])
    return rendering.Camera(torch.eye(4), K, SIZE, SIZE)


def classify(encodings: Tensor) -> Tensor:
    return torch.where(encodings.abs().amax(dim=-1) > 1e-6, encodings.argmax(dim=-1), -1)


def test_a_stray_encoding_is_outvoted() -> None:
    gaussians, codes = board()
    stray = int(((gaussians.means[:, :2] - torch.tensor([-0.7, 0.0])).norm(dim=1)).argmin())
    wrong = codes.clone()
    wrong[stray] = CODES.to(wrong)[1]
    blurred = 0.2 * wrong + 0.8 * codes.clone()  # the picture there still shows class 0
    found = rendered_classes(gaussians, blurred, classify, 3, [camera()])
    assert int(found[stray]) == 0
    assert torch.equal(
        found[gaussians.means[:, 0].abs() > 0.2], codes.argmax(1)[gaussians.means[:, 0].abs() > 0.2]
    )


def test_what_cannot_be_of_its_class_gets_the_next_or_none() -> None:
    gaussians, codes = board()
    plain = rendered_classes(gaussians, codes, classify, 3, [camera()])
    left = gaussians.means[:, 0] < 0

    def fits(classes: Tensor) -> Tensor:
        return ~((classes == 0) & left & (gaussians.means[:, 1] > 0))

    found = rendered_classes(gaussians, codes, classify, 3, [camera()], fits)
    out = left & (gaussians.means[:, 1] > 0) & (plain == 0)
    assert bool(out.any()) and torch.equal(found[~out], plain[~out])
    assert set(found[out].unique().tolist()) <= {-1, 1}
    near, far = gaussians.means[:, 0] > -0.1, gaussians.means[:, 0] < -0.7
    assert bool((found[out & near] == 1).any()), "at the border the other class has votes, too"
    assert bool((found[out & far] == -1).all()), "elsewhere nothing does"


def test_views_are_evenly_spread() -> None:
    assert spread_views(3, 64) == [0, 1, 2]
    assert spread_views(100, 4) == [0, 25, 50, 75]
