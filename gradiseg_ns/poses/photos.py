"""Photos of a folder, as a scene has them: upright, of 8 bits, not too large, with names that every program takes."""

from __future__ import annotations

import io
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gradiseg_ns.data.id_maps import PHOTO_SUFFIXES
from gradiseg_ns.data.photos import Tone, orientation_of, read_photo, tone_of
from gradiseg_ns.poses.solving import FEWEST, PosesError

LARGEST = 1600
"""Longer side, in pixels, above which a photo is made smaller."""
SUFFIXES = tuple(sorted(set(PHOTO_SUFFIXES) - {".exr"}))
_VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"}
_SUFFIX = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",)}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a photo upright, by its orientation tag."""
_QUALITY = 95


@dataclass(frozen=True)
class Copied:
    """How the photos of a folder became those of a scene."""

    names: dict[str, str]
    """Name in the scene by name in the folder."""
    sizes: dict[str, tuple[int, int]]
    """Width and height in the scene, by name in the scene."""
    changed: int
    """How many were turned, converted or made smaller; the others are the same bytes."""
    told: str | None = None
    """What was found out about photos of more than 8 bits."""


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder, by name, or else in its folder `images`. Hidden files are left out.

    Raises:
        PosesError: there is no such folder, or too few photos are in it; the message names what is there instead.
    """
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "not there"
        raise PosesError(f"{folder} is {what}: expected a folder of photos, or a scene that ns-train opens.")
    found: list[Path] = []
    for place in (folder, folder / "images"):
        if not found and place.is_dir():
            files = [path for path in place.iterdir() if path.is_file() and not path.name.startswith(".")]
            found = sorted((path for path in files if path.suffix.lower() in SUFFIXES), key=by_number)
    if len(found) < FEWEST:
        raise PosesError(_too_few(folder, found))
    return found


def by_number(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts names as people number them: photo 2 comes before photo 10."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.findall(r"\d+|\D+", path.name)
    ]


def _too_few(folder: Path, found: Sequence[Path]) -> str:
    """The sentence for a folder without enough photos."""
    expected = f"expected {FEWEST} or more, as {', '.join(SUFFIXES)}"
    if found:
        return (
            f"{folder} holds {'one photo' if len(found) == 1 else f'{len(found)} photos'} ({found[0].name}): {expected}. A scene needs "
            "some 20 to 100, from all around."
        )
    others = Counter(path.suffix.lower() or "no suffix" for path in folder.iterdir() if path.is_file())
    folders = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    have = [f"{count} files {suffix}" for suffix, count in others.most_common(3)]
    have += [f"the folders {', '.join(folders[:4])}"] if folders else []
    hint = ""
    if _VIDEOS & set(others):
        hint = " Take photos out of a video with: ffmpeg -i VIDEO -vf fps=2 -q:v 2 PHOTOS/%04d.jpg"
    elif {".heic", ".heif"} & set(others):
        hint = " HEIC photos have to be saved as JPEG first."
    elif folders:
        hint = " Name the folder that has the photos."
    return f"{folder} holds no photos: {expected}; found {' and '.join(have) or 'nothing'}.{hint}"


def copy_photos(
    photos: Sequence[Path],
    folder: Path,
    *,
    largest: int = LARGEST,
    advance: Callable[[], None] = lambda: None,
) -> Copied:
    """Put photos into a new folder. Those that are fit as they are stay the same bytes.

    An orientation tag is applied, so that every program sees one and the same picture; other modes than gray, RGB and RGBA become RGB;
    photos above the largest size become smaller. A changed JPEG stays one, with its other tags (the focal length is one of them);
    others become PNG.

    Args:
        photos: the files.
        folder: of the scene; it is there and empty.
        largest: longer side in pixels.
        advance: is called after each.

    Raises:
        PhotoError: a photo cannot be read.
    """
    tone = tone_of(photos)
    names, sizes, changed = {}, {}, 0
    stems: set[str] = set()
    for photo in photos:
        stem = _free(re.sub(r"\s+", "_", photo.stem), stems)
        written, size, other = _put(photo, folder, stem, largest, tone)
        changed += other
        names[photo.name], sizes[written.name] = written.name, size
        advance()
    return Copied(names, sizes, changed, tone.told)


def _free(stem: str, taken: set[str]) -> str:
    """A name that no other photo has, in small letters either: maps are found by it."""
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name.lower())
    return name


def _put(
    photo: Path, folder: Path, stem: str, largest: int, tone: Tone
) -> tuple[Path, tuple[int, int], bool]:
    """Write one photo. Returns the file, its width and height, and whether anything was changed."""
    values = read_photo(photo, tone=tone)  # a damaged file ends here, with its name
    turn = _TURNS.get(orientation_of(photo))
    with Image.open(photo) as image:
        mode, kind = image.mode, image.format
        plain = mode in ("L", "RGB", "RGBA") and "transparency" not in image.info
        if kind in _SUFFIX and plain and turn is None and max(image.size) <= largest:
            right = photo.suffix.lower() in _SUFFIX[kind]
            path = folder / f"{stem}{photo.suffix if right else _SUFFIX[kind][0]}"
            shutil.copyfile(photo, path)
            return path, image.size, False
        jpeg = kind in ("JPEG", "MPO")
        exif = image.getexif()
        profile = image.info.get("icc_profile") if plain else None
    picture = Image.fromarray(values)
    if turn is not None:
        picture = picture.transpose(turn)
    scale = largest / max(picture.size)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, resample=Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if jpeg:
        exif[_ORIENTATION] = 1
        picture.save(content, "JPEG", quality=_QUALITY, exif=exif.tobytes(), icc_profile=profile)
    else:
        picture.save(content, "PNG", icc_profile=profile)
    path = folder / f"{stem}{'.jpg' if jpeg else '.png'}"
    path.write_bytes(content.getvalue())
    return path, picture.size, True
