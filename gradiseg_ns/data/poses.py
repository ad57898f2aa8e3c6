"""Poses and intrinsics that are not numbers, traced to the photo they belong to.

One NaN pose turns every pose into NaN once nerfstudio centres them (and makes `orientation-method pca` fail
inside LAPACK), so the culprit can only be named from the files themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from gradiseg_ns.data.id_maps import read_transforms

_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2", "camera_angle_x")
_ADVICE = "Correct its pose or remove the photo from the data set."


class PoseError(ValueError):
    """A camera has a pose or intrinsics that are not finite; the message names its photo and file."""


def check_transforms(data: str | Path) -> None:
    """Check the numbers in transforms.json (or transforms_{train,val,test}.json) before nerfstudio mixes
    them.

    Args:
        data: Data folder, or the JSON file itself. Nothing is checked if there is no such file.

    Raises:
        PoseError: A pose or an intrinsic is missing, not a number, NaN or infinite.
    """
    for path, meta in read_transforms(data):
        for key in _INTRINSICS:
            if key in meta and not _finite(meta[key]):
                raise PoseError(f"{path}: {key} is {meta[key]}, expected a finite number.")
        bad: list[str] = []
        for frame in meta["frames"]:
            name = str(frame.get("file_path", "?"))
            pose = frame.get("transform_matrix")
            if not _finite(pose) or np.shape(pose) not in ((4, 4), (3, 4)):
                bad.append(name)
            for key in _INTRINSICS:
                if key in frame and not _finite(frame[key]):
                    raise PoseError(
                        f"{path}: {key} of frame {name} is {frame[key]}, expected a finite number."
                    )
        if bad:
            raise PoseError(
                f"{path}: the transform_matrix of {_list(bad)} is not a 4 x 4 matrix of finite numbers. "
                f"{_ADVICE}"
            )


def check_colmap(recon_dir: Path) -> None:
    """Check the poses of a COLMAP model; used to name the photo once something is known to be wrong.

    Raises:
        PoseError: A pose is NaN or infinite.
    """
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    for name, read in (("images.txt", colmap.read_images_text), ("images.bin", colmap.read_images_binary)):
        path = recon_dir / name
        if path.is_file():
            images = read(path).values()
            bad = [str(image.name) for image in images if not _finite([*image.qvec, *image.tvec])]
            if bad:
                raise PoseError(f"{path}: the pose of {_list(bad)} is not finite. {_ADVICE}")
            return


def check_cameras(cameras: Cameras, image_filenames: Sequence[Path]) -> None:
    """Check what the dataparser made of the poses.

    Raises:
        PoseError: A pose, focal length, principal point or distortion is NaN or infinite.
    """
    count = len(image_filenames)
    if count == 0:  # a split may be empty
        return
    finite = torch.isfinite(cameras.camera_to_worlds).reshape(count, -1).all(dim=1)
    for values in (cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.distortion_params):
        if values is not None:
            finite &= torch.isfinite(values).reshape(count, -1).all(dim=1)
    bad = [str(path) for path, good in zip(image_filenames, finite.tolist(), strict=True) if not good]
    if bad:
        spread = (
            " All are: one such pose is enough, as the dataparser centres them."
            if len(bad) == count > 1
            else ""
        )
        raise PoseError(f"The pose or intrinsics of {_list(bad)} are not finite numbers.{spread} {_ADVICE}")


def _finite(value: Any) -> bool:
    try:
        numbers = np.asarray(value, dtype=np.float64)  # None becomes NaN here
    except (TypeError, ValueError):
        return False
    return numbers.size > 0 and bool(np.isfinite(numbers).all())


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
