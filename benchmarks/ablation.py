"""GradiSeg's table 4 on any scene (neither, IGD only, LA-KNN only, both), and the boundary refiner part by part.

The command trains, evaluates and prints a table.

    python benchmarks/ablation.py --data SCENE --masks-dir noisy_mask --eval-masks-dir object_mask --seeds 0 1

    python benchmarks/ablation.py --data SCENE --rows boundary-off boundary boundary-no-snap --fork-at 0.667

Figures are of the held-out views. ``--jobs 2`` trains two rows at once with half of the threads each; this uses two cores better
than one training does. Results are appended to ``--output`` as JSON lines as they come.
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

import yaml

ROWS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "configs" / "ablation.yaml").read_text()
)["rows"]
SAMPLING_SEED = 42
"""nerfstudio's default: the order of the views does not follow from the seed of a run."""
TABLE_4 = ("neither", "igd", "la-knn", "both")


@dataclass
class Ablation:
    """Train and evaluate the rows of table 4, and others, on one scene."""

    data: Path
    """The scene's folder."""
    masks_dir: str = "object_mask"
    """Id maps to train on."""
    eval_masks_dir: str | None = None
    """Id maps to evaluate on. Default: the training maps."""
    ignore_ids: tuple[int, ...] = ()
    """Object ids left out of mIoU, such as background and table."""
    rows: tuple[str, ...] = TABLE_4
    """Rows to train, by their names in configs/ablation.yaml."""
    seeds: tuple[int, ...] = (0, 1)
    method: str = "gradiseg-lite"
    steps: int | None = None
    """Length of every run. Default: the method's own."""
    device: str | None = None
    jobs: int = 1
    """Number of trainings that run at once and share the threads."""
    fork_at: float | None = None
    """Of every seed, train the options of the first row once, and let all rows go on from its checkpoint at this share of the run. Use it for rows that differ only in later phases, such as `--rows boundary-off boundary --fork-at 0.667`."""
    orders: int = 1
    """With --fork-at, runs of every row and seed, which go on from one checkpoint and see the views in other orders. PSNR of one run says little: another order alone changes it by 0.2 dB."""
    every_side: Path | None = None
    """Folder of masks of single objects from every side; cut-outs are compared with them, too (benchmarks/every_side.py)."""
    output: Path = Path("outputs/ablation/results.jsonl")
    options: tuple[str, ...] = field(default_factory=tuple)
    """Further options of every row as path=JSON, e.g. pipeline.model.igd_budget=0.4."""

    def main(self) -> None:
        unknown = [row for row in self.rows if row not in ROWS]
        if unknown:
            raise SystemExit(f"--rows: unknown {unknown}, expected some of {list(ROWS)}")
        if self.fork_at is not None and not 0 < self.fork_at < 1:
            raise SystemExit(f"--fork-at {self.fork_at}: expected a share of the run between 0 and 1")
        if self.orders < 1 or (self.orders > 1 and self.fork_at is None):
            raise SystemExit(f"--orders {self.orders}: expected 1, or more together with --fork-at")
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        trunks: dict[int, str] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            seeds = self.seeds
            if self.fork_at is not None:
                # No row is this run itself: what goes on from a checkpoint sees the views in another order.
                jobs = [pool.submit(self._spawn, self.rows[0], seed, 0, threads, None) for seed in seeds]
                trunks = {r["seed"]: r["run"] for r in (job.result() for job in jobs) if r is not None}
                seeds = tuple(trunks)
            runs = [(row, seed, order) for seed in seeds for order in range(self.orders) for row in self.rows]
            jobs = [pool.submit(self._spawn, *run, threads, trunks.get(run[1])) for run in runs]
            results = [job.result() for job in jobs]
        print_table(self, [result for result in results if result is not None])

    def _spawn(
        self, row: str, seed: int, order: int, threads: int, trunk: str | None
    ) -> dict[str, Any] | None:
        """One run in a process of its own, so that runs share nothing. With a trunk, it starts from the checkpoint of that run."""
        job = {
            "data": str(self.data),
            "method": self.method,
            "steps": self.steps,
            "seed": seed,
            "order": order,
            "device": self.device,
            "row": row,
            "fork_at": self.fork_at,
            "every_side": None if self.every_side is None else str(self.every_side),
            "trunk": trunk,
            "options": {
                "pipeline.datamanager.masks_dir": self.masks_dir,
                "pipeline.datamanager.eval_masks_dir": self.eval_masks_dir,
                "pipeline.model.metrics_ignore_ids": list(self.ignore_ids),
                "pipeline.datamanager.train_cameras_sampling_seed": SAMPLING_SEED + 11 * order,
                # The other rows are those of GradiSeg, which has no refiner.
                **({} if row.startswith("boundary") else {"pipeline.model.boundary_refiner": False}),
                **ROWS[row],
                **{k: json.loads(v) for k, v in (option.split("=", 1) for option in self.options)},
            },
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "0"}
        is_trunk = self.fork_at is not None and trunk is None
        name = f"trunk-of-{row}" if is_trunk else f"{row}_order-{order}" if order else row
        log = self.output.parent / "logs" / f"{self.data.name}_{self.masks_dir}_{name}_{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {name}, seed {seed} (log: {log})", flush=True)
        with log.open("w") as stream:
            code = subprocess.run(
                [sys.executable, __file__, "--one-run", json.dumps(job)],
                stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False,
            ).returncode  # fmt: skip
        marked = [line for line in log.read_text().splitlines() if line.startswith("RESULT ")]
        if code or not marked:
            print(f"  {name}, seed {seed} failed with exit code {code}; see {log}", flush=True)
            return None
        result = json.loads(marked[-1].removeprefix("RESULT "))
        if is_trunk:
            return result
        with self.output.open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        figures = ", ".join(f"{key} {result[key]:.2f}" for key in FIGURES if result.get(key) is not None)
        print(f"  {row}, seed {seed}: {figures}", flush=True)
        return result


FIGURES = (
    "miou", "mbiou", "mbiou_fine", "extracted_biou", "psnr", "ssim", "all_iou", "all_biou", "splat_at_edges", "field_at_edges", "gaussian_count", "seconds",
)  # fmt: skip


def one_run(job: dict[str, Any]) -> None:
    """Train and evaluate in this process, and print the result as one line."""
    import torch

    import gradiseg_ns.runs as runs

    name = f"{job['seed']}_order-{job['order']}" if job["order"] else str(job["seed"])
    config = runs.make_config(
        job["method"], Path(job["data"]), Path("outputs/ablation/runs") / job["row"] / name,
        steps=job["steps"], seed=job["seed"], device=job["device"], options=job["options"],
    )  # fmt: skip
    if job["fork_at"] is not None:
        fork = round(job["fork_at"] * config.max_num_iterations)
        if job["trunk"] is None:
            config.steps_per_save, config.save_only_latest_checkpoint = fork, False
        else:
            config.load_dir, config.load_step = Path(job["trunk"]) / "nerfstudio_models", fork
            config.max_num_iterations -= fork + 1
    trainer, seconds = runs.train(config, description=job["row"])
    if job["fork_at"] is not None and job["trunk"] is None:
        print("\nRESULT " + json.dumps({**job, "run": str(config.get_base_dir())}), flush=True)
        return
    metrics = runs.evaluate(trainer, pictures=config.get_base_dir() / "eval")
    with torch.no_grad():
        oracle = field_at_edges(trainer.pipeline)
    own = {**oracle, "seconds": seconds, "run": str(config.get_base_dir())}
    if job["every_side"] is not None:
        from every_side import cut_outs, figures_of, read_every_side

        from gradiseg_ns import sources

        views = read_every_side(Path(job["every_side"]))
        own.update(figures_of(views, cut_outs(sources.load_run(config.get_base_dir()), views)))
    result = {**job, **metrics, **own}
    print("\nRESULT " + json.dumps(result), flush=True)


def field_at_edges(pipeline: Any) -> dict[str, float]:
    """Does the field know more than the splat? Share of pixels with the right class, in percent, of the splat as rendered and of the field's
    own volume rendering: at the pixels of held-out views that lie within two pixels of an edge of the id map and in which boundary
    Gaussians are visible. Empty without a field."""
    import torch

    from gradiseg_ns import rendering
    from gradiseg_ns.boundary.refinement import REACH, SEEN, Patches, edge_classes, sample_rays

    model = pipeline.model
    phase = model.boundary_phase
    if phase is None or not phase.config.field or phase.points is None:
        return {}
    points, refiner = phase.points, phase.refiner
    known, gaussians = model._refined_gaussians(), model._gaussians()
    features = torch.cat([known.colors, known.identities, known.opacities[:, None]], dim=-1)
    own = torch.zeros(len(features), 1, device=model.device)
    own[points.indices] = 1.0
    right, opacity, count = torch.zeros(2), torch.zeros(()), 0
    model.eval()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        outputs = model.get_outputs_for_camera(camera)
        view = model.rendering_camera(camera)
        truth = edge_classes(model.objects.classes_of(batch["id_map"][..., 0].to(model.device)))
        seen, _ = rendering.render(gaussians, view, own)
        at = ((truth >= 0) & (seen[..., 0] > SEEN)).nonzero(as_tuple=True)
        if not len(at[0]):
            continue
        depth = outputs["depth"][..., 0]
        rays = sample_rays(view, Patches(*at), depth, REACH * points.spacing, refiner.samples, jitter=False)
        values, _ = refiner.query(rays, features[points.indices])
        of_field = values.identity / values.opacity.clamp(min=1e-3)[:, None]
        opacity += values.opacity.sum().cpu()
        for k, identity in enumerate((outputs.identity_map[at], of_field)):
            right[k] += (model.classifier(identity).argmax(-1) == truth[at]).sum().cpu()
        count += len(at[0])
    splats, fields = (100 * right / max(count, 1)).tolist()
    return {
        "splat_at_edges": splats,
        "field_at_edges": fields,
        "field_opacity": float(opacity) / max(count, 1),
    }


def print_table(ablation: Ablation, results: list[dict[str, Any]]) -> None:
    """Means over the runs, one row per variant, with mBIoU and PSNR of each run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{ablation.data.name}, trained on {ablation.masks_dir}, seeds {list(ablation.seeds)}"
    )
    for column in ("row", *FIGURES, "mbiou of each run", "psnr of each run"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row in ablation.rows:
        mine = [result for result in results if result["row"] == row]
        if not mine:
            continue
        cells = []
        for key in FIGURES:
            values = [result[key] for result in mine if result.get(key) is not None]
            mean = sum(values) / len(values) if values else None
            digits = 0 if key in ("gaussian_count", "seconds") else 3 if key == "ssim" else 2
            cells.append("-" if mean is None else f"{mean:.{digits}f}")
        for key in ("mbiou", "psnr"):
            cells.append(", ".join("-" if r.get(key) is None else f"{r[key]:.2f}" for r in mine))
        table.add_row(row, *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-run"]:
        one_run(json.loads(sys.argv[2]))
    else:
        import tyro

        tyro.cli(Ablation).main()
