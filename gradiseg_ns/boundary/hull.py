"""Hulls of objects: how far each object reaches, by what the views see of its surface.

No photo sees the underside of a mug. Gaussians there only have to be right at the rim, so they reach into the table, and a cut-out
shows them. What the views do see of an object bounds it: for many directions d the support

    h(d) = the largest d . x over the surface points x of the object

is known, and the intersection of the half spaces d . x <= h(d) is a hull that has the right underside, even where no view saw it.
Gaussians that reach out of the hull of their object are drawn in to it: they become flat there and close the cut-out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.cleaning import REACH
from gradiseg_ns.boundary.refinement import Patches, pixel_rays
from gradiseg_ns.grouping.densification import rotation_matrices
from gradiseg_ns.scene.rotations import quaternions

DIRECTIONS = 512
"""Evenly spread ones; the axes of the world are added, since nerfstudio turns scenes upright and things stand on flat tables."""
QUANTILE = 0.999
"""The support is this quantile of the points: a few are always wrong, at edges."""
MARGIN = 1.0
"""Pixels by which a Gaussian may reach out, at the typical distance from which its object is seen."""
MIN_POINTS = 200
"""An object with fewer surface points has no hull."""
MAX_POINTS = 30_000
"""Points of an object from which its hull is made, and so the memory."""
SOLID = 0.9
"""Pixels with less accumulation show no surface."""
MOST_CUT = 0.5
"""An object that the picture's border cuts off in more than this share of its views has no hull: its end was not seen."""
ROUNDS = 12
"""A Gaussian may reach out in several directions; it is drawn in along one after the other."""
FLAT = 0.1
"""A Gaussian keeps at least this share of its extent along a direction."""
_CHUNK = 1 << 16
"""Gaussians that are compared with all directions at once."""


@dataclass(frozen=True)
class Hulls:
    """Hulls of C classes over K directions."""

    directions: Tensor
    """[K, 3], unit length."""
    supports: Tensor
    """[C, K], world units; inf for a class without a hull."""
    margins: Tensor
    """[C], world units."""

    @cached_property
    def missing(self) -> Tensor:
        """bool [C], classes without a hull."""
        return torch.isinf(self.supports).all(dim=1)

    def beyond(self, points: Tensor, classes: Tensor) -> Tensor:
        """How far points [M, 3] lie outside the hulls of their classes, int64 [M], beyond the margin: [M] in world units,
        negative inside, -inf without a hull. Differentiable in the points."""
        known = (classes >= 0) & (classes < len(self.supports))
        rows = classes.clamp(0, len(self.supports) - 1)
        distance = (points @ self.directions.T - self.supports[rows]).amax(dim=1) - self.margins[rows]
        return torch.where(known, distance, -torch.inf)

    @torch.no_grad()
    def hold(self, points: Tensor, classes: Tensor, beyond: Tensor | float = 0.0) -> Tensor:
        """Points [M, 3] that lie in the hulls of their classes, int64 [M], or not farther outside than ``beyond`` (one number or [M], world
        units), or whose classes have none: bool [M]."""
        chunks = zip(points.split(_CHUNK), classes.split(_CHUNK), strict=True)
        return torch.cat([self.beyond(*chunk) for chunk in chunks]) <= beyond


class SurfacePoints:
    """Collects the surface points of classes, view by view.

    Args:
        views: number of views to come; an object's points are spread over them.
    """

    def __init__(self, views: int) -> None:
        self._most = max(32, MAX_POINTS // max(1, views))
        self._points: dict[int, list[Tensor]] = {}
        self._footprints: dict[int, list[Tensor]] = {}
        self._cut: dict[int, int] = {}

    @torch.no_grad()
    def add(self, camera: rendering.Camera, classes: Tensor, depth: Tensor, alpha: Tensor) -> None:
        """Add a view.

        Args:
            camera: of the view.
            classes: integer [H, W], negative without label.
            depth: [H, W], world units.
            alpha: [H, W], accumulation.
        """
        for k in torch.cat([classes[0], classes[-1], classes[:, 0], classes[:, -1]]).unique().tolist():
            self._cut[k] = self._cut.get(k, 0) + 1
        at = torch.where((classes >= 0) & (alpha > SOLID))
        order = classes[at].argsort(stable=True)
        found, counts = classes[at][order].unique_consecutive(return_counts=True)
        for k, rows in zip(found.tolist(), order.split(counts.tolist()), strict=True):
            rows = rows[:: -(-len(rows) // self._most)]
            row, column = at[0][rows], at[1][rows]
            z = depth[row, column]
            origin, direction = pixel_rays(camera, Patches(row, column))
            self._points.setdefault(k, []).append(origin + z[:, None] * direction)
            self._footprints.setdefault(k, []).append(z / camera.K[0, 0])

    @property
    def points(self) -> dict[int, Tensor]:
        """The points [P, 3] of each class, world units."""
        return {k: torch.cat(parts) for k, parts in self._points.items()}

    @torch.no_grad()
    def hulls(self, classes: int, margin: float = MARGIN) -> Hulls | None:
        """The hulls of ``classes`` classes, ``margin`` pixels wider than their points; None without points."""
        if not self._points:
            return None
        points_of = self.points
        like = next(iter(points_of.values()))
        axes = torch.eye(3)
        directions = torch.cat([sphere(DIRECTIONS), axes, -axes]).to(like)
        supports = like.new_full((classes, len(directions)), torch.inf)
        margins = like.new_zeros(classes)
        for k, points in points_of.items():
            whole = self._cut.get(k, 0) <= MOST_CUT * len(self._points[k])
            if k >= classes or len(points) < MIN_POINTS or not whole:
                continue
            supports[k] = torch.cat(
                [torch.quantile(points @ some.T, QUANTILE, dim=0) for some in directions.split(64)]
            )
            margins[k] = margin * torch.cat(self._footprints[k]).median()
        return Hulls(directions, supports, margins)


def sphere(count: int) -> Tensor:
    """Directions [count, 3], evenly spread (a Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * index / count, math.pi * (3 - math.sqrt(5)) * index
    level = (1 - height * height).sqrt()
    return torch.stack([level * turn.cos(), level * turn.sin(), height], dim=1).float()


def _extent(covariances: Tensor, directions: Tensor) -> Tensor:
    """Standard deviations along directions: [M, K] of covariances [M, 3, 3] and [K, 3]."""
    return torch.einsum("kd,mdc,kc->mk", directions, covariances, directions).clamp(min=0).sqrt()


@torch.no_grad()
def reaching_out(
    gaussians: rendering.Gaussians, classes: Tensor, hulls: Hulls, reach: float = REACH
) -> Tensor:
    """Gaussians that reach out of their object's hull: bool [N].

    Args:
        gaussians: N Gaussians.
        classes: int64 [N], negative if unknown.
        hulls: of the classes.
        reach: where a Gaussian ends, in standard deviations.
    """
    out = ~hulls.hold(gaussians.means, classes, -reach * gaussians.scales.amax(dim=1))
    rows = out.nonzero()[:, 0]  # those that may
    if len(rows):
        covariances = covariances_of(gaussians, rows)
        out[rows] = _most_beyond(gaussians.means[rows], covariances, classes[rows], hulls, reach)[0] > 0
    return out


def covariances_of(gaussians: rendering.Gaussians, rows: Tensor) -> Tensor:
    """[M, 3, 3] of some rows, int64 [M]."""
    axes = rotation_matrices(gaussians.quats[rows]) * gaussians.scales[rows][:, None]
    return axes @ axes.transpose(1, 2)


def _most_beyond(
    means: Tensor, covariances: Tensor, classes: Tensor, hulls: Hulls, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """By how much Gaussians reach out at most [M], the direction's index [M], and their standard deviation along it [M]."""
    extent = _extent(covariances, hulls.directions)
    over = means @ hulls.directions.T + reach * extent - hulls.supports[classes]
    most, at = over.max(dim=1)
    return most - hulls.margins[classes], at, extent.gather(1, at[:, None])[:, 0]


@torch.no_grad()
def drawn_in(
    gaussians: rendering.Gaussians, classes: Tensor, hulls: Hulls, chosen: Tensor, reach: float = REACH
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians that end at the hulls of their objects.

    Along the direction in which a Gaussian reaches out most, the end outside moves to the hull, the other end stays. This is
    repeated until nothing reaches out, `ROUNDS` times at most.

    Args:
        gaussians: N Gaussians.
        classes: int64 [N].
        hulls: of the classes.
        chosen: bool [N], which ones are drawn in.
        reach: where a Gaussian ends, in standard deviations.

    Returns:
        means [M, 3], quats [M, 4] and scales [M, 3] (standard deviations) of the M chosen ones.
    """
    rows = chosen.nonzero()[:, 0]
    means, covariances = gaussians.means[rows].clone(), covariances_of(gaussians, rows)
    own = classes[rows]
    eye = torch.eye(3, device=means.device)
    for _ in range(ROUNDS):
        over, at, extent = _most_beyond(means, covariances, own, hulls, reach)
        out = (over > 0).nonzero()[:, 0]
        if not len(out):
            break
        direction, deviation = hulls.directions[at[out]], extent[out].clamp(min=1e-9)
        place = (means[out] * direction).sum(dim=1)
        end = hulls.supports[own[out], at[out]] + hulls.margins[own[out]]
        new = ((end - (place - reach * deviation)) / (2 * reach)).clamp(min=FLAT * deviation)
        means[out] += (end - reach * new - place)[:, None] * direction
        change = eye + (new / deviation - 1)[:, None, None] * direction[:, :, None] * direction[:, None, :]
        covariances[out] = change @ covariances[out] @ change.transpose(1, 2)
    values, axes = torch.linalg.eigh(covariances.double())
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    smallest = 1e-4 * values.amax(dim=1, keepdim=True).clamp(min=1e-20)
    return means, quaternions(axes).to(means), values.clamp(min=smallest).sqrt().to(means)
