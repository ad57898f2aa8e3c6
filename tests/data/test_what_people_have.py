"""Photos and maps as people really have them: modes, orientations, meanings of values, layouts, names."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.data import datamanager, dataset
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig
from gradiseg_ns.data.id_maps import (
    IGNORE,
    IdMapError,
    find_id_maps,
    number_shift,
    read_frame_maps,
    read_id_map,
)
from gradiseg_ns.data.map_values import empty_ids
from gradiseg_ns.data.object_masks import ids_of_names
from gradiseg_ns.data.photos import PhotoError, read_photo, tone_of, undo_orientation
from tests.scenes import write_scene

VIEWS, WIDTH, HEIGHT = 12, 64, 48


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings."""
    texts: list[str] = []
    monkeypatch.setattr(dataset, "warn", texts.append)
    monkeypatch.setattr(datamanager, "warn", texts.append)
    return texts


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Two balls, 1 and 7, on a floor, 0."""
    return write_scene(tmp_path / "scene", views=VIEWS, width=WIDTH, height=HEIGHT)


def load(data: Path, mode: Any = "val", parser: Any = None, **options: Any) -> GradisegDataManager:
    parser = parser or NerfstudioDataParserConfig(load_3D_points=True)
    config = GradisegDataManagerConfig(dataparser=parser, data=data, cache_images_type="uint8", **options)
    return config.setup(device="cpu", test_mode=mode)


def exact(data: Path) -> dict[str, NDArray[np.uint8]]:
    """Ids by the photo's stem."""
    return {path.stem: np.array(Image.open(path)) for path in sorted((data / "object_mask").glob("*.png"))}


def assert_exact(
    dm: GradisegDataManager, truth: dict[str, NDArray[np.uint8]], code: dict | None = None
) -> None:
    """All loaded maps are the true ones, but for ids that are named otherwise."""
    for split, cached in ((dm.train_dataset, dm.cached_train), (dm.eval_dataset, dm.cached_eval)):
        assert cached
        for path, data in zip(split.image_filenames, cached, strict=True):
            expected = truth[path.stem].astype(np.int64)
            if code is not None:
                expected = np.vectorize(code.get)(expected)
            np.testing.assert_array_equal(data["id_map"][..., 0].numpy(), expected, err_msg=path.name)


def edit_frames(data: Path, change: Any) -> None:
    content = json.loads((data / "transforms.json").read_text())
    for k, frame in enumerate(content["frames"]):
        change(k, frame)
    (data / "transforms.json").write_text(json.dumps(content))


def resave_photos(data: Path, suffix: str, convert: Any, **options: Any) -> None:
    for path in sorted((data / "images").iterdir()):
        image = Image.open(path)
        image.load()
        path.unlink()
        convert(image).save(path.with_suffix(suffix), **options)
    edit_frames(data, lambda k, f: f.update(file_path=str(Path(f["file_path"]).with_suffix(suffix))))


def rewrite_maps(data: Path, change: Any) -> None:
    for k, path in enumerate(sorted((data / "object_mask").glob("*.png"))):
        new = change(k, np.array(Image.open(path)))
        if new is not None:
            (new if isinstance(new, Image.Image) else Image.fromarray(new)).save(path)


# ----------------------------------------------------------------------------------------------------- photo modes


def gray(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("L"), np.float64)


MODES: dict[str, tuple[str, Any, int]] = {
    "L": (".png", lambda im: im.convert("L"), 1),
    "LA, opaque": (".png", lambda im: im.convert("LA"), 1),
    "P": (".png", lambda im: im.convert("P", palette=Image.Palette.ADAPTIVE), 24),
    "CMYK": (".tif", lambda im: im.convert("CMYK"), 2),
    "CMYK JPEG": (".jpg", lambda im: im.convert("CMYK"), 24),
    "YCbCr": (".jpg", lambda im: im.convert("YCbCr"), 24),
    "F": (".tif", lambda im: Image.fromarray((gray(im) / 255).astype(np.float32)), 2),
    "F, whole": (".tif", lambda im: Image.fromarray(gray(im).astype(np.float32)), 2),
    "I;16": (".png", lambda im: Image.fromarray((gray(im) * 257).astype(np.uint16)), 2),
    "I;16, 12 bits": (".png", lambda im: Image.fromarray((gray(im) * 16).astype(np.uint16)), 2),
    "I;16B": (".tif", lambda im: Image.fromarray((gray(im) * 257).astype(">u2")), 2),
    "I": (".tif", lambda im: Image.fromarray((gray(im) * 257).astype(np.int32)), 2),
}


@pytest.mark.parametrize("mode", MODES)
def test_photos_of_every_mode(scene: Path, mode: str) -> None:
    suffix, convert, tolerance = MODES[mode]
    colours = {p.stem: Image.open(p).convert("RGB") for p in (scene / "images").iterdir()}
    resave_photos(scene, suffix, convert)
    opened = Image.open(next((scene / "images").iterdir()))
    dm = load(scene)
    for path, data in zip(dm.train_dataset.image_filenames, dm.cached_train, strict=True):
        true = colours[path.stem]
        if mode[0] in "LFI":
            true = Image.merge("RGB", [true.convert("L")] * 3)
        assert data["image"].shape == (HEIGHT, WIDTH, 3) and data["image"].dtype == torch.uint8, opened.mode
        difference = np.abs(data["image"].numpy().astype(int) - np.asarray(true).astype(int))
        assert difference.mean() <= tolerance / 2 and np.median(difference) <= tolerance


def test_transparency_stays_and_one_bit_is_black_and_white(tmp_path: Path) -> None:
    alpha = np.array([[0, 255], [128, 255]], np.uint8)
    Image.fromarray(np.stack([np.full((2, 2), 90, np.uint8), alpha], -1)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "la.png")[..., 3], alpha)
    assert (read_photo(tmp_path / "la.png")[..., :3] == 90).all()
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(read_photo(tmp_path / "p.png"), [[[1, 2, 3, 0], [40, 50, 60, 255]]])
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "one.png"), [[[255] * 3, [0] * 3]])


def test_wide_photos_are_scaled_alike(tmp_path: Path) -> None:
    paths = []
    for k, top in enumerate((900, 4000)):
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray(np.full((4, 6), top, np.uint16)).save(paths[-1])
    tone = tone_of(paths)
    assert tone.divisor == pytest.approx(4095 / 255) and tone.told and "12 bits" in tone.told
    assert [int(read_photo(p, tone=tone).max()) for p in paths] == [56, 249]
    assert read_photo(paths[0], scale=0.5, tone=tone).shape == (2, 3, 3)


def test_photos_without_a_meaning_are_refused(tmp_path: Path) -> None:
    for name, values in {
        "nan": [0.5, np.nan], "kelvin": [290.5, 301.25], "negative": [-0.5, 0.5],
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.tif"
        Image.fromarray(np.array([values], np.float32)).save(path)
        with pytest.raises(PhotoError, match=rf"{name}\.tif is of mode F"):
            read_photo(path)
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    with pytest.raises(PhotoError, match=r"lab\.tif is of mode LAB"):
        read_photo(tmp_path / "lab.tif")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(PhotoError, match=r"cut\.png cannot be read"):
        read_photo(tmp_path / "cut.png")


# ----------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(2, 9))
def test_undoing_an_orientation(orientation: int) -> None:
    from PIL import ImageOps

    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(ids)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)
    np.testing.assert_array_equal(undo_orientation(upright, orientation), ids)


def oriented(data: Path, orientation: int, every: int, turn_maps: bool) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for k, path in enumerate(sorted((data / "images").iterdir())):
        if k % every:
            continue
        Image.open(path).save(path, exif=exif)
        if turn_maps:
            mask = Image.open(data / "object_mask" / path.name)
            mask.getexif()[0x0112] = orientation
            Image.fromarray(np.asarray(ImageOps.exif_transpose(mask))).save(data / "object_mask" / path.name)


@pytest.mark.parametrize(
    ("orientation", "every", "points"),
    [(2, 1, True), (3, 1, True), (3, 4, False), (4, 4, True), (6, 1, True), (8, 4, True)],
)
def test_maps_that_were_turned_upright_are_turned_back(
    scene: Path, said: list[str], orientation: int, every: int, points: bool
) -> None:
    truth = exact(scene)
    oriented(scene, orientation, every, turn_maps=True)
    parser = NerfstudioDataParserConfig(load_3D_points=points)
    assert_exact(load(scene, parser=parser), truth)
    assert (len([s for s in said if "EXIF orientation" in s]) == 1) == (orientation < 5)
    assert_exact(load(scene, "test", parser=parser), truth)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_maps_that_lie_like_the_file_stay(scene: Path, said: list[str], orientation: int) -> None:
    truth = exact(scene)
    oriented(scene, orientation, 1, turn_maps=False)
    assert_exact(load(scene), truth)
    assert said == []


def test_an_orientation_that_shows_nowhere_is_told(scene: Path, said: list[str]) -> None:
    resave_photos(scene, ".png", lambda im: Image.new("RGB", im.size, (90, 90, 90)))
    oriented(scene, 3, 1, turn_maps=True)
    load(scene)
    assert any("cannot be told" in s and "EXIF" in s for s in said)


# ---------------------------------------------------------------------------------------------------------- values


def test_ids_in_colours(scene: Path) -> None:
    truth, code = exact(scene), {0: 0, 1: 1234567, 7: 70001}

    def encode(k: int, ids: NDArray) -> NDArray:
        v = np.vectorize(code.get)(ids.astype(int))
        return np.stack([v % 256, v // 256 % 256, v // 65536], -1).astype(np.uint8)

    rewrite_maps(scene, encode)
    dm = load(scene)
    assert dm.train_dataset.metadata["object_ids"] == [0, 70001, 1234567]
    assert_exact(dm, truth, code)


@pytest.mark.parametrize("form", ["RGB", "RGBA", "LA"])
def test_gray_with_more_channels_is_gray(scene: Path, form: str) -> None:
    truth = exact(scene)
    rewrite_maps(scene, lambda k, ids: Image.fromarray(ids).convert(form))
    dm = load(scene)
    assert dm.train_dataset.metadata["object_ids"] == [0, 1, 7]
    assert_exact(dm, truth)


def test_a_photo_is_no_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(tmp_path / "noise.png")
    smooth = Image.fromarray(rng.integers(0, 255, (4, 6, 3)).astype(np.uint8))
    smooth.resize((300, 200), Image.Resampling.BICUBIC).save(tmp_path / "smooth.png")
    for name in ("noise", "smooth"):
        with pytest.raises(IdMapError, match=rf"{name}\.png is a colour image .* flat colours"):
            read_id_map(tmp_path / f"{name}.png")


def indexed(ids: NDArray, colours: dict[int, tuple[int, int, int]], order: list[int]) -> Image.Image:
    """A palette image whose index k is the colour of the id order[k]."""
    image = Image.fromarray(
        np.vectorize({i: k for k, i in enumerate(order)}.get)(ids.astype(int)).astype(np.uint8)
    )
    image.putpalette([c for i in order for c in colours[i]])
    return image


def test_palettes_that_differ_mean_their_colours(scene: Path, said: list[str]) -> None:
    truth, colours = exact(scene), {0: (0, 0, 0), 1: (200, 10, 0), 7: (0, 0, 250)}
    rewrite_maps(scene, lambda k, ids: indexed(ids, colours, [0, 1, 7] if k % 2 else [0, 7, 1]))
    code = {i: r + 256 * g + 65536 * b for i, (r, g, b) in colours.items()}
    dm = load(scene)
    assert dm.train_dataset.metadata["object_ids"] == sorted(code.values())
    assert_exact(dm, truth, code)
    assert (
        len(said) == 1 and "index 1 is the colour" in said[0] and "the colours are taken for ids" in said[0]
    )
    assert_exact(load(scene, "test"), truth, code)


def test_palettes_of_random_colours_mean_their_indices(scene: Path, said: list[str]) -> None:
    truth, rng = exact(scene), np.random.default_rng(0)

    def paint(k: int, ids: NDArray) -> Image.Image:
        image = Image.fromarray(ids)
        image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
        return image

    rewrite_maps(scene, paint)
    assert_exact(load(scene), truth)
    assert len(said) == 1 and "the indices are taken for ids" in said[0]


def rim(ids: NDArray) -> NDArray[np.bool_]:
    from scipy import ndimage

    return ndimage.maximum_filter(ids, 3) != ndimage.minimum_filter(ids, 3)


@pytest.mark.parametrize("value", [255, 65535])
def test_a_value_for_no_label(scene: Path, said: list[str], value: int) -> None:
    dtype = np.uint8 if value == 255 else np.uint16
    truth = exact(scene)
    rewrite_maps(scene, lambda k, ids: np.where(rim(ids), value, ids).astype(dtype))
    dm = load(scene)
    assert value in dm.train_dataset.metadata["object_ids"]
    assert len(said) == 1 and f"--pipeline.datamanager.ignore-ids {value}" in said[0]
    said.clear()
    dm = load(scene, ignore_ids=(value,))
    assert dm.train_dataset.metadata["object_ids"] == [0, 1, 7] and said == []
    assert_exact(dm, {name: np.where(rim(ids), IGNORE, ids.astype(int)) for name, ids in truth.items()})  # type: ignore


def test_an_object_255_is_no_hint(scene: Path, said: list[str]) -> None:
    rewrite_maps(scene, lambda k, ids: np.where(ids == 7, 255, ids).astype(np.uint8))
    assert load(scene).train_dataset.metadata["object_ids"] == [0, 1, 255] and said == []


@pytest.mark.parametrize("colour", [255, (200, 30, 60)])
def test_soft_edges_are_no_objects(scene: Path, said: list[str], colour: Any) -> None:
    def soften(k: int, ids: NDArray) -> NDArray:
        image = Image.fromarray((ids > 0)[..., None] * np.array(colour, np.uint8)) if colour != 255 else None
        image = image or Image.fromarray((ids > 0).astype(np.uint8) * 255)
        return np.array(image.resize((128, 96)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))

    rewrite_maps(scene, soften)
    whole = 255 if colour == 255 else 200 + 256 * 30 + 65536 * 60
    dm = load(scene)
    assert dm.train_dataset.metadata["object_ids"] == [0, whole]
    assert len(said) == 1 and "soft edges" in said[0] and "only occur as a thin line" in said[0]
    for mode in ("val", "test"):
        for data in load(scene, mode).cached_eval:
            assert set(np.unique(data["id_map"].numpy())) == {-1, 0, whole}


# --------------------------------------------------------------------------------------------------- single objects

BALLS = {1: "red ball", 7: "blue ball"}


def split_masks(data: Path, name: str, soft: bool = False) -> None:
    truth = exact(data)
    shutil.rmtree(data / "object_mask")
    (data / "object_names.json").unlink()
    for view, ids in truth.items():
        for object_id, ball in BALLS.items():
            path = data / "object_mask" / name.format(view=view, object=ball)
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((ids == object_id).astype(np.uint8) * 255)
            image.save(path)


@pytest.mark.parametrize(
    "name",
    [
        "{object}/{view}.png",
        "{view}/{object}.png",
        "{view}_{object}.png",
        "{object}-{view}.png",
        "images/{view}/{object}.png",
    ],
)
def test_one_file_per_object(scene: Path, said: list[str], name: str) -> None:
    truth = exact(scene)
    split_masks(scene, name)
    dm = load(scene)
    ids = {"blue ball": 1, "red ball": 2}
    assert dm.train_dataset.metadata["object_names"] == {1: "blue ball", 2: "red ball"}
    assert dm.train_dataset.metadata["object_ids"] == [0, 1, 2]
    code = {0: 0, **{i: ids[ball] for i, ball in BALLS.items()}}
    assert_exact(dm, truth, code)
    assert len(said) == 1 and "the masks of 2 objects are merged" in said[0]
    assert_exact(load(scene, "test"), truth, code)


def test_named_objects_keep_their_ids(scene: Path) -> None:
    truth = exact(scene)
    split_masks(scene, "{object}/{view}.png")
    (scene / "object_names.json").write_text(json.dumps({str(i): name for i, name in BALLS.items()}))
    assert_exact(load(scene), truth)


def test_ids_of_names() -> None:
    assert ids_of_names(["7", "01"]) == {"7": 7, "01": 1}
    assert ids_of_names(["0", "2"]) == {"0": 1, "2": 3}
    assert ids_of_names(["cup", "bowl", "mug"], {"mug": 1}) == {"bowl": 2, "cup": 3, "mug": 1}


def test_masks_of_views_with_other_names_are_named(scene: Path) -> None:
    """LERF-Mask's test_mask has a folder per test view, but not of the photo's name."""
    truth = exact(scene)
    for k, ids in enumerate(truth.values()):
        for object_id, ball in BALLS.items():
            path = scene / "test_mask" / str(k) / f"{ball}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((ids == object_id).astype(np.uint8) * 255).save(path)
    with pytest.raises(IdMapError, match=r"None of the .* 12 folders .*blue ball.*PHOTO/OBJECT\.png"):
        load(scene, eval_masks_dir="test_mask")


# ---------------------------------------------------------------------------------------------------- which is whose


def rename(data: Path, photo: str, mask: str) -> None:
    def change(k: int, frame: dict) -> None:
        old = Path(frame["file_path"]).name
        (data / "images" / old).rename(data / "images" / (photo.format(k=k + 1) + ".png"))
        (data / "object_mask" / old).rename(data / "object_mask" / (mask.format(k=k) + ".png"))
        frame["file_path"] = "images/" + photo.format(k=k + 1) + ".png"

    edit_frames(data, change)


def test_shifted_numbers_are_told(scene: Path, said: list[str], capsys: pytest.CaptureFixture) -> None:
    rename(scene, "{k:05d}", "{k:05d}")
    load(scene)
    assert len(said) == 1 and "1 of the 12 id maps" in said[0] and "00000.png" in said[0]
    assert "each 1 less: the numbering looks shifted by 1" in said[0]
    assert "the other 1 (00012.png) count as unlabelled" in " ".join(capsys.readouterr().out.split())


def test_shifted_numbers_under_other_names_are_told(scene: Path) -> None:
    rename(scene, "frame_{k:05d}", "{k:05d}")
    with pytest.raises(IdMapError, match="Their numbers run alike, shifted by -1"):
        load(scene)


def test_number_shift() -> None:
    photos = [f"{k:03d}.jpg" for k in range(10)]
    assert number_shift(photos, [f"{k:03d}.png" for k in range(1, 11)]) == 1
    assert number_shift(photos, [f"{k:03d}.png" for k in range(2, 10)]) == 0
    assert number_shift(photos, [f"{k:03d}.png" for k in range(5, 30)]) == 0
    assert number_shift(photos, ["a.png", "b.png", "c.png"]) == 0


def test_maps_left_over_are_told(scene: Path, said: list[str]) -> None:
    shutil.copy(scene / "object_mask" / "view_00.png", scene / "object_mask" / "extra.png")
    (scene / "object_mask" / "view_03.png").unlink()
    load(scene)
    assert len(said) == 1 and "1 of the 12 id maps" in said[0] and "extra.png" in said[0]
    assert "1 photos have none (view_03.png)" in said[0]


def test_maps_that_frames_name_are_not_left_over(scene: Path, said: list[str]) -> None:
    rewrite_names = {
        path.name: f"m{k}.png" for k, path in enumerate(sorted((scene / "object_mask").iterdir()))
    }
    for old, new in rewrite_names.items():
        (scene / "object_mask" / old).rename(scene / "object_mask" / new)

    def change(k: int, frame: dict) -> None:
        frame["object_mask_path"] = "object_mask/" + rewrite_names[Path(frame["file_path"]).name]

    edit_frames(scene, change)
    load(scene)
    assert said == []


def test_maps_of_photos_without_a_camera_are_not_left_over(scene: Path, said: list[str]) -> None:
    for folder in ("images", "object_mask"):
        shutil.copy(scene / folder / "view_00.png", scene / folder / "not registered.png")
    load(scene)
    assert said == []


def blacken(data: Path, views: list[int]) -> None:
    rewrite_maps(data, lambda k, ids: np.zeros_like(ids) if k in views else None)


def test_maps_of_one_id_are_told(scene: Path, said: list[str]) -> None:
    blacken(scene, [2, 5])
    load(scene)
    assert (
        len(said) == 1
        and "of 2 of 11 views hold one id only (view_02.png only 0, view_05.png only 0)" in said[0]
    )


def test_blank_maps_of_views_that_are_not_for_training(scene: Path, said: list[str]) -> None:
    dm = load(scene)
    held_out = dm.eval_dataset.image_filenames[0].stem
    blank = [2, 5, int(held_out[-2:])]
    blacken(scene, blank)
    shutil.copytree(scene / "images", scene / "images_train")
    for k in blank:
        (scene / "images_train" / f"view_{k:02d}.png").unlink()
    dm = load(scene)
    assert len(said) == 1 and "not in images_train" in said[0]
    unlabelled = [
        p.stem
        for p, d in zip(dm.train_dataset.image_filenames, dm.cached_train, strict=True)
        if int(d["id_map"].max()) < 0
    ]
    assert unlabelled == ["view_02", "view_05"]
    assert all(int(d["id_map"].max()) < 0 for d in dm.cached_eval)
    assert len(said) == 2 and "held-out photos" in said[1]


@pytest.mark.parametrize("place", ["absolute", "outside", "symlink"])
def test_frames_name_maps_by_any_path(scene: Path, place: str) -> None:
    truth = exact(scene)
    shutil.copytree(scene / "object_mask", scene / "good")
    rewrite_maps(scene, lambda k, ids: np.roll(ids, 20, 1))
    data = scene
    if place == "outside":
        (scene / "images").rename(scene.parent / "photos")
    if place == "symlink":
        data = scene.parent / "link"
        data.symlink_to(scene)

    def change(k: int, frame: dict) -> None:
        name = Path(frame["file_path"]).name
        frame["object_mask_path"] = f"good/{name}"
        frame["file_path"] = f"../photos/{name}" if place == "outside" else str(scene / "images" / name)

    edit_frames(scene, change)
    assert_exact(load(data), truth)


def test_frames_of_one_stem_keep_their_maps(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b.jpg"]
    frames = [{"file_path": f"images/{n}", "object_mask_path": f"m/{n}.png"} for n in names]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    (tmp_path / "m").mkdir()
    for n in names:
        Image.new("L", (2, 2)).save(tmp_path / "m" / f"{n}.png")
    photos = [tmp_path / "images" / n for n in names]
    expected = [tmp_path / "m" / f"{n}.png" for n in names]
    assert find_id_maps(photos, tmp_path, frame_maps=read_frame_maps(tmp_path)) == expected
    assert find_id_maps(photos, tmp_path, "m") == expected
    expected[1] = expected[1].rename(tmp_path / "m" / "a.png")
    assert find_id_maps(photos, tmp_path, "m") == expected


def test_accents_composed_or_not(tmp_path: Path) -> None:
    name = "Küche é"
    orders: list[tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]]] = [("NFC", "NFD"), ("NFD", "NFC")]
    for k, (photo, mask) in enumerate(orders):
        folder = tmp_path / str(k)
        (folder / "object_mask").mkdir(parents=True)
        path = folder / "object_mask" / f"{unicodedata.normalize(mask, name)}.png"
        Image.new("L", (2, 2)).save(path)
        photos = [folder / "images" / f"{unicodedata.normalize(photo, name)}.jpg"]
        assert find_id_maps(photos, folder) == [path]


def test_association_writes_a_map_for_every_photo_and_every_id(scene: Path, tmp_path: Path) -> None:
    from gradiseg_ns import cli

    def change(k: int, frame: dict) -> None:
        old = scene / frame["file_path"]
        name = f"{k // 2:04d}" + (".png", ".jpg")[k % 2]
        Image.open(old).save(scene / "images" / name)
        ids = np.array(Image.open(scene / "object_mask" / old.name)).astype(np.int64)
        np.save(scene / "object_mask" / f"{name}.npy", np.where(ids == 7, 70001, ids))
        for path in (old, scene / "object_mask" / old.name):
            path.unlink()
        frame["file_path"] = f"images/{name}"

    edit_frames(scene, change)
    new = tmp_path / "new"
    cli.Associate(data=scene, ids="keep", output_dir=new, device="cpu").main()
    dm = load(scene, masks_dir=str(new))
    train = dm.train_dataset
    assert dm.train_dataset.metadata["object_ids"] == [0, 1, 70001]
    assert [path and path.name for path in train.id_map_filenames] == [
        f"{p.name}.npy" for p in train.image_filenames
    ]


# ------------------------------------------------------------------------------------------------------- background


@pytest.mark.parametrize("ground", ["clear", "black", "white"])
def test_an_id_that_stands_for_nothing(scene: Path, ground: str) -> None:
    truth = exact(scene)
    for path in (scene / "images").iterdir():
        photo, inside = np.array(Image.open(path)), truth[path.stem] > 0
        if ground == "clear":
            photo = np.dstack([photo, np.where(inside, 255, 0).astype(np.uint8)])
        else:
            photo[~inside] = 0 if ground == "black" else 255
        Image.fromarray(photo).save(path)
    for mode in ("val", "test"):
        assert load(scene, mode).empty_ids == (0,)


def test_nothing_has_no_row_in_the_metrics(scene: Path, tmp_path: Path) -> None:
    from gradiseg_ns import runs

    truth = exact(scene)
    for path in (scene / "images").iterdir():
        photo = np.array(Image.open(path))
        Image.fromarray(np.dstack([photo, np.where(truth[path.stem] > 0, 255, 0).astype(np.uint8)])).save(
            path
        )
    config = runs.make_config("gradiseg-lite", scene, tmp_path / "out", steps=20, device="cpu")
    pipeline: Any = config.pipeline.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    pipeline.get_average_eval_image_metrics()
    assert [o.id for o in pipeline.mask_scores.objects] == [1, 7]
    assert pipeline.mask_scores.ignore_ids == (0,)


def test_what_is_seen_stands_for_something(scene: Path) -> None:
    assert load(scene).empty_ids == ()
    black = np.zeros((4, 4, 3), np.uint8)
    assert empty_ids([(black, np.ones((4, 4), int)), (black + 9, np.zeros((4, 4), int))]) == []
    assert empty_ids([(black, np.zeros((4, 4), int))]) == []


def test_blender_cut_outs_on_white(tmp_path: Path, scenes: Any) -> None:
    data = scenes.write_blender(tmp_path)
    for split in ("train", "val", "test"):
        for path in (data / split).iterdir():
            photo = np.array(Image.open(path))
            ids = np.array(Image.open(data / "object_mask" / split / path.name))
            photo[..., 3] = np.where(ids == 0, 0, 255)
            Image.fromarray(photo).save(path)
    assert load(data, parser=BlenderDataParserConfig(alpha_color="white")).empty_ids == (0,)
