"""Votes for parts, within their objects only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.scene.parts import PartTree
from gradiseg_ns.votes.parts import part_labels, tidy, vote_parts

pytestmark = pytest.mark.usefixtures("device")

TREE = PartTree.create({5: 1, 6: 1, 7: 6})


def test_more_than_half_of_the_votes_make_a_part_and_parts_of_it_follow() -> None:
    # columns: 5, 6 (7 included), 7
    inside = torch.tensor([[9.0, 0, 0], [4, 0, 0], [0, 8, 2], [0, 8, 7], [0, 2, 9], [0, 0, 0]])
    seen = torch.full_like(inside, 10.0)
    seen[-1] = 0
    assert part_labels(inside, seen, TREE, 1).tolist() == [5, -1, 6, 7, -1, -1]


def _row(count: int = 6) -> tuple[rendering.Gaussians, rendering.Camera]:
    """Gaussians side by side, each in the middle of a block of 10 x 10 pixels."""
    means = torch.stack(
        [torch.arange(count) - (count - 1) / 2, torch.zeros(count), torch.full((count,), 10.0)], 1
    )
    gaussians = rendering.Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), torch.full((count, 3), 0.1), torch.full((count,), 0.9)
    )  # fmt: skip
    K = torch.tensor([[100.0, 0, 5 * count], [0, 100, 5], [0, 0, 1]])
    return gaussians, rendering.Camera(torch.eye(4), K, 10 * count, 10)


def _map(ids: list[int]) -> torch.Tensor:
    return torch.tensor(ids).repeat_interleave(10)[None].repeat(10, 1)


def test_parts_are_voted_by_the_views_that_show_them_and_never_across_objects() -> None:
    gaussians, camera = _row()
    projection = rendering.project(gaussians, camera)
    objects = torch.tensor([1, 1, 1, 1, 2, -1])
    views = [
        _map([5, 5, 1, 1, 2, 2]),  # the only view with part 5
        *[_map([1, 1, 1, 1, 2, 2])] * 4,  # do not divide the object, and say nothing
        _map([6, 6, 1, 6, 6, 6]),  # 6 in the place of 5, and beyond the object
        _map([1, 1, 1, 7, 7, 99]),
        _map([5, 5, 1, 7, 2, 2]),
    ]
    found = vote_parts(objects, TREE, ((projection, ids) for ids in views))
    assert found.labels.tolist() == [5, 5, -1, 7, -1, -1]
    nothing = vote_parts(objects, PartTree(), [(projection, views[0])])
    assert nothing.labels.tolist() == [-1] * 6
    with pytest.raises(ValueError, match="pixels"):
        vote_parts(objects, TREE, [(projection, views[0][:5])])


def test_a_part_that_is_the_whole_goes_and_its_parts_move_up() -> None:
    maps = [np.array([[7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 2, 8]], np.int32)]
    objects = [np.array([[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]], np.int32)]
    tree, gone = tidy(PartTree.create({5: 1, 6: 1, 7: 6, 8: 2}), maps, objects)
    assert tree.parent_of == {7: 1, 8: 2} and gone == {5: 1, 6: 1}
    assert tree.name_of[7] == "object 1 part 3", "names stay"
