"""Codes: a unit vector of the identity space for each class. The vectors point as far apart as possible."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spread_codes(count: int, dim: int, *, seed: int = 0) -> Tensor:
    """Unit vectors [count, dim] that point as far apart as possible: the largest c_k . c_j is made small.

    Deterministic. In 16 dimensions the largest is -1/16 for 17 classes, about 0.02 for 20, 0.2 for 62, 0.5 for 1,000.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = F.normalize(torch.randn(count, dim, generator=generator), dim=-1)
    if count < 2:
        return codes
    if count <= dim + 1:  # a simplex: unit axes, moved to their centre, in the space they span
        centred = torch.eye(count) - 1.0 / count
        axes = torch.linalg.svd(centred)[2][: count - 1]
        return F.pad(F.normalize(centred @ axes.T, dim=-1), (0, dim - count + 1))
    steps = 300 if count <= 256 else 100
    for step in range(steps):
        # Each code is pushed away from all others at first, and from the nearest ones only at the end.
        sharpness = 50.0 ** (step / steps)
        close = codes @ codes.T
        close.fill_diagonal_(-1.0)
        codes = F.normalize(codes - 0.1 * torch.softmax(sharpness * close, dim=1) @ codes, dim=-1)
    return codes
