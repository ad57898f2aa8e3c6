"""The folder "New object" of the panel: its widgets, and the search that goes on while the panel does other things."""

from __future__ import annotations

from typing import Any

import torch
import viser

from gradiseg_ns.masks import PromptMaker
from gradiseg_ns.viewer.actions import Action, Actions, set_value
from gradiseg_ns.viewer.live_scene import SessionError
from gradiseg_ns.viewer.named_model import NamedModel
from gradiseg_ns.viewer.nerfstudio import camera_of
from gradiseg_ns.viewer.search import Search, SearchEnded
from gradiseg_ns.viewer.session import Session


class NewObjectFolder:
    """Clicks on an object that has no id yet."""

    def __init__(
        self, gui: Any, viewer: Any, actions: Actions, session: Session, device: torch.device | str
    ) -> None:
        """
        Args:
            gui: viser's, in the folder.
            viewer: nerfstudio's.
            actions: of the panel.
            session: whose `new_object` is clicked.
            device: where a model that makes masks goes.
        """
        self._viewer, self._actions, self._session = viewer, actions, session
        self._makers = NamedModel(lambda name: load_maker(name, device))
        self._outcome = ""
        self._clicks = gui.add_text("Clicks", "none", disabled=True)
        clicks = {"Object": self._start(outside=False), "Not this": self._start(outside=True)}
        actions.buttons(gui, "Click on", clicks)
        sizes = {"Larger": self._resize(larger=True), "Smaller": self._resize(larger=False)}
        actions.buttons(gui, "It is", sizes)
        self._asks = gui.add_checkbox(
            "Ask other views",
            True,
            hint="After a click, look for the object in the views of the photos as well",
        )
        self._tolerance = gui.add_slider("Tolerance", 0.0, 1.0, 0.05, 0.5)
        self._sam = gui.add_text(
            "SAM model", "", hint="Hub name or folder of a SAM model; without, a magic wand"
        )
        self._called = gui.add_text("Called", "")
        actions.button(gui, "Make object", lambda _: self._make())

    def refresh(self) -> None:
        """Say how far it is."""
        set_value(self._clicks, self._words())

    def close(self) -> None:
        """End the search."""
        self._session.new_object.close()

    @property
    def tolerance(self) -> float:
        """Of the wand, 0 to 1."""
        return float(self._tolerance.value)

    def _words(self) -> str:
        new, search = self._session.new_object, self._session.new_object.running
        if not new.count:
            self._outcome = ""
            return "none"
        text = _counted(new.count, "click")  # the field is narrow: what changes comes first
        if len(new.views) > 1:
            text += f" in {len(new.views)} views"
        if search is None:
            return f"{self._outcome}; {text}" if self._outcome else text
        return f"{search.asked} of {search.most} views; {text}" if search.most else f"looking around; {text}"

    # -------------------------------------------------------------------- clicks

    def _start(self, *, outside: bool) -> Action:
        """A callback that waits for a click in the browser that it was called from, once the model that makes masks is there."""

        def start(event: Any) -> None:
            client, name = event.client, self._sam.value.strip()
            if client is None:
                return
            if name and self._makers.loaded(name) is None:
                self._actions.messages.tell(client, f"Loading {name} ...")
                self._actions.beside(lambda: self._load(name, client, outside))
            else:
                self._listen(client, name, outside)

        return start

    def _load(self, name: str, client: Any, outside: bool) -> None:
        try:
            self._makers.load(name)
        except Exception as error:
            self._actions.messages.complain(error, client)
        else:
            self._actions.perform(lambda: self._listen(client, name, outside), client, redraw=False)

    def _listen(self, client: Any, name: str, outside: bool) -> None:
        new = self._session.new_object
        new.maker = self._makers.loaded(name) if name else None
        if not new.views and not outside:
            self._session.clear()
        self._actions.next_click(client, "click", lambda pointer: self._clicked(pointer, outside))
        text = "Click what does not belong to the new object." if outside else "Click the new object."
        self._actions.messages.tell(client, text)

    def _clicked(self, pointer: viser.ScenePointerEvent, outside: bool) -> None:
        new, client = self._session.new_object, pointer.client
        new.tolerance, new.asks_others = self.tolerance, bool(self._asks.value)
        self._outcome = ""
        x, y = pointer.screen_pos[0]
        new.click(camera_of(self._viewer, client), x, y, outside=outside)
        search = new.search()
        if search is not None:
            self._actions.beside(lambda: self._search(search, client))

    def _resize(self, *, larger: bool) -> Action:
        """A callback that looks for the next larger thing, or the next smaller one, that the clicks may mean."""

        def resize(event: Any) -> None:
            search = self._session.new_object.other_size(larger=larger)
            self._actions.beside(lambda: self._search(search, event.client))

        return resize

    def _make(self) -> None:
        self._session.make_object(self._called.value)
        self._called.value = ""

    # ------------------------------------------------------------------ the search

    def _search(self, search: Search, client: Any) -> None:
        try:
            search.run(lambda: self.refresh() if search is self._session.new_object.running else None)
        except SearchEnded:
            return
        except Exception as error:
            failure = error
            self._actions.perform(lambda: self._give_up(search, failure), client, redraw=False)
            return
        self._actions.perform(lambda: self._accept(search), client)

    def _give_up(self, search: Search, error: Exception) -> None:
        if self._session.new_object.failed(search):
            self._outcome = "the other views were of no help"
            raise error

    def _accept(self, search: Search) -> None:
        if self._session.new_object.accept(search) and search.found is not None:
            agree, differ = len(search.found.views), len(search.found.skipped)
            self._outcome = f"{_counted(agree, 'view')} agree{'s' if agree == 1 else ''}" + (
                f", {differ} not" if differ else ""
            )


def load_maker(name: str, device: torch.device | str) -> PromptMaker:
    """What makes masks of clicks, by its name, as `masks.load`.

    Raises:
        SessionError: it takes no clicks.
        WeightsError: it cannot be had.
    """
    from gradiseg_ns.masks import load

    maker = load(name, device)
    if not isinstance(maker, PromptMaker):
        raise SessionError(
            f"the model {name} takes no clicks: expected a SAM, such as facebook/sam2.1-hiera-tiny."
        )
    return maker


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
