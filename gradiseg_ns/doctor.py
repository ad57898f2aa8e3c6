"""What a training needs of this machine: `gradiseg doctor` shows it, and a training on CUDA looks at it before it loads data.

`Machine` holds plain values, `Machine.look` collects them. What follows from them is judged by pure functions, a `Finding` each, so that
causes can be planted. Nothing here compiles. Of all that can be broken only torch is imported, and only while looking.
"""

from __future__ import annotations

import errno
import functools
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gradiseg_ns.tools.errors import GradisegError

GSPLAT_VERSIONS = ">=1.4,!=1.5.0,!=1.5.1,!=1.5.2,<1.6"
"""Versions of gsplat that work."""
NERFSTUDIO_VERSIONS = ">=1.1.5,<1.2"
NUMBA_VERSIONS = ">=0.60"
PYTHONS = ((3, 10), (3, 12))
"""Oldest and newest that nerfstudio and its dependencies are there for."""
OLDEST_CARD = (7, 0)
"""Compute capability: gsplat's kernels use what older cards do not have."""
BLACKWELL = (10, 0)
"""Compute capability from which on a toolkit must be of `BLACKWELL_TOOLKIT` or newer to compile for the card."""
BLACKWELL_TOOLKIT = (12, 8)
BLACKWELL_GSPLAT = "<1.5.3"
"""Compiled kernels that came with these are older than such cards."""
NEWEST_GCC = {(13, 0): 15, (12, 8): 14, (12, 3): 13, (12, 0): 12, (11, 5): 11}
"""Version of nvcc from which on a major version of gcc is the newest that it takes. NVIDIA's host_config.h has them."""
VIEWER_PORT = 7007
VARIABLE = "GRADISEG_DOCTOR"
"""Environment variable: `off` lets a training start without being checked."""
GUIDE = "docs/install.md"

_WHEELS = "https://download.pytorch.org/whl"
_NAMED = {
    "Volta": "7.0+PTX", "Turing": "7.5+PTX", "Ampere": "8.0;8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}  # fmt: skip
LOW_DISK = 5.0
"""GiB below which a run may not be able to save its checkpoints."""

State = Literal["ok", "note", "problem"]


class EnvironmentProblem(GradisegError):
    """This machine cannot do what is asked of it; the message has every cause and the remedy for each."""


@dataclass(frozen=True)
class Finding:
    """What one look at one thing says."""

    name: str
    state: State
    """`problem`: a training would fail. `note`: good to know."""
    found: str
    way_out: str = ""
    """What to do, with the command to type."""


@dataclass(frozen=True)
class Card:
    """An NVIDIA card."""

    name: str
    capability: tuple[int, int] | None = None
    """Compute capability; None if neither torch nor the driver says."""
    memory: float = 0.0
    """GiB"""

    @property
    def architecture(self) -> str:
        """Such as 8.6."""
        return _dotted(self.capability) if self.capability else "unknown"


@dataclass(frozen=True)
class Machine:
    """What was found, as plain values. Versions are as their programs write them; None is not there, or not looked at."""

    thorough: bool = False
    """Whether everything was looked at, or only what a training on CUDA stands on."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Probes that failed themselves, and the text of their exceptions."""

    system: str = "Linux"
    """As `platform.system`: Linux, Windows, Darwin."""
    python: str = ""

    torch: str | None = None
    torch_error: str = ""
    """Why torch cannot be imported."""
    torch_cuda: str | None = None
    """CUDA that torch is built for; None for a build without."""
    torch_architectures: tuple[str, ...] = ()
    """Such as sm_86 and compute_90."""
    torch_sees_card: bool = False
    torch_warning: str = ""
    """What torch said when it looked for a card."""

    cards: tuple[Card, ...] = ()
    """As torch numbers them, if it sees any; else as the driver does."""
    hidden: bool = False
    """Whether CUDA_VISIBLE_DEVICES hides all of them."""
    driver: str | None = None
    driver_cuda: str | None = None
    """Newest CUDA that the driver knows."""

    gsplat: str | None = None
    prebuilt: str | None = None
    """Compiled kernels that came with gsplat, and can be loaded."""
    prebuilt_error: str = ""
    """Why those that came with it cannot be loaded."""
    build_folder: str = ""
    """Where torch compiles gsplat's kernels."""
    kernels: str | None = None
    """Kernels that were compiled there."""
    kernel_targets: frozenset[str] = frozenset()
    """What they were compiled for: sm_86, compute_86. Empty if that is not known."""
    kernel_nvcc: str | None = None
    """What they were compiled with."""
    load_error: str = ""
    """Why the kernels that are there cannot be loaded."""
    build_folder_writable: bool = True

    nvcc_on_path: str | None = None
    """gsplat looks for it there."""
    nvcc: str | None = None
    """The one that torch would run."""
    nvcc_version: str | None = None
    nvcc_elsewhere: str | None = None
    """One that is installed, but not on PATH."""
    cuda_home: str | None = None
    """Where torch takes CUDA from."""
    no_cudart: bool = False
    """Whether what is linked against is missing there, as it is in PyPI's packages."""
    architectures: str | None = None
    """TORCH_CUDA_ARCH_LIST."""

    compiler: str | None = None
    """The C++ compiler that torch would run."""
    compiler_name: str = "c++"
    gcc: str | None = None
    """Version of the gcc that nvcc would run; None also if nvcc is told to run another."""
    ninja: str | None = None
    ninja_elsewhere: str | None = None
    """One that is installed, but not on PATH."""

    nerfstudio: str | None = None
    numba: str | None = None
    tinycudann: bool = False
    ffmpeg: bool = False
    port_taken: bool = False
    numba_folders: tuple[str, ...] = ()
    """Where numba may keep machine code, as far as they can be written."""
    free: tuple[tuple[str, float], ...] = ()
    """Folders that are written to, and GiB that are free there."""

    @classmethod
    def look(cls, *, thorough: bool = True) -> Machine:
        """Look at this machine. Takes seconds, most of them torch's import.

        Args:
            thorough: also at what a training on CUDA does not fail for.
        """
        machine = cls(thorough=thorough)
        for name, probe in (PROBES if thorough else CUDA_PROBES).items():
            try:
                machine = replace(machine, **probe(machine))
            except Exception as error:  # whatever it is: the doctor has to go on
                failures = {**machine.failures, name: f"{type(error).__name__}: {error}"}
                machine = replace(machine, failures=failures)
        return machine

    @property
    def card(self) -> Card | None:
        """The card that a training would run on."""
        return self.cards[0] if self.cards else None

    @property
    def on_cuda(self) -> bool:
        """Whether torch can use a card."""
        return bool(self.cards and self.torch_cuda and self.torch_sees_card)

    @property
    def compiles(self) -> bool:
        """Whether gsplat's kernels are those that torch compiles."""
        return self.prebuilt is None

    @property
    def targets(self) -> frozenset[str]:
        """What torch would compile for, as nvcc's names; empty where that is not known."""
        if self.architectures and self.architectures != "native":
            listed = _architectures_of(self.architectures)
        else:
            known = sorted(_number(name) for name in self.torch_architectures if name.startswith("sm_"))
            own = {_dotted(min(c.capability, known[-1])) for c in self.cards if c.capability and known}
            listed = [(entry, entry == max(own)) for entry in own]  # torch: PTX for the largest, as a text
        found = set()
        for entry, also_ptx in listed:
            found.add(f"sm_{entry.replace('.', '')}")
            if also_ptx:
                found.add(f"compute_{entry.replace('.', '')}")
        return frozenset(found)

    @property
    def current(self) -> bool:
        """Whether the kernels that were compiled are those that would be compiled now, and can be loaded."""
        if self.kernels is None or self.load_error:
            return False
        same_targets = not self.kernel_targets or not self.targets or self.kernel_targets == self.targets
        same_nvcc = not self.kernel_nvcc or not self.nvcc or self.kernel_nvcc == self.nvcc
        return same_targets and same_nvcc


# ------------------------------------------------------------------------------------------------------------- judging


def _ok(found: str) -> Finding:
    return Finding("", "ok", found)


def _note(found: str, way_out: str = "") -> Finding:
    return Finding("", "note", found, way_out)


def _problem(found: str, way_out: str) -> Finding:
    return Finding("", "problem", found, way_out)


_NOT_NEEDED = _ok("not needed: compiled kernels came with gsplat")
_NO_IMAGE = "'no kernel image is available for execution on the device'"
_ON_CPU = "train on the CPU: --machine.device-type cpu"


def _python(m: Machine) -> Finding:
    found = f"{m.python} on {m.system}"
    if not PYTHONS[0] <= _number(m.python) <= PYTHONS[1]:
        oldest, newest = map(_dotted, PYTHONS)
        return _note(
            f"{found}; expected {oldest} to {newest}.", f"python{newest} -m venv .venv, and install anew"
        )
    if m.system == "Windows":
        return _note(f"{found}. WSL is the easier way to CUDA.", f"see {GUIDE}")
    return _ok(found)


def _torch(m: Machine) -> Finding:
    if m.torch is None:
        return _problem(
            f"torch cannot be imported: {m.torch_error or 'it is not installed'}.",
            "pip install --force-reinstall --no-deps torch torchvision",
        )
    card, name = m.card, f"torch {m.torch}" + (f" (CUDA {m.torch_cuda})" if m.torch_cuda else "")
    if card is None:
        return _ok(f"{m.torch}, built for {f'CUDA {m.torch_cuda}' if m.torch_cuda else 'the CPU'}")
    anew = f"pip uninstall -y torch torchvision; pip install torch torchvision --index-url {_WHEELS}/{_wheels(m)}"
    if "rocm" in m.torch:
        return _problem(f"{name} is built for ROCm, and gsplat's kernels are for CUDA.", _ON_CPU)
    if m.torch_cuda is None:
        return _problem(
            f"{name} is built without CUDA, but there is a card: {card.name}.", f"{anew}. Or {_ON_CPU}"
        )
    if not m.torch_sees_card:
        if m.driver_cuda and _number(m.driver_cuda)[0] < _number(m.torch_cuda)[0]:
            return _problem(
                f"{name} does not see {card.name}: driver {m.driver} knows CUDA up to {m.driver_cuda}.",
                f"update NVIDIA's driver. Or {anew}",
            )
        return _problem(
            f"{name} does not see {card.name}{f': {m.torch_warning}' if m.torch_warning else '.'}",
            f"python -c 'import torch; torch.cuda.init()' says why; restart after an update of the driver. Or {_ON_CPU}",
        )
    if card.capability and m.torch_architectures and not _runs_on(m.torch_architectures, card.capability):
        return _problem(
            f"{name} is built for {_listed(m.torch_architectures)}, not for {card.name} (compute capability "
            f"{card.architecture}): its first call would end with {_NO_IMAGE}.",
            anew,
        )
    return _ok(f"{m.torch}, built for CUDA {m.torch_cuda}")


def _card(m: Machine) -> Finding:
    card = m.card
    if card is None:
        why = "CUDA_VISIBLE_DEVICES hides all cards" if m.hidden else "no NVIDIA card"
        return _ok(f"{why}: training runs on the CPU backend")
    found = f"{card.name}, compute capability {card.architecture}, {card.memory:.0f} GiB"
    found += f", and {len(m.cards) - 1} more" if len(m.cards) > 1 else ""
    found += f", driver {m.driver}" if m.driver else ""
    found += f" (CUDA {m.driver_cuda})" if m.driver_cuda else ""
    if card.capability and card.capability < OLDEST_CARD:
        return _problem(
            f"{found}; gsplat's kernels need compute capability {_dotted(OLDEST_CARD)} or newer.", _ON_CPU
        )
    return _ok(found)


def _gsplat(m: Machine) -> Finding:
    command = f"pip install 'gsplat{GSPLAT_VERSIONS}'"
    if m.gsplat is None:
        return _problem(f"gsplat is not installed; expected {GSPLAT_VERSIONS}.", command)
    if not _fits(m.gsplat, GSPLAT_VERSIONS):
        found = f"gsplat {m.gsplat} is not one that works; expected {GSPLAT_VERSIONS}."
        # a CPU does without its kernels
        return _problem(found, command) if m.cards else _note(found, command)
    if m.prebuilt_error:
        return _note(
            f"{m.gsplat}; the kernels that came with it are for another torch, it will compile its own "
            f"({m.prebuilt_error}).",
            "pip install --force-reinstall --no-deps gsplat",
        )
    return _ok(m.gsplat)


def _kernels(m: Machine) -> Finding:
    card, folder = m.card, _short(m.build_folder)
    if not m.compiles:
        version = m.gsplat or ""
        made_with = re.search(r"\+.*cu(\d\d)(\d)", version)  # 1.4.0+pt24cu124
        toolkit = (int(made_with[1]), int(made_with[2])) if made_with else BLACKWELL_TOOLKIT
        blackwell = card is not None and card.capability is not None and card.capability >= BLACKWELL
        if card and blackwell and toolkit < BLACKWELL_TOOLKIT and _fits(version, BLACKWELL_GSPLAT):
            return _problem(
                f"gsplat {version} came with kernels of CUDA {_dotted(toolkit)}, which are not for {card.name} (compute "
                f"capability {card.architecture}).",
                f"pip install --force-reinstall --no-deps gsplat=={version.split('+')[0]}, which compiles them here with nvcc "
                f"{_dotted(BLACKWELL_TOOLKIT)} or newer",
            )
        return _ok("came with gsplat, compiled")
    if m.load_error:
        return _problem(
            f"gsplat's kernels in {folder} were compiled for another torch and cannot be loaded: {m.load_error}.",
            f"delete that folder, they are compiled again: {_delete(m)}",
        )
    old, wanted = _listed(sorted(m.kernel_targets)), _listed(sorted(m.targets)) or "the card"
    if m.current:
        return _ok(f"compiled for {old or 'this card'}, in {folder}")
    if not m.build_folder_writable:
        return _problem(
            f"gsplat's kernels have to be compiled, and {folder} cannot be written.",
            _set(m, "TORCH_EXTENSIONS_DIR", "a folder of yours"),
        )
    if m.kernels is not None:
        return _note(
            f"compiled for {old} with {m.kernel_nvcc}; the first use compiles them again for {wanted} with {m.nvcc}: "
            "some minutes."
        )
    return _note(f"not compiled yet: the first use does it, for {wanted}. Some minutes, once.")


def _nvcc(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    card, cuda = m.card, m.torch_cuda or ""
    fails = (
        "gsplat goes on without its kernels then, and minutes later training ends with 'NoneType' object has no attribute "
        "'CameraModelType'"
    )
    if m.nvcc_on_path is None and m.nvcc_elsewhere is not None:
        return _problem(
            f"nvcc is not on PATH but in {_short(m.nvcc_elsewhere)}. {fails}.",
            _set_toolkit(m, Path(m.nvcc_elsewhere).parent.parent),
        )
    if m.nvcc_on_path is None:
        return _problem(
            f"there is no nvcc, and no compiled kernels came with gsplat. {fails}.",
            f"{_get_toolkit(m, cuda)} ({GUIDE} has other ways)",
        )
    if m.nvcc is None:
        return _problem(
            f"CUDA_HOME is {m.cuda_home}, which has no bin/nvcc; the nvcc on PATH is {_short(m.nvcc_on_path)}.",
            _set_toolkit(m, Path(m.nvcc_on_path).parent.parent),
        )
    found = f"{m.nvcc_version or 'of unknown version'}, {_short(m.nvcc)}"
    if not m.nvcc_version or not cuda:
        return _ok(found)
    version = _number(m.nvcc_version)
    if version[0] != _number(cuda)[0]:
        differs = f"nvcc {m.nvcc_version} is {'older' if version < _number(cuda) else 'newer'} than torch's CUDA {cuda}"
        if m.current:
            return _note(f"{differs} ({_short(m.nvcc)}), but what it has compiled can be loaded.")
        return _problem(
            f"{differs} ({_short(m.nvcc)}): what it compiles does not fit torch. pip says 'The detected CUDA version "
            "mismatches'.",
            _get_toolkit(m, cuda),
        )
    if card and card.capability and card.capability >= BLACKWELL and version < BLACKWELL_TOOLKIT:
        needed = _dotted(BLACKWELL_TOOLKIT)
        return _problem(
            f"nvcc {m.nvcc_version} cannot compile for {card.name} (compute capability {card.architecture}): expected "
            f"{needed} or newer.",
            _get_toolkit(m, needed),
        )
    if m.no_cudart and not m.current:
        return _problem(
            f"nvcc {found} is PyPI's, and libcudart.so is missing beside it: linking ends with 'cannot find -lcudart'.",
            f"ln -s libcudart.so.{version[0]} {_short(str(Path(m.cuda_home or '', 'lib', 'libcudart.so')))}",
        )
    if version != _number(cuda):
        return _note(f"{found}; torch has CUDA {cuda}. The same major version is enough.")
    return _ok(found)


def _compiler(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    judge = _note if m.current else _problem  # what is compiled already stays as it is
    if m.compiler is None and m.system == "Windows":
        return judge(
            f"{m.compiler_name} is not on PATH: gsplat's kernels cannot be compiled.",
            "install Visual Studio's build tools for C++ and start from the 'x64 Native Tools Command Prompt', or use WSL",
        )
    if m.compiler is None:
        return judge(
            f"there is no {m.compiler_name}: gsplat's kernels cannot be compiled.", "sudo apt-get install g++"
        )
    # an nvcc that does not fit torch is replaced first
    fits = m.nvcc_version and m.torch_cuda and _number(m.nvcc_version)[0] == _number(m.torch_cuda)[0]
    newest = _newest_gcc(_number(m.nvcc_version)) if m.nvcc_version and fits else None
    if m.gcc and newest is not None and _number(m.gcc)[0] > newest:
        return judge(
            f"gcc {m.gcc} is too new for nvcc {m.nvcc_version}, which takes {newest} at most: 'unsupported GNU version'.",
            f"sudo apt-get install g++-{newest}; export CC=gcc-{newest} CXX=g++-{newest}",
        )
    return _ok(f"{_short(m.compiler)}{f', gcc {m.gcc}' if m.gcc else ''}")


def _ninja(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    if m.ninja is not None:
        return _ok(_short(m.ninja))
    if m.ninja_elsewhere is not None:
        folder = _short(str(Path(m.ninja_elsewhere).parent))
        return _problem(
            f"ninja is in {folder}, which is not on PATH; torch builds with it.", f"source {folder}/activate"
        )
    return _problem("there is no ninja; torch builds with it.", "pip install ninja")


def _arch_list(m: Machine) -> Finding:
    card, variable = m.card, "TORCH_CUDA_ARCH_LIST"
    if not m.compiles:
        return _NOT_NEEDED
    if not m.architectures or m.architectures == "native":
        return _ok(f"{variable} is not set: {_listed(sorted(m.targets)) or 'as the card wants it'}")
    own = card.architecture if card and card.capability else "8.6"
    unknown = [e for e, _ in _architectures_of(m.architectures) if not re.fullmatch(r"\d+\.\d+[af]?", e)]
    if unknown:
        return _problem(
            f"{variable} is '{m.architectures}', and torch does not know '{unknown[0]}'; expected such as {own}.",
            _set(m, variable, own),
        )
    if card and card.capability and not _runs_on(m.targets, card.capability):
        return _problem(
            f"{variable} is '{m.architectures}' and leaves out {card.name} ({own}): {_NO_IMAGE}.",
            f"{_set(m, variable, own)}, or unset it",
        )
    return _ok(f"{variable} is {m.architectures}")


def _nerfstudio(m: Machine) -> Finding:
    command = f"pip install 'nerfstudio{NERFSTUDIO_VERSIONS}'"
    if m.nerfstudio is None or not _fits(m.nerfstudio, NERFSTUDIO_VERSIONS):
        found = (
            f"nerfstudio {m.nerfstudio} is not one that works"
            if m.nerfstudio
            else "nerfstudio is not installed"
        )
        return _problem(f"{found}; expected {NERFSTUDIO_VERSIONS}.", command)
    return _ok(m.nerfstudio)


def _numba(m: Machine) -> Finding:
    command = f"pip install 'numba{NUMBA_VERSIONS}'"
    if m.numba is None:
        found = "numba is not installed; the CPU's kernels are compiled by it."
        return _note(found, command) if m.on_cuda else _problem(found, command)
    if not _fits(m.numba, NUMBA_VERSIONS):
        return _note(f"{m.numba}; expected {NUMBA_VERSIONS}.", command)
    if not m.numba_folders:
        return _note(
            f"{m.numba}; its machine code can be kept nowhere: every command compiles for half a minute.",
            _set(m, "NUMBA_CACHE_DIR", "a folder of yours"),
        )
    return _ok(m.numba)


def _tinycudann(m: Machine) -> Finding:
    return (
        _ok("there")
        if m.tinycudann
        else _note("not there: nerfstudio does the same in torch. Nothing to do.")
    )


def _ffmpeg(m: Machine) -> Finding:
    command = {"Windows": "winget install ffmpeg", "Darwin": "brew install ffmpeg"}
    missing = _note(
        "not there: ns-render cannot write videos.", command.get(m.system, "sudo apt-get install ffmpeg")
    )
    return _ok("there") if m.ffmpeg else missing


def _viewer(m: Machine) -> Finding:
    if m.port_taken:
        return _note(f"port {VIEWER_PORT} is taken: the viewer takes another, and prints which.")
    return _ok(f"port {VIEWER_PORT} is free")


def _disk(m: Machine) -> Finding:
    for folder, free in m.free:
        if free < LOW_DISK:
            return _note(
                f"{free:.1f} GiB free in {_short(folder)}: checkpoints may not fit.", "make room there"
            )
    return _ok(", ".join(f"{free:.0f} GiB free in {_short(folder)}" for folder, free in m.free))


Check = tuple[str, str, Callable[[Machine], Finding]]
"""Name of what is looked at, the probe that looks, and who judges."""

_BASIS: tuple[Check, ...] = (
    ("PyTorch", "torch", _torch), ("CUDA", "card", _card), ("gsplat", "gsplat", _gsplat),
)  # fmt: skip
_BUILD: tuple[Check, ...] = (
    ("kernels", "kernels", _kernels), ("nvcc", "toolkit", _nvcc), ("C++ compiler", "compiler", _compiler),
    ("ninja", "compiler", _ninja), ("architectures", "toolkit", _arch_list),
)  # fmt: skip
"""What gsplat's kernels need, where torch can use a card."""
_REST: tuple[Check, ...] = (
    ("nerfstudio", "packages", _nerfstudio), ("numba", "packages", _numba), ("tinycudann", "packages", _tinycudann),
    ("ffmpeg", "packages", _ffmpeg), ("viewer", "port", _viewer), ("disk", "disk", _disk),
)  # fmt: skip


def _judge(m: Machine, checks: tuple[Check, ...]) -> list[Finding]:
    findings = []
    for name, probe, check in checks:
        if probe in m.failures:
            finding = _note(f"could not be looked at: {m.failures[probe]}")
        else:
            try:
                finding = check(m)
            except Exception as error:  # the doctor has to go on
                finding = _note(f"could not be judged: {type(error).__name__}: {error}")
        findings.append(replace(finding, name=name))
    return findings


def examine_cuda(m: Machine) -> list[Finding]:
    """What a training on CUDA stands on. Without a card there is nothing of it, and no problem."""
    return _judge(m, _BASIS + (_BUILD if m.on_cuda else ())) if m.cards else []


def examine(m: Machine) -> list[Finding]:
    """Everything, in the order in which it is shown."""
    return _judge(m, (("Python", "system", _python), *_BASIS, *(_BUILD if m.on_cuda else ()), *_REST))


def verdict(m: Machine, findings: list[Finding]) -> tuple[str, int]:
    """What will happen if a training is started now, and the exit code: 1 if it would fail."""
    wrong = [f.name for f in findings if f.state == "problem"]
    if wrong:
        sentence = f"A training started now would fail, because of: {', '.join(wrong)}."
        only_cuda = (
            m.cards and m.torch and m.gsplat and not {name for name, _, _ in _REST}.intersection(wrong)
        )
        return sentence + (" On the CPU it would run: --machine.device-type cpu." if only_cuda else ""), 1
    if not m.on_cuda or m.card is None:
        return "A training started now runs on the CPU; gradiseg-lite is made for that.", 0
    first = (
        "first compiles gsplat's kernels, for some minutes, and then " if m.compiles and not m.current else ""
    )
    return f"A training started now {first}runs on {m.card.name}.", 0


def check_training(device: str) -> None:
    """Raise what would break a training on a device. Meant for before data are loaded: takes a fraction of a second, and for a
    CPU, or where GRADISEG_DOCTOR is `off`, nothing.

    Args:
        device: a device type as nerfstudio names them: cuda, cpu, mps.

    Raises:
        EnvironmentProblem: there is a card, and a training on it would fail.
    """
    if device != "cuda" or os.environ.get(VARIABLE, "").lower() in ("off", "0"):
        return
    problems = [f for f in examine_cuda(Machine.look(thorough=False)) if f.state == "problem"]
    if problems:
        causes = "\n".join(f"- {f.name}: {f.found}\n  What to do: {f.way_out}" for f in problems)
        raise EnvironmentProblem(
            f"this machine cannot train on CUDA as it is.\n{causes}\n"
            f"`gradiseg doctor` shows everything, {GUIDE} explains it. --machine.device-type cpu trains on the CPU; "
            f"{VARIABLE}=off trains without this check."
        )


@dataclass
class Doctor:
    """Look at this machine: what is there, what is missing, and what happens if a training is started.

    The exit code is 1 if it would fail. Nothing is compiled or changed.
    """

    def main(self) -> None:
        machine = Machine.look()
        findings = examine(machine)
        sentence, code = verdict(machine, findings)
        show(findings, sentence)
        if code:
            sys.exit(code)


def show(findings: list[Finding], sentence: str) -> None:
    """Print a table of findings, and a last sentence."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column("state", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("found", overflow="fold")
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    for f in findings:
        mark = f.state.upper() if f.state == "problem" else f.state
        text = Text(f"{f.found}\n> {f.way_out}" if f.way_out else f.found)
        table.add_row(Text(mark, style=styles[f.state]), f.name, text)
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(sentence, style="bold"))


# ------------------------------------------------------------------------------------------------------------- looking


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
    program = shutil.which("nvidia-smi") or _first("/usr/lib/wsl/lib/nvidia-smi")
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
            _number(capability) if re.fullmatch(r"\d+\.\d+", capability) else None,
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
    return {"gsplat": _version_of("gsplat"), "prebuilt": prebuilt[0] if prebuilt else None}


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
        home = _first(*usual)
    program = "nvcc.exe" if m.system == "Windows" else "nvcc"
    nvcc = _first(str(Path(home, "bin", program))) if home else None
    version = re.search(r"release (\d+\.\d+)", _output(nvcc, "--version")) if nvcc else None
    packages = [p for folder in sys.path for p in Path(folder or ".").glob(f"nvidia/*/bin/{program}")]
    elsewhere = nvcc or _first(*(str(Path(folder, "bin", program)) for folder in usual), *map(str, packages))
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
    beside = _first(*(str(Path(sys.executable).parent / file) for file in ("ninja", "ninja.exe")))
    ninja = shutil.which("ninja")
    return {
        "compiler": compiler,
        "compiler_name": "cl.exe" if name == "cl" else name,
        "gcc": gcc,
        "ninja": ninja,
        "ninja_elsewhere": beside if ninja is None else None,
    }


def _look_at_kernels(m: Machine) -> dict[str, Any]:
    if not m.on_cuda or m.gsplat is None:
        return {}
    found: dict[str, Any] = {}
    if m.prebuilt is not None:
        error = _load_error(m.prebuilt, "csrc", os.path.getmtime(m.prebuilt)) if m.thorough else ""
        if not error:
            return {}
        found = {"prebuilt": None, "prebuilt_error": error}
    folder = _build_folder(m)
    found |= {"build_folder": str(folder), "build_folder_writable": _writable(folder)}
    kernels = _first(*(str(folder / f"gsplat_cuda{suffix}") for suffix in (".so", ".pyd")))
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


def _look_at_packages(m: Machine) -> dict[str, Any]:
    del m
    return {
        "nerfstudio": _version_of("nerfstudio"),
        "numba": _version_of("numba"),
        "tinycudann": importlib.util.find_spec("tinycudann") is not None,
        "ffmpeg": shutil.which("ffmpeg") is not None,
        "numba_folders": _numba_folders(),
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
        folders.append(_there(Path(m.build_folder)))
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
    "kernels": _look_at_kernels,
}
PROBES: dict[str, Probe] = {
    **CUDA_PROBES, "packages": _look_at_packages, "port": _look_at_port, "disk": _look_at_disk
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- helpers


def _number(version: str) -> tuple[int, int]:
    """The first two numbers: 12.8 is (12, 8), 13 is (13, 0); sm_86 and compute_86 are (8, 6)."""
    if version.startswith(("sm_", "compute_")):
        digits = re.sub(r"\D", "", version)
        return int(digits[:-1]), int(digits[-1])
    first, second, *_ = *re.findall(r"\d+", version), "0"
    return int(first), int(second)


def _dotted(number: tuple[int, ...]) -> str:
    return ".".join(map(str, number))


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def _architectures_of(text: str) -> list[tuple[str, bool]]:
    """The entries of a TORCH_CUDA_ARCH_LIST, such as 8.6, and whether each has +PTX. As torch reads it: names of families go too."""
    for name, entries in _NAMED.items():
        text = text.replace(name, entries)
    entries = [e for e in re.split(r"[ ;]", text) if e]
    return [(e.removesuffix("+PTX"), e.endswith("+PTX")) for e in entries]


def _runs_on(architectures: tuple[str, ...] | frozenset[str], capability: tuple[int, int]) -> bool:
    """Whether a card runs what is compiled for these: code of its own major version that is not newer, or PTX that is not newer."""
    for name in architectures:
        number = _number(name)
        if name.startswith("compute_") and number <= capability:
            return True
        own = number == capability if name[-1].isalpha() else number <= capability
        if name.startswith("sm_") and number[0] == capability[0] and own:
            return True
    return False


def _newest_gcc(nvcc: tuple[int, ...]) -> int | None:
    """Newest major version of gcc for an nvcc; None where that is not known."""
    if nvcc > max(NEWEST_GCC):
        return None
    return next((gcc for since, gcc in NEWEST_GCC.items() if nvcc >= since), None)


def _wheels(m: Machine) -> str:
    """Which of torch's indexes for pip suits the driver and the card."""
    capability = m.card.capability if m.card else None
    if capability is not None and capability < (7, 5):
        return "cu126"
    known = _number(m.driver_cuda) if m.driver_cuda else (12, 8)
    return "cu130" if known[0] >= 13 else "cu128" if known[0] == 12 else "cu118"


def _listed(names: Any) -> str:
    return " ".join(names)


def _set(m: Machine, variable: str, value: str) -> str:
    """The command that sets an environment variable."""
    value = f'"{value}"' if " " in value else value
    return f"set {variable}={value}" if m.system == "Windows" else f"export {variable}={value}"


def _get_toolkit(m: Machine, version: str) -> str:
    """What to do for another version of NVIDIA's toolkit."""
    if m.system == "Windows":
        home = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA", f"v{version}")
        return f"install NVIDIA's CUDA toolkit {version}, or use WSL; {_set_toolkit(m, home)}"
    install = f"sudo apt-get install cuda-toolkit-{version.replace('.', '-')}"
    return f"{install}; {_set_toolkit(m, Path(f'/usr/local/cuda-{version}'))}"


def _set_toolkit(m: Machine, home: Path) -> str:
    if m.system == "Windows":
        return rf"set CUDA_HOME={home} & set PATH={home}\bin;%PATH%"
    return f"export CUDA_HOME={_short(str(home))} PATH={_short(str(home))}/bin:$PATH"


def _delete(m: Machine) -> str:
    return f'rmdir /s "{m.build_folder}"' if m.system == "Windows" else f"rm -r {_short(m.build_folder)}"


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path


def _first(*paths: str) -> str | None:
    """The first of some paths that exists."""
    return next((p for p in paths if os.path.exists(p)), None)


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


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed_at(package: str) -> float:
    """When a package was installed, in seconds since 1970; 0 if that is not known."""
    try:
        files = importlib.metadata.distribution(package).files or []
        record = next(f for f in files if f.name in ("RECORD", "INSTALLER"))
        return os.path.getmtime(str(record.locate()))
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError):
        return 0.0


def _usual_toolkits(system: str) -> list[str]:
    if system == "Windows":
        folder = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA")
        return [str(p) for p in sorted(folder.glob("v*.*"))]
    return ["/usr/local/cuda", *(str(p) for p in sorted(Path("/usr/local").glob("cuda-*"), reverse=True))]


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


def _there(folder: Path) -> Path:
    """A folder, or the nearest above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _writable(folder: Path) -> bool:
    return os.access(_there(folder), os.W_OK)


def _numba_folders() -> tuple[str, ...]:
    """Where numba may keep the kernels' machine code, of what can be written: where it is told to, beside the source, the user's."""
    told = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(__file__).parent / "rendering" / "cpu" / "__pycache__"
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    folders = [Path(told)] if told else [beside, users]
    return tuple(str(f) for f in folders if _writable(f))
