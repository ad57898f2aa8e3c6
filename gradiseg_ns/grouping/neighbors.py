"""The 3-D loss: neighbouring Gaussians should have one identity (GradiSeg, section 3.5, equations 3 and 4).

Global KNN takes the K nearest Gaussians. LA-KNN (local adaptive) looks in one direction only, opposite to the gradient of
the Gaussian's position, u_i = -grad_{p_i} L / |grad_{p_i} L|, and takes the K Gaussians with the
smallest positive projection d = (p' - p_i) . u_i (equation 4).

Over all Gaussians, equation 4 selects points of a thin slab at any lateral distance. So the rule ``local`` takes candidates
from a Euclidean neighbourhood first. The rule ``literal`` is the equation as printed, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.grouping.search import index_of


def outstanding(gradients: Tensor, outlier: float) -> Tensor:
    """Position gradients [M, 3]; those whose norm is not above ``outlier`` times the median of the nonzero norms become zero.

    Away from boundaries the gradient is noise, and so is its direction. An ``outlier`` of 0 keeps all gradients.
    """
    if outlier <= 0 or len(gradients) == 0:
        return gradients
    norms = gradients.norm(dim=-1)
    # The median of the norms above 0, by sorting: a boolean index would make the host wait for the device.
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
        neighbours int64 [M, K], and bool [M, K] that marks those that exist. A target without direction keeps its nearest
        candidates: without a gradient there is no side to prefer.
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
        valid: bool [M, K], the neighbours that exist; None: all.

    Returns:
        a scalar, the mean over the neighbours that exist; zero if there are none.
    """
    target = F.log_softmax(target_logits, dim=-1)
    neighbor = F.log_softmax(neighbor_logits, dim=-1)
    divergence = (target.exp()[:, None] * (target[:, None] - neighbor)).sum(-1)
    if valid is None:
        return divergence.mean() if divergence.numel() else target_logits.sum() * 0.0
    return (divergence * valid).sum() / valid.sum().clamp(min=1)


def neighbor_loss_of_step(
    sampler: NeighborSampler,
    means: Tensor,
    identity: Tensor,
    classifier: Callable[[Tensor], Tensor],
    count: int,
    gradients: Tensor | None,
    outlier: float,
    rule: Literal["local", "literal"] = "local",
) -> Tensor:
    """L_3d of a step: by LA-KNN if position gradients are given, else by global KNN.

    Args:
        sampler: draws the M targets and finds their candidates.
        means: [N, 3] centres.
        identity: [N, D] encodings, in the graph.
        classifier: encodings [..., D] to scores [..., C].
        count: K.
        gradients: [N, 3] position gradient of each Gaussian, averaged over the last views; None for global KNN.
        outlier: see :func:`outstanding`.
        rule: ``local`` is LA-KNN among near Gaussians, ``literal`` equation 4 over all of them.
    """
    means = means.detach()
    targets, candidates = sampler.draw(means)
    neighbors, valid = candidates[:, :count], None
    if gradients is not None:
        directions = -outstanding(gradients[targets], outlier)
        if rule == "literal":
            neighbors, valid = literal_directional_neighbors(means, targets, directions, count)
        else:
            neighbors, valid = directional_neighbors(means, targets, directions, candidates, count)
    chosen = torch.cat([targets, neighbors.reshape(-1)])
    logits = classifier(identity.index_select(0, chosen))
    target_logits, neighbor_logits = logits.split([len(targets), neighbors.numel()])
    return neighbor_loss(target_logits, neighbor_logits.reshape(*neighbors.shape, -1), valid)


class NeighborSampler:
    """Draws M Gaussians in each step and finds their Euclidean neighbours, at a bounded cost per step.

    The index, and the neighbours of a pool of M * period targets (of all N Gaussians, if those are fewer), are made once for
    ``period`` steps. They are made again when the number of Gaussians changes.

    Args:
        samples: M, number of targets in a step.
        candidates: number of neighbours of each target.
        period: number of steps that use one snapshot of the centres.
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
