"""The list of objects in the panel: a page of buttons in the objects' colours, a search, and what is told beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import viser
from viser import _icons
from viser._messages import GuiUpdateMessage

from gradiseg_ns.scene.objects import NO_OBJECT
from gradiseg_ns.viewer.actions import Actions, set_value
from gradiseg_ns.viewer.listing import ObjectRow

PAGE = 20
"""Objects on a page; search or turn the page for others. Widgets are made once: viser keeps what it ever sent."""


class ObjectList:
    """The widgets of the list."""

    def __init__(self, gui: Any, actions: Actions, select: Callable[[int], None]) -> None:
        """
        Args:
            gui: viser's, in the folder that the list belongs in.
            actions: of the panel.
            select: selects an object by its id.
        """
        self._gui, self._select = gui, select
        self._page = 0
        self._scores: Mapping[int, float] | None = None
        self._ids: list[int | None] = [None] * PAGE
        """What each button selects."""
        self._sent: dict[str, dict[str, Any]] = {}
        """Properties by the id of the button, as the browsers have them."""
        self._search = gui.add_text("Search", "", hint="Part of a name, or an id")
        self._search.on_update(actions.callback(lambda _: self._turn(0), redraw=False))
        self._buttons = [self._button(actions, index) for index in range(PAGE)]
        self._count = gui.add_text("Listed", "", disabled=True)
        turns: dict[str, Callable[[Any], None]] = {
            "Back": lambda _: self._turn(-1),
            "Next": lambda _: self._turn(1),
        }
        self._pager = actions.buttons(gui, "Page", turns, redraw=False)

    def rank(self, scores: Mapping[int, float] | None) -> None:
        """From the next time on, list the objects with scores, 0 to 1, the best first; None: all."""
        self._scores, self._page = scores, 0

    def show(self, rows: Sequence[ObjectRow]) -> None:
        """List these objects."""
        wanted = self._search.value.strip().lower()
        found = [r for r in rows if not wanted or wanted in r.name.lower() or wanted == str(r.id)]
        scores = self._scores
        if scores is not None:
            found = sorted((r for r in found if r.id in scores), key=lambda r: -scores[r.id])
        pages = max(1, -(-len(found) // PAGE))
        self._page = min(self._page, pages - 1)
        page = found[self._page * PAGE : (self._page + 1) * PAGE]
        for index, button in enumerate(self._buttons):
            row = page[index] if index < len(page) else None
            self._ids[index] = None if row is None else row.id
            if row is not None:
                sure = "" if row.confidence is None else f", {row.confidence:.0%}"
                mark = " \N{BLACK LEFT-POINTING TRIANGLE}" if row.selected else ""
                icon = viser.Icon.EYE_OFF if row.hidden else viser.Icon.EYE
                score = "" if scores is None else f"{scores[row.id]:.0%}  "
                number = "" if row.id == NO_OBJECT else f"{row.id}  "
                label = f"{score}{number}{row.name}: {row.gaussians:,}{sure}{mark}"
                self._update(button, label=label, color=_hex(row.color), icon_html=_icons.svg_from_icon(icon))
            button.visible = row is not None
        total = sum(row.gaussians for row in rows)
        shown, known = (sum(row.id != NO_OBJECT for row in some) for some in (found, rows))
        set_value(self._count, f"{shown} of {known} objects, {total:,} Gaussians")
        self._pager.visible = pages > 1

    def _button(self, actions: Actions, index: int) -> Any:
        def press(_: Any) -> None:
            id = self._ids[index]
            if id is not None:
                self._select(id)

        return actions.button(self._gui, f"({index})", press, visible=False, icon=viser.Icon.EYE)

    def _turn(self, by: int) -> None:
        """Go to another page; by 0 to the first."""
        self._page = max(0, self._page + by) if by else 0

    def _update(self, button: Any, **properties: Any) -> None:
        """Properties for which viser 0.2 has no setter; sent when they change."""
        id = button._impl.id
        known = self._sent.setdefault(id, {})
        for name, value in properties.items():
            if known.get(name) != value:
                known[name] = value
                self._gui._websock_interface.queue_message(GuiUpdateMessage(id, {name: value}))


def _hex(color: tuple[float, float, float]) -> str:
    """A colour as the web page wants it: a tuple, which viser's signature allows too, would leave the page blank."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in color)
