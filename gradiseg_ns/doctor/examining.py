"""All checks in their order, what they mean together, and the check before a training."""

from __future__ import annotations

import os
from dataclasses import replace

from gradiseg_ns.doctor.base_checks import BASIS, PYTHON, REST
from gradiseg_ns.doctor.build_checks import BUILD
from gradiseg_ns.doctor.commands import GUIDE
from gradiseg_ns.doctor.judgement import Check, Finding, note
from gradiseg_ns.doctor.machine import Machine
from gradiseg_ns.doctor.probes import look
from gradiseg_ns.tools.errors import GradisegError

VARIABLE = "GRADISEG_DOCTOR"
"""Environment variable: `off` lets a training start without being checked."""


class EnvironmentProblem(GradisegError):
    """This machine cannot do what is asked of it; the message has every cause and the remedy for each."""


def _judge(m: Machine, checks: tuple[Check, ...]) -> list[Finding]:
    findings = []
    for name, probe, check in checks:
        if probe in m.failures:
            finding = note(f"could not be looked at: {m.failures[probe]}")
        else:
            try:
                finding = check(m)
            except Exception as error:  # the doctor has to go on
                finding = note(f"could not be judged: {type(error).__name__}: {error}")
        findings.append(replace(finding, name=name))
    return findings


def examine_cuda(m: Machine) -> list[Finding]:
    """What a training on CUDA stands on. Without a card there is nothing of it, and no problem."""
    return _judge(m, BASIS + (BUILD if m.on_cuda else ())) if m.cards else []


def examine(m: Machine) -> list[Finding]:
    """Everything, in the order in which it is shown."""
    return _judge(m, (PYTHON, *BASIS, *(BUILD if m.on_cuda else ()), *REST))


def verdict(m: Machine, findings: list[Finding]) -> tuple[str, int]:
    """What will happen if a training is started now, and the exit code: 1 if it would fail."""
    wrong = [f.name for f in findings if f.state == "problem"]
    if wrong:
        sentence = f"A training started now would fail, because of: {', '.join(wrong)}."
        only_cuda = m.cards and m.torch and m.gsplat and not {name for name, _, _ in REST}.intersection(wrong)
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
    problems = [f for f in examine_cuda(look(thorough=False)) if f.state == "problem"]
    if problems:
        causes = "\n".join(f"- {f.name}: {f.found}\n  What to do: {f.way_out}" for f in problems)
        raise EnvironmentProblem(
            f"this machine cannot train on CUDA as it is.\n{causes}\n"
            f"`gradiseg doctor` shows everything, {GUIDE} explains it. --machine.device-type cpu trains on the CPU; "
            f"{VARIABLE}=off trains without this check."
        )
