"""Judges what every training stands on: Python, torch, the card, gsplat, nerfstudio, and what is good to know."""

from __future__ import annotations

from gradiseg_ns.doctor.commands import GUIDE, ON_CPU, WHEELS, set_variable, short, wheels_for
from gradiseg_ns.doctor.judgement import NO_IMAGE, Check, Finding, note, ok, problem
from gradiseg_ns.doctor.machine import VIEWER_PORT, Machine
from gradiseg_ns.doctor.versions import (
    GSPLAT_VERSIONS,
    NERFSTUDIO_VERSIONS,
    NUMBA_VERSIONS,
    OLDEST_CARD,
    PYTHONS,
    dotted,
    fits,
    number_of,
    runs_on,
)

LOW_DISK = 5.0
"""GiB below which a run may not be able to save its checkpoints."""


def _python(m: Machine) -> Finding:
    found = f"{m.python} on {m.system}"
    if not PYTHONS[0] <= number_of(m.python) <= PYTHONS[1]:
        oldest, newest = map(dotted, PYTHONS)
        return note(
            f"{found}; expected {oldest} to {newest}.", f"python{newest} -m venv .venv, and install anew"
        )
    if m.system == "Windows":
        return note(f"{found}. WSL is the easier way to CUDA.", f"see {GUIDE}")
    return ok(found)


def _torch(m: Machine) -> Finding:
    if m.torch is None:
        return problem(
            f"torch cannot be imported: {m.torch_error or 'it is not installed'}.",
            "pip install --force-reinstall --no-deps torch torchvision",
        )
    card, name = m.card, f"torch {m.torch}" + (f" (CUDA {m.torch_cuda})" if m.torch_cuda else "")
    if card is None:
        return ok(f"{m.torch}, built for {f'CUDA {m.torch_cuda}' if m.torch_cuda else 'the CPU'}")
    anew = f"pip uninstall -y torch torchvision; pip install torch torchvision --index-url {WHEELS}/{wheels_for(m)}"
    if "rocm" in m.torch:
        return problem(f"{name} is built for ROCm, and gsplat's kernels are for CUDA.", ON_CPU)
    if m.torch_cuda is None:
        return problem(
            f"{name} is built without CUDA, but there is a card: {card.name}.", f"{anew}. Or {ON_CPU}"
        )
    if not m.torch_sees_card:
        if m.driver_cuda and number_of(m.driver_cuda)[0] < number_of(m.torch_cuda)[0]:
            return problem(
                f"{name} does not see {card.name}: driver {m.driver} knows CUDA up to {m.driver_cuda}.",
                f"update NVIDIA's driver. Or {anew}",
            )
        return problem(
            f"{name} does not see {card.name}{f': {m.torch_warning}' if m.torch_warning else '.'}",
            f"python -c 'import torch; torch.cuda.init()' says why; restart after an update of the driver. Or {ON_CPU}",
        )
    if card.capability and m.torch_architectures and not runs_on(m.torch_architectures, card.capability):
        return problem(
            f"{name} is built for {' '.join(m.torch_architectures)}, not for {card.name} (compute capability "
            f"{card.architecture}): its first call would end with {NO_IMAGE}.",
            anew,
        )
    return ok(f"{m.torch}, built for CUDA {m.torch_cuda}")


def _card(m: Machine) -> Finding:
    card = m.card
    if card is None:
        why = "CUDA_VISIBLE_DEVICES hides all cards" if m.hidden else "no NVIDIA card"
        return ok(f"{why}: training runs on the CPU backend")
    found = f"{card.name}, compute capability {card.architecture}, {card.memory:.0f} GiB"
    found += f", and {len(m.cards) - 1} more" if len(m.cards) > 1 else ""
    found += f", driver {m.driver}" if m.driver else ""
    found += f" (CUDA {m.driver_cuda})" if m.driver_cuda else ""
    if card.capability and card.capability < OLDEST_CARD:
        return problem(
            f"{found}; gsplat's kernels need compute capability {dotted(OLDEST_CARD)} or newer.", ON_CPU
        )
    return ok(found)


def _gsplat(m: Machine) -> Finding:
    command = f"pip install 'gsplat{GSPLAT_VERSIONS}'"
    if m.gsplat is None:
        return problem(f"gsplat is not installed; expected {GSPLAT_VERSIONS}.", command)
    if not fits(m.gsplat, GSPLAT_VERSIONS):
        found = f"gsplat {m.gsplat} is not one that works; expected {GSPLAT_VERSIONS}."
        # a CPU does without its kernels
        return problem(found, command) if m.cards else note(found, command)
    if m.prebuilt_error:
        return note(
            f"{m.gsplat}; the kernels that came with it are for another torch, it will compile its own "
            f"({m.prebuilt_error}).",
            "pip install --force-reinstall --no-deps gsplat",
        )
    return ok(m.gsplat)


def _nerfstudio(m: Machine) -> Finding:
    command = f"pip install 'nerfstudio{NERFSTUDIO_VERSIONS}'"
    if m.nerfstudio is None or not fits(m.nerfstudio, NERFSTUDIO_VERSIONS):
        found = (
            f"nerfstudio {m.nerfstudio} is not one that works"
            if m.nerfstudio
            else "nerfstudio is not installed"
        )
        return problem(f"{found}; expected {NERFSTUDIO_VERSIONS}.", command)
    return ok(m.nerfstudio)


def _numba(m: Machine) -> Finding:
    command = f"pip install 'numba{NUMBA_VERSIONS}'"
    if m.numba is None:
        found = "numba is not installed; the CPU's kernels are compiled by it."
        return note(found, command) if m.on_cuda else problem(found, command)
    if not fits(m.numba, NUMBA_VERSIONS):
        return note(f"{m.numba}; expected {NUMBA_VERSIONS}.", command)
    if not m.numba_folders:
        return note(
            f"{m.numba}; its machine code can be kept nowhere: every command compiles for half a minute.",
            set_variable(m, "NUMBA_CACHE_DIR", "a folder of yours"),
        )
    return ok(m.numba)


def _tinycudann(m: Machine) -> Finding:
    return (
        ok("there") if m.tinycudann else note("not there: nerfstudio does the same in torch. Nothing to do.")
    )


def _ffmpeg(m: Machine) -> Finding:
    command = {"Windows": "winget install ffmpeg", "Darwin": "brew install ffmpeg"}
    missing = note(
        "not there: ns-render cannot write videos.", command.get(m.system, "sudo apt-get install ffmpeg")
    )
    return ok("there") if m.ffmpeg else missing


def _viewer(m: Machine) -> Finding:
    if m.port_taken:
        return note(f"port {VIEWER_PORT} is taken: the viewer takes another, and prints which.")
    return ok(f"port {VIEWER_PORT} is free")


def _disk(m: Machine) -> Finding:
    for folder, free in m.free:
        if free < LOW_DISK:
            return note(
                f"{free:.1f} GiB free in {short(folder)}: checkpoints may not fit.", "make room there"
            )
    return ok(", ".join(f"{free:.0f} GiB free in {short(folder)}" for folder, free in m.free))


PYTHON: Check = ("Python", "system", _python)
BASIS: tuple[Check, ...] = (
    ("PyTorch", "torch", _torch), ("CUDA", "card", _card), ("gsplat", "gsplat", _gsplat),
)  # fmt: skip
REST: tuple[Check, ...] = (
    ("nerfstudio", "packages", _nerfstudio), ("numba", "packages", _numba), ("tinycudann", "packages", _tinycudann),
    ("ffmpeg", "packages", _ffmpeg), ("viewer", "port", _viewer), ("disk", "disk", _disk),
)  # fmt: skip
