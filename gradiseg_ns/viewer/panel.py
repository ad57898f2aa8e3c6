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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import viser
from nerfstudio.viewer.viewer_elements import ViewerControl

from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import Similarity
from gradiseg_ns.scene.objects import NO_OBJECT
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.terminal import say, warn
from gradiseg_ns.viewer.actions import Action, Actions, set_value
from gradiseg_ns.viewer.files_folder import FilesFolder
from gradiseg_ns.viewer.find_folder import FindFolder
from gradiseg_ns.viewer.gizmo import Gizmo
from gradiseg_ns.viewer.listing import ObjectRow
from gradiseg_ns.viewer.live_scene import SessionError
from gradiseg_ns.viewer.messages import FAULT, Messages, print_fault
from gradiseg_ns.viewer.nerfstudio import camera_of, give_back_memory, mend_viewer
from gradiseg_ns.viewer.new_object_folder import NewObjectFolder
from gradiseg_ns.viewer.object_list import ObjectList
from gradiseg_ns.viewer.session import Session
from gradiseg_ns.viewer.websocket import mend_viser, see_off

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel

_REFRESH = 8.0
"""Seconds between looks at a scene that is being trained."""
_WEIGHTS = 2.0
"""The slider goes from 10^-2 to 10^2."""
_NO_OBJECTS = (
    "This scene has no objects yet. Press *Object* in the folder *New object* and click one: "
    "the program asks the other views for it."
)


class Labelled(Protocol):
    """What the panel needs of a pipeline."""

    @property
    def model(self) -> GradisegModel:
        """Whose objects are edited."""
        ...

    @property
    def datamanager(self) -> Any:
        """Of the training views."""
        ...

    def label_gaussians(self) -> None:
        """Give every Gaussian its object."""
        ...


class GradisegPanel(ViewerControl):
    """What nerfstudio's viewer finds in a pipeline and sets up."""

    def __init__(self, pipeline: Labelled, folder: Path | None = None) -> None:
        """
        Args:
            pipeline: whose model is edited.
            folder: of the run, if it is known already; else that of the viewer's log.
        """
        self._pipeline = pipeline
        self._folder = folder
        self._connected: set[int] = set()
        self._rows: list[ObjectRow] = []
        self._new_object: NewObjectFolder | None = None
        self._find: FindFolder | None = None
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

        model = self._pipeline.model
        self._render_once()
        self.session = Session(
            lambda: self._pipeline.model,
            lambda: self._pipeline.datamanager.train_dataset.cameras,
            self._hold,
            self._folder or viewer.log_filename.parent,
            trains=viewer.trainer is not None,
        )
        self.messages = Messages(viewer.viser_server)
        self.actions = Actions(viewer, self.messages, self._refresh)
        if viewer.trainer is None and model._identity_on and not model.is_labelled:
            say("Looking which object each Gaussian shows ...")
            self._pipeline.label_gaussians()
        self._closed.clear()
        self._build(self.viser_server.gui, float(VISER_NERFSTUDIO_SCALE_RATIO))
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
                print_fault(error)

    def close(self) -> None:
        """Look no more after the scene: the viewer is gone."""
        self._closed.set()
        if self._new_object is not None and self._find is not None:
            self._new_object.close()
            self._find.close()
            self.actions.join()

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

    # ------------------------------------------------------------------- widgets

    def _build(self, gui: Any, ratio: float) -> None:
        """Make all widgets, once.

        Args:
            gui: viser's.
            ratio: units of viser's scene in a world unit.
        """
        act, buttons = self.session, self.actions.buttons
        with gui.add_folder("GradiSeg"):
            self._browsers = gui.add_text("Browsers", "", disabled=True, visible=False)
            self._hint = gui.add_markdown(_NO_OBJECTS, visible=False)
            self._selected = gui.add_text("Selected", "nothing", disabled=True)
            clicks = {
                "Pick": self._wait_for("pick"),
                "Add": self._wait_for("add"),
                "Box": self._wait_for("box"),
            }
            buttons(gui, "Select", clicks)
            buttons(gui, "Edit", {"Undo": self._undo, "Redo": self._redo, "Clear": lambda _: act.clear()})
            bare = not self._pipeline.model._identity_on
            if bare:  # everything begins with it
                self._build_new_object(gui, expanded=True)
            with gui.add_folder("Objects"):
                self._list = ObjectList(gui, self.actions, lambda id: act.select([id]))
                buttons(gui, "Hidden", {"Show": lambda _: act.show(), "Show all": lambda _: act.show_all()})
            with gui.add_folder("Words", expand_by_default=False):
                self._find = FindFolder(gui, self.actions, act, self._pipeline.model.device, self._list.rank)
            with gui.add_folder("Selection"):
                self._build_selection(gui)
            with gui.add_folder("Look", expand_by_default=False):
                self._build_look(gui)
            with gui.add_folder("Place", expand_by_default=False):
                self._gizmo = Gizmo(gui, self.viser_server.scene, self.actions, act, ratio)
                self._scale = gui.add_number("Scale by", 1.0, min=0.01, max=100.0, step=0.01)
                self.actions.button(gui, "Scale", self._scale_selection)
                self._into = gui.add_dropdown("Merge into", ("-",))
                self.actions.button(gui, "Merge", self._merge)
            if not bare:
                self._build_new_object(gui, expanded=False)
            with gui.add_folder("Files", expand_by_default=False):
                self._files = FilesFolder(gui, self.actions, act)

    def _build_new_object(self, gui: Any, *, expanded: bool) -> None:
        device = self._pipeline.model.device
        with gui.add_folder("New object", expand_by_default=expanded):
            self._new_object = NewObjectFolder(gui, self.viewer, self.actions, self.session, device)

    def _build_selection(self, gui: Any) -> None:
        act, buttons = self.session, self.actions.buttons
        buttons(gui, "See", {"Isolate": lambda _: act.isolate(), "Hide": lambda _: act.hide()})
        buttons(gui, "Change", {"Duplicate": lambda _: act.duplicate(), "Remove": lambda _: act.remove()})
        self._weight = gui.add_slider(
            "Tight / loose", -_WEIGHTS, _WEIGHTS, 0.1, 0.0,
            hint="log10 of w: keeps what has more than w times as many votes for the selection as against it",
        )  # fmt: skip
        self._weight.on_update(self.actions.callback(self._set_weight))
        self._parts = buttons(
            gui, "Parts", {"Coarser": lambda _: act.coarser(), "Finer": lambda _: act.finer()}
        )
        buttons(gui, "Border", {"Grow": lambda _: act.grow(1), "Shrink": lambda _: act.grow(-1)})
        self._box_takes = gui.add_dropdown("Box takes", ("objects", "Gaussians"))
        self.actions.button(gui, "Split off a part", self._wait_for("split"))

    def _build_look(self, gui: Any) -> None:
        self._color = gui.add_rgb("Color", (220, 40, 40))
        self._strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, 0.7)
        tints: dict[str, Action] = {"Tint": self._tint, "No tint": lambda _: self.session.tint(None)}
        self.actions.buttons(gui, "Tint", tints)
        self._name = gui.add_text("Name", "")
        self.actions.button(gui, "Rename", lambda _: self.session.rename(self._name.value))

    # -------------------------------------------------------------- clicks into the picture

    def _wait_for(self, mode: str) -> Action:
        """A callback that waits for one click, or box, in the browser it was called from."""
        text, act = {
            "pick": ("Click an object.", self._pick),
            "add": ("Click an object to add, or to take away.", self._add),
            "box": ("Draw a box.", self._box),
            "split": (
                "Click the part of the selected object that becomes an object of its own.",
                self._split,
            ),
        }[mode]

        def wait(event: Any) -> None:
            if event.client is not None:
                self.actions.next_click(event.client, "rect-select" if mode == "box" else "click", act)
                self.messages.tell(event.client, text)

        return wait

    def _pick(self, pointer: viser.ScenePointerEvent, *, extend: bool = False) -> None:
        camera = camera_of(self.viewer, pointer.client)
        if self.session.pick(camera, *pointer.screen_pos[0], extend=extend) is None:
            more = any(row.id == NO_OBJECT for row in self._rows)
            text = "No object is there. New object makes one of what you click."
            self.messages.tell(pointer.client, text if more else "Nothing is there.")

    def _add(self, pointer: viser.ScenePointerEvent) -> None:
        self._pick(pointer, extend=True)

    def _box(self, pointer: viser.ScenePointerEvent) -> None:
        (x0, y0), (x1, y1) = pointer.screen_pos
        camera = camera_of(self.viewer, pointer.client)
        self.session.box(camera, (x0, y0, x1, y1), whole=self._box_takes.value == "objects")

    def _split(self, pointer: viser.ScenePointerEvent) -> None:
        assert self._new_object is not None
        self.session.new_object.tolerance = self._new_object.tolerance
        self.session.split_off(camera_of(self.viewer, pointer.client), *pointer.screen_pos[0])
        self.session.make_object()

    # ------------------------------------------------------------------- buttons

    def _undo(self, event: Any) -> None:
        label = self.session.undo()
        self.messages.tell(event.client, f"Undone: {label}" if label else "There is nothing to undo.")

    def _redo(self, event: Any) -> None:
        label = self.session.redo()
        self.messages.tell(event.client, f"Done again: {label}" if label else "There is nothing to redo.")

    def _set_weight(self, event: Any) -> None:
        if self.session.selection and self.session.selector.needs_votes:
            self.messages.tell(event.client, "Taking votes in some views; the slider is live then.")
        self.session.selector.set_weight(10.0**self._weight.value)

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
                self.messages.tell(None, editing.errors.popleft(), FAULT, "red")
            if self._left.is_set():
                self._left.clear()
                give_back_memory()
            if not self._connected or time.monotonic() - self._refreshed[0] < _REFRESH:
                continue
            with contextlib.suppress(Exception), self.actions.lock:
                if self._pipeline.model._geometry_key != self._refreshed[1]:
                    self._refresh()

    def _refresh(self) -> None:
        """Bring all widgets up to date."""
        now = self.session.snapshot()
        self._rows = now.rows
        self._list.show(now.rows)
        set_value(self._selected, now.selected)
        if self.session.selector.weight == 1.0:
            set_value(self._weight, 0.0)
        objects = [row for row in now.rows if row.id != NO_OBJECT]
        self._hint.visible = not objects
        options = ("-", *(_option(row) for row in objects if not row.selected))
        if options != self._into.options:
            self._into.options = options
        self._parts.visible = now.parts
        self._gizmo.place(now.centre)
        if self._new_object is not None:
            self._new_object.refresh()
        self._refreshed = (time.monotonic(), now.geometry)


def _option(row: ObjectRow) -> str:
    return f"{row.id}  {row.name}"
