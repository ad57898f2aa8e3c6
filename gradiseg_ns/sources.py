"""Where splats and views come from: runs of gradiseg and of splatfacto, 3DGS PLY files, data folders.

What the commands of `gradiseg` start from. Training goes its own way, through nerfstudio.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import RGB2SH
from torch import Tensor

from gradiseg_ns import checkpoints, rendering
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig, viewmats_of
from gradiseg_ns.data.id_maps import data_folder
from gradiseg_ns.data.parsers import find_model
from gradiseg_ns.data.poses import PoseError
from gradiseg_ns.formats.foreign import is_run_config
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.scene.coordinates import to_nerfstudio, to_original
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.terminal import say
from gradiseg_ns.votes.rendered import spread_views

DataParser = Literal["nerfstudio-data", "colmap", "blender-data", "instant-ngp-data"]
Frame = Literal["auto", "nerfstudio", "original"]
Split = Literal["train", "test"]

NERFSTUDIO_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""What nerfstudio draws behind a splat that was trained on random backgrounds."""
_SEES_NOTHING = 0.02
"""Below this mean accumulation the cameras look past the splat."""
_SHOWN = 0.1
"""Accumulation of a pixel that shows a splat."""
_ALIKE = 1.1
"""Up to this ratio, differences to the photos do not tell two frames apart."""
_LOOKS = 8
"""Training views in which a splat is looked for."""
_FRAMES = {"nerfstudio": "nerfstudio's frame", "original": "the original frame of COLMAP or transforms.json"}


class SourceError(GradisegError):
    """A run, a PLY or a data folder that cannot be used; the message names it and says what to do."""


@dataclass
class Views:
    """Posed photos of one split, undistorted, with their id maps."""

    cameras: list[rendering.Camera]
    names: list[str]
    """Path of each photo without its suffix, relative to the data folder's photos."""
    photo_paths: list[Path]
    map_paths: list[Path | None]
    images: list[Tensor]
    """uint8 [H, W, 3] each."""
    id_maps: list[Tensor]
    """int32 [H, W] each, `IGNORE` where there is no label."""

    def __len__(self) -> int:
        return len(self.cameras)


@dataclass
class Scene:
    """The views of a data folder, and what is known of its objects and points."""

    data: Path
    manager: GradisegDataManager
    device: torch.device

    @cached_property
    def train(self) -> Views:
        """The training views."""
        return self._views("train")

    @cached_property
    def test(self) -> Views:
        """The held-out views."""
        return self._views("test")

    @property
    def data_folder(self) -> Path:
        """The folder that holds everything."""
        return data_folder(self.data)

    @property
    def object_names(self) -> dict[int, str]:
        """Names by object id."""
        return self.manager.train_dataset.metadata["object_names"]

    @property
    def points(self) -> Tensor | None:
        """Sparse points [P, 3] in nerfstudio's frame, or None."""
        return self.manager.points

    def training_cameras(self, most: int) -> list[rendering.Camera]:
        """At most so many of the training cameras, evenly spread, without loading photos; a lens's distortion is left out."""
        cameras = self.manager.train_dataset.cameras
        viewmats = torch.from_numpy(viewmats_of(cameras)).to(self.device)
        intrinsics = cameras.get_intrinsics_matrices().float().to(self.device)
        return [
            rendering.Camera(
                viewmats[i], intrinsics[i], int(cameras.width[i].item()), int(cameras.height[i].item())
            )
            for i in spread_views(len(cameras), most)
        ]

    def _views(self, split: Split) -> Views:
        manager = self.manager
        dataset = manager.train_dataset if split == "train" else manager.eval_dataset
        cached = manager.cached_train if split == "train" else manager.cached_eval
        cameras = dataset.cameras  # undistorted by now
        viewmats = torch.from_numpy(viewmats_of(cameras)).to(self.device)
        intrinsics = cameras.get_intrinsics_matrices().float().to(self.device)
        images = []
        for item in cached:
            image = item["image"][..., :3]
            images.append(image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8))
        return Views(
            cameras=[
                rendering.Camera(viewmats[i], intrinsics[i], image.shape[1], image.shape[0])
                for i, image in enumerate(images)
            ],
            names=_names(
                dataset.image_filenames,
                [*manager.train_dataset.image_filenames, *manager.eval_dataset.image_filenames],
            ),
            photo_paths=list(dataset.image_filenames),
            map_paths=list(dataset.id_map_filenames),
            images=images,
            id_maps=[item["id_map"][..., 0].to(torch.int32) for item in cached],
        )


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

    def scene(
        self,
        *,
        masks_dir: str | None = None,
        data: Path | None = None,
        maps: bool = True,
        max_objects: int | None = None,
    ) -> Scene:
        """The data the run was trained on (or another folder), with id maps from `masks_dir` if given.

        Args:
            masks_dir: folder of the id maps, the run's own unless given.
            data: the data folder, the run's own unless given.
            maps: whether id maps must be there.
            max_objects: most ids in the maps; what the run has unless given.

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
        return _scene(config, maps, self.splat.means.device)


def _anchor(config_path: Path, config: TrainerConfig) -> None:
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
    _anchor(config_path, config)
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
        params["features_dc"] = RGB2SH(params["features_dc"].sigmoid())
    params = {key: value.float() for key, value in params.items()}
    return Splat.from_parameters(params)


def load_scene(
    data: Path,
    *,
    dataparser: DataParser | DataParserConfig = "nerfstudio-data",
    masks_dir: str = "object_mask",
    maps: bool = True,
    device: torch.device | str = "cpu",
    max_objects: int | None = None,
) -> Scene:
    """The views of a data folder.

    Args:
        data: the folder, as `ns-train --data` takes it.
        dataparser: who reads it: a name, or a configuration with options. A folder without transforms.json is read by who can.
        masks_dir: folder of the id maps.
        maps: whether id maps must be there.
        device: where cameras are put.
        max_objects: most ids in the maps; `GradisegDataManagerConfig`'s unless given.

    Raises:
        IdMapError: the maps must be there and cannot be used.
        SourceError: there is nothing that can be read.
    """
    if not Path(data).exists():
        raise SourceError(f"--data {data}: no such folder.")
    config = GradisegDataManagerConfig(
        data=Path(data),
        dataparser=_dataparser(Path(data), dataparser),
        masks_dir=masks_dir,
        cache_images_type="uint8",
    )
    if max_objects is not None:
        config.max_objects = max_objects
    return _scene(config, maps, torch.device(device))


def _dataparser(data: Path, wanted: DataParser | DataParserConfig) -> Any:
    """The dataparser's configuration; where nerfstudio's own has nothing to read, that of what lies there."""
    from gradiseg_ns.dataparser_options import config_of

    name = wanted if isinstance(wanted, str) else "nerfstudio-data"
    own = isinstance(wanted, str) or type(wanted).__name__ == "NerfstudioDataParserConfig"
    if own and name == "nerfstudio-data" and data.is_dir() and not (data / "transforms.json").is_file():
        if (data / "transforms_train.json").is_file():
            name = "blender-data"
        else:
            try:
                find_model(data)
            except PoseError as error:
                raise SourceError(
                    f"--data {data} has no transforms.json, and no COLMAP model: {error}"
                ) from None
            name = "colmap"
        say(f"There is no transforms.json: read by {name}.")
        return config_of(name)
    return config_of(name) if isinstance(wanted, str) else wanted


def _scene(config: GradisegDataManagerConfig, maps: bool, device: torch.device) -> Scene:
    manager = config.setup(device=device, test_mode="val" if maps else "test")
    return Scene(Path(config.dataparser.data), manager, device)


def place_cameras(splat: Splat, scene: Scene, background: Tensor, frame: Frame = "auto") -> str:
    """Put the scene's cameras where a PLY's Gaussians are, in place, and note the frame in the splat.

    Returns:
        the frame that was taken, "nerfstudio" or "original".

    Raises:
        SourceError: the cameras see nothing of the splat.
    """
    taken = find_frame(splat, scene, background, frame)
    for split in (scene.train, scene.test):
        split.cameras[:] = [_placed(camera, splat, scene, taken) for camera in split.cameras]
    splat.frame = taken
    return taken


def find_frame(
    splat: Splat, scene: Scene, background: Tensor, frame: Frame = "auto", *, part: bool = False
) -> Literal["nerfstudio", "original"]:
    """The coordinates that a PLY's Gaussians have.

    nerfstudio turns, moves and scales a scene before training, and its exports stay so; other programs keep the
    coordinates of COLMAP or of transforms.json. `auto` renders some training views small in both and takes the frame that shows
    something; if both do, the one that looks like the photos, or if that is not clear, the one that the PLY says.

    Args:
        splat: its `offset` is taken into account.
        scene: its photos are loaded only where both frames show something.
        background: RGB [3] behind the splat.
        frame: `auto`, or the one it is.
        part: the splat may be a small object: it is enough that a pixel shows it.

    Raises:
        SourceError: the cameras see nothing of the splat.
    """
    names: tuple[Literal["nerfstudio", "original"], ...] = ("nerfstudio", "original")
    cameras = [_smaller(camera) for camera in scene.training_cameras(_LOOKS)]
    shown: dict[str, list[tuple[Tensor, Tensor]]] = {}
    seen: dict[str, float] = {}
    for name in names:
        shown[name] = [splat.render(_placed(camera, splat, scene, name), background) for camera in cameras]
        alphas = [alpha for _, alpha in shown[name]]
        seen[name] = max((float(a.max() if part else a.mean()) for a in alphas), default=0.0)
    least = _SHOWN if part else _SEES_NOTHING
    asked: list[Literal["nerfstudio", "original"]] = [name for name in names if frame in ("auto", name)]
    possible: list[Literal["nerfstudio", "original"]] = [name for name in asked if seen[name] >= least]
    if not possible:
        raise SourceError(
            f"the cameras of {scene.data} see nothing of the splat ("
            + ", ".join(f"accumulation {seen[name]:.1%} in {_FRAMES[name]}" for name in asked)
            + ")."
            + (
                f" It lies around ({', '.join(f'{x:.0f}' for x in splat.offset)})."
                if any(splat.offset)
                else ""
            )
            + " Are splat and photos of the same scene? Was the splat moved?"
            + (" Try the other --frame." if frame != "auto" else "")
        )
    if frame != "auto":
        return possible[0]
    if len(possible) == 1:
        say(f"Frame of the splat: {possible[0]} (no camera sees it in the other one).")
        return possible[0]
    errors = {}
    indices = spread_views(len(scene.train), _LOOKS)
    for name in possible:
        differences = []
        for i, (rgb, _) in zip(indices, shown[name], strict=True):
            photo = scene.train.images[i].permute(2, 0, 1)[None].to(rgb) / 255
            photo = torch.nn.functional.interpolate(photo, rgb.shape[:2], mode="area")[0].permute(1, 2, 0)
            differences.append(float((rgb - photo).abs().mean()))
        errors[name] = float(np.mean(differences))
    taken = min(possible, key=lambda name: errors[name])
    if splat.frame in possible and errors[splat.frame] <= _ALIKE * errors[taken]:
        taken = splat.frame
    say(f"Frame of the splat: {taken} (mean difference to the photos {errors[taken]:.3f}).")
    return taken


def in_nerfstudio_frame(splat: Splat, scene: Scene, frame: Literal["nerfstudio", "original"]) -> Splat:
    """A splat that is in some frame, moved to where nerfstudio trains the scene."""
    if frame == "nerfstudio":
        return to_nerfstudio(splat, torch.eye(3, 4), 1.0) if any(splat.offset) else splat
    outputs = scene.manager.train_dataparser_outputs
    return to_nerfstudio(splat, outputs.dataparser_transform, outputs.dataparser_scale)


def in_original_frame(splat: Splat, run: Run) -> Splat:
    """A run's splat, moved to where COLMAP or transforms.json have its scene.

    Raises:
        SourceError: the run has no dataparser_transforms.json, and its photos are gone.
    """
    path = run.config_path.parent / "dataparser_transforms.json"
    try:
        if path.is_file():
            content = read_json(path)
            transform, scale = (
                torch.tensor(content["transform"], dtype=torch.float64),
                float(content["scale"]),
            )
        else:
            outputs = run.scene(maps=False).manager.train_dataparser_outputs
            transform, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
        if transform.shape != (3, 4) or not bool(transform.isfinite().all()) or not 0 < scale < float("inf"):
            raise ValueError(f"found a transform of shape {list(transform.shape)} and the scale {scale}")
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise SourceError(
            f"--frame original: {path} does not tell how the scene was moved ({error}). Expected the file that ns-train "
            "wrote beside the run's config.yml, or the photos of the run where they were."
        ) from error
    return to_original(splat, transform, scale)


def _smaller(camera: rendering.Camera) -> rendering.Camera:
    """The camera with pictures of at most 256 pixels."""
    factor = max(camera.width, camera.height) / 256
    if factor <= 1:
        return camera
    width, height = max(1, round(camera.width / factor)), max(1, round(camera.height / factor))
    ratio = camera.K.new_tensor([width / camera.width, height / camera.height, 1.0])
    return camera._replace(K=camera.K * ratio[:, None], width=width, height=height)


def _placed(camera: rendering.Camera, splat: Splat, scene: Scene, frame: str) -> rendering.Camera:
    """One of the scene's cameras where the splat's means are: before the dataparser's x -> scale (R x + t) if the splat is in
    the original frame, and without its offset."""
    outputs = scene.manager.train_dataparser_outputs
    transform, scale = (
        outputs.dataparser_transform.double().to(camera.viewmat.device),
        outputs.dataparser_scale,
    )
    if frame == "nerfstudio":
        transform, scale = torch.eye(3, 4).to(transform), 1.0
    offset = transform.new_tensor(splat.offset)
    rotation, translation = camera.viewmat[:3, :3].double(), camera.viewmat[:3, 3].double()
    viewmat = torch.eye(4, dtype=torch.float64, device=camera.viewmat.device)
    viewmat[:3, :3] = rotation @ transform[:, :3]
    viewmat[:3, 3] = rotation @ (transform[:, 3] + transform[:, :3] @ offset) + translation / scale
    return camera._replace(viewmat=viewmat.to(camera.viewmat))


def _names(photos: list[Path], all_photos: list[Path]) -> list[str]:
    """Photos by their path below the folder they share, without the suffix; with it where two of all photos differ in nothing
    else, as maps are found by these names."""
    import os
    from collections import Counter

    shared = Path(os.path.commonpath([str(photo.parent) for photo in photos])) if photos else Path()
    count = Counter(photo.with_suffix("") for photo in set(all_photos))
    names = (photo if count[photo.with_suffix("")] > 1 else photo.with_suffix("") for photo in photos)
    return [name.relative_to(shared).as_posix() for name in names]
