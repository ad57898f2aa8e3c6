"""Real spherical harmonics up to degree 4 and their gradient, one Gaussian after the other.

The basis is gsplat's (and 3DGS'): Condon-Shortley signs, order m = -l ... l, on the normalised direction.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import helper, kernel

_ZERO, _ONE = np.float32(0), np.float32(1)
_SMALLEST = np.float32(1e-30)
# sqrt((2l + 1) / 4 pi (l - m)! / (l + m)!) times the integer factors of each polynomial below
C0 = np.float32(0.5 * math.sqrt(1 / math.pi))
C1 = np.float32(math.sqrt(3 / (4 * math.pi)))
C2_XY = np.float32(0.5 * math.sqrt(15 / math.pi))
C2_ZZ = np.float32(0.25 * math.sqrt(5 / math.pi))
C3_3 = np.float32(0.25 * math.sqrt(35 / (2 * math.pi)))
C3_2 = np.float32(0.5 * math.sqrt(105 / math.pi))
C3_1 = np.float32(0.25 * math.sqrt(21 / (2 * math.pi)))
C3_0 = np.float32(0.25 * math.sqrt(7 / math.pi))
C4_4 = np.float32(0.75 * math.sqrt(35 / math.pi))
C4_3 = np.float32(0.75 * math.sqrt(35 / (2 * math.pi)))
C4_2 = np.float32(0.75 * math.sqrt(5 / math.pi))
C4_1 = np.float32(0.75 * math.sqrt(5 / (2 * math.pi)))
C4_0 = np.float32(3 / 16 * math.sqrt(1 / math.pi))
_QUARTER, _HALF = np.float32(0.25), np.float32(0.5)
_F3, _F5, _F6, _F7, _F10, _F14, _F15 = (np.float32(v) for v in (3, 5, 6, 7, 10, 14, 15))
_F21, _F30, _F35, _F60, _F140 = (np.float32(v) for v in (21, 30, 35, 60, 140))


@helper
def _unit(directions, i):
    """The direction's unit vector and inverse length; (0, 0, 0) and 0 for a direction without one."""
    x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
    squared = x * x + y * y + z * z
    inverse = _ONE / math.sqrt(squared) if squared > _SMALLEST else _ZERO
    return x * inverse, y * inverse, z * inverse, inverse


@helper
def _fill_basis(count, x, y, z, basis):
    """basis[k], k < count (1, 4, 9, 16 or 25)."""
    basis[0] = C0
    if count > 1:
        basis[1], basis[2], basis[3] = -C1 * y, C1 * z, -C1 * x
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        basis[4], basis[5] = C2_XY * x * y, -C2_XY * y * z
        basis[6] = C2_ZZ * (_F3 * zz - _ONE)
        basis[7], basis[8] = -C2_XY * x * z, _HALF * C2_XY * (xx - yy)
        if count > 9:
            basis[9] = -C3_3 * y * (_F3 * xx - yy)
            basis[10] = C3_2 * x * y * z
            basis[11] = -C3_1 * y * (_F5 * zz - _ONE)
            basis[12] = C3_0 * z * (_F5 * zz - _F3)
            basis[13] = -C3_1 * x * (_F5 * zz - _ONE)
            basis[14] = _HALF * C3_2 * z * (xx - yy)
            basis[15] = -C3_3 * x * (xx - _F3 * yy)
            if count > 16:
                basis[16] = C4_4 * x * y * (xx - yy)
                basis[17] = -C4_3 * y * z * (_F3 * xx - yy)
                basis[18] = C4_2 * x * y * (_F7 * zz - _ONE)
                basis[19] = -C4_1 * y * z * (_F7 * zz - _F3)
                basis[20] = C4_0 * (zz * (_F35 * zz - _F30) + _F3)
                basis[21] = -C4_1 * x * z * (_F7 * zz - _F3)
                basis[22] = _HALF * C4_2 * (xx - yy) * (_F7 * zz - _ONE)
                basis[23] = -C4_3 * x * z * (xx - _F3 * yy)
                basis[24] = _QUARTER * C4_4 * (xx * (xx - _F3 * yy) - yy * (_F3 * xx - yy))


@helper
def _slope(count, x, y, z, a):
    """sum_k a[k] d basis[k] / d (x, y, z): the basis' polynomials differentiated as they stand."""
    v_x, v_y, v_z = -C1 * a[3], -C1 * a[1], C1 * a[2]
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        v_x += C2_XY * (y * a[4] - z * a[7] + x * a[8])
        v_y += C2_XY * (x * a[4] - z * a[5] - y * a[8])
        v_z += _F6 * C2_ZZ * z * a[6] - C2_XY * (y * a[5] + x * a[7])
        if count > 9:
            five = _F5 * zz - _ONE
            v_x += -C3_3 * (_F6 * x * y * a[9] + _F3 * (xx - yy) * a[15]) - C3_1 * five * a[13]
            v_x += C3_2 * (y * z * a[10] + x * z * a[14])
            v_y += -C3_3 * (_F3 * (xx - yy) * a[9] - _F6 * x * y * a[15]) - C3_1 * five * a[11]
            v_y += C3_2 * (x * z * a[10] - y * z * a[14])
            v_z += C3_2 * (x * y * a[10] + _HALF * (xx - yy) * a[14]) + C3_0 * (_F15 * zz - _F3) * a[12]
            v_z -= C3_1 * (_F10 * z) * (y * a[11] + x * a[13])
            if count > 16:
                seven, seven3 = _F7 * zz - _ONE, _F7 * zz - _F3
                v_x += C4_4 * (y * (_F3 * xx - yy) * a[16] + x * (xx - _F3 * yy) * a[24])
                v_x += -C4_3 * z * (_F6 * x * y * a[17] + _F3 * (xx - yy) * a[23])
                v_x += C4_2 * seven * (y * a[18] + x * a[22]) - C4_1 * z * seven3 * a[21]
                v_y += C4_4 * (x * (xx - _F3 * yy) * a[16] - y * (_F3 * xx - yy) * a[24])
                v_y += -C4_3 * z * (_F3 * (xx - yy) * a[17] - _F6 * x * y * a[23])
                v_y += C4_2 * seven * (x * a[18] - y * a[22]) - C4_1 * z * seven3 * a[19]
                v_z += -C4_3 * (y * (_F3 * xx - yy) * a[17] + x * (xx - _F3 * yy) * a[23])
                v_z += C4_2 * _F14 * z * (x * y * a[18] + _HALF * (xx - yy) * a[22])
                v_z += -C4_1 * (_F21 * zz - _F3) * (y * a[19] + x * a[21])
                v_z += C4_0 * z * (_F140 * zz - _F60) * a[20]
    return v_x, v_y, v_z


@kernel
def evaluate(begin, end, bases, directions, coeffs, mask, colors):
    """colors [N, 3] of rows begin ... end from coeffs [N, K, 3]; `bases` is a tuple as long as the number of bases used.

    mask [N] or empty (all): where false, the colour is 0.
    """
    count = len(bases)
    basis = np.empty(25, np.float32)
    for i in range(begin, end):
        red, green, blue = _ZERO, _ZERO, _ZERO
        if mask.size == 0 or mask[i]:
            x, y, z, _ = _unit(directions, i)
            _fill_basis(count, x, y, z, basis)
            for k in range(count):
                red += basis[k] * coeffs[i, k, 0]
                green += basis[k] * coeffs[i, k, 1]
                blue += basis[k] * coeffs[i, k, 2]
        colors[i, 0], colors[i, 1], colors[i, 2] = red, green, blue


@kernel
def evaluate_backward(begin, end, bases, directions, coeffs, mask, v_colors, v_directions, v_coeffs):
    """Writes rows begin ... end of v_coeffs [N, K, 3] and, unless it is empty, of v_directions [N, 3]."""
    count, stored = len(bases), coeffs.shape[1]
    basis, along = np.empty(25, np.float32), np.empty(25, np.float32)
    for i in range(begin, end):
        if mask.size != 0 and not mask[i]:
            for k in range(stored):
                v_coeffs[i, k, 0] = v_coeffs[i, k, 1] = v_coeffs[i, k, 2] = _ZERO
            if v_directions.size > 0:
                v_directions[i, 0] = v_directions[i, 1] = v_directions[i, 2] = _ZERO
            continue
        x, y, z, inverse = _unit(directions, i)
        _fill_basis(count, x, y, z, basis)
        red, green, blue = v_colors[i, 0], v_colors[i, 1], v_colors[i, 2]
        for k in range(count):
            v_coeffs[i, k, 0], v_coeffs[i, k, 1], v_coeffs[i, k, 2] = (
                basis[k] * red,
                basis[k] * green,
                basis[k] * blue,
            )
        for k in range(count, stored):
            v_coeffs[i, k, 0] = v_coeffs[i, k, 1] = v_coeffs[i, k, 2] = _ZERO
        if v_directions.size > 0:
            v_x, v_y, v_z = _ZERO, _ZERO, _ZERO
            if count > 1:
                for k in range(1, count):
                    along[k] = coeffs[i, k, 0] * red + coeffs[i, k, 1] * green + coeffs[i, k, 2] * blue
                v_x, v_y, v_z = _slope(count, x, y, z, along)
            # normalisation: what is along the direction does not count
            radial = v_x * x + v_y * y + v_z * z
            v_directions[i, 0] = (v_x - radial * x) * inverse
            v_directions[i, 1] = (v_y - radial * y) * inverse
            v_directions[i, 2] = (v_z - radial * z) * inverse
