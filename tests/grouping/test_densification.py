"""IGD: which Gaussians are split, along which axis, and that all states follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradiseg_ns.grouping.densification import (
    GradisegStrategy,
    in_conflict,
    rotation_matrices,
    split_axis,
    split_in_two,
)

pytestmark = pytest.mark.usefixtures("device")


def make(count: int = 6) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(0)
    values = {
        "means": torch.randn(count, 3),
        "scales": torch.tensor([0.1, 0.2, 0.4]).log().repeat(count, 1),
        "quats": torch.randn(count, 4),
        "opacities": torch.full((count, 1), 2.0),
        "identity": torch.randn(count, 16),
    }
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in values.items()})
    optimizers: dict[str, torch.optim.Optimizer] = {
        k: torch.optim.Adam([p], lr=1e-3) for k, p in params.items()
    }
    sum(p.square().sum() for p in params.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return params, optimizers


def state_of(count: int) -> dict[str, Any]:
    return {
        "scene_scale": 1.0,
        "identity_gradient": torch.arange(count, dtype=torch.float32),
        "identity_count": torch.ones(count),
        "identity_conflict": torch.zeros(count, 3, 3),
    }


def test_rotation_matrices_are_rotations_whatever_the_norm() -> None:
    quats = torch.randn(50, 4, dtype=torch.float64) * 3
    rotation = rotation_matrices(quats)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50, dtype=torch.float64))


def test_the_split_axis_is_where_the_loss_changes_over_the_extent() -> None:
    upright = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1)
    scales = torch.tensor([[0.1, 0.2, 0.4]]).repeat(3, 1)
    conflict = torch.zeros(3, 3, 3)
    conflict[0, 0, 0] = 1.0  # the loss changes along x only
    conflict[1, 1, 1], conflict[1, 2, 2] = 1.0, 0.1  # 0.2^2 * 1 > 0.4^2 * 0.1
    assert split_axis(upright, scales, conflict).tolist() == [0, 1, 2]  # nothing known: the longest
    assert split_axis(upright, scales, None).tolist() == [2, 2, 2]


@pytest.mark.parametrize("rule", ["major_axis", "boundary_axis"])
def test_halves_keep_centre_and_second_moment(rule: str) -> None:
    params, optimizers = make(4)
    state = state_of(4)
    mask = torch.tensor([False, True, False, True])
    before = {k: p.detach().clone() for k, p in params.items()}
    split_in_two(params, optimizers, state, mask, rule)  # type: ignore[arg-type]
    assert len(params["means"]) == 6
    first, second = params["means"][2:4], params["means"][4:6]
    torch.testing.assert_close((first + second) / 2, before["means"][mask])
    rotation = rotation_matrices(before["quats"][mask])

    def covariance(scales: torch.Tensor) -> torch.Tensor:
        return rotation @ torch.diag_embed(scales.exp().square()) @ rotation.mT

    offset = (first - second) / 2
    moment = covariance(params["scales"][2:4]) + offset[:, :, None] * offset[:, None, :]
    torch.testing.assert_close(moment, covariance(before["scales"][mask]), atol=1e-5, rtol=1e-4)
    assert torch.equal(params["identity"][2:4], before["identity"][mask])
    assert torch.equal(params["means"][:2], before["means"][~mask])


def test_a_given_axis_goes_before_the_rule() -> None:
    params, optimizers = make(4)
    quats, scales = params["quats"].detach().clone(), params["scales"].detach().clone()
    mask, axis = torch.tensor([False, True, False, True]), torch.tensor([0, 2, 1, 0])
    split_in_two(params, optimizers, state_of(4), mask, "sample", axis)
    offset = params["means"][2:4] - params["means"][4:6]
    own = rotation_matrices(quats)[mask].gather(2, axis[mask][:, None, None].expand(-1, 3, 1))[..., 0]
    torch.testing.assert_close(torch.linalg.cross(offset, own), torch.zeros(2, 3), atol=1e-5, rtol=0)
    shrunk = params["scales"][2:4] < scales[mask] - 1e-6
    assert shrunk.sum(dim=1).tolist() == [1, 1] and shrunk.int().argmax(dim=1).tolist() == [2, 0]


@pytest.mark.parametrize("rule", ["sample", "major_axis", "boundary_axis"])
def test_optimizers_and_state_follow_a_split(rule: str) -> None:
    params, optimizers = make(5)
    state = state_of(5)
    mask = torch.tensor([True, False, False, False, True])
    kept = optimizers["identity"].state[params["identity"]]["exp_avg"][~mask].clone()
    split_in_two(params, optimizers, state, mask, rule)  # type: ignore[arg-type]
    for name, p in params.items():
        assert optimizers[name].param_groups[0]["params"][0] is p
        moments = optimizers[name].state[p]["exp_avg"]
        assert moments.shape == p.shape
        assert float(moments[3:].abs().max()) == 0.0  # new Gaussians start without momentum
    assert torch.equal(optimizers["identity"].state[params["identity"]]["exp_avg"][:3], kept)
    assert len(state["identity_gradient"]) == 7 and len(state["identity_conflict"]) == 7


def test_threshold_keeps_to_the_budget_and_to_outliers() -> None:
    gradient = torch.ones(1000)
    gradient[:30] = torch.linspace(10, 20, 30)
    once = torch.ones(1000)
    assert in_conflict(gradient, once, 0.01, 3.0).nonzero()[:, 0].tolist() == list(range(20, 30))
    assert int(in_conflict(gradient, once, 0.5, 3.0).sum()) == 30  # never more than the outliers
    assert not in_conflict(torch.zeros(10), torch.ones(10), 0.5, 3.0).any()
    assert not in_conflict(torch.ones(10), torch.ones(10), 0.0, 3.0).any()
    assert not in_conflict(torch.ones(10), torch.zeros(10), 0.9, 0.0).any()  # never seen


def test_of_the_same_conflict_the_larger_gaussian_goes_first() -> None:
    gradient, weight = torch.full((100,), 0.1), torch.ones(100)
    gradient[:2], weight[:2] = torch.tensor([1.0, 50.0]), torch.tensor([1.0, 50.0])  # both a mean of 1
    assert in_conflict(gradient, weight, 0.01, 3.0, by_extent=True).nonzero()[:, 0].tolist() == [1]


def run_igd(strategy: GradisegStrategy, steps: range) -> tuple[torch.nn.ParameterDict, dict[str, Any]]:
    params, optimizers = make(100)
    state = strategy.initialize_state()
    for step in steps:
        count = len(params["means"])
        gradient = torch.full((count,), 1e-3)
        gradient[:4] = 1.0  # four Gaussians in conflict
        info = {"radii": torch.ones(1, count, dtype=torch.int32), "identity_gradient": gradient}
        strategy.step_post_backward(params, optimizers, state, step, info)
    return params, state


def test_igd_splits_what_is_in_conflict_in_its_phase_only() -> None:
    strategy = GradisegStrategy(
        refine_stop_iter=0,
        refine_every=5,
        igd_start_iter=10,
        igd_stop_iter=20,
        igd_budget=0.08,
        prune_scale3d=9,
    )
    params, state = run_igd(strategy, range(0, 10))
    assert len(params["means"]) == 100 and state["identity_gradient"] is None
    params, state = run_igd(strategy, range(0, 20))
    assert 100 < len(params["means"]) <= 108
    params, state = run_igd(strategy, range(0, 25))
    assert state["identity_gradient"] is None  # the accumulators are dropped after the phase
    params, _ = run_igd(
        GradisegStrategy(refine_stop_iter=0, igd=False, igd_start_iter=0, igd_stop_iter=20), range(20)
    )
    assert len(params["means"]) == 100


def test_igd_prunes_transparent_and_too_large_ones() -> None:
    params, optimizers = make(10)
    params["opacities"].data[3] = -20.0
    params["scales"].data[5] = 3.0
    strategy = GradisegStrategy(igd_start_iter=0, igd_stop_iter=10, refine_stop_iter=0, prune_scale3d=1.0)
    state = {**strategy.initialize_state(), **state_of(10)}
    state["identity_gradient"] = torch.zeros(10)
    assert strategy.refine_identities(params, optimizers, state, 5) == (0, 2)
    assert len(params["means"]) == 8 and len(state["identity_gradient"]) == 8


def test_a_split_resets_the_accumulator_of_what_was_split() -> None:
    params, optimizers = make(100)
    strategy = GradisegStrategy(
        igd_start_iter=0,
        igd_stop_iter=10,
        refine_every=10,
        igd_budget=0.05,
        igd_outlier=1.0,
        prune_scale3d=9,
    )
    state = {**strategy.initialize_state(), **state_of(100)}
    n_split, _ = strategy.refine_identities(params, optimizers, state, 5)
    assert n_split == 5
    assert float(state["identity_gradient"][-10:].abs().max()) == 0.0
    assert float(state["identity_gradient"][:95].max()) == 94.0


def test_the_position_gradient_is_wanted_by_igd_and_every_fifth_step_after_it() -> None:
    strategy = GradisegStrategy(igd_start_iter=10, igd_stop_iter=13, direction_start_iter=10)
    wanted = [step for step in range(25) if strategy.needs_position_gradient(step)]
    assert wanted == [10, 11, 12, 15, 20]
    assert not GradisegStrategy(igd=False).needs_position_gradient(12_000)


def test_the_direction_is_an_average_of_the_views_that_saw_the_gaussian() -> None:
    strategy = GradisegStrategy(direction_start_iter=0)
    state = strategy.initialize_state()
    gradient = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])
    for _ in range(200):
        info = {"radii": torch.tensor([[3, 0]], dtype=torch.int32), "identity_position_gradient": gradient}
        strategy.follow_direction(state, info)
    torch.testing.assert_close(state["identity_direction"][0], gradient[0], atol=1e-3, rtol=0)
    assert float(state["identity_direction"][1].abs().max()) == 0.0  # never seen
