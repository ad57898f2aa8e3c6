"""benchmarks/masks.py: what it counts, and that it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradiseg_ns.tools.errors import GradisegError

from ..benchmark import load_benchmark
from ..scenes import write_scene

benchmark = load_benchmark("masks")


def test_the_best_mask_counts() -> None:
    truth = np.zeros((10, 12), bool)
    truth[2:7, 3:10] = True
    half = truth.copy()
    half[:, 7:] = False
    assert benchmark.best([~truth, half, half[::-1]], truth) == pytest.approx(20 / 35)
    assert benchmark.best([], truth) == 0
    assert benchmark.box(truth) == (3, 2, 10, 7) and benchmark.middle(truth) in {(5, 4), (6, 4), (7, 4)}


def test_makers_and_maps_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "balls", views=3, width=96, height=72)
    benchmark.Benchmark(scene).main()
    benchmark.Benchmark(scene, model="wand", prompts=True, objects=(1,)).main()
    benchmark.Benchmark(scene, maps_dir="object_mask").main()
    said = capsys.readouterr().out
    assert "IoU, any level" in said and "IoU, click and box" in said
    assert "1.000" in said.split("object_mask")[-1], "the truth is the truth"
    with pytest.raises(GradisegError, match="add --prompts"):
        benchmark.Benchmark(scene, model="wand").main()
    with pytest.raises(GradisegError, match="leave --prompts out"):
        benchmark.Benchmark(scene, prompts=True).main()
