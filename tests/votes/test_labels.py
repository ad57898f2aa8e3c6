"""Labels by majority, the foreground rule, what is unseen, and labels rendered again."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.votes.accumulate import Votes
from gradiseg_ns.votes.labels import (
    Labels,
    fill_unseen,
    foreground,
    majority,
    object_confidence,
    render_classes,
)

from ..rendering.scenes import random_camera, random_gaussians

pytestmark = pytest.mark.usefixtures("device")


def _votes(matrix: list[list[float]]) -> Votes:
    dense = torch.tensor(matrix, dtype=torch.float32)
    rows, columns = dense.nonzero().unbind(1)
    return Votes((dense.shape[0], dense.shape[1]), rows, columns, dense[rows, columns])


def four() -> Votes:
    return _votes([[6, 2, 0], [0, 0, 0], [1, 1, 2], [0, 5, 0]])


def test_majority_and_its_margin() -> None:
    labels = majority(four())
    assert labels.classes.tolist() == [0, -1, 2, 1]
    assert labels.confidence.tolist() == [0.5, 0.0, 0.25, 1.0]
    assert labels.seen.tolist() == [True, False, True, True]


def test_foreground_follows_its_weight() -> None:
    assert foreground(four(), [0]).tolist() == [True, False, False, False]
    assert foreground(four(), [0], 3.0).tolist() == [False, False, False, False]  # 6 > 3 * 2 is not
    assert foreground(four(), [1], 0.1).tolist() == [True, False, True, True]
    assert foreground(four(), [0, 1, 2], 5.0).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="0..2"):
        foreground(four(), [3])


def test_unseen_take_the_label_of_their_neighbours_and_stay_unsure() -> None:
    means = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [5.0, 0, 0], [5.1, 0, 0]])
    filled = fill_unseen(majority(four()), means, count=1)
    assert filled.classes.tolist() == [0, 0, 2, 1]
    assert filled.confidence[1] == 0
    tie = fill_unseen(majority(four()), means, count=3)
    assert tie.classes[1] == 0, "of equally many the nearest"


def test_object_confidence_counts_both_ways() -> None:
    first, second, third = object_confidence(four(), majority(four()))
    assert (first.gaussians, first.purity, first.recall) == (1, 6 / 8, 6 / 7)
    assert (second.gaussians, second.purity, second.recall) == (1, 1.0, 5 / 8)
    assert (third.gaussians, third.purity, third.recall) == (1, 0.5, 1.0)


def test_rendered_labels_are_the_argmax_of_their_one_hot_render() -> None:
    gaussians, camera = random_gaussians(300), random_camera()
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(-1, 70, (300,), generator=generator)  # more than one chunk
    hot = torch.zeros(300, 70)
    hot[classes >= 0] = torch.nn.functional.one_hot(classes[classes >= 0], 70).float()
    maps, _ = rendering.render(gaussians, camera, hot)
    expected = torch.where(maps.amax(-1) > 0, maps.argmax(-1), -1)
    found, weight = render_classes(rendering.project(gaussians, camera), classes)
    torch.testing.assert_close(weight, maps.amax(-1), rtol=1e-5, atol=1e-6)
    assert float((found == expected).float().mean()) > 0.999
    nothing, _ = render_classes(rendering.project(gaussians, camera), torch.full((300,), -1))
    assert bool((nothing == -1).all())


def test_nothing_seen_stays_unseen() -> None:
    labels = Labels(torch.full((3,), -1), torch.zeros(3))
    assert fill_unseen(labels, torch.zeros(3, 3)).classes.tolist() == [-1, -1, -1]
