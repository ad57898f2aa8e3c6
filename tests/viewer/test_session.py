"""What a person can do in the viewer, without a viewer."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.editing.edits import Similarity
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.viewer.session import Session, SessionError

pytestmark = pytest.mark.slow


@pytest.fixture
def session(pipeline: GradisegPipeline, tmp_path: Path) -> Session:
    cameras = pipeline.datamanager.train_dataset.cameras
    return Session(lambda: pipeline.model, lambda: cameras, folder=tmp_path)


@pytest.fixture
def camera(pipeline: GradisegPipeline) -> Cameras:
    return pipeline.datamanager.train_dataset.cameras[0:1]


def truth(pipeline: GradisegPipeline, index: int = 0) -> torch.Tensor:
    return pipeline.datamanager.training_ids(index)


def point_on(ids: torch.Tensor, id: int) -> tuple[float, float]:
    """The middle of an object, as shares of the picture."""
    ys, xs = (ids == id).nonzero().float().unbind(1)
    return float(xs.median() + 0.5) / ids.shape[1], float(ys.median() + 0.5) / ids.shape[0]


def ids_seen(session: Session, camera: Cameras) -> torch.Tensor:
    with session.scene.reading() as model:
        return model.look(model.rendering_camera(camera)).object_ids


def test_a_click_selects_what_is_rendered_there(session: Session, camera: Cameras, pipeline) -> None:
    seen = ids_seen(session, camera)
    for y in range(2, 48, 9):
        for x in range(2, 64, 9):
            expected = int(seen[y, x])
            found = session.pick(camera, (x + 0.5) / 64, (y + 0.5) / 48)
            assert found == (None if expected == IGNORE else expected), (x, y)
    x, y = point_on(truth(pipeline), 1)
    assert session.pick(camera, x, y) == 1
    assert session.selection.ids == (1,)
    assert session.pick(camera, *point_on(truth(pipeline), 7), extend=True) == 7
    assert session.selection.ids == (1, 7)
    session.pick(camera, x, y, extend=True)
    assert session.selection.ids == (7,), "a second click takes away"
    assert session.snapshot().selected.startswith("blue ball (")


def test_a_selection_glows_and_only_where_it_is(session: Session, camera: Cameras, pipeline) -> None:
    model = pipeline.model
    with session.scene.reading(), torch.no_grad():
        plain = model.get_outputs(camera)["rgb"]
    session.select([1])
    with session.scene.reading(), torch.no_grad():
        glowing = model.get_outputs(camera)
    ball = truth(pipeline) == 1
    changed = (glowing["rgb"] - plain).abs().amax(dim=-1) > 0.02
    assert changed[ball].float().mean() > 0.9
    assert changed[~ball].float().mean() < 0.2
    with torch.no_grad():
        outside = model.get_outputs(camera)["rgb"]
    assert torch.equal(outside, plain), "evaluation does not see a selection"


def test_objects_are_listed_and_their_counts_agree(session: Session, pipeline) -> None:
    rows = session.objects()
    assert [(r.id, r.name) for r in rows] == [(0, "floor"), (1, "red ball"), (7, "blue ball")]
    assert sum(r.gaussians for r in rows) == pipeline.model.num_points
    assert all(r.confidence is not None and 0.3 < r.confidence <= 1 for r in rows)
    session.select([7])
    session.hide()
    assert [r.hidden for r in session.objects()] == [False, False, True]
    session.isolate()
    assert [r.hidden for r in session.objects()] == [True, True, False]
    session.show_all()
    assert not any(r.hidden for r in session.objects())


def test_isolating_shows_one_object_alone(session: Session, pipeline) -> None:
    index = max(range(20), key=lambda i: int((truth(pipeline, i) == 1).sum()))  # where nothing is before it
    camera = pipeline.datamanager.train_dataset.cameras[index : index + 1]
    session.select([1])
    session.isolate()
    seen = ids_seen(session, camera)
    assert set(seen.unique().tolist()) == {IGNORE, 1}
    ball = truth(pipeline, index) == 1
    overlap = ((seen == 1) & ball).sum() / ((seen == 1) | ball).sum()
    assert overlap > 0.6
    assert session.undo() == "isolate red ball"
    assert 0 in ids_seen(session, camera).unique()


def test_merged_moved_duplicated_removed(session: Session, camera: Cameras, pipeline) -> None:
    total = pipeline.model.num_points
    session.select([1])
    session.duplicate()
    copied = session.selection.ids
    assert copied == (8,)
    assert session.names()[8] == "red ball copy"
    session.move(Similarity(translation=(0.0, 0.0, 0.2)))
    seen = ids_seen(session, camera)
    assert {1, 8} <= set(seen.unique().tolist()), "copy and original are two objects in the picture"
    session.merge(7)
    assert session.selection.ids == (7,)
    assert 8 not in session.names()
    assert sum(r.gaussians for r in session.objects()) > total
    session.select([1])
    session.remove()
    assert not session.selection
    assert 1 not in session.names()
    while session.undo():
        pass
    assert not session.edits.steps
    assert session.names() == {0: "floor", 1: "red ball", 7: "blue ball"}


def test_undo_brings_the_selection_back(session: Session, camera: Cameras) -> None:
    session.select([1, 7])
    session.remove()
    assert not session.selection
    session.undo()
    assert session.selection.ids == (1, 7)
    session.redo()
    assert not session.selection


def test_tightening_and_loosening_is_monotone(session: Session) -> None:
    session.select([1])
    counts = []
    for weight in (10.0, 2.0, 1.0, 0.5, 0.05):
        session.selector.set_weight(weight)
        arrangement = session.arrangement()
        with session.scene.reading() as model:
            counts.append(int(session.selection.rows(arrangement, model.means).sum()))
    assert counts[0] < counts[2] < counts[-1], counts
    assert counts[0] <= counts[1]
    assert counts[3] <= counts[4]
    session.selector.set_weight(1.0)
    assert session.selection.region is None, "w = 1 is the object as it is"


def test_grow_and_shrink(session: Session) -> None:
    def count() -> int:
        with session.scene.reading() as model:
            return int(session.selection.rows(model.arrangement(), model.means).sum())

    session.select([1])
    start = count()
    session.grow()
    grown = count()
    session.grow(-1)
    assert grown > start
    assert count() < grown
    session.clear()
    with pytest.raises(SessionError, match="nothing is selected"):
        session.grow()


def test_a_box_takes_objects_or_gaussians(session: Session, camera: Cameras, pipeline) -> None:
    ys, xs = (truth(pipeline) == 1).nonzero().float().unbind(1)
    box = (
        float(xs.min() - 2) / 64,
        float(ys.min() - 2) / 48,
        float(xs.max() + 3) / 64,
        float(ys.max() + 3) / 48,
    )
    session.box(camera, box)
    assert 1 in session.selection.ids
    assert 0 not in session.selection.ids
    session.box(camera, (box[0], box[1], (box[0] + box[2]) / 2, box[3]), whole=False)
    assert session.selection.region is not None
    session.hide()
    assert len(session.names()) == 4, "a part that is edited is an object"
    session.box(camera, (0.0, 0.0, 0.001, 0.001))
    assert not session.selection


def test_a_part_is_split_off_by_a_click(session: Session, camera: Cameras, pipeline) -> None:
    x, y = point_on(truth(pipeline), 1)
    session.select([1])
    session.new_object.tolerance = 0.15
    session.split_off(camera, x, y)
    assert session.selection.ids == (1,)
    session.rename("patch")
    assert "patch" in session.names().values()
    before = {r.name: r.gaussians for r in session.objects()}
    assert before["patch"] > 0
    with pytest.raises(SessionError, match="not on the selected object"):
        session.split_off(camera, *point_on(truth(pipeline), 7))


def test_a_new_object_from_clicks_in_three_views(session: Session, pipeline) -> None:
    """The red ball, as if no map knew it: all is merged into the floor first."""
    session.select([1, 7])
    session.merge(0)
    session.clear()
    assert len(session.names()) == 1
    cameras = pipeline.datamanager.train_dataset.cameras
    for index in (0, 9, 18):
        x, y = point_on(truth(pipeline, index), 1)
        session.new_object.click(cameras[index : index + 1], x, y)
    assert len(session.new_object.views) == 3
    session.make_object("ball again")
    assert not session.new_object.views
    new = session.selection.ids[0]
    shares = []
    for index in (4, 13, 22):  # views in which nothing was clicked
        seen = ids_seen(session, cameras[index : index + 1]) == new
        ball = truth(pipeline, index) == 1
        shares.append(float((seen & ball).sum() / (seen | ball).sum()))
    assert sum(shares) / 3 > 0.6, shares


def test_clicks_beside_everything_say_so(session: Session, camera: Cameras) -> None:
    session.select([0, 1, 7])
    session.remove()
    with pytest.raises(SessionError, match="nothing is there"):
        session.new_object.click(camera, 0.5, 0.5)
    assert not session.new_object.views
    assert session.pick(camera, 0.5, 0.5) is None
    with pytest.raises(SessionError, match="nothing to export"):
        session.files.export("everything")


def test_edits_are_saved_and_loaded(session: Session, pipeline, tmp_path: Path) -> None:
    session.select([1])
    session.tint((1, 0, 0))
    session.grow()
    session.rename("bigger")
    saved, added = session.save()
    assert saved == tmp_path / "edits.json" and not added
    names = session.names()
    data = json.loads(saved.read_text())
    while session.undo():
        pass
    assert session.load() == 2
    assert session.names() == names
    assert session.load(data, "the file") == 2
    data["steps"][1]["edits"].append({"edit": "swap", "id": 1, "file": "../../x.ply", "place": {}})
    with pytest.raises(EditError, match="the file, step 2"):
        session.load(data, "the file")
    assert session.names() == names, "a bad list leaves the edits as they were"


def test_what_is_exported_is_what_is_shown(session: Session, pipeline, tmp_path: Path) -> None:
    session.select([0])
    session.hide()
    session.select([1])
    session.tint((0.0, 0.0, 1.0))
    name, data, count = session.files.export("everything", separate=True)
    assert name.endswith(".zip")
    rows = {r.id: r for r in session.objects()}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        file.extractall(tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.ply"))
    assert len(files) == 2
    assert sum(len(read_ply(f)) for f in files) == count == rows[1].gaussians + rows[7].gaussians
    name, data, count = session.files.export("selection", stem="../../red ball")
    assert "/" not in name and ".." not in name
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        file.extractall(tmp_path / "one")
    ply = next((tmp_path / "one").rglob("*.ply"))
    splat, table = read_ply(ply), read_objects(ply)
    assert len(splat) == count == rows[1].gaussians
    assert table is not None and table.names == ("red ball",)
    blue = (0.5 + 0.28209479177387814 * splat.features_dc).mean(dim=0)
    assert blue[2] > blue[0], "as edited: red is blue now"


def test_a_thousand_random_edits_and_clicks(session: Session, pipeline) -> None:
    """No exception but those that tell a person something; parameters stay bit for bit; undo leads back to the start."""
    random.seed(11)
    model = pipeline.model
    before = copy.deepcopy(dict(model.gauss_params.items()))
    cameras = pipeline.datamanager.train_dataset.cameras

    def point() -> tuple[float, float]:
        return random.random(), random.random()

    def camera() -> Cameras:
        index = random.randrange(len(cameras))
        return cameras[index : index + 1]

    actions = {
        "pick": lambda: session.pick(camera(), *point(), extend=random.random() < 0.3),
        "pick again": lambda: session.pick(camera(), *point()),
        "box": lambda: session.box(camera(), (*point(), *point()), whole=random.random() < 0.5),
        "hide": session.hide,
        "show": session.show_all,
        "isolate": session.isolate,
        "tint": lambda: session.tint([random.random() for _ in range(3)], random.random()),
        "rename": lambda: session.rename(random.choice(["a", "{alert(1)}", "<b>", "ü" * 300, ""])),
        "move": lambda: session.move(Similarity((1.0, random.random(), 0.0, 0.0), (0.01, 0.0, 0.0), 1.01)),
        "drag": lambda: session.drag(Similarity(translation=(random.random() * 0.1, 0.0, 0.0))),
        "remove": lambda: session.remove() if random.random() < 0.2 else None,
        "duplicate": lambda: session.duplicate() if random.random() < 0.1 else None,
        "merge": lambda: session.merge(random.choice(list(session.names()) or [0])),
        "split": lambda: session.split_off(camera(), *point()),
        "new": lambda: session.new_object.click(camera(), *point(), outside=random.random() < 0.3),
        "make": lambda: session.make_object("thing"),
        "weight": lambda: (
            session.selector.set_weight(10 ** random.uniform(-1, 1)) if random.random() < 0.2 else None
        ),
        "grow": lambda: session.grow(random.choice([1, -1])),
        "undo": session.undo,
        "undo twice": lambda: (session.undo(), session.undo()),
        "redo": session.redo,
        "clear": session.clear,
        "list": session.objects,
        "describe": session.snapshot,
    }
    told = 0
    for number in range(1000):
        name = random.choice(list(actions))
        try:
            actions[name]()
        except (SessionError, EditError, ValueError) as error:
            assert str(error), name
            told += 1
        if number % 50 == 0:
            with session.scene.reading(), torch.no_grad():
                outputs = model.get_outputs(camera())
            assert not model.editing.errors
            assert outputs["rgb"].isfinite().all()
            arrangement = model.arrangement()
            assert sum(arrangement.counts().values()) == len(arrangement.source)
    assert told < 800
    assert len(session.edits.steps) + len(session.edits.undone) < 1000
    while session.undo():
        pass
    assert session.names() == {0: "floor", 1: "red ball", 7: "blue ball"}
    for key, value in model.gauss_params.items():
        assert torch.equal(value, before[key]), key
