"""Faults of viser and of nerfstudio's viewer that our users would meet through us, on a real server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import Hide
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.viewer.client import ViewerClient

from .conftest import Opened

pytestmark = pytest.mark.slow


def join(opened: Opened) -> ClientConnection:
    """A connection that has its first messages."""
    socket = connect(f"ws://127.0.0.1:{opened.server.get_port()}", ping_interval=None, max_size=None)
    socket.recv(timeout=20)
    return socket


def camera(socket: ClientConnection, x: float = 3.0) -> None:
    message = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [x, 3.0, 3.0], "fov": 1.0, "aspect": 1.5,
        "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 0.0, 1.0],
    }  # fmt: skip
    socket.send(msgspec.msgpack.encode(message))


def wait(condition: Any, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


def nobody_is_left(opened: Opened) -> None:
    wait(lambda: not opened.server.get_clients(), "all browsers to be gone")
    wait(lambda: not renderers(), "all renderers to end")
    wait(lambda: not opened.viewer.render_statemachines, "all renderers to be forgotten")
    wait(lambda: not opened.server._websock_server._client_state_from_id, "all connections to be forgotten")


def renderers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if getattr(t, "shows_edits", False)]


def test_browsers_leave_while_their_cameras_move(opened: Opened, capfd: pytest.CaptureFixture) -> None:
    for number in range(30):
        with join(opened) as socket:
            for step in range(12):
                camera(socket, 3 + step / 100)
            if number % 2:
                time.sleep(0.01 * (number % 5))
    nobody_is_left(opened)
    client = opened.connect()  # waits for a picture
    count = client.page.picture_count
    client.camera(position=(4.0, 4.0, 4.0), look_at=(0, 0, 0), up=(0, 0, 1), fov=0.9, aspect=1.5)
    client.wait_picture(after=count)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("message", ["a text", b"\xff\xff", msgspec.msgpack.encode({"type": "Nothing"})])
def test_who_sends_no_message_is_gone_with_the_connection(opened: Opened, message: Any) -> None:
    for _ in range(3):
        socket = join(opened)
        camera(socket)
        wait(renderers, "the renderer")
        socket.send(message)
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(timeout=20)
        nobody_is_left(opened)


def test_a_browser_that_is_greeted_when_it_has_left_is_seen_off(opened: Opened, monkeypatch: Any) -> None:
    """Its camera waits for its turn in viser's pool, and passes the check before it leaves."""
    from viser.infra._infra import WebsockClientConnection

    import gradiseg_ns.viewer.websocket as websocket

    def late(handler: Any, client_id: int) -> bool:
        first = isinstance(handler, WebsockClientConnection) and not seen
        seen.append(client_id)
        if first:
            wait(lambda: has_left(handler, client_id), "the browser to leave")
            return False
        return has_left(handler, client_id)

    seen: list[int] = []
    has_left = websocket._has_left
    monkeypatch.setattr(websocket, "_has_left", late)
    with join(opened) as socket:
        camera(socket)
        wait(lambda: seen, "the camera to come to its turn")
    wait(lambda: not opened.server._websock_server._client_state_from_id, "it to be gone")
    wait(lambda: len(seen) > 1, "the check after the greeting")
    nobody_is_left(opened)


def test_the_end_of_a_viewer_ends_its_renderers(opened: Opened) -> None:
    opened.connect()
    assert renderers()
    opened.server.stop()
    assert not renderers()
    assert opened.pipeline.viewer_panel._closed.is_set()


def test_a_renderer_outlives_an_error_in_a_picture(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened.connect()
    original = type(opened.model).get_outputs_for_camera

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory on purpose")

    monkeypatch.setattr(type(opened.model), "get_outputs_for_camera", broken)
    client.camera(position=(4.0, 4.0, 4.0), look_at=(0, 0, 0), up=(0, 0, 1), fov=0.9, aspect=1.5)
    client.wait(lambda: any("no memory on purpose" in n.body for n in client.page.notifications))
    monkeypatch.setattr(type(opened.model), "get_outputs_for_camera", original)
    count = client.page.picture_count
    client.camera(position=(5.0, 4.0, 4.0), look_at=(0, 0, 0), up=(0, 0, 1), fov=0.9, aspect=1.5)
    client.wait_picture(after=count)


def test_names_stay_in_their_folder(opened: Opened) -> None:
    """What is typed as the render's name, and what a browser says that was chosen of a list."""
    client = opened.connect()
    data = Path(opened.viewer.datapath)
    before = {path for path in data.parent.rglob("*.json")}
    for x in (4.0, 5.0):
        client.camera(position=(x, 4.0, 4.0), look_at=(0, 0, 0), up=(0, 0, 1), fov=0.9, aspect=1.5)
        time.sleep(0.2)
        client.press("Add Keyframe")
    client.set("Render name", "../../../evil `$(x)`")
    wait(lambda: _field(opened, "Render name")._impl.value.startswith(".."), "the name")
    client.press("Generate Command", "Render")
    client.wait(lambda: client.page.modals, what="the command")
    new = {path for path in data.parent.rglob("*.json")} - before
    assert [path.relative_to(data).as_posix() for path in new] == ["camera_paths/evil_x.json"]
    text = next(
        str(w.value) for w in client.page.widgets() if w.type == "markdown" and "ns-render" in str(w.value)
    )
    assert f"renders/{data.name}/evil_x.mp4" in text
    new.pop().unlink()
    for label in ("Output Directory",):
        field = _field(opened, label)
        field._impl.value = "a b/../c`\n$(rm)`"
        assert field.value == "a b/../c_ __rm__"
    field = _field(opened, "Render name")
    for text in ("", "..", "\0", "/"):
        field._impl.value = text
        assert field.value == "render"


def _field(opened: Opened, label: str) -> Any:
    widgets = opened.server.gui._gui_input_handle_from_id.values()
    return next(w for w in widgets if w._impl.label == label)


def test_browsers_set_values_alone_and_of_lists_what_they_offer(opened: Opened) -> None:
    client = opened.connect()
    widget = client.page.find("Box takes")
    for updates in ({"value": "../x"}, {"is_button": True}, {"value": "Gaussians", "label": "x"}):
        client._send("GuiUpdateMessage", id=widget.id, updates=updates)
    time.sleep(0.5)
    handle = opened.pipeline.viewer_panel._box_takes
    assert handle.value == "objects" and not handle._impl.is_button and handle._impl.label == "Box takes"
    client.set("Box takes", "Gaussians")
    client.wait(lambda: handle.value == "Gaussians")


def test_a_fault_of_the_program_is_not_told_as_a_mistake_of_the_user(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    client = opened.connect()
    monkeypatch.setattr(
        opened.session, "show_all", lambda: torch.zeros(2).view(3)
    )  # torch's errors, and ValueErrors
    client.set("Hidden", "Show all")
    fault = "This is a fault of the program; see the terminal."
    client.wait(lambda: any(n.body.endswith(fault) for n in client.page.notifications))
    wait(lambda: "Traceback" in capsys.readouterr().out, "the traceback")
    monkeypatch.setattr(opened.session, "show_all", lambda: int("x"))
    client.set("Hidden", "Show all")
    client.wait(lambda: sum(n.body.endswith(fault) for n in client.page.notifications) == 2)
    client.set("See", "Hide")
    client.wait(
        lambda: [
            n for n in client.page.notifications if n.title == "Not done" and "nothing is selected" in n.body
        ]
    )


def test_a_list_that_another_program_changed(opened: Opened) -> None:
    client = opened.connect()
    path = opened.folder / "edits.json"
    opened.session.select([1])
    opened.session.hide()
    other = EditList()  # there was no list when the viewer came
    other.push("hide the blue ball", Hide((7,)))
    other.save(path)
    client.set("Edits", "Save")
    client.wait(
        lambda: any(
            "1 of them another program had added: hide the blue ball" in n.body
            for n in client.page.notifications
        )
    )
    assert [s["label"] for s in json.loads(path.read_text())["steps"]] == [
        "hide red ball",
        "hide the blue ball",
    ]
    client.wait(lambda: opened.model.arrangement().hidden == {1, 7}, what="the edit to be seen here")
    EditList().save(path)
    client.set("Edits", "Save")
    client.wait(
        lambda: any(
            n.title == "Not done" and "Nothing was saved" in n.body for n in client.page.notifications
        )
    )
    assert json.loads(path.read_text())["steps"] == []
    count = len(client.page.notifications)
    client.set("Edits", "Save")
    client.wait(lambda: any("2 edits saved" in n.body for n in client.page.notifications[count:]))
    assert len(json.loads(path.read_text())["steps"]) == 2


def test_a_click_holds_the_training_twice_and_classifies_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, pipeline: GradisegPipeline
) -> None:
    client: ViewerClient = opened.connect()
    holds: list[str] = []
    classified: list[str] = []
    panel, model = opened.pipeline.viewer_panel, opened.model
    hold = opened.session.scene.hold
    monkeypatch.setattr(
        opened.session.scene, "hold", lambda: (holds.append(threading.current_thread().name), hold())[1]
    )
    for name in ("gaussian_confidence", "gaussian_classes"):
        original = getattr(type(model), name)
        monkeypatch.setattr(
            type(model), name, lambda self, o=original, n=name: (classified.append(n), o(self))[1]
        )
    point = opened.pixel_of(1)
    client.set("Select", "Pick")
    client.wait(lambda: client.page.pointer_enabled == "click")
    with panel.actions.lock:  # what the press has brought up to date
        holds.clear()
    client.click(*point)
    client.wait(lambda: str(client.page.find("Selected").value).startswith("red ball"))
    with panel.actions.lock:
        assert len(holds) == 2, "one for the pick and one for the panel"
    assert len(classified) <= 1, "the arrangement may need the classes, once"
    panel._refresh()
    assert len(classified) <= 1
