"""Id maps as files and arrays: find, read, resize, undistort, count.

An id map is an integer image of a photo's aspect: every pixel holds the id of the object it shows. All ids
are equal, 0 included; `IGNORE` (-1) marks pixels without a label. Nothing here needs nerfstudio.
"""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IGNORE = -1
"""Value of a pixel that carries no label: outside the undistorted photo, or a view without an id map."""

MAP_SUFFIXES = (".png", ".npy")
"""Lossless formats an id map may have, the preferred one first."""

FRAME_KEYS = ("object_mask_path", "id_map_path")
"""Keys of a frame in transforms.json that name its id map, relative to the data folder."""

MASKS_FLAG = "--pipeline.datamanager.masks-dir"
"""The command-line flag that names the folder of id maps."""

_GRAY_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_DOWNSCALED_FOLDER = re.compile(r"(.+)_\d+")


class IdMapError(ValueError):
    """An id map, or the folder of id maps, cannot be used; the message says which, why, and what to do."""


# ---------------------------------------------------------------------------------------------------- reading


def read_id_map(path: str | Path) -> NDArray[np.int32]:
    """Read one id map.

    Accepted are PNGs of one channel (1, 8 or 16 bits, or a palette, whose *indices* are the ids; its colours
    mean nothing) and integer `.npy` arrays, in which any negative value is `IGNORE`.

    Args:
        path: File to read.

    Returns:
        Object ids, int32 `[H, W]`.

    Raises:
        IdMapError: The file is missing, damaged, in colour, or not of integers.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise IdMapError(f"{path} is a JPEG, whose compression changes ids. Save the id maps as PNG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                # Before decoding: a colour image is refused for what it is, even if it is damaged as well.
                if mode not in _GRAY_MODES:
                    raise IdMapError(
                        f"{path} is a colour image (mode {mode}, {image.width} x {image.height}), not an id "
                        "map. Expected one channel of object ids: a gray PNG of 8 or 16 bits, or a palette "
                        "PNG. Colours of a visualisation cannot be turned back into ids; look for the "
                        "tool's raw output."
                    )
                ids = np.asarray(image)
    except FileNotFoundError:
        raise IdMapError(f"The id map {path} does not exist.") from None
    except IdMapError:
        raise
    # Pillow reports damage as any of these, depending on which chunk is hit.
    except (OSError, SyntaxError, ValueError, EOFError, Warning, Image.DecompressionBombError) as error:
        raise IdMapError(
            f"The id map {path} cannot be read ({error}). The file is damaged or was not written to the end; "
            "write it again, or delete it to train without this view's labels."
        ) from error
    return ids.astype(np.int32)


def _read_npy(path: Path) -> NDArray[np.int32]:
    try:
        ids = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise IdMapError(f"The id map {path} does not exist.") from None
    except (OSError, ValueError, EOFError) as error:
        raise IdMapError(f"The id map {path} cannot be read ({error}).") from error
    if ids.ndim == 3 and ids.shape[-1] == 1:
        ids = ids[..., 0]
    if ids.ndim != 2 or not (np.issubdtype(ids.dtype, np.integer) or ids.dtype == np.bool_):
        raise IdMapError(
            f"{path} holds a {ids.dtype} array of shape {list(ids.shape)}. Expected integer ids of shape "
            "[H, W]."
        )
    if ids.size and int(ids.max()) > np.iinfo(np.int32).max:
        raise IdMapError(
            f"{path} holds the id {int(ids.max())}; ids may be at most {np.iinfo(np.int32).max}."
        )
    if np.issubdtype(ids.dtype, np.signedinteger):
        ids = np.maximum(ids, IGNORE)
    return ids.astype(np.int32)


def read_object_names(path: str | Path) -> dict[int, str]:
    """Read `object_names.json`: an object that maps ids, written as strings, to names.

    Raises:
        IdMapError: The file is not JSON of that form.
    """
    path = Path(path)
    expected = 'Expected an object that maps ids to names, like {"1": "cup", "2": "plate"}.'
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise IdMapError(f"The object names in {path} cannot be read ({error}). {expected}") from error
    if not isinstance(names, dict):
        raise IdMapError(f"{path} holds a {type(names).__name__}. {expected}")
    result: dict[int, str] = {}
    for key, name in names.items():
        try:
            object_id = int(key)
        except ValueError:
            raise IdMapError(f"{path}: the key {key!r} is not an id. {expected}") from None
        if not isinstance(name, str):
            raise IdMapError(f"{path}: the name of id {key} is {name!r}, not a string. {expected}")
        result[object_id] = name
    return result


def find_object_names(data_dir: Path, masks_dir: str | Path) -> Path | None:
    """`object_names.json` in the folder of maps, beside it, or in the data folder; None if there is none."""
    folder = data_dir / masks_dir
    for candidate in (folder, folder.parent, data_dir):
        path = candidate / "object_names.json"
        if path.is_file():
            return path
    return None


# ----------------------------------------------------------------------------------------- sizes and geometry


def check_map_size(
    map_shape: tuple[int, int],
    photo_shape: tuple[int, int],
    map_path: str | Path,
    photo_path: str | Path,
    photo_scale: float = 1.0,
) -> bool:
    """Compare the size of an id map with that of the photo it belongs to.

    Training at a lower resolution than the maps were made at is normal (`images_2`, `images_4`, ...). A map
    of another aspect belongs to another photo, or to a cropped or rotated one, and would put ids on wrong
    pixels.

    Args:
        map_shape: Height and width of the id map in pixels.
        photo_shape: Height and width of the loaded photo in pixels.
        map_path: File of the map, for the message.
        photo_path: File of the photo, for the message.
        photo_scale: Factor by which the loaded photo was resized from its file (`camera_res_scale_factor`).

    Returns:
        Whether the size is unexpected: the map is neither as large as the photo nor a whole multiple of it,
        so that nearest-neighbour resizing costs accuracy at the objects' edges and the user should know.

    Raises:
        IdMapError: The aspects differ by more than rounding to whole pixels explains.
    """
    (map_h, map_w), (photo_h, photo_w) = map_shape, photo_shape
    scale_h, scale_w = map_h / photo_h, map_w / photo_w
    # Rounding moves each side of the smaller image by up to one pixel.
    tolerance = 1.0 / min(map_h, photo_h) + 1.0 / min(map_w, photo_w)
    if abs(np.log(scale_h / scale_w)) > tolerance:
        turned = abs(np.log((map_w / photo_h) / (map_h / photo_w))) <= tolerance
        hint = (
            "One of the two seems to be turned by 90 degrees (photos from phones carry an orientation tag "
            "that most tools apply and nerfstudio does not)."
            if turned
            else "The map must cover the same view as the photo; make it from this very photo."
        )
        raise IdMapError(
            f"The id map {map_path} is {map_w} x {map_h} pixels, but its photo {photo_path} is "
            f"{photo_w} x {photo_h}: the aspects differ. {hint}"
        )
    ratio = max(scale_h, scale_w) * photo_scale
    nearest_whole = max(1.0, round(ratio))
    return abs(ratio / nearest_whole - 1.0) > tolerance


def resize_id_map(id_map: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Resize by nearest neighbour: each new pixel takes the id under its centre.

    Args:
        id_map: Object ids `[H, W]`.
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        Object ids `[height, width]`; the input itself if the size is the same.
    """
    old_height, old_width = id_map.shape
    if (old_height, old_width) == (height, width):
        return id_map
    # In whole numbers, floor((i + 1/2) * old / new): floats would round some centres to the wrong side.
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    return id_map[rows[:, None], columns[None, :]]


def undistortion_lookup(
    height: int, width: int, undistort: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.int32]:
    """Where each pixel of an undistorted photo came from.

    Whatever is done to the photo is done to an image of its own pixel coordinates (x, y, 1). What comes out
    holds, to within OpenCV's 1/64 px, the source position of every pixel; the third channel is the share of
    the pixel that lies within the photo. So the ids follow any camera model exactly without its formulas
    being repeated here, and no id is ever interpolated.

    Args:
        height: Height of the distorted photo in pixels.
        width: Width of the distorted photo in pixels.
        undistort: Maps a float32 image `[H, W, 3]` to its undistorted version `[H', W', 3]`, zero outside.

    Returns:
        Flat index `y * width + x` into the distorted photo, int32 `[H', W']`; -1 where there was no photo.
    """
    coordinates = np.empty((height, width, 3), np.float32)
    coordinates[..., 0] = np.arange(width, dtype=np.float32)[None, :]
    coordinates[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    coordinates[..., 2] = 1.0
    moved = undistort(coordinates)
    inside = moved[..., 2]
    valid = inside >= 0.5
    # At the rim the interpolation mixed in zeros from outside: dividing by the inside share takes them out
    # again.
    share = np.where(valid, inside, 1.0)
    x = np.clip(np.rint(moved[..., 0] / share), 0, width - 1).astype(np.int32)
    y = np.clip(np.rint(moved[..., 1] / share), 0, height - 1).astype(np.int32)
    return np.where(valid, y * np.int32(width) + x, np.int32(-1))


def undistort_id_map(
    id_map: NDArray[np.int32],
    undistort: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    lookup: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Undistort an id map exactly as its photo is undistorted.

    Args:
        id_map: Object ids of the distorted view `[H, W]`.
        undistort: What is done to the photo, see `undistortion_lookup`. Unused if `lookup` is given.
        lookup: Result of `undistortion_lookup`, to share it between views of one camera.

    Returns:
        Object ids `[H', W']`, `IGNORE` where the undistorted photo shows nothing.
    """
    if lookup is None:
        if undistort is None:
            raise TypeError("undistort_id_map needs `undistort` or `lookup`.")
        lookup = undistortion_lookup(id_map.shape[0], id_map.shape[1], undistort)
    flat = id_map.reshape(-1)
    return np.where(lookup >= 0, flat[np.maximum(lookup, 0)], np.int32(IGNORE)).astype(np.int32)


# ---------------------------------------------------------------------------------------------------- finding


def read_frame_maps(data: str | Path) -> dict[str, Path]:
    """Id maps that transforms.json names frame by frame (`object_mask_path` or `id_map_path`).

    nerfstudio's dataparsers ignore keys they do not know, so the files are read again here.

    Args:
        data: The data folder (its transforms.json and transforms_{train,val,test}.json are read) or one JSON
            file.

    Returns:
        Map from a photo's path relative to the data folder, without suffix, to the path of its id map. Empty
        if there is no transforms file or no frame has such a key.

    Raises:
        IdMapError: A transforms file is not readable JSON.
    """
    data_dir = data_folder(data)
    result: dict[str, Path] = {}
    for path, meta in read_transforms(data):
        for frame in meta["frames"]:
            for key in FRAME_KEYS:
                if key not in frame:
                    continue
                if not isinstance(frame[key], str):
                    raise IdMapError(f"{path}: {key} of frame {frame.get('file_path')} is not a path.")
                result[_without_suffix(Path(str(frame.get("file_path", ""))))] = data_dir / frame[key]
                break
    return result


def read_transforms(data: str | Path) -> list[tuple[Path, dict]]:
    """The transforms files of a data set as they stand on disk: (path, content).

    Args:
        data: The data folder or one JSON file. Files without a list of frames are another program's: left
            out.

    Raises:
        IdMapError: A file is not readable JSON.
    """
    data = Path(data)
    if data.suffix == ".json":
        paths = [data]
    else:
        paths = [data / f"transforms{split}.json" for split in ("", "_train", "_val", "_test")]
    result = []
    for path in paths:
        if not path.is_file():
            continue
        try:
            meta = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise IdMapError(f"{path} cannot be read ({error}).") from error
        frames = meta.get("frames") if isinstance(meta, dict) else None
        if isinstance(frames, list) and all(isinstance(frame, dict) for frame in frames):
            result.append((path, meta))
    return result


def data_folder(data: str | Path) -> Path:
    """The folder of a data set that is given as a folder or as its transforms.json."""
    data = Path(data)
    return data.parent if data.suffix == ".json" else data


def find_id_maps(
    image_filenames: Sequence[Path],
    data_dir: str | Path,
    masks_dir: str | Path = "object_mask",
    frame_maps: Mapping[str, Path] | None = None,
    other_images: Iterable[Path] = (),
    flag: str = MASKS_FLAG,
) -> list[Path | None]:
    """Find the id map of each photo.

    In this order, for the photo `images/left/0001.jpg`:

    1. the path its frame names in transforms.json (`frame_maps`);
    2. `<masks_dir>/images/left/0001.png`, `<masks_dir>/left/0001.png`: its relative path;
    3. `<masks_dir>/0001.png`, or a file of that name anywhere below `masks_dir`, if the name is unambiguous.

    `.npy` and COLMAP's `0001.jpg.png` do as well. Photos in `images_2`, `images_4`, ... find the maps of
    those in `images`. A photo that finds nothing is a view without labels.

    Args:
        image_filenames: The photos.
        data_dir: Data folder.
        masks_dir: Folder of the id maps, relative to the data folder or absolute.
        frame_maps: Result of `read_frame_maps`.
        other_images: Photos of the other splits, to notice when two photos would share one map.
        flag: Command-line flag that chose `masks_dir`, for messages.

    Returns:
        For each photo the path of its map, or None.

    Raises:
        IdMapError: The folder is missing, holds no maps or none for these photos; a map named in
            transforms.json is missing; or it is unclear which of two photos a map belongs to.
    """
    data_dir = Path(data_dir)
    folder = data_dir / masks_dir
    keys = [_relative_key(path, data_dir) for path in image_filenames]
    named = _maps_named_by_frames(keys, frame_maps or {}, image_filenames)
    if all(path is not None for path in named):  # or there are no photos: a split may be empty
        return named
    has_named = any(path is not None for path in named)
    if not folder.is_dir():
        if has_named:
            return named
        what = "is not a folder" if folder.exists() else "does not exist"
        raise IdMapError(
            f"No id maps: the folder {folder} {what}. Expected one PNG of object ids for each photo, of the "
            f"photo's name. Name another folder with {flag}.{_other_folders(data_dir, folder)}"
        )
    index = _index_maps(folder)
    if not index:
        if has_named:
            return named
        raise IdMapError(
            f"No id maps: the folder {folder} holds no PNG (nor .npy). Expected one PNG of object ids for "
            f"each photo, of the photo's name, like {Path(keys[0]).name if keys else '0001'}.png."
        )

    known = dict.fromkeys([*image_filenames, *other_images])
    owners = _owners(known, data_dir, index)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for key, path in index.items():
        by_name[key.rpartition("/")[2]].append(path)
    photos_by_name: dict[str, list[Path]] = defaultdict(list)
    for photo in known:
        photos_by_name[photo.stem].append(photo)

    result: list[Path | None] = []
    for photo, key, from_frame in zip(image_filenames, keys, named, strict=True):
        path = from_frame or _exact_map(key, photo.suffix, index)
        if path is None:
            path = _map_of_that_name(photo, by_name, photos_by_name, owners, folder)
        elif from_frame is None and len(owners[path]) > 1:
            raise _ambiguous(path, owners[path], folder)
        result.append(path)
    if result and all(path is None for path in result):
        maps, photos = sorted(index), [str(path.name) for path in image_filenames]
        raise IdMapError(
            f"None of the {len(photos)} photos has an id map among the {len(maps)} in {folder}. The photos "
            f"are named like {_examples(photos)}, the maps like "
            f"{_examples([index[key].name for key in maps])}. A map is found by its photo's name. "
            "(ns-process-data renames photos: make the maps from the renamed ones, or name each "
            f'frame\'s map in transforms.json as "{FRAME_KEYS[0]}".)'
        )
    return result


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) if len(names) < 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"


def _other_folders(data_dir: Path, folder: Path) -> str:
    """A hint that names folders of PNGs beside the missing one; '' if there are none."""
    if not data_dir.is_dir():
        return f" (The data folder {data_dir} does not exist either.)"
    images = re.compile(r"(images|train|val|test|rgb)(_\d+)?")
    found = [
        entry.name
        for entry in sorted(data_dir.iterdir())
        if entry.is_dir()
        and entry != folder
        and not images.fullmatch(entry.name)
        and any(entry.glob("*.png"))
    ]
    return f" Folders with PNGs in {data_dir}: {', '.join(found[:8])}." if found else ""


def _without_suffix(path: Path) -> str:
    """The path without a photo's suffix. Only known suffixes go: `r_0.5` of a Blender scene has none."""
    known = path.suffix.lower() in {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".exr", ".npy"}
    return (path.with_suffix("") if known else path).as_posix()


def _relative_key(path: Path, data_dir: Path) -> str:
    """A photo's path relative to the data folder, without suffix; only its name if it lies elsewhere."""
    try:
        return _without_suffix(Path(os.path.abspath(path)).relative_to(os.path.abspath(data_dir)))
    except ValueError:
        return _without_suffix(Path(path.name))


def _full_size_key(key: str) -> str:
    """`images_4/left/0001` -> `images/left/0001`; other keys as they are."""
    first, slash, rest = key.partition("/")
    match = _DOWNSCALED_FOLDER.fullmatch(first) if slash else None
    return f"{match[1]}/{rest}" if match else key


def _maps_named_by_frames(
    keys: Sequence[str], frame_maps: Mapping[str, Path], photos: Sequence[Path]
) -> list[Path | None]:
    # nerfstudio looks for downscaled photos by bare name, whatever folder the full-size one is in.
    by_name: dict[str, list[Path]] = defaultdict(list)
    for key, path in frame_maps.items():
        by_name[key.rpartition("/")[2]].append(path)
    result: list[Path | None] = []
    for key, photo in zip(keys, photos, strict=True):
        path = frame_maps.get(key) or frame_maps.get(_full_size_key(key))
        if path is None and _full_size_key(key) != key:
            candidates = by_name.get(key.rpartition("/")[2], [])
            path = candidates[0] if len(candidates) == 1 else None
        if path is not None and not path.is_file():
            raise IdMapError(
                f"transforms.json names {path} as the id map of {photo}, but there is no such file. Correct "
                f"the frame's {' or '.join(FRAME_KEYS)}, or remove the key to train without this view's "
                "labels."
            )
        result.append(path)
    return result


def _index_maps(folder: Path) -> dict[str, Path]:
    """Relative path without suffix -> file, for every map below `folder`."""
    index: dict[str, Path] = {}
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix not in MAP_SUFFIXES or name.startswith("."):
                continue
            path = Path(root) / name
            key = path.relative_to(folder).as_posix()[: -len(suffix)]
            if suffix == MAP_SUFFIXES[0] or key not in index:
                index[key] = path
    return index


def _exact_map(key: str, suffix: str, index: Mapping[str, Path]) -> Path | None:
    """The map at a photo's path, relative to the data folder or to the folder of the photos."""
    candidates = [key, _full_size_key(key)]
    if "/" in key:
        candidates.append(key.partition("/")[2])
    for candidate in candidates:
        for name in (candidate, candidate + suffix):  # 0001.png, then COLMAP's 0001.jpg.png
            if name in index:
                return index[name]
    return None


def _owners(photos: Iterable[Path], data_dir: Path, index: Mapping[str, Path]) -> dict[Path, list[Path]]:
    """Map -> the photos whose relative path leads to it (one photo, unless something is wrong)."""
    owners: dict[Path, dict[str, Path]] = defaultdict(dict)
    for photo in photos:
        key = _relative_key(photo, data_dir)
        path = _exact_map(key, photo.suffix, index)
        if path is not None:
            # The same photo at two resolutions is one owner; a.jpg and a.png in one folder are two.
            owners[path].setdefault(_full_size_key(key) + photo.suffix, photo)
    return {path: list(found.values()) for path, found in owners.items()}


def _map_of_that_name(
    photo: Path,
    by_name: Mapping[str, Sequence[Path]],
    photos_by_name: Mapping[str, Sequence[Path]],
    owners: Mapping[Path, Sequence[Path]],
    folder: Path,
) -> Path | None:
    """The only map with a photo's name, wherever it lies, unless it belongs to another photo."""
    maps = by_name.get(photo.stem) or by_name.get(photo.name) or []
    free = [path for path in maps if path not in owners]
    if len(free) != 1:
        return None
    if len(photos_by_name[photo.stem]) > 1:
        raise _ambiguous(free[0], photos_by_name[photo.stem], folder)
    return free[0]


def _ambiguous(path: Path, photos: Sequence[Path], folder: Path) -> IdMapError:
    return IdMapError(
        f"It is unclear to which photo the id map {path} belongs: "
        f"{' or '.join(str(photo) for photo in photos[:3])}. Put the maps into the same subfolders as the "
        f"photos, like {folder}/{photos[0].parent.name}/{photos[0].stem}.png."
    )


# --------------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True)
class IdScan:
    """What occurs in a set of id maps."""

    ids: list[int]
    """The object ids that occur, sorted, without `IGNORE`."""
    pixels: dict[int, int] = field(default_factory=dict)
    """For each id the number of its pixels in all maps."""
    views: dict[int, int] = field(default_factory=dict)
    """For each id the number of maps it occurs in."""
    shapes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of each map in pixels, in the order of the paths."""


def _count_ids(id_map: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids that occur in a map and the number of their pixels."""
    labelled = id_map.reshape(-1)
    if labelled.size and labelled.min() < 0:
        labelled = labelled[labelled >= 0]
    if labelled.size and labelled.max() < 1 << 20:  # counting is ten times faster than sorting
        counts = np.bincount(labelled)
        ids = np.flatnonzero(counts)
        return ids, counts[ids]
    ids, counts = np.unique(labelled, return_counts=True)
    return ids.astype(np.int64), counts.astype(np.int64)


def scan_object_ids(paths: Sequence[str | Path], progress: bool = True, workers: int | None = None) -> IdScan:
    """Read all id maps once and count their ids.

    Args:
        paths: Files to read.
        progress: Show a bar when it takes longer than 2 s.
        workers: Number of threads; as many as there are cores, at most 8, unless given.

    Raises:
        IdMapError: A map cannot be read.
    """
    from rich.progress import Progress

    def count(path: str | Path) -> tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int64]]:
        id_map = read_id_map(path)
        return (id_map.shape[0], id_map.shape[1]), *_count_ids(id_map)

    pixels: dict[int, int] = defaultdict(int)
    views: dict[int, int] = defaultdict(int)
    shapes: list[tuple[int, int]] = []
    start = time.monotonic()
    bar = Progress(transient=True, disable=not progress)
    task = bar.add_task("Reading id maps", total=len(paths))
    shown = False
    workers = workers or min(8, os.cpu_count() or 1)
    executor = ThreadPoolExecutor(workers)
    try:
        for shape, ids, counts in executor.map(count, paths):
            shapes.append(shape)
            for object_id, number in zip(ids.tolist(), counts.tolist(), strict=True):
                pixels[object_id] += number
                views[object_id] += 1
            if progress and not shown and time.monotonic() - start > 2.0:
                bar.start()
                shown = True
            bar.advance(task)
    finally:
        executor.shutdown(cancel_futures=True)
        if shown:
            bar.stop()
    return IdScan(sorted(pixels), dict(pixels), dict(views), shapes)
