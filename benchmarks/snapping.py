"""How right the maps are that a noisy run trains on: as given, after agreement, as the votes render them, and snapped to the photos.

    python benchmarks/snapping.py --run RUN --step 2001 --truth-dir object_mask --ignore-ids 0 19 --picture docs/snapping.jpg --view 4

RUN was trained on noisy maps and has a checkpoint of that step. Figures are of its training views against exact maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from field_alone import resumed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.consensus import find_consensus
from gradiseg_ns.data.id_maps import data_folder, read_id_map, resize_id_map
from gradiseg_ns.evaluation.metrics import MaskMetrics
from gradiseg_ns.tools.pictures import to_image
from gradiseg_ns.votes.labels import render_classes


@dataclass
class Snapping:
    """Compare the maps of the training views with exact ones."""

    run: Path
    """Folder of the run."""
    truth_dir: str
    """Exact maps, a folder beside the photos."""
    step: int | None = None
    """Of the checkpoint. Default: the last one."""
    ignore_ids: tuple[int, ...] = ()
    picture: Path | None = None
    """Draw a view: render, given map, agreed map, snapped map."""
    view: int = 0
    box: tuple[int, int, int, int] | None = None
    """Left, top, width and height of the part to draw."""

    @torch.no_grad()
    def main(self) -> None:
        pipeline = resumed(self.run, self.step)
        pipeline.model.eval()
        model, manager = pipeline.model, pipeline.datamanager
        views = list(model._class_maps(list(pipeline._training_views())))
        background = model._get_background_color()

        def photo(index: int) -> Tensor:
            image = model.get_gt_img(manager.cached_train[index]["image"])
            return model.composite_with_background(image, background)

        gaussians, count = model._gaussians(), len(model.objects.ids)
        agreed = find_consensus(gaussians, lambda: views, count)
        snapped = find_consensus(gaussians, lambda: views, count, photos=photo)
        if not snapped.snapped:
            print("The edges of these maps lie on those of the photos: nothing is snapped.")
        given: list[Tensor] = [classes for _, classes in views]
        maps = {
            "given": given,
            "after agreement": [agreed.maps.get(i, own).long() for i, own in enumerate(given)],
            "rendered from votes": [
                render_classes(rendering.project(gaussians, camera), agreed.classes)[0] for camera, _ in views
            ],
            "snapped": [snapped.maps.get(i, own).long() for i, own in enumerate(given)],
        }
        folder = data_folder(manager.config.dataparser.data) / self.truth_dir
        names = [Path(name).stem for name in manager.train_dataset.image_filenames]
        table = Table(title=f"{folder.parent.name}, {len(views)} training views, against {self.truth_dir}")
        for column in ("maps", "mIoU", "mBIoU", "fine boundary"):
            table.add_column(column, justify="left" if column == "maps" else "right")
        for title, each in maps.items():
            metrics = MaskMetrics(ignore_ids=self.ignore_ids)
            for name, classes in zip(names, each, strict=True):
                truth = resize_id_map(read_id_map(folder / f"{name}.png"), *classes.shape)
                metrics.update(name, model.objects.ids_of(classes).int().cpu(), truth)
            result = metrics.result()
            figures = (result.miou, result.mbiou, result.mbiou_fine)
            table.add_row(title, *(f"{figure or 0:.2f}" for figure in figures))
        Console().print(table)
        if self.picture is not None:
            drawn = [maps[title][self.view] for title in ("given", "after agreement", "snapped")]
            colors = [
                model.objects.colorize(model.objects.ids_of(classes).to(torch.int32)) for classes in drawn
            ]
            camera = manager.train_dataset.cameras[self.view : self.view + 1].to(model.device)
            self._draw([model.get_outputs_for_camera(camera)["rgb"], *colors])

    def _draw(self, panels: list[Tensor]) -> None:
        assert self.picture is not None
        if self.box is not None:
            left, top, width, height = self.box
            panels = [panel[top : top + height, left : left + width] for panel in panels]
        image = to_image(torch.cat([panel.float().cpu() for panel in panels], dim=1))
        image.resize((image.width * 2, image.height * 2), resample=0).save(self.picture, quality=88)
        print(f"{self.picture}: render, given map, agreed map, snapped map of view {self.view}")


if __name__ == "__main__":
    import tyro

    tyro.cli(Snapping).main()
