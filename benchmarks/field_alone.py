"""What NG-GS's field can learn if nothing hurries it: it is trained alone, on a splat that stands still.

    python benchmarks/field_alone.py --run RUN --steps 1000 --pixels 2450

RUN was trained with `--pipeline.model.boundary.field True`. The command prints the share of boundary pixels of held-out views that have
the right class, of the splat and of the field (benchmarks/ablation.py), as the field learns. No loss moves the splat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation import field_at_edges

from gradiseg_ns.boundary.phase import RefinedView
from gradiseg_ns.sources import load_run


def resumed(run: Path, step: int | None = None, options: Mapping[str, Any] | None = None) -> Any:
    """The pipeline of a run as when it is trained on, from a checkpoint (default: the last), with other options of the boundary."""
    config: Any = load_run(run).config
    config.load_dir, config.load_step = run / "nerfstudio_models", step
    config.output_dir, config.max_num_iterations = Path(tempfile.mkdtemp()), 2
    for name, value in (options or {}).items():
        setattr(config.pipeline.model.boundary, name, value)
    trainer = config.setup()
    trainer.setup()
    model = trainer.pipeline.model
    model.step, model.optimizers = trainer._start_step, trainer.optimizers.optimizers
    return trainer.pipeline


@dataclass
class FieldAlone:
    """Train the field of a finished run alone."""

    run: Path
    """Folder of the run."""
    steps: int = 1000
    pixels: int = 2450
    """Boundary pixels of a step; in a training they are 490."""
    told_at: tuple[int, ...] = (0, 100, 300, 1000, 3000)
    """Steps after which the shares are printed, besides the last."""

    def main(self) -> None:
        pipeline = resumed(self.run, options={"pixels": self.pixels})
        pipeline.refresh_boundary(pipeline.model.step)
        model, phase = pipeline.model, pipeline.model.boundary_phase
        if phase is None or phase.refiner is None or phase.points is None:
            raise SystemExit(f"--run {self.run}: expected a run with the field and boundary Gaussians")
        gaussians = {
            name: value.detach()
            for name, value in model._refined_gaussians()._asdict().items()
            if isinstance(value, torch.Tensor)
        }
        views = list(pipeline._training_views())
        kept: dict[int, tuple[RefinedView, torch.Tensor]] = {}
        optimizer = torch.optim.Adam(phase.field.parameters(), lr=0.01)
        for step in range(self.steps + 1):
            if step in self.told_at or step == self.steps:
                print(step, {k: round(v, 1) for k, v in field_at_edges(pipeline).items()}, flush=True)
                model.train()
            index = int(torch.randint(len(views), (1,)))
            if index not in kept:
                kept[index] = self._look(pipeline, index)
            view, photo = kept[index]
            losses = phase.refiner.losses(
                **view._asdict(), photo=photo, classes=views[index][1].long().to(photo.device),
                classifier=model.classifier, **gaussians, pull=False,
            )  # fmt: skip
            if not losses:
                continue
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()

    @staticmethod
    def _look(pipeline: Any, index: int) -> tuple[RefinedView, torch.Tensor]:
        """What the splat shows of a training view, and its photo."""
        model = pipeline.model
        camera = pipeline.datamanager.train_dataset.cameras[index : index + 1].to(model.device)
        camera.metadata = {"cam_idx": index}
        outputs = model.get_outputs(camera)
        image = model.get_gt_img(pipeline.datamanager.cached_train[index]["image"])
        view: RefinedView = outputs.boundary_view
        maps = {k: v.detach() for k, v in view._asdict().items() if isinstance(v, torch.Tensor)}
        return view._replace(**maps), model.composite_with_background(image, outputs["background"])


if __name__ == "__main__":
    import tyro

    tyro.cli(FieldAlone).main()
