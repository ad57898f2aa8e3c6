"""A capture: the photos of a data folder with their poses, undistorted, with their id maps. (A scene is what a splat shows.)"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig, viewmats_of
from gradiseg_ns.data.id_maps import data_folder
from gradiseg_ns.data.parsers import find_model
from gradiseg_ns.data.poses import PoseError
from gradiseg_ns.tools.choices import DataParser
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.terminal import say
from gradiseg_ns.votes.rendered import spread_views

Split = Literal["train", "test"]


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
class Capture:
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
            names=photo_names(
                dataset.image_filenames,
                [*manager.train_dataset.image_filenames, *manager.eval_dataset.image_filenames],
            ),
            photo_paths=list(dataset.image_filenames),
            map_paths=list(dataset.id_map_filenames),
            images=images,
            id_maps=[item["id_map"][..., 0].to(torch.int32) for item in cached],
        )


def load_capture(
    data: Path,
    *,
    dataparser: DataParser | DataParserConfig = "nerfstudio-data",
    masks_dir: str = "object_mask",
    maps: bool = True,
    device: torch.device | str = "cpu",
    max_objects: int | None = None,
) -> Capture:
    """The views of a data folder.

    Args:
        data: the folder, as `ns-train --data` takes it.
        dataparser: who reads it: a name, or a configuration with options. A folder without transforms.json is read by who can.
        masks_dir: folder of the id maps.
        maps: whether id maps must be there.
        device: where cameras are put.
        max_objects: most ids in the maps. Default: `GradisegDataManagerConfig`'s.

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
    return capture_of(config, maps, torch.device(device))


def _dataparser(data: Path, wanted: DataParser | DataParserConfig) -> Any:
    """The dataparser's configuration; where nerfstudio's own has nothing to read, that of what lies there."""
    from gradiseg_ns.sources.dataparsers import config_of

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


def capture_of(config: GradisegDataManagerConfig, maps: bool, device: torch.device) -> Capture:
    """The capture that a data manager's configuration names.

    Raises:
        IdMapError: the maps must be there and cannot be used.
    """
    manager = config.setup(device=device, test_mode="val" if maps else "test")
    return Capture(Path(config.dataparser.data), manager, device)


def smaller(camera: rendering.Camera) -> rendering.Camera:
    """The camera with pictures of at most 256 pixels."""
    factor = max(camera.width, camera.height) / 256
    if factor <= 1:
        return camera
    width, height = max(1, round(camera.width / factor)), max(1, round(camera.height / factor))
    ratio = camera.K.new_tensor([width / camera.width, height / camera.height, 1.0])
    return camera._replace(K=camera.K * ratio[:, None], width=width, height=height)


def photo_names(photos: list[Path], all_photos: list[Path]) -> list[str]:
    """Photos by their path below the folder they share, without the suffix; with it where two of all photos differ in nothing
    else, as maps are found by these names."""
    from collections import Counter

    shared = Path(os.path.commonpath([str(photo.parent) for photo in photos])) if photos else Path()
    count = Counter(photo.with_suffix("") for photo in set(all_photos))
    names = (photo if count[photo.with_suffix("")] > 1 else photo.with_suffix("") for photo in photos)
    return [name.relative_to(shared).as_posix() for name in names]
