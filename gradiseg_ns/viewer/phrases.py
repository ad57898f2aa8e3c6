"""Objects by words, in the scene as it is edited. Looking takes the scene's lock for each view, comparing takes none."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gradiseg_ns.viewer.live_scene import LiveScene, SessionError, scaled
from gradiseg_ns.viewer.search import key_of
from gradiseg_ns.votes.rendered import spread_views
from gradiseg_ns.words import HEIGHT, LOOKS, Cancelled, Finder, Found, View, WordModel

__all__ = ["Cancelled", "Found", "PhraseSearch", "Phrases", "WordModel"]


class PhraseSearch:
    """Looks for a phrase. `run` it outside of all locks; anybody may `end` it."""

    def __init__(self, phrases: Phrases, phrase: str) -> None:
        self._phrases, self._phrase = phrases, phrase
        self._ended = threading.Event()

    def end(self) -> None:
        """Make `run` stop soon. It does not wait for that."""
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._ended.is_set()

    def run(
        self, model: WordModel | None = None, progress: Callable[[str, int, int], None] | None = None
    ) -> list[Found]:
        """All objects in the order in which the phrase fits them, as `words.Finder.find`.

        Args:
            model: compares pictures and words. None: names alone are compared.
            progress: is told a stage, what is done of it, and its total.

        Raises:
            PhraseError: the phrase is empty, or no camera sees an object.
            SessionError: there are no objects.
            Cancelled: it was ended.
        """
        return self._phrases.find(self._phrase, model, progress, self._ended.is_set)


class Phrases:
    """Finds objects by words. What a model made of the objects is kept for the next phrase."""

    def __init__(self, scene: LiveScene) -> None:
        self._scene = scene
        self._finder = Finder(None)
        self._lock = threading.Lock()

    def search(self, phrase: str) -> PhraseSearch:
        """A search for a phrase such as "red mug", to be run."""
        return PhraseSearch(self, phrase)

    def find(
        self,
        phrase: str,
        model: WordModel | None,
        progress: Callable[[str, int, int], None] | None,
        cancelled: Callable[[], bool],
    ) -> list[Found]:
        """As `PhraseSearch.run`: one at a time."""
        with self._lock:
            if self._finder.model is not model:
                self._finder = Finder(model)
            with self._scene.reading() as scene:
                table, key = scene.arrangement().objects, key_of(scene)
            if not table.ids:
                raise SessionError(
                    "words find objects, and there is none yet: click one under New object. `gradiseg segment --phrase` finds some by words."
                )
            cameras = self._scene.cameras()
            return self._finder.find(
                phrase,
                spread_views(len(cameras), LOOKS),
                self._see,
                names=dict(zip(table.ids, table.names, strict=True)),
                key=key,
                progress=progress,
                cancelled=cancelled,
            )

    def _see(self, index: int) -> View:
        """What a training camera sees now."""
        with self._scene.reading() as model:
            view = scaled(model, self._scene.cameras()[index : index + 1], HEIGHT)
            look = model.look(view, colors=True)
            assert look.rgb is not None
            return View(view, look.object_ids, look.rgb)
