"""Exemplars are read as they were painted, and what cannot be used is named."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradiseg_ns.affordance import AFFORDANCES, MAX_CLASSES
from gradiseg_ns.affordance.exemplars import Exemplar, ExemplarError, read_exemplars

WIDTH, HEIGHT = 40, 30


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
    ((exemplar,), names) = read_exemplars(tmp_path)
    assert names == list(AFFORDANCES)
    assert exemplar.name == "cup"
    assert exemplar.image.shape == (HEIGHT, WIDTH, 3) and exemplar.image.dtype == np.uint8
    assert exemplar.classes.dtype == np.int32
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
    np.testing.assert_array_equal(exemplar.classes, expected)


def test_a_polygon_may_reach_beyond_the_photo_and_cross_itself(tmp_path: Path) -> None:
    write_photo(tmp_path)
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[-5, -5], [50, -5], [50, 40], [-5, 40]])])
    assert (read_exemplars(tmp_path)[0][0].classes == 1).all()
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[0, 0], [40, 30], [40, 0], [0, 30]])])
    labels = read_exemplars(tmp_path)[0][0].classes
    assert labels[15, 2] == 1 and labels[15, 37] == 1 and labels[2, 20] == 0 and labels[27, 20] == 0


def test_other_names_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    write_photo(tmp_path)
    square = [[0, 0], [5, 0], [5, 5], [0, 5]]
    write_shapes(
        tmp_path / "cup.json", [shape("spout", square), shape("lid", square), shape("grasp", square)]
    )
    exemplars, names = read_exemplars(tmp_path)
    assert names == ["background", "grasp", "lid", "spout"]
    assert exemplars[0].classes[0, 0] == 1
    (tmp_path / "classes.json").write_text('{"2": "lid", "1": "grasp", "4": "spout"}')
    assert read_exemplars(tmp_path)[1] == ["background", "grasp", "lid", "class 3", "spout"]


def test_the_photo_is_found_by_its_path_or_inside_the_file(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a", "photo 1.png")
    square = [shape("grasp", [[0, 0], [5, 5]], "rectangle")]
    write_shapes(tmp_path / "a" / "other.json", square, imagePath="photo 1.png")
    assert [exemplar.name for exemplar in read_exemplars(tmp_path / "a")[0]] == ["photo 1"]
    data = base64.b64encode(photo.read_bytes()).decode()
    (tmp_path / "b").mkdir()
    # The path leads out of the folder, where there is a photo: it is not opened, the one inside is taken.
    write_shapes(tmp_path / "b" / "cup.json", square, imagePath="../a/photo 1.png", imageData=data)
    (exemplar,), _ = read_exemplars(tmp_path / "b")
    assert exemplar.name == "cup" and exemplar.image[0, 0].tolist() == [200, 100, 50]
    write_shapes(tmp_path / "b" / "cup.json", square, imagePath="../a/photo 1.png")
    with pytest.raises(ExemplarError, match="belongs to no photo"):
        read_exemplars(tmp_path / "b")


def test_id_maps_lie_beside_the_photo_or_in_a_folder(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), int)
    labels[:10] = 7
    write_photo(tmp_path, "a.png")
    write_photo(tmp_path, "b.jpg")
    write_map(tmp_path / "a_labels.png", labels)
    write_map(tmp_path / "labels" / "b.png", labels)
    exemplars, names = read_exemplars(tmp_path)
    assert [exemplar.name for exemplar in exemplars] == ["a", "b"] and names[7] == "wrap-grasp"
    for exemplar in exemplars:
        np.testing.assert_array_equal(exemplar.classes, labels)


def test_a_turned_photo_is_seen_as_its_painter_saw_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "cup.jpg", exif=exif)
    write_shapes(tmp_path / "cup.json", [shape("grasp", [[0, 0], [5, 5]], "rectangle")])
    assert read_exemplars(tmp_path)[0][0].image.shape == (HEIGHT, WIDTH, 3)


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
    names = [f"part {i}" for i in range(MAX_CLASSES)]
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
    with pytest.raises(ExemplarError, match=message):
        read_exemplars(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExemplarError, match="no such folder"):
        read_exemplars(tmp_path / "nowhere")


def test_a_mirrored_exemplar_has_its_labels_mirrored() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    labels = np.arange(20, dtype=np.int32).reshape(4, 5)
    again = Exemplar("cup", image, labels).mirrored()
    assert again.name == "cup, mirrored"
    for x in range(5):
        np.testing.assert_array_equal(again.image[:, x], image[:, 4 - x])
        np.testing.assert_array_equal(again.classes[:, x], labels[:, 4 - x])
