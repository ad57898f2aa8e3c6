"""Which views of an object are taken, and what a crop shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiseg_ns.segment.cameras import look_at
from gradiseg_ns.words.views import View, crop_of, object_views, sights

HEIGHT, WIDTH = 60, 80


def view(*boxes: tuple[int, int, int, int, int], degrees: float = 0.0, picture: Tensor | None = None) -> View:
    """Rectangles (id, x0, y0, x1, y1) seen by a camera that goes around the origin."""
    turn = math.radians(degrees)
    eye = torch.tensor([3 * math.cos(turn), 3 * math.sin(turn), 0.0])
    camera = look_at(eye, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), WIDTH, HEIGHT)
    ids = torch.full((HEIGHT, WIDTH), -1, dtype=torch.int32)
    for id, x0, y0, x1, y1 in boxes:
        ids[y0:y1, x0:x1] = id
    return View(camera, ids, torch.zeros(HEIGHT, WIDTH, 3) if picture is None else picture)


def test_the_largest_whole_view_is_first_and_others_show_other_sides() -> None:
    views = [
        view((3, 30, 20, 45, 35), degrees=0),
        view((3, 30, 20, 50, 40), degrees=2),
        view((3, 30, 20, 49, 39), degrees=4),
        view((3, 32, 20, 48, 36), degrees=90),
        view((3, 0, 20, 30, 50), degrees=180),  # cut off
        view((3, 30, 20, 38, 28), degrees=270),  # far away
    ]
    best = object_views(views, most=2)[3]
    assert [s.view for s in best] == [1, 3]
    assert {s.view for s in object_views(views, most=9)[3]} == {0, 1, 2, 3, 4}, (
        "the one from far away is no help"
    )
    assert [s.whole for s in sorted(object_views(views, most=9)[3], key=lambda s: s.view)] == [True] * 4 + [
        False
    ]


def test_cut_off_is_what_lies_along_the_border_not_what_touches_it() -> None:
    ids = torch.full((HEIGHT, WIDTH), -1, dtype=torch.int32)
    for row in range(30):  # a triangle whose tip is at the upper border
        ids[row, 40 - row : 41 + row] = 5
    seen = next(iter(sights(0, View(view().camera, ids, torch.zeros(HEIGHT, WIDTH, 3)))))
    assert seen.whole and seen.box == (11, 0, 70, 30)
    assert not next(iter(sights(0, view((5, 30, 40, 50, 60))))).whole


def test_specks_do_not_stretch_a_box_but_a_thing_behind_another_stays_whole() -> None:
    one = view((1, 10, 10, 30, 40), (2, 16, 10, 20, 40), (1, 70, 50, 72, 52))
    seen = {s.id: s for s in sights(4, one)}
    assert seen[1].box == (10, 10, 30, 40) and seen[1].view == 4
    assert seen[1].share == pytest.approx(16 * 30 / (HEIGHT * WIDTH)) and int(seen[1].mask.sum()) == 16 * 30
    assert seen[2].box == (16, 10, 20, 40)


def test_what_is_too_small_and_what_has_no_id_is_left_out() -> None:
    assert object_views([view((4, 10, 10, 14, 14)), view()]) == {}
    assert list(object_views([view((9, 0, 0, 10, 10), (0, 20, 20, 40, 40))])) == [0, 9]


def test_directions_go_from_the_camera_to_the_object() -> None:
    middle = object_views([view((1, 30, 20, 50, 40), degrees=90)])[1][0]
    np.testing.assert_allclose(middle.direction, (0.0, -1.0, 0.0), atol=1e-6)
    left = object_views([view((1, 0, 20, 20, 40), degrees=90)])[1][0]
    # from (0, 3, 0), looking along -y, left is towards +x
    assert left.direction[0] > 0.2 and left.direction[2] == pytest.approx(0.0, abs=1e-6)


def test_a_crop_keeps_the_object_and_softens_the_rest() -> None:
    stripes = torch.zeros(HEIGHT, WIDTH, 3)
    stripes[:, ::2, 1] = 1.0
    stripes[20:40, 10:50] = torch.tensor([1.0, 0.0, 0.0])
    one = view((1, 10, 20, 50, 40), picture=stripes)
    crop = crop_of(one, object_views([one])[1][0])
    assert crop.shape == (52, 52, 3), "a square of the longer side and its margins"
    torch.testing.assert_close(crop[16:36, 6:46], stripes[20:40, 10:50])
    rest = crop[:12]
    assert float(rest.std(dim=1).max()) < 0.12, "no stripes any more"
    assert 0.3 < float(rest[..., 1].mean()) < 0.6


def test_cracks_of_a_mask_are_closed_but_holes_stay() -> None:
    one = view((1, 10, 10, 60, 50), picture=torch.ones(HEIGHT, WIDTH, 3))
    one.ids[12:48, 20] = one.ids[30, 25:50] = 2
    one.ids[20:30, 30:50] = -1
    one.picture[one.ids < 0] = 0.0
    crop = crop_of(one, object_views([one])[1][0])
    left, top = 10 - 35 + 33, 10 - 30 + 33  # the corner of the crop is at (2, -3)
    assert float(crop[top + 20, left + 10].min()) == pytest.approx(1.0), "a crack of one pixel"
    assert float(crop[top + 15, left + 30].max()) < 0.9, "a hole"


def test_beyond_the_border_a_crop_is_grey() -> None:
    white = torch.ones(HEIGHT, WIDTH, 3)
    one = view((1, 0, 0, 20, 60), picture=white)
    crop = crop_of(one, object_views([one])[1][0])
    assert crop.shape[0] == crop.shape[1] == 78
    assert float(crop[39, 0].max()) < 0.6 and float(crop[39, 39].min()) == pytest.approx(1.0)


def test_photos_may_have_more_pixels_and_large_crops_are_made_smaller() -> None:
    photo = torch.zeros(4 * HEIGHT, 4 * WIDTH, 3, dtype=torch.uint8)
    photo[80:160, 120:200] = 255
    one = view((1, 30, 20, 50, 40), picture=photo)
    seen = object_views([one])[1][0]
    crop = crop_of(one, seen)
    assert crop.shape == (104, 104, 3) and crop.dtype == torch.float32
    assert float(crop[14:90, 14:90].min()) > 0.99
    assert crop_of(one, seen, size=40).shape == (40, 40, 3)
    small = View(one.camera, one.ids, torch.ones(6, 8, 3))
    assert crop_of(small, seen).shape == (3, 3, 3)


def test_other_shapes_are_refused() -> None:
    good = view((1, 30, 20, 50, 40))
    with pytest.raises(ValueError, match=r"view 3 has ids of shape \[60, 80, 1\]"):
        list(sights(3, View(good.camera, good.ids[..., None], good.picture)))
    with pytest.raises(ValueError, match=r"a picture of shape \[60, 80\]"):
        list(sights(3, View(good.camera, good.ids, good.picture[..., 0])))
