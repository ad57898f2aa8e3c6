"""`gradiseg find` and `gradiseg name` on the tiny scene: runs, PLY files, photos, and models of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from gradiseg_ns import cli
from gradiseg_ns.cli.find import Find, Looking, open_labelled
from gradiseg_ns.cli.name import Name
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import Rename, Tint
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.sources.run import load_run
from gradiseg_ns.tools.errors import GradisegError, WriteError
from gradiseg_ns.tools.weights import WeightsError
from gradiseg_ns.words import PhraseError
from gradiseg_ns.words.naming import VocabularyError

from ..masks import models
from ..scenes import write_scene
from ..splats import traced_splat, write_plain_run
from .models import Colours


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gradiseg run whose objects nobody named."""
    folder = tmp_path_factory.mktemp("words")
    scene = write_scene(folder / "tiny", views=8, width=96, height=72)
    (scene / "object_names.json").unlink()
    plain = write_plain_run(scene, folder / "runs")
    options = {"output_dir": folder / "lifted", "device": "cpu"}
    cli.Lift(load_config=plain, masks_dir="object_mask", fill_unseen=True, **options).main()
    return next(plain.parent.glob("*-lifted"))


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Colours:
    model = Colours()
    monkeypatch.setattr(Looking, "load_model", lambda self: model)
    return model


def names_of(run: Path) -> dict[int, str]:
    _, _, table = open_labelled(run, "cpu")
    return dict(zip(table.ids, table.names, strict=True))


def ply_of(run: Path, folder: Path) -> Path:
    _, splat, table = open_labelled(run, "cpu")
    return write_ply(folder / "balls.ply", splat, names=dict(zip(table.ids, table.names, strict=True)))


# -------------------------------------------------------------------------------------------------------------- find


def test_find_by_looks(run: Path, colours: Colours, capsys: pytest.CaptureFixture[str]) -> None:
    Find(run, "the red ball").main()
    told = capsys.readouterr().out
    rows = [line.split("│") for line in told.splitlines() if line.startswith("│")]
    assert {row[1].strip() for row in rows} == {"0", "1", "7"}
    assert (
        rows[0][1].strip() == "1"
        and rows[0][2].strip() == "object 1"
        and float(rows[0][3]) > 0.9
        and int(rows[0][4]) >= 3
    )
    assert "0.5" not in told, "it is likely"
    word = next(line for line in told.splitlines() if "Take it along" in line)
    assert word.endswith(f"gradiseg export {run} --objects 1")
    with Image.open(run / "found" / "red_ball.png") as sheet:
        assert sheet.height >= 3 * 22 and sheet.width > 160
        first = (
            torch.tensor(list(sheet.crop((60, 90, 100, 130)).convert("RGB").getdata())).float().mean(dim=0)
        )
    assert first[0] > 2 * first[1] and first[0] > 2 * first[2], "the first crop is of the red ball"
    cli.Export(run, objects=("1",), output_dir=run / "out").main()
    assert (run / "out" / "scene.ply").is_file()


def test_find_says_when_nothing_is_likely(
    run: Path, colours: Colours, capsys: pytest.CaptureFixture[str]
) -> None:
    Find(run, "green dragon", top=1, output_dir=run / "x").main()
    told = capsys.readouterr().out
    assert "No object is likely to be that" in told and told.count("│") == 5
    assert [path.name for path in (run / "x").iterdir()] == ["green_dragon.png"]


def test_find_in_photos(run: Path, colours: Colours, capsys: pytest.CaptureFixture[str]) -> None:
    edits = EditList()
    edits.push("rename", Rename(7, "sky"))
    edits.save(run / "edits.json")
    Find(run, "blue", photos=True, top=1).main()
    assert "sky" in capsys.readouterr().out
    edits.push("tint red", Tint((7,), (1.0, 0.0, 0.0)))
    edits.save(run / "edits.json")
    with pytest.raises(
        SourceError, match=r"--photos: photos do not show the edits of .*edits.json \(tint red\)"
    ):
        Find(run, "blue", photos=True).main()
    Find(run, "red", top=2).main()
    told = capsys.readouterr().out
    assert "sky" in told, "renders show the edits"


def test_find_in_a_file(
    run: Path, colours: Colours, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ply = ply_of(run, tmp_path)
    Find(ply, "blue", top=1).main()
    told = capsys.readouterr().out
    assert "object 7" in told and "gradiseg export" not in told
    assert (tmp_path / "found" / "blue.png").is_file()
    with pytest.raises(SourceError, match="--photos: a splat file has no photos"):
        Find(ply, "blue", photos=True).main()
    sidecar = tmp_path / "balls.objects.json"
    content = json.loads(sidecar.read_text())
    content["objects"] = [entry for entry in content["objects"] if entry["id"] != 7]
    sidecar.write_text(json.dumps(content))
    Find(ply, "blue", top=1).main()
    assert "object 7" in capsys.readouterr().out, "an id that the names do not know"


def test_find_goes_on_without_the_data(
    run: Path, colours: Colours, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yml"
    text = config.read_text()
    data = load_run(run).config.data
    assert data is not None
    config.write_text(text.replace(f"- {data.name}\n", "- gone\n"))
    Find(run, "red", top=1).main()
    told = capsys.readouterr().out
    assert "virtual cameras" in told and "object 1" in told
    with pytest.raises(SourceError, match="--data"):
        Find(run, "red", data=run / "nowhere").main()


def test_find_by_name_needs_no_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(self: Looking) -> None:
        raise WeightsError(f"The model {self.model} cannot be loaded.")

    monkeypatch.setattr(Looking, "load_model", none)
    cli.Edit(run, rename=("1=Tomato", "7=Blue Planet")).main()
    capsys.readouterr()
    Find(run, "tomato").main()
    told = capsys.readouterr().out
    assert "Only names were compared" in told and "its name" in told and told.rstrip().endswith("tomato.png")
    assert "--objects 1" in told and (run / "found" / "tomato.png").is_file()
    Find(run, "planet").main()
    told = capsys.readouterr().out
    assert "The model None cannot be loaded. Only names were compared." in told and "--objects 7" in told
    with pytest.raises(WeightsError, match="No object's name has the words 'red ball' either"):
        Find(run, "red ball").main()
    Find(run, "red ball", names_only=True).main()
    assert (
        "No object's name has the words 'red ball'. The scene has object 0, Tomato" in capsys.readouterr().out
    )
    assert not (run / "found" / "red_ball.png").exists()


def test_find_with_a_model_still_puts_the_name_first(
    run: Path, colours: Colours, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.Edit(run, rename=("7=red",)).main()
    capsys.readouterr()
    Find(run, "red", model="some").main()
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows][:2] == ["7", "1"] and rows[0][3].strip() == "its name"


def test_what_find_refuses(run: Path, colours: Colours, tmp_path: Path) -> None:
    with pytest.raises(PhraseError, match="expected words such as red mug"):
        Find(run, " ").main()
    with pytest.raises(SourceError, match="--top 0: expected 1 or more"):
        Find(run, "red", top=0).main()
    with pytest.raises(SourceError, match="either --model or --names-only"):
        Find(run, "red", model="x", names_only=True).main()
    scene = write_scene(tmp_path / "other", views=2)
    bare = write_ply(tmp_path / "bare.ply", traced_splat(scene))
    with pytest.raises(SourceError, match=r"bare.ply has no object ids .*`gradiseg segment"):
        Find(bare, "red").main()
    with pytest.raises(GradisegError, match="run without objects"):
        Find(write_plain_run(scene, tmp_path / "plain"), "red").main()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        Find(run, "red", output_dir=tmp_path / "file").main()


# -------------------------------------------------------------------------------------------------------------- name


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("red ball, red apple\nblue ball\ngreen tree\n")
    return path


def test_names_are_given_taken_back_and_not_given_twice(
    run: Path, words: Path, colours: Colours, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "names.png"
    Name(run, vocabulary=words, dry_run=True).main()
    told = capsys.readouterr().out
    assert "2 objects named, 1 left without a name, 0 had one. Nothing was changed." in told
    assert "left: not sure" in told and "red ball" in told and not (run / "edits.json").exists()

    Name(run, vocabulary=words, picture=picture).main()
    assert names_of(run) == {0: "object 0", 1: "red ball", 7: "blue ball"}
    assert [step.label for step in EditList.load(run / "edits.json").steps] == ["name 2 objects"]
    with Image.open(picture) as sheet:
        assert sheet.height >= 2 * 22 + 2 * 30
    capsys.readouterr()

    Name(run, vocabulary=words).main()
    assert (
        "0 objects named, 1 left without a name, 2 had one. Nothing was changed." in capsys.readouterr().out
    )
    cli.Edit(run, undo=1).main()
    assert names_of(run) == {0: "object 0", 1: "object 1", 7: "object 7"}


def test_names_of_people_stay_and_hidden_objects_are_left(
    run: Path, words: Path, colours: Colours, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.Edit(run, rename=("1=Mars",), hide=("7",)).main()
    capsys.readouterr()
    Name(run, vocabulary=words).main()
    assert "left: no view shows it" in capsys.readouterr().out
    assert names_of(run)[1] == "Mars"


def test_like_things_get_numbers(run: Path, words: Path, colours: Colours) -> None:
    cli.Edit(run, duplicate=("1",), move=("object 1 copy=0,0,0.4",)).main()
    Name(run, vocabulary=words).main()
    assert sorted(name for name in names_of(run).values() if "red" in name) == ["red ball", "red ball 2"]


def test_what_name_refuses(run: Path, words: Path, colours: Colours, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"--least 1.5: expected 0 to 1"):
        Name(run, least=1.5).main()
    with pytest.raises(VocabularyError, match=r"none.txt cannot be read"):
        Name(run, vocabulary=tmp_path / "none.txt").main()
    with pytest.raises(WriteError, match=r"--picture .*\.xyz"):
        Name(run, picture=tmp_path / "a.xyz").main()
    with pytest.raises(SourceError, match="expected the config.yml of a run|is not a run"):
        Name(ply_of(run, tmp_path)).main()


def test_the_least_probability_counts(run: Path, words: Path, colours: Colours) -> None:
    colours.scale = 1.0  # a model that is never sure
    Name(run, vocabulary=words).main()
    assert not (run / "edits.json").exists()


# ------------------------------------------------------------------------------------------------- models of a folder


@pytest.mark.parametrize("save", [models.save_clip, models.save_siglip])
def test_models_of_a_folder_go_all_the_way(
    save: object, run: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "model")  # type: ignore[operator]
    Find(run, "red ball", model=str(folder), offline=True, device="cpu").main()
    told = capsys.readouterr().out
    assert {line.split("│")[1].strip() for line in told.splitlines() if line.startswith("│")} == {
        "0",
        "1",
        "7",
    }
    Name(run, vocabulary=words, model=str(folder), offline=True, dry_run=True, device="cpu").main()
    assert "Nothing was changed" in capsys.readouterr().out


def test_the_default_model_is_never_fetched_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(run / "empty"))
    with pytest.raises(WeightsError, match=r"openai/clip-vit-base-patch32 .*--offline"):
        Name(run, offline=True).main()
