"""What the commands tell a person: sentences, progress, and the names of files and objects as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def console() -> Console:
    """nerfstudio's console, so that our lines and its lines never cross."""
    from nerfstudio.utils.rich_utils import CONSOLE

    return CONSOLE


def printable(text: object) -> str:
    """Text of others for the terminal: control characters become visible escapes, line breaks and tabs stay."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() or c == " ") else c.encode("unicode_escape").decode() for c in str(text)
    )  # fmt: skip


def say(message: str, *, title: str = "", style: str = "bold") -> None:
    """Print a sentence: brackets are no markup, control characters are shown, and a path is not broken over lines.

    Args:
        message: the sentence.
        title: goes before it.
        style: of the title.
    """
    from rich.text import Text

    text = Text.assemble((f"{title} ", style) if title else "", printable(message))
    console().print(text, soft_wrap=True)


def warn(message: str) -> None:
    """Tell the user something the run survives."""
    say(message, title="Warning:", style="bold yellow")


def say_error(error: BaseException) -> None:
    """Print an error that the user can mend: its kind in red, then its sentence."""
    say(str(error), title=f"{type(error).__name__}:", style="bold red")


TRACEBACK_VARIABLE = "GRADISEG_TRACEBACK"
"""Environment variable: `1` shows the traceback of an error that the user can mend, too."""


def mend_commands() -> None:
    """What nerfstudio's commands lack when something of others is printed, or goes wrong. Done once, however often it is called.

    - A `GradisegError`, and a disk that takes nothing more, end a command with a sentence, and the exit code 1.
    - Text in brackets that is no markup, such as a folder's name, is printed as it is, where the command would end.
    """
    import sys

    ours = console()
    if not getattr(ours.render_str, "_mended", False):
        from rich.errors import MarkupError

        render = ours.render_str

        def render_str(text: str, **options: Any) -> Any:
            try:
                return render(text, **options)
            except MarkupError:
                return render(printable(text), **{**options, "markup": False})

        render_str._mended = True  # type: ignore[attr-defined]
        ours.render_str = render_str  # type: ignore[method-assign]
    if not getattr(sys.excepthook, "_mended", False):
        hook = sys.excepthook

        def told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            shown = _for_the_user(error)
            if shown is None or os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"):
                hook(kind, error, trace)
                return
            say_error(shown)

        told._mended = True  # type: ignore[attr-defined]
        sys.excepthook = told


def _for_the_user(error: BaseException) -> BaseException | None:
    """The error as the user is to see it, without its traceback; None if it is a fault of the program."""
    from gradiseg_ns.tools.errors import DISK_ERRORS, GradisegError, write_error

    if isinstance(error, GradisegError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return write_error(Path(str(error.filename or "A file")), error)
    return None


def progress_bars(*, note: bool = False, **options: Any) -> Progress:
    """A rich display of progress with done and total, and the time that is left.

    Args:
        note: every task has a field ``note`` too, which is shown last.
        options: of rich's display, such as ``transient``: it goes away at the end.
    """
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
        TimeElapsedColumn(), TimeRemainingColumn(), *([TextColumn("{task.fields[note]}")] if note else []),
        console=console(), **options,
    )  # fmt: skip


@contextmanager
def progress(description: str, total: int, *, transient: bool = False) -> Iterator[Callable[[], None]]:
    """One bar; the block calls what it is given after each of `total` pieces. A transient one goes away at the end."""
    with progress_bars(transient=transient) as bars:
        task = bars.add_task(description, total=total)
        yield lambda: bars.advance(task)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage as it comes; the block calls ``(stage, done, total)``."""
    with progress_bars() as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def default_device(given: str | None = None) -> str:
    """The device that was named, or ``cuda`` where torch sees a GPU, else ``cpu``."""
    import torch

    return given or ("cuda" if torch.cuda.is_available() else "cpu")
