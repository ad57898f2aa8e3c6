"""Photos with their id maps."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from numpy.typing import NDArray

from gradiseg_ns.data.id_maps import (
    IGNORE,
    MASKS_FLAG,
    IdMapError,
    check_map_size,
    data_folder,
    find_id_maps,
    pairing_doubts,
    read_frame_maps,
    read_id_map,
    resize_id_map,
)
from gradiseg_ns.data.map_values import palettes_differ, some, without
from gradiseg_ns.data.object_masks import LAYOUTS, find_object_masks, ids_of_names, merge_masks
from gradiseg_ns.data.photos import (
    Tone,
    edges_say_turned,
    orientation_of,
    read_photo,
    size_says_turned,
    tone_of,
    undo_orientation,
)
from gradiseg_ns.tools.terminal import warn

# One for all datasets, so that a dataset can still be pickled to the workers of a data loader.
_LOCK = threading.RLock()


@dataclass
class _Maps:
    """What is known of a dataset's maps as a set."""

    paths: list[Path | None]
    parts: dict[int, tuple[tuple[str, Path], ...]] = field(default_factory=dict)
    """Views whose map is merged of masks of single objects: names and files."""
    objects: dict[str, int] = field(default_factory=dict)
    """Ids of the objects of such masks."""
    colours: bool = False
    """Whether the colours of palettes are the ids."""
    orientations: list[int] = field(default_factory=list)
    """The photos' EXIF orientations."""
    turned: bool | None = None
    """Whether maps of photos with an orientation were turned upright, where their size does not tell."""


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
        self._maps: _Maps | None = None
        self._like: InstanceDataset | None = None
        self._tone: Tone | None = None
        self._warned: set[str] = set()
        self.unlabelled_ids: frozenset[int] = frozenset()
        """Ids in the maps that mean "no label"."""

    def set_id_maps(
        self,
        data: Path,
        masks_dir: str | Path,
        *,
        use_frame_keys: bool = True,
        other_images: Sequence[Path] = (),
        strict: bool = False,
        flag: str = MASKS_FLAG,
        ignore_ids: Sequence[int] = (),
        names: Mapping[int, str] | None = None,
        like: InstanceDataset | None = None,
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
            ignore_ids: Ids that mean "no label".
            names: Names of ids, for masks that are files named like their objects.
            like: The training split, whose photos and maps are of one kind with these.
        """
        self.unlabelled_ids = frozenset(ignore_ids)
        self._like = like
        self._source = {
            "data": Path(data),
            "masks_dir": masks_dir,
            "use_frame_keys": use_frame_keys,
            "other_images": list(other_images),
            "flag": flag,
            "names": dict(names or {}),
        }
        self._strict = strict
        self._maps = None

    @property
    def id_map_filenames(self) -> list[Path | None]:
        """The id map of each photo, None where there is none.

        Raises:
            IdMapError: As `find_id_maps`, if the dataset is strict.
        """
        return self._found().paths

    @property
    def merged_names(self) -> dict[int, str]:
        """Names of objects whose masks are files named like them; empty for maps of ids."""
        return {i: name for name, i in self._found().objects.items() if not name.isdigit()}

    def _found(self) -> _Maps:
        with _LOCK:
            if self._maps is None:
                self._maps = self._find()
            return self._maps

    def _find(self) -> _Maps:
        nothing: list[Path | None] = [None] * len(self.image_filenames)
        if self._source is None:
            return _Maps(nothing)
        try:
            maps = self._look_up()
            if self._like is not None and self._shares_maps:
                maps.colours = self._like._found().colours
            else:
                self._palettes(maps)
            self._orientations(maps)
            return maps
        except IdMapError as error:
            if self._strict:
                raise
            warn(f"{error} These {len(nothing)} views count as unlabelled.")
            return _Maps(nothing)

    @property
    def _shares_maps(self) -> bool:
        """Whether the maps lie where those of the training split do."""
        own, theirs = self._source or {}, getattr(self._like, "_source", None) or {}
        return own.get("masks_dir") == theirs.get("masks_dir")

    def _look_up(self) -> _Maps:
        """Which files are the maps of which photos."""
        assert self._source is not None
        data, others = self._source["data"], self._source["other_images"]
        folder, masks_dir = data_folder(data), self._source["masks_dir"]
        frames = read_frame_maps(data) if self._source["use_frame_keys"] else None
        masks = None
        if not frames:
            masks = find_object_masks([*self.image_filenames, *others], folder, folder / masks_dir)
        if masks is None:
            flag = self._source["flag"]
            paths = find_id_maps(self.image_filenames, folder, masks_dir, frames, others, flag)
            if self._like is None:
                named = (frames or {}).values()
                for doubt in pairing_doubts(self.image_filenames, paths, folder, masks_dir, others, named):
                    self._warn_once("pairs", doubt + ".")
            return _Maps(paths)
        parts = {i: masks.views[p] for i, p in enumerate(self.image_filenames) if p in masks.views}
        known = {name: i for i, name in self._source["names"].items()}
        if self._like is not None:
            known.update(self._like._found().objects)
        objects = ids_of_names(masks.names, known)
        if self._like is None:
            warn(
                f"{folder / masks_dir} holds {LAYOUTS[masks.layout]}: the masks of {len(objects)} objects are merged into maps, "
                f"with the ids {some([f'{i} ({name})' for name, i in objects.items()])}, and 0 where no mask is."
            )
        return _Maps([parts[i][0][1] if i in parts else None for i in range(len(self))], parts, objects)

    def _palettes(self, maps: _Maps) -> None:
        found = palettes_differ([path for i, path in enumerate(maps.paths) if path and i not in maps.parts])
        if found is None:
            return
        maps.colours, told = found
        what = (
            "Most colours recur in several files, so the colours are taken for ids (R + 256 G + 65536 B)"
            if maps.colours
            else "Hardly a colour recurs, so the indices are taken for ids"
        )
        self._warn_once(
            "palette", f"{told}. {what}; write all maps with one palette, or as gray PNGs, to be sure."
        )

    def _orientations(self, maps: _Maps) -> None:
        """Whether maps were made of photos turned upright by their orientation tag, which nobody else applies here."""
        maps.orientations = [
            1 if path is None else orientation_of(photo)
            for photo, path in zip(self.image_filenames, maps.paths, strict=True)
        ]
        open_views = []
        for i, orientation in enumerate(maps.orientations):
            if orientation > 1:
                camera = self.cameras[i]
                size = int(camera.height.item()), int(camera.width.item())
                try:
                    shape = self._as_stored(maps, i).shape if orientation > 4 else size
                except IdMapError:  # reading it for use will tell
                    continue
                if size_says_turned((shape[0], shape[1]), size, orientation) is None:
                    open_views.append(i)
        if not open_views:
            return
        try:
            maps.turned = edges_say_turned(
                [
                    (self.image_filenames[i], maps.orientations[i], lambda i=i: self._as_stored(maps, i))
                    for i in open_views
                ]
            )
        except (IdMapError, OSError):  # reading it for use will tell
            maps.turned = None
        shared = self._shares_maps and self._like is not None and self._like._found().turned is not None
        if shared and self._like is not None:
            maps.turned = self._like._found().turned
        if shared or maps.turned is False:
            return
        photos = some([self.image_filenames[i].name for i in open_views], 3)
        found = f"{len(open_views)} photos carry an EXIF orientation ({photos}), which nerfstudio does not apply. "
        self._warn_once(
            "turned",
            found
            + "The borders of objects fit the photos' edges only if their id maps are turned back: so they are."
            if maps.turned
            else found
            + "Whether their id maps were made from photos turned upright cannot be told from the photos' edges: the "
            "maps are taken as they lie. If objects come out upside down, make the maps from photos without the tag.",
        )

    def _as_stored(self, maps: _Maps, index: int) -> NDArray[np.int32]:
        if index in maps.parts:
            return merge_masks(maps.parts[index], maps.objects)
        path = maps.paths[index]
        assert path is not None
        return read_id_map(path, colours=maps.colours)

    def read_map(self, index: int) -> NDArray[np.int32]:
        """The id map of a view that has one, as large as its file.

        Args:
            index: Place of the view in the dataset.

        Returns:
            Object ids `[H, W]`, turned like the photo's file, `IGNORE` for ids that mean "no label".

        Raises:
            IdMapError: A file cannot be read.
        """
        maps = self._found()
        ids = self._as_stored(maps, index)
        orientation = maps.orientations[index] if maps.orientations else 1
        if orientation > 1:
            camera = self.cameras[index]
            size = int(camera.height.item()), int(camera.width.item())
            turned = size_says_turned((ids.shape[0], ids.shape[1]), size, orientation)
            if maps.turned if turned is None else turned:
                ids = undo_orientation(ids, orientation)
        return without(self.unlabelled_ids, ids, IGNORE)

    def drop_maps(self, indices: Sequence[int]) -> None:
        """Take the maps of some views away: they count as unlabelled."""
        for index in indices:
            self._found().paths[index] = None

    def get_numpy_image(self, image_idx: int) -> NDArray[np.uint8]:
        """The photo of a view, 8-bit RGB or RGBA `[H, W, 3 or 4]`, whatever mode its file has.

        Raises:
            PhotoError: It cannot be read, or its mode has no clear meaning.
        """
        return read_photo(self.image_filenames[image_idx], self.scale_factor, self.tone)

    @property
    def tone(self) -> Tone:
        """How photos of more than 8 bits are read: as those of the training split are."""
        if self._like is not None:
            return self._like.tone
        with _LOCK:
            if self._tone is None:
                self._tone = tone_of(self.image_filenames)
                told = self._tone.told
            else:
                told = None
        if told is not None:
            self._warn_once("tone", told)
        return self._tone

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
            ids = self.read_map(index)
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
