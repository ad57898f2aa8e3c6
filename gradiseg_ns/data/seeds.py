"""The points from which a run starts."""

from __future__ import annotations

import torch
from torch import Tensor

Points = tuple[Tensor, Tensor]
"""Positions [P, 3], world units, and colours [P, 3] of 0 to 255."""


def with_background(sparse: Points | None, background: Points | None) -> Points | None:
    """Sparse points, and after them those behind the scene (:mod:`gradiseg_ns.data.background`), on the device of the first.

    Nothing is added to sparse points without colours, because all seeds have colours or none has.

    Args:
        sparse: as the files give them; the colours may be missing, [0, 3]. None: there are no points.
        background: None: there are none to add.
    """
    if sparse is None or background is None or len(sparse[1]) != len(sparse[0]):
        return sparse
    places, colors = (
        torch.cat([one.float(), other.to(one.device).float()])
        for one, other in zip(sparse, background, strict=True)
    )
    return places, colors
