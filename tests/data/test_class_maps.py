"""Ids become classes and come back; memory and devices stay what they were."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.data.class_maps import CLASS_MAP, ID_MAP, compact, downscaled, renumber
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.data.seeds import with_background
from gradiseg_ns.scene.objects import ObjectTable
from tests.devices import here

pytestmark = pytest.mark.usefixtures("device")

OLD, NEW = ObjectTable.create([0, 7, 70_000]), ObjectTable.create([0, 3, 7, 9, 70_000])


def test_ids_become_classes_of_one_table_then_of_another_and_ids_again() -> None:
    ids = torch.tensor([[0, 7, 70_000], [IGNORE, 7, 0]], dtype=torch.int32)[..., None]
    item = {ID_MAP: ids, "image": torch.zeros(2, 3, 3)}
    renumber(item, None, OLD)
    assert set(item) == {CLASS_MAP, "image"}, "one map, not two"
    assert item[CLASS_MAP].tolist() == [[0, 1, 2], [IGNORE, 1, 0]]
    assert item[CLASS_MAP].dtype == torch.int16 and item[CLASS_MAP].device == here()
    renumber(item, OLD, NEW)
    assert item[CLASS_MAP].tolist() == [[0, 2, 4], [IGNORE, 2, 0]]
    renumber(item, NEW, None)
    assert set(item) == {ID_MAP, "image"} and torch.equal(item[ID_MAP].int(), ids)


def test_what_a_table_does_not_know_has_no_class() -> None:
    item = {ID_MAP: torch.tensor([[[5], [7]]])}
    renumber(item, None, OLD)
    assert item[CLASS_MAP].tolist() == [[IGNORE, 1]]


def test_ids_alone_are_made_small() -> None:
    item = {ID_MAP: torch.tensor([[[5], [IGNORE]]], dtype=torch.int32)}
    renumber(item, None, None)
    assert item[ID_MAP].tolist() == [[[5], [IGNORE]]] and item[ID_MAP].dtype == torch.int16


@pytest.mark.parametrize(
    ("values", "kind"),
    [([], torch.int16), ([-1, 32_767], torch.int16), ([0, 32_768], torch.int32)],
    ids=["none", "fit", "large"],
)
def test_maps_are_as_small_as_their_values(values: list[int], kind: torch.dtype) -> None:
    found = compact(torch.tensor(values, dtype=torch.int64))
    assert found.dtype == kind and found.tolist() == values


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_smaller_map_shows_the_classes_of_pixel_centres(factor: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(11), torch.arange(14), indexing="ij")
    found = downscaled(100 * rows + columns, factor)
    assert found.shape == (11 // factor, 14 // factor)
    assert int(found[1, 2]) == 100 * (factor + factor // 2) + 2 * factor + factor // 2


def test_the_background_comes_after_the_sparse_points() -> None:
    sparse = torch.rand(3, 3).double(), torch.tensor([[0, 128, 255]] * 3, dtype=torch.uint8)
    behind = torch.rand(2, 3), torch.full((2, 3), 9, dtype=torch.uint8)
    found = with_background(sparse, behind)
    assert found is not None
    places, colors = found
    assert places.dtype == colors.dtype == torch.float32 and places.device == here()
    assert torch.equal(places, torch.cat([sparse[0].float(), behind[0]]))
    assert colors.tolist() == [[0, 128, 255]] * 3 + [[9, 9, 9]] * 2


def test_seeds_without_background_or_colours_stay_as_they_are() -> None:
    sparse, plain = (torch.rand(3, 3), torch.zeros(3, 3)), (torch.rand(3, 3), torch.zeros(0, 3))
    behind = torch.rand(2, 3), torch.zeros(2, 3)
    assert with_background(sparse, None) is sparse
    assert with_background(plain, behind) is plain, "all seeds have colours or none has"
    assert with_background(None, behind) is None
