"""Affordances taken over from a few painted views of a scene: every photo for itself, and through the splat.

    python benchmarks/affordance.py --data examples/demo_scene --splat outputs/demo/.../config.yml --model FOLDER --sweep

Some training views with their exact part maps are the exemplars. All other views are judged against theirs: the maps
that each photo alone gives (2-D), and the maps of the labels that the Gaussians got from the other training views (3-D).
In a second setting the exemplars are mirrored, in a third their colours are shifted too, so that nothing looks as it does in the
scene. ``--sweep`` also measures each option alone.

Without ``--model`` no learnt model is used but `HandmadeTokens`, colours and edges. That is a baseline that needs no weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from gradiseg_ns import rendering, sources
from gradiseg_ns.affordance import DEFAULT_K, DEFAULT_RESOLUTION
from gradiseg_ns.affordance.exemplars import Exemplar
from gradiseg_ns.affordance.tokens import PatchTokens, TokenModel
from gradiseg_ns.affordance.transfer import affordance_maps, area_mean, class_map, prepare
from gradiseg_ns.data.id_maps import read_object_names
from gradiseg_ns.evaluation.affordance import AffordanceScore, evaluate
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.scene.objects import object_colors
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority


@dataclass
class HandmadeTokens:
    """Tokens without a learnt model: histograms of colours and of edge directions, of the patch and around it.

    Colours are soft bins of RGB, edges soft bins of the gradient's direction. Histograms are compared by their Bhattacharyya
    coefficient, which is the inner product of their square roots. They know nothing of shapes or objects.
    """

    resolution: int = DEFAULT_RESOLUTION
    patch: int = 14
    """As of DINOv2, so that grids are equal; nothing is resized."""
    colors: int = 4
    """Bins along each of red, green and blue."""
    directions: int = 8
    surroundings: tuple[int, ...] = (1, 3, 5)
    """Widths in patches that histograms are taken over."""

    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of an image uint8 [H, W, 3]."""
        scale = self.resolution / max(image.shape[:2]) / self.patch
        rows, columns = (max(1, round(side * scale)) for side in image.shape[:2])
        rgb = torch.tensor(np.ascontiguousarray(image)).float() / 255
        bins = (1 - (rgb[..., None] * (self.colors - 1) - torch.arange(self.colors)).abs()).clamp(min=0)
        color = torch.einsum("yxi,yxj,yxk->yxijk", *bins.unbind(dim=2)).flatten(2)
        down, across = torch.gradient(rgb.mean(dim=-1))
        strength = torch.hypot(down, across)
        place = torch.atan2(down, across) / torch.pi % 1 * self.directions
        away = (place[..., None] - torch.arange(self.directions)).abs()
        away = torch.minimum(away, self.directions - away)
        edges = (1 - away).clamp(min=0) * strength[..., None]
        flat = (0.05 - strength).clamp(min=0)[..., None]  # a bin for no edge at all
        parts = []
        for maps in (color, torch.cat([edges, flat], dim=-1)):
            grid = area_mean(maps, rows, columns).permute(2, 0, 1)[None]
            for width in self.surroundings:
                mean = F.avg_pool2d(grid, width, 1, width // 2, count_include_pad=False)[0].permute(1, 2, 0)
                parts.append((mean / mean.sum(dim=-1, keepdim=True).clamp(min=1e-6)).sqrt())
        return F.normalize(torch.cat(parts, dim=-1), dim=-1)


@dataclass
class Remembered:
    """A model that sees each picture once: options are measured on the same tokens."""

    model: PatchTokens
    known: dict[bytes, Tensor] = field(default_factory=dict)

    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """As the model's."""
        key = hashlib.sha1(image.tobytes() + bytes(str(image.shape), "ascii")).digest()
        if key not in self.known:
            self.known[key] = self.model.tokens(image)
        return self.known[key]


@dataclass(frozen=True)
class Options:
    """What is varied."""

    k: int
    mirror: bool
    position_means: bool
    smooth: bool


@dataclass(frozen=True)
class Row:
    """Scores of one way to make the maps."""

    name: str
    views: AffordanceScore
    """On all views that are no exemplars."""
    held_out: AffordanceScore
    """On those of them that were not trained on and did not vote."""


LabelledView = tuple[str, rendering.Camera, NDArray[np.uint8], Tensor]
"""Name, camera, photo [H, W, 3] and exact part map [H, W] of a view."""


@dataclass
class Affordance:
    """Recall and mIoU of affordances in 2-D and through 3-D, against exact part maps."""

    data: Path
    """The scene's folder."""
    splat: Path
    """A run (config.yml or its folder), or a PLY file."""
    model: str | None = None
    """Name or folder of an image model. Default: hand-made tokens."""
    layer: tuple[int, ...] = ()
    """Blocks whose tokens are taken; --sweep measures them all, the tables take the first. Default: as `gradiseg affordance`."""
    resolution: int = DEFAULT_RESOLUTION
    """Longer side of the photos as the model sees them, in pixels."""
    k: int = DEFAULT_K
    """Nearest exemplar tokens that vote."""
    mirror: bool = False
    """Exemplars also count mirrored."""
    position_means: bool = False
    """Subtract the mean token of each position."""
    smooth: bool = True
    """Interpolate votes between patches."""
    sweep: bool = False
    """Also measure each option alone."""
    parts: str = "part_mask"
    """Folder of the exact part maps; `part_names.json` beside it names the classes."""
    exemplars: int = 3
    """How many training views are exemplars, spread evenly."""
    offline: bool = False
    """Do not reach for the network."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    picture: Path | None = None
    """Draw photo, exact parts, 2-D and 3-D of some held-out views."""
    picture_views: tuple[int, ...] = (1, 2)
    """Which of the held-out views to draw."""
    output: Path | None = None
    """Write the figures as JSON."""

    @torch.no_grad()
    def main(self) -> None:
        self._names = list(read_object_names(self.data / "part_names.json").values())
        models = {layer: Remembered(self._model(layer)) for layer in self.layer or (None,)}
        model = next(iter(models.values()))
        self._splat, scene = self._scene()
        train, test = scene.train, scene.test
        chosen = [len(train) * (2 * i + 1) // (2 * self.exemplars) for i in range(self.exemplars)]
        views = [
            (name, camera, image.numpy(), truth)
            for split in (train, test)
            for name, camera, image, truth in zip(
                split.names, split.cameras, split.images, split.id_maps, strict=True
            )
        ]
        self._held_out = test.names
        self._voting = [view for i, view in enumerate(views[: len(train)]) if i not in chosen]
        self._judged = [*self._voting, *views[len(train) :]]
        self._projections = {name: self._splat.project(camera) for name, camera, _, _ in self._judged}
        painted = [Exemplar(views[i][0], views[i][2], views[i][3].numpy()) for i in chosen]
        settings = {
            "as photographed": painted,
            "mirrored": [exemplar.mirrored() for exemplar in painted],
            "mirrored, colours shifted": [altered(exemplar, i) for i, exemplar in enumerate(painted)],
        }
        options = Options(self.k, self.mirror, self.position_means, self.smooth)
        variants = [options, *self._variants(options)] if self.sweep else [options]

        rows, pictures, swept = [], None, []
        with Progress(transient=True) as progress:
            task = progress.add_task("", total=len(settings) * (len(variants) + len(models) - 1))
            for setting, exemplars in settings.items():
                for layer, other in models.items():
                    for variant in variants if other is model else [options]:
                        told = self._told(variant, options) if other is model else f"--layer {layer}"
                        progress.update(task, description=f"{setting}: {told}")
                        flat, solid = self._measure(other, exemplars, variant)
                        both = [self._score(f"{setting}: 2-D", flat), self._score(f"{setting}: 3-D", solid)]
                        swept.append((told, setting, *both))
                        if other is model and variant is options:
                            rows += both
                            pictures = pictures or (flat, solid)
                        progress.advance(task)
        votes = accumulate(
            self._splat.gaussians(),
            [(camera, labels) for _, camera, _, labels in self._voting],
            len(self._names),
        )
        best = self._through_3d(majority(votes).classes)
        rows.append(self._score("exact part maps: 3-D (what the splat allows)", best))
        self._report(
            rows, swept if self.sweep else [], [exemplar.name for exemplar in painted], self._seconds(model)
        )
        if self.picture is not None and pictures is not None:
            some = [views[len(train) + i] for i in self.picture_views]
            draw(self.picture, some, *pictures, len(self._names))

    def _variants(self, options: Options) -> list[Options]:
        """Each option alone, and the two that go together."""
        others = [replace(options, k=k) for k in (1, 3, 5, 9, 15)]
        others += [replace(options, mirror=not options.mirror), replace(options, smooth=not options.smooth)]
        others += [replace(options, position_means=not options.position_means)]
        others += [replace(options, mirror=not options.mirror, position_means=not options.position_means)]
        return [other for other in others if other != options]

    @staticmethod
    def _told(variant: Options, options: Options) -> str:
        """What differs from the options that were asked for, as flags."""
        flags = []
        for name, value in asdict(variant).items():
            if value != getattr(options, name):
                flag = name.replace("_", "-")
                flags.append(f"--{flag} {value}" if name == "k" else f"--{flag}" if value else f"--no-{flag}")
        return " ".join(flags) or "as asked"

    def _measure(
        self, model: PatchTokens, exemplars: Sequence[Exemplar], options: Options
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps int32 [H, W] by view that the photos alone give, and those of the Gaussians' labels."""
        model, bank = prepare(
            [image for _, _, image, _ in self._voting], exemplars, model, len(self._names),
            mirror=options.mirror, position_means=options.position_means,
        )  # fmt: skip
        photos = (image for _, _, image, _ in self._judged)
        found = affordance_maps(photos, model, bank, options.k, smooth=options.smooth)
        flat = {view[0]: maps for view, maps in zip(self._judged, found, strict=True)}
        votes = accumulate(
            self._splat.gaussians(), [(camera, flat[name]) for name, camera, _, _ in self._voting], len(self._names)
        )  # fmt: skip
        return flat, self._through_3d(majority(votes).classes)

    def _through_3d(self, classes: Tensor) -> dict[str, Tensor]:
        return {name: class_map(projection, classes) for name, projection in self._projections.items()}

    def _score(self, name: str, maps: dict[str, Tensor]) -> Row:
        truth = {view: labels for view, _, _, labels in self._judged}
        both = [
            evaluate(
                torch.cat([maps[view].flatten().cpu() for view in some]),
                torch.cat([truth[view].flatten() for view in some]),
                len(self._names),
            )
            for some in (list(truth), self._held_out)
        ]
        return Row(name, *both)

    def _seconds(self, model: Remembered) -> float:
        """For the tokens of a photo."""
        image = self._judged[0][2]
        start = perf_counter()
        model.model.tokens(image)
        return perf_counter() - start

    def _model(self, layer: int | None) -> PatchTokens:
        if self.model is None:
            return HandmadeTokens(self.resolution)
        return TokenModel.load(
            self.model, layer=layer, resolution=self.resolution, device=self.device, offline=self.offline
        )

    def _scene(self) -> tuple[Splat, sources.Capture]:
        if self.splat.suffix.lower() == ".ply":
            splat = read_ply(self.splat).to(self.device)
            scene = sources.load_capture(self.data, masks_dir=self.parts, device=self.device)
            sources.place_cameras(splat, scene, torch.zeros(3, device=self.device))
            return splat, scene
        run = sources.load_run(self.splat, self.device)
        return run.splat, run.capture(masks_dir=self.parts, data=self.data)

    def _report(
        self, rows: list[Row], swept: list[tuple[str, str, Row, Row]], exemplars: list[str], seconds: float
    ) -> None:
        console = Console(width=None if sys.stdout.isatty() else 150)
        tokens = self.model or "hand-made tokens"
        title = f"{self.data.name}, {tokens}, exemplars {', '.join(exemplars)}, {seconds:.2f} s for the tokens of a view"
        table = Table(title=title)
        for column in ("", "recall", "mIoU", "recall, held out", "mIoU, held out"):
            table.add_column(column)
        shown = [k for k in range(len(self._names)) if rows[0].views.recall[k] is not None]
        classes = Table(title="IoU by class, all views")
        for column in ("", *(self._names[k] for k in shown)):
            classes.add_column(column)
        for row in rows:
            means = (
                row.views.mean_recall,
                row.views.mean_iou,
                row.held_out.mean_recall,
                row.held_out.mean_iou,
            )
            table.add_row(row.name, *map(percent, means))
            classes.add_row(row.name, *(percent(row.views.iou[k]) for k in shown))
        console.print(table)
        console.print(classes)
        if swept:
            settings = list(dict.fromkeys(setting for _, setting, _, _ in swept))
            options = Table(title="mIoU of all views, each option alone")
            options.add_column("", no_wrap=True)
            for column in (f"{setting}: {d}" for setting in settings for d in ("2-D", "3-D")):
                options.add_column(column)
            found = {(told, setting): both for told, setting, *both in swept}
            for told in dict.fromkeys(told for told, _, _, _ in swept):
                cells = [percent(row.views.mean_iou) for setting in settings for row in found[told, setting]]
                options.add_row(told, *cells)
            console.print(options)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            report = {
                "model": tokens, "exemplars": exemplars, "classes": self._names, "seconds_per_view": seconds,
                "rows": [asdict(row) for row in rows],
                "options": [
                    {"options": told, "setting": setting, "2-D": asdict(flat), "3-D": asdict(solid)}
                    for told, setting, flat, solid in swept
                ],
            }  # fmt: skip
            self.output.write_text(json.dumps(report, indent=2))


def percent(value: float | None) -> str:
    """A score for a table."""
    return "-" if value is None else f"{value:.1f}"


def altered(exemplar: Exemplar, seed: int) -> Exemplar:
    """The exemplar mirrored, each colour brightened or darkened by up to 20 %, and with less contrast."""
    gains = np.random.default_rng(seed).uniform(0.8, 1.2, 3)
    image = exemplar.image[:, ::-1].astype(np.float64)
    image = (0.85 * (image - 128) + 128) * gains
    return Exemplar(
        exemplar.name, image.clip(0, 255).astype(np.uint8), np.ascontiguousarray(exemplar.classes[:, ::-1])
    )


def draw(
    path: Path,
    views: list[LabelledView],
    flat: dict[str, Tensor],
    solid: dict[str, Tensor],
    classes: int,
) -> None:
    """A row for every view: photo, exact parts, 2-D, 3-D; the classes are painted over the grey photo."""
    colors = object_colors(range(classes)).numpy()
    heading, rows = 22, []
    for name, _, image, truth in views:
        grey = np.repeat(image.mean(axis=-1, keepdims=True) / 255, 3, axis=-1)
        cells = [image / 255]
        for labels in (truth, flat[name], solid[name]):
            hot = labels.cpu().numpy()
            cells.append(np.where((hot > 0)[..., None], 0.45 * grey + 0.55 * colors[hot], 0.6 * grey))
        rows.append(np.concatenate(cells, axis=1))
    body = (np.concatenate(rows) * 255).astype(np.uint8)
    sheet = Image.new("RGB", (body.shape[1], body.shape[0] + heading), "white")
    sheet.paste(Image.fromarray(body), (0, heading))
    pen, step = ImageDraw.Draw(sheet), body.shape[1] // 4
    for i, title in enumerate(("photo", "exact parts", "from the photo alone", "through the Gaussians")):
        pen.text((i * step + step // 2, heading // 2), title, fill="black", anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=85, optimize=True)


if __name__ == "__main__":
    tyro.cli(Affordance).main()
