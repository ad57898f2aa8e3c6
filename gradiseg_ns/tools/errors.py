"""The base of all errors that the user can mend."""

from __future__ import annotations

import errno
from pathlib import Path

DISK_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EROFS", "EACCES", "EPERM", "EDQUOT", "EFBIG", "EIO")
    if hasattr(errno, name)
)
"""What a full, a broken or a read-only disk answers to a writer."""


class GradisegError(ValueError):
    """An input, a flag or a file that cannot be used.

    The message names it, says what was found and what was expected. Commands print the message alone. Any other exception is a
    fault of the program and shows its traceback.
    """


class WriteError(GradisegError, OSError):
    """A file or a folder that cannot be written. What was there before is still there, and nothing partial is left."""


def write_error(path: Path, error: BaseException) -> WriteError:
    """The sentence for what could not be written."""
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return WriteError(
        f"{path} cannot be written ({reason}). Expected a folder to which you may write, with enough room; what was there before is "
        "still there."
    )
