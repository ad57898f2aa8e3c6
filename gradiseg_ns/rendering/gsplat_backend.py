"""The CUDA backend: gsplat's own projection and blending (1.4), without `gsplat.rasterization` around them.

One projection and one tile list serve all blends. gsplat compiles for certain counts of channels and pads others with
zeros; groups are blended in passes of sizes that need no padding worth speaking of. Gradients reach the camera's viewmat too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from gsplat import (
    fully_fused_projection,
    isect_offset_encode,
    isect_tiles,
    rasterize_to_pixels,
)
from gsplat import spherical_harmonics as _spherical_harmonics
from torch import Tensor

from .types import Camera, Gaussians, Projection

TILE = 16
BLUR = 0.3
NATIVE = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)
"""Channel counts blended without padding. gsplat has larger ones, but their shared memory does not fit every card."""
TRANSPOSE_CHANNELS = 32


class _Tiles(NamedTuple):
    offsets: Tensor
    """[1, tiles down, tiles across]"""
    flatten_ids: Tensor
    """[I] index of the Gaussian at each intersection, tile by tile, front to back."""


def passes(channels: int) -> list[int]:
    """Sizes of the passes that blend this many channels: few passes, little padding.

    One pass if the count is native or padding would add at most a quarter; else the largest native part, and the rest.
    """
    if channels <= 0:
        return []
    for size in NATIVE:
        if size == channels or (channels < size <= channels + channels // 4):
            return [channels]
    part = max(size for size in NATIVE if size <= channels)
    return [part, *passes(channels - part)]


def project(
    gaussians: Gaussians, camera: Camera, *, antialiased: bool, near: float, far: float, radius_clip: float
) -> Projection:
    means, quats, scales, opacities = (t.to(torch.float32) for t in gaussians)
    viewmat, K = (t.to(device=means.device, dtype=torch.float32) for t in (camera.viewmat, camera.K))
    radii, means2d, depths, conics, compensations = fully_fused_projection(
        means,
        None,
        quats,
        scales,
        viewmat[None],
        K[None],
        camera.width,
        camera.height,
        eps2d=BLUR,
        near_plane=near,
        far_plane=far,
        radius_clip=radius_clip,
        packed=False,
        calc_compensations=antialiased,
    )
    with torch.no_grad():
        # gsplat's comparisons let NaN through: such a Gaussian is culled here, before it reaches a pixel
        values = torch.cat([means2d, conics, depths[..., None], opacities[None, :, None]], -1)
        radii = torch.where(torch.isfinite(values).all(-1), radii, torch.zeros_like(radii))
    opacities = opacities[None]
    if antialiased:
        # the memory of culled Gaussians is not initialised
        opacities = opacities * torch.where(radii > 0, compensations, torch.zeros_like(compensations))
    return Projection(
        camera, means2d, radii.to(torch.int32), depths, conics, opacities.contiguous(), "gsplat"
    )


def _tiles(projection: Projection) -> _Tiles:
    if projection._state is None:
        across, down = -(-projection.camera.width // TILE), -(-projection.camera.height // TILE)
        _, isect_ids, flatten_ids = isect_tiles(
            projection.means2d,
            projection.radii,
            projection.depths,
            TILE,
            across,
            down,
            packed=False,
            n_cameras=1,
        )
        projection._state = _Tiles(isect_offset_encode(isect_ids, 1, across, down), flatten_ids)
    return projection._state


def _blend(
    projection: Projection, features: Tensor, *, detached: bool, absgrad: bool
) -> tuple[Tensor, Tensor]:
    """One pass: features [N, C] to maps [H, W, C] and alpha [H, W, 1]."""
    tiles = _tiles(projection)
    geometry = (projection.means2d, projection.conics, projection.opacities)
    means2d, conics, opacities = (t.detach() for t in geometry) if detached else geometry
    maps, alpha = rasterize_to_pixels(
        means2d,
        conics,
        features[None],
        opacities,
        projection.camera.width,
        projection.camera.height,
        TILE,
        tiles.offsets,
        tiles.flatten_ids,
        packed=False,
        absgrad=absgrad,
    )
    return maps[0], alpha[0]


class _ScaleGradient(torch.autograd.Function):
    """The identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if ctx.factor == 1 else gradient * ctx.factor), None


def rasterize(
    projection: Projection, features: Sequence[Tensor], *, geometry_grad: Sequence[float], absgrad: bool
) -> tuple[list[Tensor], Tensor]:
    features = [f.to(torch.float32) for f in features]
    moving = [i for i, moves in enumerate(geometry_grad) if moves]
    resting = [i for i, moves in enumerate(geometry_grad) if not moves]
    if features[0].shape[0] == 0:
        return _nothing(projection, features)

    maps: list[Tensor] = list(features)
    # absgrad is assigned by each backward of gsplat, not accumulated, and only a pass that sees every moving channel knows
    # the absolute value of their sum: one blend for all of them. Its alpha is the one whose gradient moves the geometry.
    if moving:
        # The geometry's gradient is the map's gradient times the features: scaling the one by s, and the features' own
        # gradient back by 1 / s, leaves s of it for the geometry and the whole for the features.
        scaled = [_ScaleGradient.apply(features[i], 1 / geometry_grad[i]) for i in moving]
        joined, alpha = _blend(projection, torch.cat(scaled, -1), detached=False, absgrad=absgrad)
        for i, part in zip(moving, joined.split([features[i].shape[1] for i in moving], -1), strict=True):
            maps[i] = _ScaleGradient.apply(part, geometry_grad[i])
    else:
        _, alpha = _blend(
            projection, features[0].new_zeros(len(features[0]), 1), detached=False, absgrad=absgrad
        )
    for i in resting:
        parts = features[i].split(passes(features[i].shape[1]), -1)
        blended = [_blend(projection, part, detached=True, absgrad=False)[0] for part in parts]
        maps[i] = blended[0] if len(blended) == 1 else torch.cat(blended, -1)
    return maps, alpha


def _nothing(projection: Projection, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Empty maps of no Gaussians, still in the graph so that a backward through them does not fail."""
    height, width = projection.camera.height, projection.camera.width
    empty = features[0].new_zeros(height, width, 1)
    return [empty + f.sum(0) for f in features], empty + projection.opacities.sum()


def backproject(projection: Projection, maps: Tensor) -> Tensor:
    n, channels = projection.radii.shape[1], maps.shape[2]
    maps = maps.to(torch.float32)
    if n == 0:
        return maps.new_zeros(0, channels)
    sums = []
    # gsplat has no transpose of its own: the gradient with respect to features is one
    for part in maps.split(TRANSPOSE_CHANNELS, -1):
        with torch.enable_grad():
            features = maps.new_zeros(n, part.shape[2], requires_grad=True)
            blended, _ = _blend(projection, features, detached=True, absgrad=False)
        sums.append(torch.autograd.grad(blended, features, part)[0])
    return torch.cat(sums, -1) if sums else maps.new_zeros(n, 0)


def spherical_harmonics(degree: int, directions: Tensor, coeffs: Tensor, mask: Tensor | None) -> Tensor:
    colors = _spherical_harmonics(degree, directions.to(torch.float32), coeffs.to(torch.float32), masks=mask)
    # gsplat leaves the colours of masked rows uninitialised
    return colors if mask is None else torch.where(mask[:, None], colors, torch.zeros_like(colors))
