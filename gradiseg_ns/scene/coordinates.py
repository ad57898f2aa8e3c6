"""A splat from one frame into another: nerfstudio turns, moves and scales a scene before it trains, x -> s (R x + t)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.scene.rotations import multiply_quaternions, quaternion, rotate_harmonics

if TYPE_CHECKING:
    from gradiseg_ns.scene.splat import Splat

_NEAR = float(1 << 14)
"""Up to this many units from the origin, coordinates are kept as they are."""


def to_nerfstudio(splat: Splat, transform: Tensor, scale: float) -> Splat:
    """A splat in the original frame, moved into that of nerfstudio's training.

    Args:
        splat: N Gaussians; its `offset` is taken into account, in double precision.
        transform: [3, 4] the dataparser's R and t.
        scale: the dataparser's s.
    """
    matrix = transform.detach().cpu().double().numpy()
    linear, shift = scale * matrix[:, :3], scale * matrix[:, 3]
    moved = _moved(splat, linear, shift + linear @ np.asarray(splat.offset), (0.0, 0.0, 0.0))
    return replace(moved, frame="nerfstudio", up="z")


def to_original(splat: Splat, transform: Tensor, scale: float) -> Splat:
    """A splat in nerfstudio's frame, moved back to where COLMAP or transforms.json have the scene.

    Coordinates that float32 cannot hold there are counted from an `offset`. Arguments as in `to_nerfstudio`.
    """
    matrix = transform.detach().cpu().double().numpy()
    linear = np.linalg.inv(scale * matrix[:, :3])
    shift = -linear @ (scale * matrix[:, 3])
    offset = np.rint(shift) if np.abs(shift).max() >= _NEAR else np.zeros(3)
    x, y, z = offset.tolist()
    return replace(_moved(splat, linear, shift - offset, (x, y, z)), frame="original", up=None)


def _moved(splat: Splat, linear: NDArray, shift: NDArray, offset: tuple[float, float, float]) -> Splat:
    """x -> linear x + shift, of a scaled rotation [3, 3] and a shift [3]."""
    scale = float(np.cbrt(np.linalg.det(linear)))
    rotation = linear / scale
    means = splat.means.double() @ torch.from_numpy(linear.T.copy()).to(splat.means.device)
    quats, rest = splat.quats, splat.features_rest
    if np.abs(rotation - np.eye(3)).max() > 1e-9:
        turn = torch.tensor(quaternion(rotation)).to(quats)
        quats = multiply_quaternions(turn, quats)
        if rest.shape[1] > 0:
            rest = rotate_harmonics(rest, rotation)
    return replace(
        splat,
        means=(means + torch.from_numpy(shift).to(means)).float(),
        quats=quats,
        scales=splat.scales + math.log(scale),
        features_rest=rest,
        offset=offset,
    )
