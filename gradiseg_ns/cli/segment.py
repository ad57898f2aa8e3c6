"""`gradiseg segment`: objects of a splat that has no id maps, by clicks, by phrases, or everything at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gradiseg_ns.cli.common import PICTURES, MaybePath, MaybeText, cell, check_replaceable, names_by_id
from gradiseg_ns.tools.atomic import check_writable
from gradiseg_ns.tools.terminal import console, default_device, progress, progress_bars, say, stages

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.rendering import Camera
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.segment.loop import Click, Found, Views
    from gradiseg_ns.sources.capture import Capture
    from gradiseg_ns.sources.run import Run

CAMERAS = 48
"""Training views of a run that are asked, at most."""
PROMPTS = "wand"
EVERYTHING = "regions"
PHRASES = "IDEA-Research/grounding-dino-tiny"
SHEET_WIDTH = 320
REST = "rest"

Clicks = Annotated[
    tuple[tuple[str, ...], ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="VIEW X Y [NAME]", help_behavior_hint=""),
]
Phrases = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PHRASE [PHRASE ...]", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="")]


@dataclass
class Segment:
    """Find objects in a splat that has no id maps: by a click, by a phrase, or everything. No photos and no training are needed.

    Views are rendered: from a run's cameras, else from virtual ones. `--cameras-only` writes cameras.png, the numbered views for --click.
    Writes a PLY with an object id and a confidence per Gaussian, the objects' names, and for a run also a gradiseg run.
    """

    splat: tyro.conf.Positional[Path]
    """A 3DGS PLY, or a run of gradiseg or splatfacto: its config.yml, or the folder it is in. Only open runs you trust: their config.yml can execute code."""
    click: Clicks = ()
    """A pixel on an object: a view's number in cameras.png, x, y, and the object's name. Can be repeated, also for one object."""
    beside: Clicks = ()
    """A pixel that does not belong to an object, in a view with a --click on it. Given as --click."""
    larger: Names = ()
    """Names of clicked objects that are larger than what was found. A name twice: still larger."""
    smaller: Names = ()
    """Names of clicked objects that are smaller."""
    phrase: Phrases = ()
    """Names of things, one object a phrase: "red mug" banana."""
    everything: bool = False
    """Find all objects."""
    cameras_only: bool = False
    """Write cameras.png and end."""
    maker: MaybeText = None
    """What makes the masks: `wand` (clicks) and `regions` (everything) need no weights; or a model of the Hugging Face hub, or a folder with its files. Default: wand, regions, for phrases IDEA-Research/grounding-dino-tiny."""
    prompts: str = PROMPTS
    """With --phrase: what makes masks of the boxes that a detector finds, and follows the object into further views."""
    views: int = 16
    """Most views asked for an object; fewer when nothing changes any more."""
    height: int = 256
    """Pixels of the renders that masks are made of."""
    sharpen: bool = False
    """With --click or --phrase: split and fit Gaussians at borders."""
    output_dir: MaybePath = None
    """Folder of segmented.ply, overview.png and cameras.png. Default: `segmented` beside the splat."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""
    offline: bool = False
    """Weights from a folder or the hub's cache only, no network."""

    def main(self) -> None:
        from gradiseg_ns.formats.write_ply import write_ply
        from gradiseg_ns.segment.loop import SegmentError, Views, see
        from gradiseg_ns.tools.pictures import save_picture

        ways = [bool(self.click), bool(self.phrase), self.everything, self.cameras_only]
        if sum(ways) != 1:
            raise SegmentError("give one of --click, --phrase, --everything and --cameras-only.")
        if self.beside and not self.click:
            raise SegmentError("--beside goes with --click: a click on the object is missing.")
        if self.views < 1 or self.height < 32:
            raise SegmentError(
                f"--views {self.views} --height {self.height}: expected 1 view or more of 32 pixels or more."
            )
        if self.sharpen and not (self.click or self.phrase):
            raise SegmentError("--sharpen goes with --click or --phrase: nothing else keeps its masks.")
        clicks = _parsed(self.click, self.beside)
        for flag, names in self._sizes():
            for name in names:
                if name not in clicks:
                    raise SegmentError(f"{flag} {name}: there is no --click on {name!r}.")
        folder = self.output_dir or (self.splat if self.splat.is_dir() else self.splat.parent) / "segmented"
        check_writable(folder / "segmented.ply")
        run, scene, splat, cameras, background = self._open()
        if run is not None and not self.cameras_only:
            check_replaceable(run, "segmented")
        views = Views(lambda camera: see(splat, camera, background), cameras, self.height)
        if self.cameras_only:
            path = folder / "cameras.png"
            save_picture(_sheet(splat, cameras, background), path)
            say(f"{len(cameras)} views. Look at {path}, then click: --click VIEW X Y")
            return
        start = perf_counter()
        if self.everything:
            labels, confidence, objects = self._everything(splat, views)
            asked = min(self.views, len(views))
        else:
            found = self._clicked(splat, views, clicks) if self.click else self._phrased(splat, views)
            labels, confidence, objects = labels_of(found)
            asked = sum(len(one.views) + len(one.skipped) for one in found.values())
            _print(found)
        splat.labels, splat.extra["label_confidence"] = labels, confidence
        if self.sharpen:
            splat = sharpened(splat, found, views, objects, background)
            assert splat.labels is not None
            labels = splat.labels
            views = Views(lambda camera: see(splat, camera, background), cameras, self.height)
        say(
            f"{len(objects) - (0 in objects.ids)} objects among {len(splat)} Gaussians, {asked} views asked: {perf_counter() - start:.1f} s. "
            f"{int((labels < 0).sum())} Gaussians are seen by no view and have no object."
        )
        say(f"Saved {write_ply(folder / 'segmented.ply', splat, names=names_by_id(objects))}")
        save_picture(_overview(splat, objects, views), folder / "overview.png")
        say(f"Look at {folder / 'overview.png'}")
        if run is not None and scene is not None:
            written = _write_run(run, scene, splat, objects, cameras)
            say(f"Saved a gradiseg run: ns-viewer --load-config {written}")

    def _sizes(self) -> list[tuple[str, tuple[str, ...]]]:
        """The names of objects that are larger, or smaller, than what was found first, by their flags."""
        return [("--larger", self.larger), ("--smaller", self.smaller)]

    def _open(self) -> tuple[Run | None, Capture | None, Splat, list[Camera], Tensor]:
        """The run if it is one, its data, the splat, its cameras, and the background [3]."""
        import torch

        from gradiseg_ns.formats.read_ply import read_ply
        from gradiseg_ns.segment.cameras import virtual_cameras
        from gradiseg_ns.sources.run import load_run

        device = default_device(self.device)
        if self.splat.name == "config.yml" or (self.splat / "config.yml").exists():
            run = load_run(self.splat, device)
            scene = run.capture(maps=False)
            return run, scene, run.splat, scene.training_cameras(CAMERAS), run.background.to(device)
        splat = read_ply(self.splat).to(device)
        return None, None, splat, virtual_cameras(splat), torch.zeros(3, device=device)

    def _maker(self, default: str, prompts: Any = None) -> Any:
        from gradiseg_ns.masks import load

        return load(self.maker or default, default_device(self.device), self.offline, prompts=prompts)

    def _clicked(self, splat: Splat, views: Views, clicks: dict[str, list[Click]]) -> dict[str, Found]:
        from gradiseg_ns.segment.loop import SegmentError, find_object

        maker = self._maker(PROMPTS)
        if not hasattr(maker, "prompted"):
            raise SegmentError(f"--maker {self.maker} takes no clicks: expected `wand` or a SAM.")
        found = {}
        with progress_bars() as bars:
            for name, own in clicks.items():
                task = bars.add_task(name, total=self.views)
                find = partial(
                    find_object, splat.gaussians(), views, maker, own, most_views=self.views,
                    progress=lambda done, total, task=task: bars.update(task, completed=done, total=total),
                )  # fmt: skip
                one = find()
                for flag, names in self._sizes():
                    for _ in range(names.count(name)):
                        start = one.other_size(larger=flag == "--larger")
                        if start is None:
                            raise SegmentError(
                                f"{flag} {name}: nothing {flag[2:]} hangs together at the click. Give it less often, or click elsewhere."
                            )
                        one = find(start=start)
                found[name] = one
        return found

    def _phrased(self, splat: Splat, views: Views) -> dict[str, Found]:
        from gradiseg_ns.masks import load
        from gradiseg_ns.segment.loop import SegmentError, find_phrase

        prompts: Any = load(self.prompts, default_device(self.device), self.offline)
        maker = self._maker(PHRASES, prompts)
        if not hasattr(maker, "phrases"):
            raise SegmentError(
                f"--maker {self.maker} takes no phrases: expected a Grounding DINO or a SAM 3."
            )
        found = {}
        with progress_bars() as bars:
            for phrase in dict.fromkeys(self.phrase):
                task = bars.add_task(phrase, total=self.views)
                found[phrase] = find_phrase(
                    splat.gaussians(), views, maker, phrase, prompts=prompts, most_views=self.views,
                    progress=lambda done, total, task=task: bars.update(task, completed=done, total=total),
                )  # fmt: skip
        return found

    def _everything(self, splat: Splat, views: Views) -> tuple[Tensor, Tensor, ObjectTable]:
        import torch

        from gradiseg_ns.scene.objects import ObjectTable
        from gradiseg_ns.segment.everything import find_everything
        from gradiseg_ns.segment.loop import SegmentError

        maker = self._maker(EVERYTHING)
        if not hasattr(maker, "everything"):
            raise SegmentError(f"--maker {self.maker} cannot find everything: expected `regions` or a SAM.")
        with stages() as show:
            found = find_everything(splat.gaussians(), views, maker, most_views=self.views, progress=show)
        labels = found.classes.to(torch.int32)
        return labels, found.confidence, ObjectTable.create(labels.unique().tolist(), {0: REST})


def _parsed(clicks: Sequence[Sequence[str]], beside: Sequence[Sequence[str]]) -> dict[str, list[Click]]:
    """Clicks by the names of their objects.

    Raises:
        SegmentError: one is no VIEW X Y [NAME], or is beside an object without clicks.
    """
    from gradiseg_ns.segment.loop import Click, SegmentError

    found: dict[str, list[Click]] = {}
    for flag, words in [*(("--click", w) for w in clicks), *(("--beside", w) for w in beside)]:
        try:
            view, x, y = int(words[0]), float(words[1]), float(words[2])
        except (IndexError, ValueError):
            raise SegmentError(
                f"{flag} {' '.join(words)}: expected the number of a view, x, y, and a name if there are several objects."
            ) from None
        name = " ".join(words[3:]) or "object"
        if flag == "--beside" and name not in found:
            raise SegmentError(f"{flag} {' '.join(words)}: there is no --click on {name!r}.")
        found.setdefault(name, []).append(Click(view, x, y, outside=flag == "--beside"))
    return found


def labels_of(found: dict[str, Found]) -> tuple[Tensor, Tensor, ObjectTable]:
    """Object ids int32 [N] (from 1; 0 for the rest, -1 where no view saw anything), confidences [N], and the objects."""
    import torch

    from gradiseg_ns.scene.objects import ObjectTable

    means = torch.stack([one.evidence.mean for one in found.values()])
    chosen = torch.stack([one.selected for one in found.values()])
    seen = torch.stack([one.evidence.total > 0 for one in found.values()]).any(dim=0)
    best, which = torch.where(chosen, means, -1.0).max(dim=0)
    labels = torch.where(best >= 0, which + 1, torch.where(seen, 0, -1)).to(torch.int32)
    sure = torch.stack([one.confidence for one in found.values()])
    # A Gaussian of the rest is as surely so as it is none of the objects.
    confidence = torch.where(
        best >= 0, sure.gather(0, which[None])[0], torch.where(seen, sure.amin(dim=0), 0.0)
    )
    names = {0: REST, **{k + 1: name for k, name in enumerate(found)}}
    return labels, confidence, ObjectTable.create(list(names), names)


def sharpened(
    splat: Splat, found: dict[str, Found], views: Views, objects: ObjectTable, background: Tensor
) -> Splat:
    """The splat with sharper borders between its objects, by the masks of the views that were asked (`boundary.cutting`)."""
    import torch

    from gradiseg_ns.boundary import cutting
    from gradiseg_ns.grouping.codes import spread_codes
    from gradiseg_ns.grouping.identity import IDENTITY_DIM
    from gradiseg_ns.votes.labels import majority

    mapped = _mapped(splat, found, views, objects)
    codes = spread_codes(len(objects), IDENTITY_DIM).to(splat.means.device)
    with progress("Sharpening", cutting.steps(len(mapped))) as advance:
        cut = cutting.sharpen(splat, mapped, codes, background, progress=advance)
    say(cut.told())
    if cut.reason is not None:
        return splat
    voted = majority(cut.votes)
    anew = cut.fitted & voted.seen  # what was not changed keeps what the object's evidence said
    assert cut.splat.labels is not None
    cut.splat.labels = torch.where(anew, objects.ids_of(voted.classes).to(torch.int32), cut.splat.labels)
    sure = cut.splat.extra["label_confidence"]
    cut.splat.extra["label_confidence"] = torch.where(anew, voted.confidence, sure)
    return cut.splat


def _mapped(
    splat: Splat, found: dict[str, Found], views: Views, objects: ObjectTable
) -> list[tuple[Camera, Tensor]]:
    """The views that were asked, with maps of classes [H, W]: an object's mask where it was asked for, else what the labels show."""
    import torch

    maps = []
    for view in sorted({view for one in found.values() for view in one.views}):
        shown = _classes(splat, objects, views.sight(view).projection)
        classes = shown
        masks = {
            objects.ids.index(k + 1): one.masks[one.views.index(view)].to(shown.device)
            for k, one in enumerate(found.values())
            if view in one.views
        }
        for own in masks:
            classes = torch.where(classes == own, objects.ids.index(0), classes)
        for own, mask in masks.items():
            classes = torch.where(mask & (shown >= 0), own, classes)
        maps.append((views.cameras[view], classes))
    return maps


def _print(found: dict[str, Found]) -> None:
    from rich.table import Table

    table = Table(title="Objects")
    for column in ("id", "name", "Gaussians", "confidence, %", "views", "views that disagreed", "settled"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for k, (name, one) in enumerate(found.items()):
        sure = float(one.confidence[one.selected].mean()) if bool(one.selected.any()) else 0.0
        table.add_row(
            str(k + 1), cell(name), str(int(one.selected.sum())), f"{100 * sure:.1f}", str(len(one.views)),
            str(len(one.skipped)), "yes" if one.settled else "no",
        )  # fmt: skip
    console().print(table)


def _sheet(splat: Splat, cameras: Sequence[Camera], background: Tensor) -> Any:
    """Small pictures of all views, with their numbers."""
    from gradiseg_ns.segment.cameras import contact_sheet
    from gradiseg_ns.segment.loop import resized

    small = [resized(c, max(1, round(SHEET_WIDTH * c.height / c.width))) for c in cameras]
    pictures = [splat.render(camera, background)[0] for camera in small]
    return contact_sheet(pictures, [(c.width, c.height) for c in cameras])


def _classes(splat: Splat, objects: ObjectTable, projection: Any) -> Tensor:
    """The class that has most of the weight of each pixel, int64 [H, W]; -1 where there is none."""
    from gradiseg_ns.scene.objects import MIN_ACCUMULATION
    from gradiseg_ns.votes.labels import render_classes

    assert splat.labels is not None
    return render_classes(projection, objects.classes_of(splat.labels), min_weight=MIN_ACCUMULATION)[0]


def _overview(splat: Splat, objects: ObjectTable, views: Views) -> Any:
    """Renders, objects, and confidence of some views."""
    from gradiseg_ns import rendering
    from gradiseg_ns.tools.pictures import overview, to_image
    from gradiseg_ns.votes.rendered import spread_views

    rows = []
    for view in spread_views(len(views), PICTURES):
        sight = views.sight(view)
        shown = objects.colorize(objects.ids_of(_classes(splat, objects, sight.projection))).cpu()
        (sure,), _ = rendering.rasterize(sight.projection, [splat.extra["label_confidence"][:, None]])
        rows.append(
            [
                (f"view {view}, render", to_image(sight.picture.rgb)),
                ("objects", to_image(0.35 * sight.picture.rgb.cpu() + 0.65 * shown)),
                ("confidence", to_image(sure.expand(-1, -1, 3))),
            ]
        )
    return overview(rows)


def _write_run(
    run: Run, scene: Capture, splat: Splat, objects: ObjectTable, cameras: Sequence[Camera]
) -> Path:
    """A gradiseg run with identities from the labels, beside the old one. Returns its config.yml."""
    from gradiseg_ns.cli.common import identity_dim
    from gradiseg_ns.grouping.codes import spread_codes
    from gradiseg_ns.runs.writing import write_gradiseg_run
    from gradiseg_ns.votes import identities

    assert splat.labels is not None
    codes = spread_codes(len(objects), identity_dim(run)).to(splat.means.device)
    encoding = identities.encode(objects.classes_of(splat.labels), codes)
    mapped = [(camera, _classes(splat, objects, splat.project(camera))) for camera in cameras[::8]]
    identity, weight = identities.head_start(splat.gaussians(), encoding, codes, mapped)
    return write_gradiseg_run(run, scene, splat, objects, identity, weight, suffix="segmented")
