"""The gizmo at the selection: dragging it moves and turns what is selected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradiseg_ns.editing.edits import Similarity
from gradiseg_ns.scene.rotations import multiply_quaternions
from gradiseg_ns.viewer.actions import Actions
from gradiseg_ns.viewer.live_scene import SessionError
from gradiseg_ns.viewer.session import Session

NAME = "/gradiseg_gizmo"


class Gizmo:
    """The gizmo and the checkbox that shows it."""

    def __init__(self, gui: Any, scene: Any, actions: Actions, session: Session, ratio: float) -> None:
        """
        Args:
            gui, scene: viser's.
            actions: of the panel.
            session: what is moved.
            ratio: units of viser's scene in a world unit.
        """
        self._actions, self._session, self._ratio = actions, session, ratio
        self._on = gui.add_checkbox("Move and turn", False, hint="A gizmo at the selection")
        self._on.on_update(actions.callback(lambda _: self._switched(), redraw=False))
        self._handle = scene.add_transform_controls(NAME, scale=0.15 * ratio, depth_test=False, visible=False)
        self._handle.on_update(lambda _: self._dragged())
        self._begun: tuple[np.ndarray, np.ndarray] | None = None
        """Position and orientation at the beginning of the drag; None while it is not shown."""
        self._left: tuple[np.ndarray, np.ndarray] | None = None
        """Where the last drag left it."""
        self._drag_waits = False

    def place(self, centre: tuple[float, float, float] | None) -> None:
        """Put it where the selection is, world units; hide it without one. While it is dragged it stays where the mouse has it."""
        if centre is None or not self._on.value:
            self._handle.visible = False
            self._begun = None
            return
        if self._session.dragging and self._handle.visible:
            return
        position, upright = np.asarray(centre) * self._ratio, np.array([1.0, 0.0, 0.0, 0.0])
        if not np.allclose(self._handle.position, position, atol=1e-6):
            self._handle.position = position
        if not np.allclose(self._handle.wxyz, upright):
            self._handle.wxyz = upright
        self._begun, self._left = (position, upright), None
        self._handle.visible = True

    def _switched(self) -> None:
        if self._on.value and not self._session.selection:
            self._on.value = False
            raise SessionError("nothing is selected: pick an object first.")

    def _dragged(self) -> None:
        """The gizmo was moved: of many such calls in a row, the last one counts."""
        if self._drag_waits:
            return
        self._drag_waits = True
        with self._actions.lock:
            self._drag_waits = False
            begun = self._begun
            if begun is None or not self._handle.visible:
                return
            try:
                position, wxyz = np.asarray(self._handle.position), np.asarray(self._handle.wxyz)
                if not self._session.dragging:  # taken up anew, where it was left
                    begun = self._begun = self._left or begun
                shift = (position - begun[0]) / self._ratio
                pivot = begun[0] / self._ratio
                self._session.drag(
                    Similarity(
                        turn_between(begun[1], wxyz), tuple(shift.tolist()), 1.0, tuple(pivot.tolist())
                    )
                )
                self._left = (position, wxyz)
                self._actions.redraw()
            except Exception as error:
                self._actions.messages.complain(error, None)


def turn_between(start: np.ndarray, end: np.ndarray) -> tuple[float, float, float, float]:
    """The rotation from one orientation to another, w x y z each."""
    back = torch.from_numpy(start * np.array([1.0, -1.0, -1.0, -1.0]))
    w, x, y, z = multiply_quaternions(torch.from_numpy(end), back).tolist()
    return w, x, y, z
