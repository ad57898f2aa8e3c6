"""The promise of pruning, measured by the tests themselves; and contributions against autograd and the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes.pruning import contributions, prune

pytestmark = pytest.mark.usefixtures("device")

SIZE = 48


def _splat(means: Tensor, scale: float, opacity: float, seed: int = 0) -> Splat:
    """Round Gaussians of random colours, seen from all sides alike."""
    generator = torch.Generator().manual_seed(seed)
    count = len(means)
    return Splat(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        scales=torch.full((count, 3), math.log(scale)),
        opacities=torch.full((count,), math.log(opacity / (1 - opacity))),
        features_dc=torch.randn(count, 3, generator=generator),
        features_rest=torch.zeros(count, 0, 3),
    )


def _join(*splats: Splat) -> Splat:
    values = {
        name: torch.cat([splat.to_parameters()[name] for splat in splats])
        for name in splats[0].to_parameters()
    }
    labels = torch.cat([torch.full((len(s),), 10 * k, dtype=torch.int32) for k, s in enumerate(splats)])
    splat = Splat.from_parameters(values)
    splat.labels = labels
    return splat


def _cameras(count: int = 3) -> list[rendering.Camera]:
    """Side by side, at z = 0, looking along +z."""
    cameras = []
    for index in range(count):
        viewmat = torch.eye(4)
        viewmat[0, 3] = 0.2 * (index - (count - 1) / 2)
        K = torch.tensor([[40.0, 0, SIZE / 2], [0, 40, SIZE / 2], [0, 0, 1]])
        cameras.append(rendering.Camera(viewmat, K, SIZE, SIZE - 5))
    return cameras


@pytest.fixture
def cloud() -> Splat:
    """Strong Gaussians, faint ones, and ones off-screen, with the ids 0, 10 and 20."""
    generator = torch.Generator().manual_seed(1)

    def box(count: int) -> Tensor:
        return torch.rand(count, 3, generator=generator) * torch.tensor([3.0, 3, 2]) + torch.tensor(
            [-1.5, -1.5, 3]
        )

    faint = _splat(box(150), 0.06, 0.01, seed=2)
    faint.opacities += 0.8 * torch.randn(150, generator=generator)
    off_screen = _splat(box(20) + torch.tensor([40.0, 0, 0]), 0.1, 0.9, seed=3)
    return _join(_splat(box(120), 0.15, 0.8), faint, off_screen)


def _differences(splat: Splat, kept: Tensor, background: Tensor) -> list[Tensor]:
    """Original minus pruned of each view, rendered again without what is under test."""
    pairs = []
    for camera in _cameras():
        original, _ = splat.render(camera, background)
        pruned, _ = splat.select(kept).render(camera, background)
        pairs.append((original - pruned).abs())
    return pairs


def test_the_bound_holds_in_every_pixel(cloud: Splat) -> None:
    result = prune(cloud, _cameras())
    assert result.ratio > 0.1
    assert result.ratio == pytest.approx(float((~result.kept).float().mean()))
    worst = 0.0
    for background in (torch.zeros(3), torch.ones(3)):
        worst = max(worst, *(float(d.max()) for d in _differences(cloud, result.kept, background)))
    assert worst <= 1 / 510
    assert result.max_error == pytest.approx(worst, abs=1e-6)
    assert result.mean_error <= result.view_error <= result.max_error
    assert result.psnr > 54  # 1/510 everywhere would be 54.2 dB
    gray = max(float(d.max()) for d in _differences(cloud, result.kept, torch.full((3,), 0.4)))
    assert gray <= 1 / 510 + 1e-6


def test_the_given_background_is_what_counts(cloud: Splat) -> None:
    background = torch.tensor([0.1, 0.5, 0.9])
    result = prune(cloud, _cameras(), background=background)
    worst = max(float(d.max()) for d in _differences(cloud, result.kept, background))
    assert worst <= 1 / 510
    assert result.max_error == pytest.approx(worst, abs=1e-6)


def test_the_mean_of_every_view_can_be_bounded_instead(cloud: Splat) -> None:
    per_pixel = prune(cloud, _cameras())
    per_view = prune(cloud, _cameras(), bound="view")
    assert per_view.ratio > per_pixel.ratio
    means = [
        float(d.mean())
        for b in (torch.zeros(3), torch.ones(3))
        for d in _differences(cloud, per_view.kept, b)
    ]
    assert max(means) <= 1 / 510
    assert per_view.view_error == pytest.approx(max(means), abs=1e-6)


@pytest.mark.parametrize("bound", ["pixel", "view"])
def test_what_no_camera_sees_goes(bound) -> None:
    grid = torch.linspace(-4, 4, 33)
    wall = torch.stack([*torch.meshgrid(grid, grid, indexing="ij"), torch.full((33, 33), 3.0)], -1).reshape(
        -1, 3
    )
    behind = torch.rand(50, 3, generator=torch.Generator().manual_seed(4)) - torch.tensor([0.5, 0.5, -6])
    splat = _join(
        _splat(wall, 0.4, 0.999),
        _splat(behind, 0.2, 0.9),
        _splat(behind * torch.tensor([1.0, 1, -1]), 0.2, 0.9),  # behind the cameras
    )
    result = prune(splat, _cameras(), bound=bound)
    assert result.per_object[10] == (50, 50)
    assert result.per_object[20] == (50, 50)


def test_what_stops_the_blending_is_not_taken_away() -> None:
    """It has no weight of its own, and without it what lies behind comes through."""
    at = torch.tensor([[0.0, 0, 3], [0, 0, 3.5], [0, 0, 4]])
    splat = _splat(at, 100.0, 0.95)
    splat.opacities = torch.logit(torch.tensor([0.95, 0.9985, 0.9]))  # T = 0.05, then below 1e-4: it stops
    splat.features_dc = torch.tensor([[-1.7] * 3, [-1.7] * 3, [3.0] * 3])
    cameras = _cameras(1)
    assert contributions(splat, cameras)[1] == 0
    result = prune(splat, cameras, among=torch.tensor([False, True, False]))
    assert result.kept.all()


def test_a_tighter_bound_keeps_more(cloud: Splat) -> None:
    kept = [int(prune(cloud, _cameras(), bound).kept.sum()) for bound in (1e-9, 1 / 510, 1 / 50)]
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize("bound", ["pixel", "view"])
def test_something_is_left_whatever_the_bound(cloud: Splat, bound) -> None:
    result = prune(cloud, _cameras(), 1e6, bound=bound)
    assert int(result.kept.sum()) == 1


@pytest.mark.parametrize("bound", ["pixel", "view"])
def test_only_those_named_go(cloud: Splat, bound) -> None:
    among = cloud.labels == 10
    result = prune(cloud, _cameras(), among=among, bound=bound)
    assert result.kept[~among].all()
    assert not result.kept[among].all()
    nobody = prune(cloud, _cameras(), among=torch.zeros_like(among), bound=bound)
    assert nobody.kept.all() and nobody.ratio == 0 and nobody.max_error == 0 and nobody.psnr == math.inf


def test_objects_are_counted(cloud: Splat) -> None:
    result = prune(cloud, _cameras())
    assert {k: total for k, (_, total) in result.per_object.items()} == {0: 120, 10: 150, 20: 20}
    assert sum(removed for removed, _ in result.per_object.values()) == int((~result.kept).sum())
    assert result.per_object[20] == (20, 20)
    unlabelled = Splat.from_parameters(cloud.to_parameters())
    assert prune(unlabelled, _cameras(), bound="view").per_object == {}


def test_pictures_may_be_rendered_again_instead_of_kept(
    cloud: Splat, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = prune(cloud, _cameras()).kept
    monkeypatch.setattr("gradiseg_ns.votes.pruning.MEMORY", 0)
    assert torch.equal(prune(cloud, _cameras()).kept, kept)


def test_contributions_are_the_gradient_of_the_colour(cloud: Splat) -> None:
    """d sum(render) / d c_i of one channel, by autograd through the oracle."""
    total = torch.zeros(len(cloud))
    for camera in _cameras():
        colors = torch.rand(len(cloud), 3, requires_grad=True)
        picture, _ = rendering.render(cloud.gaussians(), camera, colors, backend="torch")
        picture[..., 0].sum().backward()
        assert colors.grad is not None
        total += colors.grad[:, 0]
    torch.testing.assert_close(contributions(cloud, _cameras()), total, rtol=1e-3, atol=1e-3)


def test_progress_is_told(cloud: Splat) -> None:
    told: list[tuple[str, int, int]] = []
    prune(cloud, _cameras(), progress=lambda *what: told.append(what))
    assert all(1 <= done <= total == 3 for _, done, total in told)
    assert told[0][0] == "contributions" and told[-1][1] == 3


def test_errors(cloud: Splat) -> None:
    with pytest.raises(ValueError, match="no cameras"):
        contributions(cloud, [])
    with pytest.raises(ValueError, match="no cameras"):
        prune(cloud, [])
    for max_error in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_error is"):
            prune(cloud, _cameras(), max_error)
    with pytest.raises(ValueError, match="expected bool \\[290\\]"):
        prune(cloud, _cameras(), among=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="background has shape"):
        prune(cloud, _cameras(), background=torch.zeros(1))
    with pytest.raises(ValueError, match="bound is 'mean'"):
        prune(cloud, _cameras(), bound="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="see nothing"):
        prune(cloud.select(cloud.labels == 20), _cameras())
