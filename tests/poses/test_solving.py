"""The job for the other process, what it answers, and what is said when it does not."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradiseg_ns.poses import solving
from gradiseg_ns.poses.comparison import pose_errors
from gradiseg_ns.poses.solving import PYTHON_VARIABLE, SOLVER, PosesError, groups_of, lens_of, pairs_of, solve

from ..scenes import write_scene
from .fake import answer_of, fake_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene", views=6)


def sizes_of(scene: Path) -> dict[str, tuple[int, int]]:
    return {path.name: Image.open(path).size for path in sorted((scene / "images").iterdir())}


def use(monkeypatch: pytest.MonkeyPatch, python: Path | str) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))


def test_all_pairs_are_compared_once() -> None:
    names = [f"{k:03d}" for k in range(60)]
    found = pairs_of(names, "auto")
    assert {frozenset(pair) for pair in found} == {frozenset(p) for p in itertools.combinations(names, 2)}
    assert len(found) == 60 * 59 // 2


def test_a_sequence_compares_neighbours_and_some_far_ones() -> None:
    names = [f"{k:03d}" for k in range(200)]
    found = {(int(a), int(b)) for a, b in pairs_of(names, "auto")}  # too many for all pairs
    assert {b - a for a, b in found} == {*range(1, 11), 16, 32, 64, 128}
    assert len(found) < 200 * 15 and all((k, k + 1) in found for k in range(199))


def test_photos_of_one_size_share_a_lens() -> None:
    sizes = {"a": (3, 4), "b": (4, 3), "c": (4, 3)}
    assert groups_of(sizes) == [["b", "c"], ["a"]]


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("SIMPLE_PINHOLE", [5, 1, 2], (5, 5, 1, 2, 0, 0, 0, 0)),
        ("PINHOLE", [5, 6, 1, 2], (5, 6, 1, 2, 0, 0, 0, 0)),
        ("RADIAL", [5, 1, 2, 0.1, 0.2], (5, 5, 1, 2, 0.1, 0.2, 0, 0)),
        ("OPENCV", [5, 6, 1, 2, 0.1, 0.2, 0.3, 0.4], (5, 6, 1, 2, 0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_lenses(model: str, params: list[float], expected: tuple[float, ...]) -> None:
    lens = lens_of({"model": model, "width": 3, "height": 4, "params": params})
    assert (lens.fl_x, lens.fl_y, lens.cx, lens.cy, lens.k1, lens.k2, lens.p1, lens.p2) == expected
    with pytest.raises(PosesError, match="FISHEYE"):
        lens_of({"model": "SIMPLE_FISHEYE", "width": 3, "height": 4, "params": [1, 2, 3]})


def test_poses_are_those_of_the_answer(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fake_python(tmp_path / "bin", answer_of(scene, without=("view_02.png",))))
    told = []
    solved = solve(
        scene / "images", sizes_of(scene), model_folder=tmp_path / "sparse" / "0",
        report=lambda *words: told.append(words),
    )  # fmt: skip
    assert solved.missing == ("view_02.png",) and len(solved.names) == 5
    assert told == [("Features", 6, 6)]
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    true = np.array([f["transform_matrix"] for f in frames if Path(f["file_path"]).name in solved.names])
    errors = pose_errors(solved.poses, true)
    assert errors.rotations.max() < 1e-5 and errors.centres.max() < 1e-9
    assert errors.scale == pytest.approx(0.5)
    assert (solved.cameras[0].k1, solved.colors[0].tolist()) == (0.01, [10, 20, 30])
    assert (tmp_path / "sparse" / "0" / "cameras.bin").read_bytes() == b"lens"


def test_no_pycolmap(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answer_of(scene)
    use(monkeypatch, fake_python(tmp_path / "a", answer, installed=False))
    with pytest.raises(PosesError, match=r"pip install 'pycolmap"):
        solving.check_pycolmap()
    # found, and of no use: a library is missing
    broken = 'print(json.dumps({"missing": "libgomp is not there"}), flush=True); sys.exit(0)'
    use(monkeypatch, fake_python(tmp_path / "b", answer, extra=broken))
    solving.check_pycolmap()
    with pytest.raises(PosesError, match="libgomp is not there"):
        solve(scene / "images", sizes_of(scene))
    use(monkeypatch, tmp_path / "nowhere")
    with pytest.raises(PosesError, match=PYTHON_VARIABLE):
        solving.check_pycolmap()


def test_a_crash_is_told_in_its_own_words(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = 'sys.stderr.write("the database is full\\n"); sys.stderr.flush(); os.abort()'
    use(monkeypatch, fake_python(tmp_path / "bin", answer_of(scene), extra=crash))
    with pytest.raises(PosesError, match=r"status -6 .*the database is full"):
        solve(scene / "images", sizes_of(scene))


def test_too_few_photos_fit(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(sizes_of(scene))
    use(monkeypatch, fake_python(tmp_path / "a", answer_of(scene, without=tuple(names[:2]))))
    with pytest.raises(PosesError, match=r"Only 4 of 6 .*wanted: 5.*Without one: view_00.png, view_01.png\."):
        solve(scene / "images", sizes_of(scene), least=0.8)
    assert len(solve(scene / "images", sizes_of(scene), least=0.5).names) == 4
    apart = {**answer_of(scene, without=tuple(names[:3])), "models": [3, 2]}
    use(monkeypatch, fake_python(tmp_path / "d", apart))
    with pytest.raises(PosesError, match=r"Only 3 of 6 .*2 groups of photos that nothing joins, of 3, 2"):
        solve(scene / "images", sizes_of(scene), least=0.8)
    use(monkeypatch, fake_python(tmp_path / "b", answer_of(scene, without=tuple(names[:4]))))
    with pytest.raises(PosesError, match=r"Only 2 of 6 .*wanted: 3.*Those with a pose: view_04.png"):
        solve(scene / "images", sizes_of(scene))
    use(monkeypatch, fake_python(tmp_path / "c", answer_of(scene, without=tuple(names))))
    with pytest.raises(PosesError, match=r"none of 6 got a pose.*--matching exhaustive"):
        solve(scene / "images", sizes_of(scene), matching="sequential")


def test_names_and_numbers_that_cannot_be_solved(tmp_path: Path) -> None:
    with pytest.raises(PosesError, match="2 photos"):
        solve(tmp_path, {"a.png": (3, 4), "b.png": (3, 4)})
    with pytest.raises(PosesError, match=r"b c\.png.*blanks"):
        solve(tmp_path, {"a.png": (3, 4), "b c.png": (3, 4), "d.png": (3, 4)})


def test_an_interruption_ends_the_other_process(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, fake_python(tmp_path / "bin", answer_of(scene), extra="time.sleep(600)"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(scene / "images", sizes_of(scene), report=interrupt)
    process = int((tmp_path / "bin" / "pids").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


# ------------------------------------------------------------------------------------- the other process itself

FAKE_PYCOLMAP = """
import enum, json, os, time
from pathlib import Path
from types import SimpleNamespace as Bag
__version__ = "fake"
LOG = Path(os.environ["FAKE_LOG"])
class Device(enum.Enum):
    cpu = 1
class CameraMode(enum.Enum):
    SINGLE = 1
ImageReaderOptions = FeatureExtractionOptions = FeatureMatchingOptions = ImportedPairingOptions = Bag
class IncrementalPipelineOptions(Bag):
    min_model_size = 10
class Database:
    @staticmethod
    def open(path):
        return Bag(close=lambda: None, read_image_with_name=lambda name: Bag(camera_id=7))
def note(**words):
    with LOG.open("a") as file:
        file.write(json.dumps(words) + "\\n")
def extract_features(database, images, image_names, camera_mode, reader_options, extraction_options, device):
    note(extract=image_names, camera=reader_options.existing_camera_id)
    if os.environ.get("FAKE_SLEEP"):
        time.sleep(600)
def match_image_pairs(database, matching_options, pairing_options, device):
    note(match=Path(pairing_options.match_list_path).read_text().splitlines())
class Model:
    def __init__(self, names):
        camera = Bag(model=Bag(name="PINHOLE"), width=4, height=3, params=[5.0, 6.0, 2.0, 1.5])
        pose = Bag(matrix=lambda: [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]])
        self.cameras = {7: camera}
        self.images = {k: Bag(name=n, camera_id=7, cam_from_world=lambda: pose) for k, n in enumerate(names)}
        self.points3D = {1: Bag(xyz=[1, 2, 3], color=[4, 5, 6], error=0.25, track=Bag(length=lambda: 3))}
    def reg_image_ids(self): return list(self.images)
    def num_reg_images(self): return len(self.images)
    def num_points3D(self): return 1
    def write(self, folder): Path(folder, "images.bin").write_bytes(b"")
def incremental_mapping(database, images, output, options, next_image_callback):
    next_image_callback()
    return {0: Model(["a.png", "b.png"]), 1: Model(["a.png", "b.png", "c.png"])}
"""


def start(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pycolmap.py").write_text(FAKE_PYCOLMAP)
    (tmp_path / "work").mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "lib"),
        "FAKE_LOG": str(tmp_path / "log"),
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, str(SOLVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    names = [f"{k}.png" for k in range(10)]
    job = {
        "images": "photos", "groups": [names, ["c.png"]], "pairs": list(itertools.combinations(names, 2))[:-1] * 3,
        "camera_model": "RADIAL", "threads": 1, "work": str(tmp_path / "work"), "output": str(tmp_path / "model"),
    }  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process


def test_the_solver_asks_in_pieces_and_takes_the_largest_model(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    told = [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 0
    assert [t["done"] for t in told if t.get("stage") == "Features"] == [0, 8, 10, 11]
    assert [t["done"] for t in told if t.get("stage") == "Matches"] == [0, 100, 132]
    assert told[-2] == {"models": [3, 2]}
    asked = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [a["camera"] for a in asked if "extract" in a] == [-1, 7, -1]  # a lens for each size
    assert [len(a["match"]) for a in asked if "match" in a] == [100, 32]
    answer = json.loads(Path(told[-1]["result"]).read_text())
    assert [image["name"] for image in answer["images"]] == ["a.png", "b.png", "c.png"]
    assert answer["points"] == [[1.0, 2.0, 3.0, 4, 5, 6, 0.25, 3]]
    assert answer["cameras"]["7"]["model"] == "PINHOLE" and (tmp_path / "model" / "images.bin").exists()


def test_the_solver_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    process = start(tmp_path, FAKE_SLEEP="1")
    assert process.stdout is not None and process.stdin is not None
    assert json.loads(process.stdout.readline()) == {"version": "fake"}
    process.stdin.close()
    assert process.wait(60) == 1


def test_the_solver_imports_nothing_of_ours() -> None:
    code = f"import sys; sys.argv = ['x']; import runpy; runpy.run_path({str(SOLVER)!r}); print([m for m in ('gradiseg_ns', 'PIL', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


_THERE = importlib.util.find_spec("pycolmap") is not None or bool(os.environ.get(PYTHON_VARIABLE))


@pytest.mark.slow
@pytest.mark.skipif(not _THERE, reason="needs pycolmap (extra poses), or GRADISEG_POSES_PYTHON that has it")
def test_the_demo_scene_for_real() -> None:
    scene = ROOT / "examples" / "demo_scene"
    solved = solve(scene / "images", sizes_of(scene))
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    true = {Path(f["file_path"]).name: np.array(f["transform_matrix"]) for f in frames}
    assert len(solved.names) >= 46
    found = pose_errors(solved.poses, np.stack([true[name] for name in solved.names])).summary()
    assert found["rotation_median_deg"] < 0.2 and found["centre_median"] < 0.005
