"""What a person can do to a scene in the viewer: select, edit, undo, save. Without widgets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.editing.arrangement import Arrangement, arrange
from gradiseg_ns.editing.checking import EditError, clean_name
from gradiseg_ns.editing.display import Editing, Selection
from gradiseg_ns.editing.edit_list import FILE_NAME, EditList
from gradiseg_ns.editing.edits import (
    Assign,
    Duplicate,
    Edit,
    Hide,
    Merge,
    Move,
    Remove,
    Rename,
    Similarity,
    Step,
    Tint,
)
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.formats.export import Format, export_bytes
from gradiseg_ns.masks.wand import grow_region
from gradiseg_ns.scene import selection as selecting
from gradiseg_ns.scene.objects import MIN_ACCUMULATION, ObjectTable, copy_name
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import Votes, accumulate

if TYPE_CHECKING:
    from gradiseg_ns.drawing.blends import Look
    from gradiseg_ns.model import GradisegModel

VOTE_VIEWS = 24
"""Training views whose rendered maps vote when a selection is tightened or loosened."""
CLICK_HEIGHT = 384
"""Pixels of the picture in which a click's region is looked for."""
_AGAIN = "Nothing was saved. Load takes what is there; a second Save replaces it."
_GESTURE = 1.0
"""Seconds after which a gizmo that is moved again makes a step of its own."""


class SessionError(GradisegError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True)
class ObjectRow:
    """An object in the panel's list."""

    id: int
    name: str
    color: tuple[float, float, float]
    """RGB, 0..1."""
    gaussians: int
    confidence: float | None
    """0..1: how sure the classifier is of its Gaussians, on average; None for what it does not know."""
    hidden: bool
    selected: bool


@dataclass(frozen=True)
class Snapshot:
    """What the panel shows of a session, taken at one moment."""

    rows: list[ObjectRow]
    """All objects, in order of their ids."""
    selected: str
    """The selection in words."""
    centre: tuple[float, float, float] | None
    """The middle of the selection as it is now, world units; None if nothing is selected, or it has no Gaussian."""
    geometry: Hashable
    """Differs from another snapshot's if the scene's Gaussians do."""


@dataclass
class _ClickedView:
    """A view in which a new object was clicked."""

    camera: Cameras
    inside: list[tuple[float, float]] = field(default_factory=list)
    """Clicks on the object, as shares of the picture's width and height."""
    outside: list[tuple[float, float]] = field(default_factory=list)
    mask: Tensor | None = None
    """bool [H, W]."""


@dataclass
class _Evidence:
    """How much speaks for and against each row of an arrangement: what a selection is tightened by."""

    ids: tuple[int, ...]
    """Objects that it is about; none for clicks."""
    inside: Tensor
    """[M], in pixels."""
    outside: Tensor


class Session:
    """The actions of all browsers on one scene. Its caller runs one at a time."""

    def __init__(
        self,
        model: Callable[[], GradisegModel],
        cameras: Callable[[], Cameras],
        hold: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            model: the scene's.
            cameras: of the training views.
            hold: keeps a training from changing the model meanwhile.
            folder: of the run, where edits are saved.
        """
        self._model, self._cameras, self._hold = model, cameras, hold
        self.folder = folder
        self.weight = 1.0
        """w: a selection keeps what has more than w times as many votes for it as against it."""
        self.views: list[_ClickedView] = []
        """Clicks on an object that is being made."""
        self.prompt_model: Any = None
        """A SAM model (`masks.sam.PromptModel`) that turns clicks into masks; None: the wand does."""
        self.tolerance = 0.5
        """Of the wand, 0..1."""
        self._evidence: _Evidence | None = None
        self._votes: tuple[tuple[int, int], ObjectTable, Votes] | None = None
        self._gizmo: tuple[float, Similarity, tuple[int, ...]] | None = None
        self._confidence: tuple[Hashable, Tensor] | None = None
        self._summary: tuple[Arrangement, Tensor | None, dict[int, int], dict[int, float]] | None = None
        self._was_there = folder is not None and (folder / FILE_NAME).is_file()
        self._refused: tuple[float | None] | None = None
        """When the file was changed for which `save` was refused; of a missing one None."""

    # ------------------------------------------------------------------- reading

    @property
    def editing(self) -> Editing:
        return self._model().editing

    @property
    def edits(self) -> EditList:
        return self.editing.edits

    @property
    def selection(self) -> Selection:
        return self.editing.selection

    @contextlib.contextmanager
    def reading(self) -> Iterator[GradisegModel]:
        """The model, in evaluation, with edits drawn, while nothing else changes it."""
        with self._hold(), torch.no_grad():
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

    def snapshot(self) -> Snapshot:
        """Objects, selection and its middle, while nothing else changes the model."""
        with self.reading() as model:
            arrangement, selection = model.arrangement(), self.selection
            sure = self._sure(model)
            rows = self._rows(arrangement, sure)
            if not selection:
                return Snapshot(rows, "nothing", None, model._geometry_key)
            chosen = selection.rows(arrangement, model.means)
            names = _listed(arrangement.objects, selection.ids)
            part = "part of " if selection.region is not None else ""
            words = f"{part}{names} ({int(chosen.sum()):,} Gaussians)"
            return Snapshot(rows, words, _middle(model, arrangement, chosen), model._geometry_key)

    def _sure(self, model: GradisegModel) -> Tensor | None:
        """How sure the classifier is of every Gaussian, [N]; kept until Gaussians or identities change."""
        if not model._identity_on:
            return None
        key, kept = model._geometry_key, self._confidence
        if kept is None or kept[0] != key:
            kept = self._confidence = (key, model.gaussian_confidence())
        return kept[1]

    def _rows(self, arrangement: Arrangement, sure: Tensor | None) -> list[ObjectRow]:
        kept = self._summary
        if kept is None or kept[0] is not arrangement or kept[1] is not sure:
            kept = self._summary = (arrangement, sure, arrangement.counts(), _means(arrangement, sure))
        _, _, counts, mean = kept
        table, selected = arrangement.objects, set(self.selection.ids)
        return [
            ObjectRow(i, name, tuple(color), counts[i], mean.get(i), i in arrangement.hidden, i in selected)
            for i, name, color in zip(table.ids, table.names, table.colors.tolist(), strict=True)
        ]

    def objects(self) -> list[ObjectRow]:
        """All objects, in order of their ids."""
        return self.snapshot().rows

    def names(self) -> dict[int, str]:
        """Names by id, after all edits."""
        table = self.arrangement().objects
        return dict(zip(table.ids, table.names, strict=True))

    def describe(self) -> str:
        """The selection in words."""
        return self.snapshot().selected

    # ----------------------------------------------------------------- selection

    def select(self, ids: Sequence[int], *, extend: bool = False) -> None:
        """Select objects; `extend` adds them to those selected, or takes them away if they are. Clicks on a new object are
        forgotten."""
        self.views.clear()
        chosen = tuple(dict.fromkeys(ids))
        if extend and self.selection.region is None:
            old = self.selection.ids
            chosen = tuple(i for i in old if i not in chosen) + tuple(i for i in chosen if i not in old)
        self._select(Selection(chosen))

    def clear(self) -> None:
        """Select nothing, and forget the clicks on a new object."""
        self.views.clear()
        self._select(Selection())

    def _select(self, selection: Selection, *, keep: bool = False) -> None:
        if not keep:
            self.weight, self._evidence, self._gizmo = 1.0, None, None
        self.editing.select(selection)

    def pick(self, camera: Cameras, x: float, y: float, *, extend: bool = False) -> int | None:
        """Select the object at a point of a picture, x and y as shares of its width and height; None: nothing is there."""
        with self.reading() as model:
            width, height = int(camera.width), int(camera.height)
            found = model.pick(camera, _pixel(x, width), _pixel(y, height))
        if found == IGNORE:
            if not extend:
                self.clear()
            return None
        self.select([found], extend=extend)
        return found

    def box(self, camera: Cameras, box: tuple[float, float, float, float], *, whole: bool = True) -> None:
        """Select what a rectangle holds.

        Args:
            box: x0, y0, x1, y1 as shares of the picture.
            whole: objects of which more than half of what is seen lies in it; else the Gaussians that do.
        """
        with self.reading() as model:
            view = _scaled(model, camera, CLICK_HEIGHT)
            seen = model.look(view)
            x0, x1 = sorted((box[0] * view.width, box[2] * view.width))
            y0, y1 = sorted((box[1] * view.height, box[3] * view.height))
            if whole:
                ids, totals = seen.object_ids.unique(return_counts=True)
                rows, columns = slice(round(y0), max(round(y1), 1)), slice(round(x0), max(round(x1), 1))
                inside = seen.object_ids[rows, columns]
                share = [(inside == i).sum() / n for i, n in zip(ids, totals, strict=True)]
                chosen = [int(i) for i, s in zip(ids, share, strict=True) if s > 0.5 and i != IGNORE]
                self._select(Selection(tuple(chosen)))
                return
            arrangement = model.arrangement().shown()
            rows = selecting.in_box(seen.projection, (x0, y0, x1, y1))
            self._select_rows(arrangement, rows, model.means)

    def _select_rows(
        self,
        arrangement: Arrangement,
        rows: Tensor,
        means: Tensor,
        known: Tensor | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Select some rows of an arrangement without hidden ones.

        Args:
            rows: bool [M].
            means: [N, 3] of the scene.
            known: rows of which it is known whether they belong; others follow the nearest of those. None: all.
        """
        if not bool(rows.any()):
            self._select(Selection(), keep=keep)
            return
        ids = arrangement.object_ids[rows].unique()
        among = torch.isin(arrangement.object_ids, ids)
        if bool((among == rows).all()):
            self._select(Selection(tuple(ids.tolist())), keep=keep)
            return
        if known is not None:
            among &= known
        region = Region.create(arrangement.base_means(means), rows, among)
        self._select(Selection(tuple(ids.tolist()), region), keep=keep)

    def grow(self, steps: int = 1) -> None:
        """Take in the Gaussians around the selection; negative steps give up those at its border.

        Raises:
            SessionError: nothing is selected.
        """
        self._need_selection()
        with self.reading() as model:
            arrangement = model.arrangement().shown()
            rows = self.selection.rows(arrangement, model.means)
            means = arrangement.moved_means(model.means)
            change = selecting.grow if steps > 0 else selecting.shrink
            self._select_rows(arrangement, change(means, rows, steps=abs(steps)), model.means)

    @property
    def needs_votes(self) -> bool:
        """Whether `set_weight` has to take votes in many views first, for some seconds on a CPU."""
        return not self.views and (self._votes is None or self._votes[0][0] != self.edits.version)

    def set_weight(self, weight: float) -> None:
        """Keep what has more than `weight` times as many votes for the selection as against it (arXiv 2409.11681).

        For an object the maps that are rendered of it vote; for a new object the clicks.

        Raises:
            SessionError: nothing is selected, or what is was not made from objects or clicks.
        """
        self._need_selection()
        with self.reading() as model:
            arrangement = model.arrangement().shown()
            evidence = self._evidence
            stale = evidence is None or len(evidence.inside) != len(arrangement.source)
            if stale and self.views:
                evidence = self._vote_clicks(model, arrangement)
            elif stale:
                if self.selection.region is not None:
                    raise SessionError("this selection has no votes: select an object, or click a new one.")
                evidence = self._vote_objects(model, arrangement, self.selection.ids)
            assert evidence is not None
            self._evidence, self.weight = evidence, weight
            if weight == 1.0 and evidence.ids:
                self._select(Selection(evidence.ids), keep=True)
                return
            rows = selecting.select_by_votes(evidence.inside, evidence.outside, weight)
            known = (evidence.inside + evidence.outside) > 0
            self._select_rows(arrangement, rows, model.means, known, keep=True)

    def _vote_objects(self, model: GradisegModel, arrangement: Arrangement, ids: Sequence[int]) -> _Evidence:
        """Votes of the maps that the scene itself renders, edits included, in some training views."""
        key = (self.edits.version, len(arrangement.source))
        cached = self._votes
        if cached is None or cached[0] != key:
            table = arrangement.objects
            cameras = self._cameras()
            some = torch.linspace(0, len(cameras) - 1, min(VOTE_VIEWS, len(cameras))).round().long().tolist()

            def views() -> Iterator[tuple[rendering.Camera, Tensor]]:
                for i in some:
                    view = _scaled(model, cameras[i : i + 1], CLICK_HEIGHT)
                    yield view, table.classes_of(model.look(view).object_ids)

            votes = accumulate(model.drawn_gaussians(), views(), len(table))
            cached = self._votes = (key, table, votes)
        _, table, votes = cached
        own = torch.zeros(len(table), dtype=torch.bool, device=votes.rows.device)
        own[[table.ids.index(i) for i in ids if i in table.ids]] = True
        return _Evidence(tuple(ids), votes.column(own), votes.column(~own))

    # ---------------------------------------------------------------- new objects

    def click_new(self, camera: Cameras, x: float, y: float, *, outside: bool = False) -> int:
        """A click on an object that has no id yet, or beside it: the selection becomes what all clicks so far say.

        Returns:
            how many views were clicked in.

        Raises:
            SessionError: nothing is there, or nothing is left of the object.
        """
        view = next((v for v in self.views if _same_camera(v.camera, camera)), None)
        if outside and view is None:
            raise SessionError("in this view click the object first, then what does not belong to it.")
        if view is None:
            view = _ClickedView(camera)
            self.views.append(view)
        (view.outside if outside else view.inside).append((x, y))
        try:
            with self.reading() as model:
                self._find_mask(model, view)
                arrangement = model.arrangement().shown()
                evidence = self._vote_clicks(model, arrangement)
                rows = selecting.select_by_votes(evidence.inside, evidence.outside, self.weight)
                if not bool(rows.any()):
                    raise SessionError("no Gaussian is left of the new object: click on it again.")
                known = (evidence.inside + evidence.outside) > 0
                self._evidence = evidence
                self._select_rows(arrangement, rows, model.means, known, keep=True)
        except Exception:
            (view.outside if outside else view.inside).pop()
            if not view.inside:
                self.views.remove(view)
            raise
        return len(self.views)

    def _find_mask(self, model: GradisegModel, view: _ClickedView) -> Look:
        camera = _scaled(model, view.camera, CLICK_HEIGHT)
        seen = model.look(camera, colors=True)
        assert seen.rgb is not None
        size = (camera.width, camera.height)
        inside, outside = (
            [(_pixel(x, size[0]), _pixel(y, size[1])) for x, y in clicks]
            for clicks in (view.inside, view.outside)
        )
        if all(float(seen.alpha[y, x]) < MIN_ACCUMULATION for x, y in inside):
            raise SessionError("nothing is there.")
        if self.prompt_model is not None:
            mask = self.prompt_model.mask(seen.rgb, inside, outside)
        else:
            mask = grow_region(
                seen.rgb, seen.depth, seen.identity, seen.alpha, inside, outside, tolerance=self.tolerance
            )
        view.mask = mask.to(seen.alpha.device)
        return seen

    def _vote_clicks(self, model: GradisegModel, arrangement: Arrangement) -> _Evidence:
        gaussians = model.drawn_gaussians()
        views = (
            (_scaled(model, v.camera, CLICK_HEIGHT), v.mask) for v in self.views if v.mask is not None
        )  # fmt: skip
        inside, outside = selecting.votes_of_masks(gaussians, views)
        return _Evidence((), inside, outside)

    def split_off(self, camera: Cameras, x: float, y: float) -> None:
        """Select the part of the selected objects around a point; `make_object`, or any edit, makes it an object of its own.

        Raises:
            SessionError: no object is selected, or the point is on another one.
        """
        self._need_selection()
        ids = self.selection.ids
        with self.reading() as model:
            view = _ClickedView(camera, inside=[(x, y)])
            seen = self._find_mask(model, view)
            own = torch.isin(seen.object_ids.long(), torch.tensor(ids, device=seen.alpha.device))
            assert view.mask is not None
            mask = view.mask & own
            if not bool(mask.any()):
                raise SessionError("that point is not on the selected object.")
            arrangement = model.arrangement().shown()
            sums = rendering.transpose(seen.projection, torch.stack([mask, ~mask], dim=-1).float())
            rows = selecting.select_by_votes(sums[:, 0], sums[:, 1])
            own_rows = self.selection.rows(arrangement, model.means)
            rows &= own_rows
            if not bool(rows.any()):  # all reach beyond the part: those that lie in it most
                share = torch.where(own_rows, sums[:, 0] / sums.sum(dim=1).clamp(min=1e-6), 0.0)
                rows = (share > 0) & (share >= 0.5 * share.max())
            if not bool(rows.any()):
                raise SessionError(
                    "that part is smaller than any Gaussian of the object: raise the tolerance, or click elsewhere."
                )
            self._select_rows(arrangement, rows, model.means, sums.sum(dim=1) > 0)

    # --------------------------------------------------------------------- edits

    def _need_selection(self) -> None:
        if not self.selection:
            raise SessionError("nothing is selected: pick an object first.")

    def _act(
        self, what: str, make: Callable[[tuple[int, ...]], Sequence[Edit]], name: str | None = None
    ) -> None:
        """Push a step on the selection. A part of objects becomes an object of its own first.

        Args:
            what: such as "hide"; the step is labelled so, with the objects' names.
            make: gives the edits of some ids.
            name: of the new object, if a part is selected.
        """
        self._need_selection()
        selection, table = self.selection, self.arrangement().objects
        ids, first = selection.ids, []
        if selection.region is not None:
            new = self.edits.new_id(table)
            name = name or (
                f"{_listed(table, ids)}, part" if len(ids) == 1 and not self.views else f"object {new}"
            )
            first, ids = [Assign(ids, selection.region, new, clean_name(name))], (new,)
        edits = [*first, *make(ids)]
        label = clean_name(f"{what} {name or _listed(table, ids)}")
        with self.editing.changing():
            undone = list(self.edits.undone)
            self.edits.push(label, *edits, before=selection)
        try:
            self.arrangement()
        except Exception:  # above all, if it makes too many Gaussians
            with self.editing.changing():
                self.edits.undo()
                self.edits.undone[:] = undone
            raise
        if first:
            self.views.clear()
            self._select(Selection(ids))
        self._gizmo = None

    def hide(self) -> None:
        """Hide the selection."""
        self._act("hide", lambda ids: [Hide(ids)])

    def show(self) -> None:
        """Show the selection again."""
        self._act("show", lambda ids: [Hide(ids, False)])

    def show_all(self) -> None:
        """Show all that is hidden."""
        arrangement = self.arrangement()
        if arrangement.hidden:
            with self.editing.changing():
                self.edits.push("show all", Hide(tuple(sorted(arrangement.hidden)), False))

    def isolate(self) -> None:
        """Hide all but the selection."""
        table = self.arrangement().objects

        def others(ids: tuple[int, ...]) -> list[Edit]:
            rest = tuple(i for i in table.ids if i not in ids)
            return [*([Hide(rest)] if rest else []), Hide(ids, False)]

        self._act("isolate", others)

    def tint(self, color: Sequence[float] | None, strength: float = 0.7) -> None:
        """Tint the selection; color RGB in 0..1, None takes tints away."""
        rgb = None if color is None else (float(color[0]), float(color[1]), float(color[2]))
        self._act("tint" if rgb else "untint", lambda ids: [Tint(ids, rgb, strength)])

    def rename(self, name: str) -> None:
        """Name the selected object.

        Raises:
            SessionError: not exactly one is selected.
            EditError: the name is empty.
        """
        name = clean_name(name)
        if len(self.selection.ids) != 1 and self.selection.region is None:
            raise SessionError("select one object to name it.")
        if self.selection.region is not None:
            self._act("name", lambda ids: [], name)
        else:
            self._act("rename", lambda ids: [Rename(ids[0], name)])

    def make_object(self, name: str = "") -> None:
        """Make what is selected an object of its own."""
        self._need_selection()
        if self.selection.region is None:
            raise SessionError("what is selected is an object already.")
        self._act("new object", lambda ids: [], clean_name(name) if name.strip() else None)

    def remove(self) -> None:
        """Take the selection out."""
        self._act("remove", lambda ids: [Remove(ids)])
        self._select(Selection())

    def duplicate(self) -> None:
        """Copy the selected objects, in place; the copies are selected then."""
        table = self.arrangement().objects
        made: list[int] = []

        def copies(ids: tuple[int, ...]) -> list[Edit]:
            start = max(self.edits.new_id(table), max(ids) + 1)
            made.extend(range(start, start + len(ids)))
            taken, edits = list(table.names), []
            for i, new in zip(ids, made, strict=True):
                taken.append(clean_name(copy_name(_listed(table, [i]), taken)))
                edits.append(Duplicate(i, new, taken[-1]))
            return edits

        self._act("duplicate", copies)
        self._select(Selection(tuple(made)))

    def merge(self, into: int) -> None:
        """Make the selection part of another object."""
        if into not in self.arrangement().objects.ids:
            raise SessionError(f"there is no object {into} to merge with.")
        self._act("merge", lambda ids: [Merge(tuple(i for i in ids if i != into) or ids, into)])
        self._select(Selection((into,)))

    def centre(self) -> tuple[float, float, float] | None:
        """The middle of the selection as it is now, world units; None if nothing is selected."""
        return self.snapshot().centre

    def move(self, by: Similarity) -> None:
        """Move, turn or scale the selection."""
        self._act("move", lambda ids: [Move(ids, by)])

    def drag(self, by: Similarity) -> None:
        """As `move`, from where the selection was when the gizmo was taken up: one step while it is dragged."""
        now, last = time.monotonic(), self._gizmo
        steps = self.edits.steps
        if last is not None and now - last[0] < _GESTURE and steps and self.selection.ids == last[2]:
            with self.editing.changing():
                self.edits.replace_last(*steps[-1].edits[:-1], Move(last[2], by))
        else:
            self.move(by)
        self._gizmo = (now, by, self.selection.ids)

    @property
    def dragging(self) -> bool:
        """Whether the gizmo was moved a moment ago: what comes next belongs to the same step."""
        return self._gizmo is not None and time.monotonic() - self._gizmo[0] < _GESTURE

    def undo(self) -> str | None:
        """Take back the last step; its label, None if there is none. What was selected before it is again."""
        return self._shift(self.edits.undo, back=True)

    def redo(self) -> str | None:
        """Make the last undone step again; its label, None if there is none."""
        return self._shift(self.edits.redo)

    def _shift(self, change: Callable[[], Step | None], *, back: bool = False) -> str | None:
        with self.editing.changing():
            step = change()
        if step is None:
            return None
        selection = step.before if back and step.before is not None else self.selection
        known = self.arrangement().objects.ids
        if not set(selection.ids) <= set(known):
            selection = Selection(tuple(i for i in selection.ids if i in known))
        self._select(selection)
        return step.label

    # --------------------------------------------------------------------- files

    @property
    def path(self) -> Path:
        """Where edits are saved.

        Raises:
            SessionError: the scene belongs to no run.
        """
        if self.folder is None:
            raise SessionError("this scene belongs to no run, so there is no folder to save edits in.")
        return self.folder / FILE_NAME

    def save(self) -> tuple[Path, list[str]]:
        """Write the list of edits beside the run's config.yml. What another program has added there since is taken in.

        Returns:
            the file, and the labels of the steps that were taken in.

        Raises:
            SessionError: another program changed the file otherwise. Nothing is written; the second time it is replaced.
            WriteError: it cannot be written.
        """
        path = self.path
        try:
            found = path.stat().st_mtime if path.is_file() else None
        except OSError:
            found = None
        replace = self._refused == (found,)
        with self.editing.changing():
            edits = self.edits
            if edits.on_disk is None or edits.on_disk[0] != path.resolve():
                if found is not None and self._was_there and not replace:
                    self._refused = (found,)
                    raise SessionError(f"{path} holds edits that are not shown here. {_AGAIN}")
                edits.on_disk = (path.resolve(), ())
            try:
                added = edits.save(path, replace=replace)
            except EditError as error:
                self._refused = (found,)
                raise SessionError(f"{error} {_AGAIN}") from error
        self._refused = None
        if added:
            self._keep_known()
        return path, [step.label for step in added]

    def _keep_known(self) -> None:
        """Of the selection what there is still."""
        known = set(self.arrangement().objects.ids)
        if not set(self.selection.ids) <= known:
            self._select(Selection(tuple(i for i in self.selection.ids if i in known)))

    def load(self, data: Any = None, origin: str = "") -> int:
        """Replace the edits by those saved, or by parsed JSON. What was there is gone.

        Returns:
            the number of steps.

        Raises:
            EditError: the list cannot be used; the edits stay as they were.
        """
        loaded = (
            EditList.load(self.path) if data is None else EditList.from_json(data, origin, folder=self.folder)
        )
        with self.reading() as model:
            arrange(model._labels(), model.means, model.objects, loaded.steps, loaded.files)
        with self.editing.changing():
            edits = self.edits
            edits.steps[:], edits.files = loaded.steps, loaded.files
            edits.on_disk = loaded.on_disk or edits.on_disk
            edits.undone.clear()
            edits.version += 1
        self.clear()
        return len(loaded.steps)

    def export(
        self,
        what: Literal["selection", "everything"],
        *,
        separate: bool = False,
        format: Format = "ply",
        stem: str = "scene",
    ) -> tuple[str, bytes, int]:
        """What is shown, as edited, as a file to download.

        Returns:
            its name, its bytes, and how many Gaussians are in it.

        Raises:
            SessionError: there is nothing to export.
        """
        if what == "selection":
            self._need_selection()
        with self.reading() as model:
            arrangement = model.arrangement().shown()
            if what == "selection":
                arrangement = arrangement.rows(self.selection.rows(arrangement, model.means))
            if not len(arrangement.source):
                raise SessionError("there is nothing to export: everything is hidden or removed.")
            splat = model.edited_splat(arrangement)
        table = arrangement.objects
        names = dict(zip(table.ids, table.names, strict=True))
        present = set(splat.labels.unique().tolist()) if splat.labels is not None else set()
        colors = {i: tuple(c) for i, c in zip(table.ids, table.colors.tolist(), strict=True) if i in present}
        name, data = export_bytes(
            splat,
            {i: n for i, n in names.items() if i in present},
            colors=colors,
            format=format,
            separate=separate,
            stem=stem,
        )
        return name, data, len(splat)


def _means(arrangement: Arrangement, sure: Tensor | None) -> dict[int, float]:
    """By object, how sure the classifier is of those of its Gaussians that it knows: the mean of `sure` [N]."""
    if sure is None:
        return {}
    own = (arrangement.source < len(sure)) & (arrangement.base_ids == arrangement.object_ids)
    ids, rows = arrangement.object_ids[own].unique(return_inverse=True)
    sums = sure.new_zeros(len(ids)).index_add_(0, rows, sure[arrangement.source[own]])
    return dict(zip(ids.tolist(), (sums / rows.bincount(minlength=len(ids))).tolist(), strict=True))


def _middle(
    model: GradisegModel, arrangement: Arrangement, rows: Tensor
) -> tuple[float, float, float] | None:
    """Of some rows, bool [M], as they are now; None if there are none."""
    if not bool(rows.any()):
        return None
    means = arrangement.rows(rows).moved_means(model.means)
    x, y, z = means.median(dim=0).values.tolist()
    return x, y, z


def _listed(table: ObjectTable, ids: Sequence[int]) -> str:
    names = dict(zip(table.ids, table.names, strict=True))
    found = [names.get(i, f"object {i}") for i in ids]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _pixel(share: float, size: int) -> int:
    return min(max(int(share * size), 0), size - 1)


def _scaled(model: GradisegModel, camera: Cameras, height: int) -> rendering.Camera:
    """A camera for looking at its picture, not higher than that."""
    view = model.rendering_camera(camera)
    factor = min(1.0, height / view.height)
    if factor == 1.0:
        return view
    intrinsics = view.K.clone()
    new = (max(1, round(view.width * factor)), max(1, round(view.height * factor)))
    intrinsics[0] *= new[0] / view.width
    intrinsics[1] *= new[1] / view.height
    return view._replace(K=intrinsics, width=new[0], height=new[1])


def _same_camera(a: Cameras, b: Cameras) -> bool:
    return a.camera_to_worlds.shape == b.camera_to_worlds.shape and bool(
        torch.allclose(a.camera_to_worlds.cpu(), b.camera_to_worlds.cpu(), atol=1e-5)
    )
