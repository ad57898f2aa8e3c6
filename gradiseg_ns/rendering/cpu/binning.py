"""Which Gaussians each 16x16 tile has to look at, front to back.

A Gaussian belongs to a tile by gsplat's rule: the square of its radius (3 sigma) touches the tile. From those a tile is
dropped if the ellipse in which alpha can reach 1/255 misses all of its pixel centres; that loses nothing, because a pixel
skips such Gaussians anyway, and it spares most of the work.

The visible Gaussians are sorted once by depth (radix sort on the float's bits; a Gaussian's place is its *rank*). Ranks are
then dealt to tiles by a stable counting sort, one share of the ranks to a task, so each tile's list is in order of depth
whatever the number of tasks. One entry of the lists is an *intersection*.

The kernels of `blending` read the visible Gaussians from rows in order of rank (`geometry`): neighbours in a tile's list are
neighbours in memory more often than not, and one row is half a cache line.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .compiling import helper, kernel
from .simd import float_bits, prefetch
from .threads import get_num_threads, parallel

TILE = 16
# Columns of a geometry row
MEAN_X, MEAN_Y, CONIC_XX, CONIC_XY, CONIC_YY, OPACITY, REACH = range(7)
GEOMETRY = 8

AHEAD = 8  # rows to ask for before they are read: they lie in memory at random

_DIGIT = 11  # bits of a radix pass; three cover a positive float
_ALPHA_STEPS = np.float32(255.0)
_FAINTEST = np.float32(
    0.9999
)  # of 1/255; a little below so that rounding cannot drop what a pixel would keep
_SLACK = np.float32(1e-3)  # the same for the reach
_ZERO, _HALF, _ONE, _TWO, _FIRST = (np.float32(v) for v in (0, 0.5, 1, 2, 0.5))
_SIDE = np.float32(TILE)


class Bins(NamedTuple):
    """The lists of a frame: n visible Gaussians, I intersections, T tiles."""

    order: np.ndarray
    """[n] index of the Gaussian of each rank."""
    geometry: np.ndarray
    """[n, 8] mean, conic, opacity and reach (the largest sigma at which alpha is 1/255) of each rank."""
    tile_start: np.ndarray
    """[T + 1] where each tile's intersections begin."""
    ranks: np.ndarray
    """[I] the rank at each intersection, tile by tile."""
    rank_start: np.ndarray
    """[n + 1] where each rank's entries of `places` begin."""
    places: np.ndarray
    """[I] the intersections of each rank: the inverse of `ranks`."""


@kernel
def _sorted_by_depth(radii, depths, opacities):
    """Indices of the visible Gaussians, nearest first; equal depths in order of index, as gsplat's stable sort has them."""
    total = len(radii)
    keys, indices = np.empty(total, np.int32), np.empty(total, np.int32)
    histogram = np.zeros((3, 1 << _DIGIT), np.int64)
    digit_mask = (1 << _DIGIT) - 1
    n = 0
    for i in range(total):
        if radii[i] > 0 and opacities[i] * _ALPHA_STEPS >= _FAINTEST:
            key = float_bits(depths[i])
            keys[n], indices[n] = key, i
            n += 1
            for p in range(3):
                histogram[p, (key >> (_DIGIT * p)) & digit_mask] += 1
    other_keys, other_indices = np.empty(n, np.int32), np.empty(n, np.int32)
    keys, indices = keys[:n], indices[:n]
    for p in range(3):
        shift, start = _DIGIT * p, 0
        cursor = histogram[p]
        for digit in range(1 << _DIGIT):
            count = cursor[digit]
            cursor[digit] = start
            start += count
        for i in range(n):
            digit = (keys[i] >> shift) & digit_mask
            to = cursor[digit]
            cursor[digit] += 1
            other_keys[to], other_indices[to] = keys[i], indices[i]
        keys, other_keys = other_keys, keys
        indices, other_indices = other_indices, indices
    return indices


@helper
def _tile_rectangle(mx, my, a, b, c, radius, reach, width, height):
    """Tiles begin_x, end_x, begin_y, end_y that the square touches and the box around the ellipse does not miss."""
    left = max(_ZERO, math.floor((mx - radius) / _SIDE)) * _SIDE
    right = min(max(_ZERO, math.ceil((mx + radius) / _SIDE)) * _SIDE, width)
    top = max(_ZERO, math.floor((my - radius) / _SIDE)) * _SIDE
    bottom = min(max(_ZERO, math.ceil((my + radius) / _SIDE)) * _SIDE, height)
    det = a * c - b * b
    if det > _ZERO:
        extent_x = math.sqrt(_TWO * reach * c / det) * np.float32(1.0001) + _SLACK
        extent_y = math.sqrt(_TWO * reach * a / det) * np.float32(1.0001) + _SLACK
        left = max(left, math.ceil(mx - extent_x - _FIRST))
        right = min(right, math.floor(mx + extent_x - _FIRST) + _ONE)
        top = max(top, math.ceil(my - extent_y - _FIRST))
        bottom = min(bottom, math.floor(my + extent_y - _FIRST) + _ONE)
    if not (right > left and bottom > top):
        return 0, 0, 0, 0
    return (
        int(left) // TILE,
        (int(right) + TILE - 1) // TILE,
        int(top) // TILE,
        (int(bottom) + TILE - 1) // TILE,
    )


@helper
def _reaches(mx, my, a, b, c, reach, tile_x, tile_y):
    """Whether sigma = (a x^2 + c y^2) / 2 + b x y gets as low as `reach` on the box of the tile's pixel centres.

    The lowest point lies on the side nearest in x or the side nearest in y (at the centre if it is inside): the parabola
    along each has its minimum in closed form.
    """
    low_x = np.float32(tile_x * TILE) + _FIRST - mx
    low_y = np.float32(tile_y * TILE) + _FIRST - my
    high_x, high_y = low_x + (_SIDE - _ONE), low_y + (_SIDE - _ONE)
    near_x, near_y = min(max(_ZERO, low_x), high_x), min(max(_ZERO, low_y), high_y)
    along_y = min(max(-b * near_x / c, low_y), high_y)
    along_x = min(max(-b * near_y / a, low_x), high_x)
    first = _HALF * (a * near_x * near_x + c * along_y * along_y) + b * near_x * along_y
    second = _HALF * (a * along_x * along_x + c * near_y * near_y) + b * along_x * near_y
    return min(first, second) <= reach


@kernel
def _list_tiles(
    begin, end, order, means2d, conics, opacities, radii, width, height, wanted, geometry, per_rank, per_tile
):
    """For ranks begin ... end: their geometry rows, how many of the wanted tiles (bool [T]) each has (per_rank), how often each
    tile occurs (per_tile [T], this task's own), and the tiles themselves in order of rank (returned)."""
    tiles_x = (width + TILE - 1) // TILE
    w, h = np.float32(width), np.float32(height)
    tiles, used = np.empty(4 * (end - begin) + 1024, np.int32), 0
    flat_means2d, flat_conics = means2d.reshape(-1), conics.reshape(-1)
    for rank in range(begin, end):
        g = order[rank]
        if rank + AHEAD < end:
            coming = np.int64(order[rank + AHEAD])
            prefetch(flat_means2d, 2 * coming)
            prefetch(flat_conics, 3 * coming)
            prefetch(opacities, coming)
            prefetch(radii, coming)
        mx, my, a, b, c = means2d[g, 0], means2d[g, 1], conics[g, 0], conics[g, 1], conics[g, 2]
        reach = max(np.float32(math.log(opacities[g] * _ALPHA_STEPS)), _ZERO) + _SLACK
        row = geometry[rank]
        row[MEAN_X], row[MEAN_Y], row[CONIC_XX], row[CONIC_XY], row[CONIC_YY] = mx, my, a, b, c
        row[OPACITY], row[REACH], row[REACH + 1] = opacities[g], reach, _ZERO
        x0, x1, y0, y1 = _tile_rectangle(mx, my, a, b, c, np.float32(radii[g]), reach, w, h)
        area = (x1 - x0) * (y1 - y0)
        if used + area > len(tiles):
            grown = np.empty(2 * len(tiles) + area, np.int32)
            grown[:used] = tiles[:used]
            tiles = grown
        before = used
        for y in range(y0, y1):
            for x in range(x0, x1):
                tile = y * tiles_x + x
                if wanted[tile] and (area == 1 or _reaches(mx, my, a, b, c, reach, x, y)):
                    tiles[used] = tile
                    used += 1
                    per_tile[tile] += 1
        per_rank[rank] = used - before
    return tiles[:used]


@kernel
def _tile_starts(counts, tile_start):
    """Turns counts [tasks, T] into each task's first place in each tile; fills tile_start [T + 1]."""
    place = 0
    for tile in range(counts.shape[1]):
        tile_start[tile] = place
        for task in range(counts.shape[0]):
            count = counts[task, tile]
            counts[task, tile] = place
            place += count
    tile_start[counts.shape[1]] = place


@kernel
def _rank_starts(per_rank, rank_start):
    rank_start[0] = 0
    for rank in range(len(per_rank)):
        rank_start[rank + 1] = rank_start[rank] + per_rank[rank]


@kernel
def _deal(begin, end, tiles, cursor, rank_start, ranks, places):
    """Writes the ranks begin ... end into the lists of their tiles, and their places into the inverse list."""
    first = rank_start[begin]
    for rank in range(begin, end):
        for k in range(rank_start[rank], rank_start[rank + 1]):
            tile = tiles[k - first]
            place = cursor[tile]
            cursor[tile] += 1
            ranks[place] = rank
            places[k] = place


def bin_gaussians(
    means2d: np.ndarray, conics: np.ndarray, depths: np.ndarray, opacities: np.ndarray, radii: np.ndarray,
    width: int, height: int, tiles: np.ndarray | None = None,
) -> Bins:  # fmt: skip
    """The lists of one frame, from the outputs of `projection.project`; only those of some tiles, bool [T], if given."""
    order = _sorted_by_depth(radii, depths, opacities)
    n = len(order)
    tasks = max(1, min(get_num_threads(), n // 1024))
    shares = [n * i // tasks for i in range(tasks + 1)]
    tile_count = -(-width // TILE) * -(-height // TILE)
    wanted = np.ones(tile_count, np.bool_) if tiles is None else tiles
    geometry = np.empty((n, GEOMETRY), np.float32)
    per_rank, counts = np.empty(n, np.int32), np.zeros((tasks, tile_count), np.int64)
    lists: list[np.ndarray] = [np.empty(0, np.int32)] * tasks

    def list_tiles(i: int) -> None:
        lists[i] = _list_tiles(
            shares[i],
            shares[i + 1],
            order,
            means2d,
            conics,
            opacities,
            radii,
            width,
            height,
            wanted,
            geometry,
            per_rank,
            counts[i],
        )

    parallel(tasks, list_tiles)
    tile_start, rank_start = np.empty(tile_count + 1, np.int64), np.empty(n + 1, np.int64)
    _tile_starts(counts, tile_start)
    _rank_starts(per_rank, rank_start)
    ranks, places = np.empty(tile_start[-1], np.int32), np.empty(tile_start[-1], np.int32)
    parallel(tasks, lambda i: _deal(shares[i], shares[i + 1], lists[i], counts[i], rank_start, ranks, places))
    return Bins(order, geometry, tile_start, ranks, rank_start, places)
