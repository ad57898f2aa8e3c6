"""Cross-entropy of classified identities, with its gradients, sixteen pixels at a time.

For pixels e_p in R^16 and classes y_p: z_pk = W_k . e_p + b_k, loss_p = log sum_k exp z_pk - z_py, and with
the residuals g_pk = softmax(z_p)_k - [k = y_p] the gradients are W^T g_p for the pixel and sum_p g_pk e_p,
sum_p g_pk for class k.

The residuals of sixteen pixels are the only intermediate array [K, 16] (they overwrite the scores), one lane per pixel.
There are three small matrix products. Each is four classes or pixels wide, so its sums stay in registers. The number of
classes is rounded up to a multiple of four with zero weights; the softmax leaves out the scores of the extra classes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ..rendering.cpu.simd import FASTMATH, LANES, fma, load, select, store, vector, vexp, vmax

DIM = LANES  # an identity is one vector
_TILE = LANES * DIM
_ZERO, _ONE = np.float32(0), np.float32(1)
_LOWEST = np.float32(-3e38)
# A softmax below this counts as 0: its products would be subnormal, which is slow on some processors.
_NEGLIGIBLE = np.float32(1e-30)

_kernel = njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")


@_kernel
def _scores(weight_t, bias, padded, pixels_t, tile):
    """tile[k, lane] = b_k + W_k . e_lane; weight_t [16, padded] and pixels_t [16, 16] are transposed."""
    for k in range(0, padded, 4):
        a, b = vector(bias[k]), vector(bias[k + 1])
        c, d = vector(bias[k + 2]), vector(bias[k + 3])
        for channel in range(DIM):
            e = load(pixels_t, channel * LANES)
            row = channel * padded + k
            a = fma(vector(weight_t[row]), e, a)
            b = fma(vector(weight_t[row + 1]), e, b)
            c = fma(vector(weight_t[row + 2]), e, c)
            d = fma(vector(weight_t[row + 3]), e, d)
        store(tile, k * LANES, a)
        store(tile, (k + 1) * LANES, b)
        store(tile, (k + 2) * LANES, c)
        store(tile, (k + 3) * LANES, d)


@_kernel
def _softmax(classes, padded, tile, lanes):
    """tile becomes its softmax over the rows; lanes become the 16 largest scores m and the 16 sums of exp(score - m)."""
    zero = vector(_ZERO)
    largest = vector(_LOWEST)
    for k in range(classes):
        largest = vmax(largest, load(tile, k * LANES))
    total = zero
    for k in range(classes):
        exponential = vexp(load(tile, k * LANES) - largest)
        total = total + exponential
        store(tile, k * LANES, exponential)
    inverse = vector(_ONE) / total
    for k in range(classes):
        share = load(tile, k * LANES) * inverse
        store(tile, k * LANES, select(share < vector(_NEGLIGIBLE), zero, share))
    for k in range(classes, padded):
        store(tile, k * LANES, zero)
    store(lanes, 0, largest)
    store(lanes, LANES, total)


@_kernel
def _pixel_gradients(weight, padded, tile, scale, target, start):
    """target[p] = scale * W^T g_p for the sixteen pixels."""
    factor = vector(scale)
    for p in range(0, LANES, 4):
        a, b, c, d = vector(_ZERO), vector(_ZERO), vector(_ZERO), vector(_ZERO)
        for k in range(padded):
            w = load(weight, k * DIM)
            row = k * LANES + p
            a = fma(vector(tile[row]), w, a)
            b = fma(vector(tile[row + 1]), w, b)
            c = fma(vector(tile[row + 2]), w, c)
            d = fma(vector(tile[row + 3]), w, d)
        first = start + p * DIM
        store(target, first, factor * a)
        store(target, first + DIM, factor * b)
        store(target, first + 2 * DIM, factor * c)
        store(target, first + 3 * DIM, factor * d)


@_kernel
def _class_gradients(pixels, start, padded, tile, v_weight):
    """v_weight[k] += sum_p g_pk e_p."""
    for k in range(0, padded, 4):
        row = k * DIM
        a, b = load(v_weight, row), load(v_weight, row + DIM)
        c, d = load(v_weight, row + 2 * DIM), load(v_weight, row + 3 * DIM)
        for p in range(LANES):
            e = load(pixels, start + p * DIM)
            at = k * LANES + p
            a = fma(vector(tile[at]), e, a)
            b = fma(vector(tile[at + LANES]), e, b)
            c = fma(vector(tile[at + 2 * LANES]), e, c)
            d = fma(vector(tile[at + 3 * LANES]), e, d)
        store(v_weight, row, a)
        store(v_weight, row + DIM, b)
        store(v_weight, row + 2 * DIM, c)
        store(v_weight, row + 3 * DIM, d)


@_kernel
def cross_entropy(
    begin, end, maps, targets, classes, weight, weight_t, bias, scale, with_gradient, v_maps, v_weight, v_bias
):  # fmt: skip
    """Loss of pixels begin ... end and their gradients.

    Args:
        begin, end: pixels, rows of maps.
        maps: [P * 16], flat, as are all matrices here.
        targets: [P] int64 in 0 ... classes - 1; negative is ignored.
        classes: K.
        weight, weight_t: [padded * 16] and its transpose [16 * padded], with K rounded up to a multiple of 4.
        bias: [padded].
        scale: factor on the pixels' gradients.
        with_gradient: whether gradients are computed; false leaves the following arrays unchanged.
        v_maps: [P * 16]; rows begin ... end are written.
        v_weight, v_bias: [padded * 16] and [padded], of this range alone; gradients are added without `scale`.

    Returns:
        the sum of the losses of labelled pixels.
    """
    padded = len(bias)
    tile = np.zeros(padded * LANES, np.float32)
    pixels_t, lanes = np.empty(_TILE, np.float32), np.empty(2 * LANES, np.float32)
    partial, v_partial = np.zeros(_TILE, np.float32), np.empty(_TILE, np.float32)
    residuals = np.zeros(padded * LANES, np.float32)  # of the bias, before the lanes are summed
    loss = 0.0
    for first in range(begin, end, LANES):
        count = min(LANES, end - first)
        labelled = 0
        for p in range(count):
            labelled += targets[first + p] >= 0
        if labelled == 0:
            if with_gradient:
                v_maps[first * DIM : (first + count) * DIM] = _ZERO
            continue

        pixels, start = maps, first * DIM
        if count < LANES:
            partial[: count * DIM] = maps[start : start + count * DIM]
            pixels, start = partial, 0
        for p in range(LANES):
            for channel in range(DIM):
                pixels_t[channel * LANES + p] = pixels[start + p * DIM + channel]
        _scores(weight_t, bias, padded, pixels_t, tile)

        for p in range(count):
            if targets[first + p] >= 0:
                loss -= tile[targets[first + p] * LANES + p]
        _softmax(classes, padded, tile, lanes)
        product = 1.0  # one logarithm for sixteen; K^16 is far from float64's end
        for p in range(count):
            if targets[first + p] >= 0:
                loss += lanes[p]
                product *= lanes[LANES + p]
        loss += math.log(product)
        if not with_gradient:
            continue

        if labelled < LANES:
            for p in range(LANES):
                if p >= count or targets[first + p] < 0:
                    for k in range(classes):
                        tile[k * LANES + p] = _ZERO
        for k in range(classes):
            store(residuals, k * LANES, load(residuals, k * LANES) + load(tile, k * LANES))
        for p in range(count):
            target = targets[first + p]
            if target >= 0:
                tile[target * LANES + p] -= _ONE
                v_bias[target] -= _ONE
        _class_gradients(pixels, start, padded, tile, v_weight)
        if count == LANES:
            _pixel_gradients(weight, padded, tile, scale, v_maps, start)
        else:
            _pixel_gradients(weight, padded, tile, scale, v_partial, 0)
            v_maps[first * DIM : end * DIM] = v_partial[: count * DIM]
    if with_gradient:
        for k in range(classes):
            for p in range(LANES):
                v_bias[k] += residuals[k * LANES + p]
    return loss
