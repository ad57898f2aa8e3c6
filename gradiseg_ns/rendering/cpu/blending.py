"""Blending tiles: forward, backward, and the transpose that back-projection needs.

A pixel walks its tile's Gaussians front to back (gsplat's rules; d is mean minus pixel centre):

    sigma = (a dx^2 + c dy^2) / 2 + b dx dy          alpha = min(0.999, opacity exp(-sigma))
    skip it if sigma < 0 or alpha < 1/255            stop before it if T (1 - alpha) <= 1e-4
    out += alpha T feature,  T *= 1 - alpha

A tile has sixteen *groups* of 4x4 pixels; a group is one vector. `group_mask` [I] keeps, per intersection, the groups in
which any pixel blended the Gaussian: what backward has to visit. It is set only after the test of T.

Channels are padded with zeros to multiples of four (a block, see `simd`); the maps have the true number. Those that move the
geometry lead, the rest follows from `rest_start` on.
"""

from __future__ import annotations

import numpy as np

from .binning import AHEAD, CONIC_XX, CONIC_XY, CONIC_YY, GEOMETRY, MEAN_X, MEAN_Y, OPACITY, REACH, TILE
from .compiling import helper, kernel
from .simd import (
    BLOCK,
    add_dot,
    add_scaled_scalars,
    add_scaled_vectors,
    bits,
    fma,
    int_vector,
    lane_x,
    lane_y,
    load,
    load_by_lane,
    lowest_bit,
    prefetch,
    select,
    store,
    store_by_lane,
    store_columns,
    store_sums,
    vabs,
    vector,
    vexp,
    vmax,
    vmin,
    zero_columns,
)

GROUPS = 16
LINE = 16  # float32 of a cache line
# Columns of a gradient row before the features
ROW_MEAN, ROW_ABS, ROW_CONIC, ROW_OPACITY, ROW_FEATURES = 0, 2, 4, 7, 8

_MOST_OPAQUE = np.float32(0.999)
_FAINTEST = np.float32(1.0 / 255.0)
_OPEN = np.nextafter(np.float32(1e-4), np.float32(1))  # the smallest transmittance at which a pixel goes on
_ZERO, _HALF, _ONE = (np.float32(v) for v in (0, 0.5, 1))
_ACROSS = np.float32(3.0)  # from the first to the last pixel centre of a group


@helper
def _sigma(half_a, b, half_c, dx, dy):
    # one formula for all three kernels: their decisions must agree bit by bit
    return fma(fma(vector(half_a), dx, b * dy), dx, half_c * dy * dy)


@helper
def _margin(sigma, alpha):
    """>= 0 where a pixel takes a Gaussian into account.

    Conditions are joined as minima of floats, not as masks: a single comparison can be repeated where it is used, while
    masks that live across branches are packed into bytes and unpacked again on machines without mask registers.
    """
    return vmin(sigma, alpha - _FAINTEST)


@helper
def _group_origin(tile_x, tile_y, group):
    return tile_x * TILE + (group % 4) * 4, tile_y * TILE + (group // 4) * 4


@helper
def _reaching(columns, stride, j, first_x, first_y, count):
    """Bits of those of the Gaussians j ... j + 15 that can reach alpha = 1/255 in a group: `binning._reaches`, by vectors.

    `columns` holds the columns of the geometry rows, `stride` apart; `count` is the number of Gaussians.
    """
    a, b, c = (
        load(columns, CONIC_XX * stride + j),
        load(columns, CONIC_XY * stride + j),
        load(columns, CONIC_YY * stride + j),
    )
    low_x = first_x - load(columns, MEAN_X * stride + j)
    low_y = first_y - load(columns, MEAN_Y * stride + j)
    high_x, high_y = low_x + _ACROSS, low_y + _ACROSS
    zero = vector(_ZERO)
    near_x, near_y = vmin(vmax(zero, low_x), high_x), vmin(vmax(zero, low_y), high_y)
    along_y = vmin(vmax(-b * near_x / c, low_y), high_y)
    along_x = vmin(vmax(-b * near_y / a, low_x), high_x)
    first = fma(b * near_x, along_y, _HALF * fma(a * near_x, near_x, c * along_y * along_y))
    second = fma(b * along_x, near_y, _HALF * fma(a * along_x, along_x, c * near_y * near_y))
    found = bits(vmin(first, second) <= load(columns, REACH * stride + j))
    if j + 16 > count:
        found &= (1 << (count - j)) - 1
    return np.int32(found)


@helper
def _load_columns(geometry, ranks, start, count, stride):
    """The tile's geometry, transposed: column by column, padded for whole vectors."""
    columns = np.empty(stride * (REACH + 1), np.float32)
    flat_geometry = geometry.reshape(-1)
    for j in range(count):
        if j + AHEAD < count:
            prefetch(flat_geometry, ranks[start + j + AHEAD] * GEOMETRY)
        row = geometry[ranks[start + j]]
        for k in range(REACH + 1):
            columns[k * stride + j] = row[k]
    for j in range(count, stride):
        for k in range(REACH + 1):
            columns[k * stride + j] = _ONE
    return columns


@helper
def _load_cotangents(
    cotangents, group, x0, y0, channels, lead, lead_first, lead_count, rest, rest_start, rest_count, lanes
):
    """The maps' values of a group, from pixel after pixel to column after column: cotangents[(group C + k) 16 + lane]."""
    for lane in range(16):
        x, y = x0 + lane % 4, y0 + lane // 4
        if x < lead.shape[1] and y < lead.shape[0]:
            at = lane * channels
            for k in range(lead_count):
                lanes[at + k] = lead[y, x, lead_first + k]
            for k in range(rest_count):
                lanes[at + rest_start + k] = rest[y, x, k]
    for k in range(0, channels, BLOCK):
        store_columns(load_by_lane(lanes, k, channels), cotangents, 16 * (group * channels + k))


@helper
def _store_block_sums(weights, groups, group_count, cotangents, channels, k, flat_rows, at):
    """flat_rows[at + k ... at + k + 3] = sum over groups and lanes of weight * cotangent."""
    block = zero_columns()
    for i in range(group_count):
        block = add_scaled_vectors(block, load(weights, 16 * i), cotangents, 16 * (groups[i] * channels + k))
    store_sums(block, flat_rows, at + k)


@helper
def _store_feature_sums(weights, groups, group_count, cotangents, channels, flat_rows, at):
    """flat_rows[at + k] = sum over groups and lanes of weight * cotangent: the gradient of one Gaussian's features."""
    for k in range(0, channels, BLOCK):
        _store_block_sums(weights, groups, group_count, cotangents, channels, k, flat_rows, at)


@helper
def _blocks_in_use(cotangents, channels, blocks):
    """Writes the first channels of those blocks that are not zero in the whole tile to `blocks`; returns their number."""
    used = 0
    for k in range(0, channels, BLOCK):
        found = False
        for group in range(GROUPS):
            at = 16 * (group * channels + k)
            for lane in range(16 * BLOCK):
                if cotangents[at + lane] != _ZERO:
                    found = True
                    break
            if found:
                break
        if found:
            blocks[used] = k
            used += 1
    return used


@kernel
def blend_forward(
    first_tile, tile_step, tile_start, ranks, geometry, features, width, height,
    lead_map, rest_map, rest_start, transmittance, last, group_mask,
):  # fmt: skip
    """Blends the tiles first_tile, first_tile + tile_step, ...

    A group is done in two steps: the weights of all its Gaussians, then block after block of channels their sum.

    Args:
        features: [n, C] by rank, C a multiple of 4.
        lead_map, rest_map: [H, W, c], out: the channels from 0 and from `rest_start`.
        transmittance, last: [H, W], out: T after the last Gaussian, and that Gaussian's place in the tile's list (-1: none).
        group_mask: [I] uint16, out.
    """
    channels = features.shape[1]
    flat_features = features.reshape(-1)
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    lead_count, rest_count = lead_map.shape[2], rest_map.shape[2]
    pixels = np.empty(16 * channels, np.float32)
    pixel_t, pixel_last = np.empty(16, np.float32), np.empty(16, np.int32)
    zero = vector(_ZERO)
    for tile in range(first_tile, tiles_x * tiles_y, tile_step):
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        start = tile_start[tile]
        count = tile_start[tile + 1] - start
        stride = count + 16
        columns = _load_columns(geometry, ranks, start, count, stride)
        tile_features = np.empty(count * channels, np.float32)
        for j in range(count):
            group_mask[start + j] = 0
            rank = ranks[start + j]
            if j + AHEAD < count:
                coming = ranks[start + j + AHEAD] * channels
                for k in range(0, channels, LINE):
                    prefetch(flat_features, coming + k)
            for k in range(channels):
                tile_features[j * channels + k] = features[rank, k]
        candidates, blended = np.empty(stride, np.int32), np.empty(stride, np.int32)
        weights = np.empty(16 * count, np.float32)

        for group in range(GROUPS):
            x0, y0 = _group_origin(tile_x, tile_y, group)
            if x0 >= width or y0 >= height:
                continue
            center_x, center_y = np.float32(x0) + _HALF, np.float32(y0) + _HALF
            candidate_count = 0
            for j in range(0, count, 16):
                found = _reaching(columns, stride, j, vector(center_x), vector(center_y), count)
                while found != 0:
                    candidates[candidate_count] = j + lowest_bit(np.int32(found))
                    candidate_count += 1
                    found &= found - 1

            pixel_x, pixel_y = center_x + lane_x(), center_y + lane_y()
            # a lane takes part while `open` >= 0: from the start if it is in the image, until its transmittance is used up
            open = vmin(np.float32(width) - pixel_x, np.float32(height) - pixel_y)
            t, last_seen = vector(_ONE), int_vector(np.int32(-1))
            blended_count = 0
            for c in range(candidate_count):
                j = candidates[c]
                dx, dy = columns[MEAN_X * stride + j] - pixel_x, columns[MEAN_Y * stride + j] - pixel_y
                a, b = columns[CONIC_XX * stride + j], columns[CONIC_XY * stride + j]
                sigma = _sigma(_HALF * a, b, _HALF * columns[CONIC_YY * stride + j], dx, dy)
                alpha = vmin(columns[OPACITY * stride + j] * vexp(-sigma), vector(_MOST_OPAQUE))
                margin = vmin(_margin(sigma, alpha), open)
                if bits(margin >= zero) == 0:
                    continue
                next_t = t * (_ONE - alpha)
                room = next_t - _OPEN
                open = select(margin >= zero, vmin(open, room), open)
                blends = vmin(margin, room) >= zero
                if bits(blends) != 0:
                    store(weights, 16 * blended_count, select(blends, alpha * t, zero))
                    blended[blended_count] = j
                    blended_count += 1
                    t = select(blends, next_t, t)
                    last_seen = select(blends, int_vector(j), last_seen)
                    group_mask[start + j] |= np.uint16(1 << group)
                if bits(open >= zero) == 0:
                    break

            for k in range(0, channels, BLOCK):
                block = zero_columns()
                for i in range(blended_count):
                    block = add_scaled_scalars(
                        block, load(weights, 16 * i), tile_features, blended[i] * channels + k
                    )
                store_by_lane(block, pixels, k, channels)
            store(pixel_t, 0, t)
            store(pixel_last, 0, last_seen)
            for lane in range(16):
                x, y = x0 + lane % 4, y0 + lane // 4
                if x < width and y < height:
                    transmittance[y, x] = pixel_t[lane]
                    last[y, x] = pixel_last[lane]
                    for k in range(lead_count):
                        lead_map[y, x, k] = pixels[lane * channels + k]
                    for k in range(rest_count):
                        rest_map[y, x, k] = pixels[lane * channels + rest_start + k]


@kernel
def blend_backward(
    first_tile, tile_step, channels, tile_start, ranks, geometry, features, width, height,
    transmittance, last, group_mask, v_lead, v_rest, own_start, rest_start, shares, v_alpha, rows,
):  # fmt: skip
    """Gradients of `blend_forward`, one row per intersection; rows of intersections without a blended pixel are not written.

    Only the leading channels, those before `rest_start`, send a gradient to the geometry. With w the weight of a Gaussian in
    a pixel, T the transmittance before it, v a map's cotangent and S the sum of w (feature . v) over everything behind it,

        d/d alpha = T (feature . v) - (S - T_final v_alpha) / (1 - alpha),

    so that one number per pixel is carried from back to front instead of C. The channels from `own_start` on have an S of their own:
    their d / d alpha is multiplied by the share of the Gaussian before the two are added.

    Args:
        own_start: a multiple of 4; `rest_start` if there are no such channels.
        shares: [n] by rank; not read if there are none.
        channels: the first so many channels (a multiple of 4) get a feature gradient; at least `rest_start`.
        v_lead, v_rest: [H, W, c] cotangents of the maps.
        v_alpha: [H, W] cotangent of 1 - T_final.
        rows: [I, 8 + channels], out: mean (2), |mean| (2), conic (3), opacity, features.
    """
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    lead_count, rest_count = v_lead.shape[2], min(v_rest.shape[2], channels - rest_start)
    cotangents, lanes = np.zeros(GROUPS * 16 * channels, np.float32), np.zeros(16 * channels, np.float32)
    ts, sums = np.empty(GROUPS * 16, np.float32), np.empty(GROUPS * 16, np.float32)
    lasts, own_sums = np.empty(GROUPS * 16, np.float32), np.empty(GROUPS * 16, np.float32)
    centers_x, centers_y = np.empty(GROUPS, np.float32), np.empty(GROUPS, np.float32)
    slopes, pasts = np.empty(GROUPS * 16, np.float32), np.empty(GROUPS * 16, np.float32)
    weights, groups = np.empty(GROUPS * 16, np.float32), np.empty(GROUPS, np.int32)
    flat_rows, row_size = rows.reshape(-1), rows.shape[1]
    flat_features, feature_size = features.reshape(-1), features.shape[1]
    flat_geometry = geometry.reshape(-1)
    summed = np.empty(8, np.float32)
    zero = vector(_ZERO)
    for tile in range(first_tile, tiles_x * tiles_y, tile_step):
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        start = tile_start[tile]
        if tile_start[tile + 1] == start:
            continue
        ts[:] = _ONE
        sums[:] = _ZERO
        own_sums[:] = _ZERO
        lasts[:] = -_ONE
        furthest = -1
        for group in range(GROUPS):
            x0, y0 = _group_origin(tile_x, tile_y, group)
            centers_x[group], centers_y[group] = np.float32(x0) + _HALF, np.float32(y0) + _HALF
            if x0 >= width or y0 >= height:
                continue
            for lane in range(16):
                x, y, at = x0 + lane % 4, y0 + lane // 4, group * 16 + lane
                if x < width and y < height:
                    ts[at], lasts[at] = transmittance[y, x], last[y, x]
                    sums[at] = -transmittance[y, x] * v_alpha[y, x]
                    furthest = max(furthest, last[y, x])
            # lanes outside keep what the last group left in `lanes`; their weight is zero
            _load_cotangents(
                cotangents,
                group,
                x0,
                y0,
                channels,
                v_lead,
                0,
                lead_count,
                v_rest,
                rest_start,
                rest_count,
                lanes,
            )

        for j in range(furthest, -1, -1):
            place = start + j
            mask = np.int32(group_mask[place])
            if mask == 0:
                continue
            rank = ranks[place]
            row = geometry[rank]
            mx, my, a, b, c, opacity = (
                row[MEAN_X], row[MEAN_Y], row[CONIC_XX], row[CONIC_XY], row[CONIC_YY], row[OPACITY],
            )  # fmt: skip
            half_a, half_c = _HALF * a, _HALF * c
            first_feature = rank * feature_size
            if j >= AHEAD:
                coming = ranks[place - AHEAD]
                prefetch(flat_geometry, coming * GEOMETRY)
                for k in range(0, feature_size, LINE):
                    prefetch(flat_features, coming * feature_size + k)
            group_count = 0
            while mask != 0:
                group = lowest_bit(mask)
                mask = np.int32(mask & (mask - 1))
                dx, dy = mx - (centers_x[group] + lane_x()), my - (centers_y[group] + lane_y())
                sigma = _sigma(half_a, b, half_c, dx, dy)
                unclipped = opacity * vexp(-sigma)
                alpha = vmin(unclipped, vector(_MOST_OPAQUE))
                hit = vmin(_margin(sigma, alpha), load(lasts, group * 16) - np.float32(j)) >= zero
                t_after = load(ts, group * 16)
                inverse = _ONE / (_ONE - alpha)
                t = t_after * inverse
                # d alpha / d sigma is -alpha, and 0 where alpha is clipped
                slope = select(hit, select(unclipped <= vector(_MOST_OPAQUE), unclipped, zero), zero)
                store(ts, group * 16, select(hit, t, t_after))
                store(weights, 16 * group_count, select(hit, alpha * t, zero))
                store(slopes, 16 * group_count, slope * t)
                store(pasts, 16 * group_count, slope * inverse)
                groups[group_count] = group
                group_count += 1

            # moments of d L / d sigma over the pixels: 1, dx, dy, dx^2, dx dy, dy^2
            m, m_x, m_y, m_xx, m_xy, m_yy, abs_x, abs_y = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(group_count):
                group = groups[i]
                along = zero
                for k in range(0, own_start, BLOCK):
                    along = add_dot(
                        along, flat_features, first_feature + k, cotangents, 16 * (group * channels + k)
                    )
                behind = load(sums, group * 16)
                store(sums, group * 16, fma(load(weights, 16 * i), along, behind))
                v_sigma = load(pasts, 16 * i) * behind - load(slopes, 16 * i) * along
                if own_start < rest_start:
                    along = zero
                    for k in range(own_start, rest_start, BLOCK):
                        along = add_dot(
                            along, flat_features, first_feature + k, cotangents, 16 * (group * channels + k)
                        )
                    behind = load(own_sums, group * 16)
                    store(own_sums, group * 16, fma(load(weights, 16 * i), along, behind))
                    own = load(pasts, 16 * i) * behind - load(slopes, 16 * i) * along
                    v_sigma = fma(vector(shares[rank]), own, v_sigma)
                dx, dy = mx - (centers_x[group] + lane_x()), my - (centers_y[group] + lane_y())
                v_x, v_y = v_sigma * dx, v_sigma * dy
                m, m_x, m_y = m + v_sigma, m_x + v_x, m_y + v_y
                m_xx, m_xy, m_yy = fma(v_x, dx, m_xx), fma(v_x, dy, m_xy), fma(v_y, dy, m_yy)
                abs_x = abs_x + vabs(fma(vector(a), v_x, b * v_y))
                abs_y = abs_y + vabs(fma(vector(b), v_x, c * v_y))

            store_sums((m_x, m_y, abs_x, abs_y), summed, 0)
            store_sums((m_xx, m_xy, m_yy, m), summed, 4)
            at = place * row_size
            flat_rows[at + ROW_MEAN] = a * summed[0] + b * summed[1]
            flat_rows[at + ROW_MEAN + 1] = b * summed[0] + c * summed[1]
            flat_rows[at + ROW_ABS], flat_rows[at + ROW_ABS + 1] = summed[2], summed[3]
            flat_rows[at + ROW_CONIC] = _HALF * summed[4]
            flat_rows[at + ROW_CONIC + 1] = summed[5]
            flat_rows[at + ROW_CONIC + 2] = _HALF * summed[6]
            flat_rows[at + ROW_OPACITY] = -summed[7] / opacity
            _store_feature_sums(
                weights, groups, group_count, cotangents, channels, flat_rows, at + ROW_FEATURES
            )


@kernel
def blend_transpose(
    first_tile, tile_step, tile_start, ranks, geometry, width, height, maps, first_channel, rows, group_mask
):
    """The feature part of the backward alone: rows[i] = sum over the tile's pixels of weight * maps.

    Needs nothing of a forward: the weights come in the forward's own order, front to back. Maps are often zero in most of the
    picture (masks, one channel a class): tiles without anything are left out, and so are blocks of channels in the others.

    Args:
        maps: [H, W, c], of which the channels from `first_channel` are taken, as many as rows have room for.
        rows: [I, C], out, C a multiple of 4; written where group_mask is not 0.
        group_mask: [I] uint16, out: the groups in which any pixel has the Gaussian; 0 where the maps are zero in the whole tile.
    """
    channels = rows.shape[1]
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    taken = min(channels, maps.shape[2] - first_channel)
    cotangents, lanes = np.zeros(GROUPS * 16 * channels, np.float32), np.zeros(16 * channels, np.float32)
    ts = np.empty(GROUPS * 16, np.float32)
    centers_x, centers_y = np.empty(GROUPS, np.float32), np.empty(GROUPS, np.float32)
    weights, groups = np.empty(GROUPS * 16, np.float32), np.empty(GROUPS, np.int32)
    flat_rows = rows.reshape(-1)
    blocks = np.empty(channels // BLOCK, np.int64)
    zero = vector(_ZERO)
    for tile in range(first_tile, tiles_x * tiles_y, tile_step):
        tile_x, tile_y = tile % tiles_x, tile // tiles_x
        start = tile_start[tile]
        count = tile_start[tile + 1] - start
        if count == 0:
            continue
        for j in range(count):
            group_mask[start + j] = 0
        cotangents[:] = _ZERO
        for group in range(GROUPS):
            x0, y0 = _group_origin(tile_x, tile_y, group)
            if x0 < width and y0 < height:
                _load_cotangents(
                    cotangents, group, x0, y0, channels, maps, first_channel, taken, maps, 0, 0, lanes
                )
        block_count = _blocks_in_use(cotangents, channels, blocks)
        if block_count == 0:
            continue
        stride = count + 16
        columns = _load_columns(geometry, ranks, start, count, stride)
        ts[:] = _ZERO  # a lane whose transmittance is 0 takes no part: outside the image, or stopped
        alive = 0
        for group in range(GROUPS):
            x0, y0 = _group_origin(tile_x, tile_y, group)
            if x0 >= width or y0 >= height:
                continue
            centers_x[group], centers_y[group] = np.float32(x0) + _HALF, np.float32(y0) + _HALF
            alive |= 1 << group
            for j in range(0, count, 16):
                found = _reaching(
                    columns, stride, j, vector(centers_x[group]), vector(centers_y[group]), count
                )
                while found != 0:
                    group_mask[start + j + lowest_bit(np.int32(found))] |= np.uint16(1 << group)
                    found &= found - 1
            for lane in range(16):
                if x0 + lane % 4 < width and y0 + lane // 4 < height:
                    ts[group * 16 + lane] = _ONE

        for j in range(count):
            mask = np.int32(group_mask[start + j] & alive)
            if mask == 0:
                group_mask[start + j] = 0
                continue
            mx, my = columns[MEAN_X * stride + j], columns[MEAN_Y * stride + j]
            half_a, half_c = _HALF * columns[CONIC_XX * stride + j], _HALF * columns[CONIC_YY * stride + j]
            b, opacity = columns[CONIC_XY * stride + j], columns[OPACITY * stride + j]
            used, group_count = 0, 0
            while mask != 0:
                group = lowest_bit(mask)
                mask = np.int32(mask & (mask - 1))
                dx, dy = mx - (centers_x[group] + lane_x()), my - (centers_y[group] + lane_y())
                sigma = _sigma(half_a, b, half_c, dx, dy)
                alpha = vmin(opacity * vexp(-sigma), vector(_MOST_OPAQUE))
                t = load(ts, group * 16)
                margin = vmin(_margin(sigma, alpha), t - _OPEN)
                if bits(margin >= zero) == 0:
                    continue
                next_t = t * (_ONE - alpha)
                room = next_t - _OPEN
                t_now = select(margin >= zero, select(room >= zero, next_t, zero), t)
                store(ts, group * 16, t_now)
                blends = vmin(margin, room) >= zero
                if bits(blends) != 0:
                    store(weights, 16 * group_count, select(blends, alpha * t, zero))
                    groups[group_count] = group
                    group_count += 1
                    used |= 1 << group
                elif bits(t_now >= vector(_OPEN)) == 0:
                    alive &= ~(1 << group)
            group_mask[start + j] = used
            if group_count != 0:
                at = (start + j) * channels
                for k in range(channels):
                    flat_rows[at + k] = _ZERO
                for b in range(block_count):
                    _store_block_sums(
                        weights, groups, group_count, cotangents, channels, blocks[b], flat_rows, at
                    )


@helper
def _sum_rows_of(rank, rank_start, places, group_mask, rows, flat_rows, total):
    """total [c] becomes the sum of the rows of the Gaussian of a rank."""
    size = rows.shape[1]
    total[:] = _ZERO
    for i in range(rank_start[rank], rank_start[rank + 1]):
        place = places[i]
        if i + AHEAD < len(places):
            coming = np.int64(places[i + AHEAD]) * size
            for k in range(0, size, LINE):
                prefetch(flat_rows, coming + k)
        if group_mask[place] != 0:
            for k in range(size):
                total[k] += rows[place, k]


@kernel
def sum_rows(
    begin, end, order, rank_start, places, group_mask, rows, rest_start,
    v_means2d, v_abs, v_conics, v_opacities, v_lead, v_rest,
):  # fmt: skip
    """Adds up the rows of each Gaussian (ranks begin ... end) in the order of its tiles, into arrays by Gaussian."""
    size = rows.shape[1]
    flat_rows = rows.reshape(-1)
    total = np.empty(size, np.float32)
    for rank in range(begin, end):
        _sum_rows_of(rank, rank_start, places, group_mask, rows, flat_rows, total)
        g = order[rank]
        for k in range(2):
            v_means2d[g, k], v_abs[g, k] = total[ROW_MEAN + k], total[ROW_ABS + k]
        for k in range(3):
            v_conics[g, k] = total[ROW_CONIC + k]
        v_opacities[g] = total[ROW_OPACITY]
        for k in range(v_lead.shape[1]):
            v_lead[g, k] = total[ROW_FEATURES + k]
        for k in range(v_rest.shape[1]):
            v_rest[g, k] = total[ROW_FEATURES + rest_start + k]


@kernel
def sum_feature_rows(begin, end, order, rank_start, places, group_mask, rows, sums, first_channel):
    """The same for the rows of `blend_transpose`: into sums [N, c] from column `first_channel`."""
    size = rows.shape[1]
    flat_rows = rows.reshape(-1)
    taken = min(size, sums.shape[1] - first_channel)
    total = np.empty(size, np.float32)
    for rank in range(begin, end):
        _sum_rows_of(rank, rank_start, places, group_mask, rows, flat_rows, total)
        for k in range(taken):
            sums[order[rank], first_channel + k] = total[k]


@kernel
def pack_features(begin, end, order, source, target, column):
    """Writes source [N, c] to the columns of target [n, C] from `column`, in order of rank."""
    size, flat_source = source.shape[1], source.reshape(-1)
    for rank in range(begin, end):
        if rank + AHEAD < end:
            coming = np.int64(order[rank + AHEAD]) * size
            for k in range(0, size, LINE):
                prefetch(flat_source, coming + k)
        for k in range(size):
            target[rank, column + k] = source[order[rank], k]
