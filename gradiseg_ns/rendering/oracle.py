"""The two verbs in plain torch: any device, any float dtype, no kernels, every step differentiated by autograd.

It checks the other backends (in float64) and is a last resort: it is tens of times slower than the CPU kernels. It follows
gsplat 1.4's rules by construction: each 16x16 tile blends the Gaussians whose 3-sigma square touches it, dense over its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import scale_geometry_gradient
from .types import Camera, Gaussians, Projection

TILE = 16
BLUR = 0.3


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] (w, x, y, z), which need not be normalised."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def _ellipses(gaussians: Gaussians, camera: Camera) -> tuple[Tensor, ...]:
    """means2d [N, 2], depths [N], and a, b, c, det [N] of the covariances [[a, b], [b, c]] without blur, and of det with it."""
    viewmat, K = camera.viewmat.to(gaussians.means), camera.K.to(gaussians.means)
    x, y, z = (gaussians.means @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * camera.width / fx, 0.15 * camera.height / fy
    slope_x = torch.minimum(torch.maximum(x / z, -(cx / fx + margin_x)), (camera.width - cx) / fx + margin_x)
    slope_y = torch.minimum(torch.maximum(y / z, -(cy / fy + margin_y)), (camera.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z], -1).reshape(
        -1, 2, 3
    )
    spread = jacobian @ viewmat[:3, :3] @ (rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :])
    covariance = spread @ spread.transpose(1, 2)
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    return means2d, z, a, b, c, (a + BLUR) * (c + BLUR) - b * b


def project(
    gaussians: Gaussians, camera: Camera, *, antialiased: bool, near: float, far: float, radius_clip: float
) -> Projection:
    # The visible Gaussians are found without the graph first, so that a culled Gaussian's NaN does not enter a gradient.
    with torch.no_grad():
        means2d, depths, a, b, c, det = _ellipses(gaussians, camera)
        px, py = means2d.unbind(-1)
        middle = 0.5 * (a + c) + BLUR
        radius = torch.ceil(3 * torch.sqrt(middle + torch.sqrt((middle * middle - det).clamp(min=0.01))))
        # written so that NaN fails every test
        seen = (depths >= near) & (depths <= far) & (det > 0) & torch.isfinite(det) & (radius > radius_clip)
        seen &= (
            (px + radius > 0)
            & (px - radius < camera.width)
            & (py + radius > 0)
            & (py - radius < camera.height)
        )
        seen &= (gaussians.opacities >= 0) & torch.isfinite(gaussians.opacities)
        index = torch.nonzero(seen)[:, 0]
        radii = torch.where(seen, radius.clamp(max=1e9), torch.zeros_like(radius)).int()
    visible = gaussians.map(lambda t: t.index_select(0, index))
    means2d, depths, a, b, c, det = _ellipses(visible, camera)
    opacities = visible.opacities
    if antialiased:
        # where the clamp acts, the root has no slope; 1e-12 is the square of gsplat's guard
        opacities = opacities * torch.sqrt(((a * c - b * b) / det).clamp(min=1e-12))
    conics = torch.stack([c + BLUR, -b, a + BLUR], -1) / det[:, None]

    def all_rows(values: Tensor) -> Tensor:
        return values.new_zeros(len(radii), *values.shape[1:]).index_copy(0, index, values)[None]

    return Projection(
        camera,
        all_rows(means2d),
        radii[None],
        all_rows(depths),
        all_rows(conics),
        all_rows(opacities),
        "torch",
    )


def tile_lists(projection: Projection) -> list[tuple[int, int, int, int, Tensor]]:
    """For each tile x0, x1, y0, y1 (pixels) and the indices of its Gaussians, front to back."""
    means, radii = projection.means2d.detach()[0], projection.radii[0]
    visible = torch.nonzero(radii > 0)[:, 0]
    # sorted in float32, as in gsplat, so that ties have the same order; a stable sort
    depths = projection.depths.detach()[0].index_select(0, visible).float()
    visible = visible.index_select(0, torch.sort(depths, stable=True)[1])
    center = means.index_select(0, visible) / TILE
    extent = radii.index_select(0, visible).to(means.dtype)[:, None] / TILE
    low, high = torch.floor(center - extent), torch.ceil(center + extent)
    lists = []
    for y in range(0, projection.camera.height, TILE):
        for x in range(0, projection.camera.width, TILE):
            tile = low.new_tensor([x // TILE, y // TILE])
            inside = ((low <= tile) & (tile < high)).all(1)
            if projection.tiles is not None:
                inside &= bool(projection.tiles[y // TILE, x // TILE])
            x1, y1 = min(x + TILE, projection.camera.width), min(y + TILE, projection.camera.height)
            lists.append((x, x1, y, y1, visible.index_select(0, torch.nonzero(inside)[:, 0])))
    return lists


def tile_weights(
    projection: Projection,
    tile: tuple[int, int, int, int, Tensor],
    hook: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Blending weights [P, G] of a tile's G Gaussians in its P pixels, and the final transmittance [P].

    `hook` is called in backward with the gradient of the offsets [P, G, 2] between means and pixel centres.
    """
    x0, x1, y0, y1, index = tile
    means = projection.means2d[0].index_select(0, index)
    ys = torch.arange(y0, y1, device=means.device, dtype=means.dtype) + 0.5
    xs = torch.arange(x0, x1, device=means.device, dtype=means.dtype) + 0.5
    pixels = torch.stack([xs.repeat(len(ys)), ys.repeat_interleave(len(xs))], -1)
    offsets = means[None] - pixels[:, None]
    if hook is not None and offsets.requires_grad:
        offsets.register_hook(hook)
    dx, dy = offsets.unbind(-1)
    a, b, c = projection.conics[0].index_select(0, index).unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = torch.clamp(projection.opacities[0].index_select(0, index) * torch.exp(-sigma), max=0.999)
    alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, torch.zeros_like(alpha))
    with torch.no_grad():
        # a pixel stops before the first Gaussian that would take its transmittance to 1e-4
        going = torch.cumprod(1 - alpha, 1) > 1e-4
    alpha = torch.where(going, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, 1)
    before = F.pad(after, (1, 0), value=1.0)
    return alpha * before[:, :-1], before[:, -1]


def rasterize(
    projection: Projection,
    features: Sequence[Tensor],
    *,
    geometry_grad: Sequence[float | Tensor],
    absgrad: bool,
) -> tuple[list[Tensor], Tensor]:
    width, height = projection.camera.width, projection.camera.height
    dtype = projection.means2d.dtype
    features = [f.to(dtype) for f in features]
    means2d = projection.means2d
    collected: list[Tensor] = []

    def collect(index: Tensor) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not collected:
                collected.append(torch.zeros_like(means2d))
                means2d.absgrad = collected[0]  # type: ignore[attr-defined]  # where gsplat leaves it
            collected[0][0].index_add_(0, index, gradient.abs().sum(0))

        return hook

    # of the groups that move each Gaussian by a share of its own
    owns = [scale_geometry_gradient(projection, g) if isinstance(g, Tensor) else None for g in geometry_grad]
    rows: list[list[list[Tensor]]] = [[] for _ in range(len(features) + 1)]
    for tile in tile_lists(projection):
        x0, x1, y0, y1, index = tile
        weights, transmittance = tile_weights(projection, tile, collect(index) if absgrad else None)
        parts = []
        for group, moves, own in zip(features, geometry_grad, owns, strict=True):
            if own is not None:
                blend, _ = tile_weights(own, tile)
            else:
                blend = weights * moves + weights.detach() * (1 - moves)
            parts.append(blend @ group.index_select(0, index))
        for row, part in zip(rows, (*parts, 1 - transmittance[:, None]), strict=True):
            if x0 == 0:
                row.append([])
            row[-1].append(part.reshape(y1 - y0, x1 - x0, -1))
    *maps, alpha = (torch.cat([torch.cat(tiles, 1) for tiles in row], 0) for row in rows)
    assert alpha.shape == (height, width, 1)
    return maps, alpha


def backproject(projection: Projection, maps: Tensor) -> Tensor:
    maps = maps.to(projection.means2d.dtype)
    sums = maps.new_zeros(projection.radii.shape[1], maps.shape[2])
    for tile in tile_lists(projection):
        x0, x1, y0, y1, index = tile
        weights, _ = tile_weights(projection, tile)
        sums.index_add_(0, index, weights.T @ maps[y0:y1, x0:x1].reshape(weights.shape[0], -1))
    return sums


def sh_bases(degree: int, directions: Tensor) -> Tensor:
    """[N, (degree + 1)^2] real spherical harmonics of directions [N, 3], by Sloan's recurrence in x and y (JCGT 2013).

    The form differs from the CPU kernel's polynomials on purpose, so that a test of one by the other means something.
    """
    x, y, z = F.normalize(directions, dim=-1, eps=1e-15).unbind(-1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    # associated Legendre functions without their sin^m factor (it is in cosines and sines), Condon-Shortley sign included
    legendre: dict[tuple[int, int], Tensor] = {}
    for m in range(degree + 1):
        legendre[m, m] = torch.full_like(z, (-1.0) ** m * math.prod(range(1, 2 * m, 2)))
        for order in range(m + 1, degree + 1):
            lower = legendre.get((order - 2, m), torch.zeros_like(z))
            legendre[order, m] = ((2 * order - 1) * z * legendre[order - 1, m] - (order + m - 1) * lower) / (
                order - m
            )
    bases = []
    for order in range(degree + 1):
        for m in range(-order, order + 1):
            k = abs(m)
            norm = math.sqrt(
                (2 * order + 1) / (4 * math.pi) * math.factorial(order - k) / math.factorial(order + k)
            )
            angular = torch.ones_like(z) if m == 0 else math.sqrt(2) * (cosines[k] if m > 0 else sines[k])
            bases.append(norm * legendre[order, k] * angular)
    return torch.stack(bases, -1)


def spherical_harmonics(degree: int, directions: Tensor, coeffs: Tensor, mask: Tensor | None) -> Tensor:
    bases = sh_bases(degree, directions)
    colors = (bases[..., None] * coeffs[:, : bases.shape[1]]).sum(1)
    return colors if mask is None else torch.where(mask[:, None], colors, torch.zeros_like(colors))
