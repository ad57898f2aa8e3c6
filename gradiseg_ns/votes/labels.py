"""From votes to labels, and from labels back to id maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.votes.accumulate import Votes

UNSEEN = -1
"""Class of a Gaussian that is visible in no labelled pixel."""
CHUNK = 32
"""Number of classes that are rendered at once."""


@dataclass(frozen=True)
class Labels:
    """A class for every Gaussian, and the confidence of the votes."""

    classes: Tensor
    """int64 [N], :data:`UNSEEN` without votes."""
    confidence: Tensor
    """float32 [N] in 0..1: the margin (v_1 - v_2) / sum_k v_k between the two classes with the most votes."""

    @property
    def seen(self) -> Tensor:
        """The Gaussians that have a class: bool [N]."""
        return self.classes >= 0


@dataclass(frozen=True)
class ObjectConfidence:
    """How well the votes of an object's Gaussians agree."""

    gaussians: int
    """Number of Gaussians with its label."""
    purity: float
    """Share of their weight that lies in pixels of the object, 0 to 1."""
    recall: float
    """Share of the weight in the object's pixels that comes from its Gaussians, 0 to 1."""


def majority(votes: Votes) -> Labels:
    """The class with the most votes: label_i = argmax_k V_ik."""
    classes, weights = votes.top(2)
    margin = (weights[:, 0] - weights[:, 1]) / votes.total().clamp(min=torch.finfo(torch.float32).tiny)
    return Labels(classes[:, 0], margin.clamp(0.0, 1.0))


def foreground(votes: Votes, classes: Sequence[int], weight: float = 1.0) -> Tensor:
    """The Gaussians of some classes by the interactive rule of arXiv 2409.11681: v_fg > weight * v_bg.

    Args:
        votes: [N, K].
        classes: the foreground; all other classes are background.
        weight: above 1 selects fewer and surer Gaussians, below 1 selects more.

    Returns:
        bool [N]; Gaussians that were never seen are not foreground.

    Raises:
        ValueError: a class is not one of the K, or the weight is negative.
    """
    if weight < 0 or any(not 0 <= k < votes.shape[1] for k in classes):
        raise ValueError(
            f"foreground: expected classes in 0..{votes.shape[1] - 1} and a weight of at least 0, "
            f"found {list(classes)} and {weight}."
        )
    chosen = torch.zeros(votes.shape[1], dtype=torch.bool, device=votes.rows.device)
    chosen[list(classes)] = True
    inside = votes.column(chosen)
    return (inside > weight * votes.column(~chosen)) & (inside > 0)


def fill_unseen(labels: Labels, means: Tensor, count: int = 5) -> Labels:
    """Give unseen Gaussians the label that most of their nearest seen neighbours have. Their confidence stays 0.

    Args:
        labels: of N Gaussians.
        means: [N, 3].
        count: number of neighbours. If two labels are equally frequent, the label of the nearer neighbour wins.
    """
    from scipy.spatial import KDTree

    seen = labels.seen.nonzero()[:, 0]
    unseen = (~labels.seen & means.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(seen) == 0 or len(unseen) == 0:
        return labels
    count = min(count, len(seen))
    tree = KDTree(means[seen].detach().cpu().numpy())
    found = tree.query(means[unseen].detach().cpu().numpy(), k=count, workers=-1)[1]
    neighbors = labels.classes[seen[torch.as_tensor(found, device=seen.device).reshape(-1, count)]]
    agreeing = (neighbors[:, :, None] == neighbors[:, None, :]).sum(-1)
    nearness = torch.arange(count, 0, -1, device=agreeing.device)
    best = (agreeing * (count + 1) + nearness).argmax(dim=1)
    filled = labels.classes.index_put((unseen,), neighbors.gather(1, best[:, None])[:, 0])
    return Labels(filled, labels.confidence)


def object_confidence(votes: Votes, labels: Labels) -> list[ObjectConfidence]:
    """The confidence of each class: K entries."""
    own = labels.classes[votes.rows]
    weights = votes.weights.double()
    count = votes.shape[1]

    def sums(columns: Tensor, values: Tensor) -> list[float]:
        return values.new_zeros(count).index_add_(0, columns, values).tolist()

    agreeing = own == votes.columns
    inside = sums(votes.columns[agreeing], weights[agreeing])
    labelled = own >= 0
    of_gaussians = sums(own[labelled], weights[labelled])
    of_pixels = votes.per_class().tolist()
    members = torch.bincount(labels.classes[labels.seen], minlength=count).tolist()
    return [
        ObjectConfidence(
            int(n), i / g if g > 0 else 0.0, i / p if p > 0 else 0.0
        )
        for n, i, g, p in zip(members, inside, of_gaussians, of_pixels, strict=True)
    ]  # fmt: skip


@torch.no_grad()
def render_classes(
    projection: rendering.Projection, classes: Tensor, *, min_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Render Gaussians that have one class each: the class with the most weight in each pixel.

    Args:
        projection: of N Gaussians.
        classes: int64 [N], negative for none.
        min_weight: a pixel whose best class has at most this weight gets no class.

    Returns:
        int64 [H, W], -1 for none, and the weight of that class, float32 [H, W].
    """
    visible = classes[projection.radii[0] > 0]
    present = visible[visible >= 0].unique()
    camera = projection.camera
    best = torch.zeros(camera.height, camera.width, device=classes.device)
    winner = torch.full_like(best, UNSEEN, dtype=torch.int64)
    for part in present.split(CHUNK) if len(present) else ():
        hot = (classes[:, None] == part).to(torch.float32)
        (maps,), _ = rendering.rasterize(projection, [hot])
        weight, index = maps.max(dim=-1)
        better = weight > best
        best = torch.where(better, weight, best)
        winner = torch.where(better, part[index], winner)
    return torch.where(best > min_weight, winner, UNSEEN), best
