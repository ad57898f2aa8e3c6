"""What several verbs share: the splat and its views, where files go, names in tables, the errors of the script.

Torch, nerfstudio and all that imports them come in where a verb works, never on top: every `--help` imports this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gradiseg_ns.tools.choices import DataParser, Frame
from gradiseg_ns.tools.terminal import default_device, printable

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources.capture import Capture
    from gradiseg_ns.sources.run import Run

PICTURES = 4
"""Views in an overview."""


MaybePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
"""A flag whose help says what is taken without it: tyro's "(default: None)" would tell nobody anything."""
MaybeText = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
MaybeCount = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Ids = Annotated[tuple[int, ...], tyro.conf.arg(metavar="ID [ID ...]", help_behavior_hint="")]
MaybeIds = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="ID [ID ...]", help_behavior_hint="")]
Reader = Annotated[DataParser, tyro.conf.arg(help_behavior_hint="")]
Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
"""A flag that is off if it is not given, as everybody expects."""
Objects = Annotated[tuple[str, ...], tyro.conf.arg(metavar="OBJECT [OBJECT ...]", help_behavior_hint="")]
"""Ids or names, see `ObjectTable.find`."""


@dataclass
class Source:
    """A splat and its views: the flags of every verb that starts from both."""

    load_config: MaybePath = None
    """A run of gradiseg or splatfacto: its folder or config.yml. Only open runs you trust: their config.yml can execute code."""
    ply: MaybePath = None
    """A 3DGS PLY instead of a run. --data then names its photos."""
    data: MaybePath = None
    """Folder of the photos. Default with --load-config: the run's folder."""
    dataparser: Reader = "nerfstudio-data"
    """Reader of --data; options follow its name at the end (docs/data.md)."""
    frame: Frame = "auto"
    """Coordinates of the PLY. `auto`: what looks like the photos."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""

    def open_splat(
        self, *, masks_dir: str | None = None, maps: bool = True, max_objects: int | None = None
    ) -> tuple[Run | None, Splat, Capture, Tensor]:
        """The run if there is one, the splat, its views, and the background [3] that it is seen before.

        Args:
            masks_dir: folder of the id maps; None takes the run's, else `object_mask`.
            maps: whether id maps must be there.
            max_objects: most ids in the maps; None takes the run's bound, else the default.

        Raises:
            GradisegError: the flags name no splat with views, or what they name cannot be read.
        """
        import torch

        from gradiseg_ns import sources
        from gradiseg_ns.formats.read_ply import read_ply
        from gradiseg_ns.sources.capture import SourceError

        if (self.load_config is None) == (self.ply is None):
            raise SourceError("give either --load-config (a run) or --ply (a splat) with --data.")
        device = default_device(self.device)
        if self.load_config is not None:
            run = sources.load_run(self.load_config, device)
            capture = run.capture(masks_dir=masks_dir, data=self.data, maps=maps, max_objects=max_objects)
            return run, run.splat, capture, run.background
        assert self.ply is not None
        if self.data is None:
            raise SourceError(f"--ply {self.ply} needs --data, the folder of its photos.")
        if self.ply.name == "config.yml" or (self.ply / "config.yml").exists():
            raise SourceError(f"--ply {self.ply} is a run, not a splat: give it as --load-config {self.ply}.")
        splat = read_ply(self.ply).to(device)
        capture = sources.load_capture(
            self.data, dataparser=self.dataparser, masks_dir=masks_dir or "object_mask", maps=maps, device=device,
            max_objects=max_objects,
        )  # fmt: skip
        background = torch.zeros(3, device=device)
        sources.place_cameras(splat, capture, background, self.frame)
        return None, splat, capture, background

    def output_path(self, given: Path | None, name: str) -> Path:
        """The path that was given, else `name` beside the splat."""
        if given is not None:
            return given
        origin = self.load_config or self.ply or self.data
        assert origin is not None
        folder = origin if origin.is_dir() else origin.parent
        return folder / name


def check_replaceable(run: Run, suffix: str) -> None:
    """Look before the work is done at the run that the new one `<timestamp>-<suffix>` would replace.

    Raises:
        SourceError: it holds edits, exports or other files that no such command wrote.
    """
    from gradiseg_ns import config as register
    from gradiseg_ns.sources.capture import SourceError

    stays = run.is_gradiseg or suffix == "pruned"
    method = run.config.method_name if stays else register.gradiseg_lite.config.method_name
    folder = run.config.get_base_dir().parents[1] / str(method) / f"{run.config.timestamp}-{suffix}"
    own = {
        "config.yml", "dataparser_transforms.json", str(run.config.relative_model_dir),
        str(run.config.viewer.relative_log_filename),
    }  # fmt: skip
    others = sorted({path.name for path in folder.iterdir()} - own) if folder.is_dir() else []
    if others:
        raise SourceError(
            f"{folder} exists already and holds {', '.join(others)}, which a new run would replace. Rename or remove that folder."
        )


def identity_dim(run: Run | None) -> int:
    """Channels of the identities in a run that is written from this one: its own number, else the default of the method."""
    from gradiseg_ns import config as register

    config: Any = register.gradiseg_lite.config if run is None or not run.is_gradiseg else run.config
    return config.pipeline.model.identity_dim


def names_by_id(table: ObjectTable) -> dict[int, str]:
    """Names of objects by id."""
    return dict(zip(table.ids, table.names, strict=True))


def colors_by_id(table: ObjectTable) -> dict[int, list[float]]:
    """Colours of objects by id, RGB in 0..1."""
    return dict(zip(table.ids, table.colors.tolist(), strict=True))


def rows_of(table: ObjectTable, ids: Sequence[int]) -> ObjectTable:
    """The table of some of its ids, which are ascending."""
    rows = [table.ids.index(i) for i in ids]
    parents = {i: parent for i, parent in table.parents.items() if i in ids}
    return type(table)(tuple(ids), tuple(table.names[row] for row in rows), table.colors[rows], parents)


def find_objects(flag: str, words: Sequence[str], table: ObjectTable) -> list[int]:
    """Ids of objects by the words of a flag (`ObjectTable.find`), ascending.

    Raises:
        SourceError: there is no such object, or several of that name.
    """
    from gradiseg_ns.scene.objects import ObjectNameError
    from gradiseg_ns.sources.capture import SourceError

    try:
        return sorted(table.find(*words))
    except ObjectNameError as error:
        raise SourceError(f"{flag} {' '.join(words)}: {error}") from error


def labelled_splat(run: Run) -> tuple[Splat, ObjectTable]:
    """A gradiseg run's splat with the object id of every Gaussian, and its objects. In a run without identities whose edits make
    objects, no Gaussian belongs to one before them.

    Raises:
        SourceError: it is a run of another method, or one without identities and edits.
    """
    from dataclasses import replace

    import torch

    from gradiseg_ns.ns_callers import edits_path
    from gradiseg_ns.runs.writing import labels_of_run, objects_of_run
    from gradiseg_ns.scene.objects import NO_OBJECT, ObjectTable
    from gradiseg_ns.sources.capture import SourceError

    if not run.is_gradiseg:
        if edits_path(run.config_path) is not None:
            labels = torch.full(
                (len(run.splat),), NO_OBJECT, dtype=torch.int32, device=run.splat.means.device
            )
            return replace(run.splat, labels=labels), ObjectTable.create([])
        raise SourceError(
            f"{run.config_path} is a run without objects (method {run.config.method_name}): expected one of gradiseg. "
            f"Give it objects with `gradiseg lift --load-config {run.config_path}`, or use ns-export."
        )
    return replace(run.splat, labels=labels_of_run(run)), objects_of_run(run)


def edited_splat(run: Run) -> tuple[Splat, ObjectTable]:
    """As `labelled_splat`, with the edits that were saved with the run and without what they hide.

    Raises:
        SourceError, EditError: the run has no objects, the edits cannot be read, or leave nothing.
    """
    from gradiseg_ns.editing.arrangement import edited_splat
    from gradiseg_ns.editing.edit_list import EditList
    from gradiseg_ns.ns_callers import edits_path
    from gradiseg_ns.sources.capture import SourceError
    from gradiseg_ns.tools.terminal import say

    splat, table = labelled_splat(run)
    path = edits_path(run.config_path)
    if path is None:
        return splat, table
    edits = EditList.load(path)
    edited, arrangement = edited_splat(splat, table, edits.steps, edits.files)
    if len(edited) == 0:
        raise SourceError(f"nothing is left after the edits of {path}: everything is hidden or removed.")
    say(f"{len(edits.steps)} edits of {path}")
    kept = [i for i in arrangement.objects.ids if i not in arrangement.hidden]
    return edited, rows_of(arrangement.objects, kept)


def check_picture(flag: str, path: Path) -> None:
    """Look before the work is done whether a picture can be written there.

    Raises:
        WriteError: it may not be written, or its name says no format.
    """
    from PIL import Image

    from gradiseg_ns.tools.atomic import check_writable
    from gradiseg_ns.tools.errors import WriteError

    if path.suffix.lower() not in Image.registered_extensions():
        raise WriteError(
            f"{flag} {path}: found the suffix {path.suffix!r}, expected that of a picture: .png or .jpg."
        )
    check_writable(path)


def cell(text: object) -> Any:
    """A name or a path as a cell of a rich table: brackets are no markup, control characters are shown."""
    from rich.text import Text

    return Text(printable(text))
