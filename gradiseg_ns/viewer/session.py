"""What a person can do to a scene in the viewer: select, edit, undo. Without widgets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.cameras import Cameras

from gradiseg_ns import rendering
from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.editing.checking import clean_name
from gradiseg_ns.editing.display import Editing, Selection
from gradiseg_ns.editing.edit_list import EditList
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
from gradiseg_ns.scene import selection as selecting
from gradiseg_ns.scene.objects import NO_OBJECT, copy_name
from gradiseg_ns.viewer.files import SceneFiles
from gradiseg_ns.viewer.listing import Listing, ObjectRow, Snapshot, listed
from gradiseg_ns.viewer.live_scene import LiveScene, SessionError
from gradiseg_ns.viewer.new_object import ClickedView, NewObject
from gradiseg_ns.viewer.phrases import Phrases
from gradiseg_ns.viewer.selector import Rows, Selector

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel

_GESTURE = 1.0
"""Seconds after which a gizmo that is moved again makes a step of its own."""


class Session:
    """The actions of all browsers on one scene. Its caller runs one at a time.

    A new object, phrases, and what is read and written have owners of their own: `new_object`, `phrases` and `files`.
    """

    def __init__(
        self,
        model: Callable[[], GradisegModel],
        cameras: Callable[[], Cameras],
        hold: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        folder: Path | None = None,
        trains: bool = False,
    ) -> None:
        """
        Args:
            model: the scene's.
            cameras: of the training views.
            hold: keeps a training from changing the model meanwhile.
            folder: of the run, where edits are saved.
            trains: whether there is a training.
        """
        self.scene = LiveScene(model, cameras, hold, trains)
        self.selector = Selector(self.scene)
        self.new_object = NewObject(self.scene, self.selector)
        self.files = SceneFiles(self.scene, folder)
        self.phrases = Phrases(self.scene)
        self._picked: tuple[Cameras, float, float] | None = None
        """The click that the selection comes from."""
        self._listing = Listing(self.scene)
        self._gizmo: tuple[float, Similarity, tuple[int, ...]] | None = None

    # ------------------------------------------------------------------- reading

    @property
    def editing(self) -> Editing:
        """Edits and selection, as renderers see them."""
        return self.scene.editing

    @property
    def edits(self) -> EditList:
        """The list of edits."""
        return self.scene.edits

    @property
    def selection(self) -> Selection:
        """What is selected."""
        return self.scene.selection

    def arrangement(self) -> Arrangement:
        """The scene with all edits, hidden objects included."""
        return self.scene.arrangement()

    def snapshot(self) -> Snapshot:
        """Objects, selection and its middle, while nothing else changes the model."""
        return self._listing.snapshot()

    def objects(self) -> list[ObjectRow]:
        """All objects, in order of their ids."""
        return self.snapshot().rows

    def names(self) -> dict[int, str]:
        """Names by id, after all edits."""
        table = self.arrangement().objects
        return dict(zip(table.ids, table.names, strict=True))

    # ----------------------------------------------------------------- selection

    def select(self, ids: Sequence[int], *, extend: bool = False) -> None:
        """Select objects; `extend` adds them to those selected, or takes them away if they are."""
        chosen = tuple(dict.fromkeys(ids))
        if extend and self.selection.region is None:
            old = self.selection.ids
            chosen = tuple(i for i in old if i not in chosen) + tuple(i for i in chosen if i not in old)
        self._select(Selection(chosen))

    def clear(self) -> None:
        """Select nothing."""
        self._select(Selection())

    def _select(self, selection: Selection) -> None:
        """Select something else: the clicks on a new object are forgotten."""
        self.new_object.forget()
        self.selector.put(selection)
        self._gizmo = self._picked = None

    def pick(self, camera: Cameras, x: float, y: float, *, extend: bool = False) -> int | None:
        """Select the object at a point of a picture, x and y as shares of its width and height; None: nothing is there."""
        found = self.selector.object_at(camera, x, y)
        if found is not None:
            self.select([found], extend=extend)
            self._picked = (camera, x, y)
        elif not extend:
            self.clear()
        return found

    def box(self, camera: Cameras, box: tuple[float, float, float, float], *, whole: bool = True) -> None:
        """Select what a rectangle holds, as `Selector.box`."""
        self.new_object.forget()
        self.selector.box(camera, box, whole=whole)

    def grow(self, steps: int = 1) -> None:
        """Take in the Gaussians around the selection; negative steps give up those at its border.

        Raises:
            SessionError: nothing is selected.
        """
        self.new_object.end_search()
        self.selector.grow(steps)

    def coarser(self) -> None:
        """Of a part select what it belongs to, as `Selector.coarser`."""
        self.new_object.forget()
        self.selector.coarser()

    def finer(self) -> None:
        """Of what is selected select a part: the one that was clicked, or else the largest, as `Selector.finer`."""
        self.new_object.forget()
        self.selector.finer(self._picked)

    def split_off(self, camera: Cameras, x: float, y: float) -> None:
        """Select the part of the selected objects around a point; `make_object`, or any edit, makes it an object of its own.

        Raises:
            SessionError: no object is selected, or the point is on another one.
        """
        self.selector.need_selection()
        self.new_object.forget()
        ids = self.selection.ids
        with self.scene.reading() as model:
            view = ClickedView(camera, model.rendering_camera(camera), inside=[(x, y)])
            seen = self.new_object.mask_of(model, view)
            own = torch.isin(seen.object_ids.long(), torch.tensor(ids, device=seen.alpha.device))
            assert view.mask is not None
            mask = view.mask & own
            if not bool(mask.any()):
                raise SessionError("that point is not on the selected object.")
            rows = Rows.now(model)
            sums = rendering.transpose(seen.projection, torch.stack([mask, ~mask], dim=-1).float())
            chosen = selecting.select_by_votes(sums[:, 0], sums[:, 1])
            own_rows = self.selection.rows(rows.arrangement, model.means)
            chosen &= own_rows
            if not bool(chosen.any()):  # all reach beyond the part: those that lie in it most
                share = torch.where(own_rows, sums[:, 0] / sums.sum(dim=1).clamp(min=1e-6), 0.0)
                chosen = (share > 0) & (share >= 0.5 * share.max())
            if not bool(chosen.any()):
                raise SessionError(
                    "that part is smaller than any Gaussian of the object: raise the tolerance, or click elsewhere."
                )
            self.selector.put_rows(rows, chosen, sums.sum(dim=1) > 0)

    # --------------------------------------------------------------------- edits

    def _edit_selection(
        self,
        what: str,
        make: Callable[[tuple[int, ...]], Sequence[Edit]],
        name: str | None = None,
        *,
        of_objects: bool = False,
    ) -> None:
        """Push a step on the selection. A part of objects becomes an object of its own first.

        Args:
            what: such as "hide"; the step is labelled so, with the objects' names.
            make: gives the edits of some ids.
            name: of the new object, if a part is selected, or what belongs to none.
            of_objects: the edits are of objects alone: what belongs to none becomes one first.
        """
        self.selector.need_selection()
        selection, table = self.selection, self.arrangement().objects
        ids, first = selection.ids, []
        if selection.region is not None or (of_objects and NO_OBJECT in ids):
            new = self.edits.new_id(table)
            part = len(ids) == 1 and ids[0] != NO_OBJECT and not self.new_object.views
            name = name or (f"{listed(table, ids)}, part" if part else f"object {new}")
            taken = ids if selection.region is not None else (NO_OBJECT,)
            first = [Assign(taken, selection.region, new, clean_name(name))]
            ids = (new, *(i for i in ids if i not in taken))
        edits = [*first, *make(ids)]
        whole = selection.region is None and selection.ids != (NO_OBJECT,)
        label = clean_name(f"{what} {listed(table, selection.ids) if whole or name is None else name}")
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
            self._select(Selection(ids))
        self.new_object.forget()  # it is one now, or another thing was meant
        self._gizmo = None

    def hide(self) -> None:
        """Hide the selection."""
        self._edit_selection("hide", lambda ids: [Hide(ids)])

    def show(self) -> None:
        """Show the selection again."""
        self._edit_selection("show", lambda ids: [Hide(ids, False)])

    def show_all(self) -> None:
        """Show all that is hidden."""
        arrangement = self.arrangement()
        if arrangement.hidden:
            with self.editing.changing():
                self.edits.push("show all", Hide(tuple(sorted(arrangement.hidden)), False))

    def isolate(self) -> None:
        """Hide all but the selection."""
        arrangement = self.arrangement()
        known = (*arrangement.objects.ids, *([NO_OBJECT] if arrangement.unassigned else []))

        def others(ids: tuple[int, ...]) -> list[Edit]:
            rest = tuple(i for i in known if i not in ids)
            return [*([Hide(rest)] if rest else []), Hide(ids, False)]

        self._edit_selection("isolate", others)

    def tint(self, color: Sequence[float] | None, strength: float = 0.7) -> None:
        """Tint the selection; color RGB in 0..1, None takes tints away."""
        rgb = None if color is None else (float(color[0]), float(color[1]), float(color[2]))
        self._edit_selection("tint" if rgb else "untint", lambda ids: [Tint(ids, rgb, strength)])

    def rename(self, name: str) -> None:
        """Name the selected object.

        Raises:
            SessionError: not exactly one is selected.
            EditError: the name is empty.
        """
        name = clean_name(name)
        if len(self.selection.ids) != 1 and self.selection.region is None:
            raise SessionError("select one object to name it.")
        if self.selection.region is not None or self.selection.ids == (NO_OBJECT,):
            self._edit_selection("name", lambda ids: [], name, of_objects=True)
        else:
            self._edit_selection("rename", lambda ids: [Rename(ids[0], name)])

    def make_object(self, name: str = "") -> None:
        """Make what is selected an object of its own."""
        self.selector.need_selection()
        if self.selection.region is None and self.selection.ids != (NO_OBJECT,):
            raise SessionError("what is selected is an object already.")
        own = clean_name(name) if name.strip() else None
        self._edit_selection("new object", lambda ids: [], own, of_objects=True)

    def remove(self) -> None:
        """Take the selection out."""
        self._edit_selection("remove", lambda ids: [Remove(ids)])
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
                taken.append(clean_name(copy_name(listed(table, [i]), taken)))
                edits.append(Duplicate(i, new, taken[-1]))
            return edits

        self._edit_selection("duplicate", copies, of_objects=True)
        self._select(Selection(tuple(made)))

    def merge(self, into: int) -> None:
        """Make the selection part of another object."""
        if into not in self.arrangement().objects.ids:
            raise SessionError(f"there is no object {into} to merge with.")
        self._edit_selection("merge", lambda ids: [Merge(tuple(i for i in ids if i != into) or ids, into)])
        self._select(Selection((into,)))

    def centre(self) -> tuple[float, float, float] | None:
        """The middle of the selection as it is now, world units; None if nothing is selected."""
        return self.snapshot().centre

    def move(self, by: Similarity) -> None:
        """Move, turn or scale the selection."""
        self._edit_selection("move", lambda ids: [Move(ids, by)])

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
        """Take back the last step, or the click on a new object that was made since.

        Returns:
            its label; None if there is none. What was selected before it is again.
        """
        if self.new_object.may_take_back:
            self.new_object.take_back()
            return "the click"
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
        self._select(self._still_there(selection))
        return step.label

    def _still_there(self, selection: Selection) -> Selection:
        """Of a selection what there is still; itself if that is all."""
        known = {NO_OBJECT, *self.arrangement().objects.ids}
        if set(selection.ids) <= known:
            return selection
        return Selection(tuple(i for i in selection.ids if i in known))

    # --------------------------------------------------------------------- files

    def save(self) -> tuple[Path, list[str]]:
        """Write the list of edits, as `SceneFiles.save`. Of the selection stays what there is still."""
        path, added = self.files.save()
        if added:
            selection = self._still_there(self.selection)
            if selection is not self.selection:
                self._select(selection)
        return path, added

    def load(self, data: Any = None, origin: str = "") -> int:
        """Replace the edits, as `SceneFiles.load`. Nothing is selected then."""
        count = self.files.load(data, origin)
        self.clear()
        return count
