"""Space that must be empty: against the definition, ray by ray."""

from __future__ import annotations

import math

import pytest
import torch

from gradiseg_ns.data.free_space import (
    AROUND,
    FLOATS_BELOW,
    NEAR_SHARE,
    FreeSpace,
    Frusta,
    between,
    joined,
    nearest_depths,
    probes,
)

SIZE, FOCAL = (64, 48), 60.0


def looking_at(eyes: torch.Tensor, target: torch.Tensor) -> Frusta:
    """Cameras at eyes [V, 3] that look at a target, z up."""
    viewmats = []
    for eye in eyes:
        forward = torch.nn.functional.normalize(target - eye, dim=0)
        right = torch.nn.functional.normalize(
            torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0
        )
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        viewmat = torch.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
        viewmats.append(viewmat)
    K = torch.tensor([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    count = len(eyes)
    return Frusta(torch.stack(viewmats), K.expand(count, 3, 3).clone(), torch.tensor([SIZE] * count))


def ring(count: int = 12, radius: float = 3.0, height: float = 1.0) -> Frusta:
    angle = torch.arange(count) * (2 * math.pi / count)
    eyes = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], dim=1)
    return looking_at(eyes, torch.zeros(3))


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    """A ball of radius 1 around the origin."""
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=1)


def test_nearest_depths_are_a_low_quantile_of_what_a_view_sees(points: torch.Tensor) -> None:
    frusta = ring(4)
    centers = frusta.centers
    assert torch.allclose(centers[0], torch.tensor([3.0, 0.0, 1.0]), atol=1e-5)
    wrong = centers[:1] + 0.02 * (-centers[:1])  # a single wrong point just before the first camera
    nearest = nearest_depths(frusta, torch.cat([points, wrong]))
    distance = float(centers[0].norm())
    assert torch.all((nearest > distance - 1.0) & (nearest < distance - 0.7))
    assert not nearest_depths(frusta, points[:5]).any()  # too few to know


def test_the_space_is_what_every_view_says(points: torch.Tensor) -> None:
    """Against the definition, for random positions that are not within a voxel of the limits."""
    frusta = ring(7)
    space = FreeSpace.create(frusta, points, virtual=False)
    generator = torch.Generator().manual_seed(2)
    positions = (torch.rand(4000, 3, generator=generator) - 0.5) * 8
    positions = torch.cat([positions, frusta.centers])
    surely, maybe = (
        torch.zeros(len(positions), dtype=torch.bool),
        torch.zeros(len(positions), dtype=torch.bool),
    )
    for view in range(frusta.views):
        end = NEAR_SHARE * float(space.nearest[view])
        local = positions @ frusta.viewmats[view, :3, :3].T + frusta.viewmats[view, :3, 3]
        for margin, found in ((-2 * space.voxel, surely), (2 * space.voxel, maybe)):
            edge_x, edge_y = (1.2 * size / 2 / FOCAL for size in SIZE)
            frustum = (local[:, 2] > -margin) & (local[:, 2] < end + margin)
            frustum &= (local[:, 0].abs() < edge_x * local[:, 2] + margin) & (
                local[:, 1].abs() < edge_y * local[:, 2] + margin
            )
            found |= frustum | (local.norm(dim=1) < AROUND * end + margin)
    found = space.contains(positions)
    assert surely.sum() > 50 and (~maybe).sum() > 1000
    assert found[surely].all() and not found[~maybe].any()
    assert found[-frusta.views :].all()


def test_what_has_points_around_it_is_never_empty(points: torch.Tensor) -> None:
    frusta = ring(8)
    wire = torch.tensor([[1.9, 0.0, 0.5 + 0.002 * k] for k in range(12)])
    before = FreeSpace.create(frusta, points, virtual=False)
    assert before.contains(wire).all()
    known = FreeSpace.create(frusta, torch.cat([points, wire]), virtual=False)
    assert not known.contains(wire).any()
    lone = FreeSpace.create(frusta, torch.cat([points, wire[:1]]), virtual=False)
    assert lone.contains(wire[:1]).all()  # one point is an error of its own


def test_cameras_between_cameras_see_through_empty_space_too(points: torch.Tensor) -> None:
    frusta = ring(6)
    virtual = between(frusta, neighbors=2, steps=1)
    assert virtual.views == 6
    a, b = frusta.centers[0], frusta.centers[1]
    middle = (a + b) / 2
    found = (virtual.centers - middle).norm(dim=1).argmin()
    assert torch.allclose(virtual.centers[found], middle, atol=1e-5)
    forward = virtual.viewmats[found, 2, :3]
    expected = torch.nn.functional.normalize(frusta.viewmats[0, 2, :3] + frusta.viewmats[1, 2, :3], dim=0)
    assert torch.allclose(forward, expected, atol=0.05)
    place = (middle + 0.2 * forward)[None]
    assert not FreeSpace.create(frusta, points, virtual=False).contains(place).any()
    assert FreeSpace.create(frusta, points).contains(place).all()


def test_cameras_that_look_apart_have_nothing_between_them() -> None:
    eyes = torch.tensor([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    assert between(looking_at(eyes, torch.zeros(3))).views == 0
    assert between(ring(1)).views == 0


def test_several_cameras_in_one_place_do_not_hide_the_neighbours() -> None:
    one = ring(6)
    both = joined(one, one)
    assert between(both, neighbors=3, steps=1).views > 0


def test_rays_of_tracks_clear_what_they_cross_and_no_surface(points: torch.Tensor) -> None:
    """A second ball far behind the first is seen past it: the space between is empty, the first ball's surface is not."""
    frusta = ring(24, radius=4.0, height=0.0)
    far = points + torch.tensor([0.0, 0.0, 2.5])
    everything = torch.cat([points, far])
    tracks = []
    for view, center in enumerate(frusta.centers):
        way = everything - center
        length = way.norm(dim=1, keepdim=True)
        for ball in (torch.zeros(3), torch.tensor([0.0, 0.0, 2.5])):
            along = ((ball - center) * way / length).sum(dim=1)
            miss2 = (ball - center).square().sum() - along.square()
            entry = along - (1 - miss2).clamp(min=0).sqrt()
            hidden = (miss2 < 1 - 1e-4) & (entry < length[:, 0] - 1e-2)
            way = torch.where(hidden[:, None], torch.nan, way)
        seen = way.isfinite().all(dim=1).nonzero()[:, 0]
        tracks.append(torch.stack([torch.full_like(seen, view), seen], dim=1))
    with_rays = FreeSpace.create(frusta, everything, tracks=torch.cat(tracks), virtual=False)
    without = FreeSpace.create(frusta, everything, virtual=False)
    assert with_rays.empty.sum() > 1.05 * without.empty.sum()
    assert float(with_rays.contains(everything).float().mean()) < 0.01
    assert float(with_rays.contains(0.97 * points).float().mean()) < 0.01


def test_points_of_another_frame_are_doubted(points: torch.Tensor) -> None:
    frusta, names = ring(8), [f"view_{i}.jpg" for i in range(8)]
    assert FreeSpace.create(frusta, points).doubts(points, names) is None
    elsewhere = points + torch.tensor([500.0, 0.0, 0.0])
    told = FreeSpace.create(frusta, elsewhere).doubts(elsewhere, names)
    assert told is not None and "view_" in told and "same" in told
    assert not FreeSpace.create(frusta, elsewhere).contains(elsewhere).any()


def test_probes_lie_between_the_cameras_and_are_few(points: torch.Tensor) -> None:
    frusta = ring(40)
    views, depths = probes(frusta, points, most=10)
    assert views.views == len(depths) == 10
    assert (torch.cdist(views.centers, frusta.centers).amin(dim=1) > 0.01).all()
    assert ((depths > 0) & (depths < FLOATS_BELOW * 2.6)).all()


def test_positions_that_are_no_numbers_are_nowhere(points: torch.Tensor) -> None:
    space = FreeSpace.create(ring(5), points)
    nowhere = torch.tensor([[math.nan, 0, 0], [math.inf, 0, 0], [1e30, 0, 0]])
    assert not space.contains(nowhere).any()
