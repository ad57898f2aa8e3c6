"""A machine as plain values, and what follows from them without a judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradiseg_ns.doctor.versions import architectures_of, dotted, number_of

VIEWER_PORT = 7007


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
        return dotted(self.capability) if self.capability else "unknown"


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
            listed = architectures_of(self.architectures)
        else:
            known = sorted(number_of(name) for name in self.torch_architectures if name.startswith("sm_"))
            own = {dotted(min(c.capability, known[-1])) for c in self.cards if c.capability and known}
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
