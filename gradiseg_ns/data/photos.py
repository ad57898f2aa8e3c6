"""Photos as files: every mode that Pillow opens, as 8-bit colours; and how the camera was held.

nerfstudio takes whatever values a file holds for 8-bit RGB: palette indices, 16 bits modulo 256, four inks for RGB and alpha. Here
they become what they show, or are refused by name and mode. Nothing here needs nerfstudio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gradiseg_ns.data.id_maps import IdMapError, resize_id_map

_COLOURS = {"1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "HSV"}
_BITS = (8, 10, 12, 14, 16)
_EVIDENCE_VIEWS, _EVIDENCE_SIZE = 24, 512


class PhotoError(IdMapError):
    """A photo cannot be used; the message says which, in which mode it is, and what to do."""


@dataclass(frozen=True)
class Tone:
    """How values of photos that are not of 8 bits become 8 bits: the same for all photos of a set."""

    divisor: float = 1.0
    """What a value is divided by to get 0 to 255."""
    told: str | None = None
    """What was found, for the user; None if all photos are of 8 bits."""


def is_wide(mode: str) -> bool:
    """Whether a mode holds one value of more than 8 bits: 16 or 32 bits of gray, or floats."""
    return mode in ("I", "F") or mode.startswith("I;")


def read_photo(path: str | Path, scale: float = 1.0, tone: Tone | None = None) -> NDArray[np.uint8]:
    """Read a photo as it lies in the file: an orientation tag is not applied, as poses are made without it.

    Args:
        path: File to read.
        scale: Factor of both sides, by linear interpolation.
        tone: For photos of more than 8 bits, :func:`tone_of` the whole set; of this photo alone if None.

    Returns:
        8-bit RGB `[H, W, 3]`, or RGBA `[H, W, 4]` where the file has transparency.

    Raises:
        PhotoError: The file cannot be read, or its mode has no clear meaning as colours.
    """
    try:
        with Image.open(path) as image:
            if is_wide(image.mode):
                tone = tone or tone_of([Path(path)])
                values = np.asarray(image).astype(np.float64)
                eight = Image.fromarray(np.rint(np.clip(values / tone.divisor, 0, 255)).astype(np.uint8))
            else:
                eight = _eight_bits(image, path)
            if scale != 1.0:
                size = int(image.width * scale), int(image.height * scale)
                eight = eight.resize(size, resample=Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise PhotoError(f"The photo {path} does not exist.") from None
    except IdMapError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise PhotoError(
            f"The photo {path} cannot be read ({error}). The file is damaged, or of a format that Pillow does not know; "
            "save it as PNG or JPEG."
        ) from error
    array = np.array(eight)
    return array if array.ndim == 3 else array[:, :, None].repeat(3, axis=2)


def _eight_bits(image: Image.Image, path: str | Path) -> Image.Image:
    """A picture in mode L, RGB or RGBA."""
    mode = image.mode
    if mode not in _COLOURS:
        raise PhotoError(
            f"The photo {path} is of mode {mode}, whose values have no clear meaning as colours here. Expected RGB, RGBA, gray, "
            "palette or CMYK; save it as an 8-bit RGB PNG."
        )
    if mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image.copy()
    if mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        opaque = rgba.getchannel("A").getextrema()[0] == 255
        return rgba.convert("RGB") if opaque else rgba
    return image.convert("L" if mode == "1" else "RGB")


def tone_of(paths: Sequence[Path]) -> Tone:
    """What the values of photos of more than 8 bits mean, from the largest of the whole set.

    One rule for all photos, so that equal light stays equal: whole numbers are of the least of 8, 10, 12, 14 or 16 bits that holds
    them all (many cameras put 12 bits into files of 16), and floats up to 1 are shares of white.

    Args:
        paths: The photos of the training set; those of 8 bits are only looked at, not decoded.

    Raises:
        PhotoError: A photo holds NaN, negative numbers, whole ones above 65,535, or fractions above 1.
    """
    largest, whole, first, count = 0.0, True, None, 0
    for path in paths:
        try:
            with Image.open(path) as image:
                if not is_wide(image.mode):
                    continue
                mode, values = image.mode, np.asarray(image)
        except (OSError, SyntaxError, ValueError):  # reading it will tell
            continue
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        fractions = mode == "F" and not bool(np.all(values == np.rint(values)))
        if not np.isfinite([low, high]).all() or low < 0 or high > 65535 or (fractions and high > 1):
            raise PhotoError(
                f"The photo {path} is of mode {mode} with values from {low:g} to {high:g}. Expected whole numbers from 0 to 65535, "
                "or fractions from 0 to 1; save it as an 8-bit RGB PNG."
            )
        largest, whole = max(largest, high), whole and not fractions
        first, count = first or (path, mode), count + 1
    if first is None:
        return Tone()
    photos = f"{count} photos, {first[0].name} first, are of mode {first[1]}"
    # Floats whose photos are all 0 or 1 are shares of white as well.
    if largest <= 1 and (not whole or first[1] == "F"):
        return Tone(1 / 255, f"{photos}: their values are shares of white, 0 to 1.")
    if not whole:
        raise PhotoError(
            f"{photos}, and hold fractions as well as values up to {largest:g}. Expected one meaning: save them as 8-bit RGB PNGs."
        )
    bits = next(b for b in _BITS if largest < 1 << b)
    divisor = ((1 << bits) - 1) / 255
    return Tone(
        divisor,
        f"{photos}; the largest value of all is {largest:g}: read as {bits} bits, white is {(1 << bits) - 1}.",
    )


# ---------------------------------------------------------------------------------------------------- orientation


def orientation_of(path: str | Path) -> int:
    """The EXIF orientation of a photo, 1 to 8; 1 (as it lies) if it has none or cannot be opened."""
    try:
        with Image.open(path) as image:
            # A PNG is decoded to find a tag behind its pixels: only one before them is looked at.
            if image.format == "PNG" and "exif" not in image.info:
                return 1
            value = int(image.getexif().get(0x0112, 1))
    except (OSError, SyntaxError, ValueError, TypeError):
        return 1
    return value if 1 <= value <= 8 else 1


def undo_orientation(image: NDArray[np.int32], orientation: int) -> NDArray[np.int32]:
    """An image `[H, W]` that was turned upright by an orientation tag, as the file holds it: `[H, W]` or `[W, H]`."""
    undo: dict[int, Callable[[NDArray[np.int32]], NDArray[np.int32]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, 3),
    }
    return np.ascontiguousarray(undo[orientation](image)) if orientation in undo else image


def size_says_turned(
    map_shape: tuple[int, int], photo_shape: tuple[int, int], orientation: int
) -> bool | None:
    """Whether a map was turned upright, from its size alone.

    Args:
        map_shape: Height and width of the map.
        photo_shape: Height and width of the photo as the file holds it.
        orientation: The photo's tag.

    Returns:
        None if the size shows nothing: no quarter turn, or a photo that is nearly square.
    """
    if orientation == 1:
        return False
    if orientation < 5:
        return None
    straight = abs(np.log((map_shape[0] / map_shape[1]) / (photo_shape[0] / photo_shape[1])))
    turned = abs(np.log((map_shape[0] / map_shape[1]) / (photo_shape[1] / photo_shape[0])))
    if abs(straight - turned) < 0.02:
        return None
    return bool(turned < straight)


def edges_say_turned(views: Sequence[tuple[Path, int, Callable[[], NDArray[np.int32]]]]) -> bool | None:
    """Whether maps were turned upright, from the photos' edges: borders of objects are where colours change.

    Args:
        views: Photos with a tag: file, orientation, and what reads its map `[H, W]`. Some 24 are looked at.

    Returns:
        None if it cannot be told.
    """
    gains = []
    chosen = sorted(set(np.linspace(0, len(views) - 1, _EVIDENCE_VIEWS).round().astype(int))) if views else []
    for k in chosen:
        path, orientation, read = views[k]
        with Image.open(path) as image:
            image.draft("L", (_EVIDENCE_SIZE, _EVIDENCE_SIZE))
            gray = Image.fromarray(read_photo(path)[..., :3]) if is_wide(image.mode) else image.convert("RGB")
        gray = gray.convert("L")
        gray.thumbnail((_EVIDENCE_SIZE, _EVIDENCE_SIZE))
        slope = np.hypot(*np.gradient(np.asarray(gray, np.float64)))
        ids = read()
        contrasts = [_at_borders(slope, m) for m in (ids, undo_orientation(ids, orientation))]
        if None not in contrasts:
            gains.append(float(np.log(contrasts[1] / contrasts[0])))  # type: ignore[operator]
    if not gains:
        return None
    mean = float(np.mean(gains))
    error = float(np.std(gains)) / len(gains) ** 0.5 if len(gains) > 2 else abs(mean)
    if abs(mean) < 0.1 or (len(gains) > 2 and abs(mean) < 3 * error) or (len(gains) <= 2 and abs(mean) < 0.4):
        return None
    return mean > 0


def _at_borders(slope: NDArray[np.float64], ids: NDArray[np.int32]) -> float | None:
    """How much colours change at the borders of a map, relative to anywhere; None without borders."""
    ids = resize_id_map(ids, *slope.shape)
    border = np.zeros(slope.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    if not border.any() or not slope.any():
        return None
    return float(slope[border].mean() / slope.mean()) + 1e-3
