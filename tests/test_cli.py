"""The command `gradiseg` on a traced scene, from runs of gradiseg and splatfacto and from PLY files."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gradiseg_ns import cli, sources
from gradiseg_ns.boundary import cutting
from gradiseg_ns.data.id_maps import IdMapError
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.runs import writing
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.tools.errors import WriteError

from .scenes import write_scene
from .splats import write_plain_run, write_splatfacto_run


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=30, distortion=0.02)


@pytest.fixture(scope="module")
def plain(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without identities, of a scene whose maps it never saw."""
    return write_plain_run(scene, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def splatfacto(plain: Path, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Gaussians as nerfstudio's splatfacto saves them."""
    return write_splatfacto_run(plain, scene, tmp_path_factory.mktemp("stock"))


def test_lifting_a_splatfacto_run_gives_a_gradiseg_run(
    splatfacto: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.Lift(load_config=splatfacto, output_dir=tmp_path, device="cpu").main()
    splat = read_ply(tmp_path / "lifted.ply")
    assert splat.labels is not None and set(splat.labels.unique().tolist()) <= {-1, 0, 1, 7}
    assert 0 < float(splat.extra["label_confidence"].mean()) <= 1
    objects = json.loads((tmp_path / "lifted.objects.json").read_text())["objects"]
    assert [entry["name"] for entry in objects] == ["floor", "red ball", "blue ball"]
    assert Image.open(tmp_path / "overview.png").size[0] > 200, "four pictures side by side"
    assert "seen by no labelled pixel" in capsys.readouterr().out
    lifted = next(splatfacto.parents[1].rglob("*-lifted/config.yml"))
    assert (lifted.parent / "dataparser_transforms.json").exists()
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(lifted)
    metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    assert metrics["miou"] > 88, "no step of training"
    assert metrics["psnr"] > 22


def test_refining_and_filling(plain: Path, tmp_path: Path) -> None:
    cli.Lift(
        load_config=plain, masks_dir="object_mask", output_dir=tmp_path, refine=True, fill_unseen=True, device="cpu"
    ).main()  # fmt: skip
    labels = read_ply(tmp_path / "lifted.ply").labels
    assert labels is not None and int(labels.min()) >= 0


def test_sharpening_a_lift_writes_more_gaussians_or_says_why_not(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the small scene's edges are a large share of its pictures
    cli.Lift(
        load_config=plain, masks_dir="object_mask", output_dir=tmp_path, sharpen=True, most_change=0.0, device="cpu"
    ).main()  # fmt: skip
    assert "Nothing was sharpened" in capsys.readouterr().out
    assert cli.Lift().most_change == cutting.MOST_CHANGE, (
        "the flag's default, which help shows without heavy imports"
    )
    before = sources.load_run(plain).splat
    assert len(read_ply(tmp_path / "lifted.ply")) == len(before)
    monkeypatch.setattr("gradiseg_ns.boundary.cutting.SHARP", (9.0, 0.0))
    ten = torch.arange(10), torch.zeros(10, dtype=torch.int64)  # this splat has no long Gaussians
    monkeypatch.setattr("gradiseg_ns.boundary.cutting._overshooting", lambda *_: ten)
    cli.Lift(
        load_config=plain, masks_dir="object_mask", output_dir=tmp_path, sharpen=True, most_change=0.5, device="cpu"
    ).main()  # fmt: skip
    assert "Sharpened: 10 Gaussians were split" in " ".join(capsys.readouterr().out.split())
    after = read_ply(tmp_path / "lifted.ply")
    lifted = sources.load_run(next(plain.parent.glob("*-lifted")))
    assert len(after) == len(lifted.splat) == len(before) + 10 * cutting.ROUNDS
    assert after.labels is not None and torch.equal(writing.labels_of_run(lifted), after.labels)
    torch.testing.assert_close(lifted.splat.means, after.means)
    with pytest.raises(SourceError, match=r"--most-change -1.0: expected 0 or more"):
        cli.Lift(load_config=plain, sharpen=True, most_change=-1.0, device="cpu").main()


@pytest.mark.parametrize("frame", ["nerfstudio", "original"])
def test_lifting_a_ply_finds_its_frame(plain: Path, scene: Path, tmp_path: Path, frame: str) -> None:
    run = sources.load_run(plain)
    splat = run.splat
    if frame == "original":
        outputs = run.capture(maps=False).manager.train_dataparser_outputs
        rotation, shift = outputs.dataparser_transform[:3, :3], outputs.dataparser_transform[:3, 3]
        from gradiseg_ns.grouping.densification import rotation_matrices

        splat = copy.deepcopy(splat)
        splat.means = (splat.means / outputs.dataparser_scale - shift) @ rotation
        splat.scales = splat.scales - np.log(outputs.dataparser_scale)
        turned = rotation.T @ rotation_matrices(splat.quats)
        from scipy.spatial.transform import Rotation

        xyzw = torch.from_numpy(Rotation.from_matrix(turned.numpy()).as_quat()).float()
        splat.quats = xyzw[:, [3, 0, 1, 2]]
    path = write_ply(tmp_path / "splat.ply", splat)
    cli.Lift(
        ply=path, data=scene, output_dir=tmp_path / "out", device="cpu", foreground=("Red Ball",), weight=1.0
    ).main()  # fmt: skip
    chosen = read_ply(tmp_path / "out" / "lifted.ply")
    assert 0 < len(chosen) < len(splat) / 2
    assert chosen.labels is not None and (chosen.labels == 1).float().mean() > 0.95
    red = chosen.features_dc.median(dim=0).values
    assert red[0] > red[1] + 0.3 and red[0] > red[2] + 0.3, "the red ball"


def test_pruning_keeps_its_promise(plain: Path, tmp_path: Path) -> None:
    cli.Prune(load_config=plain, max_error="1/50", output=tmp_path / "small.ply", device="cpu").main()
    report = json.loads((tmp_path / "small.json").read_text())
    before, after = sources.load_run(plain).splat, read_ply(tmp_path / "small.ply")
    assert report["removed"] == len(before) - len(after) > 0
    scene = sources.load_run(plain).capture(maps=False)
    worst = max(
        float((before.render(camera)[0] - after.render(camera)[0]).abs().max())
        for camera in scene.train.cameras
    )
    assert worst <= 1 / 50 + 1e-6 and report["max_error"] <= 1 / 50
    pruned = next(plain.parent.glob("*-pruned/config.yml"))
    assert len(sources.load_run(pruned).splat) == len(after)


def test_a_ply_keeps_what_it_calls_its_objects(plain: Path, scene: Path, tmp_path: Path) -> None:
    splat = sources.load_run(plain).splat
    splat.labels = (splat.means[:, 2] > splat.means[:, 2].median()).to(torch.int32)
    path = write_ply(tmp_path / "named.ply", splat, names={1: "Grandma's cup"}, colors={1: (1.0, 0.0, 1.0)})
    cli.Prune(ply=path, data=scene, max_error="1/20", device="cpu").main()
    table = read_objects(tmp_path / "pruned.ply")
    assert table is not None and table.ids[:2] == (0, 1)
    assert table.names[:2] == ("floor", "Grandma's cup"), "the scene's name where the splat has none"
    assert table.colors[1].tolist() == [1, 0, 1]
    # a lift replaces what the file said of objects, ids or not
    splat.labels = None
    splat.extra = {"object_id": torch.arange(len(splat)) / 2, "label_confidence": torch.ones(len(splat))}
    path = write_ply(tmp_path / "[/old].ply", splat)
    cli.Lift(ply=path, data=scene, output_dir=tmp_path / "out [/b]", device="cpu").main()
    lifted = read_ply(tmp_path / "out [/b]" / "lifted.ply")
    assert lifted.labels is not None and {0, 1, 7} <= set(lifted.labels.tolist())
    assert list(lifted.extra) == ["label_confidence"] and lifted.frame == "nerfstudio"


def test_associating_masks_writes_a_new_folder_and_touches_no_old_one(
    plain: Path, scene: Path, tmp_path: Path
) -> None:
    old = scene / "unrelated"
    old.mkdir()
    for v, path in enumerate(sorted((scene / "object_mask").glob("*.png"))):
        ids = np.asarray(Image.open(path))
        numbered = np.select(
            [ids == 0, ids == 1, ids == 7], [(v + k) % 3 + 1 + 3 * (v % 4) for k in range(3)]
        )
        Image.fromarray(numbered.astype(np.uint8)).save(old / path.name)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    new = tmp_path / "new_masks"
    cli.Associate(load_config=plain, masks_dir="unrelated", ids="new", output_dir=new, device="cpu").main()
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    report = json.loads((new / "association.json").read_text())
    assert report["ids"] == "new" and len(report["objects"]) == 3
    agreeing = []
    for name in report["masks"]:
        ids = np.asarray(Image.open(new / f"{name}.png"))
        truth = np.asarray(Image.open(scene / "object_mask" / f"{name}.png"))
        assert ids.shape == truth.shape, "distorted like the photo"
        agreeing.append(ids == np.select([truth == 0, truth == 1, truth == 7], _matching(new, scene)))
    assert np.mean(agreeing) > 0.95
    with pytest.raises(SourceError, match="exists already"):
        cli.Associate(load_config=plain, masks_dir="unrelated", output_dir=new, device="cpu").main()


def _matching(new: Path, scene: Path) -> list[int]:
    """The new id of the floor and of both balls, by all views together."""
    counts = np.zeros((3, 16), np.int64)
    for path in new.glob("*.png"):
        ids, truth = (np.asarray(Image.open(p)) for p in (path, scene / "object_mask" / path.name))
        for k, old in enumerate((0, 1, 7)):
            counts[k] += np.bincount(ids[truth == old], minlength=16)
    found = counts.argmax(axis=1).tolist()
    assert len(set(found)) == 3
    return found


def test_affordances_from_a_tiny_model(plain: Path, scene: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=14
    )
    transformers.Dinov2Model(network).save_pretrained(tmp_path / "model")
    transformers.BitImageProcessor().save_pretrained(tmp_path / "model")
    exemplars = tmp_path / "exemplars"
    (exemplars / "labels").mkdir(parents=True)
    for name in ("view_01.png", "view_05.png"):
        Image.open(scene / "images" / name).save(exemplars / name)
        ids = np.asarray(Image.open(scene / "object_mask" / name))
        Image.fromarray(np.select([ids == 1, ids == 7], [1, 4]).astype(np.uint8)).save(
            exemplars / "labels" / name
        )
    cli.Affordance(
        load_config=plain, exemplars=exemplars, model=str(tmp_path / "model"), resolution=112, offline=True,
        output_dir=tmp_path / "out", device="cpu",
    ).main()  # fmt: skip
    labels = read_ply(tmp_path / "out" / "affordance.ply").labels
    assert labels is not None and set(labels.unique().tolist()) <= {-1, 0, 1, 4}
    assert (tmp_path / "out" / "overview.png").exists()


def test_bad_input_names_what_was_found(plain: Path, scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="load-config"):
        cli.Lift(data=scene).main()
    with pytest.raises(SourceError, match="no such file"):
        cli.Lift(load_config=tmp_path / "config.yml").main()
    with pytest.raises(
        SourceError, match=r"--foreground 5: no such object as '5'; the scene has 0 \(floor\)"
    ):
        cli.Lift(load_config=plain, masks_dir="object_mask", foreground=("5",), device="cpu").main()
    with pytest.raises(IdMapError, match="--max-objects"):
        cli.Lift(load_config=plain, masks_dir="object_mask", max_objects=2, device="cpu").main()
    with pytest.raises(IdMapError, match="--max-objects"):
        cli.Associate(data=scene, max_objects=2, output_dir=tmp_path / "out", device="cpu").main()
    with pytest.raises(SourceError, match="max-error"):
        cli.Prune(load_config=plain, max_error="0").main()
    with pytest.raises(SourceError, match="object ids"):
        cli.Prune(load_config=plain, objects=("1",), device="cpu").main()
    run = sources.load_run(plain)
    run.splat.means += 1e4
    path = write_ply(tmp_path / "far.ply", run.splat)
    with pytest.raises(SourceError, match="see nothing"):
        cli.Prune(ply=path, data=scene, device="cpu").main()
    with pytest.raises(SourceError, match="--data"):
        cli.Prune(ply=path).main()
    broken = tmp_path / "broken" / "nerfstudio_models"
    broken.mkdir(parents=True)
    (broken.parent / "config.yml").write_text((plain / "config.yml").read_text())
    with pytest.raises(SourceError, match="no checkpoint"):
        sources.load_run(broken.parent)
    (broken / "step-000000001.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(SourceError, match="cannot be read"):
        sources.load_run(broken.parent)


def test_a_run_with_another_identity_dim(plain: Path, tmp_path: Path) -> None:
    """The channels of the identities are the run's own, in a lift and in an import."""
    cli.Lift(load_config=plain, masks_dir="object_mask", output_dir=tmp_path, device="cpu").main()
    lifted = _with_identity_dim(next(plain.parent.glob("*-lifted")), 8, tmp_path)
    cli.Lift(load_config=lifted, output_dir=tmp_path / "again", device="cpu").main()
    again = sources.load_run(lifted.with_name("eight-lifted"))
    assert again.state["_model.gauss_params.identity"].shape == (len(again.splat), 8)
    assert again.state["_model.classifier.weight"].shape == (3, 8)
    assert again.config.pipeline.model.identity_dim == 8
    cli.Import(tmp_path / "again" / "lifted.ply", load_config=lifted, device="cpu").main()
    imported = sources.load_run(lifted.with_name("eight-imported"))
    assert imported.state["_model.gauss_params.identity"].shape == (len(again.splat), 8)
    labels = read_ply(tmp_path / "again" / "lifted.ply").labels
    assert labels is not None and torch.equal(writing.labels_of_run(imported), labels)


def test_a_fault_in_association_is_not_the_users(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = ValueError("a tensor has another shape")

    def broken(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr("gradiseg_ns.sources.association.associate", broken)
    verb = cli.Associate(load_config=plain, ids="new", output_dir=tmp_path / "new", device="cpu")
    with pytest.raises(ValueError) as caught:
        verb.main()
    assert caught.value is fault and not (tmp_path / "new").exists()


def _with_identity_dim(folder: Path, dim: int, output: Path) -> Path:
    """The run as a training with that many channels would have saved it."""
    run = sources.load_run(folder)
    config: Any = copy.deepcopy(run.config)
    config.pipeline.model.identity_dim, config.output_dir, config.timestamp = dim, output, "eight"
    cut = ("_model.gauss_params.identity", "_model.classifier.weight")
    state = {key: value[:, :dim].clone() if key in cut else value for key, value in run.state.items()}
    return writing.save_run(run, config, state, None).parent


def test_pruning_some_objects_by_name(plain: Path, scene: Path, tmp_path: Path) -> None:
    splat = sources.load_run(plain).splat
    splat.labels = (splat.means[:, 2] > splat.means[:, 2].median()).to(torch.int32)
    path = write_ply(tmp_path / "named.ply", splat, names={1: "Grandma's cup, [/red]"})
    cli.Prune(ply=path, data=scene, max_error="1/20", objects=("grandma's cup, [/red]",), device="cpu").main()
    removed = {
        key: row["removed"]
        for key, row in json.loads((tmp_path / "pruned.json").read_text())["per_object"].items()
    }
    assert removed["1"] > 0 and removed.get("0", 0) == 0
    with pytest.raises(SourceError, match=r"--objects plate: no such object.*1 \(Grandma's cup, \[/red\]\)"):
        cli.Prune(ply=path, data=scene, objects=("plate",), device="cpu").main()


def test_what_cannot_be_written_is_told_before_the_work(
    plain: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli.Lift, "open_splat", lambda *_, **__: pytest.fail("worked first"))
    monkeypatch.setattr(cli.Prune, "open_splat", lambda *_, **__: pytest.fail("worked first"))
    with pytest.raises(WriteError, match="file"):
        cli.Lift(load_config=plain, output_dir=tmp_path / "file").main()
    with pytest.raises(WriteError, match="is a folder"):
        cli.Prune(load_config=plain, output=tmp_path).main()


def test_a_run_with_edits_is_not_replaced(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "balls" / "gradiseg-lite" / "run"
    shutil.copytree(plain, run)
    config: Any = sources.load_run(run).config
    config.output_dir, config.timestamp = tmp_path, "run"
    (run / "config.yml").write_text(yaml.dump(config))
    lift = cli.Lift(load_config=run, masks_dir="object_mask", device="cpu")
    prune = cli.Prune(load_config=run, max_error="1/20", device="cpu")
    lift.main()
    lift.main()  # nothing of a person's is in the first one
    monkeypatch.setattr(
        "gradiseg_ns.votes.accumulate.accumulate", lambda *_, **__: pytest.fail("worked first")
    )
    monkeypatch.setattr("gradiseg_ns.votes.pruning.prune", lambda *_, **__: pytest.fail("worked first"))
    for suffix, verb in (("lifted", lift), ("pruned", prune)):
        other = run.with_name(f"run-{suffix}")
        (other / "export").mkdir(parents=True)
        (other / "edits.json").write_text("{}")
        with pytest.raises(SourceError, match=rf"run-{suffix} exists already and holds edits\.json, export"):
            verb.main()
        assert (other / "edits.json").exists()


def test_the_script_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the user can mend is a sentence, what is a fault of the program is not hidden."""
    monkeypatch.setattr(
        "sys.argv", ["gradiseg", "prune", "--ply", "x [/red].ply", "--data", str(tmp_path / "none")]
    )
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as stopped:
        cli.entrypoint()
    assert stopped.value.code == 1
    assert "PlyError: The PLY file x [/red].ply does not exist" in capsys.readouterr().out

    def fault(verb: Any) -> None:
        raise ValueError("a tensor has another shape")

    monkeypatch.setattr(cli.Prune, "main", fault)
    with pytest.raises(ValueError, match="another shape"):
        cli.entrypoint()
