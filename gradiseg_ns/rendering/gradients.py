"""Gradients that arrive in part: for all Gaussians the same, or for each a share of its own."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .types import Projection


class _Scale(torch.autograd.Function):
    """The identity function; its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, tensor: Tensor, factor: float | Tensor) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(tensor: Tensor, factor: float | Tensor) -> Tensor:
    """The same tensor; its gradient is multiplied by a factor, a number or a tensor that broadcasts to it."""
    if isinstance(factor, Tensor):
        return _Scale.apply(tensor, factor)
    if factor == 0:
        return tensor.detach()
    return tensor if factor == 1 else _Scale.apply(tensor, factor)


def scale_geometry_gradient(projection: Projection, share: float | Tensor) -> Projection:
    """The same projection; of the gradient of what is blended from it only a share reaches means2d, conics and opacities.

    Args:
        projection: of N Gaussians.
        share: a number, or one for each Gaussian, [N].
    """
    if not isinstance(share, Tensor) and share == 1:
        return projection
    of_row = share[None] if isinstance(share, Tensor) else share
    of_vector = share[None, :, None] if isinstance(share, Tensor) else share
    return dataclasses.replace(
        projection,
        means2d=scale_gradient(projection.means2d, of_vector),
        conics=scale_gradient(projection.conics, of_vector),
        opacities=scale_gradient(projection.opacities, of_row),
    )
