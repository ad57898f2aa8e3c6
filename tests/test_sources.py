"""No door opens a file as something it is not: --ply, --load-config, start-from, --swap and import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradiseg_ns import cli, sources
from gradiseg_ns.cli import Export, Import
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.flags import Script
from gradiseg_ns.formats.ply_layout import PlyError
from gradiseg_ns.scene.coordinates import to_original
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.sources.capture import SourceError

from .formats.test_export import camera, make_splat
from .formats.test_foreign import FILES, MALICIOUS
from .scene.test_coordinates import a_move


def start_from(path: Path) -> object:
    return sources.load_splat(path)


def swap(path: Path) -> object:
    splat = make_splat(20, ids=2)
    return Script(splat, ObjectTable.create([0, 1]), EditList()).apply("--swap", f"1={path}")


def lift(path: Path) -> object:
    return cli.Lift(ply=path, data=path.parent, device="cpu").main()


def import_(path: Path) -> object:
    return Import(path, data=path.parent, device="cpu").main()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("door", [lift, start_from, swap, import_])
def test_a_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "free_splat.spz"
    path.write_bytes(FILES[name][0])
    with pytest.raises(PlyError, match="not a PLY file"):
        door(path)
    assert [each.name for each in tmp_path.iterdir()] == ["free_splat.spz"]


@pytest.mark.parametrize("name", ["free_splat.spz", "config.yaml", "config.yml", "a.ply"])
@pytest.mark.parametrize("door", [sources.load_run, lambda path: Export(path, device="cpu").main()])
def test_a_run_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(MALICIOUS)
    with pytest.raises(SourceError, match="xpected a run's folder|not opened"):
        door(tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_run_is_no_splat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    config = tmp_path / "run" / "config.yml"
    config.write_bytes(MALICIOUS)
    for path in (config, config.parent):
        with pytest.raises(SourceError, match="--load-config"):
            lift(path)
        with pytest.raises(SourceError, match="not opened"):
            start_from(path)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("far", [False, True])
def test_the_frame_of_a_splat_is_found_far_away_too(far: bool) -> None:
    transform, scale = a_move(far)
    splat = make_splat(200)
    there = to_original(splat, transform, scale)
    outputs = SimpleNamespace(dataparser_transform=transform, dataparser_scale=scale)
    photo = (splat.render(camera())[0] * 255).round().to(torch.uint8)
    scene: Any = SimpleNamespace(
        data="SCENE",
        manager=SimpleNamespace(train_dataparser_outputs=outputs),
        training_cameras=lambda most: [camera()],
        train=type("Views", (list,), {"images": [photo], "cameras": [camera()]})([0]),
        test=type("Views", (list,), {"cameras": []})(),
    )
    assert sources.find_frame(splat, scene, torch.zeros(3)) == "nerfstudio"
    assert sources.find_frame(there, scene, torch.zeros(3)) == "original"
    for part in (False, True):  # what the PLY says does not outweigh the pictures
        lie = replace(there, frame="nerfstudio")
        assert sources.find_frame(lie, scene, torch.zeros(3), part=part) == "original"
    back = sources.in_nerfstudio_frame(there, scene, "original")
    assert float((back.means - splat.means).abs().max()) < 1e-4
    assert sources.place_cameras(there, scene, torch.zeros(3)) == "original" == there.frame
    picture = there.render(scene.train.cameras[0])[0]
    assert float((picture - splat.render(camera())[0]).abs().mean()) < 1e-3
    if far:
        with pytest.raises(SourceError, match=r"lies around \(5001.., 46498.., 31"):
            sources.find_frame(there, scene, torch.zeros(3), "nerfstudio")
