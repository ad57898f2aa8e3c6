"""The list of edits of a run: undo, redo, a file beside the run that several programs write."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradiseg_ns.editing.arrangement import _labels
from gradiseg_ns.editing.checking import EditError, clean_name, excerpt
from gradiseg_ns.editing.edits import Assign, Duplicate, Edit, Step, Swap, edit_from_json
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.json_files import read_json

FILE_NAME = "edits.json"
"""The list of a run, beside its config.yml."""
MAX_FILE = 256 << 20


@dataclass
class EditList:
    """The edits of a scene, with undo and redo. Not safe for threads: see `viewer.session`."""

    steps: list[Step] = field(default_factory=list)
    undone: list[Step] = field(default_factory=list)
    version: int = 0
    """Counts every change."""
    files: dict[str, Splat] = field(default_factory=dict)
    """Swapped-in splats by file name."""
    on_disk: tuple[Path, tuple[str, ...]] | None = None
    """The file that this list was last read from or written to, and the digests of the steps that were in it then."""

    def push(self, label: str, *edits: Edit, before: Any = None) -> None:
        """One step more; what was undone is forgotten."""
        if not edits:
            return
        self.steps.append(Step(label, tuple(edits), before))
        self.undone.clear()
        self.version += 1

    def replace_last(self, *edits: Edit) -> None:
        """The last step is another one: while a gizmo is dragged."""
        self.steps[-1] = dataclasses.replace(self.steps[-1], edits=tuple(edits))
        self.version += 1

    def undo(self) -> Step | None:
        """Take back the last step; None if there is none."""
        return self._shift(self.steps, self.undone)

    def redo(self) -> Step | None:
        """Make the last undone step again; None if there is none."""
        return self._shift(self.undone, self.steps)

    def _shift(self, source: list[Step], target: list[Step]) -> Step | None:
        if not source:
            return None
        step = source.pop()
        target.append(step)
        self.version += 1
        return step

    def clear(self) -> None:
        self.steps.clear()
        self.undone.clear()
        self.version += 1

    def new_id(self, objects: ObjectTable) -> int:
        """An id that neither the scene's objects nor any edit, undone or not, uses."""
        used = {0, *objects.ids}
        for step in (*self.steps, *self.undone):
            for edit in step.edits:
                used.update(_named_by(edit))
        return max(used) + 1

    def save(self, path: Path, *, replace: bool = False) -> list[Step]:
        """Write the list, without what was undone; whole or not at all.

        A list that was read from this file, or written to it, is compared with what the file holds now. Steps that another program has
        added since are taken into this list, after its own; objects that they made get new ids where these are taken.

        Args:
            path: the file.
            replace: do not look at what is there.

        Returns:
            the steps that were taken in.

        Raises:
            EditError: another program changed the file otherwise; nothing is written.
            WriteError: it cannot be written; what was there is still there.
        """
        from gradiseg_ns.tools.atomic import write_text

        known = self.on_disk
        added = (
            [] if replace or known is None or known[0] != path.resolve() else self._take_in(path, known[1])
        )
        steps = [_step_json(step) for step in self.steps]
        data = {"format": "gradiseg-edits", "version": 1, "steps": steps}
        write_text(path, json.dumps(data, allow_nan=False) + "\n")
        self.on_disk = (path.resolve(), tuple(map(_digest, steps)))
        return added

    def _take_in(self, path: Path, known: tuple[str, ...]) -> list[Step]:
        """What a file holds beyond the steps with these digests, added to this list."""
        if not path.is_file():
            if not known:
                return []
            raise EditError(f"{path} was removed by another program since its {len(known)} edits were read.")
        now = EditList.load(path)
        assert now.on_disk is not None
        if now.on_disk[1] == known:
            return []
        if now.on_disk[1][: len(known)] != known:
            raise EditError(
                f"{path} was changed by another program: {len(known)} edits were read from it, now it has {len(now.steps)}"
                f"{_labels(now.steps)}, which are not those with some more."
            )
        ours = [s for s in (*self.steps, *self.undone) if _digest(_step_json(s)) not in known]
        added = _with_other_ids(
            now.steps[len(known) :], {i for s in ours for e in s.edits for i in _made_by(e)}
        )
        self.steps += added
        self.files = {**now.files, **self.files}
        self.undone.clear()
        self.version += 1
        return added

    @classmethod
    def load(cls, path: Path) -> EditList:
        """Read a list, and the splats that it swaps in from the folder `edits` beside it.

        Raises:
            EditError: it is missing, damaged, or not a list of edits. Nothing in it is ever run, and no file elsewhere is read.
        """
        try:
            if path.stat().st_size > MAX_FILE:
                raise EditError(f"{path} has {path.stat().st_size} bytes, expected {MAX_FILE} at most.")
            data = read_json(path)
        except OSError as error:
            raise EditError(f"{path} cannot be read ({error.strerror or error}).") from error
        except EditError:
            raise
        except ValueError as error:
            raise EditError(f"{path} is not JSON: {error}") from error
        result = cls.from_json(data, path, folder=path.parent)
        result.on_disk = (path.resolve(), tuple(_digest(_step_json(step)) for step in result.steps))
        return result

    @classmethod
    def from_json(cls, data: Any, origin: Path | str, *, folder: Path | None) -> EditList:
        """A list from parsed JSON.

        Args:
            data: what `json.loads` gave.
            origin: how messages call it.
            folder: where `edits/` with the swapped-in splats is; without, a list with `Swap` is refused.

        Raises:
            EditError: it is not a list of edits.
        """
        if not isinstance(data, dict) or data.get("format") != "gradiseg-edits" or data.get("version") != 1:
            raise EditError(f"{origin} is not a list of edits: expected format gradiseg-edits, version 1.")
        if not isinstance(data.get("steps"), list):
            raise EditError(f"{origin} has no list of steps.")
        result = cls()
        for number, step in enumerate(data["steps"], 1):
            try:
                if not isinstance(step, dict) or not isinstance(step.get("edits"), list):
                    raise EditError(f"found {excerpt(step)}, expected label and edits.")
                edits = tuple(edit_from_json(e) for e in step["edits"])
                label = clean_name(step.get("label") or "edit")
            except EditError as error:
                raise EditError(f"{origin}, step {number}: {error}") from error
            result.steps.append(Step(label, edits))
            for edit in edits:
                if isinstance(edit, Swap) and edit.file not in result.files:
                    result.files[edit.file] = _swapped(edit.file, origin, folder)
        return result


def _step_json(step: Step) -> dict[str, Any]:
    return {"label": step.label, "edits": [edit.to_json() for edit in step.edits]}


def _digest(step: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(step, sort_keys=True).encode()).hexdigest()


def _made_by(edit: Edit) -> tuple[int, ...]:
    """Ids of the objects that an edit makes."""
    if isinstance(edit, Duplicate):
        return (edit.new_id,)
    return (edit.to,) if isinstance(edit, Assign) else ()


def _with_other_ids(steps: Sequence[Step], taken: set[int]) -> list[Step]:
    """Steps in which the objects that they make have other ids than those taken."""
    own = {id for step in steps for edit in step.edits for id in _made_by(edit)}
    used = {id for step in steps for edit in step.edits for id in _named_by(edit)} | taken
    new = {id: max(used) + number for number, id in enumerate(sorted(own & taken), 1)}

    def changed(edit: Edit) -> Edit:
        values = {}
        for name in ("id", "new_id", "to", "into", "ids"):
            value = getattr(edit, name, None)
            if isinstance(value, tuple):
                values[name] = tuple(new.get(i, i) for i in value)
            elif value is not None:
                values[name] = new.get(value, value)
        return dataclasses.replace(edit, **values)

    if not new:
        return list(steps)
    return [dataclasses.replace(step, edits=tuple(map(changed, step.edits))) for step in steps]


def _named_by(edit: Edit) -> tuple[int, ...]:
    """All ids in an edit."""
    single = (getattr(edit, name, None) for name in ("id", "new_id", "to", "into"))
    return (*getattr(edit, "ids", ()), *(id for id in single if id is not None))


def _swapped(name: str, origin: Path | str, folder: Path | None) -> Splat:
    from gradiseg_ns.formats.ply_layout import PlyError
    from gradiseg_ns.formats.read_ply import read_ply

    if folder is None:
        raise EditError(f"{origin} swaps in {name}, which was not sent along: load it from the run's folder.")
    path = folder / "edits" / name
    if path.is_symlink():
        raise EditError(f"{path} is a link: expected the PLY itself.")
    try:
        return read_ply(path)
    except PlyError as error:
        raise EditError(f"{origin} swaps in {name}: {error}") from error
