"""A list of edits folded into rows: which Gaussians are shown, where, in which tint, as which object."""

from __future__ import annotations

import copy
import dataclasses
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.editing.edits import (
    Assign,
    Duplicate,
    Edit,
    Hide,
    Merge,
    Move,
    Remove,
    Rename,
    Step,
    Swap,
    Tint,
)
from gradiseg_ns.scene.harmonics import SH_C0, dc_of, rgb_of
from gradiseg_ns.scene.objects import NO_OBJECT, ObjectTable, object_colors
from gradiseg_ns.scene.rotations import multiply_quaternions, quaternion, rotate_harmonics
from gradiseg_ns.scene.splat import Splat

MAX_GROWTH = 4
"""Edits may make that many times as many Gaussians as a scene has ..."""
MAX_MORE = 1_000_000
"""... and so many more, for scenes that are small ..."""
MAX_GAUSSIANS = 100_000_000
"""... but never more than that."""
KEPT = 4
"""Folded lists that are kept: the last, and those before its last steps, which may be undone, or replaced while a gizmo is dragged."""
LUMINANCE = (0.299, 0.587, 0.114)
TINT_FLOOR = 0.25
"""What a tint gives to black, as a share of what it gives to white: else nobody would see that a black object is tinted."""
_T = TypeVar("_T")


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

    @cached_property
    def unassigned(self) -> int:
        """How many rows belong to no object, hidden ones too."""
        return int((self.object_ids == NO_OBJECT).sum())

    def without_hidden(self) -> Arrangement:
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
            each["features_dc"] = dc_of(rgb_of(each["features_dc"]), logits=True)
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
        target, weights = dc.new_tensor(color), dc.new_tensor(LUMINANCE)
        # c' = (1 - s) c + s t (f + (1 - f) L(c)): linear in c, so that it holds for the coefficients as well
        matrix = (1 - strength) * torch.eye(3).to(dc) + strength * (1 - TINT_FLOOR) * torch.outer(
            target, weights
        )
        shift = strength * TINT_FLOOR * target
        if logits:
            dc[rows] = dc_of(rgb_of(dc[rows], logits=True) @ matrix.T + shift, logits=True)
            return
        dc[rows] = dc[rows] @ matrix.T + (0.5 * (matrix.sum(dim=1) - 1) + shift) / SH_C0
        if result["features_rest"].shape[1] > 0:
            rest = self._own(result, params, "features_rest")
            rest[rows] = rest[rows] @ matrix.T


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
        self.parents = dict(objects.parents)
        self.hidden: set[int] = set()
        self.swapped: list[Splat] = []
        self.files: dict[str, Splat | None] = {}
        self.untouched = True
        self.result: Arrangement | None = None

    def copy(self) -> _Fold:
        """Another one to fold on. Columns are never changed in place, so that they are shared."""
        new = copy.copy(self)
        for name in ("poses", "tints", "names", "colors", "parents", "swapped", "files", "hidden"):
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
                objects=ObjectTable(
                    tuple(ids),
                    tuple(self.names[i] for i in ids),
                    colors,
                    {i: parent for i, parent in self.parents.items() if i in self.names},
                ),
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
        known = set(edit.ids) & {NO_OBJECT, *fold.names}
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
        rows = fold.of(edit.ids)
        if edit.region is not None:
            rows = edit.region.contains(means, rows)
        fold.object_ids = torch.where(rows, edit.to, fold.object_ids)
        fold.add_object(edit.to, edit.name)
        if edit.part and edit.ids[0] != edit.to:
            fold.parents[edit.to] = edit.ids[0]
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
            kept = [*kept[1 - KEPT :], (wanted[: number + 1], fold)]
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
        labels: [N] object ids of the scene's Gaussians, `NO_OBJECT` for those of none.
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
    """A splat as its edits make it, without what is hidden; its labels are those after the edits. Without labels, no Gaussian belongs to
    an object before them."""
    if splat.labels is None:
        labels = torch.full((len(splat),), NO_OBJECT, dtype=torch.int32, device=splat.means.device)
        splat = dataclasses.replace(splat, labels=labels)
    assert splat.labels is not None
    arrangement = arrange(splat.labels, splat.means, objects, steps, files).without_hidden()
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


def _labels(steps: Sequence[Step]) -> str:
    """The last steps of a list in words, in brackets; nothing if there is none."""
    if not steps:
        return ""
    return f" ({'..., ' if len(steps) > 3 else ''}{', '.join(step.label for step in steps[-3:])})"
