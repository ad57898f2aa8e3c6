"""`gradiseg find`: the object that a phrase means."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from gradiseg_ns.cli.common import MaybePath, MaybeText, Switch, cell, edited_splat, names_by_id
from gradiseg_ns.tools.atomic import check_writable
from gradiseg_ns.tools.terminal import console, default_device, say, stages

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.rendering import Camera
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources.run import Run
    from gradiseg_ns.words import Finder, Found, Looks, View

MODEL = "openai/clip-vit-base-patch32"
"""What compares pictures and words, if nothing else is named."""


@dataclass(kw_only=True)
class Looking:
    """Where verbs look at objects from, and with which model: their flags."""

    model: MaybeText = None
    """What compares pictures and words: a CLIP or a SigLIP of the Hugging Face hub, or a folder with its files. Default: openai/clip-vit-base-patch32."""
    photos: Switch = False
    """Look at the run's photos instead of renders. They show the scene before its edits."""
    data: MaybePath = None
    """Folder of the photos and their cameras. Default: the run's folder."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""
    offline: Switch = False
    """Never reach for the network: weights from a folder or from the hub's cache."""

    def load_model(self) -> Any:
        """The model.

        Raises:
            WeightsError: it cannot be had, or compares no pictures and words.
        """
        from gradiseg_ns.masks.likeness import Likeness

        return Likeness.load(self.model or MODEL, device=default_device(self.device), offline=self.offline)

    def eyes(
        self, run: Run | None, splat: Splat, table: ObjectTable
    ) -> tuple[Sequence[Any], Callable[[Any], View]]:
        """Cameras, in a form that the function beside them takes, and what they see of a splat with labels.

        Args:
            run: that the splat comes from; None: virtual cameras look at it.
            splat: with labels, edits applied.
            table: its objects.

        Raises:
            SourceError: photos were asked for and there are none, or they do not show the splat as it is.
        """
        from gradiseg_ns.segment.cameras import virtual_cameras
        from gradiseg_ns.segment.loop import resized
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.votes.rendered import spread_views
        from gradiseg_ns.words import HEIGHT, LOOKS, View

        if self.photos:
            if run is None:
                raise SourceError("--photos: a splat file has no photos. Leave the flag out, or give a run.")
            _check_unchanged(run)
        background = None if run is None else run.background.to(splat.means.device)
        if run is not None and self.photos:
            train = run.capture(maps=False, data=self.data).train
            chosen = spread_views(len(train), LOOKS)
            posed = [(train.cameras[i], train.images[i]) for i in chosen]
        else:
            cameras: list[Camera] = []
            if run is not None:
                try:
                    cameras = run.capture(maps=False, data=self.data).training_cameras(LOOKS)
                except SourceError as error:
                    if self.data is not None:
                        raise
                    say(f"{error} Until then virtual cameras around the splat are used.")
            cameras = cameras or virtual_cameras(splat)
            posed = [(cameras[i], None) for i in spread_views(len(cameras), LOOKS)]

        def see(view: tuple[Camera, Tensor | None]) -> View:
            camera, photo = resized(view[0], HEIGHT), view[1]
            picture, ids = _look(splat, table, camera, background)
            return View(camera, ids, picture if photo is None else photo)

        return posed, see

    def looks(self, finder: Finder, run: Run | None, splat: Splat, table: ObjectTable) -> Looks:
        """The best views of all objects of a splat, with progress."""
        posed, see = self.eyes(run, splat, table)
        with stages() as show:
            return finder.look(posed, see, key="looks", progress=show)


@dataclass
class Find(Looking):
    """Find the object that a phrase means: `gradiseg find RUN "red mug"`.

    A model compares the phrase with crops of each object's best views. The score tells how much more probable the phrase is than
    words that fit everything: below 0.5 it is only the best guess. An object that has the phrase for a name comes first; then no
    model is asked unless --model names one. Writes a picture of the best objects.
    """

    splat: tyro.conf.Positional[Path]
    """A gradiseg run (its config.yml, or the folder it is in), or a PLY with object ids. Only open runs you trust: their config.yml can execute code."""
    phrase: tyro.conf.Positional[str]
    """What to look for, such as "red mug"."""
    top: int = 5
    """Objects that are listed and drawn."""
    names_only: Switch = False
    """Compare names alone, without a model."""
    output_dir: MaybePath = None
    """Folder of the picture. Default: `found` beside the splat."""

    def main(self) -> None:
        from gradiseg_ns.formats.export import safe_name
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.tools.pictures import save_picture
        from gradiseg_ns.words import Finder, PhraseError, by_name, plain
        from gradiseg_ns.words.sheet import sheet

        if self.top < 1:
            raise SourceError(f"--top {self.top}: expected 1 or more.")
        if self.names_only and self.model is not None:
            raise SourceError("give either --model or --names-only.")
        if not plain(self.phrase):
            raise PhraseError(f"the phrase {self.phrase!r}: expected words such as red mug.")
        folder = self.output_dir or (self.splat if self.splat.is_dir() else self.splat.parent) / "found"
        path = folder / f"{safe_name(plain(self.phrase)) or 'found'}.png"
        check_writable(path)
        run, splat, table = open_labelled(self.splat, default_device(self.device))
        names = names_by_id(table)
        finder = Finder(self._model(*by_name(self.phrase, names)))
        looks = self.looks(finder, run, splat, table)
        found = finder.find(self.phrase, (), _nothing, names=names, key="looks")[: self.top]
        self._tell(found, names, by_model=finder.model is not None)
        if found:
            captions = {one.id: _caption(place, one, names) for place, one in enumerate(found, 1)}
            save_picture(sheet(captions, looks), path)
            say(f"Look at {path}")

    def _model(self, named: list[int], partly: list[int]) -> Any:
        """The model; None if names have to do.

        Raises:
            WeightsError: there is none, and no name has the phrase's words.
        """
        from gradiseg_ns.tools.weights import WeightsError

        if self.names_only:
            return None
        if named and self.model is None:
            say("Only names were compared. --model also ranks the other objects by their looks.")
            return None
        try:
            return self.load_model()
        except WeightsError as error:
            if not named and not partly:
                raise WeightsError(
                    f"{error} No object's name has the words {self.phrase!r} either."
                ) from error
            say(f"{error} Only names were compared.")
            return None

    def _tell(self, found: list[Found], names: dict[int, str], *, by_model: bool) -> None:
        from rich.table import Table

        if not found:
            say(f"No object's name has the words {self.phrase!r}. The scene has {', '.join(names.values())}.")
            return
        table = Table(title=cell(f'Objects for "{self.phrase}"'))
        for column in ("id", "name", "score", "views"):
            table.add_column(column, justify="left" if column == "name" else "right")
        for one in found:
            score = "its name" if one.named else f"{one.score:.2f}"
            table.add_row(
                str(one.id), cell(names.get(one.id, "")), score, str(one.views) if by_model else "-"
            )
        console().print(table)
        best = found[0]
        if not best.likely:
            say(
                f"No object is likely to be that: {best.score:.2f} is below 0.5, where the phrase fits better than words that fit everything."
            )
        # Only runs can be exported.
        if self.splat.suffix.lower() != ".ply":
            say(f"Take it along: gradiseg export {shlex.quote(str(self.splat))} --objects {best.id}")


def open_labelled(path: Path, device: str) -> tuple[Run | None, Splat, ObjectTable]:
    """The run if it is one, its splat with labels and edits, and its objects; a PLY's likewise.

    Raises:
        SourceError: its Gaussians have no objects.
    """
    import torch

    from gradiseg_ns.formats.read_ply import read_ply
    from gradiseg_ns.formats.sidecar import read_objects
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.sources.capture import SourceError
    from gradiseg_ns.sources.run import load_run

    if path.is_dir() or path.name == "config.yml":
        run = load_run(path, device)
        return run, *edited_splat(run)
    splat = read_ply(path).to(device)
    if splat.labels is None or not bool((splat.labels >= 0).any()):
        raise SourceError(
            f"{path} has no object ids (the property object_id): expected a splat with objects. "
            f"`gradiseg segment {path}` finds some."
        )
    known = read_objects(path) or ObjectTable.create([])
    more = set(torch.unique(splat.labels).tolist()) - set(known.ids)
    return (
        None,
        splat,
        known if not more - {-1} else ObjectTable.create([*known.ids, *more], names_by_id(known)),
    )


def _check_unchanged(run: Run) -> None:
    """Whether photos show a run as its edits make it.

    Raises:
        SourceError: edits move, tint or take away something.
    """
    from gradiseg_ns.editing.edit_list import EditList
    from gradiseg_ns.editing.edits import Assign, Merge, Rename
    from gradiseg_ns.ns_callers import edits_path
    from gradiseg_ns.sources.capture import SourceError

    path = edits_path(run.config_path)
    steps = EditList.load(path).steps if path is not None else []
    changed = [s.label for s in steps if not all(isinstance(e, (Assign, Merge, Rename)) for e in s.edits)]
    if changed:
        raise SourceError(
            f"--photos: photos do not show the edits of {path} ({', '.join(changed[:3])}{', ...' * (len(changed) > 3)}). "
            "Leave the flag out, or ignore the edits with GRADISEG_EDITS=off."
        )


def _look(
    splat: Splat, table: ObjectTable, camera: Camera, background: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A picture [h, w, 3] of a splat with labels, and the object ids [h, w] that it shows."""
    from gradiseg_ns.scene.objects import MIN_ACCUMULATION
    from gradiseg_ns.votes.labels import render_classes

    assert splat.labels is not None
    projection = splat.project(camera)
    rgb, _ = splat.render(camera, background, projection=projection)
    classes, _ = render_classes(projection, table.classes_of(splat.labels), min_weight=MIN_ACCUMULATION)
    return rgb, table.ids_of(classes)


def _nothing(camera: Any) -> View:
    raise AssertionError("the looks are kept")


def _caption(place: int, one: Found, names: dict[int, str]) -> str:
    return f"{place}. {one.id} {names.get(one.id, '')}: {'by its name' if one.named else f'{one.score:.2f}'}"
