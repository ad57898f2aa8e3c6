"""Masks in masks: the same ones once, parts below wholes, and maps that say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiseg_ns.masks.levels import (
    LevelsError,
    Painted,
    depths,
    distinct,
    paint,
    paint_phrases,
    parents,
    small,
)
from gradiseg_ns.masks.types import Mask


def rectangle(x0: int, y0: int, x1: int, y1: int, height: int = 40, width: int = 60) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


MUG, HANDLE, RIM, BLOCK = (
    rectangle(5, 5, 30, 35),
    rectangle(24, 10, 30, 20),
    rectangle(25, 11, 29, 14),
    rectangle(40, 5, 55, 20),
)


def test_of_masks_alike_the_most_certain_stays() -> None:
    almost = rectangle(5, 5, 30, 34)
    masks = small([almost, MUG, HANDLE, BLOCK])
    assert distinct(masks, torch.tensor([0.8, 0.9, 0.5, 0.95]), 0.7) == [3, 1, 2]
    assert distinct(masks, torch.tensor([0.9, 0.8, 0.5, 0.95]), 0.7) == [3, 0, 2]
    assert distinct(masks, torch.tensor([0.9, 0.8, 0.5, 0.95]), 0.99) == [3, 0, 1, 2]
    assert distinct(masks[:0], torch.zeros(0), 0.7) == []


def test_many_masks_give_what_one_by_one_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(600, 12, 16, generator=generator) > 0.4).float().flatten(1)
    masks[300:] = masks[:300]
    masks[300:, :9] = 0
    scores = torch.rand(600, generator=generator)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        shared = [(masks[i] * masks[k]).sum() / masks[[i, k]].amax(0).sum() for k in kept]
        if all(float(s) <= 0.8 for s in shared):
            kept.append(i)
    assert distinct(masks, scores, 0.8) == kept and 290 < len(kept) < 590


def test_a_part_has_the_smallest_mask_around_it_for_a_parent() -> None:
    found = parents(small([RIM, BLOCK, MUG, HANDLE]))
    assert found == [3, -1, -1, 2] and depths(found) == [2, 0, 0, 1]
    assert parents(small([])) == [] and depths([-1, 0, 1, 2]) == [0, 1, 2, 2]
    assert parents(small([MUG, rectangle(20, 5, 45, 35)])) == [-1, -1], "they overlap, none lies in the other"


def test_maps_have_a_level_each() -> None:
    painted = paint([Mask(HANDLE, 0.5), Mask(MUG, 0.9), Mask(BLOCK, 0.8), Mask(RIM, 0.7)], 40, 60)
    assert painted.maps.shape == (3, 40, 60)
    assert painted.parent == [2, 0, 0, 1] and painted.level == [1, 0, 0, 2]
    whole, parts, finest = painted.maps
    assert np.array_equal(whole == 2, MUG.numpy()) and np.array_equal(whole == 3, BLOCK.numpy())
    assert set(np.unique(whole)) == {0, 2, 3} and np.array_equal(parts == 1, HANDLE.numpy())
    assert np.array_equal(finest == 4, RIM.numpy())


def test_where_two_objects_overlap_the_certain_one_is_seen_and_what_is_hidden_goes() -> None:
    other = rectangle(20, 5, 45, 35)
    painted = paint([Mask(MUG, 0.9), Mask(other, 0.5)], 40, 60)
    assert np.array_equal(painted.maps[0] == 1, MUG.numpy())
    assert np.array_equal(painted.maps[0] == 2, (other & ~MUG).numpy())
    # Of the second, 15 columns are seen; if that is too little it goes, and its part is a whole.
    part = rectangle(40, 10, 44, 30)
    painted = paint([Mask(MUG, 0.9), Mask(other, 0.5), Mask(part, 0.4)], 40, 60, least=500)
    assert len(painted) == 1 and painted.maps.shape == (1, 40, 60)
    painted = paint([Mask(MUG, 0.9), Mask(other, 0.5), Mask(part, 0.4)], 40, 60, least=80)
    assert painted.level == [0, 0, 1]
    painted = paint([Mask(MUG, 0.4), Mask(HANDLE, 0.9), Mask(rectangle(5, 5, 24, 35), 0.5)], 40, 60, least=1)
    assert painted.level == [0, 1, 1] and painted.parent == [0, 1, 1]
    assert len(paint([], 40, 60)) == 0 and paint([], 40, 60).maps.shape == (1, 40, 60)


def test_a_map_of_phrases_has_their_places_for_ids() -> None:
    masks = [Mask(MUG, 0.5, phrase="mug"), Mask(HANDLE, 0.9, phrase="handle"), Mask(BLOCK, 0.3, phrase="mug")]
    ids = paint_phrases(masks, ["handle", "mug", "spoon"], 40, 60)
    assert np.array_equal(ids == 1, HANDLE.numpy()) and np.array_equal(
        ids == 2, ((MUG & ~HANDLE) | BLOCK).numpy()
    )


def test_levels_are_read_as_they_were_written(tmp_path: Path) -> None:
    painted = paint([Mask(HANDLE, 0.5, phrase="mugs, größer"), Mask(MUG, 0.25)], 40, 60)
    path = tmp_path / "a.npz"
    path.write_bytes(painted.to_bytes())
    again = Painted.read(path)
    assert np.array_equal(again.maps, painted.maps) and again.maps.dtype == np.int32
    assert (again.parent, again.level, again.score) == ([2, 0], [1, 0], [0.5, 0.25])
    assert again.phrase == ["mugs, größer", ""]
    quick = Painted.read(path, with_maps=False)
    assert quick.maps.size == 0 and quick.parent == again.parent and len(quick) == 2
    path.write_bytes(painted.to_bytes()[:200])
    with pytest.raises(LevelsError, match=r"a\.npz cannot be read"):
        Painted.read(path)
    with pytest.raises(LevelsError, match="cannot be read"):
        Painted.read(tmp_path / "none.npz")
    np.savez(path, maps=painted.maps, parent=[0], level=[0], score=[1.0], phrase=["a"])
    with pytest.raises(LevelsError, match="do not fit"):
        Painted.read(path)
