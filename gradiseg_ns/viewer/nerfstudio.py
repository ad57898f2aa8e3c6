"""Faults of nerfstudio 1.1.5's viewer, mended where the panel meets it.

It looks for the renderer of a browser after it was told which browsers there are: one that leaves in between ends a callback, or the
training. An error in a picture ends a renderer for good. Its renderers compute on while the process ends, which aborts it. What somebody
types as "Render name" becomes part of a path and of a command to copy.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from gradiseg_ns.formats.export import safe_name

_PATIENCE = 10.0
"""Seconds that the end of a viewer waits for pictures that are being rendered."""


class _Gone:
    """The renderer of a browser that is not there (any more)."""

    running = False

    def action(self, _: Any) -> None:
        pass


class Renderers(dict[int, Any]):
    """Renderers by browser. Who asks for one that left is given one that does nothing."""

    def __init__(self, known: Mapping[int, Any], failed: Callable[[Exception], None]) -> None:
        """
        Args:
            known: those that there are already.
            failed: is told of errors in pictures, by the renderer's thread.
        """
        super().__init__()
        self._failed = failed
        for id, machine in known.items():
            self[id] = machine

    def __setitem__(self, id: int, machine: Any) -> None:
        render = machine._render_img

        def guarded(*args: Any) -> Any:
            try:
                return render(*args)
            except IOChangeException:
                raise
            except Exception as error:
                self._failed(error)
                raise IOChangeException from error  # which it takes for a picture that was broken off

        machine._render_img = guarded
        machine.shows_edits = True
        super().__setitem__(id, machine)

    def __missing__(self, _: int) -> Any:
        return _Gone()

    def pop(self, id: int, default: Any = None) -> Any:
        machine = super().pop(id, default)
        if hasattr(machine, "interrupt_render_flag"):
            machine.interrupt_render_flag = True  # nobody waits for its picture
        return machine

    def end(self) -> None:
        """End all, and wait until none of them computes."""
        machines = list(self.values())
        for machine in machines:
            machine.running = False
            machine.interrupt_render_flag = True
        until = time.monotonic() + _PATIENCE
        for machine in machines:
            machine.join(timeout=max(0.0, until - time.monotonic()))


def mend_viewer(viewer: Any, close: Callable[[], None], failed: Callable[[Exception], None]) -> None:
    """Mend what this file tells of in one viewer.

    Args:
        viewer: nerfstudio's, while it is being made.
        close: called first when it ends.
        failed: is told of errors in pictures, by a renderer's thread.
    """
    renderers = viewer.render_statemachines = Renderers(viewer.render_statemachines, failed)
    server = viewer.viser_server
    stop = server.stop
    ended = threading.Event()

    def end() -> None:
        atexit.unregister(end)
        close()
        renderers.end()

    def stop_all() -> None:
        end()
        if not ended.is_set():  # viser cannot be told twice
            ended.set()
            stop()

    server.stop = stop_all
    atexit.register(end)
    keep_names(server.gui)


def camera_of(viewer: Any, client: Any) -> Cameras:
    """What a browser shows, at the resolution of a picture at rest."""
    state = viewer.get_camera_state(client)
    limit = viewer.control_panel.max_res
    height, width = limit, int(limit * state.aspect)
    if width > limit:
        height, width = int(limit / state.aspect), limit
    return get_camera(state, max(height, 1), max(width, 1))


def give_back_memory() -> None:
    """Return to the system what freed pictures leave. Each thread that renders or answers has a heap of its own, which keeps 10 to
    30 MB at its top: with some forty of them that looks like a leak."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc than glibc
            ctypes.CDLL(None).malloc_trim(0)


def keep_names(gui: Any) -> None:
    """Make the text fields of a viewer that become names of files, or parts of a command to copy, give nothing else.

    Args:
        gui: viser's, with nerfstudio's widgets.
    """
    for widget in list(gui._gui_input_handle_from_id.values()):
        clean = _FIELDS.get(getattr(widget._impl, "label", None))
        if clean is not None and isinstance(widget.value, str):
            widget.__class__ = _reading(type(widget), clean)


def _path(text: str) -> str:
    """Text as a folder in a command: nothing that a shell, or the page's markdown, takes for more than letters."""
    return re.sub(r"[^\w./:\\~ -]", "_", text.replace("\n", " ")).strip() or "exports"


_FIELDS: dict[Any, Callable[[str], str]] = {
    "Render name": lambda text: safe_name(text) or "render",
    "Output Directory": _path,
}
"""nerfstudio's fields, and what is read of them."""


def _reading(kind: type, clean: Callable[[str], str]) -> type:
    """A class of widgets like another, whose value is cleaned whenever it is read."""

    class Reading(kind):  # type: ignore[misc, valid-type]
        value = property(lambda self: clean(kind.value.fget(self)), kind.value.fset)  # type: ignore[attr-defined]

    return Reading
