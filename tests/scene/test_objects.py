"""Colours that stay what they are and can be told apart; tables that survive a checkpoint."""

from __future__ import annotations

import colorsys
import importlib.util
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene import objects
from gradiseg_ns.scene.objects import ObjectNameError, ObjectTable, colorize, copy_name, object_colors
from tests.devices import here

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(scope="module")
def palette() -> ModuleType:
    spec = importlib.util.spec_from_file_location("palette", Path(__file__).with_name("palette.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_bytes(colors: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in (colors * 255).round().int().tolist()]


def test_known_colors() -> None:
    assert as_bytes(object_colors([IGNORE, 0, 1, 2, 24])) == [
        (0, 0, 0),
        (0x40, 0x40, 0x40),
        (0x55, 0x00, 0xFF),
        (0x00, 0xFF, 0x00),
        (0xAA, 0xDD, 0x44),
    ]
    assert object_colors([]).shape == (0, 3)


def test_a_color_depends_on_the_id_alone() -> None:
    many = object_colors(range(2000))
    assert torch.equal(object_colors([1999, 7, 400, 7]), many[[1999, 7, 400, 7]])
    code = "from gradiseg_ns.scene.objects import object_colors as c; print(c([5, 77, 999, 60000]).tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(other.stdout) == object_colors([5, 77, 999, 60000]).tolist()


def test_hues_beyond_the_list_are_hsv() -> None:
    for id in (25, 500, 1234, 65535):
        saturation, value = objects._SHADES[id % 4]
        expected = colorsys.hsv_to_rgb(id * (5**0.5 - 1) / 2 % 1, saturation, value)
        np.testing.assert_allclose(object_colors([id])[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("vision", "six", "twenty"), [("normal", 60, 28), ("deutan", 30, 15), ("protan", 30, 14)]
)
def test_the_first_colors_can_be_told_apart(
    palette: ModuleType, vision: str, six: float, twenty: float
) -> None:
    colors = object_colors(range(1, 21)).double().numpy()
    assert palette.smallest_difference(colors[:6], vision) > six
    assert palette.smallest_difference(colors, vision) > twenty
    reserved = object_colors([IGNORE, 0]).double().numpy()
    assert palette.differences(colors, reserved, vision).min() > 10


def test_difference_in_lab(palette: ModuleType) -> None:
    """Reference values of CIELAB (D65): white is (100, 0, 0), sRGB red is (53.24, 80.09, 67.20)."""
    lab = palette.to_lab(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(lab, [[100, 0, 0], [53.24, 80.09, 67.20]], atol=0.05)
    # Simulated colour blindness must leave greys as they are
    grey = np.array([[0.5, 0.5, 0.5]])
    for vision in palette.VISIONS:
        np.testing.assert_allclose(palette.to_lab(grey, vision), palette.to_lab(grey), atol=0.01)


def test_a_thousand_ids_have_a_thousand_colors() -> None:
    """Different even after the rounding of a PNG, and never black."""
    colors = as_bytes(object_colors(range(1000)))
    assert len(set(colors)) == 1000
    assert (0, 0, 0) not in colors


def test_colorize_looks_colors_up() -> None:
    id_map = torch.tensor([[IGNORE, 0, 3], [900, 65535, 3]], dtype=torch.int32)
    painted = colorize(id_map)
    assert painted.shape == (2, 3, 3) and painted.dtype == torch.float32
    assert torch.equal(painted.reshape(-1, 3), object_colors(id_map.flatten().tolist()).to(here()))
    assert painted[0, 0].tolist() == [0, 0, 0]
    assert torch.equal(colorize(torch.tensor([[3]], dtype=torch.uint8))[0, 0], painted[0, 2])
    assert colorize(torch.zeros((0, 4), dtype=torch.int64)).shape == (0, 4, 3)


def test_colorize_takes_ids_beyond_sixteen_bits() -> None:
    id_map = torch.tensor([[IGNORE, 70000, 12]])
    assert torch.equal(colorize(id_map)[0], object_colors([IGNORE, 70000, 12]).to(here()))


def test_colorize_is_quick() -> None:
    id_map = torch.randint(0, 1000, (384, 512))
    colorize(id_map)
    start = time.perf_counter()
    colorize(id_map)
    assert time.perf_counter() - start < 0.25  # a few ms on an idle machine


def test_table_from_ids() -> None:
    table = ObjectTable.create([7, 3, 300, 7, IGNORE], {3: "cup", 4: "nobody"})
    assert table.ids == (3, 7, 300) and len(table) == 3
    assert table.names == ("cup", "object 7", "object 300")
    assert torch.equal(table.colors, object_colors([3, 7, 300]))


@pytest.mark.parametrize("largest", [300, 70_000])  # looked up in a table, or searched
def test_classes_and_ids(largest: int) -> None:
    table = ObjectTable.create([0, 3, largest])
    ids = torch.tensor([[0, largest], [3, 5], [IGNORE, 99_999]], dtype=torch.int32)
    classes = table.classes_of(ids)
    assert classes.tolist() == [[0, 2], [1, IGNORE], [IGNORE, IGNORE]]
    assert table.ids_of(classes).tolist() == [[0, largest], [3, IGNORE], [IGNORE, IGNORE]]
    empty = ObjectTable.create([])
    assert empty.classes_of(ids).eq(IGNORE).all() and empty.ids_of(torch.tensor([IGNORE])).tolist() == [
        IGNORE
    ]


def test_a_thousand_classes_go_both_ways() -> None:
    ids = torch.randperm(65536, generator=torch.Generator().manual_seed(0))[:1000]
    table = ObjectTable.create(ids.tolist())
    assert torch.equal(table.ids_of(table.classes_of(ids)), ids)
    assert table.classes_of(ids).unique().numel() == 1000


def test_table_paints_in_its_own_colors() -> None:
    table = ObjectTable(
        ids=(3, 5), names=("cup", "pan"), colors=torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    )
    painted = table.colorize(torch.tensor([[3, 5, 9, IGNORE]]))
    assert painted[0, 0].tolist() == [1, 0, 0] and painted[0, 1].tolist() == [0, 0, 1]
    assert torch.equal(painted[0, 2], object_colors([9])[0].to(here())) and painted[0, 3].tolist() == [
        0,
        0,
        0,
    ]
    assert ObjectTable.create([]).colorize(torch.tensor([[0]])).shape == (1, 1, 3)


@pytest.mark.parametrize("ids", [[], [0, 3, 300]])
def test_table_survives_json_and_a_safe_checkpoint(ids: list[int]) -> None:
    table = ObjectTable.create(ids, {3: "cup"})
    file = io.BytesIO()
    torch.save(table.to_dict(), file)
    file.seek(0)
    for data in (json.loads(json.dumps(table.to_dict())), torch.load(file, weights_only=True)):
        again = ObjectTable.from_dict(data)
        assert (again.ids, again.names) == (table.ids, table.names) and torch.equal(
            again.colors, table.colors
        )


def test_table_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"lacks \['colors'\]"):
        ObjectTable.from_dict({"ids": [1], "names": ["cup"]})
    with pytest.raises(ValueError, match="1 object ids, 2 names"):
        ObjectTable.from_dict({"ids": [1], "names": ["cup", "pan"], "colors": [[0, 0, 0]]})
    with pytest.raises(ValueError, match=r"ascending, different and not negative; found \[2, 1\]"):
        ObjectTable.from_dict({"ids": [2, 1], "names": ["a", "b"], "colors": [[0, 0, 0], [1, 1, 1]]})


def test_objects_are_found_by_one_rule() -> None:
    table = ObjectTable.create(
        [1, 2, 3, 4, 5, 7, 8, 9, 11],
        {
            1: "Cup",
            2: "cup, copy",
            3: "plate",
            4: "plate",
            5: "7",
            7: "x",
            8: "[/red]",
            9: '5" pipe',
            11: "a, b, c",
        },
    )
    for text, expected in (
        ("cup", (1,)), ("CUP ", (1,)), ("cup, copy", (2,)), ("cup,  COPY", (2,)), ("cup, copy, 3", (2, 3)), ("3,cup,1", (3, 1)),
        ("7", (7,)), ("x,,7", (7,)), ("cup, cup, copy", (1, 2)), ("[/red]", (8,)), ('5" pipe,1', (9, 1)), ("a, b, c", (11,)),
        ('"7"', (5,)), ('"cup, copy",cup', (2, 1)), ('cup, "cup, copy"', (1, 2)), ('"cup"', (1,)), ('"x"', (7,)),
    ):  # fmt: skip
        assert table.find(text) == expected, text
    assert table.find("3,4", "cup", "3") == (3, 4, 1), "several words, each once"
    for text, message in (
        ("plate", "several objects of that name: 3, 4"), ("bowl", r"no such object as 'bowl'; the scene has 1 \(Cup\)"),
        ("", "expected ids or names"), (" , ", "expected ids or names"), ("cup, bowl", "'bowl'"), ("6", "'6'"),
        ('"cup, bowl"', "'\"cup, bowl\"'"), ("9" * 5000, "no such object"), ('""', "no such object"),
    ):  # fmt: skip
        with pytest.raises(ObjectNameError, match=message):
            table.find(text)
    with pytest.raises(ObjectNameError, match="no such object as 'bowl'"):
        table.find("1", "bowl")


def test_a_copy_has_a_name_that_finds_it() -> None:
    assert copy_name("red ball", ["red ball"]) == "red ball copy"
    assert copy_name("red ball", ["red ball", "Red Ball  Copy"]) == "red ball copy 2"
    assert copy_name("red ball copy 2", ["red ball", "red ball copy", "red ball copy 2"]) == "red ball copy 3"
    assert copy_name("photocopy", []) == "photocopy copy"
    long = "x" * 200
    first = copy_name(long, [long])
    assert len(first) <= 200 and copy_name(long, [long, first]) != first
