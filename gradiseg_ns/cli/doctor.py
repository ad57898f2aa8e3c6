"""`gradiseg doctor`: whether this machine can train, and what to do if not."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gradiseg_ns.doctor import examine, look, show, verdict


@dataclass
class Doctor:
    """Look at this machine: what is there, what is missing, and what happens if a training is started.

    The exit code is 1 if it would fail. Nothing is compiled or changed.
    """

    def main(self) -> None:
        machine = look()
        findings = examine(machine)
        sentence, code = verdict(machine, findings)
        show(findings, sentence)
        if code:
            sys.exit(code)
