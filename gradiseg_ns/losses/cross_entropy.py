"""The cross-entropy of classified identity maps, equal to torch's: a fused kernel for CPUs, and piece by piece on other devices.

The scores of all pixels, P K numbers, would be the largest tensor of a training step: 2.1 GB for 1080p and 256 classes, and twice
that again for the backward pass. Here they exist for only a part of the pixels at a time, and the gradients are computed together
with the loss.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -1
"""Class of a pixel without label."""
_DIM = 16
_PIECE = 8192  # pixels; pieces do not depend on the number of threads, so the sums do not either
_MOST_PIECES = 32  # each piece has its own gradient of the weights
_SCORES = 1 << 24  # scores that exist at once outside the kernel: 64 MB, briefly twice that


def _fused(
    maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, count: int, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss, and its gradients with respect to maps, weight and bias (or an empty list)."""
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


def _piecewise(
    maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    """The same as :func:`_fused`, on any device, with torch's operators. The host never waits for the device."""
    rows = max(1, _SCORES // max(1, len(bias)))
    labelled = classes != IGNORE
    each = labelled.to(maps.dtype) / labelled.sum().clamp(min=1)  # a pixel's share of the mean
    loss = maps.new_zeros(())
    v_maps = torch.empty_like(maps) if with_gradient else maps[:0]
    v_weight, v_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for start in range(0, len(maps), rows):
        part = slice(start, start + rows)
        own = torch.where(labelled[part, None], maps[part], 0.0)  # a NaN there must not spread
        logs = torch.addmm(bias, own, weight.T)
        logs -= logs.logsumexp(dim=-1, keepdim=True)
        target = classes[part].clamp(min=0)[:, None]
        loss -= (logs.gather(1, target)[:, 0] * each[part]).sum()
        if with_gradient:
            v_scores = logs.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=logs.dtype))
            v_scores *= each[part, None]
            torch.mm(v_scores, weight, out=v_maps[part])
            v_weight.addmm_(v_scores.T, own)
            v_bias += v_scores.sum(dim=0)
    return loss, [v_maps, v_weight, v_bias] if with_gradient else []


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass."""

    @staticmethod
    def forward(
        ctx,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        classes: Tensor,
        count: int | None,
        with_gradient: bool,
    ):
        if count is None:
            loss, gradients = _piecewise(maps, weight, bias, classes, with_gradient)
        else:
            loss, gradients = _fused(maps, weight, bias, classes, count, with_gradient)
        ctx.save_for_backward(*gradients)  # not as attributes, which would live until the next step
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, v_loss: Tensor):
        return (*(gradient * v_loss for gradient in ctx.saved_tensors), None, None, None)


def _zero(tensors: tuple[Tensor, ...]) -> Tensor:
    """0 with zero gradients, for any content of the tensors."""
    return torch.stack([tensor[:0].sum() for tensor in tensors]).sum()


def identity_cross_entropy(maps: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """`F.cross_entropy(F.linear(...), ignore_index=-1)`: mean over labelled pixels of -log softmax(W e + b)_class.

    Memory does not grow with P K. A fused kernel computes float32 tensors on a CPU; its result does not depend on the number of
    threads. Only first derivatives exist.

    Args:
        maps: [P, 16] identities of pixels.
        weight: [K, 16] of the classifier.
        bias: [K].
        classes: [P] int64, 0 ... K - 1, or -1 where there is no label.

    Returns:
        a scalar; 0, with a graph and zero gradients, if no pixel has a label.

    Raises:
        ValueError: shapes do not fit together, or a class is neither -1 nor one of the K (checked on a CPU only).
    """
    if maps.dim() != 2 or weight.shape != (len(bias), maps.shape[1]) or classes.shape != maps.shape[:1]:
        raise ValueError(
            "identity_cross_entropy: expected maps [P, D], weight [K, D], bias [K] and classes [P], got "
            f"{list(maps.shape)}, {list(weight.shape)}, {list(bias.shape)} and {list(classes.shape)}."
        )
    tensors = (maps, weight, bias)
    with_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    classes = classes.to(torch.int64)
    if any(t.device.type != "cpu" for t in (*tensors, classes)):
        return _CrossEntropy.apply(*tensors, classes, None, with_gradient)
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
    fused = maps.shape[1] == _DIM and all(t.dtype == torch.float32 for t in tensors)
    return _CrossEntropy.apply(*tensors, classes, count if fused else None, with_gradient)
