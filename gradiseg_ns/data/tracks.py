"""Which view sees which sparse point, as COLMAP knows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def colmap_tracks(model: Path, photos: Sequence[str], points: int) -> Tensor | None:
    """The tracks of a COLMAP model.

    Args:
        model: folder with images.bin and points3D.bin, or the same as .txt.
        photos: paths of V photos; a photo is the image whose name is the end of its path.
        points: P, how many points the dataparser read.

    Returns:
        int64 [T, 2], views (0 to V - 1) and points in the order of the file; None if the model is not there or is another one.
    """
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    readers = (
        ("points3D.bin", colmap.read_points3D_binary, "images.bin", colmap.read_images_binary),
        ("points3D.txt", colmap.read_points3D_text, "images.txt", read_images_text),
    )
    there = next((r for r in readers if (model / r[0]).is_file() and (model / r[2]).is_file()), None)
    if there is None:
        return None
    points_file, read_points, images_file, read_images = there
    found = read_points(model / points_file)
    if len(found) != points:
        return None
    ends: dict[str, list[int]] = {}
    for view, photo in enumerate(photos):
        ends.setdefault(Path(photo).name, []).append(view)
    views: dict[int, int] = {}
    for number, image in read_images(model / images_file).items():
        name = "/" + str(image.name).replace("\\", "/").lstrip("/")
        mine = [v for v in ends.get(Path(name).name, ()) if Path(photos[v]).as_posix().endswith(name)]
        if len(mine) == 1:
            views[number] = mine[0]
    rows = [
        (views[number], point)
        for point, track in enumerate(found.values())
        for number in sorted({int(i) for i in track.image_ids})
        if number in views
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2) if rows else None


def read_images_text(path: str | Path) -> dict[int, Any]:
    """COLMAP's images.txt as nerfstudio reads it, but the name is all that follows the camera: it may have spaces.

    Raises:
        ValueError: a line is not one of an image.
    """
    from nerfstudio.data.utils.colmap_parsing_utils import Image

    images: dict[int, Any] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            parts = line.split(maxsplit=9)
            if len(parts) < 10:
                raise ValueError(
                    f"{path}: the line {line[:60]!r} is not one of an image: expected IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, "
                    "NAME, and a line of its points (it may be empty) after it."
                )
            points = next(file, "").split()
            images[int(parts[0])] = Image(
                id=int(parts[0]),
                qvec=np.array([float(value) for value in parts[1:5]]),
                tvec=np.array([float(value) for value in parts[5:8]]),
                camera_id=int(parts[8]),
                name=parts[9],
                xys=np.column_stack(
                    [[float(value) for value in points[0::3]], [float(value) for value in points[1::3]]]
                ),
                point3D_ids=np.array([int(value) for value in points[2::3]]),
            )
    return images


def unit_rotations(images: dict[int, Any]) -> dict[int, Any]:
    """The same images with quaternions of length 1, which nerfstudio takes for granted."""
    made = {}
    for key, image in images.items():
        length = float(np.linalg.norm(image.qvec))
        known = length > 0 and abs(length - 1) > 1e-6  # those of COLMAP itself stay as they are
        made[key] = image._replace(qvec=image.qvec / length) if known else image
    return made
