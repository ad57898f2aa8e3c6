from __future__ import annotations

import functools
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from gradiseg_ns import sources
from gradiseg_ns.data import datamanager, dataset
from gradiseg_ns.data.datamanager import GradisegDataManager, GradisegDataManagerConfig
from gradiseg_ns.data.dataset import InstanceDataset
from gradiseg_ns.data.id_maps import IGNORE, IdMapError, scan_object_ids
from gradiseg_ns.data.poses import PoseError
from gradiseg_ns.scene.objects import ObjectTable

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])  # as in conftest.py

PARSERS = {
    "nerfstudio": NerfstudioDataParserConfig,
    "instant_ngp": InstantNGPDataParserConfig,
    "blender": BlenderDataParserConfig,
    "colmap": ColmapDataParserConfig,
}


def manager(
    data: Path, parser: DataParserConfig | None = None, mode: Any = "val", **options: Any
) -> GradisegDataManager:
    config = GradisegDataManagerConfig(
        dataparser=parser or NerfstudioDataParserConfig(), data=data, **options
    )
    return config.setup(device="cpu", test_mode=mode)


def assert_ids_follow_photo(
    batch: dict, clear: float = 0.99, tolerance: float = 0.1, inside: torch.Tensor | None = None
) -> None:
    """Photos are painted by id, so they can be compared with maps wherever they are no blend."""
    ids, photo = batch["id_map"], batch["image"]
    assert ids.dtype == torch.int32 and ids.shape == (*photo.shape[:2], 1)
    distance = (photo[..., None, :] - torch.tensor(COLORS / 255).float()).abs().amax(dim=-1)  # [H, W, 4]
    nearest, painted = distance.min(dim=-1, keepdim=True)
    sure = nearest < tolerance
    if inside is not None:
        sure &= inside
    assert sure.float().mean() > clear
    assert torch.equal(ids[sure].long(), painted[sure])


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(dataset, "warn", said.append)
    monkeypatch.setattr(datamanager, "warn", said.append)
    return said


# ------------------------------------------------------------------------------------------------ dataparsers


@pytest.mark.parametrize("name", PARSERS)
def test_every_dataparser(tmp_path: Path, scenes: ModuleType, name: str, warnings: list[str]) -> None:
    data = getattr(scenes, f"write_{name}")(tmp_path)
    dm = manager(data, PARSERS[name]())
    assert dm.train_dataset.metadata["object_ids"] == [0, 1, 2, 3]
    clear = 0.7 if name == "colmap" else 0.99  # undistortion blends at the borders
    for _ in range(len(dm.train_dataset)):
        camera, batch = dm.next_train(0)
        assert_ids_follow_photo(batch, clear)
        assert (int(camera.height), int(camera.width)) == tuple(batch["id_map"].shape[:2])
    assert_ids_follow_photo(dm.next_eval_image(0)[1], clear)
    assert_ids_follow_photo(dm.next_eval(0)[1], clear)
    fixed = dm.fixed_indices_eval_dataloader
    assert len(fixed) == len(dm.eval_dataset)
    for _, batch in fixed:
        assert_ids_follow_photo(batch, clear)
    if name == "colmap":
        # The camera distorts, so there was something to do, and left/ and right/ share their names.
        assert fixed[0][1]["id_map"].shape[:2] != (scenes.HEIGHT, scenes.WIDTH)
    else:
        assert warnings == []


@pytest.mark.parametrize("image_type", ["uint8", "float32"])
@pytest.mark.parametrize(
    "camera",
    [
        {"k1": 0.2, "k2": -0.1, "p1": 0.01, "p2": -0.01},
        {"camera_model": "OPENCV_FISHEYE", "k1": -0.3, "k2": 0.05, "k3": 0.01, "k4": 0.0},
    ],
)
def test_undistortion_of_camera_models(
    tmp_path: Path, scenes: ModuleType, camera: dict, image_type: Any, warnings: list[str]
) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path, **camera), cache_images_type=image_type)
    for _ in range(len(dm.train_dataset)):
        _, batch = dm.next_train(0)
        if image_type == "uint8":
            batch["image"] = batch["image"] / 255
        assert_ids_follow_photo(batch, clear=0.7)
    assert warnings == []


def test_views_with_cameras_of_their_own(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    content = json.loads((data / "transforms.json").read_text())
    for view, frame in enumerate(content["frames"]):
        frame.update({"k1": -0.05 * view, "k2": 0.01, "fl_x": 40.0 + view})
    del content["fl_x"]
    (data / "transforms.json").write_text(json.dumps(content))
    dm = manager(data)
    for _ in range(len(dm.train_dataset)):
        assert_ids_follow_photo(dm.next_train(0)[1], clear=0.7)


def test_fisheye624(tmp_path: Path, scenes: ModuleType) -> None:
    distortion = [0.01, -0.005, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    camera = {"camera_model": "FISHEYE624", "distortion_params": distortion, "fisheye_crop_radius": 12.0}
    dm = manager(scenes.write_nerfstudio(tmp_path, **camera))
    _, batch = dm.next_train(0)
    inside = batch["mask"]
    assert batch["id_map"].shape == batch["mask"].shape
    assert (batch["id_map"][~inside] == IGNORE).all() and (batch["id_map"][inside] >= 0).all()
    assert_ids_follow_photo(batch, clear=0.3, inside=inside)


def test_photo_masks_stay(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path, k1=-0.2)
    content = json.loads((data / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        mask = np.full((scenes.HEIGHT, scenes.WIDTH), 255, np.uint8)
        mask[:, :10] = 0
        scenes.save(data / frame["mask_path"], mask)
    (data / "transforms.json").write_text(json.dumps(content))
    _, batch = manager(data).next_train(0)
    assert batch["mask"].shape == batch["id_map"].shape and not batch["mask"].all()
    assert_ids_follow_photo(batch, clear=0.7)


# ------------------------------------------------------------------------------------------------ resolutions


@pytest.mark.parametrize("name", ["nerfstudio", "colmap"])
def test_downscaled_photos(tmp_path: Path, scenes: ModuleType, name: str, warnings: list[str]) -> None:
    data = getattr(scenes, f"write_{name}")(tmp_path)
    for path in (data / "images").rglob("*.*g"):
        image = scenes.Image.open(path)
        half = image.resize((image.width // 2, image.height // 2), scenes.Image.Resampling.BOX)
        scenes.save(data / "images_2" / path.relative_to(data / "images"), np.asarray(half))
    dm = manager(data, PARSERS[name](downscale_factor=2))
    _, batch = dm.next_train(0)
    assert batch["image"].shape[1] <= scenes.WIDTH // 2
    assert_ids_follow_photo(batch, clear=0.5)
    assert dm.id_scan is not None and dm.id_scan.shapes[0] == (scenes.HEIGHT, scenes.WIDTH)
    assert not any("pixels" in said for said in warnings)


def test_scaled_by_nerfstudio(tmp_path: Path, scenes: ModuleType, warnings: list[str]) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path), camera_res_scale_factor=0.75)
    _, batch = dm.next_train(0)
    assert batch["id_map"].shape[:2] == (24, 36)
    assert_ids_follow_photo(batch, clear=0.8)
    assert warnings == []


def test_smaller_maps_warn_once(tmp_path: Path, scenes: ModuleType, warnings: list[str]) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    for view, path in enumerate(sorted((data / "object_mask").iterdir())):
        scenes.save(path, scenes.id_pattern(view)[::2, ::2])
    dm = manager(data)
    assert dm.next_train(0)[1]["id_map"].shape == (scenes.HEIGHT, scenes.WIDTH, 1)
    assert [said for said in warnings if "24 x 16" in said and "48 x 32" in said] == warnings[:1]
    assert len(warnings) == 1


# -------------------------------------------------------------------------------------------------------- ids


def test_a_thousand_16_bit_ids(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    ids = (np.arange(scenes.HEIGHT * scenes.WIDTH) % 1000 * 65).reshape(scenes.HEIGHT, -1).astype(np.uint16)
    for path in (data / "object_mask").iterdir():
        scenes.save(path, ids)
    dm = manager(data)
    assert dm.train_dataset.metadata["object_ids"] == (np.arange(1000) * 65).tolist()
    _, batch = dm.next_train(0)
    assert batch["id_map"].dtype == torch.int32
    np.testing.assert_array_equal(batch["id_map"][..., 0].numpy(), ids)


def test_batches_do_not_touch_the_cache(tmp_path: Path, scenes: ModuleType) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path))
    _, batch = dm.next_train(0)
    batch["id_map"].fill_(77)
    assert {data["id_map"].dtype for data in dm.cached_train} == {torch.int16}
    assert all(int(data["id_map"].max()) == 3 for data in dm.cached_train)


@pytest.mark.parametrize("loaded", [True, False])
def test_training_maps_become_classes_in_the_place_of_ids(
    tmp_path: Path, scenes: ModuleType, loaded: bool
) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path), background_points=loaded)
    before = [d["id_map"].clone() for d in dm.cached_train] if loaded else []
    dm.use_classes(ObjectTable.create([0, 1, 2, 3, 9]))
    for index in range(len(dm.train_dataset)):
        _, batch = dm.next_train(index)
        classes = batch["class_map"]
        assert classes.dtype == torch.int64 and classes.shape == batch["image"].shape[:2]
        assert "id_map" not in batch, "memory does not grow"
        assert_ids_follow_photo({"image": batch["image"], "id_map": classes[..., None].int()})
        batch["class_map"].fill_(77)  # the cache keeps its own
    assert {d["class_map"].dtype for d in dm.cached_train} == {torch.int16}
    dm.use_classes(ObjectTable.create([0, 1, 2, 3]))
    dm.use_classes(ObjectTable.create([-5, 0, 1, 2, 3]))
    assert dm.training_ids(0).dtype == torch.int32 and "class_map" in dm.cached_train[0], (
        "asking changes nothing"
    )
    known = [dm.training_ids(i)[..., None] for i in range(len(dm.train_dataset))]
    dm.use_classes(None)
    assert all(torch.equal(a, d["id_map"].int()) for a, d in zip(known, dm.cached_train, strict=True))
    assert all(torch.equal(a.int(), b) for a, b in zip(before, known, strict=False))
    assert "id_map" in dm.next_eval_image(0)[1], "held-out views may have ids without a class"


def test_object_names_reach_the_model(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    (data / "object_names.json").write_text('{"1": "cup"}')
    dm = manager(data)
    assert dm.train_dataset.metadata["object_names"] == {1: "cup"} == dm.eval_dataset.metadata["object_names"]
    (data / "object_names.json").write_text("{")
    with pytest.raises(IdMapError, match=r"object_names\.json"):
        manager(data)


def test_views_without_a_map(tmp_path: Path, scenes: ModuleType, capsys: pytest.CaptureFixture) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    (data / "object_mask" / "frame_00002.png").unlink()
    dm = manager(data)
    assert "8 of 9 training views" in capsys.readouterr().out
    unlabelled = [batch for batch in dm.cached_train if (batch["id_map"] == IGNORE).all()]
    assert len(unlabelled) == 1 and unlabelled[0]["image_idx"] == 2


def test_evaluation_masks(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    for path in (data / "object_mask").iterdir():
        scenes.save(data / "exact" / path.name, np.full((scenes.HEIGHT, scenes.WIDTH), 9, np.uint8))
    dm = manager(data, eval_masks_dir="exact")
    assert (dm.next_eval_image(0)[1]["id_map"] == 9).all()
    assert_ids_follow_photo(dm.next_train(0)[1])
    with pytest.raises(IdMapError, match=r"exactly.*eval-masks-dir"):
        manager(data, eval_masks_dir="exactly")


def test_evaluation_folder_of_a_blender_scene_may_be_flat(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_blender(tmp_path)
    for path in (data / "object_mask" / "val").iterdir():
        shutil.copy(path, scenes.save(data / "exact" / path.name, np.zeros((1, 1), np.uint8)))
    dm = manager(data, BlenderDataParserConfig(), eval_masks_dir="exact")
    assert_ids_follow_photo(dm.next_eval_image(0)[1])
    with pytest.raises(IdMapError, match="unclear"):
        manager(data, BlenderDataParserConfig(), masks_dir="exact")


def test_evaluation_views_without_maps_warn_once(
    tmp_path: Path, scenes: ModuleType, warnings: list[str]
) -> None:
    data = scenes.write_nerfstudio(tmp_path, views=20)
    dm = manager(data)
    for photo in dm.eval_dataset.image_filenames:
        (data / "object_mask" / photo.name).unlink()
    assert len(dm.eval_dataset) == 2
    dm = manager(data)
    for _, batch in dm.fixed_indices_eval_dataloader:
        assert (batch["id_map"] == IGNORE).all()
    assert len(warnings) == 1 and "None of the 2 photos" in warnings[0]


def test_ids_that_disagree_between_views_are_reported(
    tmp_path: Path, scenes: ModuleType, warnings: list[str]
) -> None:
    data = scenes.write_colmap(tmp_path)
    rng = np.random.default_rng(0)
    for path in (data / "object_mask").rglob("*.png"):
        ids = np.kron(rng.integers(0, 30, (8, 12)), np.ones((4, 4))).astype(np.uint8)
        scenes.save(path, ids)
    dm = manager(data, ColmapDataParserConfig())
    dm.next_train(0)
    assert dm.id_agreement is not None and not dm.id_agreement.consistent
    assert len(warnings) == 1 and "do not agree between views" in warnings[0]


# -------------------------------------------------------------------------------------------------- bad input


def _remove(data: Path) -> None:
    shutil.rmtree(data / "object_mask")


def _empty(data: Path) -> None:
    _remove(data)
    (data / "object_mask").mkdir()


def _rename(data: Path) -> None:
    for path in list((data / "object_mask").iterdir()):
        path.rename(path.with_name("IMG_" + path.name))


def _truncate(data: Path) -> None:
    path = data / "object_mask" / "frame_00001.png"
    path.write_bytes(path.read_bytes()[:50])


def _replace(array: np.ndarray) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        from PIL import Image

        Image.fromarray(array).save(data / "object_mask" / "frame_00001.png")

    return spoil


BAD_MAPS = {
    "missing": (_remove, r"object_mask does not exist"),
    "empty": (_empty, r"holds no PNG"),
    "no overlap": (_rename, r"None of the 9 photos .* among the 10"),
    "truncated": (_truncate, r"frame_00001\.png cannot be read"),
    "colour": (
        _replace(np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)),
        r"frame_00001\.png is a colour image",
    ),
    "other size": (_replace(np.zeros((32, 40), np.uint8)), r"frame_00001\.png is 40 x 32 .* is 48 x 32"),
}


@pytest.mark.parametrize("case", BAD_MAPS)
def test_training_refuses_bad_maps(tmp_path: Path, scenes: ModuleType, case: str) -> None:
    spoil, message = BAD_MAPS[case]
    data = scenes.write_nerfstudio(tmp_path)
    spoil(data)
    with pytest.raises(IdMapError, match=message):
        manager(data)


@pytest.mark.parametrize("mode", ["test", "inference"])
@pytest.mark.parametrize("case", BAD_MAPS)
def test_nothing_else_fails_because_of_maps(
    tmp_path: Path, scenes: ModuleType, case: str, mode: str, warnings: list[str]
) -> None:
    spoil, _ = BAD_MAPS[case]
    data = scenes.write_nerfstudio(tmp_path)
    spoil(data)
    (data / "object_names.json").write_text("{")
    dm = manager(data, mode=mode)
    assert dm.train_dataset.metadata["object_ids"] == [] and dm.id_scan is None
    item = dm.train_dataset[1]["id_map"]
    assert (item == IGNORE).all() and item.shape == (scenes.HEIGHT, scenes.WIDTH, 1)
    before = len(warnings)
    dm.train_dataset[1]
    assert before == 2 == len(warnings)  # the names and the maps, each once


def test_maps_without_labels(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    _empty(data)
    for view in range(10):
        np.save(data / "object_mask" / f"frame_{view:05d}.npy", np.full((32, 48), -1))
    with pytest.raises(IdMapError, match="no labels at all"):
        manager(data)


@pytest.mark.parametrize("orientation", ["up", "pca", "none"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "x"])
def test_bad_poses_name_the_photo(
    tmp_path: Path, scenes: ModuleType, value: object, orientation: Any
) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    content = json.loads((data / "transforms.json").read_text())
    content["frames"][3]["transform_matrix"][0][3] = value
    (data / "transforms.json").write_text(json.dumps(content))
    for mode in ("val", "test", "inference"):
        with pytest.raises(PoseError, match=r"transforms\.json: .* of images/frame_00003\.png is not"):
            manager(data, NerfstudioDataParserConfig(orientation_method=orientation), mode)


def test_bad_intrinsics(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path / "a", fl_x=float("nan"))
    with pytest.raises(PoseError, match="fl_x is nan"):
        manager(data)
    data = scenes.write_nerfstudio(tmp_path / "b")
    content = json.loads((data / "transforms.json").read_text())
    content["frames"][2]["k1"] = float("inf")
    (data / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(PoseError, match=r"k1 of frame images/frame_00002\.png is inf"):
        manager(data)


@pytest.mark.parametrize("orientation", ["up", "pca", "none"])
def test_bad_colmap_poses(tmp_path: Path, scenes: ModuleType, orientation: Any) -> None:
    data = scenes.write_colmap(tmp_path, bad_view=3)
    with pytest.raises(PoseError, match=r"images\.txt: the pose of left/0001\.jpg is not finite"):
        manager(data, ColmapDataParserConfig(orientation_method=orientation))


def test_other_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not exist"):
        manager(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------- nerfstudio


@pytest.mark.skipif(torch.cuda.is_available(), reason="pinning works with CUDA")
def test_cpu_cache_without_cuda(tmp_path: Path, scenes: ModuleType) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path), cache_images="cpu")
    assert_ids_follow_photo(dm.next_train(0)[1])
    assert_ids_follow_photo(dm.next_eval_image(0)[1])


def test_dataset_alone(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    outputs = NerfstudioDataParserConfig(data=data).setup().get_dataparser_outputs("train")
    alone = InstanceDataset(outputs, cache_compressed_images=False)
    assert (alone[0]["id_map"] == IGNORE).all()
    alone.set_id_maps(data, "object_mask", strict=True)
    with ThreadPoolExecutor(8) as executor:
        items = list(executor.map(lambda i: alone.get_data(i % len(alone), "uint8"), range(40)))
    for i, item in enumerate(items):
        view = int(alone.image_filenames[i % len(alone)].stem[-5:])
        np.testing.assert_array_equal(item["id_map"][..., 0].numpy(), scenes.id_pattern(view))
    assert torch.equal(pickle.loads(pickle.dumps(alone))[2]["id_map"], alone[2]["id_map"])


def test_masks_on_gpu_twice(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    for _ in range(2):  # nerfstudio removes the key from a list that its classes share
        assert "mask" not in manager(data, masks_on_gpu=True).exclude_batch_keys_from_device
    assert "mask" in InstanceDataset.exclude_batch_keys_from_device


def test_relative_paths_and_json_as_data(
    tmp_path: Path, scenes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.write_nerfstudio(tmp_path / "scene")
    monkeypatch.chdir(tmp_path)
    assert manager(Path("scene")).train_dataset.metadata["object_ids"] == [0, 1, 2, 3]
    dm = manager(Path("scene/transforms.json"))
    assert all(path is not None for path in dm.eval_dataset.id_map_filenames)
    elsewhere = tmp_path / "maps"
    shutil.move(tmp_path / "scene" / "object_mask", elsewhere)
    assert_ids_follow_photo(manager(Path("scene"), masks_dir=str(elsewhere)).next_train(0)[1])


def test_the_transforms_file_goes_first(tmp_path: Path, scenes: ModuleType) -> None:
    data = scenes.write_nerfstudio(tmp_path)
    content = json.loads((data / "transforms.json").read_text())
    for frame in content["frames"]:
        name = Path(frame["file_path"]).name
        scenes.save(data / "other" / name, np.full((scenes.HEIGHT, scenes.WIDTH), 7, np.uint8))
        frame["object_mask_path"] = f"other/{name}"
    (data / "transforms.json").write_text(json.dumps(content))
    assert manager(data).train_dataset.metadata["object_ids"] == [7]
    shutil.move(data / "object_mask", data / "exact")  # a folder is not needed then
    dm = manager(data, eval_masks_dir="exact")
    assert dm.train_dataset.metadata["object_ids"] == [7]
    assert_ids_follow_photo(dm.next_eval_image(0)[1])


def test_no_evaluation_views(tmp_path: Path, scenes: ModuleType) -> None:
    dm = manager(scenes.write_nerfstudio(tmp_path, views=5))
    assert len(dm.eval_dataset) == 0 and dm.eval_dataset.id_map_filenames == []
    assert dm.fixed_indices_eval_dataloader == []


def number_pixels(data: Path) -> Path:
    """Every pixel of every map gets an id of its own."""
    for view, path in enumerate(sorted((data / "object_mask").glob("*.png"))):
        ids = np.arange(32 * 48, dtype=np.int32).reshape(32, 48) + view * 32 * 48
        np.save(path.with_suffix(".npy"), ids)
        path.unlink()
    return data


def test_every_pixel_its_own_id(tmp_path: Path, scenes: ModuleType, warnings: list[str]) -> None:
    data = number_pixels(scenes.write_nerfstudio(tmp_path / "scene", 10))
    with pytest.raises(
        IdMapError,
        match=r"13,824 object ids .* take.* GB .*At most 3,000.*--pipeline.datamanager.max-objects",
    ):
        manager(data)
    dm = manager(data, max_objects=13_824)
    assert len(dm.train_dataset.metadata["object_ids"]) == 13_824
    assert any("13,824 object ids" in told for told in warnings)
    assert manager(data, mode="test").id_scan is None, "only training counts"
    with pytest.raises(IdMapError, match="At most 3,000"):  # what lift and associate open
        sources.load_capture(data)
    assert len(sources.load_capture(data, max_objects=0).manager.id_scan.ids) == 13_824  # type: ignore[union-attr]


def test_more_values_than_can_be_counted(
    tmp_path: Path, scenes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = number_pixels(scenes.write_nerfstudio(tmp_path / "scene", 10))
    scan = functools.partial(scan_object_ids, most=1000)
    monkeypatch.setattr(datamanager, "scan_object_ids", scan)
    with pytest.raises(IdMapError, match="1,536 different values"):
        manager(data, max_objects=0)
    (item,) = manager(data, mode="test").cached_eval
    assert bool((item["id_map"] == IGNORE).all()), "evaluation goes on without them"
