"""What the commands tell a person: sentences, progress, and the names of files and objects as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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


def say(message: str) -> None:
    """Print a sentence: brackets are no markup, control characters are shown, and a path is not broken over lines."""
    console().print(printable(message), markup=False, soft_wrap=True)


def say_error(error: BaseException) -> None:
    """Print an error that the user can mend: its kind in red, then its sentence."""
    console().print(f"[bold red]{type(error).__name__}[/bold red]", end=": ")
    say(str(error))


def progress_bars() -> Progress:
    """A rich display of progress with done and total, and the time that is left."""
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
        TimeElapsedColumn(), TimeRemainingColumn(), console=console(),
    )  # fmt: skip


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """One bar; the block calls what it is given after each of `total` pieces."""
    with progress_bars() as bars:
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
