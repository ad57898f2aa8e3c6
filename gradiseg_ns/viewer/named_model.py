"""A pretrained model that somebody names in a text field: loaded once, while nobody waits for the panel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Model = TypeVar("Model")


class NamedModel(Generic[Model]):
    """The model that was named last. Loading may take minutes and reach for the network: call `load` outside of all locks."""

    def __init__(self, load: Callable[[str], Model]) -> None:
        """
        Args:
            load: makes a model of a name; raises GradisegError if it cannot.
        """
        self._load, self._lock = load, threading.Lock()
        self._kept: tuple[str, Model] | None = None

    def loaded(self, name: str) -> Model | None:
        """The model of this name; None if it is not loaded."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0] == name else None

    def load(self, name: str) -> Model:
        """The model of this name. One that had another name is given up first.

        Raises:
            GradisegError: it cannot be had.
        """
        with self._lock:
            model = self.loaded(name)
            if model is None:
                self._kept = None
                model = self._load(name)
                self._kept = (name, model)
            return model
