"""Freed memory stays with the process: a training step frees and asks for the same large arrays again and again.

glibc gives large arrays back to the system at once, and every page that is asked for anew is cleared first. At the small
pictures of a laptop's training that costs as much as the identities themselves (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_KEPT = (1 << 30, 1 << 25)  # bytes; the second is the most that glibc before 2.35 takes
_KEPT_AT_MOST = (1 << 31) - 1  # bytes free at the end of the heap, the largest int


def keep_freed_memory() -> bool:
    """Asks glibc's malloc to keep what is freed. Whether it does; never where the user has set malloc's options."""
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in own):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_KEPT)
    return kept and mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST) == 1
