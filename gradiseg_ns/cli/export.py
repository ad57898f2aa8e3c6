"""`gradiseg export`: a run's splat as files for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from gradiseg_ns.cli.common import (
    MaybePath,
    MaybeText,
    Objects,
    Switch,
    cell,
    colors_by_id,
    edited_splat,
    find_objects,
    labelled_splat,
    names_by_id,
    rows_of,
)
from gradiseg_ns.tools.atomic import check_writable
from gradiseg_ns.tools.choices import Format
from gradiseg_ns.tools.terminal import console, default_device, say


@dataclass
class Export:
    """Write the splat of a gradiseg run as files for other programs: all objects or some, in one file or one file an object.

    A JSON file beside them holds the objects' names, colours, Gaussian counts and boxes. A PLY also keeps the object id of every
    Gaussian (`object_id`), which `gradiseg import` brings back. Edits that were saved with the run are included.
    """

    config: tyro.conf.Positional[Path]
    """A gradiseg run: its folder or config.yml. Only open runs you trust: their config.yml can execute code."""
    objects: Objects = ()
    """Objects to write, ids or names. Default: all, and what has no object."""
    separate: Switch = False
    """One file per object. Gaussians without an object are left out."""
    format: Format = "ply"
    """Only `ply` is exact and has object ids; the others need the package gsply."""
    output_dir: MaybePath = None
    """Folder of the files. Default: `export` beside the run's config.yml."""
    edits: Switch = True
    """--no-edits writes the splat as it was trained."""
    ids: Switch = True
    """--no-ids leaves out the PLY property `object_id`."""
    frame: Literal["nerfstudio", "original"] = "nerfstudio"
    """Coordinates of training, or of COLMAP or transforms.json."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""

    def main(self) -> None:
        import torch

        from gradiseg_ns import sources
        from gradiseg_ns.formats.export import OLDER, export_objects
        from gradiseg_ns.sources.capture import SourceError

        run = sources.load_run(self.config, default_device(self.device))
        folder = self.output_dir or run.config_path.parent / "export"
        check_writable(folder / "scene.objects.json")
        splat, table = edited_splat(run) if self.edits else labelled_splat(run)
        assert splat.labels is not None
        if self.objects:
            chosen = find_objects("--objects", self.objects, table)
            splat = splat.select(torch.isin(splat.labels, torch.tensor(chosen).to(splat.labels)))
            if len(splat) == 0:
                raise SourceError(f"--objects {' '.join(self.objects)}: no Gaussian belongs to them.")
            table = rows_of(table, chosen)
        if self.frame == "original":
            splat = sources.in_original_frame(splat, run)
        older = _names_in(folder / OLDER)
        with console().status("Writing files"):
            written = export_objects(
                folder, splat, names_by_id(table),
                colors=colors_by_id(table), parents=table.parents, format=self.format, separate=self.separate, ids=self.ids,
            )  # fmt: skip
        count = _print_export(written[-1], None if self.separate else written[0].name)
        size = sum(path.stat().st_size for path in written) / 1e6
        say(f"Saved {count} Gaussians, {size:.1f} MB in {len(written)} files: {folder}")
        moved = sorted(_names_in(folder / OLDER) - older)
        if moved:
            say(f"Of an export before this one, moved to {folder / OLDER}: {', '.join(moved)}")


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _print_export(sidecar: Path, file: str | None) -> int:
    """A table of what was written, from the sidecar.

    Args:
        sidecar: the JSON file.
        file: the one file that holds all; None if the sidecar names a file for each object.

    Returns:
        The number of Gaussians in the files.
    """
    import json

    from rich.table import Table

    content = json.loads(sidecar.read_text("utf-8"))
    table = Table(title="Exported objects", show_footer=True)
    total = sum(entry["gaussians"] for entry in content["objects"])
    table.add_column("id", justify="right")
    table.add_column("name", "all objects")
    table.add_column("Gaussians", str(total), justify="right")
    table.add_column("file", cell(sidecar.name))
    for entry in content["objects"]:
        name = entry.get("file") if file is None else file
        table.add_row(str(entry["id"]), cell(entry["name"]), str(entry["gaussians"]), cell(name or "-"))
    unknown = content["unknown_gaussians"]
    if unknown:
        table.add_row("", "no object", str(unknown), cell(file or "-"))
    console().print(table)
    return total + (unknown if file is not None else 0)
