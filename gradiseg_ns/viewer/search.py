"""The other views of a clicked object, asked by the program: a copy of what is drawn, its views, and a search that can be ended.

A search takes seconds and must hold neither a training nor the panel for that long. So what is drawn is copied once under the scene's lock
(`Frozen`), and the search renders the copy. What it finds are rows of the copy, whose positions lead to the Gaussians of later.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import Mask, Picture, PromptMaker
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment.loop import Click, Found, Sight, Views, find_object, see
from gradiseg_ns.viewer.live_scene import LiveScene
from gradiseg_ns.viewer.selector import Rows
from gradiseg_ns.votes.rendered import spread_views

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel

CAMERAS = 48
"""Training views that may be asked, at most."""


class SearchEnded(Exception):
    """Nobody waits for the search any more."""


class ClickedViews(Views):
    """The views of the photos, which are kept from object to object, and after them those of clicks, which are not."""

    def __init__(
        self, look: Callable[[rendering.Camera], Sight], cameras: Sequence[rendering.Camera]
    ) -> None:
        super().__init__(look, cameras)
        self._photos = len(cameras)

    def click(self, cameras: Sequence[rendering.Camera]) -> list[int]:
        """Make these the clicked views. A view that was one before is not rendered again.

        Returns:
            their numbers.
        """
        known = self.given[self._photos :]
        same = 0
        while same < min(len(known), len(cameras)) and known[same] is cameras[same]:
            same += 1
        self.keep(self._photos + same)
        self.add(cameras[same:])
        return list(range(self._photos, len(self)))


class Frozen:
    """What was drawn of a scene at a moment, with the views that a search may ask. They are kept for the next object."""

    def __init__(self, model: GradisegModel, scene: LiveScene) -> None:
        """
        Args:
            model: while the scene is read.
            scene: whose it is.
        """
        self.key = key_of(model)
        self.rows = Rows.now(model)
        splat = model.edited_splat(self.rows.arrangement)
        if scene.trains:  # in place
            splat = _copy(splat)
        background = model._get_background_color().detach().clone()
        self.gaussians = splat.gaussians()
        self.closed = threading.Event()
        """Set when nothing is to be rendered any more."""

        def look(camera: rendering.Camera) -> Sight:
            if self.closed.is_set():
                raise SearchEnded
            return see(splat, camera, background)

        cameras = scene.cameras()
        some = spread_views(len(cameras), CAMERAS)
        self.views = ClickedViews(look, [model.rendering_camera(cameras[i : i + 1]) for i in some])
        self.lock = threading.Lock()
        """Of the views: a search that was ended may still be in one of them."""


def key_of(model: GradisegModel) -> Hashable:
    """Differs if what is drawn does."""
    crop = model.crop_box
    box = () if crop is None else tuple(tuple(part.flatten().tolist()) for part in (crop.R, crop.T, crop.S))
    return (model._geometry_key, id(model.editing), model.editing.edits.version, box)


def _copy(splat: Splat) -> Splat:
    names = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
    return dataclasses.replace(splat, **{name: getattr(splat, name).clone() for name in names})


class Search:
    """Asks view after view for a new object. `run` it outside of all locks; anybody may `end` it."""

    def __init__(
        self,
        frozen: Frozen,
        maker: PromptMaker,
        clicks: Sequence[tuple[rendering.Camera, float, float, bool]],
        start: Tensor | None = None,
    ) -> None:
        """
        Args:
            frozen: what is searched.
            maker: turns pixels into masks.
            clicks: camera, x and y in its pixels, and whether the click is beside the object. Clicks of one view have the same camera.
            start: bool [N], the set that they mean, as `find_object` takes it.
        """
        self.frozen, self._maker, self._clicks, self._start = frozen, maker, clicks, start
        self.asked, self.most = 0, 0
        """Views that were asked, and how many there will be at most; 0 before the first."""
        self.found: Found | None = None
        """What was found, when `run` has returned."""
        self._ended = threading.Event()

    def end(self) -> None:
        """Make `run` stop at the next view. It does not wait for that."""
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._ended.is_set()

    def run(self, progress: Callable[[], None] | None = None) -> Found:
        """Ask the views.

        Args:
            progress: called when `asked` and `most` have changed.

        Raises:
            SearchEnded: it was ended.
            SegmentError: nothing is found.
        """
        with self.frozen.lock:
            self._check()
            cameras = list({id(camera): camera for camera, *_ in self._clicks}.values())
            numbers = self.frozen.views.click(cameras)
            view_of = {id(camera): number for camera, number in zip(cameras, numbers, strict=True)}
            clicks = [Click(view_of[id(camera)], x, y, beside) for camera, x, y, beside in self._clicks]

            def report(asked: int, most: int) -> None:
                self._check()
                self.asked, self.most = asked, most
                if progress is not None:
                    progress()

            self.found = find_object(
                self.frozen.gaussians,
                self.frozen.views,
                _Ending(self._maker, self._check),
                clicks,
                start=self._start,
                progress=report,
            )
            return self.found

    def _check(self) -> None:
        if self.ended:
            raise SearchEnded


class _Ending:
    """A maker of masks that is not asked any more once a search has ended."""

    def __init__(self, maker: PromptMaker, check: Callable[[], None]) -> None:
        self._maker, self._check = maker, check

    def prompted(self, picture: Picture, *args: Any, **kwargs: Any) -> Mask:
        self._check()
        return self._maker.prompted(picture, *args, **kwargs)
