"""Cutting without training: halves look like the whole, a long Gaussian across two objects is cut, pictures stay."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary import cutting
from gradiseg_ns.grouping.codes import spread_codes
from gradiseg_ns.rendering import Camera
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes import identities
from gradiseg_ns.votes.accumulate import Votes, accumulate
from gradiseg_ns.votes.labels import majority
from tests.devices import here

from .scenes import DEPTH, camera, positions

pytestmark = pytest.mark.usefixtures("device")


LONG = 28 * 23
"""From here on the Gaussians of `_wall` are long."""


def _splat(
    means: list[tuple[float, float, float]], scales: list[tuple[float, float, float]], opacity: float = 0.95
) -> Splat:
    """Gaussians along the axes; red where x < 0, blue elsewhere."""
    place = torch.tensor(means)
    right = (place[:, 0] > 0).float()
    colors = torch.stack([1 - right, torch.full_like(right, 0.3), right], dim=1)
    count = len(means)
    return Splat(
        means=place,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.tensor(scales).log(),
        opacities=torch.full((count,), opacity).logit(),
        features_dc=(colors - 0.5) / 0.28209479,
        features_rest=torch.zeros(count, 0, 3),
    ).to(here())


def _wall() -> Splat:
    """A wall of small Gaussians, red on the left, and before it two long ones that reach over the border at x = 0."""
    grid = [(x / 8 + 1 / 16, y / 8, DEPTH) for x in range(-14, 14) for y in range(-11, 12)]
    long = [(-0.25, 0.3, DEPTH - 0.02), (-0.2, -0.4, DEPTH - 0.02)]
    return _splat(
        [*grid, *long], [*([(0.05, 0.08, 0.01)] * len(grid)), (0.35, 0.08, 0.01), (0.3, 0.08, 0.01)], 0.9
    )


def _views() -> list[tuple[Camera, Tensor]]:
    """Object 0 is the left of the wall, object 1 the right; beside it nothing is labelled."""
    views = [camera(x, y) for x in (-0.3, 0.0, 0.3) for y in (-0.2, 0.2)]
    maps = []
    for view in views:
        x, y = positions(view)
        maps.append(torch.where((x.abs() < 1.7) & (y.abs() < 1.3), (x > 0).long(), -1).to(here()))
    moved = [view._replace(viewmat=view.viewmat.to(here()), K=view.K.to(here())) for view in views]
    return list(zip(moved, maps, strict=True))


def _black() -> Tensor:
    return torch.zeros(3, device=here())


def _codes(count: int = 2) -> Tensor:
    return spread_codes(count, 16).to(here())


def _equal(one: Splat, other: Splat) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Splat)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("opacity", [0.1, 0.5, 0.8, 0.95, 0.995])
def test_two_halves_look_like_the_whole(opacity: float) -> None:
    whole = _splat([(-0.1, 0.0, DEPTH)], [(0.5, 0.1, 0.01)], opacity)
    whole.extra["sure"] = torch.ones(1, device=here())
    pair, parents = cutting.halves(
        whole, torch.zeros(1, dtype=torch.int64, device=here()), torch.zeros(1, dtype=torch.int64, device=here())
    )  # fmt: skip
    assert len(pair) == 2 and parents.tolist() == [0, 0] and pair.extra["sure"].tolist() == [1, 1]
    assert float(pair.means[0, 0]) > -0.1 > float(pair.means[1, 0])
    assert torch.equal(pair.means.mean(dim=0)[1:], whole.means[0, 1:])
    assert bool((pair.scales[:, 0] < whole.scales[0, 0]).all()), "shorter along the axis"
    assert torch.equal(pair.scales[:, 1:], whole.scales[:, 1:].repeat(2, 1)), "and only along it"
    view = _views()[2][0]
    before, after = (one.render(view)[1] for one in (whole, pair))
    assert float((after - before).norm() / before.norm()) < 0.1


def test_only_the_rows_that_are_asked_for_are_split() -> None:
    splat = _splat([(-1, 0, 4), (0.5, 0, 4), (1, 0, 4)], [(0.1, 0.2, 0.3)] * 3)
    rows, axis = torch.tensor([1], device=here()), torch.tensor([2], device=here())
    pair, parents = cutting.halves(splat, rows, axis)
    assert parents.tolist() == [0, 2, 1, 1]
    assert _equal(pair.select(slice(0, 2)), splat.select(torch.tensor([0, 2], device=here())))  # type: ignore[arg-type]
    offsets = (pair.means[2:] - splat.means[1]).abs()
    torch.testing.assert_close(
        offsets[:, 2], torch.full((2,), 0.15, device=here())
    )  # half a standard deviation
    assert float(offsets[:, :2].max()) == 0


def _halo(splat: Splat, votes: Votes, parents: Tensor) -> float:
    """Accumulation that what became of the long Gaussians has outside of its objects, in pixels of a view and an object."""
    labels, found = majority(votes).classes, []
    for view, classes in _views():
        for label in (0, 1):
            _, alpha = splat.select((labels == label) & (parents >= LONG)).render(view)
            found.append(float(alpha[..., 0][classes == 1 - label].sum()))
    return sum(found) / len(found)


def _wrong(splat: Splat, encoding: Tensor) -> int:
    """Labelled pixels whose rendered class is not that of their map."""
    wrong = 0
    for view, classes in _views():
        maps, _ = rendering.render(splat.gaussians(), view, encoding)
        wrong += int((((maps @ _codes().T).argmax(-1) != classes) & (classes >= 0)).sum())
    return wrong


def test_a_long_gaussian_across_two_objects_is_cut() -> None:
    splat, steps = _wall(), []
    untouched = splat.select(torch.arange(len(splat), device=here()))
    before = accumulate(splat.gaussians(), _views(), 2)
    cut = cutting.sharpen(
        splat, _views(), _codes(), _black(), passes=4, most_change=0.05, progress=lambda: steps.append(1)
    )
    assert cut.reason is None and cut.split >= 2
    assert len(cut.splat) == len(cut.parents) == len(cut.encoding) == cut.votes.shape[0]
    children = torch.bincount(cut.parents)
    assert len(cut.splat) > len(splat) == len(children) and int((children > 1).sum()) == cut.split
    assert int(children[LONG:].min()) > 2, "halves that still reach over the border are split again"
    assert int(children.max()) <= 2**cutting.ROUNDS
    assert len(steps) == cutting.steps(len(_views()), 4)
    assert _equal(splat, untouched), "the given splat stays as it was"
    assert not any(value.requires_grad for value in (cut.encoding, *cut.splat.to_parameters().values())), (
        "nothing of the fit hangs on it"
    )
    hard = identities.encode(majority(before).classes, _codes())
    assert _wrong(cut.splat, cut.encoding) < 0.5 * _wrong(splat, hard)
    every = torch.arange(len(splat), device=here())
    assert _halo(cut.splat, cut.votes, cut.parents) < 0.75 * _halo(splat, before, every)
    assert 0 < cut.change <= 0.05 and cut.views == len(_views()) and cut.psnr > 30
    assert f"{cut.split} Gaussians were split" in cut.told() and "dB" in cut.told()


def test_gaussians_of_one_object_never_change() -> None:
    splat = _wall()
    cut = cutting.sharpen(splat, _views(), _codes(), _black(), passes=1, most_change=1.0)
    far = (splat.means[:, 0].abs() > 1.5)[cut.parents]
    assert int(far.sum()) > 20 and not bool((far & cut.fitted).any()) and bool(cut.fitted.any())
    assert _equal(cut.splat.select(~cut.fitted), splat.select(cut.parents[~cut.fitted]))


def test_a_splat_without_borders_is_returned_as_it_is() -> None:
    splat = _wall()
    views = [(view, classes.clamp(max=0)) for view, classes in _views()]
    cut = cutting.sharpen(splat, views, _codes(1), _black())
    assert cut.splat is splat and cut.split == 0 and not bool(cut.fitted.any()) and cut.change == 0
    assert cut.reason is not None and "no Gaussian lies across a border" in cut.told()


def test_what_changes_the_pictures_too_much_is_taken_back() -> None:
    splat = _wall()
    cut = cutting.sharpen(splat, _views(), _codes(), _black(), passes=1, most_change=1e-6)
    assert cut.splat is splat and cut.split == 0 and cut.change > 1e-6
    assert cut.reason is not None and "more than 1e-06" in cut.told()
    voted = accumulate(splat.gaussians(), _views(), 2)
    assert torch.equal(cut.encoding, identities.encode(majority(voted).classes, _codes())), "labels by votes"


def test_edges_that_contradict_each_other_are_left_alone() -> None:
    noise = torch.Generator().manual_seed(0)
    views = []
    for view, classes in _views():
        shift = int(torch.randint(-9, 10, (1,), generator=noise))
        views.append((view, classes.roll(shift, dims=1)))
    cut = cutting.sharpen(_wall(), views, _codes(), _black(), passes=1)
    assert cut.reason is not None and "do not agree" in cut.reason


def test_only_tiles_with_an_edge_or_a_wrong_pixel_are_fitted() -> None:
    classes = torch.zeros(40, 70, dtype=torch.int64, device=here())
    classes[:20, :20] = 1
    classes[:, 69] = -1
    shown = classes.clamp(min=0)
    shown[35, 50] = 1
    shown[5, 69] = 1  # no label says that it is wrong
    tiles = cutting._tiles(_codes()[shown], classes, _codes())
    expected = torch.zeros(3, 5, dtype=torch.bool, device=here())
    expected[1, :2] = expected[0, 1] = expected[2, 3] = True
    expected[:, 4] = True  # from labels to none
    assert torch.equal(tiles, expected)


def test_a_step_moves_what_it_saw_and_nothing_else() -> None:
    """Against torch's Adam, for a Gaussian that every step sees."""
    values = {"a": torch.zeros(4, 2, device=here()), "b": torch.ones(4, device=here())}
    movable = torch.tensor([True, False, True, True], device=here())
    steps = cutting._Steps(values, movable, {"a": 0.1, "b": 0.01})
    twin = torch.zeros(2, device=here(), requires_grad=True)
    adam = torch.optim.Adam([twin], lr=0.1, betas=cutting._BETAS, eps=1e-15)
    for k in range(3):
        rows = torch.tensor([0, 1, 2] if k == 1 else [0, 1], device=here())
        taken = steps.take(rows)
        gradient = torch.tensor([1.0, -2.0], device=here()) * (k + 1)
        (taken["a"] * gradient).sum().backward()
        steps.step(rows, taken, 1.0)
        twin.grad = gradient
        adam.step()
    torch.testing.assert_close(values["a"][0], twin.detach())
    assert float(values["a"][1].abs().max()) == 0, "not movable"
    torch.testing.assert_close(values["a"][2], torch.tensor([-0.1, 0.1], device=here()))
    assert float(values["a"][3].abs().max()) == 0, "not seen"
    assert torch.equal(values["b"], torch.ones(4, device=here())), "no loss asked for it"


def test_of_many_views_every_second_one_finds_what_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "FEW", 2)
    steps: list[int] = []
    cut = cutting.sharpen(
        _wall(), _views(), _codes(), _black(), passes=1, most_change=1.0, progress=lambda: steps.append(1)
    )
    assert cut.reason is None and cut.split >= 2 and len(steps) == cutting.steps(len(_views()), 1)
    every = accumulate(cut.splat.gaussians(), _views(), 2)
    assert torch.equal(cut.votes.dense(), every.dense()), "all views vote for the labels"
    hard = identities.encode(majority(every).classes, _codes())
    assert torch.equal(cut.encoding[~cut.fitted], hard[~cut.fitted])


def test_views_without_labels_move_nothing_of_the_identities() -> None:
    """A map without any label still holds the picture."""
    views = _views()
    views[0] = (views[0][0], torch.full_like(views[0][1], -1))
    cut = cutting.sharpen(_wall(), views, _codes(), _black(), passes=1, most_change=1.0)
    assert cut.reason is None and bool(cut.encoding.isfinite().all())
    with pytest.raises(ValueError, match="passes is -1"):
        cutting.sharpen(_wall(), views, _codes(), _black(), passes=-1)


def test_the_size_of_the_scene_does_not_matter() -> None:
    """A splat in millimetres moves as one in metres."""
    small = cutting.sharpen(_wall(), _views(), _codes(), _black(), passes=2, most_change=1.0)
    factor = 64.0
    wall = _wall()
    large_views = []
    for view, classes in _views():
        viewmat = view.viewmat.clone()
        viewmat[:3, 3] *= factor
        large_views.append((view._replace(viewmat=viewmat), classes))
    large = replace(
        wall, means=wall.means * factor, scales=wall.scales + torch.tensor(factor).log().to(wall.scales)
    )
    cut = cutting.sharpen(large, large_views, _codes(), _black(), passes=2, most_change=1.0)
    assert len(cut.splat) == len(small.splat)
    torch.testing.assert_close(cut.splat.means / factor, small.splat.means, atol=2e-3, rtol=0)
