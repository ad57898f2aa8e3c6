"""The cross-entropy of classified identity maps with torch's numbers, and a fused kernel for CPUs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -1
"""Class of a pixel without label."""
_DIM = 16
_PIECE = 8192  # pixels; pieces do not depend on the number of threads, so neither does a sum
_MOST_PIECES = 32  # each has its own gradient of the weights


def _fused(
    maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, count: int, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss, and its gradients towards maps, weight and bias (or nothing)."""
    from ..rendering.cpu.threads import parallel
    from ._cross_entropy_kernel import cross_entropy

    pixels, number = len(maps), len(weight)
    padded = -(-number // 4) * 4
    padded_weight, padded_bias = np.zeros((padded, _DIM), np.float32), np.zeros(padded, np.float32)
    padded_weight[:number], padded_bias[:number] = weight.detach().numpy(), bias.detach().numpy()
    inputs = (
        maps.detach().contiguous().view(-1).numpy(), classes.contiguous().numpy(), number,
        padded_weight.reshape(-1), padded_weight.T.reshape(-1), padded_bias, np.float32(1 / count), with_gradient,
    )  # fmt: skip
    pieces = max(1, min(_MOST_PIECES, pixels // _PIECE))
    losses = np.zeros(pieces)
    v_maps = torch.empty(maps.shape if with_gradient else (0, _DIM))
    v_weight = np.zeros((pieces, padded, _DIM) if with_gradient else (pieces, 0, 0), np.float32)
    v_bias = np.zeros((pieces, padded) if with_gradient else (pieces, 0), np.float32)

    def work(i: int) -> None:
        begin, end = pixels * i // pieces, pixels * (i + 1) // pieces
        outputs = v_maps.view(-1).numpy(), v_weight[i].reshape(-1), v_bias[i]
        losses[i] = cross_entropy(begin, end, *inputs, *outputs)

    parallel(pieces, work)
    loss = maps.new_tensor(losses.sum() / count)
    if not with_gradient:
        return loss, []
    sums = [
        torch.from_numpy((part.sum(0)[:number] / count).astype(np.float32)) for part in (v_weight, v_bias)
    ]
    return loss, [v_maps, *sums]


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass, as the scores of all pixels would be the largest tensor of a step."""

    @staticmethod
    def forward(
        ctx, maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, count: int, with_gradient: bool
    ):
        loss, gradients = _fused(maps, weight, bias, classes, count, with_gradient)
        ctx.gradients = gradients
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, v_loss: Tensor):
        return (*(gradient * v_loss for gradient in ctx.gradients), None, None, None)


def _zero(tensors: tuple[Tensor, ...]) -> Tensor:
    """0 with gradients of zero, whatever the tensors hold."""
    return torch.stack([tensor[:0].sum() for tensor in tensors]).sum()


def identity_cross_entropy(maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """`F.cross_entropy(F.linear(...), ignore_index=-1)`: mean over labelled pixels of -log softmax(W e + b)_class.

    float32 tensors on a CPU take a fused kernel whose memory does not grow with P K, and whose result does
    not depend on the number of threads; other tensors go to torch.

    Args:
        maps: [P, 16] identities of pixels.
        weight: [K, 16] of the classifier.
        bias: [K].
        classes: [P] int64, 0 ... K - 1, or -1 where there is no label.

    Returns:
        a scalar; 0, with a graph and zero gradients, if no pixel has a label.

    Raises:
        ValueError: shapes do not fit together, or a class is neither -1 nor one of the K.
    """
    if maps.dim() != 2 or weight.shape != (len(bias), maps.shape[1]) or classes.shape != maps.shape[:1]:
        raise ValueError(
            "identity_cross_entropy: expected maps [P, D], weight [K, D], bias [K] and classes [P], got "
            f"{list(maps.shape)}, {list(weight.shape)}, {list(bias.shape)} and {list(classes.shape)}."
        )
    tensors = (maps, weight, bias)
    fused = maps.shape[1] == _DIM and all(
        t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors
    )
    if not fused or classes.device.type != "cpu":
        if not bool((classes != IGNORE).any()):
            return _zero(tensors)
        return F.cross_entropy(F.linear(maps, weight, bias), classes, ignore_index=IGNORE)

    classes = classes.to(torch.int64)
    if len(classes):
        lowest, highest = (int(bound) for bound in classes.aminmax())
        if lowest < IGNORE or highest >= len(weight):
            raise ValueError(
                f"identity_cross_entropy: classes reach from {lowest} to {highest}, but the classifier has "
                f"{len(weight)}: expected -1 (no label) to {len(weight) - 1}. Were its classes made from other id maps?"
            )
    count = int((classes >= 0).sum())
    if count == 0:
        return _zero(tensors)
    with_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _CrossEntropy.apply(*tensors, classes, count, with_gradient)
