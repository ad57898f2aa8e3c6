from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gradiseg_ns.data.agreement import id_agreement
from gradiseg_ns.data.id_maps import IGNORE

pytestmark = pytest.mark.usefixtures("device")

SIZE, FOCAL = 64, 60.0


def scene(views: int = 6) -> tuple[list[NDArray[np.int32]], NDArray, NDArray, NDArray]:
    """A plane of 16 tiles with one id each, seen by cameras that look down from different places."""
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (600, 3)) * [1, 1, 0] + [0, 0, 3]
    Ks = np.tile(np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]), (views, 1, 1))
    viewmats = np.tile(np.eye(4), (views, 1, 1))
    viewmats[:, 0, 3] = np.linspace(-0.5, 0.5, views)
    maps = []
    for viewmat in viewmats:
        rows, columns = np.mgrid[:SIZE, :SIZE]
        x = (columns + 0.5 - SIZE / 2) / FOCAL * 3 - viewmat[0, 3]
        y = (rows + 0.5 - SIZE / 2) / FOCAL * 3
        maps.append((np.floor(x) * 4 + np.floor(y) + 20).astype(np.int32))
    return maps, viewmats, Ks, points


def test_tracked_ids_agree() -> None:
    found = id_agreement(*scene())
    assert found is not None and found.consistent
    assert found.score > 0.9 and found.agreement > 0.9 > found.chance
    assert found.pairs > 1000


def test_unrelated_ids_do_not() -> None:
    maps, *rest = scene()
    rng = np.random.default_rng(1)
    found = id_agreement([rng.permutation(40)[ids] for ids in maps], *rest)
    assert found is not None and not found.consistent
    assert abs(found.score) < 0.15


def test_a_large_background_is_no_evidence() -> None:
    maps, *rest = scene()
    rng = np.random.default_rng(1)
    mostly = [np.where(rng.random(ids.shape) < 0.1, rng.integers(1, 9, ids.shape), 0) for ids in maps]
    found = id_agreement(mostly, *rest)
    assert found is not None and found.agreement > 0.75 and not found.consistent
    assert id_agreement([np.zeros_like(ids) for ids in maps], *rest) is None


def test_hidden_points_do_not_count() -> None:
    maps, viewmats, Ks, points = scene()
    behind = points + np.array([0, 0, 3.0])
    both = id_agreement(maps, viewmats, Ks, np.concatenate([points, behind]))
    alone = id_agreement(maps, viewmats, Ks, behind)
    assert both is not None and alone is not None
    assert both.score > alone.score + 0.1


def test_unlabelled_pixels_and_views_are_left_out() -> None:
    maps, viewmats, Ks, points = scene()
    full = id_agreement(maps, viewmats, Ks, points)
    half = [np.where(np.arange(SIZE)[:, None] < SIZE // 2, ids, IGNORE) for ids in maps]
    found = id_agreement([*half[:4], None, None], viewmats, Ks, points)
    assert full is not None and found is not None
    assert found.pairs < full.pairs / 2 and found.score > 0.9


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.full((50, 3), np.nan), np.array([[0, 0, -3.0]] * 50)]
)
def test_nothing_to_tell(points: NDArray) -> None:
    maps, viewmats, Ks, _ = scene()
    assert id_agreement(maps, viewmats, Ks, points) is None
    assert id_agreement([maps[0], None], viewmats[:2], Ks[:2], scene()[3]) is None


def test_large_scenes_are_sampled() -> None:
    maps, viewmats, Ks, points = scene(8)
    found = id_agreement(maps, viewmats, Ks, np.tile(points, (40, 1)), max_points=100, max_views=4)
    assert found is not None and found.pairs <= 100 * 6 and found.score > 0.85
    assert found == id_agreement(maps, viewmats, Ks, np.tile(points, (40, 1)), max_points=100, max_views=4)
