"""Scenes as ns-train opens them: where COLMAP's model lies, splits, large photos, names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from gradiseg_ns.data import parsers
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig
from gradiseg_ns.data.parsers import find_model, missing_list
from gradiseg_ns.data.poses import PoseError


def open_scene(data: Path, parser: DataParserConfig, mode: Any = "val") -> GradisegDataManager:
    config = GradisegDataManagerConfig(data=data, dataparser=parser, cache_images_type="uint8")
    return config.setup(device="cpu", test_mode=mode)


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0"])
def test_a_model_is_found_where_it_lies(tmp_path: Path, scenes: ModuleType, place: str) -> None:
    data = scenes.write_colmap(tmp_path)
    if place != "colmap/sparse/0":
        (data / place).parent.mkdir(exist_ok=True)
        shutil.move(data / "colmap" / "sparse" / "0", data / place)
    dm = open_scene(data, ColmapDataParserConfig())
    assert len(dm.train_dataset) == 7 and dm.points is not None
    assert dm.free_space(0.9) is not None  # looks for the tracks there too


def test_a_model_that_is_not_there(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_colmap(tmp_path)
    with pytest.raises(PoseError, match=r"sparse/7 holds no COLMAP model.*--colmap-path colmap/sparse/0"):
        find_model(data, Path("sparse/7"))
    shutil.rmtree(data / "colmap")
    with pytest.raises(PoseError, match=r"Looked in sparse/0, colmap/sparse/0"):
        open_scene(data, ColmapDataParserConfig())


@pytest.mark.parametrize("name", ["shot ({}).jpg", "a  b {}.jpg", "ä {}.jpg"])
def test_spaces_in_names_of_a_model(tmp_path: Path, scenes: ModuleType, name: str) -> None:
    data = scenes.write_colmap(tmp_path)
    path = data / "colmap" / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    for view in range(0, len(lines), 2):
        old = lines[view].split()[9]
        new = name.format(view)
        lines[view] = lines[view].replace(old, new)
        (data / "images" / old).rename(data / "images" / new)
        (data / "object_mask" / old).with_suffix(".png").rename(
            (data / "object_mask" / new).with_suffix(".png")
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    dm = open_scene(data, ColmapDataParserConfig())
    assert all(found is not None for found in dm.train_dataset.id_map_filenames)
    assert dm.train_dataset.image_filenames[0].name == name.format(2)


def test_quaternions_that_are_not_of_length_one(tmp_path: Path, scenes: ModuleType) -> None:
    wanted = open_scene(scenes.write_colmap(tmp_path / "good"), ColmapDataParserConfig())
    data = scenes.write_colmap(tmp_path / "long")
    path = data / "colmap" / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    for view in range(0, len(lines), 2):
        parts = lines[view].split()
        lines[view] = " ".join([parts[0], *(str(3 * float(v)) for v in parts[1:5]), *parts[5:]])
    path.write_text("\n".join(lines) + "\n")
    torch.testing.assert_close(
        open_scene(data, ColmapDataParserConfig()).train_dataset.cameras.camera_to_worlds,
        wanted.train_dataset.cameras.camera_to_worlds,
        atol=1e-5,
        rtol=0,
    )


def test_a_model_of_another_camera_is_refused(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_colmap(tmp_path)
    path = data / "colmap" / "sparse" / "0" / "cameras.txt"
    path.write_text("1 FOV 48 32 40 40 24 16 0.9\n")
    with pytest.raises(PoseError, match="FOV.*image_undistorter"):
        open_scene(data, ColmapDataParserConfig())


# --------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("mode", ["val", "test"])
@pytest.mark.parametrize("given", [{"train"}, {"train", "test"}, {"train", "val"}, {"test"}])
def test_lists_of_some_splits(tmp_path: Path, scenes: ModuleType, mode: Any, given: set[str]) -> None:
    parts = {"train": range(6), "val": range(6, 8), "test": range(6, 8)}
    data = scenes.write_nerfstudio(tmp_path / "nerfstudio", views=8)
    meta = json.loads((data / "transforms.json").read_text())
    names = [frame["file_path"] for frame in meta["frames"]]
    for split in given:
        meta[f"{split}_filenames"] = [names[i] for i in parts[split]]
    (data / "transforms.json").write_text(json.dumps(meta))
    dm = open_scene(data, NerfstudioDataParserConfig(), mode)
    assert (len(dm.train_dataset), len(dm.eval_dataset)) == (6, 2)

    data = scenes.write_colmap(tmp_path / "colmap")
    lines = (data / "colmap" / "sparse" / "0" / "images.txt").read_text().splitlines()[::2]
    for split in given:
        name = {"val": "validation"}.get(split, split)
        (data / f"{name}_list.txt").write_text("".join(f"{lines[i].split()[9]}\n" for i in parts[split]))
    dm = open_scene(data, ColmapDataParserConfig(), mode)
    assert (len(dm.train_dataset), len(dm.eval_dataset)) == (6, 2)


def test_missing_lists() -> None:
    lists = {"train": ["a", "b"]}
    assert (
        missing_list(lists, "test", ["a", "b", "c"]) == ["c"] == missing_list(lists, "val", ["a", "b", "c"])
    )
    assert missing_list({"test": ["c"]}, "train", ["a", "b", "c"]) == ["a", "b"]
    assert missing_list({"train": ["a"], "val": ["b"]}, "test", ["a", "b", "c"]) == ["b"]


# ---------------------------------------------------------------------------------------------------- large photos


def test_large_photos_are_resized_as_they_are_loaded(
    tmp_path: Path, scenes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nerfstudio asks on the terminal, and fails without one."""
    monkeypatch.setattr(parsers, "LARGEST_SIDE", 30)
    data = scenes.write_colmap(tmp_path)
    before = sorted(path for path in data.rglob("*"))
    dm = open_scene(data, ColmapDataParserConfig())
    assert dm.train_dataset.scale_factor == 0.5
    _, batch = dm.next_train(0)
    assert batch["image"].shape[:2] == batch["id_map"].shape[:2] and batch["image"].shape[1] <= 24
    assert sorted(path for path in data.rglob("*")) == before  # nothing is written
    # Smaller photos on disk go first, if all are there.
    for photo in (data / "images").rglob("*.jpg"):
        scenes.save(
            data / "images_2" / photo.relative_to(data / "images"),
            np.asarray(Image.open(photo).resize((24, 16))),
        )
    assert open_scene(data, ColmapDataParserConfig()).train_dataset.scale_factor == 1
    next((data / "images_2").rglob("*.jpg")).unlink()
    assert open_scene(data, ColmapDataParserConfig()).train_dataset.scale_factor == 0.5


@pytest.mark.parametrize("name", ["nerfstudio", "colmap"])
def test_a_factor_without_smaller_photos(tmp_path: Path, scenes: ModuleType, name: str) -> None:
    data = getattr(scenes, f"write_{name}")(tmp_path)
    kind = {"nerfstudio": NerfstudioDataParserConfig, "colmap": ColmapDataParserConfig}[name]
    dm = open_scene(data, kind(downscale_factor=2))
    assert dm.next_train(0)[1]["image"].shape[1] <= 24
    assert not (data / "images_2").exists()


def test_an_old_set_without_a_file_of_points(tmp_path: Path, scenes: ModuleType) -> None:
    """nerfstudio asks on the terminal whether to rewrite transforms.json."""
    data = scenes.write_nerfstudio(tmp_path / "scene")
    model = scenes.write_colmap(tmp_path / "colmap") / "colmap"
    shutil.move(model, data / "colmap")
    text = (data / "transforms.json").read_text()
    dm = open_scene(data, NerfstudioDataParserConfig(load_3D_points=True), "test")
    assert dm.points is not None and len(dm.points) == 50
    assert (data / "transforms.json").read_text() == text
