"""How good the masks of single photos are, against exact maps.

    python benchmarks/masks.py --data SCENE --truth-dir object_mask --objects 1 2 3 --views 2
    python benchmarks/masks.py --data SCENE --truth-dir object_mask --objects 1 2 3 --model facebook/sam2.1-hiera-small
    python benchmarks/masks.py --data SCENE --truth-dir object_mask --objects 1 2 3 --model wand --prompts
    python benchmarks/masks.py --data SCENE --truth-dir object_mask --objects 1 2 3 --maps-dir sam_mask

Of every object in every view the best mask counts: `any level` among all masks, `whole objects` in the map that `gradiseg masks`
writes. With `--prompts` the maker gets a click in the middle of the object, its box, or both as a person would give them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gradiseg_ns import masks
from gradiseg_ns.data.id_maps import read_id_map, resize_id_map
from gradiseg_ns.data.photos import read_photo
from gradiseg_ns.masks.levels import paint
from gradiseg_ns.masks.types import EverythingMaker, Mask, Picture, PromptMaker
from gradiseg_ns.tools.errors import GradisegError

Bits = NDArray[np.bool_]


def iou(found: Bits, truth: Bits) -> float:
    """Of two masks [H, W]."""
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def best(found: Sequence[Bits], truth: Bits) -> float:
    """The best of some masks."""
    return max((iou(mask, truth) for mask in found), default=0.0)


def middle(mask: Bits) -> tuple[int, int]:
    """x and y of the pixel that is farthest from a mask's border."""
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y)


def box(mask: Bits) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask."""
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@dataclass
class Benchmark:
    """Mean best IoU of a maker's masks against exact maps."""

    data: Path
    """Folder with `images`, and the exact maps."""
    model: str = "regions"
    """`regions`, `wand`, or a model."""
    maps_dir: str | None = None
    """Folder of maps, in the data folder or absolute, that are compared in place of a maker's masks."""
    truth_dir: str = "object_mask"
    """Folder of the exact maps, in the data folder."""
    objects: tuple[int, ...] = ()
    """Ids that are objects. Default: all but 0."""
    views: int = 2
    """Photos, evenly spread."""
    prompts: bool = False
    """Ask the maker by clicks and boxes, not for everything."""
    device: str = "cpu"
    offline: bool = False

    def main(self) -> None:
        maker = None
        if self.maps_dir is None:
            maker = masks.load(self.model, device=self.device, offline=self.offline)
        photos = sorted((self.data / "images").iterdir())
        chosen = [photos[len(photos) * k // self.views] for k in range(min(self.views, len(photos)))]
        rows: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}

        def timed(name: str, work: Callable[[], Mask | list[Mask]]) -> list[Mask]:
            start = perf_counter()
            found = work()
            seconds.setdefault(name, []).append(perf_counter() - start)
            return found if isinstance(found, list) else [found]

        size = ""
        for photo in chosen:
            rgb = read_photo(photo)[..., :3]
            height, width = rgb.shape[:2]
            size = f"{width} x {height}"
            truth = resize_id_map(
                read_id_map(self.data / self.truth_dir / f"{photo.stem}.png"), height, width
            )
            picture = Picture(torch.from_numpy(rgb).to(self.device).float() / 255)
            ids = [i for i in np.unique(truth).tolist() if (i in self.objects if self.objects else i != 0)]
            if self.maps_dir is not None:
                whole = resize_id_map(
                    read_id_map(self.data / self.maps_dir / f"{photo.stem}.png"), height, width
                )
                painted = [whole == i for i in np.unique(whole) if i > 0]
                for i in ids:
                    rows.setdefault("whole objects", []).append(best(painted, truth == i))
                continue
            if not self.prompts:
                if not isinstance(maker, EverythingMaker):
                    raise GradisegError(f"--model {self.model} finds nothing by itself: add --prompts.")
                found = timed("everything", lambda m=maker, p=picture: m.everything(p))
                whole = paint(found, height, width).maps[0]
                every = [mask.pixels.cpu().numpy() for mask in found]
                painted = [whole == i for i in np.unique(whole) if i > 0]
                for i in ids:
                    rows.setdefault("any level", []).append(best(every, truth == i))
                    rows.setdefault("whole objects", []).append(best(painted, truth == i))
                rows.setdefault("masks", []).append(len(found))
                continue
            if not isinstance(maker, PromptMaker):
                raise GradisegError(f"--model {self.model} takes no clicks and boxes: leave --prompts out.")
            for i in ids:
                own = truth == i
                asked = {"click": {"positive": [middle(own)]}, "box": {"box": box(own)}}
                asked["click and box"] = {**asked["click"], **asked["box"]}
                for name, prompt in asked.items():
                    (mask,) = timed(name, lambda m=maker, p=picture, q=prompt: m.prompted(p, **q))
                    rows.setdefault(name, []).append(iou(mask.pixels.cpu().numpy(), own))
        table = Table(
            "", "mean", title=f"{self.maps_dir or self.model}, {len(chosen)} photos of {size}, {self.device}"
        )
        for name, values in rows.items():
            table.add_row(name if name == "masks" else f"IoU, {name}", f"{np.mean(values):.3f}")
        for name, values in seconds.items():
            table.add_row(f"seconds, {name}", f"{np.mean(values):.2f}")
        Console().print(table)


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
