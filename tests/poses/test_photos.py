"""Photos of every kind become those of a scene; what is no folder of photos is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradiseg_ns.data.photos import PhotoError
from gradiseg_ns.poses.photos import copy_photos, photos_in
from gradiseg_ns.poses.solving import PosesError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "photos"


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Its left upper quarter is bright."""
    values = np.zeros((height, width, 3), np.uint8)
    values[: height // 2, : width // 2] = 250
    return Image.fromarray(values).convert(mode)


def test_photos_that_fit_stay_the_same_bytes(folder: Path) -> None:
    for name in ("b2.JPG", "b10.png", "b1.jpeg"):
        picture().save(folder / name)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no photo")
    found = photos_in(folder)
    assert [path.name for path in found] == ["b1.jpeg", "b2.JPG", "b10.png"]  # as people count
    copied = copy_photos(found, folder.parent / "out")
    assert copied.changed == 0 and list(copied.sizes) == ["b1.jpeg", "b2.JPG", "b10.png"]
    for path in found:
        assert (folder.parent / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_tag_is_applied_once(folder: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA405] = 28  # focal length for 35 mm film
    upright = picture(40, 32)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's transpositions
    upright.transpose(Image.Transpose(undo)).save(folder / "a.jpg", exif=exif, quality=95)
    copied = copy_photos([folder / "a.jpg"], folder.parent / "out")
    assert copied.changed == 1 and copied.sizes == {"a.jpg": (40, 32)}
    with Image.open(folder.parent / "out" / "a.jpg") as made:
        values = np.asarray(made.convert("L"))
        tags = made.getexif()
        assert tags[0x0112] == 1 and tags.get_ifd(0x8769)[0xA405] == 28
    assert values[:12, :16].min() > 200 and values[20:].max() < 60 and values[:, 24:].max() < 60


def test_odd_modes_and_large_photos(folder: Path) -> None:
    picture(80, 60).save(folder / "large.jpg", quality=95)
    picture(mode="P").save(folder / "palette.png")
    picture(mode="CMYK").save(folder / "inks.jpg", quality=95)
    Image.fromarray(np.full((30, 40), 4000, np.uint16)).save(folder / "wide.png")
    picture().save(folder / "web.webp", lossless=True)
    found = photos_in(folder)
    copied = copy_photos(found, folder.parent / "out", largest=40)
    assert copied.changed == 5 and set(copied.sizes.values()) == {(40, 30)}
    assert copied.told is not None and "12 bits" in copied.told
    for name in copied.sizes:
        with Image.open(folder.parent / "out" / name) as made:
            assert made.mode in ("L", "RGB"), name
            bright = np.asarray(made.convert("L"))[5, 5]
            assert bright > 200, name
    assert copied.names["web.webp"] == "web.png"


def test_names_become_unique_and_without_blanks(folder: Path) -> None:
    for name in ("my photo.png", "my_photo.png", "MY_photo.jpg"):
        picture().save(folder / name)
    copied = copy_photos(photos_in(folder), folder.parent / "out")
    assert len({name.rsplit(".")[0].lower() for name in copied.sizes}) == 3
    assert not any(" " in name for name in copied.sizes)


def test_a_damaged_photo_is_named(folder: Path) -> None:
    picture().save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    with pytest.raises(PhotoError, match=r"b\.png"):
        copy_photos([folder / "a.png", folder / "b.png"], folder.parent / "out")


def test_the_folder_images_is_looked_into(folder: Path) -> None:
    (folder / "images").mkdir()
    for k in range(3):
        picture().save(folder / "images" / f"{k}.png")
    assert len(photos_in(folder)) == 3


def test_what_is_no_folder_of_photos(folder: Path) -> None:
    with pytest.raises(PosesError, match="not there"):
        photos_in(folder / "nowhere")
    with pytest.raises(PosesError, match="found nothing"):
        photos_in(folder)
    (folder / "walk.MP4").write_bytes(b"")
    with pytest.raises(PosesError, match=r"1 files \.mp4.*ffmpeg"):
        photos_in(folder)
    (folder / "walk.MP4").rename(folder / "a.heic")
    with pytest.raises(PosesError, match="HEIC"):
        photos_in(folder)
    (folder / "day one").mkdir()
    (folder / "a.heic").unlink()
    with pytest.raises(PosesError, match="day one.*Name the folder"):
        photos_in(folder)
    picture().save(folder / "a.png")
    with pytest.raises(PosesError, match=r"one photo \(a\.png\): expected 3 or more"):
        photos_in(folder)
    with pytest.raises(PosesError, match="is a file"):
        photos_in(folder / "a.png")
