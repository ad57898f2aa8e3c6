"""Fractions of a run become step numbers."""

from __future__ import annotations

import pytest

from gradiseg_ns.grouping.schedule import ScheduleConfig, of_trained_splat, resolve_schedule


def test_the_papers_run() -> None:
    schedule = resolve_schedule(ScheduleConfig(), 30_000)
    assert (schedule.densify_from, schedule.densify_until) == (500, 12_000)
    assert (schedule.igd_from, schedule.igd_until) == (12_000, 15_000)
    assert schedule.la_knn_from == 12_000
    assert schedule.opacity_reset_every == 3000
    assert schedule.resolution_interval == 3000
    assert schedule.color_degree_interval == 1000


@pytest.mark.parametrize("length", [1, 7, 300, 3000, 100_000])
def test_any_length_keeps_the_order_and_positive_intervals(length: int) -> None:
    schedule = resolve_schedule(ScheduleConfig(), length)
    assert 0 <= schedule.densify_from <= schedule.densify_until <= schedule.igd_until <= length
    assert min(schedule.refine_every, schedule.resolution_interval, schedule.color_degree_interval) >= 1
    assert schedule.opacity_reset_every % schedule.refine_every == 0 or schedule.opacity_reset_every >= length


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"igd_until": 0.3}, "out of order"),
        ({"la_knn_from": 1.5}, "la-knn-from"),
        ({"densify_from": -0.1}, "densify-from"),
        ({"refine_every": 0}, "refine-every"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        resolve_schedule(ScheduleConfig(**change), 3000)  # type: ignore[arg-type]


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="max-num-iterations"):
        resolve_schedule(ScheduleConfig(), 0)


def test_a_trained_splat_is_not_densified_and_votes_come_first() -> None:
    schedule = resolve_schedule(of_trained_splat(ScheduleConfig()), 300)
    assert schedule.votes_at == schedule.densify_until == schedule.la_knn_from == schedule.igd_from == 0
    assert schedule.igd_until == 30 and schedule.refine_every == 30, "a tenth of the run, as otherwise"
    assert schedule.prune_unseen_every == 150
    never = resolve_schedule(of_trained_splat(ScheduleConfig(votes_at=1.0)), 300)
    assert never.votes_at == 300 and "votes" not in never.describe()
    assert "votes" not in resolve_schedule(ScheduleConfig(), 30_000).describe(), (
        "from scratch: unless asked for"
    )
    assert "votes at 12000" in resolve_schedule(ScheduleConfig(votes_at=0.4), 30_000).describe()
