"""What viser's web page shows, as the server's messages make it: widgets, notifications, scene, pictures and downloads.

It keeps what the page would, of the protocol of viser 0.2.7; `client` has the connection.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import viser.transforms as vtf
from PIL import Image

Props = dict[str, Any]


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
        """Its own flag; `Page.shown` looks at what it is in as well."""
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

    def moved(self, **changes: Any) -> Camera:
        """The camera with another position, look_at, up, fov or aspect."""
        keys = ("position", "look_at", "up", "fov", "aspect")
        return Camera.looking(**{key: getattr(self, key) for key in keys} | changes)

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """World from camera (3, 3)."""
        return vtf.SO3(self.wxyz).as_matrix()

    def ray(self, x: float, y: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Origin and unit direction through a point of the picture, (0, 0) top left to (1, 1) bottom right."""
        half = math.tan(self.fov / 2)
        direction = self.rotation @ np.array([(2 * x - 1) * half * self.aspect, (2 * y - 1) * half, 1.0])
        return tuple(self.position.tolist()), tuple((direction / np.linalg.norm(direction)).tolist())


class Page:
    """The state of the page. `handle` changes it; everything else reads it, from any thread."""

    def __init__(self) -> None:
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
        self.acknowledged: dict[str, int] = {}
        """Bytes of each upload that the server has, by the id that the client gave it."""
        self._picture: bytes | npt.NDArray[np.uint8] | None = None
        self._reset_scene()

    def widgets(self, container: str | None = None) -> list[Widget]:
        """The GUI's elements by their order; with `container`, those below what bears this label or id."""
        widgets = sorted(list(self._widgets.values()), key=lambda widget: widget.order)
        return [w for w in widgets if container is None or container in itertools.chain(*self.path(w))]

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
            f"{['/'.join(name for _, name in reversed(self.path(widget))) for widget in found]}"
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

    def describe(self) -> str:
        """The state of the page in a few lines."""
        lines = [f"modals {list(self.modals.values())}"] if self.modals else []
        lines += [
            f"pointer {self.pointer_enabled}, {self.picture_count} pictures, {len(self.downloads)} downloads"
        ]
        lines += [f"notified {(n.title, n.body)}" for n in self.notifications[-5:]]
        lines += [f"error: {error}" for error in self.errors]
        for widget in self.widgets():
            place = "/".join(name for _, name in reversed(self.path(widget)))
            value = (
                "" if widget.value is None or widget.type == "button" else f" = {str(widget.value)[:80]!r}"
            )
            lines.append(f"{place}: {widget}{value}")
        return "\n".join(lines)

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

    def path(self, widget: Widget) -> list[tuple[str, str]]:
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

    # Messages of the server

    def handle(self, message: Props) -> None:
        """Do what a message of the server says."""
        kind = message["type"]
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(message)
        elif kind.startswith("GuiAdd"):
            widget = self._widgets[message["id"]] = Widget(message)
            self._check(widget, message)
        elif kind.endswith("Message") and not kind.startswith("Set") and "name" in message:
            self.scene[message["name"]] = SceneNode(message["name"], kind.removesuffix("Message"), message)

    def update(self, widget: Widget, updates: Props) -> None:
        """Some properties of an element are others."""
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
        self.update(widget, message["updates"])
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
        self.view = self.view.moved(position=message["position"])

    def _on_SetCameraLookAtMessage(self, message: Props) -> None:
        self.view = self.view.moved(look_at=message["look_at"])

    def _on_SetCameraUpDirectionMessage(self, message: Props) -> None:
        self.view = self.view.moved(up=message["position"])

    def _on_SetCameraFovMessage(self, message: Props) -> None:
        self.view = self.view.moved(fov=message["fov"])

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
        self.acknowledged[transfer] = max(self.acknowledged.get(transfer, 0), message["transferred_bytes"])
