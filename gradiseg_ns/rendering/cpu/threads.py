"""A thread pool for kernels that release the GIL.

numba's own layers cannot be used: `omp` dies in a forked child, and `workqueue` aborts when two Python threads enter at once.
nerfstudio does both: data loaders fork, and the viewer renders from its own thread.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_requested: int | None = None
_lock = threading.Lock()
_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # (process id, helpers, executor)


def _after_fork() -> None:
    # the child has none of the parent's threads, and the lock may have been held by one of them
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(count: int | None) -> None:
    """Sets the number of threads of the CPU backend; None restores the default.

    Raises:
        ValueError: `count` is less than 1.
    """
    global _requested
    if count is not None and count < 1:
        raise ValueError(f"set_num_threads: expected at least 1 thread, got {count}.")
    _requested = count


def get_num_threads() -> int:
    """The number set by `set_num_threads`, else that of GRADISEG_NUM_THREADS, else torch's number of threads."""
    if _requested is not None:
        return _requested
    text = os.environ.get("GRADISEG_NUM_THREADS", "")
    if not text:
        return torch.get_num_threads()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(
            f"GRADISEG_NUM_THREADS is {text!r}: expected a whole number of at least 1; unset it or correct it."
        )
    return int(text)


def _executor(helpers: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[:2] != (os.getpid(), helpers):
            # an older pool is released, not shut down: another thread may be using it, and it ends with its last user
            _pool = (os.getpid(), helpers, ThreadPoolExecutor(helpers, thread_name_prefix="gradiseg"))
        return _pool[2]


def parallel(tasks: int, function: Callable[[int], object]) -> None:
    """Calls function(0) ... function(tasks - 1), each once, on `get_num_threads()` threads, and returns when all are done.

    The calling thread works too, so nothing waits for a busy pool. The first exception is raised here.
    """
    threads = min(get_num_threads(), tasks)
    if threads <= 1:
        for task in range(tasks):
            function(task)
        return
    counter = itertools.count()  # next() of it is atomic

    def work() -> None:
        while (task := next(counter)) < tasks:
            function(task)

    executor = _executor(threads - 1)
    futures = []
    for _ in range(threads - 1):
        try:
            futures.append(executor.submit(work))
        except (
            RuntimeError
        ):  # the interpreter is shutting down, or another thread changed the number of threads
            break
    try:
        work()
    finally:
        for future in futures:
            if not future.cancel():
                future.result()


def parallel_ranges(total: int, function: Callable[[int, int], object], smallest: int = 2048) -> None:
    """Calls function(begin, end) on ranges that cover 0 ... total."""
    pieces = max(1, min(8 * get_num_threads(), total // smallest)) if get_num_threads() > 1 else 1
    parallel(pieces, lambda i: function(total * i // pieces, total * (i + 1) // pieces))
