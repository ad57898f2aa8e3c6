"""Two losses that clean what no pixel of its own object shows.

*Foreign weight.* In a pixel of class c, the blending weight of Gaussians of other classes. L_2d is content when c has the most weight;
a cut-out shows the rest. One more channel does it for all classes at once: every class gets a random sign s in every step, and with
m = sum_i w_i s(label_i) the value alpha - s(c) m is twice the weight of the classes of the other sign, and on average over the
signs the weight of all other classes. Classes without a hull, which the border of most pictures cuts off (a table, the room), are
what objects stand in. Nobody cuts them out, and what one of them adds to a pixel of another is often the shine on a table. So they have one
sign together.

*Space.* Samples of Gaussians that fall where their object cannot be: into space that views have seen to be empty, into voxels that
are another object's by the surface points of the views, or out of the hull of their object (`hull`). Where a sample falls cannot be
differentiated, so centres and extents learn by the score of the samples, and opacities directly:

    L = E[bad(x) o],   dL = E[bad(x) (do + o d log N(x; mu, Sigma))]

Both are the ideas of published cut-out losses, in a form that costs one channel and some thousand look-ups a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.hull import Hulls
from gradiseg_ns.grouping.densification import rotation_matrices

VOXELS = 128
"""Voxels along the longest side of the box."""
MIN_EMPTY = 3
"""A voxel is empty if at least this number of views see through it, and no view sees a surface in it."""
SAMPLES = 4096
EMPTY, UNKNOWN = -2, -1
WIDE = 0.5
"""Objects wider than this share of everything, such as floor and walls, do not count for the box."""


def class_signs(
    classes: int, step: int, device: torch.device | str, surroundings: Tensor | None = None
) -> Tensor:
    """A sign for each class in a step: [C] of 1 and -1. The same step has the same signs.

    Args:
        classes: C.
        step: of the run.
        device: of the result.
        surroundings: bool [C], classes that are no objects: all have one sign and are not foreign to each other. None: there are none.
    """
    generator = torch.Generator().manual_seed(step)
    signs = (2.0 * torch.randint(0, 2, (classes,), generator=generator) - 1).to(device)
    if surroundings is None:
        return signs
    first = surroundings.long().argmax(dim=0, keepdim=True)  # the host need not wait for it
    return torch.where(surroundings, signs.index_select(0, first), signs)


def foreign_feature(labels: Tensor, signs: Tensor) -> Tensor:
    """What is blended: [N, 1], the sign of each Gaussian's class; 0 if it is unknown (``labels`` int64 [N], negative)."""
    return torch.where(labels >= 0, signs[labels.clamp(min=0)], 0.0)[:, None]


def foreign_loss(blended: Tensor, weight: Tensor, classes: Tensor, signs: Tensor) -> Tensor:
    """The mean blending weight of other classes, an unbiased estimate from one channel.

    Args:
        blended: [H, W] of :func:`foreign_feature`.
        weight: [H, W] accumulation.
        classes: int64 [H, W], negative where unknown.
        signs: [C].
    """
    known = classes >= 0
    if not bool(known.any()):
        return blended.sum() * 0
    own = signs[classes[known]]
    return (weight[known] - own * blended[known]).mean()


@dataclass(frozen=True)
class SeenSpace:
    """What views say of voxels."""

    low: Tensor
    """[3], world units: the box's corner."""
    size: float
    """Of a voxel, world units."""
    owner: Tensor
    """int16 [X, Y, Z]: the class whose surface is there, EMPTY or UNKNOWN."""

    def bad(self, points: Tensor, classes: Tensor) -> Tensor:
        """Points [M, 3] where an object of their classes, int64 [M], cannot be: bool [M]."""
        at = ((points - self.low) / self.size).floor().long()
        shape = torch.tensor(self.owner.shape, device=at.device)
        inside = ((at >= 0) & (at < shape)).all(dim=1)
        x, y, z = torch.where(inside[:, None], at, 0).unbind(-1)
        owner = self.owner[x, y, z].long()
        return inside & (classes >= 0) & ((owner == EMPTY) | ((owner >= 0) & (owner != classes)))


@torch.no_grad()
def see_space(
    surfaces: dict[int, Tensor],
    views: Sequence[tuple[rendering.Camera, Tensor]],
    voxels: int = VOXELS,
) -> SeenSpace | None:
    """The space of a scene.

    Args:
        surfaces: surface points [P, 3] of each class.
        views: cameras with the depth of what they see, [H, W], inf where nothing is.
        voxels: along the longest side.

    Returns:
        None without surface points.
    """
    if not surfaces:
        return None
    boxes = {k: torch.quantile(p, p.new_tensor([0.01, 0.99]), dim=0) for k, p in surfaces.items()}
    widths = {k: float((box[1] - box[0]).norm()) for k, box in boxes.items()}
    narrow = [k for k, width in widths.items() if width <= WIDE * max(widths.values())] or list(boxes)
    low = torch.stack([boxes[k][0] for k in narrow]).amin(dim=0)
    high = torch.stack([boxes[k][1] for k in narrow]).amax(dim=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    size = float((high - low).max()) / voxels
    shape = [max(1, int(n)) for n in ((high - low) / size).ceil().tolist()]
    total = shape[0] * shape[1] * shape[2]
    best = torch.zeros(total, dtype=torch.int32, device=low.device)
    owner = torch.full((total,), UNKNOWN, dtype=torch.int16, device=low.device)
    for k, points in surfaces.items():
        at = ((points - low) / size).floor().long()
        at = at[((at >= 0) & (at < torch.tensor(shape, device=at.device))).all(dim=1)]
        flat = (at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2]
        count = torch.bincount(flat, minlength=total).int()
        owner = torch.where(count > best, owner.new_tensor(k), owner)
        best = torch.maximum(best, count)
    through = torch.zeros(total, dtype=torch.int16, device=low.device)
    grid = [torch.arange(n, device=low.device) + 0.5 for n in shape]
    centres = torch.stack(torch.meshgrid(*grid, indexing="ij"), dim=-1).reshape(-1, 3) * size + low
    for camera, depth in views:
        local = centres @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        z = local[:, 2]
        pixel = local[:, :2] / z.clamp(min=1e-6)[:, None] * camera.K.diagonal()[:2] + camera.K[:2, 2]
        column, row = pixel.floor().long().unbind(-1)
        there = (z > 0.01) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        at = torch.where(there, row * camera.width + column, 0)
        through += (there & (depth.reshape(-1)[at] > z + 1.5 * size)).short()
    owner = torch.where((owner == UNKNOWN) & (through >= MIN_EMPTY), owner.new_tensor(EMPTY), owner)
    return SeenSpace(low, size, owner.reshape(shape))


def space_loss(
    gaussians: rendering.Gaussians,
    classes: Tensor,
    space: SeenSpace | None,
    hulls: Hulls | None,
    samples: int = SAMPLES,
) -> Tensor:
    """The share of samples, weighted by opacity, that fall where their object cannot be.

    Args:
        gaussians: N Gaussians; the gradient goes to all their tensors.
        classes: int64 [N], negative if unknown.
        space: None: nothing is known of it.
        hulls: None: there are none.
        samples: number of Gaussians drawn, one sample each.
    """
    rows = torch.randint(len(classes), (samples,), device=classes.device)
    means, own = gaussians.means.index_select(0, rows), classes[rows]
    scales = gaussians.scales.index_select(0, rows)
    axes = rotation_matrices(gaussians.quats.index_select(0, rows))
    with torch.no_grad():
        points = means + torch.einsum("nij,nj->ni", axes, scales * torch.randn_like(scales))
        bad = torch.zeros_like(own, dtype=torch.bool)
        if space is not None:
            bad |= space.bad(points, own)
        if hulls is not None:
            bad |= hulls.beyond(points, own) > 0
    offset = torch.einsum("nij,ni->nj", axes, points - means) / scales
    score = -0.5 * offset.square().sum(dim=1) - scales.log().sum(dim=1)
    opacities = gaussians.opacities.index_select(0, rows)
    return (bad * (opacities + opacities.detach() * (score - score.detach()))).mean()
