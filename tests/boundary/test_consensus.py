"""What becomes of masks that the views outvote, on a wall with two boards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.consensus import MIN_SOLID, Consensus, agreed_classes, find_consensus
from gradiseg_ns.votes.labels import render_classes
from tests.devices import here

from .scenes import LEFT, RIGHT, WALL, board, camera, positions, wall

pytestmark = pytest.mark.usefixtures("device")


class Scene(NamedTuple):
    """The wall from one camera."""

    projection: rendering.Projection
    labels: Tensor
    rendered: Tensor
    """[H, W] what the labels show."""
    classes: Tensor
    """[H, W] a map that agrees with it but for an edge."""


def agreed(projection: rendering.Projection, labels: Tensor, classes: Tensor, **options: float) -> Tensor:
    return agreed_classes(projection, labels, classes, **options)[0]


@pytest.fixture
def scene() -> Scene:
    gaussians, labels = wall()
    view = camera()
    projection = rendering.project(gaussians, view)
    rendered, _ = render_classes(projection, labels, min_weight=MIN_SOLID)
    classes = board(*positions(view))
    classes[:, 1:][classes[:, :-1] == RIGHT] = RIGHT  # a column more than is rendered
    return Scene(projection, labels, rendered, classes)


def test_masks_that_agree_keep_their_own_edges(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    assert bool((rendered != classes).any())
    assert torch.equal(agreed(projection, labels, classes), classes)


def test_a_switched_mask_is_replaced(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    switched = torch.where(classes == LEFT, 3, classes)  # an object that no Gaussian belongs to
    found = agreed(projection, labels, switched)
    touched = (switched == 3) | (rendered == LEFT)
    assert torch.equal(found[touched], rendered[touched])
    assert torch.equal(found[~touched], classes[~touched]), "the others keep theirs, edge and all"


def test_two_masks_switched_with_each_other(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    switched = torch.where(classes == LEFT, RIGHT, torch.where(classes == RIGHT, LEFT, classes))
    found = agreed(projection, labels, switched)
    touched = (switched != WALL) | (rendered != WALL)
    assert torch.equal(found[touched], rendered[touched])
    assert bool((found[~touched] == WALL).all())


def test_a_missed_mask_is_filled_in(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    missed = torch.where(classes == LEFT, WALL, classes)
    found = agreed(projection, labels, missed)
    assert torch.equal(found == LEFT, rendered == LEFT) and bool((found == LEFT).any())
    assert torch.equal(found == RIGHT, classes == RIGHT)


def test_unlabelled_pixels_stay_unlabelled(scene: Scene) -> None:
    projection, labels, _, classes = scene
    holes = classes.clone()
    holes[::3] = -1
    holes[classes == LEFT] = 3
    holes[20:25, 10:20] = -1  # within the switched mask as well
    found = agreed(projection, labels, holes)
    assert torch.equal(found < 0, holes < 0)
    assert not bool((found == 3).any())


def test_where_nothing_is_solid_the_map_stays(scene: Scene) -> None:
    projection, labels, _, classes = scene
    switched = torch.where(classes == LEFT, 3, classes)
    gaussians, _ = wall()
    faint = replace(gaussians, opacities=torch.where(labels == LEFT, 0.1, gaussians.opacities))
    found = agreed(rendering.project(faint, camera()), labels, switched)
    inside = torch.zeros_like(classes, dtype=torch.bool)
    inside[20:28, 12:20] = True
    assert bool((classes[inside] == LEFT).all())
    assert bool((found[inside] == 3).all())
    assert torch.equal(agreed(projection, torch.full_like(labels, -1), switched), switched)


def test_how_much_has_to_agree(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    right_of = positions(camera())[0] > -1.2
    narrow = torch.where((classes == LEFT) & right_of, WALL, classes)  # a third is left
    assert torch.equal(agreed(projection, labels, narrow, min_iou=0.2), narrow)
    strict = agreed(projection, labels, narrow, min_iou=0.5)
    assert torch.equal(strict == LEFT, rendered == LEFT)


def test_an_empty_map_comes_back(scene: Scene) -> None:
    projection, labels, _, classes = scene
    nothing = torch.full_like(classes, -1)
    assert torch.equal(agreed(projection, labels, nothing), nothing)


def test_the_displacement_of_the_edges_comes_along(scene: Scene) -> None:
    projection, labels, rendered, _ = scene
    _, none = agreed_classes(projection, labels, rendered)
    assert none.tolist() == [0, 0, 0]
    moved = torch.roll(rendered, 2, dims=1)
    _, found = agreed_classes(projection, labels, moved)
    height = int((rendered == LEFT).any(dim=1).sum())
    width = int((rendered == LEFT).any(dim=0).sum())
    expected = 2 * 2 * height / (2 * (height + width))  # two columns on either side, over the whole edge
    assert float(found[LEFT]) == pytest.approx(expected, rel=1e-6)


def consensus_of(maps: list[Tensor], **options: Any) -> tuple[list[Tensor], Consensus]:
    """Exact maps of the wall from as many cameras, some of them replaced."""
    gaussians, _ = wall()
    cameras = [camera(0.1 * i) for i in range(len(maps))]
    found = find_consensus(gaussians, lambda: zip(cameras, maps, strict=True), 3, **options)
    return [found.maps.get(i, own) for i, own in enumerate(maps)], found


def exact_maps(count: int) -> list[Tensor]:
    return [board(*positions(camera(0.1 * i))) for i in range(count)]


def test_views_outvote_a_view_that_missed_an_object() -> None:
    maps = exact_maps(6)
    spoilt = [torch.where(maps[0] == LEFT, WALL, maps[0]), *maps[1:]]
    after, found = consensus_of(spoilt)
    assert list(found.maps) == [0] and 0.005 < found.overruled < 0.05
    assert float((after[0].to(here()) == maps[0]).float().mean()) > 0.98, "all but an edge of a pixel"
    assert found.sharp, "the others agree to the pixel"


def test_votes_are_taken_again_without_what_was_overruled() -> None:
    maps = exact_maps(6)
    spoilt = [torch.where(m == LEFT, WALL, m) if i < 2 else m for i, m in enumerate(maps)]
    _, found = consensus_of(spoilt)
    _, exact = consensus_of(maps)
    _, untouched = consensus_of(spoilt, agree=False)
    assert not untouched.maps
    left = untouched.classes == LEFT
    inside = left & (exact.ambiguity.impurity < 0.01)
    assert bool(inside.any())
    assert float(untouched.ambiguity.impurity[inside].min()) > 0.6, "a third of the views says otherwise"
    assert float(found.ambiguity.impurity[inside].max()) < 0.3


def test_edges_that_move_from_view_to_view_are_not_sharp() -> None:
    maps = [torch.roll(m, (-4, 4)[i % 2], dims=1) for i, m in enumerate(exact_maps(6))]
    _, found = consensus_of(maps)
    assert not found.sharp and 1 < found.displacement < 10


def test_nothing_is_overruled_where_the_splat_is_wrong_itself() -> None:
    maps = exact_maps(6)
    spoilt = [torch.where(maps[0] == LEFT, WALL, maps[0]), *maps[1:]]
    error = torch.zeros(maps[0].shape)
    error[:, : error.shape[1] // 2] = 0.5  # where the missed board is, the render is nothing like the photo
    _, trusted = consensus_of(spoilt)
    _, found = consensus_of(spoilt, render_error=lambda *_: error)
    assert 0 in trusted.maps and 0 not in found.maps
