"""`gradiseg affordance` on a traced scene: files with names, pictures with a legend, maps that serve as id maps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gradiseg_ns import cli
from gradiseg_ns.affordance.tokens import TokenModel
from gradiseg_ns.affordance.transfer import TransferError, area_mean
from gradiseg_ns.cli.affordance import MAPS, REPORT, file_names
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import WriteError
from tests.scenes import trace, write_scene

CLASSES = {1: "grasp [bold]", 7: "../what/holds"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=12, distortion=0.05)


@pytest.fixture(scope="module")
def ply(scene: Path) -> Path:
    """A Gaussian wherever a ray of a coarse grid meets something, in its colour."""
    meta = json.loads((scene / "transforms.json").read_text())
    points, colors = [], []
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"])
        u, v = np.meshgrid(np.arange(1, meta["w"], 2), np.arange(1, meta["h"], 2))
        x, y = (u - meta["cx"]) / meta["fl_x"], -(v - meta["cy"]) / meta["fl_y"]
        rays = np.stack([x, y, -np.ones(u.shape)], axis=-1).reshape(-1, 3) @ pose[:3, :3].T
        color, _, where = trace(pose[:3, 3], rays / np.linalg.norm(rays, axis=1, keepdims=True))
        near = np.linalg.norm(where, axis=1) < 3
        points.append(where[near])
        colors.append(color[near])
    means, rgb = (torch.from_numpy(np.concatenate(values)).float() for values in (points, colors))
    count = len(means)
    splat = Splat(
        means, torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4).contiguous(), torch.full((count, 3), 0.03).log(),
        torch.full((count,), 2.0), (rgb - 0.5) / 0.28209479, torch.zeros(count, 0, 3), frame="original",
    )  # fmt: skip
    return write_ply(scene / "balls.ply", splat)


@pytest.fixture(scope="module")
def exemplars(scene: Path) -> Path:
    folder = scene / "painted"
    folder.mkdir()
    for name in ("view_02.png", "view_06.png"):
        Image.open(scene / "images" / name).save(folder / name)
        ids = np.asarray(Image.open(scene / "object_mask" / name))
        Image.fromarray(ids).save(folder / f"{name[:-4]}_labels.png")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


class Colors:
    """The mean colour of each 2 x 2 patch, for a model."""

    layer, patch = 8, 2

    def tokens(self, image: np.ndarray) -> torch.Tensor:
        mean = area_mean(torch.tensor(image).float() / 255, image.shape[0] // 2, image.shape[1] // 2)
        return F.normalize(mean - mean.mean(dim=-1, keepdim=True) + 0.01, dim=-1)


def verb(ply: Path, exemplars: Path, output_dir: Path, **options: Any) -> cli.Affordance:
    return cli.Affordance(
        ply=ply, data=ply.parent, frame="original", device="cpu", exemplars=exemplars, output_dir=output_dir, **options
    )  # fmt: skip


def test_what_the_command_writes(
    ply: Path, exemplars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(TokenModel, "load", lambda *_, **__: Colors())
    verb(ply, exemplars, tmp_path / "out", mirror=True, position_means=False).main()
    out = tmp_path / "out"
    said = capsys.readouterr().out

    labels = read_ply(out / "affordance.ply").labels
    assert labels is not None and set(labels.unique().tolist()) <= {-1, 0, 1, 7}
    assert sorted(path.name for path in out.glob("*.ply")) == [
        "affordance.ply",
        "grasp_bold.ply",
        "what_holds.ply",
    ]
    for k, stem in ((1, "grasp_bold"), (7, "what_holds")):
        table = read_objects(out / f"{stem}.ply")
        whole = read_objects(out / "affordance.ply")
        assert table is not None and whole is not None
        assert table.ids == (k,) and table.names == (CLASSES[k],)
        assert table.colors[0].tolist() == pytest.approx(whole.colors[whole.ids.index(k)].tolist())
        assert len(read_ply(out / f"{stem}.ply")) == int((labels == k).sum()) > 0
        assert f"{CLASSES[k]}: {int((labels == k).sum())} Gaussians" in said

    # The maps are as large and as bent as the photos, and right but for edges.
    maps = sorted((out / MAPS).rglob("*.png"))
    assert len(maps) >= 9 and json.loads((out / MAPS / "object_names.json").read_text())["7"] == CLASSES[7]
    right = []
    for path in maps:
        found = Image.open(path)
        truth = np.asarray(Image.open(ply.parent / "object_mask" / path.name))
        assert found.mode == "L" and np.asarray(found).shape == truth.shape
        right.append(float((np.asarray(found) == truth).mean()))
    assert np.mean(right) > 0.96
    report = json.loads((out / MAPS / REPORT).read_text())
    assert report["layer"] == 8 and report["mirror"] and report["exemplars"] == ["view_02", "view_06"]

    sheet = np.asarray(Image.open(out / "overview.png")).reshape(-1, 3)
    for k in (0, 1, 7):
        color = (table_color(out, k) * 255).round().astype(int)
        assert (sheet == color).all(axis=1).sum() >= 100


def table_color(out: Path, k: int) -> np.ndarray:
    table = read_objects(out / "affordance.ply")
    assert table is not None
    return table.colors[table.ids.index(k)].numpy()


def test_the_maps_serve_as_id_maps(
    ply: Path, exemplars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenModel, "load", lambda *_, **__: Colors())
    verb(ply, exemplars, tmp_path / "out").main()
    cli.Lift(
        ply=ply, data=ply.parent, frame="original", device="cpu", masks_dir=str(tmp_path / "out" / MAPS),
        output_dir=tmp_path / "lifted",
    ).main()  # fmt: skip
    table = read_objects(tmp_path / "lifted" / "lifted.ply")
    assert table is not None and dict(zip(table.ids, table.names, strict=True)).items() >= CLASSES.items()
    lifted, found = (
        read_ply(path).labels
        for path in (tmp_path / "lifted" / "lifted.ply", tmp_path / "out" / "affordance.ply")
    )
    assert lifted is not None and found is not None and float((lifted == found).float().mean()) > 0.97


def test_a_second_run_replaces_the_first_and_nothing_of_others(
    ply: Path, exemplars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenModel, "load", lambda *_, **__: Colors())
    out = tmp_path / "out"
    verb(ply, exemplars, out).main()
    (out / MAPS / "old.png").touch()
    # An earlier result had a class more, and somebody has been at the report.
    report = json.loads((out / MAPS / REPORT).read_text())
    report["parts"] += ["cut.ply", "../outside.ply", "affordance.npz", 3]
    (out / MAPS / REPORT).write_text(json.dumps(report))
    for name in ("cut.ply", "cut.objects.json", "mine.ply"):
        (out / name).touch()
    (tmp_path / "outside.ply").touch()
    verb(ply, exemplars, out).main()
    assert not (out / MAPS / "old.png").exists() and (out / "mine.ply").exists()
    assert sorted(path.name for path in (out / "older").iterdir()) == ["cut.objects.json", "cut.ply"]
    assert (tmp_path / "outside.ply").exists()

    (out / MAPS / REPORT).unlink()  # now it is a folder of somebody's
    monkeypatch.setattr(TokenModel, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(WriteError, match=f"maps exists and was not written by .* no {REPORT}"):
        verb(ply, exemplars, out).main()


def test_flags_reach_the_model_and_wrong_ones_are_told_first(
    ply: Path, exemplars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(name: str, **options: Any) -> SimpleNamespace:
        asked.append((name, options))
        raise InterruptedError

    monkeypatch.setattr(TokenModel, "load", load)
    with pytest.raises(InterruptedError):
        verb(ply, exemplars, tmp_path, model="some/model", layer=3, resolution=70, offline=True).main()
    assert asked == [("some/model", {"layer": 3, "resolution": 70, "device": "cpu", "offline": True})]
    with pytest.raises(TransferError, match="--k 0"):
        verb(ply, exemplars, tmp_path, k=0).main()
    assert len(asked) == 1


def test_classes_get_files_of_their_own() -> None:
    names = [
        "background",
        "wrap-grasp",
        "a b",
        "a/b",
        "A b",
        "affordance",
        "\u4e2d",
        "../x",
        "4_a_b",
        "caf\u00e9",
        "7",
    ]
    assert file_names(names) == [
        "background", "wrap-grasp", "2_a_b", "3_a_b", "4_A_b", "5_affordance", "6", "x", "8_4_a_b", "cafe", "10_7",
    ]  # fmt: skip


def test_names_of_version_0_1_lead_to_the_new_places() -> None:
    from gradiseg_ns.affordance import AFFORDANCES, exemplars, tokens, transfer
    from gradiseg_ns.votes import affordance as old

    for name, new in (
        ("read_exemplars", exemplars.read_exemplars),
        ("TokenModel", tokens.TokenModel),
        ("transfer", transfer.transfer),
        ("AFFORDANCES", AFFORDANCES),
    ):
        with pytest.warns(DeprecationWarning, match=rf"import {name} from gradiseg_ns\.affordance"):
            assert getattr(old, name) is new
    for name in old._HOME:
        with pytest.warns(DeprecationWarning):
            getattr(old, name)
    with pytest.raises(AttributeError, match="evaluation.affordance"):
        _ = old.evaluate
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = old.nothing
