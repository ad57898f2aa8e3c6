"""Id maps as files and arrays: find, read, resize, undistort, count.

An id map is an integer image of a photo's aspect: every pixel holds the id of the object it shows. All ids
are equal, 0 included; `IGNORE` (-1) marks pixels without a label. Nothing here needs nerfstudio.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
import warnings
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json

IGNORE = -1
"""Value of a pixel that carries no label: outside the undistorted photo, or a view without an id map."""

MAP_SUFFIXES = (".png", ".npy")
"""Lossless formats an id map may have, the preferred one first."""

FRAME_KEYS = ("object_mask_path", "id_map_path")
"""Keys of a frame in transforms.json that name its id map, relative to the data folder."""

MASKS_FLAG = "--pipeline.datamanager.masks-dir"
"""The command-line flag that names the folder of id maps."""

_GRAY_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_GRAY_ALPHA_MODES = {"LA", "La", "PA"}
_COLOUR_MODES = {"RGB", "RGBA", "RGBX"}
MOST_VALUES = 1 << 18
"""So many values are counted, soft edges among them, before maps are refused."""
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".exr")
_DOWNSCALED_FOLDER = re.compile(r"(.+)_\d+")


class IdMapError(GradisegError):
    """An id map, or the folder of id maps, cannot be used; the message says which, why, and what to do."""


# ---------------------------------------------------------------------------------------------------- reading


def read_id_map(path: str | Path, colours: bool = False) -> NDArray[np.int32]:
    """Read one id map.

    Accepted are PNGs of one channel (1, 8 or 16 bits, or a palette, whose *indices* are the ids; its colours
    mean nothing), the same with alpha (which means nothing), RGB PNGs of few flat colours, whose ids are
    R + 256 G + 65536 B (or R where R = G = B everywhere), and integer `.npy` arrays, in which any negative
    value is `IGNORE`.

    Args:
        path: File to read.
        colours: Take the colours of a palette for ids, like those of an RGB PNG, and not its indices.

    Returns:
        Object ids, int32 `[H, W]`.

    Raises:
        IdMapError: The file is missing, damaged, a picture of many colours, or not of integers.
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
                if mode not in _GRAY_MODES | _GRAY_ALPHA_MODES | _COLOUR_MODES:
                    raise IdMapError(
                        f"{path} is of mode {mode} ({image.width} x {image.height}), not an id map. Expected "
                        "object ids: a gray PNG of 8 or 16 bits, a palette PNG, or an RGB PNG with "
                        "R + 256 G + 65536 B."
                    )
                ids = np.asarray(image)
                palette = image.getpalette("RGB") if mode in ("P", "PA") and colours else None
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
    if mode in _COLOUR_MODES:
        return _ids_of_colours(ids, path, mode)
    if mode in _GRAY_ALPHA_MODES:
        ids = ids[..., 0]
    if palette is not None:
        codes = np.zeros((256, 3), np.int32)
        codes.reshape(-1)[: len(palette)] = palette[: codes.size]
        return (codes @ np.array([1, 256, 65536], np.int32))[ids].astype(np.int32)
    return ids.astype(np.int32)


def _ids_of_colours(pixels: NDArray[np.uint8], path: Path, mode: str) -> NDArray[np.int32]:
    """Ids of an RGB(A) image `[H, W, 3 or 4]`: R where it is gray, otherwise R + 256 G + 65536 B.

    That is how DEVA, COCO panoptic and detectron2 write them; and any picture in which an object has one flat
    colour in all views can be read so.
    """
    red, green, blue = (pixels[..., k].astype(np.int32) for k in range(3))
    gray = np.array_equal(red, green) and np.array_equal(red, blue)
    ids = red if gray else red + 256 * green + 65536 * blue
    height, width = ids.shape
    starts = np.ones(ids.shape, bool)  # where runs of one colour begin
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    runs, colours = int(starts.sum()), len(np.unique(ids[starts]))
    # A photo changes at every pixel; a picture with soft edges has a new colour at every border.
    if runs - height > 0.5 * ids.size or (colours > 256 and runs < 4 * colours):
        raise IdMapError(
            f"{path} is a colour image (mode {mode}, {width} x {height}) of {colours} colours that change at "
            f"{runs - height} of its {ids.size} pixels, not an id map. Expected object ids: a gray PNG of 8 or "
            "16 bits, a palette PNG, or an RGB PNG of few flat colours (R + 256 G + 65536 B). A photo, or a "
            "picture with soft edges, cannot be turned into ids; look for the tool's raw output."
        )
    return ids


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
            f"[H, W].{' One mask per object has to be merged into ids first.' if ids.ndim == 3 else ''}"
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
        names = read_json(path)
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
        Map from a photo's path relative to the data folder (absolute if it lies elsewhere), without suffix
        unless two photos differ in nothing else, to the path of its id map. Empty if there is no transforms
        file or no frame has such a key.

    Raises:
        IdMapError: A transforms file is not readable JSON.
    """
    data_dir = data_folder(data)
    found: list[tuple[str, str, Path]] = []
    stems: dict[str, set[str]] = defaultdict(set)
    for path, meta in read_transforms(data):
        for frame in meta["frames"]:
            photo = data_dir / str(frame.get("file_path", ""))
            key_of_photo = _frame_key(photo, data_dir)
            has_suffix = _without_suffix(photo) != photo.as_posix()
            whole = key_of_photo + photo.suffix if has_suffix else key_of_photo
            stems[key_of_photo].add(whole)
            for key in FRAME_KEYS:
                if key not in frame:
                    continue
                if not isinstance(frame[key], str):
                    raise IdMapError(f"{path}: {key} of frame {frame.get('file_path')} is not a path.")
                found.append((key_of_photo, whole, data_dir / frame[key]))
                break
    return {whole if len(stems[key]) > 1 else key: path for key, whole, path in found}


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
            meta = read_json(path)
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
    named = _maps_named_by_frames(frame_maps or {}, image_filenames, data_dir)
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
        photos_by_name[_nfc(photo.stem)].append(photo)

    result: list[Path | None] = []
    for photo, key, from_frame in zip(image_filenames, keys, named, strict=True):
        path = from_frame or _exact_map(key, photo.suffix, index)
        if path is None:
            path = _map_of_that_name(photo, by_name, photos_by_name, owners, folder)
        elif from_frame is None and len(owners[path]) > 1:
            raise _ambiguous(path, owners[path], folder)
        result.append(path)
    if result and all(path is None for path in result):
        raise _no_map_fits(image_filenames, known, index, folder)
    return result


def _no_map_fits(
    image_filenames: Sequence[Path], known: Iterable[Path], index: Mapping[str, Path], folder: Path
) -> IdMapError:
    maps, photos = sorted(index), [str(path.name) for path in image_filenames]
    shift = number_shift([path.name for path in known], [index[key].name for key in maps])
    shifted = f" Their numbers run alike, shifted by {shift}." if shift else ""
    return IdMapError(
        f"None of the {len(photos)} photos has an id map among the {len(maps)} in {folder}. The photos "
        f"are named like {_examples(photos)}, the maps like "
        f"{_examples([index[key].name for key in maps])}. A map is found by its photo's name.{shifted}{_folders_of_objects(maps)} "
        "(ns-process-data renames photos: make the maps from the renamed ones, or name each "
        f'frame\'s map in transforms.json as "{FRAME_KEYS[0]}".)'
    )


def _folders_of_objects(keys: Sequence[str]) -> str:
    """A hint if maps lie in several folders under the same names: one folder per view, or per object."""
    folders, names = {key.rpartition("/")[0] for key in keys}, {key.rpartition("/")[2] for key in keys}
    if len(folders - {""}) < 2 or len(names) == len(keys):
        return ""
    return (
        f" They lie in {len(folders)} folders ({_examples(sorted(folders))}) under {len(names)} names "
        f"({_examples(sorted(names))}). One file per object is read as OBJECT/PHOTO.png or PHOTO/OBJECT.png, with "
        "masks of two values: name the files or folders like the photos."
    )


def pairing_doubts(
    photos: Sequence[Path],
    found: Sequence[Path | None],
    data_dir: str | Path,
    masks_dir: str | Path,
    other_images: Iterable[Path] = (),
    elsewhere: Iterable[Path] = (),
) -> list[str]:
    """What does not fit between photos and maps: maps that belong to no photo, numbers that are shifted.

    Args:
        photos: The photos.
        found: Result of `find_id_maps` for them.
        data_dir: Data folder.
        masks_dir: Folder of the id maps.
        other_images: Photos of the other splits.
        elsewhere: Maps that frames name, of any split.

    Returns:
        Sentences for the user, without a full stop of their own; empty if all fits.
    """
    data_dir = Path(data_dir)
    folder = data_dir / masks_dir
    if not folder.is_dir() or not any(path is not None and folder in path.parents for path in found):
        return []
    index = _index_maps(folder)
    known = list(dict.fromkeys([*photos, *other_images]))
    used = {os.path.abspath(path) for path in (*found, *elsewhere) if path is not None}
    used.update(os.path.abspath(path) for path in _owners(known, data_dir, index))
    names = {_nfc(path.stem) for path in known} | {_nfc(path.name) for path in known}
    for place in {
        path.parent for path in known if path.parent.is_dir()
    }:  # photos that no camera was found for, or of a third split
        names.update(_nfc(n) for entry in os.scandir(place) for n in (entry.name, Path(entry.name).stem))
    left = [
        path
        for key, path in sorted(index.items())
        if os.path.abspath(path) not in used
        and key.rpartition("/")[2] not in names
        and not any((data_dir / (key + suffix)).is_file() for suffix in PHOTO_SUFFIXES)
    ]
    if not left:
        return []
    told = f"{len(left)} of the {len(index)} id maps in {folder} belong to no photo ({_short(left)})"
    without = [photo for photo, path in zip(photos, found, strict=True) if path is None]
    shift = number_shift([path.name for path in known], [path.name for path in index.values()])
    if shift:
        first, last = "less" if shift < 0 else "more", abs(shift)
        told += (
            f", and the numbers of the maps are those of the photos, each {last} {first}: the numbering looks "
            f"shifted by {last}, so that every photo has another photo's map. Rename one of the two so that the "
            "same photo and map have the same name"
        )
    elif without:
        told += (
            f", and {len(without)} photos have none ({_short(without)}); a map is found by its photo's name"
        )
    return [told]


def number_shift(photos: Sequence[str], maps: Sequence[str]) -> int:
    """By how much the numbers of maps exceed those of the photos, if that fits all maps and no shift does not; 0 otherwise.

    Args:
        photos: File names of all photos.
        maps: File names of all maps.
    """
    sets: list[set[int]] = []
    for names in (photos, maps):
        found = [re.findall(r"\d+", Path(name).stem) for name in names]
        if not all(found) or len(names) < 3:
            return 0
        sets.append({int(numbers[-1]) for numbers in found})
        if len(sets[-1]) != len(names):
            return 0
    first, second = sets
    if second <= first:
        return 0
    for shift in sorted({min(second) - min(first), max(second) - max(first)}, key=abs):
        if shift and {number - shift for number in second} <= first:
            return shift
    return 0


def _short(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(path.name for path in paths[:3]) + more


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
    known = path.suffix.lower() in (*PHOTO_SUFFIXES, ".npy")
    return _nfc((path.with_suffix("") if known else path).as_posix())


def _nfc(name: str) -> str:
    """A name with its accents composed: macOS and some archives take them apart."""
    return unicodedata.normalize("NFC", name)


def _relative_key(path: Path, data_dir: Path) -> str:
    """A photo's path relative to the data folder, without suffix; only its name if it lies elsewhere."""
    try:
        return _without_suffix(Path(os.path.abspath(path)).relative_to(os.path.abspath(data_dir)))
    except ValueError:
        return _without_suffix(Path(path.name))


def _frame_key(path: Path, data_dir: Path) -> str:
    """As `_relative_key`, but absolute if the photo lies elsewhere: frames may say /data/1.jpg or ../1.jpg."""
    for place in (os.path.abspath, os.path.realpath):
        photo = Path(place(path.parent)) / path.name
        try:
            return _without_suffix(photo.relative_to(place(data_dir)))
        except ValueError:
            continue
    return _without_suffix(photo)


def view_name(photo: Path, data_dir: Path) -> str:
    """What a view is called at any size of its photo: `images_4/left/0001.jpg` is images/left/0001."""
    return _full_size_key(_relative_key(photo, data_dir))


def photo_keys(photo: Path, data_dir: Path) -> list[str]:
    """Names that a photo may go by in a folder of masks, the most exact first."""
    key = _relative_key(photo, data_dir)
    keys = [key, _full_size_key(key)]
    if "/" in key:
        keys.append(key.partition("/")[2])
    keys += [_nfc(photo.name), _without_suffix(Path(photo.name))]
    return list(dict.fromkeys([keys[0] + photo.suffix, *keys]))


def _full_size_key(key: str) -> str:
    """`images_4/left/0001` -> `images/left/0001`; other keys as they are."""
    first, slash, rest = key.partition("/")
    match = _DOWNSCALED_FOLDER.fullmatch(first) if slash else None
    return f"{match[1]}/{rest}" if match else key


def _maps_named_by_frames(
    frame_maps: Mapping[str, Path], photos: Sequence[Path], data_dir: Path
) -> list[Path | None]:
    # nerfstudio looks for downscaled photos by bare name, whatever folder the full-size one is in.
    by_name: dict[str, list[Path]] = defaultdict(list)
    for key, path in frame_maps.items():
        by_name[key.rpartition("/")[2]].append(path)
    result: list[Path | None] = []
    for photo in photos:
        key = _frame_key(photo, data_dir)
        path = None
        for name in (key + photo.suffix, key, _full_size_key(key) + photo.suffix, _full_size_key(key)):
            path = path or frame_maps.get(name)
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
            key = _nfc(path.relative_to(folder).as_posix()[: -len(suffix)])
            if suffix == MAP_SUFFIXES[0] or key not in index:
                index[key] = path
    return index


def _exact_map(key: str, suffix: str, index: Mapping[str, Path]) -> Path | None:
    """The map at a photo's path, relative to the data folder or to the folder of the photos."""
    candidates = [key, _full_size_key(key)]
    if "/" in key:
        candidates.append(key.partition("/")[2])
    for candidate in candidates:
        for name in (candidate + suffix, candidate):  # COLMAP's 0001.jpg.png, then 0001.png
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
    maps = by_name.get(_nfc(photo.name)) or by_name.get(_nfc(photo.stem)) or []
    free = [path for path in maps if path not in owners]
    if len(free) != 1:
        return None
    rivals = photos_by_name[_nfc(photo.stem)]
    if len(rivals) > 1 and _nfc(free[0].stem) != _nfc(photo.name):
        raise _ambiguous(free[0], rivals, folder)
    return free[0]


def _ambiguous(path: Path, photos: Sequence[Path], folder: Path) -> IdMapError:
    if len({photo.parent for photo in photos}) == 1:
        advice = f"Name the maps like the photos, suffix included, like {folder}/{photos[0].name}.png."
    else:
        advice = (
            "Put the maps into the same subfolders as the photos, like "
            f"{folder}/{photos[0].parent.name}/{photos[0].stem}.png."
        )
    return IdMapError(
        f"It is unclear to which photo the id map {path} belongs: "
        f"{' or '.join(str(photo) for photo in photos[:3])}. {advice}"
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
    inside: dict[int, int] = field(default_factory=dict)
    """For each id the number of its pixels whose four neighbours are of the same id."""
    deep: dict[int, int] = field(default_factory=dict)
    """For 255 and 65535 the number of pixels farther from the id's border than 1 % of the diagonal."""
    ids_of_maps: list[Sequence[int]] = field(default_factory=list)
    """The ids of each map, in the order of the paths."""


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


def _counted(id_map: NDArray[np.int32]) -> dict[int, int]:
    ids, counts = _count_ids(id_map)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _inside(id_map: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels `[H, W]` whose four neighbours, as far as there are any, hold the same id."""
    same = np.ones(id_map.shape, bool)
    for first, second in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        equal = id_map[first] == id_map[second]
        same[first] &= equal
        same[second] &= equal
    return same


def _deep(mask: NDArray[np.bool_]) -> int:
    """How many pixels of a mask `[H, W]` are farther from its border than 1 % of the diagonal, at least 3.5."""
    import cv2

    height, width = mask.shape
    padded = np.pad(mask.astype(np.uint8), 1)
    return int(
        (cv2.distanceTransform(padded, cv2.DIST_L2, 3) > max(3.5, 0.01 * np.hypot(height, width))).sum()
    )


MAX_OBJECTS = 3000
"""More ids than that are refused unless the user asks for them."""
MANY_OBJECTS = 1000
"""From so many ids on the user is told what they take."""
COUNT_FLAG = "--pipeline.datamanager.max-objects"
"""The command-line flag that lifts the bound."""


def memory_of(count: int) -> float:
    """GB that so many objects take in a training, most of it for the scores of L_3d's neighbours: 2.1 MB an object with gradiseg-lite's
    10,000 samples (measured; a tenth with gradiseg's 1,000). Codes for votes take three squares of their number."""
    return 2.1e-3 * count + 12e-9 * count**2


def check_count(count: int, most: int = MAX_OBJECTS) -> str | None:
    """Whether so many objects can be learned.

    Args:
        count: Of object ids.
        most: That are allowed; 0 for any number.

    Returns:
        A sentence for the user if they are many, else None.

    Raises:
        IdMapError: They are more.
    """
    took = f"{count:,} object ids occur in the training maps, for which a training takes up to {memory_of(count):.1f} GB more memory"
    if 0 < most < count:
        raise IdMapError(
            f"{took}. At most {most:,} are taken unless {COUNT_FLAG} says otherwise (`gradiseg lift` and `gradiseg associate`: "
            "--max-objects; 0 takes any number). Expected one id an object, the same in every view: are pixels, or the masks of "
            "each view, numbered?"
        )
    return f"{took}. If these are not so many objects, look at the maps." if count >= MANY_OBJECTS else None


def _too_many_values(found: int, most: int, what: str) -> IdMapError:
    return IdMapError(
        f"{what} hold{'s' if 'first' not in what else ''} {found:,} different values, more than the {most:,} that are taken for ids. "
        "Expected one id an object, the same in every view: is this a picture, a depth map, or are pixels numbered?"
    )


def scan_object_ids(
    paths: Sequence[str | Path],
    progress: bool = True,
    workers: int | None = None,
    read: Callable[[int], NDArray[np.int32]] | None = None,
    most: int = MOST_VALUES,
) -> IdScan:
    """Read all id maps once and count their ids.

    Args:
        paths: Files to read.
        progress: Show a bar when it takes longer than 2 s.
        workers: Number of threads. Default: the number of cores, at most 8.
        read: Reads the map at a place of `paths`; `read_id_map` if None.
        most: More ids than that are not counted: then a map of ids it is not.

    Raises:
        IdMapError: A map cannot be read, or there are too many ids.
    """
    from rich.progress import Progress

    def count(place: int) -> tuple[tuple[int, int], dict[int, int], dict[int, int], dict[int, int]]:
        id_map = read_id_map(paths[place]) if read is None else read(place)
        ids, numbers = _count_ids(id_map)
        if len(ids) > most:
            raise _too_many_values(len(ids), most, f"The id map {paths[place] or place}")
        counts, deep = dict(zip(ids.tolist(), numbers.tolist(), strict=True)), {}
        for value in (255, 65535):
            if value in counts:
                deep[value] = _deep(id_map == value)
        border = _counted(id_map[~_inside(id_map)])  # few pixels
        inside = {object_id: number - border.get(object_id, 0) for object_id, number in counts.items()}
        return (id_map.shape[0], id_map.shape[1]), counts, inside, deep

    pixels: dict[int, int] = defaultdict(int)
    views: dict[int, int] = defaultdict(int)
    insides: dict[int, int] = defaultdict(int)
    deeps: dict[int, int] = defaultdict(int)
    ids_of_maps: list[Sequence[int]] = []
    shapes: list[tuple[int, int]] = []
    start = time.monotonic()
    bar = Progress(transient=True, disable=not progress)
    task = bar.add_task("Reading id maps", total=len(paths))
    shown = False
    workers = workers or min(8, os.cpu_count() or 1)
    executor = ThreadPoolExecutor(workers)
    try:
        for shape, counts, inside, deep in executor.map(count, range(len(paths))):
            shapes.append(shape)
            ids_of_maps.append(array("q", counts))
            for object_id, number in counts.items():
                pixels[object_id] += number
                views[object_id] += 1
            if len(pixels) > most:
                raise _too_many_values(len(pixels), most, f"The first {len(shapes)} of {len(paths)} id maps")
            for sums, found in ((insides, inside), (deeps, deep)):
                for object_id, number in found.items():
                    sums[object_id] += number
            if progress and not shown and time.monotonic() - start > 2.0:
                bar.start()
                shown = True
            bar.advance(task)
    finally:
        executor.shutdown(cancel_futures=True)
        if shown:
            bar.stop()
    return IdScan(sorted(pixels), dict(pixels), dict(views), shapes, dict(insides), dict(deeps), ids_of_maps)
