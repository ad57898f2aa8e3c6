"""The run around the model: its length, its schedulers, and checkpoints that survive a full disk."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gradiseg_ns.doctor import check_training
from gradiseg_ns.model import GradisegModelConfig, apply_schedule
from gradiseg_ns.pipeline import GradisegPipeline

STOCK_RUN_LENGTH = 30_000


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over memory, on a CPU as on CUDA."""

    fused: bool = True
    """Use torch's fused implementation."""


class FloatExponentialDecayScheduler(ExponentialDecayScheduler):
    """nerfstudio's schedule in Python floats.

    The original's numpy scalars end up in checkpoints, which a weights-only load then refuses.
    """

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        original = super().get_scheduler(optimizer, lr_init)
        assert isinstance(original, LambdaLR)
        factor: Callable[[int], Any] = original.lr_lambdas[0]
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = float(lr_init)
        return LambdaLR(optimizer, lr_lambda=lambda step: float(factor(step)))


@dataclass
class FloatExponentialDecayConfig(ExponentialDecaySchedulerConfig):
    """Exponential decay over the whole run: ``max_steps`` follows --max-num-iterations unless set, and ``warmup_steps`` with it."""

    _target: type = field(default_factory=lambda: FloatExponentialDecayScheduler)
    max_steps: int = STOCK_RUN_LENGTH
    """Steps over which the learning rate decays."""


@dataclass
class GradisegTrainerConfig(TrainerConfig):
    """TrainerConfig that derives every step number from the length of the run before anything is saved."""

    _target: type = field(default_factory=lambda: GradisegTrainer)

    def resolve(self) -> None:
        """Choose the device, and write the run's step numbers into the configuration. Idempotent."""
        check_training(self.machine.device_type)
        if self.machine.device_type == "cuda" and not torch.cuda.is_available():
            CONSOLE.print("[yellow]No CUDA device found: training on the CPU (--machine.device-type cpu).")
            self.machine.device_type = "cpu"
        model = self.pipeline.model
        if not isinstance(model, GradisegModelConfig):
            return
        length = self.max_num_iterations + self._steps_done()
        model.run_length = length
        if not model.identity:
            self.pipeline.datamanager.require_maps = False  # type: ignore[attr-defined]
        apply_schedule(model)
        for group in self.optimizers.values():
            scheduler = group["scheduler"]
            if isinstance(scheduler, FloatExponentialDecayConfig) and scheduler.max_steps == STOCK_RUN_LENGTH:
                scheduler.max_steps = length
                scheduler.warmup_steps = round(scheduler.warmup_steps * length / STOCK_RUN_LENGTH)

    def _steps_done(self) -> int:
        """Steps of the run that is resumed (--max-num-iterations counts on from there), else 0."""
        name = self.load_checkpoint.name if self.load_checkpoint is not None else ""
        if not name and self.load_dir is not None:
            if self.load_step is not None:
                return self.load_step + 1
            names = sorted(path.name for path in Path(self.load_dir).glob("step-*.ckpt"))
            if not names:
                raise FileNotFoundError(
                    f"--load-dir {self.load_dir} has no checkpoint: expected step-000000123.ckpt in it "
                    "(the folder nerfstudio_models of a run)"
                )
            name = names[-1]
        digits = "".join(c for c in name if c.isdigit())
        return int(digits) + 1 if digits else 0

    def print_to_terminal(self) -> None:
        self.resolve()
        super().print_to_terminal()

    def save_config(self) -> None:
        self.resolve()
        # ns-eval and its like would look for the step that was resumed from among this run's own checkpoints.
        step, self.load_step = self.load_step, None
        try:
            super().save_config()
        finally:
            self.load_step = step

    def setup(self, **kwargs: Any) -> Any:
        self.resolve()
        return super().setup(**kwargs)


class GradisegTrainer(Trainer):
    """nerfstudio's trainer, with checkpoints that are whole or not there."""

    pipeline: GradisegPipeline  # type: ignore[assignment]
    save_failed: bool = False
    """Whether the last checkpoint could not be written."""

    def setup(self, test_mode: str = "val") -> None:  # type: ignore[override]
        super().setup(test_mode)  # type: ignore[arg-type]
        # nerfstudio 1.1.5 counts --max-num-iterations on from a checkpoint, as is done here; later it is the whole run's length.
        if "max_num_iterations - self._start_step" in inspect.getsource(Trainer.train):
            self.config.max_num_iterations += self._start_step
        model = self.pipeline.model
        CONSOLE.print(f"[bold]Schedule[/bold] {model.schedule.describe()}")
        if model.objects.ids:
            CONSOLE.print(f"[bold]Objects[/bold] {len(model.objects.ids)} ids, {model.num_points} Gaussians")

    def _load_checkpoint(self) -> None:
        """As nerfstudio's, but for the boundary field: a checkpoint does not hold it, and it has other parameters with
        tinycudann than without. A resumed run starts it anew, and so its optimizer."""
        load = self.optimizers.load_optimizers
        self.optimizers.load_optimizers = lambda states: load(  # type: ignore[method-assign]
            {name: state for name, state in states.items() if name != "boundary_field"}
        )
        try:
            super()._load_checkpoint()
        finally:
            self.optimizers.load_optimizers = load  # type: ignore[method-assign]

    def save_checkpoint(self, step: int) -> None:
        """Write beside, then rename: a full disk never costs the last good checkpoint.

        nerfstudio finds checkpoints by name and takes the newest, so a half-written one would hide the good one.
        """
        final = self.checkpoint_dir
        partial = final.parent / ".saving"
        self.checkpoint_dir = partial
        try:
            partial.mkdir(parents=True, exist_ok=True)
            super().save_checkpoint(step)
            written = partial / f"step-{step:09d}.ckpt"
            if not written.exists():  # not the main process
                return
            final.mkdir(parents=True, exist_ok=True)
            os.replace(written, final / written.name)
        except (OSError, RuntimeError) as error:
            left = sorted(path.name for path in final.glob("*.ckpt")) if final.exists() else []
            CONSOLE.print(
                f"[bold red]Could not save the checkpoint of step {step} to {final}: {error}\n"
                + (f"The last good one is still there: {left[-1]}." if left else "There is none from before.")
                + f" Free space there: {_free_space(final)}. Training goes on; the next save may succeed."
            )
            self.save_failed = True
            return
        finally:
            self.checkpoint_dir = final
            shutil.rmtree(partial, ignore_errors=True)
        self.save_failed = False
        if self.config.save_only_latest_checkpoint:
            for other in final.glob("*.ckpt"):
                if other.name != written.name:
                    other.unlink()

    def _after_train(self) -> None:
        """As nerfstudio's; a run whose last checkpoint could not be written must not look finished."""
        super()._after_train()
        if self.save_failed:
            raise SystemExit(f"the final checkpoint could not be written to {self.checkpoint_dir}")


def _free_space(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB"
