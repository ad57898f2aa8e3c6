"""Folders of associated masks: levels are read, objects and parts are written, and Gaussians get their parts back from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradiseg_ns import sources
from gradiseg_ns.cli import Associate, Edit, Export, Lift
from gradiseg_ns.data.id_maps import IdMapError
from gradiseg_ns.masks.levels import Painted
from gradiseg_ns.runs import make_config
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.sources.association import label_parts, parents_in, parts_of_run, read_tree
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority

from .scenes import write_scene
from .splats import traced_splat, write_plain_run

VIEWS = 10


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two balls. In `cut` every view has other ids, and the red ball is an upper and a lower half, never a whole; `leveled` has the
    whole balls as maps and the halves as their parts."""
    folder = write_scene(tmp_path_factory.mktemp("scene") / "balls", views=VIEWS, distortion=0.1)
    (folder / "cut").mkdir()
    (folder / "leveled" / "levels").mkdir(parents=True)
    for v, path in enumerate(sorted((folder / "object_mask").glob("*.png"))):
        ids = np.asarray(Image.open(path)).astype(np.int32)
        rows, _ = np.nonzero(ids == 1)
        upper = (ids == 1) & (np.arange(len(ids))[:, None] < np.median(rows))
        whole = np.select([ids == 1, ids == 7, ids == 0], [(v + k) % 3 + 1 for k in range(3)]).astype(
            np.int32
        )
        halves = np.select([upper, ids == 1], [4, 5], 0).astype(np.int32)
        Image.fromarray(np.where(halves > 0, halves, whole).astype(np.uint8)).save(folder / "cut" / path.name)
        Image.fromarray(whole.astype(np.uint8)).save(folder / "leveled" / path.name)
        ball = v % 3 + 1
        painted = Painted(
            np.stack([whole, halves]), [0, 0, 0, ball, ball], [0, 0, 0, 1, 1], [1.0] * 5, [""] * 5
        )
        (folder / "leveled" / "levels" / f"{path.stem}.npz").write_bytes(painted.to_bytes())
    return folder


@pytest.fixture(scope="module")
def plain(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_run(scene, tmp_path_factory.mktemp("plain"))


def _associate(**options: object) -> Path:
    Associate(ids="new", device="cpu", **options).main()  # type: ignore[arg-type]
    return Path(str(options["output_dir"]))


def _map(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="module")
def associated(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "maps"
    return _associate(load_config=plain, masks_dir="cut", output_dir=folder)


def test_halves_that_no_view_shows_as_one_become_an_object_with_parts(scene: Path, associated: Path) -> None:
    entries = json.loads((associated / "tree.json").read_text())["objects"]
    assert [sorted(entry) for entry in entries] == [["id", "name"]] * 3 + [["id", "name", "parent"]] * 2
    tree = read_tree(associated / "tree.json")
    (ball,) = set(tree.parents)
    assert tree.names == (f"object {ball} part 1", f"object {ball} part 2")
    for path in sorted((associated / "parts").glob("*.png")):
        truth, ids, parts = (
            _map(p) for p in (scene / "object_mask" / path.name, associated / path.name, path)
        )
        assert (ids[truth == 1] == ball).mean() > 0.85
        assert set(np.unique(parts)) <= {*tree.ids, *np.unique(ids)}
        assert set(np.unique(ids[np.isin(parts, tree.ids)])) == {ball}, "parts lie in their object"
        rows = np.nonzero(truth == 1)[0]
        top, bottom = (
            parts[rows.min() + 1][truth[rows.min() + 1] == 1],
            parts[rows.max() - 1][truth[rows.max() - 1] == 1],
        )
        assert np.bincount(top).argmax() in tree.ids and np.bincount(bottom).argmax() in tree.ids
        assert np.bincount(top).argmax() != np.bincount(bottom).argmax()


def test_held_out_photos_get_their_own_masks_with_the_new_ids(scene: Path, associated: Path) -> None:
    names = {path.name for path in (scene / "object_mask").glob("*.png")}
    trained = {path.name for path in (associated / "parts").glob("*.png")}
    held_out = {path.name for path in associated.glob("*.png")} - trained
    assert trained | held_out == names and held_out
    (ball,) = set(read_tree(associated / "tree.json").parents)
    for name in held_out:
        truth, ids = _map(scene / "object_mask" / name), _map(associated / name)
        assert ((ids == ball) == (truth == 1)).mean() > 0.995, (
            "as sharp as the masks, but for the lens's rounding"
        )


def test_gaussians_find_their_parts_in_the_maps(
    scene: Path, plain: Path, associated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splat = traced_splat(scene)
    capture = sources.load_run(plain).capture(masks_dir=str(associated), maps=False)
    tree = read_tree(associated / "tree.json")
    (ball,) = set(tree.parents)
    trained = capture.train
    maps = [(m == ball).long() for m in trained.id_maps]
    votes = accumulate(splat.gaussians(), zip(trained.cameras, maps, strict=True), 2)
    objects = torch.where(majority(votes).classes == 1, ball, 99)
    parts = label_parts(capture, splat.gaussians(), objects)
    assert parts is not None and parts.tree == tree
    assert (parts.labels[objects == 99] == -1).all(), "the others have none"
    own = objects == ball
    assert (parts.labels[own] >= 0).float().mean() > 0.8
    heights = [splat.means[parts.labels == part][:, 2].mean() for part in tree.ids]
    assert abs(float(heights[0] - heights[1])) > 0.1 * float(splat.means[own][:, 2].std())
    text = (associated / "tree.json").read_text()
    (associated / "tree.json").write_text("{}")
    assert label_parts(capture, splat.gaussians(), objects) is None
    assert "The objects have no parts" in " ".join(capsys.readouterr().out.split())
    (associated / "tree.json").write_text(text)
    other = sources.load_run(plain).capture(masks_dir="cut", maps=False)
    assert label_parts(other, splat.gaussians(), objects) is None


def test_levels_of_masks_are_the_tree_without_a_splat(scene: Path, tmp_path: Path) -> None:
    folder = _associate(data=scene, masks_dir="leveled", output_dir=tmp_path / "maps")
    tree = read_tree(folder / "tree.json")
    assert len(tree) >= 2
    found = set()
    for path in sorted((folder / "parts").glob("*.png")):
        truth, ids = _map(scene / "object_mask" / path.name), _map(folder / path.name)
        ball = np.bincount(ids[truth == 1]).argmax()
        found.add(int(ball))
        assert np.isin(_map(path)[truth == 1], tree.within(int(ball))).mean() > 0.9
    assert len(found) == 1 and found <= set(tree.parents)


def test_levels_of_other_maps_and_damaged_ones(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = scene / "leveled" / "levels"
    kept = {path: path.read_bytes() for path in levels.iterdir()}
    first, second = sorted(kept)[:2]
    try:
        first.write_bytes(kept[second])
        _associate(data=scene, masks_dir="leveled", output_dir=tmp_path / "maps")
        assert "of these views the maps alone count" in " ".join(capsys.readouterr().out.split())
        first.write_bytes(b"none")
        with pytest.raises(IdMapError, match="to go without"):
            _associate(data=scene, masks_dir="leveled", output_dir=tmp_path / "other")
    finally:
        first.write_bytes(kept[first])


def test_parts_may_be_what_is_learnt(scene: Path, plain: Path, associated: Path, tmp_path: Path) -> None:
    folder = _associate(load_config=plain, masks_dir="cut", output_dir=tmp_path / "maps", level="parts")
    tree = read_tree(folder / "tree.json")
    names = json.loads((folder / "object_names.json").read_text())
    assert names == {str(i): name for i, name in tree.name_of.items()}
    name = sorted((associated / "parts").glob("*.png"))[0].name
    assert (_map(folder / name) == _map(associated / "parts" / name)).all()
    assert (_map(folder / "objects" / name) == _map(associated / name)).all()


@pytest.mark.parametrize("text", ["", "[]", '{"objects": [3]}', '{"objects": [{"id": 4, "parent": 1}]}'])
def test_another_tree_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tree.json").write_text(text)
    with pytest.raises(IdMapError, match=r"tree\.json cannot be used"):
        read_tree(tmp_path / "tree.json")


def test_a_run_without_parts_has_none(plain: Path, scene: Path) -> None:
    run = sources.load_run(plain)
    run.state.setdefault("_model._extra_state", {"strategy": {}})
    assert parts_of_run(run, torch.zeros(len(run.splat), dtype=torch.int64)) is None


@pytest.fixture(scope="module")
def run(plain: Path, associated: Path) -> Path:
    """A gradiseg run on the folder."""
    Lift(load_config=plain, masks_dir=str(associated), device="cpu").main()
    return next(plain.parent.glob("*-lifted"))


def test_a_run_on_the_folder_is_split_into_parts(
    run: Path, associated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ball,) = set(read_tree(associated / "tree.json").parents)
    Edit(run, split_into_parts=(str(ball),)).main()
    printed = capsys.readouterr().out
    assert f"object {ball} part 1" in printed and f"split-into-parts {ball}" in printed
    Export(run, device="cpu").main()
    entries = json.loads((run / "export" / "scene.objects.json").read_text())["objects"]
    pieces = [entry for entry in entries if entry.get("parent") == ball]
    assert len(pieces) == 2 and all(entry["gaussians"] > 20 for entry in pieces)
    Edit(run, undo=1).main()
    Export(run, device="cpu").main()
    entries = json.loads((run / "export" / "scene.objects.json").read_text())["objects"]
    assert not any("parent" in entry for entry in entries)


def test_objects_know_what_they_are_parts_of_when_parts_are_learnt(
    scene: Path, plain: Path, associated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _associate(load_config=plain, masks_dir="cut", output_dir=tmp_path / "maps", level="parts")
    tree = read_tree(folder / "tree.json")
    options = {"pipeline.datamanager.masks_dir": str(folder)}
    config: Any = make_config(
        "gradiseg-lite", scene, tmp_path / "out", steps=10, device="cpu", options=options
    )
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    model = pipeline.model
    assert dict(model.objects.parents) == tree.parent_of and set(tree.ids) < set(model.objects.ids)
    saved = pipeline.state_dict()
    saved["_model._extra_state"]["objects"].pop("parents")  # of a run before there was this
    pipeline.load_pipeline(saved, 3)
    assert dict(model.objects.parents) == tree.parent_of
    assert (
        dict(ObjectTable.from_dict(pipeline.state_dict()["_model._extra_state"]["objects"]).parents)
        == tree.parent_of
    )
    (folder / "tree.json").write_text("{}")
    capsys.readouterr()
    assert parents_in(folder) == {} and "No object is known" in " ".join(capsys.readouterr().out.split())
    assert parents_in(scene / "object_mask") == {}


def test_a_model_keeps_the_parts_of_its_labels(run: Path, associated: Path) -> None:
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(run / "config.yml")
    model: Any = pipeline.model
    model.strategy_state.pop("label", None)
    assert model.parts is None
    pipeline.label_gaussians()  # type: ignore[attr-defined]
    parts = model.parts
    assert parts is not None and parts.tree == read_tree(associated / "tree.json")
    labels = model.objects.ids_of(model.gaussian_classes())
    assert set(labels[parts.labels >= 0].tolist()) == set(parts.tree.parents)
    state = model.get_extra_state()
    model.set_classes(model.gaussian_classes())
    assert model.parts is None, "parts belong to the labels that they were voted for with"
    model.set_extra_state(state)
    assert model.parts is not None and torch.equal(model.parts.labels, parts.labels)
