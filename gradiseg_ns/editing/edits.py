"""The kinds of edits, and their JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gradiseg_ns.editing.checking import MAX_ID, EditError, clean_name, excerpt, read_integer, read_numbers
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.scene.objects import NO_OBJECT
from gradiseg_ns.scene.rotations import rotation_matrix


@dataclass(frozen=True)
class Similarity:
    """x -> scale R (x - pivot) + pivot + translation."""

    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Rotation R as a quaternion, w first; normalised when used."""
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """World units."""
    scale: float = 1.0
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def matrix(self) -> NDArray[np.float64]:
        """[3, 4]: scale R and the shift."""
        linear = self.scale * rotation_matrix(self.wxyz)
        pivot = np.asarray(self.pivot, np.float64)
        shift = pivot - linear @ pivot + np.asarray(self.translation, np.float64)
        return np.concatenate([linear, shift[:, None]], axis=1)


@dataclass(frozen=True)
class Edit:
    """One thing that is changed about objects. `ids` may have `NO_OBJECT`: what belongs to none."""

    KIND: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"edit": self.KIND}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Region):
                value = value.to_json()
            elif isinstance(value, Similarity):
                value = dataclasses.asdict(value)
            data[each.name] = value
        return data


@dataclass(frozen=True)
class Hide(Edit):
    """Objects are not shown and not exported; or shown again."""

    KIND = "hide"
    ids: tuple[int, ...]
    hidden: bool = True


@dataclass(frozen=True)
class Tint(Edit):
    """Objects take on a colour, shading kept; None takes their tint away."""

    KIND = "tint"
    ids: tuple[int, ...]
    color: tuple[float, float, float] | None
    """RGB, 0..1."""
    strength: float = 0.7
    """0 changes nothing, 1 leaves nothing of the old colour."""


@dataclass(frozen=True)
class Rename(Edit):
    """An object gets another name."""

    KIND = "rename"
    id: int
    name: str


@dataclass(frozen=True)
class Move(Edit):
    """An object is turned and scaled about a pivot, and moved."""

    KIND = "move"
    ids: tuple[int, ...]
    by: Similarity


@dataclass(frozen=True)
class Duplicate(Edit):
    """A copy of an object, in the same place, as an object of its own."""

    KIND = "duplicate"
    id: int
    new_id: int
    name: str


@dataclass(frozen=True)
class Remove(Edit):
    """Objects are taken out. Behind them there is what the photos saw there: often nothing."""

    KIND = "remove"
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Merge(Edit):
    """Objects become part of another one."""

    KIND = "merge"
    ids: tuple[int, ...]
    into: int


@dataclass(frozen=True, eq=False)
class Assign(Edit):
    """A part of some objects becomes another object, a new one as a rule."""

    KIND = "assign"
    ids: tuple[int, ...]
    """Objects that the part is taken from."""
    region: Region | None
    """None: all of them."""
    to: int
    name: str
    part: bool = False
    """The other object is a part of the first of these."""


@dataclass(frozen=True)
class Swap(Edit):
    """An object is replaced by the splat of a file, which was copied beside the list."""

    KIND = "swap"
    id: int
    file: str
    """Name of a PLY in the folder `edits` beside the list; never a path."""
    place: Similarity
    """From the file's coordinates to the scene's."""


KINDS: dict[str, type[Edit]] = {
    kind.KIND: kind for kind in (Hide, Tint, Rename, Move, Duplicate, Remove, Merge, Assign, Swap)
}


@dataclass(frozen=True, eq=False)
class Step:
    """Edits that are made and undone together."""

    label: str
    """What a person reads, such as "hide cup"."""
    edits: tuple[Edit, ...]
    before: Any = None
    """What was selected before: undone, it is again. Not saved."""


def similarity(value: Any) -> Similarity:
    """Checks what a file or a gizmo says.

    Raises:
        EditError: it is no similarity.
    """
    if isinstance(value, Similarity):
        value = dataclasses.asdict(value)
    if not isinstance(value, dict):
        raise EditError(f"found {excerpt(value)}, expected wxyz, translation, scale and pivot.")
    wxyz = read_numbers(value.get("wxyz", (1, 0, 0, 0)), "wxyz", 4)
    scale = read_numbers([value.get("scale", 1.0)], "scale", 1)[0]
    if sum(x * x for x in wxyz) < 1e-12 or not 1e-4 <= scale <= 1e4:
        raise EditError(
            f"found wxyz {excerpt(wxyz)} and scale {scale}: expected a quaternion, and 0.0001 to 10000."
        )
    translation = read_numbers(value.get("translation", (0, 0, 0)), "translation", 3)
    return Similarity(wxyz, translation, scale, read_numbers(value.get("pivot", (0, 0, 0)), "pivot", 3))  # type: ignore[arg-type]


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise EditError(f"found ids {excerpt(value)}, expected a list of object ids.")
    return tuple(read_integer(i, "id", NO_OBJECT, MAX_ID) for i in value)


def _color(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(min(max(x, 0.0), 1.0) for x in read_numbers(value, "color", 3))


def _file(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set("/\\:")
    if not plain or Path(value).name != value or value.startswith("."):
        raise EditError(f"found the file {excerpt(value)}, expected the name of a PLY in the folder `edits`.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EditError(f"found {excerpt(value)}, expected true or false.")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "ids": _ids,
    "id": lambda v: read_integer(v, "id", 0, MAX_ID),
    "new_id": lambda v: read_integer(v, "new_id", 0, MAX_ID),
    "into": lambda v: read_integer(v, "into", 0, MAX_ID),
    "to": lambda v: read_integer(v, "to", 0, MAX_ID),
    "hidden": _flag,
    "part": _flag,
    "color": _color,
    "strength": lambda v: min(max(read_numbers([v], "strength", 1)[0], 0.0), 1.0),
    "name": clean_name,
    "by": similarity,
    "place": similarity,
    "region": lambda v: None if v is None else Region.from_json(v),
    "file": _file,
}


def edit_from_json(data: Any) -> Edit:
    """An edit from what `Edit.to_json` gave, or a stranger wrote.

    Raises:
        EditError: it is not one.
    """
    name = data.get("edit") if isinstance(data, dict) else None
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise EditError(f"found {excerpt(data)}, expected an edit: one of {', '.join(KINDS)}.")
    names = {each.name for each in dataclasses.fields(kind)}
    required = {each.name for each in dataclasses.fields(kind) if each.default is dataclasses.MISSING}
    given = set(data) - {"edit"}
    if given - names or required - given:
        raise EditError(f"found {kind.KIND} with {sorted(given)}, expected {sorted(names)}.")
    return kind(**{field: _READERS[field](data[field]) for field in given})
