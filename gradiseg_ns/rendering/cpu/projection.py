"""From Gaussians in the world to ellipses in the image, and the gradient back; one pass each.

gsplat 1.4's rules. With camera coordinates (x, y, z) = R m + t, the perspective map linearised at the mean (its Jacobian
clamped at 1.3 times the field of view) takes the covariance R_q diag(s^2) R_q^T to a 2x2 matrix

    [[A, B], [B, C]] = (J W M)(J W M)^T + 0.3 I,        M = R_q diag(s),

whose inverse is the *conic* (C, -B, A) / det. J W is kept as two rows, `u` (for the image's x) and `v` (for y), so the
three columns of the 2x3 matrix J W M are (p_k, q_k) = s_k (u . r_k, v . r_k).

A Gaussian that cannot be seen, or whose numbers are not finite, gets radius 0, zeros everywhere, and no gradient.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import helper, kernel

BLUR = np.float32(0.3)  # eps2d: a Gaussian covers at least about a pixel
_ZERO, _HALF, _ONE, _TWO, _THREE = (np.float32(v) for v in (0, 0.5, 1, 2, 3))
_MARGIN = np.float32(0.15)  # 0.3 of half the field of view
_FLOOR = np.float32(0.01)
_TINY = np.float32(1e-6)
_LARGEST_RADIUS = np.float32(1e9)
_HUGE = np.float32(1e37)


@helper
def _dot3(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def _to_camera(viewmat, means, i):
    m = (means[i, 0], means[i, 1], means[i, 2])
    x = viewmat[0, 0] * m[0] + viewmat[0, 1] * m[1] + viewmat[0, 2] * m[2] + viewmat[0, 3]
    y = viewmat[1, 0] * m[0] + viewmat[1, 1] * m[1] + viewmat[1, 2] * m[2] + viewmat[1, 3]
    z = viewmat[2, 0] * m[0] + viewmat[2, 1] * m[1] + viewmat[2, 2] * m[2] + viewmat[2, 3]
    return x, y, z


@helper
def _limits(K, width, height):
    """Bounds of x/z and of y/z beyond which the Jacobian is clamped: low x, high x, low y, high y."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    w, h = np.float32(width), np.float32(height)
    margin_x, margin_y = _MARGIN * w / fx, _MARGIN * h / fy
    return -(cx / fx + margin_x), (w - cx) / fx + margin_x, -(cy / fy + margin_y), (h - cy) / fy + margin_y


@helper
def _unit_quaternion(quats, i):
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    inverse_norm = _ONE / math.sqrt(w * w + x * x + y * y + z * z)
    return w * inverse_norm, x * inverse_norm, y * inverse_norm, z * inverse_norm, inverse_norm


@helper
def _rotation_columns(w, x, y, z):
    c0 = (_ONE - _TWO * (y * y + z * z), _TWO * (x * y + w * z), _TWO * (x * z - w * y))
    c1 = (_TWO * (x * y - w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z + w * x))
    c2 = (_TWO * (x * z + w * y), _TWO * (y * z - w * x), _ONE - _TWO * (x * x + y * y))
    return c0, c1, c2


@helper
def _row_direction(viewmat, axis, slope):
    """The row of J W for image axis `axis`, without its factor f/z."""
    return (
        viewmat[axis, 0] - slope * viewmat[2, 0],
        viewmat[axis, 1] - slope * viewmat[2, 1],
        viewmat[axis, 2] - slope * viewmat[2, 2],
    )


@helper
def _scaled(a, s):
    return a[0] * s, a[1] * s, a[2] * s


@kernel
def project(
    begin, end, means, quats, scales, opacities, viewmat, K, width, height, near, far, radius_clip, antialiased,
    means2d, conics, depths, radii, effective,
):  # fmt: skip
    """Fills rows begin ... end of means2d [N, 2], conics [N, 3], depths [N], radii [N] and effective opacities [N]."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    low_x, high_x, low_y, high_y = _limits(K, width, height)
    for i in range(begin, end):
        radii[i] = 0
        means2d[i, 0] = means2d[i, 1] = _ZERO
        conics[i, 0] = conics[i, 1] = conics[i, 2] = _ZERO
        depths[i] = effective[i] = _ZERO

        # every test is written so that NaN fails it
        x, y, z = _to_camera(viewmat, means, i)
        if not (z >= near and z <= far and opacities[i] >= _ZERO and opacities[i] <= _HUGE):
            continue
        inverse_z = _ONE / z
        px, py = fx * x * inverse_z + cx, fy * y * inverse_z + cy
        slope_x = min(max(x * inverse_z, low_x), high_x)
        slope_y = min(max(y * inverse_z, low_y), high_y)
        u = _scaled(_row_direction(viewmat, 0, slope_x), fx * inverse_z)
        v = _scaled(_row_direction(viewmat, 1, slope_y), fy * inverse_z)
        qw, qx, qy, qz, _ = _unit_quaternion(quats, i)
        r0, r1, r2 = _rotation_columns(qw, qx, qy, qz)
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        p0, p1, p2 = _dot3(u, r0) * s0, _dot3(u, r1) * s1, _dot3(u, r2) * s2
        q0, q1, q2 = _dot3(v, r0) * s0, _dot3(v, r1) * s1, _dot3(v, r2) * s2
        sharp_a, b, sharp_c = (
            p0 * p0 + p1 * p1 + p2 * p2,
            p0 * q0 + p1 * q1 + p2 * q2,
            q0 * q0 + q1 * q1 + q2 * q2,
        )
        a, c = sharp_a + BLUR, sharp_c + BLUR
        det = a * c - b * b
        if not (det > _ZERO and det <= _HUGE):
            continue
        middle = _HALF * (a + c)
        radius = math.ceil(_THREE * math.sqrt(middle + math.sqrt(max(_FLOOR, middle * middle - det))))
        if not (radius > radius_clip):
            continue
        if not (px + radius > _ZERO and px - radius < width and py + radius > _ZERO and py - radius < height):
            continue

        inverse_det = _ONE / det
        radii[i] = np.int32(min(radius, _LARGEST_RADIUS))
        means2d[i, 0], means2d[i, 1] = px, py
        conics[i, 0], conics[i, 1], conics[i, 2] = c * inverse_det, -b * inverse_det, a * inverse_det
        depths[i] = z
        effective[i] = opacities[i]
        if antialiased:
            # what the blur added to the ellipse's area is taken from its opacity (Mip-Splatting, eq. 12)
            sharp_det = sharp_a * sharp_c - b * b
            effective[i] = opacities[i] * math.sqrt(max(_ZERO, sharp_det * inverse_det))


@kernel
def project_backward(
    begin, end, means, quats, scales, opacities, viewmat, K, width, height, antialiased, radii,
    v_means2d, v_conics, v_depths, v_effective, v_means, v_quats, v_scales, v_opacities, v_viewmat,
):  # fmt: skip
    """The transpose of `project`'s derivative: cotangents (v_...) of its outputs to those of its inputs, row by row.

    Every row begin ... end of v_means, v_quats, v_scales and v_opacities is written. v_viewmat [3, 4] (this range's own)
    is added to if it is not empty.
    """
    fx, fy = K[0, 0], K[1, 1]
    low_x, high_x, low_y, high_y = _limits(K, width, height)
    for i in range(begin, end):
        if radii[i] <= 0:
            for k in range(3):
                v_means[i, k] = v_scales[i, k] = _ZERO
            for k in range(4):
                v_quats[i, k] = _ZERO
            v_opacities[i] = _ZERO
            continue

        # forward again: cheaper than keeping it
        x, y, z = _to_camera(viewmat, means, i)
        inverse_z = _ONE / z
        raw_x, raw_y = x * inverse_z, y * inverse_z
        slope_x, slope_y = min(max(raw_x, low_x), high_x), min(max(raw_y, low_y), high_y)
        factor_u, factor_v = fx * inverse_z, fy * inverse_z
        e, h = _row_direction(viewmat, 0, slope_x), _row_direction(viewmat, 1, slope_y)
        u, v = _scaled(e, factor_u), _scaled(h, factor_v)
        qw, qx, qy, qz, inverse_norm = _unit_quaternion(quats, i)
        r0, r1, r2 = _rotation_columns(qw, qx, qy, qz)
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        a0, a1, a2 = _dot3(u, r0), _dot3(u, r1), _dot3(u, r2)
        b0, b1, b2 = _dot3(v, r0), _dot3(v, r1), _dot3(v, r2)
        p0, p1, p2, q0, q1, q2 = a0 * s0, a1 * s1, a2 * s2, b0 * s0, b1 * s1, b2 * s2
        sharp_a, b, sharp_c = (
            p0 * p0 + p1 * p1 + p2 * p2,
            p0 * q0 + p1 * q1 + p2 * q2,
            q0 * q0 + q1 * q1 + q2 * q2,
        )
        a, c = sharp_a + BLUR, sharp_c + BLUR
        inverse_det = _ONE / (a * c - b * b)

        # conic = (c, -b, a) / det
        g0, g1, g2 = v_conics[i, 0], v_conics[i, 1], v_conics[i, 2]
        v_det = -(g0 * c - g1 * b + g2 * a) * inverse_det * inverse_det
        v_a = g2 * inverse_det + v_det * c
        v_b = -g1 * inverse_det - _TWO * b * v_det
        v_c = g0 * inverse_det + v_det * a
        if antialiased:
            # k = sqrt(det(sharp) / det); the guard of the division is gsplat's
            compensation = math.sqrt(max(_ZERO, (sharp_a * sharp_c - b * b) * inverse_det))
            v_opacities[i] = v_effective[i] * compensation
            v_ratio = v_effective[i] * opacities[i] * _HALF / (compensation + _TINY) * inverse_det
            ratio = compensation * compensation
            v_a += v_ratio * (sharp_c - ratio * c)
            v_b += v_ratio * (ratio - _ONE) * _TWO * b
            v_c += v_ratio * (sharp_a - ratio * a)
        else:
            v_opacities[i] = v_effective[i]

        # a = sum p^2 + blur, b = sum p q, c = sum q^2 + blur
        v_p0, v_q0 = _TWO * v_a * p0 + v_b * q0, _TWO * v_c * q0 + v_b * p0
        v_p1, v_q1 = _TWO * v_a * p1 + v_b * q1, _TWO * v_c * q1 + v_b * p1
        v_p2, v_q2 = _TWO * v_a * p2 + v_b * q2, _TWO * v_c * q2 + v_b * p2
        v_scales[i, 0] = v_p0 * a0 + v_q0 * b0
        v_scales[i, 1] = v_p1 * a1 + v_q1 * b1
        v_scales[i, 2] = v_p2 * a2 + v_q2 * b2
        v_a0, v_a1, v_a2, v_b0, v_b1, v_b2 = v_p0 * s0, v_p1 * s1, v_p2 * s2, v_q0 * s0, v_q1 * s1, v_q2 * s2

        # a_k = u . r_k, b_k = v . r_k
        v_u0 = v_a0 * r0[0] + v_a1 * r1[0] + v_a2 * r2[0]
        v_u1 = v_a0 * r0[1] + v_a1 * r1[1] + v_a2 * r2[1]
        v_u2 = v_a0 * r0[2] + v_a1 * r1[2] + v_a2 * r2[2]
        v_v0 = v_b0 * r0[0] + v_b1 * r1[0] + v_b2 * r2[0]
        v_v1 = v_b0 * r0[1] + v_b1 * r1[1] + v_b2 * r2[1]
        v_v2 = v_b0 * r0[2] + v_b1 * r1[2] + v_b2 * r2[2]
        v_u, v_v = (v_u0, v_u1, v_u2), (v_v0, v_v1, v_v2)
        R00, R10, R20 = v_a0 * u[0] + v_b0 * v[0], v_a0 * u[1] + v_b0 * v[1], v_a0 * u[2] + v_b0 * v[2]
        R01, R11, R21 = v_a1 * u[0] + v_b1 * v[0], v_a1 * u[1] + v_b1 * v[1], v_a1 * u[2] + v_b1 * v[2]
        R02, R12, R22 = v_a2 * u[0] + v_b2 * v[0], v_a2 * u[1] + v_b2 * v[1], v_a2 * u[2] + v_b2 * v[2]

        # the rotation matrix of the unit quaternion, then the normalisation
        v_qw = _TWO * (qx * (R21 - R12) + qy * (R02 - R20) + qz * (R10 - R01))
        v_qx = _TWO * (qy * (R01 + R10) + qz * (R02 + R20) + qw * (R21 - R12) - _TWO * qx * (R11 + R22))
        v_qy = _TWO * (qx * (R01 + R10) + qz * (R12 + R21) + qw * (R02 - R20) - _TWO * qy * (R00 + R22))
        v_qz = _TWO * (qx * (R02 + R20) + qy * (R12 + R21) + qw * (R10 - R01) - _TWO * qz * (R00 + R11))
        radial = v_qw * qw + v_qx * qx + v_qy * qy + v_qz * qz
        v_quats[i, 0] = (v_qw - radial * qw) * inverse_norm
        v_quats[i, 1] = (v_qx - radial * qx) * inverse_norm
        v_quats[i, 2] = (v_qy - radial * qy) * inverse_norm
        v_quats[i, 3] = (v_qz - radial * qz) * inverse_norm

        # u = (f/z) e with e = W_0 - slope W_2; the mean itself is at f x / z + c
        v_px, v_py = v_means2d[i, 0], v_means2d[i, 1]
        camera_z = (viewmat[2, 0], viewmat[2, 1], viewmat[2, 2])
        v_slope_x, v_slope_y = -_dot3(v_u, camera_z) * factor_u, -_dot3(v_v, camera_z) * factor_v
        v_inverse_z = _dot3(v_u, e) * fx + _dot3(v_v, h) * fy + v_px * fx * x + v_py * fy * y
        v_x, v_y = v_px * factor_u, v_py * factor_v
        if raw_x >= low_x and raw_x <= high_x:
            v_x += v_slope_x * inverse_z
            v_inverse_z += v_slope_x * x
        if raw_y >= low_y and raw_y <= high_y:
            v_y += v_slope_y * inverse_z
            v_inverse_z += v_slope_y * y
        v_z = v_depths[i] - v_inverse_z * inverse_z * inverse_z
        for k in range(3):
            v_means[i, k] = viewmat[0, k] * v_x + viewmat[1, k] * v_y + viewmat[2, k] * v_z

        if v_viewmat.size > 0:
            for k in range(3):
                m = means[i, k]
                v_viewmat[0, k] += v_x * m + v_u[k] * factor_u
                v_viewmat[1, k] += v_y * m + v_v[k] * factor_v
                v_viewmat[2, k] += v_z * m - v_u[k] * factor_u * slope_x - v_v[k] * factor_v * slope_y
            v_viewmat[0, 3] += v_x
            v_viewmat[1, 3] += v_y
            v_viewmat[2, 3] += v_z
