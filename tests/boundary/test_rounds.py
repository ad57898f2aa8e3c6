"""A round: what sticks out is split along its axis, the most ambiguous of the rest along their longest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.boundary.phase import BoundaryConfig, BoundaryPhase
from gradiseg_ns.boundary.rounds import find_consensus, overshooting_ends, refresh, sharpen
from gradiseg_ns.rendering import Gaussians
from tests.devices import here

from .scenes import LEFT, board, camera, positions, wall

pytestmark = pytest.mark.usefixtures("device")


def blank(index: int) -> torch.Tensor:
    return torch.full((48, 64, 3), 0.5)


def parameters(count: int) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer], dict[str, Any]]:
    values = {
        "means": torch.arange(3.0 * count).reshape(count, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        "scales": torch.tensor([[0.0, -1.0, 1.0]]).repeat(count, 1),
    }
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    return params, optimizers, {"impurity": torch.linspace(0, 1, count)}


def test_overshooting_axes_and_the_most_ambiguous_are_split() -> None:
    params, optimizers, state = parameters(10)
    ends = torch.zeros(10, 3, 2, dtype=torch.bool)
    ends[0, 1, 0] = True
    before = params["means"].detach().clone()
    sharpen(params, optimizers, state, ends, BoundaryConfig(overshoot="split", split=0.2, tau=0.6))
    assert len(params["means"]) == 13 and len(state["impurity"]) == 13
    pairs = torch.stack([params["means"][7:10], params["means"][10:13]], dim=1)
    torch.testing.assert_close(pairs.mean(dim=1), before[[0, 8, 9]])
    apart = (pairs[:, 0] - pairs[:, 1]).abs() > 0
    assert apart.tolist() == [[False, True, False], [False, False, True], [False, False, True]]


def test_drawn_in_instead() -> None:
    params, optimizers, state = parameters(4)
    ends = torch.zeros(4, 3, 2, dtype=torch.bool)
    ends[2, 0, 1] = True
    sharpen(params, optimizers, state, ends, BoundaryConfig(overshoot="draw_in", split=0.0))
    assert len(params["means"]) == 4
    assert [bool(v) for v in (params["scales"][:, 0] < 0)] == [False, False, True, False]
    sharpen(params, optimizers, state, ends, BoundaryConfig(overshoot="off", split=0.0))
    assert len(params["means"]) == 4


def test_a_rod_across_the_border_sticks_out() -> None:
    """A wall of small Gaussians, object 0 left and object 1 right, and a rod of object 1 that reaches over."""
    across = torch.linspace(-1, 1, 41)
    grid = torch.stack(torch.meshgrid(across, across, indexing="xy"), dim=-1).reshape(-1, 2)
    means = torch.cat([grid, torch.full((len(grid), 1), 4.0)], dim=1)
    rod = torch.tensor([[0.1, 0.0, 3.98]])
    gaussians = Gaussians(
        torch.cat([means, rod]),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(len(means) + 1, 1),
        torch.cat([torch.full_like(means, 0.03), torch.tensor([[0.25, 0.02, 0.02]])]),
        torch.full((len(means) + 1,), 0.9),
    )
    views = []
    for x in (-0.3, 0.0, 0.3):
        view = camera(x, 0.0)
        views.append((view, (positions(view)[0] > 0).long()))
    found = find_consensus(gaussians, lambda: iter(views), 2, agree=False)
    ends = overshooting_ends(gaussians, found, lambda: iter(views))
    assert ends.shape == (len(means) + 1, 3, 2) and ends.device == here()
    assert ends[-1].tolist() == [[True, False], [False, False], [False, False]]
    depth, alpha = rendering.depth(rendering.project(gaussians, views[1][0]))
    middle = tuple(size // 2 for size in depth.shape)
    assert float(alpha[middle]) > 0.5 and 3.9 < float(depth[middle]) < 4.1


@pytest.mark.parametrize("change", [True, False])
def test_a_round_fills_the_phase_and_the_strategy(change: bool) -> None:
    """Two boards on a wall; one view of five says that the left one is wall, and is overruled where its photo looks right."""
    gaussians, _ = wall(0.2)
    views = []
    for x in (-0.4, -0.2, 0.0, 0.2, 0.4):
        view = camera(x)
        views.append((view, board(*positions(view))))
    wrong = views[2][1]
    wrong[wrong == LEFT] = 0
    params = torch.nn.ParameterDict(
        {
            "means": torch.nn.Parameter(gaussians.means.clone()),
            "quats": torch.nn.Parameter(gaussians.quats.clone()),
            "scales": torch.nn.Parameter(gaussians.scales.log()),
        }
    )
    optimizers = {name: torch.optim.Adam([p]) for name, p in params.items()}
    phase = BoundaryPhase(BoundaryConfig(tau=0.3, split=0.05, overshoot="off"), 4)
    state: dict[str, Any] = {}

    def differs(seen: list[int], by: float) -> Any:
        def render_error(
            index: int, camera: rendering.Camera, projection: rendering.Projection
        ) -> torch.Tensor:
            assert len(projection.radii[0]) == len(gaussians)
            seen.append(index)
            return torch.full((camera.height, camera.width), by)

        return render_error

    asked: list[int] = []
    found = refresh(
        phase, gaussians, lambda: iter(views), len(views), 3, params, optimizers, state, render_error=differs(asked, 0.0), photos=blank, change=change,
    )  # fmt: skip
    assert set(asked) == {0, 1, 2, 3, 4} and phase.found
    assert 2 in phase.agreed and found.overruled > 0
    left = board(*positions(views[2][0])) == LEFT
    assert float((phase.agreed[2][left] == LEFT).float().mean()) > 0.8
    count = len(gaussians) + (round(0.05 * len(gaussians)) if change else 0)
    assert len(params["means"]) == len(state["impurity"]) == len(state["vote_class"]) == count
    assert {0, 1, 2} <= set(state["vote_class"].unique().tolist())
    refresh(
        phase, gaussians, lambda: iter(views), len(views), 3, params, optimizers, {}, render_error=differs([], 1.0), photos=blank, change=False,
    )  # fmt: skip
    assert phase.agreed == {}, "the splat is wrong everywhere: nothing is overruled"


def test_a_round_draws_into_the_hulls_and_keeps_them() -> None:
    """A board of object 1 on a wall, and a Gaussian of the board that reaches far out of it along the wall."""
    gaussians, labels = wall()
    mine = (labels == LEFT).nonzero()[0, 0]
    scales = gaussians.scales.clone()
    scales[mine, 0] = 0.5
    views = [(camera(x), board(*positions(camera(x)))) for x in (-0.2, 0.0, 0.2)]

    def params() -> torch.nn.ParameterDict:
        values = {"means": gaussians.means, "quats": gaussians.quats, "scales": scales.log()}
        return torch.nn.ParameterDict({k: torch.nn.Parameter(v.clone()) for k, v in values.items()})

    def run(**options: Any) -> tuple[torch.nn.ParameterDict, BoundaryPhase]:
        changed, phase = params(), BoundaryPhase(BoundaryConfig(split=0.0, overshoot="off", **options), 4)
        optimizers = {name: torch.optim.Adam([p]) for name, p in changed.items()}
        refresh(
            phase, gaussians, lambda: iter(views), len(views), 3, changed, optimizers, {},
            render_error=lambda *_: torch.zeros(48, 64), photos=blank,
        )  # fmt: skip
        return changed, phase

    kept, phase = run(hull=False)
    assert torch.equal(kept["scales"], params()["scales"]) and phase.hulls is None and phase.space is None
    drawn, phase = run(hull=True, space=1.0)
    assert phase.hulls is not None and phase.space is not None
    assert float(drawn["scales"][mine].exp().max()) < 0.4
    inner = (gaussians.means[:, :2] - torch.tensor([1.0, 0.0])).abs().amax(dim=1) < 0.3
    assert torch.equal(drawn["means"][inner], params()["means"][inner]), "what lies inside stays"
