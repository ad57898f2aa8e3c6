"""Patches get their neighbours' class, Gaussians get the photos' classes, and pictures say which is which."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gradiseg_ns import rendering
from gradiseg_ns.affordance import AFFORDANCES
from gradiseg_ns.affordance import transfer as module
from gradiseg_ns.affordance.exemplars import Exemplar, ExemplarError, read_exemplars
from gradiseg_ns.affordance.transfer import (
    ExemplarBank,
    TransferError,
    affordance_maps,
    area_mean,
    class_map,
    legend,
    patch_shares,
    prepare,
    prepare_steps,
    render_labels,
    transfer,
)
from gradiseg_ns.evaluation.affordance import evaluate
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority
from tests.scenes import trace, write_scene


def nearest_by_loop(bank: ExemplarBank, token: torch.Tensor, k: int) -> tuple[int, list[float]]:
    """Class and vote shares of one token, step by step."""
    likeness = [float(token @ other) for other in bank.tokens]
    order = sorted(range(len(likeness)), key=lambda i: -likeness[i])[:k]
    voted = [int(bank.shares[i].argmax()) for i in order]
    most = max(voted.count(label) for label in voted)
    winner = next(label for label in voted if voted.count(label) == most)
    return winner, [voted.count(label) / len(order) for label in range(bank.shares.shape[1])]


@pytest.mark.parametrize("k", [1, 2, 5, 8, 100])
def test_patches_get_the_class_of_most_of_their_neighbours(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)  # more than one piece
    generator = torch.Generator().manual_seed(k)
    tokens = F.normalize(torch.randn(40, 6, generator=generator), dim=-1)
    shares = torch.softmax(3 * torch.randn(40, 4, generator=generator), dim=-1)
    bank = ExemplarBank(tokens, shares)
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
        bank = ExemplarBank(tokens, F.one_hot(torch.tensor(classes), 4).float())
        assert int(bank.classify(asked, k=4)[0]) == expected


def test_k_has_to_be_positive() -> None:
    with pytest.raises(TransferError, match="--k 0"):
        ExemplarBank(torch.ones(1, 1), torch.ones(1, 2)).classify(torch.ones(1, 1, 1), k=0)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (5, 7), (12, 9), (40, 50)])
def test_shares_of_a_patch_are_areas(rows: int, columns: int) -> None:
    labels = torch.randint(0, 3, (12, 18), generator=torch.Generator().manual_seed(0))
    shares = patch_shares(labels, rows, columns, 3)
    fine = labels.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    cells = F.one_hot(fine, 3).double().view(rows, 12, columns, 18, 3).mean(dim=(1, 3))
    torch.testing.assert_close(shares.double(), cells, atol=1e-6, rtol=0)


class ColorTokens:
    """The mean colour of each 2 x 2 patch: all that a model has to know of the balls."""

    def tokens(self, image: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image).float() / 255
        mean = area_mean(pixels, image.shape[0] // 2, image.shape[1] // 2)
        return F.normalize(mean - mean.mean(dim=-1, keepdim=True) + 0.01, dim=-1)


def half_and_half(height: int = 60, width: int = 80) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = (255, 120, 30)
    return image


def test_a_label_that_is_no_class_is_refused() -> None:
    exemplar = Exemplar("cup", np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 2, np.int32))
    with pytest.raises(ExemplarError, match="cup: expected classes from 0 to 1"):
        ExemplarBank.build([exemplar], ColorTokens(), 2)


@pytest.mark.parametrize("smooth", [True, False])
def test_maps_have_the_size_of_the_photo(smooth: bool) -> None:
    image = half_and_half(21, 30)
    labels = np.zeros((21, 30), np.int32)
    labels[:, 15:] = 1
    bank = ExemplarBank.build([Exemplar("half", image, labels)], ColorTokens(), 2)
    done: list[int] = []
    (found,) = affordance_maps(
        [image], ColorTokens(), bank, 1, smooth=smooth, progress=lambda: done.append(1)
    )
    assert found.dtype == torch.int32 and found.shape == (21, 30) and done == [1]
    assert (found[:, :11] == 0).all() and (found[:, 19:] == 1).all()


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
        labels = np.choose(np.minimum(truth[name], 2), [0, 4, 1])
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"{name}_labels.png")
    exemplars, names = read_exemplars(folder)
    done: list[str] = []
    others = [view for view in views if view[0] not in {exemplar.name for exemplar in exemplars}]
    result = transfer(others, gaussians, exemplars, ColorTokens(), names, progress=done.append)

    assert done == [exemplar.name for exemplar in exemplars] + [view[0] for view in others]
    assert result.class_names == AFFORDANCES and result.colors.shape == (8, 3)
    assert result.classes[-1] == -1 and (result.shares[-1] == 0).all()
    seen = result.classes[:-1] >= 0
    assert seen.float().mean() > 0.9
    torch.testing.assert_close(result.shares[:-1][seen].sum(dim=1), torch.ones(int(seen.sum())))
    # Crude Gaussians lie across the balls' outlines: exact maps would give 97.5 % of them their label.
    assert (result.classes[:-1] == expected)[seen].float().mean() > 0.95
    parts = {name: torch.from_numpy(np.choose(np.minimum(ids, 2), [0, 4, 1])) for name, ids in truth.items()}
    exact = majority(accumulate(gaussians, [(view[1], parts[view[0]]) for view in others], 8)).classes
    assert (result.classes == exact).float().mean() > 0.975
    assert all(maps.dtype == torch.int32 for maps in result.maps_2d.values())
    projections = [rendering.project(gaussians, camera) for _, camera, _ in others]
    flat, right = (torch.stack([maps[name] for name, _, _ in others]) for maps in (result.maps_2d, parts))
    again, best = (
        torch.stack([class_map(projection, classes) for projection in projections])
        for classes in (result.classes, exact)
    )
    with pytest.warns(DeprecationWarning, match="classes"):  # the names of version 0.1
        assert result.labels is result.classes
    with pytest.warns(DeprecationWarning, match="class_map"):
        assert torch.equal(render_labels(projections[0], exact), best[0])
    assert (evaluate(flat, right, 8).mean_iou or 0) > 90
    assert (evaluate(again, best, 8).mean_iou or 0) > 90


def test_transfer_without_exemplars_is_refused() -> None:
    gaussians = rendering.Gaussians(torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1))
    with pytest.raises(ExemplarError, match="no exemplars"):
        transfer([], gaussians, [], ColorTokens())


def test_options_that_cannot_be_are_refused_before_any_picture_is_seen() -> None:
    class Blind:
        def tokens(self, image: np.ndarray) -> torch.Tensor:
            raise AssertionError("a picture was seen")

    gaussians = rendering.Gaussians(torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1))
    exemplar = Exemplar("cup", half_and_half(), np.zeros((60, 80), np.int32))
    with pytest.raises(TransferError, match="--k -1"):
        transfer([], gaussians, [exemplar], Blind(), k=-1)
    with pytest.raises(TransferError, match=r"--position-means: 7 pictures .* at least 8"):
        prepare([half_and_half()] * 5, [exemplar], Blind(), 2, mirror=True, position_means=True)


# ---------------------------------------------------------------------------------------------------------- options


class Sides:
    """Tokens of 2 x 2 patches: how much brighter the patch is than its left and its right neighbour. A mirrored one is another."""

    def tokens(self, image: np.ndarray) -> torch.Tensor:
        grid = area_mean(torch.tensor(image).float() / 255, image.shape[0] // 2, image.shape[1] // 2).mean(-1)
        slope = F.pad(grid[:, 1:] - grid[:, :-1], (1, 1))
        return F.normalize(
            torch.stack([slope[:, :-1], slope[:, 1:], torch.full_like(grid, 0.1)], dim=-1), dim=-1
        )


def test_mirrored_exemplars_find_what_points_the_other_way() -> None:
    image = half_and_half(8, 12)
    labels = np.zeros((8, 12), np.int32)
    labels[:, 6:8] = 1  # the bright side of the edge, which has the dark one on its left
    there = np.ascontiguousarray(image[:, ::-1])
    for mirror in (False, True):
        done: list[str] = []
        model, bank = prepare(
            [], [Exemplar("edge", image, labels)], Sides(), 2, mirror=mirror, progress=done.append
        )
        assert done == ["edge", "edge, mirrored"][: 1 + mirror]
        assert len(done) == prepare_steps(0, 1, mirror=mirror)
        assert len(bank.tokens) == 24 * (1 + mirror)
        (found,) = affordance_maps([there], model, bank, 1, smooth=False)
        np.testing.assert_array_equal(found, labels[:, ::-1] if mirror else np.zeros((8, 12)))


def test_position_means_undo_what_a_position_adds() -> None:
    """Tokens are the colour, and much of the position: exemplars painted on the left name what is on the right only without it."""
    place = torch.eye(12).view(3, 4, 12)

    class Placed:
        def tokens(self, image: np.ndarray) -> torch.Tensor:
            own = torch.tensor(image[::2, ::2].copy()).float() / 255 * 0.5
            return F.normalize(torch.cat([own, place], dim=-1), dim=-1)

    generator = np.random.default_rng(0)
    photos = []
    for _ in range(12):
        photo = np.zeros((6, 8, 3), np.uint8)
        y, x = 2 * generator.integers(3), 2 * generator.integers(4)
        photo[y : y + 2, x : x + 2] = 255
        photos.append(photo)
    painted = np.zeros((6, 8, 3), np.uint8)
    painted[:2, :2] = 255
    exemplar = Exemplar("cup", painted, (painted[..., 0] > 0).astype(np.int32))
    right = []
    for means in (False, True):
        done: list[str] = []
        model, bank = prepare(photos, [exemplar], Placed(), 2, position_means=means, progress=done.append)
        assert len(done) == prepare_steps(12, 1, position_means=means) == (14 if means else 1)
        maps = torch.stack(list(affordance_maps(photos, model, bank, 1, smooth=False)))
        truth = torch.tensor(np.stack(photos)[..., 0] > 0)
        right.append(float(((maps == 1) == truth).float().mean()))
    assert right[1] == 1 > right[0]


def test_means_are_taken_over_photos_that_are_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEAN_VIEWS", 9)
    seen: list[int] = []

    class Numbered:
        def tokens(self, image: np.ndarray) -> torch.Tensor:
            seen.append(int(image[0, 0, 0]))
            return torch.ones(1, 1, 2)

    photos = [np.full((2, 2, 3), i, np.uint8) for i in range(33)]
    exemplar = Exemplar("cup", np.full((2, 2, 3), 99, np.uint8), np.zeros((2, 2), np.int32))
    done: list[str] = []
    prepare(photos, [exemplar], Numbered(), 2, position_means=True, progress=done.append)
    assert seen[:10] == [99, *range(0, 33, 4)]
    assert len(done) == len(seen) == prepare_steps(33, 1, position_means=True)


# --------------------------------------------------------------------------------------------------------- pictures


def test_the_legend_has_every_class_s_colour_and_breaks_its_lines() -> None:
    names = ["background", "grasp", "wrap\ngrasp \u4e2d", "contain"]
    colors = torch.tensor([[0.2, 0.2, 0.2], [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    wide = legend(names, colors, [0, 1, 2, 3], 600)
    narrow = legend(names, colors, [0, 1, 2, 3], 100)
    few = np.asarray(legend(names, colors, [0, 3], 600)).reshape(-1, 3).tolist()
    assert wide.size == (600, 20) and narrow.width == 100 and narrow.height == 80
    for picture in (wide, narrow):
        pixels = np.asarray(picture).reshape(-1, 3)
        for color in (colors * 255).round().int().tolist():
            assert (pixels == color).all(axis=1).sum() >= 100  # 12 x 12 with an outline
    assert [0, 0, 255] in few and [255, 0, 0] not in few
