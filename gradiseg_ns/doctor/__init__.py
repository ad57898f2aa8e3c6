"""What a training needs of this machine: `gradiseg doctor` shows it, and a training on CUDA looks at it before it loads data.

In: the machine. Out: a `Machine` of plain values (`look`), a `Finding` for each thing that was looked at (`examine`), a sentence
(`verdict`), or an error with all causes at once (`check_training`). Who looks does not judge, and who judges is a pure function of a
`Machine`, so that tests plant causes. May not: compile or change anything; import what may be broken, but for torch, and that only
while looking.
"""

from __future__ import annotations

from gradiseg_ns.doctor.examining import EnvironmentProblem, check_training, examine, examine_cuda, verdict
from gradiseg_ns.doctor.judgement import Finding, State
from gradiseg_ns.doctor.machine import Card, Machine
from gradiseg_ns.doctor.printing import show
from gradiseg_ns.doctor.probes import look
from gradiseg_ns.doctor.versions import GSPLAT_VERSIONS, NERFSTUDIO_VERSIONS, NUMBA_VERSIONS

__all__ = [
    "GSPLAT_VERSIONS", "NERFSTUDIO_VERSIONS", "NUMBA_VERSIONS", "Card", "EnvironmentProblem", "Finding", "Machine", "State",
    "check_training", "examine", "examine_cuda", "look", "show", "verdict",
]  # fmt: skip
