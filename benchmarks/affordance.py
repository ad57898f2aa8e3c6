"""Affordances taken over from a few painted views of a scene: every photo for itself, and through the splat.

    python benchmarks/affordance.py --data examples/demo_scene --splat outputs/demo/.../config.yml --model FOLDER

Some training views with their exact part maps are the exemplars. All other views are judged against theirs: the maps
that each photo alone gives (2-D), and the maps of the labels that the Gaussians got from the other training views (3-D).
In a second setting the exemplars are mirrored and their colours shifted, so that nothing looks as it does in the scene.

Without ``--model`` no learnt model is used but `HandmadeTokens`, colours and edges. That is a baseline that needs no weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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
from gradiseg_ns.data.id_maps import read_object_names
from gradiseg_ns.scene.ply import read_ply
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes import affordance as af
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority


@dataclass
class HandmadeTokens:
    """Tokens without a learnt model: histograms of colours and of edge directions, of the patch and around it.

    Colours are soft bins of RGB, edges soft bins of the gradient's direction. Histograms are compared by their Bhattacharyya
    coefficient, which is the inner product of their square roots. They know nothing of shapes or objects.
    """

    resolution: int = af.DEFAULT_RESOLUTION
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
            grid = af.area_mean(maps, rows, columns).permute(2, 0, 1)[None]
            for width in self.surroundings:
                mean = F.avg_pool2d(grid, width, 1, width // 2, count_include_pad=False)[0].permute(1, 2, 0)
                parts.append((mean / mean.sum(dim=-1, keepdim=True).clamp(min=1e-6)).sqrt())
        return F.normalize(torch.cat(parts, dim=-1), dim=-1)


@dataclass(frozen=True)
class Row:
    """Scores of one way to make the maps."""

    name: str
    views: af.AffordanceScore
    """On all views that are no exemplars."""
    held_out: af.AffordanceScore
    """On those of them that were not trained on and did not vote."""


@dataclass
class Affordance:
    """Recall and mIoU of affordances in 2-D and through 3-D, against exact part maps."""

    data: Path
    """The scene's folder."""
    splat: Path
    """A run (config.yml or its folder), or a PLY file."""
    model: str | None = None
    """Name or folder of an image model; hand-made tokens unless given."""
    layer: int | None = None
    """Block whose tokens are taken; the model's output unless given."""
    resolution: int = af.DEFAULT_RESOLUTION
    """Longer side of the photos as the model sees them, in pixels."""
    k: int = af.DEFAULT_K
    """Nearest exemplar tokens that vote."""
    smooth: bool = True
    """Interpolate votes between patches."""
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
        console = Console()
        names = list(read_object_names(self.data / "part_names.json").values())
        model = self._model()
        splat, scene = self._scene()
        train, test = scene.train, scene.test
        chosen = [len(train) * (2 * i + 1) // (2 * self.exemplars) for i in range(self.exemplars)]
        views = [
            (name, camera, image.numpy(), truth)
            for split in (train, test)
            for name, camera, image, truth in zip(
                split.names, split.cameras, split.images, split.id_maps, strict=True
            )
        ]
        exemplars = [af.Exemplar(views[i][0], views[i][2], views[i][3].numpy()) for i in chosen]
        voting = [view for i, view in enumerate(views[: len(train)]) if i not in chosen]
        judged = [*voting, *views[len(train) :]]
        truth = {name: labels for name, _, _, labels in judged}

        def score(name: str, maps: dict[str, Tensor]) -> Row:
            both = [
                af.evaluate(
                    torch.cat([maps[view].flatten().cpu() for view in some]),
                    torch.cat([truth[view].flatten() for view in some]),
                    len(names),
                )
                for some in (list(truth), test.names)
            ]
            return Row(name, *both)

        projections = {name: splat.project(camera) for name, camera, _, _ in judged}

        def through_3d(labels: Tensor) -> dict[str, Tensor]:
            return {name: af.render_labels(projections[name], labels) for name in projections}

        rows, pictures, seconds = [], {}, 0.0
        with Progress(transient=True) as progress:
            for setting in ("exemplars as photographed", "exemplars mirrored, colours shifted"):
                if setting != "exemplars as photographed":
                    exemplars = [altered(exemplar, i) for i, exemplar in enumerate(exemplars)]
                task = progress.add_task(setting, total=len(exemplars) + len(judged))
                start = perf_counter()
                result = af.transfer(
                    [view[:3] for view in voting], splat.gaussians(), exemplars, model, names,
                    k=self.k, smooth=self.smooth, antialiased=splat.antialiased,
                    progress=lambda _, task=task: progress.advance(task),
                )  # fmt: skip
                seconds = (perf_counter() - start) / (len(voting) + len(exemplars))
                bank = af.ExemplarBank.build(exemplars, model, len(names))
                alone = af.affordance_maps(
                    (image for _, _, image, _ in views[len(train) :]), model, bank, self.k,
                    smooth=self.smooth, progress=lambda task=task: progress.advance(task),
                )  # fmt: skip
                flat = {**result.maps_2d, **dict(zip(test.names, alone, strict=True))}
                solid = through_3d(result.labels)
                rows += [score(f"{setting}: 2-D", flat), score(f"{setting}: 3-D", solid)]
                pictures.setdefault("2-D", flat)
                pictures.setdefault("3-D", solid)
        votes = accumulate(
            splat.gaussians(), [(camera, labels) for _, camera, _, labels in voting], len(names),
            antialiased=splat.antialiased,
        )  # fmt: skip
        rows.append(
            score("exact part maps: 3-D (what the splat allows)", through_3d(majority(votes).classes))
        )
        self._report(console, rows, names, [exemplar.name for exemplar in exemplars], seconds)
        if self.picture is not None:
            some = [views[len(train) + i] for i in self.picture_views]
            draw(self.picture, some, pictures["2-D"], pictures["3-D"], len(names))

    def _model(self) -> af.PatchTokens:
        if self.model is None:
            return HandmadeTokens(self.resolution)
        return af.TokenModel.load(
            self.model, layer=self.layer, resolution=self.resolution, device=self.device, offline=self.offline
        )

    def _scene(self) -> tuple[Splat, sources.Scene]:
        if self.splat.suffix.lower() == ".ply":
            splat = read_ply(self.splat).to(self.device)
            scene = sources.load_scene(self.data, masks_dir=self.parts, device=self.device)
            sources.place_cameras(splat, scene, torch.zeros(3, device=self.device))
            return splat, scene
        run = sources.load_run(self.splat, self.device)
        return run.splat, run.scene(masks_dir=self.parts, data=self.data)

    def _report(
        self, console: Console, rows: list[Row], names: list[str], exemplars: list[str], seconds: float
    ) -> None:
        tokens = self.model or "hand-made tokens"
        title = f"{self.data.name}, {tokens}, exemplars {', '.join(exemplars)}, {seconds:.2f} s a view"
        table = Table(title=title)
        for column in ("", "recall", "mIoU", "recall, held out", "mIoU, held out"):
            table.add_column(column)
        shown = [k for k in range(len(names)) if not np.isnan(rows[0].views.recall[k])]
        classes = Table(title="IoU by class, all views")
        for column in ("", *(names[k] for k in shown)):
            classes.add_column(column)
        for row in rows:
            means = (
                row.views.mean_recall,
                row.views.mean_iou,
                row.held_out.mean_recall,
                row.held_out.mean_iou,
            )
            table.add_row(row.name, *(f"{100 * value:.1f}" for value in means))
            classes.add_row(row.name, *(f"{100 * row.views.iou[k]:.1f}" for k in shown))
        console.print(table)
        console.print(classes)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            report = {"model": tokens, "exemplars": exemplars, "classes": names, "seconds_per_view": seconds}
            self.output.write_text(json.dumps({**report, "rows": [asdict(row) for row in rows]}, indent=2))


def altered(exemplar: af.Exemplar, seed: int) -> af.Exemplar:
    """The exemplar mirrored, each colour brightened or darkened by up to 20 %, and with less contrast."""
    gains = np.random.default_rng(seed).uniform(0.8, 1.2, 3)
    image = exemplar.image[:, ::-1].astype(np.float64)
    image = (0.85 * (image - 128) + 128) * gains
    return af.Exemplar(
        exemplar.name, image.clip(0, 255).astype(np.uint8), np.ascontiguousarray(exemplar.labels[:, ::-1])
    )


def draw(
    path: Path,
    views: list[tuple[str, rendering.Camera, NDArray[np.uint8], Tensor]],
    flat: dict[str, Tensor],
    solid: dict[str, Tensor],
    classes: int,
) -> None:
    """A row for every view: photo, exact parts, 2-D, 3-D; the classes are painted over the grey photo."""
    colors = af.object_colors(range(classes)).numpy()
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
