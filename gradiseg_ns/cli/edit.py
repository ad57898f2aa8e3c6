"""`gradiseg edit`: objects of a run changed by flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gradiseg_ns.cli.common import MaybePath, Switch, cell, check_picture, labelled_splat
from gradiseg_ns.tools.terminal import console, say

if TYPE_CHECKING:
    from gradiseg_ns.editing.arrangement import Arrangement
    from gradiseg_ns.editing.flags import Script
    from gradiseg_ns.sources.run import Run


Changes = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...", help_behavior_hint="")]


@dataclass
class Edit:
    """Change objects of a gradiseg run with flags, as the viewer's panel does with buttons.

    Edits are added to the list `edits.json` beside the run's config.yml; the splat itself stays unchanged (docs/viewer.md).

    OBJECT is an id or a name, OBJECTS are several with commas between them. A flag takes several values, and flags apply in the order
    below:
    `gradiseg edit RUN --tint cup=#ff0000 7=blue --move 7,cup=0,0,0.1`.
    """

    config: tyro.conf.Positional[Path]
    """A gradiseg run: its folder or config.yml. Only open runs you trust: their config.yml can execute code."""
    clear: Switch = False
    """Discard all saved edits first."""
    undo: int = 0
    """Undo this many of the saved steps first."""
    swap: Changes = ()
    """OBJECT=FILE.ply in its place, at its size; FILE.ply@keep as it is."""
    merge: Changes = ()
    """OBJECTS=OBJECT makes the first ones part of the last."""
    split_into_parts: Changes = ()
    """OBJECTS: their parts become objects, "cup part 1" of "cup"."""
    duplicate: Changes = ()
    """OBJECTS get copies in the same place: "cup copy" of "cup"."""
    move: Changes = ()
    """OBJECTS=X,Y,Z in units of the scene as nerfstudio trains it."""
    rotate: Changes = ()
    """OBJECTS=X,Y,Z: degrees about the axes through their middle, x first."""
    scale: Changes = ()
    """OBJECTS=FACTOR about their middle."""
    tint: Changes = ()
    """OBJECTS=COLOR or OBJECTS=COLOR@STRENGTH: red or #ff0000, and 0 to 1."""
    untint: Changes = ()
    """OBJECTS lose their tint."""
    rename: Changes = ()
    """OBJECT=NAME"""
    hide: Changes = ()
    """OBJECTS are neither shown nor exported, but kept."""
    show: Changes = ()
    """OBJECTS that were hidden are shown again."""
    isolate: Changes = ()
    """OBJECTS stay, all others are hidden."""
    remove: Changes = ()
    """OBJECTS are removed. Where no photo saw behind them, a hole stays."""
    output: MaybePath = None
    """The list to write. Default: the run's own."""
    picture: MaybePath = None
    """Also render a view before and after, side by side, to this file."""
    view: int = 0
    """Held-out view that --picture shows."""

    def main(self) -> None:
        from gradiseg_ns import sources
        from gradiseg_ns.editing.edit_list import FILE_NAME, EditList
        from gradiseg_ns.editing.flags import ACTIONS, Script
        from gradiseg_ns.sources.capture import SourceError

        if self.picture is not None:
            check_picture("--picture", self.picture)
        run = sources.load_run(self.config)
        splat, table = labelled_splat(run)
        own = run.config_path.parent / FILE_NAME
        edits = EditList.load(own) if own.is_file() and not self.clear else EditList()
        if not 0 <= self.undo <= len(edits.steps):
            raise SourceError(f"--undo {self.undo}: expected 0 to {len(edits.steps)}, the steps there are.")
        for _ in range(self.undo):
            edits.undo()
        edits.undone.clear()
        given = {flag: getattr(self, flag[2:].replace("-", "_")) for flag in ACTIONS}
        script = Script(splat, table, edits)
        if given["--split-into-parts"] and splat.labels is not None:
            from gradiseg_ns.sources.association import parts_of_run

            script.parts = parts_of_run(run, splat.labels)
        for flag, texts in given.items():
            for text in texts:
                script.apply(flag, text)
        if self.picture is not None:
            self._draw(run, script, self.picture)
        changed = self.clear or self.undo or any(given.values())
        target = self.output or own
        if changed or self.output is not None:
            added = script.save(target)
            if added:
                say(f"{len(added)} edits that another program added meanwhile were kept.")
        arrangement = script.arrangement
        _print_arrangement(arrangement)
        for number, step in enumerate(edits.steps, 1):
            say(f"{number:3}  {step.label}")
        say(
            f"{len(edits.steps)} edits; {int(arrangement.visible.sum())} Gaussians are shown, {len(splat)} were trained. "
            + (f"Saved {target}" if changed or self.output is not None else "Nothing was changed.")
        )

    def _draw(self, run: Run, script: Script, path: Path) -> None:
        from gradiseg_ns.editing.arrangement import edited_splat
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.tools.pictures import overview, save_picture, to_image

        capture = run.capture(maps=False)
        cameras = capture.test.cameras or capture.train.cameras
        if not 0 <= self.view < len(cameras):
            raise SourceError(f"--view {self.view}: expected 0 to {len(cameras) - 1}.")
        edited, _ = edited_splat(script.splat, script.objects, script.edits.steps, script.edits.files)
        row = []
        for title, splat in (("before", script.splat), ("after", edited)):
            rgb, _ = splat.render(cameras[self.view], run.background)
            row.append((title, to_image(rgb)))
        save_picture(overview([row]), path)


def _print_arrangement(arrangement: Arrangement) -> None:
    from rich.table import Table

    table = Table(title="Objects")
    for column in ("id", "name", "Gaussians", "shown"):
        table.add_column(column, justify="left" if column == "name" else "right")
    counts = arrangement.counts()
    for i, name in zip(arrangement.objects.ids, arrangement.objects.names, strict=True):
        shown = "hidden" if i in arrangement.hidden else "yes"
        table.add_row(str(i), cell(name), str(counts[i]), shown)
    console().print(table)
