"""Poses and sparse points as files: what nerfstudio's own dataparser opens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradiseg_ns.poses.solving import Camera, Solved
from gradiseg_ns.tools.atomic import write_files

POINTS = "sparse_pc.ply"
TRANSFORMS = "transforms.json"
ENOUGH_POINTS = 500
_MOST_ERROR = 2.0
_LENS = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")


def good_points(solved: Solved) -> NDArray[np.bool_]:
    """bool [P]: points that three photos see within 2 pixels; all of them where that leaves fewer than 500."""
    good = (solved.track_lengths >= 3) & (solved.errors <= _MOST_ERROR)
    return good if good.sum() >= ENOUGH_POINTS else np.ones_like(good)


def transforms_of(solved: Solved, folder: str = "images") -> dict[str, object]:
    """What transforms.json says. Where all photos have one lens it is said once.

    Args:
        solved: poses.
        folder: of the photos, as seen from transforms.json.
    """
    alike = len(set(solved.cameras)) == 1
    meta: dict[str, object] = {"camera_model": "OPENCV", "ply_file_path": POINTS}
    if alike:
        meta |= _lens(solved.cameras[0])
    meta["frames"] = [
        {"file_path": f"{folder}/{name}", "transform_matrix": pose.tolist(), **({} if alike else _lens(camera))}
        for name, pose, camera in zip(solved.names, solved.poses, solved.cameras, strict=True)
    ]  # fmt: skip
    return meta


def _lens(camera: Camera) -> dict[str, float]:
    known = asdict(camera)
    return {"w": known["width"], "h": known["height"], **{key: known[key] for key in _LENS}}


def ply_of(points: NDArray[np.float64], colors: NDArray[np.uint8]) -> bytes:
    """A binary PLY of coloured points [P, 3], RGB [P, 3]."""
    rows = np.zeros(
        len(points), dtype=[*((axis, "<f4") for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    )  # fmt: skip
    for k, axis in enumerate("xyz"):
        rows[axis] = points[:, k]
    for k, channel in enumerate(("red", "green", "blue")):
        rows[channel] = colors[:, k]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    return ("\n".join([*header, "end_header"]) + "\n").encode() + rows.tobytes()


def write_scene_files(solved: Solved, scene: Path, folder: str = "images") -> None:
    """Write sparse_pc.ply and transforms.json into a scene's folder, the latter last.

    Raises:
        WriteError: they cannot be written. Older ones are still there.
    """
    good = good_points(solved)
    write_files(
        {
            scene / POINTS: [ply_of(solved.points[good], solved.colors[good])],
            scene / TRANSFORMS: [json.dumps(transforms_of(solved, folder), indent=1).encode()],
        }
    )
