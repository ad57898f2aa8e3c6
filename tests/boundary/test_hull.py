"""Hulls: made from what views see, they hold the side that no view sees; what reaches out is drawn in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.hull import SurfacePoints, drawn_in, reaching_out, sphere
from gradiseg_ns.grouping.densification import rotation_matrices

pytestmark = pytest.mark.usefixtures("device")
SIZE = 64


def above(azimuth: float, elevation: float = 0.6) -> rendering.Camera:
    """A camera at distance 4 from the origin, z up, that looks at it."""
    level = math.cos(elevation)
    eye = 4 * torch.tensor([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
    ahead = -eye / eye.norm()
    right = torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
    K = torch.tensor([[80.0, 0, SIZE / 2], [0, 80.0, SIZE / 2], [0, 0, 1]])
    return rendering.Camera(viewmat, K, SIZE, SIZE)


def see_box(camera: rendering.Camera, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Depth [H, W] (0 beside it) and mask of an upright box, by its slabs."""
    pixel = torch.arange(SIZE, device=low.device) + 0.5
    y, x = torch.meshgrid(pixel, pixel, indexing="ij")
    local = torch.stack([(x - camera.K[0, 2]) / 80, (y - camera.K[1, 2]) / 80, torch.ones_like(x)], dim=-1)
    ray = local @ camera.viewmat[:3, :3]
    eye = -camera.viewmat[:3, :3].T @ camera.viewmat[:3, 3]
    a, b = (low - eye) / ray, (high - eye) / ray
    enter, leave = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
    hit = (enter < leave) & (enter > 0)
    return torch.where(hit, enter, 0.0), hit


@pytest.fixture
def box() -> tuple[Tensor, Tensor]:
    return torch.tensor([-0.5, -0.4, 0.0]), torch.tensor([0.5, 0.4, 0.6])


def hulls_of(box: tuple[Tensor, Tensor], margin: float = 0.0):
    views = [above(2 * math.pi * i / 12, 0.4 if i % 2 else 0.9) for i in range(12)]
    points = SurfacePoints(len(views))
    for camera in views:
        depth, hit = see_box(camera, *box)
        points.add(camera, torch.where(hit, 1, 0), depth, hit.float())
    hulls = points.hulls(3, margin)
    assert hulls is not None
    return hulls


def test_directions_are_evenly_spread() -> None:
    directions = sphere(256)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(256))
    nearest = (directions @ directions.T - 2 * torch.eye(256)).amax(dim=1).acos()
    assert nearest.max() < 1.3 * nearest.min() + 0.05


def test_the_unseen_underside_is_known(box: tuple[Tensor, Tensor]) -> None:
    hulls = hulls_of(box)
    points = torch.tensor(
        [[0.0, 0, 0.3], [0, 0, 0.05], [0, 0, -0.1], [0.3, 0.2, -0.1], [0, 0, 0.75], [0.7, 0, 0.3]]
    )
    beyond = hulls.beyond(points, torch.ones(6, dtype=torch.int64))
    assert (beyond < 0).tolist() == [True, True, False, False, False, False]
    assert float(beyond[2]) == pytest.approx(0.1, abs=0.04)


def test_without_a_hull_nothing_is_outside(box: tuple[Tensor, Tensor]) -> None:
    hulls = hulls_of(box)
    far = torch.full((3, 3), 9.0)
    assert hulls.beyond(far, torch.tensor([-1, 0, 2])).tolist() == [-math.inf] * 3
    assert SurfacePoints(4).hulls(3) is None


def test_a_distance_can_be_followed_back_inside(box: tuple[Tensor, Tensor]) -> None:
    hulls = hulls_of(box)
    point = torch.tensor([[0.1, 0.0, -0.3]]).requires_grad_()
    hulls.beyond(point, torch.tensor([1])).sum().backward()
    assert point.grad is not None and point.grad[0, 2] < -0.9


def gaussians(means: list[list[float]], scales: list[list[float]]) -> rendering.Gaussians:
    count = len(means)
    return rendering.Gaussians(
        torch.tensor(means), torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        torch.tensor(scales), torch.full((count,), 0.9),
    )  # fmt: skip


def test_what_reaches_under_the_box_is_drawn_in_and_the_rest_stays(box: tuple[Tensor, Tensor]) -> None:
    hulls = hulls_of(box)
    splat = gaussians(
        [[0, 0, 0.02], [0, 0, 0.3], [0.1, 0, -0.2]], [[0.1, 0.1, 0.1], [0.05, 0.05, 0.05], [0.02, 0.02, 0.02]]
    )
    own = torch.ones(3, dtype=torch.int64)
    out = reaching_out(splat, own, hulls)
    assert out.tolist() == [True, False, True]
    means, quats, scales = drawn_in(splat, own, hulls, out)
    made = rendering.Gaussians(means, quats, scales, splat.opacities[out])
    again = reaching_out(made, own[out], hulls, reach=1.4)
    assert not bool(again.any())
    axes = rotation_matrices(quats) * scales[:, None]
    deviation = (axes[:, 2] ** 2).sum(dim=-1).sqrt()  # along z
    assert float(means[0, 2]) > 0.02 and float(deviation[0]) < 0.08
    top = float(means[0, 2] + 1.5 * deviation[0])
    assert top == pytest.approx(0.02 + 0.15, abs=0.02)  # the end inside stays
    assert float(means[1, 2]) > -0.03  # it lies flat at the underside


def test_nothing_to_draw_in(box: tuple[Tensor, Tensor]) -> None:
    splat = gaussians([[0, 0, 0.3]], [[0.05, 0.05, 0.05]])
    own = torch.ones(1, dtype=torch.int64)
    means, quats, scales = drawn_in(splat, own, hulls_of(box), torch.zeros(1, dtype=torch.bool))
    assert len(means) == len(quats) == len(scales) == 0


def test_what_the_pictures_cut_off_has_no_hull(box: tuple[Tensor, Tensor]) -> None:
    points = SurfacePoints(4)
    for i in range(4):
        depth, hit = see_box(above(1.5 * i), *box)
        floor = torch.where(hit, 1, 2)  # reaches out of every picture
        points.add(above(1.5 * i), floor, torch.where(hit, depth, 4.0), torch.ones(SIZE, SIZE))
    hulls = points.hulls(3)
    assert hulls is not None
    assert bool(hulls.supports[1].isfinite().all()) and bool(hulls.supports[2].isinf().all())
    assert hulls.missing.tolist() == [k != 1 for k in range(len(hulls.supports))]
