"""Id maps: those that are given, or those that `gradiseg masks` makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradiseg_ns.cli.masks import MODEL, PHRASE_MODEL, REPORT, Masks
from gradiseg_ns.cli.stages.job import Step, minutes
from gradiseg_ns.tools.terminal import say

NO_WEIGHTS = "regions"
"""The model that makes masks where none is named."""


@dataclass
class Maps(Masks):
    """`gradiseg masks`, where the next command comes of itself."""

    def _tell(self, folder: Path, photos: Any, phrases: Any, counts: Any) -> None:
        from gradiseg_ns.sources.capture import SourceError

        if not any(counts.values()):
            what = "anything that is like the phrases" if phrases else "any mask"
            raise SourceError(
                f"--model {self.model} did not find {what}: the maps in {folder} hold no object."
            )
        told = counts if phrases else {key: round(value / len(photos)) for key, value in counts.items()}
        say(
            ", ".join(f"{key}: {value}" for key, value in told.items())
            + (" (photos)" if phrases else " a photo")
        )


class MakeMaps(Step):
    """Id maps of the photos that have poses."""

    name = "masks"
    after = ("photos", "poses")

    def given(self) -> Path | None:
        """The folder of id maps that are not made here."""
        flags = self.job.flags
        if flags.masks_dir is not None:
            return flags.masks_dir.absolute()
        if not self.job.state.has_poses or flags.model is not None or flags.phrases is not None:
            return None
        maps = (flags.source if flags.source.is_dir() else flags.source.parent) / "object_mask"
        return maps.absolute() if maps.is_dir() else None

    def settings(self) -> dict[str, Any]:
        given, flags = self.given(), self.job.flags
        if given is not None:
            return {"masks_dir": str(given)}
        settings: dict[str, Any] = {"model": flags.model or NO_WEIGHTS}
        return settings | ({"phrases": flags.phrases} if flags.phrases is not None else {})

    def files(self) -> list[Path]:
        folder = self.job.inside(self.result["folder"])
        return [folder / REPORT] if self.result["made"] else [folder]

    def told(self) -> str:
        return f"id maps in {self.job.inside(self.result['folder'])}"

    def cost(self) -> str:
        given = self.given()
        if given is not None:
            return f"The id maps of {given} are used as they are."
        count, size = self.job.count_and_size()
        model = self.job.flags.model or NO_WEIGHTS
        if model == NO_WEIGHTS:
            return (
                f"Regions of like colour in {count} photos, without weights: {minutes(count * (1.2 + 0.4 * size))}, below 2 GB. They are "
                f"no objects, only a rough start; a SAM is better: --model {MODEL}."
            )
        return f"{model} on {count} photos: seconds a photo on a GPU, up to a minute on a CPU (not measured here)."

    def do(self) -> dict[str, Any]:
        given = self.given()
        if given is not None:
            return {"folder": str(given), "made": False}
        flags, state = self.job.flags, self.job.state
        like = {"settings": self.settings(), "photos": state.number("photos")}
        folder = self._folder(like)
        state.begun[self.name] = {"like": like, "folder": self.job.relative(folder)}
        state.save()
        Maps(
            data=self.job.scene_folder, model=flags.model or NO_WEIGHTS, phrases=flags.phrases, phrase_model=PHRASE_MODEL,
            output_dir=folder, dataparser=flags.dataparser, device=flags.device, offline=flags.offline,
        ).main()  # fmt: skip
        return {"folder": self.job.relative(folder), "made": True, "like": like}

    def _folder(self, like: dict[str, Any]) -> Path:
        """Where the maps go: on in a folder that was begun or done for the same photos with the same settings, else a new one."""
        flags, state = self.job.flags, self.job.state
        begun = state.begun.get(self.name)
        if begun is not None and begun["like"] == like:
            return self.job.inside(begun["folder"])
        done = state.stages.get(self.name, {}).get("result", {})
        if done.get("like") == like and self.name not in (flags.only, flags.again):
            return self.job.inside(
                done["folder"]
            )  # the photos are the same, but others of them may have poses now
        model = (flags.model or NO_WEIGHTS).strip("/").rsplit("/", 1)[-1]
        return _free_folder(self.job.folder / "masks" / model)


def _free_folder(wanted: Path) -> Path:
    """This name, or with -2, -3, ... behind it, where nothing is yet."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
