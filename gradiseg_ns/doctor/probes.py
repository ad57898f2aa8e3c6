"""Looks at this machine, a probe a thing. Of all that can be broken only torch is imported."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradiseg_ns.doctor.built_kernels import look_at_kernels
from gradiseg_ns.doctor.folders import first_of, nearest, numba_folders
from gradiseg_ns.doctor.machine import VIEWER_PORT, Card, Machine
from gradiseg_ns.doctor.versions import number_of


def _look_at_system(m: Machine) -> dict[str, Any]:
    del m
    release = platform.release()
    wsl = " (WSL)" if "microsoft" in release.lower() else ""
    return {"system": platform.system() or sys.platform, "python": f"{platform.python_version()}{wsl}"}


def _look_at_torch(m: Machine) -> dict[str, Any]:
    del m
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch
        except (ImportError, OSError) as error:
            return {"torch_error": f"{type(error).__name__}: {error}"}
        sees = torch.cuda.is_available()
    said = [str(w.message).splitlines()[0] for w in caught if "cuda" in str(w.message).lower()]
    cards = []
    if sees:
        for i in range(torch.cuda.device_count()):
            it = torch.cuda.get_device_properties(i)
            cards.append(Card(it.name, (it.major, it.minor), it.total_memory / 2**30))
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_architectures": tuple(torch.cuda.get_arch_list()) if sees else (),
        "torch_sees_card": sees,
        "torch_warning": said[-1] if said else "",
        "cards": tuple(cards),
    }


def _look_at_card(m: Machine) -> dict[str, Any]:
    """The driver's view, for what torch does not see or say."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if hidden:
        return {"hidden": True, "cards": ()}
    if m.cards and not m.thorough:
        return {}
    program = shutil.which("nvidia-smi") or first_of("/usr/lib/wsl/lib/nvidia-smi")
    if program is None:
        return {}
    try:
        known = re.search(r"CUDA Version:\s*([\d.]+)", _output(program))
        rows = _ask_driver(program, "name,driver_version,memory.total,compute_cap")
    except RuntimeError:
        if m.cards:  # torch has said the most of it
            return {}
        known, rows = None, [[*row, ""] for row in _ask_driver(program, "name,driver_version,memory.total")]
    cards = [
        Card(
            name,
            number_of(capability) if re.fullmatch(r"\d+\.\d+", capability) else None,
            float(memory) / 1024 if re.fullmatch(r"[\d.]+", memory) else 0.0,
        )
        for name, _, memory, capability in rows
    ]
    return {
        "driver": rows[0][1] if rows else None,
        "driver_cuda": known[1] if known else None,
        "cards": m.cards or tuple(cards),
    }


def _look_at_gsplat(m: Machine) -> dict[str, Any]:
    del m
    specification = importlib.util.find_spec("gsplat")
    if specification is None or specification.origin is None:
        return {}
    folder = Path(specification.origin).parent
    prebuilt = [str(p) for pattern in ("csrc*.so", "csrc*.pyd") for p in folder.glob(pattern)]
    return {"gsplat": version_of("gsplat"), "prebuilt": prebuilt[0] if prebuilt else None}


def _look_at_toolkit(m: Machine) -> dict[str, Any]:
    """nvcc as gsplat and as torch look for it: the one on PATH, the other in CUDA_HOME first."""
    if not m.cards:
        return {}
    on_path = shutil.which("nvcc")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    usual = _usual_toolkits(m.system)
    if not home and on_path:
        home = str(Path(on_path).parent.parent)
    elif not home:
        home = first_of(*usual)
    program = "nvcc.exe" if m.system == "Windows" else "nvcc"
    nvcc = first_of(str(Path(home, "bin", program))) if home else None
    version = re.search(r"release (\d+\.\d+)", _output(nvcc, "--version")) if nvcc else None
    packages = [p for folder in sys.path for p in Path(folder or ".").glob(f"nvidia/*/bin/{program}")]
    elsewhere = nvcc or first_of(
        *(str(Path(folder, "bin", program)) for folder in usual), *map(str, packages)
    )
    from_pypi = nvcc is not None and Path(nvcc).parent.parent.parent.name == "nvidia"
    libraries = [Path(home or "", name, "libcudart.so") for name in ("lib64", "lib")]
    return {
        "nvcc_on_path": on_path,
        "nvcc": nvcc,
        "nvcc_version": version[1] if version else None,
        "nvcc_elsewhere": elsewhere if on_path is None else None,
        "cuda_home": home,
        "no_cudart": m.system == "Linux" and from_pypi and not any(p.exists() for p in libraries),
        "architectures": os.environ.get("TORCH_CUDA_ARCH_LIST") or None,
    }


def _look_at_compiler(m: Machine) -> dict[str, Any]:
    if not m.cards:
        return {}
    windows = m.system == "Windows"
    name = os.environ.get("CXX") or ("cl" if windows else "c++")
    compiler = shutil.which(name.split()[-1])
    gcc = None
    told = "NVCC_PREPEND_FLAGS" in os.environ or "NVCC_APPEND_FLAGS" in os.environ
    host = shutil.which(os.environ.get("CC") or "gcc")
    if not windows and not told and host and "clang" not in _output(host, "--version").lower():
        gcc = _output(host, "-dumpfullversion", "-dumpversion").strip() or None
    if not windows and name == "c++" and gcc and shutil.which("g++") is None and not os.environ.get("CC"):
        compiler, name = None, "g++"  # nvcc's
    beside = first_of(*(str(Path(sys.executable).parent / file) for file in ("ninja", "ninja.exe")))
    ninja = shutil.which("ninja")
    return {
        "compiler": compiler,
        "compiler_name": "cl.exe" if name == "cl" else name,
        "gcc": gcc,
        "ninja": ninja,
        "ninja_elsewhere": beside if ninja is None else None,
    }


def _look_at_packages(m: Machine) -> dict[str, Any]:
    del m
    return {
        "nerfstudio": version_of("nerfstudio"),
        "numba": version_of("numba"),
        "tinycudann": importlib.util.find_spec("tinycudann") is not None,
        "ffmpeg": shutil.which("ffmpeg") is not None,
        "numba_folders": numba_folders(),
    }


def _look_at_port(m: Machine) -> dict[str, Any]:
    del m
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", VIEWER_PORT))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return {"port_taken": True}
    return {}


def _look_at_disk(m: Machine) -> dict[str, Any]:
    folders = [Path.cwd()]
    if m.build_folder:
        folders.append(nearest(Path(m.build_folder)))
    return {"free": tuple((str(f), shutil.disk_usage(f).free / 2**30) for f in dict.fromkeys(folders))}


Probe = Callable[[Machine], dict[str, Any]]
"""Looks at one thing, given what is known so far; returns fields of `Machine`."""
CUDA_PROBES: dict[str, Probe] = {
    "system": _look_at_system,
    "torch": _look_at_torch,
    "card": _look_at_card,
    "gsplat": _look_at_gsplat,
    "toolkit": _look_at_toolkit,
    "compiler": _look_at_compiler,
    "kernels": look_at_kernels,
}
PROBES: dict[str, Probe] = {
    **CUDA_PROBES, "packages": _look_at_packages, "port": _look_at_port, "disk": _look_at_disk
}  # fmt: skip


def _output(*command: str, seconds: float = 30.0) -> str:
    """What a program prints.

    Raises:
        RuntimeError: it fails; with its first words.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds, stdin=subprocess.DEVNULL
    )  # fmt: skip
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise RuntimeError(f"{command[0]}: {words[0] if words else f'exit code {done.returncode}'}")
    return done.stdout


def _ask_driver(program: str, what: str) -> list[list[str]]:
    """A row of texts for each card."""
    lines = _output(program, f"--query-gpu={what}", "--format=csv,noheader,nounits").splitlines()
    return [[part.strip() for part in line.split(",")] for line in lines if line.strip()]


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usual_toolkits(system: str) -> list[str]:
    if system == "Windows":
        folder = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA")
        return [str(p) for p in sorted(folder.glob("v*.*"))]
    return ["/usr/local/cuda", *(str(p) for p in sorted(Path("/usr/local").glob("cuda-*"), reverse=True))]


def look(*, thorough: bool = True) -> Machine:
    """Look at this machine. Takes seconds, most of them torch's import.

    Args:
        thorough: also at what a training on CUDA does not fail for.
    """
    machine = Machine(thorough=thorough)
    for name, probe in (PROBES if thorough else CUDA_PROBES).items():
        try:
            machine = replace(machine, **probe(machine))
        except Exception as error:  # whatever it is: the doctor has to go on
            failures = {**machine.failures, name: f"{type(error).__name__}: {error}"}
            machine = replace(machine, failures=failures)
    return machine
