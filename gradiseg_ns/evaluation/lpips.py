"""LPIPS without a download at start-up.

splatfacto builds the metric when the model is built, and the metric downloads AlexNet: training, evaluation,
rendering, export and the viewer all fail offline. Here it is built at its first use. If its weights are not available, it is
left out of the metrics, with one warning.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gradiseg_ns.tools.terminal import warn

_DOWNLOAD_TIMEOUT = 10.0
"""Seconds after which a network that does not answer counts as missing."""


class _NoLpips:
    """Replaces the metric while splatfacto builds its modules. It is no Module, because it has no weights to save."""

    def __init__(self, **kwargs: object) -> None:
        del kwargs


@contextmanager
def without_lpips_download() -> Iterator[None]:
    """Within this context torchmetrics' LPIPS is an empty stand-in."""
    import torchmetrics.image.lpip as module

    original = module.LearnedPerceptualImagePatchSimilarity
    module.LearnedPerceptualImagePatchSimilarity = _NoLpips  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        module.LearnedPerceptualImagePatchSimilarity = original  # type: ignore[misc]


class LazyLpips:
    """The metric, built at its first call and kept out of the module tree, so out of checkpoints."""

    def __init__(self) -> None:
        self._metric: torch.nn.Module | None = None
        self._missing = False

    def __call__(self, truth: Tensor, predicted: Tensor) -> Tensor:
        """LPIPS of two pictures [1, 3, H, W] in 0..1; NaN if the weights are not available."""
        if self._metric is None and not self._missing:
            self._build()
        if self._metric is None:
            return torch.tensor(float("nan"))
        return self._metric.to(truth.device)(truth, predicted)

    def _build(self) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
        try:
            self._metric = LearnedPerceptualImagePatchSimilarity(normalize=True)
        except Exception as error:
            self._missing = True
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            warn(
                f"lpips is left out of the metrics: AlexNet's weights are neither in {folder} nor "
                f"could they be downloaded ({type(error).__name__}: {error})."
            )
        finally:
            socket.setdefaulttimeout(before)
