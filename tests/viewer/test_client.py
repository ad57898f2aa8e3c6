"""The client without a browser, against a plain viser server."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import viser
import viser.transforms as vtf
from viser import _messages

from gradiseg_ns.viewer.client import ViewerClient

FILE = np.random.default_rng(0).bytes(3_000_000)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class PlainServer:
    """A viser server with one of each element that the tests use; what happens to it is in `events`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.server = viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False)
        self.server.gui.set_panel_label("plain")
        self.port = self.server.get_port()
        self.url = f"http://127.0.0.1:{self.port}"
        gui = self.server.gui
        self.widgets = SimpleNamespace(
            press=gui.add_button("Press me", color="red"),
            file=gui.add_button("Get the file"),
            pick=gui.add_button("Pick"),
            ask=gui.add_button("Ask"),
            check=gui.add_checkbox("Show it", True),
            size=gui.add_slider("Size", min=0.0, max=2.0, step=0.1, initial_value=0.5),
            count=gui.add_number("Count", 3),
            kind=gui.add_dropdown("Kind", tuple(f"kind {i}" for i in range(60))),
            colour=gui.add_rgb("Colour", (1, 2, 3)),
            side=gui.add_button_group("Side", ("left", "right")),
            note=gui.add_markdown("a *note*"),
            upload=gui.add_upload_button("Load"),
        )
        with gui.add_folder("Folder") as self.widgets.folder:
            self.widgets.name = gui.add_text("Name", "nobody")
            self.widgets.inner = gui.add_button("Same")
        tabs = gui.add_tab_group()
        with tabs.add_tab("First"):
            self.widgets.tabbed = gui.add_button("Same")
        self.server.scene.set_background_image(np.full((40, 60, 3), (10, 200, 30), np.uint8), format="png")
        self.gizmo = self.server.scene.add_transform_controls("/gizmo", position=(1, 2, 3))

        for name in ("check", "size", "count", "kind", "colour", "name"):
            getattr(self.widgets, name).on_update(lambda event, name=name: self.log(name, event.target.value))
        self.widgets.side.on_click(lambda event: self.log("side", event.target.value))
        self.widgets.upload.on_upload(lambda event: self.log("upload", event.target.value))
        self.gizmo.on_update(lambda handle: self.log("gizmo", (tuple(handle.wxyz), tuple(handle.position))))
        self.widgets.press.on_click(self._press)
        self.widgets.file.on_click(lambda event: event.client.send_file_download("noise.bin", FILE))
        self.widgets.pick.on_click(lambda event: self.listen(event.client, "click"))
        self.widgets.ask.on_click(self._ask)

    def log(self, name: str, value: Any) -> None:
        self.events.append((name, value))

    def _press(self, event: viser.GuiEvent) -> None:
        self.log("press", event.client_id)
        event.client.add_notification("Pressed", f"by {event.client_id}", auto_close=60_000)

    def _ask(self, event: viser.GuiEvent) -> None:
        with event.client.gui.add_modal("Sure?") as modal:
            event.client.gui.add_button("Yes").on_click(lambda _: modal.close())

    def listen(self, client: viser.ClientHandle, kind: Any) -> None:
        """Wait for one click or rectangle."""

        @client.scene.on_pointer_event(kind)
        def _(event: viser.ScenePointerEvent) -> None:
            self.log(kind, event)
            client.scene.remove_pointer_callback()


@pytest.fixture
def plain() -> Iterator[PlainServer]:
    plain = PlainServer()
    yield plain
    plain.server.stop()


@pytest.fixture
def client(plain: PlainServer) -> Iterator[ViewerClient]:
    with ViewerClient(plain.port, server=plain.server) as client:
        client.wait(lambda: "/gizmo" in client.page.scene, what="everything the server has")
        yield client
        assert not client.page.errors


def expect(client: ViewerClient, plain: PlainServer, name: str, value: Any) -> None:
    client.wait(lambda: (name, value) in plain.events, what=f"{name} = {value} among {plain.events}")


def test_gui_is_mirrored(client: ViewerClient, plain: PlainServer) -> None:
    button = client.page.find("Press me")
    assert (button.type, button.color, button.disabled, button.visible) == ("button", "red", False, True)
    kind = client.page.find("Kind")
    assert kind.value == "kind 0" and len(kind.options or ()) == 60
    assert client.page.find("Name", "Folder").container == client.page.find("Folder").id
    assert client.page.find("Same", "First") is not client.page.find("Same", "Folder")
    assert [w.value for w in client.page.widgets() if w.type == "markdown"] == ["a *note*"]
    assert client.page.find("Press", startswith=True) is button
    assert client.page.panel_label == "plain" and client.page.widgets()[0] is button
    with pytest.raises(AssertionError, match=r"'Nothing'.*there are .*button 'Press me'"):
        client.page.find("Nothing")
    with pytest.raises(AssertionError, match=r"2 widgets labelled 'Same'.*root/Folder.*root/First"):
        client.page.find("Same")


def test_gui_follows_the_server(client: ViewerClient, plain: PlainServer) -> None:
    kind, size = client.page.find("Kind"), client.page.find("Size")
    with plain.server.atomic():
        plain.widgets.size.value, plain.widgets.size.disabled = 1.5, True
        plain.widgets.kind.options = ("one", "two")
        plain.widgets.note.content = "new"
    client.wait(lambda: size.value == 1.5 and size.disabled and kind.options == ("one", "two"))
    assert kind.value == "one"
    with pytest.raises(AssertionError, match="slider 'Size' disabled is disabled"):
        client.set("Size", 1.0, timeout=0)
    plain.widgets.size.disabled = False

    with plain.server.gui.add_folder("Passing") as folder:
        plain.server.gui.add_button("Ghost", visible=False)
    ghost = client.wait(lambda: client.page.find("Ghost", "Passing"))
    assert not client.page.shown(ghost)
    folder.remove()
    client.wait(lambda: ghost.removed)
    assert "Passing" not in client.page.describe()


def test_inputs_reach_the_server(client: ViewerClient, plain: PlainServer) -> None:
    values = {
        "Show it": False,
        "Size": 0.7,
        "Count": 5,
        "Colour": (9, 8, 7),
        "Side": "right",
        "Name": "some{one}",
    }
    names = {"Show it": "check", "Side": "side"}
    for label, value in values.items():
        client.set(label, value)
        expect(client, plain, names.get(label, label.lower()), value)
    assert client.page.find("Name").value == "some{one}"
    option = (client.page.find("Kind").options or ())[-1]
    client.set("Kind", option)
    expect(client, plain, "kind", option)
    for label, value in {
        "Kind": "none",
        "Size": 3,
        "Show it": 1,
        "Name": 3,
        "Colour": (1, 2),
        "Press me": 1,
    }.items():
        with pytest.raises(AssertionError):
            client.set(label, value)
    with pytest.raises(AssertionError, match="cannot be pressed"):
        client.press("Kind")


def test_two_clients(client: ViewerClient, plain: PlainServer) -> None:
    with ViewerClient(plain.port, server=plain.server) as other:
        other.press("Press me")
        other.wait(lambda: other.page.notifications, what="the notification")
        title, body, *_ = other.page.notifications[0]
        assert title == "Pressed" and plain.events == [("press", int(body.removeprefix("by ")))]
        other.set("Name", "both")
        client.wait(lambda: client.page.find("Name").value == "both")
        assert not client.page.notifications and not other.page.errors
    client.wait(lambda: len(plain.server.get_clients()) == 1, what="the other client to be gone")


def test_notification_of_the_server(client: ViewerClient, plain: PlainServer) -> None:
    (handle,) = plain.server.get_clients().values()
    notification = handle.add_notification("Busy", "0 %", loading=True, color="blue")
    client.wait(lambda: client.page.notifications)
    notification.body = "done"
    client.wait(lambda: [n.body for n in client.page.notifications] == ["0 %", "done"])
    notification.remove()
    client.wait(lambda: not client.page.open_notifications)


def test_modal_is_above_the_panel(client: ViewerClient, plain: PlainServer) -> None:
    client.press("Ask")
    client.wait(lambda: client.page.find("Yes", "Sure?"))
    with pytest.raises(AssertionError, match="the modal 'Sure\\?' is above button 'Press me'"):
        client.press("Press me", timeout=0)
    client.press("Yes")
    client.wait(lambda: not client.page.modals)
    client.press("Press me")
    client.wait(lambda: client.page.notifications)


def test_click(client: ViewerClient, plain: PlainServer) -> None:
    with pytest.raises(AssertionError, match="waited 0 s for the server to listen for click"):
        client.click(0.5, 0.5, timeout=0)
    client.camera((0, -4, 0), look_at=(0, 0, 0), up=(0, 0, 1), fov=math.pi / 2, aspect=2.0)
    client.press("Pick")
    client.click(0.75, 0.25)  # right of the middle and above it: 45 degrees down to the right edge is x = 2
    client.wait(lambda: plain.events and client.page.pointer_enabled is None)
    (name, event), *_ = plain.events
    assert name == "click" and event.screen_pos == ((0.75, 0.25),)
    assert event.ray_origin == (0, -4, 0)
    np.testing.assert_allclose(event.ray_direction, np.array([1, 1, 0.5]) / 1.5, atol=1e-9)


def test_drag_box(client: ViewerClient, plain: PlainServer) -> None:
    (handle,) = plain.server.get_clients().values()
    plain.listen(handle, "rect-select")
    client.drag_box(0.6, 0.2, 0.1, 0.9)
    client.wait(lambda: plain.events)
    assert plain.events[0][1].screen_pos == ((0.1, 0.2), (0.6, 0.9))


def test_camera_goes_both_ways(client: ViewerClient, plain: PlainServer) -> None:
    (handle,) = plain.server.get_clients().values()
    np.testing.assert_allclose(handle.camera.position, 3, atol=1e-6)
    half = math.sqrt(0.5)
    client.camera(
        wxyz=(half, -half, 0, 0), position=(0, -2, 1), fov=1.0, aspect=1.5
    )  # looks along +y, z is up
    client.wait(lambda: handle.camera.fov == 1.0)
    np.testing.assert_allclose(handle.camera.wxyz, (half, -half, 0, 0))
    np.testing.assert_allclose(handle.camera.up_direction, (0, 0, 1), atol=1e-9)
    np.testing.assert_allclose(handle.camera.look_at, (0, math.sqrt(27) - 2, 1), atol=1e-9)

    seen = client.page.view
    with handle.atomic():
        handle.camera.position, handle.camera.look_at = (5.0, 0, 0), (0.0, 0, 0)
    client.wait(lambda: client.page.view is not seen and tuple(client.page.view.position) == (5, 0, 0))
    client.wait(lambda: np.allclose(vtf.SO3(client.page.view.wxyz).as_matrix()[:, 2], (-1, 0, 0)))
    client.wait(lambda: np.allclose(handle.camera.wxyz, client.page.view.wxyz, atol=1e-6), what="the answer")


def test_gizmo(client: ViewerClient, plain: PlainServer) -> None:
    node = client.page.scene["/gizmo"]
    client.wait(lambda: node.position == (1, 2, 3))
    client.move_gizmo("/gizmo", wxyz=(0, 1, 0, 0), position=(4, 5, 6))
    expect(client, plain, "gizmo", ((0, 1, 0, 0), (4, 5, 6)))
    plain.gizmo.visible = False
    client.wait(lambda: not node.visible)
    passing = plain.server.scene.add_frame("/passing/frame")
    client.wait(
        lambda: (
            client.page.scene["/passing/frame"].type == "Frame"
            if "/passing/frame" in client.page.scene
            else False
        )
    )
    passing.remove()
    client.wait(lambda: "/passing/frame" not in client.page.scene)


def test_files_both_ways(client: ViewerClient, plain: PlainServer) -> None:
    client.press("Get the file")
    download = client.wait(lambda: client.page.downloads, what="the file")[0]
    assert (download.name, download.content) == ("noise.bin", FILE)
    client.upload("Load", "in.bin", FILE)
    client.wait(lambda: plain.events, what="the server's callback")
    name, file = plain.events[0]
    assert name == "upload" and (file.name, file.content) == ("in.bin", FILE)


def test_picture(client: ViewerClient, plain: PlainServer) -> None:
    picture = client.wait_picture()
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8 and (picture == (10, 200, 30)).all()
    count = client.page.picture_count
    plain.server.scene.set_background_image(np.full((20, 30, 3), 90, np.uint8), format="jpeg")
    picture = client.wait_picture(after=count)
    assert picture.shape == (20, 30, 3) and np.abs(picture.astype(int) - 90).max() < 4


def test_wait_tells_what_it_saw(client: ViewerClient) -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"(?s)waited 0.05 s for a miracle.*root/Folder: text 'Name' = "):
        client.wait(lambda: False, timeout=0.05, what="a miracle")
    assert time.monotonic() - start >= 0.05


def test_errors_of_the_page_are_seen(plain: PlainServer) -> None:
    with ViewerClient(plain.port, server=plain.server) as client:
        client.wait(lambda: client.page.find("Same", "First"), what="the GUI")
        send = plain.server.get_clients()[max(plain.server.get_clients())]._websock_connection.queue_message
        send(_messages.GuiUpdateMessage("nobody", {"value": 1}))
        send(_messages.GuiUpdateMessage(client.page.find("Press me").id, {"colour": 1}))
        send(_messages.GuiRemoveMessage("nobody"))
        client.wait(lambda: len(client.page.errors) == 3)
        plain.server.gui.add_button("Red", color=(255, 0, 0))  # type: ignore[arg-type]
        plain.widgets.kind.options = ("same", "same")
        client.wait(
            lambda: [error.endswith("a blank page") for error in client.page.errors[3:]] == [True, True]
        )
