"""Quality and cost of lifting id maps onto a splat, against the time of rendering its views once.

    python benchmarks/lift.py --splat RUN --masks-dir object_mask --ignore-ids 0 19

Rendering means the colours of every training view; on a CPU, seconds are those of the processor. A lift counts the votes of all
maps; refinement adds one more pass; sharpening fits Gaussians too. Figures are of held-out views, the PSNR is against their photos.
Labels are rendered as the identity encodings that `gradiseg lift` writes; `labels` are those of the PLY.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gradiseg_ns import rendering, sources
from gradiseg_ns.boundary import cutting
from gradiseg_ns.data.id_maps import read_id_map, resize_id_map
from gradiseg_ns.evaluation.metrics import MaskMetrics
from gradiseg_ns.grouping.codes import spread_codes
from gradiseg_ns.grouping.identity import IDENTITY_DIM
from gradiseg_ns.losses.psnr import psnr
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes import identities
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority


@dataclass
class LiftBenchmark:
    """Lifting id maps: seconds as a ratio to rendering, and mask quality."""

    splat: Path
    """A trained run: its folder or config.yml."""
    masks_dir: str = "object_mask"
    truth_dir: str | None = None
    """Exact maps of the held-out views. Default: those of --masks-dir."""
    ignore_ids: tuple[int, ...] = ()
    passes: int = cutting.PASSES
    """How often sharpening fits each view."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        run = sources.load_run(self.splat, self.device)
        scene = run.capture(masks_dir=self.masks_dir)
        splat, train = run.splat, scene.train
        objects = ObjectTable.create(scene.manager.train_dataset.metadata["object_ids"])
        views = [(c, objects.classes_of(m)) for c, m in zip(train.cameras, train.id_maps, strict=True)]
        codes = spread_codes(len(objects), IDENTITY_DIM).to(self.device)
        splat.render(train.cameras[0])  # compiles
        accumulate(splat.gaussians(), views[:1], len(objects))
        identities.refine(splat.gaussians(), views[:1], codes, splat.opacities)
        cutting.sharpen(splat, views[:1], codes, run.background, passes=1)
        start = self._now()
        for camera, _ in views:
            splat.render(camera)
        rendering_seconds = self._now() - start
        start = self._now()
        votes = accumulate(splat.gaussians(), views, len(objects))
        voted = identities.encode(majority(votes).classes, codes)
        vote_seconds = self._now() - start
        start = self._now()
        refined = identities.refine(splat.gaussians(), views, codes, votes.total())
        refine_seconds = vote_seconds + self._now() - start
        start = self._now()
        cut = cutting.sharpen(splat, views, codes, run.background, passes=self.passes)
        sharpen_seconds = self._now() - start
        sure = identities.encode(identities.classify_encodings(refined, codes), codes)
        told = identities.encode(majority(cut.votes).classes, codes)
        Console().print(cut.told())
        table = Table(
            title=f"{scene.data.name}, {len(views)} views, {len(objects)} ids, {len(splat)} Gaussians, {self.device}"
        )
        for column in ("", "Gaussians", "seconds", "of rendering", "mIoU", "mBIoU", "fine boundary", "PSNR"):
            table.add_column(column, justify="right")
        table.add_row("rendering", str(len(splat)), f"{rendering_seconds:.1f}", "1.00", "", "", "", "")
        figures: dict[str, object] = {"rendering": rendering_seconds, "sharpened": cut.told()}
        for name, shown, encoding, seconds in (
            ("votes", splat, voted, vote_seconds),
            ("votes, refined", splat, refined, refine_seconds),
            ("its labels", splat, sure, refine_seconds),
            ("sharpened", cut.splat, cut.encoding, sharpen_seconds),
            ("its labels, by votes", cut.splat, told, sharpen_seconds),
        ):
            quality = self._quality(scene, shown, objects, encoding, codes)
            decibels, ratio = self._psnr(scene, shown, run.background), seconds / rendering_seconds
            figures[name] = {"seconds": seconds, "ratio": ratio, "quality": quality, "psnr": decibels}
            table.add_row(
                name, str(len(shown)), f"{seconds:.1f}", f"{ratio:.2f}",
                *(f"{q:.2f}" for q in quality), f"{decibels:.2f}",
            )  # fmt: skip
        Console(width=110).print(table)
        if self.output is not None:
            self.output.write_text(json.dumps(figures, indent=2))

    def _quality(
        self,
        scene: sources.Capture,
        splat: Splat,
        objects: ObjectTable,
        encoding: Tensor,
        codes: Tensor,
    ) -> list[float]:
        folder = scene.data_folder / (self.truth_dir or self.masks_dir)
        metrics = MaskMetrics(ignore_ids=self.ignore_ids)
        for name, camera in zip(scene.test.names, scene.test.cameras, strict=True):
            with torch.no_grad():
                (maps,), _ = rendering.rasterize(splat.project(camera), [encoding])
            ids = objects.ids_of((maps @ codes.T).argmax(-1)).to(torch.int32)
            truth = resize_id_map(read_id_map(folder / f"{name}.png"), camera.height, camera.width)
            metrics.update(name, ids.cpu(), truth)
        result = metrics.result()
        return [float(getattr(result, k) or 0.0) for k in ("miou", "mbiou", "mbiou_fine")]

    def _psnr(self, scene: sources.Capture, splat: Splat, background: Tensor) -> float:
        """Mean over the held-out views, in dB."""
        found = []
        for camera, image in zip(scene.test.cameras, scene.test.images, strict=True):
            rgb, _ = splat.render(camera, background)
            found.append(float(psnr(rgb, image.to(rgb) / 255)))
        return sum(found) / len(found)

    def _now(self) -> float:
        """Seconds: of the clock on a card, of all threads of this process on a CPU, which others may share."""
        if self.device != "cuda":
            return process_time()
        torch.cuda.synchronize()
        return perf_counter()


if __name__ == "__main__":
    tyro.cli(LiftBenchmark).main()
