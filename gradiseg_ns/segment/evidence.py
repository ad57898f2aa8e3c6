"""What masks say of Gaussians: a Beta distribution for each, of how likely it belongs to the object.

A view adds the blending weight that a Gaussian has inside of its mask to a, and outside of it to b (the transpose of rendering, as all
votes). A Gaussian near the camera has thousands of pixels there, all from one mask that may be wrong: so the weight of a view saturates, and
views are heard alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradiseg_ns import rendering

PRIOR = 0.1
"""a and b of a Gaussian that no mask was counted for."""
ENOUGH = 1.0
"""Pixels of blending weight in a view at which it has half of its say about a Gaussian."""


@torch.no_grad()
def inside_outside(projection: rendering.Projection, mask: Tensor, known: Tensor | None = None) -> Tensor:
    """Blending weight of Gaussians inside and outside of a mask, in pixels: float32 [N, 2].

    Args:
        projection: of N Gaussians by the view's camera.
        mask: [H, W], bool or 0 to 1.
        known: bool [H, W], pixels that count; all unless given.
    """
    inside = mask.to(torch.float32)
    maps = torch.stack([inside, 1 - inside], dim=-1)
    if known is not None:
        maps = maps * known[..., None].to(maps)
    return rendering.transpose(projection, maps.to(projection.means2d.device))


class Evidence:
    """The Beta distributions of N Gaussians for one object.

    Args:
        count: N.
        device: of the tensors.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.inside = torch.zeros(count, device=device)
        """a - PRIOR, [N]: 1 is about what one view says that sees a Gaussian well."""
        self.outside = torch.zeros(count, device=device)
        """b - PRIOR, [N]."""

    def add(self, sums: Tensor, trust: float = 1.0) -> None:
        """Count a mask.

        Args:
            sums: [N, 2] of `inside_outside`.
            trust: how much its say counts, 0 to 1.
        """
        say = trust / (sums.sum(dim=1) + ENOUGH)
        self.inside += say * sums[:, 0]
        self.outside += say * sums[:, 1]

    @property
    def total(self) -> Tensor:
        """a + b without the prior, [N]: 0 for what no mask was counted for."""
        return self.inside + self.outside

    @property
    def mean(self) -> Tensor:
        """Posterior mean [N], 0 to 1: 0.5 where nothing is known."""
        return (self.inside + PRIOR) / (self.total + 2 * PRIOR)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the posterior [N], 0 to 1: how much more of a say would help."""
        mean = self.mean
        return (mean * (1 - mean) / (self.total + 2 * PRIOR + 1)).sqrt()

    @property
    def selected(self) -> Tensor:
        """bool [N]: more speaks for a Gaussian than against it."""
        return self.inside > self.outside

    @property
    def confidence(self) -> Tensor:
        """[N], 0 to 1: how far the posterior mean is from one half; 0 where nothing is known."""
        return (2 * self.mean - 1).abs()
