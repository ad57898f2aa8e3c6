"""Everything at once: masks that are right, masks of parts, and which of shape and masks is believed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import Mask, Picture
from gradiseg_ns.segment import everything as room
from gradiseg_ns.segment.everything import Packed, _fit, _joined, _sums_of, find_everything
from gradiseg_ns.segment.loop import SegmentError, Views

from .tiny import Tiny, iou


class Everything:
    """Knows all masks, with ids that are unrelated between views."""

    def __init__(self, tiny: Tiny, views: Views) -> None:
        self.maps, self.views = tiny.maps, views

    def everything(self, picture: Picture) -> list[Mask]:
        view = self.views.view_of(picture)
        order = [(k + view) % 3 for k in range(3)]
        whole = [Mask(self.maps[view] == k) for k in order]
        part = whole[0].pixels.clone()
        part[::2] = False
        return [*whole, Mask(part, level=1)]


class Pieces(Everything):
    """Calls the left and the right third of every ball an object, and what is between them, too: in half of the views the whole ball."""

    def everything(self, picture: Picture) -> list[Mask]:
        view = self.views.view_of(picture)
        found = [Mask(self.maps[view] == 0)]
        for ball in (1, 2):
            whole = self.maps[view] == ball
            if view % 2:
                found.append(Mask(whole))
                continue
            columns = whole.any(dim=0).nonzero()[:, 0]
            for some in columns.tensor_split(3):
                piece = torch.zeros_like(whole)
                piece[:, some] = whole[:, some]
                found.append(Mask(piece))
        return found


def best(tiny: Tiny, classes: Tensor, ball: int) -> float:
    """IoU of the class that most of a ball has."""
    members = classes[(tiny.truth == ball) & (classes > 0)]
    values, counts = members.unique(return_counts=True)
    return iou(tiny, classes == int(values[counts.argmax()]), ball)


def test_every_object_has_one_class(tiny: Tiny) -> None:
    views, stages = tiny.views(), set[str]()
    labels = find_everything(
        tiny.gaussians, views, Everything(tiny, views), most_views=8, progress=lambda s, *_: stages.add(s)
    )
    for ball in (1, 2):
        assert best(tiny, labels.classes, ball) > 0.85
    assert ((labels.confidence >= 0) & (labels.confidence <= 1)).all()
    assert {"Making masks", "Comparing masks"} <= stages
    seen = views.weights(tiny.gaussians).float().sum(dim=0) > 1
    assert (labels.classes[seen] >= 0).all(), "-1 is for what no view sees"


def test_pieces_of_things_are_joined_by_the_shape(tiny: Tiny) -> None:
    views = tiny.views()
    labels = find_everything(tiny.gaussians, views, Pieces(tiny, views), most_views=8)
    for ball in (1, 2):
        assert best(tiny, labels.classes, ball) > 0.85


def test_no_masks_at_all_is_told(tiny: Tiny) -> None:
    class Nothing:
        def everything(self, picture: Picture) -> list[Mask]:
            return []

    with pytest.raises(SegmentError, match="no mask in any of 4 views"):
        find_everything(tiny.gaussians, tiny.views(), Nothing(), most_views=4)


def test_masks_that_fit_nothing_are_told(tiny: Tiny) -> None:
    class Specks:
        """A pixel in a corner."""

        def everything(self, picture: Picture) -> list[Mask]:
            pixels = torch.zeros(picture.rgb.shape[:2], dtype=torch.bool)
            pixels[:2, :2] = True
            return [Mask(pixels)]

    views = tiny.views()
    with pytest.raises(SegmentError, match=r"view"):
        find_everything(tiny.gaussians, views, Specks(), most_views=4)


def test_packed_masks_are_the_masks() -> None:
    masks = [Mask(torch.rand(7, 9) > 0.5) for _ in range(3)]
    packed = Packed(masks, 7, 9)
    assert len(packed) == 3
    assert all(torch.equal(packed.pixels(k), mask.pixels) for k, mask in enumerate(masks))
    some = packed.only([2, 0])
    assert len(some) == 2
    assert torch.equal(some.pixels(0), masks[2].pixels) and torch.equal(some.pixels(1), masks[0].pixels)


def test_the_fit_is_the_iou_of_weights(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_AT_ONCE", 2)  # several rounds
    camera = tiny.cameras[0]
    masks = [tiny.maps[0] == k for k in range(3)]
    projection = rendering.project(tiny.gaussians, camera)
    packed = Packed([Mask(m) for m in masks], camera.height, camera.width)
    found, pixels, shown = _fit(projection, packed, _sums_of(tiny.truth))
    for k in range(3):
        share, _ = rendering.render(tiny.gaussians, camera, (tiny.truth == k).float()[:, None])
        assert float(pixels[k]) == pytest.approx(float(share.sum()), rel=1e-4)
        for j, mask in enumerate(masks):
            both = float(share[..., 0][mask].sum())
            assert float(found[k, j]) == pytest.approx(
                both / (float(share.sum()) + float(mask.sum()) - both), rel=1e-3
            )
    weight = rendering.backproject(tiny.gaussians, camera, torch.ones(camera.height, camera.width, 1))
    assert torch.allclose(shown, weight[:, 0], rtol=1e-4, atol=1e-4)


def joined(groups: dict[tuple[int, int], float], things: dict[tuple[int, int], float]) -> list[int]:
    """Classes of 400 Gaussians, from groups and things, both as ranges and how well they are confirmed."""
    labels = []
    for sets in (things, groups):
        of = torch.full((400,), -1)
        for k, (first, last) in enumerate(sets):
            of[first:last] = k
        labels += [of, torch.tensor(list(sets.values()))]
    return _joined(*labels, torch.ones(400)).tolist()  # type: ignore[arg-type]


def test_a_group_that_is_a_part_of_a_thing_stays_a_part() -> None:
    found = joined({(0, 50): 0.95}, {(0, 200): 0.5})
    assert set(found[:200]) == {0} and set(found[200:]) == {-1}


def test_a_group_that_masks_confirm_better_takes_the_place_of_a_thing() -> None:
    assert joined({(20, 200): 0.9}, {(0, 200): 0.7}) == [0] * 20 + [1] * 180 + [-1] * 200
    assert joined({(20, 200): 0.9}, {(0, 200): 0.88})[:200] == [0] * 200, "not for a little"
    assert joined({(0, 200): 0.5}, {(0, 200): 0.3})[:200] == [0] * 200, "masks do not confirm it either"


def test_a_group_without_a_thing_is_one_and_takes_nothing_from_others() -> None:
    """Such as a table, whose masks hold a thing that stands on it."""
    found = joined({(0, 400): 0.9}, {(100, 120): 0.4})
    assert set(found[100:120]) == {0} and set(found[:100] + found[120:]) == {1}
    assert joined({(0, 30): 0.9}, {(100, 200): 0.4})[:30] == [-1] * 30, "it is too small"
