"""``make demo``: train on the scene that comes with the project, evaluate, and leave a picture to look at.

python -m gradiseg_ns.demo [--steps 1200] [--scene FOLDER]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, cast

import tyro

from gradiseg_ns.tools.atomic import write_text
from gradiseg_ns.tools.pictures import Captioned, overview, panels, save_picture
from gradiseg_ns.tools.terminal import say

if TYPE_CHECKING:
    from gradiseg_ns.model import Outputs
    from gradiseg_ns.pipeline import GradisegPipeline

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Demo:
    """Train gradiseg-lite on the demo scene, evaluate it on held-out views, and draw an overview."""

    scene: Path = REPOSITORY / "examples" / "demo_scene"
    """A scene in nerfstudio's format with id maps in object_mask/."""
    output: Path = Path("outputs/demo")
    """Where overview.png, metrics.json, objects.csv and the run go."""
    steps: int = 1200
    """Steps of training."""
    views: int = 4
    """Held-out views in the overview."""
    ignore_ids: tuple[int, ...] = (0, 13)
    """Ids left out of the mask figures; the demo scene's are the room and the table."""

    def main(self) -> None:
        if not (self.scene / "transforms.json").exists():
            raise SystemExit(
                f"--scene {self.scene}: found no transforms.json in it, expected a nerfstudio scene"
            )
        from gradiseg_ns import runs
        from gradiseg_ns.evaluation.metrics import write_table

        start = perf_counter()
        options = {"pipeline.model.metrics_ignore_ids": self.ignore_ids}
        config = runs.make_config("gradiseg-lite", self.scene, self.output, steps=self.steps, options=options)
        trainer, seconds = runs.train(config, description="Training the demo")
        metrics = runs.evaluate(trainer)
        self.output.mkdir(parents=True, exist_ok=True)
        picture = self.output / "overview.png"
        save_picture(overview(self._rows(trainer.pipeline)), picture)
        write_text(self.output / "metrics.json", json.dumps(metrics, indent=2))
        if trainer.pipeline.mask_scores is not None:
            write_table(self.output / "objects.csv", trainer.pipeline.mask_scores)
        say(
            f"Held-out views: PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f}, "
            f"{metrics['gaussian_count']:.0f} Gaussians. "
            f"Trained in {seconds:.0f} s, {perf_counter() - start:.0f} s in all."
        )
        say(f"Look at {picture}")
        say(
            f"Open the viewer:  ns-viewer --load-config {config.get_base_dir() / 'config.yml'}\n"
            "  then open the address it prints; the folder GradiSeg has the objects"
        )

    def _rows(self, pipeline: GradisegPipeline) -> list[list[Captioned]]:
        """Pictures of the worst held-out view and of the first others."""
        from gradiseg_ns.evaluation.views import worst_view

        names = [view.name for view in pipeline.view_scores]
        worst = worst_view(pipeline.view_scores)
        order = list(range(len(names)))
        if worst is not None:
            order.sort(key=lambda index: names[index] != worst.name)
        return [view_panels(pipeline, index) for index in order[: self.views]]


def view_panels(pipeline: GradisegPipeline, index: int) -> list[Captioned]:
    """The captioned pictures of a held-out view (:func:`~gradiseg_ns.tools.pictures.panels`), by its place among them."""
    from gradiseg_ns.evaluation.views import worst_view

    model = pipeline.model
    model.eval()
    camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader[index]
    outputs = cast("Outputs", model.get_outputs_for_camera(camera))
    shown = (model.get_gt_img(batch["image"]), outputs["rgb"], outputs["segmentation"])
    assert outputs.object_ids is not None
    ids, truth = outputs.object_ids, batch["id_map"][..., 0]
    score, worst = pipeline.view_scores[index], worst_view(pipeline.view_scores)
    which = f"worst of {len(pipeline.view_scores)} held-out views" if score == worst else "held out"
    return panels(*(t.cpu().numpy() for t in (*shown, ids, truth)), title=f"{score.name} ({which})")


if __name__ == "__main__":
    tyro.cli(Demo).main()
