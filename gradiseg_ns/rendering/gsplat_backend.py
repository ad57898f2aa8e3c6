"""The CUDA backend: gsplat's own projection and blending, without `gsplat.rasterization` around them.

One projection and one tile list serve all blends. gsplat compiles kernels for certain numbers of channels and pads other
numbers with zeros. So groups are blended in passes whose sizes need little padding. Gradients also reach the camera's viewmat.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import gsplat
import torch
from torch import Tensor

from . import gsplat_versions
from .gradients import scale_geometry_gradient, scale_gradient
from .types import Camera, Gaussians, Projection

TILE = 16
BLUR = 0.3
NATIVE = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)
"""Numbers of channels that are blended without padding. gsplat has larger ones, but their shared memory does not fit every card."""
TRANSPOSE_CHANNELS = 32
PASS_COST = 8
"""Estimated cost of one more pass, as a number of channels (the tiles are already sorted). Not measured on a card yet.
GRADISEG_CHANNELS=joined|apart overrides the choice, and `scripts/gpu_check.py` times both."""
_KERNELS = gsplat_versions.installed()


class _Tiles(NamedTuple):
    offsets: Tensor
    """[1, tiles down, tiles across]"""
    flatten_ids: Tensor
    """[I] index of the Gaussian at each intersection, tile by tile, front to back."""


def _padded(channels: int) -> int:
    """The number of channels that gsplat blends for this number of channels."""
    return next((size for size in NATIVE if size >= channels), channels)


def passes(channels: int) -> list[int]:
    """Sizes of the passes that blend this number of channels: few passes, little padding.

    One pass if the number is native or padding adds at most a quarter. Else the largest native part, and then the rest.
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
    means, quats, scales, opacities = (t.to(torch.float32) for t in gaussians.tensors)
    viewmat, K = (t.to(device=means.device, dtype=torch.float32) for t in (camera.viewmat, camera.K))
    radii, means2d, depths, conics, compensations = _KERNELS.project(
        means,
        quats,
        scales,
        viewmat,
        K,
        camera.width,
        camera.height,
        eps2d=BLUR,
        near_plane=near,
        far_plane=far,
        radius_clip=radius_clip,
        calc_compensations=antialiased,
    )
    with torch.no_grad():
        # gsplat's comparisons accept NaN: such a Gaussian is culled here, before it reaches a pixel
        values = torch.cat([means2d, conics, depths[..., None], opacities[None, :, None]], -1)
        radii = torch.where(torch.isfinite(values).all(-1), radii, torch.zeros_like(radii))
        seen = radii > 0
    # gsplat does not write the rows of culled Gaussians: set them to 0, so that nobody reads old memory
    means2d, conics = (torch.where(seen[..., None], t, 0.0) for t in (means2d, conics))
    depths = torch.where(seen, depths, 0.0)
    opacities = opacities[None]
    if compensations is not None:
        opacities = opacities * torch.where(seen, compensations, 0.0)
    return Projection(
        camera, means2d, radii.to(torch.int32), depths, conics, opacities.contiguous(), "gsplat"
    )


def _tiles(projection: Projection) -> _Tiles:
    if projection._state is None:
        across, down = -(-projection.camera.width // TILE), -(-projection.camera.height // TILE)
        geometry = (projection.means2d, projection.radii, projection.depths, projection.conics)
        projection._state = _Tiles(*_KERNELS.tiles(*geometry, TILE, across, down))
    return projection._state


def _blend(
    projection: Projection, features: Tensor, *, share: float | Tensor, absgrad: bool
) -> tuple[Tensor, Tensor]:
    """One pass: features [N, C] to maps [H, W, C] and alpha [H, W, 1]; a share of the gradient reaches the geometry."""
    tiles = _tiles(projection)
    moved = scale_geometry_gradient(projection, share)
    maps, alpha = gsplat.rasterize_to_pixels(
        moved.means2d,
        moved.conics,
        features[None],
        moved.opacities,
        projection.camera.width,
        projection.camera.height,
        TILE,
        tiles.offsets,
        tiles.flatten_ids,
        packed=False,
        absgrad=absgrad,
    )
    return maps[0], alpha[0]


def _together(sizes: Sequence[int]) -> bool:
    """Whether groups of features are blended in one pass: yes if its padding costs less than more passes."""
    wanted = os.environ.get("GRADISEG_CHANNELS", "") or "auto"
    if wanted not in ("auto", "joined", "apart"):
        raise ValueError(
            f"GRADISEG_CHANNELS is {wanted!r}: expected auto, joined or apart; unset it or correct it."
        )
    if wanted != "auto" or len(sizes) < 2:
        return wanted != "apart" or len(sizes) < 2
    each = [_padded(part) for size in sizes for part in passes(size)]
    return _padded(sum(sizes)) <= sum(each) + PASS_COST * (len(each) - 1)


def rasterize(
    projection: Projection,
    features: Sequence[Tensor],
    *,
    geometry_grad: Sequence[float | Tensor],
    absgrad: bool,
) -> tuple[list[Tensor], Tensor]:
    features = [f.to(torch.float32) for f in features]
    # groups that move each Gaussian by a share of its own go apart
    own = [i for i, moves in enumerate(geometry_grad) if isinstance(moves, Tensor)]
    moving = [i for i, moves in enumerate(geometry_grad) if i not in own and moves]
    resting = [i for i, moves in enumerate(geometry_grad) if i not in own and not moves]
    if features[0].shape[0] == 0:
        return _nothing(projection, features)
    wanted = _wanted(projection)

    maps: list[Tensor] = list(features)
    # absgrad is assigned by each backward of gsplat, not accumulated, and only a pass that sees every moving channel knows
    # the absolute value of their sum: one blend for all of them. Else groups may go apart, which saves padding.
    joined = moving if absgrad or _together([features[i].shape[1] for i in moving]) else moving[:1]
    if joined:
        # Alpha's gradient moves the geometry in full. The geometry's gradient is the map's gradient times the features: scaling
        # the one by s, and the features' own gradient back by 1 / s, leaves s of it for the geometry and the whole for the
        # features.
        parts = [scale_gradient(features[i], 1 / geometry_grad[i]) for i in joined]
        sizes = [part.shape[1] for part in parts]
        padding = _padded(sum(sizes)) - sum(sizes)
        if padding and len(parts) > 1:  # gsplat would copy all of it to pad it
            parts.append(parts[0].new_zeros(len(parts[0]), padding))
        blended, alpha = _blend(projection, torch.cat(parts, -1), share=1.0, absgrad=absgrad)
        for i, part in zip(joined, blended.split([part.shape[1] for part in parts], -1), strict=False):
            maps[i] = scale_gradient(part, geometry_grad[i])
    else:
        nothing = features[0].new_zeros(len(features[0]), 1)
        _, alpha = _blend(projection, nothing, share=1.0, absgrad=absgrad)
    for i in (*(i for i in moving if i not in joined), *own, *resting):
        parts = features[i].split(passes(features[i].shape[1]), -1)
        blends = [_blend(projection, part, share=geometry_grad[i], absgrad=False)[0] for part in parts]
        maps[i] = blends[0] if len(blends) == 1 else torch.cat(blends, -1)
    if wanted is not None:
        maps, alpha = [torch.where(wanted, m, 0.0) for m in maps], torch.where(wanted, alpha, 0.0)
    return maps, alpha


def _wanted(projection: Projection) -> Tensor | None:
    """bool [H, W, 1], the pixels of the tiles that are blended; None: all."""
    if projection.tiles is None:
        return None
    tiles = projection.tiles.to(projection.means2d.device)
    pixels = tiles.repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)
    return pixels[: projection.camera.height, : projection.camera.width, None]


def _nothing(projection: Projection, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Empty maps for 0 Gaussians, in the graph, so that a backward pass through them does not fail."""
    height, width = projection.camera.height, projection.camera.width
    empty = features[0].new_zeros(height, width, 1)
    return [empty + f.sum(0) for f in features], empty + projection.opacities.sum()


def backproject(projection: Projection, maps: Tensor) -> Tensor:
    n, channels = projection.radii.shape[1], maps.shape[2]
    maps, wanted = maps.to(torch.float32), _wanted(projection)
    if wanted is not None:
        maps = torch.where(wanted, maps, 0.0)
    if n == 0:
        return maps.new_zeros(0, channels)
    sums = []
    # gsplat has no transpose; the gradient with respect to features is the transpose
    for part in maps.split(TRANSPOSE_CHANNELS, -1):
        with torch.enable_grad():
            features = maps.new_zeros(n, part.shape[2], requires_grad=True)
            blended, _ = _blend(projection, features, share=0.0, absgrad=False)
        sums.append(torch.autograd.grad(blended, features, part)[0])
    return torch.cat(sums, -1) if sums else maps.new_zeros(n, 0)


def spherical_harmonics(degree: int, directions: Tensor, coeffs: Tensor, mask: Tensor | None) -> Tensor:
    values = (directions.to(torch.float32), coeffs.to(torch.float32))
    colors = gsplat.spherical_harmonics(degree, *values, masks=mask)
    # gsplat leaves the colours of masked rows uninitialised
    return colors if mask is None else torch.where(mask[:, None], colors, torch.zeros_like(colors))
