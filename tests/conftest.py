"""Settings of every test run."""

from __future__ import annotations

import os

# libgomp reads this when it is loaded: its waiting threads must not take the cores from those that work
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


def _usable_cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(_usable_cores())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip themselves where there is no CUDA, and say so."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs CUDA, which torch does not see on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
