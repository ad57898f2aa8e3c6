"""`gradiseg affordance`: classes that were painted on a few exemplar photos, on a splat."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gradiseg_ns.affordance import DEFAULT_K, DEFAULT_MODEL, DEFAULT_RESOLUTION
from gradiseg_ns.cli.common import PICTURES, MaybePath, Source
from gradiseg_ns.tools.terminal import default_device, progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.affordance.transfer import AffordanceResult
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources.capture import Capture

MAPS = "maps"
"""Folder, in that of the results, of the maps that the photos alone give."""
REPORT = "affordance.json"
"""File in that folder: how the maps were made. A folder with it is ours, and may be replaced."""
_PART = re.compile(r"[A-Za-z0-9_-]+\.ply")


@dataclass
class Affordance(Source):
    """Classes painted on a few exemplar photos, transferred to a splat (arXiv 2409.11681).

    Writes affordance.ply with a class per Gaussian, a PLY for each class, the maps that each photo alone gives (`maps`,
    which `--masks-dir` takes), and overview.png.
    """

    exemplars: Path = field(default_factory=lambda: Path("exemplars"))
    """Folder of painted photos: labelme JSONs or id PNGs beside them (docs/affordance.md)."""
    model: str = DEFAULT_MODEL
    """A vision transformer of the Hugging Face hub, or a folder with its weights."""
    layer: Annotated[int | None, tyro.conf.arg(metavar="BLOCK", help_behavior_hint="")] = None
    """Block whose tokens are taken, from 1 to the model's depth. Default: two thirds of the depth, 8 of 12. The last blocks tell parts apart worse (docs/affordance.md)."""
    resolution: int = DEFAULT_RESOLUTION
    """Longer side of the photos as the model sees them, in pixels."""
    k: int = DEFAULT_K
    """Exemplar tokens that vote for the class of a patch."""
    mirror: bool = False
    """Every exemplar also counts mirrored: for parts that point the other way in the scene."""
    position_means: bool = False
    """Subtract from each token the mean token of its position in the picture, over the photos and the exemplars. It takes away what a token knows of the position; for learnt models. The photos are seen twice."""
    offline: bool = False
    """Never reach for the network: weights from a folder or from the hub's cache."""
    output_dir: MaybePath = None
    """Where the results go. Default: a folder `affordance` beside the splat."""

    def main(self) -> None:
        from gradiseg_ns.affordance.exemplars import read_exemplars
        from gradiseg_ns.affordance.tokens import TokenModel
        from gradiseg_ns.affordance.transfer import check_k, prepare_steps, transfer
        from gradiseg_ns.tools.atomic import check_writable

        check_k(self.k)
        exemplars, names = read_exemplars(self.exemplars)
        folder = self.output_path(self.output_dir, "affordance")
        before = _parts_before(folder / MAPS)
        check_writable(folder / "overview.png")
        model = TokenModel.load(
            self.model, layer=self.layer, resolution=self.resolution, device=default_device(self.device),
            offline=self.offline,
        )  # fmt: skip
        say(f"{self.model}: tokens of block {model.layer}, patches of {model.patch} pixels.")
        _, splat, capture, background = self.open_splat(maps=False)
        views = capture.train
        images = [image.cpu().numpy() for image in views.images]
        options = {"mirror": self.mirror, "position_means": self.position_means}
        steps = prepare_steps(len(views), len(exemplars), **options) + len(views)
        with progress("Looking for affordances", steps) as advance:
            result = transfer(
                zip(views.names, views.cameras, images, strict=True), splat.gaussians(), exemplars, model, names,
                k=self.k, progress=lambda name: advance(), **options,
            )  # fmt: skip
        splat.labels = result.classes.int()
        parts = _write_parts(folder, splat, result)
        painted = {int(k) for exemplar in exemplars for k in set(exemplar.classes.flat)}
        _draw(folder / "overview.png", capture, splat, result, painted, background)
        report = {
            "model": self.model, "layer": model.layer, "resolution": self.resolution, "k": self.k, **options,
            "exemplars": [exemplar.name for exemplar in exemplars], "parts": parts,
        }  # fmt: skip
        _write_maps(folder / MAPS, capture, [result.maps_2d[name] for name in views.names], names, report)
        _set_aside(folder, before - set(parts))
        say(f"Look at {folder / 'overview.png'}")


def _parts_before(maps: Path) -> set[str]:
    """The part PLYs of the results that are there already, by the report in their folder of maps.

    Raises:
        WriteError: there is such a folder, and it is not ours.
    """
    from gradiseg_ns.tools.errors import WriteError
    from gradiseg_ns.tools.json_files import read_json

    if not maps.exists():
        return set()
    try:
        parts = read_json(maps / REPORT)["parts"]
        return {name for name in parts if isinstance(name, str) and _PART.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        raise WriteError(
            f"{maps} exists and was not written by `gradiseg affordance` (it has no {REPORT}): nothing is overwritten. "
            "Name another --output-dir."
        ) from None


def _write_parts(folder: Path, splat: Splat, result: AffordanceResult) -> list[str]:
    """Write affordance.ply and a PLY for each class but the background; the names of the latter."""
    from gradiseg_ns.formats.write_ply import write_ply

    write_ply(folder / "affordance.ply", splat, names=dict(enumerate(result.class_names)))
    parts = []
    for k, (name, stem) in enumerate(zip(result.class_names, file_names(result.class_names), strict=True)):
        mask = result.classes == k
        if k == 0 or not bool(mask.any()):
            continue
        path = write_ply(
            folder / f"{stem}.ply", splat.select(mask), names={k: name}, colors={k: result.colors[k].tolist()}
        )
        parts.append(path.name)
        say(f"{name}: {int(mask.sum())} Gaussians, {path}")
    if not parts:
        say("All Gaussians are background. Paint more regions, or more photos that look like the scene.")
    return parts


def file_names(names: Sequence[str]) -> list[str]:
    """Names of files for classes, each another one: what `safe_name` leaves, with the id before it where that is not enough."""
    from gradiseg_ns.formats.export import safe_name

    safe = [safe_name(name) for name in names]
    lower = ["affordance", *(name.lower() for name in safe)]
    taken = {name for name in lower if lower.count(name) > 1 or not name}
    # Names that start with a number and _ could be those that an id makes.
    return [
        f"{k}_{name}".rstrip("_") if name.lower() in taken or re.match(r"\d+(_|$)", name) else name
        for k, name in enumerate(safe)
    ]


def _write_maps(
    folder: Path, capture: Capture, maps: Sequence[Tensor], names: Sequence[str], report: dict[str, object]
) -> None:
    """Write the maps [H, W] of the training photos as id maps. The folder appears when all is there."""
    import numpy as np
    from PIL import Image

    from gradiseg_ns.data.id_maps import read_frame_maps
    from gradiseg_ns.sources.association import distorted, original_cameras
    from gradiseg_ns.tools.atomic import new_folder

    originals, lookups = original_cameras(capture), {}
    with new_folder(folder, replace=True) as making:
        for i, (name, found) in enumerate(zip(capture.train.names, maps, strict=True)):
            path = making / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Id maps are read as the photos were taken, before their lens is undone.
            ids = distorted(found.numpy(), originals[i], lookups)
            Image.fromarray(ids.astype(np.uint8)).save(path)
        (making / "object_names.json").write_text(
            json.dumps({str(k): name for k, name in enumerate(names)}, indent=1), encoding="utf-8"
        )
        (making / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    say(
        f"Saved {folder}, the maps of the photos alone. As id maps: gradiseg lift --masks-dir {folder.absolute()}"
    )
    if read_frame_maps(capture.data):
        say(
            "transforms.json names maps of its own (object_mask_path), which go before any folder: take them out of it to use these."
        )


def _set_aside(folder: Path, parts: set[str]) -> None:
    """Move the PLYs of an earlier result that has classes which this one has not."""
    from gradiseg_ns.formats.export import OLDER

    for part in sorted(parts):
        for name in (part, f"{Path(part).stem}.objects.json"):
            if (folder / name).is_file():
                (folder / OLDER).mkdir(exist_ok=True)
                (folder / name).replace(folder / OLDER / name)
        say(f"{part} is of an earlier result: moved to {folder / OLDER}.")


def _draw(
    path: Path,
    capture: Capture,
    splat: Splat,
    result: AffordanceResult,
    painted: set[int],
    background: Tensor,
) -> None:
    """Photo, render and affordances of some views, held-out ones if there are any, and what the colours mean."""
    from gradiseg_ns.affordance.transfer import class_map, legend
    from gradiseg_ns.tools.pictures import overview, save_picture, to_image

    shown = capture.test if len(capture.test) else capture.train
    rows, classes = [], {0, *painted}
    for camera, photo in list(zip(shown.cameras, shown.images, strict=True))[:PICTURES]:
        projection = splat.project(camera)
        rgb, _ = splat.render(camera, background, projection=projection)
        found = class_map(projection, result.classes)
        classes |= set(found.unique().tolist())
        colors = result.colors.to(found.device)[found.long()]
        rows.append(
            [("photo", to_image(photo / 255)), ("render", to_image(rgb)), ("affordances", to_image(colors))]
        )
    width = max(sum(image.width for _, image in row) for row in rows)
    key = legend(result.class_names, result.colors, sorted(classes), width)
    save_picture(overview([*rows, [("classes", key)]]), path)
