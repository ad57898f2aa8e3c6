"""The objects of a scene as the panel lists them, and the selection in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.scene.objects import NO_OBJECT, NO_OBJECT_NAME, ObjectTable
from gradiseg_ns.viewer.live_scene import LiveScene

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel


_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ObjectRow:
    """An object in the panel's list, or what belongs to none."""

    id: int
    """`NO_OBJECT` for what belongs to none."""
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
    """All objects, in order of their ids, and after them what belongs to none, if there is anything."""
    selected: str
    """The selection in words."""
    centre: tuple[float, float, float] | None
    """The middle of the selection as it is now, world units; None if nothing is selected, or it has no Gaussian."""
    geometry: Hashable
    """Differs from another snapshot's if the scene's Gaussians do."""
    parts: bool = False
    """Whether objects have parts that are known."""


class Listing:
    """Makes snapshots of a scene. What has not changed since the last one is not computed again."""

    def __init__(self, scene: LiveScene) -> None:
        self._scene = scene
        self._confidence: tuple[Hashable, Tensor] | None = None
        self._summary: tuple[Arrangement, Tensor | None, dict[int, int], dict[int, float]] | None = None

    def snapshot(self) -> Snapshot:
        """Objects, selection and its middle, while nothing else changes the model."""
        with self._scene.reading() as model:
            arrangement, selection = model.arrangement(), self._scene.selection
            rows = self._rows(arrangement, self._sure(model))
            parts = "part" in model.strategy_state or bool(arrangement.objects.parents)
            if not selection:
                return Snapshot(rows, "nothing", None, model._geometry_key, parts)
            chosen = selection.rows(arrangement, model.means)
            names = listed(arrangement.objects, selection.ids)
            part = "part of " if selection.region is not None else ""
            if selection.ids == (NO_OBJECT,):
                part, names = ("a new object", "") if part else ("", f"what has {NO_OBJECT_NAME}")
            words = f"{part}{names} ({int(chosen.sum()):,} Gaussians)"
            return Snapshot(rows, words, _middle(model, arrangement, chosen), model._geometry_key, parts)

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
        table, selection = arrangement.objects, self._scene.selection
        selected = set(selection.ids) if selection.region is None else set(selection.ids) - {NO_OBJECT}
        rows = [
            ObjectRow(i, name, tuple(color), counts[i], mean.get(i), i in arrangement.hidden, i in selected)
            for i, name, color in zip(table.ids, table.names, table.colors.tolist(), strict=True)
        ]
        if arrangement.unassigned:
            state = (NO_OBJECT in arrangement.hidden, NO_OBJECT in selected)
            rows.append(ObjectRow(NO_OBJECT, NO_OBJECT_NAME, _GREY, arrangement.unassigned, None, *state))
        return rows


def listed(table: ObjectTable, ids: Sequence[int]) -> str:
    """The names of some objects, the first three of them."""
    names = {NO_OBJECT: NO_OBJECT_NAME, **dict(zip(table.ids, table.names, strict=True))}
    found = [names.get(i, f"object {i}") for i in ids]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


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
