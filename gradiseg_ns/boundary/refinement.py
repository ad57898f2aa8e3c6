"""Joint optimisation of splat and field at the boundary (NG-GS, section 3.3).

    L = L_align + lambda_id L_id + lambda_m L_mask + lambda_c L_cont + lambda_s L_smth

on patches of 7x7 pixels in which boundary Gaussians are visible. The patches are drawn anew in every step. Their number is
fixed, so the cost of a step does not depend on the picture. The field is queried only on the rays of the patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tyro.conf import Suppress

from gradiseg_ns import rendering
from gradiseg_ns.boundary.field import (
    BoundaryField,
    BoundaryPoints,
    RayValues,
    interpolate,
    kernel,
    volume_render,
)
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.identity import IdentityClassifier, identity_loss

PATCH = 7
"""Edge of a patch in pixels: the paper's window of local variance."""
EDGE = 5
"""Width of the window in which a map of classes has an edge, in pixels."""
SEEN = 0.2
"""A pixel is a boundary pixel if boundary Gaussians have more than this share of its blending weight."""
NEAREST = 1e-3
"""No sample is nearer to the camera than this, in world units."""
REACH = 2.0
"""Samples lie within this number of Gaussian spacings before and behind a surface."""


@dataclass
class RefinerWeights:
    """Weights of the joint losses. The paper publishes no weights."""

    splat: Suppress[float] = 10.0
    """Factor on the gradients from the joint losses into the splat: 1 makes one of their pixels count as much as a pixel of the photo. The field always gets the full gradients."""
    align: Suppress[float] = 1.0
    """Weight of L_align."""
    identity: Suppress[float] = 0.1
    """Weight of L_id, which is L_align for class distributions."""
    mask: Suppress[float] = 1.0
    """lambda_m, the weight of L_mask."""
    photo: Suppress[float] = 1.0
    """Weight of the L1 between the field's colour and the photo."""
    continuity: Suppress[float] = 0.05
    """lambda_c, the weight of L_cont."""
    smoothness: Suppress[float] = 0.05
    """lambda_s, the weight of L_smth."""


class Patches(NamedTuple):
    """Pixels of B patches, R = 49 B."""

    rows: Tensor
    """int64 [R]"""
    columns: Tensor
    """int64 [R]"""


class Rays(NamedTuple):
    """R rays with S samples each."""

    points: Tensor
    """[R * S, 3] world."""
    lengths: Tensor
    """[R, S], world units: the length of the ray's part that a sample represents."""


def draw_patches(seen: Tensor, count: int) -> Patches | None:
    """Patches around random boundary pixels.

    Args:
        seen: bool [H, W], boundary pixels.
        count: number of patches; they may overlap.

    Returns:
        None if there is no boundary pixel, or the picture is smaller than a patch.
    """
    height, width = seen.shape
    half = PATCH // 2
    if height < PATCH or width < PATCH:
        return None
    candidates = seen.reshape(-1).nonzero()[:, 0]
    if len(candidates) == 0:
        return None
    chosen = candidates[torch.randint(len(candidates), (count,), device=seen.device)]
    row = (chosen // width).clamp(half, height - 1 - half)
    column = (chosen % width).clamp(half, width - 1 - half)
    offset = torch.arange(-half, half + 1, device=seen.device)
    rows = (row[:, None, None] + offset[:, None]).expand(-1, PATCH, PATCH)
    columns = (column[:, None, None] + offset).expand(-1, PATCH, PATCH)
    return Patches(rows.reshape(-1), columns.reshape(-1))


def edge_band(classes: Tensor, reach: int) -> Tensor:
    """Pixels within ``reach`` of an edge of a map of classes: bool [H, W]; their window of 2 reach + 1 pixels shows more than one class.
    Unlabelled pixels are a class of their own."""
    window, width = classes.float()[None, None], 2 * reach + 1
    both = torch.cat([window, -window])
    for shape in ((width, 1), (1, width)):
        both = F.max_pool2d(both, shape, 1, (shape[0] // 2, shape[1] // 2))
    return both[0, 0] != -both[1, 0]


def edge_classes(classes: Tensor, width: int = EDGE) -> Tensor:
    """The edges of a map of classes [H, W]: what the window of ``width`` pixels (odd) shows to have another class near; all other
    pixels become -1."""
    return torch.where(edge_band(classes, width // 2), classes, IGNORE)


def focus_losses(
    identity_map: Tensor,
    rgb: Tensor,
    photo: Tensor,
    classes: Tensor,
    classifier: IdentityClassifier,
    weights: tuple[float, float],
) -> dict[str, Tensor]:
    """L_2d and the photo's L1 over the pixels near edges of the map of classes.

    Args:
        identity_map: [H, W, D].
        rgb, photo: [H, W, 3].
        classes: int64 [H, W], negative without label.
        classifier: of encodings.
        weights: of both losses. If the first weight is 0 there are no losses.
    """
    if weights[0] <= 0:
        return {}
    edges = edge_classes(classes).flatten()
    at = (edges >= 0).nonzero()[:, 0]  # few pixels: nothing else is gone through again
    encodings = pixels(identity_map, at)[None]
    losses = {"boundary_focus": weights[0] * identity_loss(encodings, edges[at][None], classifier)}
    if len(at) and weights[1] > 0:
        losses["boundary_focus_photo"] = weights[1] * (pixels(rgb, at) - pixels(photo, at)).abs().mean()
    return losses


@torch.no_grad()
def sample_rays(
    camera: rendering.Camera,
    patches: Patches,
    depth: Tensor,
    margin: float,
    samples: int,
    *,
    jitter: bool = True,
) -> Rays:
    """Samples on the rays of pixels, near the surfaces that the pixel's neighbourhood shows.

    At an edge there are two surfaces, and the rendered depth of a pixel is that of one of them or lies between them. So half
    of the samples lie within ``margin`` of the nearest depth in the 7x7 window around the pixel, and half within ``margin``
    of the farthest. Where the two intervals meet, all samples are spread over their union. Samples are stratified.

    Args:
        camera: of the picture.
        patches: R pixels.
        depth: [H, W] rendered depth, world units.
        margin: world units.
        samples: S, even.
        jitter: draw the place within each stratum; False takes the middle.
    """
    window = depth[None, None].clamp(min=NEAREST + margin)
    far = F.max_pool2d(window, PATCH, 1, PATCH // 2)[0, 0][patches.rows, patches.columns]
    near = -F.max_pool2d(-window, PATCH, 1, PATCH // 2)[0, 0][patches.rows, patches.columns]
    first_from, first_to = near - margin, near + margin
    second_from, second_to = far - margin, far + margin
    middle = (near + far) / 2
    apart = second_from > first_to
    first_to = torch.where(apart, first_to, middle)
    second_from = torch.where(apart, second_from, middle)
    half = samples // 2
    device = depth.device
    shape = (len(near), half)
    stops = []
    widths = []
    for start, end in ((first_from, first_to), (second_from, second_to)):
        step = ((end - start).clamp(min=1e-6) / half)[:, None]
        place = torch.rand(shape, device=device) if jitter else torch.full(shape, 0.5, device=device)
        stops.append(start[:, None] + (torch.arange(half, device=device) + place) * step)
        widths.append(step.expand(shape))
    distance, width = torch.cat(stops, dim=1), torch.cat(widths, dim=1)
    origin, direction = pixel_rays(camera, patches)
    points = origin + distance[..., None] * direction[:, None]
    return Rays(points.reshape(-1, 3), width * direction.norm(dim=-1)[:, None])


def points_at_depth(camera: rendering.Camera, patches: Patches, depth: Tensor) -> Rays:
    """One sample per ray, at the rendered depth [H, W]."""
    origin, direction = pixel_rays(camera, patches)
    own = depth[patches.rows, patches.columns]
    return Rays(origin + own[:, None] * direction, torch.ones_like(own)[:, None])


def pixel_rays(camera: rendering.Camera, patches: Patches) -> tuple[Tensor, Tensor]:
    """The camera's centre [3], and the ray directions [R, 3] through pixel centres, scaled to one unit of depth; world units."""
    x = (patches.columns + 0.5 - camera.K[0, 2]) / camera.K[0, 0]
    y = (patches.rows + 0.5 - camera.K[1, 2]) / camera.K[1, 1]
    rotation = camera.viewmat[:3, :3]
    local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return -rotation.T @ camera.viewmat[:3, 3], local @ rotation


class BoundaryRefiner:
    """Field and boundary set of one run, and the losses of a step.

    Args:
        field: the continuous field.
        weights: of the losses.
        pixels: number of pixels in a step, rounded down to whole patches.
        samples: number of samples on a ray.
        render: volume-render along rays. False (ablation) queries the field at the rendered depth only, without density, as
            the paper's released code does.
    """

    def __init__(
        self,
        field: BoundaryField,
        weights: RefinerWeights | None = None,
        *,
        pixels: int = 490,
        samples: int = 8,
        render: bool = True,
    ) -> None:
        if samples < 2 or samples % 2:
            raise ValueError(f"boundary samples on a ray: expected an even number from 2, found {samples}.")
        if pixels < PATCH * PATCH:
            raise ValueError(f"boundary pixels of a step: expected at least {PATCH * PATCH}, found {pixels}.")
        self.field, self.weights = field, weights or RefinerWeights()
        self.patches, self.samples, self.render = pixels // (PATCH * PATCH), samples, render
        self.points: BoundaryPoints | None = None

    def query(self, rays: Rays, features: Tensor) -> tuple[RayValues, Tensor]:
        """Rendered values of the field on rays, and the interpolated features [R * S, C] of the samples.

        Args:
            rays: with S samples, or with one for ``render`` False.
            features: [B, 3 + D + 1] colour, identity and opacity of the boundary Gaussians.
        """
        assert self.points is not None
        rows, values = self.points.nearest(rays.points)
        inter = torch.cat(interpolate(values, rows, features), dim=-1)
        found = self.field(rays.points, inter)
        if self.render:
            return volume_render(found, rays.lengths), inter
        return RayValues(found.rgb, found.identity, torch.ones_like(found.density)), inter

    def losses(
        self,
        *,
        camera: rendering.Camera,
        seen: Tensor,
        rgb: Tensor,
        alpha: Tensor,
        depth: Tensor,
        identity: Tensor,
        background: Tensor,
        photo: Tensor,
        classes: Tensor,
        classifier: torch.nn.Linear,
        colors: Tensor,
        identities: Tensor,
        opacities: Tensor,
        gaussian_classes: Tensor,
        pull: bool = True,
    ) -> dict[str, Tensor]:
        """The losses of a step, weighted; empty if the view shows no boundary.

        Args:
            camera: of the view.
            seen: [H, W] blending weight of the boundary Gaussians.
            rgb, alpha, depth, identity: rendered from the splat, [H, W, 3], [H, W], [H, W], [H, W, D].
            background: [3]
            photo: [H, W, 3]
            classes: int64 [H, W], negative without label.
            classifier: D channels to K logits.
            colors, identities, opacities: [N, 3], [N, D], [N] of all Gaussians, activated.
            gaussian_classes: int64 [N], the class of their votes, negative if unseen.
            pull: the losses move the splat too; False trains the field alone.
        """
        points = self.points
        patches = draw_patches(seen > SEEN, self.patches) if points is not None else None
        if points is None or patches is None:
            return {}
        weights, at = self.weights, patches.rows * seen.shape[1] + patches.columns
        share = weights.splat * len(patches.rows) / classes.numel() if pull else 0.0
        colors, identities, opacities = (
            rendering.scale_gradient(taken(value, points.indices), share)
            for value in (colors, identities, opacities)
        )
        depth = depth.detach()
        if self.render:
            rays = sample_rays(camera, patches, depth, REACH * points.spacing, self.samples)
        else:
            rays = points_at_depth(camera, patches, depth)
        features = torch.cat([colors, identities, opacities[:, None]], dim=-1)
        field, inter = self.query(rays, features)
        field_rgb = field.rgb + (1 - field.opacity[:, None]) * background
        splat_rgb, splat_alpha = (
            rendering.scale_gradient(pixels(value, at), share) for value in (rgb, alpha)
        )
        losses = {
            "boundary_align": weights.align
            * alignment_loss(splat_rgb, splat_alpha, field_rgb, field.opacity),
            "boundary_photo": weights.photo * (field_rgb - pixels(photo, at)).abs().mean(),
        }
        target = pixels(classes, at)
        weight, bias = (
            rendering.scale_gradient(classifier.weight, share),
            rendering.scale_gradient(classifier.bias, share),
        )
        splat_logits = F.linear(rendering.scale_gradient(pixels(identity, at), share), weight, bias)
        field_logits = F.linear(field.identity, weight, bias)
        losses["boundary_identity"] = weights.identity * identity_alignment_loss(splat_logits, field_logits)
        losses["boundary_mask"] = weights.mask * mask_loss(field_logits, target, field.opacity)
        losses["boundary_continuity"] = weights.continuity * continuity_loss(
            points, features[:, :3], gaussian_classes
        )
        if self.render:
            losses["boundary_smoothness"] = weights.smoothness * self._smoothness(rays.points, inter)
        return losses

    def _smoothness(self, points: Tensor, inter: Tensor, count: int = 512) -> Tensor:
        """L_smth: the field's gradient, by differences of half a spacing, of relative density and of colour.

        mean |ln sigma(x + d) - ln sigma(x)|^2 / 4 + |c(x + d) - c(x)|^2. The interpolated features are held fixed, so the loss
        smooths the part of the hash grid.
        """
        chosen = torch.randint(len(points), (min(count, len(points)),), device=points.device)
        x, fixed = points[chosen], inter[chosen].detach()
        step = F.normalize(torch.randn_like(x), dim=-1) * (0.5 * self.field.spacing)
        a, b = self.field(x, fixed), self.field(x + step, fixed)
        density = (torch.log(a.density + 1e-6) - torch.log(b.density + 1e-6)).square().mean() / 4
        return density + (a.rgb - b.rgb).square().mean() + (a.identity - b.identity).square().mean()


def taken(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows] of values [N, ...], rows of any shape. The backward pass of ``values[rows]`` adds the gradients of one row in
    a random order. The order here is fixed, so that a run can be repeated bit for bit."""
    return values.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *values.shape[1:])


def pixels(values: Tensor, at: Tensor) -> Tensor:
    """A map's [H, W, ...] values at pixels, int64 [R] counted row by row (see :func:`taken`)."""
    return taken(values.flatten(0, 1), at)


def alignment_loss(splat_rgb: Tensor, splat_alpha: Tensor, field_rgb: Tensor, field_alpha: Tensor) -> Tensor:
    """L_align: mean |C_s - C_f|^2 + (alpha_s - alpha_f)^2 + the variance of C_s - C_f within each 7x7 patch.

    The last term ignores the mean of a patch and compares the structure in it.

    Args:
        splat_rgb, field_rgb: [R, 3], R = 49 B, patch after patch.
        splat_alpha, field_alpha: [R].
    """
    difference = splat_rgb - field_rgb
    variance = difference.reshape(-1, PATCH * PATCH, 3).var(dim=1, unbiased=False).mean()
    return difference.square().mean() + (splat_alpha - field_alpha).square().mean() + variance


def identity_alignment_loss(splat_logits: Tensor, field_logits: Tensor) -> Tensor:
    """L_id, L_align for class distributions: KL(p_s || p_f) + KL(p_f || p_s), with the first distribution of each held fixed,
    divided by log(classes).

    Args:
        splat_logits, field_logits: [R, K].
    """
    splat, field = F.log_softmax(splat_logits, dim=-1), F.log_softmax(field_logits, dim=-1)
    there = F.kl_div(field, splat.detach(), log_target=True, reduction="batchmean")
    back = F.kl_div(splat, field.detach(), log_target=True, reduction="batchmean")
    return (there + back) / math.log(max(splat_logits.shape[-1], 2))


def mask_loss(logits: Tensor, target: Tensor, opacity: Tensor) -> Tensor:
    """L_mask: cross-entropy of the field's classes against the id map, weighted by the rays' opacity, divided by log(classes).
    The opacity is held fixed, so the field cannot lower the loss by being transparent.

    Args:
        logits: [R, K].
        target: int64 [R], negative without label.
        opacity: [R].
    """
    labelled = target >= 0
    weight = torch.where(labelled, opacity.detach(), torch.zeros_like(opacity))
    each = F.cross_entropy(logits, target.clamp(min=0), reduction="none")
    return (weight * each).sum() / weight.sum().clamp(min=1e-6) / math.log(max(logits.shape[-1], 2))


def continuity_loss(
    points: BoundaryPoints, colors: Tensor, gaussian_classes: Tensor, count: int = 2048
) -> Tensor:
    """L_cont: adjacent boundary Gaussians of one object should have similar colours.

    mean over pairs (i, k-th neighbour) with the same label of phi(|mu_i - mu_k| / h_i) |c_i - c_k|^2

    Args:
        points: B boundary Gaussians.
        colors: [B, 3].
        gaussian_classes: int64 [N] of all Gaussians, negative if unknown.
        count: number of Gaussians that are drawn.
    """
    rows = torch.randint(len(points), (min(count, len(points)),), device=colors.device)
    others = points.neighbors[rows]
    own = gaussian_classes[points.indices]
    same = (own[rows][:, None] == own[others]) & (own[rows] >= 0)[:, None]
    distance = (points.means[rows][:, None] - points.means[others]).norm(dim=-1)
    weight = torch.where(same, kernel(distance / points.bandwidth[rows][:, None]), 0.0)
    apart = (taken(colors, rows)[:, None] - taken(colors, others)).square().sum(dim=-1)
    return (weight * apart).sum() / weight.sum().clamp(min=1e-6)
