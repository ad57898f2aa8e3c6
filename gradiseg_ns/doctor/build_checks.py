"""Judges what gsplat's kernels on a card need: those that are there, nvcc, the compiler, ninja, the architectures."""

from __future__ import annotations

import re
from pathlib import Path

from gradiseg_ns.doctor.commands import GUIDE, delete_kernels, get_toolkit, set_toolkit, set_variable, short
from gradiseg_ns.doctor.judgement import NO_IMAGE, Check, Finding, note, ok, problem
from gradiseg_ns.doctor.machine import Machine
from gradiseg_ns.doctor.versions import (
    BLACKWELL,
    BLACKWELL_GSPLAT,
    BLACKWELL_TOOLKIT,
    architectures_of,
    dotted,
    fits,
    newest_gcc,
    number_of,
    runs_on,
)

_NOT_NEEDED = ok("not needed: compiled kernels came with gsplat")


def _kernels(m: Machine) -> Finding:
    card, folder = m.card, short(m.build_folder)
    if not m.compiles:
        version = m.gsplat or ""
        made_with = re.search(r"\+.*cu(\d\d)(\d)", version)  # 1.4.0+pt24cu124
        toolkit = (int(made_with[1]), int(made_with[2])) if made_with else BLACKWELL_TOOLKIT
        blackwell = card is not None and card.capability is not None and card.capability >= BLACKWELL
        if card and blackwell and toolkit < BLACKWELL_TOOLKIT and fits(version, BLACKWELL_GSPLAT):
            return problem(
                f"gsplat {version} came with kernels of CUDA {dotted(toolkit)}, which are not for {card.name} (compute "
                f"capability {card.architecture}).",
                f"pip install --force-reinstall --no-deps gsplat=={version.split('+')[0]}, which compiles them here with nvcc "
                f"{dotted(BLACKWELL_TOOLKIT)} or newer",
            )
        return ok("came with gsplat, compiled")
    if m.load_error:
        return problem(
            f"gsplat's kernels in {folder} were compiled for another torch and cannot be loaded: {m.load_error}.",
            f"delete that folder, they are compiled again: {delete_kernels(m)}",
        )
    old, wanted = " ".join(sorted(m.kernel_targets)), " ".join(sorted(m.targets)) or "the card"
    if m.current:
        return ok(f"compiled for {old or 'this card'}, in {folder}")
    if not m.build_folder_writable:
        return problem(
            f"gsplat's kernels have to be compiled, and {folder} cannot be written.",
            set_variable(m, "TORCH_EXTENSIONS_DIR", "a folder of yours"),
        )
    if m.kernels is not None:
        return note(
            f"compiled for {old} with {m.kernel_nvcc}; the first use compiles them again for {wanted} with {m.nvcc}: "
            "some minutes."
        )
    return note(f"not compiled yet: the first use does it, for {wanted}. Some minutes, once.")


def _nvcc(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    card, cuda = m.card, m.torch_cuda or ""
    fails = (
        "gsplat goes on without its kernels then, and minutes later training ends with 'NoneType' object has no attribute "
        "'CameraModelType'"
    )
    if m.nvcc_on_path is None and m.nvcc_elsewhere is not None:
        return problem(
            f"nvcc is not on PATH but in {short(m.nvcc_elsewhere)}. {fails}.",
            set_toolkit(m, Path(m.nvcc_elsewhere).parent.parent),
        )
    if m.nvcc_on_path is None:
        return problem(
            f"there is no nvcc, and no compiled kernels came with gsplat. {fails}.",
            f"{get_toolkit(m, cuda)} ({GUIDE} has other ways)",
        )
    if m.nvcc is None:
        return problem(
            f"CUDA_HOME is {m.cuda_home}, which has no bin/nvcc; the nvcc on PATH is {short(m.nvcc_on_path)}.",
            set_toolkit(m, Path(m.nvcc_on_path).parent.parent),
        )
    found = f"{m.nvcc_version or 'of unknown version'}, {short(m.nvcc)}"
    if not m.nvcc_version or not cuda:
        return ok(found)
    version = number_of(m.nvcc_version)
    if version[0] != number_of(cuda)[0]:
        differs = f"nvcc {m.nvcc_version} is {'older' if version < number_of(cuda) else 'newer'} than torch's CUDA {cuda}"
        if m.current:
            return note(f"{differs} ({short(m.nvcc)}), but what it has compiled can be loaded.")
        return problem(
            f"{differs} ({short(m.nvcc)}): what it compiles does not fit torch. pip says 'The detected CUDA version "
            "mismatches'.",
            get_toolkit(m, cuda),
        )
    if card and card.capability and card.capability >= BLACKWELL and version < BLACKWELL_TOOLKIT:
        needed = dotted(BLACKWELL_TOOLKIT)
        return problem(
            f"nvcc {m.nvcc_version} cannot compile for {card.name} (compute capability {card.architecture}): expected "
            f"{needed} or newer.",
            get_toolkit(m, needed),
        )
    if m.no_cudart and not m.current:
        return problem(
            f"nvcc {found} is PyPI's, and libcudart.so is missing beside it: linking ends with 'cannot find -lcudart'.",
            f"ln -s libcudart.so.{version[0]} {short(str(Path(m.cuda_home or '', 'lib', 'libcudart.so')))}",
        )
    if version != number_of(cuda):
        return note(f"{found}; torch has CUDA {cuda}. The same major version is enough.")
    return ok(found)


def _compiler(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    judge = note if m.current else problem  # what is compiled already stays as it is
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
    fits = m.nvcc_version and m.torch_cuda and number_of(m.nvcc_version)[0] == number_of(m.torch_cuda)[0]
    newest = newest_gcc(number_of(m.nvcc_version)) if m.nvcc_version and fits else None
    if m.gcc and newest is not None and number_of(m.gcc)[0] > newest:
        return judge(
            f"gcc {m.gcc} is too new for nvcc {m.nvcc_version}, which takes {newest} at most: 'unsupported GNU version'.",
            f"sudo apt-get install g++-{newest}; export CC=gcc-{newest} CXX=g++-{newest}",
        )
    return ok(f"{short(m.compiler)}{f', gcc {m.gcc}' if m.gcc else ''}")


def _ninja(m: Machine) -> Finding:
    if not m.compiles:
        return _NOT_NEEDED
    if m.ninja is not None:
        return ok(short(m.ninja))
    if m.ninja_elsewhere is not None:
        folder = short(str(Path(m.ninja_elsewhere).parent))
        return problem(
            f"ninja is in {folder}, which is not on PATH; torch builds with it.", f"source {folder}/activate"
        )
    return problem("there is no ninja; torch builds with it.", "pip install ninja")


def _arch_list(m: Machine) -> Finding:
    card, variable = m.card, "TORCH_CUDA_ARCH_LIST"
    if not m.compiles:
        return _NOT_NEEDED
    if not m.architectures or m.architectures == "native":
        return ok(f"{variable} is not set: {' '.join(sorted(m.targets)) or 'as the card wants it'}")
    own = card.architecture if card and card.capability else "8.6"
    unknown = [e for e, _ in architectures_of(m.architectures) if not re.fullmatch(r"\d+\.\d+[af]?", e)]
    if unknown:
        return problem(
            f"{variable} is '{m.architectures}', and torch does not know '{unknown[0]}'; expected such as {own}.",
            set_variable(m, variable, own),
        )
    if card and card.capability and not runs_on(m.targets, card.capability):
        return problem(
            f"{variable} is '{m.architectures}' and leaves out {card.name} ({own}): {NO_IMAGE}.",
            f"{set_variable(m, variable, own)}, or unset it",
        )
    return ok(f"{variable} is {m.architectures}")


BUILD: tuple[Check, ...] = (
    ("kernels", "kernels", _kernels), ("nvcc", "toolkit", _nvcc), ("C++ compiler", "compiler", _compiler),
    ("ninja", "compiler", _ninja), ("architectures", "toolkit", _arch_list),
)  # fmt: skip
"""What gsplat's kernels need, where torch can use a card."""
