"""Where splats and views come from: runs of gradiseg and of splatfacto, 3DGS PLY files, data folders.

What the commands of `gradiseg` start from. Training goes its own way, through nerfstudio.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import RGB2SH
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig, viewmats_of
from gradiseg_ns.data.id_maps import data_folder
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes.rendered import spread_views

DataParser = Literal["nerfstudio-data", "colmap", "blender-data", "instant-ngp-data"]
Frame = Literal["auto", "nerfstudio", "original"]
Split = Literal["train", "test"]

NERFSTUDIO_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""What nerfstudio draws behind a splat that was trained on random backgrounds."""
_SEES_NOTHING = 0.02
"""Below this mean accumulation the cameras look past the splat."""


class SourceError(ValueError):
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
            names=_names(dataset.image_filenames),
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

    def scene(self, *, masks_dir: str | None = None, data: Path | None = None, maps: bool = True) -> Scene:
        """The data the run was trained on (or another folder), with id maps from `masks_dir` if given."""
        old = self.config.pipeline.datamanager
        known = {name: getattr(old, name) for name in ("dataparser", "camera_res_scale_factor", "data")}
        for name in ("masks_dir", "eval_masks_dir"):
            if hasattr(old, name):
                known[name] = getattr(old, name)
        config = GradisegDataManagerConfig(**copy.deepcopy(known), cache_images_type="uint8")
        if masks_dir is not None:
            config.masks_dir = masks_dir
        if data is not None:
            config.data = data
        if config.data is None:  # the folder is in the dataparser's configuration
            config.data = Path(config.dataparser.data)
        return _scene(config, maps, self.splat.means.device)


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """A run by its config.yml, or the folder it is in.

    Raises:
        SourceError: there is no such run, it has no checkpoint, or it is not one of splatfacto's family.
    """
    config_path = path / "config.yml" if path.is_dir() else path
    if not config_path.is_file():
        raise SourceError(f"--load-config {path}: no such file; expected the config.yml of a run.")
    try:
        # As nerfstudio reads its own: a config.yml can run code, so only open those of people you trust.
        config = yaml.load(config_path.read_text(), Loader=yaml.Loader)
    except (yaml.YAMLError, ImportError, AttributeError, TypeError) as error:
        raise SourceError(f"{config_path} cannot be read as a nerfstudio configuration: {error}") from error
    if not isinstance(config, TrainerConfig):
        raise SourceError(f"{config_path} holds a {type(config).__name__}, expected a run's TrainerConfig.")
    folder = config_path.parent / config.relative_model_dir
    checkpoints = sorted(folder.glob("step-*.ckpt"))
    if not checkpoints:
        raise SourceError(f"{folder} has no checkpoint: expected step-000012345.ckpt, was the run saved?")
    checkpoint = checkpoints[-1]
    loaded = load_checkpoint(checkpoint, device)
    state = loaded["pipeline"]
    model: Any = config.pipeline.model
    splat = splat_of_state(state, checkpoint, sh_degree=int(getattr(model, "sh_degree", 3)))
    splat.antialiased = getattr(model, "rasterize_mode", "classic") == "antialiased"
    colors = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}
    background = colors.get(getattr(model, "background_color", "random"), NERFSTUDIO_BACKGROUND)
    return Run(
        config_path, config, checkpoint, int(loaded["step"]), state, splat, torch.tensor(background, device=device)
    )  # fmt: skip


def load_splat(path: Path, device: torch.device | str = "cpu") -> Splat:
    """The splat of a run (its folder or config.yml) or of a 3DGS PLY.

    Raises:
        SourceError, PlyError: it cannot be read.
    """
    if path.suffix.lower() == ".ply":
        from gradiseg_ns.scene.ply import read_ply

        return read_ply(path).to(device)
    return load_run(path, device).splat


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint of nerfstudio's, read without running anything in it.

    Raises:
        SourceError: it cannot be read, or is none.
    """
    # splatfacto's own checkpoints hold numpy scalars in their schedulers.
    numpy: Any = np
    scalars = [numpy.core.multiarray.scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
    try:
        with torch.serialization.safe_globals(scalars):
            loaded = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the errors of pickle, zip and torch have no common class
        raise SourceError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(loaded, dict) or not {"pipeline", "step"} <= set(loaded):
        raise SourceError(f"{path} is not a checkpoint of nerfstudio's: expected the keys pipeline and step.")
    return loaded


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
    dataparser: DataParser = "nerfstudio-data",
    masks_dir: str = "object_mask",
    maps: bool = True,
    device: torch.device | str = "cpu",
) -> Scene:
    """The views of a data folder.

    Args:
        data: the folder, as `ns-train --data` takes it.
        dataparser: who reads it.
        masks_dir: folder of the id maps.
        maps: whether id maps must be there.
        device: where cameras are put.

    Raises:
        IdMapError: the maps must be there and cannot be used.
    """
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parsers: dict[str, Any] = {
        "nerfstudio-data": lambda: NerfstudioDataParserConfig(load_3D_points=True),
        "colmap": ColmapDataParserConfig,
        "blender-data": BlenderDataParserConfig,
        "instant-ngp-data": InstantNGPDataParserConfig,
    }
    if not Path(data).exists():
        raise SourceError(f"--data {data}: no such folder.")
    config = GradisegDataManagerConfig(
        data=Path(data), dataparser=parsers[dataparser](), masks_dir=masks_dir, cache_images_type="uint8"
    )
    return _scene(config, maps, torch.device(device))


def _scene(config: GradisegDataManagerConfig, maps: bool, device: torch.device) -> Scene:
    manager = config.setup(device=device, test_mode="val" if maps else "test")
    return Scene(Path(config.dataparser.data), manager, device)


def place_cameras(splat: Splat, scene: Scene, background: Tensor, frame: Frame = "auto") -> str:
    """Put the scene's cameras where a PLY's Gaussians are, in place.

    nerfstudio turns, moves and scales a scene before training, and its exports stay so; other programs keep the
    coordinates of COLMAP or of transforms.json. `auto` renders some training views in both and takes the one that
    looks like the photos.

    Returns:
        the frame that was taken, "nerfstudio" or "original".

    Raises:
        SourceError: the cameras see nothing of the splat.
    """
    outputs = scene.manager.train_dataparser_outputs
    moved = {
        "nerfstudio": lambda camera: camera,
        "original": lambda camera: _untransformed(
            camera, outputs.dataparser_transform, outputs.dataparser_scale
        ),
    }
    candidates = [frame] if frame != "auto" else ["nerfstudio", "original"]
    views = scene.train
    some = sorted({0, len(views) // 3, 2 * len(views) // 3})
    best: tuple[float, str] | None = None
    seen = {}
    for name in candidates:
        errors, alphas = [], []
        for i in some:
            rgb, alpha = splat.render(moved[name](views.cameras[i]), background)
            errors.append(float((rgb - views.images[i].to(rgb) / 255).abs().mean()))
            alphas.append(float(alpha.mean()))
        seen[name] = max(alphas)
        if max(alphas) >= _SEES_NOTHING and (best is None or np.mean(errors) < best[0]):
            best = float(np.mean(errors)), name
    if best is None:
        raise SourceError(
            f"the cameras of {scene.data} see nothing of the splat ("
            + ", ".join(f"accumulation {alpha:.1%} in frame {name}" for name, alpha in seen.items())
            + "). Are splat and photos of the same scene? Was the splat moved? Try the other --frame."
        )
    taken = best[1]
    for split in (scene.train, scene.test):
        split.cameras[:] = [moved[taken](camera) for camera in split.cameras]
    if frame == "auto":
        CONSOLE.print(f"Frame of the splat: {taken} (mean difference to the photos {best[0]:.3f}).")
    return taken


def _untransformed(camera: rendering.Camera, transform: Tensor, scale: float) -> rendering.Camera:
    """The camera before the dataparser's x -> scale (R x + t), in units of the original scene."""
    transform = transform.to(camera.viewmat)
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    viewmat = torch.eye(4, device=camera.viewmat.device)
    viewmat[:3, :3] = rotation @ transform[:3, :3]
    viewmat[:3, 3] = rotation @ transform[:3, 3] + translation / scale
    return camera._replace(viewmat=viewmat)


def _names(photos: list[Path]) -> list[str]:
    """Photos by their path below the folder they share, without the suffix."""
    parents = {photo.parent for photo in photos}
    if len(parents) == 1:
        return [photo.stem for photo in photos]
    import os

    shared = Path(os.path.commonpath([str(parent) for parent in parents]))
    return [photo.relative_to(shared).with_suffix("").as_posix() for photo in photos]
