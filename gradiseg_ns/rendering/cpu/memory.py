"""Keeps freed memory with the process, because every training step frees and requests the same large arrays.

glibc gives large arrays back to the system at once, and the system clears every page before it gives it out again. For small
pictures this cost a third of the time of the identities (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_KEPT = (1 << 30, 1 << 25)  # bytes; the second is the most that glibc before 2.35 takes
_KEPT_AT_MOST = (1 << 31) - 1  # bytes free at the end of the heap, the largest int


def keep_freed_memory() -> bool:
    """Asks glibc's malloc to keep freed memory. Returns whether it does. If the user has set malloc's options, nothing is changed."""
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in own):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_KEPT)
    return kept and mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST) == 1
