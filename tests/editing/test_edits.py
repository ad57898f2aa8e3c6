"""Edits: what they make of Gaussians, and lists of them that come back from files."""

from __future__ import annotations

import gc
import json
import math
import random

import numpy as np
import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.editing import arrangement as editing
from gradiseg_ns.editing.arrangement import arrange, edited_splat
from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.editing.display import Selection, drawn_rows
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import (
    Assign,
    Duplicate,
    Edit,
    Hide,
    Merge,
    Move,
    Remove,
    Rename,
    Similarity,
    Step,
    Swap,
    Tint,
)
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.objects import NO_OBJECT, ObjectTable
from gradiseg_ns.scene.rotations import rotate_harmonics, rotation_matrix
from gradiseg_ns.scene.splat import Splat

pytestmark = pytest.mark.usefixtures("device")


def camera() -> rendering.Camera:
    return rendering.Camera(
        torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4.0], [0, 0, 0, 1]]),
        torch.tensor([[70.0, 0, 32], [0, 70, 24], [0, 0, 1]]),
        64,
        48,
    )


def make_splat(count: int = 60, degree: int = 3, seed: int = 0) -> Splat:
    """Three objects (ids 0, 4, 9) side by side."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.tensor([0, 4, 9])[torch.arange(count) % 3].int()
    means = 0.3 * torch.randn(count, 3, generator=g)
    means[:, 0] += (torch.arange(count) % 3 - 1).float() * 1.2
    rest = (degree + 1) ** 2 - 1
    return Splat(
        means,
        torch.randn(count, 4, generator=g),
        torch.randn(count, 3, generator=g) * 0.3 - 2.0,
        torch.randn(count, generator=g) + 1,
        torch.randn(count, 3, generator=g) * 0.5,
        torch.randn(count, rest, 3, generator=g) * 0.1,
        labels=ids,
    )


TABLE = ObjectTable.create([0, 4, 9], {4: "cup", 9: "pear"})


def edit(splat: Splat, *edits: object, files: dict[str, Splat] | None = None) -> tuple[Splat, ObjectTable]:
    result, arrangement = edited_splat(splat, TABLE, [Step("test", tuple(edits))], files or {})  # type: ignore[arg-type]
    return result, arrangement.objects


def same(a: Splat, b: Splat) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.to_parameters().values(), b.to_parameters().values(), strict=True)
    )


def test_no_edits_copy_nothing() -> None:
    splat = make_splat()
    arrangement = arrange(splat.labels, splat.means, TABLE, [])
    params = splat.to_parameters()
    assert all(value is params[name] for name, value in arrangement.apply(params).items())


def test_edits_never_touch_the_scene() -> None:
    splat, before = make_splat(), make_splat()
    edit(
        splat, Tint((4,), (1.0, 0, 0)), Move((9,), Similarity((1, 1, 0, 0), (1, 0, 0), 2.0)), Remove((0,)),
        Duplicate(4, 10, "copy"), Merge((10,), 9),
    )  # fmt: skip
    assert same(splat, before)
    assert torch.equal(splat.labels, before.labels)


def test_remove_hide_and_isolate() -> None:
    splat = make_splat()
    removed, objects = edit(splat, Remove((4,)))
    assert same(removed, splat.select(splat.labels != 4))
    assert objects.ids == (0, 9)
    hidden, objects = edit(splat, Hide((4,)))
    assert same(hidden, removed)
    assert objects.ids == (0, 4, 9), "a hidden object is still an object"
    shown, _ = edit(splat, Hide((0, 4)), Hide((4,), False))
    assert set(shown.labels.tolist()) == {4, 9}
    arrangement = arrange(splat.labels, splat.means, TABLE, [Step("s", (Hide((4,)),))])
    assert arrangement.counts() == {0: 20, 4: 20, 9: 20}


def test_merge_rename_duplicate() -> None:
    splat = make_splat()
    merged, objects = edit(splat, Merge((4,), 9), Rename(9, "fruit"))
    assert objects.names == ("object 0", "fruit")
    assert (merged.labels == 9).sum() == 40
    doubled, objects = edit(splat, Duplicate(4, 11, "second cup"))
    assert len(doubled) == 80
    assert objects.names[objects.ids.index(11)] == "second cup"
    assert torch.equal(doubled.means[doubled.labels == 11], splat.means[splat.labels == 4])


def test_what_belongs_to_no_object_is_hidden_tinted_moved_and_becomes_one(tmp_path) -> None:
    splat = make_splat()
    splat.labels = torch.where(splat.labels == 0, NO_OBJECT, splat.labels)
    table = ObjectTable.create([4, 9], {4: "cup", 9: "pear"})

    def folded(*edits: Edit) -> editing.Arrangement:
        return arrange(splat.labels, splat.means, table, [Step("test", edits)])

    assert folded().unassigned == 20 and folded().counts() == {4: 20, 9: 20}
    hidden = folded(Hide((NO_OBJECT, 4)))
    assert hidden.without_hidden().object_ids.unique().tolist() == [9] and hidden.unassigned == 20
    assert folded(Hide((NO_OBJECT, 4)), Hide((NO_OBJECT,), False)).hidden == {4}
    tinted = folded(Tint((NO_OBJECT,), (1.0, 0, 0)), Move((NO_OBJECT,), Similarity(translation=(1, 0, 0))))
    own = splat.labels == NO_OBJECT
    assert torch.equal(tinted.tint > 0, own) and torch.equal(tinted.pose > 0, own)
    assert len(folded(Remove((NO_OBJECT,))).source) == 40
    assert folded(Merge((NO_OBJECT,), 9)).counts() == {4: 20, 9: 40}
    new = Assign((NO_OBJECT, 4), None, 1, "all but the pear")
    assert folded(new).counts() == {1: 40, 4: 0, 9: 20} and folded(new).unassigned == 0
    assert folded(new, Rename(1, "rest")).objects.names == ("rest", "cup", "pear")
    edits = EditList()
    assert edits.new_id(ObjectTable.create([])) == 1, "0 stands for a background elsewhere"
    edits.push("all", Hide((NO_OBJECT,)), new)
    assert edits.new_id(ObjectTable.create([])) == 5
    edits.save(tmp_path / "edits.json")
    again = EditList.load(tmp_path / "edits.json").steps[0].edits
    assert [e.to_json() for e in again] == [e.to_json() for e in (Hide((NO_OBJECT,)), new)]


def test_a_splat_without_labels_has_no_object_before_its_edits() -> None:
    splat = make_splat()
    chosen = splat.labels == 4
    splat.labels = None
    region = Region.create(splat.means, chosen, torch.ones_like(chosen))
    steps = [Step("make", (Assign((NO_OBJECT,), region, 1, "cup"),)), Step("isolate", (Hide((NO_OBJECT,)),))]
    edited, arrangement = edited_splat(splat, ObjectTable.create([]), steps, {})
    assert arrangement.objects.names == ("cup",) and edited.labels is not None and splat.labels is None
    assert torch.equal(edited.means, splat.means[chosen]) and (edited.labels == 1).all()


def test_a_selection_may_be_what_belongs_to_no_object() -> None:
    splat = make_splat()
    labels = torch.where(splat.labels == 0, NO_OBJECT, splat.labels)
    arrangement = arrange(labels, splat.means, ObjectTable.create([4, 9]), [])
    shown = drawn_rows(arrangement, Selection((NO_OBJECT,)), splat.means)
    assert shown.selected is not None and torch.equal(shown.selected, labels == NO_OBJECT)
    assert drawn_rows(arrangement, Selection((4,)), splat.means).selected is None, (
        "pixels of whole objects are known by their ids"
    )
    assert drawn_rows(arrangement, Selection(), splat.means).selected is None


def test_edits_of_what_is_gone_are_passed_over() -> None:
    splat = make_splat()
    first, _ = edit(splat, Remove((4,)))
    second, objects = edit(splat, Remove((4,)), Hide((4,)), Tint((4,), (1, 0, 0)), Rename(4, "x"), Move((4,), Similarity()))  # fmt: skip
    assert same(first, second)
    assert 4 not in objects.ids


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_moved_scene_from_a_moved_camera_looks_the_same(degree: int) -> None:
    """Means, quaternions, scales and harmonics are all moved: the picture from a camera moved along is the old one."""
    splat = make_splat(degree=degree)
    by = Similarity((0.8, 0.3, -0.4, 0.2), (0.5, -0.2, 0.3), 1.0, (0.1, 0.2, 0.3))
    moved, _ = edit(splat, Move((0, 4, 9), by))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.as_tensor(by.matrix())
    old = camera()
    new = old._replace(viewmat=(old.viewmat.double() @ torch.linalg.inv(matrix)).float())
    before, _ = splat.render(old)
    after, _ = moved.render(new)
    assert before.std() > 0.05
    torch.testing.assert_close(after, before, atol=2e-4, rtol=0)


def test_scaling_about_the_camera_changes_nothing_in_the_picture() -> None:
    splat = make_splat()
    centre = (0.0, 0.0, -4.0)
    moved, _ = edit(splat, Move((0, 4, 9), Similarity(scale=1.7, pivot=centre)))
    torch.testing.assert_close(moved.render(camera())[0], splat.render(camera())[0], atol=3e-3, rtol=0)


def test_moves_add_up() -> None:
    splat = make_splat()
    turn = Similarity((math.cos(0.3), 0, 0, math.sin(0.3)), (0.1, 0.2, 0), 1.5, (1, 0, 0))
    back = np.linalg.inv(np.vstack([turn.matrix(), [0, 0, 0, 1]]))
    rotation = (math.cos(0.3), 0.0, 0.0, -math.sin(0.3))
    undo = Similarity(rotation, tuple(back[:3, 3].tolist()), 1 / 1.5)
    there_and_back, _ = edit(splat, Move((4,), turn), Move((4,), undo))
    torch.testing.assert_close(there_and_back.means, splat.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        there_and_back.render(camera())[0], splat.render(camera())[0], atol=1e-4, rtol=0
    )


def test_a_move_before_a_merge_stays_with_its_part() -> None:
    splat = make_splat()
    result, _ = edit(splat, Move((4,), Similarity(translation=(0, 1, 0))), Merge((4,), 9), Move((9,), Similarity(translation=(1, 0, 0))))  # fmt: skip
    cup, pear = splat.labels == 4, splat.labels == 9
    torch.testing.assert_close(result.means[cup], splat.means[cup] + torch.tensor([1.0, 1, 0]))
    torch.testing.assert_close(result.means[pear], splat.means[pear] + torch.tensor([1.0, 0, 0]))
    assert torch.equal(result.means[splat.labels == 0], splat.means[splat.labels == 0])


def test_harmonics_turn_with_the_object() -> None:
    rest = torch.randn(5, 15, 3, generator=torch.Generator().manual_seed(1))
    rotation = rotation_matrix((0.2, 0.9, -0.3, 0.5))
    turned = rotate_harmonics(rest, rotation)
    directions = torch.nn.functional.normalize(
        torch.randn(5, 3, generator=torch.Generator().manual_seed(2)), dim=1
    )
    zero = torch.zeros(5, 1, 3)
    old = rendering.spherical_harmonics(3, directions, torch.cat([zero, rest], 1))
    new = rendering.spherical_harmonics(
        3, directions @ torch.as_tensor(rotation).float().T, torch.cat([zero, turned], 1)
    )
    torch.testing.assert_close(new, old, atol=1e-5, rtol=0)


def test_a_tint_keeps_shading_and_can_be_taken_away() -> None:
    splat = make_splat(degree=0)
    red, _ = edit(splat, Tint((4,), (1.0, 0.0, 0.0), 1.0))
    cup = splat.labels == 4
    colors = (0.5 + 0.28209479177387814 * red.features_dc)[cup]
    old = (0.5 + 0.28209479177387814 * splat.features_dc)[cup]
    assert colors[:, 1:].abs().max() < 1e-5, "green and blue are gone"
    luminance = old @ torch.tensor([0.299, 0.587, 0.114])
    order = luminance.argsort()
    assert (colors[order, 0].diff() > 0).all(), "what was brighter is brighter"
    assert torch.equal(red.features_dc[~cup], splat.features_dc[~cup])
    assert same(edit(splat, Tint((4,), (1, 0, 0)), Tint((4,), None))[0], splat)


def test_tinted_logits_are_tinted_colors() -> None:
    splat = make_splat(degree=0)
    arrangement = arrange(splat.labels, splat.means, TABLE, [Step("t", (Tint((4,), (0.2, 0.9, 0.4), 0.6),))])
    params = splat.to_parameters()
    colors = (0.5 + 0.28209479177387814 * params["features_dc"]).clamp(0.05, 0.95)
    params["features_dc"] = (colors - 0.5) / 0.28209479177387814
    by_harmonics = 0.5 + 0.28209479177387814 * arrangement.apply(params)["features_dc"]
    params["features_dc"] = torch.logit(colors)
    by_logits = arrangement.apply(params, logits=True)["features_dc"].sigmoid()
    torch.testing.assert_close(by_logits, by_harmonics.clamp(0, 1), atol=1e-3, rtol=0)


def region_of(splat: Splat, chosen: torch.Tensor) -> Region:
    return Region.create(splat.means, chosen, splat.labels == 4)


def test_a_part_becomes_an_object_and_follows_a_training() -> None:
    splat = make_splat(600)
    top = (splat.labels == 4) & (splat.means[:, 1] > 0)
    assign = Assign((4,), region_of(splat, top), 20, "lid")
    result, objects = edit(splat, assign)
    assert torch.equal(result.labels == 20, top)
    assert objects.names[objects.ids.index(20)] == "lid"
    # A training shuffles, adds and moves Gaussians a little; the part stays what it was.
    g = torch.Generator().manual_seed(5)
    order = torch.randperm(600, generator=g)
    more = torch.cat([order, order[:200]])
    later = splat.select(more)
    later.means = later.means + 0.005 * torch.randn(800, 3, generator=g)
    truth = top[more]
    found = edit(later, assign)[0].labels == 20
    agree = (found == truth)[later.labels == 4].float().mean()
    assert agree > 0.9
    assert not found[later.labels != 4].any()


def test_a_region_takes_unknown_gaussians_by_their_neighbours() -> None:
    means = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [1.0, 0, 0], [1.1, 0, 0], [0.05, 0, 0], [50.0, 0, 0]])
    chosen = torch.tensor([True, True, False, False, False, False])
    known = torch.tensor([True, True, True, True, False, False])
    region = Region.create(means, chosen, known)
    assert region.contains(means, torch.ones(6, dtype=torch.bool)).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(EditError, match="none is selected"):
        Region.create(means, torch.zeros(6, dtype=torch.bool), known)


def test_swap(tmp_path) -> None:
    splat, other = make_splat(), make_splat(10, degree=1, seed=3)
    place = Similarity(translation=(0.0, 0.0, 2.0))
    result, objects = edit(
        splat, Swap(4, "other.ply", place), Tint((4,), (0, 0, 1)), files={"other.ply": other}
    )
    new = result.labels == 4
    assert int(new.sum()) == 10
    torch.testing.assert_close(result.means[new], other.means + torch.tensor([0, 0, 2.0]))
    torch.testing.assert_close(result.means[~new], splat.means[splat.labels != 4])
    assert objects.ids == (0, 4, 9)
    missing, _ = edit(splat, Swap(4, "gone.ply", place))
    assert same(missing, splat)


def all_kinds(splat: Splat) -> list[Step]:
    chosen = (splat.labels == 4) & (splat.means[:, 1] > 0)
    return [
        Step("one", (Hide((4,)), Hide((4,), False), Tint((9,), (0.1, 0.2, 0.3), 0.4), Tint((9,), None))),
        Step(
            "two",
            (
                Rename(4, "Tasse ☕"),
                Move((9,), Similarity((0.0, 1.0, 0.0, 0.0), (1.0, 2.0, 3.0), 0.5, (4.0, 5.0, 6.0))),
            ),
        ),
        Step("three", (Assign((4,), region_of(splat, chosen), 20, "lid"), Duplicate(20, 21, "lid 2"))),
        Step("four", (Merge((20,), 9), Remove((0,)), Swap(9, "o.ply", Similarity()))),
    ]


def test_a_list_comes_back_from_its_file(tmp_path) -> None:
    splat = make_splat()
    write_ply(tmp_path / "edits" / "o.ply", make_splat(6, seed=4))
    edits = EditList(all_kinds(splat))
    edits.save(tmp_path / "edits.json")
    loaded = EditList.load(tmp_path / "edits.json")
    assert [s.label for s in loaded.steps] == ["one", "two", "three", "four"]
    assert json.dumps([e.to_json() for s in edits.steps for e in s.edits]) == json.dumps(
        [e.to_json() for s in loaded.steps for e in s.edits]
    )
    first, _ = edited_splat(splat, TABLE, edits.steps, loaded.files)
    second, _ = edited_splat(splat, TABLE, loaded.steps, loaded.files)
    assert same(first, second)
    counts = torch.unique(first.labels, return_counts=True)
    assert [c.tolist() for c in counts] == [[4, 9, 21], [10, 6, 10]]


def test_undo_and_redo() -> None:
    edits = EditList()
    assert edits.undo() is None
    for id in (1, 2, 3):
        edits.push(f"hide {id}", Hide((id,)))
    version = edits.version
    assert edits.undo().label == "hide 3"  # type: ignore[union-attr]
    assert edits.redo().label == "hide 3"  # type: ignore[union-attr]
    assert edits.version == version + 2
    edits.undo()
    edits.push("other", Remove((1,)))
    assert edits.redo() is None, "a new edit forgets what was undone"
    assert edits.new_id(TABLE) == 10


DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]
BAD = [
    ({"edit": "explode", "ids": [1]}, "one of hide"),
    ({"edit": "hide"}, "expected .*'ids'"),
    ({"edit": "hide", "ids": [1], "path": "/etc/passwd"}, "path"),
    ({"edit": "hide", "ids": []}, "list of object ids"),
    ({"edit": "hide", "ids": [True]}, "integer"),
    ({"edit": "hide", "ids": [-4]}, "integer"),
    ({"edit": "rename", "id": -1, "name": "x"}, "integer from 0"),
    ({"edit": "assign", "ids": [1], "to": -1, "name": "x", "region": None}, "integer from 0"),
    ({"edit": "merge", "ids": [1], "into": -1}, "integer from 0"),
    ({"edit": "hide", "ids": [1], "hidden": "yes"}, "true or false"),
    ({"edit": "tint", "ids": [1], "color": [float("nan"), 0, 0]}, "finite"),
    ({"edit": "tint", "ids": [1], "color": "red"}, "3 finite numbers"),
    ({"edit": "move", "ids": [1], "by": {"wxyz": [0, 0, 0, 0]}}, "quaternion"),
    ({"edit": "move", "ids": [1], "by": {"scale": 0}}, "0.0001"),
    ({"edit": "move", "ids": [1], "by": {"translation": [1e30, 0, 0]}}, "finite"),
    ({"edit": "rename", "id": 1, "name": "\n\t "}, "empty name"),
    ({"edit": "rename", "id": 1, "name": 7}, "text"),
    ({"edit": "swap", "id": 1, "file": "../../secret.ply", "place": {}}, "folder `edits`"),
    ({"edit": "swap", "id": 1, "file": "/etc/passwd", "place": {}}, "folder `edits`"),
    ({"edit": "assign", "ids": [1], "to": 2, "name": "x", "region": {"points": "AAAA", "inside": "", "count": 9}}, "damaged"),
    ({"edit": "assign", "ids": [1], "to": 2, "name": "x", "region": {"points": "", "inside": "", "count": 1e9}}, "count"),
    ({"edit": ["hide"], "ids": [1]}, "expected an edit: one of hide"),
    ({"edit": "paint", "ids": [1]}, "expected an edit: one of hide"),
    ({"edit": "tint", "ids": [1], "color": [10**400, 0, 0]}, "finite"),
    ({"edit": "hide", "ids": DEEP}, "expected an integer"),
    ({"edit": "swap", "id": 1, "file": "a\x00.ply", "place": {}}, "folder `edits`"),
    ({"edit": "swap", "id": 1, "file": "C:x.ply", "place": {}}, "folder `edits`"),
    ({"edit": "swap", "id": 1, "file": "\ud800.ply", "place": {}}, "folder `edits`"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_edits_are_refused_with_their_step(tmp_path, data, message) -> None:
    good = {"label": "fine", "edits": [{"edit": "hide", "ids": [1]}]}
    text = {"format": "gradiseg-edits", "version": 1, "steps": [good, {"label": "bad", "edits": [data]}]}
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(text))
    with pytest.raises(EditError, match=f"(?s)edits.json, step 2: .*{message}"):
        EditList.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "gradiseg-edits", "version": 2}', "[" * 100_000])
def test_files_that_are_no_lists(tmp_path, text) -> None:
    path = tmp_path / "edits.json"
    path.write_text(text)
    with pytest.raises(EditError, match=r"edits\.json"):
        EditList.load(path)


def test_a_bomb_is_not_unpacked() -> None:
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(b"\0" * (64 << 20))).decode()
    with pytest.raises(EditError, match="damaged"):
        Region.from_json({"points": bomb, "inside": bomb, "count": 3})
    with pytest.raises(
        EditError, match=r"5,592,405 points in a text of 8[0-9],[0-9]{3} characters: expected 1,048,575"
    ):
        Region.from_json({"points": bomb, "inside": bomb, "count": (64 << 20) // 12})


def test_lists_that_make_too_much_are_refused_before_they_do() -> None:
    """Sixty edits that each double an object."""
    splat = make_splat(90)
    edits = EditList()
    for number in range(30):
        edits.push("more", Duplicate(4, 100 + number, "copy"), Merge((100 + number,), 4))
    with pytest.raises(
        EditError,
        match=r"duplicate: this makes [0-9,]+ Gaussians of the scene's 90, expected 1,000,360 at most",
    ):
        arrange(splat.labels, splat.means, TABLE, edits.steps)
    few = edits.steps[:3]
    rows = len(arrange(splat.labels, splat.means, TABLE, few).source)
    assert len(arrange(splat.labels, splat.means, TABLE, few, limit=rows).source) == rows
    with pytest.raises(EditError, match=f"expected {rows - 1} at most"):
        arrange(splat.labels, splat.means, TABLE, few, limit=rows - 1)
    swaps = [
        Step("swap", (Swap(4, "o.ply", Similarity()),))
    ] * 9  # each takes the place of the one before, all are kept
    with pytest.raises(EditError, match="swap: this makes"):
        arrange(splat.labels, splat.means, TABLE, swaps, {"o.ply": make_splat(60)}, limit=500)


def test_a_list_that_grows_is_folded_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[Edit] = []
    original = editing._fold
    monkeypatch.setattr(
        editing, "_fold", lambda fold, edit, *rest: (folded.append(edit), original(fold, edit, *rest))
    )
    splat = make_splat(90)
    edits = EditList()
    for number in range(30):
        edits.push(
            str(number), Move((4,), Similarity(translation=(0.1, 0, 0))), Tint((9,), (1, 0, number / 30))
        )
        made = arrange(splat.labels, splat.means, TABLE, edits.steps)
        assert made is arrange(splat.labels, splat.means, TABLE, list(edits.steps)), "asked again"
    assert len(folded) == 60
    edits.undo()
    edits.push("copy", Duplicate(4, 30, "copy"))
    made = arrange(splat.labels, splat.means, TABLE, edits.steps)
    assert len(folded) == 61, "the list before the last steps is known too"
    fresh = arrange(splat.labels.clone(), splat.means, TABLE, edits.steps)
    assert len(folded) == 61 + 59
    for name in ("source", "object_ids", "pose", "tint", "base_ids"):
        assert torch.equal(getattr(made, name), getattr(fresh, name)), name
    assert np.allclose(made.poses, fresh.poses) and made.tints == fresh.tints
    splat.labels[:5] = 9
    assert arrange(splat.labels, splat.means, TABLE, edits.steps) is not fresh
    assert len(folded) == 61 + 2 * 59, "labels were changed in place"
    arrange(splat.labels, splat.means, TABLE, edits.steps, {"o.ply": splat})
    assert len(folded) == 61 + 2 * 59, "a file that no edit uses"


def test_folds_forget_a_scene_that_is_gone() -> None:
    splat = make_splat(6)
    arrange(splat.labels, splat.means, TABLE, [])
    assert editing._recent._kept[1]
    del splat
    gc.collect()
    assert not editing._recent._kept[1]


def test_what_another_program_adds_to_the_file_is_taken_in(tmp_path) -> None:
    path = tmp_path / "edits.json"
    first = EditList([Step("hide", (Hide((4,)),))])
    assert first.save(path) == []
    other = EditList.load(path)
    other.push("copy", Duplicate(9, 31, "theirs"), Move((31,), Similarity(translation=(1, 0, 0))))
    other.save(path)
    first.push("copy", Duplicate(9, 31, "ours"))
    (added,) = first.save(path)
    assert added.edits[0] == Duplicate(9, 32, "theirs") and added.edits[1].ids == (32,), "31 is ours"  # type: ignore[attr-defined]
    assert [s.label for s in EditList.load(path).steps] == ["hide", "copy", "copy"]
    assert first.save(path) == [], "nobody has changed it since"
    other.push("tint", Tint((4,), (1, 0, 0)))
    assert [s.label for s in other.steps] == ["hide", "copy", "tint"]
    with pytest.raises(
        EditError, match=r"changed by another program: 2 edits were read.*now it has 3 \(hide, copy, copy\)"
    ):
        other.save(path)
    assert len(EditList.load(path).steps) == 3
    assert other.save(path, replace=True) == []
    path.unlink()
    with pytest.raises(EditError, match="was removed by another program since its 3 edits"):
        other.save(path)


def test_a_link_is_not_followed(tmp_path) -> None:
    write_ply(tmp_path / "elsewhere.ply", make_splat(6))
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "o.ply").symlink_to(tmp_path / "elsewhere.ply")
    EditList([Step("s", (Swap(4, "o.ply", Similarity()),))]).save(tmp_path / "edits.json")
    with pytest.raises(EditError, match="is a link"):
        EditList.load(tmp_path / "edits.json")


def test_names_are_one_line_of_text() -> None:
    loaded = EditList.from_json(
        {"format": "gradiseg-edits", "version": 1,
         "steps": [{"label": "n", "edits": [{"edit": "rename", "id": 4, "name": "a\x00b\n<b>c</b>\u202e" + "x" * 500}]}]},
        "test", folder=None,
    )  # fmt: skip
    name = loaded.steps[0].edits[0].name  # type: ignore[attr-defined]
    assert name.startswith("a b <b>c</b> x")
    assert len(name) == 200


def test_ids_of_objects_that_were_there_stay_when_steps_are_taken_in(tmp_path) -> None:
    path = tmp_path / "edits.json"
    EditList([Step("copy", (Duplicate(9, 31, "copy"),))]).save(path)
    here, there = EditList.load(path), EditList.load(path)
    there.push("hide the copy", Hide((31,)))
    there.save(path)
    here.undo()  # and the copy is gone here
    here.push("copy", Duplicate(4, 32, "another"))
    (added,) = here.save(path)
    assert added.edits[0] == Hide((31,))


def test_random_edits_never_fail_and_counts_agree() -> None:
    """Whatever the order, rows and objects stay consistent."""
    random.seed(3)
    splat = make_splat(90)
    splat.labels = torch.where(torch.arange(90) < 10, NO_OBJECT, splat.labels).int()
    edits = EditList()
    for number in range(150):
        ids = (random.choice([NO_OBJECT, 0, 4, 9, 30, 31, 32, 77]),)
        other = random.choice([0, 4, 9, 30, 31])
        chosen = splat.means[:, 0] > random.uniform(-1, 1)
        edits.push(
            str(number),
            random.choice([
                Hide(ids), Hide(ids, False), Tint(ids, (1, 0, 0)), Remove(ids) if number % 9 == 0 else Hide(ids),
                Merge(ids, other), Duplicate(ids[0], 30 + number % 3, "copy") if number % 7 == 0 else Rename(other, "n"),
                Move(ids, Similarity((1, 0, 0.1, 0), (0.01, 0, 0))),
                Assign(ids, Region.create(splat.means, chosen | (splat.labels == 4), splat.labels >= 0), 31, "part"),
                Assign(ids, None, 30, "whole") if number % 11 == 0 else Hide(ids, False),
            ]),
        )  # fmt: skip
        arrangement = arrange(splat.labels, splat.means, TABLE, edits.steps)
        assert sum(arrangement.counts().values()) + arrangement.unassigned == len(arrangement.source)
        assert set(arrangement.object_ids.tolist()) <= {NO_OBJECT, *arrangement.objects.ids}
        if number % 10 == 0:
            shown = arrangement.without_hidden()
            assert len(shown.apply(splat.to_parameters())["means"]) == len(shown.source)
