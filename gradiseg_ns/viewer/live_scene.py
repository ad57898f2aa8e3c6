"""The scene that a viewer shows: its model, which may be training meanwhile, and the cameras of its photos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.editing.display import Editing, Selection
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.segment.loop import resized
from gradiseg_ns.tools.errors import GradisegError

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel

CLICK_HEIGHT = 384
"""Pixels of the picture in which a click's region is looked for."""


class SessionError(GradisegError):
    """What was asked for cannot be done; the message says why."""


class LiveScene:
    """A model, and the lock that keeps a training from changing it."""

    def __init__(
        self,
        model: Callable[[], GradisegModel],
        cameras: Callable[[], Cameras],
        hold: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        trains: bool = False,
    ) -> None:
        """
        Args:
            model: the scene's.
            cameras: of the training views.
            hold: keeps a training from changing the model meanwhile.
            trains: whether there is a training, which changes parameters in place.
        """
        self._model, self.cameras, self.hold, self.trains = model, cameras, hold, trains

    @property
    def editing(self) -> Editing:
        """Edits and selection, as renderers see them."""
        return self._model().editing

    @property
    def edits(self) -> EditList:
        """The list of edits."""
        return self.editing.edits

    @property
    def selection(self) -> Selection:
        """What is selected."""
        return self.editing.selection

    @contextlib.contextmanager
    def reading(self) -> Iterator[GradisegModel]:
        """The model, in evaluation, with edits drawn, while nothing else changes it."""
        with self.hold(), torch.no_grad():
            model = self._model()
            training = model.training
            model.eval()
            try:
                with model.editing.drawing():
                    yield model
            finally:
                if training:
                    model.train()

    def arrangement(self) -> Arrangement:
        """The scene with all edits, hidden objects included."""
        with self.reading() as model:
            return model.arrangement()


def drawn(model: GradisegModel) -> Arrangement:
    """The M rows that `GradisegModel.look` projects: without hidden objects, and without what the viewer crops away."""
    arrangement = model.arrangement().without_hidden()
    if model.crop_box is None:
        return arrangement
    inside = model.crop_box.within(arrangement.moved_means(model.means)).squeeze(-1)
    return arrangement.rows(inside)


def positions(model: GradisegModel, arrangement: Arrangement) -> Tensor:
    """Where the rows' Gaussians are before all moves, [M, 3]: a copy, which a training does not change."""
    return arrangement.base_means(model.means).detach().clone()


def scaled(model: GradisegModel, camera: Cameras, height: int = CLICK_HEIGHT) -> rendering.Camera:
    """A camera for looking at its picture, not higher than that."""
    return resized(model.rendering_camera(camera), height)


def pixel_at(share: float, size: int) -> int:
    """The pixel at a share, 0 to 1, of a picture's width or height."""
    return min(max(int(share * size), 0), size - 1)
