"""Text of others reaches the terminal as it is: no markup, no control characters."""

from __future__ import annotations

import errno
import io
import sys

import pytest
from rich.console import Console
from rich.errors import MarkupError

from gradiseg_ns.tools import terminal
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import parse_json
from gradiseg_ns.tools.terminal import mend_commands, printable, progress, progress_bars, say, say_error, warn


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed."""
    output = io.StringIO()
    ours = Console(file=output, width=100)
    monkeypatch.setattr(terminal, "console", lambda: ours)
    return output


def test_control_characters_are_shown_and_letters_stay() -> None:
    assert printable("a\x1b[2J\x00b\x07") == r"a\x1b[2J\x00b\x07"
    assert printable("left\u202eright\u2066") == r"left\u202eright\u2066"
    assert printable("\udcff") == r"\udcff"
    assert printable("Tässe 茶碗 ☕\tone\ntwo") == "Tässe 茶碗 ☕\tone\ntwo"


@pytest.mark.parametrize(
    "text", ["[/red]bad", "[red]", "a\\", "[bold", "C:\\[x]", "\x1b]0;title\x07", ":smile:"]
)
def test_whatever_is_said_is_printed(said: io.StringIO, text: str) -> None:
    say(text)
    say(text, title="[/red]")
    warn(text)
    say_error(GradisegError(text))
    shown = printable(text)
    assert said.getvalue().splitlines() == [
        shown, f"[/red] {shown}", f"Warning: {shown}", f"GradisegError: {shown}",
    ]  # fmt: skip


def test_progress_tells_a_note_and_may_go_away(said: io.StringIO) -> None:
    with progress_bars(note=True) as bars:
        bars.update(bars.add_task("Training", total=4, note=""), completed=3, note="17 Gaussians")
    assert "3/4" in said.getvalue() and "17 Gaussians" in said.getvalue()
    said.truncate(0)
    with progress("Evaluating", 2, transient=True) as advance:
        advance()
    assert "Evaluating" not in said.getvalue()
    with progress("Evaluating", 2) as advance:
        advance()
    assert "Evaluating" in said.getvalue() and "1/2" in said.getvalue()


def test_long_lines_are_not_broken(said: io.StringIO) -> None:
    say("/a/path/" * 40)
    assert said.getvalue().count("\n") == 1


def test_markup_that_is_none_is_printed_where_others_print(
    said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = terminal.console()
    with pytest.raises(MarkupError):
        ours.print("Saving to [/red]")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for _ in range(2):
        mend_commands()
    ours.print("Saving to [/red] \x1b[2J")
    ours.print("[bold]as ever[/bold]")
    assert said.getvalue().splitlines() == [r"Saving to [/red] \x1b[2J", "as ever"]


def test_errors_of_the_user_end_in_a_sentence(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
    mend_commands()
    for error in (
        GradisegError("--flag x: expected y."),
        OSError(errno.ENOSPC, "No space left on device", "frame.jpg"),
    ):
        sys.excepthook(type(error), error, None)
    lines = said.getvalue().splitlines()
    assert lines[0] == "GradisegError: --flag x: expected y."
    assert lines[1].startswith("WriteError: frame.jpg cannot be written (No space left on device).")
    fault = KeyError("a fault of the program")
    sys.excepthook(KeyError, fault, None)
    monkeypatch.setenv(terminal.TRACEBACK_VARIABLE, "1")
    shown = GradisegError("with its traceback")
    sys.excepthook(GradisegError, shown, None)
    assert seen == [fault, shown] and len(said.getvalue().splitlines()) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", b"\xff", "1" * 10_000])
def test_json_that_is_none_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_json(b'\xef\xbb\xbf{"1": "cup"}') == {"1": "cup"}
