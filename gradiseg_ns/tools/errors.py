"""The base of all errors that the user can mend."""

from __future__ import annotations


class GradisegError(ValueError):
    """An input, a flag or a file that cannot be used.

    The message names it, says what was found and what was expected. Commands print the message alone. Any other exception is a
    fault of the program and shows its traceback.
    """


class WriteError(GradisegError, OSError):
    """A file or a folder that cannot be written. What was there before is still there, and nothing partial is left."""
