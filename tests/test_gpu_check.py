"""The check of a card, on machines without one: its report, its limits, and that it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .benchmark import ROOT, load_benchmark

SCRIPT = ROOT / "scripts" / "gpu_check.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "No card" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["stages"]) == ["versions"] and report["stages"]["versions"]["state"] == "failed"
    assert "torch sees no CUDA device" in (tmp_path / "report.md").read_text()


def test_a_stage_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    found = load_benchmark("gpu_check", "scripts").run_stage(
        "tests", ["--output", str(tmp_path)], tmp_path, 0.2
    )
    assert found["state"] == "out of time" and found["seconds"] < 5


def test_the_report_is_a_page() -> None:
    stages = {
        "steps": {"state": "ok", "seconds": 3.0, "command": "x", "200 Gaussians": [{"phase": 0.2, "ms": 7}, {"phase": 0.4}]},
        "tests": {"state": "failed", "seconds": 1.0, "command": "y", "passed": 3, "last lines": ["E  boom"]},
    }  # fmt: skip
    page = load_benchmark("gpu_check", "scripts").markdown(
        {"commit": "abc", "started": "now", "command": "z", "stages": stages}
    )
    assert (
        "## steps: ok, 3.0 s" in page
        and "| phase | ms |" in page
        and "| 0.2 | 7 |" in page
        and "| 0.4 |  |" in page
    )
    assert "- passed: 3" in page and "E  boom" in page
