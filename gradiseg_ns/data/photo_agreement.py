"""Whether the photos agree that something is at a place: how a wire before a camera is told from a cloud.

Space before a camera is known to be empty from points that views see through it (:mod:`gradiseg_ns.data.free_space`). A thin thing
has no points, and hides few. But it shows: at its place every view that looks there has the same colour, and another one beside it. A
cloud has neither. It stands where a photo shows something far behind it, another thing in every view, or a plain wall, which
looks the same beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradiseg_ns.data.free_space import Frusta, project_into

ALIKE = 0.12
"""Views agree on a colour within that much in each channel, of 0..1."""
STANDS_OUT = 0.15
"""A thing shows if it differs by more than that from what is beside it, in some channel."""
VIEWS = 3
"""So many views have to agree, ..."""
SHARE = 2 / 3
"""... and that share of those that look there."""
BESIDE = 3.0
"""Beside a thing is so many of its radii from its middle."""
_WIDEST = 0.1
"""Of the picture: what looks thicker is no thin thing."""
_RING = 8


@torch.no_grad()
def agreed_on(frusta: Frusta, photos: Sequence[Tensor], positions: Tensor, radii: Tensor) -> Tensor:
    """Whether several views show the same thin thing at each of some places.

    Args:
        frusta: V views.
        photos: uint8 or float 0..1 [H, W, 3 or more] each, on any device.
        positions: [N, 3].
        radii: [N] of the things, world units.

    Returns:
        bool [N], on the device of the positions.
    """
    device = positions.device
    count = len(positions)
    middles = torch.full((len(photos), count, 3), torch.nan)
    contrasts = torch.zeros(len(photos), count)
    places, sizes = positions.cpu().float(), radii.cpu().float()
    angles = torch.arange(_RING) * (2 * math.pi / _RING)
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    inner = torch.cat([torch.zeros(1, 2), 0.5 * ring[::2]])
    taps = torch.cat([inner, BESIDE * ring])
    for view, photo in enumerate(photos):
        x, y, depth = project_into(frusta, view, places)
        seen = ((depth > 0) & (x.abs() < 1) & (y.abs() < 1)).nonzero()[:, 0]
        if not len(seen):
            continue
        height, width = photo.shape[:2]
        scale = float(frusta.intrinsics[view, 0, 0]) * width / float(frusta.sizes[view, 0])
        radius = (scale * sizes[seen] / depth[seen]).clamp(min=1.0)
        thin = radius * BESIDE < _WIDEST * max(width, height)
        seen, radius = seen[thin], radius[thin]
        middle = torch.stack([(x[seen] + 1) / 2 * width, (y[seen] + 1) / 2 * height], dim=1)
        pixels = (middle[:, None] + radius[:, None, None] * taps).floor().long()
        column, row = pixels[..., 0].clamp(0, width - 1), pixels[..., 1].clamp(0, height - 1)
        found = photo[row.to(photo.device), column.to(photo.device), :3].cpu().float()
        colors = found / 255 if photo.dtype == torch.uint8 else found
        own, beside = colors[:, : len(inner)].mean(dim=1), colors[:, len(inner) :].median(dim=1).values
        middles[view, seen] = own
        contrasts[view, seen] = (own - beside).abs().amax(dim=1)
    typical = middles.nanmedian(dim=0).values
    looked = ~middles[..., 0].isnan()
    agrees = ((middles - typical).abs().amax(dim=2) < ALIKE) & (contrasts > STANDS_OUT)
    votes = agrees.sum(dim=0)
    return ((votes >= VIEWS) & (votes >= SHARE * looked.sum(dim=0))).to(device)
