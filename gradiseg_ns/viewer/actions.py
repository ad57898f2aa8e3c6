"""How the panel's widgets act: one thing at a time, errors become messages, and then everything is drawn again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import viser
from nerfstudio.viewer.render_state_machine import RenderAction

from gradiseg_ns.viewer.messages import Messages

PICTURE_FIRST = 0.03
"""Seconds by which the widgets' update is delayed so that the picture, for which somebody waits, gets the model first."""

PATIENCE = 10.0
"""Seconds that the end of a viewer waits for what is done beside."""

Action = Callable[[Any], None]
"""Takes viser's event."""


class Actions:
    """Runs what people do in their browsers, and makes the buttons for it."""

    def __init__(self, viewer: Any, messages: Messages, refresh: Callable[[], None]) -> None:
        """
        Args:
            viewer: nerfstudio's.
            messages: to browsers.
            refresh: brings all widgets up to date.
        """
        self._viewer, self.messages, self._refresh = viewer, messages, refresh
        self.lock = threading.RLock()
        """Held while something is done."""
        self._threads: list[threading.Thread] = []

    def perform(self, action: Callable[[], None], client: Any = None, *, redraw: bool = True) -> None:
        """Do something alone. An error is told, and breaks nothing.

        Args:
            action: what is done.
            client: the browser that is told of errors; all if None.
            redraw: the scene looks different afterwards.
        """
        with self.lock:
            try:
                action()
            except Exception as error:
                self.messages.complain(error, client)
            try:
                if redraw:
                    self.redraw()
                    time.sleep(PICTURE_FIRST)
                self._refresh()
            except Exception as error:
                self.messages.complain(error, client)

    def callback(self, action: Action, *, redraw: bool = True) -> Action:
        """A callback for viser that performs an action."""

        def run(event: Any) -> None:
            if getattr(event, "client_id", 0) is not None:  # else we ourselves have set the widget
                self.perform(lambda: action(event), getattr(event, "client", None), redraw=redraw)

        return run

    def beside(self, work: Callable[[], None]) -> None:
        """Do something that takes long in a thread of its own. It takes care of its errors, and of an end that comes early."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, name="gradiseg-work", daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether something is done beside."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until nothing is done beside, but not for long: a thread that computes while the process ends would abort it."""
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=max(0.0, until - time.monotonic()))

    def redraw(self) -> None:
        """A new picture in all browsers, at once and at full size.

        nerfstudio's own way makes its renderer break off the picture that it is about to begin, and starts again a fifth of a second
        later with a coarse one.
        """
        clients = self._viewer.viser_server.get_clients()
        for id, machine in list(self._viewer.render_statemachines.items()):
            if id in clients:
                machine.action(RenderAction("step", self._viewer.get_camera_state(clients[id])))

    def button(self, gui: Any, label: str, action: Action, **look: Any) -> Any:
        """A button that performs an action."""
        handle = gui.add_button(label, **look)
        handle.on_click(self.callback(action))
        return handle

    def buttons(self, gui: Any, label: str, actions: dict[str, Action], *, redraw: bool = True) -> Any:
        """A row of buttons, each of which performs an action."""
        handle = gui.add_button_group(label, tuple(actions))
        handle._impl.is_button = True  # else viser 0.2 passes over a second press of the same button
        handle.on_click(self.callback(lambda event: actions[event.target.value](event), redraw=redraw))
        return handle

    def next_click(self, client: Any, kind: Any, action: Callable[[viser.ScenePointerEvent], None]) -> None:
        """Perform an action on the next click, or box ("rect-select"), that a browser makes into its picture."""

        @client.scene.on_pointer_event(kind)
        def _(pointer: viser.ScenePointerEvent) -> None:
            with contextlib.suppress(Exception):  # the browser may be gone
                client.scene.remove_pointer_callback()  # the mouse turns the camera again
            self.callback(action)(pointer)


def set_value(handle: Any, value: Any) -> None:
    """Give a widget a value, if it has another one."""
    if handle.value != value:
        handle.value = value
