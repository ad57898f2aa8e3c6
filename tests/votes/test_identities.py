"""Codes that point apart, and encodings whose maps give the ids back."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.identities import classify_encodings, encode, fit_scale, refine, spread_codes
from gradiseg_ns.votes.labels import majority
from tests.devices import here

from ..rendering.scenes import random_camera, random_gaussians

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize(
    ("count", "largest"), [(1, -2), (2, -0.99), (17, -0.062), (20, 0.05), (62, 0.25), (1000, 0.6)]
)
def test_codes_point_apart(count: int, largest: float) -> None:
    codes = spread_codes(count, 16).to(here())
    assert codes.shape == (count, 16)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(count))
    close = (codes @ codes.T).fill_diagonal_(-2)
    assert float(close.max()) <= max(largest, -2)
    assert torch.equal(codes, spread_codes(count, 16).to(here())), "deterministic"


def test_the_largest_share_wins_exactly_up_to_seventeen_classes() -> None:
    codes = spread_codes(17, 16).to(here())
    shares = torch.rand(500, 17, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.equal((shares @ codes @ codes.T).argmax(-1), shares.argmax(-1))


def test_encode_and_classify_are_inverse() -> None:
    codes = spread_codes(30, 16).to(here())
    classes = torch.tensor([3, -1, 29, 0])
    assert classify_encodings(encode(classes, codes), codes).tolist() == [3, -1, 29, 0]


def _scene():
    gaussians = random_gaussians(300)
    truth = (gaussians.means[:, 0] > 0).long() + 2 * (gaussians.means[:, 1] > 0).long()
    codes = spread_codes(4, 16).to(here())
    views = []
    for seed in range(6):
        camera = random_camera(seed=seed)
        maps, _ = rendering.render(gaussians, camera, torch.nn.functional.one_hot(truth, 4).float())
        views.append((camera, torch.where(maps.sum(-1) > 0.3, maps.argmax(-1), -1)))
    return gaussians, codes, views


def _error(gaussians, codes, views, encoding) -> float:
    wrong = total = 0
    for camera, classes in views:
        maps, _ = rendering.render(gaussians, camera, encoding)
        known = classes >= 0
        wrong += int(((maps @ codes.T).argmax(-1) != classes)[known].sum())
        total += int(known.sum())
    return wrong / total


def test_refining_comes_closer_to_exact_maps_than_votes() -> None:
    gaussians, codes, views = _scene()
    votes = accumulate(gaussians, views, 4)
    hard = encode(majority(votes).classes, codes)
    steps = []
    refined = refine(gaussians, views, codes, votes.total(), progress=lambda: steps.append(1))
    assert len(steps) == len(views)
    before, after = _error(gaussians, codes, views, hard), _error(gaussians, codes, views, refined)
    assert after < before
    assert bool((refined[votes.total() == 0] == 0).all())


def test_the_scale_is_finite_and_larger_for_clearer_maps() -> None:
    gaussians, codes, views = _scene()
    encoding = encode(majority(accumulate(gaussians, views, 4)).classes, codes)
    maps = [(rendering.render(gaussians, camera, encoding)[0], classes) for camera, classes in views]
    right = fit_scale(codes, maps)
    shuffled = [
        (m, c.flatten()[torch.randperm(c.numel(), generator=torch.Generator().manual_seed(0))].view(c.shape))
        for m, c in maps
    ]
    assert right > fit_scale(codes, shuffled) >= 1
