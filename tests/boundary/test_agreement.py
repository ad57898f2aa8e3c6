"""What becomes of masks that the views outvote, on a wall with two boards."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.agreement import MIN_SOLID, agreed_classes
from gradiseg_ns.votes.labels import render_classes

from .scenes import LEFT, RIGHT, WALL, board, camera, positions, wall


class Scene(NamedTuple):
    """The wall from one camera."""

    projection: rendering.Projection
    labels: Tensor
    rendered: Tensor
    """[H, W] what the labels show."""
    classes: Tensor
    """[H, W] a map that agrees with it but for an edge."""


@pytest.fixture(scope="module")
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
    assert torch.equal(agreed_classes(projection, labels, classes), classes)


def test_a_switched_mask_is_replaced(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    switched = torch.where(classes == LEFT, 3, classes)  # an object that no Gaussian belongs to
    found = agreed_classes(projection, labels, switched)
    touched = (switched == 3) | (rendered == LEFT)
    assert torch.equal(found[touched], rendered[touched])
    assert torch.equal(found[~touched], classes[~touched]), "the others keep theirs, edge and all"


def test_two_masks_switched_with_each_other(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    switched = torch.where(classes == LEFT, RIGHT, torch.where(classes == RIGHT, LEFT, classes))
    found = agreed_classes(projection, labels, switched)
    touched = (switched != WALL) | (rendered != WALL)
    assert torch.equal(found[touched], rendered[touched])
    assert bool((found[~touched] == WALL).all())


def test_a_missed_mask_is_filled_in(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    missed = torch.where(classes == LEFT, WALL, classes)
    found = agreed_classes(projection, labels, missed)
    assert torch.equal(found == LEFT, rendered == LEFT) and bool((found == LEFT).any())
    assert torch.equal(found == RIGHT, classes == RIGHT)


def test_unlabelled_pixels_stay_unlabelled(scene: Scene) -> None:
    projection, labels, _, classes = scene
    holes = classes.clone()
    holes[::3] = -1
    holes[classes == LEFT] = 3
    holes[20:25, 10:20] = -1  # within the switched mask as well
    found = agreed_classes(projection, labels, holes)
    assert torch.equal(found < 0, holes < 0)
    assert not bool((found == 3).any())


def test_where_nothing_is_solid_the_map_stays(scene: Scene) -> None:
    projection, labels, _, classes = scene
    switched = torch.where(classes == LEFT, 3, classes)
    gaussians, _ = wall()
    faint = gaussians._replace(opacities=torch.where(labels == LEFT, 0.1, gaussians.opacities))
    found = agreed_classes(rendering.project(faint, camera()), labels, switched)
    inside = torch.zeros_like(classes, dtype=torch.bool)
    inside[20:28, 12:20] = True
    assert bool((classes[inside] == LEFT).all())
    assert bool((found[inside] == 3).all())
    assert torch.equal(agreed_classes(projection, torch.full_like(labels, -1), switched), switched)


def test_how_much_has_to_agree(scene: Scene) -> None:
    projection, labels, rendered, classes = scene
    right_of = positions(camera())[0] > -1.2
    narrow = torch.where((classes == LEFT) & right_of, WALL, classes)  # a third is left
    assert torch.equal(agreed_classes(projection, labels, narrow, min_iou=0.2), narrow)
    strict = agreed_classes(projection, labels, narrow, min_iou=0.5)
    assert torch.equal(strict == LEFT, rendered == LEFT)


def test_an_empty_map_comes_back(scene: Scene) -> None:
    projection, labels, _, classes = scene
    nothing = torch.full_like(classes, -1)
    assert torch.equal(agreed_classes(projection, labels, nothing), nothing)
