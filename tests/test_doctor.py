"""`gradiseg doctor` and the check before a training: planted causes, and this machine as it is."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradiseg_ns import doctor
from gradiseg_ns.doctor import (
    Card,
    EnvironmentProblem,
    Finding,
    Machine,
    base_checks,
    built_kernels,
    check_training,
    examine,
    examining,
    folders,
    probes,
    verdict,
    versions,
)

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}
SCREENS = 2 * 24
"""Lines of two screens."""

ADA = Card("NVIDIA GeForce RTX 4090", (8, 9), 24.0)
BLACKWELL = Card("NVIDIA GeForce RTX 5090", (12, 0), 32.0)
FOLDER = "/home/me/.cache/torch_extensions/py311_cu128/gsplat_cuda"
SM_89 = frozenset({"sm_89", "compute_89"})
CPU = Machine(
    thorough=True, python="3.11.7", torch="2.8.0+cpu", gsplat="1.4.0", nerfstudio="1.1.5", numba="0.61.0",
    tinycudann=True, ffmpeg=True, numba_folders=("/home/me/.cache/numba",), free=(("/home/me", 100.0),),
)  # fmt: skip
CUDA = dataclasses.replace(
    CPU, torch="2.8.0+cu128", torch_cuda="12.8", torch_sees_card=True, cards=(ADA,), driver="570.86", driver_cuda="12.8",
    torch_architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    build_folder=FOLDER, kernels=f"{FOLDER}/gsplat_cuda.so", kernel_targets=frozenset({"sm_89", "compute_89"}),
    kernel_nvcc="/usr/local/cuda-12.8/bin/nvcc", nvcc="/usr/local/cuda-12.8/bin/nvcc",
    nvcc_on_path="/usr/local/cuda-12.8/bin/nvcc", nvcc_version="12.8", cuda_home="/usr/local/cuda-12.8",
    compiler="/usr/bin/c++", gcc="13.2.0", ninja="/home/me/.venv/bin/ninja",
)  # fmt: skip
"""A machine on which everything is there, and the kernels are compiled."""
OLD_TORCH = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
NEW: dict[str, Any] = {"kernels": None, "kernel_targets": frozenset(), "kernel_nvcc": None}
"""Kernels that are not compiled yet."""

PLANTED: dict[str, tuple[Machine, dict[str, Any], str, str]] = {
    "no nvcc": (
        CUDA, {**NEW, "nvcc": None, "nvcc_on_path": None, "nvcc_version": None},
        "there is no nvcc, and no compiled kernels came with gsplat. gsplat goes on without its kernels then, and minutes later "
        "training ends with 'NoneType' object has no attribute 'CameraModelType'", "sudo apt-get install cuda-toolkit-12-8",
    ),
    "no nvcc, although kernels are compiled: gsplat does not look at them": (
        CUDA, {"nvcc": None, "nvcc_on_path": None, "nvcc_version": None}, "there is no nvcc", "docs/install.md",
    ),
    "nvcc is not on PATH": (
        CUDA, {"nvcc_on_path": None, "nvcc_elsewhere": "/usr/local/cuda/bin/nvcc"},
        "nvcc is not on PATH but in /usr/local/cuda/bin/nvcc", "export CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH",
    ),
    "CUDA_HOME is wrong": (
        CUDA, {"nvcc": None, "cuda_home": "/opt/cuda"}, "CUDA_HOME is /opt/cuda, which has no bin/nvcc",
        "export CUDA_HOME=/usr/local/cuda-12.8",
    ),
    "nvcc is older than torch's CUDA": (
        CUDA, {**NEW, "nvcc_version": "11.8"}, "nvcc 11.8 is older than torch's CUDA 12.8", "cuda-toolkit-12-8",
    ),
    "nvcc is newer than torch's CUDA": (
        CUDA, {**NEW, "nvcc_version": "13.0"}, "nvcc 13.0 is newer than torch's CUDA 12.8", "cuda-toolkit-12-8",
    ),
    "nvcc does not know the card": (
        CUDA, {**NEW, "cards": (BLACKWELL,), "nvcc_version": "12.4"},
        "nvcc 12.4 cannot compile for NVIDIA GeForce RTX 5090 (compute capability 12.0): expected 12.8 or newer",
        "cuda-toolkit-12-8",
    ),
    "nvcc is PyPI's, and nothing to link with": (
        CUDA, {**NEW, "torch_cuda": "13.0", "nvcc_version": "13.0", "cuda_home": "/venv/nvidia/cu13", "no_cudart": True},
        "'cannot find -lcudart'", "ln -s libcudart.so.13 /venv/nvidia/cu13/lib/libcudart.so",
    ),
    "kernels of another torch": (
        CUDA, {"load_error": "ImportError: undefined symbol: _ZN3c104cuda9SetDeviceEi"},
        f"gsplat's kernels in {FOLDER} were compiled for another torch and cannot be loaded: ImportError: undefined symbol",
        f"rm -r {FOLDER}",
    ),
    "the folder for kernels cannot be written": (
        CUDA, {**NEW, "build_folder_writable": False}, f"{FOLDER} cannot be written", "export TORCH_EXTENSIONS_DIR=",
    ),
    "TORCH_CUDA_ARCH_LIST leaves the card out": (
        CUDA, {"architectures": "7.5;9.0"},
        "TORCH_CUDA_ARCH_LIST is '7.5;9.0' and leaves out NVIDIA GeForce RTX 4090 (8.9): 'no kernel image is available",
        "export TORCH_CUDA_ARCH_LIST=8.9, or unset it",
    ),
    "TORCH_CUDA_ARCH_LIST has a typing error": (
        CUDA, {"architectures": "sm_89"}, "torch does not know 'sm_89'; expected such as 8.9",
        "export TORCH_CUDA_ARCH_LIST=8.9",
    ),
    "no compiler on Windows": (
        CUDA, {**NEW, "system": "Windows", "compiler": None, "compiler_name": "cl.exe", "gcc": None},
        "cl.exe is not on PATH: gsplat's kernels cannot be compiled", "x64 Native Tools Command Prompt",
    ),
    "no compiler": (
        CUDA, {**NEW, "compiler": None}, "there is no c++: gsplat's kernels cannot be compiled", "sudo apt-get install g++",
    ),
    "gcc is too new": (
        CUDA, {**NEW, "gcc": "15.1.0"}, "gcc 15.1.0 is too new for nvcc 12.8, which takes 14 at most",
        "export CC=gcc-14 CXX=g++-14",
    ),
    "no ninja": (CUDA, {"ninja": None}, "there is no ninja", "pip install ninja"),
    "the environment is not active": (
        CUDA, {"ninja": None, "ninja_elsewhere": "/home/me/.venv/bin/ninja"},
        "ninja is in /home/me/.venv/bin, which is not on PATH", "source /home/me/.venv/bin/activate",
    ),
    "torch without CUDA": (
        CUDA, {"torch": "2.8.0+cpu", "torch_cuda": None, "torch_sees_card": False},
        "torch 2.8.0+cpu is built without CUDA, but there is a card: NVIDIA GeForce RTX 4090",
        "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu128",
    ),
    "the driver is too old": (
        CUDA, {"torch": "2.14.1+cu130", "torch_cuda": "13.0", "torch_sees_card": False},
        "torch 2.14.1+cu130 (CUDA 13.0) does not see NVIDIA GeForce RTX 4090: driver 570.86 knows CUDA up to 12.8",
        "update NVIDIA's driver. Or pip uninstall -y torch torchvision; pip install torch torchvision --index-url "
        "https://download.pytorch.org/whl/cu128",
    ),
    "torch does not see the card": (
        CUDA, {"torch_sees_card": False, "torch_warning": "CUDA unknown error"},
        "does not see NVIDIA GeForce RTX 4090: CUDA unknown error", "torch.cuda.init()",
    ),
    "torch is not built for the card": (
        CUDA, {"cards": (BLACKWELL,), "torch_architectures": OLD_TORCH},
        "sm_90, not for NVIDIA GeForce RTX 5090 (compute capability 12.0): its first call would end with 'no kernel image is "
        "available for execution on the device'", "--index-url https://download.pytorch.org/whl/cu128",
    ),
    "torch for another make": (
        CUDA, {"torch": "2.8.0+rocm6.3", "torch_cuda": None}, "built for ROCm", "--machine.device-type cpu",
    ),
    "the card is too old": (
        CUDA, {"cards": (Card("NVIDIA GeForce GTX 1080", (6, 1), 8.0),), "torch_architectures": OLD_TORCH},
        "gsplat's kernels need compute capability 7.0 or newer", "--machine.device-type cpu",
    ),
    "gsplat of another version": (
        CUDA, {"gsplat": "0.1.11"}, f"gsplat 0.1.11 is not one that works; expected {doctor.GSPLAT_VERSIONS}",
        f"pip install 'gsplat{doctor.GSPLAT_VERSIONS}'",
    ),
    "compiled gsplat is older than the card": (
        CUDA, {"gsplat": "1.4.0+pt24cu124", "prebuilt": "csrc.so", "cards": (BLACKWELL,)},
        "gsplat 1.4.0+pt24cu124 came with kernels of CUDA 12.4, which are not for NVIDIA GeForce RTX 5090",
        "pip install --force-reinstall --no-deps gsplat==1.4.0",
    ),
}  # fmt: skip
"""Name, machine, what is changed, what is said, what to do."""
PLANTED_ANYWHERE: dict[str, tuple[Machine, dict[str, Any], str, str]] = {
    "torch is broken": (
        CPU, {"torch": None, "torch_error": "OSError: libcudart.so.13: cannot open"},
        "torch cannot be imported: OSError: libcudart.so.13", "pip install --force-reinstall --no-deps torch",
    ),
    "no gsplat": (CPU, {"gsplat": None}, "gsplat is not installed", "pip install 'gsplat"),
    "no nerfstudio": (CPU, {"nerfstudio": None}, "nerfstudio is not installed", "pip install 'nerfstudio>=1.1.5,<1.2'"),
    "an older nerfstudio": (CPU, {"nerfstudio": "1.0.3"}, "nerfstudio 1.0.3 is not one that works", "pip install"),
    "no numba": (CPU, {"numba": None}, "numba is not installed", "pip install 'numba"),
}  # fmt: skip
"""Causes that the check before a training need not look for: without these no training gets that far."""


def planted(name: str) -> tuple[Machine, str, str]:
    base, changes, found, way_out = {**PLANTED, **PLANTED_ANYWHERE}[name]
    return dataclasses.replace(base, **changes), found, way_out


def problems(machine: Machine) -> list[Finding]:
    return [f for f in examine(machine) if f.state == "problem"]


def state_of(machine: Machine, name: str) -> Finding:
    return next(f for f in examine(machine) if f.name == name)


@pytest.mark.parametrize("name", [*PLANTED, *PLANTED_ANYWHERE])
def test_a_planted_cause_is_named_with_its_way_out(name: str) -> None:
    machine, found, way_out = planted(name)
    (problem,) = problems(machine)
    assert found in problem.found and way_out in problem.way_out
    sentence, code = verdict(machine, examine(machine))
    assert code == 1 and "would fail" in sentence and problem.name in sentence


@pytest.mark.parametrize("name", PLANTED)
def test_the_check_before_a_training_says_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, found, way_out = planted(name)
    monkeypatch.setattr(examining, "look", lambda thorough=True: machine)
    with pytest.raises(EnvironmentProblem) as raised:
        check_training("cuda")
    message = str(raised.value)
    assert (
        found in message
        and way_out in message
        and "gradiseg doctor" in message
        and "GRADISEG_DOCTOR=off" in message
    )
    monkeypatch.setenv("GRADISEG_DOCTOR", "off")
    check_training("cuda")


def test_all_causes_are_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(
        CUDA, **NEW, nvcc_version="11.8", compiler=None, ninja=None, architectures="7.0"
    )
    monkeypatch.setattr(examining, "look", lambda thorough=True: machine)
    with pytest.raises(EnvironmentProblem) as raised:
        check_training("cuda")
    assert str(raised.value).count("What to do:") == 4


def test_a_cpu_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "look", lambda thorough=True: pytest.fail("looked"))
    for device in ("cpu", "mps"):
        check_training(device)


def test_no_card_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """nerfstudio's default is cuda; without a card the trainer goes on with the CPU."""
    monkeypatch.setattr(examining, "look", lambda thorough=True: CPU)
    check_training("cuda")
    assert (
        problems(CPU) == []
        and "no NVIDIA card: training runs on the CPU backend" in state_of(CPU, "CUDA").found
    )
    assert [f.name for f in examine(CPU)].count("nvcc") == 0, "everything about CUDA is one line"
    assert verdict(CPU, examine(CPU)) == (
        "A training started now runs on the CPU; gradiseg-lite is made for that.",
        0,
    )
    hidden = dataclasses.replace(CPU, hidden=True)
    assert (
        "CUDA_VISIBLE_DEVICES" in state_of(hidden, "CUDA").found and verdict(hidden, examine(hidden))[1] == 0
    )


def test_all_is_well_with_kernels_and_before_they_are_compiled() -> None:
    assert {f.state for f in examine(CUDA)} == {"ok"}
    assert verdict(CUDA, examine(CUDA)) == (f"A training started now runs on {ADA.name}.", 0)
    new = dataclasses.replace(CUDA, **NEW)
    assert state_of(new, "kernels").state == "note" and "compute_89 sm_89" in state_of(new, "kernels").found
    sentence, code = verdict(new, examine(new))
    assert code == 0 and "first compiles gsplat's kernels" in sentence
    elsewhere = dataclasses.replace(CUDA, kernel_targets=frozenset({"sm_86", "compute_86"}))
    assert "compiles them again" in state_of(elsewhere, "kernels").found


def test_kernels_that_came_with_gsplat_need_nothing() -> None:
    bare = dataclasses.replace(
        CUDA, **NEW, gsplat="1.4.0+pt24cu124", prebuilt="csrc.so", nvcc=None, nvcc_on_path=None, nvcc_version=None,
        compiler=None, ninja=None, architectures="5.0",
    )  # fmt: skip
    assert {f.state for f in examine(bare)} == {"ok"} and verdict(bare, examine(bare))[1] == 0


def test_notes_do_not_stop_a_training() -> None:
    changes: list[tuple[str, dict[str, Any], str]] = [
        ("Python", {"python": "3.13.1"}, "expected 3.10 to 3.12"),
        ("Python", {"system": "Windows"}, "WSL"),
        ("nvcc", {"nvcc_version": "12.6"}, "torch has CUDA 12.8. The same major version is enough"),
        ("nvcc", {"nvcc_version": "11.8"}, "but what it has compiled can be loaded"),
        ("C++ compiler", {"compiler": None}, "there is no c++"),
        ("gsplat", {"prebuilt_error": "ImportError: undefined symbol"}, "will compile its own"),
        ("tinycudann", {"tinycudann": False}, "Nothing to do"),
        ("ffmpeg", {"ffmpeg": False}, "videos"),
        ("viewer", {"port_taken": True}, "7007 is taken"),
        ("numba", {"numba_folders": ()}, "compiles for half a minute"),
        ("numba", {"numba": None}, "not installed"),
        ("disk", {"free": (("/home/me", 1.5),)}, "1.5 GiB free in /home/me"),
    ]
    for name, change, words in changes:
        machine = dataclasses.replace(CUDA, **change)
        finding = state_of(machine, name)
        assert finding.state == "note" and words in finding.found, (name, finding)
        assert verdict(machine, examine(machine))[1] == 0


def test_a_check_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise ValueError("no such thing")

    monkeypatch.setattr(probes, "PROBES", dict.fromkeys(probes.PROBES, broken))
    machine = doctor.look()
    assert set(machine.failures) == set(probes.PROBES)
    findings = examine(machine)
    assert {f.state for f in findings} == {"note"} and "ValueError: no such thing" in findings[0].found
    monkeypatch.setattr(base_checks, "fits", broken)
    assert state_of(CUDA, "gsplat") == Finding(
        "gsplat", "note", "could not be judged: ValueError: no such thing"
    )


def test_architectures_as_torch_reads_them() -> None:
    runs = {
        "8.9": True, "8.6": True, "8.0 8.6": True, "7.5+PTX": True, "Ampere": True, "Ada": True, "Turing": True,
        "7.5": False, "9.0": False, "9.0+PTX": False, "Hopper": False, "8.9a": True, "9.0a": False,
    }  # fmt: skip
    for listed, expected in runs.items():
        machine = dataclasses.replace(CUDA, architectures=listed)
        assert versions.runs_on(machine.targets, (8, 9)) is expected, listed
    assert CUDA.targets == frozenset({"sm_89", "compute_89"})
    two = dataclasses.replace(CUDA, cards=(ADA, Card("older", (7, 5))))
    assert two.targets == frozenset({"sm_75", "sm_89", "compute_89"})
    newer = dataclasses.replace(CUDA, cards=(Card("newer than torch", (12, 1)),))
    assert newer.targets == frozenset({"sm_120", "compute_120"})


@pytest.mark.parametrize("name", [*PLANTED, *PLANTED_ANYWHERE, "everything", "nothing"])
def test_two_screens_are_enough(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "everything":
        machine = dataclasses.replace(
            CUDA, **NEW, python="3.13.1", gsplat="0.1.11", nvcc_version="11.8", compiler=None, ninja=None, numba=None,
            architectures="7.0", build_folder_writable=False, nerfstudio=None, tinycudann=False, ffmpeg=False,
            port_taken=True, free=(("/home/me", 0.1),),
        )  # fmt: skip
    else:
        machine = CUDA if name == "nothing" else planted(name)[0]
    monkeypatch.setenv("COLUMNS", "80")
    findings = examine(machine)
    doctor.show(findings, verdict(machine, findings)[0])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREENS and max(map(len, lines)) <= 80, len(lines)
    assert all(line.isascii() for line in lines), "every terminal can show it"
    marks = [line.split()[0] for line in lines if not line.startswith(" ")][: len(findings)]
    assert marks == [{"problem": "PROBLEM"}.get(f.state, f.state) for f in findings]


def program(folder: Path, name: str, text: str) -> Path:
    """A script that prints something."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but a shell's needs, and nothing said by the environment."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("cat", "sh"):
        os.symlink(str(shutil.which(name)), folder / name)
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "TORCH_CUDA_ARCH_LIST", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(probes, "_usual_toolkits", lambda system: [str(tmp_path / "usual")])
    return folder


pytestmark = pytest.mark.skipif(os.name == "nt", reason="planted programs are shell scripts")


def test_nvcc_is_looked_for_as_gsplat_and_torch_do(
    bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = probes._look_at_toolkit
    machine = Machine(cards=(ADA,))
    none = look(machine)
    assert (none["nvcc_on_path"], none["nvcc"], none["nvcc_elsewhere"]) == (None, None, None)
    release = "Cuda compilation tools, release 12.4, V12.4.131"
    usual = program(tmp_path / "usual" / "bin", "nvcc", release)
    found = look(machine)
    assert (found["nvcc_on_path"], found["nvcc_elsewhere"]) == (None, str(usual))
    told = program(tmp_path / "nvidia" / "cu12" / "bin", "nvcc", release.replace("12.4", "12.8"))
    monkeypatch.setenv("CUDA_HOME", str(told.parent.parent))
    monkeypatch.setenv("PATH", f"{usual.parent}{os.pathsep}{bare_path}")
    found = look(machine)
    assert (found["nvcc_on_path"], found["nvcc"], found["nvcc_version"]) == (str(usual), str(told), "12.8")
    assert found["no_cudart"]
    (told.parent.parent / "lib").mkdir()
    (told.parent.parent / "lib" / "libcudart.so").touch()
    assert not look(machine)["no_cudart"]
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert look(machine)["nvcc"] is None
    monkeypatch.delenv("CUDA_HOME")
    assert look(machine)["cuda_home"] == str(tmp_path / "usual")


def test_the_driver_is_asked_for_what_torch_does_not_see(
    bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "| NVIDIA-SMI 570.86  Driver Version: 570.86  CUDA Version: 12.8 |"
    program(bare_path, "nvidia-smi", text)
    smi = bare_path / "nvidia-smi"
    rows = "NVIDIA GeForce RTX 4090, 570.86, 24564, 8.9"
    smi.write_text(f'#!/bin/sh\nif [ $# -gt 0 ]; then echo "{rows}"; else echo "{text}"; fi\n')
    found = probes._look_at_card(Machine(torch="2.8.0+cpu"))
    assert found["driver"] == "570.86" and found["driver_cuda"] == "12.8"
    (card,) = found["cards"]
    assert (card.name, card.capability, round(card.memory)) == (ADA.name, (8, 9), 24)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probes._look_at_card(Machine(torch="2.8.0+cpu")) == {"hidden": True, "cards": ()}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not reach the driver'; exit 9\n")
    with pytest.raises(RuntimeError, match="has failed"):
        probes._look_at_card(Machine(torch="2.8.0+cpu"))


def test_compiled_kernels_are_found_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    machine = dataclasses.replace(CUDA, **NEW, build_folder="")
    folder = tmp_path / "gsplat_cuda"
    found = built_kernels.look_at_kernels(machine)
    assert found["build_folder"] == str(folder) and not folder.exists(), "nothing is made by looking"
    assert "kernels" not in found
    folder.mkdir()
    (folder / "gsplat_cuda.so").write_bytes(b"not a library")
    (folder / "build.ninja").write_text(
        "nvcc = /usr/local/cuda/bin/nvcc\ncuda_cflags = -gencode=arch=compute_89,code=compute_89 "
        "-gencode=arch=compute_89,code=sm_89 -O3\n"
    )
    found = built_kernels.look_at_kernels(machine)
    assert found["kernel_targets"] == SM_89 and found["kernel_nvcc"] == "/usr/local/cuda/bin/nvcc"
    assert "ImportError" in found["load_error"]
    quick = dataclasses.replace(machine, thorough=False)
    monkeypatch.setattr(built_kernels, "_load_error", lambda *_: "tried")
    assert built_kernels.look_at_kernels(quick)["load_error"] == "", "younger than torch: not worth seconds"
    monkeypatch.setattr(built_kernels, "_installed_at", lambda _: 1e12)
    assert built_kernels.look_at_kernels(quick)["load_error"] == "tried"


def test_numba_keeps_machine_code_beside_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradiseg_ns.rendering.cpu import blending

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(folders, "writable", lambda _: True)
    assert folders.numba_folders()[0] == str(Path(blending.__file__).parent / "__pycache__")


def test_a_library_that_can_be_loaded_is_no_error() -> None:
    from PIL import _imaging

    assert built_kernels._load_error(_imaging.__file__, "_imaging", 0.0) == ""


def test_the_folder_is_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils import cpp_extension

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    expected = cpp_extension._get_build_directory("gsplat_cuda", verbose=False)
    assert str(built_kernels._build_folder(Machine(torch_cuda=torch.version.cuda))) == expected


def test_a_taken_port_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(probes, "VIEWER_PORT", other.getsockname()[1])
        assert probes._look_at_port(Machine()) == {"port_taken": True}
    assert probes._look_at_port(Machine()) == {}


def test_a_training_stops_before_data_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradiseg_ns.config import gradiseg_lite

    config: Any = copy.deepcopy(gradiseg_lite.config)
    config.data = config.pipeline.datamanager.data = tmp_path / "nowhere"
    config.output_dir, config.timestamp = tmp_path / "out", "run"
    config.machine.device_type = "cuda"
    machine = planted("no nvcc")[0]
    monkeypatch.setattr(examining, "look", lambda thorough=True: machine)
    for begin in (config.print_to_terminal, config.setup):
        with pytest.raises(EnvironmentProblem, match="there is no nvcc"):
            begin()
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(examining, "look", lambda thorough=True: CPU)
    config.resolve()


def test_it_is_one_of_the_verbs() -> None:
    from gradiseg_ns import cli

    assert cli.VERBS["doctor"] is cli.Doctor and next(iter(cli.VERBS)) == "doctor"


def test_the_verb_on_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from gradiseg_ns.cli import entrypoint; entrypoint(); "
         "print('nerfstudio' in sys.modules, 'numba' in sys.modules, 'gsplat' in sys.modules)", "doctor"],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PyTorch" in done.stdout and "gsplat" in done.stdout
    *table, imported = done.stdout.splitlines()
    assert table[-1].startswith("A training started now runs on the CPU") and len(table) <= SCREENS
    assert imported == "False False False", "what may be broken is not imported"
