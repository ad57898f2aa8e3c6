"""What identities cost: iteration time, peak memory and frames per second, as ratios measured in one run.

    python benchmarks/training.py --data SCENE [--device cuda] [--gaussians 1000000]

On CUDA `gradiseg` is compared with nerfstudio's own `splatfacto`; on a CPU, where splatfacto does not run, with
itself with identities off; with ``--refiner``, gradiseg while it refines boundaries with gradiseg that does not. Both hold the same number of Gaussians at full resolution, nothing is densified, and the
two take turns in blocks of iterations, so that a machine whose speed drifts drifts for both.
"""

from __future__ import annotations

import copy
import json
import platform
import resource
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table


@dataclass
class Training:
    """Iteration time, memory and frames per second of gradiseg against splatfacto."""

    data: Path
    """The scene's folder."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    gaussians: int | None = None
    """Start from that many random Gaussians instead of the scene's points."""
    blocks: int = 5
    """Blocks of each method, in turn."""
    iterations: int = 20
    """Iterations of a block; the first block of each is warm-up and not counted."""
    masks_dir: str = "object_mask"
    phase: float = 0.7
    """Where in the schedule to measure, as a fraction of the run: 0.45 is IGD, 0.7 LA-KNN, 0.2 the global KNN."""
    refiner: bool = False
    """Measure the boundary refiner instead, against gradiseg without it."""
    options: tuple[str, ...] = ()
    """Options of gradiseg as path=JSON, such as 'pipeline.model.start_from="RUN"' for the Gaussians of a trained run."""
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        methods = {"gradiseg": self._gradiseg(refiner=self.refiner)}
        if self.refiner:
            reference = "gradiseg, refiner off"
            methods[reference] = self._gradiseg()
        elif self.device == "cuda":
            reference = "splatfacto"
            methods[reference] = self._splatfacto()
        else:
            reference = "gradiseg, identities off"
            methods[reference] = self._gradiseg(identity=False)
        times: dict[str, list[float]] = {name: [] for name in methods}
        memory: dict[str, float] = {}
        for block in range(self.blocks + 1):
            for name, trainer in methods.items():
                seconds, peak = self._block(trainer)
                if block:
                    times[name] += seconds
                    memory[name] = peak
        frames = {name: [] for name in methods}
        for _ in range(3):
            for name, trainer in methods.items():
                frames[name].append(self._frames_per_second(trainer))
        ours = methods["gradiseg"]
        neighbor = self._neighbor_seconds(ours.pipeline.model)
        self._report(reference, times, memory, frames, neighbor, ours.pipeline.model.num_points)

    def _prepare(self, config: Any) -> Any:
        """A trainer that neither densifies nor downscales, at the wanted phase of its schedule."""
        model = config.pipeline.model
        model.num_downscales = 0
        model.warmup_length = 1 << 40
        if self.gaussians is not None:
            model.random_init, model.num_random, model.random_scale = True, self.gaussians, 2.0
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.pipeline.train()
        trainer.next_step = round(self.phase * 30_000)
        return trainer

    def _gradiseg(self, *, identity: bool = True, refiner: bool = False) -> Any:
        from gradiseg_ns import runs

        options: dict[str, Any] = {
            "pipeline.datamanager.masks_dir": self.masks_dir,
            "pipeline.model.identity": identity,
            "pipeline.model.boundary_refiner": refiner,
            "pipeline.model.igd_budget": 0.0,
            **{key: json.loads(value) for key, value in (o.split("=", 1) for o in self.options)},
        }
        folder = Path(tempfile.mkdtemp())
        return self._prepare(
            runs.make_config("gradiseg", self.data, folder, device=self.device, options=options)
        )

    def _splatfacto(self) -> Any:
        from nerfstudio.configs.method_configs import method_configs

        config: Any = copy.deepcopy(method_configs["splatfacto"])
        config.pipeline.datamanager.data = self.data
        config.output_dir = Path(tempfile.mkdtemp())
        config.machine.device_type = "cuda"
        config.vis = "tensorboard"
        config.logging.local_writer.enable = False
        config.set_timestamp()
        from gradiseg_ns.lpips import without_lpips_download

        with without_lpips_download():
            return self._prepare(config)

    def _block(self, trainer: Any) -> tuple[list[float], float]:
        from nerfstudio.engine.callbacks import TrainingCallbackLocation as Location

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.iterations):
            step = trainer.next_step
            trainer.next_step += 1
            start = self._now()
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=Location.BEFORE_TRAIN_ITERATION)
            trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=Location.AFTER_TRAIN_ITERATION)
            seconds.append(self._now() - start)
        peak = (
            torch.cuda.max_memory_allocated() / 2**20
            if self.device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )
        return seconds, peak

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    def _frames_per_second(self, trainer: Any) -> float:
        pipeline = trainer.pipeline
        pipeline.eval()
        cameras = [camera for camera, _ in pipeline.datamanager.fixed_indices_eval_dataloader]
        start = self._now()
        for camera in cameras:
            pipeline.model.get_outputs_for_camera(camera)
        rate = len(cameras) / (self._now() - start)
        pipeline.train()
        return rate

    def _neighbor_seconds(self, model: Any) -> float:
        """Median cost of L_3d, forward and backward, over more than one pool of neighbours."""
        model.step = round(self.phase * 30_000)
        seconds = []
        for _ in range(2 * model.neighbors.period):
            start = self._now()
            model.neighbor_loss().backward()
            seconds.append(self._now() - start)
        return statistics.fmean(seconds)

    def _report(
        self,
        reference: str,
        times: dict[str, list[float]],
        memory: dict[str, float],
        frames: dict[str, list[float]],
        neighbor: float,
        count: int,
    ) -> None:
        # The field takes part in some steps only, which a median would hide.
        typical = statistics.fmean if self.refiner else statistics.median
        median = {name: typical(values) * 1e3 for name, values in times.items()}
        fps = {name: statistics.median(values) for name, values in frames.items()}
        device = (
            torch.cuda.get_device_name()
            if self.device == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        )
        table = Table(title=f"{self.data.name}, {count} Gaussians, {device}, torch {torch.__version__}")
        for column in ("method", "ms per iteration", "peak memory, MiB", "frames per second"):
            table.add_column(column)
        for name in times:
            # On a CPU the peak is the process's, which holds both: only CUDA's allocator tells them apart.
            peak = f"{memory[name]:.0f}" if self.device == "cuda" else "-"
            table.add_row(name, f"{median[name]:.1f}", peak, f"{fps[name]:.1f}")
        ratio = {
            "iteration_time": median["gradiseg"] / median[reference],
            "frames_per_second": fps["gradiseg"] / fps[reference],
            "neighbor_loss_share": neighbor * 1e3 / median["gradiseg"],
        }
        if self.device == "cuda":
            ratio["peak_memory"] = memory["gradiseg"] / memory[reference]
        table.add_row(
            "ratio", f"{ratio['iteration_time']:.2f}", f"{ratio.get('peak_memory', float('nan')):.2f}",
            f"{ratio['frames_per_second']:.2f}",
        )  # fmt: skip
        console = Console()
        console.print(table)
        console.print(
            f"The 3-D loss takes {neighbor * 1e3:.2f} ms, {ratio['neighbor_loss_share']:.1%} of an iteration."
        )
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            report = {"device": device, "machine": platform.platform(), "gaussians": count, "ratio": ratio}
            self.output.write_text(
                json.dumps({**report, "ms": median, "fps": fps, "memory": memory}, indent=2)
            )


if __name__ == "__main__":
    tyro.cli(Training).main()
