"""Large arrays that are freed and asked for again cost no new pages, unless the user has set malloc's options."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import torch
from gradiseg_ns.rendering.cpu.memory import keep_freed_memory
kept = keep_freed_memory()
def step(): torch.empty(10_000_000).fill_(1.0)
for _ in range(20): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(**environment: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_used_again() -> None:
    kept, faults = _run()
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert faults < 1000  # 10 x 40 MB are 97,656 pages


def test_the_users_malloc_options_win() -> None:
    assert _run(MALLOC_TRIM_THRESHOLD_="131072")[0] == 0
