"""Edges of id maps that are moved to those of the photo, on a wall with two boards whose Gaussians lie across their edges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.consensus import find_consensus
from gradiseg_ns.boundary.refinement import edge_band
from gradiseg_ns.boundary.snapping import (
    COLOR,
    MIN_SEEN,
    REACH,
    SPREAD,
    STRONG,
    edge_strength,
    snapped_classes,
)
from gradiseg_ns.votes.accumulate import Votes, accumulate
from gradiseg_ns.votes.labels import majority, render_classes

from .scenes import LEFT, RIGHT, WALL, board, camera, positions, wall

pytestmark = pytest.mark.usefixtures("device")

COLORS = torch.tensor([[0.8, 0.8, 0.8], [0.7, 0.1, 0.1], [0.1, 0.2, 0.7]], device="cpu")


def coarse_wall() -> rendering.Gaussians:
    """Gaussians of three pixels, which lie across the edges of the boards."""
    return wall(step=0.2)[0]


def truth(index: int) -> Tensor:
    return board(*positions(camera(0.1 * index)))


def photo(index: int) -> Tensor:
    return COLORS.to(truth(index).device)[truth(index)]


def jittered(index: int) -> Tensor:
    """The map, moved as a whole by two pixels, each view's in another direction."""
    return torch.roll(truth(index), ((-2, 0), (2, 0), (0, -2), (0, 2))[index % 4], dims=(0, 1))


def voted(count: int) -> tuple[Votes, Tensor]:
    """Votes and classes of the Gaussians by the jittered maps."""
    votes = accumulate(coarse_wall(), [(camera(0.1 * i), jittered(i)) for i in range(count)], 3)
    return votes, majority(votes).classes


def wrong(classes: Tensor, index: int) -> int:
    return int((classes != truth(index)).sum())


def test_a_band_lies_on_both_sides_of_an_edge() -> None:
    classes = torch.zeros(9, 12, dtype=torch.int64)
    classes[:, 6:] = 4
    classes[0, 0] = -1
    found = edge_band(classes, 3)
    expected = torch.zeros_like(found)
    expected[:, 3:9] = True
    expected[:3, :3] = True
    expected[0, 3] = expected[3, 0] = expected[1, 3] = expected[3, 1] = (
        True  # the corner's edge has two pixels, too
    )
    assert torch.equal(found[4:], expected[4:])
    assert bool(found[0, 0]) and not bool(found[4:, :3].any())
    assert not bool(edge_band(torch.ones(4, 5, dtype=torch.int64), 2).any())


def test_edges_go_where_the_photo_has_them() -> None:
    votes, classes = voted(8)
    view = camera(0.1)
    projection = rendering.project(coarse_wall(), view)
    rendered, _ = render_classes(projection, classes)
    found = snapped_classes(projection, votes, rendered, jittered(1), photo(1))
    assert wrong(rendered, 1) > 30 and wrong(jittered(1), 1) > 60
    assert wrong(found, 1) <= 4, "four corners"


def test_only_labelled_pixels_near_an_edge_change() -> None:
    votes, classes = voted(8)
    projection = rendering.project(coarse_wall(), camera())
    rendered, _ = render_classes(projection, classes)
    own = jittered(0)
    own[20:30] = -1
    own[0, 0] = RIGHT  # a speck, far from the boards: all pixels of it are at an edge
    found = snapped_classes(projection, votes, rendered, own, photo(0))
    assert torch.equal(found < 0, own < 0) and int(found[0, 0]) == WALL
    far = ~(edge_band(own, REACH) | edge_band(rendered, REACH))
    assert torch.equal(found[far], own[far]) and bool((found != own).any())


def test_where_the_photo_shows_nothing_the_mean_decides() -> None:
    votes, classes = voted(8)
    projection = rendering.project(coarse_wall(), camera())
    rendered, _ = render_classes(projection, classes)
    found = snapped_classes(projection, votes, rendered, jittered(0), torch.full((48, 64, 3), 0.5))
    assert wrong(found, 0) <= wrong(rendered, 0) + 8
    assert bool((found == LEFT).any()) and bool((found == RIGHT).any())


def test_a_splat_that_shows_nothing_leaves_the_map() -> None:
    votes, _ = voted(4)
    projection = rendering.project(coarse_wall(), camera())
    nothing = torch.full_like(truth(0), -1)
    assert torch.equal(snapped_classes(projection, votes, nothing, jittered(0), photo(0)), jittered(0))


def test_the_mean_is_that_of_the_formula() -> None:
    """Against loops over pixels, with a photo of noise."""
    votes, classes = voted(4)
    projection = rendering.project(coarse_wall(), camera())
    rendered, _ = render_classes(projection, classes)
    noise = 0.1 * torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)).to(rendered.device)
    found = snapped_classes(projection, votes, rendered, jittered(0), noise).cpu()
    shares = votes.dense() / votes.total().clamp(min=1e-9)[:, None]
    (maps,), _ = rendering.rasterize(projection, [shares])
    own, maps, picture = jittered(0).cpu(), maps.cpu().double(), noise.cpu().double()
    near = (edge_band(jittered(0), REACH) | edge_band(rendered, REACH)).cpu().nonzero().tolist()
    for row, column in near[::7]:
        mean = torch.zeros(3, dtype=torch.float64, device="cpu")
        for down in range(-REACH, REACH + 1):
            for right in range(-REACH, REACH + 1):
                y, x = min(max(row + down, 0), 47), min(max(column + right, 0), 63)
                apart = float((picture[y, x] - picture[row, column]).square().sum()) / (2 * COLOR**2)
                mean += math.exp(-apart - (down**2 + right**2) / (2 * SPREAD**2)) * maps[y, x]
        if float(maps[row, column].sum()) < MIN_SEEN:
            assert int(found[row, column]) == int(own[row, column])
            continue
        best, second = mean.topk(2).values.tolist()
        assert int(found[row, column]) == int(mean.argmax()) or best - second < 1e-5 * best


def test_edges_that_do_not_agree_are_snapped() -> None:
    maps = [jittered(i) for i in range(8)]
    cameras = [camera(0.1 * i) for i in range(8)]
    rough = find_consensus(coarse_wall(), lambda: zip(cameras, maps, strict=True), 3)
    assert not rough.sharp and not rough.snapped
    found = find_consensus(coarse_wall(), lambda: zip(cameras, maps, strict=True), 3, photos=photo)
    assert found.snapped and found.sharp and sorted(found.maps) == list(range(8))
    assert sum(wrong(found.maps[i].to(maps[i]), i) for i in range(8)) < 0.25 * sum(
        wrong(maps[i], i) for i in range(8)
    )
    assert float(found.ambiguity.votes.total().sum()) == pytest.approx(
        float(rough.ambiguity.votes.total().sum()), rel=1e-4
    )


def test_nothing_is_snapped_where_the_splat_is_wrong() -> None:
    maps, cameras = [jittered(i) for i in range(8)], [camera(0.1 * i) for i in range(8)]
    error = torch.zeros(48, 64)
    error[:, 32:] = 0.5
    found = find_consensus(
        coarse_wall(), lambda: zip(cameras, maps, strict=True), 3, photos=photo, render_error=lambda *_: error
    )
    assert found.snapped
    for index, own in enumerate(maps):
        moved = found.maps[index].to(own) != own
        assert bool(moved[:, :28].any()) and not bool(moved[:, 36:].any())


def test_edges_that_lie_on_those_of_the_photo_stay_where_they_are() -> None:
    """Also with a coarse splat, whose own edges are elsewhere."""
    maps, cameras = [truth(i) for i in range(6)], [camera(0.1 * i) for i in range(6)]
    for gaussians in (wall()[0], coarse_wall()):
        found = find_consensus(gaussians, lambda: zip(cameras, maps, strict=True), 3, photos=photo)
        assert not found.snapped and not found.maps


def test_without_agreement_or_edges_nothing_is_snapped() -> None:
    maps, cameras = [jittered(i) for i in range(4)], [camera(0.1 * i) for i in range(4)]

    def views() -> Iterator[tuple[rendering.Camera, Tensor]]:
        return zip(cameras, maps, strict=True)

    assert not find_consensus(coarse_wall(), views, 3, photos=photo, agree=False).maps
    grey = find_consensus(coarse_wall(), views, 3, photos=lambda _: torch.full((48, 64, 3), 0.5))
    assert not grey.snapped, "the photo has no edge at all"


def test_the_strength_of_edges() -> None:
    classes = torch.tensor([[0, 0, 1, -1], [0, 2, 2, 2]])
    picture = torch.zeros(2, 4, 3)
    picture[0, 2] = 0.1  # 0.173 from its neighbours: one to the left, one below
    picture[1, 0] = 1.0  # more than counts
    total, count = edge_strength(classes, picture)
    assert count == 4 and total == pytest.approx(2 * 0.1 * math.sqrt(3) + STRONG)
    assert edge_strength(torch.zeros(3, 3, dtype=torch.int64), torch.rand(3, 3, 3)) == (0.0, 0)
