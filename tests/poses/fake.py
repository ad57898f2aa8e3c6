"""In the place of a Python with pycolmap: a script that answers as the solver does, with the true poses of a scene."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SCRIPT = """#!{python}
import json, os, sys, time
from pathlib import Path
if sys.argv[1] == "-c":
    sys.exit({installed} is False)
Path({log!r}).open("a").write(f"{{os.getpid()}}\\n")
job = json.loads(sys.stdin.readline())
names = [name for group in job["groups"] for name in group]
answer = json.loads(Path({answer!r}).read_text())
print("words of a library", flush=True)
print(json.dumps({{"stage": "Features", "done": len(names), "total": len(names)}}), flush=True)
{extra}
answer["images"] = [image for image in answer["images"] if image["name"] in names]
Path(job["output"]).mkdir()
Path(job["output"], "cameras.bin").write_bytes(b"lens")
Path(job["work"], "model.json").write_text(json.dumps(answer))
print(json.dumps({{"models": answer.get("models", [len(answer["images"])])}}))
print(json.dumps({{"result": "model.json"}}))
"""


def answer_of(scene: Path, *, without: tuple[str, ...] = (), points: int = 600) -> dict:
    """What the solver says of a scene that `write_scene` made: its exact poses, in another frame of twice the size."""
    meta = json.loads((scene / "transforms.json").read_text())
    flip = np.diag([1.0, -1.0, -1.0])
    images = []
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"], np.float64)
        rotation: NDArray[np.float64] = (pose[:3, :3] @ flip).T
        images.append(
            {
                "name": Path(frame["file_path"]).name, "camera": "1",
                "cam_from_world": np.column_stack([rotation, -rotation @ (2 * pose[:3, 3])]).tolist(),
            }
        )  # fmt: skip
    rng = np.random.default_rng(0)
    xyz = rng.uniform([-1.2, -1.2, 0], [1.2, 1.2, 1.6], (points, 3))
    camera = {
        "model": "SIMPLE_RADIAL", "width": meta["w"], "height": meta["h"],
        "params": [meta["fl_x"], meta["cx"], meta["cy"], 0.01],
    }  # fmt: skip
    return {
        "cameras": {"1": camera},
        "images": [image for image in images if image["name"] not in without],
        "points": [[*row, 10, 20, 30, 0.5, 4] for row in xyz.tolist()],
    }


def fake_python(folder: Path, answer: dict, *, installed: bool = True, extra: str = "") -> Path:
    """An executable file in a folder; `extra` is run before the answer. The processes are listed in `pids`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answer.json").write_text(json.dumps(answer))
    path = folder / "python"
    path.write_text(
        _SCRIPT.format(
            python=sys.executable, installed=installed, answer=str(folder / "answer.json"), extra=extra, log=str(folder / "pids")
        )
    )  # fmt: skip
    path.chmod(0o755)
    return path
