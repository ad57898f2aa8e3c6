"""An object that no id map knew: clicks on it and beside it, a first answer from the clicked views, the final one from a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.editing.display import Selection
from gradiseg_ns.masks import Picture, PromptMaker
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.scene import selection as selecting
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.segment.evidence import inside_outside
from gradiseg_ns.segment.loop import prompt_pixels, unprojected
from gradiseg_ns.viewer.live_scene import LiveScene, SessionError, pixel_at, scaled
from gradiseg_ns.viewer.search import Frozen, Search, key_of
from gradiseg_ns.viewer.selector import Balance, Rows, Selector

if TYPE_CHECKING:
    from gradiseg_ns.drawing.blends import Look
    from gradiseg_ns.model import GradisegModel

SEEN = 1.0
"""Pixels of blending weight from which on a clicked view has the say about a Gaussian until other views are asked."""
_SAME_DEPTH = 0.05
"""A point is seen in another view if the depth there differs by this share at most."""


@dataclass(eq=False)
class ClickedView:
    """A view in which a new object was clicked."""

    pose: Cameras
    camera: rendering.Camera
    """At full size."""
    inside: list[tuple[float, float]] = field(default_factory=list)
    """Clicks on the object, as shares of the picture's width and height."""
    outside: list[tuple[float, float]] = field(default_factory=list)
    """Clicks beside it."""
    guessed: list[tuple[float, float]] = field(default_factory=list)
    """Points that are on the object by what other views say: only used while nobody clicked on it in this view."""
    points: list[Tensor] = field(default_factory=list)
    """[3] each: where the clicks on the object hit it, world units."""
    mask: Tensor | None = None
    """bool [H, W], of at most CLICK_HEIGHT lines."""

    @property
    def on_it(self) -> list[tuple[float, float]]:
        """Points on the object."""
        return self.inside or self.guessed


@dataclass(frozen=True)
class _Click:
    """What is needed to take a click back."""

    view: ClickedView
    outside: bool
    selection: Selection
    balance: Balance | None
    weight: float
    version: int
    """Of the edits."""


class NewObject:
    """The object that is being clicked. Its caller does one thing at a time; only `Search.run` goes on beside it."""

    def __init__(self, scene: LiveScene, selector: Selector) -> None:
        self._scene, self._selector = scene, selector
        self.views: list[ClickedView] = []
        """Views with clicks."""
        self.maker: PromptMaker | None = None
        """Turns clicks into masks, such as a SAM model; None: the wand does."""
        self.tolerance = 0.5
        """Of the wand, 0..1."""
        self.asks_others = True
        """Whether a click is followed by a search in other views."""
        self.running: Search | None = None
        """The search that goes on."""
        self._frozen: Frozen | None = None
        self._clicks: list[_Click] = []
        self._from_search: Balance | None = None
        """What the last search found, with what was clicked since."""
        self._last: Search | None = None
        """That search, if nothing was clicked since."""

    # -------------------------------------------------------------------- clicks

    def click(self, camera: Cameras, x: float, y: float, *, outside: bool = False) -> int:
        """A click on the object, or beside it: the selection becomes what the clicked views say. Ends a search.

        Args:
            camera: the view.
            x, y: shares of its width and height.
            outside: whether the click is beside the object.

        Returns:
            how many views were clicked in.

        Raises:
            SessionError: nothing is there, or nothing is left of the object. It is as if there had been no click.
        """
        self.end_search()
        self._last = None
        before = _Click(
            self._view_of(camera), outside, self._scene.selection, self._selector.balance,
            self._selector.weight, self._scene.edits.version,
        )  # fmt: skip
        view = before.view
        if view not in self.views:
            self.views.append(view)
        (view.outside if outside else view.inside).append((x, y))
        self._clicks.append(before)
        try:
            with self._scene.reading() as model:
                self._answer(model, view, outside)
        except Exception:
            self.take_back()
            raise
        return len(self.views)

    @property
    def count(self) -> int:
        """How many clicks there are."""
        return len(self._clicks)

    @property
    def may_take_back(self) -> bool:
        """Whether the last thing that was done is a click."""
        return bool(self._clicks) and self._clicks[-1].version == self._scene.edits.version

    def take_back(self) -> None:
        """As if the last click had not been made."""
        last = self._clicks[-1]
        self._forget_last()
        self._selector.put(last.selection, last.balance, last.weight)

    def forget(self) -> None:
        """Forget all clicks: something else is selected. Ends a search."""
        self.end_search()
        self.views.clear()
        self._clicks.clear()
        self._from_search = self._last = None
        if self._scene.trains:  # what is kept is old by now
            self._release()

    def _forget_last(self) -> None:
        self.end_search()
        self._last = None
        last = self._clicks.pop()
        view = last.view
        (view.outside if last.outside else view.inside).pop()
        if not last.outside and len(view.points) > len(view.inside):
            view.points.pop()
        if not view.inside and not view.outside and view in self.views:
            self.views.remove(view)

    def _view_of(self, pose: Cameras) -> ClickedView:
        for view in self.views:
            if _same_camera(view.pose, pose):
                return view
        with self._scene.reading() as model:
            return ClickedView(pose, model.rendering_camera(pose))

    # -------------------------------------------------------------- a first answer

    def mask_of(self, model: GradisegModel, view: ClickedView) -> Look:
        """Make the mask of a view's clicks, and say what the view shows.

        Raises:
            SessionError: there is nothing at any click on the object.
        """
        camera = scaled(model, view.pose)
        seen = model.look(camera, colors=True)
        assert seen.rgb is not None
        size = (camera.width, camera.height)
        inside, outside = (
            [(pixel_at(x, size[0]), pixel_at(y, size[1])) for x, y in clicks]
            for clicks in (view.on_it, view.outside)
        )
        if all(float(seen.alpha[y, x]) < MIN_ACCUMULATION for x, y in inside):
            raise SessionError("nothing is there.")
        picture = Picture(seen.rgb, seen.alpha, seen.depth, seen.identity)
        view.mask = self._maker().prompted(picture, inside, outside).pixels.to(seen.alpha.device)
        return seen

    def _maker(self) -> PromptMaker:
        return Wand(self.tolerance) if self.maker is None else self.maker

    def _answer(self, model: GradisegModel, view: ClickedView, outside: bool) -> None:
        """Select what the masks say. After a search, its answer stays, and the click's own mask only adds to it, or takes away."""
        if not view.inside:
            view.guessed = self._guessed(model, view)
        seen = self.mask_of(model, view)
        if not outside:
            camera = seen.projection.camera
            x, y = pixel_at(view.inside[-1][0], camera.width), pixel_at(view.inside[-1][1], camera.height)
            view.points.append(unprojected(camera, x, y, float(seen.depth[y, x])))
        rows, known = Rows.now(model), self._selector.balance
        assert view.mask is not None
        sums = inside_outside(seen.projection, view.mask)
        searched = known is not None and known is self._from_search and len(known.rows) == len(rows)
        if known is not None and searched:
            says = (sums[:, 0] > sums[:, 1]) != outside
            says &= sums.sum(dim=1) >= SEEN
            for_it, against = (
                torch.where(says, sums[:, k], old) for k, old in enumerate((known.inside, known.outside))
            )
        else:
            others = (
                (scaled(model, v.pose), v.mask) for v in self.views if v.mask is not None and v is not view
            )
            for_it, against = selecting.votes_of_masks(model.drawn_gaussians(), others)
            for_it, against = for_it + sums[:, 0], against + sums[:, 1]
        balance = Balance(rows, for_it, against)
        if not self._selector.put_balance(balance, self._selector.weight):
            raise SessionError("no Gaussian is left of the new object: click on it again.")
        if searched:
            self._from_search = balance

    def _guessed(self, model: GradisegModel, view: ClickedView) -> list[tuple[float, float]]:
        """Points of a view that are on the object, as shares: where it was clicked in others, or the middle of what is selected.

        Raises:
            SessionError: nothing of it is seen.
        """
        camera = scaled(model, view.pose)
        seen = model.look(camera)
        size = (camera.width, camera.height)
        away = torch.zeros_like(seen.alpha, dtype=torch.bool)  # from the clicks beside it
        reach = max(2, camera.height // 24)
        for column, line in ((pixel_at(x, size[0]), pixel_at(y, size[1])) for x, y in view.outside):
            away[max(0, line - reach) : line + reach + 1, max(0, column - reach) : column + reach + 1] = True
        found = []
        for point in (point for other in self.views for point in other.points):
            x, y, depth = (camera.K @ (camera.viewmat[:3, :3] @ point + camera.viewmat[:3, 3])).tolist()
            x, y = x / max(depth, 1e-9), y / max(depth, 1e-9)
            if depth <= 0 or not (0 <= x < size[0] and 0 <= y < size[1]) or bool(away[int(y), int(x)]):
                continue
            if abs(float(seen.depth[int(y), int(x)]) - depth) <= _SAME_DEPTH * depth:
                found.append((x / size[0], y / size[1]))
        if not found and self._scene.selection:
            chosen = self._scene.selection.rows(Rows.now(model).arrangement, model.means)
            (share,), _ = rendering.rasterize(seen.projection, [chosen.float()[:, None]])
            share = (share[..., 0] / seen.alpha.clamp(min=1e-6)) * ~away
            inside, _ = prompt_pixels(share, torch.ones_like(share), seen.alpha)
            found = [((x + 0.5) / size[0], (y + 0.5) / size[1]) for x, y in inside[:1]]
        if not found:
            raise SessionError("nothing of the new object is seen here: click the object first.")
        return found

    # ------------------------------------------------------------ the other views

    def search(self) -> Search | None:
        """What asks the other views for the object that was clicked: its caller runs it, and then calls `accept`.

        Returns:
            None if nobody wants that, or nothing was clicked.
        """
        self.end_search()
        if not self.asks_others or not self.views:
            return None
        with self._scene.reading() as model:
            if self._frozen is None or self._frozen.key != key_of(model):
                self._release()
                self._frozen = Frozen(model, self._scene)
        return self._run(self._frozen)

    def other_size(self, *, larger: bool) -> Search:
        """What asks the views for the next larger thing that the clicks may mean, or the next smaller one, as `search`. Ends a search.

        Raises:
            SessionError: there is none; or no search has ended yet, or what is drawn has changed since.
        """
        last = self._last
        if last is None or last.found is None:
            raise SessionError(
                "nothing was found yet: click on the object, with *Ask other views*, and wait."
            )
        with self._scene.reading() as model:
            if last.frozen.closed.is_set() or not (self._scene.trains or last.frozen.key == key_of(model)):
                raise SessionError("what is drawn has changed: click on the object again.")
        start = last.found.other_size(larger=larger)
        if start is None:
            size = "larger" if larger else "smaller"
            raise SessionError(f"nothing {size} hangs together there: click on it, or beside it.")
        self.end_search()
        return self._run(last.frozen, start)

    def _run(self, frozen: Frozen, start: Tensor | None = None) -> Search:
        clicks = [
            (v.camera, x * v.camera.width, y * v.camera.height, beside)
            for v in self.views
            for points, beside in ((v.on_it, False), (v.outside, True))
            for x, y in points
        ]
        self.running = Search(frozen, self._maker(), clicks, start)
        return self.running

    def accept(self, search: Search) -> bool:
        """Select what a search has found. Returns whether it did: not if it was ended meanwhile.

        Raises:
            SessionError: nothing is left of the object; the first answer stays.
        """
        if search is not self.running or search.ended:
            return False
        self.running = None
        found = search.found
        if found is None or not bool(found.selected.any()):
            raise SessionError(
                "the other views do not agree on what was clicked: click on it again, or in another view."
            )
        balance = Balance(search.frozen.rows, found.evidence.inside, found.evidence.outside)
        selection = self._scene.selection
        if not self._selector.put_balance(balance, self._selector.weight):
            self._selector.put(selection, balance, self._selector.weight)
        self._from_search, self._last = balance, search
        return True

    def failed(self, search: Search) -> bool:
        """A search has raised an error. Returns whether somebody still waited for it."""
        waited = search is self.running and not search.ended
        if waited:
            self.running = None
        return waited

    def end_search(self) -> None:
        """End the search that goes on, if one does. What is selected stays."""
        if self.running is not None:
            self.running.end()
        self.running = None

    def close(self) -> None:
        """End everything, for good."""
        self.end_search()
        self._release()

    def _release(self) -> None:
        if self._frozen is not None:
            self._frozen.closed.set()
        self._frozen = None


def _same_camera(a: Cameras, b: Cameras) -> bool:
    """Whether two cameras show the same picture."""
    poses, lenses = (
        [torch.cat([getattr(camera, name).reshape(-1).float().cpu() for name in names]) for camera in (a, b)]
        for names in (("camera_to_worlds",), ("fx", "fy", "width", "height"))
    )
    return all(
        one.shape == other.shape and torch.allclose(one, other, atol=1e-5) for one, other in (poses, lenses)
    )
