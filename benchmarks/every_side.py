"""Cut-outs from every side, also from below: IoU and BIoU against the true shape (gradiseg_ns/evaluation/every_side.py).

    python benchmarks/every_side.py --runs RUN [RUN ...] --truth examples/demo_scene/every_side --picture sides.png

An object's Gaussians (by their labels) are rendered alone; pixels with an accumulation above 0.5 are compared. The picture has a row for
each run and six views of each object: what is right (white), too much (red) and missing (blue).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from gradiseg_ns import rendering, sources
from gradiseg_ns.evaluation.every_side import (
    SideView,
    mean_over_objects,
    read_every_side,
    score_every_side,
)
from gradiseg_ns.evaluation.extraction import SOLID
from gradiseg_ns.runs.writing import labels_of_run

SHOWN, TILE = 6, 128
"""Views of each object in the picture, and their size in pixels."""
SIDES = ("all", "above", "around", "below")


@dataclass
class EverySide:
    """Cut-outs of trained runs from every side."""

    runs: tuple[Path, ...]
    """Folders or config.yml of trained runs."""
    truth: Path
    """Folder of the masks and their cameras."""
    picture: Path | None = None
    """Write a picture of the runs' cut-outs."""
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        views = read_every_side(self.truth)
        table = Table(title=f"{self.truth}: {len(views)} views; IoU / BIoU, means over objects")
        for column in ("run", *SIDES, "each object"):
            table.add_column(column, overflow="fold")
        figures, strips = [], []
        for path in self.runs:
            found = cut_outs(sources.load_run(path), views)
            row = figures_of(views, found)
            figures.append({"run": str(path), **row})
            cells = [f"{row[f'{side}_iou']:.2f} / {row[f'{side}_biou']:.2f}" for side in SIDES]
            each = ", ".join(f"{i}: {iou:.1f} / {biou:.1f}" for i, (iou, biou) in row["objects"].items())
            table.add_row(path.parent.name if path.is_file() else path.name, *cells, each)
            strips.append(strip(views, found))
        if self.picture is not None:
            Image.fromarray(np.concatenate(strips)).save(self.picture)
        Console(width=170).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps(figures, indent=2))


@torch.no_grad()
def cut_outs(run: sources.Run, views: list[SideView]) -> list[NDArray[np.bool_]]:
    """The solid pixels of each view's object, alone, bool [H, W]."""
    outputs = run.capture(maps=False).manager.train_dataparser_outputs
    to_scene = np.eye(4)
    to_scene[:3] = outputs.dataparser_transform.numpy()
    labels = labels_of_run(run)
    found = []
    for view in views:
        pose = to_scene @ view.pose
        pose[:3, 3] *= outputs.dataparser_scale
        pose[:3, 1:3] *= -1  # OpenGL to OpenCV
        height, width = view.mask.shape
        device = run.splat.means.device
        camera = rendering.Camera(
            torch.from_numpy(np.linalg.inv(pose)).float().to(device),
            torch.from_numpy(view.intrinsics).float().to(device), width, height,
        )  # fmt: skip
        own = run.splat.select(labels == view.object_id)
        if not len(own):
            found.append(np.zeros((height, width), bool))
            continue
        _, alpha = own.render(camera)
        found.append((alpha[..., 0] > SOLID).cpu().numpy())
    return found


def figures_of(views: list[SideView], found: list[NDArray[np.bool_]]) -> dict[str, Any]:
    """Means over the objects by side, and each object's IoU and BIoU, in percent."""
    scores = score_every_side(views, found)
    figures: dict[str, Any] = {}
    for side in SIDES:
        figures[f"{side}_iou"], figures[f"{side}_biou"] = mean_over_objects(scores, side)
    figures["objects"] = {s.object_id: (s.iou, s.biou) for s in scores if s.side == "all"}
    return figures


def strip(views: list[SideView], found: list[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Some views of each object side by side, uint8 [TILE, W, 3]."""
    tiles = []
    for object_id in dict.fromkeys(view.object_id for view in views):
        own = [(v, m) for v, m in zip(views, found, strict=True) if v.object_id == object_id]
        for view, mask in own[:: max(1, len(own) // SHOWN)][:SHOWN]:
            tile = np.zeros((*mask.shape, 3), np.uint8)
            tile[mask & view.mask] = 230
            tile[mask & ~view.mask] = (230, 40, 40)
            tile[~mask & view.mask] = (60, 100, 240)
            tiles.append(np.asarray(Image.fromarray(tile).resize((TILE, TILE))))
    return np.concatenate(tiles, axis=1)


if __name__ == "__main__":
    tyro.cli(EverySide).main()
