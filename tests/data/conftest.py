"""Tiny scenes in the formats of nerfstudio's dataparsers: gray photos, id maps, cameras on a circle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, FOCAL = 48, 32, 40.0
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
"""Colour of each id in the photos: corners of the cube, so that no blend of some looks like another."""


@pytest.fixture
def scenes() -> ModuleType:
    """The writers of this file."""
    return sys.modules[__name__]


def save(path: Path, array: NDArray) -> Path:
    """Write an array as an image, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


def id_pattern(view: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Ids 0 to 3 in quadrants whose borders move with the view."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows >= height // 2 + view) * 2 + (columns >= width // 2 - view)).astype(np.uint8)


def photo(view: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A photo painted in `COLORS` by `id_pattern`."""
    return COLORS[id_pattern(view, height, width)]


def pose(view: int, count: int = 6) -> NDArray[np.float64]:
    """Camera to world, OpenGL axes: on a circle of radius 3, looking at the origin `[4, 4]`."""
    angle = 2 * np.pi * view / count
    position = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0])
    back = position / np.linalg.norm(position)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    result = np.eye(4)
    result[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return result


def write_maps(folder: Path, names: list[str]) -> None:
    """An id map for each name."""
    for view, name in enumerate(names):
        save(folder / f"{name}.png", id_pattern(view))


def write_nerfstudio(root: Path, views: int = 10, **meta: object) -> Path:
    """A nerfstudio-data scene with `images/frame_*.png` and `object_mask/frame_*.png`."""
    names = [f"frame_{view:05d}" for view in range(views)]
    for view, name in enumerate(names):
        save(root / "images" / f"{name}.png", photo(view))
    write_maps(root / "object_mask", names)
    content = {
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": WIDTH / 2,
        "cy": HEIGHT / 2,
        "w": WIDTH,
        "h": HEIGHT,
        **meta,
    }
    content["frames"] = [
        {"file_path": f"images/{name}.png", "transform_matrix": pose(view, views).tolist()}
        for view, name in enumerate(names)
    ]
    (root / "transforms.json").write_text(json.dumps(content))
    return root


def write_instant_ngp(root: Path, views: int = 20) -> Path:
    """An Instant-NGP scene: frames without suffix, `camera_angle_x`.

    nerfstudio 1.1.5 cannot load one with a single evaluation view, hence the many.
    """
    write_nerfstudio(root, views)
    content = json.loads((root / "transforms.json").read_text())
    for key in ("fl_x", "fl_y", "cx", "cy"):
        del content[key]
    content["camera_angle_x"] = 2 * np.arctan(WIDTH / 2 / FOCAL)
    for frame in content["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    (root / "transforms.json").write_text(json.dumps(content))
    return root


def write_blender(root: Path, views: int = 4) -> Path:
    """A Blender scene, whose splits share names: `train/r_0.png`, `val/r_0.png`, `test/r_0.png`."""
    for split in ("train", "val", "test"):
        names = [f"r_{view}" for view in range(views)]
        for view, name in enumerate(names):
            rgba = np.concatenate([photo(view), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
            save(root / split / f"{name}.png", rgba)
        write_maps(root / "object_mask" / split, names)
        frames = [
            {"file_path": f"./{split}/{name}", "transform_matrix": pose(view, views).tolist()}
            for view, name in enumerate(names)
        ]
        content = {"camera_angle_x": 2 * np.arctan(WIDTH / 2 / FOCAL), "frames": frames}
        (root / f"transforms_{split}.json").write_text(json.dumps(content))
    return root


def write_colmap(root: Path, views: int = 8, bad_view: int | None = None) -> Path:
    """A COLMAP text model with an OPENCV camera that distorts, photos in two folders of the same names."""
    names = [f"{'left' if view % 2 else 'right'}/{view // 2:04d}.jpg" for view in range(views)]
    lines = []
    for view, name in enumerate(names):
        save(root / "images" / name, photo(view))
        save((root / "object_mask" / name).with_suffix(".png"), id_pattern(view))
        opencv = pose(view, views) @ np.diag([1, -1, -1, 1])
        world_to_camera = np.linalg.inv(opencv)
        translation = world_to_camera[:3, 3]
        if view == bad_view:
            translation = np.array([np.nan, 0, 0])
        quaternion = _quaternion(world_to_camera[:3, :3])
        numbers = " ".join(f"{value:.9f}" for value in [*quaternion, *translation])
        lines += [f"{view + 1} {numbers} 1 {name}", "10.0 10.0 1"]
    model = root / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    camera = f"1 OPENCV {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2} -0.2 0.05 0.001 -0.002"
    (model / "cameras.txt").write_text(camera + "\n")
    points = [f"{i} {x:.6f} {y:.6f} {z:.6f} 200 100 50 0.5 1 0" for i, (x, y, z) in enumerate(_points(50))]
    (model / "points3D.txt").write_text("\n".join(points) + "\n")
    return root


def _points(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 0.3, (count, 3))


def _quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z])
