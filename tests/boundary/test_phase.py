"""What lives while boundaries are refined."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gradiseg_ns.boundary import phase as module
from gradiseg_ns.boundary.phase import BoundaryConfig, BoundaryPhase, heat

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


def test_steps_between_have_no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = BoundaryPhase(BoundaryConfig(every=3), 4)
    assert phase.losses(0) == {}
    phase.parameters("cpu")
    monkeypatch.setattr(phase.refiner, "losses", lambda **view: view)
    assert [bool(phase.losses(step, boundary_mask=torch.ones(()))) for step in range(5)] == [
        True, False, False, True, False
    ]  # fmt: skip


def test_heat_runs_from_black_to_white() -> None:
    colors = heat(torch.linspace(-0.5, 1.5, 101))
    assert colors.shape == (101, 3)
    assert colors[0].tolist() == [0, 0, 0] and float(colors[-1].min()) > 0.9
    assert torch.equal(colors[0], colors[25]) and torch.equal(colors[-1], colors[75]), "clamped"
    brightness = colors @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((brightness[26:76] > brightness[25:75]).all())
    assert heat(torch.rand(4, 5)).shape == (4, 5, 3)
