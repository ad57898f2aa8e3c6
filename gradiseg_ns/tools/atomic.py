"""Files and folders that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gradiseg_ns.tools.errors import WriteError


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
    """Write a UTF-8 text file, see :func:`write_files`."""
    write_files({path: [text.encode()]})


def write_files(files: Mapping[Path, Iterable[bytes]]) -> None:
    """Write all files under names of their own first, and rename them when all are complete, the last one last.

    Two writers of one file never see each other's unfinished file: one of them comes last, and its file is whole.

    Args:
        files: the content of each file, in blocks.

    Raises:
        WriteError: a file cannot be written. The older files are still there, and no temporary file is left.
    """
    temporary: dict[Path, Path] = {}
    path = Path()
    try:
        for path, blocks in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path] = path.with_name(f".{secrets.token_hex(8)}.tmp")
            with open(temporary[path], "xb") as file:
                for block in blocks:
                    file.write(block)
        for path, written in temporary.items():
            os.replace(written, path)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written ({error.strerror or error}). Expected a folder to which you may write, "
            "with enough room; what was there before is still there."
        ) from error
    finally:
        for written in temporary.values():
            with contextlib.suppress(OSError):
                written.unlink()
