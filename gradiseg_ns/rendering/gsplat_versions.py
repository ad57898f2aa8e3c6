"""gsplat 1.4 and 1.5 behind the same functions and by the same rules, those of 1.4. Only this file asks which one is installed.

The two differ in the size of a Gaussian in the picture. 1.4 uses a radius of 3 standard deviations along the longest axis, 1.5 a box of
3.33 standard deviations along x and along y. This size decides whether a Gaussian is seen and which tiles it belongs to. Here 1.5's
boxes become radii, and tiles are found from the radius. Blending, its gradients (also `absgrad`) and spherical harmonics are the same
in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import gsplat
import torch
from torch import Tensor

WORKING = "1.4, or 1.5 from 1.5.3 on"
"""The supported versions, for messages; pyproject.toml has the same. 1.5.0 to 1.5.2 lack sources on PyPI and cannot compile."""
EXTENT = 3.33
"""Half a side of 1.5's boxes in standard deviations: beyond it alpha is less than 1/255 for any opacity."""


class Projected(NamedTuple):
    """The outputs of the projection of N Gaussians by one camera. Rows with radius 0 are not written; they hold old memory."""

    radii: Tensor
    """[1, N] int32 pixels; 0: culled."""
    means2d: Tensor
    """[1, N, 2] pixels, in the graph."""
    depths: Tensor
    """[1, N] in the graph."""
    conics: Tensor
    """[1, N, 3] 1/pixel^2, in the graph."""
    compensations: Tensor | None
    """[1, N] in the graph; None if they were not requested."""


class Kernels(NamedTuple):
    """The functions that differ between versions of gsplat."""

    project: Callable[..., Projected]
    """means [N, 3], quats [N, 4], scales [N, 3], viewmat [4, 4], K [3, 3], width, height; keywords eps2d, near_plane, far_plane,
    radius_clip, calc_compensations as gsplat's."""
    tiles: Callable[..., tuple[Tensor, Tensor]]
    """means2d, radii, depths, conics of a projection, tile size, tiles across, tiles down; to offsets int32 [1, down, across] and the
    Gaussians' indices int32 [I], tile by tile, front to back."""


def kernels_of(version: str) -> Kernels:
    """The functions for a version of gsplat.

    Raises:
        ImportError: this version is not known to work.
    """
    numbers = tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])
    if numbers[:2] == (1, 4):
        return Kernels(_project_with_radii, _tiles_of_radii)
    if numbers[:2] == (1, 5) and numbers >= (1, 5, 3):
        return Kernels(_project_with_boxes, _tiles_of_boxes)
    raise ImportError(
        f"gsplat {version} is installed; the CUDA backend works with gsplat {WORKING}: pip install gsplat==1.4.0, "
        "or train on the CPU (--machine.device-type cpu)."
    )


def installed() -> Kernels:
    """The functions for the gsplat that is installed.

    Raises:
        ImportError: this version is not known to work.
    """
    return kernels_of(gsplat.__version__)


def _project_with_radii(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    **kwargs: Any,
) -> Projected:
    return Projected(
        *gsplat.fully_fused_projection(
            means, None, quats, scales, viewmat[None], K[None], width, height, packed=False, **kwargs
        )
    )


def _project_with_boxes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    radius_clip: float,
    calc_compensations: bool,
    **kwargs: Any,
) -> Projected:
    if len(means) == 0:  # its launcher divides by their number, which would end the process
        nothing = means[None, :, 0]
        radii = nothing.to(torch.int32)
        return Projected(
            radii, means[None, :, :2], nothing, means[None], nothing if calc_compensations else None
        )
    boxes, means2d, depths, conics, compensations = _project_with_radii(
        means, quats, scales, viewmat, K, width, height,
        radius_clip=0.0, calc_compensations=calc_compensations, **kwargs,
    )  # fmt: skip
    radii = radii_of_boxes(boxes, means2d, conics, width, height, radius_clip)
    return Projected(radii, means2d, depths, conics, compensations)


@torch.no_grad()
def radii_of_boxes(
    boxes: Tensor, means2d: Tensor, conics: Tensor, width: int, height: int, radius_clip: float
) -> Tensor:
    """gsplat 1.4's radii of the Gaussians that 1.5 projects, 0 for those that 1.4 culls. Gaussians that 1.5 culls stay culled, because
    their alpha is below 1/255 in every pixel.

    Args:
        boxes: [1, N, 2] pixels, 0: culled.
        means2d: [1, N, 2] pixels.
        conics: [1, N, 3] 1/pixel^2.
        width, height: pixels.
        radius_clip: pixels; radii up to this are culled.

    Returns:
        int32 [1, N] pixels. Rounding up may differ by one pixel, for needles by two.
    """
    xx, xy, yy = conics.unbind(-1)
    # The covariance is [[yy, -xy], [-xy, xx]] / det. In float32 little precision is left of a needle's det. Its box still
    # gives its size, because it was rounded up from the variance before the inversion.
    larger, longest = torch.maximum(xx, yy), boxes.amax(-1)
    variance = larger / (xx * yy - xy * xy)
    variance = torch.where(variance > 0, variance, torch.inf)
    variance = torch.minimum(variance, (longest / EXTENT).square())
    variance = torch.maximum(variance, ((longest - 1) / EXTENT).square())
    scale = variance / larger
    middle, half = 0.5 * (xx + yy) * scale, torch.hypot(0.5 * (xx - yy), xy) * scale
    radii = torch.ceil(3 * torch.sqrt(middle + half.clamp(min=0.1)))
    x, y = means2d.unbind(-1)
    # written so that NaN fails every test
    seen = (boxes > 0).all(-1) & (radii > radius_clip)
    seen &= (x + radii > 0) & (x - radii < width) & (y + radii > 0) & (y - radii < height)
    return torch.where(seen, radii.clamp(max=1e9), 0.0).to(torch.int32)


def _tiles_of_radii(
    means2d: Tensor, radii: Tensor, depths: Tensor, conics: Tensor, size: int, across: int, down: int
) -> tuple[Tensor, Tensor]:
    _, keys, indices = gsplat.isect_tiles(means2d, radii, depths, size, across, down, packed=False)
    return gsplat.isect_offset_encode(keys, 1, across, down), indices


def _tiles_of_boxes(
    means2d: Tensor, radii: Tensor, depths: Tensor, conics: Tensor, size: int, across: int, down: int
) -> tuple[Tensor, Tensor]:
    return _tiles_of_radii(means2d, boxes_of_radii(radii, conics), depths, conics, size, across, down)


@torch.no_grad()
def boxes_of_radii(radii: Tensor, conics: Tensor) -> Tensor:
    """The square of a radius, without the part of it in which alpha is below 1/255: the same picture from fewer tiles.

    Args:
        radii: [1, N] pixels.
        conics: [1, N, 3] 1/pixel^2; any finite values for a Gaussian with radius 0.

    Returns:
        int32 [1, N, 2] half sides along x and y, pixels.
    """
    xx, xy, yy = conics.unbind(-1)
    # slightly less than the determinant, so that its rounding does not make a box too small
    det = (xx * yy * (1 - 1e-6) - xy * xy).clamp(min=torch.finfo(conics.dtype).tiny)
    reach = torch.ceil(EXTENT * torch.sqrt(torch.stack([yy, xx], -1) / det[..., None]))
    return torch.minimum(radii[..., None].to(conics.dtype), reach).to(torch.int32)
