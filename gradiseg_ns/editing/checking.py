"""Errors of edits, and readers of values from files that anybody may have written."""

from __future__ import annotations

import reprlib
from typing import Any

from gradiseg_ns.tools.errors import GradisegError

MAX_ID = (1 << 31) - 1
MAX_NAME = 200


class EditError(GradisegError):
    """An edit, or a file of edits, that cannot be used; the message says which, what was found and what is expected."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 40


def excerpt(value: Any) -> str:
    """A value of others in a message: of lists in lists and of long ones the beginning."""
    text = _short.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_integer(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise EditError(f"found {name} {excerpt(value)}, expected an integer from {low} to {high}.")
    return value


def read_numbers(value: Any, name: str, count: int, limit: float = 1e6) -> tuple[float, ...]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != count
        or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
        or not all(abs(x) <= limit for x in value)  # an integer may be too large for a float
    ):
        raise EditError(f"found {name} {excerpt(value)}, expected {count} finite numbers.")
    return tuple(float(x) for x in value)


def clean_name(value: Any) -> str:
    """A name as it may be shown: one line, no control characters, at most 200 characters.

    Raises:
        EditError: it is no text, or nothing is left of it.
    """
    if not isinstance(value, str):
        raise EditError(f"found the name {excerpt(value)}, expected text.")
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split())[:MAX_NAME]
    if not text:
        raise EditError("found an empty name, expected some text.")
    return text
