"""`gradiseg new`: from a folder of photos to a splat whose objects can be cut out, stage by stage."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from gradiseg_ns.cli.common import PICTURES, MaybeCount, MaybePath, MaybeText
from gradiseg_ns.cli.masks import MODEL, PHRASE_MODEL, REPORT, Masks
from gradiseg_ns.tools.choices import DataParser
from gradiseg_ns.tools.terminal import default_device, progress, say, warn

if TYPE_CHECKING:
    from gradiseg_ns.pipeline import GradisegPipeline
    from gradiseg_ns.sources.scene import Scene
    from gradiseg_ns.tools.pictures import Captioned

Stage = Literal["photos", "poses", "masks", "train", "overview"]
STAGES: tuple[Stage, ...] = ("photos", "poses", "masks", "train", "overview")
MaybeStage = Annotated[Stage | None, tyro.conf.arg(metavar="STAGE", help_behavior_hint="")]
STATE = "new.json"
"""File in the output: what was made, of what, with which settings. A folder with it is ours."""
NO_WEIGHTS = "regions"
_VERSION = 1
_LEGIBLE = 14
"""Numbers in a picture of the overview, at most."""


@dataclass
class New:
    """From photos to a segmented splat in one command: poses, masks, training, and a picture of what came out.

    The stages are photos, poses, masks, train and overview. Each tells what it will cost and what it wrote. A stage whose result is
    there is skipped, so the same command goes on after an interruption, and changed flags repeat only what depends on them.
    """

    source: tyro.conf.Positional[Path]
    """A folder of photos, which nothing is changed in; or a scene that ns-train opens: then poses are there."""
    output: Path
    """Folder of all results."""
    model: MaybeText = None
    """What makes the masks: `regions` (the default) needs no weights and is rough. Better: a SAM of the Hugging Face hub, such as facebook/sam2.1-hiera-small, or a folder with one."""
    phrases: MaybeText = None
    """What to look for, separated by semicolons: "mug; red block". Default: everything."""
    masks_dir: MaybePath = None
    """Id maps that are there already, instead of --model. Default: `object_mask` of a scene that has one."""
    steps: MaybeCount = None
    """Steps of training. Default: 3000 on a CPU, 30000 on a GPU."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which photos are compared for the poses: all pairs, or neighbours by name, as frames of a video. `auto`: all pairs up to 150 photos."""
    max_size: int = 1600
    """Longer side, in pixels, of the photos that are worked with. Larger ones become smaller copies."""
    least_registered: float = 0.5
    """Share of the photos that must get a pose, from 0 to 1."""
    only: MaybeStage = None
    """Do this stage alone, again if its result is there."""
    again: MaybeStage = None
    """Repeat this stage and those after it."""
    dataparser: DataParser = "nerfstudio-data"
    """Reader of a scene. Without a transforms.json, a COLMAP model is looked for. Options follow the reader's name at the end, as with ns-train: `... colmap --downscale-factor 2`."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""
    offline: bool = False
    """Never reach for the network: weights from a folder or from the hub's cache."""

    def main(self) -> None:
        self._check_flags()
        work = Work(self, State.open(self.output, self.source, self._has_poses))
        try:
            work.run()
        except KeyboardInterrupt:
            say("Interrupted. What earlier stages made is there; the same command goes on from there.")
            sys.exit(130)

    def _check_flags(self) -> None:
        """Look at the flags before anything is made.

        Raises:
            SourceError: a flag has no sense, or there is no source.
        """
        from gradiseg_ns.sources.scene import SourceError

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


# ------------------------------------------------------------------------------------------- what is there already


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
        from gradiseg_ns.sources.scene import SourceError
        from gradiseg_ns.tools.atomic import check_writable
        from gradiseg_ns.tools.errors import WriteError
        from gradiseg_ns.tools.json_files import read_json

        path, named = folder / STATE, str(source.expanduser().resolve())
        if folder.is_file():
            raise WriteError(f"--output {folder} is a file: expected the name of a folder.")
        if not path.is_file():
            if folder.is_dir() and any(folder.iterdir()):
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
                    f"{name} was {_shown(was)} and is {_shown(now)}"
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


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)


# ----------------------------------------------------------------------------------------------------- the stages


@dataclass
class Work:
    """The stages in their order. Of each: its settings, what it depends on, whether its result is still there, its cost, and the doing."""

    flags: New
    state: State
    done: set[str] = field(default_factory=set)
    """Stages that were done by this command."""

    @property
    def folder(self) -> Path:
        """All results."""
        return self.flags.output

    @property
    def scene_folder(self) -> Path:
        """What ns-train gets as --data."""
        return self.flags.source if self.state.has_poses else self.folder / "scene"

    def run(self) -> None:
        """Do what is asked for and not there.

        Raises:
            GradisegError: a stage cannot be done; what was made before it stays.
        """
        from gradiseg_ns.poses.photos import photos_in
        from gradiseg_ns.poses.solving import check_pycolmap
        from gradiseg_ns.sources.scene import SourceError

        stages = STAGES[2:] if self.state.has_poses else STAGES
        for flag, stage in (("--only", self.flags.only), ("--again", self.flags.again)):
            if stage is not None and stage not in stages:
                raise SourceError(
                    f"{flag} {stage}: {self.flags.source} has poses, and its photos are used where they are."
                )
        asked = [self.flags.only] if self.flags.only else stages
        if "photos" in asked and self._why("photos") is not None:
            photos_in(self.flags.source)
        if "poses" in asked and (self._why("poses") is not None or self._why("photos") is not None):
            check_pycolmap()
        for stage in stages:
            why = self._why(stage)
            if stage not in asked:
                if why is not None and stages.index(stage) < stages.index(asked[0]):
                    raise SourceError(
                        f"--only {self.flags.only} needs {stage}, which is not there ({why}): leave --only out, or give --only {stage} first."
                    )
                continue
            if why is None:
                say(f"{self._told(stage)} (--only {stage} repeats it)", title=f"[{stage}] is there:")
                continue
            say(f"{why}. {getattr(self, f'_cost_of_{stage}')()}", title=f"[{stage}]")
            start = perf_counter()
            settings, after = self._settings(stage), self._after(stage)
            result = getattr(self, f"_{stage}")()
            self.state.finish(stage, settings, after, result)
            self.done.add(stage)
            say(f"{self._told(stage)}, in {_duration(perf_counter() - start)}", title=f"[{stage}] done:")
        if self._why("overview") is None:
            self._tell_next()

    def _why(self, stage: Stage) -> str | None:
        """Why a stage is to be done; None if its result is there."""
        flags, state = self.flags, self.state
        if stage not in state.stages:
            return "goes on where it was interrupted" if stage in state.begun else "not done yet"
        if stage in (flags.only, flags.again) and stage not in self.done:
            return "to be repeated"
        changed = state.changed(stage, self._settings(stage), self._after(stage))
        if changed is not None:
            return changed
        lost = [path for path in self._files(stage) if not path.exists()]
        return f"{lost[0]} is gone" if lost else None

    def _after(self, stage: Stage) -> dict[str, int]:
        """What a stage depends on, as it is now."""
        before = {
            "photos": (),
            "poses": ("photos",),
            "masks": ("photos", "poses"),
            "train": ("poses", "masks"),
            "overview": ("train",),
        }
        return {name: self.state.number(name) for name in before[stage]}

    def _settings(self, stage: Stage) -> dict[str, Any]:
        """What the result of a stage depends on."""
        flags = self.flags
        if stage == "photos":
            files = _fingerprint(flags.source)
            if files is None and stage in self.state.stages:  # the source is gone, its copies are here
                files = self.state.stages[stage]["settings"]["files"]
            return {"max_size": flags.max_size, "files": files}
        if stage == "poses":
            return {"matching": flags.matching}
        if stage == "masks":
            given = self._given_maps()
            if given is not None:
                return {"masks_dir": str(given)}
            settings: dict[str, Any] = {"model": flags.model or NO_WEIGHTS}
            return settings | ({"phrases": flags.phrases} if flags.phrases is not None else {})
        return {"steps": flags.steps} if stage == "train" else {}

    def _files(self, stage: Stage) -> list[Path]:
        """What a stage wrote and the next one needs."""
        result = self.state.result(stage)
        scene = self.folder / "scene"
        if stage == "photos":
            return [scene / "images" / name for name in result["sizes"]]
        if stage == "poses":
            return [scene / "transforms.json", scene / "sparse_pc.ply"]
        if stage == "masks":
            folder = self._inside(result["folder"])
            return [folder / REPORT] if result["made"] else [folder]
        return (
            [self._inside(result["run"]) / "config.yml"]
            if stage == "train"
            else [self.folder / "overview.jpg"]
        )

    def _told(self, stage: Stage) -> str:
        """What a stage wrote, as a sentence."""
        result = self.state.result(stage)
        scene = self.folder / "scene"
        if stage == "photos":
            changed = (
                f", {result['changed']} of them turned, converted or made smaller"
                if result["changed"]
                else ""
            )
            return f"{len(result['sizes'])} photos in {scene / 'images'}{changed}"
        if stage == "poses":
            return (
                f"poses of {result['registered']} of {result['photos']} photos and {result['points']:,} points in {scene} (mean error "
                f"{result['error']:.2f} px)"
            )
        if stage == "masks":
            return f"id maps in {self._inside(result['folder'])}"
        if stage == "train":
            return f"a run of {result['steps']} steps of {result['method']} in {self._inside(result['run'])}"
        return f"{self.folder / 'overview.jpg'}, {self.folder / 'metrics.json'}"

    def _inside(self, path: str) -> Path:
        """A path of the state, which is relative to the output if it lies in it."""
        return self.folder / path

    def _relative(self, path: Path) -> str:
        try:
            return path.absolute().relative_to(self.folder.absolute()).as_posix()
        except ValueError:
            return str(path.absolute())

    # Photos and poses ---------------------------------------------------------------------------------

    def _cost_of_photos(self) -> str:
        from gradiseg_ns.poses.photos import photos_in

        photos = photos_in(self.flags.source)
        size = sum(path.stat().st_size for path in photos)
        return f"Copies {len(photos)} photos, up to {size / 1e6:,.0f} MB: {_minutes(0.1 * len(photos) + size / 2e7)}."

    def _photos(self) -> dict[str, Any]:
        import shutil

        from gradiseg_ns.poses.photos import copy_photos, photos_in
        from gradiseg_ns.tools.atomic import new_folder

        photos = photos_in(self.flags.source)
        scene = self.folder / "scene"
        with new_folder(scene / "images", replace=True) as making, progress("Photos", len(photos)) as advance:
            copied = copy_photos(photos, making, largest=self.flags.max_size, advance=advance)
        for name in ("transforms.json", "sparse_pc.ply"):  # those of the photos before
            (scene / name).unlink(missing_ok=True)
        shutil.rmtree(scene / "colmap", ignore_errors=True)
        if copied.told:
            say(copied.told)
        return {"names": copied.names, "sizes": copied.sizes, "changed": copied.changed}

    def _sizes(self) -> dict[str, tuple[int, int]]:
        return {
            name: (int(size[0]), int(size[1])) for name, size in self.state.result("photos")["sizes"].items()
        }

    def _cost_of_poses(self) -> str:
        from gradiseg_ns.poses.solving import pairs_of, seconds_of, way_of

        sizes = self._sizes()
        way, pairs = way_of(len(sizes), self.flags.matching), len(pairs_of(list(sizes), self.flags.matching))
        compared = "all pairs" if way == "exhaustive" else "neighbours by name"
        return f"pycolmap compares {compared} of {len(sizes)} photos, {pairs:,} in all: {_minutes(seconds_of(sizes, pairs))}, below 1 GB."

    def _poses(self) -> dict[str, Any]:
        from gradiseg_ns.poses.solving import solve
        from gradiseg_ns.poses.writing import good_points, write_scene_files
        from gradiseg_ns.tools.atomic import new_folder
        from gradiseg_ns.tools.terminal import stages

        scene, sizes = self.folder / "scene", self._sizes()
        with new_folder(scene / "colmap", replace=True) as making:
            with stages() as report:
                solved = solve(
                    scene / "images", sizes, matching=self.flags.matching, report=report,
                    model_folder=making / "sparse" / "0", least=self.flags.least_registered,
                )  # fmt: skip
            (making / "sparse").chmod(0o755)
        write_scene_files(solved, scene)
        if solved.missing:
            warn(
                f"{len(solved.missing)} of {len(sizes)} photos got no pose and are left out: {', '.join(solved.missing[:8])}"
                + ("..." if len(solved.missing) > 8 else ".")
            )
        return {
            "registered": len(solved.names), "photos": len(sizes), "missing": list(solved.missing),
            "points": int(good_points(solved).sum()), "error": float(solved.errors.mean()),
        }  # fmt: skip

    # Masks --------------------------------------------------------------------------------------------

    def _given_maps(self) -> Path | None:
        """Id maps that are not made here."""
        if self.flags.masks_dir is not None:
            return self.flags.masks_dir.absolute()
        if not self.state.has_poses or self.flags.model is not None or self.flags.phrases is not None:
            return None
        source = self.flags.source
        maps = (source if source.is_dir() else source.parent) / "object_mask"
        return maps.absolute() if maps.is_dir() else None

    def _scene(self, maps: str | None = None) -> Scene:
        from gradiseg_ns.sources.scene import load_scene

        if maps is None:
            return load_scene(self.scene_folder, dataparser=self.flags.dataparser, maps=False)
        return load_scene(self.scene_folder, dataparser=self.flags.dataparser, masks_dir=maps)

    def _count_and_size(self) -> tuple[int, float]:
        """Photos with poses, and their size in megapixels."""
        cameras = self._scene().manager.train_dataset.cameras
        return len(cameras), float((cameras.width * cameras.height).float().mean()) / 1e6

    def _cost_of_masks(self) -> str:
        given = self._given_maps()
        if given is not None:
            return f"The id maps of {given} are used as they are."
        count, size = self._count_and_size()
        model = self.flags.model or NO_WEIGHTS
        if model == NO_WEIGHTS:
            return (
                f"Regions of like colour in {count} photos, without weights: {_minutes(count * (1.2 + 0.4 * size))}, below 2 GB. They are "
                f"no objects, only a rough start; a SAM is better: --model {MODEL}."
            )
        return f"{model} on {count} photos: seconds a photo on a GPU, up to a minute on a CPU (not measured here)."

    def _masks(self) -> dict[str, Any]:
        given = self._given_maps()
        if given is not None:
            return {"folder": str(given), "made": False}
        flags, state = self.flags, self.state
        like = {"settings": self._settings("masks"), "photos": state.number("photos")}
        begun = state.begun.get("masks")
        before = (
            state.stages.get("masks", {}).get("result", {}).get("like")
            if flags.only != "masks" and flags.again != "masks"
            else None
        )
        if begun is not None and begun["like"] == like:
            folder = self._inside(begun["folder"])
        elif before == like:  # the photos are the same, but others of them may have poses now
            folder = self._inside(state.result("masks")["folder"])
        else:
            folder = _free_folder(
                self.folder / "masks" / (flags.model or NO_WEIGHTS).strip("/").rsplit("/", 1)[-1]
            )
        state.begun["masks"] = {"like": like, "folder": self._relative(folder)}
        state.save()
        Maps(
            data=self.scene_folder, model=flags.model or NO_WEIGHTS, phrases=flags.phrases, phrase_model=PHRASE_MODEL,
            output_dir=folder, dataparser=flags.dataparser, device=flags.device, offline=flags.offline,
        ).main()  # fmt: skip
        return {"folder": self._relative(folder), "made": True, "like": like}

    # Training -----------------------------------------------------------------------------------------

    def _method(self) -> str:
        return "gradiseg" if default_device(self.flags.device).startswith("cuda") else "gradiseg-lite"

    def _steps(self, method: str) -> int:
        from gradiseg_ns import config as register

        if self.flags.steps is not None:
            return self.flags.steps
        known: Any = register.gradiseg if method == "gradiseg" else register.gradiseg_lite
        return known.config.max_num_iterations

    def _cost_of_train(self) -> str:
        import os

        count, size = self._count_and_size()
        method, left = self._method(), self._left()
        memory = 2.0 + count * size * 4 * 4e-3
        if method == "gradiseg":
            return f"{left} steps of gradiseg on a GPU, {count} photos: not measured here."
        # measured on two cores with maps of regions; associating and voting take the first part
        seconds = (60 + 2 * count + left * (0.25 + 3.5 * size)) * 2 / max(1, min(8, os.cpu_count() or 1))
        return f"{left} steps of gradiseg-lite on the CPU, {count} photos: {_minutes(seconds)}, about {memory:.0f} GB. Ctrl-C ends it with a checkpoint."

    def _begun_run(self) -> dict[str, Any] | None:
        """The training that was interrupted, if it goes on."""
        begun = self.state.begun.get("train")
        if (
            begun is None
            or begun["settings"] != self._settings("train")
            or begun["after"] != self._after("train")
        ):
            return None
        return begun if _steps_done(self._inside(begun["run"])) else None

    def _left(self) -> int:
        begun = self._begun_run()
        if begun is None:
            return self._steps(self._method())
        return max(1, begun["steps"] - _steps_done(self._inside(begun["run"])))

    def _train(self) -> dict[str, Any]:
        from gradiseg_ns import runs

        begun, left = self._begun_run(), self._left()
        maps = self._inside(self.state.result("masks")["folder"]).absolute()
        options: dict[str, Any] = {
            "experiment_name": self.folder.absolute().name,
            "pipeline.datamanager.masks_dir": str(maps),
            "pipeline.datamanager.dataparser": self._scene().manager.config.dataparser,
            "steps_per_save": 1000,
        }
        if begun is None:
            method = self._method()
            steps = left
            options["pipeline.model.associate"] = self._associate(maps)
        else:
            method, steps, run = begun["method"], begun["steps"], self._inside(begun["run"])
            options["load_dir"] = run / "nerfstudio_models"
            options["pipeline.model.associate"] = begun["associate"]
            if (run / "associated_mask").is_dir():
                options["pipeline.datamanager.masks_dir"] = str((run / "associated_mask").resolve())
                options["pipeline.model.associate"] = "off"
        config = runs.make_config(
            method,
            self.scene_folder.absolute(),
            (self.folder / "runs").absolute(),
            steps=left,
            device=self.flags.device,
            options=options,
        )
        config.save_config()  # which settles the folder's name
        run = config.get_base_dir()
        record = {
            "run": self._relative(run), "method": method, "steps": steps, "associate": options["pipeline.model.associate"],
            "settings": self._settings("train"), "after": self._after("train"),
        }  # fmt: skip
        if begun is None:
            self.state.begun["train"] = record
            self.state.save()
        try:
            trainer, _ = runs.train(config)
        except SystemExit as ended:
            if _steps_done(run):
                self.state.begun["train"] = record
                self.state.save()
            if ended.code in (130, 143):
                say(
                    "Or repeat this `gradiseg new` as it was: it goes on with the training, and does the rest."
                )
            raise
        del trainer
        return {"run": self._relative(run), "method": method, "steps": steps}

    def _associate(self, maps: Path) -> str:
        """Whether the ids of the maps are to be made to agree: not those of phrases, nor those that agree as they are."""
        if self.flags.phrases is not None:
            return "off"
        if self.state.result("masks")["made"]:
            return "auto"
        scene = self._scene(str(maps))
        _ = scene.train  # loads the maps, and looks
        found = scene.manager.id_agreement
        return "off" if found is None or found.consistent else "auto"

    # What came out ------------------------------------------------------------------------------------

    def _cost_of_overview(self) -> str:
        return f"Renders the views that were held out of training: {_minutes(60)}."

    def _overview(self) -> dict[str, Any]:
        from nerfstudio.utils.eval_utils import eval_setup

        from gradiseg_ns.tools.atomic import write_text
        from gradiseg_ns.tools.pictures import overview, save_picture

        run = self._inside(self.state.result("train")["run"])
        _link(self.folder / "run", run)

        def here(config: Any) -> Any:
            """The output may have been moved as a whole since it was trained."""
            config.output_dir = (self.folder / "runs").absolute()
            manager = config.pipeline.datamanager
            config.data = manager.data = manager.dataparser.data = self.scene_folder.absolute()
            maps = Path(manager.masks_dir)
            if not maps.is_dir():
                known = self.folder.glob("runs/*/*/*/associated_mask")
                found = [path for path in known if path.parts[-2:] == maps.parts[-2:]]
                made = self._inside(self.state.result("masks")["folder"])
                manager.masks_dir = str((found[0] if found else made).absolute())
            return config

        pipeline: Any = eval_setup(run / "config.yml", test_mode="test", update_config_callback=here)[1]
        metrics: dict[str, Any] = {}
        if len(pipeline.datamanager.eval_dataset):
            metrics = pipeline.get_average_eval_image_metrics(get_std=True)
            told = f"PSNR {metrics['psnr']:.1f} dB, SSIM {metrics['ssim']:.3f}"
            if metrics.get("miou") is not None:
                told += f", mIoU of the masks {metrics['miou']:.1f} %"
            say(f"{len(pipeline.datamanager.eval_dataset)} held-out views: {told}.")
        else:
            say(
                "There are too few photos to hold some out: no figures, and the pictures are of training views."
            )
        write_text(self.folder / "metrics.json", json.dumps(metrics, indent=2))
        save_picture(overview(list(rows_of(pipeline))), self.folder / "overview.jpg", quality=92)
        counts = objects_of(run)
        write_text(
            self.folder / "objects.csv",
            _csv([("id", "name", "gaussians"), *counts]),
        )
        return {"objects": [[i, name, count] for i, name, count in counts]}

    def _tell_next(self) -> None:
        """What to look at, and what to type."""
        link = self.folder / "run"
        run = link if link.exists() else self._inside(self.state.result("train")["run"])
        objects = self.state.result("overview")["objects"]
        named = [(i, name, count) for i, name, count in objects if i != 0 and count]
        shown = ", ".join(
            f"{i}" + (f" ({name})" if name != f"object {i}" else "") for i, name, _ in named[:8]
        )
        say(f"{len(named)} objects, by size: {shown or 'none'}; all are in {self.folder / 'objects.csv'}")
        first = str(named[0][0]) if named else "ID"
        word = shlex.quote(str(run))
        say(
            f"Look at {self.folder / 'overview.jpg'}; the numbers are the objects' ids. Then:\n"
            f"  ns-viewer --load-config {shlex.quote(str(run / 'config.yml'))}      # click, name, merge and move objects\n"
            f"  gradiseg export {word} --objects {first}      # an object as a PLY, in {run / 'export'}\n"
            f"  gradiseg edit {word} --help      # remove, tint, move objects",
            title="Next:",
        )
        if self._settings("masks").get("model") == NO_WEIGHTS:
            say(
                f"The masks are regions of like colour. For objects, once you have weights: the same command with --model {MODEL}"
            )


@dataclass
class Maps(Masks):
    """`gradiseg masks`, where the next command comes of itself."""

    def _tell(self, folder: Path, photos: Any, phrases: Any, counts: Any) -> None:
        from gradiseg_ns.sources.scene import SourceError

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


def rows_of(pipeline: GradisegPipeline) -> Iterator[list[Captioned]]:
    """Rows of the overview: photo, render, objects, and objects on the photo with their ids."""
    import numpy as np
    from PIL import Image

    from gradiseg_ns.tools.pictures import to_image

    pipeline.eval()
    model, manager = pipeline.model, pipeline.datamanager
    held_out = len(manager.eval_dataset) > 0
    views: Any = manager.fixed_indices_eval_dataloader if held_out else _training_views(pipeline)
    names = [
        path.stem for path in (manager.eval_dataset if held_out else manager.train_dataset).image_filenames
    ]
    count = min(PICTURES, len(names))
    for k in (len(names) * i // count for i in range(count)):
        camera, batch = views[k]
        outputs: Any = model.get_outputs_for_camera(camera)
        photo = model.get_gt_img(batch["image"])[..., :3]
        mse = float(((photo - outputs["rgb"]) ** 2).mean())
        ids = outputs.object_ids.cpu().numpy()
        colors = outputs["segmentation"]
        shown = to_image(photo * 0.45 + colors * 0.55)
        _write_ids(shown, ids)
        yield [
            (f"{names[k]} ({'held out' if held_out else 'trained on'})", to_image(photo)),
            (f"render, PSNR {-10 * np.log10(max(mse, 1e-10)):.1f} dB", to_image(outputs["rgb"])),
            (f"segmentation, {len(np.unique(ids))} ids", to_image(colors)),
            ("ids of the largest objects", shown if isinstance(shown, Image.Image) else to_image(shown)),
        ]


def _training_views(pipeline: GradisegPipeline) -> list[tuple[Any, Any]]:
    manager = pipeline.datamanager
    cameras = manager.train_dataset.cameras
    return [
        (cameras[k : k + 1].to(manager.device), {"image": item["image"].to(manager.device)})
        for k, item in enumerate(manager.cached_train)
    ]


def _write_ids(picture: Any, ids: Any) -> None:
    """Write the ids of the largest objects where they are widest."""
    import cv2
    import numpy as np
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    found, counts = np.unique(ids, return_counts=True)
    for k in np.argsort(-counts)[:_LEGIBLE]:
        inside = cv2.distanceTransform(np.pad(ids == found[k], 1).astype(np.uint8), cv2.DIST_L2, 5)[
            1:-1, 1:-1
        ]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        draw.text(
            (int(x), int(y)), str(found[k]), fill="white", stroke_width=2, stroke_fill="black", anchor="mm"
        )


def objects_of(run: Path) -> list[tuple[int, str, int]]:
    """Id, name and Gaussians of each object of a run, the largest first."""
    import torch

    from gradiseg_ns import sources
    from gradiseg_ns.cli.common import labelled_splat

    splat, table = labelled_splat(sources.load_run(run))
    assert splat.labels is not None
    ids, counts = torch.unique(splat.labels, return_counts=True)
    count = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    rows = [(i, name, count.get(i, 0)) for i, name in zip(table.ids, table.names, strict=True)]
    return sorted(rows, key=lambda row: -row[2])


# ----------------------------------------------------------------------------------------------------------- pieces


def _fingerprint(source: Path) -> str | None:
    """The photos of a folder by name, size and time, in some letters; None if they are not there any more."""
    import hashlib

    from gradiseg_ns.poses.photos import photos_in
    from gradiseg_ns.poses.solving import PosesError

    try:
        photos = photos_in(source)
    except PosesError:
        return None
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in photos]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _steps_done(run: Path) -> int:
    """Steps of the newest checkpoint that can be read; 0 without one."""
    from gradiseg_ns.sources import checkpoints

    good = [
        path for path in checkpoints.in_folder(run / "nerfstudio_models") if checkpoints.fault(path) is None
    ]
    return checkpoints.step_of(good[0]) + 1 if good else 0


def _free_folder(wanted: Path) -> Path:
    """This name, or with -2, -3, ... behind it, where nothing is yet."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _link(link: Path, target: Path) -> None:
    """A short name for a folder, where the system has such."""
    import contextlib
    import os

    with contextlib.suppress(OSError, ValueError):
        if link.exists() and not link.is_symlink():
            return
        making = link.with_name(f".{link.name}-{os.getpid()}")
        making.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        os.replace(making, link)


def _minutes(seconds: float) -> str:
    return "less than a minute" if seconds < 45 else f"about {max(1, round(seconds / 60)):,} min"


def _csv(rows: Sequence[tuple[Any, ...]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
