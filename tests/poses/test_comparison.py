"""Errors of poses do not depend on the frame they are in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gradiseg_ns.poses.comparison import pose_errors, similarity


def poses(count: int = 7) -> np.ndarray:
    rng = np.random.default_rng(3)
    made = np.tile(np.eye(4), (count, 1, 1))
    made[:, :3, :3] = Rotation.from_rotvec(rng.normal(size=(count, 3))).as_matrix()
    made[:, :3, 3] = rng.normal(size=(count, 3))
    return made


def moved(given: np.ndarray, scale: float = 3.0) -> np.ndarray:
    turn = Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix()
    made = given.copy()
    made[:, :3, :3] = turn @ given[:, :3, :3]
    made[:, :3, 3] = scale * given[:, :3, 3] @ turn.T + [5.0, -2.0, 9.0]
    return made


def test_another_frame_is_no_error() -> None:
    errors = pose_errors(moved(poses()), poses())
    assert errors.rotations.max() < 1e-5 and errors.centres.max() < 1e-12
    assert errors.scale == pytest.approx(1 / 3)


def test_errors_are_what_was_put_in() -> None:
    true, found = poses(40), poses(40)
    found[4, :3, :3] = found[4, :3, :3] @ Rotation.from_euler("x", 2.0, degrees=True).as_matrix()
    found[9, :3, 3] += [0.01, 0, 0]
    errors = pose_errors(moved(found), true)
    assert errors.rotations[4] == pytest.approx(2.0, abs=0.05) and np.delete(errors.rotations, 4).max() < 0.05
    size = np.linalg.norm(true[:, :3, 3] - true[:, :3, 3].mean(0), axis=1).mean()
    assert errors.centres[9] == pytest.approx(0.01 / size, rel=0.1)
    assert errors.summary()["rotation_max_deg"] == errors.rotations[4]


def test_a_mirror_is_no_rotation() -> None:
    points = poses()[:, :3, 3]
    _, rotation, _ = similarity(points * [1, 1, -1], points)
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("points", [np.zeros((2, 3)), np.ones((5, 3))])
def test_what_fixes_no_frame(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"three or more|one place"):
        similarity(points, points)
