"""What `new.json` says of an output folder: what was made, of what, with which settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Stage = Literal["photos", "poses", "masks", "train", "overview"]
STAGES: tuple[Stage, ...] = ("photos", "poses", "masks", "train", "overview")
STATE = "new.json"
"""File in the output. A folder with it is ours."""
LOCK = ".new-running"
"""File in the output while a `gradiseg new` works there."""
_VERSION = 1


@dataclass
class State:
    """What `new.json` says: the source, and of each stage its settings, its result, and what it was made from."""

    path: Path
    source: str
    has_poses: bool
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What an interrupted stage left, by stage."""

    @classmethod
    def open(cls, folder: Path, source: Path, has_poses: Callable[[], bool]) -> State:
        """The state of an output folder; a new one where there is none. Nothing is written yet.

        Raises:
            WriteError: the folder holds something else, or was made of another source.
            SourceError: there is no such source.
        """
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.tools.atomic import check_writable
        from gradiseg_ns.tools.errors import WriteError
        from gradiseg_ns.tools.json_files import read_json

        path, named = folder / STATE, str(source.expanduser().resolve())
        if folder.is_file():
            raise WriteError(f"--output {folder} is a file: expected the name of a folder.")
        if not path.is_file():
            if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
                raise WriteError(
                    f"--output {folder} exists and was not made by `gradiseg new` (it has no {STATE}): nothing is overwritten. Name "
                    "another folder."
                )
            if not source.exists():
                raise SourceError(
                    f"{source}: no such folder. Expected photos, or a scene that ns-train opens."
                )
            check_writable(path)
            return cls(path, named, has_poses())
        try:
            known = read_json(path)
            if known["version"] != _VERSION:
                raise ValueError(f"version {known['version']}")
            state = cls(
                path, known["source"], known["has_poses"], dict(known["stages"]), dict(known["begun"])
            )
            for record in state.stages.values():
                if not isinstance(record["number"], int) or not isinstance(record["result"], dict):
                    raise ValueError("a stage without a number or a result")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WriteError(
                f"{path} cannot be read ({error}): expected what `gradiseg new` writes. Name another --output, or remove that file and "
                "the folder's content."
            ) from None
        if state.source != named:
            raise WriteError(
                f"--output {folder} was made of {state.source}, not of {named}. Name another folder, or the source that it was made of."
            )
        return state

    def save(self) -> None:
        """Write the file."""
        from gradiseg_ns.tools.atomic import write_text

        content = {
            "version": _VERSION, "source": self.source, "has_poses": self.has_poses, "stages": self.stages, "begun": self.begun,
        }  # fmt: skip
        write_text(self.path, json.dumps(content, indent=1, ensure_ascii=False))

    def number(self, stage: str) -> int:
        """How often a stage was done; 0: never, or it is not needed."""
        return int(self.stages.get(stage, {}).get("number", 0))

    def result(self, stage: str) -> dict[str, Any]:
        """What a stage wrote."""
        return self.stages[stage]["result"]

    def changed(self, stage: str, settings: Mapping[str, Any], after: Mapping[str, int]) -> str | None:
        """Why a stage that was done is to be done again; None if it is not."""
        record = self.stages[stage]
        for key in sorted({*settings, *record["settings"]}):
            was, now = record["settings"].get(key), settings.get(key)
            if was != now:
                name = key.replace("_", "-")
                return (
                    f"{name} was {_in_words(was)} and is {_in_words(now)}"
                    if key != "files"
                    else "the photos are others"
                )
        for name, number in after.items():
            if record["after"].get(name) != number:
                return f"{name} changed"
        return None

    def finish(
        self, stage: str, settings: Mapping[str, Any], after: Mapping[str, int], result: Mapping[str, Any]
    ) -> None:
        """Write down that a stage is done."""
        self.stages[stage] = {
            "number": self.number(stage) + 1, "settings": dict(settings), "after": dict(after), "result": dict(result),
        }  # fmt: skip
        self.begun.pop(stage, None)
        self.save()


def _in_words(value: Any) -> str:
    return "the default" if value is None else str(value)
