"""What a camera sees, without a model: blends by name, ids of pixels, cut-outs, cameras."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.drawing import blends
from gradiseg_ns.drawing.blends import (
    Blend,
    camera_of,
    cut_outs,
    identity_directions,
    object_ids,
    weight_nearer,
)
from gradiseg_ns.editing.arrangement import arrange
from gradiseg_ns.editing.display import Selection, drawn_rows
from gradiseg_ns.editing.edits import Assign, Step
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.grouping.identity import IdentityClassifier
from gradiseg_ns.scene.objects import MIN_ACCUMULATION, NO_OBJECT, ObjectTable

from .devices import here
from .rendering.scenes import random_camera, random_gaussians

pytestmark = pytest.mark.usefixtures("device")


def two_walls() -> tuple[rendering.Gaussians, rendering.Camera]:
    """Two opaque Gaussians side by side: the left one at depth 2, the right one at depth 4; a camera at the origin."""
    gaussians = rendering.Gaussians(
        torch.tensor([[-0.5, 0.0, 2.0], [1.0, 0.0, 4.0]]),
        torch.tensor([[1.0, 0, 0, 0]] * 2),
        torch.tensor([[0.15] * 3, [0.3] * 3]),
        torch.full((2,), 0.99),
    )
    K = torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
    return gaussians, rendering.Camera(torch.eye(4), K, 64, 48)


def test_encodings_are_shown_along_the_same_three_directions_always() -> None:
    directions = identity_directions(16)
    assert torch.equal(directions, identity_directions(16)) and directions.shape == (16, 3)
    torch.testing.assert_close(directions.T @ directions, torch.eye(3, device="cpu"), atol=1e-6, rtol=0)


def test_a_blend_is_one_rasterisation_whose_maps_have_names() -> None:
    gaussians, camera = random_gaussians(200), random_camera()
    projection = rendering.project(gaussians, camera)
    color, identity = torch.rand(200, 3), torch.rand(200, 16)
    blend = Blend().add("color", color).add("missing", None).add("identity", identity, 0.3)
    blend.rasterize(projection)
    (first, second), alpha = rendering.rasterize(projection, [color, identity])
    assert torch.equal(blend["color"], first) and torch.equal(blend["identity"], second)
    assert torch.equal(blend.alpha, alpha) and blend.get("missing") is None
    with pytest.raises(KeyError):
        blend["missing"]
    solid = alpha[..., 0] > 0
    torch.testing.assert_close(blend.expected("color")[solid], (first / alpha)[solid])
    assert float(blend.expected("color")[~solid].abs().sum()) == 0


def test_ids_of_pixels() -> None:
    gaussians, camera = two_walls()
    objects = ObjectTable.create([3, 8], {})
    classifier = IdentityClassifier(2, 16).to(here())
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(2, 16) * 10)
        classifier.bias.zero_()
    blend = Blend().add("identity", torch.eye(2, 16)).rasterize(rendering.project(gaussians, camera))
    ids = object_ids(blend, objects, classifier, None)
    alpha = blend.alpha[..., 0]
    assert ids.dtype == torch.int32 and bool((ids[alpha < MIN_ACCUMULATION] == IGNORE).all())
    assert int(ids[24, 22]) == 3 and int(ids[24, 42]) == 8 and int(ids[2, 2]) == IGNORE
    nothing = Blend().add("color", torch.ones(2, 3)).rasterize(rendering.project(gaussians, camera))
    assert bool((object_ids(nothing, objects, classifier, None) == IGNORE).all()), "no identities, no ids"


def test_ids_of_edited_objects_need_no_identities() -> None:
    """The right wall is made an object; the left one belongs to none, and is before it in some pixels."""
    gaussians, camera = two_walls()
    gaussians = replace(gaussians, means=gaussians.means * torch.tensor([[0.2, 1, 1], [0.4, 1, 1]]))
    none, classifier = ObjectTable.create([]), IdentityClassifier(0, 16).to(here())
    right = torch.tensor([False, True])
    made = Assign(
        (NO_OBJECT,), Region.create(gaussians.means, right, torch.ones_like(right)), 5, "right wall"
    )
    labels = torch.full((2,), NO_OBJECT)
    arrangement = arrange(labels, gaussians.means, none, [Step("make", (made,))])
    shown = drawn_rows(arrangement, Selection(), gaussians.means)
    blend = Blend().add("edited", shown.features).rasterize(rendering.project(gaussians, camera))
    ids, weight, alpha = (
        object_ids(blend, none, classifier, shown),
        blend["edited"][..., 0],
        blend.alpha[..., 0],
    )
    solid = alpha >= MIN_ACCUMULATION
    assert bool((ids[~solid] == IGNORE).all()) and set(ids.unique().tolist()) == {IGNORE, 5}
    assert torch.equal(ids[solid] == 5, weight[solid] > (alpha - weight)[solid]), (
        "what has most of the weight"
    )
    assert bool((ids[solid] == IGNORE).any()), "the left wall"


def test_cut_outs_are_objects_alone() -> None:
    gaussians, camera = two_walls()
    found = {
        which: (alpha, depth)
        for which, alpha, depth in cut_outs(gaussians, torch.tensor([0, 1]), camera, [1, 0])
    }
    assert list(found) == [1, 0]
    for which, (column, there) in {0: (22, 2.0), 1: (42, 4.0)}.items():
        alpha, depth = found[which]
        assert alpha.shape == (48, 64) and float(alpha[24, column]) > 0.9
        assert float(depth[24, column]) == pytest.approx(there, rel=1e-3)
        assert float(found[1 - which][0][24, column]) < 0.01


def test_the_share_of_what_is_nearer() -> None:
    gaussians, camera = two_walls()
    both = float(rendering.render(gaussians, camera, torch.ones(2, 1))[0].mean())
    near = weight_nearer(gaussians, camera, 3.0)
    assert 0 < near < both
    assert weight_nearer(gaussians, camera, 1.0) == 0
    assert weight_nearer(gaussians, camera, 9.0) == pytest.approx(both)


def test_a_camera_of_nerfstudio_is_turned_and_scaled() -> None:
    pose = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 3], [0, 0, 1, 4]])
    camera = Cameras(pose[None], torch.tensor([50.0]), torch.tensor([60.0]), 20.0, 10.0, 40, 20)
    view = camera_of(camera, here(), factor=2)
    assert (view.width, view.height) == (20, 10) and view.viewmat.device == here()
    assert view.K.tolist() == [[25, 0, 10], [0, 30, 5], [0, 0, 1]]
    point = view.viewmat @ torch.tensor([2.0, 3, 3, 1])  # one unit before the camera, which looks along -z
    assert point.tolist() == [0, 0, 1, 1]
    learned = pose.to(here()).requires_grad_()
    camera_of(camera, here(), pose=learned[None]).viewmat.sum().backward()
    assert learned.grad is not None and float(learned.grad.abs().sum()) > 0


def test_a_camera_that_sees_nothing_has_all_maps() -> None:
    picture = torch.zeros(6, 8, 3)
    outputs = blends.empty_outputs({"rgb": picture, "depth": picture[..., :1]}, 8, 6)
    assert {"rgb", "depth", "segmentation", "identity", "boundary", "background"} <= set(outputs)
    assert outputs.object_ids is not None and bool((outputs.object_ids == IGNORE).all())
