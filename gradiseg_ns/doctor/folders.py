"""Paths: which is there, and which can be written."""

from __future__ import annotations

import os
from pathlib import Path


def first_of(*paths: str) -> str | None:
    """The first of some paths that exists."""
    return next((p for p in paths if os.path.exists(p)), None)


def nearest(folder: Path) -> Path:
    """A folder, or the nearest above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    return os.access(nearest(folder), os.W_OK)


def numba_folders() -> tuple[str, ...]:
    """Where numba may keep the kernels' machine code, of what can be written: where it is told to, beside the source, the user's."""
    told = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(__file__).parents[1] / "rendering" / "cpu" / "__pycache__"
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    folders = [Path(told)] if told else [beside, users]
    return tuple(str(f) for f in folders if writable(f))
