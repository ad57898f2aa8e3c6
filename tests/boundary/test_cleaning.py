"""Ends that stick out are found where views see them, and drawn in; the other ends stay."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradiseg_ns.boundary.cleaning import REACH, Overshoot, axis_ends, draw_in, find_overshoot, standing
from gradiseg_ns.grouping.densification import rotation_matrices
from gradiseg_ns.rendering import Camera, Gaussians
from tests.devices import here

from .scenes import DEPTH, camera, positions

pytestmark = pytest.mark.usefixtures("device")


def _random(count: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Gaussians(normal(count, 3), normal(count, 4), normal(count, 3).exp(), torch.ones(count).double())


def test_ends_of_axes() -> None:
    gaussians = _random(20)
    ends = axis_ends(gaussians)
    rotations = rotation_matrices(gaussians.quats)
    assert ends.shape == (20, 3, 2, 3)
    for i in range(20):
        for axis in range(3):
            reach = REACH * gaussians.scales[i, axis] * rotations[i][:, axis]
            torch.testing.assert_close(ends[i, axis, 0], gaussians.means[i] - reach)
            torch.testing.assert_close(ends[i, axis, 1], gaussians.means[i] + reach)
    turned = Gaussians(
        torch.zeros(1, 3),
        torch.tensor([[math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)]]),
        torch.tensor([[1.0, 2, 3]]),
        torch.ones(1),
    )
    expected = torch.tensor([[0.0, 1, 0], [-2, 0, 0], [0, 0, 3]])  # a quarter turn about z
    torch.testing.assert_close(axis_ends(turned, 1.0)[0, :, 1], expected)


# ---------------------------------------------------------------- two objects


def _view(x: float, y: float = 0.0) -> tuple[Camera, Tensor, Tensor]:
    """Object 1 is the wall's right half, object 0 its left."""
    view = camera(x, y)
    across, _ = positions(view)
    return view, (across > 0).long(), torch.full(across.shape, DEPTH)


def _rods(quats: Tensor | None = None) -> Gaussians:
    """On the wall: a rod of object 0 that sticks out to the right, one of object 1 that does not, one of object 1 that
    sticks out to the left."""
    means = torch.tensor([[-0.3, 0.0, DEPTH], [1.0, 0.4, DEPTH], [0.2, -0.5, DEPTH]])
    scales = torch.tensor([[0.4, 0.05, 0.01], [0.4, 0.05, 0.01], [0.4, 0.05, 0.01]])
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(3, 1) if quats is None else quats
    return Gaussians(means, quats, scales, torch.ones(3))


LABELS = torch.tensor([0, 1, 1])


def test_the_end_that_sticks_out_is_found_and_no_other() -> None:
    views = [_view(x, y) for x, y in ((-0.2, 0.2), (0.0, 0.0), (0.3, -0.2))]
    found = find_overshoot(_rods(), LABELS.to(here()), views)
    expected = torch.zeros(3, 3, 2, dtype=torch.bool)
    expected[0, 0, 1] = expected[2, 0, 0] = True
    assert torch.equal(found.ends(), expected)
    assert torch.equal(found.outside, 3 * expected.long())
    assert found.views[:, 0].tolist() == [[3, 3], [3, 3], [3, 3]]
    assert found.views[:, 2].tolist() == [[0, 0], [0, 0], [0, 0]], "too short to be told from the centre"


def test_the_axis_is_the_gaussians_own() -> None:
    # the second axis lies along -x now: a quarter turn about z
    quarter = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)]).repeat(3, 1)
    gaussians = replace(_rods(quarter), scales=_rods().scales[:, [1, 0, 2]])
    found = find_overshoot(gaussians, LABELS.to(here()), [_view(-0.4), _view(0.0)])
    expected = torch.zeros(3, 3, 2, dtype=torch.bool)
    expected[0, 1, 0] = expected[2, 1, 1] = True
    assert torch.equal(found.ends(), expected)


def test_hidden_ends_and_hidden_centres_have_no_say() -> None:
    view, classes, depth = _view(0.0)
    across, _ = positions(view)
    before = torch.where((across > 0.2) & (across < 0.6), 2.0, depth)  # something stands before the end
    found = find_overshoot(_rods(), LABELS.to(here()), [(view, classes, before)] * 3)
    assert found.views[0, 0].tolist() == [3, 0]
    assert not found.ends()[0].any()
    before = torch.where(across < 0, 2.0, depth)  # before the centre
    hidden = find_overshoot(_rods(), LABELS.to(here()), [(view, classes, before)] * 3)
    assert not hidden.views[0].any()
    assert hidden.views[2, 0].tolist() == [0, 3], "the third is seen, but not its left end"
    nearly = find_overshoot(_rods(), LABELS.to(here()), [(view, classes, depth * 0.99)] * 3)
    assert nearly.ends()[0, 0].tolist() == [False, True], "the depth of a splat is not that exact"


def test_views_that_show_another_object_at_the_centre_have_no_say() -> None:
    view, classes, depth = _view(0.0)
    found = find_overshoot(_rods(), LABELS.to(here()), [(view, 1 - classes, depth)] * 3)
    assert not found.views.any()
    holes = torch.where(classes == 0, -1, classes)  # at the first centre, not at its end
    unknown = find_overshoot(_rods(), torch.full((3,), -1), [(view, holes, depth)] * 3)
    assert not unknown.views.any()


def test_unlabelled_pixels_and_pixels_off_the_picture_have_no_say() -> None:
    view, classes, depth = _view(0.0)
    holes = torch.where(classes == 1, -1, classes)
    found = find_overshoot(_rods(), LABELS.to(here()), [(view, holes, depth)] * 3)
    assert found.views[0, 0].tolist() == [3, 0] and not found.views[1:].any()
    aside = find_overshoot(_rods(), LABELS.to(here()), [_view(-2.1)] * 3)  # the picture ends at -0.1
    assert aside.views[0, 0].tolist() == [3, 0] and not aside.views[1:].any()
    assert not find_overshoot(
        _rods(), LABELS.to(here()), [_view(0.0, 2.0)]
    ).views.any()  # the picture begins below
    assert not find_overshoot(_rods(), LABELS.to(here()), [_view(0.0, -2.1)]).views.any()


def test_a_centre_behind_the_camera_has_no_say() -> None:
    turn = math.atan(0.1)
    rod = Gaussians(  # from behind the camera's centre to the wall
        torch.tensor([[0.0, 0, -1]]),
        torch.tensor([[math.cos(turn / 2), 0, math.sin(turn / 2), 0]]),
        torch.tensor([[0.01, 0.01, 4.9 / REACH]]),
        torch.ones(1),
    )
    before = replace(rod, means=rod.means + torch.tensor([0, 0, 1.1]), scales=rod.scales * 3.7 / 4.9)
    labels = torch.ones(1, dtype=torch.int64)
    assert not find_overshoot(rod, labels, [_view(0.0)]).views.any()
    assert find_overshoot(before, labels, [_view(0.0)]).views[0, 2].tolist() == [0, 1]


def test_how_often_an_end_has_to_stick_out() -> None:
    outside = torch.tensor([1, 2, 3, 4, 6, 0]).reshape(1, 3, 2)
    views = torch.tensor([1, 2, 5, 6, 10, 0]).reshape(1, 3, 2)
    overshoot = Overshoot(outside, views)
    assert overshoot.ends().flatten().tolist() == [False, True, False, True, False, False]
    assert overshoot.ends(0.5).flatten().tolist() == [False, True, True, True, True, False]


# --------------------------------------------------------------------- draw in


def test_drawing_an_end_in_leaves_the_other_where_it_is() -> None:
    gaussians = _random(60)
    chosen = torch.zeros(60, 3, 2, dtype=torch.bool)
    index = torch.arange(60)
    chosen[index, index % 3, index // 3 % 2] = True
    means, scales = draw_in(gaussians.means, gaussians.quats, gaussians.scales.log(), chosen, kept=0.5)
    assert means.dtype == scales.dtype == torch.float64
    before = axis_ends(gaussians)
    after = axis_ends(replace(gaussians, means=means, scales=scales.exp()))
    axis, end = index % 3, index // 3 % 2
    torch.testing.assert_close(after[index, axis, 1 - end], before[index, axis, 1 - end], rtol=0, atol=1e-6)
    half = (gaussians.means + before[index, axis, end]) / 2
    torch.testing.assert_close(after[index, axis, end], half, rtol=0, atol=1e-6)
    others = torch.ones(60, 3, dtype=torch.bool)
    others[index, axis] = False
    assert torch.equal(scales[others], gaussians.scales.log()[others])


def test_drawing_several_ends_in() -> None:
    gaussians = _random(1)
    chosen = torch.tensor([[[True, True], [False, True], [True, False]]])
    means, scales = draw_in(gaussians.means, gaussians.quats, gaussians.scales.log(), chosen, kept=0.25)
    shrink = (scales - gaussians.scales.log()).exp()
    torch.testing.assert_close(shrink, torch.tensor([[0.25, 0.625, 0.625]]).double(), rtol=1e-6, atol=0)
    shift = (means - gaussians.means) @ rotation_matrices(gaussians.quats)[0]  # along its own axes
    expected = torch.tensor([[0, -0.375, 0.375]]).double() * REACH * gaussians.scales
    torch.testing.assert_close(shift, expected)


def test_without_overshoot_nothing_changes() -> None:
    gaussians = _random(5)
    nothing = torch.zeros(5, 3, 2, dtype=torch.bool)
    means, scales = draw_in(gaussians.means, gaussians.quats, gaussians.scales.log(), nothing)
    assert torch.equal(means, gaussians.means) and torch.equal(scales, gaussians.scales.log())


def test_a_few_rounds_bring_ends_home() -> None:
    gaussians = _rods()
    views = [_view(x) for x in (-0.4, 0.0, 0.3)]
    rounds = 0
    while (ends := find_overshoot(gaussians, LABELS.to(here()), views).ends()).any():
        means, scales = draw_in(gaussians.means, gaussians.quats, gaussians.scales.log(), ends)
        gaussians = replace(gaussians, means=means, scales=scales.exp())
        rounds += 1
        assert rounds <= 4
    assert rounds >= 1
    ends = axis_ends(gaussians)[:, 0, :, 0]
    assert float(ends[0, 1]) < 0.07 and float(ends[2, 0]) > -0.07  # a pixel is 1/16
    torch.testing.assert_close(ends[0, 0], torch.tensor(-0.3 - REACH * 0.4))
    torch.testing.assert_close(ends[2, 1], torch.tensor(0.2 + REACH * 0.4))


def test_where_points_stand() -> None:
    points = torch.tensor([[-0.5, 0, DEPTH], [0.5, 0, DEPTH], [0.5, 0, DEPTH + 1], [50, 0, DEPTH]]).to(here())
    views = [_view(x) for x in (-0.2, 0.0, 0.2)]
    views = [
        (v._replace(viewmat=v.viewmat.to(here()), K=v.K.to(here())), m.to(here()), d.to(here()))
        for v, m, d in views
    ]
    assert standing(points, 2, views).tolist() == [0, 1, -1, -1], (
        "behind the wall or beside the picture: no view tells"
    )
    views[0] = (views[0][0], 1 - views[0][1], views[0][2])  # one wrong map of three
    assert standing(points, 2, views).tolist() == [0, 1, -1, -1]
