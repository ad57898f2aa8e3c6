"""Virtual cameras: upright, outside of things, looking at what is dense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment.cameras import CameraError, contact_sheet, dense_part, virtual_cameras


def cloud(points: torch.Tensor, size: float, opacity: float = 4.0) -> Splat:
    count = len(points)
    return Splat(
        means=points, quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), size).log(), opacities=torch.full((count,), opacity),
        features_dc=torch.zeros(count, 3), features_rest=torch.zeros(count, 0, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def splat() -> Splat:
    """A dense ball on a wide, thin floor, with far and large Gaussians all around; z is up, and the middle is not the origin."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    ball = torch.nn.functional.normalize(random(1500, 3), dim=1) * 0.4 + torch.tensor([0.0, 0.0, 0.4])
    ball = ball[ball[:, 2] > 0.05]
    floor = random(700, 3) * torch.tensor([1.0, 1.0, 0.0])
    far = torch.nn.functional.normalize(random(150, 3), dim=1) * 30
    points = torch.cat([ball, floor, far]) + torch.tensor([5.0, -2.0, 1.0])
    made = cloud(points, 0.05)
    made.scales[-150:] = torch.tensor(3.0).log()
    return made


def eyes(cameras: list) -> torch.Tensor:
    return torch.stack([-c.viewmat[:3, :3].T @ c.viewmat[:3, 3] for c in cameras])


def test_the_dense_part_is_where_the_things_are(splat: Splat) -> None:
    part = dense_part(splat)
    assert (part.centre - torch.tensor([5.0, -2.0, 1.3])).norm() < 0.4
    assert 0.2 < part.radius < 2.0
    assert abs(float(part.up[2])) > 0.95 and not part.sure


@pytest.mark.parametrize("up", [None, "z"])
def test_cameras_stand_around_above_and_look_at_it(splat: Splat, up: str | None) -> None:
    cameras = virtual_cameras(replace(splat, up=up))
    assert 20 <= len(cameras) <= 32
    part = dense_part(splat)
    assert bool((eyes(cameras)[:, 2] > 1.2).all()), "above, though nobody said which way is up"
    for camera in cameras:
        middle = camera.viewmat[:3, :3] @ part.centre + camera.viewmat[:3, 3]
        assert float(middle[2]) > 0 and float(middle[:2].norm() / middle[2]) < 0.01
        assert float((camera.viewmat[:3, :3] @ torch.tensor([0.0, 0.0, 1.0]))[1]) < 0, "upright"


def test_the_vertical_axis_of_the_file_counts(splat: Splat) -> None:
    assert torch.equal(dense_part(replace(splat, up="y")).up, torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(dense_part(replace(splat, up="-y")).up, torch.tensor([0.0, -1.0, 0.0]))
    assert torch.allclose(dense_part(replace(splat, up="0, 0, 2")).up, torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(dense_part(replace(splat, frame="nerfstudio")).up, torch.tensor([0.0, 0.0, 1.0]))


def test_no_camera_stands_in_a_wall(splat: Splat) -> None:
    """A wall close before the lowest ring, on one side: cameras there move nearer, or are left out."""
    upright = replace(splat, up="z")
    part = dense_part(upright)
    free = eyes(virtual_cameras(upright)) - part.centre
    where = 0.8 * float(free[0].norm())
    grid = torch.arange(-3, 3, 0.6) * part.radius
    y, z = torch.meshgrid(grid, grid, indexing="ij")
    wall = torch.stack([torch.full_like(y, where), y, z], dim=-1).reshape(-1, 3)
    closed = cloud(torch.cat([splat.means, wall + part.centre]), 0.05)
    closed.scales[-len(wall) :] = torch.tensor(0.4 * part.radius).log()
    closed = replace(closed, up="z")
    moved = eyes(virtual_cameras(closed)) - part.centre

    def behind(places: torch.Tensor) -> int:
        return int(((places[:, 0] > where) & (places[:, 1].abs() < 2 * part.radius)).sum())

    assert behind(free) > 0 and behind(moved) == 0


def test_nothing_to_see_is_a_sentence(splat: Splat) -> None:
    with pytest.raises(CameraError, match="none of them can be seen"):
        virtual_cameras(replace(splat, opacities=torch.full_like(splat.opacities, -20.0)))
    with pytest.raises(CameraError, match="0 Gaussians"):
        virtual_cameras(splat.select(torch.zeros(len(splat), dtype=torch.bool)))
    lonely = cloud(torch.tensor([[0.0, 0, 0], [100.0, 0, 0]]), 1e-4)
    with pytest.raises(CameraError, match="no camera around"):
        virtual_cameras(lonely)


def test_a_sheet_names_every_view() -> None:
    sheet = contact_sheet([torch.zeros(30, 40, 3)] * 7, [(512, 384)] * 7)
    assert sheet.size == (6 * 40, 2 * (30 + 22))
