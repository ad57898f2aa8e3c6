"""Models that see nothing but colours: what they find can be told in advance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

HUES = {"red": (1.0, 0.0), "blue": (0.0, 1.0), "purple": (1.0, 1.0), "green": (-1.0, -1.0)}
"""Red minus green, and blue minus green, of what the words mean; all other words mean grey."""
GREY = 0.05
"""How colourful grey things may be."""


class Colours:
    """Compares the mean colour of a picture with words for colours."""

    scale = 20.0

    def __init__(self) -> None:
        self.pictures = 0

    def see(self, crops: Sequence[Tensor]) -> Tensor:
        self.pictures += len(crops)
        means = torch.stack([crop.float().mean(dim=(0, 1)) for crop in crops])
        hues = torch.stack([means[:, 0] - means[:, 1], means[:, 2] - means[:, 1]], dim=1)
        return F.normalize(torch.cat([hues, torch.full((len(crops), 1), GREY)], dim=1), dim=1)

    def read(self, phrases: Sequence[str]) -> Tensor:
        rows = []
        for phrase in phrases:
            known = [HUES[word] for word in phrase.split() if word in HUES]
            rows.append([*known[0], 0.0] if known else [0.0, 0.0, 1.0])
        return F.normalize(torch.tensor(rows), dim=1)
