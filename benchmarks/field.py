"""The continuous field's trial: with and without it, where NG-GS claims its gain, and what the field itself knows.

    python benchmarks/field.py --tabletop TABLETOP --fruit FRUIT --seeds 0 1

Settings: few views, small photos, a splat that does not densify, noisy maps, and a real scene with rough maps. All at half resolution with
a short run, so that a row takes minutes on a CPU. Runs of a seed share the first two thirds (benchmarks/ablation.py). The columns
`splat at edges` and `field at edges` are the share of boundary pixels in held-out views that have the right class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation import Ablation
from seeds import thinned

HALF = "pipeline.datamanager.camera_res_scale_factor=0.5"
NO_DENSIFICATION = ("pipeline.model.densify_grad_thresh=1000.0", "pipeline.model.igd=false")
ROWS = ("boundary", "boundary-field")


@dataclass
class FieldTrial:
    """Train each setting with and without the field."""

    tabletop: Path
    """A scene with `object_mask` (exact) and `noisy_mask`; ids 0 and 19 are left out of the figures."""
    fruit: Path | None = None
    """A real scene with rough maps."""
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 900
    rows: tuple[str, ...] = ROWS
    settings: tuple[str, ...] = ("few-views", "small-photos", "coarse", "noisy", "fruit")
    output: Path = Path("outputs/field/results.jsonl")

    def main(self) -> None:
        everything = self._settings()
        for name in self.settings:
            if name not in everything:
                continue
            print(f"\n{name}", flush=True)
            setting = everything[name]
            options = (*setting.pop("options", (HALF,)),)
            Ablation(
                **setting, rows=self.rows, seeds=self.seeds, steps=self.steps, fork_at=0.667,
                options=options, output=self.output.with_name(f"{name}_{self.output.name}"),
            ).main()  # fmt: skip

    def _settings(self) -> dict[str, dict[str, Any]]:
        exact: dict[str, Any] = {"data": self.tabletop, "ignore_ids": (0, 19)}
        noisy = {**exact, "masks_dir": "noisy_mask", "eval_masks_dir": "object_mask"}
        few = thinned(self.tabletop, 3.6, self.output.parent / "thinned")
        settings = {
            "few-views": {**exact, "data": few},
            "small-photos": {
                **exact,
                "options": (f"pipeline.datamanager.camera_res_scale_factor={json.dumps(200 / 512)}",),
            },
            "coarse": {**exact, "options": (HALF, *NO_DENSIFICATION)},
            "noisy": noisy,
        }
        if self.fruit is not None:
            settings["fruit"] = {"data": self.fruit}
        return settings


if __name__ == "__main__":
    import tyro

    tyro.cli(FieldTrial).main()
