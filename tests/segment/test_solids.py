"""Creases: where surfaces meet in a valley or depth jumps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.segment import solids
from gradiseg_ns.segment.solids import Plane, Solids, Surface, _sampled, bends, support_of


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


def test_a_view_of_a_slanted_plane_gives_its_points_and_normals() -> None:
    """The plane 0.6 x + 0.8 z = 2 in a camera that stands at (1, 0, 0) and looks along z."""
    x, _ = rays(64, 60.0)
    depth = (1.4 / (0.6 * x + 0.8)).astype(np.float32)
    view = torch.eye(4)
    view[0, 3] = -1.0
    K = torch.tensor([[60.0, 0, 32], [0, 60, 32], [0, 0, 1]])
    camera = rendering.Camera(view, K, 64, 64)
    points, normals = _sampled(depth, np.ones_like(depth), camera, np.random.default_rng(0))
    assert len(points) == 600
    assert np.allclose(points @ [0.6, 0, 0.8], 2, atol=1e-4)
    inner = np.abs(points[:, 0] - 1) < 0.3  # the blur has no neighbours beyond the picture's border
    assert np.allclose(normals[inner], [-0.6, 0, -0.8], atol=0.02), "towards the camera"


def table(count: int = 3000, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Points of a noisy table at z = 1, and of a ball above it."""
    random = np.random.default_rng(1)
    flat = int(share * count)
    points = random.uniform(-1, 1, (count, 3))
    points[:flat, 2] = 1 + 0.002 * random.standard_normal(flat)
    ball = random.standard_normal((count - flat, 3))
    normals = np.tile([0.0, 0.0, 1.0], (count, 1))
    normals[flat:] = ball / np.linalg.norm(ball, axis=1, keepdims=True)
    points[flat:] = [0, 0, 1.4] + 0.3 * normals[flat:]
    return points.astype(np.float32), normals.astype(np.float32)


def test_what_things_stand_on_is_found_with_its_noise() -> None:
    found = support_of(*table())
    assert found is not None
    assert found.normal[2] > 0.999 and abs(found.offset - 1) < 0.003
    assert 0.001 < found.noise < 0.004
    on, above = found.belonging(np.array([[0.5, 0.5, 1.0], [0, 0, 1.2]]))
    assert on == 1 and above == 0


def test_without_a_plane_there_is_nothing_to_stand_on() -> None:
    assert support_of(*table(share=0.05)) is None
    assert support_of(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32)) is None


def test_a_set_ends_where_the_table_begins_even_without_creases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block on a table, all of one colour: a grid of points with nothing else to tell them apart."""
    flat = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41), [0.0]), -1).reshape(-1, 3)
    block = np.stack(np.meshgrid(*[np.linspace(-0.2, 0.2, 9)] * 2, np.linspace(0.05, 0.45, 9)), -1).reshape(
        -1, 3
    )
    points = torch.from_numpy(np.concatenate([flat, block])).float()
    count = len(points)
    inside = torch.arange(count) >= len(flat)
    seed = ((points - torch.tensor([0, 0, 0.45])).norm(dim=1) < 0.08).float()[:, None]
    monkeypatch.setattr(solids, "OTHER", 1.0)  # all nodes
    same = np.zeros(count, np.float32), np.full((count, 3), 0.5, np.float32), np.full(count, 9.0, np.float32)
    plane = Plane(np.array([0, 0, 1], np.float32), 0.0, 0.005)

    def things(support: Plane | None) -> Solids:
        return Solids(points, torch.ones(count), Surface(*same, support))

    def best(found: Solids) -> float:
        ious = [(one & inside).sum() / (one | inside).sum() for one, _ in found.around(seed, most=100)]
        return float(max(ious))

    on_it = things(plane)
    assert bool(on_it.known.all())
    assert best(on_it) > 0.97 and best(things(None)) < 0.9
    assert not on_it.around(torch.zeros(count, 1)), "nothing was clicked"


def test_in_a_large_splat_some_gaussians_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two balls: the graph has 300 of their 2,000 Gaussians, and each of the others goes with its nearest one."""
    monkeypatch.setattr(solids, "NODES", 300)
    random = np.random.default_rng(0)
    ball = random.standard_normal((1000, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    points = torch.from_numpy(np.concatenate([ball, ball + np.array([3.0, 0, 0])])).float()
    known = Surface(
        np.zeros(2000, np.float32), np.full((2000, 3), 0.5, np.float32), np.full(2000, 9.0, np.float32)
    )
    known.weight[1990:] = 0  # unseen
    monkeypatch.setattr(solids, "_SHARE", 0.6)
    things = Solids(points, torch.ones(2000), known)
    seed = torch.zeros(2000, 1)
    seed[:50] = 1
    longest = things.around(seed)[0][0]
    assert bool(longest[:1000].all()) and not bool(longest[1000:].any())
    assert int(things.known.sum()) == 1990
