"""Settings of every test run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# libgomp reads this when it is loaded: its waiting threads must not take the cores from those that work
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from torch.overrides import TorchFunctionMode

TESTS = str(Path(__file__).parent)


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


def pytest_report_header() -> str:
    where = "the CPU and CUDA" if torch.cuda.is_available() else "the CPU only: torch sees no CUDA here"
    return f"tests of every device run on {where}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that use `device` run on the CPU, and where there is a card on it too."""
    if "device" in metafunc.fixturenames:
        card = [pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else []
        metafunc.parametrize("device", ["cpu", *card], indirect=True)


class _MadeByTests(TorchFunctionMode):
    """Tensors that a test makes lie on a device. Those that the product makes are where the product puts them: a default device
    would hide the ones that it forgot. Random numbers are drawn on the CPU, and are the same everywhere."""

    MAKERS = frozenset(
        (
            torch.tensor, torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye,
            torch.rand, torch.randn, torch.randint, torch.randperm, torch.as_tensor,
        )
    )  # fmt: skip

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func not in self.MAKERS or kwargs.get("device") is not None:
            return made
        if not sys._getframe(1).f_code.co_filename.startswith(TESTS):
            return made
        return made.detach().to(self.device).requires_grad_(made.requires_grad)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the tensors are that a test makes. `pytestmark = pytest.mark.usefixtures("device")` has it for a whole file."""
    if request.param == "cpu":
        yield torch.device("cpu")
        return
    with _MadeByTests(request.param):
        yield torch.device(request.param)
