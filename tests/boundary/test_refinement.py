"""Patches, samples and the joint losses, on cases worked out by hand and on a wall with two boards."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.detection import TAU, ambiguity
from gradiseg_ns.boundary.field import BoundaryField, BoundaryPoints, kernel
from gradiseg_ns.boundary.refinement import (
    PATCH,
    BoundaryRefiner,
    Patches,
    RefinerWeights,
    alignment_loss,
    continuity_loss,
    draw_patches,
    edge_classes,
    identity_alignment_loss,
    mask_loss,
    sample_rays,
)
from tests.devices import here

from ..rendering.scenes import random_camera
from .scenes import DEPTH, board, camera, positions, wall

pytestmark = pytest.mark.usefixtures("device")

DIM = 4

# --------------------------------------------------------------------- patches


def test_patches_are_whole_and_around_boundary_pixels() -> None:
    torch.manual_seed(0)
    seen = torch.zeros(20, 30, dtype=torch.bool)
    seen[5, 8] = seen[12, 20] = True
    patches = draw_patches(seen, 40)
    assert patches is not None
    rows, columns = (part.reshape(40, PATCH, PATCH) for part in patches)
    centres = {(int(r), int(c)) for r, c in zip(rows[:, 3, 3], columns[:, 3, 3], strict=True)}
    assert centres == {(5, 8), (12, 20)}
    assert torch.equal(rows[0, :, 0] - rows[0, 0, 0], torch.arange(PATCH))
    assert torch.equal(columns[0, 0] - columns[0, 0, 0], torch.arange(PATCH))
    assert bool((rows[:, :, :1] == rows).all()) and bool((columns[:, :1] == columns).all())


def test_patches_stay_in_the_picture() -> None:
    torch.manual_seed(0)
    seen = torch.zeros(9, 12, dtype=torch.bool)
    seen[0] = seen[-1] = True
    seen[:, 0] = seen[:, -1] = True
    patches = draw_patches(seen, 60)
    assert patches is not None
    assert (int(patches.rows.min()), int(patches.rows.max())) == (0, 8)
    assert (int(patches.columns.min()), int(patches.columns.max())) == (0, 11)
    pixels = (patches.rows * 12 + patches.columns).reshape(60, -1)
    assert all(len(set(patch)) == PATCH * PATCH for patch in pixels.tolist())


def test_no_patches_without_boundary_or_room() -> None:
    assert draw_patches(torch.zeros(20, 20, dtype=torch.bool), 4) is None
    assert draw_patches(torch.ones(20, PATCH - 1, dtype=torch.bool), 4) is None
    assert draw_patches(torch.ones(PATCH - 1, 20, dtype=torch.bool), 4) is None
    assert draw_patches(torch.ones(PATCH, PATCH, dtype=torch.bool), 4) is not None


# --------------------------------------------------------------------- samples


def _some_patches(view: rendering.Camera) -> Patches:
    torch.manual_seed(0)
    patches = draw_patches(torch.ones(view.height, view.width, dtype=torch.bool), 5)
    assert patches is not None
    return patches


def _local(view: rendering.Camera, points: Tensor) -> Tensor:
    """World points in the camera's frame, in float64."""
    return points.double() @ view.viewmat[:3, :3].double().T + view.viewmat[:3, 3].double()


@pytest.mark.parametrize("jitter", [False, True])
def test_samples_lie_on_the_rays_of_their_pixels(jitter: bool) -> None:
    view = random_camera(seed=3)
    patches = _some_patches(view)
    depth = 3 + torch.rand(view.height, view.width)
    rays = sample_rays(view, patches, depth, 0.2, 6, jitter=jitter)
    local = _local(view, rays.points)
    pixels = (local / local[:, 2:]) @ view.K.double().T
    expected = torch.stack([patches.columns, patches.rows], dim=-1) + 0.5
    torch.testing.assert_close(
        pixels[:, :2], expected.double().repeat_interleave(6, 0), rtol=0, atol=2e-3
    )  # fmt: skip
    z = local[:, 2].reshape(-1, 6)
    assert bool((z[:, 1:] > z[:, :-1]).all())
    assert bool((rays.lengths > 0).all())


def test_samples_of_one_surface_cover_its_interval() -> None:
    view = random_camera()
    patches = _some_patches(view)
    rays = sample_rays(view, patches, torch.full((view.height, view.width), 3.0), 0.5, 8, jitter=False)
    local = _local(view, rays.points).reshape(-1, 8, 3)
    stretch = local[:, 0].norm(dim=-1) / local[:, 0, 2]  # of the ray, per unit of depth
    torch.testing.assert_close(rays.lengths.double().sum(1), 1.0 * stretch, rtol=1e-5, atol=0)
    middles = 2.5 + (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    torch.testing.assert_close(local[..., 2], middles.expand(len(local), 8), rtol=0, atol=1e-5)


def test_jittered_samples_stay_in_their_strata() -> None:
    view = random_camera()
    patches = _some_patches(view)
    rays = sample_rays(view, patches, torch.full((view.height, view.width), 3.0), 0.5, 8)
    stratum = (_local(view, rays.points)[:, 2].reshape(-1, 8) - 2.5) * 8
    within = stratum - torch.arange(8)
    assert float(within.min()) > -1e-4 and float(within.max()) < 1 + 1e-4
    assert float(within.std()) == pytest.approx(math.sqrt(1 / 12), rel=0.1)


def test_two_surfaces_get_half_of_the_samples_each() -> None:
    view = camera()
    depth = torch.full((view.height, view.width), 4.0)
    depth[:, :32] = 2.0
    rows = torch.full((4,), 20)
    patches = Patches(rows, torch.tensor([10, 30, 33, 50]))  # only the middle two have both within 3 pixels
    rays = sample_rays(view, patches, depth, 0.25, 4, jitter=False)
    z = _local(view, rays.points)[:, 2].reshape(4, 4).float()
    one, both = torch.tensor([1.8125, 1.9375, 2.0625, 2.1875]), torch.tensor([1.875, 2.125, 3.875, 4.125])
    torch.testing.assert_close(z, torch.stack([one, both, both, one + 2]))
    x, y = (patches.columns - 31.5) / 64, (patches.rows - 23.5) / 64
    stretch = (x**2 + y**2 + 1).sqrt()
    torch.testing.assert_close(rays.lengths.sum(1) / stretch, torch.tensor([0.5, 1.0, 1.0, 0.5]))


def test_surfaces_that_nearly_meet_share_one_interval() -> None:
    view = camera()
    depth = torch.full((view.height, view.width), 3.5)
    depth[:, :32] = 3.0
    rays = sample_rays(view, Patches(torch.tensor([20]), torch.tensor([32])), depth, 0.5, 6, jitter=False)
    z = _local(view, rays.points)[:, 2].float()
    torch.testing.assert_close(z, 2.5 + (torch.arange(6) + 0.5) * 0.25)


def test_samples_stay_before_the_camera() -> None:
    view = random_camera()
    rays = sample_rays(view, _some_patches(view), torch.full((view.height, view.width), 0.1), 0.5, 6)
    assert float(_local(view, rays.points)[:, 2].min()) > 0
    assert bool((rays.lengths > 0).all())


# ---------------------------------------------------------------------- losses


def test_alignment_of_equals_is_zero_and_an_offset_has_no_variance() -> None:
    torch.manual_seed(0)
    rgb, alpha = torch.rand(98, 3), torch.rand(98)
    assert float(alignment_loss(rgb, alpha, rgb, alpha)) == 0
    offset = alignment_loss(rgb + torch.tensor([0.1, 0.2, -0.1]), alpha, rgb, alpha)
    assert float(offset) == pytest.approx((0.01 + 0.04 + 0.01) / 3, abs=1e-6)
    each = torch.tensor([0.1, -0.2]).repeat_interleave(49)[:, None]  # an offset of each patch's own
    assert float(alignment_loss(rgb + each, alpha, rgb, alpha)) == pytest.approx((0.01 + 0.04) / 2, abs=1e-6)
    assert float(alignment_loss(rgb, alpha + 0.3, rgb, alpha)) == pytest.approx(0.09, abs=1e-6)
    mixed = torch.tensor([0.1, -0.1]).repeat(49)[:, None]  # the same size, but no offset
    within = mixed[:49].expand(-1, 3).var(dim=0, unbiased=False).mean()
    found = alignment_loss(rgb + mixed, alpha, rgb, alpha)
    assert float(found) == pytest.approx(0.01 + float(within), abs=1e-6)


def test_identity_alignment_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    expected = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / math.log(2)
    assert float(identity_alignment_loss(p.log(), q.log())) == pytest.approx(float(expected), abs=1e-6)
    assert float(identity_alignment_loss(p.log(), p.log() + 3)) == pytest.approx(0, abs=1e-6)


def test_identity_alignment_pulls_both() -> None:
    splat = torch.tensor([[2.0, 0, 0]], requires_grad=True)
    field = torch.tensor([[0.0, 1, 0]], requires_grad=True)
    of_splat, of_field = torch.autograd.grad(identity_alignment_loss(splat, field), (splat, field))
    difference = splat.softmax(1) - field.softmax(1)  # the gradient of KL(p || softmax(z)) is softmax(z) - p
    torch.testing.assert_close(of_splat, difference / math.log(3))
    torch.testing.assert_close(of_field, -difference / math.log(3))


def test_mask_loss_is_the_weighted_cross_entropy_of_labelled_pixels() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(6, 3, requires_grad=True), torch.tensor([0, -1, 2, 1, -1, 0])
    opacity = torch.tensor([0.9, 0.8, 0.1, 0.5, 0.3, 0.0], requires_grad=True)
    loss = mask_loss(logits, target, opacity)
    total, weights = 0.0, 0.0
    for r in range(6):
        if target[r] >= 0:
            total -= float((opacity[r] * logits[r].log_softmax(0)[target[r]]).detach())
            weights += float(opacity[r].detach())
    assert float(loss.detach()) == pytest.approx(total / weights / math.log(3), rel=1e-5)
    (of_logits, of_opacity) = torch.autograd.grad(loss, (logits, opacity), allow_unused=True)
    assert of_opacity is None, "transparency does not lower it"
    assert of_logits.abs().sum(1).gt(0).tolist() == [True, False, True, True, False, False]
    nothing = mask_loss(logits, torch.full((6,), -1), opacity)
    assert float(nothing.detach()) == 0


def test_continuity_compares_neighbours_of_one_label_only() -> None:
    torch.manual_seed(0)
    means = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2.5, 0, 0], [9, 9, 9]])
    points = BoundaryPoints.create(means, torch.tensor([True, True, True, False]), 2)
    assert points is not None
    colors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]], requires_grad=True)
    alone = continuity_loss(points, colors, torch.tensor([0, 1, 2, 0]))
    assert float(alone.detach()) == 0
    assert float(continuity_loss(points, colors, torch.full((4,), -1)).detach()) == 0, "unknown is no label"
    loss = continuity_loss(points, colors, torch.tensor([0, 0, 1, 1]))
    assert float(loss.detach()) == pytest.approx(1.0)  # the first two, whose colours differ by 1
    (gradient,) = torch.autograd.grad(loss, colors)
    torch.testing.assert_close(gradient, torch.tensor([[-2.0, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert float(continuity_loss(points, torch.ones(3, 3), torch.zeros(4, dtype=torch.int64))) == 0


def test_continuity_weighs_by_nearness() -> None:
    torch.manual_seed(0)
    means, colors, labels = 10 * torch.rand(600, 3) ** 2, torch.rand(600, 3), torch.randint(2, (600,))
    colors = colors * means[:, :1].sin()  # neighbours are alike
    points = BoundaryPoints.create(means, torch.ones(600, dtype=torch.bool), 4)
    assert points is not None
    total, weights = 0.0, 0.0
    for i in range(600):
        for k in points.neighbors[i].tolist():
            if labels[i] == labels[k]:
                weight = float(kernel((means[i] - means[k]).norm() / points.bandwidth[i]))
                total += weight * float((colors[i] - colors[k]).square().sum())
                weights += weight
    found = sum(float(continuity_loss(points, colors, labels)) for _ in range(50)) / 50
    assert found == pytest.approx(total / weights, rel=0.02)  # others are drawn each time


# --------------------------------------------------------------------- refiner


class Scene:
    """The wall as a splat that is being trained, and one view of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        gaussians, _ = wall()
        count = len(gaussians.means)
        views = [(camera(x), board(*positions(camera(x)))) for x in (-0.3, 0.0, 0.3)]
        found = ambiguity(gaussians, views, 3)
        self.gaussian_classes = found.votes.top(1)[0][:, 0]
        points = BoundaryPoints.create(gaussians.means, found.impurity > TAU)
        assert points is not None and len(points) > 20
        self.points = points
        self.view, self.classes = views[2]
        self.rgb = torch.rand(count, 3, requires_grad=True)
        self.identity = torch.randn(count, DIM, requires_grad=True)
        self.opacity = gaussians.opacities.clone().requires_grad_()
        gaussians = replace(gaussians, opacities=self.opacity)
        self.gaussians = gaussians
        self.classifier = torch.nn.Linear(DIM, 3).to(here())
        self.photo = torch.rand(self.view.height, self.view.width, 3)
        self.background = torch.zeros(3)

    def losses(
        self, refiner: BoundaryRefiner, *, seen: Tensor | None = None, pull: bool = True
    ) -> dict[str, Tensor]:
        projection = rendering.project(self.gaussians, self.view)
        member = torch.zeros(len(self.rgb), 1)
        member[self.points.indices] = 1
        depths = projection.depths[0][:, None]
        maps, alpha = rendering.rasterize(projection, [self.rgb, depths, self.identity, member])
        return refiner.losses(
            pull=pull,
            camera=self.view,
            seen=maps[3][..., 0].detach() if seen is None else seen,
            rgb=maps[0],
            alpha=alpha[..., 0],
            depth=maps[1][..., 0] / alpha[..., 0].clamp(min=1e-6),
            identity=maps[2],
            background=self.background,
            photo=self.photo,
            classes=self.classes,
            classifier=self.classifier,
            colors=self.rgb,
            identities=self.identity,
            opacities=self.opacity,
            gaussian_classes=self.gaussian_classes,
        )


@pytest.fixture
def scene() -> Scene:
    return Scene()


def _refiner(scene: Scene, *, weights: RefinerWeights | None = None, render: bool = True) -> BoundaryRefiner:
    torch.manual_seed(0)
    field = BoundaryField(DIM, implementation="torch", levels=4, log2_size=10, width=16).to(here())
    field.place(scene.points.means, scene.points.spacing)
    refiner = BoundaryRefiner(field, weights, pixels=200, samples=4, render=render)
    refiner.points = scene.points
    return refiner


@pytest.mark.parametrize("render", [True, False])
def test_losses_reach_field_and_splat(scene: Scene, render: bool) -> None:
    refiner = _refiner(scene, render=render)
    losses = scene.losses(refiner)
    expected = {"align", "photo", "identity", "mask", "continuity"} | ({"smoothness"} if render else set())
    assert set(losses) == {f"boundary_{name}" for name in expected}
    assert all(bool(loss.isfinite()) and float(loss.detach()) > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in refiner.field.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name
    for leaf in (scene.rgb, scene.identity, scene.opacity, scene.classifier.weight):
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all()) and bool(leaf.grad.any())


def test_a_field_that_only_learns_moves_no_splat(scene: Scene) -> None:
    refiner = _refiner(scene)
    torch.stack(list(scene.losses(refiner, pull=False).values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in refiner.field.parameters())
    for leaf in (scene.rgb, scene.identity, scene.opacity, scene.classifier.weight):
        assert leaf.grad is None or not bool(leaf.grad.any())


def test_each_loss_reaches_what_it_should(scene: Scene) -> None:
    refiner = _refiner(scene)
    losses = scene.losses(refiner)
    for name, loss in losses.items():
        leaves = (refiner.field.hash.hash_table, scene.rgb, scene.identity)
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        reached = [g is not None and bool(g.any()) for g in gradients]
        # field, colours and identities: what is interpolated carries gradients to the splat, but not when smoothing
        others = {"boundary_continuity": [False, True, False], "boundary_smoothness": [True, False, False]}
        assert reached == others.get(name, [True, True, True]), name


def test_weights_scale_their_losses(scene: Scene) -> None:
    names = ("align", "identity", "mask", "photo", "continuity", "smoothness")
    refiner = _refiner(scene, weights=RefinerWeights(**dict.fromkeys(names, 1.0)))
    scaled = _refiner(scene, weights=RefinerWeights(**{n: float(k) for k, n in enumerate(names)}))
    results = []
    for each in (refiner, scaled):
        torch.manual_seed(1)
        results.append(scene.losses(each))
    for k, name in enumerate(names):
        one, other = (float(result[f"boundary_{name}"].detach()) for result in results)
        assert other == pytest.approx(k * one, rel=1e-4)


def test_views_without_boundary_have_no_losses(scene: Scene) -> None:
    refiner = _refiner(scene)
    assert scene.losses(refiner, seen=torch.zeros_like(scene.photo[..., 0])) == {}
    refiner.points = None
    assert scene.losses(refiner) == {}


def test_what_a_step_costs_does_not_depend_on_the_boundary(scene: Scene) -> None:
    refiner = _refiner(scene)
    asked = []
    refiner.field.register_forward_hook(lambda module, given, result: asked.append(len(given[0])))
    few = torch.zeros_like(scene.photo[..., 0])
    few[20, 20] = 1
    for seen in (few, torch.ones_like(few)):
        asked.clear()
        scene.losses(refiner, seen=seen)
        assert asked[0] == 4 * PATCH * PATCH * 4, "four patches of four samples a ray"
        assert len(asked) == 3 and max(asked[1:]) <= 512  # and two looks for smoothness


def test_without_rendering_the_field_is_asked_at_the_surface(scene: Scene) -> None:
    refiner = _refiner(scene, render=False)
    points = []
    refiner.field.register_forward_hook(lambda module, given, result: points.append(given[0]))
    scene.losses(refiner)
    (asked,) = points
    assert asked.shape == (4 * PATCH * PATCH, 3)
    torch.testing.assert_close(asked[:, 2], torch.full((len(asked),), DEPTH), rtol=0, atol=1e-3)
    pixel = (asked[:, :2] - torch.tensor([0.3, 0])) / asked[:, 2:] * 64 + torch.tensor([32.0, 24])
    torch.testing.assert_close(pixel - pixel.floor(), torch.full_like(pixel, 0.5), rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_background_is_seen_where_the_field_is_clear(scene: Scene) -> None:
    refiner = _refiner(scene)
    last = refiner.field.head.layers[-1]
    last.weight.zero_()
    scene.background = torch.tensor([0.1, 0.5, 0.9])
    scene.photo = scene.background.expand_as(scene.photo)
    last.bias[0] = -50.0
    assert float(scene.losses(refiner)["boundary_photo"]) == pytest.approx(0, abs=1e-5)
    last.bias[0] = 1e6  # and not where it is opaque
    found = []
    for scene.background in (torch.zeros(3), torch.ones(3)):
        torch.manual_seed(1)
        found.append(float(scene.losses(refiner)["boundary_photo"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0] > 0.01


def test_steps_lower_the_losses(scene: Scene) -> None:
    scene.photo = torch.eye(3)[scene.classes]  # a board, a colour
    refiner = _refiner(scene)
    leaves = [*refiner.field.parameters(), scene.rgb, scene.identity, *scene.classifier.parameters()]
    optimizer = torch.optim.Adam(leaves, lr=3e-2)
    totals = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack(list(scene.losses(refiner).values())).sum()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])


def test_budgets_that_make_no_sense_are_refused() -> None:
    field = BoundaryField(DIM, implementation="torch", levels=1, log2_size=4, width=16).to(here())
    for samples in (0, 1, 5):
        with pytest.raises(ValueError, match="boundary samples"):
            BoundaryRefiner(field, samples=samples)
    with pytest.raises(ValueError, match="boundary pixels"):
        BoundaryRefiner(field, pixels=PATCH * PATCH - 1)
    assert BoundaryRefiner(field, pixels=3 * PATCH * PATCH - 1).patches == 2


def test_an_edge_is_where_a_window_shows_two_classes() -> None:
    classes = torch.zeros(9, 12, dtype=torch.int64)
    classes[:, 6:] = 3
    classes[0, 0] = -1
    edges = edge_classes(classes, 5)
    kept = edges >= 0
    assert kept[4].nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    assert torch.equal(edges[kept], classes[kept])
    assert int(edges[0, 0]) == -1
    assert not bool((edge_classes(torch.full((5, 5), 2)) >= 0).any())


def test_the_splat_is_pulled_as_strongly_as_asked(scene: Scene) -> None:
    pulls = []
    for splat in (1.0, 4.0, 0.0):
        refiner = _refiner(scene, weights=RefinerWeights(splat=splat))
        torch.manual_seed(1)
        total = torch.stack(list(scene.losses(refiner).values())).sum()
        leaves = (scene.rgb, refiner.field.hash.hash_table)
        own, fields = torch.autograd.grad(total, leaves, allow_unused=True)
        pulls.append(0.0 if own is None else float(own.norm()))
        assert fields is not None and bool(fields.any()), "the field gets all of it"
    assert pulls[2] == 0.0 < pulls[0] and pulls[1] == pytest.approx(4 * pulls[0], rel=1e-3)
