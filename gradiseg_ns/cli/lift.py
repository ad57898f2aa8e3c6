"""`gradiseg lift`: id maps onto Gaussians, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gradiseg_ns.cli.common import (
    PICTURES,
    Ids,
    MaybeCount,
    MaybePath,
    MaybeText,
    Objects,
    Source,
    cell,
    check_replaceable,
    find_objects,
    identity_dim,
    names_by_id,
)
from gradiseg_ns.tools.atomic import check_writable
from gradiseg_ns.tools.terminal import console, progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.rendering import Camera
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources.capture import Capture
    from gradiseg_ns.votes.accumulate import Votes
    from gradiseg_ns.votes.labels import Labels


@dataclass
class Lift(Source):
    """Lift id maps onto Gaussians, without training. Every Gaussian gets the object that most of its pixels show.

    Writes a PLY with an object id per Gaussian, and for a run also a gradiseg run, which ns-viewer, ns-eval and ns-render open.
    docs/votes.md tells more.
    """

    masks_dir: MaybeText = None
    """Folder of the id maps. Default: the run's folder, else `object_mask`."""
    eval_masks_dir: MaybePath = None
    """Folder of other id maps for the figures of held-out views. Default: --masks-dir."""
    max_objects: MaybeCount = None
    """Maps with more ids are refused; 0 takes any number. Default: the run's bound, else 3000."""
    ignore_ids: Ids = ()
    """Ids that the mask figures leave out, such as background and table."""
    refine: bool = False
    """Fit the encodings to the id maps. Borders get sharper if the maps are right, and worse if many are wrong."""
    sharpen: bool = False
    """More than --refine, and slower: split and fit the Gaussians at borders, and hold the pictures in place. Needs exact maps."""
    most_change: float = 0.004
    """--sharpen is taken back if pictures change by more (mean difference of colours, 0 to 1)."""
    fill_unseen: bool = False
    """Give unseen Gaussians the label of their nearest neighbours."""
    foreground: Objects = ()
    """Write only these objects (ids or names) to lifted.ply: Gaussians with more votes for them than --weight times those for others."""
    weight: float = 1.0
    """Factor of --foreground: above 1 keeps fewer and surer Gaussians, below 1 keeps more."""
    output_dir: MaybePath = None
    """Folder of lifted.ply and overview.png. Default: `lifted` beside the splat."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.formats.write_ply import write_ply
        from gradiseg_ns.grouping.codes import spread_codes
        from gradiseg_ns.runs.writing import write_gradiseg_run
        from gradiseg_ns.scene.objects import ObjectTable
        from gradiseg_ns.sources.association import parents_in
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.votes import identities
        from gradiseg_ns.votes.labels import fill_unseen, foreground, object_confidence

        if not self.most_change >= 0:
            raise SourceError(f"--most-change {self.most_change}: expected 0 or more.")
        folder = self.output_path(self.output_dir, "lifted")
        check_writable(folder / "lifted.ply")
        run, splat, scene, background = self.open_splat(
            masks_dir=self.masks_dir, max_objects=self.max_objects
        )
        if run is not None:
            check_replaceable(run, "lifted")
        views = scene.train
        device = splat.means.device
        objects = ObjectTable.create(
            scene.manager.train_dataset.metadata["object_ids"], scene.object_names,
            parents_in(scene.data_folder / scene.manager.config.masks_dir),
        )  # fmt: skip
        wanted = find_objects("--foreground", self.foreground, objects) if self.foreground else []
        classes = [objects.classes_of(m.to(device)) for m in views.id_maps]
        mapped = list(zip(views.cameras, classes, strict=True))
        codes = spread_codes(len(objects), identity_dim(run)).to(device)
        start = perf_counter()
        splat, votes, labels, encoding = self._labelled(splat, mapped, codes, background)
        seconds = perf_counter() - start
        unseen = int((~labels.seen).sum())
        if self.fill_unseen:
            labels = fill_unseen(labels, splat.means)
            encoding = torch.where(
                encoding.abs().amax(dim=1, keepdim=True) > 0, encoding, identities.encode(labels.classes, codes)
            )  # fmt: skip
        splat.labels = objects.ids_of(labels.classes).to(torch.int32)
        splat.extra["label_confidence"] = labels.confidence
        filled = "filled from their neighbours" if self.fill_unseen else "--fill-unseen asks their neighbours"
        say(
            f"{len(views)} views, {len(objects)} ids, {len(splat)} Gaussians: {seconds:.1f} s. {unseen} "
            f"({unseen / max(len(splat), 1):.1%}) are seen by no labelled pixel; {filled}."
        )
        _print_votes(objects, object_confidence(votes, labels))

        chosen = splat
        if wanted:
            mask = foreground(votes, [objects.ids.index(i) for i in wanted], self.weight)
            if not bool(mask.any()):
                raise SourceError(
                    f"--foreground {' '.join(self.foreground)} --weight {self.weight}: no Gaussian is left."
                )
            chosen = splat.select(mask)
        say(f"Saved {write_ply(folder / 'lifted.ply', chosen, names=names_by_id(objects))}")
        if run is not None:
            identity, weight = identities.head_start(splat.gaussians(), encoding, codes, mapped[::8])
            written = write_gradiseg_run(
                run, scene, splat, objects, identity, weight, suffix="lifted", masks_dir=self.masks_dir
            )  # fmt: skip
            say(f"Saved a gradiseg run: ns-viewer --load-config {written}")
        self._evaluate(scene, splat, objects, encoding, codes, background, folder / "overview.png")

    def _labelled(
        self, splat: Splat, mapped: list[tuple[Camera, Tensor]], codes: Tensor, background: Tensor
    ) -> tuple[Splat, Votes, Labels, Tensor]:
        """The splat, changed by --sharpen; its votes [N, K], labels, and encodings [N, D]."""
        from gradiseg_ns.votes import identities
        from gradiseg_ns.votes.accumulate import accumulate
        from gradiseg_ns.votes.labels import Labels, majority

        if self.sharpen:
            from gradiseg_ns.boundary import cutting

            with progress("Sharpening", cutting.steps(len(mapped))) as advance:
                cut = cutting.sharpen(
                    splat, mapped, codes, background, most_change=self.most_change, progress=advance
                )
            say(cut.told())
            splat, votes, encoding = cut.splat, cut.votes, cut.encoding
            if cut.reason is None:
                return splat, votes, majority(votes), encoding
        else:
            with progress("Taking votes", len(mapped)) as advance:
                votes = accumulate(splat.gaussians(), mapped, len(codes), progress=advance)
        labels = majority(votes)
        if not self.refine:
            return splat, votes, labels, identities.encode(labels.classes, codes)
        with progress("Refining", len(mapped)) as advance:
            encoding = identities.refine(splat.gaussians(), mapped, codes, votes.total(), progress=advance)
        refined = Labels(identities.classify_encodings(encoding, codes), labels.confidence)
        return splat, votes, refined, encoding

    def _evaluate(
        self,
        scene: Capture,
        splat: Splat,
        objects: ObjectTable,
        encoding: Tensor,
        codes: Tensor,
        background: Tensor,
        path: Path,
    ) -> None:
        """Compare held-out views with their maps, and draw some."""
        import numpy as np
        import torch

        from gradiseg_ns import rendering
        from gradiseg_ns.data.id_maps import IGNORE, resize_id_map
        from gradiseg_ns.evaluation.metrics import MaskMetrics, print_table
        from gradiseg_ns.scene.objects import MIN_ACCUMULATION
        from gradiseg_ns.tools.pictures import overview, panels, save_picture

        test, truths = scene.test, scene.manager.eval_dataset
        if self.eval_masks_dir is not None:
            truths.set_id_maps(
                scene.data, self.eval_masks_dir, use_frame_keys=False, strict=True, flag="--eval-masks-dir",
                names=scene.object_names, like=scene.manager.train_dataset,
                ignore_ids=scene.manager.config.ignore_ids,
            )  # fmt: skip
        metrics = MaskMetrics(
            object_ids=objects.ids, ignore_ids=self.ignore_ids, names=names_by_id(objects)
        )  # fmt: skip
        rows, compared = [], 0
        for i, camera in enumerate(test.cameras):
            projection = splat.project(camera)
            rgb, alpha = splat.render(camera, background, projection=projection)
            (identity,), _ = rendering.rasterize(projection, [encoding])
            classes = (identity @ codes.T).argmax(dim=-1)
            found = torch.where(alpha[..., 0] >= MIN_ACCUMULATION, objects.ids_of(classes), IGNORE)
            ids = found.to(torch.int32).cpu()
            truth = test.id_maps[i].cpu()
            if self.eval_masks_dir is not None:
                given = np.full(truth.shape, IGNORE, np.int32)
                if truths.id_map_filenames[i] is not None:
                    given = truths.read_map(i)
                truth = torch.from_numpy(resize_id_map(given, camera.height, camera.width).copy())
            if bool((truth >= 0).any()):
                metrics.update(test.names[i], ids, truth)
                compared += 1
            if len(rows) < PICTURES:
                shown = objects.colorize(ids).numpy()
                photo = test.images[i].cpu().numpy() / 255
                rows.append(
                    panels(photo.astype("float32"), rgb.cpu().numpy(), shown, ids.numpy(), truth.numpy())
                )
        if compared:
            print_table(metrics.result(), console())
        if rows:
            save_picture(overview(rows), path)
            say(f"Look at {path}")


def _print_votes(objects: ObjectTable, confidence: Sequence[Any]) -> None:
    from rich.table import Table

    table = Table(title="Votes")
    for column in ("id", "name", "Gaussians", "purity, %", "recall, %"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for i, name, row in zip(objects.ids, objects.names, confidence, strict=True):
        table.add_row(
            str(i), cell(name), str(row.gaussians), f"{100 * row.purity:.1f}", f"{100 * row.recall:.1f}"
        )
    console().print(table)
