"""The quality of each held-out view, and the share that floats before the views between the cameras.

A mean over views hides a single view that a cloud covers. So every view has a row, and the worst view is named.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gradiseg_ns.losses.psnr import psnr
from gradiseg_ns.tools.atomic import write_text


@dataclass(frozen=True)
class ViewScore:
    """One held-out view."""

    name: str
    psnr: float
    """dB"""
    psnr_inside: float | None
    """dB, over the pixels of objects that are not ignored; None without any."""
    miou: float | None
    """Percent, mean over the objects that the view's truth shows; None without truth."""


@dataclass(frozen=True)
class FloaterScore:
    """The share of the rendered weight that lies nearer to the camera than the sparse points allow, in views between the cameras.

    Percent of the pixels of a view. No photo is needed for it.
    """

    mean: float
    worst: float
    """The share in the worst view."""
    n_views: int

    @classmethod
    def of(cls, shares: Sequence[float]) -> FloaterScore | None:
        """From the share (0 to 1) of each view; None if there are none."""
        if not shares:
            return None
        return cls(100 * sum(shares) / len(shares), 100 * max(shares), len(shares))


def psnr_inside(picture: Tensor, photo: Tensor, ids: Tensor | None, ignored: Collection[int]) -> float | None:
    """PSNR in dB over the pixels of objects that are not ignored.

    Args:
        picture, photo: [H, W, 3] in 0..1.
        ids: int [H, W], negative without label; None: no map is known.
        ignored: ids of objects that are left out.

    Returns:
        None if nothing is ignored, the map has another size than the photo, or the photo shows no such object.
    """
    if ids is None or not ignored or ids.shape != photo.shape[:2]:
        return None
    counted = (ids >= 0) & ~torch.isin(ids, ids.new_tensor(sorted(ignored)))
    return float(psnr(picture[counted], photo[counted])) if bool(counted.any()) else None


def worst_view(views: Sequence[ViewScore]) -> ViewScore | None:
    """The view with the lowest PSNR; None if there is none."""
    return min(views, key=lambda view: view.psnr, default=None)


def summary(views: Sequence[ViewScore], floaters: FloaterScore | None) -> str | None:
    """One sentence about the worst view and one about floaters; None without both."""
    parts = []
    worst = worst_view(views)
    if worst is not None:
        mean = sum(view.psnr for view in views) / len(views)
        quality = "" if worst.miou is None else f", mIoU {worst.miou:.1f}"
        parts.append(
            f"Worst of {len(views)} held-out views: {worst.name}, PSNR {worst.psnr:.1f} dB{quality} "
            f"(mean {mean:.1f} dB)."
        )
    if floaters is not None:
        parts.append(
            f"Before {floaters.n_views} views between the cameras floats {floaters.mean:.2f} % of the picture, "
            f"{floaters.worst:.2f} % in the worst."
        )
    return " ".join(parts) or None


def write_views(path: Path, views: Sequence[ViewScore]) -> None:
    """Write a CSV with one row per view, lowest PSNR first. The file is complete, or it does not appear.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["view", "psnr", "psnr_inside", "miou"])
    for view in sorted(views, key=lambda view: view.psnr):
        figures = (view.psnr, view.psnr_inside, view.miou)
        writer.writerow([view.name, *("" if value is None else f"{value:.3f}" for value in figures)])
    write_text(path, buffer.getvalue())
