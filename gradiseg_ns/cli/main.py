"""The script `gradiseg`: finds the verb, prints what a user can mend as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import tyro

from gradiseg_ns.cli.affordance import Affordance
from gradiseg_ns.cli.associate import Associate
from gradiseg_ns.cli.doctor import Doctor
from gradiseg_ns.cli.edit import Edit
from gradiseg_ns.cli.export import Export
from gradiseg_ns.cli.find import Find
from gradiseg_ns.cli.import_splat import Import
from gradiseg_ns.cli.lift import Lift
from gradiseg_ns.cli.masks import Masks
from gradiseg_ns.cli.name import Name
from gradiseg_ns.cli.new import New
from gradiseg_ns.cli.prune import Prune
from gradiseg_ns.cli.segment import Segment
from gradiseg_ns.sources.dataparsers import config_of, split
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.terminal import mend_commands, say_error

VERBS: dict[str, type[Any]] = {
    "doctor": Doctor,
    "new": New,
    "masks": Masks,
    "lift": Lift,
    "segment": Segment,
    "prune": Prune,
    "associate": Associate,
    "find": Find,
    "name": Name,
    "affordance": Affordance,
    "edit": Edit,
    "export": Export,
    "import": Import,
}
"""The verbs by their names."""


def _split_dataparser(verb: str, args: list[str]) -> tuple[list[str], str | None, list[str]]:
    """The arguments of a verb, and a dataparser's name and options after them, as ns-train takes them."""
    known = {field.name: field.type for field in fields(VERBS[verb])}
    if "dataparser" not in known:
        return args, None, []
    words, reader, options = split([verb, *args], [n for n, kind in known.items() if kind in ("bool", bool)])
    return words[1:], reader, options


def _summary(verb: type) -> Callable[[], None]:
    """Stands for a verb where they are listed, with the first sentence of its help."""

    def listed() -> None:
        raise AssertionError("an entry of the list was called")

    listed.__doc__ = (verb.__doc__ or "").split("\n\n")[0]
    return listed


def entrypoint() -> None:
    """The script `gradiseg`. A `GradisegError` ends it with a sentence and the status 1; any other error shows its traceback."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in VERBS:  # tyro ends here, with the list or with what is wrong
        # a shell's completion needs all flags
        whole = name.startswith("--tyro-")
        tyro.extras.subcommand_cli_from_dict(
            {known: verb if whole else _summary(verb) for known, verb in VERBS.items()}, prog="gradiseg", args=sys.argv[1:],
            description="Objects of Gaussian splats. `gradiseg VERB --help` tells the flags of a verb.",
        )  # fmt: skip
        return
    args, reader, options = _split_dataparser(name, sys.argv[2:])
    verb = tyro.cli(VERBS[name], prog=f"gradiseg {name}", args=args)
    if name != "doctor":  # which has to run where nerfstudio does not
        mend_commands()
    try:
        if reader is not None:
            verb.dataparser = config_of(reader, options, prog=f"gradiseg {name}")
        verb.main()
    except GradisegError as error:
        say_error(error)
        sys.exit(1)
