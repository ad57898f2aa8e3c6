"""The same run with several seeds: means, the worst seed, the worst view, the worst object in its worst view, and floaters.

    python benchmarks/seeds.py --data examples/demo_scene --ignore-ids 0 13 --steps 1200 --seeds 42 1 2 3

A few Gaussians in front of a camera can cost ten points, so a single seed says little. Judge a change by this table. Figures are of the
held-out views. Each run is a process of its own. Results are appended to ``--output`` as JSON lines as they come. A run that is
already there, with the same options, is not repeated. Beside this file is a picture of the worst views: photo, render, segmentation,
wrong ids.

    python benchmarks/seeds.py --data SCENE --steps 750 1500 3000      # is longer better?
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIGURES = {
    "miou": 2, "mbiou": 2, "mbiou_fine": 2, "extracted_biou": 2, "psnr": 2, "psnr_inside": 2,
    "gaussian_count": 0, "seconds": 0,
}  # fmt: skip
LOWEST = ("psnr_worst", "worst_iou")
HIGHEST = ("floater_share", "floater_share_worst")


@dataclass
class Seeds:
    """Train and evaluate one scene with several seeds."""

    data: Path
    """The scene's folder."""
    seeds: tuple[int, ...] = (42, 1)
    steps: tuple[int, ...] = ()
    """Lengths of the runs, one row each. Default: the method's own."""
    method: str = "gradiseg-lite"
    masks_dir: str = "object_mask"
    """Id maps to train on."""
    eval_masks_dir: str | None = None
    """Id maps to evaluate on. Default: the training maps."""
    ignore_ids: tuple[int, ...] = ()
    """Object ids left out of mIoU, such as background and table."""
    device: str | None = None
    jobs: int = 1
    """Number of trainings that run at once and share the threads."""
    output: Path = Path("outputs/seeds/results.jsonl")
    every: float = 1.0
    """Train on one training view out of this number, evenly spread: 4 keeps a quarter. For scenes with a transforms.json."""
    options: tuple[str, ...] = field(default_factory=tuple)
    """Further options of every run as path=JSON, e.g. pipeline.model.empty_space=0."""
    keep_runs: bool = False
    """Keep the runs' folders. Default: remove them after evaluation."""

    def main(self) -> None:
        if self.every > 1:
            self.data = thinned(self.data, self.every, self.output.parent / "thinned")
        lengths: tuple[int | None, ...] = self.steps or (None,)
        jobs = [self._job(steps, seed) for steps in lengths for seed in self.seeds]
        done = (
            [json.loads(line) for line in self.output.read_text().splitlines()]
            if self.output.exists()
            else []
        )
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        with ThreadPoolExecutor(self.jobs) as pool:
            results = list(pool.map(lambda job: _known(job, done) or self._spawn(job, threads), jobs))
        rows = [[r for r in results if r is not None and r["steps"] == steps] for steps in lengths]
        print_table(self, [row for row in rows if row])
        self._picture([r for r in results if r is not None])

    def _job(self, steps: int | None, seed: int) -> dict[str, Any]:
        return {
            "data": str(self.data.resolve()),
            "method": self.method,
            "steps": steps,
            "seed": seed,
            "device": self.device,
            "keep": self.keep_runs,
            "options": {
                "pipeline.datamanager.masks_dir": self.masks_dir,
                "pipeline.datamanager.eval_masks_dir": self.eval_masks_dir,
                "pipeline.model.metrics_ignore_ids": list(self.ignore_ids),
                **{k: json.loads(v) for k, v in (option.split("=", 1) for option in self.options)},
            },
        }

    def _spawn(self, job: dict[str, Any], threads: int) -> dict[str, Any] | None:
        """One run in a process of its own, so that runs share nothing."""
        name = f"{self.data.resolve().name}_{job['steps'] or 'default'}_{job['seed']}"
        folder = self.output.parent / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        print(f"training {name} (log: {log})", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "0"}
        with log.open("w") as stream:
            code = subprocess.run(
                [sys.executable, __file__, "--one-run", json.dumps({**job, "folder": str(self.output.parent), "name": name})],
                stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False,
            ).returncode  # fmt: skip
        marked = [line for line in log.read_text().splitlines() if line.startswith("RESULT ")]
        if code or not marked:
            print(f"  {name} failed with exit code {code}; see {log}", flush=True)
            return None
        result = {**job, **json.loads(marked[-1].removeprefix("RESULT "))}
        with self.output.open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        shown = ("miou", "mbiou", "mbiou_fine", "psnr", *LOWEST, *HIGHEST)
        print(
            "  " + ", ".join(f"{k} {result[k]:.2f}" for k in shown if result.get(k) is not None), flush=True
        )
        return result

    def _picture(self, results: list[dict[str, Any]]) -> None:
        """The worst view of every run, one below the other."""
        from PIL import Image

        sheets = [Image.open(r["picture"]).convert("RGB") for r in results if Path(r["picture"]).exists()]
        if not sheets:
            return
        whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
        top = 0
        for sheet in sheets:
            whole.paste(sheet, (0, top))
            top += sheet.height
        path = self.output.with_name(f"worst_{self.data.resolve().name}.png")
        whole.save(path)
        print(f"worst views: {path}")


def thinned(scene: Path, every: float, folder: Path) -> Path:
    """A scene with the same held-out views and fewer training views: a folder of links, and a transforms.json with both splits.

    The held-out views are the default of nerfstudio's dataparser.
    """
    import numpy as np
    from nerfstudio.data.utils.dataparsers_utils import get_train_eval_split_fraction

    made = folder / f"{scene.resolve().name}_every_{every:g}"
    made.mkdir(parents=True, exist_ok=True)
    for path in scene.resolve().iterdir():
        if path.name != "transforms.json" and not (made / path.name).exists():
            (made / path.name).symlink_to(path)
    meta = json.loads((scene / "transforms.json").read_text())
    names = sorted(frame["file_path"] for frame in meta["frames"])
    train, held_out = get_train_eval_split_fraction(names, 0.9)
    kept = train[np.arange(0, len(train), every).astype(int)]
    for split, rows in (("train", kept), ("val", held_out), ("test", held_out)):
        meta[f"{split}_filenames"] = [names[row] for row in rows]
    (made / "transforms.json").write_text(json.dumps(meta))
    return made


def _known(job: dict[str, Any], done: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A result of the same run, if there is one."""
    keys = [key for key in job if key != "keep"]
    return next((r for r in reversed(done) if all(r.get(key) == job[key] for key in keys)), None)


def one_run(job: dict[str, Any]) -> None:
    """Train and evaluate in this process, save the worst view's picture, and print the result as one line."""
    import shutil

    import gradiseg_ns.runs as runs
    from gradiseg_ns.demo import view_panels
    from gradiseg_ns.evaluation.views import worst_view
    from gradiseg_ns.tools.pictures import overview

    folder = Path(job["folder"])
    options = {
        **job["options"],
        "pipeline.model.metrics_ignore_ids": tuple(job["options"]["pipeline.model.metrics_ignore_ids"]),
    }
    config = runs.make_config(
        job["method"], Path(job["data"]), folder / "runs",
        steps=job["steps"], seed=job["seed"], device=job["device"], options=options,
    )  # fmt: skip
    trainer, seconds = runs.train(config, description=job["name"])
    metrics = runs.evaluate(trainer)
    pipeline = trainer.pipeline
    worst = worst_view(pipeline.view_scores)
    picture = folder / f"{job['name']}.png"
    if worst is not None:
        index = [view.name for view in pipeline.view_scores].index(worst.name)
        overview([view_panels(pipeline, index)]).save(picture)
    if not job["keep"]:
        shutil.rmtree(config.get_base_dir())
    result = {
        **metrics,
        "seconds": seconds,
        "worst_view": worst.name if worst is not None else None,
        "picture": str(picture),
        "run": str(config.get_base_dir()),
    }
    print("\nRESULT " + json.dumps(result), flush=True)


def print_table(seeds: Seeds, rows: list[list[dict[str, Any]]]) -> None:
    """One row per length: means over the seeds with the worst seed in brackets, then the worst of all."""
    from rich.console import Console
    from rich.table import Table

    title = f"{seeds.data.resolve().name}, {seeds.method}, trained on {seeds.masks_dir}, seeds {list(seeds.seeds)}"
    table = Table(title=f"{title}: mean (worst seed)", show_lines=True)
    for column in ("steps", *FIGURES, *LOWEST, *HIGHEST):
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        cells = [str(row[0]["steps"] or "default")]
        for key, digits in FIGURES.items():
            values = [r[key] for r in row if r.get(key) is not None]
            if not values:
                cells.append("-")
                continue
            mean = f"{sum(values) / len(values):.{digits}f}"
            cells.append(mean if digits == 0 else f"{mean} ({min(values):.{digits}f})")
        for keys, pick in ((LOWEST, min), (HIGHEST, max)):
            for key in keys:
                values = [r[key] for r in row if r.get(key) is not None]
                cells.append(f"{pick(values):.2f}" if values else "-")
        table.add_row(*cells)
    Console(width=190).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-run"]:
        one_run(json.loads(sys.argv[2]))
    else:
        import tyro

        tyro.cli(Seeds).main()
