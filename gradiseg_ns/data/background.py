"""Where the background comes from: points on shells around the scene, where views look past its sparse points.

Structure from motion finds points on what has texture and is seen from many sides; the room behind an object often has
none. A splat has to explain those pixels all the same, and without anything there it paints them on what is near: clouds
before the cameras. A few points far away, of the photo's own colours, give it something to become.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.data.free_space import Frusta, project_into

NEAREST_SHELL, FARTHEST_SHELL = 1.5, 15.0
"""Radii of the shells in radii of the sparse points."""
CELLS = 16
"""A picture is looked at in that many cells along its longer side."""
MOST_POINTS = 8000
"""So many points on the shells at most."""
FEWEST = 0.05
"""Below this share of the pictures nothing is added."""


def background_points(
    frusta: Frusta,
    points: Tensor,
    photos: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Points behind the scene for the pixels that look past its sparse points, none where there is no background.

    A picture's cell looks past the points if it shows none. Each such cell of each view sends one ray (fewer if that makes
    more than MOST_POINTS); its point lies where the ray leaves a shell whose radius is drawn evenly in its logarithm, and has
    the photo's colour there.

    Args:
        frusta: V views.
        points: [P, 3] sparse points.
        photos: uint8 or float 0..1 [H, W, 3 or 4] each; where the fourth channel, alpha, is below a half is no background.
        masks: bool or float [H, W, 1] each, or None: where it is 0 nothing is known.
        generator: of random numbers; None is one of its own with a fixed seed.

    Returns:
        positions float32 [B, 3] and colours uint8 [B, 3]; B is 0 where hardly a cell looks past the points.
    """
    generator = generator or torch.Generator().manual_seed(0)
    device = points.device
    nothing = points.new_zeros((0, 3)), torch.zeros((0, 3), dtype=torch.uint8, device=device)
    if len(points) < 4 or not frusta.views:
        return nothing
    center = points.median(dim=0).values
    some = points[:: 1 + (len(points) >> 24)]  # a quantile takes 2^24 numbers at most
    radius = (some - center).norm(dim=1).quantile(0.9)
    rays, colors, cells = [], [], 0
    for view, photo in enumerate(photos):
        width, height = frusta.sizes[view].tolist()
        cell = max(width, height) / CELLS
        columns, rows = max(1, round(width / cell)), max(1, round(height / cell))
        cells += columns * rows
        past = _cells_past(frusta, view, points, rows, columns)
        chosen = past.nonzero()
        place = (chosen.cpu() + torch.rand(chosen.shape, generator=generator)).to(device)
        v, u = place[:, 0] / rows, place[:, 1] / columns
        photo_height, photo_width = photo.shape[:2]
        row = (v * photo_height).long().clamp(max=photo_height - 1).cpu()
        column = (u * photo_width).long().clamp(max=photo_width - 1).cpu()
        picture = photo.cpu()
        color = picture[row, column].float() * (1.0 if picture.dtype == torch.uint8 else 255.0)
        shown = torch.ones(len(chosen), dtype=torch.bool)
        if color.shape[1] == 4:
            shown &= color[:, 3] > 127
        mask = None if masks is None else masks[view]
        if mask is not None:
            shown &= mask.cpu()[row, column, 0] > 0.5
        shown = shown.to(device)
        K = frusta.intrinsics[view]
        local = torch.stack(
            [(u * width - K[0, 2]) / K[0, 0], (v * height - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=1
        )
        direction = F.normalize(local @ frusta.viewmats[view, :3, :3], dim=1)
        origin = frusta.centers[view].expand_as(direction)
        rays.append(torch.stack([origin, direction], dim=1)[shown])
        colors.append(color[:, :3].to(device)[shown])
    ray, color = torch.cat(rays), torch.cat(colors)
    if len(ray) < FEWEST * cells:
        return nothing
    if len(ray) > MOST_POINTS:
        kept = torch.randperm(len(ray), generator=generator)[:MOST_POINTS].sort().values.to(device)
        ray, color = ray[kept], color[kept]
    origin, direction = ray[:, 0] - center, ray[:, 1]
    along = (origin * direction).sum(dim=1)
    miss = (origin.square().sum(dim=1) - along.square()).clamp(min=0)
    spread = torch.rand(len(ray), generator=generator).to(device)
    shell = radius * NEAREST_SHELL * (FARTHEST_SHELL / NEAREST_SHELL) ** spread
    # A ray that passes a shell by takes a larger one; from outside it is a shell's far side that is looked at.
    passes = torch.where(along > 0, origin.norm(dim=1), miss.sqrt())
    shell = torch.maximum(shell, 1.2 * passes)
    distance = -along + (shell.square() - miss).clamp(min=0).sqrt()
    placed = center + origin + distance[:, None] * direction
    return placed, color.round().clamp(0, 255).to(torch.uint8)


def _cells_past(frusta: Frusta, view: int, points: Tensor, rows: int, columns: int) -> Tensor:
    """The cells of a picture that show no point: bool [rows, columns]."""
    x, y, depth = project_into(frusta, view, points)
    seen = (depth > 0) & (x.abs() < 1) & (y.abs() < 1)
    row = ((y[seen] + 1) / 2 * rows).long().clamp(0, rows - 1)
    column = ((x[seen] + 1) / 2 * columns).long().clamp(0, columns - 1)
    past = torch.ones(rows, columns, dtype=torch.bool, device=points.device)
    past[row, column] = False
    return past
