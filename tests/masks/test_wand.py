"""Regions around clicks in pictures of which it is known what belongs together."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gradiseg_ns.masks.wand import grow_region

HEIGHT, WIDTH = 384, 512
RED, BLUE, GREY = (0.8, 0.2, 0.15), (0.2, 0.3, 0.8), (0.55, 0.5, 0.45)


class Picture(NamedTuple):
    rgb: Tensor
    depth: Tensor
    identity: Tensor | None
    alpha: Tensor


def disc(x: float, y: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """bool [H, W]"""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def picture(*things: tuple[Tensor, tuple[float, float, float], float], noise: float = 0.01) -> Picture:
    """Masks in a colour at a depth, the later in front, before a grey wall at 2; noisy and as soft as a splat's render."""
    height, width = things[0][0].shape
    rgb, depth = torch.tensor(GREY).expand(height, width, 3).clone(), torch.full((height, width), 2.0)
    for mask, color, distance in things:
        rgb[mask] = torch.tensor(color)
        depth[mask] = distance
    generator = torch.Generator().manual_seed(0)
    rgb += noise * torch.randn(rgb.shape, generator=generator)
    depth *= 1 + 0.0005 * torch.randn(depth.shape, generator=generator)
    maps = torch.cat([rgb, depth[..., None]], dim=-1).permute(2, 0, 1)[None]
    soft = torch.nn.functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)[0]
    soft = soft.permute(1, 2, 0)
    return Picture(soft[..., :3].clamp(0, 1), soft[..., 3], None, torch.ones(height, width))


def iou(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape and found.dtype == torch.bool
    return float((found & truth).sum() / (found | truth).sum())


LEFT, RIGHT = disc(180, 190, 70), disc(300, 190, 70)
"""They overlap: the right one is in front."""
LEFT_SEEN = LEFT & ~RIGHT


@pytest.mark.parametrize("right_depth", [1.4, 1.2, 0.8])
def test_a_step_in_depth_ends_a_region_of_one_colour(right_depth: float) -> None:
    seen = picture((LEFT, RED, 1.5), (RIGHT, RED, right_depth))
    assert iou(grow_region(*seen, [(180, 190)]), LEFT_SEEN) > 0.95
    assert iou(grow_region(*seen, [(300, 190)]), RIGHT) > 0.95


@pytest.mark.parametrize("color", [BLUE, GREY, (0.8, 0.6, 0.15), (0.95, 0.9, 0.9)])
def test_a_change_of_colour_ends_a_region_at_one_depth(color: tuple[float, float, float]) -> None:
    seen = picture((LEFT, RED, 2.0), (RIGHT, color, 2.0))
    assert iou(grow_region(*seen, [(180, 190)]), LEFT_SEEN) > 0.95
    if color != GREY:
        # White and the wall's grey differ in lightness only.
        tolerance = 0.5 if max(color) < 0.9 else 0.1
        assert iou(grow_region(*seen, [(300, 190)], tolerance=tolerance), RIGHT) > 0.95


def test_identities_end_a_region_that_colour_and_depth_do_not() -> None:
    seen = picture((LEFT, GREY, 2.0), (RIGHT, GREY, 2.0))
    generator = torch.Generator().manual_seed(1)
    codes = 3 * torch.randn(3, 16, generator=generator)
    identity = codes[(LEFT.long() + 2 * RIGHT.long()).clamp(max=2)]
    identity += 0.1 * torch.randn(identity.shape, generator=generator)
    assert iou(grow_region(*seen, [(180, 190)]), LEFT_SEEN) < 0.5
    seen = seen._replace(identity=identity)
    assert iou(grow_region(*seen, [(180, 190)]), LEFT_SEEN) > 0.95
    assert iou(grow_region(*seen, [(300, 190)]), RIGHT) > 0.95
    # Where all is one object, noise of the identities is no reason to stop.
    one = picture((LEFT, RED, 1.5))
    alike = codes[:1, None] + 0.05 * torch.randn(HEIGHT, WIDTH, 16, generator=generator)
    assert iou(grow_region(*one._replace(identity=alike), [(180, 190)]), LEFT) > 0.95


@pytest.mark.parametrize(("depth", "least"), [(1.5, 0.98), (2.0, 0.75)])
def test_a_region_goes_around_a_shaded_object(depth: float, least: float) -> None:
    ball = disc(256, 192, 120)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    seen = picture((ball, RED, depth), noise=0.005)
    # Light from the upper left: from 1.05 to 0.45 of the colour.
    light = 0.75 - 0.3 * ((columns - 256) + (rows - 192)) / (120 * math.sqrt(2))
    rgb = torch.where(ball[..., None], (seen.rgb * light[..., None]).clamp(0, 1), seen.rgb)
    for click in ((256, 192), (200, 140), (310, 250)):
        assert iou(grow_region(*seen._replace(rgb=rgb), [click]), ball) > least, click


def test_a_slanted_surface_is_one_region() -> None:
    floor = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    floor[200:] = True
    seen = picture((floor, RED, 2.0))
    # A floor that starts at a depth of 2 and comes to 0.7 at the lower border.
    slope = 1 / torch.linspace(0.5, 1.4, HEIGHT - 200)
    depth = seen.depth.clone()
    depth[200:] = slope[:, None]
    assert iou(grow_region(*seen._replace(depth=depth), [(256, 300)]), floor) > 0.95


def test_a_negative_click_cuts() -> None:
    # One colour, one depth, and a waist between them.
    both = LEFT | disc(330, 190, 70) | (disc(255, 190, 40))
    seen = picture((both, RED, 1.5))
    whole = grow_region(*seen, [(180, 190)])
    assert iou(whole, both) > 0.95
    cut = grow_region(*seen, [(180, 190)], [(330, 190)])
    left_half = both & (torch.arange(WIDTH) < 255)
    assert iou(cut, left_half) > 0.9 and not cut[190, 330] and cut[190, 180]
    # The other way round it is the other half.
    other = grow_region(*seen, [(330, 190)], [(180, 190)])
    assert iou(other, both & ~left_half) > 0.9
    assert (cut & other).sum() < 0.02 * whole.sum()


def test_a_negative_click_pushes_back_what_went_too_far() -> None:
    # What colour and depth hardly tell apart: a second click has to.
    color = (0.72, 0.22, 0.17)
    seen = picture((LEFT, RED, 1.5), (RIGHT, color, 1.5), noise=0.02)
    assert iou(grow_region(*seen, [(180, 190)], tolerance=1.0), LEFT_SEEN) < 0.7
    assert iou(grow_region(*seen, [(180, 190)], [(300, 190)], tolerance=1.0), LEFT_SEEN) > 0.9


def test_more_positive_clicks_make_an_object_of_several_colours() -> None:
    box = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    box[100:300, 150:350] = True
    seen = picture(*((box & (torch.arange(WIDTH) // 50 % 2 == k), c, 1.2) for k, c in ((0, RED), (1, BLUE))))
    clicks = [(x, 200) for x in (175, 225, 275, 325)]
    assert iou(grow_region(*seen, clicks[:1]), box) < 0.6
    assert iou(grow_region(*seen, clicks), box) > 0.95


def test_thin_parts_stay() -> None:
    handle = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    handle[188:193, 240:400] = True
    spoon = LEFT | handle
    found = grow_region(*picture((spoon, RED, 1.2)), [(180, 190)])
    assert (found & handle).sum() > 0.9 * handle.sum() and iou(found, spoon) > 0.95


def test_a_larger_tolerance_never_gives_much_less() -> None:
    seen = picture((LEFT, RED, 1.5), (RIGHT, (0.72, 0.22, 0.17), 1.48))
    sizes = [int(grow_region(*seen, [(180, 190)], tolerance=t).sum()) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert all(b > 0.98 * a for a, b in pairwise(sizes)) and sizes[-1] > sizes[0]


def test_a_click_on_nothing_gives_nothing() -> None:
    seen = picture((LEFT, RED, 1.5))
    alpha = torch.where(LEFT, 1.0, 0.05)
    seen = seen._replace(
        alpha=alpha, depth=torch.where(LEFT, seen.depth, 0.0), rgb=seen.rgb * LEFT[..., None]
    )
    empty = grow_region(*seen, [(400, 190)])
    assert empty.shape == (HEIGHT, WIDTH) and not empty.any()
    assert not grow_region(*seen, []).any()
    assert iou(grow_region(*seen, [(180, 190)]), LEFT) > 0.95
    # Clicks on nothing have no effect on others, and a region does not cross nothing.
    assert torch.equal(
        grow_region(*seen, [(180, 190), (400, 10)], [(450, 10)]), grow_region(*seen, [(180, 190)])
    )
    two = alpha.clone()
    two[disc(400, 190, 50)] = 1
    found = grow_region(
        *seen._replace(alpha=two, rgb=torch.full_like(seen.rgb, 0.5)), [(180, 190)], tolerance=1.0
    )
    assert iou(found, LEFT) > 0.95


@pytest.mark.parametrize("wall", [False, True])
def test_crumbs_beside_an_object_do_not_belong_to_it(wall: bool) -> None:
    columns = torch.arange(WIDTH)
    crumbs = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    crumbs[150:230:4, 250] = True
    behind = (columns < 150).expand(HEIGHT, -1) & wall
    seen = picture((LEFT, RED, 1.5))
    alpha = ((LEFT & (columns < 247)) | crumbs | behind).float()
    found = grow_region(*seen._replace(alpha=alpha), [(180, 190)])
    assert not (found & crumbs).any() and iou(found, LEFT & (columns < 247)) > 0.95


def test_a_click_that_is_positive_and_negative_is_no_error() -> None:
    seen = picture((LEFT, RED, 1.5))
    assert grow_region(*seen, [(180, 190)], [(180, 190)]).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (30, 1), (30, 41), (257, 256), (300, 700), (901, 1203)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    thing = disc(width / 2, height / 2, 0.3 * min(size) + 1, height, width)
    seen = picture((thing, RED, 1.2))
    found = grow_region(*seen, [(width // 2, height // 2)])
    assert found.shape == size and found[height // 2, width // 2]
    if min(size) >= 30:
        assert iou(found, thing) > (0.95 if min(size) > 100 else 0.85)
    for click in ((0, 0), (width - 1, height - 1)):
        assert grow_region(*seen, [click])[click[1], click[0]]


def test_the_same_clicks_give_the_same_region_and_change_nothing() -> None:
    seen = picture((LEFT, RED, 1.5), (RIGHT, BLUE, 1.5))
    parts = (seen.rgb, seen.depth, seen.alpha)
    before = [part.clone() for part in parts]
    once = grow_region(*seen, [(180, 190)], [(300, 190)])
    assert torch.equal(grow_region(*seen, [(180, 190)], [(300, 190)]), once)
    assert all(torch.equal(a, b) for a, b in zip(parts, before, strict=True))


def test_values_that_are_not_finite_do_not_break_it() -> None:
    seen = picture((LEFT, RED, 1.5))
    depth, rgb = seen.depth.clone(), seen.rgb.clone()
    depth[:50], rgb[:50] = math.inf, math.nan
    depth[50:60] = math.nan
    assert iou(grow_region(*seen._replace(depth=depth, rgb=rgb), [(180, 190)]), LEFT) > 0.95


def test_what_does_not_fit_is_refused() -> None:
    seen = picture((LEFT, RED, 1.5))
    for pixel in ((-1, 0), (0, -1), (WIDTH, 0), (0, HEIGHT)):
        with pytest.raises(ValueError, match="outside of the picture of 512 x 384"):
            grow_region(*seen, [pixel])
        with pytest.raises(ValueError, match="outside of the picture"):
            grow_region(*seen, [(0, 0)], [pixel])
    for tolerance in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            grow_region(*seen, [(0, 0)], tolerance=tolerance)
    with pytest.raises(ValueError, match="depth has shape"):
        grow_region(*seen._replace(depth=seen.depth[:5]), [(0, 0)])
    with pytest.raises(ValueError, match="rgb has shape"):
        grow_region(*seen._replace(rgb=seen.rgb[..., :2]), [(0, 0)])
    with pytest.raises(ValueError, match="identity has shape"):
        grow_region(*seen._replace(identity=torch.zeros(5, 5, 16)), [(0, 0)])
