"""Poses and intrinsics that no camera can have, traced to the photo they belong to.

One NaN pose turns every pose into NaN once nerfstudio centres them (and makes `orientation-method pca` fail
inside LAPACK), so the culprit can only be named from the files themselves. The same holds for a rotation that is
none, a focal length in other units than pixels, and coordinates that float32 cannot hold: what the files say is
looked at (`check_meta`), and put right where only one thing can be meant (`mend_meta`), before nerfstudio mixes it.
Whether the cameras look at the scene is then seen from its sparse points (`check_view`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gradiseg_ns.data.free_space import MIN_POINTS, Frusta, project_into
from gradiseg_ns.data.id_maps import read_transforms
from gradiseg_ns.data.tracks import read_images_text
from gradiseg_ns.tools.errors import GradisegError

_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2", "camera_angle_x")
_ADVICE = "Correct its pose or remove the photo from the data set."

DRAWN = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624)
"""What can be undistorted into a pinhole photo, which is what a splat draws."""
_SHEAR = 0.02
"""Columns of a rotation may be so far from orthonormal, after a common scale is taken out; more is no rotation."""
_EXACT = 1e-4
"""A rotation that is nearer to one than that is left as it is: numbers in files are rounded."""
_NARROWEST, _LARGEST_ANGLE = 0.05, float(np.pi)
"""Focal lengths below that share of the picture's width are not in pixels; camera_angle_x is in radians, below that."""
_COARSE = 1e-4
"""float32 must be finer than that share of the cameras' spread."""
_ONE_PLACE = 1e-6
"""Cameras within so many units of each other stand in one place (times their distance from 0, up to 100)."""
_BLIND, _HINT = 0.9, 0.25
"""Shares of views that see (almost) no point: above the one training is refused, above the other poses are doubted."""
_FAR = 200.0
"""Points that are so many times as far as the cameras are apart are doubted: nothing of their depth can be seen."""
_SAMPLE = 2000
"""Points that the cameras are tried on."""
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


class PoseError(GradisegError):
    """A camera has a pose or intrinsics that are not finite, or that no camera has; the message names its photo and file."""


class PointError(PoseError):
    """The sparse points cannot be used; the message names their file."""


def check_transforms(data: str | Path) -> None:
    """Check the numbers in transforms.json (or transforms_{train,val,test}.json) before nerfstudio mixes
    them.

    Args:
        data: Data folder, or the JSON file itself. Nothing is checked if there is no such file.

    Raises:
        PoseError: A pose or an intrinsic is missing, not a number, NaN or infinite.
    """
    for path, meta in read_transforms(data):
        check_numbers(path, meta)


def check_numbers(path: Path, meta: dict[str, Any]) -> None:
    """Whether all poses and intrinsics of a transforms file are numbers.

    Raises:
        PoseError: One is missing, not a number, NaN or infinite.
    """
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
                raise PoseError(f"{path}: {key} of frame {name} is {frame[key]}, expected a finite number.")
    if bad:
        raise PoseError(
            f"{path}: the transform_matrix of {_list(bad)} is not a 4 x 4 matrix of finite numbers. {_ADVICE}"
        )


def check_meta(path: Path, meta: dict[str, Any]) -> None:
    """Whether the cameras of a file can be cameras of a splat.

    Args:
        path: the file (or COLMAP's folder), for messages.
        meta: what is in transforms.json, or the like made of a COLMAP model: `frames` with `file_path` and
            `transform_matrix`, intrinsics there or for all.

    Raises:
        PoseError: a number is missing or not finite; the camera model cannot be drawn; a focal length or principal point is not in
            pixels; a rotation is none.
    """
    check_numbers(path, meta)
    frames = meta["frames"]
    _check_models(path, meta)
    seen: set[tuple[Any, ...]] = set()
    for frame in frames:
        values = {key: frame.get(key, meta.get(key)) for key in _INTRINSICS}
        if (known := tuple(values.values())) not in seen:
            seen.add(known)
            own = any(key in frame for key in _INTRINSICS)
            _check_lens(path, f" of frame {frame.get('file_path', '?')}" if own else "", values)
    _check_rotations(path, frames)


def _check_models(path: Path, meta: dict[str, Any]) -> None:
    models = {str(frame["camera_model"]) for frame in meta["frames"] if frame.get("camera_model")}
    common = meta.get("camera_model")
    for model in sorted(models | ({str(common)} if common else set())):
        if model not in CAMERA_MODEL_TO_TYPE:
            known = [name for name, kind in CAMERA_MODEL_TO_TYPE.items() if kind in DRAWN]
            raise PoseError(f"{path}: camera_model {model} is not known, expected one of {', '.join(known)}.")
        if CAMERA_MODEL_TO_TYPE[model] not in DRAWN:
            raise PoseError(f"{path}: {_not_drawn(model)}")
    kinds = {CAMERA_MODEL_TO_TYPE[model] for model in models}
    kinds.add(CAMERA_MODEL_TO_TYPE[str(common)] if common else CameraType.PERSPECTIVE)
    if models and len(kinds) > 1 and (common or len({CAMERA_MODEL_TO_TYPE[m] for m in models}) > 1):
        raise PoseError(
            f"{path}: the frames have the camera models {', '.join(sorted(models))}"
            + (f", the file {common}" if common else "")
            + ". nerfstudio takes one for all: undistort the photos, or keep those of one model."
        )


def _not_drawn(model: str) -> str:
    advice = (
        "cut the panoramas into perspective views (ns-process-data images --camera-type equirectangular --images-per-equirect 8)"
        if model == "EQUIRECTANGULAR"
        else "make perspective photos of them, with the poses of those"
    )
    return f"camera_model {model} cannot be drawn as a splat, which has pinhole and fisheye cameras only: {advice}."


def _check_lens(path: Path, whose: str, values: dict[str, Any]) -> None:
    number = {key: None if value is None else float(value) for key, value in values.items()}
    sizes = {"x": number["w"], "y": number["h"]}
    for axis, side in (("x", "w"), ("y", "h")):
        focal, size = number[f"fl_{axis}"], sizes[axis]
        if size is not None and size < 1:
            raise PoseError(f"{path}: {side}{whose} is {size:g}, expected the photo's size in pixels.")
        if focal is None:
            continue
        if focal <= 0:
            sign = " A negative one flips the picture: flip the pose's axes instead." if focal < 0 else ""
            raise PoseError(
                f"{path}: fl_{axis}{whose} is {focal:g}, expected a focal length in pixels, above 0.{sign}"
            )
        if (size is not None and focal < _NARROWEST * size) or (size is None and focal < 5):
            of = f" of photos that are {size:g} pixels {'wide' if axis == 'x' else 'high'}" if size else ""
            raise PoseError(
                f"{path}: fl_{axis}{whose} is {focal:g}{of}, expected a focal length in pixels. It looks like a share of the "
                f"picture or like millimetres: multiply a share by the photo's {side}."
            )
    cx, cy = number["cx"], number["cy"]
    if cx is not None and cy is not None and 0 < cx <= 1 and 0 < cy <= 1 and (sizes["x"] or 99) > 8:
        raise PoseError(
            f"{path}: cx, cy{whose} are {cx:g}, {cy:g}, expected the principal point in pixels. They look like shares of the "
            "picture: multiply them by w and h."
        )
    angle = number["camera_angle_x"]
    if angle is not None and not 0 < angle < _LARGEST_ANGLE:
        hint = " It looks like degrees." if angle > 0 else ""
        raise PoseError(
            f"{path}: camera_angle_x{whose} is {angle:g}, expected radians between 0 and {_LARGEST_ANGLE:.2f}.{hint}"
        )


def _check_rotations(path: Path, frames: Sequence[dict[str, Any]]) -> None:
    mirrored, sheared, turned = [], [], []
    for frame in frames:
        name, matrix = str(frame.get("file_path", "?")), np.asarray(frame["transform_matrix"], np.float64)
        rotation = matrix[:3, :3]
        if len(matrix) == 4 and np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
            turned.append(name)
            continue
        scale = np.cbrt(abs(np.linalg.det(rotation)))
        if scale <= 1e-12 or np.abs((rotation / scale).T @ (rotation / scale) - np.eye(3)).max() > _SHEAR:
            sheared.append(name)
        elif np.linalg.det(rotation) < 0:
            mirrored.append(name)
    of = len(frames)
    if turned:
        raise PoseError(
            f"{path}: the last row of the transform_matrix of {_list(turned)} ({len(turned)} of {of} frames) is not 0 0 0 1. Is "
            "the matrix transposed? Expected camera to world: the camera's position is in the last column."
        )
    if sheared:
        raise PoseError(
            f"{path}: the rotation in the transform_matrix of {_list(sheared)} ({len(sheared)} of {of} frames) is none: its "
            f"columns are not perpendicular and of one length. {_ADVICE}"
        )
    if mirrored:
        raise PoseError(
            f"{path}: the rotation in the transform_matrix of {_list(mirrored)} ({len(mirrored)} of {of} frames) mirrors "
            "(determinant -1). Programs with left-handed axes (Unity, Unreal) write such matrices. Expected right-handed axes: x to "
            "the right, y up, z backwards."
        )


class Mended(NamedTuple):
    """What was changed in the poses of a file."""

    moved_by: NDArray[np.float64]
    """[3] what was subtracted from all positions, in the frame of the file's poses; 0 if nothing was."""
    one_place: bool
    """Whether all cameras stand in one place, so that their spread is no scale."""
    notes: list[str]
    """For the user."""


def mend_meta(path: Path, meta: dict[str, Any]) -> Mended:
    """Put right what has one clear meaning, in place and in double precision.

    A last row that is left out is added, a scale in a rotation is taken out, a scene far from the origin is moved there. Poses that need neither stay as they
    are to the last bit.

    Args:
        path: the file, for the notes.
        meta: as for `check_meta`, which it has passed.
    """
    frames, notes = meta["frames"], []
    matrices = [np.array(frame["transform_matrix"], np.float64) for frame in frames]
    for index, matrix in enumerate(matrices):
        if len(matrix) == 3:
            matrices[index] = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
            frames[index]["transform_matrix"] = matrices[index].tolist()
    scaled, scales = [], []
    for frame, matrix in zip(frames, matrices, strict=True):
        rotation = matrix[:3, :3]
        if (
            np.abs(rotation.T @ rotation - np.eye(3)).max() <= _EXACT
            or abs(np.linalg.det(rotation)) < 1e-36
            or np.linalg.det(rotation) < 0
        ):
            continue
        scale = np.cbrt(np.linalg.det(rotation))
        left, _, right = np.linalg.svd(rotation)
        matrix[:3, :3] = left @ right
        frame["transform_matrix"] = matrix.tolist()
        if abs(scale - 1) > 1e-3:
            scaled.append(str(frame.get("file_path", "?")))
            scales.append(scale)
    if scaled:
        notes.append(
            f"{path}: the rotation in the transform_matrix of {_list(scaled)} ({len(scaled)} of {len(frames)} frames) has a scale "
            f"of {np.median(scales):.4g}. It was taken out; positions stay as they are."
        )
    places = np.stack([matrix[:3, 3] for matrix in matrices]) if matrices else np.zeros((1, 3))
    middle = np.median(places, axis=0)
    spread, largest = float(np.abs(places - middle).max()), float(np.abs(places).max())
    one_place = spread <= _ONE_PLACE * (1 + min(largest, 100.0))
    step = largest * float(np.finfo(np.float32).eps)
    moved_by = np.zeros(3)
    if step > _COARSE * spread and largest > 1e3:
        moved_by = np.round(middle)
        for frame, matrix in zip(frames, matrices, strict=True):
            matrix[:3, 3] -= moved_by
            frame["transform_matrix"] = matrix.tolist()
        notes.append(
            f"{path}: the cameras are {largest:.3g} units from the origin, where float32 has steps of {step:.2g}, and "
            f"{spread:.3g} from each other. Cameras and points were moved: subtracted were x {moved_by[0]:.0f}, y {moved_by[1]:.0f}, "
            f"z {moved_by[2]:.0f} (of the file's axes). Add them to have original coordinates."
        )
    if one_place and len(frames):
        what = "there is one photo" if len(frames) == 1 else f"all {len(frames)} cameras stand in one place"
        notes.append(
            f"{path}: {what}, so nothing says how far things are, and the scene keeps the scale of the file "
            "(--auto-scale-poses False). Expect good pictures from that place alone."
        )
    return Mended(moved_by, one_place, notes)


def check_models(cameras: Cameras) -> None:
    """Whether a splat can draw the cameras that a dataparser made.

    A fisheye without distortion is still no pinhole, though nerfstudio leaves the photos of one alone: it gets the smallest
    distortion, in place.

    Raises:
        PoseError: it cannot.
    """
    types = cameras.camera_type.reshape(-1)
    for value in types.unique().tolist():
        if CameraType(value) not in DRAWN:
            raise PoseError(_not_drawn(CameraType(value).name))
    fisheye = types == CameraType.FISHEYE.value
    if bool(fisheye.any()):
        params = cameras.distortion_params
        params = torch.zeros(len(types), 6) if params is None else params.clone()
        none = fisheye & (params.reshape(len(types), -1) == 0).all(dim=1)
        params[none, 0] = 1e-9
        cameras.distortion_params = params


def check_sizes(cameras: Cameras, image_filenames: Sequence[Path], scale: float = 1.0) -> None:
    """Compare the cameras' sizes with those of the photos on disk; only their headers are read.

    Args:
        cameras: V cameras, as the photos are loaded.
        image_filenames: V photos.
        scale: by which photos are resized when they are loaded.

    Raises:
        PoseError: they differ by more than rounding.
    """
    for index, photo in enumerate(image_filenames):
        try:
            with Image.open(photo) as image:
                size, orientation = image.size, int(image.getexif().get(0x0112, 1))
        except FileNotFoundError:
            raise PoseError(f"There is no photo {photo}, which the poses name.") from None
        except (OSError, ValueError, SyntaxError):  # what can be read of it is told when it is loaded
            continue
        width = int(cameras.width[index].item()) / scale
        height = int(cameras.height[index].item()) / scale
        sizes = [size, size[::-1]] if orientation in (5, 6, 7, 8) else [size]  # whoever turns it knows which
        slack = 1.0 + 1.0 / scale
        if any(abs(w - width) < slack and abs(h - height) < slack for w, h in sizes):
            continue
        says = f"The camera of {photo} is {width:.0f} x {height:.0f} pixels, the photo is {size[0]} x {size[1]}: "
        if abs(size[1] - width) < slack and abs(size[0] - height) < slack:
            raise PoseError(
                f"{says}w and h of the camera are swapped (transforms.json, or COLMAP's camera). Write the photo's size, and look "
                "whether fl_x and fl_y, cx and cy are swapped too."
            )
        if abs(np.log((size[0] / width) / (size[1] / height))) < 2 / min(width, height, *size):
            ratio = width / size[0]
            raise PoseError(
                f"{says}the intrinsics are those of photos {ratio:.3g} times as wide. Divide w, h, fl_x, fl_y, cx and cy by "
                f"{ratio:.4g}, or take the photos of that size (--downscale-factor if they are in images_2, images_4, ...)."
            )
        raise PoseError(
            f"{says}the aspects differ. Was the photo cropped, or is it of another camera? Expected photos as they were when "
            "their poses were found."
        )


def check_view(
    frusta: Frusta, points: Tensor, names: Sequence[str], to_original: Callable[[Tensor], Tensor]
) -> str | None:
    """Whether the cameras look at the sparse points.

    Args:
        frusta: V training views.
        points: [P, 3] in their frame.
        names: of the views.
        to_original: maps OpenGL camera-to-world matrices [V, 4, 4] or points [P, 3] from that frame to the file's.

    Returns:
        a doubt for the user, None if there is none.

    Raises:
        PoseError: hardly a view sees any point: nothing can be learned.
    """
    points = points[torch.isfinite(points).all(dim=1)]
    points = points[:: max(1, len(points) // _SAMPLE)]
    if len(points) < 4 * MIN_POINTS or frusta.views == 0:
        return None
    seen, front = _seen(frusta, points)
    blind = float((seen < MIN_POINTS).float().mean())
    if blind < _BLIND:
        centers = frusta.centers
        spread = float((centers - centers.mean(dim=0)).norm(dim=1).max())
        depth = float((points - centers.mean(dim=0)).norm(dim=1).median())
        if spread > 0 and _FAR < depth / spread < 1 / _ONE_PLACE:
            return (
                f"half of the sparse points are {depth / spread:.0f} times as far from the cameras as the cameras are from each other. "
                "Are they in the units of the poses (metres and millimetres)?"
            )
    if blind < _HINT:
        return None
    share, best, likely = float(seen.mean()) / len(points), 0.0, ""
    for text, other, where in _other_readings(frusta, points, to_original):
        theirs, _ = _seen(other, where)
        found = float(theirs.mean()) / len(points)
        if found > 1.2 * best and float((theirs < MIN_POINTS).float().mean()) < 0.5:
            best, likely = found, text
    clear = best > 0.1 and best > 3 * share
    if blind < _BLIND and not clear:
        return None  # `FreeSpace.doubts` tells where the half of the views see nothing
    examples = _list([name for name, n in zip(names, seen.tolist(), strict=True) if n < MIN_POINTS])
    text = (
        f"{int((seen < MIN_POINTS).sum())} of {len(names)} training cameras see fewer than {MIN_POINTS} of the sparse points "
        f"({examples}); {front / len(points):.0%} of the points lie in front of a camera, {share:.1%} in its picture. "
        + (
            f"{likely[0].upper()}{likely[1:]} (read so, {best:.0%} lie in the picture)."
            if clear
            else "Are poses, focal lengths and points of the same reconstruction, in the same frame and units?"
        )
    )
    if blind >= _BLIND:
        raise PoseError(f"{text} To train without these points: --load-3D-points False.")
    return text


def _seen(frusta: Frusta, points: Tensor) -> tuple[Tensor, float]:
    """How many points each view has in its picture, [V], and how many lie in front of a camera, mean over views."""
    seen, front = [], 0.0
    for view in range(frusta.views):
        x, y, depth = project_into(frusta, view, points)
        ahead = depth > 1e-6
        front += float(ahead.float().sum()) / frusta.views
        seen.append(float((ahead & (x.abs() < 1) & (y.abs() < 1)).sum()))
    return torch.tensor(seen), front


def _other_readings(
    frusta: Frusta, points: Tensor, to_original: Callable[[Tensor], Tensor]
) -> list[tuple[str, Frusta, Tensor]]:
    """What the poses would be if the file meant something else: what to tell, the views, the points."""
    flip = torch.from_numpy(_FLIP).double()
    poses = torch.linalg.inv(frusta.viewmats.double()) @ flip
    poses, where = to_original(poses), to_original(points.double())
    inverse = torch.linalg.inv(poses)
    transposed = poses.clone()
    transposed[:, :3, :3] = poses[:, :3, :3].mT
    swap = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]).double()
    colmap = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]).double()
    gl, w2c = "flip the signs of their second and third column", "invert the matrices"
    turned = "the points are turned against the cameras: give them the poses' axes"
    readings = [
        (f"the poses look like OpenCV's (y down, z forward): {gl}", poses @ flip),
        (f"the poses look like world to camera: {w2c}", inverse),
        (f"the poses look like OpenCV's world to camera: {w2c}, then {gl}", inverse @ flip),
        (
            "the poses look like camera to world where world to camera is expected: invert them",
            torch.linalg.inv(poses @ flip) @ flip,
        ),
        ("the rotations look transposed: transpose the 3 x 3 part", transposed),
        (
            f"the rotations look transposed and OpenCV's: transpose the 3 x 3 part, then {gl}",
            transposed @ flip,
        ),
        (turned, swap @ poses),
        (turned, swap.mT @ poses),
        (turned, colmap @ poses),
    ]
    made = []
    for text, matrices in readings:
        viewmats = torch.linalg.inv(matrices @ flip).float()
        made.append((text, frusta._replace(viewmats=viewmats), where.float()))
    return made


def check_colmap(recon_dir: Path) -> None:
    """Check the poses of a COLMAP model; used to name the photo once something is known to be wrong.

    Raises:
        PoseError: A pose is NaN or infinite.
    """
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    for name, read in (("images.txt", read_images_text), ("images.bin", colmap.read_images_binary)):
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
