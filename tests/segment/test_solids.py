"""Creases: where surfaces meet in a valley or depth jumps."""

from __future__ import annotations

import numpy as np

from gradiseg_ns.segment.solids import bends


def rays(size: int, focal: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size]
    return (x + 0.5 - size / 2) / focal, (y + 0.5 - size / 2) / focal


def test_a_plane_has_no_bend_however_slanted() -> None:
    x, y = rays(64, 60.0)
    depth = (2 / (1 + 0.9 * y + 0.5 * x)).astype(np.float32)
    found = bends(depth, np.ones_like(depth), 60.0)
    assert found[6:-6, 6:-6].max() < 1e-3


def test_valleys_bend_and_ridges_do_not() -> None:
    """Two planes that meet in the picture's middle column, away from the camera and towards it."""
    x, _ = rays(64, 60.0)
    valley = (2 / (1 + 0.8 * np.abs(x))).astype(np.float32)
    ridge = (2 / (1 - 0.8 * np.abs(x))).astype(np.float32)
    ones = np.ones_like(valley)
    assert bends(valley, ones, 60.0)[10:-10, 31:33].min() > 0.8
    assert bends(valley, ones, 60.0)[10:-10, 10:22].max() < 0.05
    assert bends(ridge, ones, 60.0)[10:-10, 10:-10].max() < 0.05


def test_a_jump_bends_beside_what_is_in_front() -> None:
    depth = np.full((64, 64), 2.0, np.float32)
    depth[20:44, 20:44] = 1.5
    found = bends(depth, np.ones_like(depth), 60.0)
    assert found[30, 45:47].max() > 1 and found[30, 25:40].max() < 0.05
    assert not bends(np.zeros_like(depth), np.zeros_like(depth), 60.0).any(), "nothing is there"
