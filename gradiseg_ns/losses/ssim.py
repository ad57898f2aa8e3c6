"""Structural similarity (Wang et al. 2004) with pytorch_msssim's numbers, and a fused kernel for CPUs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WINDOW = 11
"""Pixels a side of the Gaussian window."""
SIGMA = 1.5
"""Standard deviation of the window, in pixels."""
_K1, _K2 = 0.01, 0.03
_SMALLEST_PIECE = 48  # rows; a piece repeats ten rows of its neighbour


class _Similarity(torch.autograd.Function):
    """Mean SSIM of two [H, W, 3] images. The gradient, if needed, is computed together with the value."""

    @staticmethod
    def forward(ctx, truth: Tensor, predicted: Tensor, data_range: float, with_gradient: bool) -> Tensor:
        from ..rendering.cpu.threads import get_num_threads, parallel
        from ._ssim_kernel import similarity

        height, width, channels = predicted.shape
        x, y = (image.detach().contiguous().view(-1).numpy() for image in (truth, predicted))
        taps = _window(1, "cpu").reshape(-1).numpy()
        count = (height - WINDOW + 1) * (width - WINDOW + 1) * channels
        sums = np.zeros(height - WINDOW + 1)
        gradient = (
            torch.empty_like(predicted, memory_format=torch.contiguous_format) if with_gradient else None
        )
        flat = np.empty(0, np.float32) if gradient is None else gradient.view(-1).numpy()
        shift, area = data_range / 2, float(taps.astype(np.float64).sum()) ** 2
        c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
        constants = np.array([shift, shift * area, shift * (1 - area), c1, c2, 1 / count], np.float32)
        threads = get_num_threads()
        pieces = max(1, min(4 * threads, height // _SMALLEST_PIECE)) if threads > 1 else 1

        def work(i: int) -> None:
            begin, end = height * i // pieces, height * (i + 1) // pieces
            similarity(begin, end, x, y, height, width * channels, taps, constants, sums, flat)

        parallel(pieces, work)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return predicted.new_tensor(sums.sum() / count)

    @staticmethod
    @once_differentiable
    def backward(ctx, v_mean: Tensor):
        (gradient,) = ctx.saved_tensors
        return None, gradient * v_mean, None, None


def _height_width_channels(image: Tensor) -> Tensor:
    """A view [H, W, 3] of an image [H, W, 3] or [3, H, W]. A shape that could be both is read as [H, W, 3]."""
    if image.dim() == 3 and image.shape[-1] == 3:
        return image
    if image.dim() == 3 and image.shape[0] == 3:
        return image.permute(1, 2, 0)
    raise ValueError(
        f"structural_similarity: expected images [H, W, 3] or [3, H, W], got {list(image.shape)}."
    )


def structural_similarity(truth: Tensor, predicted: Tensor, data_range: float = 1.0) -> Tensor:
    """Mean structural similarity: `pytorch_msssim.SSIM(data_range, size_average=True, channel=3)` of one image.

    The window has eleven taps of a Gaussian of 1.5 px in both directions, without padding; K = (0.01, 0.03). The mean is
    taken over the channels and over the pixels whose window lies in the image. A fused kernel computes float32 images on a
    CPU; it is fastest if they lie in memory as [H, W, 3] (also as views). pytorch_msssim computes all others, and images
    with a side of less than 11 px.

    Args:
        truth: [H, W, 3] or [3, H, W].
        predicted: the same size, in either layout.
        data_range: the distance between black and white.

    Returns:
        a scalar.

    Raises:
        ValueError: an image has another shape, or the two differ in size.
    """
    x, y = _height_width_channels(truth), _height_width_channels(predicted)
    if x.shape != y.shape:
        raise ValueError(
            f"structural_similarity: the images differ in size, {list(truth.shape)} and {list(predicted.shape)}."
        )
    differentiable = torch.is_grad_enabled()
    fused = (
        all(image.device.type == "cpu" and image.dtype == torch.float32 for image in (x, y))
        and min(x.shape[:2]) >= WINDOW
        and not (differentiable and x.requires_grad)
    )
    if fused:
        return _Similarity.apply(x, y, data_range, differentiable and y.requires_grad)
    return _msssim(x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None], data_range)


@lru_cache(maxsize=8)
def _window(channels: int, device: str) -> Tensor:
    """The Gaussian window [C, 1, 1, 11]. Without this cache pytorch_msssim would copy it to the device at every call, and wait."""
    offsets = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return (window / window.sum()).to(device).expand(channels, 1, 1, -1)


def _msssim(truth: Tensor, predicted: Tensor, data_range: float) -> Tensor:
    """pytorch_msssim's own SSIM of images [N, C, H, W]."""
    from pytorch_msssim import ssim

    return ssim(truth, predicted, data_range=data_range, win=_window(truth.shape[1], str(truth.device)))


class FastSSIM(nn.Module):
    """Replaces `pytorch_msssim.SSIM(data_range, size_average=True, channel=3)`, for example in splatfacto.

    Like the original it has no parameters or buffers, so checkpoints do not change.
    """

    def __init__(self, data_range: float = 1.0) -> None:
        super().__init__()
        self.data_range = data_range

    def forward(self, truth: Tensor, predicted: Tensor) -> Tensor:
        """Mean SSIM of [N, 3, H, W] images. It is symmetric, but only the second image has a fast gradient."""
        if truth.dim() == 4 and truth.shape == predicted.shape and truth.shape[:2] == (1, 3):
            return structural_similarity(
                truth[0].permute(1, 2, 0), predicted[0].permute(1, 2, 0), data_range=self.data_range
            )
        return _msssim(truth, predicted, self.data_range)
