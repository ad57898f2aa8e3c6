"""The ablation's command: its rows are options that exist, and all forked rows go on from one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gradiseg_ns import runs

from .benchmark import load_benchmark


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return load_benchmark("ablation")


def test_every_row_is_made_of_options_that_exist(ablation: ModuleType, tmp_path: Path) -> None:
    for row, options in ablation.ROWS.items():
        config = runs.make_config("gradiseg-lite", tmp_path, tmp_path, device="cpu", options=options)
        for path, value in options.items():
            found: Any = config
            for part in path.split("."):
                found = getattr(found, part)
            assert found == value, row


def test_all_rows_go_on_from_the_same_checkpoint_of_their_seed(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[dict[str, Any]] = []

    def run(command: list[str], **_: Any) -> Any:
        job = json.loads(command[-1])
        jobs.append(job)
        result = {**job, "run": f"runs/{job['row']}/{job['seed']}", "mbiou": 50.0}
        _["stdout"].write("RESULT " + json.dumps(result) + "\n")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(ablation.subprocess, "run", run)
    ablation.Ablation(
        data=tmp_path,
        rows=("boundary-off", "boundary", "both"),
        seeds=(0, 1),
        fork_at=0.5,
        orders=2,
        output=tmp_path / "out" / "results.jsonl",
    ).main()
    trunks = [job for job in jobs if job["trunk"] is None]
    assert [(job["row"], job["seed"]) for job in trunks] == [("boundary-off", 0), ("boundary-off", 1)]
    found = {(job["row"], job["seed"], job["order"]): job for job in jobs if job["trunk"] is not None}
    assert len(found) == len(jobs) - 2 == 12
    for seed in (0, 1):
        for row in ("boundary-off", "boundary"):
            for order in (0, 1):
                assert found[row, seed, order]["trunk"] == f"runs/boundary-off/{seed}"
        seeds = {
            found["both", seed, order]["options"]["pipeline.datamanager.train_cameras_sampling_seed"]
            for order in (0, 1)
        }
        assert len(seeds) == 2, "the views come in another order"
        options = found["both", seed, 0]["options"]
        assert options["pipeline.model.boundary_refiner"] is False, "the paper's rows have no refiner"
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 12


def test_forks_that_cannot_be_are_refused(ablation: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--fork-at 1\.5"):
        ablation.Ablation(data=tmp_path, fork_at=1.5).main()
    with pytest.raises(SystemExit, match="--orders 2: expected 1, or more together with --fork-at"):
        ablation.Ablation(data=tmp_path, orders=2).main()
