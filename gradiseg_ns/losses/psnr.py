"""The peak signal-to-noise ratio, computed on the device of the pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def psnr(predicted: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of values in 0..1, any shape: a scalar in dB, at most 100."""
    return -10 * (predicted - truth).square().mean().clamp(min=1e-10).log10()


class PSNR(nn.Module):
    """Replaces torchmetrics' PeakSignalNoiseRatio(data_range=1.0), which copies a number to the device at every call and waits for
    it, in every training step."""

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """:func:`psnr` without a graph."""
        with torch.no_grad():
            return psnr(predicted, truth)
