"""What lives while boundaries are refined."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gradiseg_ns.boundary import phase as module
from gradiseg_ns.boundary.consensus import Consensus
from gradiseg_ns.boundary.hull import Hulls
from gradiseg_ns.boundary.phase import (
    BoundaryConfig,
    BoundaryPhase,
    Foreign,
    RefinedGaussians,
    RefinedView,
    ambiguity_feature,
    heat,
)
from gradiseg_ns.grouping.identity import IdentityClassifier
from gradiseg_ns.rendering import Gaussians
from tests.devices import here

from .scenes import camera

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(autouse=True)
def without_tiny_cuda_nn(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run on the CPU on every machine."""
    monkeypatch.setattr(module, "BoundaryField", partial(module.BoundaryField, implementation="torch"))


def test_the_field_is_made_for_an_optimizer_and_once() -> None:
    phase = BoundaryPhase(BoundaryConfig(pixels=100, samples=4), 4)
    assert phase.field is None and phase.points is None
    first, again = phase.parameters("cpu"), phase.parameters("cpu")
    assert len(first) > 0 and all(a is b for a, b in zip(first, again, strict=True))
    assert phase.refiner is not None and (phase.refiner.patches, phase.refiner.samples) == (2, 4)


def test_boundary_gaussians_are_those_above_tau_and_the_field_stays_where_it_was() -> None:
    torch.manual_seed(0)
    phase = BoundaryPhase(BoundaryConfig(tau=0.5, neighbors=3), 4)
    means, ambiguity = torch.rand(50, 3), torch.rand(50)
    phase.update(means, ambiguity)
    assert phase.found and phase.points is None, "nobody trains a field"
    phase.parameters("cpu")
    phase.update(means, torch.full((50,), 0.5))
    assert phase.points is None and phase.field is not None and not phase.field.placed
    phase.update(means, ambiguity)
    assert phase.points is not None
    assert torch.equal(phase.points.indices, (ambiguity > 0.5).nonzero()[:, 0])
    assert phase.points.neighbors.shape[1] == 3
    center = phase.field.center.clone()
    phase.update(means + 5, ambiguity)
    assert torch.equal(phase.points.means, (means + 5)[ambiguity > 0.5])
    assert torch.equal(phase.field.center, center), "what it has learned is where it is"


def a_view(height: int = 12, width: int = 16) -> RefinedView:
    plain = torch.rand(height, width)
    return RefinedView(
        camera(width=width, height=height), plain, torch.rand(height, width, 3), plain, plain,
        torch.randn(height, width, 4, requires_grad=True), torch.zeros(3),
    )  # fmt: skip


def some_gaussians() -> RefinedGaussians:
    return RefinedGaussians(
        torch.rand(5, 3), torch.rand(5, 4), torch.rand(5), torch.zeros(5, dtype=torch.int64),
        lambda: Gaussians(torch.rand(5, 3), torch.rand(5, 4), torch.rand(5, 3), torch.rand(5)),
    )  # fmt: skip


def test_steps_between_have_no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    phase, view = BoundaryPhase(BoundaryConfig(every=3), 4), a_view()
    photo, classes = torch.rand(12, 16, 3), torch.zeros(12, 16, dtype=torch.int64)
    classifier = IdentityClassifier(2, 4).to(here())
    asked: list[RefinedGaussians] = []

    def gaussians() -> RefinedGaussians:
        asked.append(some_gaussians())
        return asked[-1]

    def losses(step: int) -> dict:
        return phase.losses(step, view, photo, classes, None, classifier, gaussians)

    assert losses(0) == {}, "nobody trains a field"
    phase.parameters("cpu")
    monkeypatch.setattr(phase.refiner, "losses", lambda **given: given)
    found = [losses(step) for step in range(5)]
    assert [bool(each) for each in found] == [True, False, False, True, False]
    assert len(asked) == 2, "only when they are needed"
    assert found[0]["photo"] is photo and found[0]["classes"] is classes and found[0]["seen"] is view.seen
    assert found[3]["gaussian_classes"] is asked[1].gaussian_classes and found[0]["camera"] is view.camera
    view = view._replace(seen=None)  # as the model gives it without a field
    assert losses(0) == {}


def test_the_field_may_learn_before_it_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = BoundaryPhase(BoundaryConfig(every=1, pull_after=0.25), 4, (100, 140))
    phase.parameters("cpu")
    monkeypatch.setattr(phase.refiner, "losses", lambda **given: given)
    arguments = (a_view(), torch.rand(12, 16, 3), torch.zeros(12, 16, dtype=torch.int64), None)
    classifier = IdentityClassifier(2, 4).to(here())
    pulls = [phase.losses(k, *arguments, classifier, some_gaussians)["pull"] for k in (100, 109, 110, 139)]
    assert pulls == [False, False, True, True]


def test_under_a_mask_the_photo_is_what_the_splat_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    phase, view = BoundaryPhase(BoundaryConfig(), 4), a_view()
    phase.parameters("cpu")
    monkeypatch.setattr(phase.refiner, "losses", lambda **given: given)
    photo, classes = torch.full((12, 16, 3), 2.0), torch.zeros(12, 16, dtype=torch.int64)
    mask = torch.ones(12, 16, dtype=torch.bool)
    mask[:, :5] = False
    classifier = IdentityClassifier(2, 4).to(here())
    assert view.seen is not None
    found: dict = phase.losses(0, view, photo, classes, mask, classifier, some_gaussians)
    assert torch.equal(found["photo"][:, :5], view.rgb[:, :5]) and bool((found["photo"][:, 5:] == 2).all())
    assert not found["seen"][:, :5].any() and torch.equal(found["seen"][:, 5:], view.seen[:, 5:])


def test_sharp_maps_count_twice_at_their_edges() -> None:
    phase, view = BoundaryPhase(BoundaryConfig(focus=2.0, focus_photo=0.5), 4), a_view()
    classes = torch.zeros(12, 16, dtype=torch.int64)
    classes[:, 8:] = 1
    arguments = (
        view,
        torch.rand(12, 16, 3),
        classes,
        None,
        IdentityClassifier(2, 4).to(here()),
        some_gaussians,
    )
    assert phase.losses(1, *arguments) == {}
    phase.sharp = True
    found = phase.losses(1, *arguments)
    assert set(found) == {"boundary_focus", "boundary_focus_photo"}
    expected = 0.5 * (view.rgb - arguments[1]).abs()[:, 6:10].mean()
    torch.testing.assert_close(found["boundary_focus_photo"], expected)
    found["boundary_focus"].backward()
    moved = view.identity.grad.abs().sum(dim=-1)[0]
    assert (moved > 0).nonzero()[:, 0].tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize(("edges", "sharp"), [("auto", True), ("sharp", True), ("rough", False)])
def test_it_keeps_the_maps_that_the_views_agree_on(edges: str, sharp: bool) -> None:
    phase = BoundaryPhase(BoundaryConfig(edges=edges), 4)  # type: ignore[arg-type]
    maps = {3: torch.tensor([[0, -1]], dtype=torch.int16, device="cpu")}
    found = Consensus(None, None, maps, 0.5, 0.9)  # type: ignore[arg-type]
    phase.agree(found)
    assert phase.sharp is sharp and phase.agreed is maps
    assert ("edges are focused" in phase.told(found, 9)) is sharp and "50.0%" in phase.told(found, 9)


def test_edges_that_were_snapped_are_sharp() -> None:
    phase = BoundaryPhase(BoundaryConfig(), 4)
    found = Consensus(None, None, {}, 0.5, 2.0, snapped=True)  # type: ignore[arg-type]
    phase.agree(found)
    assert phase.sharp and "moved to the photos'" in phase.told(found, 9)
    phase.agree(replace(found, snapped=False))
    assert not phase.sharp


def test_positions_learn_faster_and_what_has_no_schedule_settles() -> None:
    phase = BoundaryPhase(BoundaryConfig(position_rate=5.0, settle=0.01), 4, (100, 200))
    names = ("means", "scales", "identity")
    adam = SimpleNamespace(lr=0.02)
    config = {"means": adam, "scales": adam, "identity": adam, "boundary_field": adam}
    optimizers = SimpleNamespace(
        config={
            n: {"optimizer": o, "scheduler": None if n == "scales" else object()} for n, o in config.items()
        },
        optimizers={n: torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=0.01) for n in config},
    )

    def rates(step: int) -> dict[str, float]:
        optimizers.optimizers["means"].param_groups[0]["lr"] = (
            0.01  # as the scheduler sets it after every step
        )
        phase.set_rates(optimizers, names, step)  # type: ignore[arg-type]
        return {n: o.param_groups[0]["lr"] for n, o in optimizers.optimizers.items()}

    expected = {"means": 0.05, "identity": 0.01, "boundary_field": 0.01}
    for step, share in ((100, 1.0), (150, 1.0), (175, 0.1), (200, 0.01), (175, 0.1)):
        assert rates(step) == pytest.approx({**expected, "scales": 0.02 * share}), step
    phase.config.settle = 1.0
    assert rates(200) == pytest.approx({**expected, "scales": 0.02})
    del optimizers.config["scales"], optimizers.optimizers["scales"]
    assert set(rates(150)) == {"means", "identity", "boundary_field"}, "frozen by the user"


def test_what_is_swapped_in_has_no_ambiguity() -> None:
    ambiguity = torch.tensor([0.1, 0.7, 0.9])
    assert torch.equal(ambiguity_feature(ambiguity), ambiguity[:, None])
    assert ambiguity_feature(ambiguity, above=0.5).tolist() == [[0.0], [1.0], [1.0]]
    rows = torch.tensor([2, 0, 5, 3])
    torch.testing.assert_close(ambiguity_feature(ambiguity, rows), torch.tensor([[0.9], [0.1], [0.0], [0.0]]))
    assert ambiguity_feature(ambiguity, rows, above=0.5).tolist() == [[1.0], [0.0], [0.0], [0.0]]


def test_heat_runs_from_black_to_white() -> None:
    colors = heat(torch.linspace(-0.5, 1.5, 101))
    assert colors.shape == (101, 3)
    assert colors[0].tolist() == [0, 0, 0] and float(colors[-1].min()) > 0.9
    assert torch.equal(colors[0], colors[25]) and torch.equal(colors[-1], colors[75]), "clamped"
    brightness = colors @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((brightness[26:76] > brightness[25:75]).all())
    assert heat(torch.rand(4, 5)).shape == (4, 5, 3)


def test_the_two_cleaning_losses_are_weighted_and_optional() -> None:
    view, classifier = a_view(), IdentityClassifier(2, 4).to(here())
    photo, classes = torch.rand(12, 16, 3), torch.zeros(12, 16, dtype=torch.int64)
    blended = torch.full((12, 16), -0.25)

    def losses(foreign: float, space: float) -> dict:
        phase = BoundaryPhase(BoundaryConfig(foreign=foreign, space=space, field=False), 4)
        directions = torch.cat([torch.eye(3), -torch.eye(3)])
        phase.hulls = Hulls(directions, torch.full((1, 6), -9.0), torch.zeros(1))  # nothing is inside
        given = Foreign(blended, torch.tensor([1.0, -1.0])) if foreign else None
        return phase.losses(0, view, photo, classes, None, classifier, some_gaussians, given)

    assert losses(0, 0) == {}
    assert set(losses(2.0, 0)) == {"boundary_foreign"} and set(losses(0, 1.0)) == {"boundary_space"}
    expected = 2 * float((view.alpha - blended).mean())
    assert float(losses(2.0, 0)["boundary_foreign"]) == pytest.approx(expected, rel=1e-5)
    assert 0.2 < float(losses(0, 1.0)["boundary_space"]) < 0.8, "all samples, by their opacities"
