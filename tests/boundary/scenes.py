"""A wall with two boards on it, as Gaussians, with exact id maps."""

from __future__ import annotations

import torch
from torch import Tensor

from gradiseg_ns.rendering import Camera, Gaussians

DEPTH = 4.0
"""The wall is the plane z = DEPTH, cameras look along +z."""
WALL, LEFT, RIGHT = 0, 1, 2


def camera(x: float = 0.0, y: float = 0.0, width: int = 64, height: int = 48) -> Camera:
    """A camera at (x, y, 0); a world unit of the wall is 16 pixels."""
    viewmat = torch.eye(4)
    viewmat[:2, 3] = -torch.tensor([x, y])
    K = torch.tensor([[64.0, 0, width / 2], [0, 64, height / 2], [0, 0, 1]])
    return Camera(viewmat, K, width, height)


def board(x: Tensor, y: Tensor) -> Tensor:
    """int64: which board points of the wall belong to; the boards' edges are 1.2 long."""
    ids = torch.full(x.shape, WALL, dtype=torch.int64)
    ids[((x + 1).abs() < 0.6) & (y.abs() < 0.6)] = LEFT
    ids[((x - 1).abs() < 0.6) & (y.abs() < 0.6)] = RIGHT
    return ids


def positions(view: Camera) -> tuple[Tensor, Tensor]:
    """Where on the wall the pixels' centres are: x and y, [H, W]."""
    y, x = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    scale = DEPTH / view.K.diagonal()[:2]
    return (
        (x - view.K[0, 2]) * scale[0] - view.viewmat[0, 3],
        (y - view.K[1, 2]) * scale[1] - view.viewmat[1, 3],
    )


def wall(step: float = 0.1) -> tuple[Gaussians, Tensor]:
    """Flat, nearly opaque Gaussians all over the wall, and their boards int64 [N]."""
    x, y = torch.meshgrid(torch.arange(-2.5, 2.5, step), torch.arange(-2.0, 2.0, step), indexing="ij")
    x, y = x.reshape(-1) + step / 2, y.reshape(-1) + step / 2
    means = torch.stack([x, y, torch.full_like(x, DEPTH)], dim=-1)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(x), 1)
    scales = torch.tensor([step / 2, step / 2, 1e-3]).repeat(len(x), 1)
    return Gaussians(means, quats, scales, torch.full_like(x, 0.98)), board(x, y)
