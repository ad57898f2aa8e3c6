"""``make demo``: train on the scene that comes with the project, evaluate, and leave a picture to look at.

    python -m gradiseg_ns.demo [--steps 2000] [--scene FOLDER]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).resolve().parents[1]
ERROR_COLOR = (255, 40, 40)
CAPTION_HEIGHT = 22


@dataclass
class Demo:
    """Train gradiseg-lite on the demo scene, evaluate it on held-out views, and draw an overview."""

    scene: Path = REPOSITORY / "examples" / "demo_scene"
    """A scene in nerfstudio's format with id maps in object_mask/."""
    output: Path = Path("outputs/demo")
    """Where overview.png, metrics.json, objects.csv and the run go."""
    steps: int = 2000
    """Steps of training."""
    views: int = 4
    """Held-out views in the overview."""

    def main(self) -> None:
        if not (self.scene / "transforms.json").exists():
            raise SystemExit(f"--scene {self.scene}: found no transforms.json in it, expected a nerfstudio scene")
        from nerfstudio.utils.rich_utils import CONSOLE

        from gradiseg_ns import runs
        from gradiseg_ns.evaluation.metrics import MaskMetrics, print_table, write_table

        start = perf_counter()
        config = runs.make_config("gradiseg-lite", self.scene, self.output, steps=self.steps)
        trainer, seconds = runs.train(config, description="Training the demo")
        model = trainer.pipeline.model
        metrics = runs.evaluate(trainer)
        masks = MaskMetrics(model.objects.ids, (0,), model.objects.names)
        rows = []
        for index, (camera, batch) in enumerate(trainer.pipeline.datamanager.fixed_indices_eval_dataloader):
            model.eval()
            outputs = model.get_outputs_for_camera(camera)
            truth, ids = batch["id_map"][..., 0].cpu().numpy(), outputs.object_ids.cpu().numpy()
            masks.update(f"held-out view {index}", ids, truth)
            if len(rows) < self.views:
                photo = model.get_gt_img(batch["image"]).cpu().numpy()
                rows.append(panels(photo, outputs["rgb"], outputs["segmentation"], ids, truth))
        self.output.mkdir(parents=True, exist_ok=True)
        picture = self.output / "overview.png"
        overview(rows).save(picture)
        (self.output / "metrics.json").write_text(json.dumps(metrics, indent=2))
        write_table(self.output / "objects.csv", masks.result())
        print_table(masks.result(), CONSOLE)
        CONSOLE.print(
            f"Held-out views: PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f}, "
            f"{metrics['gaussian_count']:.0f} Gaussians. "
            f"Trained in {seconds:.0f} s, {perf_counter() - start:.0f} s in all."
        )
        CONSOLE.print(f"Look at [bold]{picture}[/bold]")
        CONSOLE.print(
            f"Open the viewer:  ns-viewer --load-config {config.get_base_dir() / 'config.yml'} "
            "--viewer.websocket-host 127.0.0.1\n"
            "  then open the address it prints, and choose [bold]segmentation[/bold] under Output type",
            soft_wrap=True,
        )


def panels(
    photo: NDArray[np.float32], rgb: object, segmentation: object, ids: NDArray[np.int32], truth: NDArray[np.int32]
) -> list[tuple[str, Image.Image]]:
    """Photo, render, segmentation and wrong ids (red on the darkened photo) of one view, with captions."""
    render = np.asarray(rgb, dtype=np.float32)
    mse = float(np.mean((render - photo[..., :3]) ** 2))
    wrong = (ids != truth) & (truth >= 0)
    error = (photo[..., :3] * 90).astype(np.uint8)
    error[wrong] = ERROR_COLOR
    share = wrong.sum() / max(1, int((truth >= 0).sum()))
    return [
        ("photo (held out)", _image(photo[..., :3])),
        (f"render, PSNR {-10 * np.log10(max(mse, 1e-10)):.1f} dB", _image(render)),
        ("segmentation", _image(np.asarray(segmentation, dtype=np.float32))),
        (f"wrong ids: {share:.2%} of the pixels", Image.fromarray(error)),
    ]


def overview(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """A sheet of captioned pictures, a row a view."""
    width = max(sum(image.width for _, image in row) for row in rows)
    height = sum(max(image.height for _, image in row) + CAPTION_HEIGHT for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row in rows:
        x = 0
        for caption, image in row:
            draw.text((x + 5, y + 5), caption, fill="black")
            sheet.paste(image, (x, y + CAPTION_HEIGHT))
            x += image.width
        y += CAPTION_HEIGHT + max(image.height for _, image in row)
    return sheet


def _image(values: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


if __name__ == "__main__":
    tyro.cli(Demo).main()
