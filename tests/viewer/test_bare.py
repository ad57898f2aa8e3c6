"""A splat without identities in the viewer: nothing is an object at first, and one click makes one."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from gradiseg_ns import sources
from gradiseg_ns.cli import Edit, Export, Import
from gradiseg_ns.cli.common import edited_splat, labelled_splat
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.editing.display import Editing
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.scene.objects import NO_OBJECT
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.viewer.client import ViewerClient
from gradiseg_ns.viewer.panel import GradisegPanel
from gradiseg_ns.viewer.session import Session, SessionError

from ..scenes import BALLS
from ..splats import write_plain_run, write_splatfacto_run
from .conftest import Opened, close_viewer, open_viewer
from .test_session import ids_seen, point_on

pytestmark = pytest.mark.slow

RED, BLUE = BALLS


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the balls that knows no maps."""
    return write_plain_run(scene, tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def loaded(run: Path) -> GradisegPipeline:
    """As ns-viewer opens it."""
    plain = sources.load_run(run)
    pipeline: Any = plain.config.pipeline.setup(device="cpu", test_mode="test")
    pipeline.model.adopt(plain.splat)
    state = {
        "step": plain.step,
        "pipeline": pipeline.state_dict(),
        "optimizers": {},
        "schedulers": {},
        "scalers": {},
    }
    torch.save(state, plain.checkpoint)
    return cast("GradisegPipeline", eval_setup(run / "config.yml", test_mode="test")[1])


@pytest.fixture
def bare(loaded: GradisegPipeline) -> Iterator[GradisegPipeline]:
    """Its pipeline, without edits."""
    loaded.model.editing = Editing()
    yield loaded
    loaded.model.editing = Editing()


@pytest.fixture
def cameras(bare: GradisegPipeline) -> Cameras:
    return bare.datamanager.train_dataset.cameras


@pytest.fixture
def session(bare: GradisegPipeline, cameras: Cameras, tmp_path: Path) -> Iterator[Session]:
    session = Session(lambda: bare.model, lambda: cameras, folder=tmp_path)
    yield session
    session.new_object.close()


def truth(pipeline: GradisegPipeline, index: int) -> torch.Tensor:
    """The exact ids of a training view, which the pipeline does not have."""
    photo = pipeline.datamanager.train_dataset.image_filenames[index]
    return torch.from_numpy(np.asarray(Image.open(photo.parent.parent / "object_mask" / photo.name)))


def find(session: Session, pipeline: GradisegPipeline, ball: int, index: int = 0) -> None:
    """One click, and the search that follows it."""
    cameras = pipeline.datamanager.train_dataset.cameras
    session.new_object.click(cameras[index : index + 1], *point_on(truth(pipeline, index), ball))
    search = session.new_object.search()
    assert search is not None
    search.run()
    assert session.new_object.accept(search)


def overlap(session: Session, pipeline: GradisegPipeline, id: int, ball: int, index: int = 4) -> float:
    """IoU of what is drawn of an object with a ball, in a view in which nothing was clicked."""
    camera = pipeline.datamanager.train_dataset.cameras[index : index + 1]
    seen, exact = ids_seen(session, camera) == id, truth(pipeline, index) == ball
    return float((seen & exact).sum() / (seen | exact).sum())


def test_at_first_nothing_is_an_object(session: Session, bare: GradisegPipeline, cameras: Cameras) -> None:
    (row,) = session.objects()
    assert (row.id, row.name, row.gaussians, row.confidence) == (
        NO_OBJECT,
        "no object",
        bare.model.num_points,
        None,
    )
    assert session.names() == {} and session.pick(cameras[0:1], 0.5, 0.5) is None
    assert (ids_seen(session, cameras[0:1]) == IGNORE).all()
    with pytest.raises(SessionError, match="there is none yet"):
        session.phrases.search("red ball").run()
    with pytest.raises(SessionError, match="nothing is selected"):
        session.hide()


def test_one_click_makes_an_object_with_which_everything_works(
    session: Session, bare: GradisegPipeline, cameras: Cameras, tmp_path: Path
) -> None:
    total = bare.model.num_points
    find(session, bare, RED)
    assert session.snapshot().selected.startswith("a new object (")
    with session.scene.reading() as model, torch.no_grad():
        glowing = model.get_outputs(cameras[0:1])["rgb"]
    plain = bare.model.get_outputs_for_camera(cameras[0:1])["rgb"]
    changed, exact = (glowing - plain).abs().amax(dim=-1) > 0.02, truth(bare, 0) == RED
    assert changed[exact].float().mean() > 0.9 and changed[~exact].float().mean() < 0.2
    session.make_object("red ball")
    assert session.names() == {1: "red ball"}, "the first id; 0 stands for a background elsewhere"
    assert overlap(session, bare, 1, RED) > 0.85
    x, y = point_on(truth(bare, 4), RED)
    assert session.pick(cameras[4:5], x, y) == 1
    find(session, bare, BLUE)
    session.rename("blue ball")
    assert [r.name for r in session.objects()] == ["red ball", "blue ball", "no object"]
    assert sum(r.gaussians for r in session.objects()) == total
    assert overlap(session, bare, 2, BLUE) > 0.85 and overlap(session, bare, 1, RED) > 0.85

    session.select([1])
    session.isolate()
    assert [r.hidden for r in session.objects()] == [False, True, True], (
        "what belongs to nothing is hidden too"
    )
    assert set(ids_seen(session, cameras[4:5]).unique().tolist()) == {1, IGNORE}
    _, data, count = session.files.export("everything")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        file.extractall(tmp_path / "out")
    ply = next((tmp_path / "out").glob("*.ply"))
    table = read_objects(ply)
    assert table is not None and table.names == ("red ball",)
    assert set(read_ply(ply).labels.tolist()) == {1} and count == session.objects()[0].gaussians
    assert session.undo() == "isolate red ball" and not session.arrangement().hidden
    session.tint((0.0, 1.0, 0.0), 1.0)
    session.clear()
    with session.scene.reading() as model, torch.no_grad():
        rgb = model.get_outputs(cameras[4:5])["rgb"]
    green = rgb[truth(bare, 4) == RED].mean(dim=0)
    assert green[1] > 2 * green[0]
    session.select([1])
    session.remove()
    assert overlap(session, bare, 1, RED) == 0
    while session.undo():
        pass
    assert session.names() == {} and not session.edits.steps


def test_saved_edits_are_there_when_the_run_is_opened_again(
    session: Session, bare: GradisegPipeline, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="without objects"):
        labelled_splat(sources.load_run(run))
    find(session, bare, RED)
    session.rename("red ball")
    chosen = session.arrangement().object_ids == 1
    session.select([NO_OBJECT])
    session.hide()
    session.files.folder = run
    try:
        path, _ = session.save()
        bare.model.editing.edits = EditList.load(path)
        assert session.names() == {1: "red ball"}
        assert bool((session.arrangement().object_ids == 1).eq(chosen).all())
        splat, table = edited_splat(sources.load_run(run))
        assert table.names == ("red ball",) and len(splat) == int(chosen.sum()) and splat.labels is not None
        Edit(run, isolate=("1",), rename=("red ball=ball",)).main()
        Export(run, output_dir=tmp_path, device="cpu").main()
        exported, table = read_ply(tmp_path / "scene.ply"), read_objects(tmp_path / "scene.ply")
        assert table is not None and table.names == ("ball",) and len(exported) == int(chosen.sum())
    finally:
        (run / "edits.json").unlink()


def test_what_belongs_to_no_object_is_changed_like_one(session: Session, bare: GradisegPipeline) -> None:
    find(session, bare, RED)
    session.make_object("ball")
    session.select([NO_OBJECT])
    assert session.snapshot().selected.startswith("what has no object (")
    session.tint((1.0, 0.0, 0.0))
    with pytest.raises(SessionError, match="select one object"):
        session.select([NO_OBJECT, 1])
        session.rename("both")
    session.duplicate()
    assert sorted(session.names().values()) == ["ball", "ball copy", "object 2", "object 2 copy"]
    assert session.undo() == "duplicate no object, ball"
    session.select([NO_OBJECT])
    session.rename("table")
    assert list(session.names().values()) == ["ball", "table"] and len(session.objects()) == 2
    data = json.loads(json.dumps([step.edits[0].to_json() for step in session.edits.steps]))
    assert data[-1]["region"] is None and data[-1]["ids"] == [NO_OBJECT]
    session.undo()
    session.select([NO_OBJECT])
    session.merge(1)
    assert [r.id for r in session.objects()] == [1]


def test_tight_and_loose_count_what_belongs_to_no_object(session: Session, bare: GradisegPipeline) -> None:
    find(session, bare, RED)
    session.make_object("ball")
    counts = []
    for weight in (10.0, 1.0, 0.05):
        session.selector.set_weight(weight)
        with session.scene.reading() as model:
            counts.append(int(session.selection.rows(session.arrangement(), model.means).sum()))
    assert counts[0] < counts[1] < counts[2], counts


def test_a_run_of_splatfacto_is_imported_without_objects(
    run: Path, loaded: GradisegPipeline, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = write_splatfacto_run(run, scene, tmp_path)
    Import(stock, device="cpu").main()
    assert "no objects yet" in capsys.readouterr().out
    imported = next(stock.parents[1].rglob("*-imported/config.yml"))
    pipeline: Any = eval_setup(imported, test_mode="test")[1]
    camera = pipeline.datamanager.train_dataset.cameras[0:1]
    shown, before = (p.model.get_outputs_for_camera(camera)["rgb"] for p in (pipeline, loaded))
    assert float((shown - before).abs().max()) < 1e-5
    assert not pipeline.model.objects.ids and "identity" not in pipeline.model.gauss_params
    with pytest.raises(SourceError, match="exists already"):
        Import(stock, device="cpu").main()
    with pytest.raises(SourceError, match="gradiseg already"):
        Import(imported, device="cpu").main()
    with pytest.raises(SourceError, match="leave --load-config and --data out"):
        Import(stock, data=scene, device="cpu").main()


@pytest.fixture
def opened(bare: GradisegPipeline, tmp_path: Path) -> Iterator[Opened]:
    bare.viewer_panel = GradisegPanel(bare, tmp_path)
    opened = open_viewer(bare, tmp_path, threading.Lock())
    yield opened
    close_viewer(opened)
    bare.viewer_panel = None


def test_the_panel_on_a_bare_splat(opened: Opened) -> None:
    client: ViewerClient = opened.connect()
    page = client.page

    def told(text: str) -> bool:
        return any(text in n.body for n in page.notifications)

    def hint() -> bool:
        return any(
            "no objects yet" in str(w.value) and page.shown(w) for w in page.widgets() if w.type == "markdown"
        )

    def click(label: str, button: str) -> None:
        client.set(label, button)
        client.wait(lambda: page.pointer_enabled == "click", what="the viewer waits for a click")
        client.click(*point)

    assert hint() and page.find("no object: ", startswith=True)
    point = point_on(truth(opened.pipeline, 0), RED)
    click("Select", "Pick")
    client.wait(lambda: told("New object makes one"))
    assert str(page.find("Selected").value) == "nothing"
    click("Click on", "Object")
    client.wait(lambda: str(page.find("Selected").value).startswith("a new object ("))
    client.wait(lambda: " agree" in str(page.find("Clicks").value), timeout=120, what="the search to end")
    client.set("Called", "my ball")
    client.wait(lambda: opened.pipeline.viewer_panel._new_object._called.value == "my ball")
    client.press("Make object")
    client.wait(lambda: page.find("1  my ball: ", startswith=True))
    client.wait(lambda: not hint())
    client.set("Edit", "Clear")
    client.wait(lambda: str(page.find("Selected").value) == "nothing")
    click("Select", "Pick")
    client.wait(lambda: str(page.find("Selected").value).startswith("my ball ("))
    assert not page.errors and not opened.model.editing.errors
