"""Checkpoints that cannot be read, runs that are told to end, runs that go on with other views, two runs at once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs import experiment_config
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils.eval_utils import eval_setup
from rich.console import Console

from gradiseg_ns import runs, sources
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.sources import checkpoints
from gradiseg_ns.sources.checkpoints import CheckpointError, check_model_state, choose, in_folder
from gradiseg_ns.tools import terminal
from gradiseg_ns.tools.errors import GradisegError, WriteError
from gradiseg_ns.trainer import GradisegTrainer, GradisegTrainerConfig, resume_line

from .scenes import write_scene

pytestmark = pytest.mark.slow

STEPS = 6
"""Enough for a schedule that prunes."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What our own lines say."""
    output = io.StringIO()
    ours = Console(file=output, width=10_000)
    monkeypatch.setattr(terminal, "console", lambda: ours)
    checkpoints._told.clear()
    return output


# ------------------------------------------------------------------------------------------------------------- files


def write(path: Path, step: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save({"pipeline": {"a": torch.arange(1000)}, "step": step}, path)
    return path


def test_a_state_that_does_not_fit_is_refused_by_what_is_wrong() -> None:
    objects = ObjectTable.create([0, 1, 7]).to_dict()
    state = {"_extra_state": {"objects": objects}, "means": torch.zeros(3, 3)}
    assert check_model_state(state, state.keys(), [1, 7]) == (0, 1, 7)
    assert check_model_state(state, state.keys()) == (0, 1, 7), "evaluation: whatever the data have"
    with pytest.raises(CheckpointError, match=r"missing \['a'\] and unknown \['means'\]\. Was it trained"):
        check_model_state(state, {"_extra_state", "a"})
    with pytest.raises(CheckpointError, match=r"2 object ids .* \(first ones: \[4, 9\]; it knows 3\)"):
        check_model_state(state, state.keys(), [9, 4, 1])


def damaged(whole: bytes) -> bytes:
    place = whole.index(torch.arange(500, 510).numpy().tobytes())
    return whole[:place] + b"\xff" * 8 + whole[place + 8 :]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda whole: whole[: len(whole) // 2], "cut off"),
    "empty": (lambda whole: b"", "it is empty"),
    "zeros": (lambda whole: bytes(len(whole)), "no file of torch's"),
    "text": (lambda whole: b"<html>404</html>", "no file of torch's"),
    "damaged": (damaged, "damaged: 1 of its"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_newest_that_can_be_read_is_taken_and_named(tmp_path: Path, said: io.StringIO, kind: str) -> None:
    good, newest = write(tmp_path / "step-000000099.ckpt", 99), write(tmp_path / "step-000000100.ckpt", 100)
    assert choose(tmp_path) == newest and said.getvalue() == ""
    change, reason = BROKEN[kind]
    newest.write_bytes(change(newest.read_bytes()))
    for _ in range(3):
        assert choose(tmp_path) == good
    assert said.getvalue().count("\n") == 1, "told once"
    for text in ("Warning", str(newest), reason, f"{good.name} is taken instead"):
        assert text in said.getvalue()
    with pytest.raises(CheckpointError, match=f"{reason}.*can be read: {good.name}"):
        choose(tmp_path, 100)
    good.unlink()
    with pytest.raises(CheckpointError, match=f"--load-dir .* no checkpoint that can be read.*{reason}"):
        choose(tmp_path, flag="--load-dir")


def test_what_else_lies_there_is_passed_over(tmp_path: Path) -> None:
    for name in ("notes.txt", "step-best.ckpt", "step-000000200.ckpt.part", ".writing.tmp", "-7.ckpt"):
        (tmp_path / name).write_text("")
    with pytest.raises(
        CheckpointError, match=r"has no checkpoint: found .*notes\.txt.* Expected step-000012345"
    ):
        choose(tmp_path)
    (tmp_path / "step-000000300.ckpt").mkdir()
    good = write(tmp_path / "step-99.ckpt", 99)
    write(tmp_path / "step-000000020.ckpt", 20)
    assert choose(tmp_path) == good, "by number, not by letter"
    assert [path.name for path in in_folder(tmp_path)][1:] == ["step-99.ckpt", "step-000000020.ckpt"]
    assert choose(tmp_path, 20).name == "step-000000020.ckpt"
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; found .*step-99"):
        choose(tmp_path, 7)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        choose(tmp_path / "nowhere")


def test_a_file_without_checksums_is_no_damage(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = write(tmp_path / "step-000000001.ckpt", 1)
    finally:
        torch.serialization.set_crc32_options(True)
    assert choose(tmp_path) == path


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"pipeline": Evil(), "step": 1}, tmp_path / "step-000000001.ckpt")
    with pytest.raises(CheckpointError):
        choose(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    path = write(tmp_path / "step-000000001.ckpt", 1)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="PytorchStreamWriter"):
        write(path, 2)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# -------------------------------------------------------------------------------------------------------------- runs

HOSTILE = "[/red]ball\x1b[2J\x00"
"""A name that is no markup, and would clear the terminal."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_scene(tmp_path_factory.mktemp("scene") / "balls", views=12)
    (folder / "object_names.json").write_text(json.dumps({"1": HOSTILE}))
    return folder


def make(scene: Path, output: Path, steps: int = STEPS, **options: Any) -> GradisegTrainerConfig:
    return runs.make_config("gradiseg-lite", scene, output, steps=steps, device="cpu", options=options)


@pytest.fixture(scope="module")
def trained(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> GradisegTrainer:
    trainer = runs.train(make(scene, tmp_path_factory.mktemp("out")))[0]
    assert [path.name for path in trainer.base_dir.glob(".*")] == []
    return trainer


@pytest.fixture
def broken(trained: GradisegTrainer, tmp_path: Path) -> Path:
    """The config.yml of a copy of the run whose newest checkpoint is cut off, with something else in the folder."""
    folder = tmp_path / "balls" / "gradiseg-lite" / "run"
    shutil.copytree(trained.base_dir, folder)
    models = folder / "nerfstudio_models"
    (good,) = models.iterdir()
    (models / "step-000000900.ckpt").write_bytes(good.read_bytes()[:5000])
    (models / "notes.txt").write_text("mine")
    config = yaml.load((folder / "config.yml").read_text(), Loader=yaml.Loader)
    config.output_dir, config.timestamp = tmp_path, "run"
    (folder / "config.yml").write_text(yaml.dump(config))
    return folder / "config.yml"


GOOD = f"step-{STEPS - 1:09d}.ckpt"


def test_commands_take_the_last_good_checkpoint(broken: Path, said: io.StringIO) -> None:
    _, pipeline, path, step = eval_setup(broken)
    assert (path.name, step, pipeline.model.step) == (GOOD, STEPS - 1, STEPS - 1)
    assert f"{GOOD} is taken instead" in said.getvalue()
    assert sources.load_run(broken).checkpoint == path
    shutil.rmtree(path.parent)
    with pytest.raises(CheckpointError, match="nerfstudio_models has no checkpoint: there is no such folder"):
        eval_setup(broken)
    with pytest.raises(sources.SourceError, match="has no checkpoint"):
        sources.load_run(broken)


def test_a_run_goes_on_from_the_last_good_checkpoint(
    scene: Path, broken: Path, tmp_path: Path, said: io.StringIO
) -> None:
    config = make(scene, tmp_path / "again", 2, load_dir=broken.parent / "nerfstudio_models")
    trainer = runs.train(config)[0]
    assert trainer.pipeline.model.schedule.length == STEPS + 2
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == [f"step-{STEPS + 1:09d}.ckpt"]
    assert said.getvalue().count(f"{GOOD} is taken instead") == 1
    config = make(
        scene, tmp_path / "again", 2, load_checkpoint=broken.parent / "nerfstudio_models" / "notes.txt"
    )
    with pytest.raises(CheckpointError, match=r"notes\.txt cannot be read"):
        runs.train(config)


# --------------------------------------------------------------------------------------------------------- other views


def fewer(scene: Path, folder: Path, count: int) -> Path:
    """The scene with its first views only, and its photos in another folder, as at another size."""
    shutil.copytree(scene, folder)
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    meta["frames"] = meta["frames"][:count]
    path.write_text(json.dumps(meta))
    return folder


def go_on(trained: GradisegTrainer, scene: Path, output: Path, folder: Path | None = None) -> GradisegTrainer:
    return runs.train(make(scene, output, 1, load_dir=folder or trained.checkpoint_dir))[0]


def pruned(trainer: GradisegTrainer) -> int:
    """How many Gaussians go that no view sees."""
    model = trainer.pipeline.model
    before = model.num_points
    with torch.no_grad():
        model.means[:100] = 1e3
    model.prune_rarely_seen(trainer.pipeline.datamanager.train_dataset.cameras, model.schedule.length - 1)
    return before - model.num_points


def test_a_run_that_goes_on_without_some_views_prunes_nothing(
    trained: GradisegTrainer, scene: Path, tmp_path: Path, said: io.StringIO
) -> None:
    names = list(trained.pipeline.model.views)
    assert names == sorted(f"images/view_{i:02d}" for i in range(12) if f"images/view_{i:02d}" in names)
    half = go_on(trained, fewer(scene, tmp_path / "half", 6), tmp_path / "a")
    assert half.pipeline.model.views_are_missing
    assert (
        f"was trained on {len(names)} views, and" in said.getvalue()
        and "nothing is pruned" in said.getvalue()
    )
    assert half.pipeline.model.num_points >= trained.pipeline.model.num_points
    assert pruned(half) == 0
    assert set(names) <= set(half.pipeline.model.views), "the next one has to know them too"
    state = torch.load(in_folder(half.checkpoint_dir)[0], weights_only=True)["pipeline"]
    assert state["_model._extra_state"]["views"] == half.pipeline.model.views
    again = go_on(trained, tmp_path / "half", tmp_path / "b", half.checkpoint_dir)
    assert again.pipeline.model.views_are_missing


def test_a_run_that_goes_on_with_its_views_prunes(
    trained: GradisegTrainer, scene: Path, tmp_path: Path, said: io.StringIO
) -> None:
    again = go_on(trained, scene, tmp_path / "a")
    assert not again.pipeline.model.views_are_missing and "pruned" not in said.getvalue()
    assert pruned(again) >= 100


def test_a_checkpoint_of_an_older_version_opens(
    trained: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    (path,) = in_folder(trained.checkpoint_dir)
    old = torch.load(path, weights_only=True)
    del old["pipeline"]["_model._extra_state"]["views"]
    (tmp_path / "old").mkdir()
    torch.save(old, tmp_path / "old" / path.name)
    again = go_on(trained, scene, tmp_path / "a", tmp_path / "old")
    assert not again.pipeline.model.views_are_missing
    assert set(again.pipeline.model.views) == set(trained.pipeline.model.views)


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """As in a terminal: in the background, where SIGINT is ignored, trainings ignore it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_told_to_end_saves(
    scene: Path, tmp_path: Path, said: io.StringIO, number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    trainer = make(scene, tmp_path, 50).setup(local_rank=0, world_size=1)
    trainer.setup()

    def end(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), number)

    trainer.callbacks.insert(0, TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], end))
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == code
    assert signal.getsignal(number) == before
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000001.ckpt"]
    assert "2 of 50 steps" in said.getvalue()
    assert f"--load-dir {trainer.checkpoint_dir} --max-num-iterations 48" in said.getvalue()


@pytest.mark.usefixtures("hears_ctrl_c")
def test_an_end_in_the_last_step_is_the_end(scene: Path, tmp_path: Path, said: io.StringIO) -> None:
    trainer = make(scene, tmp_path, 2).setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.callbacks.append(
        TrainingCallback(
            [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
            lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 1 else None,
        )
    )
    with pytest.raises(SystemExit):
        trainer.train()
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000001.ckpt"]
    assert "2 of 2 steps" in said.getvalue() and "Go on" not in said.getvalue()


def test_the_line_that_goes_on_keeps_the_options(scene: Path, tmp_path: Path) -> None:
    config = make(scene, tmp_path)

    def line(*arguments: str) -> list[str]:
        return resume_line(config, Path("my run/models"), 7, list(arguments)).split()

    ours = ["--load-dir", "'my", "run/models'", "--max-num-iterations", "7"]
    given = ["--max-num-iterations", "30", "--load-dir=old", "--timestamp", "run", "--vis", "viewer"]
    rest = ["--load_step", "3", "colmap", "--downscale-factor", "2"]
    start = ["ns-train", "gradiseg-lite", *ours]
    assert line("/bin/ns-train", "gradiseg-lite", *given, *rest) == [
        *start, "--vis", "viewer", "colmap", "--downscale-factor", "2",
    ]  # fmt: skip
    config.pipeline.datamanager.masks_dir = "/run/associated_mask"  # type: ignore[attr-defined]
    masks = ["--pipeline.datamanager.masks-dir", "/run/associated_mask"]
    asked = ["--pipeline.model.associate", "new", "--pipeline.datamanager.masks-dir", "sam"]
    assert line("train.py", "gradiseg-lite", *asked) == [*start, *masks]
    data = ["--data", str(scene), "--output-dir", str(tmp_path)]
    for other in (["pytest", "-q"], ["ns-train", "gradiseg-lite", "--load-config", "config.yml"]):
        assert line(*other) == ["ns-train", "gradiseg-lite", *data, *masks, *ours]


# ------------------------------------------------------------------------------------------------------- two at once


def test_two_trainings_of_one_second_have_a_folder_each(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Any:
            return cls(2026, 11, 27, 10, 15)

    monkeypatch.setattr(experiment_config, "datetime", Stopped)
    configs = [make(scene, tmp_path) for _ in range(2)]
    for config in configs:
        config.save_config()
        config.save_config()
    assert [config.timestamp for config in configs] == ["2026-11-27_101500", "2026-11-27_101500-2"]
    assert "this one is 2026-11-27_101500-2" in said.getvalue()
    for config in configs:
        written = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
        assert written.timestamp == config.timestamp


def test_a_folder_that_another_training_writes_is_refused(scene: Path, tmp_path: Path) -> None:
    config = make(scene, tmp_path)
    config.save_config()
    from gradiseg_ns.tools import atomic

    (config.get_base_dir() / ".training").write_text(f"{atomic._MACHINE}-{os.getppid()}")
    with pytest.raises(WriteError, match=r"another training, process \d+"):
        runs.train(config)


def test_what_a_killed_training_left_is_cleaned(trained: GradisegTrainer) -> None:
    from gradiseg_ns.tools import atomic

    left = trained.base_dir / f".saving-{atomic._MACHINE}-{2**22 + 1}-x"
    left.mkdir()
    (left / "step-000000009.ckpt").write_text("half")
    trained.save_checkpoint(STEPS - 1)
    assert list(trained.base_dir.glob(".*")) == []
    assert [path.name for path in trained.checkpoint_dir.iterdir()] == [GOOD]


def test_a_disk_that_takes_nothing_more(trained: GradisegTrainer, said: io.StringIO) -> None:
    """torch's own words may hold brackets."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        trained.save_checkpoint(STEPS + 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trained.save_failed and f"The last good one is still there: {GOOD}" in said.getvalue()
    assert list(trained.base_dir.glob(".*")) == []
    trained.save_failed = False


# ------------------------------------------------------------------------------------------------------------ ns-eval


def test_what_ns_eval_writes_is_whole_or_not_there(
    trained: GradisegTrainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    output, pictures = tmp_path / "[/red]\x1b[2J.json", tmp_path / "pictures"
    command = ComputePSNR(trained.base_dir / "config.yml", output, pictures)
    command.main()
    before = output.read_bytes()
    assert json.loads(before)["results"]["psnr"] > 0
    assert HOSTILE in output.with_name(f"{output.stem}_objects.csv").read_text()
    printed = capsys.readouterr().out
    assert "Saved results to" in printed and "[/red]" in printed and r"\x1b" in printed
    assert "\x1b[2J" not in printed and "\x00" not in printed
    assert len(list(pictures.glob("*.png"))) >= 2

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match="No space left on device"):
        ComputePSNR(trained.base_dir / "config.yml", output).main()
    assert output.read_bytes() == before and list(output.parent.glob(".*")) == []


@pytest.mark.parametrize("name", ["file/metrics.json", "metrics.txt", "folder.json"])
def test_ns_eval_looks_first_whether_it_can_write(
    trained: GradisegTrainer, tmp_path: Path, name: str
) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(GradisegError, match=name):
        ComputePSNR(trained.base_dir / "config.yml", tmp_path / name).main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]
