"""The scene in examples/demo_scene is whole, consistent with itself, and small enough to ship."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCENE = Path(__file__).resolve().parents[2] / "examples" / "demo_scene"


@dataclass(frozen=True)
class Frame:
    """`photo` uint8 [H, W, 3], `ids` uint8 [H, W], `pose` [4, 4] camera-to-world with OpenGL axes."""

    photo: np.ndarray
    ids: np.ndarray
    pose: np.ndarray


@pytest.fixture(scope="module")
def contents() -> dict:
    return json.loads((SCENE / "transforms.json").read_text())


@pytest.fixture(scope="module")
def frames(contents: dict) -> list[Frame]:
    def load() -> Iterator[Frame]:
        for frame in contents["frames"]:
            path = SCENE / frame["file_path"]
            with Image.open(path) as photo, Image.open(SCENE / "object_mask" / f"{path.stem}.png") as ids:
                assert (photo.mode, ids.mode) == ("RGB", "L")
                yield Frame(np.asarray(photo), np.asarray(ids), np.array(frame["transform_matrix"]))

    return list(load())


@pytest.fixture(scope="module")
def names() -> dict[int, str]:
    return {int(key): name for key, name in json.loads((SCENE / "object_names.json").read_text()).items()}


def _read_points() -> tuple[np.ndarray, np.ndarray]:
    """Positions [N, 3] and colours [N, 3] of sparse_pc.ply (binary, as make_scene.py writes it)."""
    header, _, body = (SCENE / "sparse_pc.ply").read_bytes().partition(b"end_header\n")
    count = int(header.split(b"element vertex ")[1].split()[0])
    vertex = np.frombuffer(body, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert len(vertex) == count
    return vertex["xyz"].astype(np.float64), vertex["rgb"].astype(np.float64)


def _project(
    contents: dict, pose: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows and whether the point is in the picture, each [N]."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    column = np.floor(contents["fl_x"] * local[:, 0] / depth + contents["cx"]).astype(int)
    row = np.floor(contents["fl_y"] * -local[:, 1] / depth + contents["cy"]).astype(int)
    inside = (depth > 0) & (column >= 0) & (column < contents["w"]) & (row >= 0) & (row < contents["h"])
    return np.where(inside, column, 0), np.where(inside, row, 0), inside


def test_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in SCENE.rglob("*") if path.is_file()) < 5e6


def test_sizes_agree_and_every_photo_has_its_map(contents: dict, frames: list[Frame]) -> None:
    assert len(frames) >= 48
    for frame in frames:
        assert frame.photo.shape == (contents["h"], contents["w"], 3)
        assert frame.ids.shape == frame.photo.shape[:2]
    assert len(list((SCENE / "images").iterdir())) == len(frames)
    assert len(list((SCENE / "object_mask").iterdir())) == len(frames)


def test_the_ids_in_the_maps_are_the_named_ones_and_zero(frames: list[Frame], names: dict[int, str]) -> None:
    assert sorted(names) == list(range(1, len(names) + 1))
    assert len(set(names.values())) == len(names)
    seen = np.stack([np.bincount(frame.ids.ravel(), minlength=256) for frame in frames])
    assert set(np.flatnonzero(seen.sum(axis=0))) == {0, *names}
    # An object that hardly any view shows could be neither learnt nor judged.
    well_seen = (seen[:, 1 : len(names) + 1] >= 50).sum(axis=0)
    assert well_seen.min() >= len(frames) // 2


def test_poses_are_rigid_and_look_at_the_table(frames: list[Frame]) -> None:
    for frame in frames:
        rotation = frame.pose[:3, :3]
        assert np.isfinite(frame.pose).all()
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-5)
        to_table = -frame.pose[:3, 3] / np.linalg.norm(frame.pose[:3, 3])
        assert -rotation[:, 2] @ to_table > np.cos(np.radians(15))


def test_points_fall_on_what_they_were_taken_from(
    contents: dict, frames: list[Frame], names: dict[int, str]
) -> None:
    points, colors = _read_points()
    assert 8_000 <= len(points) <= 15_000
    assert np.isfinite(points).all()
    seen = np.zeros(len(points), dtype=int)
    alike = np.zeros(len(points), dtype=int)
    votes = np.zeros((len(points), len(names) + 1), dtype=int)
    for frame in frames:
        column, row, inside = _project(contents, frame.pose, points)
        near = inside & (np.abs(frame.photo[row, column] - colors).mean(axis=-1) < 20)
        seen += inside
        alike += near
        # Where the colour agrees the point is most likely visible, and the id is its own.
        votes[np.flatnonzero(near), frame.ids[row, column][near]] += 1
    assert (seen >= 3).mean() > 0.98
    assert (alike >= 3).mean() > 0.94
    winner, share = votes.argmax(axis=1), votes.max(axis=1) / np.maximum(votes.sum(axis=1), 1)
    assert np.median(share) > 0.95
    assert np.bincount(winner, minlength=len(names) + 1).min() >= 30
    # The winners have to make sense in space too: the table is flat, and the objects stand on it.
    table = points[winner == len(names)]
    assert abs(np.median(table[:, 2])) < 0.02
    objects = points[(winner > 0) & (winner < len(names))]
    assert (objects[:, 2] > -0.1).mean() > 0.97


def test_parts_lie_within_their_objects(frames: list[Frame], contents: dict, names: dict[int, str]) -> None:
    part_names = json.loads((SCENE / "part_names.json").read_text())
    paths = sorted((SCENE / "part_mask").iterdir())
    assert [path.stem for path in paths] == sorted(Path(f["file_path"]).stem for f in contents["frames"])
    assert sum(path.stat().st_size for path in paths) < 200_000
    pixels = np.zeros((len(names) + 1, len(part_names)), dtype=int)
    by_name = {Path(f["file_path"]).stem: frame for f, frame in zip(contents["frames"], frames, strict=True)}
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "P"
            parts = np.asarray(image)
        ids = by_name[path.stem].ids
        assert parts.shape == ids.shape
        np.add.at(pixels, (ids, parts), 1)
    found = {
        ("room" if object_id == 0 else names[object_id]): {part_names[str(k)] for k in np.flatnonzero(row)}
        for object_id, row in enumerate(pixels)
    }
    whole = {"book": "support", "apple": "wrap-grasp", "orange": "wrap-grasp", "table": "background"}
    whole |= dict.fromkeys(("pencil", "ring", "red block", "yellow block", "blue block"), "grasp")
    assert found == {
        "room": {"background"},
        "mug": {"grasp", "contain", "wrap-grasp"},
        "bottle": {"grasp", "wrap-grasp"},
        "plant": {"background", "contain", "wrap-grasp"},
        "cable": {"background", "grasp"},
        **{name: {part} for name, part in whole.items()},
    }
