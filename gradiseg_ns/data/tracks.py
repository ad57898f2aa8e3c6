"""Which view sees which sparse point, as COLMAP knows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        ("points3D.txt", colmap.read_points3D_text, "images.txt", colmap.read_images_text),
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
