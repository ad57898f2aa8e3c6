"""`gradiseg masks`: id maps of photos, by a pretrained model or by regions of like colour."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gradiseg_ns.cli.common import PICTURES, MaybePath, MaybeText
from gradiseg_ns.tools.choices import DataParser
from gradiseg_ns.tools.terminal import default_device, progress, say, warn

if TYPE_CHECKING:
    from gradiseg_ns.data.photos import Tone
    from gradiseg_ns.masks.types import EverythingMaker, Mask, PhraseMaker, Picture

MODEL = "facebook/sam2.1-hiera-small"
PHRASE_MODEL = "IDEA-Research/grounding-dino-tiny"
FOLDER = "sam_mask"
REPORT = "masks.json"
"""File in the folder of maps: how they were made. A folder with it is ours."""
RESOLUTION = 1600
_LEAST = 1e-4
"""Masks of which less is seen, in parts of the photo, are left out."""


@dataclass
class Masks:
    """Make id maps of photos: of everything in them, or of what phrases name.

    Each photo gets a PNG of object ids, as `--masks-dir` takes it, and a file with the parts of the objects. Ids of everything are
    unrelated between photos: `gradiseg associate` or `--pipeline.model.associate` make them agree. With phrases an id means a phrase.
    An interrupted command goes on where it was when it is repeated.
    """

    data: MaybePath = None
    """Folder of a scene, as ns-train takes it. Give this or --photos."""
    photos: MaybePath = None
    """A plain folder of photos, which need no poses."""
    model: str = MODEL
    """What makes the masks: a SAM of the Hugging Face hub, a folder with its files, or `regions`: regions of like colour, which need no weights and are worse (docs/masks.md)."""
    phrases: MaybeText = None
    """What to look for, separated by semicolons: "mug; red block". Default: everything."""
    phrase_model: str = PHRASE_MODEL
    """A Grounding DINO of the hub, or a folder: it finds the boxes of the phrases, and --model makes masks of them. A SAM 3 as --model does both itself."""
    output_dir: MaybePath = None
    """Where the maps go. Default: `sam_mask` in the data folder, or beside the folder of photos."""
    resolution: int = RESOLUTION
    """Longer side, in pixels, at which masks are made. Maps have the size of the photos."""
    dataparser: DataParser = "nerfstudio-data"
    """Reader of --data. Without a transforms.json, a COLMAP model is looked for. Options follow the reader's name at the end, as with ns-train: `... colmap --downscale-factor 2`."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""
    offline: bool = False
    """Never reach for the network: weights from a folder or from the hub's cache."""

    def main(self) -> None:
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.tools.atomic import check_writable

        if (self.data is None) == (self.photos is None):
            raise SourceError("give either --data (a scene) or --photos (a folder of photos).")
        if self.resolution < 32:
            raise SourceError(f"--resolution {self.resolution}: expected 32 pixels or more.")
        phrases = _phrases(self.phrases)
        photos, default = self._photos()
        folder = self.output_dir or default
        settings = self._settings(phrases)
        check_settings(folder, settings)
        check_writable(folder / REPORT)
        left = {name: path for name, path in photos.items() if not is_done(folder, name, path)}
        if len(left) < len(photos):
            say(f"{len(photos) - len(left)} of {len(photos)} photos are done already in {folder}.")
        if left:
            maker = self._maker(phrases)
            _write_report(folder, {"settings": settings})
            try:
                make_maps(left, photos, folder, maker, phrases, self.resolution)
            except KeyboardInterrupt:
                done = sum(is_done(folder, name, path) for name, path in photos.items())
                say(
                    f"Interrupted: {done} of {len(photos)} photos are done. The same command goes on from here."
                )
                sys.exit(130)
        counts = summarize(folder, photos, phrases, settings)
        draw(folder, photos, phrases)
        say(f"Saved {folder}; look at {folder / 'overview.jpg'}")
        self._tell(folder, photos, phrases, counts)

    def _photos(self) -> tuple[dict[str, Path], Path]:
        """Photos by the names of their maps, and the folder that the maps go to by default."""
        from gradiseg_ns.sources.capture import SourceError, load_capture, photo_names

        if self.data is not None:
            scene = load_capture(self.data, dataparser=self.dataparser, maps=False)
            sets = (scene.manager.train_dataset, scene.manager.eval_dataset)
            found = list(dict.fromkeys(Path(path) for each in sets for path in each.image_filenames))
            default = scene.data_folder / FOLDER
        else:
            assert self.photos is not None
            default = self.photos.absolute().parent / FOLDER
            found = photos_below(self.photos, self.output_dir or default)
        if not found:
            raise SourceError(f"--data {self.data}: the scene has no photos.")
        return dict(zip(photo_names(found, found), found, strict=True)), default

    def _settings(self, phrases: Sequence[str]) -> dict[str, Any]:
        """What the maps depend on."""
        from gradiseg_ns.masks import WEIGHTLESS

        def named(model: str) -> str:
            given = Path(model).expanduser()
            return str(given.resolve()) if model not in WEIGHTLESS and given.is_dir() else model

        settings: dict[str, Any] = {"model": named(self.model), "resolution": self.resolution}
        if phrases:
            settings |= {"phrases": list(phrases), "phrase_model": named(self.phrase_model)}
        return settings

    def _maker(self, phrases: Sequence[str]) -> EverythingMaker | PhraseMaker:
        """What makes the masks.

        Raises:
            WeightsError: a model cannot be had, or is of the wrong kind.
        """
        from gradiseg_ns import masks
        from gradiseg_ns.masks.weights import WeightsError

        device = default_device(self.device)
        try:
            maker = masks.load(self.model, device=device, offline=self.offline)
            if phrases:
                return self._phrase_maker(maker, device)
        except WeightsError as error:
            if phrases:
                raise
            raise WeightsError(
                f"{error}\n`--model regions` needs no weights; its masks are worse (docs/masks.md)."
            ) from error
        if not isinstance(maker, masks.EverythingMaker):
            takes = "phrases: add --phrases" if isinstance(maker, masks.PhraseMaker) else "clicks"
            raise WeightsError(
                f"--model {self.model} finds nothing by itself: it takes {takes}. Expected a SAM such as {MODEL}, or regions."
            )
        return maker

    def _phrase_maker(self, maker: object, device: str) -> PhraseMaker:
        """What makes masks of phrases: the maker itself if it can, else --phrase-model with it."""
        from gradiseg_ns import masks
        from gradiseg_ns.masks.weights import WeightsError

        if isinstance(maker, masks.PhraseMaker):
            return maker
        if not isinstance(maker, masks.PromptMaker):
            say(f"--model {self.model} makes no masks of boxes: the wand makes those of the phrases.")
            maker = masks.load("wand")
            assert isinstance(maker, masks.PromptMaker)
        found = masks.load(self.phrase_model, device=device, offline=self.offline, prompts=maker)
        if not isinstance(found, masks.PhraseMaker):
            raise WeightsError(
                f"--phrase-model {self.phrase_model} takes no phrases: expected a Grounding DINO such as {PHRASE_MODEL}."
            )
        return found

    def _tell(
        self, folder: Path, photos: Mapping[str, Path], phrases: Sequence[str], counts: Mapping[str, int]
    ) -> None:
        """What was found, and what comes next.

        Raises:
            SourceError: nothing was found at all.
        """
        from gradiseg_ns.data.id_maps import read_frame_maps
        from gradiseg_ns.sources.capture import SourceError

        for phrase in phrases:
            seen = counts[phrase]
            say(
                f"{phrase}: in {seen} of {len(photos)} photos."
                if seen
                else f"{phrase}: nothing in the photos is like it."
            )
        if not phrases:
            say(
                f"{counts['objects'] / len(photos):.0f} whole objects a photo, and {counts['parts'] / len(photos):.0f} parts of them."
            )
        if not any(counts.values()):
            what = "anything that is like the phrases" if phrases else "any mask"
            raise SourceError(
                f"--model {self.model} did not find {what}: the maps in {folder} hold no object."
            )
        maps = shlex.quote(str(folder.absolute()))
        scene = "SCENE" if self.data is None else shlex.quote(str(self.data))
        train = f"ns-train gradiseg-lite --data {scene} --pipeline.datamanager.masks-dir {maps}"
        if self.data is None:
            say("Where SCENE is these photos with their poses (ns-process-data makes them), go on with:")
        if phrases:
            say(f"An id means a phrase, in all photos. Next: {train}")
        else:
            say(
                "Ids are not the same in all photos yet. Next, as one command that makes them agree in training:\n"
                f"  {train} --pipeline.model.associate auto\n"
                f"or first the maps alone:\n  gradiseg associate --data {scene} --masks-dir {maps}"
            )
        if self.data is not None and read_frame_maps(self.data):
            warn(
                "transforms.json names maps of its own (object_mask_path), which go before any folder: take them out of it to use "
                "these."
            )


# ---------------------------------------------------------------------------------------------------- what is asked


def _phrases(given: str | None) -> list[str]:
    """The phrases of a flag.

    Raises:
        SourceError: there are none in it, or one twice.
    """
    from gradiseg_ns.sources.capture import SourceError

    if given is None:
        return []
    found = [" ".join(phrase.split()) for phrase in given.split(";")]
    found = [phrase for phrase in found if phrase]
    if not found:
        raise SourceError(
            '--phrases is empty: expected phrases separated by semicolons, like "mug; red block".'
        )
    twice = sorted({phrase for phrase in found if [p.lower() for p in found].count(phrase.lower()) > 1})
    if twice:
        raise SourceError(f"--phrases names {twice[0]} twice: expected each phrase once.")
    return found


def photos_below(folder: Path, output: Path) -> list[Path]:
    """The photos in a folder and those below it, by name; nothing hidden, and nothing of the results.

    Raises:
        SourceError: there are none.
    """
    from gradiseg_ns.data.id_maps import PHOTO_SUFFIXES
    from gradiseg_ns.sources.capture import SourceError

    if not folder.is_dir():
        raise SourceError(f"--photos {folder}: no such folder.")
    known = set(PHOTO_SUFFIXES) - {".exr"}
    output = output.absolute()
    found = [
        path for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in known and path.is_file() and output not in path.absolute().parents
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip
    if not found:
        raise SourceError(f"--photos {folder} holds no photos: expected {', '.join(sorted(known))}.")
    return found


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Look whether a folder is new, or holds maps that were made alike.

    Raises:
        WriteError: it was made by something else, or with other settings.
    """
    from gradiseg_ns.tools.errors import WriteError
    from gradiseg_ns.tools.json_files import read_json

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        before = read_json(folder / REPORT)["settings"]
        differing = {key for key in {*before, *settings} if before.get(key) != settings.get(key)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WriteError(
            f"--output-dir {folder} exists and was not made by `gradiseg masks` (it has no {REPORT}): nothing is overwritten. Name "
            "another folder."
        ) from None
    if differing:
        told = "; ".join(
            f"{key.replace('_', '-')} was {_shown(before.get(key))} and is {_shown(settings.get(key))}"
            for key in sorted(differing)
        )
        raise WriteError(
            f"--output-dir {folder} holds maps that were made otherwise: {told}. Repeat the command as it was to go on with it, or "
            "name another folder."
        )


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    return "; ".join(str(each) for each in value) if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------------- the work


def map_path(folder: Path, name: str) -> Path:
    """Where the map of a photo is."""
    return folder / f"{name}.png"


def levels_path(folder: Path, name: str) -> Path:
    """Where all masks of a photo are (`masks.levels.Painted`)."""
    from gradiseg_ns.masks.levels import LEVELS

    return folder / LEVELS / f"{name}.npz"


def is_done(folder: Path, name: str, photo: Path) -> bool:
    """Whether a photo has its map and levels, of its size."""
    from PIL import Image

    path = map_path(folder, name)
    if not (path.is_file() and levels_path(folder, name).is_file()):
        return False
    try:
        with Image.open(path) as ids, Image.open(photo) as image:
            return ids.size == image.size
    except OSError:
        return False


def make_maps(
    photos: Mapping[str, Path],
    all_photos: Mapping[str, Path],
    folder: Path,
    maker: EverythingMaker | PhraseMaker,
    phrases: Sequence[str],
    resolution: int = RESOLUTION,
) -> None:
    """Write map and levels of each photo, one photo after the other. A photo's files appear when they are whole.

    Args:
        photos: those to be done, by the names of their maps.
        all_photos: the whole set: it says what values of photos of more than 8 bits mean.
        folder: where the maps go.
        maker: makes masks of everything, or of the phrases if there are any.
        phrases: what to look for.
        resolution: longer side, in pixels, at which masks are made.

    Raises:
        PhotoError: a photo cannot be read.
        WriteError: a map cannot be written.
    """
    from gradiseg_ns.data.photos import tone_of
    from gradiseg_ns.masks.types import EverythingMaker, PhraseMaker
    from gradiseg_ns.tools.atomic import write_files, write_text

    if phrases:
        names = {"0": "everything else", **{str(1 + k): phrase for k, phrase in enumerate(phrases)}}
        write_text(folder / "object_names.json", json.dumps(names, indent=1, ensure_ascii=False))
    tone = tone_of(list(all_photos.values()))
    if tone.told:
        say(tone.told)
    start = perf_counter()
    with progress("Making masks", len(photos)) as advance:
        for name, path in photos.items():
            picture, size = read_picture(path, resolution, tone)
            if phrases:
                assert isinstance(maker, PhraseMaker)
                found = maker.phrases(picture, phrases)
            else:
                assert isinstance(maker, EverythingMaker)
                found = maker.everything(picture)
            ids, levels = _maps(found, picture, phrases, size)
            write_files({levels_path(folder, name): [levels], map_path(folder, name): [ids]})
            advance()
    say(f"{(perf_counter() - start) / len(photos):.1f} s a photo.")


def read_picture(path: Path, resolution: int, tone: Tone | None = None) -> tuple[Picture, tuple[int, int]]:
    """A photo as it lies in the file, not larger than the resolution, transparent pixels white; and the file's height and width.

    Raises:
        PhotoError: it cannot be read.
    """
    import torch
    from PIL import Image

    from gradiseg_ns.data.photos import read_photo
    from gradiseg_ns.masks.types import Picture

    photo = read_photo(path, tone=tone)
    size = (photo.shape[0], photo.shape[1])
    scale = resolution / max(size)
    if scale < 1:
        smaller = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
        photo = Image.fromarray(photo).resize(smaller, resample=Image.Resampling.BILINEAR)
    import numpy as np

    values = torch.from_numpy(np.array(photo)).float() / 255
    if values.shape[2] == 3:
        return Picture(values), size
    alpha = values[..., 3]
    return Picture(values[..., :3] * alpha[..., None] + 1 - alpha[..., None], alpha), size


def _maps(
    found: Sequence[Mask], picture: Picture, phrases: Sequence[str], size: tuple[int, int]
) -> tuple[bytes, bytes]:
    """A photo's map as a PNG, and its levels, both of the photo's size."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from gradiseg_ns.data.id_maps import resize_id_map
    from gradiseg_ns.masks.levels import paint, paint_phrases

    height, width = picture.rgb.shape[:2]
    painted = paint(found, height, width, least=round(_LEAST * height * width))
    painted = replace(painted, maps=np.stack([resize_id_map(level, *size) for level in painted.maps]))
    ids = painted.maps[0]
    if phrases:
        ids = resize_id_map(paint_phrases(found, phrases, height, width), *size)
    image = Image.fromarray(ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.uint16))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue(), painted.to_bytes()


# ----------------------------------------------------------------------------------------------------- what is told


def _write_report(folder: Path, report: Mapping[str, Any]) -> None:
    from gradiseg_ns.tools.atomic import write_text

    write_text(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False))


def summarize(
    folder: Path, photos: Mapping[str, Path], phrases: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, int]:
    """Write masks.json with what each photo holds.

    Returns:
        the number of photos that show each phrase; without phrases, of whole `objects` and of `parts` in all photos.
    """
    from gradiseg_ns.masks.levels import Painted

    counts = dict.fromkeys(phrases, 0) if phrases else {"objects": 0, "parts": 0}
    told: dict[str, Any] = {}
    for name in photos:
        painted = Painted.read(levels_path(folder, name), with_maps=False)
        if phrases:
            told[name] = {phrase: painted.phrase.count(phrase) for phrase in phrases}
            for phrase in phrases:
                counts[phrase] += told[name][phrase] > 0
        else:
            whole = painted.level.count(0)
            told[name] = {"objects": whole, "parts": len(painted) - whole}
            counts["objects"] += whole
            counts["parts"] += len(painted) - whole
    _write_report(folder, {"settings": settings, "photos": told})
    return counts


def draw(folder: Path, photos: Mapping[str, Path], phrases: Sequence[str], side: int = 480) -> None:
    """Write overview.jpg: some photos, their maps, and the parts of the objects."""
    import numpy as np
    import torch
    from PIL import Image

    from gradiseg_ns.data.id_maps import read_id_map
    from gradiseg_ns.masks.levels import Painted
    from gradiseg_ns.scene.objects import colorize
    from gradiseg_ns.tools.pictures import overview, save_picture, to_image

    names = list(photos)
    count = min(PICTURES, len(names))
    rows = []
    for name in (names[len(names) * k // count] for k in range(count)):
        picture, _ = read_picture(photos[name], side)
        painted = Painted.read(levels_path(folder, name))
        parts = painted.maps[0].copy()
        for level in painted.maps[1:]:
            parts = np.where(level > 0, level, parts)
        first = "; ".join(phrases) if phrases else "whole objects"
        second = "objects one by one" if phrases else "with their parts"
        row = [(name, to_image(picture.rgb))]
        for title, ids in ((first, read_id_map(map_path(folder, name))), (second, parts)):
            colored = colorize(torch.from_numpy(ids.astype(np.int64)))
            colored[torch.from_numpy(ids == 0)] = 0
            row.append((title, to_image(colored).resize(row[0][1].size, Image.Resampling.NEAREST)))
        rows.append(row)
    save_picture(overview(rows), folder / "overview.jpg", quality=90)
