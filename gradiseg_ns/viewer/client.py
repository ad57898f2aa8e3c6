"""A client of viser's viewer without a browser, for tests, benchmarks and tours.

It speaks the protocol of viser 0.2.7 over the websocket and keeps what the web page would: msgpack both ways, windows
(arrays) of messages from the server, single messages from the client. The first thing the page sends is its camera;
only then does the server count it as connected and call `on_client_connect`.

The server hands each message to a pool of threads, so two that are sent in quick succession may be handled in either
order: wait for what the first one does before sending the second, as a person would.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import viser
import viser.transforms as vtf
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

T = TypeVar("T")
Props = dict[str, Any]

UPLOAD_CHUNK = 512 * 1024
"""Bytes in each part of an upload, as the page sends them."""


class Widget:
    """An element of the GUI. It follows the server's updates for as long as it exists."""

    def __init__(self, message: Props) -> None:
        self.props = message
        self.removed = False

    def __repr__(self) -> str:
        state = ["" if self.visible else "hidden", "disabled" if self.disabled else ""]
        return " ".join(filter(None, [f"{self.type} {self.label!r}", *state]))

    @property
    def id(self) -> str:
        return self.props["id"]

    @property
    def type(self) -> str:
        """What `gui.add_<type>` made it: "button", "checkbox", "dropdown", "folder", "upload_button", ..."""
        name = self.props["type"].removeprefix("GuiAdd").removesuffix("Message")
        return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()

    @property
    def label(self) -> str | None:
        """None for markdown, progress bars, plots and groups of tabs."""
        return self.props.get("label")

    @property
    def container(self) -> str:
        """Id of what it is in: a folder, a tab, a modal, or "root"."""
        return self.props["container_id"]

    @property
    def value(self) -> Any:
        """Its value; the source text for markdown."""
        return self.props["markdown"] if self.type == "markdown" else self.props.get("value")

    @property
    def options(self) -> tuple[str, ...] | None:
        """What a dropdown or a group of buttons offers, or the labels of a group of tabs."""
        return self.props.get("options", self.props.get("tab_labels"))

    @property
    def visible(self) -> bool:
        """Its own flag; `ViewerClient.shown` looks at what it is in as well."""
        return self.props["visible"]

    @property
    def disabled(self) -> bool:
        return self.props.get("disabled", False)

    @property
    def color(self) -> Any:
        """A name or CSS colour; None for the theme's."""
        return self.props.get("color")

    @property
    def order(self) -> float:
        return self.props["order"]


class Notification(NamedTuple):
    title: str
    body: str
    color: Any
    id: str


class Download(NamedTuple):
    name: str
    mime_type: str
    content: bytes


@dataclasses.dataclass
class SceneNode:
    """A node of the scene, its pose relative to its parent."""

    name: str
    type: str
    """The message that made it, without "Message": "TransformControls", "Frame", "PointCloud", ..."""
    props: Props
    visible: bool = True
    """Its own flag: a node also disappears with its parents."""
    wxyz: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    position: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera in world coordinates (OpenCV: x right, y down, z forward), as the page reports it."""

    position: npt.NDArray[np.float64]
    wxyz: npt.NDArray[np.float64]
    look_at: npt.NDArray[np.float64]
    up: npt.NDArray[np.float64]
    fov: float = math.radians(75)
    """Vertical, in radians."""
    aspect: float = 16 / 9

    @classmethod
    def looking(cls, position: Any, look_at: Any, up: Any, **rest: Any) -> Camera:
        position, look_at, up = (np.asarray(vector, np.float64) for vector in (position, look_at, up))
        forward = (look_at - position) / np.linalg.norm(look_at - position)
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        return cls(position, vtf.SO3.from_matrix(rotation).wxyz, look_at, up, **rest)

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """World from camera (3, 3)."""
        return vtf.SO3(self.wxyz).as_matrix()

    def ray(self, x: float, y: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Origin and unit direction through a point of the picture, (0, 0) top left to (1, 1) bottom right."""
        half = math.tan(self.fov / 2)
        direction = self.rotation @ np.array([(2 * x - 1) * half * self.aspect, (2 * y - 1) * half, 1.0])
        return tuple(self.position.tolist()), tuple((direction / np.linalg.norm(direction)).tolist())


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
        self.view = Camera.looking((3, 3, 3), (0, 0, 0), (0, 0, 1))
        """The camera that the server was last told of; the page's own at first."""
        self.panel_label = ""
        self.theme: Props = {}
        self.modals: dict[str, str] = {}
        """Titles of open modals by id, the newest last."""
        self.notifications: list[Notification] = []
        """Everything that was notified, in order, updates of a text included."""
        self.open_notifications: dict[str, Notification] = {}
        """What is still there (the page shows ten; more wait)."""
        self.pointer_enabled: Literal["click", "rect-select"] | None = None
        self.scene: dict[str, SceneNode] = {}
        self.downloads: list[Download] = []
        """Complete files, in order."""
        self.picture_count = 0
        self.errors: list[str] = []
        """Messages that the page would stumble over, some so badly that it goes blank."""

        self._widgets: dict[str, Widget] = {}
        self._transfers: dict[str, tuple[Props, list[bytes]]] = {}
        self._acks: dict[str, int] = {}
        self._picture: bytes | npt.NDArray[np.uint8] | None = None
        self._windows = 0
        self._closed = False
        self._reset_scene()

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

    # What the page shows

    def widgets(self, container: str | None = None) -> list[Widget]:
        """The GUI's elements by their order; with `container`, those below what bears this label or id."""
        widgets = sorted(list(self._widgets.values()), key=lambda widget: widget.order)
        return [w for w in widgets if container is None or container in itertools.chain(*self._path(w))]

    def find(self, label: str, container: str | None = None, *, startswith: bool = False) -> Widget:
        """The element labelled `label` (or so that it starts with it), below `container` if given.

        `container` is the label of a folder or tab, the title of a modal, or an id.
        """
        known = [widget for widget in self.widgets(container) if widget.label is not None]
        found = [w for w in known if w.label == label or (startswith and str(w.label).startswith(label))]
        if len(found) > 1:
            found = [widget for widget in found if self.shown(widget)] or found
        place = "" if container is None else f" in {container!r}"
        assert found, f"no widget labelled {label!r}{place}; there are {known}"
        assert len(found) == 1, (
            f"{len(found)} widgets labelled {label!r}{place}: "
            f"{['/'.join(name for _, name in reversed(self._path(widget))) for widget in found]}"
        )
        return found[0]

    def shown(self, widget: Widget) -> bool:
        """Whether the page has it: it and what it is in are visible (folders and tabs may have to be opened)."""
        if widget.removed or not widget.visible:
            return False
        parent, attached = self._parent(widget.container)
        return self.shown(parent) if parent is not None else attached

    @property
    def picture(self) -> npt.NDArray[np.uint8] | None:
        """The background image (H, W, 3), None before the first."""
        picture = self._picture
        if isinstance(picture, bytes):
            picture = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        return picture

    def wait_picture(self, after: int = 0, timeout: float | None = None) -> npt.NDArray[np.uint8]:
        """The newest picture, once `picture_count` is more than `after`."""
        self.wait(lambda: self.picture_count > after, timeout, f"a picture after number {after}")
        picture = self.picture
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
                raise AssertionError(
                    f"waited {timeout:g} s for {what or 'a condition'}{reason}\n{self.describe()}"
                )
            time.sleep(0.01)

    def describe(self) -> str:
        """The state of the page in a few lines."""
        lines = ["the connection is closed"] if self._closed else []
        lines += [f"modals {list(self.modals.values())}"] if self.modals else []
        lines += [
            f"pointer {self.pointer_enabled}, {self.picture_count} pictures, {len(self.downloads)} downloads"
        ]
        lines += [f"notified {(n.title, n.body)}" for n in self.notifications[-5:]]
        lines += [f"error: {error}" for error in self.errors]
        for widget in self.widgets():
            place = "/".join(name for _, name in reversed(self._path(widget)))
            value = (
                "" if widget.value is None or widget.type == "button" else f" = {str(widget.value)[:80]!r}"
            )
            lines.append(f"{place}: {widget}{value}")
        return "\n".join(lines)

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
            self._update(widget, {"value": value})
        self._send("GuiUpdateMessage", id=widget.id, updates={"value": value})

    def upload(
        self, label: str, name: str, content: bytes, mime_type: str = "", container: str | None = None
    ) -> None:
        """Choose a file for an upload button; returns when the server has all of it."""
        widget = self._usable(label, container, False, None)
        assert widget.type == "upload_button", f"{widget} takes no files"
        transfer = {"source_component_id": widget.id, "transfer_uuid": str(uuid.uuid4())}
        parts = [content[start : start + UPLOAD_CHUNK] for start in range(0, len(content), UPLOAD_CHUNK)]
        self._acks[transfer["transfer_uuid"]] = 0
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
        self.wait(lambda: self._acks[transfer["transfer_uuid"]] == len(content), what=f"the upload of {name}")

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
        old = self.view
        position = old.position if position is None else np.asarray(position, np.float64)
        lens = {"fov": old.fov if fov is None else fov, "aspect": old.aspect if aspect is None else aspect}
        if wxyz is None:
            look_at, up = old.look_at if look_at is None else look_at, old.up if up is None else up
            self.view = Camera.looking(position, look_at, up, **lens)
        else:
            rotation = vtf.SO3(np.asarray(wxyz, np.float64)).as_matrix()
            if look_at is None:
                look_at = position + rotation[:, 2] * np.linalg.norm(old.look_at - old.position)
            up = -rotation[:, 1] if up is None else up
            wxyz, look_at, up = (np.asarray(vector, np.float64) for vector in (wxyz, look_at, up))
            self.view = Camera(position, wxyz, look_at, up, **lens)
        self._send_camera()

    def click(self, x: float, y: float, *, force: bool = False, timeout: float | None = None) -> None:
        """Click into the picture, (0, 0) top left to (1, 1) bottom right, once the server listens (`force`: anyway)."""
        self._pointer("click", force, timeout)
        origin, direction = self.view.ray(x, y)
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
        self.wait(lambda: name in self.scene, timeout, f"the transform controls {name!r}")
        node = self.scene[name]
        assert node.type == "TransformControls", f"{name!r} is a {node.type}"
        node.wxyz = node.wxyz if wxyz is None else tuple(map(float, wxyz))
        node.position = node.position if position is None else tuple(map(float, position))
        self._send("TransformControlsUpdateMessage", name=name, wxyz=node.wxyz, position=node.position)

    # The GUI's tree

    def _parent(self, container: str) -> tuple[Widget | None, bool]:
        """The element that holds a container, and whether one that no element holds is on the page."""
        if container in self._widgets:
            return self._widgets[container], True
        for widget in list(self._widgets.values()):
            if container in widget.props.get("tab_container_ids", ()):
                return widget, True
        in_scene = any(node.props.get("container_id") == container for node in list(self.scene.values()))
        return None, container == "root" or container in self.modals or in_scene

    def _path(self, widget: Widget) -> list[tuple[str, str]]:
        """Ids and labels of what an element is in, innermost first."""
        path = []
        container = widget.container
        while True:
            parent, _ = self._parent(container)
            name = self.modals.get(container, container)
            if parent is not None and parent.type == "tab_group":
                name = parent.props["tab_labels"][parent.props["tab_container_ids"].index(container)]
            elif parent is not None:
                name = parent.label or ""
            path.append((container, name))
            if parent is None:
                return path
            container = parent.container

    def _usable(self, label: str, container: str | None, startswith: bool, timeout: float | None) -> Widget:
        """The element once a person could use it: there, visible, enabled and with no modal above it."""

        def usable() -> Widget:
            widget = self.find(label, container, startswith=startswith)
            assert self.shown(widget), f"{widget} is not shown"
            assert not widget.disabled, f"{widget} is disabled"
            outermost, _ = self._path(widget)[-1]
            for newest, title in list(self.modals.items())[-1:]:
                assert outermost == newest, f"the modal {title!r} is above {widget}"
            return widget

        return self.wait(usable, timeout, f"{label!r} to be usable")

    def _pointer(self, event: str, force: bool, timeout: float | None) -> None:
        if not force:
            self.wait(lambda: self.pointer_enabled == event, timeout, f"the server to listen for {event}")

    # The wire

    def _send(self, type: str, **fields: Any) -> None:
        self._socket.send(msgspec.msgpack.encode({"type": type, **fields}))

    def _send_camera(self) -> None:
        view = self.view
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
                        self._handle(message)
                    except Exception as error:
                        self.errors.append(f"{message['type']}: {error!r}")
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

    def _handle(self, message: Props) -> None:
        kind = message["type"]
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(message)
        elif kind.startswith("GuiAdd"):
            widget = self._widgets[message["id"]] = Widget(message)
            self._check(widget, message)
        elif kind.endswith("Message") and not kind.startswith("Set") and "name" in message:
            self.scene[message["name"]] = SceneNode(message["name"], kind.removesuffix("Message"), message)

    def _update(self, widget: Widget, updates: Props) -> None:
        widget.props = {**widget.props, **updates}  # replaced, for those who read it meanwhile

    def _check(self, widget: Widget, news: Props) -> None:
        """What makes the page go blank."""
        color, options = news.get("color"), news.get("options", ())
        if not (color is None or isinstance(color, str)):
            self.errors.append(f"the color of {widget} is {color!r}, not a string: a blank page")
        if widget.type == "dropdown" and len(set(options)) < len(options):
            self.errors.append(f"{widget} offers some options twice: a blank page")

    def _on_GuiUpdateMessage(self, message: Props) -> None:
        widget = self._widgets.get(message["id"])
        if widget is None:
            self.errors.append(f"update of a widget that does not exist: {message['updates']}")
            return
        unknown = message["updates"].keys() - widget.props.keys()
        if unknown:
            self.errors.append(f"update of properties that {widget} does not have: {sorted(unknown)}")
        self._update(widget, message["updates"])
        self._check(widget, message["updates"])

    def _on_GuiRemoveMessage(self, message: Props) -> None:
        widget = self._widgets.pop(message["id"], None)
        if widget is None:
            self.errors.append("removal of a widget that does not exist")
        else:
            widget.removed = True

    def _on_ResetGuiMessage(self, _: Props) -> None:
        for widget in self._widgets.values():
            widget.removed = True
        self._widgets = {}
        self.modals = {}

    def _on_GuiModalMessage(self, message: Props) -> None:
        self.modals = {**self.modals, message["id"]: message["title"]}

    def _on_GuiCloseModalMessage(self, message: Props) -> None:
        self.modals = {key: title for key, title in self.modals.items() if key != message["id"]}

    def _on_SetGuiPanelLabelMessage(self, message: Props) -> None:
        self.panel_label = message["label"] or ""

    def _on_ThemeConfigurationMessage(self, message: Props) -> None:
        self.theme = message

    def _on_NotificationMessage(self, message: Props) -> None:
        notification = Notification(message["title"], message["body"], message["color"], message["id"])
        if message["mode"] == "update" and notification.id not in self.open_notifications:
            self.errors.append(f"update of a notification that is not there: {notification}")
            return
        self.notifications.append(notification)
        self.open_notifications = {**self.open_notifications, notification.id: notification}

    def _on_RemoveNotificationMessage(self, message: Props) -> None:
        left = {key: value for key, value in self.open_notifications.items() if key != message["id"]}
        self.open_notifications = left

    def _on_ScenePointerEnableMessage(self, message: Props) -> None:
        self.pointer_enabled = message["event_type"] if message["enable"] else None

    def _on_BackgroundImageMessage(self, message: Props) -> None:
        self._picture = message["rgb_bytes"]
        self.picture_count += 1

    def _reset_scene(self) -> None:
        """The root and the world's axes are always there."""
        self.scene = {name: SceneNode(name, "Frame", {}) for name in ("", "/WorldAxes")}
        self._picture = None

    def _on_ResetSceneMessage(self, _: Props) -> None:
        self._reset_scene()

    def _on_RemoveSceneNodeMessage(self, message: Props) -> None:
        name = message["name"]
        left = {
            key: node for key, node in self.scene.items() if key != name and not key.startswith(name + "/")
        }
        self.scene = left

    def _on_SetSceneNodeVisibilityMessage(self, message: Props) -> None:
        if message["name"] in self.scene:
            self.scene[message["name"]].visible = message["visible"]

    def _on_SetOrientationMessage(self, message: Props) -> None:
        if message["name"] in self.scene:
            self.scene[message["name"]].wxyz = message["wxyz"]

    def _on_SetPositionMessage(self, message: Props) -> None:
        if message["name"] in self.scene:
            self.scene[message["name"]].position = message["position"]

    def _on_SetCameraPositionMessage(self, message: Props) -> None:
        self._look(position=message["position"])

    def _on_SetCameraLookAtMessage(self, message: Props) -> None:
        self._look(look_at=message["look_at"])

    def _on_SetCameraUpDirectionMessage(self, message: Props) -> None:
        self._look(up=message["position"])

    def _on_SetCameraFovMessage(self, message: Props) -> None:
        self._look(fov=message["fov"])

    def _look(self, **changes: Any) -> None:
        keys = ("position", "look_at", "up", "fov", "aspect")
        self.view = Camera.looking(**{key: getattr(self.view, key) for key in keys} | changes)

    def _on_FileTransferStart(self, message: Props) -> None:
        self._transfers[message["transfer_uuid"]] = (message, [])
        self._finish_download(message["transfer_uuid"])

    def _on_FileTransferPart(self, message: Props) -> None:
        """The page acknowledges nothing: the server just sends."""
        _, parts = self._transfers[message["transfer_uuid"]]
        if message["part"] != len(parts):
            self.errors.append(f"part {message['part']} of a file came where {len(parts)} was due")
        parts.append(message["content"])
        self._finish_download(message["transfer_uuid"])

    def _finish_download(self, transfer: str) -> None:
        start, parts = self._transfers[transfer]
        if sum(map(len, parts)) == start["size_bytes"]:
            self.downloads.append(Download(start["filename"], start["mime_type"], b"".join(parts)))
            del self._transfers[transfer]

    def _on_FileTransferPartAck(self, message: Props) -> None:
        transfer = message["transfer_uuid"]
        self._acks[transfer] = max(self._acks.get(transfer, 0), message["transferred_bytes"])


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
