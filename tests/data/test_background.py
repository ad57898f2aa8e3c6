"""Points behind the scene: where views look past it, and only there."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.data.background import MOST_POINTS, background_points
from gradiseg_ns.data.free_space import project_into

from .test_free_space import SIZE, ring


def small_ball(count: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.5 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def pictures(count: int, channels: int = 3) -> list[torch.Tensor]:
    """Each of one colour of its own."""
    return [
        torch.full((SIZE[1], SIZE[0], channels), 10 * (view + 1), dtype=torch.uint8) for view in range(count)
    ]


def test_points_lie_behind_the_scene_on_rays_that_pass_it() -> None:
    frusta, points = ring(8), small_ball()
    placed, colors = background_points(frusta, points, pictures(8))
    assert 300 < len(placed) <= MOST_POINTS and placed.shape == colors.shape and colors.dtype == torch.uint8
    assert float(placed.norm(dim=1).amin()) > 1.4 * 0.5  # outside of the nearest shell
    views = colors[:, 0].long() // 10 - 1
    assert views.unique().tolist() == list(range(8))
    for view in range(8):
        x, y, depth = project_into(frusta, view, placed[views == view])
        assert (x.abs() < 1.001).all() and (y.abs() < 1.001).all() and (depth > 0).all()
        local = points @ frusta.viewmats[view, :3, :3].T + frusta.viewmats[view, :3, 3]
        assert float(depth.amin()) > float(local[:, 2].amin())


def test_shells_are_spread_evenly_in_the_logarithm_of_their_radius() -> None:
    placed, _ = background_points(ring(8), small_ball(), pictures(8))
    radius = placed.norm(dim=1).log()
    low, high = radius.quantile(0.25), radius.quantile(0.75)
    assert 0.6 < float(high - low) < 1.5  # half of ln 10 = 1.15, less where rays pass near shells by


def test_the_same_points_again() -> None:
    first, second = (background_points(ring(8), small_ball(), pictures(8)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_none_where_the_points_fill_the_pictures() -> None:
    generator = torch.Generator().manual_seed(6)
    everywhere = torch.nn.functional.normalize(torch.randn(60_000, 3, generator=generator), dim=1) * 6
    placed, colors = background_points(ring(6), everywhere, pictures(6))
    assert len(placed) == len(colors) == 0


@pytest.mark.parametrize("how", ["alpha", "mask"])
def test_none_where_there_is_no_background(how: str) -> None:
    photos = pictures(6, 4 if how == "alpha" else 3)
    masks: list[torch.Tensor | None] = [None] * 6
    for view, photo in enumerate(photos):
        if how == "alpha":
            photo[..., 3] = 0
        else:
            masks[view] = torch.zeros(SIZE[1], SIZE[0], 1, dtype=torch.bool)
    assert len(background_points(ring(6), small_ball(), photos, masks)[0]) == 0
    if how == "alpha":  # what is there keeps its colour
        photos[0][..., 3] = 255
        found = background_points(ring(6), small_ball(), photos, masks)[1]
        assert len(found) and (found == 10).all()


def test_no_points_no_background() -> None:
    assert len(background_points(ring(3), torch.zeros(0, 3), pictures(3))[0]) == 0
