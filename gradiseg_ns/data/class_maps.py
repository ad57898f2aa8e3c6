"""Maps of classes: what a training keeps of its id maps.

A class is the place of an object's id in the table of the scene's objects. Who trains compares classes in every step, and reads
ids in none: so ids become classes once, when the maps are loaded, and again only if the table changes.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

ID_MAP, CLASS_MAP = "id_map", "class_map"
"""Keys of a view's map: object ids [H, W, 1], or classes [H, W]. A view has one of them."""


class Numbering(Protocol):
    """Which id has which class: :class:`gradiseg_ns.scene.objects.ObjectTable` is one."""

    def classes_of(self, ids: Tensor) -> Tensor:
        """Classes int64 of ids, any shape; `IGNORE` for ids that have none."""
        ...

    def ids_of(self, classes: Tensor) -> Tensor:
        """Ids int64 of classes, any shape; `IGNORE` stays."""
        ...


def compact(values: Tensor) -> Tensor:
    """Ids or classes in 16 bits if they fit, else in 32: all views are kept."""
    fits = values.numel() == 0 or int(values.max()) <= torch.iinfo(torch.int16).max
    return values.to(torch.int16 if fits else torch.int32)


def renumber(item: dict[str, Tensor], before: Numbering | None, after: Numbering | None) -> None:
    """Change the numbering of a view's map, in place and on its device. There is one map before and after.

    Args:
        item: with ``id_map`` [H, W, 1] if ``before`` is None, else with ``class_map`` [H, W].
        before: the numbering of the map; None: it holds ids.
        after: the numbering that it gets; None: it gets ids. Ids that ``before`` does not know are lost, and are `IGNORE` then.
    """
    ids = item.pop(ID_MAP)[..., 0] if before is None else before.ids_of(item.pop(CLASS_MAP))
    if after is None:
        item[ID_MAP] = compact(ids)[..., None]
    else:
        item[CLASS_MAP] = compact(after.classes_of(ids))


def downscaled(classes: Tensor, factor: int) -> Tensor:
    """A map of classes [H, W] at 1 / factor of its size, [H // factor, W // factor].

    Pixel centres are sampled, never averaged: there is no class between two classes.
    """
    if factor == 1:
        return classes
    height, width = classes.shape[0] // factor, classes.shape[1] // factor
    return classes[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
