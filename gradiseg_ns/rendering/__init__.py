"""The two verbs: features go from Gaussians to pixels (`render`) and back with the same weights (`backproject`).

In: the geometry of N Gaussians (`Gaussians`), one `Camera`, features [N, C] or maps [H, W, C]. Out: maps [H, W, C] and
alpha [H, W, 1], or sums [N, C]. `project` and `rasterize` are `render` in two steps: one projection serves several groups of
features. `transpose` is `backproject` of a projection. Rendering never changes its inputs. This room imports no other room.

Two backends follow the same rules (those of gsplat 1.4): gsplat for CUDA tensors, our kernels for CPU tensors. A third, plain
torch, is the slow oracle that the tests compare with. GRADISEG_BACKEND=auto|gsplat|cpu|torch overrides the choice.
GRADISEG_NUM_THREADS or `set_num_threads` sets the number of threads of the CPU kernels. numba and gsplat are imported at first use.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from .gradients import scale_geometry_gradient, scale_gradient
from .types import Camera, Gaussians, Projection

__all__ = [
    "TILE",
    "Camera",
    "Gaussians",
    "Projection",
    "backproject",
    "crop",
    "default_backend",
    "depth",
    "expected",
    "only",
    "project",
    "rasterize",
    "reaching",
    "render",
    "scale_geometry_gradient",
    "scale_gradient",
    "set_num_threads",
    "spherical_harmonics",
    "transpose",
]

TILE = 16
"""Side of a tile, in pixels."""
_MODULES = {"gsplat": "gsplat_backend", "cpu": "cpu_backend", "torch": "oracle"}


def default_backend(tensor: Tensor) -> str:
    """The default backend for a tensor: that of GRADISEG_BACKEND if it is set, else "gsplat" on CUDA and "cpu" elsewhere.

    Raises:
        ValueError: GRADISEG_BACKEND is none of auto, gsplat, cpu, torch.
    """
    wanted = os.environ.get("GRADISEG_BACKEND", "") or "auto"
    if wanted not in ("auto", *_MODULES):
        raise ValueError(
            f"GRADISEG_BACKEND is {wanted!r}: expected auto, gsplat, cpu or torch; unset it or correct it."
        )
    if wanted == "auto":
        return "gsplat" if tensor.is_cuda else "cpu"
    return wanted


def _backend(name: str, tensor: Tensor) -> ModuleType:
    """The module of a backend, after a check that it accepts the tensor."""
    if name == "auto":
        name = default_backend(tensor)
    if name not in _MODULES:
        raise ValueError(f"backend is {name!r}: expected auto, gsplat, cpu or torch.")
    if name == "gsplat" and not tensor.is_cuda:
        raise ValueError(
            f"The gsplat backend needs CUDA tensors, these are on {tensor.device}: move them to a CUDA device, or use "
            "backend 'auto' or 'cpu' (unset GRADISEG_BACKEND if it is set)."
        )
    if name == "cpu" and tensor.device.type != "cpu":
        raise ValueError(
            f"The cpu backend needs CPU tensors, these are on {tensor.device}: call .cpu() on them, or use backend 'auto' "
            "or 'gsplat' (unset GRADISEG_BACKEND if it is set)."
        )
    return importlib.import_module(f".{_MODULES[name]}", __name__)


def _check_shape(name: str, tensor: Tensor, expected: tuple[int | str, ...]) -> None:
    fits = tensor.dim() == len(expected) and all(
        isinstance(e, str) or e == s for e, s in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(e) for e in expected)
        raise ValueError(f"{name} has shape {list(tensor.shape)}: expected [{wanted}].")


def set_num_threads(count: int | None) -> None:
    """Number of threads of the CPU backend; None: GRADISEG_NUM_THREADS, else `torch.get_num_threads()`.

    Raises:
        ValueError: `count` is less than 1.
    """
    from .cpu import threads

    threads.set_num_threads(count)


def project(
    gaussians: Gaussians,
    camera: Camera,
    *,
    near: float = 0.01,
    far: float = 1e10,
    radius_clip: float = 0.0,
    backend: str = "auto",
) -> Projection:
    """Projects Gaussians to ellipses in the image (EWA splatting, 0.3 px^2 of blur, as gsplat).

    Args:
        gaussians: N Gaussians; N may be 0.
        camera: pinhole camera.
        near, far: world units; Gaussians are culled if the depth of their centre is outside this range.
        radius_clip: pixels; Gaussians with a radius (3 sigma) up to this are culled.
        backend: "auto" (by device, see `default_backend`), "gsplat", "cpu" or "torch".

    Returns:
        The projection, in the graph of the Gaussians. A Gaussian with a value that is not finite, or with a quaternion of zeros,
        is culled and gets no gradient from the CPU backends.

    Raises:
        ValueError: a shape does not fit, or the backend does not accept tensors of this device.
    """
    n = len(gaussians)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": ()}
    for (name, last), tensor in zip(shapes.items(), gaussians.tensors, strict=True):
        _check_shape(name, tensor, (n, *last))
    _check_shape("viewmat", camera.viewmat, (4, 4))
    _check_shape("K", camera.K, (3, 3))
    if camera.width < 1 or camera.height < 1:
        raise ValueError(
            f"The camera's image is {camera.width}x{camera.height} pixels: expected at least 1x1."
        )
    module = _backend(backend, gaussians.means)
    return module.project(
        gaussians,
        camera._replace(width=int(camera.width), height=int(camera.height)),
        antialiased=gaussians.antialiased,
        near=float(near),
        far=float(far),
        radius_clip=float(radius_clip),
    )


def crop(projection: Projection, x: int, y: int, width: int = 1, height: int = 1) -> Projection:
    """A part of a picture, blended exactly as in the whole picture.

    A camera for the part alone would give another result: the approximation of a Gaussian's ellipse depends on the picture's
    edges.

    Args:
        projection: of the whole picture.
        x, y: the part's upper left pixel.
        width, height: pixels.
    """
    K = projection.camera.K.clone()
    K[0, 2] -= x
    K[1, 2] -= y
    means2d = projection.means2d - projection.means2d.new_tensor([x, y])
    camera = projection.camera._replace(K=K, width=width, height=height)
    return dataclasses.replace(projection, camera=camera, means2d=means2d, tiles=None, _state=None)


def only(projection: Projection, tiles: Tensor) -> Projection:
    """The same picture with only some of its tiles of 16x16 pixels: the others are empty (maps and alpha 0, no gradient).

    In the tiles that are left, values and gradients are those of the whole picture, bit by bit. The CPU kernels do not touch the
    others, so it costs less; gsplat blends all and drops them.

    Args:
        projection: of the whole picture.
        tiles: bool [rows, columns] of the tiles, H / 16 and W / 16 rounded up.

    Raises:
        ValueError: it has another shape.
    """
    camera = projection.camera
    _check_shape("tiles", tiles, (-(-camera.height // TILE), -(-camera.width // TILE)))
    return dataclasses.replace(projection, tiles=tiles.bool().cpu(), _state=None)


@torch.no_grad()
def reaching(projection: Projection, tiles: Tensor, side: int = TILE) -> Tensor:
    """The Gaussians whose square of 3 sigma touches one of some tiles, bool [N]: no other one is seen in them.

    Args:
        projection: of N Gaussians.
        tiles: bool [rows, columns], as for :func:`only`.
        side: of a tile in pixels of this projection, if it is of a smaller picture.
    """
    down, across = tiles.shape
    radii, means = projection.radii[0], projection.means2d[0]
    limit = means.new_tensor([across, down])
    low = ((means - radii[:, None]) / side).floor().clamp(min=0).minimum(limit).long()
    high = ((means + radii[:, None]) / side).ceil().clamp(min=0).minimum(limit).long()
    # How many of the tiles are in the rectangle above and to the left of each corner.
    sums = torch.zeros(down + 1, across + 1, dtype=torch.int64, device=means.device)
    sums[1:, 1:] = tiles.to(means.device, torch.int64).cumsum(0).cumsum(1)
    (left, top), (right, bottom) = low.unbind(-1), high.unbind(-1)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return (radii > 0) & (inside > 0)


def rasterize(
    projection: Projection,
    features: Sequence[Tensor],
    *,
    geometry_grad: Sequence[float | Tensor] | None = None,
    absgrad: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """Blends groups of features front to back, all with the same weights.

    Args:
        projection: of N Gaussians.
        features: groups [N, C_k], C_k >= 1.
        geometry_grad: for each group, the share of its map's gradient that reaches means2d, conics and opacities: True or 1 is
            all of it, False or 0 none, 0.1 a tenth. A tensor [N] is a share for each Gaussian; one such tensor may stand for several
            groups. The features always get the whole gradient. None: 1 for all groups. The gradient of alpha always reaches the
            geometry.
        absgrad: set `projection.means2d.absgrad` in the backward pass. It is assigned, not accumulated: request it in only
            one rasterisation of a projection.

    Returns:
        The maps [H, W, C_k] without a background, and alpha [H, W, 1] = 1 - (transmittance after the last Gaussian).

    Raises:
        ValueError: a group has another N than the projection or no channels; or geometry_grad has another length, two different
            tensors, a tensor of another shape, or a tensor together with absgrad.
    """
    n = projection.radii.shape[1]
    if geometry_grad is None:
        geometry_grad = [1.0] * len(features)
    if len(geometry_grad) != len(features):
        raise ValueError(
            f"geometry_grad has {len(geometry_grad)} entries for {len(features)} groups of features."
        )
    if not features:
        raise ValueError("rasterize: features is empty, expected at least one group [N, C].")
    for k, group in enumerate(features):
        _check_shape(f"features[{k}]", group, (n, "C"))
        if group.shape[1] == 0:
            raise ValueError(f"features[{k}] has no channels: expected [{n}, C] with C >= 1.")
    own = [share for share in geometry_grad if isinstance(share, Tensor)]
    for share in own:
        _check_shape("geometry_grad", share, (n,))
    if own and (absgrad or any(share is not own[0] for share in own)):
        raise ValueError(
            "rasterize: geometry_grad has shares for each Gaussian, expected one tensor for all groups and no absgrad."
        )
    shares = [g.detach() if isinstance(g, Tensor) else float(g) for g in geometry_grad]
    module = _backend(projection.backend, projection.means2d)
    return module.rasterize(projection, features, geometry_grad=shares, absgrad=absgrad)


def render(
    gaussians: Gaussians,
    camera: Camera,
    features: Tensor,
    *,
    background: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The first verb: blends features [N, C] of Gaussians into maps [H, W, C], and gives alpha [H, W, 1].

    Pixel p gets sum_i w_i(p) f_i + (1 - alpha(p)) background, w_i = alpha_i prod_{j before i} (1 - alpha_j).

    Args:
        background: [C], or None for zero.

    Raises:
        ValueError: as `project` and `rasterize`.
    """
    projection = project(gaussians, camera, backend=backend)
    (maps,), alpha = rasterize(projection, [features])
    if background is not None:
        _check_shape("background", background, (features.shape[1],))
        maps = maps + (1 - alpha) * background.to(maps)
    return maps, alpha


def expected(maps: Tensor, alpha: Tensor) -> Tensor:
    """The weighted mean of the features in each pixel: maps [H, W, C] divided by alpha [H, W, 1]; 0 in empty pixels."""
    return maps / alpha.clamp(min=1e-10)


def depth(projection: Projection) -> tuple[Tensor, Tensor]:
    """Expected depth [H, W] in world units (0 in empty pixels), and alpha [H, W]."""
    (maps,), alpha = rasterize(projection, [projection.depths[0][:, None]])
    return expected(maps, alpha)[..., 0], alpha[..., 0]


@torch.no_grad()
def backproject(
    gaussians: Gaussians,
    camera: Camera,
    maps: Tensor,
    *,
    backend: str = "auto",
    projection: Projection | None = None,
) -> Tensor:
    """The second verb, the transpose of `render`: maps [H, W, C] to sums [N, C], sums_i = sum_p w_i(p) maps(p).

    It equals the gradient of (render(f) * maps).sum() with respect to f. It records no graph and takes any number of channels.

    Args:
        projection: of these Gaussians and this camera, if it already exists; then `backend` is ignored.

    Raises:
        ValueError: as `project`; or the maps have another size than the camera.
    """
    if projection is None:
        projection = project(gaussians, camera, backend=backend)
    return transpose(projection, maps)


@torch.no_grad()
def transpose(projection: Projection, maps: Tensor) -> Tensor:
    """The transpose of `rasterize` for one group: `backproject` of Gaussians that are already projected.

    Raises:
        ValueError: the maps have another size than the camera.
    """
    _check_shape("maps", maps, (projection.camera.height, projection.camera.width, "C"))
    return _backend(projection.backend, maps).backproject(projection, maps)


def spherical_harmonics(
    degree: int, directions: Tensor, coeffs: Tensor, *, mask: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """Colours from spherical harmonics, as gsplat's: without the 0.5 that 3DGS adds, not clamped.

    Args:
        degree: 0 to 4; coefficients above it are not used (their gradient is zero).
        directions: [N, 3] from the camera to the Gaussian; need not be normalised.
        coeffs: [N, K, 3] with K >= (degree + 1)^2.
        mask: [N] bool; where false the colour is 0 and nothing is computed.

    Returns:
        colours [N, 3], with gradients to coeffs and directions.

    Raises:
        ValueError: a shape or the degree does not fit.
    """
    if not 0 <= degree <= 4:
        raise ValueError(f"spherical_harmonics: degree is {degree}, expected 0 to 4.")
    n = directions.shape[0]
    _check_shape("directions", directions, (n, 3))
    _check_shape("coeffs", coeffs, (n, "K", 3))
    if coeffs.shape[1] < (degree + 1) ** 2:
        raise ValueError(f"coeffs has {coeffs.shape[1]} bases: degree {degree} needs {(degree + 1) ** 2}.")
    if mask is not None:
        _check_shape("mask", mask, (n,))
    return _backend(backend, directions).spherical_harmonics(degree, directions, coeffs, mask)
