"""`gradiseg name`: names for objects, from a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from gradiseg_ns.cli.common import MaybePath, Switch, cell, check_picture, labelled_splat, names_by_id
from gradiseg_ns.cli.find import Looking
from gradiseg_ns.tools.terminal import console, default_device, say

if TYPE_CHECKING:
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.words.naming import Guess


@dataclass
class Name(Looking):
    """Give the objects of a gradiseg run names from a vocabulary: those of which a model is sure. Names that a person gave stay.

    The model compares crops of each object's best views with all names. A name is given if it is probable (--least) and twice as
    probable as the second one. Names are edits, one step of edits.json: `gradiseg edit RUN --undo 1` takes them back.
    """

    config: tyro.conf.Positional[Path]
    """A gradiseg run: its config.yml, or the folder it is in. Only open runs you trust: their config.yml can execute code."""
    vocabulary: MaybePath = None
    """Text file with one name a line; other words for the same thing may follow after commas. Default: 400 things of household and garden."""
    least: float = 0.5
    """Probability that a name must have, 0 to 1."""
    dry_run: Switch = False
    """Show the names and change nothing."""
    picture: MaybePath = None
    """Also draw the objects with their new names to this file."""

    def main(self) -> None:
        from gradiseg_ns.editing.arrangement import edited_splat
        from gradiseg_ns.editing.checking import clean_name
        from gradiseg_ns.editing.edit_list import FILE_NAME, EditList
        from gradiseg_ns.editing.edits import Rename
        from gradiseg_ns.editing.flags import Script
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.sources.run import load_run
        from gradiseg_ns.tools.pictures import save_picture
        from gradiseg_ns.words import Finder
        from gradiseg_ns.words.naming import guesses, is_given, new_names, read_vocabulary
        from gradiseg_ns.words.sheet import sheet

        if not 0.0 <= self.least <= 1.0:
            raise SourceError(f"--least {self.least}: expected 0 to 1.")
        if self.picture is not None:
            check_picture("--picture", self.picture)
        vocabulary = read_vocabulary(self.vocabulary)
        model = self.load_model()
        run = load_run(self.config, default_device(self.device))
        splat, table = labelled_splat(run)
        own = run.config_path.parent / FILE_NAME
        script = Script(splat, table, EditList.load(own) if own.is_file() else EditList())
        shown, arrangement = edited_splat(splat, table, script.edits.steps, script.edits.files)
        objects = arrangement.objects
        names = names_by_id(objects)
        unnamed = [i for i in objects.ids if is_given(names[i])]
        finder = Finder(model)
        looks = self.looks(finder, run, shown, objects)
        found = guesses(model, looks, vocabulary, unnamed)
        given = new_names(found, names, least=self.least)
        _print(objects, unnamed, found, given)
        if self.picture is not None and given:
            captions = {i: f"{i} {name}: {found[i].probability:.2f}" for i, name in given.items()}
            save_picture(sheet(captions, looks), self.picture)
            say(f"Look at {self.picture}")
        stay = len(objects) - len(unnamed)
        told = f"{len(given)} objects named, {len(unnamed) - len(given)} left without a name, {stay} had one."
        if given and not self.dry_run:
            edits = [Rename(i, clean_name(name)) for i, name in given.items()]
            script.edits.push(f"name {len(given)} object{'s' * (len(given) > 1)}", *edits)
            added = script.save(own)
            if added:
                say(f"{len(added)} edits that another program added meanwhile were kept.")
            told += f" Saved {own}"
        else:
            told += " Nothing was changed."
        say(told)


def _print(objects: ObjectTable, unnamed: list[int], found: dict[int, Guess], given: dict[int, str]) -> None:
    from rich.table import Table

    from gradiseg_ns.words.scores import NEUTRAL

    table = Table(title="Names")
    for column in ("id", "name now", "best name", "second", "views", "new name"):
        table.add_column(column, justify="right" if column in ("id", "views") else "left")
    names = names_by_id(objects)
    for i in unnamed:
        guess = found.get(i)
        if guess is None:
            table.add_row(str(i), cell(names[i]), "", "", "0", "left: no view shows it")
            continue
        best, second = (
            cell(f"{name} {probability:.2f}" + (" (fits everything)" if name in NEUTRAL else ""))
            for name, probability in (
                (guess.name, guess.probability),
                (guess.second, guess.second_probability),
            )
        )
        new = cell(given[i]) if i in given else "left: not sure"
        table.add_row(str(i), cell(names[i]), best, second, str(guess.views), new)
    console().print(table)
