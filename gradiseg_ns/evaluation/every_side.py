"""Cut-outs from every side: an object's Gaussians alone, compared with the true shape from directions that no photo has.

Extracted BIoU judges a cut-out from where photos were taken. A cut-out is turned round in a viewer or put into another scene, so
its underside and its hidden sides count too. A folder of truth holds masks of single objects and `cameras.json`:

    {"w": 256, "h": 256, "fl_x": ..., "fl_y": ..., "cx": ..., "cy": ...,
     "frames": [{"file_path": "mug_00.png", "object_id": 1, "transform_matrix": [[...], ...]}, ...]}

Poses are camera-to-world in the coordinates of the scene's transforms.json, OpenGL axes, z up. examples/demo_scene/every_side is one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.evaluation.metrics import boundary_iou, mask_iou
from gradiseg_ns.tools.errors import GradisegError

Side = Literal["above", "around", "below"]
STEEP = 0.5
"""A view is from above (below) if the sine of its elevation is larger (smaller) than this (its negative): 30 degrees."""


class EverySideError(GradisegError):
    """A folder of truth that cannot be used; the message names the file."""


@dataclass(frozen=True)
class SideView:
    """A single object, alone, from one direction."""

    object_id: int
    pose: NDArray[np.float64]
    """[4, 4] camera to world, OpenGL axes, in the scene's own coordinates."""
    intrinsics: NDArray[np.float64]
    """[3, 3], pixels."""
    mask: NDArray[np.bool_]
    """[H, W]: the object's silhouette."""

    @property
    def side(self) -> Side:
        """Where the camera stands."""
        height = self.pose[2, 2]  # the camera looks along its own -z
        return "above" if height > STEEP else "below" if height < -STEEP else "around"


@dataclass(frozen=True)
class SideScore:
    """A mean over an object's views, in percent."""

    object_id: int
    side: Side | Literal["all"]
    iou: float
    biou: float
    n_views: int


def read_every_side(folder: Path) -> list[SideView]:
    """The views of a folder of truth.

    Raises:
        EverySideError: a file is missing or is not what is expected.
    """
    path = folder / "cameras.json"
    try:
        contents = json.loads(path.read_text("utf-8"))
        size = (int(contents["h"]), int(contents["w"]))
        intrinsics = np.array(
            [[contents["fl_x"], 0, contents["cx"]], [0, contents["fl_y"], contents["cy"]], [0, 0, 1]], float
        )
        frames = [
            (str(f["file_path"]), int(f["object_id"]), np.array(f["transform_matrix"], float))
            for f in contents["frames"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EverySideError(
            f"{path} cannot be used ({type(error).__name__}: {error}): expected w, h, fl_x, fl_y, cx, cy and frames with "
            "file_path, object_id and transform_matrix."
        ) from error
    views = []
    for name, object_id, pose in frames:
        try:
            with Image.open(folder / name) as image:
                mask = np.asarray(image.convert("1"))
        except OSError as error:
            raise EverySideError(f"{folder / name} cannot be read ({error}): expected a mask.") from error
        if mask.shape != size or pose.shape != (4, 4) or not mask.any():
            raise EverySideError(
                f"{folder / name}: found a mask of {mask.shape[1]}x{mask.shape[0]} with {int(mask.sum())} pixels and a pose of "
                f"shape {list(pose.shape)}, expected {size[1]}x{size[0]}, not empty, and [4, 4]."
            )
        views.append(SideView(object_id, pose, intrinsics, mask))
    if not views:
        raise EverySideError(f"{path} has no frames.")
    return views


def score_every_side(views: Sequence[SideView], cut_outs: Sequence[NDArray[np.bool_]]) -> list[SideScore]:
    """Compare cut-outs with the truth.

    Args:
        views: of one or more objects.
        cut_outs: the solid pixels of each view's object alone, bool [H, W].

    Returns:
        for each object a score of all its views, and one for each side that it has views from.
    """
    rows: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for view, found in zip(views, cut_outs, strict=True):
        score = (mask_iou(found, view.mask) or 0.0, boundary_iou(found, view.mask) or 0.0)
        for side in ("all", view.side):
            rows.setdefault((view.object_id, side), []).append(score)
    return [
        SideScore(object_id, side, *(100 * np.mean(scores, axis=0)).tolist(), len(scores))  # type: ignore[arg-type]
        for (object_id, side), scores in rows.items()
    ]


def mean_over_objects(scores: Sequence[SideScore], side: str = "all") -> tuple[float | None, float | None]:
    """IoU and BIoU from one side (or all), means over the objects, in percent; None without views."""
    chosen = [s for s in scores if s.side == side]
    if not chosen:
        return None, None
    return sum(s.iou for s in chosen) / len(chosen), sum(s.biou for s in chosen) / len(chosen)
