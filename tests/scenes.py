"""A tiny scene for tests: two textured balls on a floor, ray traced, with exact ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BALLS = {1: ((-0.45, 0.0, 0.5), 0.5), 7: ((0.5, 0.1, 0.4), 0.4)}
"""Object id: centre and radius. The floor is id 0; ids have a gap on purpose."""
COLORS = {0: (0.6, 0.55, 0.5), 1: (0.85, 0.2, 0.2), 7: (0.2, 0.35, 0.9)}


def look_at(eye: NDArray[np.float64], target: tuple[float, float, float]) -> NDArray[np.float64]:
    """Camera to world, OpenGL axes (x right, y up, z back)."""
    back = eye - np.asarray(target)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return pose


def trace(origin: NDArray[np.float64], directions: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Colours [P, 3], ids [P] and points [P, 3] where rays from one origin hit."""
    best = np.where(directions[:, 2] < -1e-6, -origin[2] / np.minimum(directions[:, 2], -1e-6), np.inf)
    ids = np.where(np.isfinite(best), 0, 0)
    for object_id, (centre, radius) in BALLS.items():
        to_centre = origin - np.asarray(centre)
        b = directions @ to_centre
        disc = b * b - (to_centre @ to_centre - radius**2)
        distance = np.where(disc > 0, -b - np.sqrt(np.maximum(disc, 0)), np.inf)
        nearer = (distance > 0) & (distance < best)
        best, ids = np.where(nearer, distance, best), np.where(nearer, object_id, ids)
    best = np.minimum(best, 8.0)
    points = origin + directions * best[:, None]
    texture = 0.75 + 0.25 * np.sin(9 * points).prod(axis=1)
    colors = np.stack([np.asarray(COLORS[int(i)]) for i in ids]) * texture[:, None]
    return np.clip(colors, 0, 1), ids.astype(np.int32), points


def write_scene(
    folder: Path,
    *,
    views: int = 10,
    width: int = 64,
    height: int = 48,
    distortion: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write a nerfstudio scene with photos, id maps, names and sparse points. Returns ``folder``."""
    (folder / "images").mkdir(parents=True)
    (folder / "object_mask").mkdir()
    focal = 0.9 * width
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack([(u - width / 2) / focal, -(v - height / 2) / focal, -np.ones_like(u)], -1).reshape(
        -1, 3
    )
    frames, cloud, cloud_colors = [], [], []
    rng = np.random.default_rng(seed)
    for index in range(views):
        angle = 2 * np.pi * index / views
        eye = np.array([2.2 * np.cos(angle), 2.2 * np.sin(angle), 1.0 + 0.6 * (index % 2)])
        pose = look_at(eye, (0.0, 0.0, 0.3))
        rays = local @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        colors, ids, points = trace(eye, rays)
        name = f"view_{index:02d}.png"
        Image.fromarray((colors.reshape(height, width, 3) * 255).astype(np.uint8)).save(
            folder / "images" / name
        )
        Image.fromarray(ids.reshape(height, width).astype(np.uint8)).save(folder / "object_mask" / name)
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
        chosen = rng.choice(len(points), 120, replace=False)
        near = chosen[np.linalg.norm(points[chosen], axis=1) < 3]
        cloud.append(points[near])
        cloud_colors.append(colors[near])
    meta = {
        "camera_model": "OPENCV", "w": width, "h": height, "fl_x": focal, "fl_y": focal,
        "cx": width / 2, "cy": height / 2, "k1": distortion, "k2": 0.0, "p1": 0.0, "p2": 0.0,
        "ply_file_path": "sparse_pc.ply", "frames": frames,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(meta))
    (folder / "object_names.json").write_text(json.dumps({"0": "floor", "1": "red ball", "7": "blue ball"}))
    write_ply(folder / "sparse_pc.ply", np.concatenate(cloud), np.concatenate(cloud_colors))
    return folder


def write_ply(path: Path, points: NDArray, colors: NDArray) -> None:
    """An ASCII PLY of coloured points."""
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uint8 {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    rows = [
        f"{x:.5f} {y:.5f} {z:.5f} {r} {g} {b}\n"
        for (x, y, z), (r, g, b) in zip(points, (colors * 255).astype(int), strict=True)
    ]
    path.write_text(header + "".join(rows))
