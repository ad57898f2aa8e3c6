"""Quality of objects that are made from masks without a tracker, against exact maps.

    python benchmarks/association.py --splat RUN --masks-dir sam_mask --truth-dir object_mask --objects 1 2 3
    python benchmarks/association.py --splat RUN --masks-dir noisy_mask --truth-dir object_mask --objects 1 2 3

    python benchmarks/association.py --splat RUN --masks-dir object_mask --truth-dir object_mask --scramble --picture association.jpg

`--scramble` gives exact maps the errors of a segmenter without a tracker: other ids in every view, a third of the objects cut in two, a
tenth missed. The *best group* of an object is the id with the largest mean IoU over the views that show the object: one id for all views.
*Single masks* takes the best mask of each view separately. This shows the quality of the masks themselves; consistent ids cannot reach
it. If ids are kept, each object is compared with its own id. On held-out views the labels of the Gaussians are rendered and compared.
New ids have levels: objects, their parts, parts of parts. The figures are of the objects; *of any level* takes for each object the best
group of all levels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gradiseg_ns import sources
from gradiseg_ns.data.id_maps import read_id_map, resize_id_map
from gradiseg_ns.scene.parts import PartTree
from gradiseg_ns.sources.association import IdMode, associate_views, overview_of
from gradiseg_ns.votes.labels import render_classes

Maps = Sequence[NDArray[np.integer]]


def best_group(predicted: Maps, truth: Maps, objects: Sequence[int]) -> float:
    """Mean over the objects: the mean IoU of the best id over the views that show the object."""
    return best_of_any([predicted], truth, objects)


def best_of_any(levels: Sequence[Maps], truth: Maps, objects: Sequence[int]) -> float:
    """As `best_group`, with the best id of several levels of maps."""
    return float(
        np.mean(
            [
                max((v for maps in levels for v in _ious(maps, truth, o).values()), default=0.0)
                for o in objects
            ]
        )
    )


def levels_of(tree: PartTree, maps: Maps) -> list[Maps]:
    """Maps of parts as maps of each level: of the objects, of their parts, and so on."""
    paths = {part: tree.path(part)[::-1] for part in tree.ids}  # from the object down
    levels: list[Maps] = []
    for level in range(max((len(path) for path in paths.values()), default=1)):
        found = []
        for ids in maps:
            number = np.arange(max(int(ids.max(initial=0)), *tree.ids, 0) + 2)
            number[-1] = -1
            for part, path in paths.items():
                number[part] = path[min(level, len(path) - 1)]
            found.append(number[ids])
        levels.append(found)
    return levels


def own_ids(predicted: Maps, truth: Maps, objects: Sequence[int]) -> float:
    """Mean IoU over all objects of all views, each compared with its own id."""
    found = [
        _iou(p == o, t == o) for o in objects for p, t in zip(predicted, truth, strict=True) if (t == o).any()
    ]
    return float(np.mean(found))


def single_masks(predicted: Maps, truth: Maps, objects: Sequence[int]) -> float:
    """Mean over the objects: the mean over the views of the IoU of the best mask of each view."""
    means = []
    for o in objects:
        best = [
            max((_iou(p == i, t == o) for i in np.unique(p[t == o]) if i >= 0), default=0.0)
            for p, t in zip(predicted, truth, strict=True)
            if (t == o).any()
        ]
        means.append(np.mean(best))
    return float(np.mean(means))


def scrambled(ids: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int32]:
    """A map with unrelated ids from 1; some objects are cut in two along a line through their centre, some are gone (0)."""
    result = np.zeros(ids.shape, np.int32)
    numbers = iter(rng.permutation(200) + 1)
    for i in np.unique(ids[ids >= 0]):
        mask = ids == i
        fate, angle = rng.random(), rng.random() * np.pi
        if fate < 0.1:
            continue
        result[mask] = next(numbers)
        if fate < 0.43:
            y, x = np.nonzero(mask)
            side = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle) > 0
            result[y[side], x[side]] = next(numbers)
    return result


def _ious(predicted: Maps, truth: Maps, wanted: int) -> dict[int, float]:
    sums: dict[int, float] = {}
    views = 0
    for p, t in zip(predicted, truth, strict=True):
        inside = t == wanted
        if not inside.any():
            continue
        views += 1
        for i in np.unique(p[inside]):
            if i >= 0:
                sums[int(i)] = sums.get(int(i), 0.0) + _iou(p == i, inside)
    return {i: total / views for i, total in sums.items()}


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


@dataclass
class AssociationBenchmark:
    """Association of masks against exact maps."""

    splat: Path
    """A trained run on the scene: its folder or config.yml."""
    masks_dir: str = "sam_mask"
    """The masks, in the data folder or absolute."""
    truth_dir: str | None = None
    """Exact maps, in the data folder or absolute. Default: none, then only the agreement of views is measured."""
    objects: tuple[int, ...] = ()
    """Ids of the exact maps that are compared. Default: all that occur."""
    ids: IdMode = "auto"
    sparse: bool = False
    """Compare masks by sparse points, as if there were no splat yet."""
    every: int = 1
    """Take every so many-th training view only."""
    scramble: bool = False
    """Add errors to the masks first."""
    picture: Path | None = None
    """Draw masks before and after, of some views."""
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        run = sources.load_run(self.splat)
        scene = run.capture(masks_dir=self.masks_dir)
        for kept in fields(scene.train):
            setattr(scene.train, kept.name, getattr(scene.train, kept.name)[:: self.every])
        if self.scramble:
            rng = np.random.default_rng(0)
            scene.train.id_maps[:] = [
                torch.from_numpy(scrambled(m.numpy(), rng)) for m in scene.train.id_maps
            ]
        start = perf_counter()
        done = associate_views(scene, None if self.sparse else run.splat, ids=self.ids)
        seconds = perf_counter() - start
        figures: dict[str, float] = {
            "seconds": seconds,
            "masks": len(done.result.masks),
            "ids": len(done.result.ids),
            "parts": len(done.result.parts.tree),
        }
        for name, found in (("before", done.before), ("after", done.after)):
            if found is not None:
                figures[f"same id, {name}"], figures[f"same id by chance, {name}"] = (
                    found.agreement,
                    found.chance,
                )
        if self.truth_dir is not None:
            self._compare(run, scene, done, figures)
        table = Table(title=f"{scene.data.name}, {self.masks_dir}, ids {'kept' if done.kept else 'new'}")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in figures.items():
            table.add_row(name, f"{value:.4g}")
        Console().print(table)
        if self.picture is not None:
            overview_of(scene, done).save(self.picture, quality=88)
        if self.output is not None:
            self.output.write_text(json.dumps(figures, indent=2))

    def _compare(self, run: sources.Run, scene: sources.Capture, done, figures: dict[str, float]) -> None:
        folder = scene.data_folder / str(self.truth_dir)

        def read(views: sources.Views) -> list[NDArray[np.int32]]:
            return [
                resize_id_map(read_id_map(folder / f"{name}.png"), camera.height, camera.width)
                for name, camera in zip(views.names, views.cameras, strict=True)
            ]

        truth = read(scene.train)
        objects = self.objects or tuple(
            int(i) for i in np.unique(np.concatenate([np.unique(t) for t in truth]))
        )
        old = [m.numpy() for m in scene.train.id_maps]
        score = own_ids if done.kept else best_group
        name = "IoU" if done.kept else "best group's IoU"
        figures["single masks, training views"] = single_masks(old, truth, objects)
        figures[f"{name} before, training views"] = score(old, truth, objects)
        figures[f"{name} after, training views"] = score(done.maps, truth, objects)
        parts = done.result.parts
        if len(parts.tree):
            levels = [done.maps, *levels_of(parts.tree, parts.maps)]
            figures[f"{name} of any level after, training views"] = best_of_any(levels, truth, objects)
        labels = done.result.labels
        if labels is not None and len(scene.test):
            ids = torch.tensor([*done.result.ids, -1])
            held_out = [
                ids[render_classes(run.splat.project(camera), labels.classes)[0]].numpy()
                for camera in scene.test.cameras
            ]
            truth = read(scene.test)
            figures[f"{name} after, held-out views"] = score(held_out, truth, objects)
            if len(parts.tree) and parts.labels is not None:
                own = ids[labels.classes]
                nodes = torch.where(parts.labels >= 0, parts.labels, own)
                found = [render_classes(run.splat.project(c), nodes)[0].numpy() for c in scene.test.cameras]
                levels = [held_out, *levels_of(parts.tree, found)]
                figures[f"{name} of any level after, held-out views"] = best_of_any(levels, truth, objects)


if __name__ == "__main__":
    tyro.cli(AssociationBenchmark).main()
