"""The CPU backend: autograd around the kernels of `cpu/`.

It computes in float32. Other dtypes are cast; their gradients come back in the dtype of the input, and the maps are float32.
Gradients reach means, quats, scales, opacities, features and the camera's viewmat, but not K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu import blending, harmonics
from .cpu import projection as kernels
from .cpu.binning import Bins, bin_gaussians
from .cpu.memory import keep_freed_memory
from .cpu.simd import BLOCK
from .cpu.threads import get_num_threads, parallel, parallel_ranges
from .types import Camera, Gaussians, Projection

keep_freed_memory()

TRANSPOSE_CHANNELS = 64
"""Channels of one pass of the transpose. This bounds its memory: one row of this number of float32 per intersection."""


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous float32, in the graph."""
    return tensor.to(torch.float32).contiguous()


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def _tiles(function) -> None:
    """Runs function(first_tile, tile_step) on all threads. Tiles are interleaved, so that threads share busy regions of the image."""
    tasks = 8 * get_num_threads() if get_num_threads() > 1 else 1
    parallel(tasks, lambda i: function(i, tasks))


# ---------------------------------------------------------------------------------------------------------- projection


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, means, quats, scales, opacities, viewmat, K, width, height, near, far, radius_clip, antialiased
    ):
        n = means.shape[0]
        means2d, conics = torch.empty(1, n, 2), torch.empty(1, n, 3)
        depths, effective, radii = torch.empty(1, n), torch.empty(1, n), torch.empty(1, n, dtype=torch.int32)
        inputs = [_array(t) for t in (means, quats, scales, opacities, viewmat, K)]
        outputs = [_array(t[0]) for t in (means2d, conics, depths, radii, effective)]
        limits = [np.float32(v) for v in (near, far, radius_clip)]
        parallel_ranges(
            n, lambda i, j: kernels.project(i, j, *inputs, width, height, *limits, antialiased, *outputs)
        )
        ctx.save_for_backward(means, quats, scales, opacities, viewmat, K, radii)
        ctx.options = width, height, antialiased
        ctx.mark_non_differentiable(radii)
        return means2d, conics, depths, radii, effective

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):
        saved = [_array(t) for t in ctx.saved_tensors]
        inputs, radii = saved[:6], saved[6][0]
        incoming = [_array(cotangents[i].contiguous()[0]) for i in (0, 1, 2, 4)]
        results = [torch.empty_like(t) for t in ctx.saved_tensors[:4]]
        outputs = [_array(t) for t in results]
        width, height, antialiased = ctx.options
        with_camera = ctx.needs_input_grad[4]
        camera_parts: dict[int, np.ndarray] = {}

        def work(i: int, j: int) -> None:
            part = np.zeros((3, 4) if with_camera else (0, 4), np.float32)
            kernels.project_backward(
                i, j, *inputs, width, height, antialiased, radii, *incoming, *outputs, part
            )
            camera_parts[i] = part

        parallel_ranges(len(radii), work)
        v_viewmat = None
        if with_camera:
            v_viewmat = torch.zeros(4, 4)
            for i in sorted(camera_parts):
                v_viewmat[:3] += torch.from_numpy(camera_parts[i])
        return (*results, v_viewmat, *(None,) * 7)


def project(
    gaussians: Gaussians, camera: Camera, *, antialiased: bool, near: float, far: float, radius_clip: float
) -> Projection:
    means2d, conics, depths, radii, opacities = _Project.apply(
        *(_plain(t) for t in gaussians.tensors),
        _plain(camera.viewmat),
        _plain(camera.K),
        camera.width,
        camera.height,
        near,
        far,
        radius_clip,
        antialiased,
    )
    return Projection(camera, means2d, radii, depths, conics, opacities, "cpu")


def _bins(projection: Projection) -> Bins:
    """The tile lists. The first blend makes them, later blends reuse them."""
    if projection._state is None:
        tensors = (
            projection.means2d,
            projection.conics,
            projection.depths,
            projection.opacities,
            projection.radii,
        )
        means2d, conics, depths, opacities, radii = (_array(t[0]) for t in tensors)
        width, height = projection.camera.width, projection.camera.height
        tiles = None if projection.tiles is None else _array(projection.tiles.contiguous()).reshape(-1)
        projection._state = bin_gaussians(means2d, conics, depths, opacities, radii, width, height, tiles)
    return projection._state


# ------------------------------------------------------------------------------------------------------------ blending


class _Channels:
    """The order of the groups of features in the rows of a joint pass: groups that move the geometry lead, the rest follow.

    Last of those that lead are those that move each Gaussian by a share of its own. They start with a block, so there may be channels
    of zeros before them.

    Args:
        sizes: channels of every group.
        geometry_grad: as for :func:`gradiseg_ns.rendering.rasterize`.

    Attributes:
        geometry_grad: of every group.
        shares: [N] of the groups that move each Gaussian by a share of its own; None without such groups.
        lead_count, rest_count: channels of the groups that lead, with those of zeros, and of the others.
        own_start, rest_start, total: where those with shares and the others begin, and where all end; multiples of a block. Without
            shares the first two are the same.
        starts: first channel of every group.
    """

    def __init__(self, sizes: list[int], geometry_grad: Sequence[float | Tensor]) -> None:
        self.sizes, self.geometry_grad, groups = sizes, geometry_grad, range(len(sizes))
        self._own = [i for i in groups if isinstance(geometry_grad[i], Tensor)]
        self._even = [i for i in groups if i not in self._own and geometry_grad[i]]
        self._rest = [i for i in groups if i not in self._own and i not in self._even]
        self.shares = next((share for share in geometry_grad if isinstance(share, Tensor)), None)
        self.starts = [0] * len(sizes)
        self.lead_count = self._place(self._even, 0)
        self.own_start = _padded(self.lead_count)
        if self._own:
            self.lead_count = self._place(self._own, self.own_start)
        self.rest_start = _padded(self.lead_count)
        self.rest_count = self._place(self._rest, self.rest_start) - self.rest_start
        self.total = self.rest_start + _padded(self.rest_count)

    def _place(self, groups: list[int], column: int) -> int:
        """Where the groups begin, one after the other from a column; returns where they end."""
        for i in groups:
            self.starts[i] = column
            column += self.sizes[i]
        return column

    def scales(self) -> np.ndarray | None:
        """The share of every channel that moves all Gaussians by one share, [total], 1 elsewhere; None if all are 1."""
        factors = np.ones(self.total, np.float32)
        for i in self._even:
            factors[self.starts[i] : self.starts[i] + self.sizes[i]] = self.geometry_grad[i]
        return None if (factors == 1).all() else factors

    def moves(self, cotangents: Sequence[Tensor | None]) -> bool:
        """Whether a group that moves the geometry has a cotangent."""
        return any(cotangents[i] is not None for i in (*self._even, *self._own))

    def rests(self, cotangents: Sequence[Tensor | None]) -> bool:
        """Whether another group has one."""
        return any(cotangents[i] is not None for i in self._rest)

    def split(self, lead: Tensor, rest: Tensor) -> list[Tensor]:
        """[..., lead_count] and [..., rest_count] to one contiguous tensor per group, in the groups' order."""
        out = []
        for i, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            joined, first = (rest, start - self.rest_start) if i in self._rest else (lead, start)
            out.append(joined.narrow(-1, first, size).contiguous())
        return out

    def join(
        self, cotangents: Sequence[Tensor | None], height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The cotangents of the groups that lead, [H, W, lead_count], and of the others, [H, W, rest_count]; missing ones are zero."""

        def parts(groups: list[int]) -> list[Tensor]:
            every = ((cotangents[i], self.sizes[i]) for i in groups)
            return [torch.zeros(height, width, size) if part is None else part for part, size in every]

        def whole(parts: list[Tensor]) -> np.ndarray:
            if len(parts) != 1:
                parts = [torch.cat([torch.zeros(height, width, 0), *parts], -1)]
            return _array(parts[0].contiguous())

        even, own = parts(self._even), parts(self._own)
        gap = self.own_start - sum(self.sizes[i] for i in self._even)
        if own and gap:
            even.append(torch.zeros(height, width, gap))
        return whole([*even, *own]), whole(parts(self._rest))


def _packed(bins: Bins, arrays: list[np.ndarray], layout: _Channels) -> np.ndarray:
    """The features of all groups by rank, [n, total]: the kernels' rows."""
    n, gaps = len(bins.order), layout.total > sum(layout.sizes)
    packed = np.zeros((n, layout.total), np.float32) if gaps else np.empty((n, layout.total), np.float32)

    def work(i: int, j: int) -> None:
        for array, column in zip(arrays, layout.starts, strict=True):
            blending.pack_features(i, j, bins.order, array, packed, column)

    parallel_ranges(n, work)
    return packed


def _transpose(bins: Bins, camera: Camera, maps: np.ndarray, sums: np.ndarray) -> None:
    """sums [N, c] = transposed blend of maps [H, W, c]; rows of culled Gaussians are not written."""
    for first in range(0, maps.shape[2], TRANSPOSE_CHANNELS):
        size = _padded(min(maps.shape[2] - first, TRANSPOSE_CHANNELS))
        rows, mask = np.empty((len(bins.ranks), size), np.float32), np.empty(len(bins.ranks), np.uint16)

        def blend(tile: int, step: int, first=first, rows=rows, mask=mask) -> None:
            blending.blend_transpose(
                tile,
                step,
                bins.tile_start,
                bins.ranks,
                bins.geometry,
                camera.width,
                camera.height,
                maps,
                first,
                rows,
                mask,
            )

        def add_up(i: int, j: int, first=first, rows=rows, mask=mask) -> None:
            blending.sum_feature_rows(i, j, bins.order, bins.rank_start, bins.places, mask, rows, sums, first)

        _tiles(blend)
        parallel_ranges(len(bins.order), add_up)


class _Rasterize(torch.autograd.Function):
    """(means2d, conics, opacities, features...) -> (maps..., alpha); the projection brings the tile lists."""

    @staticmethod
    def forward(ctx, projection, geometry_grad, absgrad, means2d, conics, opacities, *features):
        ctx.set_materialize_grads(False)
        bins, camera = _bins(projection), projection.camera
        height, width = camera.height, camera.width
        layout = _Channels([f.shape[1] for f in features], geometry_grad)
        packed = _packed(bins, [_array(f) for f in features], layout)
        lead, rest = (
            torch.empty(height, width, layout.lead_count),
            torch.empty(height, width, layout.rest_count),
        )
        transmittance, last = np.empty((height, width), np.float32), np.empty((height, width), np.int32)
        group_mask = np.empty(len(bins.ranks), np.uint16)
        _tiles(
            lambda tile, step: blending.blend_forward(
                tile, step, bins.tile_start, bins.ranks, bins.geometry, packed, width, height,
                _array(lead), _array(rest), layout.rest_start, transmittance, last, group_mask,
            )
        )  # fmt: skip
        ctx.save_for_backward(means2d)
        ctx.state = bins, camera, layout, packed, (transmittance, last, group_mask), absgrad
        return (*layout.split(lead, rest), torch.from_numpy(1 - transmittance)[..., None])

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):
        bins, camera, layout, packed, (transmittance, last, group_mask), absgrad = ctx.state
        *v_maps, v_alpha = cotangents
        (means2d,) = ctx.saved_tensors
        n, height, width = means2d.shape[1], camera.height, camera.width
        v_lead, v_rest = layout.join(v_maps, height, width)
        has_lead, has_rest = layout.moves(v_maps), layout.rests(v_maps)
        v_lead_features, v_rest_features = (
            torch.zeros(n, layout.lead_count),
            torch.zeros(n, layout.rest_count),
        )
        v_means2d = v_conics = v_opacities = None

        if (has_lead or v_alpha is not None) and (absgrad or any(ctx.needs_input_grad[3:6])):
            # the geometry's gradient is linear in the features: scaling them here scales only what arrives of a group's gradient
            scales = layout.scales()
            packed = packed if scales is None else packed * scales
            shares = np.empty(0, np.float32)
            if layout.shares is not None:
                shares = _array(_plain(layout.shares))[bins.order]
            v_means2d, v_abs = torch.zeros(1, n, 2), torch.zeros(1, n, 2)
            v_conics, v_opacities = torch.zeros(1, n, 3), torch.zeros(1, n)
            channels = layout.total if has_rest else layout.rest_start
            rows = np.empty((len(bins.ranks), blending.ROW_FEATURES + channels), np.float32)
            v_cover = torch.zeros(height, width) if v_alpha is None else v_alpha[..., 0].contiguous()
            _tiles(
                lambda tile, step: blending.blend_backward(
                    tile, step, channels, bins.tile_start, bins.ranks, bins.geometry, packed, width, height,
                    transmittance, last, group_mask, v_lead, v_rest, layout.own_start, layout.rest_start, shares,
                    _array(v_cover), rows,
                )
            )  # fmt: skip
            into = [_array(t[0]) for t in (v_means2d, v_abs, v_conics, v_opacities)]
            into += [_array(v_lead_features), _array(v_rest_features if has_rest else v_rest_features[:, :0])]
            parallel_ranges(
                len(bins.order),
                lambda i, j: blending.sum_rows(
                    i, j, bins.order, bins.rank_start, bins.places, group_mask, rows, layout.rest_start, *into
                ),
            )
            if absgrad:
                means2d.absgrad = v_abs
        else:
            # no geometry gradient is needed: the transpose is enough
            if has_lead:
                _transpose(bins, camera, v_lead, _array(v_lead_features))
            if has_rest:
                _transpose(bins, camera, v_rest, _array(v_rest_features))
        v_features = layout.split(v_lead_features, v_rest_features)
        return (None, None, None, v_means2d, v_conics, v_opacities, *v_features)


def rasterize(
    projection: Projection,
    features: Sequence[Tensor],
    *,
    geometry_grad: Sequence[float | Tensor],
    absgrad: bool,
) -> tuple[list[Tensor], Tensor]:
    p = projection
    *maps, alpha = _Rasterize.apply(
        p, tuple(geometry_grad), absgrad, p.means2d, p.conics, p.opacities, *(_plain(f) for f in features)
    )
    return maps, alpha


def backproject(projection: Projection, maps: Tensor) -> Tensor:
    sums = torch.zeros(projection.radii.shape[1], maps.shape[2])
    _transpose(_bins(projection), projection.camera, _array(_plain(maps)), _array(sums))
    return sums


def count_pairs(projection: Projection) -> int:
    """Pixels times Gaussians that the kernels blend: 16 for each 4x4 group in which any pixel takes a Gaussian."""
    bins, camera = _bins(projection), projection.camera
    maps = np.ones((camera.height, camera.width, 1), np.float32)
    rows, mask = np.empty((len(bins.ranks), BLOCK), np.float32), np.empty(len(bins.ranks), np.uint16)
    lists = bins.tile_start, bins.ranks, bins.geometry
    _tiles(
        lambda tile, step: blending.blend_transpose(
            tile, step, *lists, camera.width, camera.height, maps, 0, rows, mask
        )
    )
    return 16 * int(np.unpackbits(mask.view(np.uint8)).sum())


# ------------------------------------------------------------------------------------------------- spherical harmonics


class _Harmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, degree, directions, coeffs, mask):
        colors = torch.empty(directions.shape[0], 3)
        arrays = _array(directions), _array(coeffs), _array(mask)
        parallel_ranges(
            len(colors),
            lambda i, j: harmonics.evaluate(i, j, (0,) * (degree + 1) ** 2, *arrays, _array(colors)),
        )
        ctx.save_for_backward(directions, coeffs, mask)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx, v_colors):
        directions, coeffs, mask = ctx.saved_tensors
        v_directions = torch.empty(directions.shape if ctx.needs_input_grad[1] else (0, 3))
        v_coeffs = torch.empty_like(coeffs)
        arrays = [
            _array(t) for t in (directions, coeffs, mask, v_colors.contiguous(), v_directions, v_coeffs)
        ]
        parallel_ranges(
            len(directions),
            lambda i, j: harmonics.evaluate_backward(i, j, (0,) * (ctx.degree + 1) ** 2, *arrays),
        )
        return None, v_directions if ctx.needs_input_grad[1] else None, v_coeffs, None


def spherical_harmonics(degree: int, directions: Tensor, coeffs: Tensor, mask: Tensor | None) -> Tensor:
    taken = torch.empty(0, dtype=torch.bool) if mask is None else mask.contiguous()
    return _Harmonics.apply(degree, _plain(directions), _plain(coeffs), taken)
