"""Goes through the stages of `gradiseg new`: does what is asked for and not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter

from gradiseg_ns.cli.stages.job import Job, Step
from gradiseg_ns.cli.stages.mask_stage import MakeMaps
from gradiseg_ns.cli.stages.overview_stage import Overview
from gradiseg_ns.cli.stages.pose_stages import Photos, Poses
from gradiseg_ns.cli.stages.state import Stage
from gradiseg_ns.cli.stages.train_stage import Train
from gradiseg_ns.tools.terminal import say

STEPS: tuple[type[Step], ...] = (Photos, Poses, MakeMaps, Train, Overview)
"""All stages in their order."""


@dataclass
class Work:
    """The stages that a command asks for."""

    job: Job
    done: set[str] = field(default_factory=set)
    """Stages that were done by this command."""

    @cached_property
    def steps(self) -> dict[Stage, Step]:
        """The stages that this source needs: one with poses is used where it is."""
        return {kind.name: kind(self.job) for kind in (STEPS[2:] if self.job.state.has_poses else STEPS)}

    @property
    def asked(self) -> list[Stage]:
        """The stages that are to be there in the end."""
        only = self.job.flags.only
        return [only] if only else list(self.steps)

    def check(self) -> None:
        """Look before anything is made at what stops the first stages.

        Raises:
            SourceError: a flag names a stage that this source does not need, or one that cannot be done alone.
            PosesError: there are no photos, or no pycolmap.
        """
        from gradiseg_ns.poses.photos import photos_in
        from gradiseg_ns.poses.solving import check_pycolmap
        from gradiseg_ns.sources.capture import SourceError

        flags, order = self.job.flags, list(self.steps)
        for flag, stage in (("--only", flags.only), ("--again", flags.again)):
            if stage is not None and stage not in order:
                raise SourceError(
                    f"{flag} {stage}: {flags.source} has poses, and its photos are used where they are."
                )
        for stage in order[: order.index(self.asked[0])]:
            why = self._why(stage)
            if why is not None:
                raise SourceError(
                    f"--only {flags.only} needs {stage}, which is not there ({why}): leave --only out, or give --only {stage} first."
                )
        if "photos" in self.asked and self._why("photos") is not None:
            photos_in(flags.source)
        if "poses" in self.asked and (self._why("poses") is not None or self._why("photos") is not None):
            check_pycolmap()

    def run(self) -> None:
        """Do what is asked for and not there.

        Raises:
            GradisegError: a stage cannot be done; what was made before it stays.
        """
        for stage in self.asked:
            step, why = self.steps[stage], self._why(stage)
            if why is None:
                say(f"{step.told()} (--only {stage} repeats it)", title=f"[{stage}] is there:")
                continue
            say(f"{why}. {step.cost()}", title=f"[{stage}]")
            start = perf_counter()
            settings, after = step.settings(), step.numbers()
            result = step.do()
            self.job.state.finish(stage, settings, after, result)
            self.done.add(stage)
            say(f"{step.told()}, in {_duration(perf_counter() - start)}", title=f"[{stage}] done:")
        overview = self.steps["overview"]
        if self._why("overview") is None and isinstance(overview, Overview):
            overview.tell_next()

    def _why(self, stage: Stage) -> str | None:
        """Why a stage is to be done; None if its result is there."""
        flags, state, step = self.job.flags, self.job.state, self.steps[stage]
        if stage not in state.stages:
            return "goes on where it was interrupted" if stage in state.begun else "not done yet"
        if stage in (flags.only, flags.again) and stage not in self.done:
            return "to be repeated"
        changed = state.changed(stage, step.settings(), step.numbers())
        if changed is not None:
            return changed
        lost = [path for path in step.files() if not path.exists()]
        return f"{lost[0]} is gone" if lost else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
