"""The cost of identities: iteration time, peak memory and frames per second, as ratios measured in one run.

    python benchmarks/training.py --data SCENE [--device cuda] [--gaussians 1000000] [--size 1920 1080] [--phases 0.2 0.45 0.6 0.7]

On CUDA `gradiseg` is compared with nerfstudio's own `splatfacto`. On a CPU, where splatfacto does not run, it is compared with itself
with identities off. With ``--refiner``, gradiseg with the boundary refiner is compared with gradiseg without it. Both methods hold the
same number of Gaussians at full resolution and do not densify. They take turns in blocks of iterations, so a change in the machine's
speed affects both.

With several ``--phases`` the boundary refiner works as it does by default, from 2/3 of the run on. Peak memory is that of CUDA's
allocator, without the memory that the other method holds.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
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
    """Start from this number of random Gaussians instead of the scene's points."""
    blocks: int = 5
    """Number of blocks of each method; the methods take turns."""
    iterations: int = 20
    """Number of iterations in a block. The first block of each method is warm-up and not counted."""
    masks_dir: str = "object_mask"
    phases: tuple[float, ...] = (0.7,)
    """Phases of the schedule to measure, as fractions of the run: 0.2 is the global KNN, 0.45 IGD, 0.6 LA-KNN, from 0.67 on the boundary refiner."""
    size: tuple[int, int] | None = None
    """Width and height to which photos and maps are resized first. Default: their own size."""
    classes: int = 0
    """Train on this number of ids, in a grid over every picture. Default: 0, the ids of the maps."""
    refiner: bool = False
    """Measure the cost of the boundary refiner, against gradiseg without it."""
    options: tuple[str, ...] = ()
    """Options of gradiseg as path=JSON, such as 'pipeline.model.start_from="RUN"' for the Gaussians of a trained run."""
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        makers: dict[str, Callable[[], Any]] = {
            "gradiseg": lambda: self._gradiseg(refiner=self.refiner or len(self.phases) > 1)
        }
        if self.refiner:
            reference = "gradiseg, refiner off"
            makers[reference] = self._gradiseg
        elif self.device == "cuda":
            reference = "splatfacto"
            makers[reference] = self._splatfacto
        else:
            reference = "gradiseg, identities off"
            makers[reference] = lambda: self._gradiseg(identity=False)
        methods: dict[str, Any] = {}
        held: dict[str, int] = {}
        for name, make in makers.items():
            before = self._allocated()
            methods[name] = make()
            held[name] = self._allocated() - before
        reports = []
        for phase in self.phases:
            reports.append(self._measure(methods, held, reference, phase))
            if self.output is not None:
                self.output.parent.mkdir(parents=True, exist_ok=True)
                self.output.write_text(json.dumps(reports if len(self.phases) > 1 else reports[0], indent=2))

    def _measure(
        self, methods: dict[str, Any], held: dict[str, int], reference: str, phase: float
    ) -> dict[str, Any]:
        """One phase, all methods in turn."""
        times: dict[str, list[float]] = {name: [] for name in methods}
        memory: dict[str, float] = {}
        for trainer in methods.values():
            trainer.next_step = round(phase * 30_000)
        for block in range(self.blocks + 1):
            for name, trainer in methods.items():
                others = sum(size for other, size in held.items() if other != name)
                seconds, peak = self._block(trainer)
                held[name] = self._allocated() - others
                if block:
                    times[name] += seconds
                    memory[name] = peak - others / 2**20
        frames = {name: [] for name in methods}
        for _ in range(3):
            for name, trainer in methods.items():
                frames[name].append(self._frames_per_second(trainer))
        ours = methods["gradiseg"]
        neighbor = self._neighbor_seconds(ours.pipeline.model, phase)
        return self._report(phase, reference, times, memory, frames, neighbor, ours.pipeline.model.num_points)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0

    def _prepare(self, config: Any) -> Any:
        """A trainer that neither densifies nor downscales."""
        model = config.pipeline.model
        model.num_downscales = 0
        model.warmup_length = 1 << 40
        if self.gaussians is not None:
            model.random_init, model.num_random, model.random_scale = True, self.gaussians, 2.0
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.pipeline.train()
        self._resize(trainer.pipeline)
        return trainer

    def _resize(self, pipeline: Any) -> None:
        """Resize photos, maps and cameras, and give the maps other ids."""
        manager, model = pipeline.datamanager, pipeline.model
        if hasattr(manager, "use_classes"):
            manager.use_classes(None)
        for item in manager.cached_train:
            if self.size is not None:
                width, height = self.size
                photo = item["image"].permute(2, 0, 1)[None]
                photo = F.interpolate(photo.float(), (height, width), mode="bilinear")[0].permute(1, 2, 0)
                item["image"] = photo.to(item["image"].dtype).contiguous()
            if "id_map" in item:
                ids = item["id_map"]
                if self.size is not None:
                    ids = F.interpolate(ids.permute(2, 0, 1)[None].float(), (height, width), mode="nearest")[0].permute(1, 2, 0)  # fmt: skip
                if self.classes:
                    side = math.ceil(self.classes**0.5)
                    rows, columns = (torch.arange(n, device=ids.device) * side // n for n in ids.shape[:2])
                    ids = ((rows[:, None] * side + columns) % self.classes)[..., None]
                item["id_map"] = ids.to(torch.int16).contiguous()
        if self.size is not None:
            known = {id(c): c for c in (manager.train_cameras, manager.train_dataset.cameras)}
            for cameras in known.values():
                scale = torch.tensor([width, height], device=cameras.fx.device) / torch.cat(
                    [cameras.width[:1], cameras.height[:1]], dim=1
                )
                cameras.fx, cameras.cx = cameras.fx * scale[0, 0], cameras.cx * scale[0, 0]
                cameras.fy, cameras.cy = cameras.fy * scale[0, 1], cameras.cy * scale[0, 1]
                cameras.width, cameras.height = (
                    torch.full_like(cameras.width, width),
                    torch.full_like(cameras.height, height),
                )
        if self.classes and hasattr(model, "set_objects"):
            model.set_objects(range(self.classes), {})
            torch.nn.init.normal_(model.classifier.weight, std=0.1)
        if hasattr(manager, "use_classes") and model.config.identity:
            manager.use_classes(model.objects)

    def _gradiseg(self, *, identity: bool = True, refiner: bool = False) -> Any:
        from gradiseg_ns import runs

        options: dict[str, Any] = {
            "pipeline.datamanager.masks_dir": self.masks_dir,
            "pipeline.model.identity": identity,
            "pipeline.model.boundary_refiner": refiner,
            "pipeline.model.igd_budget": 0.0,
            "pipeline.model.boundary.split": 0.0,
            "pipeline.model.boundary.overshoot": "off",
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
        from gradiseg_ns.evaluation.lpips import without_lpips_download

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

    def _neighbor_seconds(self, model: Any, phase: float) -> float:
        """Mean cost of L_3d in a step, in seconds, forward and backward, over more than one pool of neighbours."""
        model.step = round(phase * 30_000)
        seconds = []
        for _ in range(2 * model.neighbors.period):
            start = self._now()
            model.neighbor_loss().backward()
            seconds.append(self._now() - start)
        return statistics.fmean(seconds)

    def _report(
        self,
        phase: float,
        reference: str,
        times: dict[str, list[float]],
        memory: dict[str, float],
        frames: dict[str, list[float]],
        neighbor: float,
        count: int,
    ) -> dict[str, Any]:
        # The field takes part in some steps only, and a median would hide them.
        typical = statistics.fmean if self.refiner or phase > 2 / 3 else statistics.median
        median = {name: typical(values) * 1e3 for name, values in times.items()}
        fps = {name: statistics.median(values) for name, values in frames.items()}
        device = (
            torch.cuda.get_device_name()
            if self.device == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        )
        size = "" if self.size is None else f" at {self.size[0]}x{self.size[1]}"
        table = Table(
            title=f"{self.data.name}{size}, {count} Gaussians, {phase:.0%} of the run, {device}, torch {torch.__version__}"
        )
        for column in ("method", "ms per iteration", "peak memory, MiB", "frames per second"):
            table.add_column(column)
        for name in times:
            # On a CPU the peak is that of the process, which holds both methods. Only CUDA's allocator separates them.
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
        return {
            "device": device, "machine": platform.platform(), "torch": torch.__version__, "gaussians": count,
            "size": self.size, "classes": self.classes, "phase": phase, "reference": reference, "ratio": ratio,
            "ms": median, "fps": fps, "memory": memory,
        }  # fmt: skip


if __name__ == "__main__":
    tyro.cli(Training).main()
