"""The CUDA backend on each gsplat that works: that version's own Python, over a stand-in for its compiled module.

The stand-in takes what the kernels take (their headers are read), checks types and layouts as they do, follows their rules in plain torch on
the CPU and leaves unwritten what they leave unwritten. So everything is tested but the kernels. `scripts/gsplat_versions.sh VERSION`
runs this file with another gsplat than the installed one; the slow test at its end does so for all.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

gsplat = pytest.importorskip("gsplat")

from gradiseg_ns import rendering  # noqa: E402
from gradiseg_ns.grouping.densification import GradisegStrategy  # noqa: E402
from gradiseg_ns.rendering import Camera, Gaussians, Projection, gsplat_backend, gsplat_versions, oracle  # noqa: E402

from .scenes import (  # noqa: E402
    GEOMETRY,
    assert_alike,
    random_camera,
    random_gaussians,
    relative_error,
    run,
    scenes_without_ties,
)

ROOT = Path(__file__).parents[2]
BOXES = not gsplat.__version__.startswith("1.4")
"""Whether the gsplat under test measures Gaussians by boxes."""
VERSIONS = ("1.4.0", "1.5.3")
NO_NETWORK = 75
"""What the script exits with when a version cannot be downloaded."""


# ----------------------------------------------------------------------------------------------- the compiled module


def _taken(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """As the kernels check and read what they are handed."""
    assert isinstance(tensor, Tensor) and tensor.is_contiguous() and tensor.dtype == dtype, tensor
    return tensor.detach()


def _unwritten(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan)


def _ellipses(
    geometry: Sequence[Tensor], viewmat: Tensor, K: Tensor, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """means2d, depths, conics, compensations, and the variances along x and y with blur, and their determinant."""
    gaussians = Gaussians(*geometry, torch.ones(len(geometry[0])))
    means2d, depths, a, b, c, det = oracle._ellipses(gaussians, Camera(viewmat, K, *size))
    compensations = torch.sqrt(((a * c - b * b) / det).clamp(min=1e-12))
    a, c = a + oracle.BLUR, c + oracle.BLUR
    return means2d, depths, torch.stack([c, -b, a], -1) / det[:, None], compensations, a, c, det


def _project(geometry, viewmats, Ks, size, eps2d, near, far, clip, compensate) -> tuple[Tensor | None, ...]:
    means, quats, scales, view, K = (_taken(t) for t in (*geometry, viewmats, Ks))
    count = len(means)
    assert eps2d == oracle.BLUR and view.shape == (1, 4, 4) and K.shape == (1, 3, 3)
    assert count or not BOXES, "1.5's launcher divides by the number of Gaussians"
    means2d, depths, conics, compensations, a, c, det = _ellipses((means, quats, scales), view[0], K[0], size)
    if BOXES:
        reach = torch.ceil(3.33 * torch.sqrt(torch.stack([a, c], -1)))
    else:
        middle = 0.5 * (a + c)
        radius = torch.ceil(3 * torch.sqrt(middle + torch.sqrt((middle * middle - det).clamp(min=0.01))))
        reach = torch.stack([radius, radius], -1)
    # the kernels' tests, which NaN passes
    limits = torch.tensor(size)
    culled = (depths < near) | (depths > far) | (det <= 0) | (reach <= clip).all(-1)
    culled |= (means2d + reach <= 0).any(-1) | (means2d - reach >= limits).any(-1)
    rows = torch.nonzero(~culled)[:, 0]
    radii = torch.zeros(1, count, 2, dtype=torch.int32)
    radii[0, rows] = reach[rows].nan_to_num(1).clamp(max=2e9).int()
    outputs = [_unwritten(1, count, 2), _unwritten(1, count), _unwritten(1, count, 3), torch.zeros(1, count)]
    for output, values in zip(outputs, (means2d, depths, conics, compensations), strict=True):
        output[0, rows] = values[rows]
    return radii if BOXES else radii[..., 0].contiguous(), *outputs[:3], outputs[3] if compensate else None


def _project_backward(geometry, viewmats, Ks, size, radii, gradients, of_view) -> tuple[Tensor | None, ...]:
    radii = _taken(radii, torch.int32).reshape(1, len(geometry[0]), 2 if BOXES else 1)
    gradients = [None if g is None else _taken(g)[0] for g in gradients]
    rows = torch.nonzero((radii[0] > 0).all(-1))[:, 0]
    found = [torch.zeros_like(t) for t in (*geometry, viewmats)]
    with torch.enable_grad():
        leaves = [_taken(t)[rows].clone().requires_grad_() for t in geometry]
        view = _taken(viewmats)[0].clone().requires_grad_()
        values = _ellipses(leaves, view, Ks[0], size)[:4]
        loss = sum((v * g[rows]).sum() for v, g in zip(values, gradients, strict=True) if g is not None)
        *grads, v_view = torch.autograd.grad(loss, [*leaves, view])
    for target, value in zip(found, grads, strict=False):
        target[rows] = value
    found[3][0] = v_view
    return found[0], None, found[1], found[2], found[3] if of_view else None


def fully_fused_projection_fwd(
    means, covars, quats, scales, viewmats, Ks, image_width, image_height, eps2d, near_plane, far_plane, radius_clip,
    calc_compensations, camera_model,
):  # fmt: skip
    assert covars is None and camera_model == "pinhole"
    size, limits = (image_width, image_height), (eps2d, near_plane, far_plane, radius_clip)
    return _project((means, quats, scales), viewmats, Ks, size, *limits, calc_compensations)


def projection_ewa_3dgs_fused_fwd(
    means, covars, quats, scales, opacities, viewmats, Ks, image_width, image_height, eps2d, near_plane, far_plane,
    radius_clip, calc_compensations, camera_model,
):  # fmt: skip
    assert covars is None and opacities is None and camera_model == "pinhole"
    size, limits = (image_width, image_height), (eps2d, near_plane, far_plane, radius_clip)
    return _project((means, quats, scales), viewmats, Ks, size, *limits, calc_compensations)


def fully_fused_projection_bwd(
    means, covars, quats, scales, viewmats, Ks, image_width, image_height, eps2d, camera_model, radii, conics,
    compensations, v_means2d, v_depths, v_conics, v_compensations, viewmats_requires_grad,
):  # fmt: skip
    gradients = (v_means2d, v_depths, v_conics, v_compensations)
    size = (image_width, image_height)
    return _project_backward(
        (means, quats, scales), viewmats, Ks, size, radii, gradients, viewmats_requires_grad
    )


def isect_tiles(
    means2d, radii, depths, camera_ids, gaussian_ids, C, tile_size, tile_width, tile_height, sort, double_buffer
):  # fmt: skip
    assert C == 1 and camera_ids is None and gaussian_ids is None and sort
    points, deep = _taken(means2d)[0], _taken(depths)[0]
    assert radii.dim() == (3 if BOXES else 2)
    reach = _taken(radii, torch.int32).reshape(len(points), 2 if BOXES else 1).expand(-1, 2)
    limits = torch.tensor([tile_width, tile_height])
    seen = torch.nonzero((reach > 0).all(-1))[:, 0]
    assert torch.isfinite(points[seen]).all() and torch.isfinite(deep[seen]).all()
    low, high = torch.zeros_like(points).long(), torch.zeros_like(points).long()
    low[seen] = torch.floor((points - reach) / tile_size)[seen].long().clamp(min=0).minimum(limits)
    high[seen] = torch.ceil((points + reach) / tile_size)[seen].long().clamp(min=0).minimum(limits)
    keys, rows = [], []
    for tile in range(tile_width * tile_height):
        place = torch.tensor([tile % tile_width, tile // tile_width])
        here = torch.nonzero(((low <= place) & (place < high)).all(-1))[:, 0]
        keys.append((tile << 32) | deep[here].view(torch.int32).long())
        rows.append(here.int())
    order = torch.argsort(torch.cat(keys), stable=True)
    counts = (high - low).prod(-1).int()[None]
    return counts, torch.cat(keys)[order], torch.cat(rows)[order]


def intersect_tile(
    means2d, radii, depths, image_ids, gaussian_ids, I, tile_size, tile_width, tile_height, sort, segmented
):  # fmt: skip
    assert not segmented
    return isect_tiles(
        means2d, radii, depths, image_ids, gaussian_ids, I, tile_size, tile_width, tile_height, sort, True
    )


def isect_offset_encode(isect_ids, C, tile_width, tile_height):
    tiles = torch.arange(tile_width * tile_height)
    offsets = torch.searchsorted(_taken(isect_ids, torch.int64) >> 32, tiles)
    return offsets.int().reshape(C, tile_height, tile_width)


def intersect_offset(isect_ids, I, tile_width, tile_height):
    return isect_offset_encode(isect_ids, I, tile_width, tile_height)


def _blend(
    geometry: Sequence[Tensor], colors: Tensor, camera: Camera, offsets: Tensor, ids: Tensor, hook: Any = None
) -> tuple[Tensor, Tensor]:
    """From the lists that were made, tile by tile."""
    means2d, conics, opacities = geometry
    nothing = torch.zeros(1, means2d.shape[1])
    projection = Projection(camera, means2d, nothing.int(), nothing, conics, opacities, "torch")
    bounds = [*offsets.flatten().tolist(), len(ids)]
    down, across = offsets.shape[1:]
    maps, alphas = [], []
    for tile in range(down * across):
        x, y = tile % across * oracle.TILE, tile // across * oracle.TILE
        index = ids[bounds[tile] : bounds[tile + 1]].long()
        x1, y1 = min(x + oracle.TILE, camera.width), min(y + oracle.TILE, camera.height)
        weights, left = oracle.tile_weights(projection, (x, x1, y, y1, index), hook and hook(index))
        shape = (y1 - y, x1 - x, -1)
        maps.append((weights @ colors[0].index_select(0, index)).reshape(shape))
        alphas.append((1 - left).reshape(shape))

    def whole(parts: list[Tensor]) -> Tensor:
        rows = [torch.cat(parts[i : i + across], 1) for i in range(0, len(parts), across)]
        return torch.cat(rows, 0)[None]

    return whole(maps), whole(alphas)


def rasterize_to_pixels_fwd(
    means2d, conics, colors, opacities, backgrounds, masks, image_width, image_height, tile_size, tile_offsets, flatten_ids
):  # fmt: skip
    assert backgrounds is None and masks is None and tile_size == oracle.TILE
    geometry = [_taken(t) for t in (means2d, conics, opacities)]
    offsets, ids = _taken(tile_offsets, torch.int32), _taken(flatten_ids, torch.int32)
    camera = Camera(torch.eye(4), torch.eye(3), image_width, image_height)
    maps, alphas = _blend(geometry, _taken(colors), camera, offsets, ids)
    return maps, alphas, torch.zeros(1, image_height, image_width, dtype=torch.int32)


def rasterize_to_pixels_bwd(
    means2d, conics, colors, opacities, backgrounds, masks, image_width, image_height, tile_size, tile_offsets, flatten_ids,
    render_alphas, last_ids, v_render_colors, v_render_alphas, absgrad,
):  # fmt: skip
    absolute = torch.zeros_like(means2d)

    def hook(index: Tensor) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            absolute[0].index_add_(0, index, gradient.abs().sum(0))

        return add

    with torch.enable_grad():
        leaves = [_taken(t).clone().requires_grad_() for t in (means2d, conics, opacities, colors)]
        camera = Camera(torch.eye(4), torch.eye(3), image_width, image_height)
        maps, alphas = _blend(leaves[:3], leaves[3], camera, tile_offsets, flatten_ids, hook)
        loss = (maps * _taken(v_render_colors)).sum() + (alphas * _taken(v_render_alphas)).sum()
        grads = torch.autograd.grad(loss, leaves)
    return absolute if absgrad else None, grads[0], grads[1], grads[3], grads[2]


def compute_sh_fwd(degrees_to_use, dirs, coeffs, masks):
    colors = oracle.spherical_harmonics(degrees_to_use, _taken(dirs), _taken(coeffs), None)
    return colors if masks is None else torch.where(_taken(masks, torch.bool)[:, None], colors, torch.nan)


def compute_sh_bwd(K, degrees_to_use, dirs, coeffs, masks, v_colors, compute_v_dirs):
    assert coeffs.shape[1] == K
    with torch.enable_grad():
        leaves = [_taken(t).clone().requires_grad_() for t in (dirs, coeffs)]
        colors = oracle.spherical_harmonics(degrees_to_use, *leaves, masks)
        grads = torch.autograd.grad(colors, leaves, _taken(v_colors), allow_unused=True)
    v_dirs, v_coeffs = (torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True))
    return v_coeffs, v_dirs if compute_v_dirs else None


_SAME = {
    "projection_ewa_3dgs_fused_bwd": fully_fused_projection_bwd,
    "rasterize_to_pixels_3dgs_fwd": rasterize_to_pixels_fwd,
    "rasterize_to_pixels_3dgs_bwd": rasterize_to_pixels_bwd,
    "spherical_harmonics_fwd": compute_sh_fwd,
    "spherical_harmonics_bwd": compute_sh_bwd,
}
KERNELS: dict[str, Callable[..., Any]] = (
    {f.__name__: f for f in (projection_ewa_3dgs_fused_fwd, intersect_tile, intersect_offset)} | _SAME
    if BOXES
    else {
        f.__name__: f
        for f in (
            *(fully_fused_projection_fwd, fully_fused_projection_bwd, isect_tiles, isect_offset_encode),
            *(rasterize_to_pixels_fwd, rasterize_to_pixels_bwd, compute_sh_fwd, compute_sh_bwd),
        )
    }
)


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """gsplat's Python over the stand-in, and the backend "gsplat" for tensors on the CPU."""
    module = SimpleNamespace(**KERNELS, CameraModelType=SimpleNamespace(PINHOLE="pinhole"), PINHOLE="pinhole")
    loader = ModuleType("gsplat.cuda._backend")
    loader._C = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, loader.__name__, loader)
    chosen = rendering._backend
    monkeypatch.setattr(
        rendering, "_backend", lambda name, t: gsplat_backend if name == "gsplat" else chosen(name, t)
    )
    yield


# ------------------------------------------------------------------------------------------------------------- tests


def test_the_version_under_test_is_the_one_asked_for():
    assert gsplat.__version__.split("+")[0] == os.environ.get(
        "GSPLAT_UNDER_TEST", gsplat.__version__.split("+")[0]
    )


def test_the_stand_in_takes_what_the_kernels_take():
    folder = Path(gsplat.__file__).parent / "cuda"
    header = (folder / ("include/Ops.h" if BOXES else "csrc/bindings.h")).read_text()
    header = re.sub(r"//[^\n]*", "", header)
    for name, function in KERNELS.items():
        declared = re.search(rf"\b{name}{'' if BOXES else '_tensor'}\(([^)]*)\)", header)
        assert declared, f"gsplat {gsplat.__version__} has no {name}"
        names = [part.split()[-1].lstrip("&*") for part in declared[1].split(",")]
        ours = list(inspect.signature(function).parameters)
        if function in _SAME.values() or name.startswith("rasterize"):
            names = ["masks" if n == "mask" else n for n in names]
        assert names == ours, name


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("radius_clip", [0.0, 4.0])
def test_projection_agrees_with_the_cpus(antialiased: bool, radius_clip: float):
    for seed in scenes_without_ties(4, antialiased=antialiased):
        gaussians, camera = random_gaussians(120, seed), random_camera(seed=seed)
        ours, theirs = (
            rendering.project(
                replace(gaussians, antialiased=antialiased), camera, radius_clip=radius_clip, backend=name
            )
            for name in ("cpu", "gsplat")
        )
        assert theirs.radii.dtype == torch.int32 and theirs.radii.shape == (1, 120)
        seen = theirs.radii[0] > 0
        # what only 1.5 culls draws nothing
        lost = (ours.radii[0] > 0) & ~seen
        drawn = rendering.transpose(ours, torch.ones(camera.height, camera.width, 1))[:, 0]
        assert not lost.any() or (BOXES and not drawn[lost].any())
        assert torch.equal(theirs.radii[0, seen], ours.radii[0, seen])
        for name in ("means2d", "depths", "conics", "opacities"):
            value, expected = (getattr(p, name)[0][seen] for p in (theirs, ours))
            assert value.dtype == torch.float32 and relative_error(value, expected) < 1e-5, name
        assert all(
            torch.isfinite(t).all() for t in (theirs.means2d, theirs.depths, theirs.conics, theirs.opacities)
        )


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(
    ("sizes", "geometry_grad"),
    [
        ([3, 16], [True, False]),
        ([3, 16], [True, True]),
        ([3, 7], [False, False]),
        ([40], [False]),
        ([3, 16], [1.0, "own"]),
    ],
)
def test_maps_gradients_and_absgrad_agree_with_the_cpus(
    sizes: list[int], geometry_grad: list[float | str], antialiased: bool
):
    for seed in scenes_without_ties(2, antialiased=antialiased):
        scene = random_gaussians(120, seed), random_camera(seed=seed), sizes, geometry_grad
        ours, theirs = (run(*scene, name, antialiased=antialiased) for name in ("cpu", "gsplat"))
        assert_alike(theirs, ours, 1e-4)


def test_backproject_and_a_part_of_a_picture_agree_with_the_cpus():
    (seed,) = scenes_without_ties(1)
    gaussians, camera = random_gaussians(120, seed), random_camera(seed=seed)
    features, maps = torch.randn(120, 5), torch.randn(camera.height, camera.width, 45)
    results = []
    for name in ("cpu", "gsplat"):
        projection = rendering.project(gaussians, camera, backend=name)
        part = rendering.crop(projection, 13, 7, 30, 21)
        (picture,), alpha = rendering.rasterize(part, [features])
        sums = rendering.backproject(gaussians, camera, maps, backend=name)
        tiles = torch.arange(20).reshape(4, 5) % 3 == 0
        some = rendering.only(projection, tiles)
        (few,), solid = rendering.rasterize(some, [features])
        back = rendering.transpose(some, maps)
        assert (
            float((few[:16, 16:48].abs() + solid[:16, 16:48]).max()) == 0 < float(few[:16, :16].abs().max())
        )
        results.append((picture, alpha, sums, few, solid, back))
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(theirs, ours) < 1e-4


def test_no_gaussians_and_none_that_is_seen():
    camera = random_camera()
    for count in (0, 20):
        gaussians = random_gaussians(20).map(lambda t, count=count: t[:count].clone().requires_grad_())
        away = replace(gaussians, means=gaussians.means - torch.tensor([0, 0, 100.0]))
        for antialiased in (False, True):
            maps, alpha = rendering.render(
                replace(away, antialiased=antialiased), camera, torch.ones(count, 3), backend="gsplat"
            )
            (maps.sum() + alpha.sum()).backward()
            assert maps.shape == (52, 70, 3) and not maps.any() and not alpha.any()
        assert rendering.backproject(away, camera, maps.detach(), backend="gsplat").shape == (count, 3)


def test_a_bad_gaussian_harms_no_other():
    gaussians, camera = random_gaussians(60), random_camera()
    expected, _ = rendering.render(
        gaussians.map(lambda t: t[:59]), camera, torch.ones(59, 3), backend="gsplat"
    )
    for field in GEOMETRY:
        spoilt = replace(gaussians, **{field: getattr(gaussians, field).clone()})
        getattr(spoilt, field)[-1] = torch.nan
        maps, _ = rendering.render(spoilt, camera, torch.ones(60, 3), backend="gsplat")
        assert torch.isfinite(maps).all() and relative_error(maps, expected) < 1e-5, field


@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics_agree_with_the_cpus(degree: int):
    directions, coeffs, mask = torch.randn(100, 3), torch.randn(100, 25, 3), torch.rand(100) > 0.3
    results = []
    for name in ("cpu", "gsplat"):
        d, c = (t.clone().requires_grad_() for t in (directions, coeffs))
        colors = rendering.spherical_harmonics(degree, d, c, mask=mask, backend=name)
        colors.square().sum().backward()
        results.append((colors.detach(), c.grad, torch.zeros(100, 3) if d.grad is None else d.grad))
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).norm()) < 1e-4 * max(float(ours.norm()), 1.0)


# 1.5's boxes and 1.4's radii: arithmetic, whichever version is installed


def _needles(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ellipses of 1 to 10^5 times as long as wide: conics [1, N, 3] in float32, and in float64 their variances along x and y and the
    larger of those along their own axes."""
    generator = torch.Generator().manual_seed(seed)
    longest = 10 ** (6 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.5)
    shortest = (longest * 10 ** (-10 * torch.rand(count, generator=generator, dtype=torch.float64))).clamp(
        min=0.3
    )
    angle = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    larger, smaller = torch.maximum(longest, shortest), torch.minimum(longest, shortest)
    xx, yy = larger * c * c + smaller * s * s, larger * s * s + smaller * c * c
    xy = (larger - smaller) * c * s
    conics = torch.stack([yy, -xy, xx], -1) / (larger * smaller)[:, None]
    return conics.float()[None], xx, yy, larger


def test_radii_of_boxes_are_those_of_circles():
    conics, xx, yy, larger = _needles(20_000, 1)
    boxes = torch.ceil(3.33 * torch.sqrt(torch.stack([xx, yy], -1))).int()[None]
    means2d = torch.zeros(1, 20_000, 2)
    radii = gsplat_versions.radii_of_boxes(boxes, means2d, conics, 64, 64, 0.0)[0].double()
    middle = 0.5 * (xx + yy)
    expected = torch.ceil(3 * torch.sqrt(middle + (larger - middle).clamp(min=0.1)))
    wrong = (radii - expected).abs()
    assert (wrong <= 2).all() and (wrong <= 1).double().mean() > 0.999 and (wrong == 0).double().mean() > 0.95
    round_ones = torch.tensor([[[0.5, 0.0, 0.5]]])  # variance 2: 1.4 adds 0.1
    assert gsplat_versions.radii_of_boxes(
        torch.tensor([[[5, 5]]]), torch.zeros(1, 1, 2), round_ones, 64, 64, 0.0
    ).item() == math.ceil(3 * math.sqrt(2.1))


def test_what_1_4_culls_has_no_radius():
    conics = torch.tensor(
        [[[0.01, 0.0, 0.01]]]
    )  # 10 pixels: a radius of 31 (1.4's floor adds one), a box of 34
    boxes = torch.tensor([[[34, 34]]])

    def radius(x: float, y: float, clip: float = 0.0, boxes: Tensor = boxes, conics: Tensor = conics) -> int:
        at = torch.tensor([[[x, y]]])
        return int(gsplat_versions.radii_of_boxes(boxes, at, conics, 64, 48, clip))

    assert radius(20, 20) == 31
    assert radius(-32, 20) == radius(20, -32) == radius(64 + 32, 20) == radius(20, 48 + 32) == 0
    assert radius(-30, 20) == radius(64 + 30, 20) == radius(20, 48 + 30) == 31
    assert radius(20, 20, clip=31) == 0 and radius(20, 20, clip=30) == 31
    assert radius(20, 20, boxes=torch.tensor([[[0, 0]]])) == 0
    for bad in (torch.nan, torch.inf):
        assert radius(bad, 20) == 0
    assert radius(20, 20, conics=torch.full((1, 1, 3), torch.nan)) == 0


def test_boxes_hold_all_that_a_radius_draws():
    conics, xx, yy, larger = _needles(20_000, 2)
    radii = torch.ceil(3 * torch.sqrt(larger))[None].int()
    boxes = gsplat_versions.boxes_of_radii(radii, conics)[0].double()
    # the ellipse outside of which alpha is below 1/255
    reach = math.sqrt(2 * math.log(255)) * torch.sqrt(torch.stack([xx, yy], -1))
    needed = torch.minimum(reach, radii[0, :, None].double())
    a, b, c = conics[0].double().unbind(-1)
    exact = (a * c - b * b) > 1e-3 * a * c  # where float32 left enough of the determinant to compare with
    assert (boxes >= needed)[exact].all()
    assert (boxes <= radii[0, :, None]).all() and (boxes > 0).all()
    assert (boxes[exact].prod(-1) / radii[0].double()[exact].square()).mean() < 0.7
    nothing = gsplat_versions.boxes_of_radii(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 3))
    assert not nothing.any()


def test_other_versions_are_named_and_so_are_those_that_work():
    for version in ("1.4.0", "1.4.0+pt24cu124", "1.5.3", "1.5.4", "1.5.3+pt24cu124"):
        assert gsplat_versions.kernels_of(version)
    for version in ("0.1.13", "1.3.0", "1.5.0", "1.5.2", "1.5.2+pt24cu124", "1.6.0", "2.0.0"):
        with pytest.raises(
            ImportError, match=rf"^gsplat {re.escape(version)} is installed.*1\.4, or 1\.5 from 1\.5\.3"
        ):
            gsplat_versions.kernels_of(version)


# gsplat's strategy under ours


def _trained(count: int) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer]]:
    gaussians = random_gaussians(count)
    values = {
        "means": gaussians.means, "quats": gaussians.quats, "scales": gaussians.scales.log(),
        "opacities": torch.full((count, 1), 2.0), "identity": torch.randn(count, 16),
    }  # fmt: skip
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(v.clone()) for k, v in values.items()})
    return params, {k: torch.optim.Adam([p], lr=1e-3) for k, p in params.items()}


def _step(strategy: GradisegStrategy, state: dict[str, Any], trained: Any, step: int) -> Projection:
    params, optimizers = trained
    gaussians = Gaussians(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid()[:, 0]
    )
    projection = rendering.project(gaussians, random_camera(), backend="gsplat")
    info = projection.info()
    (rgb, _), _ = rendering.rasterize(
        projection,
        [torch.rand(len(gaussians.means), 3), params["identity"]],
        geometry_grad=[True, False],
        absgrad=strategy.absgrad,
    )
    strategy.step_pre_backward(params, optimizers, state, step, info)
    (rgb.square().sum() + params["identity"].square().sum()).backward()
    strategy.step_post_backward(params, optimizers, state, step, info)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return projection


@pytest.mark.parametrize("absgrad", [False, True])
def test_densification_counts_grows_and_prunes(absgrad: bool):
    torch.manual_seed(0)
    trained = _trained(80)
    strategy = GradisegStrategy(
        absgrad=absgrad, igd=False, refine_start_iter=0, refine_every=2, reset_every=1000, refine_stop_iter=10,
        refine_scale2d_stop_iter=10, grow_grad2d=1e-9, prune_large_start_iter=1000,
    )  # fmt: skip
    state = strategy.initialize_state()
    projection = _step(strategy, state, trained, 1)
    seen = projection.radii[0] > 0
    assert torch.equal(state["count"] > 0, seen) and seen.any() and not seen.all()
    assert (state["grad2d"][seen] > 0).any() and not state["grad2d"][~seen].any()
    assert torch.allclose(state["radii"], projection.radii[0] / 70.0)
    params, optimizers = trained
    _step(strategy, state, trained, 2)
    count = len(params["means"])
    assert count > 80 and len(state["count"]) == count
    assert all(len(p) == count and p.requires_grad for p in params.values())
    for name, optimizer in optimizers.items():
        (held,) = optimizer.param_groups[0]["params"]
        assert held is params[name] and len(optimizer.state[held]["exp_avg"]) == count
    _step(strategy, state, trained, 3)


def test_opacities_are_reset_in_every_version():
    """gsplat 1.5.3's own strategy never does: its condition compares with a bitwise `and`."""
    trained = _trained(40)
    params, optimizers = trained
    strategy = GradisegStrategy(
        igd=False, reset_every=3, refine_stop_iter=6, refine_every=100, prune_opa=0.05
    )
    state = strategy.initialize_state()
    highest = []
    for step in range(1, 8):
        with torch.no_grad():
            params["opacities"].fill_(2.0)
        before = params["opacities"]
        _step(strategy, state, trained, step)
        reset = params["opacities"] is not before
        assert reset == (step == 3), step
        highest.append(params["opacities"].sigmoid().max().item())
        assert optimizers["opacities"].param_groups[0]["params"][0] is params["opacities"]
    assert highest[2] == pytest.approx(0.1, abs=1e-3) and highest[1] > 0.8


# ------------------------------------------------------------------------------------------------- all the versions


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_in_an_environment_of_its_own(version: str, tmp_path: Path):
    if "GSPLAT_UNDER_TEST" in os.environ:
        pytest.skip("this run is that test")
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [ROOT / "scripts/gsplat_versions.sh", version],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    if done.returncode == NO_NETWORK:
        pytest.skip(f"gsplat {version} cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"\d+ passed", done.stdout) and f"gsplat {version}" in done.stdout
