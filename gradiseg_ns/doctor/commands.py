"""What to do about a cause, as the command to type on that machine."""

from __future__ import annotations

import os
from pathlib import Path

from gradiseg_ns.doctor.machine import Machine
from gradiseg_ns.doctor.versions import number_of

GUIDE = "docs/install.md"
WHEELS = "https://download.pytorch.org/whl"
ON_CPU = "train on the CPU: --machine.device-type cpu"


def wheels_for(m: Machine) -> str:
    """Which of torch's indexes for pip suits the driver and the card."""
    capability = m.card.capability if m.card else None
    if capability is not None and capability < (7, 5):
        return "cu126"
    known = number_of(m.driver_cuda) if m.driver_cuda else (12, 8)
    return "cu130" if known[0] >= 13 else "cu128" if known[0] == 12 else "cu118"


def set_variable(m: Machine, variable: str, value: str) -> str:
    """The command that sets an environment variable."""
    value = f'"{value}"' if " " in value else value
    return f"set {variable}={value}" if m.system == "Windows" else f"export {variable}={value}"


def get_toolkit(m: Machine, version: str) -> str:
    """What to do for another version of NVIDIA's toolkit."""
    if m.system == "Windows":
        home = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA", f"v{version}")
        return f"install NVIDIA's CUDA toolkit {version}, or use WSL; {set_toolkit(m, home)}"
    install = f"sudo apt-get install cuda-toolkit-{version.replace('.', '-')}"
    return f"{install}; {set_toolkit(m, Path(f'/usr/local/cuda-{version}'))}"


def set_toolkit(m: Machine, home: Path) -> str:
    """The command that makes a toolkit the one that is used."""
    if m.system == "Windows":
        return rf"set CUDA_HOME={home} & set PATH={home}\bin;%PATH%"
    return f"export CUDA_HOME={short(str(home))} PATH={short(str(home))}/bin:$PATH"


def delete_kernels(m: Machine) -> str:
    """The command that deletes the kernels that torch compiled."""
    return f'rmdir /s "{m.build_folder}"' if m.system == "Windows" else f"rm -r {short(m.build_folder)}"


def short(path: str) -> str:
    """A path with ~ for the home folder."""
    home = str(Path.home())
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path
