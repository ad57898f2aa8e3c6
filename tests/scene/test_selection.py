"""Selections from masks and rectangles, growing and shrinking, compared with doing it by loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene import selection
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import foreground

pytestmark = pytest.mark.usefixtures("device")


def camera(eye_x: float = 0.0, width: int = 64, height: int = 48) -> rendering.Camera:
    """At (eye_x, 0, -4), looking along +z."""
    viewmat = torch.eye(4)
    viewmat[:3, 3] = torch.tensor([-eye_x, 0.0, 4.0])
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]])
    return rendering.Camera(viewmat, K, width, height)


def two_clusters(count: int = 60, seed: int = 0) -> tuple[rendering.Gaussians, Tensor]:
    """Small Gaussians around (-0.8, 0, 0) and (0.8, 0, 0), and one behind the cameras; true for the left ones."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.15 * torch.randn(2 * count + 1, 3, generator=generator)
    left = torch.arange(2 * count + 1) < count
    means[left, 0] -= 0.8
    means[~left, 0] += 0.8
    means[-1] = torch.tensor([0.0, 0.0, -9.0])
    quats = torch.randn(len(means), 4, generator=generator)
    return rendering.Gaussians(
        means, quats, torch.full_like(means, 0.05), torch.full((len(means),), 0.6)
    ), left


# --------------------------------------------------------------------------------------------------- by votes


def left_half(view: rendering.Camera, at: int) -> Tensor:
    return (torch.arange(view.width) < at)[None].expand(view.height, -1)


def test_masks_of_views_select_the_object() -> None:
    gaussians, left = two_clusters()
    views = [(camera(), left_half(camera(), 32)), (camera(0.4), left_half(camera(), 26))]
    inside, outside = selection.votes_of_masks(gaussians, views)
    assert inside.shape == outside.shape == left.shape and inside.dtype == torch.float32
    found = selection.select_by_votes(inside, outside)
    seen = inside + outside > selection.MIN_WEIGHT
    assert seen.sum() > 100 and not seen[-1] and not found[-1]
    assert torch.equal(found, left & seen)
    nobody = selection.votes_of_masks(gaussians, [])
    assert not torch.stack(nobody).any() and not selection.select_by_votes(*nobody).any()


@pytest.mark.parametrize("antialiased", [False, True])
def test_votes_of_masks_are_those_of_maps_with_two_classes(antialiased: bool) -> None:
    gaussians = replace(two_clusters(seed=1)[0], antialiased=antialiased)
    generator = torch.Generator().manual_seed(2)
    views = [(view, torch.rand(48, 64, generator=generator) < 0.5) for view in (camera(), camera(-0.5))]
    inside, outside = selection.votes_of_masks(gaussians, views)
    votes = accumulate(gaussians, [(v, mask.int()) for v, mask in views], 2)
    torch.testing.assert_close(torch.stack([outside, inside], dim=1), votes.dense())
    for weight in (0.0, 0.5, 1.0, 3.0):
        found = selection.select_by_votes(inside, outside, weight)
        assert torch.equal(found, foreground(votes, [1], weight) & (inside > selection.MIN_WEIGHT))


def test_the_weight_makes_the_selection_strict_or_generous() -> None:
    inside, outside = torch.tensor([3.0, 1.0, 1.0, 0.005, 0.0]), torch.tensor([0.0, 0.9, 1.5, 0.0, 0.0])
    for weight, expected in ((0.5, 3), (1.0, 2), (2.0, 1), (0.0, 3)):
        assert selection.select_by_votes(inside, outside, weight).tolist() == [k < expected for k in range(5)]
    with pytest.raises(ValueError, match="weight is -1"):
        selection.select_by_votes(inside, outside, -1)
    with pytest.raises(ValueError, match="weight is nan"):
        selection.select_by_votes(inside, outside, math.nan)
    with pytest.raises(ValueError, match="votes for and"):
        selection.select_by_votes(inside, outside[:3])


def test_a_mask_of_another_size_is_refused() -> None:
    gaussians, _ = two_clusters()
    with pytest.raises(ValueError, match=r"shape \[10, 10\]: expected its camera's \[48, 64\]"):
        selection.votes_of_masks(gaussians, [(camera(), torch.ones(10, 10, dtype=torch.bool))])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("box", [(0, 0, 32, 48), (10.2, 11.7, 25.5, 30.0), (25.5, 30.0, 10.2, 11.7)])
def test_a_rectangle_selects_what_has_its_weight_in_it(
    box: tuple[float, float, float, float], share: float
) -> None:
    gaussians, _ = two_clusters(seed=3)
    projection = rendering.project(gaussians, camera())
    found = selection.in_box(projection, box, share=share)
    # Weights one by one: the map of each Gaussian's own channel.
    (maps,), _ = rendering.rasterize(projection, [torch.eye(len(found))])
    for k in range(len(found)):
        total = inside = 0.0
        for row, column in maps[..., k].nonzero().tolist():
            weight = float(maps[row, column, k])
            total += weight
            x, y = column + 0.5, row + 0.5
            if min(box[0], box[2]) <= x < max(box[0], box[2]) and min(box[1], box[3]) <= y < max(
                box[1], box[3]
            ):
                inside += weight
        if abs(inside - share * total) > 1e-4 * max(total, 1e-3) and abs(total - selection.MIN_WEIGHT) > 1e-5:
            assert bool(found[k]) == (inside > share * total and total > selection.MIN_WEIGHT), k


def test_a_rectangle_does_not_select_what_is_hidden() -> None:
    means = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -0.9], [0.0, 0.0, 1.0]])
    quats = torch.tensor([[1.0, 0, 0, 0]] * 3)
    scales = torch.tensor([[3.0, 3.0, 0.01], [3.0, 3.0, 0.01], [0.1, 0.1, 0.1]])
    for opacity, expected in ((1.0, [True, True, False]), (0.3, [True, True, True])):
        opacities = torch.tensor([opacity, opacity, 1.0])
        projection = rendering.project(rendering.Gaussians(means, quats, scales, opacities), camera())
        assert selection.in_box(projection, (0, 0, 64, 48)).tolist() == expected
    assert not selection.in_box(projection, (70, 50, 90, 60)).any()


# --------------------------------------------------------------------------------------------------- in space


def cloud(count: int = 400, seed: int = 0) -> Tensor:
    """A dense ball beside a thin plane, and floaters."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([4.0, 4.0, 0.05])
    means[: count // 2] = torch.tensor([2.0, 2.0, 0.3]) + 0.12 * torch.randn(
        count // 2, 3, generator=generator
    )
    means[-5:] *= 20
    return means


def ball(means: Tensor, radius: float) -> Tensor:
    return (means - torch.tensor([2.0, 2.0, 0.3])).norm(dim=1) < radius


def spread_by_loop(means: Tensor, selected: Tensor) -> Tensor:
    """`grow` by all pairs."""
    apart = torch.cdist(means.double(), means.double(), compute_mode="donot_use_mm_for_euclid_dist")
    spacing = apart.sort(dim=1).values[:, min(selection.NEIGHBORS, len(means) - 1)]
    touch = apart.square() <= spacing[:, None] * spacing * (1 + 1e-12)
    return selected | (touch & selected).any(dim=1)


@pytest.mark.parametrize("radius", [0.05, 0.2, 0.5, 1.5])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_growing_and_shrinking_are_what_all_pairs_say(radius: float, steps: int) -> None:
    for seed in range(3):
        means = cloud(seed=seed)
        selected = ball(means, radius)
        assert 0 < selected.sum() < len(means)
        more, less = selected, ~selected
        for _ in range(steps):
            more, less = spread_by_loop(means, more), spread_by_loop(means, less)
        assert torch.equal(selection.grow(means, selected, steps=steps), more)
        assert torch.equal(selection.shrink(means, selected, steps=steps), ~less)
        assert steps == 0 or (more.sum() > selected.sum() > (~less).sum())


def test_what_grows_and_shrinks_is_monotone_and_loses_nothing() -> None:
    means = cloud(600, seed=5)
    small, large = ball(means, 0.15), ball(means, 0.4)
    for change in (selection.grow, selection.shrink):
        assert not (change(means, small) & ~change(means, large)).any()
        for same in (torch.zeros(600, dtype=torch.bool), torch.ones(600, dtype=torch.bool)):
            assert torch.equal(change(means, same, steps=2), same)
    for selected in (small, large):
        grown, shrunk = selection.grow(means, selected), selection.shrink(means, selected)
        assert not (selected & ~grown).any() and not (shrunk & ~selected).any()
        closed, opened = selection.shrink(means, grown), selection.grow(means, shrunk)
        assert not (selected & ~closed).any() and not (opened & ~selected).any()
        # In the ball, where there is a rim: what comes back is nearly what there was.
        assert (selected & closed).sum() / (selected | closed).sum() > 0.8
    assert torch.equal(selection.grow(means, small), ~selection.shrink(means, ~small))
    assert torch.equal(
        selection.grow(means, small, steps=2), selection.grow(means, selection.grow(means, small))
    )


def test_a_step_is_a_ring_of_a_plane_whatever_its_scale() -> None:
    row = torch.arange(15.0)
    means = torch.stack([*torch.meshgrid(row, row, indexing="ij"), torch.zeros(15, 15)], dim=-1).view(-1, 3)
    selected = torch.zeros(15, 15, dtype=torch.bool)
    selected[7, 7] = True
    for scale in (1e-3, 1.0, 50.0):
        for steps in (1, 2, 3):
            grown = selection.grow(scale * means, selected.view(-1), steps=steps).view(15, 15)
            expected = torch.zeros_like(grown)
            expected[7 - steps : 8 + steps, 7 - steps : 8 + steps] = True
            assert torch.equal(grown, expected)
            assert torch.equal(
                selection.shrink(scale * means, grown.view(-1), steps=steps), selected.view(-1)
            )


def test_others_stay_as_they_are_and_are_nobody_s_neighbours() -> None:
    means = cloud(seed=7)
    selected = ball(means, 0.2)
    among = torch.rand(len(means), generator=torch.Generator().manual_seed(0)) < 0.7
    for change in (selection.grow, selection.shrink):
        changed = change(means, selected, among=among, steps=2)
        assert torch.equal(changed[~among], selected[~among])
        assert torch.equal(changed[among], change(means[among], selected[among], steps=2))
    broken = means.clone()
    broken[:3] = torch.tensor([[math.nan, 0, 0], [math.inf, -math.inf, 0], [0, 0, math.inf]])
    finite = torch.arange(len(means)) >= 3
    for change in (selection.grow, selection.shrink):
        assert torch.equal(change(broken, selected), change(means, selected, among=finite))


def test_few_and_equal_gaussians() -> None:
    for count in range(4):
        for change in (selection.grow, selection.shrink):
            means = torch.arange(3.0 * count).view(count, 3)
            for value in (False, True):
                same = torch.full((count,), value)
                assert torch.equal(change(means, same), same)
    assert selection.grow(torch.rand(3, 3), torch.tensor([True, False, False])).dtype == torch.bool
    piled = selection.grow(torch.zeros(20, 3), torch.arange(20) < 1)
    assert piled.all()


def test_growing_leaves_its_arguments_alone_and_checks_them() -> None:
    means, selected = cloud(), ball(cloud(), 0.2)
    before = selected.clone()
    selection.grow(means.requires_grad_(), selected, steps=3)
    assert torch.equal(selected, before)
    with pytest.raises(ValueError, match=r"selected has shape \[3\]"):
        selection.grow(means, selected[:3])
    with pytest.raises(ValueError, match=r"among has shape \[3\]"):
        selection.shrink(means, selected, among=selected[:3])
    with pytest.raises(ValueError, match="steps"):
        selection.grow(means, selected, steps=-1)
    with pytest.raises(ValueError, match=r"means \[N, 3\]"):
        selection.grow(means[:, :2], selected)
