"""The command `gradiseg`: what ns-train and its family have no place for.

Each verb is a dataclass whose fields are its flags. The work is done in `votes`; here files are read and written, and
figures and pictures shown. Torch and nerfstudio are imported where they are used: `gradiseg doctor` has to run where they do not.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import tyro

from gradiseg_ns.doctor import Doctor
from gradiseg_ns.tools.atomic import write_text
from gradiseg_ns.tools.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources import DataParser, Frame, Run, Scene

PICTURES = 4
"""Views in an overview."""


@dataclass
class _Source:
    """A splat and its views."""

    load_config: Path | None = None
    """A run of gradiseg or splatfacto: its config.yml, or the folder it is in. Only open runs you trust: nerfstudio's
    config.yml can execute code."""
    ply: Path | None = None
    """Or a 3DGS PLY; then --data names its photos."""
    data: Path | None = None
    """Folder of the photos. With --load-config, the run's own unless given."""
    dataparser: DataParser = "nerfstudio-data"
    """Who reads --data, if there is no run that says so. Without a transforms.json, a COLMAP model is looked for. Its options follow its
    name at the end, as with ns-train: `... colmap --colmap-path sparse/0 --downscale-factor 2`."""
    frame: Frame = "auto"
    """Coordinates of the PLY: those of nerfstudio's training (as ns-export writes them), the original ones of COLMAP or
    transforms.json, or whichever of the two looks like the photos."""
    device: str | None = None
    """cpu or cuda; CUDA if there is any, unless given."""

    def _open(
        self, *, masks_dir: str | None = None, maps: bool = True
    ) -> tuple[Run | None, Splat, Scene, Tensor]:
        import torch

        from gradiseg_ns import sources
        from gradiseg_ns.scene.ply import read_ply
        from gradiseg_ns.sources import SourceError

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if (self.load_config is None) == (self.ply is None):
            raise SourceError("give either --load-config (a run) or --ply (a splat) with --data.")
        if self.load_config is not None:
            run = sources.load_run(self.load_config, device)
            return run, run.splat, run.scene(masks_dir=masks_dir, data=self.data, maps=maps), run.background
        assert self.ply is not None
        if self.data is None:
            raise SourceError(f"--ply {self.ply} needs --data, the folder of its photos.")
        if self.ply.name == "config.yml" or (self.ply / "config.yml").exists():
            raise SourceError(f"--ply {self.ply} is a run, not a splat: give it as --load-config {self.ply}.")
        splat = read_ply(self.ply).to(device)
        scene = sources.load_scene(
            self.data, dataparser=self.dataparser, masks_dir=masks_dir or "object_mask", maps=maps, device=device
        )  # fmt: skip
        background = torch.zeros(3, device=device)
        sources.place_cameras(splat, scene, background, self.frame)
        return None, splat, scene, background

    def _output(self, given: Path | None, name: str) -> Path:
        if given is not None:
            return given
        origin = self.load_config or self.ply or self.data
        assert origin is not None
        folder = origin if origin.is_dir() else origin.parent
        return folder / name


@dataclass
class Lift(_Source):
    """Id maps onto Gaussians, without training: every Gaussian gets the object that most of its pixels show.

    Writes a PLY with an object id per Gaussian, and for a run also a gradiseg run of its own that ns-viewer, ns-eval and
    ns-render open, with identity encodings made from the votes. `ns-train gradiseg --pipeline.model.start-from RUN` trains on.
    """

    masks_dir: str | None = None
    """Folder of the id maps, in the data folder or absolute; `object_mask`, or the run's own, unless given."""
    eval_masks_dir: Path | None = None
    """Id maps that held-out views are compared with, if not those; in the data folder or absolute."""
    ignore_ids: tuple[int, ...] = ()
    """Ids left out of the mask figures, such as background and table."""
    refine: bool = False
    """Go on from the votes to the encodings whose rendered maps are nearest to the id maps: sharper borders if the maps are
    right, harm if many are wrong."""
    fill_unseen: bool = False
    """Give Gaussians that no labelled pixel sees the label of their nearest neighbours."""
    foreground: tuple[int, ...] = ()
    """Write these objects alone: what has more than --weight times as many votes for them as for all others."""
    weight: float = 1.0
    """w of --foreground: above 1 keeps only what is surely theirs, below 1 takes more in."""
    output_dir: Path | None = None
    """Where lifted.ply and overview.png go; a folder `lifted` beside the splat unless given."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.run_files import write_gradiseg_run
        from gradiseg_ns.scene.objects import ObjectTable
        from gradiseg_ns.scene.ply import write_ply
        from gradiseg_ns.sources import SourceError
        from gradiseg_ns.votes import identities
        from gradiseg_ns.votes.accumulate import accumulate
        from gradiseg_ns.votes.labels import Labels, fill_unseen, foreground, majority, object_confidence

        run, splat, scene, background = self._open(masks_dir=self.masks_dir)
        views = scene.train
        device = splat.means.device
        objects = ObjectTable.create(
            scene.manager.train_dataset.metadata["object_ids"], scene.object_names
        )  # fmt: skip
        unknown = sorted(set(self.foreground) - set(objects.ids))
        if unknown:
            raise SourceError(
                f"--foreground {unknown}: no such ids in the maps, which have {list(objects.ids)}."
            )
        classes = [objects.classes_of(m.to(device)) for m in views.id_maps]
        mapped = list(zip(views.cameras, classes, strict=True))
        start = perf_counter()
        with _progress("Taking votes", len(views)) as advance:
            votes = accumulate(
                splat.gaussians(), mapped, len(objects), antialiased=splat.antialiased, progress=advance
            )  # fmt: skip
        labels = majority(votes)
        codes = identities.spread_codes(len(objects), 16).to(device)
        if self.refine:
            with _progress("Refining", len(views)) as advance:
                encoding = identities.refine(
                    splat.gaussians(), mapped, codes, votes.total(),
                    antialiased=splat.antialiased, progress=advance,
                )  # fmt: skip
            labels = Labels(identities.classify_encodings(encoding, codes), labels.confidence)
        else:
            encoding = identities.encode(labels.classes, codes)
        seconds = perf_counter() - start
        unseen = int((~labels.seen).sum())
        if self.fill_unseen:
            labels = fill_unseen(labels, splat.means)
            encoding = torch.where(
                encoding.abs().amax(dim=1, keepdim=True) > 0, encoding, identities.encode(labels.classes, codes)
            )  # fmt: skip
        splat.labels = objects.ids_of(labels.classes).to(torch.int32)
        splat.extra["label_confidence"] = labels.confidence
        say(
            f"{len(views)} views, {len(objects)} ids, {len(splat)} Gaussians: {seconds:.1f} s. {unseen} "
            f"({unseen / max(len(splat), 1):.1%}) are seen by no labelled pixel"
            + (
                ", filled from their neighbours."
                if self.fill_unseen
                else "; --fill-unseen asks their neighbours."
            )
        )
        _print_objects(objects, object_confidence(votes, labels))

        folder = self._output(self.output_dir, "lifted")
        names = dict(zip(objects.ids, objects.names, strict=True))
        chosen = splat
        if self.foreground:
            wanted = [objects.ids.index(i) for i in self.foreground]
            mask = foreground(votes, wanted, self.weight)
            if not bool(mask.any()):
                raise SourceError(
                    f"--foreground {list(self.foreground)} --weight {self.weight}: no Gaussian is left."
                )
            chosen = splat.select(mask)
        say(f"Saved {write_ply(folder / 'lifted.ply', chosen, names=names)}")
        scale = identities.fit_scale(codes, ((_render(splat, c, encoding), k) for c, k in mapped[::8]))
        if run is not None:
            written = write_gradiseg_run(
                run, scene, splat, objects, encoding * scale**0.5, codes * scale**0.5,
                suffix="lifted", masks_dir=self.masks_dir,
            )  # fmt: skip
            say(f"Saved a gradiseg run: ns-viewer --load-config {written}")
        self._evaluate(scene, splat, objects, encoding, codes, background, folder / "overview.png")

    def _evaluate(
        self,
        scene: Scene,
        splat: Splat,
        objects: Any,
        encoding: Tensor,
        codes: Tensor,
        background: Tensor,
        path: Path,
    ) -> None:
        """Compare held-out views with their maps, and draw some."""
        import numpy as np
        import torch

        from gradiseg_ns.data.id_maps import IGNORE, resize_id_map
        from gradiseg_ns.evaluation.metrics import MaskMetrics, print_table
        from gradiseg_ns.model import MIN_ACCUMULATION
        from gradiseg_ns.tools.pictures import overview, panels

        test, truths = scene.test, scene.manager.eval_dataset
        if self.eval_masks_dir is not None:
            truths.set_id_maps(
                scene.data, self.eval_masks_dir, use_frame_keys=False, strict=True, flag="--eval-masks-dir",
                names=scene.object_names, like=scene.manager.train_dataset,
                ignore_ids=scene.manager.config.ignore_ids,
            )  # fmt: skip
        metrics = MaskMetrics(
            object_ids=objects.ids, ignore_ids=self.ignore_ids, names=dict(zip(objects.ids, objects.names, strict=True))
        )  # fmt: skip
        rows, compared = [], 0
        for i, camera in enumerate(test.cameras):
            projection = splat.project(camera)
            rgb, alpha = splat.render(camera, background, projection=projection)
            classes = (_render(splat, camera, encoding) @ codes.T).argmax(dim=-1)
            ids = (
                torch.where(alpha[..., 0] >= MIN_ACCUMULATION, objects.ids_of(classes), IGNORE)
                .to(torch.int32)
                .cpu()
            )
            truth = test.id_maps[i].cpu()
            if self.eval_masks_dir is not None:
                found = np.full(truth.shape, IGNORE, np.int32)
                if truths.id_map_filenames[i] is not None:
                    found = truths.read_map(i)
                truth = torch.from_numpy(resize_id_map(found, camera.height, camera.width).copy())
            if bool((truth >= 0).any()):
                metrics.update(test.names[i], ids, truth)
                compared += 1
            if len(rows) < PICTURES:
                shown = objects.colorize(ids).numpy()
                photo = test.images[i].cpu().numpy() / 255
                rows.append(
                    panels(photo.astype("float32"), rgb.cpu().numpy(), shown, ids.numpy(), truth.numpy())
                )
        if compared:
            print_table(metrics.result(), _console())
        if rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            overview(rows).save(path)
            say(f"Look at {path}")


@dataclass
class Prune(_Source):
    """Remove what the training views do not need, to an error that is checked on all of them.

    What never contributes goes, then more, as long as no pixel of any training view changes by more than --max-error.
    """

    max_error: str = "1/510"
    """Largest change of any pixel and channel, of pictures in 0..1; a number or a fraction. 1/510 is half a grey level."""
    bound: Literal["pixel", "view"] = "pixel"
    """What --max-error bounds: every pixel, or the mean over each view."""
    objects: tuple[int, ...] = ()
    """Remove only Gaussians of these objects: ids of a gradiseg run, or of a PLY that `gradiseg lift` made."""
    output: Path | None = None
    """The PLY to write; `pruned.ply` beside the splat unless given. A JSON report is written beside it."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.run_files import labels_of_run, objects_of_run, write_pruned_run
        from gradiseg_ns.scene.ply import read_objects, write_ply
        from gradiseg_ns.sources import SourceError
        from gradiseg_ns.votes.pruning import prune

        bound = _fraction(self.max_error)
        run, splat, scene, _ = self._open(maps=False)
        if run is not None and run.is_gradiseg:
            splat.labels = labels_of_run(run)
        among = None
        if self.objects:
            if splat.labels is None:
                raise SourceError(
                    "--objects needs a splat with object ids: a gradiseg run, or a PLY that `gradiseg lift` made."
                )
            among = torch.isin(
                splat.labels, torch.tensor(self.objects, device=splat.labels.device).to(splat.labels)
            )
            if not bool(among.any()):
                known = splat.labels.unique().tolist()
                raise SourceError(
                    f"--objects {list(self.objects)}: the splat has no such objects, it has {known}."
                )
        with _rich_progress() as progress:
            tasks: dict[str, Any] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                progress.update(tasks[what], completed=done, total=total)

            # Over black and over white: a PLY is seen before any background.
            try:
                result = prune(splat, scene.train.cameras, bound, None, among, show, bound=self.bound)
            except ValueError as error:
                raise SourceError(str(error)) from error
        removed = int((~result.kept).sum())
        say(
            f"Removed {removed} of {len(splat)} Gaussians ({result.ratio:.1%}) in {result.seconds:.0f} s. Checked on "
            f"{len(scene.train)} training views: largest change of a pixel {result.max_error:.6f} "
            f"(1/{1 / max(result.max_error, 1e-9):.0f}), mean {result.mean_error:.2e}, {result.psnr:.1f} dB."
        )
        path = self.output or self._output(None, "pruned.ply")
        kept = splat.select(result.kept)
        names, colors = (scene.object_names, {}) if splat.labels is not None else (None, {})
        known = read_objects(self.ply) if self.ply is not None else None
        if run is not None and run.is_gradiseg:
            known = objects_of_run(run)
        if known is not None:  # what the splat itself calls its objects goes before what the scene calls them
            own = {i: name for i, name in zip(known.ids, known.names, strict=True) if name != f"object {i}"}
            names = {**dict(zip(known.ids, known.names, strict=True)), **(names or {}), **own}
            colors = dict(zip(known.ids, known.colors.tolist(), strict=True))
        say(f"Saved {write_ply(path, kept, names=names, colors=colors)}")
        report = {
            "gaussians": len(splat), "removed": removed, "ratio": result.ratio, "bound": bound, "bounds": self.bound,
            "max_error": result.max_error, "view_error": result.view_error, "mean_error": result.mean_error,
            "views": len(scene.train), "seconds": result.seconds,
            "per_object": {str(i): {"removed": a, "of": b} for i, (a, b) in result.per_object.items()},
        }  # fmt: skip
        write_text(path.with_suffix(".json"), json.dumps(report, indent=2))
        if run is not None:
            written = write_pruned_run(run, result.kept)
            say(f"Saved a run: ns-eval --load-config {written}")


@dataclass
class Associate:
    """Masks whose ids are unrelated between views, or partly wrong, become maps whose ids agree.

    With a trained splat (--load-config, of any method of splatfacto's family) masks are compared by the Gaussians they cover,
    and the agreed labels are rendered again: holes are filled, missed and switched masks corrected. Without one, masks are
    compared by the scene's sparse points, and stay as they are but for their ids. The old folder is never touched.
    """

    data: Path | None = None
    """Folder of the photos; the run's own unless given."""
    load_config: Path | None = None
    """A trained run on these photos. Recommended."""
    masks_dir: str = "object_mask"
    """Folder of the masks, in the data folder or absolute."""
    output_dir: Path | None = None
    """The new folder; <masks-dir>_associated in the data folder unless given. It must not exist."""
    ids: Literal["auto", "keep", "new"] = "auto"
    """`keep` repairs maps whose ids mostly agree, `new` numbers objects anew; `auto` looks how well they agree."""
    unlabelled: tuple[int, ...] | None = None
    """Ids that mean "no mask"; 0 if ids are new, none if they are kept, unless given."""
    dataparser: DataParser = "nerfstudio-data"
    """Who reads --data, if there is no run that says so. Without a transforms.json, a COLMAP model is looked for. Its options follow its
    name at the end, as with ns-train: `... colmap --colmap-path sparse/0 --downscale-factor 2`."""
    device: str | None = None
    """cpu or cuda; CUDA if there is any, unless given."""

    def main(self) -> None:
        import torch

        from gradiseg_ns import sources
        from gradiseg_ns.mask_folders import associate_views, write_association
        from gradiseg_ns.sources import SourceError

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        splat = None
        if self.load_config is not None:
            run = sources.load_run(self.load_config, device)
            splat = run.splat
            scene = run.scene(masks_dir=self.masks_dir, data=self.data)
        elif self.data is not None:
            scene = sources.load_scene(
                self.data, dataparser=self.dataparser, masks_dir=self.masks_dir, device=device
            )
        else:
            raise SourceError("give --data, or --load-config with a run that knows its data.")
        folder = self.output_dir or scene.data_folder / f"{Path(self.masks_dir).name}_associated"
        if folder.exists():
            raise SourceError(f"--output-dir {folder} exists already; name another, nothing is overwritten.")
        start = perf_counter()
        done = associate_views(scene, splat, ids=self.ids, unlabelled=self.unlabelled)
        write_association(folder, scene, done)
        say(
            f"{len(done.result.masks)} masks of {len(scene.train)} views: {len(done.result.ids)} ids "
            f"({'kept' if done.kept else 'new'}), {perf_counter() - start:.0f} s."
        )
        if done.before is not None and done.after is not None:
            say(
                f"Pairs of views that show the same id at a point of the scene: {done.before.agreement:.1%} before, "
                f"{done.after.agreement:.1%} after (chance: {done.before.chance:.1%}, {done.after.chance:.1%})."
            )
        doubtful = sum(mask.trust < 0.5 for mask in done.result.masks)
        say(
            f"{doubtful} masks were overruled (trust below one half; association.json has all). Saved {folder}; "
            f"look at {folder / 'overview.jpg'}. Train with --pipeline.datamanager.masks-dir {folder}",
        )


@dataclass
class Affordance(_Source):
    """Classes painted on a few exemplar photos, transferred to a splat (arXiv 2409.11681)."""

    exemplars: Path = field(default_factory=lambda: Path("exemplars"))
    """Folder of painted photos: labelme JSONs or id PNGs beside them (docs/affordance.md)."""
    model: str = "facebook/dinov2-small"
    """A vision transformer of the Hugging Face hub, or a folder with its weights."""
    layer: int | None = None
    """Block whose tokens are taken, from 1; what the model returns in the end unless given."""
    resolution: int = 518
    """Longer side of the photos as the model sees them, in pixels."""
    k: int = 5
    """Exemplar tokens that vote for the class of a patch."""
    offline: bool = False
    """Never reach for the network: weights from a folder or from the hub's cache."""
    output_dir: Path | None = None
    """Where the PLYs and overview.png go; a folder `affordance` beside the splat unless given."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.scene.ply import write_ply
        from gradiseg_ns.tools.pictures import overview
        from gradiseg_ns.votes import affordance

        exemplars, names = affordance.read_exemplars(self.exemplars)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = affordance.TokenModel.load(
            self.model, layer=self.layer, resolution=self.resolution, device=device, offline=self.offline
        )  # fmt: skip
        _, splat, scene, background = self._open(maps=False)
        views = scene.train
        images = [image.cpu().numpy() for image in views.images]
        with _progress("Looking for affordances", len(exemplars) + len(views)) as advance:
            result = affordance.transfer(
                zip(views.names, views.cameras, images, strict=True), splat.gaussians(), exemplars, model, names,
                k=self.k, antialiased=splat.antialiased, progress=lambda name: advance(),
            )  # fmt: skip
        folder = self._output(self.output_dir, "affordance")
        splat.labels = result.labels.to(torch.int32)
        write_ply(folder / "affordance.ply", splat, names=dict(enumerate(names)))
        for k, name in enumerate(names):
            mask = result.labels == k
            if k > 0 and bool(mask.any()):
                path = write_ply(
                    folder / f"{name.replace(' ', '_').replace('/', '_')}.ply", splat.select(mask)
                )
                say(f"{name}: {int(mask.sum())} Gaussians, {path}")
        rows = []
        shown = scene.test if len(scene.test) else views
        for i in range(min(PICTURES, len(shown))):
            projection = splat.project(shown.cameras[i])
            rgb, _ = splat.render(shown.cameras[i], background, projection=projection)
            found = affordance.render_labels(projection, result.labels)
            colors = result.colors.to(found.device)[found.clamp(min=0).long()] * (found >= 0)[..., None]
            rows.append(
                [
                    ("photo", _image(shown.images[i] / 255)),
                    ("render", _image(rgb)),
                    ("affordances", _image(colors)),
                ]
            )
        overview(rows).save(folder / "overview.png")
        say(f"Look at {folder / 'overview.png'}")


def verbs() -> dict[str, type]:
    """The verbs by their names, for tyro. Imports nerfstudio, which takes seconds."""
    from gradiseg_ns import sources
    from gradiseg_ns.cli_edit import Edit, Export, Import

    globals().update(
        DataParser=sources.DataParser, Frame=sources.Frame
    )  # where tyro looks types of fields up
    return {
        "doctor": Doctor,
        "lift": Lift,
        "prune": Prune,
        "associate": Associate,
        "affordance": Affordance,
        "edit": Edit,
        "export": Export,
        "import": Import,
    }


def __getattr__(name: str) -> Any:
    if name == "VERBS":
        return verbs()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _split_dataparser(args: list[str]) -> tuple[list[str], str | None, list[str]]:
    """The arguments of a verb, and a dataparser's name and options after them, as ns-train takes them."""
    from gradiseg_ns.dataparser_options import NAMES, split

    if not any(word in NAMES for word in args):
        return args, None, []
    known = {field.name: field.type for field in fields(verbs().get(args[0], Doctor))}
    if "dataparser" not in known:
        return args, None, []
    return split(args, [name for name, kind in known.items() if kind in ("bool", bool)])


def entrypoint() -> None:
    """The script `gradiseg`."""
    if sys.argv[1:2] == ["doctor"]:  # nothing of what it looks at is imported for it
        tyro.cli(Doctor, prog="gradiseg doctor", args=sys.argv[2:]).main()
        return
    from gradiseg_ns.data.id_maps import IdMapError
    from gradiseg_ns.data.poses import PoseError
    from gradiseg_ns.scene.edits import EditError
    from gradiseg_ns.scene.export import ExportError
    from gradiseg_ns.scene.ply import PlyError
    from gradiseg_ns.sources import SourceError
    from gradiseg_ns.votes.affordance import ExemplarError, TokenModelError

    args, parser_name, parser_args = _split_dataparser(sys.argv[1:])
    verb = tyro.extras.subcommand_cli_from_dict(
        verbs(),
        args=args,
        description="Votes of id maps on Gaussians (labels, ids that agree, pruning, affordances); objects edited, exported, imported; "
        "`doctor` looks at this machine.",
    )
    if parser_name is not None:
        from gradiseg_ns.dataparser_options import config_of

        verb.dataparser = config_of(parser_name, parser_args, prog=f"gradiseg {args[0]}")
    try:
        verb.main()
    except (
        SourceError, IdMapError, PoseError, PlyError, EditError, ExportError, ExemplarError, TokenModelError
    ) as error:  # fmt: skip
        _console().print(f"[bold red]{type(error).__name__}[/bold red]", end=": ")
        _console().print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)


# ------------------------------------------------------------------------------------------------------------- helpers


def _console() -> Any:
    from nerfstudio.utils.rich_utils import CONSOLE

    return CONSOLE


def _rich_progress() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=_console(),
    )  # fmt: skip


@contextlib.contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    with _rich_progress() as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


def _render(splat: Splat, camera: Any, features: Tensor) -> Tensor:
    import torch

    from gradiseg_ns import rendering

    with torch.no_grad():
        (maps,), _ = rendering.rasterize(splat.project(camera), [features])
    return maps


def _image(values: Tensor) -> Any:
    import torch
    from PIL import Image

    return Image.fromarray((values.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _fraction(text: str) -> float:
    from gradiseg_ns.sources import SourceError

    try:
        top, _, bottom = text.partition("/")
        value = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise SourceError(
            f"--max-error {text}: expected a number or fraction above 0, at most 1, such as 1/510."
        )
    return value


def _print_objects(objects: Any, confidence: Sequence[Any]) -> None:
    from rich.table import Table

    table = Table(title="Votes")
    for column in ("id", "name", "Gaussians", "purity, %", "recall, %"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for i, name, row in zip(objects.ids, objects.names, confidence, strict=True):
        table.add_row(str(i), name, str(row.gaussians), f"{100 * row.purity:.1f}", f"{100 * row.recall:.1f}")
    _console().print(table)
