"""One click an object on a splat without id maps: IoU on held-out photos' exact maps, and seconds.

    python benchmarks/segment.py --splat RUN --ignore-ids 0 19
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --maker exact
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --cameras virtual

The click is the most interior pixel of the object's exact mask in the training view where it is largest. Nothing else is taken from photos or
maps: masks are made of renders. `exact` puts the training views' exact masks in the maker's place and tells what counts and labels alone
lose. With `virtual`, the views beside the clicked one are virtual cameras around the splat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gradiseg_ns import masks, rendering
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment.cameras import virtual_cameras
from gradiseg_ns.segment.loop import Click, SegmentError, Views, find_object, see
from gradiseg_ns.sources.run import load_run
from gradiseg_ns.sources.scene import Views as Photos


@dataclass
class SegmentBenchmark:
    """One click an object."""

    splat: Path
    """A run that was trained without id maps: its folder or config.yml."""
    masks_dir: str = "object_mask"
    """Exact maps: of the clicks, and of the held-out views."""
    ignore_ids: tuple[int, ...] = ()
    maker: str = "wand"
    """What makes the masks, as `gradiseg segment --maker`; `exact` takes the maps."""
    cameras: Literal["run", "virtual"] = "run"
    views: int = 16
    height: int = 256
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        run = load_run(self.splat, self.device)
        scene = run.scene(masks_dir=self.masks_dir)
        splat, train, test = run.splat, scene.train, scene.test
        if self.maker == "exact" and self.cameras == "virtual":
            raise SystemExit("--maker exact needs maps of all views: only --cameras run has them.")
        maps = torch.cat([m.unique() for m in train.id_maps]).unique().tolist()
        objects = [i for i in maps if i >= 0 and i not in self.ignore_ids]
        around = virtual_cameras(splat) if self.cameras == "virtual" else []
        background = run.background.to(self.device)
        gaussians = splat.gaussians()
        shared: Views | None = None
        start = perf_counter()
        if self.cameras == "run":
            shared = Views(lambda camera: see(splat, camera, background), train.cameras, self.height)
            shared.surface()
            shared.weights(gaussians)
        prepared = perf_counter() - start
        table = Table(
            title=f"{scene.data.name}, {len(splat)} Gaussians, {self.maker}, {self.cameras} cameras"
        )
        for column in ("id", "name", "IoU", "seconds", "views", "Gaussians"):
            table.add_column(column, justify="left" if column == "name" else "right")
        rows = []
        for i in objects:
            click = click_on(train, i)
            views = shared
            if views is None:
                seen = [train.cameras[click.view], *around]
                views = Views(lambda camera: see(splat, camera, background), seen, self.height)
                click = Click(0, click.x, click.y)
            maker: Any = (
                Exact(views, train, i) if self.maker == "exact" else masks.load(self.maker, self.device)
            )
            start = perf_counter()
            try:
                found = find_object(gaussians, views, maker, [click], most_views=self.views)
                selected, asked = found.selected, len(found.views) + len(found.skipped)
            except SegmentError:
                selected, asked = torch.zeros(len(splat), dtype=torch.bool, device=self.device), 1
            seconds = perf_counter() - start
            iou = held_out_iou(splat, selected, test, i)
            rows.append({"id": i, "iou": iou, "seconds": seconds, "views": asked})
            name = scene.object_names.get(i, "")
            table.add_row(
                str(i), name, f"{100 * iou:.1f}", f"{seconds:.1f}", str(asked), str(int(selected.sum()))
            )
        mean = {key: float(np.mean([row[key] for row in rows])) for key in ("iou", "seconds", "views")}
        per_view = mean["seconds"] / mean["views"]
        table.add_row(
            "", "mean", f"{100 * mean['iou']:.1f}", f"{mean['seconds']:.1f}", f"{mean['views']:.1f}", ""
        )
        Console().print(table)
        print(f"{per_view:.2f} s a view; once for all objects: {prepared:.1f} s")
        if self.output is not None:
            self.output.write_text(
                json.dumps({"mean": mean, "objects": rows, "prepared": prepared}, indent=2)
            )


class Exact:
    """The exact masks of the training views in a maker's place."""

    def __init__(self, views: Views, train: Photos, object_id: int) -> None:
        self.views, self.masks = views, []
        for camera, ids in zip(views.cameras, train.id_maps, strict=True):
            own = (ids == object_id).float()[None, None]
            self.masks.append(
                torch.nn.functional.interpolate(own, (camera.height, camera.width), mode="area")[0, 0] > 0.5
            )

    def prompted(
        self,
        picture: masks.Picture,
        positive: Sequence = (),
        negative: Sequence = (),
        *,
        box: Any = None,
        mask: Any = None,
    ) -> masks.Mask:
        """The mask of the view that this is a picture of."""
        view = self.views.view_of(picture)
        return masks.Mask(self.masks[view].to(picture.rgb.device))


def click_on(train: Photos, object_id: int) -> Click:
    """The most interior pixel of an object in the view where it is largest."""
    from scipy.ndimage import distance_transform_edt

    view = max(range(len(train)), key=lambda v: int((train.id_maps[v] == object_id).sum()))
    inside = np.pad((train.id_maps[view] == object_id).numpy(), 1)
    depth: Any = distance_transform_edt(inside)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return Click(view, float(x) - 0.5, float(y) - 0.5)


@torch.no_grad()
def held_out_iou(splat: Splat, selected: Tensor, test: Photos, object_id: int) -> float:
    """Mean IoU over the held-out views: pixels in which the selected Gaussians have more than half of the weight."""
    scores = []
    for camera, ids in zip(test.cameras, test.id_maps, strict=True):
        (weight,), alpha = rendering.rasterize(splat.project(camera), [selected.float()[:, None]])
        found = (rendering.expected(weight, alpha)[..., 0] > 0.5) & (alpha[..., 0] >= MIN_ACCUMULATION)
        truth = (ids == object_id).to(found.device)
        either = int((found | truth).sum())
        if either:
            scores.append(int((found & truth).sum()) / either)
    return float(np.mean(scores)) if scores else 0.0


if __name__ == "__main__":
    tyro.cli(SegmentBenchmark).main()
