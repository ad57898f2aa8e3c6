"""What all stages of `gradiseg new` know (`Job`), and what a stage is (`Step`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gradiseg_ns.cli.stages.flags import Flags
from gradiseg_ns.cli.stages.state import Stage, State

if TYPE_CHECKING:
    from gradiseg_ns.sources.capture import Capture


@dataclass
class Job:
    """The flags, what is there already, and where everything lies."""

    flags: Flags
    state: State

    @property
    def folder(self) -> Path:
        """All results."""
        return self.flags.output

    @property
    def scene_folder(self) -> Path:
        """What ns-train gets as --data."""
        return self.flags.source if self.state.has_poses else self.folder / "scene"

    def inside(self, path: str) -> Path:
        """A path of the state, which is relative to the output if it lies in it."""
        return self.folder / path

    def relative(self, path: Path) -> str:
        """A path for the state, see `inside`."""
        try:
            return path.absolute().relative_to(self.folder.absolute()).as_posix()
        except ValueError:
            return str(path.absolute())

    def capture(self, maps: Path | None = None) -> Capture:
        """The photos with their poses, and with the id maps of a folder if one is named.

        Raises:
            SourceError, IdMapError: they cannot be read.
        """
        from gradiseg_ns.sources.capture import load_capture

        if maps is None:
            return load_capture(self.scene_folder, dataparser=self.flags.dataparser, maps=False)
        return load_capture(self.scene_folder, dataparser=self.flags.dataparser, masks_dir=str(maps))

    def count_and_size(self) -> tuple[int, float]:
        """Photos with poses, and their mean size in megapixels."""
        cameras = self.capture().manager.train_dataset.cameras
        return len(cameras), float((cameras.width * cameras.height).float().mean()) / 1e6


@dataclass
class Step(ABC):
    """One stage."""

    job: Job
    name: ClassVar[Stage]
    after: ClassVar[tuple[Stage, ...]] = ()
    """Stages whose results it is made of."""

    @property
    def result(self) -> dict[str, Any]:
        """What it wrote when it was done last."""
        return self.job.state.result(self.name)

    def numbers(self) -> dict[str, int]:
        """How often each stage that it is made of was done, as it is now."""
        return {name: self.job.state.number(name) for name in self.after}

    def settings(self) -> dict[str, Any]:
        """What its result depends on, besides other stages."""
        return {}

    @abstractmethod
    def files(self) -> list[Path]:
        """What it wrote and the next one needs."""

    @abstractmethod
    def told(self) -> str:
        """What it wrote, as a sentence."""

    @abstractmethod
    def cost(self) -> str:
        """What it is going to do and how long that takes, as a sentence."""

    @abstractmethod
    def do(self) -> dict[str, Any]:
        """Do it.

        Returns:
            Its result, for new.json.

        Raises:
            GradisegError: it cannot be done.
        """


def minutes(seconds: float) -> str:
    """A rough time as a person says it."""
    return "less than a minute" if seconds < 45 else f"about {max(1, round(seconds / 60)):,} min"
