from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.data import id_maps
from gradiseg_ns.data.id_maps import (
    IGNORE,
    MANY_OBJECTS,
    MAX_OBJECTS,
    IdMapError,
    check_count,
    check_map_size,
    find_id_maps,
    find_object_names,
    read_frame_maps,
    read_id_map,
    read_object_names,
    read_transforms,
    resize_id_map,
    scan_object_ids,
    undistort_id_map,
    undistortion_lookup,
    view_name,
)

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def touch_maps(folder: Path, *names: str) -> None:
    for name in names:
        save(folder / name, np.zeros((2, 2), np.uint8))


# ---------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_reads_gray(tmp_path: Path, dtype: type) -> None:
    ids = RNG.integers(0, np.iinfo(dtype).max, (7, 5), endpoint=True).astype(dtype)
    ids[0, 0] = np.iinfo(dtype).max
    read = read_id_map(save(tmp_path / "a.png", ids))
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, ids)


def test_reads_palette_indices_not_colours(tmp_path: Path) -> None:
    ids = RNG.integers(0, 19, (6, 8)).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    assert image.mode == "P"
    for options in ({}, {"bits": 8}, {"transparency": 0}):
        image.save(tmp_path / "p.png", **options)
        np.testing.assert_array_equal(read_id_map(tmp_path / "p.png"), ids)


def test_reads_one_bit(tmp_path: Path) -> None:
    ids = RNG.integers(0, 2, (9, 11)).astype(bool)
    np.testing.assert_array_equal(read_id_map(save(tmp_path / "b.png", ids)), ids.astype(int))


def test_reads_npy_and_turns_negatives_into_ignore(tmp_path: Path) -> None:
    ids = np.array([[-7, -1], [0, 70000]], np.int64)
    np.save(tmp_path / "a.npy", ids[..., None])
    np.testing.assert_array_equal(read_id_map(tmp_path / "a.npy"), [[IGNORE, IGNORE], [0, 70000]])


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2)), np.zeros(3, int), np.zeros((2, 2, 3), int), np.full((2, 2), 1 << 40)]
)
def test_refuses_npy_of_no_ids(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(IdMapError, match=r"a\.npy"):
        read_id_map(tmp_path / "a.npy")


def test_npy_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(IdMapError, match="cannot be read"):
        read_id_map(tmp_path / "a.npy")


@pytest.mark.parametrize("channels", [3, 4])
def test_refuses_colour(tmp_path: Path, channels: int) -> None:
    path = save(tmp_path / "view.png", RNG.integers(0, 256, (4, 6, channels)).astype(np.uint8))
    with pytest.raises(IdMapError, match=r"view\.png is a colour image .*6 x 4.*palette"):
        read_id_map(path)


def test_refuses_jpeg(tmp_path: Path) -> None:
    with pytest.raises(IdMapError, match="JPEG"):
        read_id_map(save(tmp_path / "a.jpg", np.zeros((4, 4), np.uint8)))


@pytest.mark.parametrize("keep", [0, 5, 20, 40, 300, -30])
def test_truncated_png_names_the_file(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "cut.png", RNG.integers(0, 255, (40, 40)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IdMapError, match=r"cut\.png cannot be read"):
        read_id_map(path)


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.png", RNG.integers(0, 255, (40, 40)).astype(np.uint8))
    damaged = bytearray(path.read_bytes())
    damaged[200:210] = bytes(10)
    path.write_bytes(damaged)
    with pytest.raises(IdMapError, match=r"bad\.png"):
        read_id_map(path)


def test_missing_file(tmp_path: Path) -> None:
    for name in ("none.png", "none.npy"):
        with pytest.raises(IdMapError, match="does not exist"):
            read_id_map(tmp_path / name)


def test_object_names(tmp_path: Path) -> None:
    path = tmp_path / "object_names.json"
    path.write_text('{"1": "cup", "20": "Tasse [blau]"}', encoding="utf-8")
    assert read_object_names(path) == {1: "cup", 20: "Tasse [blau]"}
    assert find_object_names(tmp_path, "object_mask") == path
    inside = tmp_path / "object_mask" / "object_names.json"
    inside.parent.mkdir()
    inside.write_text("{}")
    assert find_object_names(tmp_path, "object_mask") == inside
    assert find_object_names(tmp_path / "object_mask", "no") == inside
    for broken in ("{", "[1]", '{"a": "b"}', '{"1": 2}', "\xff"):
        path.write_text(broken, encoding="latin-1")
        with pytest.raises(IdMapError, match=r"object_names\.json"):
            read_object_names(path)


# --------------------------------------------------------------------------------------------- size, geometry


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_resize_takes_the_pixel_centre(factor: int) -> None:
    ids = RNG.integers(0, 1000, (16, 24)).astype(np.int32)
    large = np.kron(ids, np.ones((factor, factor), np.int32))
    np.testing.assert_array_equal(resize_id_map(large, 16, 24), ids)
    np.testing.assert_array_equal(resize_id_map(ids, 16 * factor, 24 * factor), large)


@pytest.mark.parametrize("size", [(5, 7), (10, 13), (11, 29), (64, 3)])
def test_resize_by_odd_factors_matches_exact_arithmetic(size: tuple[int, int]) -> None:
    from fractions import Fraction

    ids = np.arange(10 * 14, dtype=np.int32).reshape(10, 14)
    rows = [int((i + Fraction(1, 2)) * 10 / size[0]) for i in range(size[0])]
    columns = [int((i + Fraction(1, 2)) * 14 / size[1]) for i in range(size[1])]
    np.testing.assert_array_equal(resize_id_map(ids, *size), ids[np.ix_(rows, columns)])


@pytest.mark.parametrize(
    ("map_shape", "photo_shape", "warns"),
    [
        ((384, 512), (384, 512), False),
        ((384, 512), (192, 256), False),
        ((535, 953), (133, 238), False),  # images_4, rounded down
        ((535, 953), (134, 239), False),  # ... and up
        ((300, 400), (200, 267), True),  # half as large again
        ((192, 256), (384, 512), True),  # smaller than the photo
    ],
)
def test_uniform_scales_pass(map_shape: tuple[int, int], photo_shape: tuple[int, int], warns: bool) -> None:
    assert check_map_size(map_shape, photo_shape, "m.png", "p.png") is warns


def test_scaled_photos_do_not_warn() -> None:
    assert not check_map_size((384, 512), (288, 384), "m.png", "p.png", photo_scale=0.75)


def test_other_aspect_is_refused_with_both_files_and_sizes() -> None:
    with pytest.raises(IdMapError, match=r"m\.png is 500 x 384.*p\.png is 512 x 384") as error:
        check_map_size((384, 500), (384, 512), "m.png", "p.png")
    assert "90 degrees" not in str(error.value)
    with pytest.raises(IdMapError, match="90 degrees"):
        check_map_size((512, 384), (384, 512), "m.png", "p.png")


def _opencv(height: int, width: int, distortion: tuple[float, ...], alpha: float):
    camera = np.array([[0.8 * width, 0, 0.51 * width], [0, 0.82 * width, 0.49 * height], [0, 0, 1]])
    parameters = np.array(distortion)
    new, _ = cv2.getOptimalNewCameraMatrix(camera, parameters, (width, height), alpha)
    return camera, parameters, new, lambda image: cv2.undistort(image, camera, parameters, None, new)


@pytest.mark.parametrize(
    "distortion", [(-0.25, 0.08, 0.002, -0.001, 0.0), (0.15, -0.05, -0.003, 0.002, 0.01)]
)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_undistortion_is_exact(distortion: tuple[float, ...], alpha: float) -> None:
    """Against the camera's own formula: ids are a function of position, so the truth is known."""
    height, width = 120, 160
    camera, parameters, new, undistort = _opencv(height, width, distortion, alpha)
    rows, columns = np.mgrid[:height, :width]
    ids = ((columns // 7) * 31 + rows // 5).astype(np.int32)
    result = undistort_id_map(ids, undistort)

    # OpenCV's exact map: undistorted pixel -> position in the distorted photo.
    x, y = cv2.initUndistortRectifyMap(camera, parameters, None, new, (width, height), cv2.CV_32FC1)
    inside = (x > -0.4) & (x < width - 0.6) & (y > -0.4) & (y < height - 0.6)
    outside = (x < -0.6) | (x > width - 0.4) | (y < -0.6) | (y > height - 0.4)
    truth = ids[np.clip(np.rint(y), 0, height - 1).astype(int), np.clip(np.rint(x), 0, width - 1).astype(int)]
    # Where the position is within 1/32 px of the middle between two pixels, either of them is right.
    tie = (np.abs(x - np.floor(x) - 0.5) < 1 / 32) | (np.abs(y - np.floor(y) - 0.5) < 1 / 32)
    sure = inside & ~tie
    assert sure.mean() > 0.6
    np.testing.assert_array_equal(result[sure], truth[sure])
    np.testing.assert_array_equal(result[outside], IGNORE)
    # With alpha 1 (and nowhere else much) the photo's surroundings come into view.
    assert (outside.any() or alpha == 0) and (result[inside & ~tie] != IGNORE).all()


def test_undistortion_agrees_with_each_object_warped_alone() -> None:
    height, width = 90, 130
    *_, undistort = _opencv(height, width, (-0.2, 0.05, 0.001, -0.002, 0.0), 0.0)
    rows, columns = np.mgrid[:height, :width]
    ids = ((columns // 26) + 5 * (rows // 30)).astype(np.int32)
    result = undistort_id_map(ids, undistort)
    # The object that covers most of a pixel, by linear interpolation of its own mask.
    shares = np.stack([undistort((ids == k).astype(np.float32)) for k in range(ids.max() + 1)])
    clear = shares.max(axis=0) > 0.75
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result[clear], shares.argmax(axis=0)[clear])
    # What must not be done: interpolated ids are other objects' ids.
    wrong = np.rint(undistort(ids.astype(np.float32)))
    assert (wrong != result).mean() > 0.01


def test_lookup_can_be_shared() -> None:
    *_, undistort = _opencv(40, 50, (-0.3, 0.1, 0, 0, 0), 1.0)
    lookup = undistortion_lookup(40, 50, undistort)
    ids = RNG.integers(0, 9, (40, 50)).astype(np.int32)
    np.testing.assert_array_equal(undistort_id_map(ids, lookup=lookup), undistort_id_map(ids, undistort))
    assert lookup.dtype == np.int32
    with pytest.raises(TypeError):
        undistort_id_map(ids)


# ---------------------------------------------------------------------------------------------------- finding


def test_look_up_order(tmp_path: Path) -> None:
    photos = [tmp_path / "images" / "left" / "1.jpg"]
    masks = tmp_path / "object_mask"
    frame = save(tmp_path / "elsewhere" / "x.png", np.zeros((2, 2), np.uint8))
    touch_maps(masks, "1.png", "left/1.png", "images/left/1.png")
    frames = {"images/left/1": frame}
    assert find_id_maps(photos, tmp_path, frame_maps=frames) == [frame]
    for expected in ("images/left/1.png", "left/1.png", "1.png"):
        assert find_id_maps(photos, tmp_path) == [masks / expected]
        (masks / expected).unlink()
    with pytest.raises(IdMapError, match="holds no PNG"):
        find_id_maps(photos, tmp_path)


def test_gaussian_groupings_layout(tmp_path: Path) -> None:
    photos = [tmp_path / "images" / f"frame.{i}.jpg" for i in range(3)]
    touch_maps(tmp_path / "object_mask", "frame.0.png", "frame.2.png")
    found = find_id_maps(photos, tmp_path)
    assert [path and path.name for path in found] == ["frame.0.png", None, "frame.2.png"]


@pytest.mark.parametrize("folder", ["images_2", "images_8"])
def test_downscaled_photos_find_the_same_maps(tmp_path: Path, folder: str) -> None:
    touch_maps(tmp_path / "m", "images/a/1.png", "b/1.png")
    photos = [tmp_path / folder / "a" / "1.jpg", tmp_path / folder / "b" / "1.jpg"]
    assert find_id_maps(photos, tmp_path, "m") == [tmp_path / "m/images/a/1.png", tmp_path / "m/b/1.png"]


def test_downscaled_photo_without_its_subfolder(tmp_path: Path) -> None:
    # nerfstudio looks for images/cam/1.jpg as images_2/1.jpg.
    photos = [tmp_path / "images_2" / "1.jpg"]
    touch_maps(tmp_path / "m", "cam/1.png")
    assert find_id_maps(photos, tmp_path, "m") == [tmp_path / "m/cam/1.png"]
    frames = {"images/cam/1": tmp_path / "m/cam/1.png"}
    assert find_id_maps(photos, tmp_path, "none", frames) == [tmp_path / "m/cam/1.png"]


def test_absolute_masks_dir_npy_colmap_names_and_hidden_files(tmp_path: Path) -> None:
    photos = [tmp_path / "data" / "images" / f"{i}.jpg" for i in range(3)]
    folder = tmp_path / "maps"
    touch_maps(folder, "0.jpg.png", "._1.png", "2.png")
    for name in ("1.npy", "2.npy"):
        np.save(folder / name, np.zeros((2, 2), int))
    found = find_id_maps(photos, tmp_path / "data", folder)
    assert found == [folder / "0.jpg.png", folder / "1.npy", folder / "2.png"]


def test_equal_names_in_two_folders_are_not_confused(tmp_path: Path) -> None:
    photos = [tmp_path / "images" / side / "1.jpg" for side in ("left", "right")]
    masks = tmp_path / "object_mask"
    touch_maps(masks, "left/1.png")
    assert find_id_maps(photos, tmp_path) == [masks / "left/1.png", None]
    touch_maps(masks, "right/1.png")
    assert find_id_maps(photos, tmp_path) == [masks / "left/1.png", masks / "right/1.png"]
    (masks / "right/1.png").unlink()
    touch_maps(masks, "1.png")
    with pytest.raises(IdMapError, match=r"unclear.*left.*right.*same subfolders"):
        find_id_maps(photos, tmp_path)


def test_splits_that_share_names_are_noticed(tmp_path: Path) -> None:
    train, test = [tmp_path / "train/r_0.png"], [tmp_path / "test/r_0.png"]
    touch_maps(tmp_path / "object_mask", "r_0.png")
    assert find_id_maps(train, tmp_path) == [tmp_path / "object_mask/r_0.png"]
    with pytest.raises(IdMapError, match=r"unclear.*object_mask/train/r_0\.png"):
        find_id_maps(train, tmp_path, other_images=test)
    touch_maps(tmp_path / "same", "a.png")
    with pytest.raises(IdMapError, match="unclear"):
        find_id_maps([tmp_path / "images/a.jpg", tmp_path / "images/a.png"], tmp_path, "same")


def test_missing_folder_names_the_flag_and_what_is_there(tmp_path: Path) -> None:
    touch_maps(tmp_path, "images/1.png", "sam_mask/1.png")
    with pytest.raises(IdMapError, match=r"object_mask does not exist.*masks-dir.*sam_mask") as error:
        find_id_maps([tmp_path / "images/1.png"], tmp_path)
    assert "images," not in str(error.value)
    with pytest.raises(IdMapError, match="data folder .* does not exist either"):
        find_id_maps([tmp_path / "images/1.png"], tmp_path / "no")
    (tmp_path / "object_mask").write_text("")
    with pytest.raises(IdMapError, match="is not a folder"):
        find_id_maps([tmp_path / "images/1.png"], tmp_path)


def test_no_overlap_counts_and_gives_examples(tmp_path: Path) -> None:
    touch_maps(tmp_path / "object_mask", *(f"IMG_{i}.png" for i in range(5)))
    message = r"None of the 4 photos .* 5 .*frame_0\.jpg.*IMG_0\.png.*ns-process-data"
    with pytest.raises(IdMapError, match=message):
        find_id_maps([tmp_path / f"images/frame_{i}.jpg" for i in range(4)], tmp_path)


@pytest.mark.parametrize("key", ["object_mask_path", "id_map_path"])
def test_frames_name_their_maps(tmp_path: Path, key: str) -> None:
    frames = [{"file_path": "./images/0.jpg", key: "ids/zero.png"}, {"file_path": "images/1"}]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    named = read_frame_maps(tmp_path)
    assert named == {"images/0": tmp_path / "ids/zero.png"} == read_frame_maps(tmp_path / "transforms.json")
    photos = [tmp_path / "images/0.jpg", tmp_path / "images/1.jpg"]
    with pytest.raises(IdMapError, match=r"zero\.png as the id map of .*0\.jpg.*no such file"):
        find_id_maps(photos, tmp_path, frame_maps=named)
    touch_maps(tmp_path / "ids", "zero.png")
    assert find_id_maps(photos, tmp_path, frame_maps=named) == [tmp_path / "ids/zero.png", None]
    half = [tmp_path / "images_2/0.jpg"]
    assert find_id_maps(half, tmp_path, frame_maps=named) == [tmp_path / "ids/zero.png"]


def test_frames_of_blender_splits_and_foreign_json(tmp_path: Path) -> None:
    frame = {"file_path": "./test/r_0.5", "object_mask_path": "t.png"}
    (tmp_path / "transforms_test.json").write_text(json.dumps({"frames": [frame]}))
    (tmp_path / "transforms.json").write_text("[1, 2]")
    assert read_frame_maps(tmp_path) == {"test/r_0.5": tmp_path / "t.png"}
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(IdMapError, match=r"transforms\.json cannot be read"):
        read_frame_maps(tmp_path)


# --------------------------------------------------------------------------------------------------- counting


def test_scan_counts_pixels_and_views(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 0, -1], [2_000_000, 5, 5]]))
    np.save(tmp_path / "b.npy", np.array([[5, 5]]))
    np.save(tmp_path / "c.npy", np.array([[-1]]))
    scan = scan_object_ids([tmp_path / f"{name}.npy" for name in "abc"], progress=False)
    assert scan.ids == [0, 5, 2_000_000]
    assert scan.pixels == {0: 2, 5: 4, 2_000_000: 1}
    assert scan.views == {0: 1, 5: 2, 2_000_000: 1}
    assert scan.shapes == [(2, 3), (1, 2), (1, 1)]


def test_scan_of_a_thousand_ids(tmp_path: Path) -> None:
    all_ids = np.arange(1000) * 61  # beyond 8 bits, with gaps, up to 60,939
    paths = [
        save(tmp_path / f"{i}.png", all_ids[i * 250 : (i + 1) * 250].reshape(10, 25).astype(np.uint16))
        for i in range(4)
    ]
    scan = scan_object_ids(paths, workers=2)
    assert scan.ids == all_ids.tolist()
    assert set(scan.pixels.values()) == {1}


def test_scan_uses_threads_and_shows_progress_when_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    barrier = threading.Barrier(2, timeout=5)

    def read(path: Path) -> np.ndarray:
        seen.add(threading.get_ident())
        barrier.wait()
        return np.zeros((1, 1), np.int32)

    clock = iter(range(0, 1000, 3))
    started = []
    monkeypatch.setattr(id_maps, "read_id_map", read)
    monkeypatch.setattr(id_maps.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: started.append(self))
    scan_object_ids(["a", "b"], workers=2)
    assert len(seen) == 2 and len(started) == 1


def test_scan_stops_at_a_damaged_map(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", np.zeros((3, 3), np.uint8)) for i in range(9)]
    paths[4].write_bytes(b"\x89PNG")
    with pytest.raises(IdMapError, match=r"4\.png"):
        scan_object_ids(paths)


def test_reading_from_many_threads(tmp_path: Path) -> None:
    ids = RNG.integers(0, 60000, (64, 64)).astype(np.uint16)
    path = save(tmp_path / "a.png", ids)
    with ThreadPoolExecutor(8) as executor:
        for read in executor.map(read_id_map, [path] * 64):
            np.testing.assert_array_equal(read, ids)


# ----------------------------------------------------------------------------------------- as many ids as there are pixels


def test_many_ids_are_told_and_more_are_refused() -> None:
    assert check_count(MANY_OBJECTS - 1) is None
    told = check_count(2000)
    assert told is not None and "2,000 object ids" in told and "4.2 GB" in told
    for count, most in ((MAX_OBJECTS + 1, MAX_OBJECTS), (11, 10)):
        with pytest.raises(
            IdMapError,
            match=rf"{count:,} object ids.* GB.*At most {most:,}.*--pipeline\.datamanager\.max-objects",
        ):
            check_count(count, most)
    assert check_count(MAX_OBJECTS + 1, 0) is not None


def test_values_are_not_counted_beyond_a_bound(tmp_path: Path) -> None:
    """Twelve photos of numbered pixels were gigabytes of numbers."""
    read: list[int] = []

    def numbered(place: int) -> NDArray[np.int32]:
        read.append(place)
        return np.arange(3072, dtype=np.int32).reshape(48, 64) + 3072 * place

    with pytest.raises(
        IdMapError, match=r"The first 4 of 100 id maps hold 12,288 different values, more than the 10,000"
    ):
        scan_object_ids([""] * 100, progress=False, read=numbered, workers=1, most=10_000)
    assert len(read) < 20
    with pytest.raises(IdMapError, match=r"The id map a.* holds 3,072 different values"):
        scan_object_ids(["a"], progress=False, read=numbered, most=3000)
    scan = scan_object_ids(["a", "b"], progress=False, read=numbered, most=3072 * 2)
    assert len(scan.ids) == 6144 and list(scan.ids_of_maps[1]) == list(range(3072, 6144))


@pytest.mark.parametrize("name", ["object_names.json", "transforms.json"])
def test_lists_in_lists_are_no_fault_of_the_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"frames": ' + "[" * 100_000)
    with pytest.raises(
        IdMapError, match=rf"{name}.* cannot be read \(lists or objects lie in each other too deeply\)"
    ):
        read_object_names(tmp_path / name) if "names" in name else read_transforms(tmp_path)


def test_a_view_has_one_name_at_any_size(tmp_path: Path) -> None:
    for photo in ("images/left/1.jpg", "images_4/left/1.png"):
        assert view_name(tmp_path / photo, tmp_path) == "images/left/1"
