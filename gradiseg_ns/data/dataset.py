"""Photos with their id maps."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from gradiseg_ns.data.id_maps import (
    IGNORE,
    MASKS_FLAG,
    IdMapError,
    check_map_size,
    data_folder,
    find_id_maps,
    read_frame_maps,
    read_id_map,
    resize_id_map,
)

# One for all datasets, so that a dataset can still be pickled to the workers of a data loader.
_LOCK = threading.Lock()


def warn(message: str) -> None:
    """Tell the user something the run survives."""
    CONSOLE.print(f"[bold yellow]Warning:[/bold yellow] {escape(message)}")


class InstanceDataset(InputDataset):
    """nerfstudio's dataset plus `id_map` in every item: int32 `[H, W, 1]`, of the loaded photo's size.

    Pixels of a view without an id map are `IGNORE`. Until `set_id_maps` is called, all views are such. Files
    are looked for at first use; items may be asked for from several threads.

    Args:
        dataparser_outputs: Photos and cameras.
        scale_factor: Factor by which photos, maps and cameras are resized.
        kwargs: What newer versions of nerfstudio pass; handed on if the installed one knows it.
    """

    exclude_batch_keys_from_device: list[str] = [*InputDataset.exclude_batch_keys_from_device, "id_map"]

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, **kwargs: Any
    ) -> None:
        known = inspect.signature(InputDataset.__init__).parameters
        super().__init__(
            dataparser_outputs, scale_factor, **{key: value for key, value in kwargs.items() if key in known}
        )
        # Own copies: nerfstudio's data manager removes entries from the list, the model is handed the
        # metadata.
        self.exclude_batch_keys_from_device = list(type(self).exclude_batch_keys_from_device)
        self.metadata = dict(self.metadata)
        self.metadata.setdefault("object_ids", [])
        self.metadata.setdefault("object_names", {})
        self._source: dict[str, Any] | None = None
        self._strict = False
        self._id_map_filenames: list[Path | None] | None = None
        self._warned: set[str] = set()

    def set_id_maps(
        self,
        data: Path,
        masks_dir: str | Path,
        *,
        use_frame_keys: bool = True,
        other_images: Sequence[Path] = (),
        strict: bool = False,
        flag: str = MASKS_FLAG,
    ) -> None:
        """Say where the id maps are. Nothing is opened yet.

        Args:
            data: Data folder, or its transforms.json.
            masks_dir: Folder of the maps, relative to the data folder or absolute.
            use_frame_keys: Whether a path named in transforms.json goes before `masks_dir`.
            other_images: Photos of the other split, see `find_id_maps`.
            strict: Whether maps that cannot be used raise `IdMapError`; otherwise one warning is printed and
                the views concerned are `IGNORE`.
            flag: Command-line flag that chose `masks_dir`, for messages.
        """
        self._source = {
            "data": Path(data),
            "masks_dir": masks_dir,
            "use_frame_keys": use_frame_keys,
            "other_images": list(other_images),
            "flag": flag,
        }
        self._strict = strict
        self._id_map_filenames = None

    @property
    def id_map_filenames(self) -> list[Path | None]:
        """The id map of each photo, None where there is none.

        Raises:
            IdMapError: As `find_id_maps`, if the dataset is strict.
        """
        with _LOCK:
            if self._id_map_filenames is None:
                self._id_map_filenames = self._find()
            return self._id_map_filenames

    def _find(self) -> list[Path | None]:
        nothing: list[Path | None] = [None] * len(self.image_filenames)
        if self._source is None:
            return nothing
        data = self._source["data"]
        try:
            return find_id_maps(
                self.image_filenames,
                data_folder(data),
                self._source["masks_dir"],
                read_frame_maps(data) if self._source["use_frame_keys"] else None,
                self._source["other_images"],
                self._source["flag"],
            )
        except IdMapError as error:
            if self._strict:
                raise
            warn(f"{error} These {len(nothing)} views count as unlabelled.")
            return nothing

    def _warn_once(self, kind: str, message: str) -> None:
        with _LOCK:
            first = kind not in self._warned
            self._warned.add(kind)
        if first:
            warn(message)

    def get_metadata(self, data: dict) -> dict:
        """The id map of a view, resized to its loaded photo.

        Args:
            data: An item with `image_idx` and `image` `[H, W, 3 or 4]`.

        Returns:
            `{"id_map": int32 [H, W, 1]}`: object ids, `IGNORE` where there is no label.

        Raises:
            IdMapError: The map cannot be read or has another aspect, if the dataset is strict.
        """
        index, (height, width) = int(data["image_idx"]), data["image"].shape[:2]
        path = self.id_map_filenames[index]
        unlabelled = torch.full((height, width, 1), IGNORE, dtype=torch.int32)
        if path is None:
            return {"id_map": unlabelled}
        photo = self.image_filenames[index]
        try:
            ids = read_id_map(path)
            shape = (ids.shape[0], ids.shape[1])
            if check_map_size(shape, (height, width), path, photo, self.scale_factor):
                self._warn_once("size", size_warning(path, shape, photo, (height, width)))
        except IdMapError as error:
            if self._strict:
                raise
            self._warn_once("read", f"{error} Such views count as unlabelled.")
            return {"id_map": unlabelled}
        # A copy, as the result of reading can be read-only memory.
        return {"id_map": torch.from_numpy(resize_id_map(ids, height, width).copy())[..., None]}


def size_warning(path: Path, map_shape: tuple[int, int], photo: Path, photo_shape: tuple[int, int]) -> str:
    """Text for maps that have to be resized by an odd factor; shapes are (height, width)."""
    return (
        f"the id map {path} is {map_shape[1]} x {map_shape[0]} pixels, its photo {photo} {photo_shape[1]} x "
        f"{photo_shape[0]}. Maps are resized by nearest neighbour, which blurs no ids but moves edges by up "
        "to half a pixel of the coarser image; better make them at the photos' size."
    )
