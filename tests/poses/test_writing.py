"""What is written opens as a scene."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradiseg_ns.poses.comparison import pose_errors
from gradiseg_ns.poses.solving import Solved, _read
from gradiseg_ns.poses.writing import good_points, transforms_of, write_scene_files
from gradiseg_ns.sources import load_capture

from ..scenes import write_scene
from .fake import answer_of


@pytest.fixture
def solved(tmp_path: Path) -> Solved:
    scene = write_scene(tmp_path / "scene", views=6)
    return _read([f"view_{k:02d}.png" for k in range(6)], answer_of(scene))


def test_the_scene_opens(solved: Solved, tmp_path: Path) -> None:
    before = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    write_scene_files(solved, tmp_path / "scene")
    scene = load_capture(tmp_path / "scene", maps=False)
    cameras = scene.manager.train_dataset.cameras
    names = [path.name for path in scene.manager.train_dataset.image_filenames]
    true = {Path(f["file_path"]).name: np.array(f["transform_matrix"]) for f in before["frames"]}
    found = np.tile(np.eye(4), (len(names), 1, 1))
    found[:, :3] = cameras.camera_to_worlds.numpy()
    errors = pose_errors(found, np.stack([true[name] for name in names]))
    assert errors.rotations.max() < 1e-2 and errors.centres.max() < 1e-4
    assert cameras.distortion_params is not None and cameras.distortion_params[0, 0] == pytest.approx(0.01)
    assert scene.points is not None and scene.points.shape == (600, 3)


def test_two_lenses_are_said_with_their_photos(solved: Solved) -> None:
    assert "fl_x" in transforms_of(solved)
    other = replace(solved.cameras[0], fl_x=99.0)
    meta = transforms_of(replace(solved, cameras=(other, *solved.cameras[1:])))
    frames = meta["frames"]
    assert "fl_x" not in meta and isinstance(frames, list)
    assert [frame["fl_x"] for frame in frames][:2] == [99.0, solved.cameras[0].fl_x]


def test_doubtful_points_are_left_out_where_others_are_enough(solved: Solved) -> None:
    some = replace(solved, track_lengths=np.where(np.arange(600) < 50, 2, 4))
    assert good_points(some).sum() == 550
    wild = replace(some, errors=np.where(np.arange(600) < 200, 9.0, 0.1))
    assert good_points(wild).all()  # 400 would be left
