"""The verbs open every scene that ns-train opens, with its dataparsers' options."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

from gradiseg_ns import cli, sources
from gradiseg_ns.sources.capture import SourceError
from gradiseg_ns.sources.dataparsers import NAMES, config_of, split
from gradiseg_ns.sources.run import anchor

from .data import conftest as scenes


def as_it_lies(folder: Path) -> Path:
    """A scene of COLMAP's with sparse/0 beside images."""
    data = scenes.write_colmap(folder)
    shutil.move(data / "colmap" / "sparse", data / "sparse")
    return data


@pytest.mark.parametrize("given", ["colmap", "nerfstudio-data"])
def test_a_colmap_model_as_it_lies_there(tmp_path: Path, given: Any) -> None:
    scene = sources.load_capture(as_it_lies(tmp_path), dataparser=given)
    assert len(scene.train) == 7 and scene.points is not None


def test_a_blender_scene_without_a_name(tmp_path: Path) -> None:
    assert len(sources.load_capture(scenes.write_blender(tmp_path)).train) == 4


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no transforms\.json, and no COLMAP model"):
        sources.load_capture(tmp_path)


def test_options_of_a_dataparser(tmp_path: Path) -> None:
    data = as_it_lies(tmp_path)
    config = config_of(
        "colmap", ["--colmap-path", "sparse/0", "--eval-mode", "all", "--downscale-factor", "2"]
    )
    scene = sources.load_capture(data, dataparser=config)
    assert len(scene.train) == len(scene.test) == 8
    assert scene.train.images[0].shape[1] <= scenes.WIDTH // 2


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("lift --ply a.ply --data s colmap --colmap-path sparse/0", "colmap", "--colmap-path sparse/0"),
        ("lift --data s --refine colmap", "colmap", ""),
        ("lift --data s --no-refine colmap", "colmap", ""),
        (
            "lift --data s --ignore-ids 0 1 nerfstudio-data --eval-mode all",
            "nerfstudio-data",
            "--eval-mode all",
        ),
        ("lift --data s --dataparser colmap", None, ""),
        ("lift --data=s --masks-dir colmap", None, ""),
        ("lift --data=s colmap", "colmap", ""),
        ("colmap", None, ""),
    ],
)
def test_where_a_dataparser_begins(line: str, name: str | None, rest: str) -> None:
    args = line.split()
    mine, found, theirs = split(args, ["refine"])
    assert (found, " ".join(theirs)) == (name, rest)
    assert [*mine, *([found] if found else []), *theirs] == args


def test_the_script_hands_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(cli.Associate, "main", lambda verb: seen.append(verb))
    line = f"gradiseg associate --data {tmp_path} colmap --colmap-path model --images-path photos"
    monkeypatch.setattr("sys.argv", line.split())
    cli.entrypoint()
    assert isinstance(seen[0].dataparser, ColmapDataParserConfig)
    assert seen[0].dataparser.colmap_path == Path("model") and seen[0].data == tmp_path


def test_all_dataparsers_have_a_configuration() -> None:
    from nerfstudio.configs.dataparser_configs import dataparsers

    assert set(NAMES) == set(dataparsers)
    assert config_of("nerfstudio-data").load_3D_points
    assert config_of("colmap") is not config_of("colmap")


@pytest.mark.parametrize("start", [".", "elsewhere", "outputs"])
def test_paths_of_a_run_start_where_its_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    for folder in ("scene", "elsewhere", "outputs/scene/gradiseg/now"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "outputs/scene/gradiseg/now/config.yml").touch()
    monkeypatch.chdir(tmp_path / start)
    config: Any = SimpleNamespace(
        data=Path("scene"),
        output_dir=Path("outputs"),
        get_base_dir=lambda: Path("outputs/scene/gradiseg/now"),
        pipeline=SimpleNamespace(
            datamanager=SimpleNamespace(data=Path("scene"), dataparser=SimpleNamespace(data=Path()))
        ),
    )
    path = Path(os.path.relpath(tmp_path / "outputs/scene/gradiseg/now/config.yml"))
    anchor(path, config)
    for found, name in (
        (config.data, "scene"),
        (config.pipeline.datamanager.data, "scene"),
        (config.output_dir, "outputs"),
    ):
        assert Path(os.path.abspath(found)) == tmp_path / name
        assert found.is_absolute() == (start != ".")
    assert config.pipeline.datamanager.dataparser.data == Path()


def test_a_run_that_was_moved_away_from_its_data(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        config=SimpleNamespace(
            pipeline=SimpleNamespace(
                datamanager=SimpleNamespace(
                    dataparser=ColmapDataParserConfig(), camera_res_scale_factor=1.0, data=Path("gone")
                )
            )
        ),
        config_path=tmp_path / "config.yml",
    )
    with pytest.raises(SourceError, match=r"there is no gone, .*--data"):
        sources.Run.capture(run)
