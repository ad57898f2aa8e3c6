"""The wand as a maker of masks: clicks, boxes, and masks that are roughly right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradiseg_ns.masks import Picture, PromptMaker, load
from gradiseg_ns.masks.wand import Wand, grow_region

from .test_wand import BLUE, LEFT, LEFT_SEEN, RED, RIGHT, iou, picture

SEEN = picture((LEFT, RED, 1.5), (RIGHT, BLUE, 1.2))
PHOTO = Picture(SEEN.rgb)
RENDER = Picture(SEEN.rgb, SEEN.alpha, SEEN.depth)


def test_clicks_are_those_of_the_wand() -> None:
    maker = load("wand")
    assert isinstance(maker, PromptMaker)
    found = maker.prompted(RENDER, [(180, 190)], [(400, 300)])
    assert torch.equal(found.pixels, grow_region(*SEEN, [(180, 190)], [(400, 300)]))
    assert iou(maker.prompted(PHOTO, [(150, 190)]).pixels, LEFT_SEEN) > 0.95, "a photo has no depth"


@pytest.mark.parametrize("seen", [PHOTO, RENDER])
@pytest.mark.parametrize(("box", "truth"), [((110, 120, 251, 261), LEFT_SEEN), ((230, 120, 371, 261), RIGHT)])
def test_in_a_box_is_what_is_unlike_its_surroundings(
    seen: Picture, box: tuple[int, int, int, int], truth: torch.Tensor
) -> None:
    if truth is LEFT_SEEN:
        box = (*box[:2], 232, box[3])  # of the left one, the right one hides the rest
    found = Wand().prompted(seen, box=box)
    assert iou(found.pixels, truth) > 0.9
    outside = torch.ones_like(found.pixels)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert not (found.pixels & outside).any()


def test_clicks_and_a_box_go_together() -> None:
    """Of a thing of two colours a click shows one, and the box the rest; a negative click takes away what is in the box, too."""
    both, box = LEFT | RIGHT, (110, 120, 371, 261)
    assert iou(Wand().prompted(RENDER, [(180, 190)]).pixels, both) < 0.6
    assert iou(Wand().prompted(RENDER, [(180, 190)], box=box).pixels, both) > 0.9
    assert (
        iou(Wand().prompted(RENDER, [(180, 190)], [(300, 190), (340, 190)], box=box).pixels, LEFT_SEEN) > 0.9
    )


@pytest.mark.parametrize("seen", [PHOTO, RENDER])
def test_a_rough_mask_gets_a_better_outline(seen: Picture) -> None:
    rough = torch.roll(RIGHT, (4, 5), (0, 1)).float()
    before, found = iou(rough > 0.5, RIGHT), Wand().prompted(seen, mask=rough)
    assert before < 0.93 and iou(found.pixels, RIGHT) > 0.97
    # sure or not, what counts is where it is more than a half
    assert torch.equal(Wand().prompted(seen, mask=0.2 + 0.4 * rough).pixels, found.pixels)


def test_clicks_mend_a_mask() -> None:
    half = RIGHT & (torch.arange(512)[None] > 300)
    both = (LEFT | RIGHT).float()
    assert iou(Wand().prompted(RENDER, [(260, 190)], mask=half.float()).pixels, RIGHT) > 0.95
    assert iou(Wand().prompted(RENDER, negative=[(180, 190)], mask=both).pixels, RIGHT) > 0.95


def test_a_clear_outline_scores_more() -> None:
    faint = picture((LEFT, (0.56, 0.5, 0.45), 2.0), noise=0.0)
    clear = picture((LEFT, RED, 2.0), noise=0.0)
    scores = [Wand().prompted(Picture(p.rgb), mask=LEFT.float()).score for p in (faint, clear)]
    assert 0 <= scores[0] < 0.2 and 0.7 < scores[1] <= 1
    assert Wand().prompted(PHOTO, mask=torch.ones(384, 512)).score == 0, "there is no outline"


def test_nothing_is_found_where_nothing_is() -> None:
    alpha = torch.zeros(384, 512)
    alpha[:, :250] = 1
    seen = Picture(SEEN.rgb, alpha)
    prompts: list[dict[str, Any]] = [
        {"positive": [(400, 100)]},
        {"box": (300, 10, 400, 90)},
        {"mask": RIGHT.float() * 0.3},
    ]
    for prompt in prompts:
        found = Wand().prompted(seen, **prompt)
        assert not found.pixels.any() and found.score == 0
    assert not Wand().prompted(seen, mask=RIGHT.float()).pixels[:, 250:].any()
    wrong: list[dict[str, Any]] = [
        {},
        {"negative": [(1, 1)]},
        {"box": (4, 4, 4, 9)},
        {"box": (0, 0, 513, 9)},
        {"mask": torch.ones(3, 3)},
    ]
    for bad in wrong:
        with pytest.raises(ValueError, match="click|box|mask"):
            Wand().prompted(seen, **bad)
    with pytest.raises(ValueError, match="outside"):
        Wand().prompted(seen, [(512, 0)])


def test_identities_of_many_channels_do() -> None:
    identity = torch.zeros(384, 512, 16)
    identity[RIGHT, 9] = 1.0
    red = picture((LEFT, RED, 1.5), (RIGHT, RED, 1.5))
    seen = Picture(red.rgb, red.alpha, red.depth, identity)
    for prompt in ({"positive": [(300, 190)]}, {"box": (230, 120, 371, 261)}):
        asked: dict[str, Any] = dict(prompt)
        assert iou(Wand().prompted(seen, **asked).pixels, RIGHT) > 0.95
