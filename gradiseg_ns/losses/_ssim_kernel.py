"""Structural similarity of two images and its gradient, row by row.

With blurs (11 Gaussian taps a side, no padding) m1 = blur(x), m2 = blur(y), s = blur(x^2 + y^2) - m1^2 -
m2^2 and c = blur(x y) - m1 m2, the similarity of a pixel is

    S = l r,   l = (2 m1 m2 + C1) / (m1^2 + m2^2 + C1),   r = (2 c + C2) / (s + C2).

Only the sum of the two variances occurs, so four blurs are enough. The gradient needs three transposed blurs:

    dS/dy = blur^T(dS/dm2) + 2 y blur^T(dS/ds) + x blur^T(dS/dc),

where dS/dm2 includes the dependence of s and c on m2. Images are [H, W, 3], so neighbouring horizontal taps are three
floats apart, and a row is one long vector.

A constant h, half the data range, is subtracted from both images. Variances hardly change by this, and in flat parts of an
image float32 keeps one more digit of them. They do change a little, because the float32 taps do not sum to 1 but to some w. With
u and v the blurs of the shifted images, m1 = u + h w^2, and s and c lack 2 and 1 times (1 - w^2) h (u + v + h w^2). The kernel
corrects this, because S of dissimilar images would show it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..rendering.cpu.simd import FASTMATH, LANES, fma, lane_x, lane_y, load, select, store, vector

TAPS = 11
CHANNELS = 3
_REACH = TAPS - 1
_MARGIN = _REACH * CHANNELS  # floats that a horizontal blur without padding takes from a row
_ONE, _TWO, _FOUR = (np.float32(v) for v in (1, 2, 4))
_ZERO = np.float32(0)

_kernel = njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")


@_kernel
def _blurred_row(row, x, y, taps, shift, width, moments, stride):
    """Vertical blurs of x, y, x^2 + y^2 and x y at a row of the valid window into moments."""
    zero, centre = vector(_ZERO), vector(shift)
    for place in range(0, width, LANES):
        at = min(place, width - LANES)  # the last vector overlaps the one before
        source = row * width + at
        mean_x, mean_y, squares, product = zero, zero, zero, zero
        for k in range(TAPS):
            weight = vector(taps[k])
            a, b = load(x, source) - centre, load(y, source) - centre
            wa, wb = weight * a, weight * b
            mean_x, mean_y = mean_x + wa, mean_y + wb
            squares = fma(wa, a, fma(wb, b, squares))
            product = fma(wa, b, product)
            source += width
        store(moments, at, mean_x)
        store(moments, at + stride, mean_y)
        store(moments, at + 2 * stride, squares)
        store(moments, at + 3 * stride, product)


@_kernel
def _similar_row(taps, mean_shift, lost, c1, c2, valid, moments, stride, slopes, lanes):
    """Horizontal blurs of the moments, and with them the sum of a row of S; its derivatives fill `slopes`.

    slopes has `_MARGIN` zeros before and after the `valid` floats of each of its rows.
    """
    zero, one, two, four, centre = (
        vector(_ZERO),
        vector(_ONE),
        vector(_TWO),
        vector(_FOUR),
        vector(mean_shift),
    )
    constant1, constant2, missing = vector(c1), vector(c2), vector(lost)
    lane = lane_x() + four * lane_y()
    total = zero
    for at in range(0, valid, LANES):
        u, v, squares, product = zero, zero, zero, zero
        for k in range(TAPS):
            weight = vector(taps[k])
            source = at + CHANNELS * k
            u = fma(weight, load(moments, source), u)
            v = fma(weight, load(moments, source + stride), v)
            squares = fma(weight, load(moments, source + 2 * stride), squares)
            product = fma(weight, load(moments, source + 3 * stride), product)
        m1, m2 = u + centre, v + centre
        over1 = one / (m1 * m1 + m2 * m2 + constant1)
        correction = missing * (u + m2)
        over2 = one / (squares - u * u - v * v + two * correction + constant2)
        luminance = (two * m1 * m2 + constant1) * over1
        structure = (two * (product - u * v + correction) + constant2) * over2
        inside = lane < vector(np.float32(valid - at))
        similarity = select(inside, luminance * structure, zero)
        total = total + similarity
        by_product = select(inside, two * luminance * over2, zero)
        by_squares = zero - similarity * over2
        by_mean = select(inside, two * structure * over1 * (m1 - m2 * luminance), zero)
        by_mean = by_mean - (u - missing) * by_product - two * (v - missing) * by_squares
        # beyond `valid` u and v are old values of the buffer, but finite
        store(slopes, _MARGIN + at, select(inside, by_mean, zero))
        store(slopes, _MARGIN + at + stride, by_squares)
        store(slopes, _MARGIN + at + 2 * stride, by_product)
    store(lanes, 0, total)
    result = 0.0
    for i in range(LANES):
        result += lanes[i]
    return result


@_kernel
def _spread_row(taps, width, slopes, stride, ring, slot):
    """Transposed horizontal blur of the three slopes into a row of the ring."""
    zero = vector(_ZERO)
    for at in range(0, width, LANES):
        by_mean, by_squares, by_product = zero, zero, zero
        for k in range(TAPS):
            weight = vector(taps[k])
            source = at + CHANNELS * k
            by_mean = fma(weight, load(slopes, source), by_mean)
            by_squares = fma(weight, load(slopes, source + stride), by_squares)
            by_product = fma(weight, load(slopes, source + 2 * stride), by_product)
        target = slot * 3 * stride + at
        store(ring, target, by_mean)
        store(ring, target + stride, by_squares)
        store(ring, target + 2 * stride, by_product)


@_kernel
def _gradient_row(row, x, y, taps, shift, scale, width, ring, stride, gradient):
    """Transposed vertical blur of the ring's rows, and the chain rule to y."""
    zero, two, centre, factor = vector(_ZERO), vector(_TWO), vector(shift), vector(scale)
    newest = row % TAPS
    for place in range(0, width, LANES):
        at = min(place, width - LANES)
        by_mean, by_squares, by_product = zero, zero, zero
        for slot in range(TAPS):
            age = newest - slot
            weight = vector(taps[age if age >= 0 else age + TAPS])
            source = slot * 3 * stride + at
            by_mean = fma(weight, load(ring, source), by_mean)
            by_squares = fma(weight, load(ring, source + stride), by_squares)
            by_product = fma(weight, load(ring, source + 2 * stride), by_product)
        a, b = load(x, row * width + at) - centre, load(y, row * width + at) - centre
        store(gradient, row * width + at, factor * fma(two * b, by_squares, fma(a, by_product, by_mean)))


@_kernel
def similarity(begin, end, x, y, height, width, taps, constants, sums, gradient):
    """Sums of S over rows begin ... end of the valid window, and rows begin ... end of the gradient.

    Args:
        begin, end: rows of the image.
        x, y: images [H * W * 3], flat.
        height: H, number of rows of the image.
        width: floats in a row, 3 W.
        taps: [11], the blur. It is symmetric, so it is its own transpose.
        constants: [6], h (subtracted from both images), h w^2, h (1 - w^2), C1, C2, and the factor on the gradient of the sum.
        sums: [H - 10] float64, the sum of S over each row of the valid window.
        gradient: [H * W * 3], or [0] if no gradient is needed.
    """
    shift, mean_shift, lost = constants[0], constants[1], constants[2]
    c1, c2, scale = constants[3], constants[4], constants[5]
    with_gradient = gradient.size > 0
    valid, rows = width - _MARGIN, height - _REACH
    stride = (
        width + _MARGIN + 2 * LANES
    )  # every vector load and store of a buffer's last, partial vector stays inside
    moments = np.zeros(4 * stride, np.float32)
    slopes = np.zeros(3 * stride, np.float32)
    ring = np.zeros(
        TAPS * 3 * stride if with_gradient else 0, np.float32
    )  # the eleven newest rows, by row % 11
    lanes = np.empty(LANES, np.float32)
    # a row of the gradient needs the ten rows of S above it, which another range also computes
    for row in range(max(0, begin - _REACH) if with_gradient else begin, end):
        if row < rows:
            _blurred_row(row, x, y, taps, shift, width, moments, stride)
            total = _similar_row(taps, mean_shift, lost, c1, c2, valid, moments, stride, slopes, lanes)
            if row >= begin:
                sums[row] = total
            if with_gradient:
                _spread_row(taps, width, slopes, stride, ring, row % TAPS)
        elif with_gradient:
            ring[(row % TAPS) * 3 * stride : (row % TAPS + 1) * 3 * stride] = _ZERO
        if with_gradient and row >= begin:
            _gradient_row(row, x, y, taps, shift, scale, width, ring, stride, gradient)
