"""Files that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends without an error.

    Args:
        folder: its name in the end.
        replace: whether an older folder of that name goes away then.

    Raises:
        FileExistsError: there is one, and it is not to be replaced.
    """
    if folder.exists() and not replace:
        raise FileExistsError(f"{folder} exists already; nothing is overwritten. Name another, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder.parent))
    try:
        yield making
        making.chmod(0o755)
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent)) if folder.exists() else None
        if old is not None:
            os.replace(folder, old / folder.name)
        os.replace(making, folder)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, keeping the old one until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.saving")
    partial.write_text(text)
    os.replace(partial, path)
