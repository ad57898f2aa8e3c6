"""The tree of parts, and the way up and down from a selection."""

from __future__ import annotations

import json

import pytest
import torch

from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.parts import PartError, Parts, PartTree, coarser, finer, node_of, parts_as_objects

TREE = PartTree.create({5: 1, 6: 1, 7: 6, 9: 2}, objects={1: "cup", 2: "lamp"})
"""Cup 1 has the parts 5 and 6, and 6 the part 7. Lamp 2 has the part 9; object 3 has none."""
LABELS = torch.tensor([1, 1, 1, 1, 1, 1, 2, 2, 3])
PARTS = Parts(TREE, torch.tensor([5, 5, 6, 7, 7, -1, 9, -1, -1]))


def _rows(*places: int) -> torch.Tensor:
    rows = torch.zeros(len(LABELS), dtype=torch.bool)
    rows[list(places)] = True
    return rows


def test_a_tree_knows_its_ways_and_names() -> None:
    assert TREE.path(7) == [7, 6, 1] and TREE.root(7) == 1 and TREE.root(3) == 3
    assert TREE.children(1) == [5, 6] and TREE.within(1) == [1, 5, 6, 7] and TREE.within(9) == [9]
    assert TREE.names == ("cup part 1", "cup part 2", "cup part 3", "lamp part 1")
    assert PartTree.from_dict(json.loads(json.dumps(TREE.to_dict()))) == TREE


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"ids": [1, 2], "parents": [2, 1], "names": ["a", "b"]}, "part of itself"),
        ({"ids": [2, 1], "parents": [0, 0], "names": ["a", "b"]}, "ascending"),
        ({"ids": [1], "parents": [-1], "names": ["a"]}, "ascending ids from 0"),
        ({"ids": [1], "parents": [], "names": []}, "one of each"),
        ({"ids": [1]}, "damaged"),
        (None, "damaged"),
    ],
)
def test_what_is_no_tree_is_refused(data: object, told: str) -> None:
    with pytest.raises(PartError, match=told):
        PartTree.from_dict(data)


def test_a_selection_goes_up_to_the_object_and_down_to_the_parts() -> None:
    assert torch.equal(coarser(LABELS, PARTS, _rows(3, 4)), _rows(2, 3, 4)), "7 is a part of 6"
    assert torch.equal(coarser(LABELS, PARTS, _rows(3)), _rows(3, 4)), (
        "a piece of a part becomes the part first"
    )
    assert torch.equal(coarser(LABELS, PARTS, _rows(2, 3, 4)), _rows(0, 1, 2, 3, 4, 5))
    for whole in (_rows(0, 1, 2, 3, 4, 5), _rows(8), _rows(), _rows(1, 7)):
        assert torch.equal(coarser(LABELS, PARTS, whole), whole), "objects, several objects and nothing stay"
    cup = _rows(0, 1, 2, 3, 4, 5)
    assert torch.equal(finer(LABELS, PARTS, cup), _rows(2, 3, 4)), "the largest part"
    assert torch.equal(finer(LABELS, PARTS, cup, near=1), _rows(0, 1)), "the part that was clicked"
    assert torch.equal(finer(LABELS, PARTS, _rows(2, 3, 4)), _rows(3, 4))
    for single in (_rows(3, 4), _rows(8), _rows()):
        assert torch.equal(finer(LABELS, PARTS, single), single), "there is nothing smaller"
    assert [node_of(LABELS, PARTS, rows) for rows in (cup, _rows(2, 3), _rows(0, 6))] == [1, 6, -1]


def test_objects_that_are_parts_of_others_are_walked_likewise() -> None:
    ids = torch.tensor([5, 5, 6, 7, 7, 1, 2, -1])
    labels, parts = parts_as_objects(ids, {5: 1, 6: 1, 7: 6, 8: 4})
    assert labels.tolist() == [1, 1, 1, 1, 1, 1, 2, -1] and parts.labels.tolist() == [
        5,
        5,
        6,
        7,
        7,
        -1,
        -1,
        -1,
    ]
    walked = [ids == 7]
    for _ in range(3):
        walked.append(coarser(labels, parts, walked[-1]))
    assert [rows.nonzero()[:, 0].tolist() for rows in walked[1:]] == [
        [2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    assert torch.equal(finer(labels, parts, walked[-1], near=0), ids == 5)
    assert torch.equal(coarser(labels, parts, ids == -1), ids == -1)
    with pytest.raises(PartError, match="part of itself"):
        parts_as_objects(ids, {5: 6, 6: 5})


def test_parts_survive_a_checkpoint_and_old_ones_have_none() -> None:
    again = Parts.from_state(PARTS.to_state(), len(LABELS))
    assert again is not None and again.tree == TREE and torch.equal(again.labels, PARTS.labels)
    assert Parts.from_state({"label": LABELS}, len(LABELS)) is None
    assert Parts.from_state(PARTS.to_state(), 5) is None, "of other Gaussians"


def test_a_table_of_objects_keeps_parents() -> None:
    table = ObjectTable.create([1, 5], {5: "handle"}, {5: 1, 8: 1})
    assert dict(table.parents) == {5: 1}
    assert dict(ObjectTable.from_dict(json.loads(json.dumps(table.to_dict()))).parents) == {5: 1}
    assert "parents" not in ObjectTable.create([1]).to_dict(), "tables without parts are as they were"
    more = ObjectTable.create([1, 5, 6], {}, {5: 1}).with_parents({6: 5, 9: 1})
    assert dict(more.parents) == {5: 1, 6: 5} and more.with_parents({6: 5}) is more
    with pytest.raises(ValueError, match="another id for each part"):
        ObjectTable((1,), ("a",), torch.zeros(1, 3), {1: 1})
