"""`gradiseg export` and `gradiseg import`: a run leaves as files and comes back as a run that shows the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from gradiseg_ns import cli, runs, sources
from gradiseg_ns.cli import Edit, Export, Import
from gradiseg_ns.editing.checking import EditError
from gradiseg_ns.formats.ply_layout import PlyError
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.runs import writing
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.tools.errors import WriteError

from .scenes import write_scene
from .splats import write_plain_run


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=12)


@pytest.fixture(scope="module")
def lifted(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gradiseg run of the scene."""
    plain = write_plain_run(scene, tmp_path_factory.mktemp("lifted"))
    cli.Lift(load_config=plain, masks_dir="object_mask", device="cpu").main()
    return next(plain.parent.glob("*-lifted"))


@pytest.fixture
def run(lifted: Path, tmp_path: Path) -> Path:
    """The run in a folder of its own, where new runs may lie beside it."""
    folder = tmp_path / "balls" / "gradiseg-lite" / "run"
    shutil.copytree(lifted, folder)
    config = sources.load_run(folder).config
    config.output_dir, config.timestamp = tmp_path, "run"
    import yaml

    (folder / "config.yml").write_text(yaml.dump(config))
    return folder


def shown(config: Path) -> dict[str, torch.Tensor]:
    """What ns-render would show of the first held-out view."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(config)
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    with torch.no_grad():
        outputs: Any = pipeline.model.get_outputs_for_camera(camera)
    return {"rgb": outputs["rgb"], "segmentation": outputs["segmentation"], "ids": outputs.object_ids}


def labels_of(folder: Path) -> torch.Tensor:
    return writing.labels_of_run(sources.load_run(folder))


def test_a_run_comes_back_as_it_was(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Export(run, device="cpu").main()
    printed = capsys.readouterr().out
    assert "red ball" in printed and "scene.ply" in printed and "Saved" in printed
    ply = run / "export" / "scene.ply"
    objects = read_objects(ply)
    assert objects is not None and objects.names == ("floor", "red ball", "blue ball")
    splat = sources.load_run(run).splat
    assert torch.equal(read_ply(ply).means, splat.means)

    Import(ply, load_config=run, device="cpu").main()
    imported = run.parent / "run-imported"
    assert str(imported / "config.yml") in capsys.readouterr().out.replace("\n", "")
    assert (imported / "dataparser_transforms.json").exists()
    assert torch.equal(labels_of(imported), labels_of(run))
    before, after = shown(run / "config.yml"), shown(imported / "config.yml")
    assert float((before["rgb"] - after["rgb"]).abs().max()) <= 1 / 255
    assert float(after["rgb"].std()) > 0.05
    assert float((before["ids"] == after["ids"]).float().mean()) > 0.98
    with pytest.raises(SourceError, match=r"run-imported exists already"):
        Import(ply, load_config=imported.parent / "run", device="cpu").main()
    # out and in once more: nothing changes
    Export(imported, device="cpu").main()
    for name in ("scene.ply", "scene.objects.json"):
        assert (imported / "export" / name).read_bytes() == (run / "export" / name).read_bytes()


def test_what_a_person_changed_in_between_is_kept(run: Path) -> None:
    """Fewer Gaussians, without spherical harmonics, some of unknown objects; other names, colours and ids."""
    Export(run, device="cpu").main()
    splat = read_ply(run / "export" / "scene.ply")
    splat = splat.select(torch.arange(0, len(splat), 2))
    assert splat.labels is not None
    splat.labels[splat.labels == 7] = 300
    splat.labels[:20] = -1
    splat.features_rest = splat.features_rest[:, :0]
    splat.features_dc.clamp_(-1.7, 1.7)  # a model without harmonics has colours in 0..1 only
    splat.antialiased = True
    path = write_ply(
        run.parent / "changed.ply",
        splat,
        names={300: "[bold]plum", 1: "cherry", 0: "floor"},
        colors={300: (0.5, 0.0, 0.5)},
    )
    Import(path, load_config=run, device="cpu").main()
    imported = sources.load_run(run.parent / "run-imported")
    model: Any = imported.config.pipeline.model
    assert model.sh_degree == 0 and model.rasterize_mode == "antialiased"
    assert torch.equal(writing.labels_of_run(imported), splat.labels)
    objects = writing.objects_of_run(imported)
    assert dict(zip(objects.ids, objects.names, strict=True)) == {0: "floor", 1: "cherry", 300: "[bold]plum"}
    assert objects.colors[2].tolist() == [0.5, 0.0, 0.5]
    zero = imported.state["_model.gauss_params.identity"].abs().amax(dim=1) == 0
    assert torch.equal(zero, splat.labels < 0)
    picture = shown(imported.config_path)["rgb"]
    camera = imported.capture(maps=False).test.cameras[0]
    assert float((splat.render(camera, imported.background)[0] - picture).abs().max()) <= 1 / 255


def test_some_objects_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = labels_of(run)
    Export(run, objects=("Blue Ball", "1"), separate=True, output_dir=tmp_path / "out", device="cpu").main()
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["1_red_ball.ply", "7_blue_ball.ply", "scene.objects.json"]
    entries = json.loads((tmp_path / "out" / "scene.objects.json").read_text())["objects"]
    assert [entry["name"] for entry in entries] == ["red ball", "blue ball"]
    for entry in entries:
        read = read_ply(tmp_path / "out" / entry["file"])
        assert len(read) == entry["gaussians"] == int((labels == entry["id"]).sum())
    printed = capsys.readouterr().out
    assert "1_red_ball.ply" in printed and "floor" not in printed
    assert str(int(torch.isin(labels, torch.tensor([1, 7])).sum())) in printed
    # one of them alone is a run too
    Import(tmp_path / "out" / "1_red_ball.ply", load_config=run, device="cpu").main()
    objects = writing.objects_of_run(sources.load_run(run.parent / "run-imported"))
    assert objects.ids == (1,) and objects.names == ("red ball",), "named as in the run"


def test_a_ply_of_others_and_a_folder_of_photos(scene: Path, run: Path, tmp_path: Path) -> None:
    """Without object ids everything is one object."""
    splat = sources.load_run(run).splat
    path = write_ply(tmp_path / "my splat.ply", splat)
    Import(path, data=scene, output_dir=tmp_path / "out", device="cpu").main()
    folder = tmp_path / "out" / "balls" / "gradiseg-lite" / "my_splat-imported"
    imported = sources.load_run(folder)
    assert writing.objects_of_run(imported).ids == (0,)
    assert writing.labels_of_run(imported).unique().tolist() == [0]
    before, after = shown(run / "config.yml"), shown(folder / "config.yml")
    assert float((before["rgb"] - after["rgb"]).abs().max()) <= 1 / 255
    with pytest.raises(SourceError, match="exists already"):
        Import(path, data=scene, output_dir=tmp_path / "out", device="cpu").main()


@pytest.mark.parametrize("said", [True, False])
def test_the_original_frame_and_back(run: Path, tmp_path: Path, said: bool) -> None:
    """`export --frame original` is what other programs show of COLMAP's scene; `import` finds that out, also from pictures."""
    Export(run, frame="original", output_dir=tmp_path / "out", device="cpu").main()
    ply = tmp_path / "out" / "scene.ply"
    source = sources.load_run(run)
    there = read_ply(ply)
    assert there.frame == "original"
    outputs = source.capture(maps=False).manager.train_dataparser_outputs
    moved = outputs.dataparser_scale * (
        there.means @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    assert float((moved - source.splat.means).abs().max()) < 1e-4
    assert float((there.means - source.splat.means).abs().max()) > 0.1
    if not said:
        ply.write_bytes(ply.read_bytes().replace(b"comment Frame: original\n", b""))
        assert read_ply(ply).frame is None
    Import(ply, load_config=run, device="cpu").main()
    imported = sources.load_run(run.parent / "run-imported")
    assert float((imported.splat.means - source.splat.means).abs().max()) < 1e-4
    assert torch.equal(writing.labels_of_run(imported), labels_of(run))
    before, after = shown(run / "config.yml"), shown(imported.config_path)
    assert float((before["rgb"] - after["rgb"]).abs().mean()) < 1e-3
    if said:
        with pytest.raises(SourceError, match="original frame"):
            sources.load_run(run)  # untouched
            config: Any = runs.make_config("gradiseg-lite", tmp_path, tmp_path, steps=5, device="cpu")
            config.pipeline.datamanager = source.capture(maps=False).manager.config
            config.pipeline.model.start_from = ply
            config.pipeline.setup(device="cpu", test_mode="val")


def test_names_of_files_are_no_markup(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("kitchen [final]", "x [/new]", "[red]"):
        Export(run, objects=("1",), output_dir=tmp_path / name, device="cpu").main()
        assert f"{tmp_path}/{name}\n" in capsys.readouterr().out
    other = tmp_path / "[bold] 点云.ply"
    write_ply(other, read_ply(tmp_path / "[red]" / "scene.ply"))
    edit(run, "--swap", f"1={other}", "--rename", "7=[/b] ball")
    assert "rename 7=[/b] ball" in capsys.readouterr().out


def test_an_import_is_refused_before_the_work(
    scene: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And files whose names have nothing in common but that no Latin letter is in them are told apart."""
    splat = sources.load_run(run).splat
    for stem in ("点云", "スキャン"):
        Import(
            write_ply(tmp_path / f"{stem}.ply", splat), data=scene, output_dir=tmp_path, device="cpu"
        ).main()
    folder = tmp_path / "balls" / "gradiseg-lite"
    assert len(list(folder.glob("splat-??????-imported"))) == 2
    monkeypatch.setattr(
        "gradiseg_ns.sources.placing.find_frame", lambda *_, **__: pytest.fail("worked first")
    )
    with pytest.raises(SourceError, match="exists already"):
        Import(tmp_path / "点云.ply", data=scene, output_dir=tmp_path, device="cpu").main()


def test_an_object_without_its_property(run: Path, tmp_path: Path) -> None:
    Export(run, output_dir=tmp_path / "out", ids=False, device="cpu").main()
    assert read_ply(tmp_path / "out" / "scene.ply").labels is None


def test_bad_input_names_what_was_found(scene: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        Export(tmp_path, device="cpu").main()
    with pytest.raises(
        SourceError, match=r"--objects cup: no such object.*0 \(floor\), 1 \(red ball\), 7 \(blue ball\)"
    ):
        Export(run, objects=("cup",), device="cpu").main()
    plain = sources.load_run(run)
    plain.config.pipeline.model.identity = False  # type: ignore[attr-defined]
    plain.config.timestamp = "plain"
    writing.save_run(plain, plain.config, {k: v for k, v in plain.state.items() if "identity" not in k}, None)
    with pytest.raises(SourceError, match="gradiseg lift --load-config"):
        Export(run.parent / "plain", device="cpu").main()

    Export(run, device="cpu").main()
    ply = run / "export" / "scene.ply"
    with pytest.raises(PlyError, match="does not exist"):
        Import(tmp_path / "none.ply", load_config=run, device="cpu").main()
    with pytest.raises(SourceError, match="either --load-config"):
        Import(ply, device="cpu").main()
    with pytest.raises(SourceError, match="either --load-config"):
        Import(ply, load_config=run, data=scene, device="cpu").main()
    with pytest.raises(SourceError, match="--output-dir goes with --data"):
        Import(ply, load_config=run, output_dir=tmp_path, device="cpu").main()
    splat = read_ply(ply)
    splat.means += 1e4
    with pytest.raises(SourceError, match="nerfstudio's frame"):
        Import(write_ply(tmp_path / "far.ply", splat), load_config=run, device="cpu").main()
    ply.with_name("scene.objects.json").write_text("[]")
    with pytest.raises(PlyError, match=r"scene\.objects\.json"):
        Import(ply, load_config=run, device="cpu").main()
    assert not (run.parent / "run-imported").exists()


def test_both_are_verbs_of_the_command() -> None:
    assert cli.VERBS["export"] is Export and cli.VERBS["import"] is Import


def edit(run: Path, *flags: str) -> None:
    """`gradiseg edit` in this process."""
    tyro.cli(Edit, args=[str(run), *flags]).main()


def test_edits_are_saved_drawn_by_ns_render_and_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nerfstudio.scripts.render import DatasetRender

    before = labels_of(run)
    other = tmp_path / "other.ply"
    splat = sources.load_run(run).splat
    write_ply(other, splat.select(before == 7))
    edit(
        run, "--swap", f"red ball={other}", "--move", "7=0.05,0,0.1", "--rotate", "7=0,0,90", "--scale", "7=1.5",
        "--tint", "blue ball=#00ff00@0.9", "1=orange", "--rename", "7=lime", "--duplicate", "7",
        "--picture", str(tmp_path / "before_after.png"),
    )  # fmt: skip
    assert "lime copy" not in capsys.readouterr().out, "copies are made before names are given"
    saved = json.loads((run / "edits.json").read_text())
    assert len(saved["steps"]) == 8
    assert len(list((run / "edits").glob("other-*.ply"))) == 1
    with Image.open(tmp_path / "before_after.png") as picture:
        assert picture.width >= 2 * 64

    def rendered(name: str) -> np.ndarray:
        out = tmp_path / name
        DatasetRender(
            load_config=run / "config.yml", output_path=out, rendered_output_names=["rgb"], split="test", image_format="png"
        ).main()  # fmt: skip
        return np.asarray(Image.open(sorted(out.rglob("*.png"))[0])).astype(int)

    edited = rendered("edited")
    monkeypatch.setenv("GRADISEG_EDITS", "off")
    plain = rendered("plain")
    assert (np.abs(edited - plain).max(axis=2) > 30).sum() > 20

    monkeypatch.delenv("GRADISEG_EDITS")
    assert torch.equal(labels_of(run), before), "the run itself is as it was"

    Export(run, separate=True, output_dir=tmp_path / "out").main()
    files = {path.stem: len(read_ply(path)) for path in (tmp_path / "out").glob("*.ply")}
    count = int((before == 7).sum())
    assert files["1_red_ball"] == count, "swapped"
    assert files["7_lime"] == count
    assert files["8_blue_ball_copy"] == count
    Export(run, edits=False, output_dir=tmp_path / "plain_out").main()
    assert len(read_ply(tmp_path / "plain_out" / "scene.ply")) == len(before)

    edit(run, "--remove", "0", "8")
    edit(run, "--undo", "2", "--hide", "0")
    steps = [s["label"] for s in json.loads((run / "edits.json").read_text())["steps"]]
    assert steps[-1] == "hide 0"
    assert not any(step.startswith("remove") for step in steps)
    edit(run, "--clear")
    assert json.loads((run / "edits.json").read_text())["steps"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--remove", "cup"],
            "no such object as 'cup'; the scene has 0 (floor), 1 (red ball), 7 (blue ball)",
        ),
        (["--tint", "1"], "--tint 1: expected OBJECT=COLOR"),
        (["--tint", "1=nocolor"], "found 'nocolor', expected a color"),
        (["--tint", "1=red@7"], "expected 0 to 1"),
        (["--move", "1=1,2"], "expected 3 numbers"),
        (["--move", "1=nan,0,0"], "expected 3 numbers"),
        (["--scale", "1=0"], "expected 0.0001 to 10000"),
        (["--merge", "1=1"], "expected other objects"),
        (["--rename", "0,1=x"], "expected one object, found 2"),
        (["--swap", "1=missing.ply"], "does not exist"),
        (["--undo", "3"], "--undo 3: expected 0 to 0"),
    ],
)
def test_bad_edits_name_their_flag_and_change_nothing(run: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        edit(run, "--hide", "7", *flags)
    assert message in str(caught.value)
    assert not (run / "edits.json").exists()


@pytest.mark.parametrize("name", ["x=1, [/red] ball", "7", "a=b=c", '5" pipe', "red ball, copy"])
def test_edits_and_exports_find_objects_by_one_rule(run: Path, tmp_path: Path, name: str) -> None:
    """A name may hold commas, blanks, brackets, equals signs, and digits alone; a copy is found by its name."""
    edit(run, "--rename", f"1={name}")
    quoted = f'"{name}"'
    edit(
        run,
        "--tint",
        f"{quoted}=red",
        "--move",
        f"{quoted}, blue ball=0,0,0.1",
        "--duplicate",
        quoted,
        quoted,
    )
    if not name.isdecimal():
        edit(run, "--scale", f"{name}=1.5", "--untint", f"blue ball,{name}")
    edit(run, "--move", f"{name} copy 2=0,0,0.1", "--hide", f"{name} copy")
    steps = json.loads((run / "edits.json").read_text())["steps"]
    touched = [step["edits"][0] for step in steps]
    assert all(each.get("id", 1) == 1 for each in touched if each["edit"] in ("rename", "duplicate"))
    assert next(e["ids"] for e in touched if e["edit"] == "move") == [1, 7]
    assert [e["name"] for e in touched if e["edit"] == "duplicate"] == [f"{name} copy", f"{name} copy 2"]
    Export(
        run, objects=(quoted, f"{name} copy 2, blue ball"), output_dir=tmp_path / "out", device="cpu"
    ).main()
    table = read_objects(tmp_path / "out" / "scene.ply")
    assert (
        table is not None and table.ids == (1, 7, 9) and table.names == (name, "blue ball", f"{name} copy 2")
    )
    with pytest.raises(SourceError, match="no such object"):  # hidden objects are not exported
        Export(run, objects=(f"{name} copy",), output_dir=tmp_path / "out", device="cpu").main()


def test_a_name_of_two_objects_names_none(run: Path) -> None:
    edit(run, "--rename", "1=cup", "7=Cup")
    told = "several objects of that name: 1, 7 have that name"
    with pytest.raises(EditError, match=f"--hide cup: {told}"):
        edit(run, "--hide", "cup")
    with pytest.raises(SourceError, match=f"--objects cup: {told}"):
        Export(run, objects=("cup",), device="cpu").main()
    edit(run, "--hide", "7")
    Export(run, objects=("cup",), device="cpu").main()  # of the objects that are shown one is called so


def test_what_cannot_be_written_is_told_before_the_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(writing, "labels_of_run", lambda run: pytest.fail("worked first"))
    with pytest.raises(WriteError, match="file"):
        Export(run, output_dir=tmp_path / "file", device="cpu").main()
    with pytest.raises(WriteError, match=r"--picture .*before\.x: found the suffix '\.x'"):
        edit(run, "--hide", "1", "--picture", str(tmp_path / "before.x"))


def test_ns_viewer_listens_to_this_machine_unless_asked() -> None:
    from types import SimpleNamespace

    from gradiseg_ns.ns_callers import listen_locally

    def host(given: str, *arguments: str) -> str:
        command = SimpleNamespace(viewer=SimpleNamespace(websocket_host=given))
        listen_locally(command, ["ns-viewer", *arguments])
        return command.viewer.websocket_host

    assert host("0.0.0.0") == "127.0.0.1"
    assert host("0.0.0.0", "--viewer.websocket-host", "0.0.0.0") == "0.0.0.0"
    assert host("0.0.0.0", "--viewer.websocket_host=0.0.0.0") == "0.0.0.0"
    assert host("192.168.0.7", "--viewer.websocket-host", "192.168.0.7") == "192.168.0.7"


def test_damaged_edits_stop_what_writes_files_and_not_the_viewer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nerfstudio.scripts.render import DatasetRender
    from nerfstudio.scripts.viewer.run_viewer import RunViewer
    from nerfstudio.utils.eval_utils import eval_setup

    (run / "edits.json").write_text("{")
    render = DatasetRender(load_config=run / "config.yml", output_path=tmp_path / "out", split="test")
    with pytest.raises(EditError, match=r"edits\.json is not JSON"):
        render.main()

    class Stop(Exception):
        pass

    class Viewing(RunViewer):
        def main(self) -> None:
            _, pipeline, _, _ = eval_setup(self.load_config)
            assert not pipeline.model.editing.edits.steps
            raise Stop

    Viewing.__name__ = "RunViewer"
    with pytest.raises(Stop):
        Viewing(load_config=run / "config.yml").main()
    assert "The edits are left out" in capsys.readouterr().out
