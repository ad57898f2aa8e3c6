"""The 3-D loss: neighbouring Gaussians should have one identity (GradiSeg, section 3.5, equations 3 and 4).

Global KNN takes the K nearest Gaussians. LA-KNN (local adaptive) looks in one direction only, against the
gradient of the Gaussian's position, u_i = -grad_{p_i} L / |grad_{p_i} L|, and takes the K Gaussians with the
smallest positive projection d = (p' - p_i) . u_i (equation 4).

Taken literally over all Gaussians, equation 4 picks points of a thin slab at any lateral distance. The rule
``local`` therefore takes candidates from a Euclidean neighbourhood first; ``literal`` is kept for the record.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.grouping.search import index_of


def outstanding(gradients: Tensor, outlier: float) -> Tensor:
    """Position gradients [M, 3] with those set to zero that are not above ``outlier`` medians of their norms.

    Away from boundaries the gradient is noise, and so is its direction.
    """
    if outlier <= 0 or len(gradients) == 0:
        return gradients
    norms = gradients.norm(dim=-1)
    # The median of those above 0, by sorting: picking them out would make the host wait for the device.
    active = norms > 0
    middle = (active.sum() - 1).clamp(min=0) // 2
    median = torch.where(active, norms, torch.inf).sort().values.gather(0, middle[None])
    return torch.where((norms > outlier * median)[:, None], gradients, 0.0)


def directional_neighbors(
    means: Tensor, targets: Tensor, directions: Tensor, candidates: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """LA-KNN among candidates: the ``count`` smallest positive projections on the direction (equation 4).

    Args:
        means: [N, 3] centres.
        targets: [M] indices.
        directions: [M, 3] neighbouring directions u_i, of any length; a zero row has no direction.
        candidates: [M, C] indices of the Euclidean neighbourhood, nearest first.
        count: K.

    Returns:
        neighbours int64 [M, K] and bool [M, K], which of them exist. A target without direction keeps its
        nearest candidates: no gradient means that nothing is known about a side to prefer.
    """
    count = min(count, candidates.shape[1])
    direction = F.normalize(directions, dim=-1)
    offsets = means[candidates] - means[targets][:, None]  # (x - p) first: u.x - u.p would cancel
    projection = (offsets * direction[:, None]).sum(-1)
    known = directions.abs().amax(-1) > 0
    rank = torch.arange(candidates.shape[1], device=means.device, dtype=projection.dtype).expand_as(
        projection
    )
    order = torch.where(known[:, None], projection, rank + 1.0)
    order = torch.where(order > 0, order, torch.full_like(order, torch.inf))
    smallest, index = order.topk(count, dim=1, largest=False)
    return candidates.gather(1, index), torch.isfinite(smallest)


def literal_directional_neighbors(
    means: Tensor, targets: Tensor, directions: Tensor, count: int, *, chunk: int = 1 << 24
) -> tuple[Tensor, Tensor]:
    """Equation 4 over *all* Gaussians, as printed. Same shapes as :func:`directional_neighbors`."""
    direction = F.normalize(directions, dim=-1)
    rows = max(1, chunk // max(1, len(means)))
    neighbors, valid = [], []
    for part, unit in zip(targets.split(rows), direction.split(rows), strict=True):
        projection = ((means[None] - means[part][:, None]) * unit[:, None]).sum(-1)
        projection = torch.where(projection > 0, projection, torch.full_like(projection, torch.inf))
        smallest, index = projection.topk(min(count, len(means)), dim=1, largest=False)
        neighbors.append(index)
        valid.append(torch.isfinite(smallest))
    return torch.cat(neighbors), torch.cat(valid)


def neighbor_loss(target_logits: Tensor, neighbor_logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_3d = 1/(MK) sum_i sum_j F(e_i) log(F(e_i) / F(e_j)), with F = softmax of the classifier (equation 3).

    Args:
        target_logits: [M, C].
        neighbor_logits: [M, K, C].
        valid: bool [M, K], which neighbours exist; all if None.

    Returns:
        a scalar, the mean over the neighbours that exist; zero if there are none.
    """
    target = F.log_softmax(target_logits, dim=-1)
    neighbor = F.log_softmax(neighbor_logits, dim=-1)
    divergence = (target.exp()[:, None] * (target[:, None] - neighbor)).sum(-1)
    if valid is None:
        return divergence.mean() if divergence.numel() else target_logits.sum() * 0.0
    return (divergence * valid).sum() / valid.sum().clamp(min=1)


class NeighborSampler:
    """Draws M Gaussians a step and knows their Euclidean neighbours, at a bounded cost a step.

    The index and the neighbours of a pool of M * period targets (of all N, if those are fewer) are made once for
    ``period`` steps, and again when the number of Gaussians changes.

    Args:
        samples: M, targets a step.
        candidates: neighbours to know of each target.
        period: steps for which one snapshot of the centres serves.
    """

    def __init__(self, samples: int, candidates: int, period: int = 100) -> None:
        self.samples = samples
        self.candidates = candidates
        self.period = period
        self._generator = torch.Generator().manual_seed(0)
        self._count = -1
        self._position = 0
        self._pool: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_count": -1}

    @torch.no_grad()
    def draw(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [M] and their neighbours [M, candidates], on the device of ``means`` [N, 3]."""
        count = len(means)
        if count != self._count or self._pool is None or self._position >= self.period:
            targets = torch.randint(
                count, (self.samples * self.period,), generator=self._generator, device="cpu"
            ).to(means.device)
            known = targets if len(targets) <= count else torch.arange(count, device=means.device)
            self._pool = targets, index_of(means).nearest(means[known], self.candidates, own=known)
            self._count, self._position = count, 0
        part = slice(self._position * self.samples, (self._position + 1) * self.samples)
        self._position += 1
        targets, neighbors = self._pool
        if len(targets) <= count:
            return targets[part], neighbors[part]
        return targets[part], neighbors[targets[part]]
