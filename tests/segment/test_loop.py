"""One click, a phrase, or everything, on the tiny scene, with makers of masks that know the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import Mask, Picture
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.segment.evidence import Evidence, inside_outside
from gradiseg_ns.segment.hierarchy import LONGEST
from gradiseg_ns.segment.loop import (
    Click,
    SegmentError,
    Sight,
    Views,
    _Guess,
    find_object,
    find_phrase,
    prompt_pixels,
    rendered,
    resized,
    see,
    segment_from_clicks,
)

from .tiny import RED, Tiny, iou


class Exact:
    """Knows the mask of every picture of some views."""

    def __init__(self, tiny: Tiny, views: Views, object_class: int = RED) -> None:
        self.masks = [m == object_class for m in tiny.maps]
        self.views, self.wrong, self.asked = views, dict[int, Tensor](), list[int]()

    def prompted(
        self,
        picture: Picture,
        positive: Sequence = (),
        negative: Sequence = (),
        *,
        box: Any = None,
        mask: Any = None,
    ) -> Mask:
        view = self.views.view_of(picture)
        self.asked.append(view)
        return Mask(self.wrong.get(view, self.masks[view]))

    def phrases(self, picture: Picture, phrases: Sequence[str]) -> list[Mask]:
        found = self.prompted(picture).pixels
        return [Mask(found, phrase=phrases[0])] if phrases[0] == "red ball" else []


def test_one_click_finds_the_object_and_ends_early(tiny: Tiny) -> None:
    views = tiny.views()
    found = find_object(tiny.gaussians, views, Exact(tiny, views), [tiny.click()])
    assert iou(tiny, found.selected) > 0.9
    assert found.settled and len(found.views) < len(views), "nothing changed any more"
    assert len(set(found.views)) == len(found.views)
    floor = tiny.truth == 0
    assert not bool((found.selected & floor & (found.confidence > 0.9)).any())
    assert float(found.confidence[found.selected].mean()) > 0.8


def test_sights_of_large_splats_are_let_go(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiseg_ns.segment.loop.KEPT", 3 * (64 * len(tiny.splat) + 32 * 96 * 72))
    views, before = tiny.views(), tiny.looked
    for view in (0, 1, 2, 2, 0, 3, 0, 1):
        views.sight(view)
    assert tiny.looked - before == 5, "0, 1, 2, 3, and 1 again"


def test_clicks_are_in_pixels_of_the_camera(tiny: Tiny) -> None:
    """Pictures are smaller than the cameras, and clicks are not."""
    views = Views(lambda camera: see(tiny.splat, camera), tiny.cameras, height=36)
    small = [m[::2, ::2] for m in tiny.maps]
    maker = Exact(tiny, views)
    maker.masks = [m == RED for m in small]
    assert iou(tiny, find_object(tiny.gaussians, views, maker, [tiny.click()]).selected) > 0.85


def test_views_are_added_and_given_up(tiny: Tiny) -> None:
    looked: list[int] = []

    def look(camera: rendering.Camera) -> Sight:
        looked.append(camera.height)
        return see(tiny.splat, camera)

    views = Views(look, tiny.cameras[:2], height=36)
    views.add(tiny.cameras[2:4])
    assert len(views) == len(views.given) == 4 and views.given[3] is tiny.cameras[3]
    assert [camera.height for camera in views.cameras] == [36] * 4
    kept, given_up = views.sight(1), views.sight(3)
    assert views.weights(tiny.gaussians).shape == (4, len(tiny.gaussians))
    views.keep(2)
    assert len(views) == 2 and len(views.weights(tiny.gaussians)) == 2 and views.sight(1) is kept
    views.add(tiny.cameras[3:4])
    before = len(looked)
    assert views.sight(2) is not given_up and len(looked) == before + 1, "it is another view now"


def test_a_mask_that_contradicts_the_others_does_not_count(tiny: Tiny) -> None:
    views = tiny.views()
    maker = Exact(tiny, views)
    first = find_object(tiny.gaussians, views, maker, [tiny.click()])
    bad = first.views[3]
    maker.wrong[bad] = ~maker.masks[bad]
    found = find_object(tiny.gaussians, views, maker, [tiny.click()])
    assert bad in found.skipped and bad not in found.views
    assert iou(tiny, found.selected) > 0.9


def test_a_click_whose_mask_is_a_spot_still_finds_the_object(tiny: Tiny) -> None:
    """Of a printed thing a click's own mask is a letter. Its shape says more."""
    views = tiny.views()
    maker = Exact(tiny, views)
    click = tiny.click()
    prompted = maker.prompted

    def spot(picture: Picture, positive: Sequence = (), negative: Sequence = (), **hints: Any) -> Mask:
        if len(positive) == 1 and not negative:
            mask = torch.zeros_like(maker.masks[0])
            x, y = positive[0]
            mask[y : y + 2, x : x + 2] = True
            return Mask(mask)
        return prompted(picture, positive, negative, **hints)

    maker.prompted = spot  # type: ignore[method-assign]
    found = find_object(tiny.gaussians, views, maker, [click])
    assert iou(tiny, found.selected) > 0.9


def test_few_views_when_few_are_allowed(tiny: Tiny) -> None:
    views = tiny.views()
    steps: list[tuple[int, int]] = []
    found = find_object(
        tiny.gaussians, views, Exact(tiny, views), [tiny.click()], most_views=4,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert len(found.views) + len(found.skipped) <= 4 and not found.settled
    assert steps[-1] == (4, 4)


@pytest.mark.parametrize(
    "clicks, said",
    [
        ([Click(99, 3, 3)], "there is no view 99: expected 0 to"),
        ([Click(-1, 3, 3)], "there is no view -1"),
        ([Click(0, 96, 3)], "outside of view 0, which has 96 x 72 pixels"),
        ([Click(0, -0.5, 3)], "outside of view 0"),
        ([], "there is no click"),
        ([Click(0, 40, 40, outside=True)], "expected one on it, too"),
    ],
)
def test_wrong_clicks_are_told(tiny: Tiny, clicks: list[Click], said: str) -> None:
    views = tiny.views()
    with pytest.raises(SegmentError, match=said):
        find_object(tiny.gaussians, views, Exact(tiny, views), clicks)


def test_a_click_on_the_sky_is_told(tiny: Tiny) -> None:
    ball = tiny.splat.select(tiny.truth == RED)
    views = Views(lambda camera: see(ball, camera), tiny.cameras)
    with pytest.raises(SegmentError, match="nothing is there: the click in view 0"):
        find_object(ball.gaussians(), views, Exact(tiny, views), [Click(0, 1, 1)])


def test_a_person_may_say_that_it_is_larger_or_smaller(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the sets at a click: half of the ball, and the ball."""
    ball, height = tiny.truth == RED, tiny.gaussians.means[:, 2]
    half = ball & (height > height[ball].median())

    class Two:
        known = torch.ones_like(ball)

        def around(self, seeds: Tensor) -> list[tuple[Tensor, float]]:
            return [(half, 5.0), (ball, 0.0)]

    views = tiny.views()
    monkeypatch.setattr(views, "solids", lambda gaussians: Two())

    class Silent(Exact):
        """Nothing in the pictures tells."""

        def prompted(self, picture: Picture, *args: Any, **kwargs: Any) -> Mask:
            return Mask(torch.zeros_like(self.masks[0]))

    maker = Silent(tiny, views)
    click = [tiny.click()]
    found = find_object(tiny.gaussians, views, maker, click, most_views=4)
    assert found.start is not None and torch.equal(found.start, half)
    assert found.other_size(larger=False) is None
    wider = find_object(
        tiny.gaussians, views, maker, click, start=found.other_size(larger=True), most_views=4
    )
    assert torch.equal(wider.selected, ball), "no mask is like it: it is what the person said"
    assert wider.other_size(larger=True) is None
    narrower = wider.other_size(larger=False)
    assert narrower is not None and torch.equal(narrower, half)


def test_a_large_set_that_nothing_doubles_may_be_a_crowd() -> None:
    def guess(wait: float, share: float) -> float:
        return _Guess(Evidence(10), [0], [(torch.zeros(2, 2), 1.0, 0.8)], wait, share).score

    assert guess(LONGEST, 0.1) > guess(LONGEST - 1, 0.1), "who waits longer is the thing"
    assert guess(LONGEST, 0.3) < guess(LONGEST - 1, 0.3) == guess(LONGEST - 1, 0.1)


def test_a_phrase_is_counted_over_views(tiny: Tiny) -> None:
    views = tiny.views()
    maker = Exact(tiny, views)
    maker.wrong = {0: ~maker.masks[0], 3: torch.zeros_like(maker.masks[3])}
    found = find_phrase(tiny.gaussians, views, maker, "red ball", prompts=None, most_views=10)
    assert iou(tiny, found.selected) > 0.9
    assert 0 not in found.views
    with pytest.raises(SegmentError, match="nothing is like the phrase 'green cube'"):
        find_phrase(tiny.gaussians, views, maker, "green cube")


def test_the_viewers_call(tiny: Tiny) -> None:
    clicks = [tiny.click(0), tiny.click(1)]
    selected, confidence = segment_from_clicks(tiny.splat, tiny.cameras, Wand(), clicks, most_views=6)
    assert selected.dtype == torch.bool and len(confidence) == len(tiny.splat)
    assert iou(tiny, selected) > 0.85, "the wand alone"
    both = segment_from_clicks(
        (tiny.gaussians, lambda camera: see(tiny.splat, camera)), tiny.cameras, Wand(), clicks, most_views=6
    )  # fmt: skip
    assert torch.equal(both[0], selected)


# ------------------------------------------------------------------------------------------------------- evidence


def test_evidence_saturates(tiny: Tiny) -> None:
    evidence = Evidence(2)
    evidence.add(torch.tensor([[1000.0, 0.0], [1.0, 0.0]]))
    assert float(evidence.inside[0]) == pytest.approx(1, abs=1e-2) and float(evidence.inside[1]) == 0.5
    for _ in range(2):
        evidence.add(torch.tensor([[0.0, 1000.0], [0.0, 0.0]]))
    assert evidence.selected.tolist() == [False, True], "two views against one, however near that was"
    assert 0 < float(evidence.confidence[0]) < float(evidence.confidence[1]) < 1
    assert float(Evidence(1).mean) == 0.5 and float(Evidence(1).confidence) == 0.0


def test_evidence_is_rendered_where_it_is(tiny: Tiny) -> None:
    views = tiny.views()
    sight = views.sight(0)
    evidence = Evidence(len(tiny.splat))
    mask = tiny.maps[0] == RED
    evidence.add(inside_outside(sight.projection, mask))
    mean, sure = rendered(sight.projection, evidence)
    assert float(((mean > 0.5) == mask).float().mean()) > 0.97
    assert sight.picture.alpha is not None
    positive, negative = prompt_pixels(mean, sure, sight.picture.alpha)
    assert positive and negative
    assert all(bool(mask[y, x]) for x, y in positive) and not any(bool(mask[y, x]) for x, y in negative)


def test_smaller_cameras_see_the_same() -> None:
    camera = rendering.Camera(
        torch.eye(4), torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), 100, 80
    )  # fmt: skip
    small = resized(camera, 40)
    assert (small.width, small.height) == (50, 40) and small.K.tolist() == [
        [50, 0, 25],
        [0, 50, 20],
        [0, 0, 1],
    ]
    assert resized(camera, 200) is camera
