"""What one look at one thing says, and who says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gradiseg_ns.doctor.machine import Machine

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one look at one thing says."""

    name: str
    state: State
    """`problem`: a training would fail. `note`: good to know."""
    found: str
    way_out: str = ""
    """What to do, with the command to type."""


def ok(found: str) -> Finding:
    """All is well. The name comes from the list of checks."""
    return Finding("", "ok", found)


def note(found: str, way_out: str = "") -> Finding:
    """Good to know."""
    return Finding("", "note", found, way_out)


def problem(found: str, way_out: str) -> Finding:
    """A training would fail."""
    return Finding("", "problem", found, way_out)


NO_IMAGE = "'no kernel image is available for execution on the device'"
"""What torch says where nothing was compiled for the card."""
Check = tuple[str, str, Callable[[Machine], Finding]]
"""Name of what is looked at, the probe that looks, and who judges."""
