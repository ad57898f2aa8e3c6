"""The model in nerfstudio's hands: training, outputs, checkpoints, resuming."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup

from gradiseg_ns import runs
from gradiseg_ns.boundary.refinement import edge_classes
from gradiseg_ns.boundary.rounds import sharpen
from gradiseg_ns.data.datamanager import frusta_of
from gradiseg_ns.data.free_space import probes
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.schedule import apply_schedule
from gradiseg_ns.model import GradisegModel, GradisegModelConfig
from gradiseg_ns.sources.checkpoints import CheckpointError
from gradiseg_ns.trainer import GradisegTrainer, GradisegTrainerConfig

from .scenes import write_scene

pytestmark = pytest.mark.slow

STEPS = 300
FIELD = {"pipeline.model.boundary.field": True}
OUTPUT_KEYS = {"rgb", "depth", "accumulation", "background", "segmentation", "identity", "boundary"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=30)


@pytest.fixture(scope="module")
def trainer(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> GradisegTrainer:
    config = runs.make_config(
        "gradiseg-lite", scene, tmp_path_factory.mktemp("out"), steps=STEPS, device="cpu", options=FIELD
    )
    return runs.train(config)[0]


def model_of(trainer: GradisegTrainer) -> GradisegModel:
    return trainer.pipeline.model


def checkpoint(trainer: GradisegTrainer) -> Path:
    return trainer.checkpoint_dir / f"step-{STEPS - 1:09d}.ckpt"


def test_training_learns_picture_and_objects(trainer: GradisegTrainer) -> None:
    metrics = runs.evaluate(trainer)
    assert metrics["psnr"] is not None and metrics["psnr"] > 26
    assert metrics["miou"] is not None and metrics["miou"] > 90
    assert metrics["mbiou"] is not None and metrics["mbiou_fine"] is not None
    assert metrics["gaussian_count"] == model_of(trainer).num_points
    assert model_of(trainer).objects.names == ("floor", "red ball", "blue ball")


def test_outputs_are_float_maps_with_a_constant_set_of_keys(trainer: GradisegTrainer) -> None:
    model = model_of(trainer)
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    model.eval()
    outputs = model.get_outputs_for_camera(camera)
    empty = model.get_empty_outputs(64, 48, torch.zeros(3))
    assert set(outputs) == set(empty) == OUTPUT_KEYS
    for key in OUTPUT_KEYS:
        assert outputs[key].dtype == torch.float32 and outputs[key].shape[:2] == (48, 64), key
        assert empty[key].shape == outputs[key].shape, key
        assert bool(outputs[key].isfinite().all()), key
    shown = {tuple(c) for c in outputs["segmentation"].reshape(-1, 3).tolist()}
    assert shown <= {tuple(c) for c in model.objects.colors.tolist()} | {
        tuple(model.background_color.tolist())
    }
    assert set(outputs.object_ids.unique().tolist()) <= {IGNORE, 0, 1, 7}
    model.train()


def test_a_crop_renders_what_is_inside_and_changes_nothing(trainer: GradisegTrainer) -> None:
    from nerfstudio.data.scene_box import OrientedBox

    model = model_of(trainer)
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    model.eval()
    before = {k: v.detach().clone() for k, v in model.gauss_params.items()}
    whole = model.get_outputs_for_camera(camera)["accumulation"].mean()
    box = OrientedBox(R=torch.eye(3), T=model.means.detach().median(0).values, S=torch.full((3,), 0.5))
    part = model.get_outputs_for_camera(camera, obb_box=box)["accumulation"].mean()
    nothing = model.get_outputs_for_camera(
        camera, obb_box=OrientedBox(R=torch.eye(3), T=torch.full((3,), 99.0), S=torch.ones(3))
    )
    assert 0 < part < whole
    assert set(nothing) == OUTPUT_KEYS and bool((nothing.object_ids == IGNORE).all())
    model.set_crop(None)
    assert all(torch.equal(before[k], v) for k, v in model.gauss_params.items())
    model.train()


def test_what_hardly_a_training_view_sees_is_pruned(scene: Path, tmp_path: Path) -> None:
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=25, device="cpu")
    trainer = runs.train(config)[0]
    model, cameras = model_of(trainer), trainer.pipeline.datamanager.train_dataset.cameras
    seen, weight = model.views_seen(cameras)
    assert float(weight.min()) >= model.config.boundary.hidden, "nor is anything hidden left"
    assert int(seen.min()) >= 2, "the last step prunes"
    assert int(seen.max()) == len(cameras)
    model.means.data[0] = 1e3
    again, _ = model.views_seen(cameras)
    assert int(again[0]) == 0
    assert float((again != seen).float().mean()) < 0.02, "but for what it stood before"
    count = model.num_points
    model.prune_rarely_seen(cameras, step=24)
    assert model.num_points == count - 1
    assert all(len(p) == count - 1 for p in model.gauss_params.values())
    model.means.data[0] = 1e3
    model.prune_rarely_seen(cameras, step=12)
    assert model.num_points == count - 1, "not its turn"
    model.config.prune_min_views = 0
    model.prune_rarely_seen(cameras, step=24)
    assert model.num_points == count - 1, "switched off"


def test_the_run_is_written_down(trainer: GradisegTrainer) -> None:
    config = yaml.load((trainer.base_dir / "config.yml").read_text(), Loader=yaml.Loader)
    model = config.pipeline.model
    assert model.run_length == STEPS
    assert model.stop_split_at == round(0.4 * STEPS)
    assert config.optimizers["means"]["scheduler"].max_steps == STEPS


def test_step_numbers_that_the_user_sets_are_kept() -> None:
    config = GradisegModelConfig(run_length=300, stop_split_at=77)
    apply_schedule(config)
    apply_schedule(config)
    assert config.stop_split_at == 77
    assert config.resolution_schedule == 30


def test_a_checkpoint_loads_without_executing_anything(trainer: GradisegTrainer) -> None:
    state = torch.load(checkpoint(trainer), weights_only=True)
    assert state["pipeline"]["_model._extra_state"]["objects"]["ids"] == [0, 1, 7]
    assert state["pipeline"]["_model.gauss_params.identity"].shape[1] == 16


def resumed(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path, steps: int, **options: Any
) -> GradisegTrainer:
    config = runs.make_config(
        "gradiseg-lite",
        scene,
        tmp_path,
        steps=steps,
        device="cpu",
        options={
            **FIELD,
            "load_dir": trainer.checkpoint_dir,
            "load_step": STEPS - 1,
            "pipeline.model.prune_min_views": 0,
        },
    )
    for key, value in options.items():
        setattr(config.pipeline.datamanager, key, value)
    return runs.train(config)[0]


def test_resuming_moves_the_parameters_and_keeps_the_schedule(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    before = torch.load(checkpoint(trainer), weights_only=True)["pipeline"]
    again = resumed(trainer, scene, tmp_path, 5)
    after = again.pipeline.state_dict()
    assert again.config.pipeline.model.run_length == STEPS + 5
    assert again.step == STEPS + 4
    for name in ("means", "identity", "features_dc"):
        key = f"_model.gauss_params.{name}"
        assert before[key].shape == after[key].shape
        assert not torch.equal(before[key], after[key].cpu()), f"{name} stood still after resuming"
    assert not torch.equal(before["_model.classifier.weight"], after["_model.classifier.weight"].cpu())


def test_ids_unknown_to_the_checkpoint_are_refused(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    other = write_scene(tmp_path / "more")
    from PIL import Image

    path = other / "object_mask" / "view_03.png"
    image = Image.open(path)
    image.putpixel((0, 0), 42)
    image.save(path)
    with pytest.raises(CheckpointError, match="42"):
        resumed(trainer, other, tmp_path, 2)


def test_a_checkpoint_with_a_missing_key_is_refused_by_name(trainer: GradisegTrainer) -> None:
    state = dict(trainer.pipeline.state_dict())
    del state["_model.gauss_params.identity"]
    with pytest.raises(CheckpointError, match=r"missing \['gauss_params.identity'\]"):
        trainer.pipeline.load_pipeline(state, STEPS - 1)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    trainer: GradisegTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = checkpoint(trainer)
    content = good.read_bytes()

    def half_written(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    trainer.save_checkpoint(STEPS + 10)
    assert trainer.save_failed
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == [good.name]
    assert good.read_bytes() == content
    assert not (trainer.base_dir / ".saving").exists()
    printed = " ".join(capsys.readouterr().out.split())
    assert "No space left" in printed and good.name in printed
    monkeypatch.undo()
    trainer.save_checkpoint(STEPS - 1)
    assert not trainer.save_failed


def test_a_folder_that_cannot_be_written_is_reported(
    trainer: GradisegTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", refused)
    trainer.save_checkpoint(STEPS + 20)
    assert trainer.save_failed
    assert "Permission denied" in " ".join(capsys.readouterr().out.split())
    assert checkpoint(trainer).exists()
    trainer.save_failed = False


def test_without_identities_it_is_splatfacto(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "balls")
    config = runs.make_config(
        "gradiseg-lite", scene, tmp_path, steps=5, device="cpu", options={"pipeline.model.identity": False}
    )
    plain = runs.train(config)[0]
    assert "identity" not in model_of(plain).gauss_params
    metrics = runs.evaluate(plain)
    assert metrics.get("miou") is None and metrics["psnr"] is not None
    assert metrics["psnr_std"] is None, "one held-out view has no deviation, and NaN is not JSON"


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline.model.identity_geometry": 1.0},
        {
            "pipeline.model.la_knn": "literal",
            "pipeline.model.igd_split": "sample",
            "pipeline.model.neighbor_samples": 100,
        },
        {"pipeline.model.igd_signal": "absolute", "pipeline.model.igd_split": "major_axis"},
        {
            "pipeline.model.igd_signal": "gradient",
            "pipeline.model.la_knn_direction": "total",
        },
        {"pipeline.model.rasterize_mode": "antialiased", "pipeline.model.sh_degree": 0},
        {
            **FIELD,
            "pipeline.model.boundary.volume_rendering": False,
            "pipeline.model.boundary.measure": "variance",
        },
        {**FIELD, "pipeline.model.boundary.rbf": False, "pipeline.model.boundary.overshoot": "draw_in"},
        {**FIELD, "pipeline.model.boundary.hash": False, "pipeline.model.boundary.pull_after": 0.5},
        {"pipeline.model.background_color": "black", "pipeline.model.output_depth_during_training": True},
    ],
    ids=["geometry", "literal", "absolute", "paper", "antialiased", "at-depth", "no-rbf", "no-hash", "black"],
)
def test_every_option_trains_through_all_phases(scene: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=40, device="cpu", options=options)
    config.pipeline.model.schedule.refine_every = 4
    trainer = runs.train(config)[0]
    assert all(bool(p.isfinite().all()) for p in trainer.pipeline.model.parameters())


def test_boundaries_are_refined_in_the_last_third(trainer: GradisegTrainer) -> None:
    model = model_of(trainer)
    phase = model.boundary_phase
    assert phase is not None and phase.found and phase.points is not None
    assert model.schedule.refine_boundary_from == round(STEPS * 2 / 3)
    learned = trainer.optimizers.optimizers["boundary_field"].state.values()
    assert any(bool(state["exp_avg"].any()) for state in learned), "the field was trained"
    ambiguous = model.strategy_state["impurity"] > model.config.boundary.tau
    assert torch.equal(phase.points.indices, ambiguous.nonzero()[:, 0]), "also after pruning"
    assert 0 < int(ambiguous.sum()) < model.num_points / 2
    camera, batch = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    model.eval()
    shown = model.get_outputs_for_camera(camera)["boundary"].sum(dim=-1).cpu()
    ids = batch["id_map"][..., 0].cpu()
    edge = edge_classes(ids.long()) >= 0
    assert float(shown[edge].mean()) > 1.5 * float(shown[~edge].mean())


def test_splits_at_the_boundary_keep_to_their_budget(scene: Path, tmp_path: Path) -> None:
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=12, device="cpu")
    trainer = runs.train(config)[0]
    model = model_of(trainer)
    count = model.num_points
    model.strategy_state["impurity"] = torch.linspace(0, 1, count)
    model.config.boundary.overshoot = "split"
    model.config.boundary.split, model.config.boundary.tau = 0.1, 0.6
    ends = torch.zeros(count, 3, 2, dtype=torch.bool)
    ends[:3, 1, 0] = True  # these stick out along their second axis, and are not ambiguous
    before = model.means.detach().clone()
    sharpen(model.gauss_params, model.optimizers, model.strategy_state, ends, model.config.boundary)
    split = round(0.1 * count) + 3
    assert model.num_points == count + split
    assert all(len(p) == count + split for p in model.gauss_params.values())
    kept = torch.ones(count, dtype=torch.bool)
    kept[:3] = kept[-round(0.1 * count) :] = False
    assert torch.equal(model.means[: int(kept.sum())], before[kept]), "the most ambiguous are split"
    model.config.boundary.overshoot, model.config.boundary.split = "off", 0.0
    ends = torch.ones(model.num_points, 3, 2, dtype=torch.bool)
    sharpen(model.gauss_params, model.optimizers, model.strategy_state, ends, model.config.boundary)
    assert model.num_points == count + split


def test_evaluation_needs_no_field(trainer: GradisegTrainer, tmp_path: Path) -> None:
    path = checkpoint(trainer)
    state = torch.load(path, weights_only=True)
    assert not [key for key in state["pipeline"] if "field" in key or "hash" in key]
    assert "boundary_field" in state["optimizers"]
    expected = runs.evaluate(trainer)
    # As from a machine with tinycudann, whose field has other parameters, or without its optimizer at all.
    state["optimizers"]["boundary_field"] = {"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": []}
    run = tmp_path / "run"
    shutil.copytree(trainer.base_dir, run)
    torch.save(state, run / "nerfstudio_models" / path.name)
    config = yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader)
    config.relative_model_dir = run / "nerfstudio_models"
    (run / "config.yml").write_text(yaml.dump(config))
    _, pipeline, _, _ = eval_setup(run / "config.yml", test_mode="test")
    phase = pipeline.model.boundary_phase
    assert phase is None or phase.field is None
    with torch.no_grad():
        found = pipeline.get_average_eval_image_metrics(get_std=True)
    for name in ("psnr", "ssim", "miou", "mbiou", "mbiou_fine", "extracted_biou"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.gpu
def test_what_cuda_refined_a_cpu_evaluates_to_the_same(scene: Path, tmp_path: Path) -> None:
    """With tinycudann where it is installed; the process that evaluates sees neither it nor a GPU."""
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=150, device="cuda", options=FIELD)
    trainer = runs.train(config)[0]
    assert model_of(trainer).boundary_phase is not None
    expected = runs.evaluate(trainer)
    output = tmp_path / "cpu.json"
    command = [sys.executable, "-c", "import sys; sys.modules['tinycudann'] = None; "
               "from nerfstudio.scripts.eval import entrypoint; entrypoint()",
               "--load-config", str(trainer.base_dir / "config.yml"), "--output-path", str(output)]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=600)
    found = json.loads(output.read_text())["results"]
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=0.05)
    for name in ("miou", "mbiou", "mbiou_fine", "extracted_biou"):
        assert found[name] == pytest.approx(expected[name], abs=0.5), name


def test_resuming_in_the_last_third_finds_the_boundary_again(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    again = resumed(trainer, scene, tmp_path, 5)
    phase = model_of(again).boundary_phase
    assert phase is not None and phase.found and phase.points is not None
    assert model_of(again).num_points == model_of(trainer).num_points, "splits have their own times"
    _, pipeline, _, step = eval_setup(again.base_dir / "config.yml", test_mode="test")
    assert step == STEPS + 4, "its own last checkpoint"
    assert isinstance(pipeline.model, GradisegModel)


def test_a_field_of_another_kind_does_not_keep_a_run_from_resuming(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint(trainer), weights_only=True)
    state["optimizers"]["boundary_field"] = {"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": []}
    (tmp_path / "models").mkdir()
    torch.save(state, tmp_path / "models" / checkpoint(trainer).name)
    options = {**FIELD, "load_dir": tmp_path / "models", "pipeline.model.prune_min_views": 0}
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=2, device="cpu", options=options)
    assert runs.train(config)[0].step == STEPS + 1


def test_without_the_refiner_it_is_plain_gradiseg(scene: Path, tmp_path: Path) -> None:
    options = {"pipeline.model.boundary_refiner": False}
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=12, device="cpu", options=options)
    plain = runs.train(config)[0]
    assert model_of(plain).boundary_phase is None
    assert "boundary_field" not in plain.optimizers.optimizers
    assert "impurity" not in model_of(plain).strategy_state


def test_identity_loss_moves_geometry_only_when_asked(trainer: GradisegTrainer) -> None:
    model = model_of(trainer)
    camera, batch = trainer.pipeline.datamanager.next_train(STEPS)
    configured = model.config.identity_geometry
    for moves in (0.0, 1.0):
        model.config.identity_geometry = moves
        model.zero_grad(set_to_none=True)
        model.train()
        outputs = model.get_outputs(camera)
        model.get_loss_dict(outputs, batch)["identity_loss"].backward()
        gradient = model.means.grad
        assert (gradient is not None and float(gradient.abs().max()) > 0) is bool(moves)
        assert float(model.gauss_params["identity"].grad.abs().max()) > 0
    model.config.identity_geometry = configured


@pytest.mark.parametrize("probed", [False, True])
def test_while_boundaries_are_refined_it_spares_the_inside_of_objects(
    trainer: GradisegTrainer, monkeypatch: pytest.MonkeyPatch, probed: bool
) -> None:
    model = model_of(trainer)
    camera, batch = trainer.pipeline.datamanager.next_train(STEPS)
    impurity = torch.zeros(model.num_points, device=model.device)
    impurity[::3], impurity[1::3] = 0.5 * model.config.boundary.spare, 1.0
    monkeypatch.setitem(model.strategy_state, "impurity", impurity)
    monkeypatch.setattr(model.strategy, "needs_position_gradient", lambda step: probed)
    gradients = []
    for spare in (0.0, model.config.boundary.spare):
        monkeypatch.setattr(model.config.boundary, "spare", spare)
        model.zero_grad(set_to_none=True)
        model.train()
        model.get_loss_dict(model.get_outputs(camera), batch)["identity_loss"].backward()
        gradients.append(model.means.grad)
        model.__dict__.pop("_probe", None)
    every, spared = gradients
    monkeypatch.setattr(model.strategy, "needs_absgrad", lambda step: True)
    assert model._identity_geometry(refining=True) == model.config.identity_geometry
    assert float(every[2::3].abs().max()) > 0 == float(spared[2::3].abs().max())
    torch.testing.assert_close(spared[1::3], every[1::3], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(spared[::3], 0.5 * every[::3], rtol=1e-3, atol=1e-9)


def test_a_batch_holds_classes_or_ids(trainer: GradisegTrainer) -> None:
    model = model_of(trainer)
    camera, batch = trainer.pipeline.datamanager.next_train(STEPS)
    assert "id_map" not in batch
    model.eval()  # at full resolution, and without the maps that the views agree on
    classes = batch.pop("class_map")
    assert set(classes.unique().tolist()) == {0, 1, 2}
    ids = model.objects.ids_of(classes)[..., None].int()
    mask = torch.rand(classes.shape) > 0.5
    for given in ({"class_map": classes}, {"class_map": classes.short()}, {"id_map": ids}):
        whole, masked = (model._target_classes(given, m) for m in (None, mask))
        assert whole is not None and whole.dtype == torch.int64 and torch.equal(whole, classes)
        assert masked is not None and torch.equal(masked, torch.where(mask, classes, IGNORE))
    assert model._target_classes(batch, None) is None
    unknown = model._target_classes({"id_map": torch.full_like(ids, 5)}, None)
    assert unknown is not None and bool((unknown == IGNORE).all()), "a held-out view's id"
    outputs = model.get_outputs(camera)
    losses = [
        model.get_loss_dict(outputs, {**batch, **given})["identity_loss"]
        for given in ({"class_map": classes}, {"id_map": ids})
    ]
    assert torch.equal(*losses)
    model.train()


def test_a_resumed_run_counts_classes_as_its_checkpoint_does(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    again = resumed(trainer, scene, tmp_path, 2, ignore_ids=(0,))
    manager = again.pipeline.datamanager
    assert manager.train_dataset.metadata["object_ids"] == [1, 7], "two of the checkpoint's three"
    assert model_of(again).objects.ids == (0, 1, 7)
    assert set(torch.cat([d["class_map"].reshape(-1) for d in manager.cached_train]).tolist()) == {-1, 1, 2}
    assert set(manager.training_ids(0).unique().tolist()) <= {-1, 1, 7}


def test_votes_give_a_trained_splat_its_identities_before_the_first_step(
    trainer: GradisegTrainer, scene: Path, tmp_path: Path
) -> None:
    options = {"pipeline.model.start_from": trainer.base_dir}
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=3, device="cpu", options=options)
    started = runs.train(config)[0]
    schedule = model_of(started).schedule
    assert schedule.votes_at == 0 and schedule.densify_until == 0
    metrics, before = runs.evaluate(started), runs.evaluate(trainer)
    assert metrics["miou"] > 88 and metrics["psnr"] > before["psnr"] - 0.5
    options["pipeline.model.schedule.votes_at"] = 1.0
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=3, device="cpu", options=options)
    assert runs.evaluate(runs.train(config)[0])["miou"] < 60, "without votes identities are random"


def test_unrelated_ids_are_associated_on_the_way(scene: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for v, path in enumerate(sorted((scene / "object_mask").glob("*.png"))):
        ids = np.asarray(Image.open(path))
        new = np.select([ids == 0, ids == 1, ids == 7], [(v + k) % 3 + 1 + 3 * (v % 4) for k in range(3)])
        (tmp_path / "unrelated").mkdir(exist_ok=True)
        Image.fromarray(new.astype(np.uint8)).save(tmp_path / "unrelated" / path.name)
    options = {
        "pipeline.model.associate": "auto",
        "pipeline.datamanager.masks_dir": str(tmp_path / "unrelated"),
    }
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=400, device="cpu", options=options)
    trained = runs.train(config)[0]
    model = model_of(trained)
    assert len(set(model.objects.ids) - {0}) == 3
    masks = trained.base_dir / "associated_mask"
    held_out = {path.name for path in trained.pipeline.datamanager.eval_dataset.image_filenames}
    assert {path.name for path in masks.glob("*.png")} == {
        path.name for path in (scene / "object_mask").glob("*.png")
    }
    saved = yaml.load((trained.base_dir / "config.yml").read_text(), Loader=yaml.Loader)
    assert saved.pipeline.datamanager.masks_dir == str(masks.resolve())
    assert saved.pipeline.model.associate == "off"
    manager = trained.pipeline.datamanager
    for index, path in enumerate(sorted(path for path in masks.glob("*.png") if path.name not in held_out)):
        ids = torch.from_numpy(np.asarray(Image.open(path)).astype(np.int64))
        assert torch.equal(manager.cached_train[index]["class_map"].long(), model.objects.classes_of(ids)), (
            "the classes are those of the new ids"
        )
    camera, batch = manager.fixed_indices_eval_dataloader[0]
    name = manager.eval_dataset.image_filenames[0].name
    own = torch.from_numpy(np.asarray(Image.open(masks / name)).astype(np.int64))
    assert torch.equal(batch["id_map"][..., 0].long().cpu(), own), (
        "held-out views have their own masks with the new ids"
    )
    model.eval()
    found = model.get_outputs_for_camera(camera).object_ids.numpy()
    truth = np.asarray(Image.open(scene / "object_mask" / name))
    # every object of the truth is one id, and different objects have different ones
    winners = [np.bincount(found[truth == k].clip(0)).argmax() for k in (0, 1, 7)]
    assert len(set(winners)) == 3
    shares = [(found[truth == k] == w).mean() for k, w in zip((0, 1, 7), winners, strict=True)]
    assert min(shares) > 0.85


def test_association_needs_a_time_to_happen() -> None:
    config = GradisegModelConfig(associate="auto", run_length=100)
    assert apply_schedule(config).identity_from == 40
    config = GradisegModelConfig(associate="auto", run_length=100)
    config.schedule.votes_at = 1.0
    with pytest.raises(ValueError, match="votes-at"):
        apply_schedule(config)


def test_what_floats_before_a_view_is_seen_by_the_score(trainer: GradisegTrainer) -> None:
    pipeline, model = trainer.pipeline, model_of(trainer)
    before = pipeline.floaters()
    assert before is not None and before.n_views > 5
    frusta, depths = probes(
        frusta_of(pipeline.datamanager.train_dataset.cameras), pipeline.datamanager.points.float()
    )
    place = frusta.centers[0] + 0.5 * float(depths[0]) * frusta.viewmats[0, 2, :3]
    kept = {name: p.detach()[0].clone() for name, p in model.gauss_params.items()}
    with torch.no_grad():
        model.gauss_params["means"][0] = place
        model.gauss_params["scales"][0] = -2.0
        model.gauss_params["opacities"][0] = 6.0
        after = pipeline.floaters()
        space = pipeline.free_space
        assert space is not None and space.contains(place[None]).all()
        for name, value in kept.items():
            model.gauss_params[name][0] = value
    assert after is not None and after.worst > before.worst + 10 and after.mean > before.mean


def test_a_share_beyond_the_points_is_refused(scene: Path, tmp_path: Path) -> None:
    options = {"pipeline.model.empty_space": 1.5}
    config = runs.make_config("gradiseg-lite", scene, tmp_path, steps=5, device="cpu", options=options)
    with pytest.raises(ValueError, match=r"empty-space is 1\.5, expected 0"):
        runs.train(config)


def test_the_same_run_again_is_the_same_file(scene: Path, tmp_path: Path) -> None:
    """Bit for bit, through all phases: the checkpoint of a run and of the same run again, in this process and in another."""
    steps = 48

    def config(name: str) -> GradisegTrainerConfig:
        return runs.make_config(
            "gradiseg-lite", scene, tmp_path / name, steps=steps, device="cpu", options=FIELD
        )

    first, second = (runs.train(config(name))[0] for name in ("first", "second"))
    assert model_of(first).boundary_phase is not None and model_of(first).boundary_phase.field is not None
    saved = [t.checkpoint_dir / f"step-{steps - 1:09d}.ckpt" for t in (first, second)]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    script = (
        "import sys, torch; from pathlib import Path; from gradiseg_ns import runs;"
        "torch.set_num_threads(int(sys.argv[3]));"
        f"runs.train(runs.make_config('gradiseg-lite', Path(sys.argv[1]), Path(sys.argv[2]), steps={steps}, device='cpu', options={FIELD}))"
    )
    arguments = [str(scene), str(tmp_path / "third"), str(torch.get_num_threads())]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, timeout=300)
    (third,) = (tmp_path / "third").rglob("*.ckpt")
    assert third.read_bytes() == saved[0].read_bytes()
