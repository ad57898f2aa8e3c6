"""The folder "GradiSeg" in nerfstudio's viewer.

Selection, edits and widgets are shared by all browsers that look at a scene; a click is taken with the camera of the browser it was made
in, and so are messages and downloads. Native widgets of viser, not nerfstudio's viewer elements: those run their callbacks under the lock
of the training, for which they starve on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import viser
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer.viewer_elements import ViewerControl
from viser._icons import svg_from_icon
from viser._messages import GuiUpdateMessage

from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import Similarity
from gradiseg_ns.scene.rotations import multiply_quaternions
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import parse_json
from gradiseg_ns.tools.terminal import say, warn
from gradiseg_ns.viewer.nerfstudio import give_back_memory, mend_viewer
from gradiseg_ns.viewer.session import ObjectRow, Session, SessionError
from gradiseg_ns.viewer.websocket import mend_viser, see_off

if TYPE_CHECKING:
    from gradiseg_ns.pipeline import GradisegPipeline

ROWS = 20
"""Objects shown at once; search or turn the page for others. Widgets are made once: viser keeps what it ever sent."""
_REFRESH = 8.0
"""Seconds between looks at a scene that is being trained."""
_PICTURE_FIRST = 0.03
"""Seconds that the list waits so that the picture, for which somebody waits, gets the model first."""
_WEIGHTS = 2.0
"""The slider goes from 10^-2 to 10^2."""
_MAX_UPLOAD = 64 << 20
_GIZMO = "/gradiseg_gizmo"
_FAULT = "An error in GradiSeg"


class GradisegPanel(ViewerControl):
    """What nerfstudio's viewer finds in a pipeline and sets up."""

    def __init__(self, pipeline: GradisegPipeline, folder: Path | None = None) -> None:
        """
        Args:
            pipeline: whose model is edited.
            folder: of the run, if it is known already; else that of the viewer's log.
        """
        self._pipeline = pipeline
        self._folder = folder
        self._acting = threading.RLock()
        self._connected: set[int] = set()
        self._rows: list[ObjectRow] = []
        self._page = 0
        self._shown: list[int | None] = [None] * ROWS
        self._sent: dict[str, dict[str, Any]] = {}
        self._gizmo_start: tuple[np.ndarray, np.ndarray] | None = None
        self._gizmo_left: tuple[np.ndarray, np.ndarray] | None = None
        self._drag_waits = False
        self._closed, self._left = threading.Event(), threading.Event()
        self._refreshed: tuple[float, Any] = (0.0, None)
        self._failures: set[str] = set()
        mend_viser()  # before the first browser comes

    # ------------------------------------------------------------------- set-up

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        see_off(viewer.viser_server)
        mend_viewer(viewer, self.close, self._picture_failed)
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self._ratio = float(VISER_NERFSTUDIO_SCALE_RATIO)
        model = self._pipeline.model
        self._render_once()
        self.session = Session(
            lambda: self._pipeline.model,
            lambda: self._pipeline.datamanager.train_dataset.cameras,
            self._hold,
            self._folder or viewer.log_filename.parent,
        )
        if not model._identity_on:
            with self.viser_server.gui.add_folder("GradiSeg"):
                self.viser_server.gui.add_markdown(
                    "This scene has no objects: it was trained without id maps."
                )
            return
        if viewer.trainer is None and not model.is_labelled:
            say("Looking which object each Gaussian shows ...")
            self._pipeline.label_gaussians()
        self._closed.clear()
        self._build(self.viser_server.gui)
        self.viser_server.on_client_connect(lambda client: self._count(client, 1))
        self.viser_server.on_client_disconnect(lambda client: self._count(client, -1))
        try:
            self._refresh()
        except GradisegError as error:  # the saved edits make too much
            warn(f"The edits are left out: {error}")
            model.editing.edits = EditList()
            self._refresh()
        threading.Thread(target=self._watch, name="gradiseg-panel", daemon=True).start()

    def _render_once(self) -> None:
        """Import and compile what a picture needs. nerfstudio breaks pictures off at any line of Python, also in the middle of an
        import, which then stays undone."""
        model = self._pipeline.model
        camera = copy.deepcopy(self._pipeline.datamanager.train_dataset.cameras[0:1])
        camera.rescale_output_resolution(32 / int(camera.height.max()))
        training = model.training
        model.eval()
        with contextlib.suppress(Exception), torch.no_grad():  # a browser is told what is wrong
            model.get_outputs_for_camera(camera.to(model.device))
        model.train(training)

    def _picture_failed(self, error: Exception) -> None:
        """In a renderer's thread. Told once for each kind of error: the next picture may be due in a moment."""
        text = f"no picture: {type(error).__name__}: {error}"
        if text not in self._failures:
            self._failures.add(text)
            self._pipeline.model.editing.errors.append(text)
            if not isinstance(error, GradisegError):
                self._print_fault()

    def close(self) -> None:
        """Look no more after the scene: the viewer is gone."""
        self._closed.set()

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        """Holds the training off.

        It takes its lock again as soon as it has given it back. While something moves in the viewer it pauses outside of it, so that
        is what it is told.
        """
        lock = self.viewer.train_lock
        if lock is None:
            yield
            return
        while not lock.acquire(timeout=0.02):
            self.viewer.last_move_time = time.time()  # type: ignore[assignment]
        try:
            yield
        finally:
            self.viewer.last_move_time = time.time()  # type: ignore[assignment] # the picture comes before the next step
            lock.release()

    def _build(self, gui: Any) -> None:
        with gui.add_folder("GradiSeg"):
            self._browsers = gui.add_text("Browsers", "", disabled=True, visible=False)
            self._status = gui.add_text("Selected", "nothing", disabled=True)
            self._buttons(gui, "Select", {"Pick": self._start("pick"), "Add": self._start("add"), "Box": self._start("box")})  # fmt: skip
            self._buttons(
                gui, "Edit", {"Undo": self._undo, "Redo": self._redo, "Clear": lambda _: self.session.clear()}
            )
            with gui.add_folder("Objects"):
                self._search = gui.add_text("Search", "", hint="Part of a name, or an id")
                self._search.on_update(self._guard(self._turn(0), act=False))
                self._list = [self._row(gui, index) for index in range(ROWS)]
                self._more = gui.add_text("Listed", "", disabled=True)
                self._pager = self._buttons(
                    gui, "Page", {"Back": self._turn(-1), "Next": self._turn(1)}, act=False
                )
                act = self.session
                self._buttons(
                    gui, "Hidden", {"Show": lambda _: act.show(), "Show all": lambda _: act.show_all()}
                )
            with gui.add_folder("Selection"):
                self._buttons(gui, "See", {"Isolate": lambda _: act.isolate(), "Hide": lambda _: act.hide()})
                self._buttons(
                    gui, "Change", {"Duplicate": lambda _: act.duplicate(), "Remove": lambda _: act.remove()}
                )
                self._weight = gui.add_slider(
                    "Tight / loose", -_WEIGHTS, _WEIGHTS, 0.1, 0.0,
                    hint="log10 of w: keeps what has more than w times as many votes for the selection as against it",
                )  # fmt: skip
                self._weight.on_update(self._guard(self._set_weight))
                self._buttons(
                    gui, "Border", {"Grow": lambda _: act.grow(1), "Shrink": lambda _: act.grow(-1)}
                )
                self._box_takes = gui.add_dropdown("Box takes", ("objects", "Gaussians"))
                self._button(gui, "Split off a part", self._start("split"))
            with gui.add_folder("Look", expand_by_default=False):
                self._color = gui.add_rgb("Color", (220, 40, 40))
                self._strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, 0.7)
                self._buttons(gui, "Tint", {"Tint": self._tint, "No tint": lambda _: act.tint(None)})
                self._name = gui.add_text("Name", "")
                self._button(gui, "Rename", lambda _: act.rename(self._name.value))
            with gui.add_folder("Place", expand_by_default=False):
                self._gizmo_on = gui.add_checkbox("Move and turn", False, hint="A gizmo at the selection")
                self._gizmo_on.on_update(self._guard(self._toggle_gizmo, act=False))
                self._scale = gui.add_number("Scale by", 1.0, min=0.01, max=100.0, step=0.01)
                self._button(gui, "Scale", self._scale_selection)
                self._into = gui.add_dropdown("Merge into", ("-",))
                self._button(gui, "Merge", self._merge)
            with gui.add_folder("New object", expand_by_default=False):
                self._clicks = gui.add_text("Clicks", "none", disabled=True)
                self._buttons(
                    gui, "Click on", {"Object": self._start("inside"), "Not this": self._start("outside")}
                )
                self._tolerance = gui.add_slider("Tolerance", 0.0, 1.0, 0.05, 0.5)
                self._sam = gui.add_text(
                    "SAM model", "", hint="Hub name or folder of a SAM model; without, a magic wand"
                )
                self._new_name = gui.add_text("Called", "")
                self._button(gui, "Make object", self._make)
            with gui.add_folder("Files", expand_by_default=False):
                self._buttons(gui, "Edits", {"Save": self._save, "Load": self._load})
                upload = gui.add_upload_button("Load edits from a file")
                upload.on_upload(self._guard(self._uploaded))
                self._what = gui.add_dropdown("Export", ("selection", "everything"))
                self._files = gui.add_dropdown("As", ("one file", "a file per object"))
                self._format = gui.add_dropdown("Format", ("ply", "compressed-ply", "spz"))
                self._button(gui, "Download", self._download)
        self._gizmo = self.viser_server.scene.add_transform_controls(
            _GIZMO, scale=0.15 * self._ratio, depth_test=False, visible=False
        )
        self._gizmo.on_update(lambda _: self._dragged())

    def _button(self, gui: Any, label: str, action: Callable[[Any], None]) -> Any:
        handle = gui.add_button(label)
        handle.on_click(self._guard(action))
        return handle

    def _buttons(
        self, gui: Any, label: str, actions: dict[str, Callable[[Any], None]], act: bool = True
    ) -> Any:
        handle = gui.add_button_group(label, tuple(actions))
        handle._impl.is_button = True  # else viser 0.2 passes over a second press of the same button
        handle.on_click(self._guard(lambda event: actions[event.target.value](event), act=act))
        return handle

    def _row(self, gui: Any, index: int) -> Any:
        """A button that selects an object, in its colour: the list is the legend."""
        handle = gui.add_button(f"({index})", visible=False, icon=viser.Icon.EYE)
        handle.on_click(self._guard(lambda _: self._pick_row(index)))
        return handle

    # ----------------------------------------------------------------- callbacks

    def _guard(self, action: Callable[[Any], None], *, act: bool = True) -> Callable[[Any], None]:
        """A callback that cannot break the viewer, runs alone, and after which everything is drawn again.

        Args:
            act: the scene looks different afterwards.
        """

        def run(event: Any) -> None:
            if getattr(event, "client_id", 0) is None:  # we ourselves have set the widget
                return
            client = getattr(event, "client", None)
            with self._acting:
                try:
                    action(event)
                except Exception as error:
                    self._complain(error, client)
                try:
                    if act:
                        self._redraw()
                        time.sleep(_PICTURE_FIRST)
                    self._refresh()
                except Exception as error:
                    self._complain(error, client)

        return run

    def _redraw(self) -> None:
        """A new picture in all browsers, at once and at full size.

        nerfstudio's own way makes its renderer break off the picture that it is about to begin, and starts again a fifth of a second
        later with a coarse one.
        """
        clients = self.viser_server.get_clients()
        for id, machine in list(self.viewer.render_statemachines.items()):
            if id in clients:
                machine.action(RenderAction("step", self.viewer.get_camera_state(clients[id])))

    def _complain(self, error: Exception, client: Any) -> None:
        """Say in a browser what went wrong. What the user cannot mend is a fault of the program: its traceback goes to the terminal."""
        if isinstance(error, GradisegError):
            self._tell(client, str(error), "Not done", "red")
            return
        text = f"{type(error).__name__}: {error}"
        self._tell(client, f"{text[:300]}. This is a fault of the program; see the terminal.", _FAULT, "red")
        self._print_fault()

    def _print_fault(self) -> None:
        """The exception that is being handled, on the terminal."""
        say(traceback.format_exc(), title="GradiSeg's panel:", style="bold red")

    def _tell(self, client: Any, body: str, title: str = "GradiSeg", color: Any = None) -> None:
        """A message in one browser, or in all."""
        clients = [client] if client is not None else list(self.viser_server.get_clients().values())
        for each in clients:
            with contextlib.suppress(Exception):  # it may be gone
                each.add_notification(title, body[:500], auto_close=6000, color=color)

    def _start(self, mode: str) -> Callable[[Any], None]:
        """A callback that waits for one click, or box, in the browser it was called from."""
        texts = {
            "pick": "Click an object.", "add": "Click an object to add, or to take away.", "box": "Draw a box.",
            "split": "Click the part of the selected object that becomes an object of its own.",
            "inside": "Click the new object; then again from other sides.",
            "outside": "Click what does not belong to the new object.",
        }  # fmt: skip

        def start(event: Any) -> None:
            client = event.client
            if client is None:
                return
            if mode in ("inside", "outside"):
                self._load_prompt_model()
            if mode == "inside" and not self.session.views:
                self.session.clear()

            @client.scene.on_pointer_event("rect-select" if mode == "box" else "click")
            def _(pointer: viser.ScenePointerEvent) -> None:
                with contextlib.suppress(Exception):
                    client.scene.remove_pointer_callback()  # the mouse turns the camera again
                self._guard(lambda e: self._pointed(mode, e))(pointer)

            self._tell(client, texts[mode])

        return start

    def _camera_of(self, client: Any) -> Cameras:
        """What a browser shows, at the resolution of a picture at rest."""
        state = self.viewer.get_camera_state(client)
        limit = self.viewer.control_panel.max_res
        height, width = limit, int(limit * state.aspect)
        if width > limit:
            height, width = int(limit / state.aspect), limit
        return get_camera(state, max(height, 1), max(width, 1))

    def _pointed(self, mode: str, event: viser.ScenePointerEvent) -> None:
        camera = self._camera_of(event.client)
        session = self.session
        x, y = event.screen_pos[0]
        if mode == "box":
            session.box(camera, (x, y, *event.screen_pos[1]), whole=self._box_takes.value == "objects")
        elif mode == "split":
            session.split_off(camera, x, y)
            session.make_object()
        elif mode in ("inside", "outside"):
            session.tolerance = self._tolerance.value
            session.click_new(camera, x, y, outside=mode == "outside")
        elif session.pick(camera, x, y, extend=mode == "add") is None:
            self._tell(event.client, "Nothing is there.")

    def _pick_row(self, index: int) -> None:
        id = self._shown[index]
        if id is not None:
            self.session.select([id])

    def _turn(self, by: int) -> Callable[[Any], None]:
        def turn(_: Any) -> None:
            self._page = max(0, self._page + by) if by else 0

        return turn

    def _undo(self, event: Any) -> None:
        label = self.session.undo()
        self._tell(event.client, f"Undone: {label}" if label else "There is nothing to undo.")

    def _redo(self, event: Any) -> None:
        label = self.session.redo()
        self._tell(event.client, f"Done again: {label}" if label else "There is nothing to redo.")

    def _set_weight(self, event: Any) -> None:
        if self.session.selection and self.session.needs_votes:
            self._tell(event.client, "Taking votes in some views; the slider is live then.")
        self.session.set_weight(10.0**self._weight.value)

    def _tint(self, _: Any) -> None:
        self.session.tint([c / 255 for c in self._color.value], self._strength.value)

    def _merge(self, _: Any) -> None:
        text = self._into.value
        found = next((row.id for row in self._rows if _option(row) == text), None)
        if found is None:
            raise SessionError("choose the object that the selection becomes part of.")
        self.session.merge(found)

    def _scale_selection(self, _: Any) -> None:
        centre = self.session.centre()
        if centre is None:
            raise SessionError("nothing is selected: pick an object first.")
        self.session.move(Similarity(scale=float(self._scale.value), pivot=centre))

    def _make(self, _: Any) -> None:
        self.session.make_object(self._new_name.value)
        self._new_name.value = ""

    def _load_prompt_model(self) -> None:
        """The SAM model that is named, if one is."""
        source = self._sam.value.strip()
        if not source:
            self.session.prompt_model = None
        elif self.session.prompt_model is None or self._sent.get("sam") != {"source": source}:
            from gradiseg_ns.masks.sam import PromptModel

            self.session.prompt_model = None
            self.session.prompt_model = PromptModel.load(source, device=str(self._pipeline.model.device))
            self._sent["sam"] = {"source": source}

    def _save(self, event: Any) -> None:
        path, added = self.session.save()
        text = f"{len(self.session.edits.steps)} edits saved: {path}"
        if added:
            text += f". {len(added)} of them another program had added: {', '.join(added[:3])}{', ...' if len(added) > 3 else ''}"
        self._tell(event.client, text)

    def _load(self, event: Any) -> None:
        self._tell(event.client, f"{self.session.load()} edits loaded.")

    def _uploaded(self, event: Any) -> None:
        file = event.target.value
        if len(file.content) > _MAX_UPLOAD:
            raise SessionError(f"the file has {len(file.content)} bytes, expected {_MAX_UPLOAD} at most.")
        try:
            data = parse_json(file.content)
        except ValueError as error:
            raise SessionError(f"the file is not JSON: {error}") from error
        self._tell(event.client, f"{self.session.load(data, 'the file')} edits loaded.")

    def _download(self, event: Any) -> None:
        selected = self._what.value == "selection"
        names = self.session.names()
        stem = "_".join(names.get(i, "") for i in self.session.selection.ids[:3]) if selected else "scene"
        name, data, count = self.session.export(
            "selection" if selected else "everything",
            separate=self._files.value != "one file", format=self._format.value, stem=stem,
        )  # fmt: skip
        event.client.send_file_download(name, data)
        self._tell(event.client, f"{name}: {count:,} Gaussians, {len(data) / 1e6:.1f} MB")

    # --------------------------------------------------------------------- gizmo

    def _toggle_gizmo(self, _: Any) -> None:
        if self._gizmo_on.value and not self.session.selection:
            self._gizmo_on.value = False
            raise SessionError("nothing is selected: pick an object first.")

    def _place_gizmo(self, centre: tuple[float, float, float] | None) -> None:
        """Where the selection is, world units; hidden without one. While it is dragged it stays where the mouse has it."""
        if centre is None or not self._gizmo_on.value:
            self._gizmo.visible = False
            self._gizmo_start = None
            return
        if self.session.dragging and self._gizmo.visible:
            return
        position, upright = np.asarray(centre) * self._ratio, np.array([1.0, 0.0, 0.0, 0.0])
        if not np.allclose(self._gizmo.position, position, atol=1e-6):
            self._gizmo.position = position
        if not np.allclose(self._gizmo.wxyz, upright):
            self._gizmo.wxyz = upright
        self._gizmo_start, self._gizmo_left = (position, upright), None
        self._gizmo.visible = True

    def _dragged(self) -> None:
        """The gizmo was moved: of many such calls in a row, the last one counts."""
        if self._drag_waits:
            return
        self._drag_waits = True
        with self._acting:
            self._drag_waits = False
            start = self._gizmo_start
            if start is None or not self._gizmo.visible:
                return
            try:
                position, wxyz = np.asarray(self._gizmo.position), np.asarray(self._gizmo.wxyz)
                if not self.session.dragging:  # taken up anew, where it was left
                    start = self._gizmo_start = self._gizmo_left or start
                shift = (position - start[0]) / self._ratio
                self.session.drag(
                    Similarity(_turned(start[1], wxyz), tuple(shift.tolist()), 1.0, tuple((start[0] / self._ratio).tolist()))
                )  # fmt: skip
                self._gizmo_left = (position, wxyz)
                self._redraw()
            except Exception as error:
                self._complain(error, None)

    # ------------------------------------------------------------------- refresh

    def _count(self, client: Any, change: int) -> None:
        """A browser came or went. viser holds a lock meanwhile, so it must not be asked for its clients here."""
        (self._connected.add if change > 0 else self._connected.discard)(client.client_id)
        if change < 0:
            self._left.set()
        count = len(self._connected)
        self._browsers.value = f"{count}: selection and edits are shared"
        self._browsers.visible = count > 1

    def _watch(self) -> None:
        """Tells of errors that happened while drawing, and follows a training."""
        while not self._closed.wait(0.5):
            editing = self.session.editing
            while editing.errors:
                self._tell(None, editing.errors.popleft(), _FAULT, "red")
            if self._left.is_set():
                self._left.clear()
                give_back_memory()
            if not self._connected or time.monotonic() - self._refreshed[0] < _REFRESH:
                continue
            with contextlib.suppress(Exception), self._acting:
                if self._pipeline.model._geometry_key != self._refreshed[1]:
                    self._refresh()

    def _refresh(self) -> None:
        """Bring all widgets up to date."""
        session, now = self.session, self.session.snapshot()
        self._rows = now.rows
        wanted = self._search.value.strip().lower()
        listed = [r for r in self._rows if not wanted or wanted in r.name.lower() or wanted == str(r.id)]
        pages = max(1, -(-len(listed) // ROWS))
        self._page = min(self._page, pages - 1)
        page = listed[self._page * ROWS : (self._page + 1) * ROWS]
        for index, button in enumerate(self._list):
            row = page[index] if index < len(page) else None
            self._shown[index] = None if row is None else row.id
            if row is not None:
                sure = "" if row.confidence is None else f", {row.confidence:.0%}"
                mark = " \N{BLACK LEFT-POINTING TRIANGLE}" if row.selected else ""
                icon = viser.Icon.EYE_OFF if row.hidden else viser.Icon.EYE
                label = f"{row.id}  {row.name}: {row.gaussians:,}{sure}{mark}"
                self._set(button, label=label, color=_hex(row.color), icon_html=_svg(icon))
            button.visible = row is not None
        total = sum(row.gaussians for row in self._rows)
        self._set_value(self._more, f"{len(listed)} of {len(self._rows)} objects, {total:,} Gaussians")
        self._pager.visible = pages > 1
        self._set_value(self._status, now.selected)
        if session.weight == 1.0 and self._weight.value != 0.0:
            self._set_value(self._weight, 0.0)
        count = sum(len(v.inside) + len(v.outside) for v in session.views)
        self._set_value(self._clicks, f"{count} in {len(session.views)} views" if count else "none")
        options = ("-", *(_option(row) for row in self._rows if not row.selected))
        if options != self._into.options:
            self._into.options = options
        self._place_gizmo(now.centre)
        self._refreshed = (time.monotonic(), now.geometry)

    def _set(self, handle: Any, **props: Any) -> None:
        """Properties of a widget for which viser 0.2 has no setter; sent when they change."""
        id = handle._impl.id
        known = self._sent.setdefault(id, {})
        for name, value in props.items():
            if known.get(name) != value:
                known[name] = value
                self.viser_server.gui._websock_interface.queue_message(GuiUpdateMessage(id, {name: value}))

    @staticmethod
    def _set_value(handle: Any, value: Any) -> None:
        if handle.value != value:
            handle.value = value


def _option(row: ObjectRow) -> str:
    return f"{row.id}  {row.name}"


def _hex(color: tuple[float, float, float]) -> str:
    """A colour as the web page wants it: a tuple, which viser's signature allows too, would leave the page blank."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in color)


@lru_cache
def _svg(icon: Any) -> str:
    return svg_from_icon(icon)


def _turned(start: np.ndarray, end: np.ndarray) -> tuple[float, float, float, float]:
    """The rotation from one orientation to another, w x y z each."""
    back = torch.from_numpy(start * np.array([1.0, -1.0, -1.0, -1.0]))
    w, x, y, z = multiply_quaternions(torch.from_numpy(end), back).tolist()
    return w, x, y, z
