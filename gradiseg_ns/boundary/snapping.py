"""Edges of rough id maps, moved to where all views and the photo put them.

The edges of a map that a tracker made jitter by pixels, each view's in another way. The votes of all views average that away, but a
Gaussian that lies across an edge blurs them. The photo knows where the edge is, but not which edge it is. So, near edges only, each
pixel takes the class with the largest mean of the rendered vote shares over the pixels around it that have its colour (a joint
bilateral filter):

    c(p) = argmax_k sum_q exp(-|p - q|^2 / 2 s^2) exp(-|I(p) - I(q)|^2 / 2 r^2) P_k(q),   P_k(q) = sum_i w_iq V_ik / V_i

Where both sides of an edge have one colour this is a mean of P over a few pixels, which leaves a straight edge where it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.refinement import edge_band
from gradiseg_ns.votes.accumulate import Votes
from gradiseg_ns.votes.labels import CHUNK, UNSEEN

REACH = 3
"""Pixels farther than this from an edge keep their class, and the window of the mean reaches so far. At a diagonal of `DIAGONAL`
pixels or less; in larger pictures it grows with them, and the window has holes."""
DIAGONAL = 640
SPREAD = 2.0
"""s, in the same pixels."""
COLOR = 0.03
"""r, of colours in 0 to 1."""
STRONG = 0.2
"""A difference between the colours of two pixels counts for so much at most, in `edge_strength`."""
MIN_SEEN = 0.5
"""Pixels with less weight than this keep their class: the splat says too little."""


def edge_strength(classes: Tensor, photo: Tensor) -> tuple[float, int]:
    """How strong the photo's edges are along those of a map: the sum of the colour differences (at most `STRONG`) between neighbouring
    pixels of two classes, and the number of such pairs. Edges that miss those of the photo have a smaller mean.

    Args:
        classes: int64 [H, W], negative without label; edges of unlabelled pixels do not count.
        photo: [H, W, 3] in 0..1.
    """
    total, count = 0.0, 0
    for axis in (0, 1):
        length = classes.shape[axis] - 1
        one, other = classes.narrow(axis, 1, length), classes.narrow(axis, 0, length)
        edge = (one != other) & (one >= 0) & (other >= 0)
        apart = (photo.narrow(axis, 1, length) - photo.narrow(axis, 0, length)).norm(dim=-1)
        total += float(apart.clamp(max=STRONG)[edge].sum())
        count += int(edge.sum())
    return total, count


@torch.no_grad()
def snapped_classes(
    projection: rendering.Projection, votes: Votes, rendered: Tensor, classes: Tensor, photo: Tensor
) -> Tensor:
    """A map of classes whose edges are snapped.

    Args:
        projection: of N Gaussians by the view's camera.
        votes: [N, K] of all views.
        rendered: int64 [H, W] the classes that the votes render, negative where nothing is.
        classes: int64 [H, W] the view's map, negative without label.
        photo: [H, W, 3] in 0..1.

    Returns:
        int64 [H, W]: `classes`, but for labelled pixels near an edge of it or of ``rendered``. Where less than `MIN_SEEN` of a
        pixel's weight is known it stays.
    """
    step = max(1, round(math.hypot(*classes.shape) / DIAGONAL))
    near = edge_band(classes, REACH * step) | edge_band(rendered, REACH * step)
    rows, columns = (near & (classes >= 0) & (rendered >= 0)).nonzero(as_tuple=True)
    if not len(rows):
        return classes
    places, weights = _window(rows, columns, photo, step)
    best = torch.zeros(len(rows), device=classes.device)
    known, winner = torch.zeros_like(best), torch.full_like(rows, UNSEEN)
    total = votes.total()
    for part in rendered[rendered >= 0].unique().split(CHUNK):
        (maps,), _ = rendering.rasterize(projection, [_shares(votes, total, part)])
        flat, mean = maps.flatten(0, 1), torch.zeros(len(rows), len(part), device=classes.device)
        for place, weight in zip(places, weights, strict=True):
            mean += weight[:, None] * flat[place]
        known += flat[rows * classes.shape[1] + columns].sum(dim=-1)
        value, index = mean.max(dim=-1)
        better = value > best
        best, winner = torch.where(better, value, best), torch.where(better, part[index], winner)
    found = classes.clone()
    found[rows, columns] = torch.where(known >= MIN_SEEN, winner, classes[rows, columns])
    return found


def _window(rows: Tensor, columns: Tensor, photo: Tensor, step: int) -> tuple[list[Tensor], list[Tensor]]:
    """The pixels around M pixels: where they are, counted row by row, int64 [M] each, and how much each counts, [M]."""
    height, width = photo.shape[:2]
    own = photo[rows, columns]
    places, weights = [], []
    for down in range(-REACH, REACH + 1):
        for right in range(-REACH, REACH + 1):
            row = (rows + step * down).clamp(0, height - 1)
            column = (columns + step * right).clamp(0, width - 1)
            apart = (photo[row, column] - own).square().sum(dim=-1) / (2 * COLOR**2)
            apart = apart + (down**2 + right**2) / (2 * SPREAD**2)
            places.append(row * width + column)
            weights.append(torch.exp(-apart))
    return places, weights


def _shares(votes: Votes, total: Tensor, classes: Tensor) -> Tensor:
    """V_ik / V_i of some classes, int64 [C] ascending: [N, C]."""
    place = torch.searchsorted(classes, votes.columns).clamp(max=len(classes) - 1)
    kept = classes[place] == votes.columns
    rows = votes.rows[kept]
    shares = total.new_zeros(len(total), len(classes))
    shares[rows, place[kept]] = votes.weights[kept] / total[rows]
    return shares
