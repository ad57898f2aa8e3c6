"""Files and folders that are whole or not there: written under another name, then renamed.

The other names hold the process that writes (`_OWNER`): what a killed process left behind is known by it, and the next writer in that
folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from gradiseg_ns.tools.errors import DISK_ERRORS, GradisegError, WriteError, write_error

_DAY = 86_400.0
_OCCUPIED = ".training"


def _machine() -> str:
    """This machine since it started, and its own numbering of processes, in eight letters."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


_MACHINE = _machine()
_LEFTOVER = re.compile(r"\.(saving|old|writing)-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-")


def _owner() -> str:
    return f"{_MACHINE}-{os.getpid()}"  # asked for anew: a forked process is another one


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _is_stale(path: Path) -> bool:
    """Whether nobody writes this any more: its process is gone, or, if that cannot be told, a day went by."""
    owner = _LEFTOVER.match(path.name)
    if owner is None:
        return False
    if owner["machine"] == _MACHINE:
        return not _is_alive(int(owner["process"]))
    newest = max((each.lstat().st_mtime for each in (path, *path.rglob("*"))), default=0.0)
    return time.time() - newest > _DAY


def clean(folder: Path) -> None:
    """Remove what killed processes of ours left unfinished in a folder. A run that one of them had set aside, and for which it had
    not yet put the new one, comes back."""
    with contextlib.suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(".")]:
            with contextlib.suppress(OSError):
                if not _is_stale(path):
                    continue
                if path.name.startswith(".old-"):
                    for kept in path.iterdir():
                        if not (folder / kept.name).exists():
                            os.rename(kept, folder / kept.name)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def temporary_folder(parent: Path, kind: str = "saving") -> Path:
    """A new folder in another, under a name that `clean` knows.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{kind}-{_owner()}-", dir=parent))
    except OSError as error:
        raise write_error(parent, error) from error


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends without an error.

    Of two processes that make one folder the second replaces the first's, or is told, as if they came one after the other.

    Args:
        folder: its name in the end.
        replace: whether an older folder of that name goes away then.

    Raises:
        FileExistsError: there is one, and it is not to be replaced.
        WriteError: it cannot be made or filled. The older one is still there.
    """
    exists = FileExistsError(f"{folder} exists already; nothing is overwritten. Name another, or remove it.")
    if folder.exists() and not replace:
        raise exists
    clean(folder.parent)
    making = temporary_folder(folder.parent)
    try:
        yield making
        making.chmod(0o755)
        for _ in range(100):
            try:
                os.rename(making, folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if not replace:
                raise exists
            aside = temporary_folder(folder.parent, "old")
            try:
                with contextlib.suppress(FileNotFoundError):  # another process has just replaced it
                    os.rename(folder, aside / folder.name)
                with contextlib.suppress(OSError):
                    os.rename(making, folder)
            finally:
                if not folder.exists() and (aside / folder.name).exists():
                    os.rename(aside / folder.name, folder)
                shutil.rmtree(aside, ignore_errors=True)
            if not making.exists():
                return
        raise OSError(errno.EBUSY, "others write it all the time")
    except (GradisegError, FileExistsError):
        raise
    except OSError as error:
        inside = str(error.filename or making).startswith(str(making)) or error.filename == str(folder)
        if inside or error.errno in DISK_ERRORS:
            raise write_error(folder, error) from error
        raise
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
        for folder in {path.parent for path in files}:
            clean(folder)
        for path, blocks in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path] = path.with_name(f".writing-{_owner()}-{secrets.token_hex(8)}.tmp")
            with open(temporary[path], "xb") as file:
                for block in blocks:
                    file.write(block)
        for path, written in temporary.items():
            os.replace(written, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        for written in temporary.values():
            with contextlib.suppress(OSError):
                written.unlink()


def write_with(path: Path, save: Callable[[BinaryIO], Any]) -> None:
    """Write a file by a function that is given the open file, and put it on the disk before it takes its name.

    Raises:
        WriteError: it cannot be written. The older file is still there.
    """
    clean(path.parent)
    making = path.with_name(f".writing-{_owner()}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(making, "xb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(making, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            making.unlink()


def check_writable(path: Path) -> None:
    """Look before the work is done whether a file may be written. Nothing is left, nor a folder made.

    Raises:
        WriteError: it may not.
    """
    if path.is_dir():
        raise WriteError(f"{path} is a folder, expected the name of a file.")
    folder = next((each for each in path.absolute().parents if os.path.lexists(each)), path.absolute().parent)
    trial = folder / f".writing-{_owner()}-{secrets.token_hex(8)}.tmp"
    try:
        with open(trial, "xb") as file:
            file.write(b"0")
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            trial.unlink()


class WholeFile(type(Path())):
    """A path for those who write text themselves: it is whole or not there, and printed as it is."""

    def write_text(self, data: str, *_: Any, **__: Any) -> int:  # type: ignore[override]
        """As :func:`write_text`; other arguments, as an encoding, are left out: UTF-8."""
        write_text(Path(str(self)), data)
        return len(data)

    def __format__(self, spec: str) -> str:
        from rich.markup import escape

        from gradiseg_ns.tools.terminal import printable

        return format(escape(printable(self)), spec)


def new_run_folder(wanted: Path) -> Path:
    """Make a folder that was not there: of this name, or with -2, -3, ... behind it. No two processes get the same one.

    Raises:
        WriteError: it cannot be made.
    """
    folder, number = wanted, 1
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
                folder = wanted.with_name(f"{wanted.name}-{number}")
    except OSError as error:
        raise write_error(folder, error) from error


def occupy(
    folder: Path,
    name: str = _OCCUPIED,
    *,
    who: str = "another training",
    way_out: str = "Wait for its end, or take another --timestamp.",
) -> Callable[[], None]:
    """Keep a folder for this process, until the function that is returned is called or the process ends.

    Args:
        folder: made if it is not there.
        name: the file in it that says whose it is. Other names do not keep each other away.
        who: what the other one is, for the message.
        way_out: what to do, for the message.

    Raises:
        WriteError: another process that may be alive has it, or nothing can be written there.
    """
    mark = folder / name
    own = f"{_owner()}-{socket.gethostname()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            with open(mark, "a+", encoding="utf8", errors="replace") as file:
                if not _locked(file, mark):
                    continue  # who had it has just removed it
                file.seek(0)
                found = file.read()
                machine, process, host = (*found.split("-", 2), "", "")[:3]
                mine = (machine, process) == (_MACHINE, str(os.getpid()))
                if not mine and _may_be_alive(machine, process, host, os.fstat(file.fileno()).st_mtime):
                    where = "" if machine == _MACHINE else f" on {host or 'another machine'}"
                    raise WriteError(
                        f"{folder} is written by {who}, process {process}{where}. {way_out} If there is no such process any more, "
                        f"remove {mark}."
                    )
                file.truncate(0)
                file.write(own)
                break
    except WriteError:
        raise
    except OSError as error:
        raise write_error(folder, error) from error

    def leave() -> None:
        with contextlib.suppress(OSError), open(mark, encoding="utf8", errors="replace") as file:
            if _locked(file, mark) and file.read() == own:
                file.close()  # where an open file cannot be removed
                mark.unlink()

    return leave


def _may_be_alive(machine: str, process: str, host: str, written: float) -> bool:
    """Whether the process that a mark names may still be there. Of another machine nobody can tell: it has a day."""
    if not process.isdigit():
        return False
    if machine == _MACHINE:
        return _is_alive(int(process))
    if host == socket.gethostname() and written < _started():
        return False
    return time.time() - written < _DAY


def _started() -> float:
    """When this machine was started, in seconds since 1970; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        return time.time() - float(Path("/proc/uptime").read_text().split()[0])
    return 0.0


def _locked(file: IO[Any], path: Path) -> bool:
    """Wait until nobody else looks at an open file, and say whether it is still the one of that path. Where there are no locks, as on
    Windows, nobody waits."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
