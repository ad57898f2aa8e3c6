"""Cameras as people have them: each is put right, or refused in the words of its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from numpy.typing import NDArray

from gradiseg_ns.data import datamanager, parsers
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig
from gradiseg_ns.data.poses import PointError, PoseError
from tests.scenes import look_at, write_scene

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
Matrix = NDArray[np.float64]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    for module in (datamanager, parsers):
        monkeypatch.setattr(module, "warn", said.append)
    return said


def open_scene(data: Path, parser: DataParserConfig | None = None, mode: Any = "val") -> GradisegDataManager:
    config = GradisegDataManagerConfig(
        data=data,
        dataparser=parser or NerfstudioDataParserConfig(load_3D_points=True),
        cache_images_type="uint8",
    )
    return config.setup(device="cpu", test_mode=mode)


def changed(data: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The scene with other contents of transforms.json."""
    path = data / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return data


def with_poses(data: Path, change: Callable[[Matrix, int], Matrix]) -> Path:
    """The scene with each pose [4, 4] changed."""

    def each(meta: dict[str, Any]) -> None:
        for index, frame in enumerate(meta["frames"]):
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"]), index).tolist()

    return changed(data, each)


def with_points(data: Path, change: Callable[[NDArray], NDArray], kind: str = "float") -> Path:
    """The scene with its points [P, 3] changed."""
    path = data / "sparse_pc.ply"
    head, body = path.read_text().split("end_header\n")
    rows = [row.split() for row in body.splitlines()]
    points = change(np.array([[float(v) for v in row[:3]] for row in rows]))
    lines = [
        " ".join([*(f"{v:.17g}" for v in p), *row[3:]])
        for p, row in zip(points, rows[: len(points)], strict=True)
    ]
    head = head.replace("property float", f"property {kind}").replace(
        f"vertex {len(rows)}", f"vertex {len(points)}"
    )
    path.write_text(head + "end_header\n" + "\n".join(lines) + "\n")
    return data


def with_rotation(matrix: Matrix, rotation: Matrix) -> Matrix:
    made = matrix.copy()
    made[:3, :3] = rotation
    return made


# --------------------------------------------------------------------------------------------------- rotations


def test_a_scale_in_rotations_is_taken_out_and_told(tmp_path: Path, warnings: list[str]) -> None:
    wanted = open_scene(write_scene(tmp_path / "good"))
    assert warnings == []
    data = with_poses(write_scene(tmp_path / "scaled"), lambda m, i: with_rotation(m, 0.01 * m[:3, :3]))
    found = open_scene(data)
    torch.testing.assert_close(
        found.train_dataset.cameras.camera_to_worlds,
        wanted.train_dataset.cameras.camera_to_worlds,
        atol=1e-5,
        rtol=0,
    )
    assert len(warnings) == 1 and "view_00.png" in warnings[0] and "scale of 0.01" in warnings[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m @ np.diag([1.0, 1.0, -1.0, 1.0]), "mirrors"),
        (lambda m: with_rotation(m, m[:3, :3] @ np.diag([1.0, 2.0, 1.0])), "is none"),
        (lambda m: with_rotation(m, np.zeros((3, 3))), "is none"),
        (lambda m: m.T, "transposed"),
    ],
)
def test_what_is_no_rotation_is_refused(
    tmp_path: Path, change: Callable[[Matrix], Matrix], words: str
) -> None:
    data = with_poses(write_scene(tmp_path / "scene"), lambda m, i: change(m) if i == 4 else m)
    with pytest.raises(
        PoseError, match=rf"transforms\.json: .*images/view_04\.png \(1 of 10 frames\).*{words}"
    ):
        open_scene(data)
    if words == "mirrors":
        assert len(open_scene(data, mode="test").train_dataset) == 9  # a run of it still opens


def test_three_rows_are_a_pose(tmp_path: Path) -> None:
    wanted = open_scene(write_scene(tmp_path / "good"))
    found = open_scene(with_poses(write_scene(tmp_path / "three"), lambda m, i: m[:3]))
    assert torch.equal(
        found.train_dataset.cameras.camera_to_worlds, wanted.train_dataset.cameras.camera_to_worlds
    )


# ------------------------------------------------------------------------------------------------ other readings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m @ FLIP, "look like OpenCV's .* flip the signs of their second and third column"),
        (lambda m: np.linalg.inv(m), "look like world to camera: invert"),
        (lambda m: np.linalg.inv(m @ FLIP), "look like OpenCV's world to camera"),
    ],
)
def test_poses_of_another_convention(tmp_path: Path, change: Callable[[Matrix], Matrix], words: str) -> None:
    data = with_poses(write_scene(tmp_path / "scene"), lambda m, i: change(m))
    with pytest.raises(PoseError, match=rf"transforms\.json: 9 of 9 training cameras see fewer.*{words}"):
        open_scene(data)
    assert open_scene(data, NerfstudioDataParserConfig()).points is None  # nothing to see it by


def test_points_of_another_place_or_unit(tmp_path: Path, warnings: list[str]) -> None:
    data = with_points(write_scene(tmp_path / "away"), lambda p: p + np.array([500.0, 0, 0]))
    with pytest.raises(PoseError, match=r"9 of 9 training cameras .*same reconstruction, in the same frame"):
        open_scene(data)
    open_scene(with_points(write_scene(tmp_path / "millimetres"), lambda p: 1000 * p))
    assert any("units" in said for said in warnings)


def test_a_large_scene_seen_in_parts_is_fine(tmp_path: Path, warnings: list[str]) -> None:
    """Most points outside of each picture are no reason to doubt poses."""
    rng = np.random.default_rng(0)
    data = write_scene(tmp_path / "scene")
    more = rng.uniform(-30, 30, (20_000, 3)) * [1, 1, 0.01]
    path = data / "sparse_pc.ply"
    head, body = path.read_text().split("end_header\n")
    count = len(body.splitlines())
    body += "".join(f"{x:.4f} {y:.4f} {z:.4f} 90 90 90\n" for x, y, z in more)
    path.write_text(head.replace(f"vertex {count}", f"vertex {count + len(more)}") + "end_header\n" + body)
    open_scene(data)
    assert warnings == []


# ---------------------------------------------------------------------------------------------------- intrinsics


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fl_x": 0.9, "fl_y": 0.9}, "fl_x is 0.9 .* share of the picture"),
        ({"fl_x": 0}, "fl_x is 0, expected"),
        ({"fl_y": -57.6}, "fl_y is -57.6, .* flips"),
        ({"cx": 0.5, "cy": 0.5}, "cx, cy are 0.5, 0.5"),
        ({"camera_angle_x": 50.0}, "camera_angle_x is 50, .* degrees"),
        ({"fl_x": 57600, "fl_y": 57600}, "focal lengths"),
        ({"w": 0}, "w is 0"),
    ],
)
def test_intrinsics_in_other_units(tmp_path: Path, values: dict[str, float], words: str) -> None:
    with pytest.raises(PoseError, match=rf"transforms\.json: .*{words}"):
        open_scene(changed(write_scene(tmp_path / "scene"), lambda meta: meta.update(values)))


def test_a_frame_with_a_bad_lens_is_named(tmp_path: Path) -> None:
    data = changed(write_scene(tmp_path / "scene"), lambda meta: meta["frames"][3].update(fl_x=0.9))
    with pytest.raises(PoseError, match=r"fl_x of frame images/view_03\.png is 0\.9"):
        open_scene(data)


def test_swapped_sides_are_the_cameras_fault(tmp_path: Path) -> None:
    data = write_scene(tmp_path / "scene", width=48, height=64)
    changed(data, lambda meta: meta.update(w=64, h=48))
    with pytest.raises(PoseError, match=r"view_00\.png is 64 x 48 pixels, the photo is 48 x 64.*swapped"):
        open_scene(data)


def test_intrinsics_of_larger_photos(tmp_path: Path) -> None:
    data = changed(write_scene(tmp_path / "scene"), lambda meta: meta.update(w=128, h=96))
    with pytest.raises(PoseError, match="2 times as wide. Divide w, h, fl_x"):
        open_scene(data)
    changed(data, lambda meta: meta.update(w=64, h=40))
    with pytest.raises(PoseError, match="the aspects differ"):
        open_scene(data, mode="test").cached_train  # noqa: B018 photos are opened when they are needed


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "ORTHOPHOTO", "VR180_L", "OMNIDIRECTIONALSTEREO_L"])
def test_models_that_no_splat_draws(tmp_path: Path, model: str, warnings: list[str]) -> None:
    data = changed(write_scene(tmp_path / "scene"), lambda meta: meta.update(camera_model=model))
    with pytest.raises(PoseError, match=rf"camera_model {model} cannot be drawn"):
        open_scene(data)
    open_scene(data, mode="test")
    assert any(model in said for said in warnings)


def test_models_that_are_not_known_or_mixed(tmp_path: Path) -> None:
    data = changed(write_scene(tmp_path / "scene"), lambda meta: meta.update(camera_model="FULL_OPENCV"))
    with pytest.raises(PoseError, match="FULL_OPENCV is not known, expected one of SIMPLE_PINHOLE"):
        open_scene(data)

    def mixed(meta: dict[str, Any]) -> None:
        del meta["camera_model"]
        for index, frame in enumerate(meta["frames"]):
            frame["camera_model"] = "OPENCV" if index else "OPENCV_FISHEYE"

    with pytest.raises(PoseError, match="nerfstudio takes one for all"):
        open_scene(changed(data, mixed))


def test_a_fisheye_without_distortion_is_no_pinhole(tmp_path: Path) -> None:
    data = changed(
        write_scene(tmp_path / "scene"), lambda meta: meta.update(camera_model="OPENCV_FISHEYE", k1=0.0)
    )
    straight = open_scene(write_scene(tmp_path / "pinhole")).cached_train[0]["image"]
    assert not torch.equal(open_scene(data).cached_train[0]["image"], straight)


# ------------------------------------------------------------------------------------------------------- places


def test_a_georeferenced_scene_is_moved_in_double_precision(tmp_path: Path, warnings: list[str]) -> None:
    offset = np.array([456789.0, 5412345.0, 300.0])
    wanted = open_scene(write_scene(tmp_path / "good"))

    def move(matrix: Matrix, _: int) -> Matrix:
        matrix[:3, 3] += offset
        return matrix

    data = with_points(
        with_poses(write_scene(tmp_path / "utm"), move), lambda points: points + offset, kind="double"
    )
    found = open_scene(data)
    for a, b in (
        (found.train_dataset.cameras.camera_to_worlds, wanted.train_dataset.cameras.camera_to_worlds),
        (found.points, wanted.points),
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    assert len(warnings) == 1 and "float32 has steps" in warnings[0]
    # Where it was: back to the file's own coordinates, to a millimetre.
    outputs = found.train_dataparser_outputs
    transform = outputs.dataparser_transform
    assert transform.dtype == torch.float64
    eye = json.loads((data / "transforms.json").read_text())["frames"][0]["transform_matrix"]
    place = torch.tensor([row[3] for row in eye[:3]], dtype=torch.float64)
    moved = outputs.dataparser_scale * (transform[:, :3] @ place + transform[:, 3])
    torch.testing.assert_close(
        moved.float(), found.train_dataset.cameras.camera_to_worlds[0, :, 3], atol=1e-4, rtol=0
    )
    poses = outputs.transform_poses_to_original_space(found.train_dataset.cameras.camera_to_worlds)
    torch.testing.assert_close(poses[0, :3, 3].double(), place, atol=1e-3, rtol=0)


def test_a_georeferenced_colmap_model(tmp_path: Path, scenes: Any, warnings: list[str]) -> None:
    wanted = open_scene(scenes.write_colmap(tmp_path / "good"), ColmapDataParserConfig())
    data = scenes.write_colmap(tmp_path / "utm")
    offset, model = np.array([456789.0, 5412345.0, 300.0]), data / "colmap" / "sparse" / "0"
    lines = (model / "images.txt").read_text().splitlines()
    from nerfstudio.data.utils.colmap_parsing_utils import qvec2rotmat

    for index in range(0, len(lines), 2):
        parts = lines[index].split()
        rotation = qvec2rotmat([float(v) for v in parts[1:5]])
        moved = np.array([float(v) for v in parts[5:8]]) - rotation @ offset
        lines[index] = " ".join([*parts[:5], *(f"{v:.9f}" for v in moved), *parts[8:]])
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [row.split() for row in (model / "points3D.txt").read_text().splitlines()]
    for row in rows:
        row[1:4] = [f"{float(v) + o:.6f}" for v, o in zip(row[1:4], offset, strict=True)]
    (model / "points3D.txt").write_text("\n".join(" ".join(row) for row in rows) + "\n")
    found = open_scene(data, ColmapDataParserConfig())
    assert found.points is not None and wanted.points is not None
    # The quaternions have nine digits, so 5,000 km away is a few millimetres.
    torch.testing.assert_close(
        found.train_dataset.cameras.camera_to_worlds,
        wanted.train_dataset.cameras.camera_to_worlds,
        atol=1e-2,
        rtol=0,
    )
    torch.testing.assert_close(found.points, wanted.points, atol=1e-2, rtol=0)
    assert any("float32" in said for said in warnings)
    moved = found.train_dataparser_outputs.metadata["moved_by"]
    np.testing.assert_allclose(moved, offset, atol=5)


@pytest.mark.parametrize("views", [1, 6])
def test_all_cameras_in_one_place(tmp_path: Path, views: int, warnings: list[str]) -> None:
    data = write_scene(tmp_path / "scene", views=views)
    if views > 1:
        with_poses(data, lambda m, i: look_at(np.array([0, 0, 3.0]), (np.cos(i / 2), np.sin(i / 2), 0.5)))
    dm = open_scene(data)
    assert torch.isfinite(dm.train_dataset.cameras.camera_to_worlds).all()
    assert dm.train_dataparser_outputs.dataparser_scale == 1.0
    assert len(dm.eval_dataset) > 0 or views > 1
    assert len([said for said in warnings if "one place" in said or "one photo" in said]) == 1
    dm.next_train(0)


# ------------------------------------------------------------------------------------------------------- points


def test_a_named_file_of_points_that_is_not_there(tmp_path: Path, warnings: list[str]) -> None:
    data = changed(write_scene(tmp_path / "scene"), lambda meta: meta.update(ply_file_path="pointcloud.ply"))
    with pytest.raises(PointError, match=r"ply_file_path names pointcloud\.ply, which does not exist"):
        open_scene(data)
    assert open_scene(data, mode="test").points is None
    assert len(warnings) == 1
    open_scene(data, NerfstudioDataParserConfig())  # points are not asked for


def test_points_that_are_no_numbers_are_left_out(tmp_path: Path, warnings: list[str]) -> None:
    def spoil(points: NDArray) -> NDArray:
        points[3] = np.nan
        points[5, 1] = np.nan
        return points

    count = len(open_scene(write_scene(tmp_path / "good")).points)  # type: ignore[arg-type]
    dm = open_scene(with_points(write_scene(tmp_path / "nan"), spoil))
    assert dm.points is not None and len(dm.points) == count - 2 and torch.isfinite(dm.points).all()
    assert len(dm.train_dataparser_outputs.metadata["points3D_rgb"]) == count - 2
    assert len(warnings) == 1 and f"2 of {count} sparse points" in warnings[0]


def test_an_infinite_point_is_left_out(tmp_path: Path, warnings: list[str]) -> None:
    """open3d stops at an inf, and what follows is whatever was in memory."""

    def spoil(points: NDArray) -> NDArray:
        points[100, 1] = np.inf
        return points

    wanted = open_scene(write_scene(tmp_path / "good")).points
    dm = open_scene(with_points(write_scene(tmp_path / "inf"), spoil))
    assert wanted is not None and dm.points is not None
    assert torch.equal(dm.points, torch.cat([wanted[:100], wanted[101:]]))
    assert "1 of" in warnings[0]


@pytest.mark.parametrize("binary", [False, True])
def test_a_file_of_points_that_was_cut_off(tmp_path: Path, binary: bool) -> None:
    data = write_scene(tmp_path / "scene")
    path = data / "sparse_pc.ply"
    if binary:
        head = "ply\nformat binary_little_endian 1.0\nelement vertex 100\n"
        head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
        path.write_bytes(head.encode() + np.zeros((60, 3), np.float32).tobytes())
    else:
        path.write_text("\n".join(path.read_text().splitlines()[:70]) + "\n")
    with pytest.raises(PointError, match=r"sparse_pc\.ply is cut off: its header announces .* there are 60"):
        open_scene(data)
    assert open_scene(data, mode="test").points is None


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_points_are_none(tmp_path: Path, count: int, warnings: list[str]) -> None:
    dm = open_scene(with_points(write_scene(tmp_path / "scene"), lambda points: points[:count]))
    assert dm.points is None
    assert len(warnings) == 1 and "random points" in warnings[0]


def test_a_colmap_model_without_points(tmp_path: Path, scenes: Any, warnings: list[str]) -> None:
    data = scenes.write_colmap(tmp_path / "scene")
    points = data / "colmap" / "sparse" / "0" / "points3D.txt"
    points.write_text("# none\n")
    assert open_scene(data, ColmapDataParserConfig()).points is None
    assert any("no sparse points" in said for said in warnings)
    points.unlink()
    with pytest.raises(PointError, match="load-3D-points False"):
        open_scene(data, ColmapDataParserConfig())
