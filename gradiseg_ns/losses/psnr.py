"""The peak signal-to-noise ratio, computed where the pictures are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def psnr(predicted: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 of the mean squared error, of values in 0..1 and any shape: a scalar, in dB; 100 at most."""
    return -10 * (predicted - truth).square().mean().clamp(min=1e-10).log10()


class PSNR(nn.Module):
    """Takes the place of torchmetrics' PeakSignalNoiseRatio(data_range=1.0), which copies a number to the device at every
    call and waits for it, in every training step."""

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """See :func:`psnr`; without a graph."""
        with torch.no_grad():
            return psnr(predicted, truth)
