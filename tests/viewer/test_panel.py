"""The panel in nerfstudio's viewer, over the protocol that its web page speaks."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradiseg_ns import runs
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.segment.loop import SegmentError
from gradiseg_ns.trainer import GradisegTrainer
from gradiseg_ns.viewer.client import ViewerClient
from gradiseg_ns.viewer.search import Frozen, Search
from gradiseg_ns.viewer.session import Session

from .conftest import Opened, close_viewer, open_viewer

pytestmark = pytest.mark.slow


def pick(client: ViewerClient, opened: Opened, id: int, button: str = "Pick") -> None:
    client.set("Select", button)
    client.wait(lambda: client.page.pointer_enabled == "click", what="the viewer waits for a click")
    client.click(*opened.pixel_of(id))


def selected(client: ViewerClient) -> str:
    return str(client.page.find("Selected").value)


def yellow(client: ViewerClient) -> int:
    """Pixels of the picture in the colour of an outline."""
    red, green, blue = client.page.picture.astype(int).transpose(2, 0, 1)
    return int(((red > 200) & (green > 160) & (blue < 110)).sum())


def test_the_whole_story(opened: Opened, tmp_path: Path) -> None:
    """Pick, isolate, tint, move, undo, rename, export: what is downloaded is what was made."""
    client = opened.connect()
    model = opened.model
    rows = [
        client.page.find(label, "Objects", startswith=True)
        for label in ("0  floor", "1  red ball", "7  blue ball")
    ]
    assert all(str(row.color).startswith("#") for row in rows)
    assert yellow(client) == 0

    pick(client, opened, 1)
    client.wait(lambda: selected(client).startswith("red ball ("))
    assert client.page.pointer_enabled is None, "one click, then the mouse turns the camera again"
    client.wait(lambda: yellow(client) > 20, what="the selection glows")

    client.set("See", "Isolate")
    client.wait(lambda: len(opened.session.edits.steps) == 1)
    client.wait(lambda: opened.model.arrangement().hidden == {0, 7})
    client.set("Color", (0, 0, 255))
    client.wait(lambda: opened.pipeline.viewer_panel._color.value == (0, 0, 255))
    client.set("Tint", "Tint")
    client.wait(lambda: len(opened.session.edits.steps) == 2)

    client.set("Move and turn", True)
    client.wait(lambda: client.page.scene["/gradiseg_gizmo"].visible, what="the gizmo")
    gizmo = client.page.scene["/gradiseg_gizmo"]
    centre = np.array(gizmo.position)
    for step in (0.5, 1.0, 1.5):  # a drag: three messages, one step
        client.move_gizmo("/gradiseg_gizmo", (1.0, 0.0, 0.0, 0.0), tuple(centre + np.array([0.0, 0.0, step])))
        time.sleep(0.1)
    client.wait(lambda: [s.label for s in opened.session.edits.steps][2:] == ["move red ball"])
    client.wait(lambda: abs(opened.session.edits.steps[2].edits[-1].by.translation[2] - 0.15) < 1e-4)
    client.set("Edit", "Undo")
    client.wait(lambda: len(opened.session.edits.steps) == 2)
    client.set("Edit", "Redo")
    client.wait(lambda: len(opened.session.edits.steps) == 3)

    client.set("Name", "Lampion {alert(1)} <img src=x onerror=alert(1)>")
    client.wait(lambda: opened.pipeline.viewer_panel._name.value.startswith("Lampion"))
    client.press("Rename")
    client.wait(lambda: client.page.find("1  Lampion {alert(1)}", startswith=True))

    client.set("Export", "everything")
    client.wait(lambda: opened.pipeline.viewer_panel._files._what.value == "everything")
    client.press("Download")
    client.wait(lambda: client.page.downloads)
    with zipfile.ZipFile(io.BytesIO(client.page.downloads[0].content)) as file:
        file.extractall(tmp_path / "download")
    ply = next((tmp_path / "download").rglob("*.ply"))
    splat, table = read_ply(ply), read_objects(ply)
    ball = model._labels() == 1
    assert len(splat) == int(ball.sum())
    assert set(splat.labels.tolist()) == {1}
    assert table is not None and table.names[0].startswith("Lampion {alert(1)}"), "as text"
    torch.testing.assert_close(splat.means, model.means[ball].detach() + torch.tensor([0.0, 0.0, 0.15]))

    client.set("Edits", "Save")
    client.wait(lambda: (opened.folder / "edits.json").is_file())
    assert len(json.loads((opened.folder / "edits.json").read_text())["steps"]) == 4
    assert not client.page.errors
    assert not model.editing.errors


def test_markdown_never_holds_names(opened: Opened) -> None:
    """viser's page compiles markdown as program code: no text of users or files may get into it."""
    client = opened.connect()
    opened.session.select([1])
    opened.session.rename("{evil}")
    client.set("Hidden", "Show all")
    client.wait(lambda: client.page.find("1  {evil}", startswith=True))
    panel = [w for w in client.page.widgets() if w.type == "markdown"]
    assert not [w for w in panel if "evil" in str(w.value)]


def test_two_browsers_share_knowingly(opened: Opened) -> None:
    first, second = opened.connect(), opened.connect()
    for client in (first, second):
        client.wait(
            lambda c=client: c.page.shown(c.page.find("Browsers")), what="the note that two look at it"
        )
        assert "2: selection and edits are shared" in client.page.find("Browsers").value
    pick(first, opened, 7)
    for client in (first, second):
        client.wait(lambda c=client: selected(c).startswith("blue ball"))
    assert second.page.pointer_enabled is None, "the other browser's mouse goes on turning its camera"
    second.close()
    opened.clients.remove(second)
    first.wait(lambda: not first.page.shown(first.page.find("Browsers")))


def test_errors_become_messages_and_the_viewer_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened.connect()
    client.set("See", "Hide")
    client.wait(lambda: any("nothing is selected" in n.body for n in client.page.notifications))
    monkeypatch.setattr(opened.session, "show_all", lambda: 1 / 0)
    client.set("Hidden", "Show all")
    client.wait(lambda: any("division by zero" in n.body for n in client.page.notifications))
    # A broken arrangement: the picture stays as it was trained, a person is told, the renderer lives.
    import gradiseg_ns.editing.display as editing

    original = editing.Folds.arrange
    pick(client, opened, 1)
    client.wait(lambda: selected(client).startswith("red ball"))

    def broken(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(editing.Folds, "arrange", broken)
    client.set("See", "Hide")
    client.wait(lambda: any("broken on purpose" in n.body for n in client.page.notifications))
    monkeypatch.setattr(editing.Folds, "arrange", original)
    client.set("Edit", "Undo")
    client.set("Edit", "Clear")
    client.wait(lambda: selected(client) == "nothing")
    count = client.page.picture_count
    client.camera(position=(9.0, 9.0, 9.0), wxyz=client.page.view.wxyz, fov=0.8, aspect=4 / 3)
    client.wait_picture(after=count)


def test_search_box_select_and_a_bad_upload(opened: Opened) -> None:
    client = opened.connect()
    client.set("Search", "blue")
    client.wait(lambda: not client.page.shown(client.page.find("1  red ball", startswith=True)))
    assert client.page.shown(client.page.find("7  blue ball", startswith=True))
    client.press(client.page.find("7  blue ball", startswith=True).label)
    client.wait(lambda: selected(client).startswith("blue ball"))
    client.set("Search", "")
    client.set("Tolerance", 0.1)
    client.press("Split off a part")
    client.wait(lambda: client.page.pointer_enabled == "click")
    client.click(*opened.pixel_of(7))
    client.wait(lambda: client.page.find("8  blue ball, part", startswith=True), what="the part in the list")
    client.set("Edit", "Undo")
    client.wait(lambda: not opened.session.edits.steps)
    client.set("Select", "Box")
    client.wait(lambda: client.page.pointer_enabled == "rect-select")
    x, y = opened.pixel_of(1)
    client.drag_box(x - 0.2, y - 0.25, x + 0.2, y + 0.25)
    client.wait(lambda: "red ball" in selected(client))
    client.upload("Load edits from a file", "edits.json", b'{"format": "gradiseg-edits", "version": 9}')
    client.wait(lambda: any("not a list of edits" in n.body for n in client.page.notifications))
    assert not client.page.errors


def test_messages_do_not_pile_up(opened: Opened) -> None:
    """viser keeps what it sends to all for browsers that come later: 200 edits must not make that grow."""
    client = opened.connect()
    session = opened.session

    def edit(number: int) -> None:
        session.select([1 if number % 2 else 7])
        session.hide() if number % 3 else session.show_all()
        opened.pipeline.viewer_panel._refresh()

    buffer = opened.server._websock_server._broadcast_buffer.message_from_id
    for number in range(20):
        edit(number)
    before = len(buffer)
    for number in range(200):
        edit(number)
    assert len(buffer) <= before + 5
    assert not client.page.errors


def test_a_viewer_on_a_training_that_is_edited(scene: Path, tmp_path: Path) -> None:
    """200 edits and clicks, and a search for a new object, while it trains: the losses are those of a training that nobody looked at,
    bit for bit."""
    options = {"pipeline.model.boundary_refiner": False}

    def train(edited: bool) -> tuple[list[float], GradisegTrainer]:
        config = runs.make_config(
            "gradiseg-lite", scene, tmp_path / str(edited), steps=120, device="cpu", options=options
        )
        losses: list[float] = []
        stop = threading.Event()
        workers: list[threading.Thread] = []
        done, searched = [0], [0]
        original = GradisegTrainer.setup

        def setup(trainer: GradisegTrainer, *args: object, **kwargs: object) -> None:
            original(trainer, *args, **kwargs)  # type: ignore[arg-type]
            step = trainer.train_iteration

            def counted(number: int) -> object:
                result = step(number)
                losses.append(float(result[0]))
                return result

            trainer.train_iteration = counted  # type: ignore[method-assign]
            if edited:
                opened = open_viewer(trainer.pipeline, tmp_path, trainer.train_lock, trainer=trainer)
                trainer.viewer_state = opened.viewer
                workers.append(threading.Thread(target=lambda: work(opened), daemon=True))
                workers[0].start()

        def work(opened: Opened) -> None:
            opened.connect()
            session, cameras = opened.session, trainer_cameras(opened.pipeline)
            search_for_a_new_object(session, cameras)
            number = 0
            while not stop.is_set() and number < 200:
                number += 1
                with opened.pipeline.viewer_panel.actions.lock:
                    session.pick(cameras[number % 5 : number % 5 + 1], 0.5, 0.6)
                    if session.selection:
                        (session.hide, session.duplicate, session.isolate, session.undo)[number % 4]()
                        session.tint((1, 0, 0)) if session.selection else None
                opened.viewer._trigger_rerender()
                done[0] = number
            close_viewer(opened)

        def search_for_a_new_object(session: Session, cameras: Any) -> None:
            with session.scene.reading() as model:
                frozen, camera = Frozen(model, session.scene), model.rendering_camera(cameras[0:1])
            search = Search(frozen, Wand(), [(camera, 32.0, 29.0, False)])

            def run() -> None:
                steps = len(losses)
                for view in range(len(frozen.views)):
                    frozen.views.sight(view)
                with contextlib.suppress(SegmentError):  # there is little to be found yet
                    search.run()
                searched[0] = len(losses) - steps

            workers.append(threading.Thread(target=run, daemon=True))
            workers[-1].start()

        def trainer_cameras(pipeline: GradisegPipeline) -> object:
            return pipeline.datamanager.train_dataset.cameras

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GradisegTrainer, "setup", setup)
            trainer, _ = runs.train(config)
        stop.set()
        for worker in workers:
            worker.join(timeout=60)
        if edited:
            assert done[0] > 20, "edits happened while it trained"
            assert searched[0] > 0, "the training was not held for the time of the search"
        return losses, trainer

    alone, _ = train(False)
    together, trainer = train(True)
    assert len(alone) == 120
    assert together == alone
    assert trainer.pipeline.model.editing.edits.steps, "there were edits"


def test_nobody_reads_other_files_or_drives_it_from_another_page(opened: Opened) -> None:
    """With requests as they are on the wire."""
    port = opened.server.get_port()

    def status(path: str, *headers: str) -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            lines = [f"GET {path} HTTP/1.1", *(headers or (f"Host: 127.0.0.1:{port}",)), "Connection: close"]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return connection.makefile("rb").readline().decode().split()[1]

    assert status("/") == "200"
    assert status("/../../../../../../../../etc/passwd") == "403"
    upgrade = (
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status("/", f"Host: 127.0.0.1:{port}", "Origin: https://evil.example", *upgrade) == "403"
    assert status("/", "Host: evil.example", "Origin: http://evil.example") == "403"
