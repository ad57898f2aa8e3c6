from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradiseg_ns.data.agreement import colour_agreement, explain, id_agreement
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


# Why they do not ------------------------------------------------------------------------------------------------


def painted(maps: list[NDArray[np.int32]]) -> list[NDArray[np.uint8]]:
    """Photos [H, W, 3] in a colour for each id."""
    colors = np.random.default_rng(3).integers(0, 255, (1024, 3)).astype(np.uint8)
    return [colors[ids] for ids in maps]


def test_colours_agree_where_cameras_fit() -> None:
    maps, viewmats, Ks, points = wandering(16)
    photos = painted(maps)
    right = colour_agreement(photos, viewmats, Ks, points)
    assert right is not None and right > 0.8
    darker = [photo * share for photo, share in zip(photos, np.linspace(1, 0.7, len(photos)), strict=True)]
    assert (colour_agreement(darker, viewmats, Ks, points) or 0) > 0.6  # exposure differs
    wrong = colour_agreement(photos[::-1], viewmats, Ks, points)
    assert wrong is not None and wrong < 0.2
    assert colour_agreement(photos[:1], viewmats[:1], Ks[:1], points) is None
    assert colour_agreement(photos, viewmats, Ks, np.zeros((0, 3))) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda maps: [ids[::-1, ::-1] for ids in maps],
            "maps do not lie on their photos: they are turned by 180",
        ),
        (lambda maps: [np.rot90(ids) for ids in maps], "maps do not .* turned by 270"),
        (lambda maps: [ids[:, ::-1] for ids in maps], "maps do not .* mirrored left to right"),
        (lambda maps: [*maps[1:], maps[0]], "maps do not .* previous photo's: the numbers .* shifted by 1"),
        (lambda maps: [(ids * (7 * i + 3)) % 61 for i, ids in enumerate(maps)], "Associate the maps"),
    ],
)
def test_the_cause_is_named(change: Any, words: str) -> None:
    maps, viewmats, Ks, points = wandering(16)
    photos = painted(maps)
    seen = (viewmats, Ks, points)
    names = [f"{i}.png" for i in range(16)]
    right = id_agreement(maps, *seen)
    assert right is not None and explain(right, maps, photos, *seen, names=names) is None
    wrong = change(maps)
    told = explain(id_agreement(wrong, *seen), wrong, photos, *seen, names=names)
    assert told is not None and re.search(words, told), told
    assert ("ssociate" in told) == ("Associate" in words)


def test_photos_that_do_not_fit_are_not_the_maps_fault() -> None:
    """Photos and maps that are turned together, and poses that are wrong."""
    maps, viewmats, Ks, points = wandering(16)
    names = [f"{i}.png" for i in range(16)]
    turned = [ids[::-1, ::-1] for ids in maps]
    photos = painted(turned)
    told = explain(
        id_agreement(turned, viewmats, Ks, points), turned, photos, viewmats, Ks, points, names=names
    )
    assert told is not None and "photos do not fit" in told and "turned by 180" in told
    order = np.random.default_rng(1).permutation(16)
    photos, maps = painted([maps[i] for i in order]), [maps[i] for i in order]
    told = explain(id_agreement(maps, viewmats, Ks, points), maps, photos, viewmats, Ks, points, names=names)
    assert told is not None and "Look at the poses" in told and "ssociate" not in told


def wandering(views: int) -> tuple[list[NDArray[np.int32]], NDArray, NDArray, NDArray]:
    """As `scene`, from places without an order, so that no shift of numbers is like a shift of the scene."""
    _, viewmats, Ks, _ = scene(views)
    rng = np.random.default_rng(5)
    viewmats[:, :2, 3] = rng.uniform(-2, 2, (views, 2))
    points = rng.uniform(-3.5, 3.5, (6000, 3)) * [1, 1, 0] + [0, 0, 3]
    return moved_maps(viewmats), viewmats, Ks, points


def moved_maps(viewmats: NDArray) -> list[NDArray[np.int32]]:
    """Tiles of no pattern, one id each, as `scene`'s cameras see them from other places."""
    tiles = np.random.default_rng(2).permutation(64 * 16).reshape(64, 16)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    maps = []
    for viewmat in viewmats:
        x = (columns + 0.5 - SIZE / 2) / FOCAL * 3 - viewmat[0, 3]
        y = (rows + 0.5 - SIZE / 2) / FOCAL * 3 - viewmat[1, 3]
        maps.append(tiles[np.floor(x).astype(int) + 32, np.floor(y).astype(int) + 8].astype(np.int32))
    return maps
