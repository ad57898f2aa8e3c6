"""The run around the model: its folder, its length, its schedulers, its end; and checkpoints that survive a full disk."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gradiseg_ns.doctor import check_training
from gradiseg_ns.model import GradisegModelConfig, apply_schedule
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.sources import checkpoints
from gradiseg_ns.tools.atomic import clean, new_run_folder, occupy, temporary_folder, write_text
from gradiseg_ns.tools.terminal import mend_commands, say

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
        mend_commands()
        check_training(self.machine.device_type)
        if self.machine.device_type == "cuda" and not torch.cuda.is_available():
            say("No CUDA device found: training on the CPU (--machine.device-type cpu).")
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

    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, the newest of --load-dir that can be read; None for a new run.

        Raises:
            CheckpointError: there is none that can be read.
        """
        if self.load_dir is not None:
            return checkpoints.choose(Path(self.load_dir), self.load_step, flag="--load-dir")
        return None if self.load_checkpoint is None else Path(self.load_checkpoint)

    def _steps_done(self) -> int:
        """Steps of the run that is resumed (--max-num-iterations counts on from there), else 0."""
        path = self.checkpoint()
        return 0 if path is None else checkpoints.step_of(path) + 1

    def set_timestamp(self) -> None:
        named = self.timestamp != "{timestamp}"
        super().set_timestamp()
        if not named:
            self._named_by_time = True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_named_by_time"}

    def print_to_terminal(self) -> None:
        self.resolve()
        super().print_to_terminal()

    def save_config(self) -> None:
        """config.yml, whole or not at all. A folder that is named by the time is made anew: of two trainings that start in one second
        each has its own."""
        self.resolve()
        if self.__dict__.pop("_named_by_time", False):
            wanted = self.get_base_dir()
            taken = new_run_folder(wanted)
            self.timestamp = taken.name
            if taken != wanted:
                say(f"Another run has the folder {wanted}: this one is {taken.name}.")
        # ns-eval and its like would look for the step that was resumed from among this run's own checkpoints.
        step, self.load_step = self.load_step, None
        try:
            path = self.get_base_dir() / "config.yml"
            say(f"Saving config to: {path}")
            write_text(path, yaml.dump(self))
        finally:
            self.load_step = step

    def setup(self, **kwargs: Any) -> Any:
        self.resolve()
        return super().setup(**kwargs)


class GradisegTrainer(Trainer):
    """nerfstudio's trainer, with checkpoints that are whole or not there, also when it is told to end."""

    config: GradisegTrainerConfig
    pipeline: GradisegPipeline  # type: ignore[assignment]
    save_failed: bool = False
    """Whether the last checkpoint could not be written."""
    interrupted: int | None = None
    """The signal that asked the training to end."""
    _stop: bool = False
    _done: int | None = None
    _leave: Callable[[], None] | None = None
    _handlers: dict[int, Any]

    def setup(self, test_mode: str = "val") -> None:  # type: ignore[override]
        self._handlers = {}
        if test_mode == "val" and self.local_rank == 0:
            self._leave = occupy(self.base_dir)
        try:
            super().setup(test_mode)  # type: ignore[arg-type]
        except BaseException as error:
            self._give_up_folder()
            if not isinstance(error, KeyboardInterrupt):
                raise
            say("Ended before the first step: there is nothing to save.")
            raise SystemExit(128 + signal.SIGINT) from None
        self.callbacks.append(
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._note_step)
        )
        # nerfstudio 1.1.5 counts --max-num-iterations on from a checkpoint, as is done here; later it is the whole run's length.
        if "max_num_iterations - self._start_step" in inspect.getsource(Trainer.train):
            self.config.max_num_iterations += self._start_step
        model = self.pipeline.model
        say(model.schedule.describe(), title="Schedule")
        if model.objects.ids:
            say(f"{len(model.objects.ids)} ids, {model.num_points} Gaussians", title="Objects")

    def _load_checkpoint(self) -> None:
        """As nerfstudio's, but that a file that cannot be read is not taken, and for the boundary field: a checkpoint does not hold
        it, and it has other parameters with tinycudann than without. A resumed run starts it anew, and so its optimizer."""
        path = self.config.checkpoint()
        if path is None:
            say("No checkpoint to load: training from scratch.")
            return
        loaded = checkpoints.load(path)
        self._start_step = loaded["step"] + 1
        self.pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
        states = {name: state for name, state in loaded["optimizers"].items() if name != "boundary_field"}
        self.optimizers.load_optimizers(states)
        if "schedulers" in loaded and self.config.load_scheduler:
            self.optimizers.load_schedulers(loaded["schedulers"])
        self.grad_scaler.load_state_dict(loaded["scalers"])
        say(f"Done loading the checkpoint {path}")

    # ------------------------------------------------------------------ the end

    @property
    def stop_training(self) -> bool:
        """Whether the loop ends before its next step."""
        return self._stop or self.interrupted is not None

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self._stop = value

    def train(self) -> None:
        """Train. The first Ctrl-C (or SIGTERM) ends it after the step, with a checkpoint and the line that resumes it; the second one ends
        it at once.

        Raises:
            SystemExit: 130 after Ctrl-C, 143 after SIGTERM, 1 if the last checkpoint could not be written.
        """
        self._catch_signals()
        try:
            super().train()
        except KeyboardInterrupt:  # all is saved, and the viewer's user has seen enough
            self.shutdown()
        finally:
            self._restore_signals()
            self._give_up_folder()

    def _note_step(self, step: int) -> None:
        self._done = step

    def _give_up_folder(self) -> None:
        if self._leave is not None:
            self._leave()

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread() or self.world_size > 1:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # a command in the background does not hear Ctrl-C
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self.interrupted = number
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)
        # Not through the console, which may be in the middle of a line.
        with contextlib.suppress(OSError):
            os.write(
                2,
                b"\nThe training ends after this step, with a checkpoint. Once more: at once, without one.\n",
            )

    def _restore_signals(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _train_complete_viewer(self) -> None:
        """As nerfstudio's, which waits for Ctrl-C."""
        self._restore_signals()
        if self.interrupted is None:
            super()._train_complete_viewer()

    def _after_train(self) -> None:
        """As nerfstudio's; a run whose last checkpoint could not be written must not look finished, nor one that was ended."""
        if self.interrupted is not None:
            self._end_early(self.interrupted)
        super()._after_train()
        if self.save_failed:
            raise SystemExit(f"the final checkpoint could not be written to {self.checkpoint_dir}")

    def _end_early(self, number: int) -> None:
        """Save what was learned, and say how to go on.

        Raises:
            SystemExit: always.
        """
        self.training_state = "completed"
        length = self.pipeline.model.schedule.length
        if self._done is None:
            say("Ended before the first step: there is nothing to save.")
        else:
            if self._saved_step() != self._done:
                self.save_checkpoint(self._done)
            done = self._done + 1
            if not self.save_failed:
                say(f"Ended after {done} of {length} steps, which are saved in {self.checkpoint_dir}")
                if done < length:
                    say(resume_line(self.config, self.checkpoint_dir, length - done), title="Go on with:")
        writer.write_out_storage()
        self.shutdown()
        raise SystemExit(1 if self.save_failed else 128 + number)

    def _saved_step(self) -> int | None:
        there = checkpoints.in_folder(self.checkpoint_dir)
        return checkpoints.step_of(there[0]) if there and checkpoints.fault(there[0]) is None else None

    def save_checkpoint(self, step: int) -> None:
        """Write beside, then rename: a full disk never costs the last good checkpoint.

        nerfstudio finds checkpoints by name and takes the newest, so a half-written one would hide the good one.
        """
        final = self.checkpoint_dir
        partial: Path | None = None
        try:
            clean(final.parent)
            self.checkpoint_dir = partial = temporary_folder(final.parent)
            super().save_checkpoint(step)
            written = partial / f"step-{step:09d}.ckpt"
            if not written.exists():  # not the main process
                return
            _to_disk(written)
            final.mkdir(parents=True, exist_ok=True)
            os.replace(written, final / written.name)
        except (OSError, RuntimeError) as error:
            left = [path.name for path in checkpoints.in_folder(final)]
            say(
                f"The checkpoint of step {step} cannot be written to {final}: {error}\n"
                + (f"The last good one is still there: {left[0]}." if left else "There is none from before.")
                + f" Free space there: {_free_space(final)}."
                + ("" if self.interrupted else " Training goes on; the next save may succeed."),
                title="Not saved:", style="bold red",
            )  # fmt: skip
            self.save_failed = True
            return
        finally:
            self.checkpoint_dir = final
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
        self.save_failed = False
        if self.config.save_only_latest_checkpoint:
            for other in checkpoints.in_folder(final):
                if other.name != written.name:
                    other.unlink()


def resume_line(
    config: GradisegTrainerConfig, folder: Path, steps: int, arguments: list[str] | None = None
) -> str:
    """The command that goes on from a run's checkpoints for some steps more, with the options of the command that began it.

    Args:
        config: of the run.
        folder: its checkpoints.
        steps: how many are left.
        arguments: of this process; default: `sys.argv`.
    """
    arguments = sys.argv if arguments is None else arguments
    model, manager = config.pipeline.model, config.pipeline.datamanager
    ours = ["--load-dir", str(folder), "--max-num-iterations", str(steps)]
    dropped = {"load-dir", "load-step", "load-checkpoint", "max-num-iterations", "timestamp"}
    script = Path(arguments[0]).name if arguments else ""
    known = script in ("ns-train", "train.py") and arguments[1:2] == [config.method_name]
    if not known or any(a.startswith(("--load-config", "--load_config")) for a in arguments):
        given = ["--data", str(manager.data), "--output-dir", str(config.output_dir)]
        masks = getattr(manager, "masks_dir", None)
        if masks is not None and masks != type(manager).masks_dir:  # type: ignore[attr-defined]
            given += ["--pipeline.datamanager.masks-dir", str(masks)]
        return shlex.join(["ns-train", str(config.method_name), *given, *ours])
    if (
        getattr(model, "associate", "off") == "off"
    ):  # its maps are beside the run, and are to be read from now on
        asked = [a for a in arguments if a.replace("_", "-").startswith("--pipeline.model.associate")]
        if asked:
            dropped |= {"pipeline.model.associate", "pipeline.datamanager.masks-dir"}
            ours += ["--pipeline.datamanager.masks-dir", str(manager.masks_dir)]  # type: ignore[attr-defined]
    kept: list[str] = []
    skip = False
    for argument in arguments[2:]:
        flag, equals, _ = argument.partition("=")
        is_flag = flag.startswith("--")
        if is_flag:
            skip = flag[2:].replace("_", "-") in dropped
        if not skip:
            kept.append(argument)
        if skip and (equals or not is_flag):
            skip = False
    return shlex.join(["ns-train", arguments[1], *ours, *kept])


def _to_disk(path: Path) -> None:
    """A file that is to replace another is on the disk first: after a power cut one of the two is there."""
    with path.open("rb") as file, contextlib.suppress(OSError):
        os.fsync(file.fileno())


def _free_space(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB"
