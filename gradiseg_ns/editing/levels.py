"""The selection one level up or down in the tree of parts: the buttons Coarser and Finer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.editing.display import Selection
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.scene.parts import Parts, coarser, finer


def step_selection(
    selection: Selection,
    arrangement: Arrangement,
    means: Tensor,
    labels: Tensor,
    parts: Parts,
    direction: Literal["coarser", "finer"],
    near: int | None = None,
) -> Selection:
    """The selection one level coarser or finer.

    Args:
        selection: what is selected now.
        arrangement: the edits, hidden objects included.
        means: [N, 3] of the scene's Gaussians, before all edits.
        labels: int [N], their objects before all edits.
        parts: of these Gaussians.
        direction: `coarser` takes the object of a part, `finer` a part of an object.
        near: a Gaussian of the scene, such as the one at the last click: `finer` takes its part. Default: the largest part.

    Returns:
        Objects, or a region of some; the same selection if there is nothing coarser or finer.
    """
    source, count = arrangement.source, len(labels)
    rows = selection.rows(arrangement, means) & (
        source < count
    )  # the others are of splats that were swapped in
    chosen = torch.zeros(count, dtype=torch.bool, device=labels.device)
    chosen[source[rows]] = True
    found = coarser(labels, parts, chosen) if direction == "coarser" else finer(labels, parts, chosen, near)
    if torch.equal(found, chosen):
        return selection
    taken = torch.zeros_like(rows)
    inside = source < count
    taken[inside] = found[source[inside]]
    ids = tuple(arrangement.object_ids[taken].unique().tolist())
    known = torch.tensor(ids, dtype=torch.int64, device=arrangement.object_ids.device)
    whole = torch.isin(arrangement.object_ids, known)
    if not bool((whole & ~taken).any()):
        return Selection(ids)
    among = torch.zeros_like(chosen)
    among[source[whole & inside]] = True
    return Selection(ids, Region.create(means, found, among))
