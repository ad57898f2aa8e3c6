"""Regions of like colour in pictures of which it is known what belongs together."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.masks import EverythingMaker, Picture, load
from gradiseg_ns.masks.levels import paint
from gradiseg_ns.masks.regions import Regions

from .test_wand import BLUE, LEFT, LEFT_SEEN, RED, RIGHT, disc, iou, picture


def best(masks: list, truth: torch.Tensor) -> float:
    return max(iou(mask.pixels, truth) for mask in masks)


def test_things_of_other_colours_are_found() -> None:
    seen = picture((LEFT, RED, 1.5), (RIGHT, BLUE, 1.4))
    maker = load("regions")
    assert isinstance(maker, EverythingMaker)
    found = maker.everything(Picture(seen.rgb))
    assert best(found, LEFT_SEEN) > 0.95 and best(found, RIGHT) > 0.95
    whole = [mask for mask in found if mask.level == 0]
    assert best(whole, LEFT_SEEN) > 0.95 and best(whole, RIGHT) > 0.95
    assert len(whole) < 12, "noise is no object"
    scores = [mask.score for mask in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= s <= 1 for s in scores)
    covered = sum(mask.pixels.int() for mask in whole)
    assert int(covered.max()) == 1, "regions of one level never overlap"  # type: ignore[union-attr]


def test_depth_parts_what_is_of_one_colour() -> None:
    seen = picture((LEFT, RED, 1.6), (RIGHT, RED, 1.0))
    assert best(Regions().everything(Picture(seen.rgb)), RIGHT) < 0.8
    found = Regions().everything(Picture(seen.rgb, seen.alpha, seen.depth))
    assert best(found, RIGHT) > 0.95 and best(found, LEFT_SEEN) > 0.95


def test_identity_parts_what_is_of_one_colour() -> None:
    seen = picture((LEFT, RED, 1.5), (RIGHT, RED, 1.5))
    identity = torch.zeros(*seen.rgb.shape[:2], 16)
    identity[RIGHT, 0] = 1.0
    found = Regions().everything(Picture(seen.rgb, seen.alpha, seen.depth, identity))
    assert best(found, RIGHT) > 0.95


def test_parts_lie_in_their_object() -> None:
    """A dark stripe on a red disc is a part of it, and the disc is whole."""
    stripe = LEFT & (torch.arange(512)[None] > 150) & (torch.arange(512)[None] < 190)
    seen = picture((LEFT, RED, 1.5), (stripe, (0.72, 0.17, 0.13), 1.5), noise=0.002)
    found = Regions().everything(Picture(seen.rgb))
    whole = [mask for mask in found if mask.level == 0]
    assert best(whole, LEFT) > 0.95
    assert best([mask for mask in found if mask.level > 0], stripe) > 0.8
    painted = paint(found, 384, 512)
    inside = {painted.parent[k] for k, level in enumerate(painted.level) if level > 0}
    assert 0 not in inside and len(painted.maps) > 1


def test_empty_pixels_are_in_no_region_and_other_sizes_do() -> None:
    alpha = torch.ones(90, 1300)
    alpha[:, 900:] = 0
    rgb = torch.full((90, 1300, 3), 0.4)
    ball = disc(300, 45, 30, 90, 1300)
    rgb[ball] = torch.tensor(RED)
    found = Regions().everything(Picture(rgb, alpha))
    assert best(found, ball) > 0.9
    assert not any(mask.pixels[:, 903:].any() for mask in found)
    assert Regions().everything(Picture(rgb, torch.zeros(90, 1300))) == []
    assert len(Regions().everything(Picture(torch.rand(1, 1, 3)))) <= 1
    with pytest.raises(ValueError, match=r"depth has shape \[5, 5\]"):
        Regions().everything(Picture(rgb, depth=torch.zeros(5, 5)))
