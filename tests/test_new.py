"""`gradiseg new`: stages are done, skipped and repeated; interruptions and bad input lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from gradiseg_ns import runs
from gradiseg_ns.cli.masks import REPORT
from gradiseg_ns.cli.new import New
from gradiseg_ns.cli.stages import mask_stage, train_stage
from gradiseg_ns.cli.stages.job import Job, Step
from gradiseg_ns.cli.stages.mask_stage import MakeMaps
from gradiseg_ns.cli.stages.state import LOCK, STAGES, State
from gradiseg_ns.cli.stages.train_stage import Train
from gradiseg_ns.cli.stages.work import STEPS, Work
from gradiseg_ns.poses.solving import PYTHON_VARIABLE, PosesError
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.tools import atomic
from gradiseg_ns.tools.errors import WriteError
from gradiseg_ns.tools.weights import WeightsError

from .poses.fake import answer_of, fake_python
from .scenes import write_scene

REAL = {kind.name: kind.do for kind in STEPS}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos without poses, whose poses the other Python knows."""
    scene = write_scene(tmp_path / "scene", views=12)
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_python(tmp_path / "bin", answer_of(scene))))
    shutil.copytree(scene / "images", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages in the order in which they were done. Masks, training and overview only leave the files that are looked for."""
    order: list[str] = []

    def masks(step: Step) -> dict[str, Any]:
        folder = step.job.folder / "masks" / "fake"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT).write_text("{}")
        return {"folder": "masks/fake", "made": True, "like": None}

    def train(step: Step) -> dict[str, Any]:
        run = step.job.folder / "runs" / "fake"
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yml").write_text("")
        return {"run": "runs/fake", "method": "gradiseg-lite", "steps": 1}

    def overview(step: Step) -> dict[str, Any]:
        (step.job.folder / "overview.jpg").write_bytes(b"")
        return {"objects": [[4, "object 4", 90], [0, "unassigned", 80], [2, "mug", 70]]}

    made: dict[str, Callable[[Step], dict[str, Any]]] = {
        "photos": REAL["photos"], "poses": REAL["poses"], "masks": masks, "train": train, "overview": overview,
    }  # fmt: skip

    def noted(stage: str) -> Callable[[Step], dict[str, Any]]:
        def do(step: Step) -> dict[str, Any]:
            order.append(stage)
            return made[stage](step)

        return do

    for kind in STEPS:
        monkeypatch.setattr(kind, "do", noted(kind.name))
    return order


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "new.json").read_text())


def run(source: Path, output: Path, **flags: Any) -> None:
    New(source, output, device="cpu", **flags).main()


# ----------------------------------------------------------------------------------------------------- the stages


def test_each_stage_is_done_once_and_told(
    photos: Path, tmp_path: Path, done: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.iterdir()}
    run(photos, tmp_path / "out")
    assert done == list(STAGES)
    told = capsys.readouterr().out
    for words in (
        "12 photos in", "all pairs of 12 photos, 66 in all", "poses of 12 of 12 photos and 600 points", "steps of gradiseg-lite on the CPU",
        "2 objects, by size: 4, 2 (mug)", f"gradiseg export {tmp_path / 'out' / 'runs' / 'fake'} --objects 4",
        "regions of like colour",
    ):  # fmt: skip
        assert words in told
    assert {path: path.stat().st_mtime_ns for path in photos.iterdir()} == before
    done.clear()
    run(photos, tmp_path / "out")
    assert done == [] and "[train] is there:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"only": "masks"}, ["masks"]),
        ({"again": "masks"}, ["masks", "train", "overview"]),
        ({"again": "poses"}, ["poses", "masks", "train", "overview"]),
        ({"again": "overview"}, ["overview"]),
        ({"steps": 7}, ["train", "overview"]),
        ({"model": "facebook/sam-vit-base"}, ["masks", "train", "overview"]),
        ({"max_size": 99}, list(STAGES)),
        ({"device": "cpu", "offline": True}, []),
    ],
)
def test_what_depends_on_it_is_repeated(
    photos: Path, tmp_path: Path, done: list[str], flags: dict[str, Any], expected: list[str]
) -> None:
    run(photos, tmp_path / "out")
    done.clear()
    New(photos, tmp_path / "out", **flags).main()
    assert done == expected


def test_a_stage_that_was_repeated_alone_is_followed_by_the_others_later(
    photos: Path, tmp_path: Path, done: list[str]
) -> None:
    run(photos, tmp_path / "out")
    done.clear()
    run(photos, tmp_path / "out", only="masks")
    run(photos, tmp_path / "out")
    assert done == ["masks", "train", "overview"]


def test_new_photos_and_lost_results_are_noticed(
    photos: Path, tmp_path: Path, done: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(photos, out)
    done.clear()
    (out / "overview.jpg").unlink()
    run(photos, out)
    assert done == ["overview"] and "overview.jpg is gone" in capsys.readouterr().out
    done.clear()
    (photos / "view_03.png").unlink()
    run(photos, out)
    assert done == list(STAGES) and "the photos are others" in capsys.readouterr().out
    assert len(list((out / "scene" / "images").iterdir())) == 11
    assert state_of(out)["stages"]["poses"]["result"]["registered"] == 11
    # without the folder of photos the copies are enough
    done.clear()
    shutil.rmtree(photos)
    run(photos, out)
    assert done == []


def test_only_needs_what_comes_before(photos: Path, tmp_path: Path, done: list[str]) -> None:
    with pytest.raises(SourceError, match="--only train needs photos, which is not there"):
        run(photos, tmp_path / "out", only="train")
    run(photos, tmp_path / "out", only="photos")
    assert done == ["photos"]


def test_photos_without_a_pose_are_told_and_too_few_are_an_error(
    photos: Path,
    tmp_path: Path,
    done: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = ("view_01.png", "view_05.png")
    python = fake_python(tmp_path / "other", answer_of(tmp_path / "scene", without=without))
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with pytest.raises(PosesError, match=r"Only 10 of 12 .*view_01.png, view_05.png"):
        run(photos, tmp_path / "out", least_registered=0.9)
    assert done == ["photos", "poses"]
    scene = tmp_path / "out" / "scene"
    assert sorted(path.name for path in scene.iterdir()) == ["images"]  # poses are whole or not there
    done.clear()
    run(photos, tmp_path / "out", only="poses")
    assert done == ["poses"] and "2 of 12 photos got no pose" in capsys.readouterr().out
    assert sorted(path.name for path in scene.iterdir()) == [
        "colmap",
        "images",
        "sparse_pc.ply",
        "transforms.json",
    ]
    assert len(json.loads((scene / "transforms.json").read_text())["frames"]) == 10


def test_an_interruption_keeps_earlier_stages(
    photos: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gradiseg_ns.poses.solving.solve", interrupted)
        with pytest.raises(SystemExit) as ended:
            run(photos, tmp_path / "out")
    assert ended.value.code == 130
    done.clear()
    run(photos, tmp_path / "out")
    assert done == ["poses", "masks", "train", "overview"]


# ------------------------------------------------------------------------------------------------------ bad input


def test_bad_input_makes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[type[Exception], str, Path, dict[str, Any]]] = [
        (PosesError, "holds no photos", empty, {}),
        (SourceError, "no such folder", tmp_path / "nowhere", {}),
        (SourceError, "--steps 0", photos, {"steps": 0}),
        (SourceError, "--max-size 10", photos, {"max_size": 10}),
        (SourceError, "--least-registered 50", photos, {"least_registered": 50}),
        (SourceError, "either --only", photos, {"only": "train", "again": "masks"}),
        (SourceError, "either --masks-dir", photos, {"masks_dir": photos, "model": "regions"}),
        (SourceError, "--masks-dir .*no such folder", photos, {"masks_dir": tmp_path / "nowhere"}),
        (SourceError, "--only poses: .* has poses", tmp_path / "scene", {"only": "poses"}),
    ]
    for kind, words, source, flags in cases:
        with pytest.raises(kind, match=words):
            run(source, out, **flags)
    Image.open(photos / "view_00.png").save(empty / "one.png")
    with pytest.raises(PosesError, match="one photo"):
        run(empty, out)
    missing = fake_python(tmp_path / "none", {}, installed=False)
    monkeypatch.setenv(PYTHON_VARIABLE, str(missing))
    with pytest.raises(PosesError, match="pip install 'pycolmap"):
        run(photos, out)
    assert not out.exists()


def test_two_at_once_do_not_mix(photos: Path, tmp_path: Path, done: list[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).write_text(f"{atomic._MACHINE}-{os.getppid()}-{socket.gethostname()}")
    with pytest.raises(WriteError, match=f"another `gradiseg new`, process {os.getppid()}.*remove .*{LOCK}"):
        run(photos, out)
    assert done == [] and [path.name for path in out.iterdir()] == [LOCK]
    (out / LOCK).write_text(f"{atomic._MACHINE}-{2**22 + 1}-{socket.gethostname()}")  # it was killed
    run(photos, out)
    assert done == list(STAGES) and not (out / LOCK).exists()


def test_a_killed_first_stage_is_gone_on_with(
    photos: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        (tmp_path / "out" / "scene").mkdir()
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[0], "do", killed)
        with pytest.raises(SystemExit):
            run(photos, tmp_path / "out")
    run(photos, tmp_path / "out")
    assert done == list(STAGES)


def test_an_output_of_something_else_is_left_alone(photos: Path, tmp_path: Path, done: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("It was a dark")
    with pytest.raises(WriteError, match="was not made by `gradiseg new`"):
        run(photos, tmp_path / "mine")
    with pytest.raises(WriteError, match="is a file"):
        run(photos, tmp_path / "mine" / "novel.txt")
    run(photos, tmp_path / "out", only="photos")
    with pytest.raises(WriteError, match="was made of .*photos, not of .*scene"):
        run(tmp_path / "scene", tmp_path / "out")
    state = state_of(tmp_path / "out")
    for broken in (
        "{",
        "[]",
        json.dumps({**state, "version": 99}),
        json.dumps({**state, "stages": {"photos": {}}}),
    ):
        (tmp_path / "out" / "new.json").write_text(broken)
        with pytest.raises(WriteError, match="cannot be read"):
            run(photos, tmp_path / "out")


# --------------------------------------------------------------------------------------------- masks and training


def work_of(source: Path, output: Path, **flags: Any) -> Work:
    made = New(source, output, device="cpu", **flags)
    return Work(Job(made, State.open(output, source, made._has_poses)))


def maps_step(work: Work) -> MakeMaps:
    step = work.steps["masks"]
    assert isinstance(step, MakeMaps)
    return step


def test_masks_go_on_and_others_get_another_folder(
    photos: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(MakeMaps, "do", REAL["masks"])
    asked: list[Path] = []

    def fake(self: Any) -> None:
        asked.append(self.output_dir)
        assert self.data == out / "scene" and self.model == model
        if len(asked) == 1:
            raise SystemExit(130)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / REPORT).write_text("{}")

    monkeypatch.setattr(mask_stage.Maps, "main", fake)
    model = "regions"
    with pytest.raises(SystemExit):
        run(photos, out)
    run(photos, out)
    assert asked == [out / "masks" / "regions"] * 2  # gone on with
    run(photos, out, again="poses")
    assert asked[-1] == out / "masks" / "regions"  # the photos are the same
    run(photos, out, only="masks")
    assert asked[-1] == out / "masks" / "regions-2"
    model = "facebook/sam-vit-base"
    run(photos, out, model=model)
    assert asked[-1] == out / "masks" / "sam-vit-base"
    assert (out / "masks" / "regions" / REPORT).exists()


def test_a_training_that_was_ended_goes_on(
    photos: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Train, "do", REAL["train"])
    configs: list[Any] = []

    def train(config: Any) -> Any:
        configs.append(config)
        assert (config.get_base_dir() / "config.yml").is_file()
        if len(configs) == 1:
            raise SystemExit(128 + signal.SIGINT)
        return SimpleNamespace(), 1.0

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(train_stage, "steps_done", lambda run: 7 if configs else 0)
    # config.checkpoint() would look for the checkpoint that the fake did not write
    monkeypatch.setattr("gradiseg_ns.trainer.GradisegTrainerConfig._steps_done", lambda config: 0)
    with pytest.raises(SystemExit) as ended:
        run(photos, out, steps=20)
    assert ended.value.code == 130 and "train" in state_of(out)["begun"]
    first = configs[0]
    assert first.max_num_iterations == 20 and first.load_dir is None
    assert first.pipeline.model.associate == "auto"
    assert first.pipeline.datamanager.masks_dir == str((out / "masks" / "fake").absolute())
    (first.get_base_dir() / "associated_mask").mkdir()
    run(photos, out, steps=20)
    second = configs[1]
    assert second.max_num_iterations == 13
    assert second.load_dir == first.get_base_dir() / "nerfstudio_models"
    assert second.pipeline.model.associate == "off"
    assert second.pipeline.datamanager.masks_dir == str((first.get_base_dir() / "associated_mask").resolve())
    state = state_of(out)
    assert state["begun"] == {} and state["stages"]["train"]["result"]["steps"] == 20
    # with other steps it begins anew
    monkeypatch.setattr(train_stage, "steps_done", lambda run: 0)
    run(photos, out, steps=21)
    assert configs[2].load_dir is None and configs[2].max_num_iterations == 21


def test_a_scene_keeps_its_poses_and_maps(tmp_path: Path, done: list[str]) -> None:
    scene = write_scene(tmp_path / "scene", views=6)
    run(scene, tmp_path / "out")
    assert done == ["masks", "train", "overview"]
    assert maps_step(work_of(scene, tmp_path / "out")).given() == (scene / "object_mask").absolute()
    assert maps_step(work_of(scene, tmp_path / "out", model="regions")).given() is None
    assert work_of(scene, tmp_path / "out").job.scene_folder == scene


def test_ids_that_agree_are_not_made_to(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", views=6)
    job = work_of(scene, tmp_path / "out").job
    train = Train(job)
    job.state.stages["masks"] = {"result": {"made": False}}
    assert train.associate(scene / "object_mask") == "off"
    job.state.stages["masks"] = {"result": {"made": True}}
    assert train.associate(scene / "object_mask") == "auto"
    job.flags.phrases = "red ball"
    assert train.associate(scene / "object_mask") == "off"


def test_weights_that_cannot_be_had(
    photos: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MakeMaps, "do", REAL["masks"])
    with pytest.raises(WeightsError, match="regions` needs no weights"):
        run(photos, tmp_path / "out", model=str(tmp_path / "no-model"), offline=True)
    assert "poses" in state_of(tmp_path / "out")["stages"]


# --------------------------------------------------------------------------------------------------- all of it


@pytest.mark.slow
def test_from_photos_to_objects(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in place of anything but pycolmap."""
    out = tmp_path / "out"
    run(photos, out, steps=60)
    told = capsys.readouterr().out
    assert "held-out views: PSNR" in told and "Next:" in told
    with Image.open(out / "overview.jpg") as sheet:
        assert sheet.width >= 4 * 60  # without the rim that undistortion loses
    run_folder = (out / "run").resolve()
    assert (out / "run").is_symlink() and (run_folder / "associated_mask").is_dir()
    rows = (out / "objects.csv").read_text().splitlines()
    assert rows[0] == "id,name,gaussians" and len(rows) > 2
    assert json.loads((out / "metrics.json").read_text())["psnr"] > 5
    # moved as a whole it is still there
    shutil.move(out, tmp_path / "moved")
    run(photos, tmp_path / "moved", steps=60)
    assert "is there:" in capsys.readouterr().out
    run(photos, tmp_path / "moved", steps=60, only="overview")


@pytest.mark.slow
def test_few_photos_have_no_held_out_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path / "scene", views=5)
    run(scene, tmp_path / "out", steps=20)
    assert "too few photos to hold some out" in capsys.readouterr().out
    assert (tmp_path / "out" / "overview.jpg").is_file()
