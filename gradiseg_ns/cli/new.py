"""`gradiseg new`: from a folder of photos to a splat whose objects can be cut out, stage by stage."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gradiseg_ns.cli.stages.flags import Flags
from gradiseg_ns.cli.stages.job import Job
from gradiseg_ns.cli.stages.state import LOCK, State
from gradiseg_ns.cli.stages.work import Work
from gradiseg_ns.tools.terminal import say


@dataclass
class New(Flags):
    """From photos to a segmented splat in one command: poses, masks, training, and a picture of what came out.

    The stages are photos, poses, masks, train and overview. Each tells what it will cost and what it wrote. A stage whose result is
    there is skipped, so the same command goes on after an interruption, and changed flags repeat only what depends on them.
    """

    def main(self) -> None:
        from gradiseg_ns.tools.atomic import occupy

        self._check_flags()
        state = State.open(self.output, self.source, self._has_poses)
        Work(Job(self, state)).check()
        has_poses = state.has_poses
        leave = occupy(
            self.output,
            LOCK,
            who="another `gradiseg new`",
            way_out="Wait for its end, or name another --output.",
        )
        try:
            # what the one before wrote until it ended
            state = State.open(self.output, self.source, lambda: has_poses)
            state.save()  # from now on the folder is known as ours
            Work(Job(self, state)).run()
        except KeyboardInterrupt:
            say("Interrupted. What earlier stages made is there; the same command goes on from there.")
            sys.exit(130)
        finally:
            leave()

    def _check_flags(self) -> None:
        """Look at the flags before anything is made.

        Raises:
            SourceError: a flag has no sense, or there is no source.
        """
        from gradiseg_ns.sources.capture import SourceError

        if self.steps is not None and self.steps < 1:
            raise SourceError(f"--steps {self.steps}: expected 1 or more.")
        if self.max_size < 64:
            raise SourceError(f"--max-size {self.max_size}: expected 64 pixels or more.")
        if not 0 <= self.least_registered <= 1:
            raise SourceError(f"--least-registered {self.least_registered}: expected a share from 0 to 1.")
        if self.only is not None and self.again is not None:
            raise SourceError("give either --only (a stage alone) or --again (a stage and those after it).")
        if self.masks_dir is not None:
            if self.model is not None or self.phrases is not None:
                raise SourceError("give either --masks-dir (maps that are there) or --model and --phrases.")
            if not self.masks_dir.is_dir():
                raise SourceError(f"--masks-dir {self.masks_dir}: no such folder.")

    def _has_poses(self) -> bool:
        """Whether the source is a scene."""
        if not isinstance(self.dataparser, str) or self.dataparser != "nerfstudio-data":
            return True
        if self.source.suffix == ".json" and self.source.is_file():
            return True
        if any((self.source / name).is_file() for name in ("transforms.json", "transforms_train.json")):
            return True
        from gradiseg_ns.data.parsers import find_model
        from gradiseg_ns.data.poses import PoseError

        try:
            find_model(self.source)
        except PoseError:
            return False
        return True
