"""The command that judges changes: every seed and length once, means and worst of all."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .benchmark import load_benchmark
from .scenes import write_scene


@pytest.fixture(scope="module")
def seeds() -> ModuleType:
    return load_benchmark("seeds")


def test_every_seed_of_every_length_once(
    seeds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[dict[str, Any]] = []

    def run(command: list[str], **keywords: Any) -> Any:
        job = json.loads(command[-1])
        jobs.append(job)
        result = {
            "psnr": 20.0 + job["seed"],
            "miou": 90.0,
            "worst_iou": 50.0 - job["seed"],
            "picture": "none.png",
        }
        keywords["stdout"].write("RESULT " + json.dumps(result) + "\n")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(seeds.subprocess, "run", run)

    def once(*steps: int) -> None:
        seeds.Seeds(
            data=tmp_path,
            seeds=(1, 5),
            steps=steps,
            output=tmp_path / "out" / "results.jsonl",
            ignore_ids=(0,),
        ).main()

    once(100, 200)
    assert [(job["steps"], job["seed"]) for job in jobs] == [(100, 1), (100, 5), (200, 1), (200, 5)]
    assert jobs[0]["options"]["pipeline.model.metrics_ignore_ids"] == [0]
    printed = capsys.readouterr().out
    assert "23.00 (21.00)" in printed, "mean and worst seed"
    assert "45.00" in printed, "the worst object of all seeds"
    once(100, 200, 300)
    assert len(jobs) == 6, "what is known is not trained again"


def test_a_failed_run_is_named_and_left_out(
    seeds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 3}))
    seeds.Seeds(data=tmp_path, seeds=(1,), output=tmp_path / "out" / "results.jsonl").main()
    assert "failed with exit code 3" in capsys.readouterr().out
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_fewer_training_views_leave_the_same_views_held_out(seeds: ModuleType, tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    scene = write_scene(tmp_path / "balls", views=20)
    made = seeds.thinned(scene, 4, tmp_path / "thinned")

    def photos(folder: Path, split: str) -> list[str]:
        outputs = NerfstudioDataParserConfig(data=folder).setup().get_dataparser_outputs(split)
        return [path.name for path in outputs.image_filenames]

    assert photos(made, "val") == photos(scene, "val")
    assert photos(made, "train") == photos(scene, "train")[::4]
