"""Looks at gsplat's kernels: those that came with it, and those that torch compiled here."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gradiseg_ns.doctor.folders import first_of, writable
from gradiseg_ns.doctor.machine import Machine


def look_at_kernels(m: Machine) -> dict[str, Any]:
    if not m.on_cuda or m.gsplat is None:
        return {}
    found: dict[str, Any] = {}
    if m.prebuilt is not None:
        error = _load_error(m.prebuilt, "csrc", os.path.getmtime(m.prebuilt)) if m.thorough else ""
        if not error:
            return {}
        found = {"prebuilt": None, "prebuilt_error": error}
    folder = _build_folder(m)
    found |= {"build_folder": str(folder), "build_folder_writable": writable(folder)}
    kernels = first_of(*(str(folder / f"gsplat_cuda{suffix}") for suffix in (".so", ".pyd")))
    if kernels is None:
        return found
    rules = folder / "build.ninja"
    text = rules.read_text(errors="replace") if rules.exists() else ""
    nvcc = re.search(r"^nvcc = (.+)$", text, flags=re.MULTILINE)
    compiled = os.path.getmtime(kernels)
    # Loading takes seconds. Kernels that are younger than torch were compiled for it.
    try_it = m.thorough or compiled < _installed_at("torch")
    return found | {
        "kernels": kernels,
        "kernel_targets": frozenset(re.findall(r"code=((?:sm|compute)_\w+)", text)),
        "kernel_nvcc": nvcc[1].strip() if nvcc else None,
        "load_error": _load_error(kernels, "gsplat_cuda", compiled) if try_it else "",
    }


def _installed_at(package: str) -> float:
    """When a package was installed, in seconds since 1970; 0 if that is not known."""
    try:
        files = importlib.metadata.distribution(package).files or []
        record = next(f for f in files if f.name in ("RECORD", "INSTALLER"))
        return os.path.getmtime(str(record.locate()))
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError):
        return 0.0


def _build_folder(m: Machine) -> Path:
    """Where torch compiles gsplat's kernels: torch names the folder by Python's version and its own CUDA's. Not made here."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        from torch import _appdirs

        cuda = "cpu" if m.torch_cuda is None else f"cu{m.torch_cuda.replace('.', '')}"
        version = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
        root = os.path.join(
            os.path.realpath(_appdirs.user_cache_dir(appname="torch_extensions")), f"{version}_{cuda}"
        )
    return Path(root, "gsplat_cuda")


@functools.cache
def _load_error(library: str, name: str, compiled: float) -> str:
    """Why an extension cannot be loaded, or nothing. Tried in a process of its own, where it can do no harm.

    Args:
        library: its file.
        name: the module's name.
        compiled: when, in seconds; what is new is looked at again.
    """
    del compiled
    code = (
        "import sys, torch, importlib.util as u\n"
        "s = u.spec_from_file_location(sys.argv[1], sys.argv[2])\n"
        "s.loader.exec_module(u.module_from_spec(s))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, library],
        capture_output=True, text=True, errors="replace", timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    words = done.stderr.strip().splitlines()
    return words[-1] if words else f"exit code {done.returncode}"
