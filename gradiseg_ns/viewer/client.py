"""A client of viser's viewer without a browser, for tests, benchmarks and tours.

It speaks the protocol of viser 0.2.7 over the websocket: msgpack both ways, windows (arrays) of messages from the server, single messages
from the client. `page` is what the web page would show. The first thing the page sends is its camera; only then does the server count it
as connected and call `on_client_connect`.

The server hands each message to a pool of threads, so two that are sent in quick succession may be handled in either
order: wait for what the first one does before sending the second, as a person would.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import viser
import viser.transforms as vtf
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gradiseg_ns.viewer.page import Camera, Page, Props, Widget

T = TypeVar("T")

UPLOAD_CHUNK = 512 * 1024
"""Bytes in each part of an upload, as the page sends them."""


class ViewerClient:
    """One page of the viewer, open on `port`.

    `timeout` (s) is how long everything that waits does so unless told otherwise. Given the `server` of this process,
    it is ready only once that server counts it as connected; without, wait for a sign of it (a first picture) before
    pressing anything. Close it, or use it in a `with`.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        server: viser.ViserServer | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.timeout = timeout
        self.page = Page()
        """What the page shows."""
        self._windows = 0
        self._closed = False

        before = set(server.get_clients()) if server is not None else set()
        # Compression and keepalive pings only cost time between two threads of a busy machine
        self._socket = connect(
            f"ws://{host}:{port}", compression=None, ping_interval=None, max_size=None, open_timeout=timeout
        )
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        self._send_camera()
        self.wait(lambda: self._windows > 0, what="the server's first messages")
        if server is not None:
            self.wait(lambda: set(server.get_clients()) - before, what="the server to count the client")

    def __enter__(self) -> ViewerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, as by closing the page."""
        self._socket.close()
        self._thread.join(timeout=self.timeout)

    # What it waits for

    def wait_picture(self, after: int = 0, timeout: float | None = None) -> npt.NDArray[np.uint8]:
        """The newest picture, once `picture_count` is more than `after`."""
        self.wait(lambda: self.page.picture_count > after, timeout, f"a picture after number {after}")
        picture = self.page.picture
        assert picture is not None, "the scene was reset"
        return picture

    def wait(self, predicate: Callable[[], T], timeout: float | None = None, what: str = "") -> T:
        """Poll until `predicate` returns something true, and return it. It may raise AssertionError meanwhile."""
        timeout = self.timeout if timeout is None else timeout
        end = time.monotonic() + timeout
        while True:
            late = time.monotonic() > end
            reason = ""
            try:
                result = predicate()
                if result:
                    return result
            except AssertionError as error:
                reason = f": {error}"
            if late:
                closed = "the connection is closed\n" if self._closed else ""
                raise AssertionError(
                    f"waited {timeout:g} s for {what or 'a condition'}{reason}\n{closed}{self.page.describe()}"
                )
            time.sleep(0.01)

    # What a person does

    def press(
        self,
        label: str,
        container: str | None = None,
        *,
        startswith: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Press a button, once it is there and can be pressed."""
        widget = self._usable(label, container, startswith, timeout)
        assert widget.type == "button", f"{widget} cannot be pressed"
        self._send("GuiUpdateMessage", id=widget.id, updates={"value": True})

    def set(
        self,
        label: str,
        value: Any,
        container: str | None = None,
        *,
        startswith: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Give an input a value that a person could give it, once it is there and can be changed."""
        widget = self._usable(label, container, startswith, timeout)
        value = _enterable(widget, value)
        if widget.type != "button_group":  # its value stays what the server said
            self.page.update(widget, {"value": value})
        self._send("GuiUpdateMessage", id=widget.id, updates={"value": value})

    def upload(
        self, label: str, name: str, content: bytes, mime_type: str = "", container: str | None = None
    ) -> None:
        """Choose a file for an upload button; returns when the server has all of it."""
        widget = self._usable(label, container, False, None)
        assert widget.type == "upload_button", f"{widget} takes no files"
        transfer = {"source_component_id": widget.id, "transfer_uuid": str(uuid.uuid4())}
        parts = [content[start : start + UPLOAD_CHUNK] for start in range(0, len(content), UPLOAD_CHUNK)]
        self.page.acknowledged[transfer["transfer_uuid"]] = 0
        self._send(
            "FileTransferStart",
            **transfer,
            filename=name,
            mime_type=mime_type,
            part_count=len(parts),
            size_bytes=len(content),
        )
        # The server drops parts that a faster thread of it handles before the start, which it does not acknowledge
        time.sleep(0.1)
        for index, part in enumerate(parts):
            self._send("FileTransferPart", **transfer, part=index, content=part)
        self.wait(
            lambda: self.page.acknowledged[transfer["transfer_uuid"]] == len(content),
            what=f"the upload of {name}",
        )

    def camera(
        self,
        position: Any = None,
        wxyz: Any = None,
        fov: float | None = None,
        aspect: float | None = None,
        look_at: Any = None,
        up: Any = None,
    ) -> None:
        """Move the camera. What is not given stays; the orientation is `wxyz` or follows from `look_at` and `up`."""
        old = self.page.view
        position = old.position if position is None else np.asarray(position, np.float64)
        lens = {"fov": old.fov if fov is None else fov, "aspect": old.aspect if aspect is None else aspect}
        if wxyz is None:
            look_at, up = old.look_at if look_at is None else look_at, old.up if up is None else up
            self.page.view = Camera.looking(position, look_at, up, **lens)
        else:
            rotation = vtf.SO3(np.asarray(wxyz, np.float64)).as_matrix()
            if look_at is None:
                look_at = position + rotation[:, 2] * np.linalg.norm(old.look_at - old.position)
            up = -rotation[:, 1] if up is None else up
            wxyz, look_at, up = (np.asarray(vector, np.float64) for vector in (wxyz, look_at, up))
            self.page.view = Camera(position, wxyz, look_at, up, **lens)
        self._send_camera()

    def click(self, x: float, y: float, *, force: bool = False, timeout: float | None = None) -> None:
        """Click into the picture, (0, 0) top left to (1, 1) bottom right, once the server listens (`force`: anyway)."""
        self._pointer("click", force, timeout)
        origin, direction = self.page.view.ray(x, y)
        self._send(
            "ScenePointerMessage",
            event_type="click",
            ray_origin=origin,
            ray_direction=direction,
            screen_pos=((x, y),),
        )

    def drag_box(
        self, x0: float, y0: float, x1: float, y1: float, *, force: bool = False, timeout: float | None = None
    ) -> None:
        """Draw a rectangle onto the picture, once the server listens (`force`: anyway)."""
        self._pointer("rect-select", force, timeout)
        corners = ((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1)))
        self._send(
            "ScenePointerMessage",
            event_type="rect-select",
            ray_origin=None,
            ray_direction=None,
            screen_pos=corners,
        )

    def move_gizmo(
        self, name: str, wxyz: Any = None, position: Any = None, timeout: float | None = None
    ) -> None:
        """Drag transform controls to a pose relative to their parent; what is not given stays."""
        self.wait(lambda: name in self.page.scene, timeout, f"the transform controls {name!r}")
        node = self.page.scene[name]
        assert node.type == "TransformControls", f"{name!r} is a {node.type}"
        node.wxyz = node.wxyz if wxyz is None else tuple(map(float, wxyz))
        node.position = node.position if position is None else tuple(map(float, position))
        self._send("TransformControlsUpdateMessage", name=name, wxyz=node.wxyz, position=node.position)

    def _usable(self, label: str, container: str | None, startswith: bool, timeout: float | None) -> Widget:
        """The element once a person could use it: there, visible, enabled and with no modal above it."""

        def usable() -> Widget:
            widget = self.page.find(label, container, startswith=startswith)
            assert self.page.shown(widget), f"{widget} is not shown"
            assert not widget.disabled, f"{widget} is disabled"
            outermost, _ = self.page.path(widget)[-1]
            for newest, title in list(self.page.modals.items())[-1:]:
                assert outermost == newest, f"the modal {title!r} is above {widget}"
            return widget

        return self.wait(usable, timeout, f"{label!r} to be usable")

    def _pointer(self, event: str, force: bool, timeout: float | None) -> None:
        if not force:
            self.wait(
                lambda: self.page.pointer_enabled == event, timeout, f"the server to listen for {event}"
            )

    # The wire

    def _send(self, type: str, **fields: Any) -> None:
        self._socket.send(msgspec.msgpack.encode({"type": type, **fields}))

    def _send_camera(self) -> None:
        view = self.page.view
        self._send(
            "ViewerCameraMessage",
            wxyz=view.wxyz.tolist(),
            position=view.position.tolist(),
            fov=view.fov,
            aspect=view.aspect,
            look_at=view.look_at.tolist(),
            up_direction=view.up.tolist(),
        )

    def _receive(self) -> None:
        try:
            for window in self._windows_of_messages():
                moved = False
                for message in window:
                    moved |= message["type"].startswith("SetCamera")
                    try:
                        self.page.handle(message)
                    except Exception as error:
                        self.page.errors.append(f"{message['type']}: {error!r}")
                self._windows += 1
                if moved:  # the page reports its camera whenever it moved, by whomever
                    self._send_camera()
        except ConnectionClosed:
            pass
        finally:
            self._closed = True

    def _windows_of_messages(self) -> Iterator[list[Props]]:
        for raw in self._socket:
            assert isinstance(raw, bytes)
            yield [_tuples(message) for message in msgspec.msgpack.decode(raw)]


def _tuples(value: Any) -> Any:
    """Lists become tuples, as viser's own decoding does."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _enterable(widget: Widget, value: Any) -> Any:
    """`value` as the page would send it, or an AssertionError if nobody could enter it."""
    kind, old = widget.type, widget.value
    if kind == "checkbox":
        assert isinstance(value, bool), f"{widget} takes True or False, not {value!r}"
    elif kind == "text":
        assert isinstance(value, str), f"{widget} takes text, not {value!r}"
    elif kind in ("dropdown", "button_group"):
        assert value in (widget.options or ()), f"{widget} offers {widget.options}, not {value!r}"
    elif kind in ("slider", "number"):
        low, high = widget.props["min"], widget.props["max"]
        inside = (low is None or value >= low) and (high is None or value <= high)
        assert inside, f"{widget} goes from {low} to {high}, not to {value}"
    elif kind in ("rgb", "rgba", "vector2", "vector3", "multi_slider"):
        value = tuple(value)
        assert len(value) == len(old), f"{widget} takes {len(old)} numbers, not {value}"
        if kind in ("rgb", "rgba"):
            assert all(isinstance(v, int) and 0 <= v <= 255 for v in value), (
                f"{widget} takes 0 to 255, not {value}"
            )
    else:
        raise AssertionError(f"{widget} has no value to set")
    return value
