"""The command `gradiseg` on a traced scene, from runs of gradiseg and splatfacto and from PLY files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gradiseg_ns import cli, runs, sources
from gradiseg_ns.scene.ply import read_objects, read_ply, write_ply
from gradiseg_ns.sources import SourceError

from .scenes import write_scene
from .test_commands import ENVIRONMENT

STEPS = 300


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=30, distortion=0.02)


@pytest.fixture(scope="module")
def plain(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without identities, trained on a scene whose maps it never saw."""
    folder = tmp_path_factory.mktemp("plain")
    options = {"pipeline.model.identity": False, "pipeline.datamanager.masks_dir": "nowhere"}
    config = runs.make_config("gradiseg-lite", scene, folder, steps=STEPS, device="cpu", options=options)
    runs.train(config)
    return config.get_base_dir()


@pytest.fixture(scope="module")
def splatfacto(plain: Path, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Gaussians as nerfstudio's splatfacto saves them."""
    from nerfstudio.configs.method_configs import method_configs

    config: Any = copy.deepcopy(method_configs["splatfacto"])
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.timestamp = tmp_path_factory.mktemp("stock"), "run"
    config.experiment_name = "balls"
    run = sources.load_run(plain)
    folder = config.get_base_dir() / "nerfstudio_models"
    folder.mkdir(parents=True)
    (config.get_base_dir() / "config.yml").write_text(yaml.dump(config))
    state = {key: value for key, value in run.state.items() if ".gauss_params." in key}
    numpy_scalar = {"_last_lr": [np.float64(1e-3)]}  # stock schedulers leave those behind
    torch.save(
        {"step": 249, "pipeline": state, "optimizers": {}, "schedulers": numpy_scalar, "scalers": {}},
        folder / "step-000000249.ckpt",
    )
    return config.get_base_dir()


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


@pytest.mark.parametrize("frame", ["nerfstudio", "original"])
def test_lifting_a_ply_finds_its_frame(plain: Path, scene: Path, tmp_path: Path, frame: str) -> None:
    run = sources.load_run(plain)
    splat = run.splat
    if frame == "original":
        outputs = run.scene(maps=False).manager.train_dataparser_outputs
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
        ply=path, data=scene, output_dir=tmp_path / "out", device="cpu", foreground=(1,), weight=1.0
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
    scene = sources.load_run(plain).scene(maps=False)
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
    with pytest.raises(SourceError, match="--foreground"):
        cli.Lift(load_config=plain, masks_dir="object_mask", foreground=(5,), device="cpu").main()
    with pytest.raises(SourceError, match="max-error"):
        cli.Prune(load_config=plain, max_error="0").main()
    with pytest.raises(SourceError, match="object ids"):
        cli.Prune(load_config=plain, objects=(1,), device="cpu").main()
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


def test_the_script_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gradiseg_ns.cli import entrypoint; entrypoint()", "prune", "--ply", "x.ply",
         "--data", str(tmp_path / "nowhere")],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and "x.ply" in done.stdout and "Traceback" not in done.stdout + done.stderr
