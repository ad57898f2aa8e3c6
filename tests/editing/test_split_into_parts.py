"""`--split-into-parts`: the parts of an object become objects, as ordinary edits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from gradiseg_ns.editing.arrangement import arrange, edited_splat
from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.editing.display import Selection
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.flags import Script
from gradiseg_ns.editing.levels import step_selection
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.parts import Parts, PartTree

from ..formats.test_export import make_splat

CUP = 1


def _script(edits: EditList | None = None) -> Script:
    """A cup of 30 Gaussians: a handle, a body with a picture on it, and five that are in no part. A lamp has no parts."""
    splat = make_splat(40, ids=2)
    means = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([CUP] * 30 + [2] * 10, dtype=torch.int32)
    splat = replace(splat, means=means, labels=labels)
    own = torch.tensor([5] * 10 + [6] * 10 + [7] * 5 + [-1] * 15)
    parts = Parts(PartTree.create({5: CUP, 6: CUP, 7: 6}), own)
    return Script(splat, ObjectTable.create([CUP, 2], {CUP: "cup", 2: "lamp"}), edits or EditList(), parts)


def test_parts_become_objects_and_undo_brings_the_whole_back(tmp_path: Path) -> None:
    script = _script()
    script.apply("--split-into-parts", "cup")
    assert [step.label for step in script.edits.steps] == ["split-into-parts cup"]
    found = script.arrangement
    assert found.objects.names == ("cup", "lamp", "cup part 1", "cup part 2")
    assert found.object_ids.tolist() == [3] * 10 + [4] * 15 + [CUP] * 5 + [2] * 10
    assert dict(found.objects.parents) == {3: CUP, 4: CUP}
    script.save(tmp_path / "edits.json")
    again = _script(EditList.load(tmp_path / "edits.json"))
    assert again.arrangement.object_ids.tolist() == found.object_ids.tolist()
    again.edits.undo()
    assert again.arrangement.object_ids.tolist() == [CUP] * 30 + [2] * 10
    # a training moves Gaussians and adds others beside them
    moved = torch.cat([script.splat.means + 1e-4, script.splat.means[:20] - 1e-4])
    labels = torch.cat([again.splat.labels, again.splat.labels[:20]])  # type: ignore[list-item]
    later = arrange(labels, moved, script.objects, script.edits.steps)
    assert later.object_ids.tolist() == [*found.object_ids.tolist(), *found.object_ids.tolist()[:20]]


def test_a_part_is_split_further_and_names_stay_apart() -> None:
    script = _script()
    script.apply("--rename", "lamp=cup part 1")
    script.apply("--split-into-parts", "cup")
    assert script.arrangement.objects.names == ("cup", "cup part 1", "cup part 1 copy", "cup part 2")
    script.apply("--split-into-parts", "cup part 2")
    assert script.arrangement.objects.names[-1] == "cup part 2 part 1"
    assert script.arrangement.object_ids[20:25].tolist() == [5] * 5
    assert script.arrangement.object_ids[10:20].tolist() == [4] * 10, "what is in no part stays"


def test_the_sidecar_of_a_ply_tells_what_a_part_belongs_to(tmp_path: Path) -> None:
    script = _script()
    script.apply("--split-into-parts", "cup")
    splat, arrangement = edited_splat(script.splat, script.objects, script.edits.steps, {})
    table = arrangement.objects
    names = dict(zip(table.ids, table.names, strict=True))
    path = write_ply(tmp_path / "a.ply", splat, names=names, parents=table.parents)
    entries = json.loads((tmp_path / "a.objects.json").read_text())["objects"]
    assert [entry.get("parent") for entry in entries] == [None, None, CUP, CUP]
    read = read_objects(path)
    assert read is not None and dict(read.parents) == {3: CUP, 4: CUP}


def test_what_cannot_be_split_is_said_with_a_cure() -> None:
    script = _script()
    with pytest.raises(EditError, match="lamp has no parts"):
        script.apply("--split-into-parts", "lamp")
    script.parts = None
    with pytest.raises(EditError, match="gradiseg associate"):
        script.apply("--split-into-parts", "cup")
    assert not script.edits.steps


def test_coarser_and_finer_walk_the_tree_with_selections_and_with_edits() -> None:
    script = _script()
    labels, means, parts = script.splat.labels, script.splat.means, script.parts
    assert labels is not None and parts is not None

    def rows(selection: Selection) -> list[int]:
        return selection.rows(script.arrangement, means).nonzero()[:, 0].tolist()

    def step(
        selection: Selection, direction: Literal["coarser", "finer"], near: int | None = None
    ) -> Selection:
        return step_selection(selection, script.arrangement, means, labels, parts, direction, near)

    cup = Selection((CUP,))
    body = step(cup, "finer")
    assert rows(body) == list(range(10, 25)) and body.ids == (CUP,)
    assert rows(step(cup, "finer", near=3)) == list(range(10))
    picture = step(body, "finer")
    assert rows(picture) == list(range(20, 25)) and step(picture, "finer") is picture
    assert rows(step(picture, "coarser")) == rows(body)
    again = step(step(picture, "coarser"), "coarser")
    assert again.ids == (CUP,) and again.region is None and step(again, "coarser") is again
    lamp = Selection((2,))
    assert step(lamp, "finer") is lamp
    script.apply("--split-into-parts", "cup")
    whole = step(Selection((4,)), "coarser")
    assert whole.ids == (CUP, 3, 4) and whole.region is None, "the objects that were one"
    assert rows(step(Selection((4,)), "finer")) == list(range(20, 25))
