"""Which pieces are one object, on surfaces that are known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gradiseg_ns.votes.seams import Seams, join

K = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])


def _seams(pieces: np.ndarray, depth: np.ndarray) -> tuple[int, float]:
    """Samples at the border of the pieces 0 and 1, and the smooth share of them."""
    seams = Seams()
    seams.add(pieces, depth, K)
    n = seams.samples[0, 1]
    return n, seams.smooth[0, 1] / n


def _halves() -> np.ndarray:
    return np.where(np.arange(100) < 50, 0, 1)[None].repeat(100, 0)


@pytest.mark.parametrize(
    ("name", "slopes", "step", "smooth"),
    [
        ("a plane that faces the camera", (0.0, 0.0), 0.0, True),
        ("a plane seen at an angle", (1.0, 1.0), 0.0, True),
        ("a convex edge, as of a box", (-1.0, 1.0), 0.0, True),
        ("a flat fold inwards", (0.2, -0.2), 0.0, True),
        ("a wall on a floor", (1.0, -1.0), 0.0, False),
        ("one thing before another", (0.0, 0.0), 5.0, False),
    ],
)  # fmt: skip
def test_a_border_is_smooth_where_the_surface_goes_on(
    name: str, slopes: tuple[float, float], step: float, smooth: bool
) -> None:
    x = (np.arange(100) + 0.5 - 50) / 100
    rays = np.where(x < 0, slopes[0], slopes[1])
    # the plane z = 10 + slope * X, with X = x z
    depth = (10 + step * (x >= 0)) / (1 - rays * x)
    n, share = _seams(_halves(), depth[None].repeat(100, 0))
    assert n >= 90 and share == pytest.approx(float(smooth), abs=0.02), name
    n, turned = _seams(_halves().T, depth[:, None].repeat(100, 1))
    assert turned == pytest.approx(share, abs=0.02), "whichever way the border runs"


def test_pixels_without_a_piece_have_no_border() -> None:
    seams = Seams()
    seams.add(np.where(_halves() == 1, -1, 0), np.ones((100, 100)), K)
    assert not seams.samples


def test_pieces_of_a_surface_join_and_what_touches_in_passing_stays_apart() -> None:
    # 0 and 1 are halves of a bottle, 2 its cap; 3 touches 1 in a few pixels; 4 stands behind and is only seen beside them
    samples = {(0, 1): 1000, (1, 2): 200, (1, 3): 100, (0, 4): 2000, (3, 4): 1000, (2, 4): 300}
    smooth = {(0, 1): 900, (1, 2): 190, (1, 3): 60, (0, 4): 40, (3, 4): 20, (2, 4): 0}
    assert join(samples, smooth) == {0: 0, 1: 0, 2: 0, 3: 3, 4: 4}
    assert join({(0, 1): 30}, {(0, 1): 30}) == {0: 0, 1: 1}, "too few samples"
    assert join(samples, smooth, {3: 4})[4] == 3 and join({}, {}, {8: 5}) == {5: 5, 8: 5}, (
        "one from the start"
    )


def test_borders_add_up_while_pieces_join() -> None:
    # no border of 2 is smooth enough alone; the two that it has with the joined halves are
    samples = {(0, 1): 400, (0, 2): 80, (1, 2): 80, (0, 3): 2000, (1, 3): 2000, (2, 3): 2000}
    smooth = {(0, 1): 400, (0, 2): 76, (1, 2): 76}
    apart = join({k: v for k, v in samples.items() if k != (0, 1)}, smooth)
    assert apart == {0: 0, 1: 1, 2: 2, 3: 3}
    assert join(samples, smooth) == {0: 0, 1: 0, 2: 0, 3: 3}


def test_a_flat_thing_on_another_joins_only_if_masks_cover_it() -> None:
    # 0 is a book, 1 a pencil on it, and 2 the other half of the book's cover
    samples, smooth = {(0, 1): 500, (0, 2): 300, (0, 3): 700, (2, 3): 700}, {(0, 1): 480, (0, 2): 290}
    asked: list[tuple[list[int], list[int]]] = []

    def covered(some: Sequence[int], others: Sequence[int]) -> float:
        asked.append((sorted(some), sorted(others)))
        return 0.02

    assert join(samples, smooth) == {0: 0, 1: 0, 2: 0, 3: 3}
    assert join(samples, smooth, None, covered) == {0: 0, 1: 1, 2: 0, 3: 3}
    assert asked == [([1], [0]), ([1], [0, 2])], "the halves have short borders, nothing is asked of them"
    assert join(samples, smooth, None, lambda some, others: 0.5) == {0: 0, 1: 0, 2: 0, 3: 3}
