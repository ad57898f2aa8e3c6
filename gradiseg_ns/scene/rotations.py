"""Rotations: quaternions (w, x, y, z), matrices, and what a rotation does to spherical harmonics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering


def rotation_matrix(wxyz: Sequence[float]) -> NDArray[np.float64]:
    """[3, 3] of a quaternion, w first, of any length."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = wxyz
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def quaternion(rotation: NDArray) -> tuple[float, float, float, float]:
    """w x y z of a rotation matrix [3, 3]."""
    w, x, y, z = quaternions(torch.from_numpy(np.asarray(rotation, np.float64))[None])[0].tolist()
    return w, x, y, z


def quaternions(rotations: Tensor) -> Tensor:
    """w x y z [N, 4] of rotation matrices [N, 3, 3]."""
    from scipy.spatial.transform import Rotation

    if not len(rotations):
        return rotations.new_zeros(0, 4)
    found = torch.from_numpy(Rotation.from_matrix(rotations.detach().cpu().numpy()).as_quat())
    return found[:, [3, 0, 1, 2]].to(rotations)


def multiply_quaternions(a: Tensor, b: Tensor) -> Tensor:
    """a b: first b, then a. [4] or [N, 4] each, w first."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def rotate_harmonics(rest: Tensor, rotation: NDArray) -> Tensor:
    """Coefficients [M, K, 3] of the spherical harmonics from degree 1 on, turned by a rotation matrix.

    c' with sum_k c'_k Y_k(d) = sum_k c_k Y_k(R^T d): a matrix for each degree, found by solving that for more directions than
    there are functions.
    """
    result = rest.clone()
    directions = _directions()
    there = _harmonics(directions)
    turned = _harmonics(directions @ torch.from_numpy(rotation).to(directions))
    for degree in (1, 2, 3):
        band = slice(degree * degree, (degree + 1) ** 2)
        if rest.shape[1] < band.stop - 1:
            break
        matrix = torch.linalg.lstsq(there[:, band].double(), turned[:, band].double()).solution.to(rest)
        own = slice(band.start - 1, band.stop - 1)
        result[:, own] = torch.einsum("kl,mlc->mkc", matrix, rest[:, own])
    return result


def _directions() -> Tensor:
    """[64, 3] unit vectors all around."""
    index = torch.arange(64, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / 64
    angle = index * math.pi * (1 + 5**0.5)
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1).float()


def _harmonics(directions: Tensor) -> Tensor:
    """The values [P, 16] of the harmonics up to degree 3, as the rasteriser has them."""
    count = len(directions)
    coefficients = torch.eye(16).repeat(count, 1)[..., None].expand(-1, -1, 3)
    rows = directions.repeat_interleave(16, dim=0)
    return rendering.spherical_harmonics(3, rows, coefficients.contiguous())[:, 0].reshape(count, 16)
