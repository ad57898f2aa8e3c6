"""Affordances: exemplars are read as painted, patches get their neighbours' class, Gaussians get the views' classes."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gradiseg_ns import rendering
from gradiseg_ns.votes import affordance as af
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority
from tests.scenes import trace, write_scene

WIDTH, HEIGHT = 40, 30


# -------------------------------------------------------------------------------------------------- exemplars


def write_photo(folder: Path, name: str = "cup.png", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size, (200, 100, 50)).save(folder / name)
    return folder / name


def shape(label: str, points: Any, kind: str | None = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def write_shapes(path: Path, shapes: list[dict[str, Any]], **other: Any) -> Path:
    content = {"version": "5.0", "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None, **other}
    path.write_text(json.dumps({**content, "shapes": shapes}))
    return path


def write_map(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


def test_shapes_paint_the_pixels_whose_centres_they_hold(tmp_path: Path) -> None:
    write_photo(tmp_path)
    triangle = [[2.0, 3.0], [30.2, 5.1], [11.7, 27.9]]
    shapes = [
        shape("grasp", triangle, None),  # old files have no shape_type
        shape("contain", [[20, 10], [26, 18]], "rectangle"),
        shape("cut", [[30, 20], [34, 23]], "circle"),
        shape("_background_", [[22, 12], [24, 14]], "rectangle"),
    ]
    write_shapes(tmp_path / "cup.json", shapes)
    ((exemplar,), names) = af.read_exemplars(tmp_path)
    assert names == list(af.AFFORDANCES)
    assert exemplar.name == "cup"
    assert exemplar.image.shape == (HEIGHT, WIDTH, 3) and exemplar.image.dtype == np.uint8
    assert exemplar.labels.dtype == np.int32
    expected = np.zeros((HEIGHT, WIDTH), int)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y = column + 0.5, row + 0.5
            sides = [
                (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
                for a, b in zip(triangle, [*triangle[1:], triangle[0]], strict=True)
            ]
            if min(sides) > 0 or max(sides) < 0:
                expected[row, column] = 1
            if 20 <= x <= 26 and 10 <= y <= 18:
                expected[row, column] = 4
            if math.hypot(x - 30, y - 20) <= 5:
                expected[row, column] = 2
            if 22 <= x <= 24 and 12 <= y <= 14:
                expected[row, column] = 0
    np.testing.assert_array_equal(exemplar.labels, expected)


def test_a_polygon_may_reach_beyond_the_photo_and_cross_itself(tmp_path: Path) -> None:
    write_photo(tmp_path)
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[-5, -5], [50, -5], [50, 40], [-5, 40]])])
    assert (af.read_exemplars(tmp_path)[0][0].labels == 1).all()
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[0, 0], [40, 30], [40, 0], [0, 30]])])
    labels = af.read_exemplars(tmp_path)[0][0].labels
    assert labels[15, 2] == 1 and labels[15, 37] == 1 and labels[2, 20] == 0 and labels[27, 20] == 0


def test_other_names_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    write_photo(tmp_path)
    square = [[0, 0], [5, 0], [5, 5], [0, 5]]
    write_shapes(
        tmp_path / "cup.json", [shape("spout", square), shape("lid", square), shape("grasp", square)]
    )
    exemplars, names = af.read_exemplars(tmp_path)
    assert names == ["background", "grasp", "lid", "spout"]
    assert exemplars[0].labels[0, 0] == 1
    (tmp_path / "classes.json").write_text('{"2": "lid", "1": "grasp", "4": "spout"}')
    assert af.read_exemplars(tmp_path)[1] == ["background", "grasp", "lid", "class 3", "spout"]


def test_the_photo_is_found_by_its_path_or_inside_the_file(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a", "photo 1.png")
    square = [shape("grasp", [[0, 0], [5, 5]], "rectangle")]
    write_shapes(tmp_path / "a" / "other.json", square, imagePath="photo 1.png")
    assert [exemplar.name for exemplar in af.read_exemplars(tmp_path / "a")[0]] == ["photo 1"]
    data = base64.b64encode(photo.read_bytes()).decode()
    (tmp_path / "b").mkdir()
    # The path leads out of the folder, where there is a photo: it is not opened, the one inside is taken.
    write_shapes(tmp_path / "b" / "cup.json", square, imagePath="../a/photo 1.png", imageData=data)
    (exemplar,), _ = af.read_exemplars(tmp_path / "b")
    assert exemplar.name == "cup" and exemplar.image[0, 0].tolist() == [200, 100, 50]
    write_shapes(tmp_path / "b" / "cup.json", square, imagePath="../a/photo 1.png")
    with pytest.raises(af.ExemplarError, match="belongs to no photo"):
        af.read_exemplars(tmp_path / "b")


def test_id_maps_lie_beside_the_photo_or_in_a_folder(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), int)
    labels[:10] = 7
    write_photo(tmp_path, "a.png")
    write_photo(tmp_path, "b.jpg")
    write_map(tmp_path / "a_labels.png", labels)
    write_map(tmp_path / "labels" / "b.png", labels)
    exemplars, names = af.read_exemplars(tmp_path)
    assert [exemplar.name for exemplar in exemplars] == ["a", "b"] and names[7] == "wrap-grasp"
    for exemplar in exemplars:
        np.testing.assert_array_equal(exemplar.labels, labels)


def test_a_turned_photo_is_seen_as_its_painter_saw_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "cup.jpg", exif=exif)
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[0, 0], [5, 5]], "rectangle")])
    assert af.read_exemplars(tmp_path)[0][0].image.shape == (HEIGHT, WIDTH, 3)


SQUARE = [[0, 0], [5, 0], [5, 5]]


def _no_labels(folder: Path) -> None:
    write_photo(folder)


def _kind(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("grasp", [[0, 0], [5, 5]], "line")])


def _points(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("grasp", [[0, 0], ["x", 5], [1, 1]])])


def _few_points(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("grasp", SQUARE[:2])])


def _no_label(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [{"points": SQUARE}])


def _size_of_shapes(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("grasp", SQUARE)], imageHeight=HEIGHT + 1)


def _size_of_map(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH - 1)))


def _background(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.zeros((HEIGHT, WIDTH)))


def _unknown_id(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.full((HEIGHT, WIDTH), 8))


def _unknown_name(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("graps", SQUARE)])
    (folder / "classes.json").write_text('{"1": "grasp"}')


def _one_class(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.zeros((HEIGHT, WIDTH)))
    (folder / "classes.json").write_text('{"0": "background"}')


def _many_classes(folder: Path) -> None:
    write_photo(folder)
    names = [f"part {i}" for i in range(af.MAX_CLASSES)]
    write_shapes(folder / "cup.json", [shape(name, SQUARE) for name in names])


def _large_id(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))
    (folder / "classes.json").write_text('{"300": "grasp"}')


def _same_name(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))
    (folder / "classes.json").write_text('{"1": "grasp", "2": "grasp"}')


def _names_json(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))
    (folder / "classes.json").write_text("[1]")


def _two_labels(folder: Path) -> None:
    write_photo(folder)
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))
    write_shapes(folder / "cup.json", [shape("grasp", SQUARE)])


def _two_shapes(folder: Path) -> None:
    write_photo(folder)
    write_shapes(folder / "cup.json", [shape("grasp", SQUARE)])
    write_shapes(folder / "again.json", [shape("grasp", SQUARE)], imagePath="cup.png")


def _two_photos(folder: Path) -> None:
    write_photo(folder)
    write_photo(folder, "cup.jpg")
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))


def _broken_photo(folder: Path) -> None:
    (folder / "cup.jpg").write_bytes(b"no photo")
    write_map(folder / "cup_labels.png", np.ones((HEIGHT, WIDTH)))


def _broken_json(folder: Path) -> None:
    write_photo(folder)
    (folder / "cup.json").write_text("{")


def _other_json(folder: Path) -> None:
    write_photo(folder)
    (folder / "cup.json").write_text("{}")


def _broken_data(folder: Path) -> None:
    write_shapes(folder / "cup.json", [shape("grasp", SQUARE)], imageData="?")


def _colour_map(folder: Path) -> None:
    write_photo(folder)
    write_photo(folder, "cup_labels.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is empty"),
        (_no_labels, "has no labels"),
        (_kind, "is a line"),
        (_points, "needs 3 points"),
        (_few_points, "needs 3 points"),
        (_no_label, "an object with a label"),
        (_size_of_shapes, "is for a photo of 40 x 31"),
        (_size_of_map, "is for a photo of 39 x 30"),
        (_background, "nothing but background"),
        (_unknown_id, "has the id 8"),
        (_unknown_name, "called graps"),
        (_one_class, "1 classes"),
        (_many_classes, "257 classes"),
        (_large_id, "ids from 0 to 255"),
        (_same_name, "same name"),
        (_names_json, "classes.json"),
        (_two_labels, "more than one file"),
        (_two_shapes, "both belong"),
        (_two_photos, "cup"),
        (_broken_photo, "cannot be read"),
        (_broken_json, "JSON"),
        (_other_json, "labelme"),
        (_broken_data, "imageData"),
        (_colour_map, "has the id"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_exemplars_that_cannot_be_used_are_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(af.ExemplarError, match=message):
        af.read_exemplars(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(af.ExemplarError, match="no such folder"):
        af.read_exemplars(tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of random weights, as a folder that transformers loads."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70
    )
    network = transformers.Dinov2Model(config)
    torch.nn.init.zeros_(network.embeddings.position_embeddings)
    network.save_pretrained(folder)
    transformers.BitImageProcessor(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25]).save_pretrained(
        folder
    )
    return folder


def half_and_half(height: int = 60, width: int = 80) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = (255, 120, 30)
    return image


def test_tokens_are_unit_vectors_of_a_grid_that_keeps_the_aspect(tiny_model: Path) -> None:
    model = af.TokenModel.load(tiny_model, resolution=112, offline=True)
    assert model.mean == (0.5, 0.5, 0.5) and model.patch == 14
    for size, grid in {(60, 80): (6, 8), (80, 60): (8, 6), (10, 400): (1, 8)}.items():
        tokens = model.tokens(half_and_half(*size))
        assert tokens.shape == (*grid, 32) == (*model.grid(*size), 32)
        torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(grid))


def test_tokens_are_those_of_the_wanted_block_without_the_image_s_own(tiny_model: Path) -> None:
    image = half_and_half()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (84, 112), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    for layer in (None, 0, 1, 2, -1):
        model = af.TokenModel.load(tiny_model, layer=layer, resolution=112, offline=True)
        with torch.no_grad():
            output = model.network(pixel_values=(pixels - 0.5) / 0.25, output_hidden_states=True)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        expected = F.normalize(states[0, 1:], dim=-1).view(6, 8, 32)
        torch.testing.assert_close(model.tokens(image), expected)


def test_tokens_lie_where_their_patches_do(tiny_model: Path) -> None:
    # Without positions, tokens before the first block know nothing but their patch.
    tokens = af.TokenModel.load(tiny_model, layer=0, resolution=112, offline=True).tokens(half_and_half())
    left, right = tokens[:, :3].reshape(-1, 32), tokens[:, 5:].reshape(-1, 32)
    assert (left - left[0]).abs().max() < 1e-5 and (right - right[0]).abs().max() < 1e-5
    assert left[0] @ right[0] < 0.99


def test_registers_are_dropped_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Dinov2WithRegistersModel"):
        pytest.skip("this transformers has no registers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=14,
        image_size=70,
        num_register_tokens=4,
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor().save_pretrained(tmp_path)
    model = af.TokenModel.load(tmp_path, resolution=112, offline=True)
    assert model.tokens(half_and_half()).shape == (6, 8, 32)


def test_a_model_that_asks_for_interpolated_positions_gets_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=64
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    model = af.TokenModel.load(tmp_path, resolution=80, offline=True)
    assert model.tokens(half_and_half()).shape == (8, 10, 32)  # 7.5 rows, rounded


def test_what_is_wrong_with_a_model_is_said(tiny_model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(af.TokenModelError, match=r"--model .*nothing cannot be loaded[\s\S]*--offline"):
        af.TokenModel.load(tmp_path / "nothing", offline=True)
    with pytest.raises(af.TokenModelError, match="--layer 3"):
        af.TokenModel.load(tiny_model, layer=3, offline=True)
    with pytest.raises(af.TokenModelError, match="--resolution 10"):
        af.TokenModel.load(tiny_model, resolution=10, offline=True)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(af.TokenModelError, match="without a patch size"):
        af.TokenModel.load(tmp_path, offline=True)


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(af.TokenModelError, match=r"pip install gradiseg-ns\[masks\]"):
        af.TokenModel.load("facebook/dinov2-small")


# ------------------------------------------------------------------------------------------------------- bank


def nearest_by_loop(bank: af.ExemplarBank, token: torch.Tensor, k: int) -> tuple[int, list[float]]:
    """Class and vote shares of one token, step by step."""
    likeness = [float(token @ other) for other in bank.tokens]
    order = sorted(range(len(likeness)), key=lambda i: -likeness[i])[:k]
    voted = [int(bank.shares[i].argmax()) for i in order]
    most = max(voted.count(label) for label in voted)
    winner = next(label for label in voted if voted.count(label) == most)
    return winner, [voted.count(label) / len(order) for label in range(bank.shares.shape[1])]


@pytest.mark.parametrize("k", [1, 2, 5, 8, 100])
def test_patches_get_the_class_of_most_of_their_neighbours(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(af, "_CHUNK", 100)  # more than one piece
    generator = torch.Generator().manual_seed(k)
    tokens = F.normalize(torch.randn(40, 6, generator=generator), dim=-1)
    shares = torch.softmax(3 * torch.randn(40, 4, generator=generator), dim=-1)
    bank = af.ExemplarBank(tokens, shares)
    asked = F.normalize(torch.randn(5, 7, 6, generator=generator), dim=-1)
    labels, votes = bank.classify(asked, k)
    assert labels.shape == (5, 7) and votes.shape == (5, 7, 4)
    for row in range(5):
        for column in range(7):
            label, share = nearest_by_loop(bank, asked[row, column], k)
            assert int(labels[row, column]) == label
            torch.testing.assert_close(votes[row, column], torch.tensor(share))


def test_of_equally_many_votes_the_nearest_wins() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    tokens = torch.stack([angles.cos(), angles.sin()], dim=-1)
    asked = torch.tensor([[[1.0, 0.0]]])
    for classes, expected in (([2, 1, 1, 2], 2), ([1, 2, 2, 1], 1), ([0, 2, 2, 1], 2), ([3, 1, 0, 2], 3)):
        bank = af.ExemplarBank(tokens, F.one_hot(torch.tensor(classes), 4).float())
        assert int(bank.classify(asked, k=4)[0]) == expected


def test_k_has_to_be_positive() -> None:
    with pytest.raises(ValueError, match="--k 0"):
        af.ExemplarBank(torch.ones(1, 1), torch.ones(1, 2)).classify(torch.ones(1, 1, 1), k=0)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (5, 7), (12, 9), (40, 50)])
def test_shares_of_a_patch_are_areas(rows: int, columns: int) -> None:
    labels = torch.randint(0, 3, (12, 18), generator=torch.Generator().manual_seed(0))
    shares = af.patch_shares(labels, rows, columns, 3)
    fine = labels.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    cells = F.one_hot(fine, 3).double().view(rows, 12, columns, 18, 3).mean(dim=(1, 3))
    torch.testing.assert_close(shares.double(), cells, atol=1e-6, rtol=0)


class ColorTokens:
    """The mean colour of each 2 x 2 patch: all that a model has to know of the balls."""

    def tokens(self, image: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image).float() / 255
        mean = af.area_mean(pixels, image.shape[0] // 2, image.shape[1] // 2)
        return F.normalize(mean - mean.mean(dim=-1, keepdim=True) + 0.01, dim=-1)


def test_a_label_that_is_no_class_is_refused() -> None:
    exemplar = af.Exemplar("cup", np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 2, np.int32))
    with pytest.raises(af.ExemplarError, match="cup: expected labels from 0 to 1"):
        af.ExemplarBank.build([exemplar], ColorTokens(), 2)


@pytest.mark.parametrize("smooth", [True, False])
def test_maps_have_the_size_of_the_photo(smooth: bool) -> None:
    image = half_and_half(21, 30)
    labels = np.zeros((21, 30), np.int32)
    labels[:, 15:] = 1
    bank = af.ExemplarBank.build([af.Exemplar("half", image, labels)], ColorTokens(), 2)
    done: list[int] = []
    (found,) = af.affordance_maps(
        [image], ColorTokens(), bank, 1, smooth=smooth, progress=lambda: done.append(1)
    )
    assert found.dtype == torch.int32 and found.shape == (21, 30) and done == [1]
    assert (found[:, :11] == 0).all() and (found[:, 19:] == 1).all()


# -------------------------------------------------------------------------------------------------- the whole


def test_the_whole_road_from_painted_photos_to_gaussians(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", views=10)
    meta = json.loads((scene / "transforms.json").read_text())
    intrinsics = torch.tensor(
        [[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]], dtype=torch.float32
    )
    views, truth, points, ids = [], {}, [], []
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"])
        viewmat = torch.from_numpy(np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))).float()
        name = Path(frame["file_path"]).stem
        camera = rendering.Camera(viewmat, intrinsics, meta["w"], meta["h"])
        views.append((name, camera, np.asarray(Image.open(scene / frame["file_path"]))))
        truth[name] = np.asarray(Image.open(scene / "object_mask" / f"{name}.png")).astype(np.int32)
        # A Gaussian wherever a ray of a coarse grid meets something, with the id of what it meets.
        u, v = np.meshgrid(np.arange(1, meta["w"], 2), np.arange(1, meta["h"], 2))
        rays = np.stack(
            [(u - meta["cx"]) / meta["fl_x"], -(v - meta["cy"]) / meta["fl_y"], -np.ones(u.shape)], axis=-1
        ).reshape(-1, 3)
        rays = rays @ pose[:3, :3].T
        _, met, where = trace(pose[:3, 3], rays / np.linalg.norm(rays, axis=1, keepdims=True))
        near = np.linalg.norm(where, axis=1) < 3
        points.append(where[near])
        ids.append(met[near])
    means = torch.from_numpy(
        np.concatenate([*points, [[0.0, 0.0, -50.0]]])
    ).float()  # the last one no view sees
    expected = torch.tensor([{0: 0, 1: 4, 7: 1}[i] for i in np.concatenate(ids)])
    count = len(means)
    gaussians = rendering.Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4).contiguous(), torch.full((count, 3), 0.02),
        torch.full((count,), 0.8),
    )  # fmt: skip

    folder = tmp_path / "exemplars"
    for name, _, image in (views[0], views[5]):
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
        write_map(folder / f"{name}_labels.png", np.choose(np.minimum(truth[name], 2), [0, 4, 1]))
    exemplars, names = af.read_exemplars(folder)
    done: list[str] = []
    others = [view for view in views if view[0] not in {exemplar.name for exemplar in exemplars}]
    result = af.transfer(others, gaussians, exemplars, ColorTokens(), names, progress=done.append)

    assert done == [exemplar.name for exemplar in exemplars] + [view[0] for view in others]
    assert result.class_names == af.AFFORDANCES and result.colors.shape == (8, 3)
    assert result.labels[-1] == -1 and (result.shares[-1] == 0).all()
    seen = result.labels[:-1] >= 0
    assert seen.float().mean() > 0.9
    torch.testing.assert_close(result.shares[:-1][seen].sum(dim=1), torch.ones(int(seen.sum())))
    # Crude Gaussians lie across the balls' outlines: exact maps would give 97.5 % of them their label.
    assert (result.labels[:-1] == expected)[seen].float().mean() > 0.95
    parts = {name: torch.from_numpy(np.choose(np.minimum(ids, 2), [0, 4, 1])) for name, ids in truth.items()}
    exact = majority(accumulate(gaussians, [(view[1], parts[view[0]]) for view in others], 8)).classes
    assert (result.labels == exact).float().mean() > 0.975
    assert all(maps.dtype == torch.int32 for maps in result.maps_2d.values())
    projections = [rendering.project(gaussians, camera) for _, camera, _ in others]
    flat, right = (torch.stack([maps[name] for name, _, _ in others]) for maps in (result.maps_2d, parts))
    again, best = (
        torch.stack([af.render_labels(projection, labels) for projection in projections])
        for labels in (result.labels, exact)
    )
    assert af.evaluate(flat, right, 8).mean_iou > 0.9
    assert af.evaluate(again, best, 8).mean_iou > 0.9


def test_transfer_without_exemplars_is_refused() -> None:
    gaussians = rendering.Gaussians(torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1))
    with pytest.raises(af.ExemplarError, match="no exemplars"):
        af.transfer([], gaussians, [], ColorTokens())


# ----------------------------------------------------------------------------------------------------- scores


def test_scores_are_counted_per_class() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(-1, 4, (2, 20, 30), generator=generator)
    found = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.7, truth, torch.randint(0, 4, truth.shape)
    ).clamp(min=0)
    score = af.evaluate(found, truth, 4)
    known = truth >= 0
    for k in range(4):
        both = ((found == k) & (truth == k)).sum()
        either = (((found == k) | (truth == k)) & known).sum()
        assert score.recall[k] == pytest.approx(float(both / (truth == k).sum()))
        assert score.iou[k] == pytest.approx(float(both / either))
    assert score.mean_recall == pytest.approx(np.mean(score.recall[1:]))
    assert score.mean_iou == pytest.approx(np.mean(score.iou[1:]))


def test_what_the_truth_does_not_show_is_not_judged() -> None:
    truth = torch.tensor([0, 0, 1, 1])
    score = af.evaluate(torch.tensor([0, 2, 1, 1]), truth, 4)
    assert score.recall[:2] == (0.5, 1.0) and score.iou[:2] == (0.5, 1.0)
    assert all(math.isnan(score.recall[k]) and math.isnan(score.iou[k]) for k in (2, 3))
    assert (score.mean_recall, score.mean_iou) == (1.0, 1.0)
    assert math.isnan(af.evaluate(torch.zeros(3).long(), torch.zeros(3).long(), 2).mean_iou)


def test_scores_of_what_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions for"):
        af.evaluate(torch.zeros(3).long(), torch.zeros(4).long(), 2)
    with pytest.raises(ValueError, match="classes from 0 to 1"):
        af.evaluate(torch.full((3,), 2), torch.zeros(3).long(), 2)
