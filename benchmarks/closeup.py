"""A close-up of a boundary in runs of one scene, as a picture.

    python benchmarks/closeup.py --runs OFF ON --names "refiner off" "refiner on" --view 3 --box 120 200 160 120

Each run has one row: the photo, the render, the segmentation, an object alone on black, and the boundary's heat map (black in a run
without the refiner). All are cropped to the box and enlarged without smoothing. The view is a held-out one, or a training view with
`--split train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont


@dataclass
class CloseUp:
    """Crops of one view, rendered by several runs."""

    runs: tuple[Path, ...]
    """Runs: their folders or config.yml files."""
    box: tuple[int, int, int, int]
    """Left, top, width and height of the crop in pixels."""
    names: tuple[str, ...] = ()
    """Names of the rows. Default: the runs' folders."""
    view: int = 0
    """Number of the view."""
    split: Literal["test", "train"] = "test"
    object_id: int | None = None
    """The object that is cut out. Default: the object with the most pixels in the box."""
    photo: bool = True
    """Show the photo too."""
    scale: int = 4
    """Side of the square, in pixels, that each pixel becomes."""
    output: Path = Path("closeup.png")

    def main(self) -> None:
        if self.names and len(self.names) != len(self.runs):
            raise SystemExit(f"--names: found {len(self.names)} for {len(self.runs)} runs")
        names = self.names or tuple(run.name for run in self.runs)
        rows = [self._row(run, name) for run, name in zip(self.runs, names, strict=True)]
        self.output.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(self.output, quality=92)
        print(
            f"{self.output}: {'photo, ' if self.photo else ''}render, segmentation, the object alone, boundary; a row a run"
        )

    def _row(self, run: Path, name: str) -> np.ndarray:
        from nerfstudio.utils.eval_utils import eval_setup

        config = run if run.is_file() else next(iter(sorted(run.rglob("config.yml"))), None)
        if config is None:
            raise SystemExit(f"--runs {run}: expected a config.yml or a folder that holds one")
        _, pipeline, _, _ = eval_setup(config, test_mode="test" if self.split == "test" else "val")
        model: Any = pipeline.model
        manager: Any = pipeline.datamanager
        if self.split == "test":
            camera, batch = manager.fixed_indices_eval_dataloader[self.view]
            photo, ids = batch["image"], batch["id_map"][..., 0]
        else:
            camera = manager.train_dataset.cameras[self.view : self.view + 1].to(model.device)
            photo, ids = manager.cached_train[self.view]["image"], manager.training_ids(self.view)
        photo = photo.float() / 255 if photo.dtype == torch.uint8 else photo
        with torch.no_grad():
            outputs = model.get_outputs_for_camera(camera=camera)
            inside = self._crop(ids)
            known = [k for k in inside[inside >= 0].unique().tolist() if k in model.objects.ids and k > 0]
            if self.object_id is None and not known:
                raise SystemExit("--box: no object in it; name one with --object-id")
            chosen = self.object_id
            if chosen is None:
                chosen = max(known, key=lambda k: int((inside == k).sum()))
            _, alpha, _ = next(model.cut_outs(camera, [chosen]))
        alone = alpha[..., None].expand(-1, -1, 3)
        panels = [photo[..., :3], outputs["rgb"], outputs["segmentation"], alone, outputs["boundary"]]
        panels = panels if self.photo else panels[1:]
        tiles = [self._enlarge(self._crop(panel.cpu())) for panel in panels]
        picture = Image.fromarray(np.concatenate(tiles, axis=1))
        font = ImageFont.load_default(14)
        ImageDraw.Draw(picture).text((6, 4), name, "white", font, stroke_width=2, stroke_fill="black")
        return np.asarray(picture)

    def _crop(self, values: torch.Tensor) -> torch.Tensor:
        left, top, width, height = self.box
        if left < 0 or top < 0 or left + width > values.shape[1] or top + height > values.shape[0]:
            raise SystemExit(f"--box {self.box}: the view has {values.shape[1]}x{values.shape[0]} pixels")
        return values[top : top + height, left : left + width]

    def _enlarge(self, values: torch.Tensor) -> np.ndarray:
        pixels = (values.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        pixels = pixels.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        return np.pad(pixels, ((0, 4), (0, 4), (0, 0)), constant_values=255)


if __name__ == "__main__":
    tyro.cli(CloseUp).main()
