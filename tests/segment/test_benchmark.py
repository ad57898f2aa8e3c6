"""benchmarks/segment.py: the best group of an object, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..benchmark import load_benchmark
from .tiny import RED, Tiny

benchmark = load_benchmark("segment")


def test_the_best_group_of_each_object_counts(tiny: Tiny) -> None:
    """The red ball is one group; the blue one is torn into two, of which the larger one counts; nothing has id 7."""
    blue = (tiny.truth == 2).nonzero()[:, 0]
    groups = torch.tensor([5, 3, 0])[tiny.truth.clamp(min=0)]
    groups[blue[: len(blue) // 4]] = 9
    seen = SimpleNamespace(cameras=tiny.cameras[:3], id_maps=tiny.maps[:3])
    best, which = benchmark.best_groups(tiny.splat, groups, seen, [RED, 2, 7])
    assert which == [3, 0, -1]
    alone = benchmark.held_out_iou(tiny.splat, groups == 3, seen, RED)
    assert best[0] == pytest.approx(alone, abs=0.02) and best[0] > 0.8
    assert 0.3 < best[1] < 0.95 and best[2] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"maker": "exact", "cameras": "virtual"},
        {"maker": "exact", "everything": True},
        {"sharpen": True, "cameras": "virtual"},
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_loaded(options: dict) -> None:
    with pytest.raises(SystemExit, match="--cameras run"):
        benchmark.SegmentBenchmark(Path("nowhere"), **options).main()


def test_clicks_lie_well_inside_and_apart() -> None:
    """Of an object that is larger in the second view, an L: the first click at its corner, the others at its ends."""
    small, large = torch.zeros(2, 40, 60, dtype=torch.int64)
    small[5:8, 5:8] = 3
    large[10:18, 10:50] = large[10:36, 10:18] = 3
    seen = type("Seen", (), {"id_maps": [small, large], "__len__": lambda self: 2})()
    clicks = benchmark.clicks_on(seen, 3, 3)
    assert [click.view for click in clicks] == [1, 1, 1]
    inside = [bool(large[int(click.y), int(click.x)] == 3) for click in clicks]
    assert all(inside) and benchmark.clicks_on(seen, 3) == clicks[:1]
    places = torch.tensor([(click.x, click.y) for click in clicks])
    assert float(torch.pdist(places).min()) > 15
    assert clicks[1].x > 40, "the far end of the long arm"
