"""One click an object on a splat without id maps: IoU on held-out photos' exact maps, and seconds.

    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --clicks 3
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --maker exact --sharpen
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --cameras virtual
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --everything
    python benchmarks/segment.py --splat RUN --ignore-ids 0 19 --everything --maps sam_mask

The click is the most interior pixel of the object's exact mask in the training view where it is largest. With `--clicks 3` others follow, each
alone: pixels at least half as deep in the mask, as far as possible from those before. An object's IoU is then the mean, and the worst is told, too.
Nothing else is taken from photos or maps: masks are made of renders. `exact` puts the training views' exact masks in the maker's place and tells what counts and labels alone
lose. With `virtual`, the views beside the clicked one are virtual cameras around the splat. With `--everything` nothing is clicked: of all
groups, the one that is best for an object counts, which tells what there is to choose from, not what would be chosen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gradiseg_ns import masks, rendering
from gradiseg_ns.cli.segment import labels_of, sharpened
from gradiseg_ns.data.id_maps import resize_id_map
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment.cameras import virtual_cameras
from gradiseg_ns.segment.everything import find_everything
from gradiseg_ns.segment.loop import Click, Found, SegmentError, Views, find_object, see
from gradiseg_ns.sources.capture import Capture, load_capture
from gradiseg_ns.sources.capture import Views as Photos
from gradiseg_ns.sources.run import load_run
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority, render_classes


@dataclass
class SegmentBenchmark:
    """One click an object."""

    splat: Path
    """A run that was trained without id maps: its folder or config.yml."""
    masks_dir: str = "object_mask"
    """Exact maps: of the clicks, and of the held-out views."""
    ignore_ids: tuple[int, ...] = ()
    clicks: int = 1
    """So many pixels of each object are clicked, each alone."""
    together: bool = False
    """They are clicks for one answer."""
    presses: int = 0
    """A person who looks presses *Larger* or *Smaller* up to so many times, and takes what is best."""
    everything: bool = False
    """Find all objects at once."""
    maps: str | None = None
    """With --everything: the training photos' maps of this folder are the maker's masks, such as `sam_mask`."""
    maker: str = ""
    """What makes the masks, as `gradiseg segment --maker`; `exact` takes the maps. Default: wand, with --everything regions."""
    cameras: Literal["run", "virtual"] = "run"
    sharpen: bool = False
    """Score the objects once more after `gradiseg segment --sharpen`."""
    views: int = 16
    height: int = 256
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        self.maker = self.maker or ("regions" if self.everything else "wand")
        if self.maps is not None and (self.cameras == "virtual" or not self.everything):
            raise SystemExit(
                "--maps is for --everything with --cameras run: there are no maps of other views."
            )
        if self.maker == "exact" and (self.cameras == "virtual" or self.everything):
            raise SystemExit("--maker exact is for clicks with --cameras run: it needs maps of all views.")
        if self.sharpen and (self.cameras == "virtual" or self.everything):
            raise SystemExit(
                "--sharpen is for clicks with --cameras run: all objects must be seen by the same views."
            )
        run = load_run(self.splat, self.device)
        scene = run.capture(masks_dir=self.masks_dir)
        splat, train, test = run.splat, scene.train, scene.test
        maps = torch.cat([m.unique() for m in train.id_maps]).unique().tolist()
        objects = [i for i in maps if i >= 0 and i not in self.ignore_ids]
        around = virtual_cameras(splat) if self.cameras == "virtual" else []
        background = run.background.to(self.device)
        if self.everything:
            views = Views(lambda camera: see(splat, camera, background), around or train.cameras, self.height)
            self._all_at_once(splat, views, scene, objects)
            return
        gaussians = splat.gaussians()
        shared: Views | None = None
        start = perf_counter()
        if self.cameras == "run":
            shared = Views(lambda camera: see(splat, camera, background), train.cameras, self.height)
            shared.solids(gaussians)
            shared.weights(gaussians)
        prepared = perf_counter() - start
        table = Table(
            title=f"{scene.data.name}, {len(splat)} Gaussians, {self.maker}, {self.cameras} cameras"
        )
        for column in ("id", "name", "IoU", "worst", "seconds", "views"):
            table.add_column(column, justify="left" if column == "name" else "right")
        rows = []
        every: dict[str, Found] = {}
        for i in objects:
            tried, first = self._clicked(splat, train, test, shared, around, background, i)
            if first is not None:
                every[str(i)] = first
            row = {key: float(np.mean([one[key] for one in tried])) for key in tried[0]}
            worst = min(one["iou"] for one in tried)
            rows.append({"id": i, **row, "worst": worst, "clicks": [one["iou"] for one in tried]})
            name = scene.object_names.get(i, "")
            table.add_row(
                str(i),
                name,
                f"{100 * row['iou']:.1f}",
                f"{100 * worst:.1f}",
                f"{row['seconds']:.1f}",
                f"{row['views']:.1f}",
            )
        mean = {
            key: float(np.mean([row[key] for row in rows]))
            for key in ("iou", "worst", "seconds", "cpu", "views")
        }
        per_view = mean["seconds"] / mean["views"]
        table.add_row(
            "", "mean", f"{100 * mean['iou']:.1f}", f"{100 * mean['worst']:.1f}", f"{mean['seconds']:.1f}", f"{mean['views']:.1f}",
        )  # fmt: skip
        Console().print(table)
        told = f"{mean['cpu']:.1f} s of processor time an object"
        print(f"{told}; {per_view:.2f} s a view; once for all objects: {prepared:.1f} s")
        figures: dict[str, Any] = {"mean": mean, "objects": rows, "prepared": prepared}
        if self.maker == "exact":
            for name, views in (("training", train), ("held-out", test)):
                figures[f"votes_{name}"] = bound = voted_iou(splat, views, test, objects)
                print(f"Labels by votes of all exact {name} maps: mean {100 * bound:.1f}")
        if self.sharpen and shared is not None:
            start = perf_counter()
            figures["sharpened"] = sharpened = sharpened_ious(splat, every, shared, background, test)
            seconds = (perf_counter() - start) / len(objects)
            print("Sharpened: " + ", ".join(f"{i} {100 * iou:.1f}" for i, iou in sharpened.items()))
            print(f"mean {100 * sum(sharpened.values()) / len(objects):.1f}, {seconds:.1f} s more an object")
        if self.output is not None:
            self.output.write_text(json.dumps(figures, indent=2))

    def _clicked(
        self,
        splat: Splat,
        train: Photos,
        test: Photos,
        shared: Views | None,
        around: Sequence[rendering.Camera],
        background: Tensor,
        object_id: int,
    ) -> tuple[list[dict[str, float]], Found | None]:
        """The figures of each click on an object, and what the first one found. Without shared views each click has its own."""
        tried, first, gaussians = [], None, splat.gaussians()
        every = clicks_on(train, object_id, self.clicks)
        for clicks in [every] if self.together else [[one] for one in every]:
            views = shared
            if views is None:
                seen = [train.cameras[clicks[0].view], *around]
                views = Views(lambda camera: see(splat, camera, background), seen, self.height)
                clicks = [Click(0, one.x, one.y) for one in clicks]
            maker: Any = (
                Exact(views, train, object_id)
                if self.maker == "exact"
                else masks.load(self.maker, self.device)
            )
            start, worked = perf_counter(), process_time()
            selected, asked = torch.zeros(len(splat), dtype=torch.bool, device=self.device), 1
            found = None
            try:
                found = find_object(gaussians, views, maker, clicks, most_views=self.views)
                selected, asked = found.selected, len(found.views) + len(found.skipped)
                first = first or found
            except SegmentError:
                pass
            seconds, cpu = perf_counter() - start, process_time() - worked
            iou = held_out_iou(splat, selected, test, object_id)
            if found is not None and self.presses:
                iou = max([iou, *self._pressed(splat, views, maker, clicks, found, test, object_id)])
            tried.append({"iou": iou, "seconds": seconds, "cpu": cpu, "views": asked})
        return tried, first

    def _pressed(
        self,
        splat: Splat,
        views: Views,
        maker: Any,
        clicks: Sequence[Click],
        found: Found,
        test: Photos,
        object_id: int,
    ) -> list[float]:
        """IoUs after each press of *Larger*, and after each of *Smaller*."""
        ious = []
        for larger in (True, False):
            one = found
            for _ in range(self.presses):
                start = one.other_size(larger=larger)
                if start is None:
                    break
                one = find_object(splat.gaussians(), views, maker, clicks, start=start, most_views=self.views)
                ious.append(held_out_iou(splat, one.selected, test, object_id))
        return ious

    def _all_at_once(self, splat: Splat, views: Views, scene: Capture, objects: list[int]) -> None:
        """The row of --everything: for each object the group that is best for it."""
        maker: Any = masks.load(self.maker, self.device)
        if self.maps is not None:
            maker = Maps(views, scene, self.maps)
        start = perf_counter()
        found = find_everything(splat.gaussians(), views, maker, most_views=self.views)
        seconds = perf_counter() - start
        groups = int(found.classes.unique().gt(0).sum())
        best, group_of = best_groups(splat, (found.classes - 1).clamp(min=-1), scene.test, objects)
        table = Table(
            title=f"{scene.data.name}, {len(splat)} Gaussians, {self.maps or self.maker}, {self.cameras} cameras"
        )
        for column in ("id", "name", "IoU of its best group", "group"):
            table.add_column(column, justify="left" if column == "name" else "right")
        for i, iou, group in zip(objects, best, group_of, strict=True):
            table.add_row(str(i), scene.object_names.get(i, ""), f"{100 * iou:.1f}", str(group))
        mean = float(np.mean(best))
        table.add_row("", "mean", f"{100 * mean:.1f}", "")
        Console().print(table)
        print(f"{groups} groups, {len(set(group_of))} of them the best for an object; {seconds:.1f} s in all")
        if self.output is not None:
            rows = [
                {"id": i, "iou": iou, "group": group}
                for i, iou, group in zip(objects, best, group_of, strict=True)
            ]
            figures = {"mean": {"iou": mean}, "objects": rows, "groups": groups, "seconds": seconds}
            self.output.write_text(json.dumps(figures, indent=2))


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


class Maps:
    """Maps of the training photos in a maker's place."""

    def __init__(self, views: Views, scene: Capture, folder: str) -> None:
        self.views, self.maps = views, load_capture(scene.data, masks_dir=folder).train.id_maps

    def everything(self, picture: masks.Picture) -> list[masks.Mask]:
        """The masks of the view that this is a picture of."""
        ids = self.maps[self.views.view_of(picture)].numpy()
        small = torch.from_numpy(resize_id_map(ids, *picture.rgb.shape[:2]))
        return [masks.Mask(small == i) for i in small.unique().tolist() if i >= 0]


def clicks_on(train: Photos, object_id: int, count: int = 1) -> list[Click]:
    """The most interior pixel of an object in the view where it is largest; then others well inside, far from those before."""
    from scipy.ndimage import distance_transform_edt

    view = max(range(len(train)), key=lambda v: int((train.id_maps[v] == object_id).sum()))
    inside = np.pad((train.id_maps[view] == object_id).numpy(), 1)
    depth: Any = distance_transform_edt(inside)
    pixels = [np.unravel_index(int(depth.argmax()), depth.shape)]
    deep = np.argwhere(depth >= 0.5 * depth.max())
    while len(pixels) < count:
        apart = np.linalg.norm(deep[:, None] - np.array(pixels)[None], axis=-1).min(axis=1)
        pixels.append(tuple(deep[int(apart.argmax())]))
    return [Click(view, float(x) - 0.5, float(y) - 0.5) for y, x in pixels]


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


def voted_iou(splat: Splat, views: Photos, test: Photos, objects: Sequence[int]) -> float:
    """Mean over the objects of the IoU that labels have if the exact maps of all views vote: what labels of this splat can give."""
    classes = torch.zeros(int(max(objects)) + 1, dtype=torch.int64)
    classes[list(objects)] = torch.arange(1, len(objects) + 1)
    mapped = []
    for camera, ids in zip(views.cameras, views.id_maps, strict=True):
        known = ids.long().clamp(min=0, max=len(classes) - 1)
        own = torch.where(ids < len(classes), classes[known], 0)
        mapped.append((camera, torch.where(ids >= 0, own, -1)))
    labels = majority(accumulate(splat.gaussians(), mapped, len(objects) + 1)).classes
    return float(np.mean([held_out_iou(splat, labels == k + 1, test, i) for k, i in enumerate(objects)]))


def sharpened_ious(
    splat: Splat, found: dict[str, Found], views: Views, background: Tensor, test: Photos
) -> dict[str, float]:
    """Mean IoU over the held-out views of the objects that were found (by id), after `gradiseg segment --sharpen`."""
    splat.labels, splat.extra["label_confidence"], objects = labels_of(found)
    before = splat.labels
    splat = sharpened(splat, found, views, objects, background)
    assert splat.labels is not None
    print(f"{len(splat) - len(before)} Gaussians more")
    return {i: held_out_iou(splat, splat.labels == k + 1, test, int(i)) for k, i in enumerate(found)}


@torch.no_grad()
def best_groups(
    splat: Splat, classes: Tensor, test: Photos, objects: Sequence[int]
) -> tuple[list[float], list[int]]:
    """For each object the largest mean IoU over the held-out views that a group of Gaussians [N] has, and the group (-1: none)."""
    count = int(classes.max()) + 2  # the first is that of pixels without a group
    sums, shown = torch.zeros(len(objects), count), torch.zeros(len(objects), count)
    for camera, ids in zip(test.cameras, test.id_maps, strict=True):
        projection = splat.project(camera)
        _, alpha = rendering.rasterize(projection, [splat.opacities[:, None]])
        pixels, _ = render_classes(projection, classes)
        pixels = torch.where(alpha[..., 0] >= MIN_ACCUMULATION, pixels, -1).cpu() + 1
        sizes = torch.bincount(pixels.flatten(), minlength=count)
        for row, i in enumerate(objects):
            truth = ids == i
            both = torch.bincount(pixels[truth], minlength=count)
            either = sizes + int(truth.sum()) - both
            sums[row] += both / either.clamp(min=1)
            shown[row] += either > 0
    scores = (sums / shown.clamp(min=1))[:, 1:]
    best, which = scores.max(dim=1)
    return best.tolist(), torch.where(best > 0, which, -1).tolist()


if __name__ == "__main__":
    tyro.cli(SegmentBenchmark).main()
