"""How far poses are from true ones, whatever frame they are in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PoseErrors:
    """Errors after the similarity that brings the centres onto the true ones best."""

    rotations: Array
    """[R], degrees."""
    centres: Array
    """[R], in parts of the scene's size: the mean distance of the true centres from their middle."""
    scale: float
    """True lengths over found ones."""

    def summary(self) -> dict[str, float]:
        """Medians and largest values."""
        return {
            "rotation_median_deg": float(np.median(self.rotations)), "rotation_max_deg": float(self.rotations.max()),
            "centre_median": float(np.median(self.centres)), "centre_max": float(self.centres.max()),
        }  # fmt: skip


def similarity(source: Array, target: Array) -> tuple[float, Array, Array]:
    """Scale, rotation [3, 3] and shift [3] that bring points [R, 3] onto others best (Umeyama 1991).

    Raises:
        ValueError: there are fewer than three points, or they all lie in one place.
    """
    if len(source) < 3:
        raise ValueError(f"{len(source)} points: expected three or more")
    middle, aim = source.mean(axis=0), target.mean(axis=0)
    from_middle, from_aim = source - middle, target - aim
    spread = float((from_middle**2).sum())
    if spread == 0:
        raise ValueError("the points all lie in one place")
    u, values, vt = np.linalg.svd(from_aim.T @ from_middle)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = float((values * signs).sum() / spread)
    return scale, rotation, aim - scale * rotation @ middle


def pose_errors(found: Array, true: Array) -> PoseErrors:
    """Compare poses.

    Args:
        found: [R, 4, 4], camera to world.
        true: the same cameras', with the same axes.

    Raises:
        ValueError: as :func:`similarity`.
    """
    scale, rotation, shift = similarity(found[:, :3, 3], true[:, :3, 3])
    centres = scale * found[:, :3, 3] @ rotation.T + shift
    turned = rotation @ found[:, :3, :3]
    relative = np.swapaxes(true[:, :3, :3], 1, 2) @ turned
    # by the chord: the cosine alone has no digits left for small angles
    chord = np.linalg.norm(relative - np.eye(3), axis=(1, 2)) / np.sqrt(8.0)
    angles = 2 * np.degrees(np.arcsin(np.clip(chord, 0, 1)))
    middle = true[:, :3, 3].mean(axis=0)
    size = float(np.linalg.norm(true[:, :3, 3] - middle, axis=1).mean())
    return PoseErrors(angles, np.linalg.norm(centres - true[:, :3, 3], axis=1) / size, scale)
