"""Nearest points, by a tree and by curves, against brute force."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.grouping.search import CurveIndex, PointIndex, TreeIndex, index_of

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(params=[TreeIndex, CurveIndex])
def kind(request: pytest.FixtureRequest) -> type[PointIndex]:
    return request.param


def brute_force(points: torch.Tensor, places: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cdist(places.double(), points.double()).topk(count, largest=False).indices


def test_nearest_equals_brute_force(kind: type[PointIndex]) -> None:
    torch.manual_seed(0)
    points, places = torch.randn(250, 3), torch.randn(20, 3)
    index = kind(points)
    assert torch.equal(index.nearest(places, 6), brute_force(points, places, 6))
    own = torch.tensor([0, 17, 249])
    assert torch.equal(index.nearest(points[own], 5, own=own), brute_force(points, points[own], 6)[:, 1:])


def clustered(count: int) -> torch.Tensor:
    """Points as a scene has them: sheets of very different density, and some far away."""
    sheets = torch.rand(count, 3) * torch.tensor([1.0, 1.0, 0.001])
    sheets[count // 2 :] = sheets[count // 2 :] * 0.02 + 0.4
    sheets[:200] = torch.randn(200, 3) * 100
    return sheets


def test_curves_find_nearly_all() -> None:
    torch.manual_seed(0)
    points = clustered(40_000)
    rows = torch.randint(len(points), (500,))
    exact = TreeIndex(points).nearest(points[rows], 16, own=rows)
    found = CurveIndex(points).nearest(points[rows], 16, own=rows)
    assert all(len(set(row)) == 16 for row in found.tolist())
    assert not (found == rows[:, None]).any()
    assert (exact[:, :, None] == found[:, None]).any(dim=2).float().mean() > 0.97
    last = [(points[f[:, -1]] - points[rows]).norm(dim=-1).clamp(min=1e-9) for f in (found, exact)]
    assert (last[0] / last[1]).mean() < 1.02, "and the others are hardly farther"


def test_coinciding_points_never_are_their_own_neighbour(kind: type[PointIndex]) -> None:
    for count in (40, 1000):
        rows = torch.arange(count)
        found = kind(torch.zeros(count, 3)).nearest(torch.zeros(count, 3), 5, own=rows)
        assert found.shape == (count, 5)
        assert not (found == rows[:, None]).any()


def test_not_finite_points_are_nobodys_neighbour(kind: type[PointIndex]) -> None:
    points = torch.randn(50, 3)
    points[7] = torch.nan
    assert not (kind(points).nearest(points[:3], 10, own=torch.arange(3)) == 7).any()
    points = torch.randn(1000, 3)
    points[7] = torch.inf
    found = kind(points).nearest(points[:9], 10, own=torch.arange(9))
    assert not (found == 7).any() and found.shape == (9, 10)


def test_few_points(kind: type[PointIndex]) -> None:
    assert kind(torch.randn(3, 3)).nearest(torch.zeros(1, 3), 5).shape == (1, 3)
    assert kind(torch.randn(3, 3)).nearest(torch.zeros(1, 3), 5, own=torch.tensor([1])).shape == (1, 2)
    assert kind(torch.randn(1, 3)).nearest(torch.zeros(1, 3), 5, own=torch.tensor([0])).shape == (1, 0)


def test_the_host_has_a_tree(device: torch.device) -> None:
    assert type(index_of(torch.zeros(3, 3))) is (TreeIndex if device.type == "cpu" else CurveIndex)
