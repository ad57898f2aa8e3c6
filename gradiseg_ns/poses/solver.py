"""What the other process runs: features, matches and poses by pycolmap. Nothing of this package or of Pillow is imported here.

The job comes as a line of JSON on standard input. Progress and the result go as lines of JSON to standard output. COLMAP's own words
go to standard error. The process ends when its standard input does: with the one that started it.

It is started as a file, by any Python that has pycolmap.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

CHUNK = 8
"""Photos between two lines of progress."""
PAIRS = 100
"""Pairs between two lines of progress."""


def tell(**words: Any) -> None:
    """A line for the one that listens."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # as long as the parent lives, nothing comes after the job
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


def extract(colmap: Any, job: dict[str, Any], database: Path) -> None:
    """SIFT features of all photos; photos of one size share a camera."""
    total, done = sum(len(group) for group in job["groups"]), 0
    tell(stage="Features", done=0, total=total)
    for group in job["groups"]:
        camera = -1
        for first in range(0, len(group), CHUNK):
            names = group[first : first + CHUNK]
            reader = colmap.ImageReaderOptions()
            reader.camera_model = job["camera_model"]
            reader.existing_camera_id = camera
            options = colmap.FeatureExtractionOptions()
            options.num_threads = job["threads"]
            options.use_gpu = False
            colmap.extract_features(
                str(database), job["images"], image_names=names, camera_mode=colmap.CameraMode.SINGLE,
                reader_options=reader, extraction_options=options, device=colmap.Device.cpu,
            )  # fmt: skip
            if camera < 0:
                with contextlib.closing(colmap.Database.open(str(database))) as opened:
                    camera = opened.read_image_with_name(names[0]).camera_id
            done += len(names)
            tell(stage="Features", done=done, total=total)


def match(colmap: Any, job: dict[str, Any], database: Path, work: Path) -> None:
    """Matches of the pairs that were asked for."""
    pairs = job["pairs"]
    tell(stage="Matches", done=0, total=len(pairs))
    listed = work / "pairs.txt"
    for first in range(0, len(pairs), PAIRS):
        chunk = pairs[first : first + PAIRS]
        listed.write_text("".join(f"{one} {other}\n" for one, other in chunk), "utf8")
        options = colmap.FeatureMatchingOptions()
        options.num_threads = job["threads"]
        options.use_gpu = False
        pairing = colmap.ImportedPairingOptions()
        pairing.match_list_path = str(listed)
        colmap.match_image_pairs(
            str(database), matching_options=options, pairing_options=pairing, device=colmap.Device.cpu
        )
        tell(stage="Matches", done=first + len(chunk), total=len(pairs))


def reconstruct(colmap: Any, job: dict[str, Any], database: Path, work: Path) -> Any:
    """The model that holds most photos, or None."""
    total, done = sum(len(group) for group in job["groups"]), 0
    tell(stage="Poses", done=0, total=total)

    def next_image() -> None:
        nonlocal done
        done = min(done + 1, total)
        tell(stage="Poses", done=done, total=total)

    options = colmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.min_model_size = min(options.min_model_size, total)
    options.random_seed = 0
    models = work / "models"
    models.mkdir()
    found = colmap.incremental_mapping(
        str(database), job["images"], str(models), options=options, next_image_callback=next_image
    )
    tell(models=sorted((model.num_reg_images() for model in found.values()), reverse=True))
    return max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()), default=None)


def describe(model: Any) -> dict[str, Any]:
    """Cameras, poses and points of a model, in COLMAP's axes (x right, y down, z forward)."""
    cameras = {
        str(number): {
            "model": camera.model.name, "width": camera.width, "height": camera.height,
            "params": [float(value) for value in camera.params],
        }
        for number, camera in model.cameras.items()
    }  # fmt: skip
    images = []
    for number in model.reg_image_ids():
        image = model.images[number]
        matrix = image.cam_from_world().matrix()
        images.append(
            {
                "name": image.name, "camera": str(image.camera_id),
                "cam_from_world": [[float(value) for value in row] for row in matrix],
            }
        )  # fmt: skip
    points = [
        [*(float(v) for v in point.xyz), *(int(v) for v in point.color), float(point.error), point.track.length()]
        for point in model.points3D.values()
    ]  # fmt: skip
    return {"cameras": cameras, "images": images, "points": points}


def main() -> int:
    job = json.loads(sys.stdin.readline())
    try:
        import pycolmap
    except ImportError as error:
        tell(missing=str(error))
        return 0
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tell(version=str(pycolmap.__version__))
    work, output = Path(job["work"]), Path(job["output"])
    database = work / "database.db"
    extract(pycolmap, job, database)
    match(pycolmap, job, database, work)
    model = reconstruct(pycolmap, job, database, work)
    result: dict[str, Any] = {"cameras": {}, "images": [], "points": []}
    if model is not None:
        output.mkdir(parents=True)
        model.write(str(output))
        result = describe(model)
    (work / "model.json").write_text(json.dumps(result), "utf8")
    tell(result=str(work / "model.json"))
    return 0


if __name__ == "__main__":
    # what is written to standard output by others must not come between the lines
    code = main()
    sys.stdout.flush()
    os._exit(code)
