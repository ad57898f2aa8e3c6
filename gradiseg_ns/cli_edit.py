"""The verbs of `gradiseg` for objects of a run: edit, export, import."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import tyro
from torch import Tensor

from gradiseg_ns.scene.export import Format
from gradiseg_ns.sources import DataParser, Frame, Run, Scene, SourceError
from gradiseg_ns.tools.terminal import say

if TYPE_CHECKING:
    from gradiseg_ns.rendering import Camera
    from gradiseg_ns.scene.edits import Arrangement
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat

_VIEWS = 8
"""Training views in which an import is looked at."""


@dataclass
class Edit:
    """Change objects of a gradiseg run: what the viewer's panel does, as flags.

    The edits go to a list beside the run's config.yml, `edits.json`, after those that are there. The splat itself stays as it is. ns-viewer,
    ns-render and `gradiseg export` show the edits, ns-eval never does; GRADISEG_EDITS=off leaves them out, GRADISEG_EDITS=FILE takes others.

    OBJECT is an id or a name, OBJECTS several of them with commas. Flags are gone through in the order below, each may be given several
    times: `gradiseg edit RUN --tint cup=#ff0000 7=blue --move 7=0,0,0.1`.
    """

    config: tyro.conf.Positional[Path]
    """The run: its config.yml, or the folder it is in. Only open runs you trust: nerfstudio's config.yml can execute code."""
    clear: bool = False
    """Forget all edits from before."""
    undo: int = 0
    """Take back so many of the last steps from before."""
    swap: tuple[str, ...] = ()
    """OBJECT=FILE.ply: another splat in its place, in its size and where it was; OBJECT=FILE.ply@keep leaves the splat where its file
    has it. The file is copied."""
    merge: tuple[str, ...] = ()
    """OBJECTS=OBJECT: the first become part of the last."""
    duplicate: tuple[str, ...] = ()
    """OBJECTS: copies in the same place, to be moved."""
    move: tuple[str, ...] = ()
    """OBJECTS=X,Y,Z in units of the scene as nerfstudio trains it."""
    rotate: tuple[str, ...] = ()
    """OBJECTS=X,Y,Z: degrees about the axes through its middle, first x, then y, then z."""
    scale: tuple[str, ...] = ()
    """OBJECTS=FACTOR, about its middle."""
    tint: tuple[str, ...] = ()
    """OBJECTS=COLOR or OBJECTS=COLOR@STRENGTH: a name or #rrggbb, and 0 to 1 (0.7)."""
    untint: tuple[str, ...] = ()
    """OBJECTS"""
    rename: tuple[str, ...] = ()
    """OBJECT=NAME"""
    hide: tuple[str, ...] = ()
    """OBJECTS: not shown, not exported, but kept."""
    show: tuple[str, ...] = ()
    """OBJECTS that were hidden."""
    isolate: tuple[str, ...] = ()
    """OBJECTS: all others are hidden."""
    remove: tuple[str, ...] = ()
    """OBJECTS. What no photo saw behind them stays empty: the hole is shown as it is."""
    output: Path | None = None
    """The list to write; the run's own unless given."""
    picture: Path | None = None
    """Also render a view before and after, side by side, to this file."""
    view: int = 0
    """Which held-out view --picture shows."""

    def main(self) -> None:

        from gradiseg_ns import sources
        from gradiseg_ns.edit_script import ACTIONS, Script
        from gradiseg_ns.scene.edits import FILE_NAME, EditList

        run = sources.load_run(self.config)
        splat, table = _labelled_splat(run)
        own = run.config_path.parent / FILE_NAME
        edits = EditList.load(own) if own.is_file() and not self.clear else EditList()
        if not 0 <= self.undo <= len(edits.steps):
            raise SourceError(f"--undo {self.undo}: expected 0 to {len(edits.steps)}, the steps there are.")
        for _ in range(self.undo):
            edits.undo()
        edits.undone.clear()
        script = Script(splat, table, edits)
        for flag in ACTIONS:
            for text in getattr(self, flag[2:]):
                script.apply(flag, text)
        if self.picture is not None:
            self._draw(run, script, self.picture)
        changed = self.clear or self.undo or any(getattr(self, flag[2:]) for flag in ACTIONS)
        target = self.output or own
        if changed or self.output is not None:
            script.save(target)
        _print_arrangement(script.arrangement)
        for number, step in enumerate(edits.steps, 1):
            say(f"{number:3}  {step.label}")
        arrangement = script.arrangement
        say(
            f"{len(edits.steps)} edits; {int(arrangement.visible.sum())} Gaussians are shown, {len(splat)} were trained. "
            + (f"Saved {target}" if changed or self.output is not None else "Nothing was changed.")
        )

    def _draw(self, run: Run, script: Any, path: Path) -> None:
        from PIL import Image

        from gradiseg_ns.scene.edits import edited_splat
        from gradiseg_ns.tools.pictures import overview

        scene = run.scene(maps=False)
        cameras = scene.test.cameras or scene.train.cameras
        if not 0 <= self.view < len(cameras):
            raise SourceError(f"--view {self.view}: expected 0 to {len(cameras) - 1}.")
        edited, _ = edited_splat(script.splat, script.objects, script.edits.steps, script.edits.files)
        row = []
        for title, splat in (("before", script.splat), ("after", edited)):
            rgb, _ = splat.render(cameras[self.view], run.background)
            row.append((title, Image.fromarray((rgb.cpu() * 255).round().to(torch.uint8).numpy())))
        path.parent.mkdir(parents=True, exist_ok=True)
        overview([row]).save(path)


@dataclass
class Export:
    """Write the splat of a gradiseg run as files for other programs: all objects or some, in one file or one file an object.

    A JSON file beside them tells the objects' names, colours, Gaussian counts and boxes. PLYs also keep the object id of every
    Gaussian (`object_id`); `gradiseg import` brings them back. Edits that were saved with the run are in what is written.
    """

    config: tyro.conf.Positional[Path]
    """The run: its config.yml, or the folder it is in. Only open runs you trust: nerfstudio's config.yml can execute code."""
    objects: tuple[str, ...] = ()
    """Ids or names of the objects to write; all, and what belongs to none, unless given."""
    separate: bool = False
    """One file an object instead of one file. Gaussians without an object are left out then."""
    format: Format = "ply"
    """`ply` for everything; `compressed-ply` (SuperSplat, PlayCanvas) and `spz` are smaller and coarser and have no object
    ids. They need pip install 'gradiseg-ns[compressed]'."""
    output_dir: Path | None = None
    """Where the files go; a folder `export` beside the run's config.yml unless given."""
    edits: bool = True
    """As edited, without what is hidden; --no-edits writes the splat as it was trained."""
    ids: bool = True
    """A PLY keeps the object id of every Gaussian; --no-ids leaves the property out, for programs that read no other properties
    than 3DGS has (SIBR). Separate files never have it."""
    frame: Literal["nerfstudio", "original"] = "nerfstudio"
    """Coordinates: those of nerfstudio's training, or the original ones of COLMAP or transforms.json."""
    device: str | None = None
    """cpu or cuda; CUDA if there is any, unless given."""

    def main(self) -> None:
        from nerfstudio.utils.rich_utils import CONSOLE

        from gradiseg_ns import sources
        from gradiseg_ns.scene.export import OLDER, export_objects

        run = sources.load_run(self.config, self.device or _default_device())
        splat, table = _edited_splat(run) if self.edits else _labelled_splat(run)
        assert splat.labels is not None
        if self.objects:
            chosen = _find_objects(self.objects, table)
            splat = splat.select(torch.isin(splat.labels, torch.tensor(chosen).to(splat.labels)))
            if len(splat) == 0:
                raise SourceError(f"--objects {' '.join(self.objects)}: no Gaussian belongs to them.")
            table = _rows_of(table, chosen)
        if self.frame == "original":
            splat = sources.in_original_frame(splat, run)
        folder = self.output_dir or run.config_path.parent / "export"
        older = _names_in(Path(folder) / OLDER)
        with CONSOLE.status("Writing files"):
            written = export_objects(
                folder,
                splat,
                _names(table),
                colors=_colors(table),
                format=self.format,
                separate=self.separate,
                ids=self.ids,
            )
        count = _print_export(written[-1], None if self.separate else written[0].name)
        size = sum(path.stat().st_size for path in written) / 1e6
        say(f"Saved {count} Gaussians, {size:.1f} MB in {len(written)} files: {folder}")
        moved = sorted(_names_in(Path(folder) / OLDER) - older)
        if moved:
            say(f"Of an export before this one, moved to {Path(folder) / OLDER}: {', '.join(moved)}")


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@dataclass
class Import:
    """Make a gradiseg run of a 3DGS PLY, for ns-viewer, ns-eval and ns-render.

    Its Gaussians are in nerfstudio's frame, as those of ns-export, `gradiseg export` and `gradiseg lift --load-config`, or in the
    original one of COLMAP or transforms.json, as those of other programs, and are then moved. Object ids (`object_id`) and names
    (`<stem>.objects.json`) are taken over; without ids, everything is one object.
    """

    file: tyro.conf.Positional[Path]
    """A 3DGS PLY. Compressed ones and SPZ are read with pip install 'gradiseg-ns[compressed]'."""
    load_config: Path | None = None
    """A run of gradiseg or splatfacto whose data and options are taken: its config.yml, or the folder it is in. Only open
    runs you trust: nerfstudio's config.yml can execute code."""
    data: Path | None = None
    """Or the folder of the photos."""
    dataparser: DataParser = "nerfstudio-data"
    """Who reads --data."""
    output_dir: Path | None = None
    """With --data, the run goes to <output-dir>/<scene>/gradiseg-lite/<file>-imported; `outputs` unless given. With
    --load-config it goes beside that run."""
    frame: Frame = "auto"
    """Coordinates of the PLY: those of nerfstudio's training, the original ones of COLMAP or transforms.json, or whichever of the two
    looks like the photos."""
    device: str | None = None
    """cpu or cuda; CUDA if there is any, unless given."""

    def main(self) -> None:

        from gradiseg_ns.run_files import check_free, objects_of_run, write_gradiseg_run
        from gradiseg_ns.scene.ply import read_objects, read_ply
        from gradiseg_ns.sources import find_frame, in_nerfstudio_frame
        from gradiseg_ns.votes.identities import encode, spread_codes

        device = self.device or _default_device()
        if (self.load_config is None) == (self.data is None):
            raise SourceError("give either --load-config (a run) or --data (a folder of photos).")
        if self.load_config is not None and self.output_dir is not None:
            raise SourceError(
                "--output-dir goes with --data; with --load-config the run lies beside that run."
            )
        splat = read_ply(self.file).to(device)
        found = read_objects(self.file)
        run, scene = self._origin(splat, device)
        check_free(run, "imported")
        if splat.labels is None:  # one object: the one that the sidecar names, if it names one
            one = found.ids[0] if found is not None and len(found) == 1 else 0
            splat.labels = torch.full((len(splat),), one, dtype=torch.int32, device=device)
        names = _names(objects_of_run(run)) if run.is_gradiseg else scene.object_names
        objects = _table_of(splat.labels, found, names)
        cameras = scene.training_cameras(_VIEWS)
        splat = in_nerfstudio_frame(
            splat, scene, find_frame(splat, scene, run.background.to(device), self.frame, part=True)
        )

        assert splat.labels is not None
        model: Any = run.config.pipeline.model
        codes = spread_codes(len(objects), getattr(model, "identity_dim", 16)).to(device)
        encoding = encode(objects.classes_of(splat.labels), codes)
        share = _fit_scale(splat, encoding, codes, cameras) ** 0.5
        antialiased = splat.antialiased or model.rasterize_mode == "antialiased"
        options = {
            "sh_degree": splat.sh_degree,
            "sh_degree_interval": 1,  # all degrees are there, however few steps the run has had
            "rasterize_mode": "antialiased" if antialiased else "classic",
        }
        written = write_gradiseg_run(
            run, scene, splat, objects, encoding * share, codes * share,
            suffix="imported", model_options=options, replace=False,
        )  # fmt: skip
        unknown = int((splat.labels < 0).sum())
        say(
            f"{len(splat)} Gaussians, {len(objects)} objects, {unknown} Gaussians without an object. "
            f"Saved a gradiseg run: ns-viewer --load-config {written}"
        )

    def _origin(self, splat: Splat, device: str) -> tuple[Run, Scene]:
        """The run beside which the new one goes, and its data; with --data one that was never trained."""
        from gradiseg_ns import config as register
        from gradiseg_ns import sources
        from gradiseg_ns.scene.export import safe_name

        if self.load_config is not None:
            run = sources.load_run(self.load_config, device)
            return run, run.scene(maps=False)
        assert self.data is not None
        scene = sources.load_scene(self.data, dataparser=self.dataparser, maps=False, device=device)
        config: Any = copy.deepcopy(register.gradiseg_lite.config)
        config.data = config.pipeline.datamanager.data = self.data
        config.output_dir = self.output_dir or Path("outputs")
        config.machine.device_type = torch.device(device).type
        digest = hashlib.sha256(self.file.stem.encode("utf-8", "backslashreplace")).hexdigest()[:6]
        config.timestamp = safe_name(self.file.stem) or f"splat-{digest}"  # of each name another one
        step = config.max_num_iterations - 1
        folder = config.get_base_dir()
        run = Run(folder / "config.yml", config, folder / f"step-{step:09d}.ckpt", step, {}, splat)
        return run, scene


# ------------------------------------------------------------------------------------------------------------- helpers


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _labelled_splat(run: Run) -> tuple[Splat, ObjectTable]:
    """A gradiseg run's splat with the object id of every Gaussian, and its objects.

    Raises:
        SourceError: it is a run of another method.
    """
    from gradiseg_ns.run_files import labels_of_run, objects_of_run

    if not run.is_gradiseg:
        raise SourceError(
            f"{run.config_path} is a run without objects (method {run.config.method_name}): expected one of gradiseg. "
            f"Give it objects with `gradiseg lift --load-config {run.config_path}`, or use ns-export."
        )
    return dataclasses.replace(run.splat, labels=labels_of_run(run)), objects_of_run(run)


def _edited_splat(run: Run) -> tuple[Splat, ObjectTable]:
    """The same with the edits that were saved with the run, without what is hidden.

    Raises:
        SourceError, EditError: the run has no objects, the edits cannot be read, or leave nothing.
    """

    from gradiseg_ns.commands import edits_path
    from gradiseg_ns.scene.edits import EditList, edited_splat

    splat, table = _labelled_splat(run)
    path = edits_path(run.config_path)
    if path is None:
        return splat, table
    edits = EditList.load(path)
    edited, arrangement = edited_splat(splat, table, edits.steps, edits.files)
    if len(edited) == 0:
        raise SourceError(f"nothing is left after the edits of {path}: everything is hidden or removed.")
    say(f"{len(edits.steps)} edits of {path}")
    kept = [i for i in arrangement.objects.ids if i not in arrangement.hidden]
    return edited, _rows_of(arrangement.objects, kept)


def _print_arrangement(arrangement: Arrangement) -> None:
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Objects")
    for column in ("id", "name", "Gaussians", "shown"):
        table.add_column(column, justify="left" if column == "name" else "right")
    counts = arrangement.counts()
    for i, name in zip(arrangement.objects.ids, arrangement.objects.names, strict=True):
        shown = "hidden" if i in arrangement.hidden else "yes"
        table.add_row(str(i), escape(name), str(counts[i]), shown)
    CONSOLE.print(table)


def _names(table: ObjectTable) -> dict[int, str]:
    return dict(zip(table.ids, table.names, strict=True))


def _colors(table: ObjectTable) -> dict[int, list[float]]:
    return dict(zip(table.ids, table.colors.tolist(), strict=True))


def _rows_of(table: ObjectTable, ids: Sequence[int]) -> ObjectTable:
    """The table of some of its ids, ascending."""
    rows = [table.ids.index(i) for i in ids]
    return type(table)(tuple(ids), tuple(table.names[row] for row in rows), table.colors[rows])


def _find_objects(wanted: Sequence[str], table: ObjectTable) -> list[int]:
    """Ids of objects by id or name (`ObjectTable.find`), ascending.

    Raises:
        SourceError: there is no such object, or several of that name.
    """
    found: set[int] = set()
    for text in wanted:
        try:
            found.update(table.find(text))
        except ValueError as error:
            raise SourceError(f"--objects {text!r}: {error}") from None
    return sorted(found)


def _table_of(labels: Tensor, found: ObjectTable | None, names: dict[int, str]) -> ObjectTable:
    """The objects that Gaussians or the sidecar know; names of the sidecar, else those given.

    Raises:
        SourceError: there is none.
    """
    from gradiseg_ns.scene.objects import ObjectTable

    known = [] if found is None else list(found.ids)
    own = {} if found is None else _names(found)
    table = ObjectTable.create([*labels.unique().tolist(), *known], {**names, **own})
    if len(table) == 0:
        raise SourceError("no Gaussian of the file has an object id of 0 or more, and no object is named.")
    colors = {} if found is None else _colors(found)
    rows = [colors.get(i, color) for i, color in zip(table.ids, table.colors.tolist(), strict=True)]
    return dataclasses.replace(table, colors=torch.tensor(rows))


def _fit_scale(splat: Splat, encoding: Tensor, codes: Tensor, cameras: Sequence[Camera]) -> float:
    """The scale of the classifier, as `gradiseg lift` fits it; to the objects that the splat itself shows."""
    from gradiseg_ns import rendering
    from gradiseg_ns.data.id_maps import IGNORE
    from gradiseg_ns.model import MIN_ACCUMULATION
    from gradiseg_ns.votes.identities import fit_scale

    @torch.no_grad()
    def shown(camera: Camera) -> tuple[Tensor, Tensor]:
        (identity,), alpha = rendering.rasterize(splat.project(camera), [encoding])
        classes = (identity @ codes.T).argmax(dim=-1)
        return identity, torch.where(alpha[..., 0] >= MIN_ACCUMULATION, classes, IGNORE)

    return fit_scale(codes, map(shown, cameras))


def _print_export(sidecar: Path, file: str | None) -> int:
    """A table of what was written: as the sidecar tells it, in one file or in those it names. Returns the Gaussians."""
    import json

    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.markup import escape
    from rich.table import Table

    content = json.loads(sidecar.read_text("utf-8"))
    table = Table(title="Exported objects", show_footer=True)
    total = sum(entry["gaussians"] for entry in content["objects"])
    table.add_column("id", justify="right")
    table.add_column("name", "all objects")
    table.add_column("Gaussians", str(total), justify="right")
    table.add_column("file", escape(sidecar.name))
    for entry in content["objects"]:
        name = entry.get("file") if file is None else file
        table.add_row(str(entry["id"]), escape(entry["name"]), str(entry["gaussians"]), escape(name or "-"))
    unknown = content["unknown_gaussians"]
    if unknown:
        table.add_row("", "no object", str(unknown), escape(file or "-"))
    CONSOLE.print(table)
    return total + (unknown if file is not None else 0)
