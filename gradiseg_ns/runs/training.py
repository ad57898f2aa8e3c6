"""Training and evaluation from Python: what the demo, the benchmarks and the tests run.

The same objects as ``ns-train`` and ``ns-eval`` use, without their command lines.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from gradiseg_ns.tools.terminal import default_device, progress_bars
from gradiseg_ns.trainer import GradisegTrainer, GradisegTrainerConfig

NEVER = 1 << 40


def make_config(
    method: str,
    data: Path,
    output_dir: Path,
    *,
    steps: int | None = None,
    seed: int = 42,
    device: str | None = None,
    options: dict[str, Any] | None = None,
) -> GradisegTrainerConfig:
    """The configuration of one run, quiet and without a viewer.

    Args:
        method: ``gradiseg`` or ``gradiseg-lite``.
        data: the scene's folder.
        output_dir: runs are written to ``<output_dir>/<scene>/<method>/<timestamp>``.
        steps: length of the run, the method's own if None.
        seed: of torch, numpy and Python's random.
        device: ``cpu`` or ``cuda``; None chooses.
        options: any field by its dotted path, e.g. ``{"pipeline.model.igd": False}``.

    Raises:
        ValueError: for an unknown method.
        AttributeError: for an option that does not exist, naming it.
    """
    from gradiseg_ns import config as register

    methods = {"gradiseg": register.gradiseg, "gradiseg-lite": register.gradiseg_lite}
    if method not in methods:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(methods)}")
    config = copy.deepcopy(methods[method].config)
    assert isinstance(config, GradisegTrainerConfig)
    config.data = Path(data)
    config.pipeline.datamanager.data = Path(data)
    config.output_dir = output_dir
    config.machine.seed = seed
    config.machine.device_type = default_device(device)  # type: ignore
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = NEVER
    config.steps_per_save = NEVER
    if steps is not None:
        config.max_num_iterations = steps
    for path, value in (options or {}).items():
        *parents, name = path.split(".")
        target: Any = config
        for parent in parents:
            target = target[parent] if isinstance(target, dict) else getattr(target, parent)
        if not hasattr(target, name):
            raise AttributeError(
                f"there is no option {path!r}: {type(target).__name__} has no field {name!r}"
            )
        setattr(target, name, value)
    config.set_timestamp()
    return config


def train(config: GradisegTrainerConfig, *, description: str = "Training") -> tuple[GradisegTrainer, float]:
    """Train one run with a progress bar. Returns the trainer and the seconds of its training loop."""
    random.seed(config.machine.seed)
    np.random.seed(config.machine.seed)
    torch.manual_seed(config.machine.seed)
    writer.EVENT_WRITERS.clear()  # an earlier run of this process has left its own
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    with progress_bars(note=True, refresh_per_second=2) as progress:
        task = progress.add_task(description, total=config.max_num_iterations, note="")

        def advance(step: int) -> None:
            if step % 10 == 0 or step + 1 == config.max_num_iterations:
                note = f"{trainer.pipeline.model.num_points} Gaussians"
                progress.update(task, completed=step + 1 - trainer._start_step, note=note)

        trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], advance))
        start = perf_counter()
        trainer.train()
        seconds = perf_counter() - start
    return trainer, seconds


def evaluate(trainer: GradisegTrainer, *, pictures: Path | None = None) -> dict[str, float | None]:
    """The held-out views' metrics, as ns-eval computes them."""
    with torch.no_grad():
        return trainer.pipeline.get_average_eval_image_metrics(output_path=pictures, get_std=True)
