"""Batches of a photo, its camera and its id map, for training and evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray
from rich.markup import escape

from gradiseg_ns.data.agreement import IdAgreement, id_agreement
from gradiseg_ns.data.background import background_points
from gradiseg_ns.data.dataset import InstanceDataset, size_warning, warn
from gradiseg_ns.data.free_space import FreeSpace, Frusta
from gradiseg_ns.data.id_maps import (
    MASKS_FLAG,
    IdMapError,
    IdScan,
    check_map_size,
    data_folder,
    find_object_names,
    read_object_names,
    scan_object_ids,
    undistort_id_map,
    undistortion_lookup,
)
from gradiseg_ns.data.photo_agreement import agreed_on
from gradiseg_ns.data.poses import PoseError, check_cameras, check_colmap, check_transforms
from gradiseg_ns.data.tracks import colmap_tracks

try:
    from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
except ImportError:  # moved after 1.1.5
    from nerfstudio.data.utils.dataloaders import _undistort_image  # type: ignore


@dataclass
class GradisegDataManagerConfig(FullImageDatamanagerConfig):
    """Photos with id maps."""

    _target: type = field(default_factory=lambda: GradisegDataManager)
    masks_dir: str = "object_mask"
    """Folder of the id maps, relative to the data folder or absolute: one PNG of object ids for each photo,
    of the photo's name. A map that a frame of transforms.json names (object_mask_path) goes first."""
    eval_masks_dir: str | None = None
    """Folder of the id maps that evaluation compares with. The training folder unless given."""
    background_points: bool = True
    """Start with some points far behind the scene where photos look past its sparse points."""
    require_maps: bool = True
    """Whether training without usable id maps is an error. Follows --pipeline.model.identity."""


class GradisegDataManager(FullImageDatamanager[InstanceDataset]):
    """nerfstudio's full-image data manager whose batches also hold `id_map`.

    A batch holds what nerfstudio's does, and `id_map`: int32 `[H, W, 1]` on the device, undistorted like the
    photo, `IGNORE` where there is no label. `train_dataset.metadata` holds `object_ids` (list of int, sorted;
    empty unless training, as a checkpoint knows its own) and `object_names` (dict from id to name).

    While training (`test_mode` "val") id maps that cannot be used are an error. Evaluation, rendering, export
    and viewing never fail because of them: they warn once and leave those views unlabelled.

    Raises:
        PoseError: A pose or an intrinsic is not finite.
        IdMapError: Training, and the id maps are missing, unreadable or of another size; or
            `object_names.json` is not what it should be.
    """

    config: GradisegDataManagerConfig
    train_dataset: InstanceDataset
    eval_dataset: InstanceDataset
    id_scan: IdScan | None = None
    """What occurs in the training maps; None unless training."""
    id_agreement: IdAgreement | None = None
    """Whether ids agree between views, once the training photos are loaded; None if it cannot be told."""

    def __init__(
        self,
        config: GradisegDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        if str(config.cache_images) not in ("cpu", "gpu"):
            raise ValueError(
                f"--pipeline.datamanager.cache-images is {config.cache_images}, expected gpu or cpu: id maps are kept with the photos"
            )
        parser: Any = config.dataparser
        colmap = isinstance(parser, ColmapDataParserConfig)
        if not colmap:
            check_transforms(config.data if config.data is not None else parser.data)
        try:
            super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
            check_cameras(self.train_dataset.cameras, self.train_dataset.image_filenames)
            check_cameras(self.eval_dataset.cameras, self.eval_dataset.image_filenames)
        except (PoseError, ArithmeticError, RuntimeError, ValueError):
            if colmap:  # only now: reading a large model twice takes long
                check_colmap(Path(parser.data) / parser.colmap_path)
            raise
        self._set_up_id_maps()
        if test_mode == "val" and config.background_points:
            self.train_dataset.metadata["background_points"] = self._background_points()

    # ------------------------------------------------------------------------------------------------- set-up

    def _set_up_id_maps(self) -> None:
        config, training = self.config, self.test_mode == "val" and self.config.require_maps
        data = Path(config.dataparser.data)
        own_eval_maps = config.eval_masks_dir is not None
        train, evaluation = self.train_dataset, self.eval_dataset
        train.set_id_maps(data, config.masks_dir, other_images=evaluation.image_filenames, strict=training)
        # A folder given for evaluation is meant: it goes before what transforms.json names for training.
        evaluation.set_id_maps(
            data,
            config.eval_masks_dir if config.eval_masks_dir is not None else config.masks_dir,
            use_frame_keys=not own_eval_maps,
            other_images=() if own_eval_maps else train.image_filenames,
            strict=training and own_eval_maps,
            flag="--pipeline.datamanager.eval-masks-dir" if own_eval_maps else MASKS_FLAG,
        )
        train.metadata["object_names"] = self._object_names(data_folder(data), strict=training)
        if training:
            self.id_scan = self._scan_training_maps()
            train.metadata["object_ids"] = self.id_scan.ids
            if own_eval_maps:
                _scan(evaluation)
        evaluation.metadata.update({key: train.metadata[key] for key in ("object_ids", "object_names")})

    def _object_names(self, data_dir: Path, strict: bool) -> dict[int, str]:
        path = find_object_names(data_dir, self.config.masks_dir)
        if path is None:
            return {}
        try:
            return read_object_names(path)
        except IdMapError as error:
            if strict:
                raise
            warn(f"{error} Objects go by their ids.")
            return {}

    def _scan_training_maps(self) -> IdScan:
        scan = _scan(self.train_dataset)
        if not scan.ids:
            raise IdMapError(
                f"The {len(scan.shapes)} id maps of the training views hold no labels at all "
                f"({MASKS_FLAG} {self.config.masks_dir})."
            )
        views, labelled = len(self.train_dataset), len(scan.shapes)
        ids = ", ".join(map(str, scan.ids[:12])) + (f", ... {scan.ids[-1]}" if len(scan.ids) > 12 else "")
        missing = f"; the other {views - labelled} count as unlabelled" if labelled < views else ""
        CONSOLE.print(
            escape(
                f"Id maps: {labelled} of {views} training views{missing}. {len(scan.ids)} object ids: {ids}."
            )
        )
        return scan

    # ------------------------------------------------------------------------------------------------ loading

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, torch.Tensor]]:
        """nerfstudio's cache of loaded and undistorted photos, with id maps that went the same way."""
        if cache_images_device == "cpu" and not torch.cuda.is_available():
            # "cpu" pins memory, which needs CUDA. "gpu" means: on the device, and here that is the CPU.
            cache_images_device = "gpu"
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        # Loading replaces the intrinsics by those of the undistorted photos; the maps need the ones before.
        distorted = deepcopy(dataset.cameras)
        cached = super()._load_images(split, cache_images_device)
        self._undistort_id_maps(cached, distorted)
        if split == "train" and self.test_mode == "val" and self.config.require_maps:
            self._report_agreement(cached)
        for data in cached:
            data["id_map"] = _compact(data["id_map"])
            if cache_images_device == "gpu":
                data["id_map"] = data["id_map"].to(self.device)
        return cached

    def _undistort_id_maps(self, cached: list[dict[str, torch.Tensor]], cameras: Cameras) -> None:
        lookups: dict[bytes, NDArray[np.int32]] = {}

        def undistort(index: int) -> None:
            camera = cameras[index].reshape(())
            # The rule by which nerfstudio leaves a photo alone.
            if camera.distortion_params is None or torch.all(camera.distortion_params == 0):
                return
            ids = cached[index]["id_map"][..., 0].numpy()
            lookup = camera_lookup(camera, ids.shape[0], ids.shape[1], lookups)
            undistorted = torch.from_numpy(undistort_id_map(ids, lookup=lookup))[..., None]
            assert undistorted.shape[:2] == cached[index]["image"].shape[:2]
            cached[index]["id_map"] = undistorted

        with ThreadPoolExecutor(max_workers=2) as executor:
            list(executor.map(undistort, range(len(cached))))

    def _report_agreement(self, cached: list[dict[str, torch.Tensor]]) -> None:
        points = self.train_dataparser_outputs.metadata.get("points3D_xyz")
        if points is None:
            return
        cameras = self.train_dataset.cameras
        paths = self.train_dataset.id_map_filenames
        self.id_agreement = id_agreement(
            [
                None if path is None else data["id_map"][..., 0].numpy()
                for path, data in zip(paths, cached, strict=True)
            ],
            viewmats_of(cameras),
            cameras.get_intrinsics_matrices().numpy(),
            points.cpu().numpy(),
        )
        found = self.id_agreement
        if found is not None and not found.consistent:
            warn(
                f"the object ids do not agree between views: of {found.pairs} pairs of views that see the "
                f"same scene point {found.agreement:.0%} show the same id, and chance alone would give "
                f"{found.chance:.0%}. An object needs the same id in every view. Associate the maps first "
                "(`gradiseg associate --help`), or on the way (--pipeline.model.associate auto); without, "
                "training goes on, but expect a poor segmentation."
            )

    # -------------------------------------------------------------------------------------------------- space

    @property
    def points(self) -> torch.Tensor | None:
        """Sparse points [P, 3] in nerfstudio's frame, or None."""
        return self.train_dataparser_outputs.metadata.get("points3D_xyz")

    def free_space(self, share: float, *, virtual: bool = True) -> FreeSpace | None:
        """What must be empty before the training views (:mod:`gradiseg_ns.data.free_space`), with a warning where cameras and
        points make no sense; None without sparse points."""
        points, dataset = self.points, self.train_dataset
        if points is None or not len(points) or not len(dataset.cameras):
            return None
        points = points.float().cpu()
        parser, tracks = self.config.dataparser, None
        if isinstance(parser, ColmapDataParserConfig):
            model = Path(parser.data) / parser.colmap_path
            tracks = colmap_tracks(model, [str(path) for path in dataset.image_filenames], len(points))
        with CONSOLE.status("Looking where nothing can be: before the cameras"):
            space = FreeSpace.create(
                frusta_of(dataset.cameras), points, share=share, virtual=virtual, tracks=tracks
            )
        doubts = space.doubts(points, [path.name for path in dataset.image_filenames])
        if doubts is not None:
            warn(doubts)
        return space.to(self.device)

    def agreed_on(self, positions: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
        """Whether several training photos show the same thin thing at places [N, 3]: bool [N]
        (:mod:`gradiseg_ns.data.photo_agreement`)."""
        photos = [item["image"] for item in self.cached_train]
        return agreed_on(frusta_of(self.train_dataset.cameras), photos, positions, radii)

    def _background_points(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Points [B, 3] and colours [B, 3], uint8, behind the scene (:mod:`gradiseg_ns.data.background`); None if there are
        none to add."""
        if self.points is None or not len(self.points):
            return None
        items = self.cached_train  # loading them undistorts them, and the cameras with them
        found = background_points(
            frusta_of(self.train_dataset.cameras),
            self.points.float().cpu(),
            [item["image"] for item in items],
            [item.get("mask") for item in items],
        )
        return found if len(found[0]) else None

    # ------------------------------------------------------------------------------------------------ batches

    def _with_int32_ids(self, data: dict[str, Any]) -> dict[str, Any]:
        # `data` is nerfstudio's shallow copy of the cached entry, so the cache keeps its compact map.
        data["id_map"] = data["id_map"].to(self.device, torch.int32)
        return data

    def next_train(self, step: int) -> tuple[Cameras, dict]:
        """The next training view: its camera, which stays on the host (its size is read there), and its batch."""
        camera, data = super().next_train(step)
        index = camera.metadata["cam_idx"]
        camera = self.train_dataset.cameras[index : index + 1]
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        return camera, self._with_int32_ids(data)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """The next evaluation view: its camera and its batch."""
        camera, data = super().next_eval_image(step)
        return camera, self._with_int32_ids(data)

    @property
    def fixed_indices_eval_dataloader(self) -> list[tuple[Cameras, dict]]:
        """All evaluation views in order: their cameras and batches."""
        return [
            (camera, self._with_int32_ids(data)) for camera, data in super().fixed_indices_eval_dataloader
        ]


def viewmats_of(cameras: Cameras) -> NDArray[np.float32]:
    """World-to-camera matrices `[V, 4, 4]`, OpenCV's axes, of nerfstudio's camera-to-world OpenGL ones."""
    c2w = cameras.camera_to_worlds.cpu().double().numpy()
    full = np.tile(np.eye(4), (len(c2w), 1, 1))
    full[:, :3] = c2w
    full[:, :3, 1:3] *= -1.0
    return np.linalg.inv(full).astype(np.float32)


def frusta_of(cameras: Cameras) -> Frusta:
    """nerfstudio's cameras, without their lens's distortion."""
    sizes = torch.stack([cameras.width.reshape(-1), cameras.height.reshape(-1)], dim=1).long().cpu()
    return Frusta(
        torch.from_numpy(viewmats_of(cameras)), cameras.get_intrinsics_matrices().float().cpu(), sizes
    )


def _scan(dataset: InstanceDataset) -> IdScan:
    """Read all maps of a dataset, and compare their sizes with the cameras'.

    Raises:
        IdMapError: A map is missing, unreadable or of another aspect.
    """
    found = [(index, path) for index, path in enumerate(dataset.id_map_filenames) if path is not None]
    scan = scan_object_ids([path for _, path in found])
    odd: str | None = None
    for (index, path), shape in zip(found, scan.shapes, strict=True):
        camera = dataset.cameras[index]
        size = (int(camera.height.item()), int(camera.width.item()))
        photo = dataset.image_filenames[index]
        if check_map_size(shape, size, path, photo, dataset.scale_factor):
            odd = odd or size_warning(path, shape, photo, size)
    if odd is not None:
        dataset._warn_once("size", odd)
    return scan


def _camera_key(camera: Cameras, shape: tuple[int, ...]) -> bytes:
    distortion = camera.distortion_params
    assert distortion is not None
    values = [camera.fx, camera.fy, camera.cx, camera.cy, camera.camera_type, distortion]
    return (
        b"".join(value.double().numpy().tobytes() for value in values)
        + repr((shape, camera.metadata)).encode()
    )


def camera_lookup(
    camera: Cameras, height: int, width: int, known: dict[bytes, NDArray[np.int32]]
) -> NDArray[np.int32]:
    """`undistortion_lookup` for nerfstudio's way of undistorting the photos of a camera; the first few are kept in
    ``known``."""
    key = _camera_key(camera, (height, width))
    lookup = known.get(key)
    if lookup is None:
        lookup = _camera_lookup(camera, height, width)
        if len(known) < 4:  # views mostly share a camera; one for each view is not worth keeping
            known[key] = lookup
    return lookup


def _camera_lookup(camera: Cameras, height: int, width: int) -> NDArray[np.int32]:
    distortion = camera.distortion_params
    assert distortion is not None
    masks: list[torch.Tensor | None] = []

    def undistort(image: NDArray[np.float32]) -> NDArray[np.float32]:
        # It writes into the intrinsics and the parameters, so it gets copies.
        intrinsics = camera.get_intrinsics_matrices().numpy().copy()
        _, moved, mask = _undistort_image(camera, distortion.numpy().copy(), {}, image, intrinsics)
        masks.append(mask)
        return moved

    lookup = undistortion_lookup(height, width, undistort)
    for mask in masks:
        if mask is not None:  # a fisheye's image circle
            lookup = np.where(mask[..., 0].numpy(), lookup, np.int32(-1))
    return lookup


def _compact(id_map: torch.Tensor) -> torch.Tensor:
    """The ids in 16 bits if they fit: the cache holds every view."""
    fits = id_map.numel() == 0 or int(id_map.max()) <= torch.iinfo(torch.int16).max
    return id_map.to(torch.int16) if fits else id_map
