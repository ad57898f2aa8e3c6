"""The folder "Words" of the panel: a phrase, and the objects that it may mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gradiseg_ns.viewer.actions import Actions, set_value
from gradiseg_ns.viewer.named_model import NamedModel
from gradiseg_ns.viewer.phrases import Cancelled, Found, PhraseSearch, WordModel
from gradiseg_ns.viewer.session import Session

TOLD = 3
"""Objects that the message names."""


class FindFolder:
    """The folder's widgets, and the search that goes on while the panel does other things."""

    def __init__(
        self,
        gui: Any,
        actions: Actions,
        session: Session,
        device: torch.device | str,
        rank: Callable[[Mapping[int, float] | None], None],
    ) -> None:
        """
        Args:
            gui: viser's, in the folder.
            actions: of the panel.
            session: whose objects are looked for.
            device: where a model goes.
            rank: lists objects by these scores, 0 to 1, the best first; None: all again.
        """
        self._actions, self._session, self._rank = actions, session, rank
        self._models = NamedModel(lambda name: load_words(name, device))
        self._running: PhraseSearch | None = None
        self._phrase = gui.add_text(
            "Phrase", "", hint="What to look for, such as red mug; empty: list all objects again"
        )
        self._model = gui.add_text(
            "CLIP model",
            "",
            hint="Hub name or folder of a CLIP or SigLIP model; without, names alone are compared",
        )
        actions.button(gui, "Find", self._find)
        self._found = gui.add_text("Found", "", disabled=True)

    def close(self) -> None:
        """End the search."""
        if self._running is not None:
            self._running.end()
        self._running = None

    def _find(self, event: Any) -> None:
        self.close()
        phrase, name = self._phrase.value.strip(), self._model.value.strip()
        if not phrase:
            self._rank(None)
            set_value(self._found, "")
            return
        search = self._running = self._session.phrases.search(phrase)
        set_value(
            self._found,
            f"Loading {name} ..." if name and self._models.loaded(name) is None else "Looking ...",
        )
        self._actions.beside(lambda: self._run(search, phrase, name, event.client))

    def _run(self, search: PhraseSearch, phrase: str, name: str, client: Any) -> None:
        """In a thread of its own."""

        def progress(stage: str, done: int, total: int) -> None:
            if not search.ended:
                set_value(self._found, f"{stage}: {done} of {total}")

        try:
            found = search.run(self._models.load(name) if name else None, progress)
        except Cancelled:
            return
        except Exception as error:
            failure = error
            self._actions.perform(lambda: self._give_up(search, failure), client, redraw=False)
            return
        self._actions.perform(lambda: self._accept(search, phrase, found), client)

    def _give_up(self, search: PhraseSearch, error: Exception) -> None:
        if not search.ended:
            self._running = None
            set_value(self._found, "")
            raise error

    def _accept(self, search: PhraseSearch, phrase: str, found: list[Found]) -> None:
        if search.ended:
            return
        self._running = None
        names = self._session.names()
        found = [one for one in found if one.id in names]
        if not found:
            set_value(self._found, f"No object is called {phrase}.")
            return
        self._rank({one.id: one.score for one in found})
        self._session.select([found[0].id])
        best = ", ".join(f"{names[one.id]} {one.score:.0%}" for one in found[:TOLD])
        set_value(self._found, best if found[0].likely else f"Only a guess: {best}")


def load_words(name: str, device: torch.device | str) -> WordModel:
    """What compares pictures and words, by its name.

    Raises:
        WeightsError: it cannot be had, or compares none.
    """
    from gradiseg_ns.masks.likeness import Likeness

    return Likeness.load(name, device=device)
