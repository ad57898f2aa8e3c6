"""Edits of objects: hide, tint, rename, move, duplicate, remove, merge, split off, swap; a list that is replayed.

An edit never touches the Gaussians of a scene. The list is folded into an `Arrangement` (which Gaussians are shown, where,
in which tint, as which object), and that makes copies when something is rendered or exported. Objects are named by id, parts of
objects by a `Region`, so that a list made in the middle of a training still holds at its end.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import json
import math
import reprlib
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.objects import ObjectTable, object_colors
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json

FILE_NAME = "edits.json"
"""The list of a run, beside its config.yml."""
MAX_ID = (1 << 31) - 1
MAX_GROWTH = 4
"""Edits may make that many times as many Gaussians as a scene has ..."""
MAX_MORE = 1_000_000
"""... and so many more, for scenes that are small ..."""
MAX_GAUSSIANS = 100_000_000
"""... but never more than that."""
_MAX_FILE = 256 << 20
_MAX_PACKED = 64
"""How many times as large as their text the points of a region may be: those of scenes are once or twice."""
_KEPT = 4
"""Folded lists that are kept: the last, and those before its last steps, which may be undone, or replaced while a gizmo is dragged."""
_MAX_NAME = 200
_LUMINANCE = (0.299, 0.587, 0.114)
_TINT_FLOOR = 0.25
"""What a tint gives to black, as a share of what it gives to white: else nobody would see that a black object is tinted."""
_SH_C0 = 0.28209479177387814


class EditError(GradisegError):
    """An edit, or a file of edits, that cannot be used; the message says which, what was found and what is expected."""


# ------------------------------------------------------------------------------------------------------------ regions


@dataclass(frozen=True, eq=False)
class Region:
    """A set of Gaussians, kept as points: those in it, and those around that are not.

    A Gaussian is in it if the nearest of the points is. For Gaussians that have not moved since, that is exact; those that a
    training has moved, split or added follow their neighbours.
    """

    points: NDArray[np.float32]
    """[P, 3] positions, world units."""
    inside: NDArray[np.bool_]
    """[P]"""

    @classmethod
    def create(cls, means: Tensor, chosen: Tensor, among: Tensor) -> Region:
        """The region of the chosen ones [N] of those in question [N], at positions [N, 3].

        Raises:
            EditError: none is chosen.
        """
        among = among | chosen
        if not bool(chosen.any()):
            raise EditError("a part of an object needs a Gaussian at least: none is selected.")
        points = means[among].detach().cpu().numpy().astype(np.float32)
        inside = chosen[among].cpu().numpy()
        near = _within(points, *_bounds(points[inside]))
        return cls(points[near], inside[near])

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(self.points)

    @cached_property
    def _box(self) -> tuple[NDArray, NDArray]:
        return _bounds(self.points[self.inside])

    def contains(self, means: Tensor, among: Tensor) -> Tensor:
        """Which of those in question, bool [N], at positions [N, 3], are in the region: bool [N]."""
        result = torch.zeros_like(among)
        rows = among.nonzero()[:, 0]
        positions = means.detach()[rows].cpu().numpy()
        near = _within(positions, *self._box)
        if near.any():
            _, nearest = self._tree.query(positions[near], workers=-1)
            found = torch.from_numpy(self.inside[nearest]).to(means.device)
            result[rows[torch.from_numpy(near).to(means.device)]] = found
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "points": _pack(self.points.astype("<f4").tobytes()),
            "inside": _pack(np.packbits(self.inside).tobytes()),
            "count": len(self.points),
        }

    @classmethod
    def from_json(cls, data: Any) -> Region:
        if not isinstance(data, dict) or not {"points", "inside", "count"} <= set(data):
            raise EditError(f"found {_shown(data)}, expected a region with points, inside and count.")
        count = _integer(data["count"], "count", 1, 100_000_000)
        size = len(data["points"]) if isinstance(data["points"], str) else 0
        if 12 * count > _MAX_PACKED * max(size, 16):
            raise EditError(
                f"found a region of {count:,} points in a text of {size:,} characters: expected {12 * count // _MAX_PACKED:,} "
                "at least, positions do not get smaller than that."
            )
        points = np.frombuffer(_unpack(data["points"], 12 * count), "<f4").reshape(count, 3)
        bits = np.frombuffer(_unpack(data["inside"], (count + 7) // 8), np.uint8)
        inside = np.unpackbits(bits, count=count).astype(bool)
        if not np.isfinite(points).all() or not inside.any():
            raise EditError("found a region without a point inside, or with points that are not finite.")
        return cls(points.astype(np.float32), inside)


def _bounds(points: NDArray) -> tuple[NDArray, NDArray]:
    """The box of some points, a fifth larger on every side."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.2 * max(float((high - low).max()), 1e-3)
    return low - margin, high + margin


def _within(points: NDArray, low: NDArray, high: NDArray) -> NDArray[np.bool_]:
    return ((points >= low) & (points <= high)).all(axis=1)


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _unpack(text: Any, expected: int) -> bytes:
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), expected + 1)
    except (ValueError, TypeError, zlib.error):
        data = b""
    if len(data) != expected:
        raise EditError(f"found packed data that is damaged: expected {expected} bytes.")
    return data


# -------------------------------------------------------------------------------------------------------------- edits


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
    """One thing that is changed about objects."""

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
    region: Region
    to: int
    name: str


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


_T = TypeVar("_T")


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 40


def _shown(value: Any) -> str:
    """A value of others in a message: of lists in lists and of long ones the beginning."""
    text = _short.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _integer(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise EditError(f"found {name} {_shown(value)}, expected an integer from {low} to {high}.")
    return value


def _numbers(value: Any, name: str, count: int, limit: float = 1e6) -> tuple[float, ...]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != count
        or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
        or not all(abs(x) <= limit for x in value)  # an integer may be too large for a float
    ):
        raise EditError(f"found {name} {_shown(value)}, expected {count} finite numbers.")
    return tuple(float(x) for x in value)


def clean_name(value: Any) -> str:
    """A name as it may be shown: one line, no control characters, at most 200 characters.

    Raises:
        EditError: it is no text, or nothing is left of it.
    """
    if not isinstance(value, str):
        raise EditError(f"found the name {_shown(value)}, expected text.")
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split())[:_MAX_NAME]
    if not text:
        raise EditError("found an empty name, expected some text.")
    return text


def similarity(value: Any) -> Similarity:
    """Checks what a file or a gizmo says.

    Raises:
        EditError: it is no similarity.
    """
    if isinstance(value, Similarity):
        value = dataclasses.asdict(value)
    if not isinstance(value, dict):
        raise EditError(f"found {_shown(value)}, expected wxyz, translation, scale and pivot.")
    wxyz = _numbers(value.get("wxyz", (1, 0, 0, 0)), "wxyz", 4)
    scale = _numbers([value.get("scale", 1.0)], "scale", 1)[0]
    if sum(x * x for x in wxyz) < 1e-12 or not 1e-4 <= scale <= 1e4:
        raise EditError(
            f"found wxyz {_shown(wxyz)} and scale {scale}: expected a quaternion, and 0.0001 to 10000."
        )
    translation = _numbers(value.get("translation", (0, 0, 0)), "translation", 3)
    return Similarity(wxyz, translation, scale, _numbers(value.get("pivot", (0, 0, 0)), "pivot", 3))  # type: ignore[arg-type]


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise EditError(f"found ids {_shown(value)}, expected a list of object ids.")
    return tuple(_integer(i, "id", 0, MAX_ID) for i in value)


def _color(value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(min(max(x, 0.0), 1.0) for x in _numbers(value, "color", 3))


def _file(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set("/\\:")
    if not plain or Path(value).name != value or value.startswith("."):
        raise EditError(f"found the file {_shown(value)}, expected the name of a PLY in the folder `edits`.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EditError(f"found {_shown(value)}, expected true or false.")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "ids": _ids,
    "id": lambda v: _integer(v, "id", 0, MAX_ID),
    "new_id": lambda v: _integer(v, "new_id", 0, MAX_ID),
    "into": lambda v: _integer(v, "into", 0, MAX_ID),
    "to": lambda v: _integer(v, "to", 0, MAX_ID),
    "hidden": _flag,
    "color": _color,
    "strength": lambda v: min(max(_numbers([v], "strength", 1)[0], 0.0), 1.0),
    "name": clean_name,
    "by": similarity,
    "place": similarity,
    "region": Region.from_json,
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
        raise EditError(f"found {_shown(data)}, expected an edit: one of {', '.join(KINDS)}.")
    names = {each.name for each in dataclasses.fields(kind)}
    required = {each.name for each in dataclasses.fields(kind) if each.default is dataclasses.MISSING}
    given = set(data) - {"edit"}
    if given - names or required - given:
        raise EditError(f"found {kind.KIND} with {sorted(given)}, expected {sorted(names)}.")
    return kind(**{field: _READERS[field](data[field]) for field in given})


# -------------------------------------------------------------------------------------------------------- arrangement


@dataclass
class Arrangement:
    """What a list of edits makes of N Gaussians: M rows, each a copy of a Gaussian (or of one of a swapped-in splat)."""

    source: Tensor
    """int64 [M]: row among the scene's Gaussians, followed by those of `swapped`."""
    object_ids: Tensor
    """int64 [M]: after all edits."""
    pose: Tensor
    """int64 [M]: row of `poses`."""
    poses: list[NDArray[np.float64]]
    """[3, 4] each, scale R and shift; the first is the identity."""
    tint: Tensor
    """int64 [M]: row of `tints`."""
    tints: list[tuple[tuple[float, float, float], float]]
    """Colour and strength; the first is none."""
    objects: ObjectTable
    """The objects after all edits: also those of which no Gaussian is left, but for removed ones."""
    hidden: frozenset[int]
    swapped: list[Splat]
    base_ids: Tensor
    """int64 [M]: the id that each row's Gaussian had before all edits; -2 for those of swapped-in splats."""
    untouched: bool = False
    """The rows are all Gaussians of the scene, in order."""

    @cached_property
    def visible(self) -> Tensor:
        """bool [M]: not hidden."""
        if not self.hidden:
            return torch.ones_like(self.object_ids, dtype=torch.bool)
        hidden = torch.tensor(sorted(self.hidden), device=self.object_ids.device)
        return ~torch.isin(self.object_ids, hidden)

    def counts(self) -> dict[int, int]:
        """Number of Gaussians of each object, hidden ones too."""
        ids, counts = torch.unique(self.object_ids, return_counts=True)
        known = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        return {i: known.get(i, 0) for i in self.objects.ids}

    def shown(self) -> Arrangement:
        """Without the rows of hidden objects."""
        return self if not self.hidden else self.rows(self.visible)

    def rows(self, chosen: Tensor) -> Arrangement:
        """Only some rows: bool [M]."""
        return dataclasses.replace(
            self,
            source=self.source[chosen],
            object_ids=self.object_ids[chosen],
            pose=self.pose[chosen],
            tint=self.tint[chosen],
            base_ids=self.base_ids[chosen],
            untouched=False,
        )

    def base_means(self, means: Tensor) -> Tensor:
        """Where the rows' Gaussians were before all moves: [M, 3], of the scene's [N, 3]."""
        if self.untouched:
            return means
        return torch.cat([means, *(s.means.to(means) for s in self.swapped)])[self.source]

    def moved_means(self, means: Tensor) -> Tensor:
        """Where the rows' Gaussians are after all moves: [M, 3], of the scene's [N, 3]."""
        result = self.base_means(means).detach().clone()
        for index in range(1, len(self.poses)):
            rows = self.pose == index
            linear = torch.from_numpy(self.poses[index]).to(result)
            result[rows] = result[rows] @ linear[:, :3].T + linear[:, 3]
        return result

    def apply(self, params: Mapping[str, Tensor], *, logits: bool = False) -> dict[str, Tensor]:
        """The rows' parameters, copies where anything differs.

        Args:
            params: splatfacto's gauss_params, of the scene; others than its own (identity) come along, zero for swapped-in
                Gaussians.
            logits: features_dc are logits of plain colours, as splatfacto has them for sh_degree 0.
        """
        result: dict[str, Tensor] = {}
        extra = [splat.to_parameters() for splat in self.swapped]
        for each in extra if logits else ():
            each["features_dc"] = _logits(0.5 + _SH_C0 * each["features_dc"])
        for name, value in params.items():
            if extra:
                value = torch.cat([value, *(_fitting(e.get(name), value, len(e["means"])) for e in extra)])
            result[name] = value if self.untouched else value.index_select(0, self.source)
        for index in range(1, len(self.poses)):
            self._move(result, params, (self.pose == index).nonzero()[:, 0], self.poses[index])
        for index in range(1, len(self.tints)):
            rows = (self.tint == index).nonzero()[:, 0]
            self._tint(result, params, rows, *self.tints[index], logits=logits)
        return result

    def _own(self, result: dict[str, Tensor], params: Mapping[str, Tensor], name: str) -> Tensor:
        """A parameter that may be written to."""
        if result[name] is params.get(name):
            result[name] = result[name].detach().clone()
        return result[name]

    def _move(
        self, result: dict[str, Tensor], params: Mapping[str, Tensor], rows: Tensor, matrix: NDArray
    ) -> None:
        if len(rows) == 0:
            return
        scale = float(np.cbrt(np.linalg.det(matrix[:, :3])))
        rotation = matrix[:, :3] / scale
        means = self._own(result, params, "means")
        linear = torch.from_numpy(matrix).to(means)
        means[rows] = means[rows] @ linear[:, :3].T + linear[:, 3]
        if abs(scale - 1.0) > 1e-9:
            self._own(result, params, "scales")[rows] += math.log(scale)
        if np.abs(rotation - np.eye(3)).max() < 1e-9:
            return
        quats = self._own(result, params, "quats")
        turn = torch.tensor(quaternion(rotation)).to(quats)
        quats[rows] = multiply_quaternions(turn, quats[rows])
        rest = result["features_rest"]
        if rest.shape[1] > 0:
            rest = self._own(result, params, "features_rest")
            rest[rows] = rotate_harmonics(rest[rows], rotation)

    def _tint(
        self,
        result: dict[str, Tensor],
        params: Mapping[str, Tensor],
        rows: Tensor,
        color: Sequence[float],
        strength: float,
        logits: bool,
    ) -> None:
        if len(rows) == 0:
            return
        dc = self._own(result, params, "features_dc")
        target, weights = dc.new_tensor(color), dc.new_tensor(_LUMINANCE)
        # c' = (1 - s) c + s t (f + (1 - f) L(c)): linear in c, so that it holds for the coefficients as well
        matrix = (1 - strength) * torch.eye(3).to(dc) + strength * (1 - _TINT_FLOOR) * torch.outer(
            target, weights
        )
        shift = strength * _TINT_FLOOR * target
        if logits:
            dc[rows] = _logits(dc[rows].sigmoid() @ matrix.T + shift)
            return
        dc[rows] = dc[rows] @ matrix.T + (0.5 * (matrix.sum(dim=1) - 1) + shift) / _SH_C0
        if result["features_rest"].shape[1] > 0:
            rest = self._own(result, params, "features_rest")
            rest[rows] = rest[rows] @ matrix.T


def _logits(colors: Tensor) -> Tensor:
    return torch.logit(colors, eps=1e-4)


def _fitting(value: Tensor | None, like: Tensor, count: int) -> Tensor:
    """A swapped-in splat's parameter in the shape of the scene's: more or fewer harmonics, zeros where it has none."""
    result = like.new_zeros((count, *like.shape[1:]))
    if value is not None:
        value = value.to(like)
        if value.dim() == 3:
            common = min(value.shape[1], result.shape[1])
            result[:, :common] = value[:, :common]
        else:
            result[:] = value
    return result


class _Fold:
    """The rows while edits are folded into them. It refers to none of the scene's tensors, so that it may be kept."""

    def __init__(self, labels: Tensor, objects: ObjectTable, limit: int | None = None) -> None:
        device = labels.device
        self.count = len(labels)
        self.limit = min(MAX_GROWTH * self.count + MAX_MORE, MAX_GAUSSIANS) if limit is None else limit
        self.source = torch.arange(len(labels), device=device)
        self.object_ids = labels.to(torch.int64, copy=True)
        self.base_ids = self.object_ids
        self.pose = torch.zeros_like(self.source)
        self.poses: list[NDArray[np.float64]] = [np.eye(3, 4)]
        self.tint = torch.zeros_like(self.source)
        self.tints: list[tuple[tuple[float, float, float], float]] = [((0.0, 0.0, 0.0), 0.0)]
        self.names = dict(zip(objects.ids, objects.names, strict=True))
        self.colors = {i: tuple(c) for i, c in zip(objects.ids, objects.colors.tolist(), strict=True)}
        self.hidden: set[int] = set()
        self.swapped: list[Splat] = []
        self.files: dict[str, Splat | None] = {}
        self.untouched = True
        self.result: Arrangement | None = None

    def copy(self) -> _Fold:
        """Another one to fold on. Columns are never changed in place, so that they are shared."""
        new = copy.copy(self)
        for name in ("poses", "tints", "names", "colors", "swapped", "files", "hidden"):
            setattr(new, name, copy.copy(getattr(self, name)))
        new.result = None
        return new

    def check(self, more: int, edit: Edit) -> None:
        """Before rows are added.

        Raises:
            EditError: there would be too many.
        """
        rows = len(self.source) + more
        total = max(
            rows, self.count + sum(len(s) for s in self.swapped) + (more if isinstance(edit, Swap) else 0)
        )
        if total > self.limit:
            raise EditError(
                f"{edit.KIND}: this makes {total:,} Gaussians of the scene's {self.count:,}, expected {self.limit:,} at most. "
                "Remove copies, or edits that make copies of copies."
            )

    def arranged(self) -> Arrangement:
        """What the edits so far make; the same object each time."""
        if self.result is None:
            ids = sorted(self.names)
            colors = torch.tensor([self.colors[i] for i in ids], dtype=torch.float32).reshape(-1, 3)
            self.result = Arrangement(
                source=self.source,
                object_ids=self.object_ids,
                pose=self.pose,
                poses=self.poses,
                tint=self.tint,
                tints=self.tints,
                objects=ObjectTable(tuple(ids), tuple(self.names[i] for i in ids), colors),
                hidden=frozenset(self.hidden),
                swapped=self.swapped,
                base_ids=self.base_ids,
                untouched=self.untouched,
            )
        return self.result

    def of(self, ids: Iterable[int]) -> Tensor:
        wanted = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=self.object_ids.device)
        return torch.isin(self.object_ids, wanted)

    def keep(self, rows: Tensor) -> None:
        for name in ("source", "object_ids", "base_ids", "pose", "tint"):
            setattr(self, name, getattr(self, name)[rows])
        self.untouched = False

    def append(self, **columns: Tensor) -> None:
        for name, value in columns.items():
            setattr(self, name, torch.cat([getattr(self, name), value]))
        self.untouched = False

    def add_object(self, id: int, name: str) -> None:
        self.names[id] = name
        self.colors.setdefault(id, tuple(object_colors([id])[0].tolist()))

    def forget(self, ids: Iterable[int]) -> None:
        for id in ids:
            self.names.pop(id, None)
            self.hidden.discard(id)

    def move(self, rows: Tensor, by: NDArray[np.float64]) -> None:
        for old in self.pose[rows].unique().tolist():
            linear, shift = self.poses[old][:, :3], self.poses[old][:, 3]
            moved = by[:, :3] @ shift + by[:, 3]
            self.poses.append(np.concatenate([by[:, :3] @ linear, moved[:, None]], axis=1))
            self.pose = torch.where(rows & (self.pose == old), len(self.poses) - 1, self.pose)


def _fold(fold: _Fold, edit: Edit, means: Tensor, files: Mapping[str, Splat]) -> None:
    """One edit more. Objects that are not there (any more) are passed over.

    Raises:
        EditError: it makes too many Gaussians, or is of an unknown kind.
    """
    if isinstance(edit, Hide):
        known = set(edit.ids) & set(fold.names)
        fold.hidden = fold.hidden | known if edit.hidden else fold.hidden - known
    elif isinstance(edit, Tint):
        rows = fold.of(edit.ids)
        index = 0
        if edit.color is not None and edit.strength > 0:
            fold.tints.append((edit.color, edit.strength))
            index = len(fold.tints) - 1
        fold.tint = torch.where(rows, index, fold.tint)
    elif isinstance(edit, Rename):
        if edit.id in fold.names:
            fold.names[edit.id] = edit.name
    elif isinstance(edit, Move):
        fold.move(fold.of(edit.ids), edit.by.matrix())
    elif isinstance(edit, Duplicate):
        rows = fold.of([edit.id]).nonzero()[:, 0]
        fold.check(len(rows), edit)
        fold.add_object(edit.new_id, edit.name)
        fold.append(
            source=fold.source[rows],
            object_ids=torch.full_like(rows, edit.new_id),
            base_ids=fold.base_ids[rows],
            pose=fold.pose[rows],
            tint=fold.tint[rows],
        )
    elif isinstance(edit, Remove):
        rows = fold.of(edit.ids)
        if bool(rows.any()):
            fold.keep(~rows)
        fold.forget(edit.ids)
    elif isinstance(edit, Merge):
        others = set(edit.ids) - {edit.into}
        fold.object_ids = torch.where(fold.of(others), edit.into, fold.object_ids)
        fold.add_object(edit.into, fold.names.get(edit.into, f"object {edit.into}"))
        fold.forget(others)
    elif isinstance(edit, Assign):
        means = means.detach()
        if not fold.untouched:
            means = torch.cat([means, *(s.means.to(means) for s in fold.swapped)])[fold.source]
        rows = edit.region.contains(means, fold.of(edit.ids))
        fold.object_ids = torch.where(rows, edit.to, fold.object_ids)
        fold.add_object(edit.to, edit.name)
    elif isinstance(edit, Swap):
        splat = fold.files[edit.file] = files.get(edit.file)
        if splat is None:
            return
        fold.keep(~fold.of([edit.id]))
        fold.check(len(splat), edit)
        start = fold.count + sum(len(s) for s in fold.swapped)
        fold.swapped.append(splat)
        fold.poses.append(edit.place.matrix())
        new = torch.arange(start, start + len(splat), device=fold.source.device)
        fold.append(
            source=new,
            object_ids=torch.full_like(new, edit.id),
            base_ids=torch.full_like(new, -2),
            pose=torch.full_like(new, len(fold.poses) - 1),
            tint=torch.zeros_like(new),
        )
    else:
        raise EditError(f"unknown edit {type(edit).__name__}.")


def rows_before(labels: Tensor, objects: ObjectTable, limit: int | None = None) -> _Fold:
    """The rows before all edits, for `Folds.arrange`; arguments as of `arrange`."""
    return _Fold(labels, objects, limit)


class Folds:
    """The last lists that were folded, each with what it came to: a list with some steps more is folded from there on.

    A viewer or a command folds its list after every edit. Several threads may use one of these.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, list[tuple[tuple[Step, ...], _Fold]]] = (None, [])

    def arrange(
        self,
        key: Any,
        start: Callable[[], _Fold],
        steps: Iterable[Step],
        means: Tensor,
        files: Mapping[str, Splat],
    ) -> Arrangement:
        """As the function of that name.

        Args:
            key: differs if labels, means or objects differ.
            start: gives the rows before all edits.
        """
        wanted = tuple(steps)
        known, kept = self._kept
        kept = [
            (done, fold)
            for done, fold in (kept if known == key else ())
            if wanted[: len(done)] == done
            and all(files.get(name) is splat for name, splat in fold.files.items())
        ] or [((), start())]
        done, fold = kept[-1]
        for number in range(len(done), len(wanted)):
            fold = fold.copy()
            for edit in wanted[number].edits:
                _fold(fold, edit, means, files)
            kept = [*kept[1 - _KEPT :], (wanted[: number + 1], fold)]
        self._kept = (key, kept)
        return fold.arranged()

    def forget(self, _: Any = None) -> None:
        """Keep nothing."""
        self._kept = (None, [])


_recent = Folds()


def arrange(
    labels: Tensor,
    means: Tensor,
    objects: ObjectTable,
    steps: Iterable[Step],
    files: Mapping[str, Splat] | None = None,
    *,
    limit: int | None = None,
) -> Arrangement:
    """Fold a list of edits. The last list of a scene is remembered: with some steps more it is folded from there on.

    Args:
        labels: [N] object ids of the scene's Gaussians.
        means: [N, 3] their positions.
        objects: the scene's objects.
        steps: the edits, in order. Objects that do not exist are passed over.
        files: splats of `Swap` by file name; those that are missing leave the object as it is.
        limit: Gaussians that there may be in the end; by default `MAX_GROWTH` times as many as there are, and `MAX_MORE`.

    Returns:
        M rows. Not to be changed: who asks again may be given the same.

    Raises:
        EditError: the edits make more Gaussians than that; nothing of them is made.
    """
    scene = (labels, means, objects)
    versions = tuple(t._version if not t.is_inference() else 0 for t in (labels, means))
    key = (*(_Same(each) for each in scene), versions, limit)
    return _recent.arrange(key, lambda: rows_before(labels, objects, limit), steps, means, files or {})


class _Same:
    """An object by its identity, which this does not keep alive."""

    def __init__(self, value: Any) -> None:
        self.value = weakref.ref(value, _recent.forget)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value() is not None and self.value() is other.value()

    __hash__ = object.__hash__


def edited_splat(
    splat: Splat, objects: ObjectTable, steps: Iterable[Step], files: Mapping[str, Splat]
) -> tuple[Splat, Arrangement]:
    """A splat with labels as its edits make it, without what is hidden; its labels are those after the edits."""
    if splat.labels is None:
        raise EditError("edits need a splat with object ids.")
    arrangement = arrange(splat.labels, splat.means, objects, steps, files).shown()
    params = arrangement.apply(splat.to_parameters())
    extra = {
        name: torch.cat([value, *(value.new_zeros(len(s)) for s in arrangement.swapped)])[arrangement.source]
        for name, value in splat.extra.items()
    }
    edited = Splat.from_parameters(params, antialiased=splat.antialiased)
    return dataclasses.replace(
        edited,
        labels=arrangement.object_ids.to(torch.int32),
        extra=extra,
        frame=splat.frame,
        up=splat.up,
        offset=splat.offset,
    ), arrangement


# ----------------------------------------------------------------------------------------------------------- rotations


def rotation_matrix(wxyz: Sequence[float]) -> NDArray[np.float64]:
    """[3, 3] of a quaternion, w first, of any length."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(rotation: NDArray) -> tuple[float, float, float, float]:
    """w x y z of a rotation matrix [3, 3]."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(w), float(x), float(y), float(z)


def multiply_quaternions(a: Tensor, b: Tensor) -> Tensor:
    """a b: first b, then a. [4] or [N, 4] each, w first."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def rotate_harmonics(rest: Tensor, rotation: NDArray) -> Tensor:
    """Coefficients [M, K, 3] of the spherical harmonics from degree 1 on, turned by a rotation matrix.

    c' with sum_k c'_k Y_k(d) = sum_k c_k Y_k(R^T d): a matrix for each degree, found by solving that for more directions than
    there are functions.
    """
    result = rest.clone()
    directions = _directions()
    there = _harmonics(directions)
    turned = _harmonics(directions @ torch.from_numpy(rotation).to(directions))
    for degree in (1, 2, 3):
        band = slice(degree * degree, (degree + 1) ** 2)
        if rest.shape[1] < band.stop - 1:
            break
        matrix = torch.linalg.lstsq(there[:, band].double(), turned[:, band].double()).solution.to(rest)
        own = slice(band.start - 1, band.stop - 1)
        result[:, own] = torch.einsum("kl,mlc->mkc", matrix, rest[:, own])
    return result


def _directions() -> Tensor:
    """[64, 3] unit vectors all around."""
    index = torch.arange(64, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / 64
    angle = index * math.pi * (1 + 5**0.5)
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1).float()


def _harmonics(directions: Tensor) -> Tensor:
    """The values [P, 16] of the harmonics up to degree 3, as the rasteriser has them."""
    count = len(directions)
    coefficients = torch.eye(16).repeat(count, 1)[..., None].expand(-1, -1, 3)
    rows = directions.repeat_interleave(16, dim=0)
    return rendering.spherical_harmonics(3, rows, coefficients.contiguous())[:, 0].reshape(count, 16)


# --------------------------------------------------------------------------------------------------------------- list


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
        used = set(objects.ids)
        for step in (*self.steps, *self.undone):
            for edit in step.edits:
                used.update(_named_by(edit))
        return max(used, default=0) + 1

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
            if path.stat().st_size > _MAX_FILE:
                raise EditError(f"{path} has {path.stat().st_size} bytes, expected {_MAX_FILE} at most.")
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
                    raise EditError(f"found {_shown(step)}, expected label and edits.")
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


def _labels(steps: Sequence[Step]) -> str:
    """The last steps of a list in words, in brackets; nothing if there is none."""
    if not steps:
        return ""
    return f" ({'..., ' if len(steps) > 3 else ''}{', '.join(step.label for step in steps[-3:])})"


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
    from gradiseg_ns.scene.ply import PlyError, read_ply

    if folder is None:
        raise EditError(f"{origin} swaps in {name}, which was not sent along: load it from the run's folder.")
    path = folder / "edits" / name
    if path.is_symlink():
        raise EditError(f"{path} is a link: expected the PLY itself.")
    try:
        return read_ply(path)
    except PlyError as error:
        raise EditError(f"{origin} swaps in {name}: {error}") from error
