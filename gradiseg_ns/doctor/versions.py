"""Which versions work with which: of programs, of cards (compute capability), of what kernels are compiled for."""

from __future__ import annotations

import re

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
_NAMED = {
    "Volta": "7.0+PTX", "Turing": "7.5+PTX", "Ampere": "8.0;8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}  # fmt: skip


def number_of(version: str) -> tuple[int, int]:
    """The first two numbers: 12.8 is (12, 8), 13 is (13, 0); sm_86 and compute_86 are (8, 6)."""
    if version.startswith(("sm_", "compute_")):
        digits = re.sub(r"\D", "", version)
        return int(digits[:-1]), int(digits[-1])
    first, second, *_ = *re.findall(r"\d+", version), "0"
    return int(first), int(second)


def dotted(number: tuple[int, ...]) -> str:
    return ".".join(map(str, number))


def fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def architectures_of(text: str) -> list[tuple[str, bool]]:
    """The entries of a TORCH_CUDA_ARCH_LIST, such as 8.6, and whether each has +PTX. As torch reads it: names of families go too."""
    for name, entries in _NAMED.items():
        text = text.replace(name, entries)
    entries = [e for e in re.split(r"[ ;]", text) if e]
    return [(e.removesuffix("+PTX"), e.endswith("+PTX")) for e in entries]


def runs_on(architectures: tuple[str, ...] | frozenset[str], capability: tuple[int, int]) -> bool:
    """Whether a card runs what is compiled for these: code of its own major version that is not newer, or PTX that is not newer."""
    for name in architectures:
        number = number_of(name)
        if name.startswith("compute_") and number <= capability:
            return True
        own = number == capability if name[-1].isalpha() else number <= capability
        if name.startswith("sm_") and number[0] == capability[0] and own:
            return True
    return False


def newest_gcc(nvcc: tuple[int, ...]) -> int | None:
    """Newest major version of gcc for an nvcc; None where that is not known."""
    if nvcc > max(NEWEST_GCC):
        return None
    return next((gcc for since, gcc in NEWEST_GCC.items() if nvcc >= since), None)
