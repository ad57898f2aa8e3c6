"""Batches of a photo, its camera and its id map, for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
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
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray
from tyro.conf import Suppress

from gradiseg_ns.data.agreement import IdAgreement, explain, id_agreement
from gradiseg_ns.data.background import background_points
from gradiseg_ns.data.class_maps import CLASS_MAP, ID_MAP, Numbering, renumber
from gradiseg_ns.data.dataset import InstanceDataset, size_warning
from gradiseg_ns.data.free_space import FreeSpace, Frusta
from gradiseg_ns.data.id_maps import (
    IGNORE,
    MASKS_FLAG,
    MAX_OBJECTS,
    IdMapError,
    IdScan,
    check_count,
    check_map_size,
    data_folder,
    find_object_names,
    read_object_names,
    scan_object_ids,
    undistort_id_map,
    undistortion_lookup,
    view_name,
)
from gradiseg_ns.data.map_values import (
    IGNORE_FLAG,
    empty_ids,
    one_id_only,
    seems_unlabelled,
    soft_edges,
    some,
    without,
)
from gradiseg_ns.data.parsers import Reading, lead
from gradiseg_ns.data.photo_agreement import agreed_on
from gradiseg_ns.data.poses import (
    PoseError,
    check_cameras,
    check_colmap,
    check_sizes,
    check_transforms,
    check_view,
)
from gradiseg_ns.data.tracks import colmap_tracks
from gradiseg_ns.tools.terminal import say, warn

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
    """Folder of the id maps that evaluation compares with. Default: the folder of the training maps."""
    ignore_ids: tuple[int, ...] = ()
    """Ids in the maps that mean "no label", such as 255 or 65535: neither trained on nor evaluated."""
    background_points: bool = True
    """Start with some points far behind the scene where photos look past its sparse points."""
    require_maps: Suppress[bool] = True
    """Whether training without usable id maps is an error. Follows --pipeline.model.identity."""
    max_objects: int = MAX_OBJECTS
    """Maps with more object ids than this are refused, because memory grows with the ids. 0 takes any number."""


class GradisegDataManager(FullImageDatamanager[InstanceDataset]):
    """nerfstudio's full-image data manager whose batches also hold `id_map`.

    A batch holds what nerfstudio's does, and `id_map`: int32 `[H, W, 1]` on the device, undistorted like the
    photo, `IGNORE` where there is no label. After `use_classes` a training batch holds `class_map` in its place:
    int64 `[H, W]`. `train_dataset.metadata` holds `object_ids` (list of int, sorted; empty unless training, as a
    checkpoint knows its own) and `object_names` (dict from id to name).

    While training (`test_mode` "val") id maps that cannot be used are an error. Evaluation, rendering, export
    and viewing never fail because of them: they warn once and leave those views unlabelled.

    Raises:
        PoseError: A pose or an intrinsic is not finite; training, and they can be those of no camera, the photos have another size, or
            the cameras do not look at the sparse points.
        IdMapError: Training, and the id maps are missing, unreadable or of another size; or
            `object_names.json` is not what it should be.
    """

    config: GradisegDataManagerConfig
    train_dataset: InstanceDataset
    eval_dataset: InstanceDataset
    reading: Reading
    """How the files were read."""
    id_scan: IdScan | None = None
    """What occurs in the training maps; None unless training."""
    id_agreement: IdAgreement | None = None
    """Whether ids agree between views, once the training photos are loaded; None if it cannot be told."""
    numbering: Numbering | None = None
    """Whose classes the maps of the training views hold; None: they hold ids."""
    _soft_edges: bool | None = None
    """Whether the training maps have soft edges; None if they were not looked at."""
    _empty_ids: tuple[int, ...] | None = None

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
            for dataset in (self.train_dataset, self.eval_dataset):
                check_cameras(dataset.cameras, dataset.image_filenames)
                if test_mode == "val":  # else photos are only opened when they are needed
                    check_sizes(dataset.cameras, dataset.image_filenames, dataset.scale_factor)
            if test_mode == "val":
                self._check_view()
        except (PoseError, ArithmeticError, RuntimeError, ValueError):
            if colmap:  # only now: reading a large model twice takes long
                check_colmap(Path(parser.data) / parser.colmap_path)
            raise
        self._set_up_id_maps()
        if test_mode == "val" and config.background_points:
            self.train_dataset.metadata["background_points"] = self._background_points()

    # ------------------------------------------------------------------------------------------------- set-up

    @property
    def dataparser(self) -> DataParser:
        """Who reads the files, led by :mod:`gradiseg_ns.data.parsers`."""
        return self._dataparser

    @dataparser.setter
    def dataparser(self, parser: DataParser) -> None:
        self._dataparser = parser
        self.reading = lead(parser, strict=self.test_mode == "val")

    def create_train_dataset(self) -> InstanceDataset:
        """The training photos, resized where there are no smaller ones on disk."""
        return self.dataset_type(self.train_dataparser_outputs, self._photo_scale)

    def create_eval_dataset(self) -> InstanceDataset:
        """The held-out photos."""
        return self.dataset_type(
            self.dataparser.get_dataparser_outputs(split=self.test_split), self._photo_scale
        )

    @property
    def _photo_scale(self) -> float:
        return self.config.camera_res_scale_factor * self.reading.photo_scale

    def _check_view(self) -> None:
        """Whether the cameras look at the sparse points, with a warning if that is doubtful."""
        if self.points is None:
            return
        names = [path.name for path in self.train_dataset.image_filenames]
        frusta, points = frusta_of(self.train_dataset.cameras), self.points.float().cpu()
        try:
            doubt = check_view(frusta, points, names, original_frame(self.train_dataparser_outputs))
        except PoseError as error:
            raise PoseError(f"{self.reading.source}: {error}") from None
        if doubt is not None:
            warn(f"{self.reading.source}: {doubt}")

    def _set_up_id_maps(self) -> None:
        config, training = self.config, self.test_mode == "val" and self.config.require_maps
        data = Path(config.dataparser.data)
        own_eval_maps = config.eval_masks_dir is not None
        train, evaluation = self.train_dataset, self.eval_dataset
        names = self._object_names(data_folder(data), strict=training)
        train.set_id_maps(
            data, config.masks_dir, other_images=evaluation.image_filenames, strict=training,
            ignore_ids=config.ignore_ids, names=names,
        )  # fmt: skip
        # A folder given for evaluation is meant: it goes before what transforms.json names for training.
        evaluation.set_id_maps(
            data,
            config.eval_masks_dir if config.eval_masks_dir is not None else config.masks_dir,
            use_frame_keys=not own_eval_maps,
            other_images=() if own_eval_maps else train.image_filenames,
            strict=training and own_eval_maps,
            flag="--pipeline.datamanager.eval-masks-dir" if own_eval_maps else MASKS_FLAG,
            ignore_ids=config.ignore_ids,
            names=names,
            like=train,
        )
        train.metadata["object_names"] = names
        if training:
            self.id_scan = self._scan_training_maps()
            evaluation.unlabelled_ids = train.unlabelled_ids
            train.metadata["object_names"] = {**train.merged_names, **names}
            train.metadata["object_ids"] = self.id_scan.ids
            if own_eval_maps:
                _scan(evaluation)
        evaluation.metadata.update({key: train.metadata[key] for key in ("object_ids", "object_names")})

    @property
    def view_names(self) -> list[str]:
        """Names of the training views, sorted: paths of their photos in the data folder, at full size, without suffix."""
        folder = data_folder(self.config.dataparser.data)
        return sorted(view_name(photo, folder) for photo in self.train_dataset.image_filenames)

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
        scan = self._what_values_mean(_scan(self.train_dataset))
        if not scan.ids:
            raise IdMapError(
                f"The {len(scan.shapes)} id maps of the training views hold no labels at all "
                f"({MASKS_FLAG} {self.config.masks_dir})."
            )
        told = check_count(len(scan.ids), self.config.max_objects)
        if told is not None:
            warn(told)
        views, labelled = len(self.train_dataset), len(scan.shapes)
        ids = ", ".join(map(str, scan.ids[:12])) + (f", ... {scan.ids[-1]}" if len(scan.ids) > 12 else "")
        train = self.train_dataset
        without_map = [
            p.name for p, m in zip(train.image_filenames, train.id_map_filenames, strict=True) if m is None
        ]
        missing = (
            f"; the other {views - labelled} ({some(without_map)}) count as unlabelled" if without_map else ""
        )
        say(f"Id maps: {labelled} of {views} training views{missing}. {len(scan.ids)} object ids: {ids}.")
        return scan

    def _what_values_mean(self, scan: IdScan) -> IdScan:
        """What the training maps hold without what are no labels: soft edges, and maps of views that nobody labelled."""
        train, ignored = self.train_dataset, set(self.config.ignore_ids)
        rims = soft_edges(scan, ignored)
        if rims:
            share = sum(scan.pixels[i] for i in rims) / max(1, sum(scan.pixels.values()))
            warn(
                f"{len(rims)} of the {len(scan.ids)} ids ({some(rims)}) only occur as a thin line between others, on {share:.0%} of "
                "all pixels: the id maps have soft edges, as of antialiasing or of resizing with interpolation. Those pixels count "
                "as unlabelled. Make the maps with hard edges (nearest neighbour)."
            )
            train.unlabelled_ids = train.unlabelled_ids | set(rims)
        self._soft_edges = bool(rims)
        hints = seems_unlabelled(scan, ignored)
        if hints:
            flags = " ".join(map(str, hints))
            warn(
                f"the id {some(hints)} looks like 'not labelled' (a thin rim along the objects, or far beyond all other ids), and is "
                f"an object like any other here. If it means that, say {IGNORE_FLAG} {flags}."
            )
        labelled = [i for i, path in enumerate(train.id_map_filenames) if path is not None]
        single = [labelled[k] for k in one_id_only(scan.ids_of_maps)]
        dropped = [i for i in single if self._held_back(train.image_filenames[i])]
        told = [i for i in single if i not in dropped]
        if dropped:
            names = [train.image_filenames[i].name for i in dropped]
            warn(
                f"{len(dropped)} photos ({some(names)}) are not in images_train, and their id maps hold one id only: they are test "
                "views without labels, and count as unlabelled."
            )
            train.drop_maps(dropped)
        if told:
            names = [
                f"{train.image_filenames[i].name} only {scan.ids_of_maps[labelled.index(i)][0]}" for i in told
            ]
            warn(
                f"the id maps of {len(told)} of {len(labelled)} views hold one id only ({some(names)}), while the others hold "
                "several. They teach that nothing else is there: if nobody labelled these views, remove their maps."
            )
        if not rims and not dropped:
            return scan
        return _scan(train)

    def _clean(self, cached: list[dict[str, torch.Tensor]], split: Literal["train", "eval"]) -> None:
        """Take soft edges out of loaded maps, where the scan of the training maps did not do it."""
        own_eval_maps = split == "eval" and self.config.eval_masks_dir is not None
        done = self._soft_edges is False or (self._soft_edges is True and split == "train")
        if not cached or (done and not own_eval_maps):
            return
        maps = [data["id_map"][..., 0].numpy() for data in cached]
        if self._soft_edges and not own_eval_maps:  # held-out views have other shades of the same edges
            known = set(self.train_dataset.metadata["object_ids"])
            rims = sorted({i for ids in maps for i in np.unique(ids).tolist() if i >= 0 and i not in known})
        else:
            try:
                scan = scan_object_ids([""] * len(maps), progress=False, read=maps.__getitem__)
            except IdMapError as error:  # only training fails because of maps
                if self.test_mode == "val":
                    raise
                warn(f"{error} These {len(maps)} views count as unlabelled.")
                for data in cached:
                    data["id_map"] = torch.full_like(data["id_map"], IGNORE)
                return
            rims = soft_edges(scan)
        if not rims:
            return
        if not self._soft_edges:
            warn(
                f"the id maps have soft edges: {len(rims)} ids ({some(rims)}) of thin lines count as unlabelled."
            )
        for data, ids in zip(cached, maps, strict=True):
            data["id_map"] = torch.from_numpy(without(rims, ids, IGNORE))[..., None]

    def _forget_blank(self, cached: list[dict[str, torch.Tensor]]) -> None:
        """Unlabel held-out views whose maps are blank because they are test views (see `_what_values_mean`)."""
        blank = []
        for data, photo in zip(cached, self.eval_dataset.image_filenames, strict=True):
            ids = data["id_map"]
            if int(ids.max()) >= 0 and int(ids.max()) == int(ids.min()) and self._held_back(photo):
                data["id_map"] = torch.full_like(ids, IGNORE)
                blank.append(photo.name)
        if blank:
            warn(
                f"{len(blank)} held-out photos ({some(blank)}) are not in images_train, and their id maps hold one id only: "
                "nothing is compared with them. Name a folder of true maps with --pipeline.datamanager.eval-masks-dir."
            )

    def _held_back(self, photo: Path) -> bool:
        """Whether a photo is missing from images_train, where LERF-Mask keeps the training views."""
        folder = data_folder(self.config.dataparser.data) / "images_train"
        names = {entry.stem for entry in folder.iterdir()} if folder.is_dir() else set()
        return bool(names) and photo.stem not in names

    @property
    def empty_ids(self) -> tuple[int, ...]:
        """Ids that stand for nothing in the evaluation views: transparent, plain black or plain white there
        (:func:`gradiseg_ns.data.map_values.empty_ids`). Metrics give them no row."""
        if self._empty_ids is None:
            items = ((d["image"].cpu().numpy(), d["id_map"][..., 0].cpu().numpy()) for d in self.cached_eval)
            self._empty_ids = tuple(empty_ids(items))
        return self._empty_ids

    # ------------------------------------------------------------------------------------------------ loading

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, torch.Tensor]]:
        """nerfstudio's cache of loaded and undistorted photos, with id maps that went the same way."""
        if cache_images_device == "cpu" and not torch.cuda.is_available():
            # "cpu" pins memory, which needs CUDA. "gpu" means: on the device, and here that is the CPU.
            cache_images_device = "gpu"
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        if self.test_mode != "val":  # else it is done
            check_sizes(dataset.cameras, dataset.image_filenames, dataset.scale_factor)
        # Loading replaces the intrinsics by those of the undistorted photos; the maps need the ones before.
        distorted = deepcopy(dataset.cameras)
        cached = super()._load_images(split, cache_images_device)
        self._clean(cached, split)
        if split == "eval":
            self._forget_blank(cached)
        self._undistort_id_maps(cached, distorted)
        if split == "train" and self.test_mode == "val" and self.config.require_maps:
            self._report_agreement(cached)
        for data in cached:
            if cache_images_device == "gpu":
                data[ID_MAP] = data[ID_MAP].to(self.device)
            renumber(data, None, self.numbering if split == "train" else None)
        return cached

    def use_classes(self, numbering: Numbering | None) -> None:
        """Have the maps of the training views hold the classes of a table of objects, in the place of ids; None: ids again.

        Memory does not grow. Call it whenever the table changes. Maps of held-out views hold ids always: theirs may be unknown.
        """
        if "cached_train" in self.__dict__:  # else they are not loaded yet
            for data in self.cached_train:
                renumber(data, self.numbering, numbering)
        self.numbering = numbering

    def training_ids(self, index: int) -> torch.Tensor:
        """The ids of a training view, int32 [H, W], whatever its map holds."""
        data = self.cached_train[index].copy()
        renumber(data, self.numbering, None)
        return data[ID_MAP][..., 0].to(torch.int32)

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
        maps = [
            None if path is None else data["id_map"][..., 0].numpy()
            for path, data in zip(paths, cached, strict=True)
        ]
        seen = (
            viewmats_of(cameras),
            cameras.get_intrinsics_matrices().cpu().numpy(),
            points.cpu().numpy(),
        )
        self.id_agreement = found = id_agreement(maps, *seen)
        photos = [data["image"][..., :3].cpu().numpy() for data in cached]
        names = [path.name for path in self.train_dataset.image_filenames]
        told = explain(found, maps, photos, *seen, names=names)
        if told is not None:
            warn(told)

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

    def _with_map(self, data: dict[str, Any]) -> dict[str, Any]:
        # `data` is nerfstudio's shallow copy of the cached entry, so the cache keeps its compact map.
        for name, kind in ((ID_MAP, torch.int32), (CLASS_MAP, torch.int64)):
            if name in data:
                data[name] = data[name].to(self.device).to(kind)
        return data

    def next_train(self, step: int) -> tuple[Cameras, dict]:
        """The next training view: its camera, which stays on the host (its size is read there), and its batch."""
        camera, data = super().next_train(step)
        index = (camera.metadata or {})["cam_idx"]
        camera = self.train_dataset.cameras[index : index + 1]
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        return camera, self._with_map(data)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """The next evaluation view: its camera and its batch."""
        camera, data = super().next_eval_image(step)
        return camera, self._with_map(data)

    @property
    def fixed_indices_eval_dataloader(self) -> list[tuple[Cameras, dict]]:
        """All evaluation views in order: their cameras and batches."""
        return [(camera, self._with_map(data)) for camera, data in super().fixed_indices_eval_dataloader]


def original_frame(outputs: DataparserOutputs) -> Callable[[torch.Tensor], torch.Tensor]:
    """The way back from nerfstudio's frame to that of the files: of points [P, 3] or camera-to-world matrices [V, 4, 4], float64."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = outputs.dataparser_transform.double()
    moved = outputs.metadata.get("moved_by")
    if moved is not None:  # float32 has to hold what is tried
        matrix[:3, 3] += matrix[:3, :3] @ torch.tensor(moved, dtype=torch.float64)
    back, scale = torch.linalg.inv(matrix), outputs.dataparser_scale

    def to_original(given: torch.Tensor) -> torch.Tensor:
        given = given.clone()
        if given.ndim == 2:
            return given / scale @ back[:3, :3].T + back[:3, 3]
        given[:, :3, 3] /= scale
        return back @ given

    return to_original


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
    scan = scan_object_ids([path for _, path in found], read=lambda place: dataset.read_map(found[place][0]))
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
