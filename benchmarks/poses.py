"""How near the poses that pycolmap finds are to the true ones of a scene's photos.

    python benchmarks/poses.py --data examples/demo_scene
    python benchmarks/poses.py --data SCENE --matching sequential

--data has a transforms.json with the true poses. Frames differ by a similarity, which is taken out first. Centres are compared in
parts of the scene's size: the mean distance of the true camera centres from their middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import tyro
from PIL import Image

from gradiseg_ns.poses.comparison import pose_errors
from gradiseg_ns.poses.solving import Matching, PosesError, solve
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.terminal import say, stages


@dataclass
class Poses:
    """Compare found poses with true ones."""

    data: Path
    """Folder of a scene with a transforms.json, whose photos lie in one folder."""
    matching: Matching = "auto"
    """Which photos are compared."""
    camera_model: str = "SIMPLE_RADIAL"
    """COLMAP's description of the lens."""

    def main(self) -> None:
        meta = read_json(self.data / "transforms.json")
        true = {
            Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) for frame in meta["frames"]
        }
        folders = {(self.data / frame["file_path"]).parent for frame in meta["frames"]}
        if len(folders) != 1:
            raise PosesError(f"{self.data}: the photos lie in {len(folders)} folders, expected one.")
        photos = folders.pop()
        sizes = {}
        for name in sorted(true):
            with Image.open(photos / name) as image:
                sizes[name] = image.size
        start = perf_counter()
        with stages() as report:
            solved = solve(
                photos, sizes, matching=self.matching, camera_model=self.camera_model, report=report
            )
        seconds = perf_counter() - start
        errors = pose_errors(solved.poses, np.stack([true[name] for name in solved.names]))
        told = errors.summary()
        say(
            f"{len(solved.names)} of {len(sizes)} photos ({len(solved.names) / len(sizes):.0%}) in {seconds:.0f} s; "
            f"{len(solved.points)} points, mean error {solved.errors.mean():.2f} px"
        )
        say(
            f"rotation: median {told['rotation_median_deg']:.3f} degrees, largest {told['rotation_max_deg']:.3f}; "
            f"centre: median {told['centre_median']:.2%} of the scene's size, largest {told['centre_max']:.2%}"
        )
        lens = solved.cameras[0]
        if "fl_x" in meta:
            say(
                f"focal length {lens.fl_x:.1f} px, true {meta['fl_x']:.1f}; k1 {lens.k1:.4f}, true {meta.get('k1', 0):.4f}"
            )


if __name__ == "__main__":
    try:
        tyro.cli(Poses).main()
    except GradisegError as error:
        raise SystemExit(str(error)) from None
