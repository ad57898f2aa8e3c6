"""Boundary Gaussians: Gaussians whose pixels belong to more than one object (NG-GS, section on mask variance).

There are two measures of a Gaussian's ambiguity. Both are 0 for a Gaussian of one object and 1 for a Gaussian that two
objects share equally:

- *Impurity* of its votes V_i (:mod:`gradiseg_ns.votes`): min(1, 2 (1 - sum_k p_ik^2)) with p_i = V_i / sum_k V_ik. For two objects it is 4 p (1 - p). It finds a Gaussian that lies across an edge in every view.
- *Mask variance* over views (the paper's): a view's mask value m_ivk is the share of the weight in view v that lies in
  object k; 2 sum_k Var_v(m_ivk). It finds a Gaussian that belongs to one object in some views and to another object in
  others. It misses a Gaussian that the edge halves in all views.

By the law of total variance the impurity of the views' mean shares is the mask variance plus the views' mean impurity. So
with views of equal weight, the impurity finds every Gaussian that the variance finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.votes.accumulate import MIN_WEIGHT, VoteAccumulator, Votes, view_sums

TAU = 0.6
"""The paper's threshold: for two objects, the share of the smaller one is above 0.18."""


@dataclass(frozen=True)
class Ambiguity:
    """How ambiguous N Gaussians are."""

    impurity: Tensor
    """float32 [N] in 0..1."""
    variance: Tensor
    """float32 [N] in 0..1, the mask variance over views."""
    votes: Votes
    """[N, K] what the impurity was taken from."""

    def measured(self, measure: str) -> Tensor:
        """The measure of this name: float32 [N].

        Raises:
            ValueError: another measure than ``impurity`` or ``variance``.
        """
        if measure not in ("impurity", "variance"):
            raise ValueError(f"boundary.measure is {measure!r}: expected impurity or variance.")
        return getattr(self, measure)


def impurity(votes: Votes) -> Tensor:
    """min(1, 2 (1 - sum_k p_k^2)) of every Gaussian's votes: float32 [N]; 0 for a Gaussian that was never seen."""
    total = votes.total()
    share = votes.weights / total[votes.rows].clamp(min=torch.finfo(torch.float32).tiny)
    squares = torch.zeros_like(total).index_add_(0, votes.rows, share.square())
    return torch.where(total > 0, (2 * (1 - squares)).clamp(0.0, 1.0), torch.zeros_like(total))


class AmbiguityAccumulator:
    """Adds up the votes and shares of views; the module explains the two measures.

    Args:
        count: N.
        classes: K.
        device: of the tensors.
    """

    def __init__(self, count: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.device, self.classes = torch.device(device), classes
        self._votes = VoteAccumulator(count, classes, device)
        self._shares = VoteAccumulator(count, classes, device)
        self._squares = torch.zeros(count, device=self.device)
        self._views = torch.zeros(count, device=self.device)

    @torch.no_grad()
    def add(self, projection: rendering.Projection, classes: Tensor) -> None:
        """Add a view.

        Args:
            projection: of the N Gaussians by the view's camera.
            classes: integer [H, W] in 0..K-1, negative where there is no label.

        Raises:
            ValueError: as :func:`view_sums`.
        """
        parts = list(view_sums(projection, classes.to(self.device), self.classes))
        if not parts:
            return
        total = torch.stack([sums.sum(dim=1) for _, sums in parts]).sum(dim=0)
        seen = total > MIN_WEIGHT
        self._views += seen
        for part, sums in parts:
            shares = torch.where(seen[:, None], sums / total.clamp(min=MIN_WEIGHT)[:, None], 0.0)
            self._votes.add_sums(part, sums)
            self._shares.add_sums(part, shares)
            self._squares += shares.square().sum(dim=1)

    def result(self) -> Ambiguity:
        """The ambiguity from the views that were added so far."""
        votes, shares = self._votes.result(), self._shares.result()
        views = self._views.clamp(min=1)
        means = shares.weights / views[shares.rows]
        mean_squares = torch.zeros_like(views).index_add_(0, shares.rows, means.square())
        variance = (2 * (self._squares / views - mean_squares)).clamp(0.0, 1.0)
        return Ambiguity(impurity(votes), variance, votes)


def ambiguity(
    gaussians: rendering.Gaussians,
    views: Iterable[tuple[rendering.Camera, Tensor]],
    classes: int,
) -> Ambiguity:
    """Ambiguity from views with their maps of classes [H, W] (negative: no label), one view after the other."""
    accumulator = AmbiguityAccumulator(len(gaussians.means), classes, gaussians.means.device)
    for camera, maps in views:
        with torch.no_grad():
            projection = rendering.project(gaussians, camera)
        accumulator.add(projection, maps)
    return accumulator.result()
