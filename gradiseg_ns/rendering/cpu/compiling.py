"""How the kernels are compiled: without the GIL, without the assumption that NaN does not occur, and kept on disk.

numba keeps the machine code beside the source, else in the user's cache folder, else in the folder NUMBA_CACHE_DIR. If none of these
can be written (a read-only installation, no home), every process compiles the kernels anew.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

from numba import njit

# Contracting a*b+c is allowed. Assuming that NaN does not occur is not: comparisons must stay false for NaN.
FASTMATH = {"contract", "nsz", "arcp"}

_options = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"The CPU kernels' machine code cannot be kept ({reason}): every process compiles them again, about half a minute. "
        "Set NUMBA_CACHE_DIR to a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


def kernel(function: Callable) -> Callable:
    """Compiles a function at its first call."""
    try:
        return njit(cache=True, **_options)(function)
    except RuntimeError as error:  # numba: no locator available
        _warn(str(error))
        return njit(**_options)(function)


def helper(function: Callable) -> Callable:
    """Compiles a function into the kernels that call it."""
    return njit(inline="always", **_options)(function)
