"""Runs of gradiseg and of splatfacto, as splats with views. The one place that reads a config.yml."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from gradiseg_ns.data.datamanager import GradisegDataManagerConfig
from gradiseg_ns.formats.foreign import is_run_config
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.scene.harmonics import dc_of, rgb_of
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.sources import checkpoints
from gradiseg_ns.sources.capture import Capture, SourceError, capture_of

NERFSTUDIO_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""What nerfstudio draws behind a splat that was trained on random backgrounds."""


@dataclass
class Run:
    """A trained run of gradiseg or splatfacto."""

    config_path: Path
    config: TrainerConfig
    checkpoint: Path
    step: int
    state: dict[str, Any]
    """The checkpoint's pipeline state."""
    splat: Splat
    background: Tensor = field(default_factory=lambda: torch.tensor(NERFSTUDIO_BACKGROUND))

    @property
    def is_gradiseg(self) -> bool:
        """Whether its Gaussians have identity encodings."""
        return "_model.gauss_params.identity" in self.state

    def capture(
        self,
        *,
        masks_dir: str | None = None,
        data: Path | None = None,
        maps: bool = True,
        max_objects: int | None = None,
    ) -> Capture:
        """The data the run was trained on (or another folder), with id maps from `masks_dir` if given.

        Args:
            masks_dir: folder of the id maps. Default: the run's own.
            data: the data folder. Default: the run's own.
            maps: whether id maps must be there.
            max_objects: most ids in the maps. Default: the run's.

        Raises:
            SourceError: there is no such folder.
            IdMapError: the maps must be there and cannot be used.
        """
        old = self.config.pipeline.datamanager
        known = {name: getattr(old, name) for name in ("dataparser", "camera_res_scale_factor", "data")}
        for name in ("masks_dir", "eval_masks_dir", "max_objects"):
            if hasattr(old, name):
                known[name] = getattr(old, name)
        config = GradisegDataManagerConfig(**copy.deepcopy(known), cache_images_type="uint8")
        if max_objects is not None:
            config.max_objects = max_objects
        if masks_dir is not None:
            config.masks_dir = masks_dir
        if data is not None:
            config.data = data
        if config.data is None:  # the folder is in the dataparser's configuration
            config.data = Path(config.dataparser.data)
        if not Path(config.data).exists():
            given = "--data" if data is not None else f"the data of {self.config_path}"
            raise SourceError(
                f"{given}: there is no {config.data}, seen from here or from a folder above the run. Name the folder with --data."
            )
        return capture_of(config, maps, self.splat.means.device)


def anchor(config_path: Path, config: TrainerConfig) -> None:
    """Relative paths of a run start where its training did, which need not be here: those that lead nowhere from here become
    absolute, in place."""
    here = Path(os.path.abspath(config_path)).parent
    base = os.sep + os.path.normpath(config.get_base_dir())
    starts = [Path(str(here)[: -len(base)] or os.sep)] if str(here).endswith(base) else []
    manager: Any = config.pipeline.datamanager
    parser = getattr(manager, "dataparser", None)
    for owner in (config, manager, parser):
        data = getattr(owner, "data", None)
        if data is None or data.is_absolute() or data == Path():
            continue
        found = next((s / data for s in [*starts, Path.cwd(), *here.parents] if (s / data).exists()), data)
        if found != Path.cwd() / data:
            owner.data = found  # type: ignore[union-attr]
    if starts and starts[0] != Path.cwd() and not config.output_dir.is_absolute():
        config.output_dir = starts[0] / config.output_dir


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """A run by its config.yml, or the folder it is in. Nothing else is opened: a config.yml can run code.

    Raises:
        SourceError: there is no such run, it has no checkpoint that can be read, or it is not one of splatfacto's family.
    """
    config_path = path / "config.yml" if path.is_dir() else path
    if not config_path.is_file():
        raise SourceError(f"--load-config {path}: no such file; expected the config.yml of a run.")
    if config_path.name != "config.yml":
        raise SourceError(
            f"--load-config {path} is not a run: expected a run's folder, or the config.yml in it. A splat goes to --ply, "
            "with --data for its photos."
        )
    if not is_run_config(config_path):
        raise SourceError(
            f"{config_path} does not start as nerfstudio writes the config.yml of a run (!!python/object: and a "
            "...Config), and is not opened. Expected the file that ns-train wrote."
        )
    try:
        # As nerfstudio reads its own: a config.yml can run code, so only open those of people you trust.
        config = yaml.load(config_path.read_text("utf-8"), Loader=yaml.Loader)
    except (
        yaml.YAMLError,
        ImportError,
        AttributeError,
        TypeError,
        ValueError,
        RecursionError,
        OSError,
    ) as error:
        raise SourceError(f"{config_path} cannot be read as a nerfstudio configuration: {error}") from error
    if not isinstance(config, TrainerConfig):
        raise SourceError(f"{config_path} holds a {type(config).__name__}, expected a run's TrainerConfig.")
    anchor(config_path, config)
    try:
        checkpoint = checkpoints.choose(config_path.parent / config.relative_model_dir)
    except checkpoints.CheckpointError as error:
        raise SourceError(str(error)) from error
    loaded = load_checkpoint(checkpoint, device)
    state = loaded["pipeline"]
    model: Any = config.pipeline.model
    splat = splat_of_state(state, checkpoint, sh_degree=int(getattr(model, "sh_degree", 3)))
    splat.antialiased = getattr(model, "rasterize_mode", "classic") == "antialiased"
    splat.frame = "nerfstudio"
    parser: Any = getattr(config.pipeline.datamanager, "dataparser", None)
    splat.up = "z" if getattr(parser, "orientation_method", "up") != "none" else None
    colors = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}
    background = colors.get(getattr(model, "background_color", "random"), NERFSTUDIO_BACKGROUND)
    return Run(
        config_path, config, checkpoint, int(loaded["step"]), state, splat, torch.tensor(background, device=device)
    )  # fmt: skip


def load_splat(path: Path, device: torch.device | str = "cpu") -> Splat:
    """The splat of a run, which is a folder or a file named config.yml, or of a splat file, by its content.

    Raises:
        SourceError, PlyError: it cannot be read.
    """
    if path.name == "config.yml" or (path / "config.yml").exists():
        return load_run(path, device).splat
    return read_ply(path).to(device)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint of nerfstudio's, read without running anything in it.

    Raises:
        SourceError: it cannot be read, or is none.
    """
    try:
        return checkpoints.load(path, device)
    except checkpoints.CheckpointError as error:
        raise SourceError(str(error)) from error


def splat_of_state(state: dict[str, Any], path: Path, *, sh_degree: int = 3) -> Splat:
    """The splat in a pipeline's state, of splatfacto or of a method derived from it.

    Raises:
        SourceError: it is of another method.
    """
    prefix = next((key[: -len("means")] for key in state if key.endswith("gauss_params.means")), None)
    if prefix is None:
        raise SourceError(
            f"{path} holds no Gaussians (gauss_params.means): expected a run of splatfacto or gradiseg."
        )
    params = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if sh_degree == 0:  # splatfacto then stores the logits of plain colours
        params["features_dc"] = dc_of(rgb_of(params["features_dc"], logits=True))
    params = {key: value.float() for key, value in params.items()}
    return Splat.from_parameters(params)
