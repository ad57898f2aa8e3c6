"""Clean cut-outs: find and shorten Gaussians that reach out of their object.

*Overshoot.* A Gaussian of an object may reach out of it. In front of a background that wins the pixel this costs nothing. In
a cut-out, alone on black, it is a spike. The ends of each axis, mu +- r s_a R_a, are projected into every view that sees
the Gaussian with its own object at its centre. An end overshoots if it lies in another object's pixels in most views.

Hidden Gaussians, which no view constrains, are removed by their weight in all views (``GradisegModel.prune_rarely_seen``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.densification import rotation_matrices

REACH = 1.5
"""r: where an axis ends, in standard deviations; an opaque Gaussian is a third opaque there."""
MOST_VIEWS = 0.6
"""An end overshoots if it lies in another object in more than this share of the views that can judge it."""
MIN_VIEWS = 2
MIN_PIXELS = 1.0
"""A view can judge an end only if the end is farther from the centre than this, in pixels."""
DEPTH_MARGIN = 0.02
"""A point is hidden if the view's depth there is smaller by more than this share of the point's depth."""
KEPT = 0.5
"""Share of an overshooting half axis that is kept each time."""


@dataclass(frozen=True)
class Overshoot:
    """For each end of each axis, the number of views in which it lies outside its Gaussian's object."""

    outside: Tensor
    """int64 [N, 3, 2]: number of views in which the end at -r and the end at +r lie in another object."""
    views: Tensor
    """int64 [N, 3, 2]: number of views that can judge the end."""

    def ends(self, share: float = MOST_VIEWS) -> Tensor:
        """Ends that overshoot in more than ``share`` of at least `MIN_VIEWS` views: bool [N, 3, 2]."""
        return (self.views >= MIN_VIEWS) & (self.outside > share * self.views)


def axis_ends(gaussians: rendering.Gaussians, reach: float = REACH) -> Tensor:
    """Ends of the axes, mu -+ r s_a R_a: [N, 3, 2, 3], world units."""
    axes = rotation_matrices(gaussians.quats).transpose(1, 2) * (reach * gaussians.scales)[..., None]
    return gaussians.means[:, None, None] + torch.stack([-axes, axes], dim=2)


@torch.no_grad()
def find_overshoot(
    gaussians: rendering.Gaussians,
    gaussian_classes: Tensor,
    views: Iterable[tuple[rendering.Camera, Tensor, Tensor]],
) -> Overshoot:
    """Check the ends of all axes in all views.

    Args:
        gaussians: N Gaussians.
        gaussian_classes: int64 [N] their classes, negative if unknown.
        views: cameras with maps of classes int64 [H, W] (negative without label) and the scene's depth [H, W].
    """
    ends = axis_ends(gaussians)
    count = len(ends)
    outside = torch.zeros(count, 3, 2, dtype=torch.int64, device=ends.device)
    seen = torch.zeros_like(outside)
    for camera, classes, depth in views:
        centre, own, visible = _look(gaussians.means, camera, classes, depth)
        rows = (visible & (own == gaussian_classes) & (gaussian_classes >= 0)).nonzero()[:, 0]
        pixel, classes_there, visible_there = _look(ends[rows], camera, classes, depth)
        far = (pixel - centre[rows, None, None]).norm(dim=-1) > MIN_PIXELS
        say = far & visible_there & (classes_there >= 0)
        seen[rows] += say
        outside[rows] += say & (classes_there != gaussian_classes[rows, None, None])
    return Overshoot(outside, seen)


@torch.no_grad()
def standing(points: Tensor, count: int, views: Iterable[tuple[rendering.Camera, Tensor, Tensor]]) -> Tensor:
    """The class in which most of the views that see a point have it: int64 [N], -1 where no view tells.

    Args:
        points: [N, 3].
        count: number of classes.
        views: as for :func:`find_overshoot`.
    """
    votes = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    for camera, classes, depth in views:
        _, there, _ = _look(points, camera, classes, depth)
        rows = (there >= 0).nonzero()[:, 0]
        votes[rows, there[rows].long()] += 1
    return torch.where(votes.sum(dim=1) > 0, votes.argmax(dim=1), -1)


def _look(
    points: Tensor, camera: rendering.Camera, classes: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For points [..., 3]: their pixel positions, the classes there (-1 if the point is hidden), and whether the view sees them."""
    local = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    z = local[..., 2]
    pixel = local[..., :2] / z.clamp(min=1e-6)[..., None] * camera.K.diagonal()[:2] + camera.K[:2, 2]
    column, row = pixel.floor().long().unbind(-1)
    inside = (z > 0.01) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    at = (row * camera.width + column).clamp(0, classes.numel() - 1).where(inside, 0)
    visible = inside & (depth.reshape(-1)[at] >= z * (1 - DEPTH_MARGIN))
    return pixel, torch.where(visible, classes.reshape(-1)[at], IGNORE), visible


@torch.no_grad()
def draw_in(
    means: Tensor, quats: Tensor, scales: Tensor, ends: Tensor, *, kept: float = KEPT
) -> tuple[Tensor, Tensor]:
    """Shorten Gaussians at their overshooting ends.

    A half axis from the centre to an overshooting end keeps ``kept`` of its length. The centre moves to the middle of the
    shortened axis, so the other end stays in its place.

    Args:
        means: [N, 3].
        quats: [N, 4].
        scales: [N, 3] logarithms of standard deviations.
        ends: bool [N, 3, 2], as :meth:`Overshoot.ends`.

    Returns:
        means [N, 3] and scales [N, 3], new tensors.
    """
    halves = torch.where(
        ends, scales.new_tensor(kept), scales.new_tensor(1.0)
    )  # of r s, before and behind the centre
    shrink = halves.mean(dim=-1)
    shift = (halves[..., 1] - halves[..., 0]) / 2 * REACH * scales.exp()
    moved = means + torch.einsum("nij,nj->ni", rotation_matrices(quats), shift)
    return moved, scales + shrink.log()
