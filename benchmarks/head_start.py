"""The value of votes as a head start: quality after a few steps from a trained splat, with votes and without.

    python benchmarks/head_start.py --data SCENE --splat RUN --steps 50 100 200 400

Both runs start from the same splat and have the same number of steps. One takes identities from votes first, the other starts with
random identities. Figures are of held-out views. Seconds are those of the training loop, votes included.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table


@dataclass
class HeadStart:
    """Votes against random identities, from a trained splat."""

    data: Path
    """The scene's folder."""
    splat: Path
    """A trained run on this scene, of splatfacto or gradiseg: its folder or config.yml."""
    steps: tuple[int, ...] = (50, 100, 200, 400)
    seeds: tuple[int, ...] = (0,)
    masks_dir: str = "object_mask"
    eval_masks_dir: str | None = None
    ignore_ids: tuple[int, ...] = ()
    """Ids left out of the mask figures."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        from gradiseg_ns import runs

        rows = []
        for seed in self.seeds:
            for steps in self.steps:
                for votes in (True, False):
                    options = {
                        "pipeline.model.start_from": self.splat,
                        "pipeline.model.schedule.votes_at": 0.0 if votes else 1.0,
                        "pipeline.model.boundary_refiner": False,
                        "pipeline.model.metrics_ignore_ids": self.ignore_ids,
                        "pipeline.datamanager.masks_dir": self.masks_dir,
                        "pipeline.datamanager.eval_masks_dir": self.eval_masks_dir,
                    }
                    with tempfile.TemporaryDirectory() as folder:
                        config = runs.make_config(
                            "gradiseg-lite", self.data, Path(folder), steps=steps, seed=seed, device=self.device,
                            options=options,
                        )  # fmt: skip
                        trainer, seconds = runs.train(config, description=f"{steps} steps")
                        metrics = runs.evaluate(trainer)
                    row = {"votes": votes, "steps": steps, "seed": seed, "seconds": seconds}
                    rows.append({**row, **{k: metrics[k] for k in ("miou", "mbiou", "mbiou_fine", "psnr")}})
                    if self.output is not None:
                        self.output.write_text(json.dumps(rows, indent=2))
        table = Table(title=f"{self.data.name}, {self.masks_dir}, from {self.splat}")
        for column in rows[0]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
        Console().print(table)


if __name__ == "__main__":
    tyro.cli(HeadStart).main()
