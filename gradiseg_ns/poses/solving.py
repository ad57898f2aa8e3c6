"""Poses of photos: a job for the other process, and what it answers."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.extras import install_command
from gradiseg_ns.tools.json_files import parse_json, read_json

SOLVER = Path(__file__).with_name("solver.py")
PYTHON_VARIABLE = "GRADISEG_POSES_PYTHON"
"""Environment variable: another Python, which has pycolmap. Default: the one that runs."""
FEWEST = 3
"""Photos with which something can be tried at all."""
MOST_EXHAUSTIVE = 150
"""Photos of which `auto` still matches every pair."""
NEIGHBOURS = 10
"""Photos before and after that one of a sequence is matched with; farther ones at distances that double."""

Matching = Literal["auto", "exhaustive", "sequential"]
Report = Callable[[str, int, int], None]
"""Is told the stage, and how much of it is done of how much."""


class PosesError(GradisegError):
    """Photos whose poses cannot be found; the message says what was found and what to do."""


@dataclass(frozen=True)
class Camera:
    """A lens, as transforms.json takes it. Lengths in pixels; the middle of the first pixel is at 0.5."""

    width: int
    height: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0


@dataclass(frozen=True)
class Solved:
    """What was found, in COLMAP's frame, whose place, turn and size are arbitrary."""

    names: tuple[str, ...]
    """The R photos that have a pose, by name."""
    missing: tuple[str, ...]
    """The others."""
    cameras: tuple[Camera, ...]
    """The lens of each of them."""
    poses: NDArray[np.float64]
    """[R, 4, 4], camera to world, OpenGL axes (x right, y up, z back)."""
    points: NDArray[np.float64]
    """[P, 3], sparse points in the same frame."""
    colors: NDArray[np.uint8]
    """[P, 3], RGB."""
    errors: NDArray[np.float64]
    """[P], mean distance in pixels between where a point is seen and where it would be."""
    track_lengths: NDArray[np.int64]
    """[P], photos that see a point."""


def way_of(count: int, matching: Matching) -> Literal["exhaustive", "sequential"]:
    """How so many photos are matched."""
    if matching == "auto":
        return "exhaustive" if count <= MOST_EXHAUSTIVE else "sequential"
    return matching


def pairs_of(names: Sequence[str], matching: Matching) -> list[tuple[str, str]]:
    """Which photos are compared: all pairs, or those near to each other in the order of the names.

    A sequence also compares photos 16, 32, 64, ... places apart, for cameras that come back.
    """
    if way_of(len(names), matching) == "exhaustive":
        # in blocks, so that the features of few photos are needed at a time
        size = 25
        blocks = [names[k : k + size] for k in range(0, len(names), size)]
        found = []
        for one, other in itertools.combinations_with_replacement(range(len(blocks)), 2):
            if one == other:
                found += itertools.combinations(blocks[one], 2)
            else:
                found += itertools.product(blocks[one], blocks[other])
        return found
    far = [1 << k for k in range(4, len(names).bit_length())]
    steps = [*range(1, NEIGHBOURS + 1), *far]
    return [(names[k], names[k + step]) for k in range(len(names)) for step in steps if k + step < len(names)]


def groups_of(sizes: dict[str, tuple[int, int]]) -> list[list[str]]:
    """Photos of one size were taken by one lens: their names, the largest group first."""
    count = Counter(sizes.values())
    return [
        [name for name, other in sizes.items() if other == size]
        for size in sorted(count, key=lambda size: -count[size])
    ]


def python_with_pycolmap() -> str:
    """The Python that runs the solver."""
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


def check_pycolmap() -> None:
    """Look before the work is done whether there is a pycolmap.

    Raises:
        PosesError: there is none.
    """
    python = python_with_pycolmap()
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pycolmap') is None)"
    try:
        there = subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        raise PosesError(f"{python} does not start ({error}); {PYTHON_VARIABLE} names it.") from error
    if not there:
        raise _no_pycolmap(python)


def _no_pycolmap(python: str, why: str = "it is not installed") -> PosesError:
    return PosesError(
        f"Poses are found by pycolmap, and {python} has none that works: {why}. Install it with\n  {install_command('poses')}\nor into "
        f"another environment, whose Python {PYTHON_VARIABLE} names. Photos with poses (a folder that ns-train opens) do not need it."
    )


def solve(
    photos: Path,
    sizes: dict[str, tuple[int, int]],
    *,
    matching: Matching = "auto",
    camera_model: str = "SIMPLE_RADIAL",
    threads: int | None = None,
    model_folder: Path | None = None,
    least: float = 0.0,
    report: Report | None = None,
) -> Solved:
    """Find the poses of photos: SIFT features, matches, and one photo after the other placed; the largest model counts.

    Args:
        photos: their folder.
        sizes: width and height of each photo by its name in the folder, in the order in which they were taken if that matters.
        matching: which photos are compared, see :func:`pairs_of`.
        camera_model: one of COLMAP's, with which the lenses are described: SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV.
        threads: of the solver. Default: all processors.
        model_folder: gets COLMAP's own files too (cameras.bin, images.bin, points3D.bin). Must not exist.
        least: share of the photos that must get a pose.
        report: is told how far it is.

    Raises:
        PosesError: there is no pycolmap, a name has blanks, or fewer photos than that fit together.
    """
    names = list(sizes)
    if len(names) < FEWEST:
        raise PosesError(
            f"{photos} holds {len(names)} photos: poses need {FEWEST} at least, and 20 or more are better."
        )
    blank = [name for name in names if any(c.isspace() for c in name)]
    if blank:
        raise PosesError(f"{photos / blank[0]}: COLMAP takes no names with blanks. Rename the photo.")
    with tempfile.TemporaryDirectory(prefix="gradiseg-poses-") as folder:
        work = Path(folder)
        job = {
            "images": str(photos.absolute()), "groups": groups_of(sizes), "pairs": pairs_of(names, matching),
            "camera_model": camera_model, "threads": threads or os.cpu_count() or 1, "work": str(work), "output": str(work / "model"),
        }  # fmt: skip
        models = _run(job, work, report or (lambda stage, done, total: None))
        solved = _read(names, read_json(work / "model.json"))
        _check(photos, solved, least, matching, models)
        if model_folder is not None:
            shutil.copytree(work / "model", model_folder)
    return solved


def _check(photos: Path, solved: Solved, least: float, matching: Matching, models: Sequence[int]) -> None:
    """Whether enough photos have a pose.

    Raises:
        PosesError: they have not; the message names those that have or have not, whichever are fewer.
    """
    found, total = len(solved.names), len(solved.names) + len(solved.missing)
    if found >= max(FEWEST, least * total):
        return
    advice = (
        "Neighbouring photos must show much of the same (two thirds of it) from places a step apart, sharp, with texture; plain walls, "
        "glass, and things that moved do not help. Add photos between, or leave out those that do not belong."
    )
    if way_of(total, matching) == "sequential":
        advice += " If the names are not in the order of the places: --matching exhaustive."
    if len(models) > 1:
        groups = ", ".join(str(count) for count in models)
        advice = f"There are {len(models)} groups of photos that nothing joins, of {groups}; the largest counts. {advice}"
    if not found:
        raise PosesError(f"No photos of {photos} fit together: none of {total} got a pose. {advice}")
    few = solved.names if found <= len(solved.missing) else solved.missing
    listed = ", ".join(few[:12]) + (", ..." if len(few) > 12 else "")
    which = "Those with a pose" if few is solved.names else "Without one"
    raise PosesError(
        f"Only {found} of {total} photos of {photos} got a pose (wanted: {max(FEWEST, math.ceil(least * total))}). {which}: {listed}. {advice}"
    )


def seconds_of(sizes: dict[str, tuple[int, int]], pairs: int) -> float:
    """A rough guess at how long poses take on this machine's processors."""
    megapixels = sum(width * height for width, height in sizes.values()) / 1e6
    each = megapixels / max(1, len(sizes))
    features = min(1.0, 0.1 + each / 1.3)  # of the 8,192 that are kept at most
    seconds = 2.0 * megapixels + pairs * (0.01 + 0.4 * features**2) + 0.15 * len(sizes) * (1 + 4 * features)
    return seconds * 2 / max(1, os.cpu_count() or 1)


def _run(job: dict[str, Any], work: Path, report: Report) -> list[int]:
    """Run the solver to its end. Returns how many photos each of its models has.

    Raises:
        PosesError: there is no pycolmap, or it failed.
    """
    python = python_with_pycolmap()
    log = work / "colmap.log"
    models: list[int] = []
    with open(log, "wb") as words:
        try:
            process = subprocess.Popen(
                [python, str(SOLVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
                start_new_session=True, encoding="utf8",
            )  # fmt: skip
        except OSError as error:
            raise PosesError(f"{python} does not start ({error}); {PYTHON_VARIABLE} names it.") from error
        done = False
        try:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()  # left open: its end ends the process
            except OSError:
                pass  # it ended already; what it said tells why
            for line in process.stdout:
                try:
                    told = parse_json(line)
                except ValueError:
                    continue  # words of a library
                if not isinstance(told, dict):
                    continue
                if "missing" in told:
                    raise _no_pycolmap(python, str(told["missing"]))
                if "stage" in told:
                    report(str(told["stage"]), int(told["done"]), int(told["total"]))
                models = told.get("models", models)
                done = done or "result" in told
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        pass
    if not done:
        last = [line for line in log.read_text("utf8", errors="replace").splitlines() if line.strip()][-3:]
        raise PosesError(
            f"pycolmap ended with the status {process.returncode} and without poses. Its last words: "
            + " / ".join(last or ["none"])
        )
    return models


def _read(names: Sequence[str], found: dict[str, Any]) -> Solved:
    """The solver's answer as arrays."""
    lenses = {key: lens_of(camera) for key, camera in found["cameras"].items()}
    images = sorted(found["images"], key=lambda image: names.index(image["name"]))
    poses = np.zeros((len(images), 4, 4))
    for k, image in enumerate(images):
        poses[k] = camera_to_world(np.asarray(image["cam_from_world"], np.float64))
    points = np.asarray(found["points"], np.float64).reshape(-1, 8)
    placed = [image["name"] for image in images]
    return Solved(
        names=tuple(placed),
        missing=tuple(name for name in names if name not in set(placed)),
        cameras=tuple(lenses[image["camera"]] for image in images),
        poses=poses,
        points=points[:, :3],
        colors=points[:, 3:6].astype(np.uint8),
        errors=points[:, 6],
        track_lengths=points[:, 7].astype(np.int64),
    )


def camera_to_world(cam_from_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """COLMAP's pose [3, 4], world to camera with y down and z forward, as camera to world [4, 4] with OpenGL axes."""
    rotation = cam_from_world[:, :3].T
    pose = np.eye(4)
    pose[:3, :3] = rotation * np.array([1.0, -1.0, -1.0])
    pose[:3, 3] = -rotation @ cam_from_world[:, 3]
    return pose


def lens_of(camera: dict[str, Any]) -> Camera:
    """A camera of COLMAP's.

    Raises:
        PosesError: its model has no place in transforms.json.
    """
    model, values = camera["model"], [float(value) for value in camera["params"]]
    size = int(camera["width"]), int(camera["height"])
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        focal, cx, cy, *bends = values
        return Camera(*size, focal, focal, cx, cy, *bends)
    if model in ("PINHOLE", "OPENCV"):
        return Camera(*size, *values)
    raise PosesError(
        f"COLMAP's camera model {model} is none that is written here: expected SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV."
    )
