"""The two backends against each other: needs CUDA (gsplat compiles its kernels at first use)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradiseg_ns.rendering import (
    Gaussians,
    backproject,
    project,
    rasterize,
    render,
    spherical_harmonics,
)

from .scenes import assert_alike, random_camera, random_gaussians, relative_error, run, scenes_without_ties

gpu = pytest.mark.gpu  # skips itself without CUDA: tests/conftest.py


@gpu
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(
    ("sizes", "geometry_grad"),
    [
        ([3, 16], [True, False]),
        ([3, 16], [True, True]),
        ([3, 16], [False, False]),
        ([40], [False]),
        ([3, 16], [1.0, "own"]),
    ],
)
def test_values_and_gradients_agree(sizes, geometry_grad, antialiased):
    for seed in scenes_without_ties(3, antialiased=antialiased):
        scene = random_gaussians(120, seed), random_camera(seed=seed), sizes, geometry_grad
        ours = run(*scene, "cpu", antialiased=antialiased)
        theirs = run(*scene, "gsplat", antialiased=antialiased, device="cuda")
        assert_alike(theirs, ours, 1e-3)  # gsplat is compiled with fast math


@gpu
def test_backproject_agrees():
    gaussians, camera = random_gaussians(), random_camera()
    maps = torch.randn(camera.height, camera.width, 45)
    on_gpu = gaussians.map(lambda t: t.cuda())
    sums = backproject(on_gpu, camera, maps.cuda())
    assert sums.is_cuda and relative_error(sums.cpu(), backproject(gaussians, camera, maps)) < 1e-3


@gpu
def test_nothing_to_see():
    camera = random_camera()
    for n in (0, 20):
        gaussians = random_gaussians(20).map(lambda t, n=n: t[:n].cuda())
        gaussians = replace(gaussians, means=gaussians.means - torch.tensor([0, 0, 100.0]).cuda())
        maps, alpha = render(gaussians, camera, torch.ones(n, 3).cuda())
        assert (
            maps.shape == (camera.height, camera.width, 3)
            and maps.abs().sum() == 0
            and alpha.abs().sum() == 0
        )
        assert backproject(gaussians, camera, maps).shape == (n, 3)


@gpu
def test_a_bad_gaussian_harms_no_other():
    gaussians, camera = random_gaussians(60), random_camera()
    expected, _ = render(gaussians.map(lambda t: t[:59].cuda()), camera, torch.ones(59, 3).cuda())
    for field, value in (
        ("means", float("nan")),
        ("quats", 0.0),
        ("scales", float("nan")),
        ("opacities", float("nan")),
    ):
        spoilt = replace(gaussians, **{field: getattr(gaussians, field).clone()})
        getattr(spoilt, field)[-1] = value
        maps, _ = render(spoilt.map(lambda t: t.cuda()), camera, torch.ones(60, 3).cuda())
        assert torch.isfinite(maps).all() and relative_error(maps, expected) < 1e-5, field


@gpu
@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics_agree(degree):
    directions, coeffs = torch.randn(100, 3), torch.randn(100, 25, 3)
    mask = torch.rand(100) > 0.3
    results = []
    for device in ("cpu", "cuda"):
        d, c = (t.to(device).clone().requires_grad_() for t in (directions, coeffs))
        colors = spherical_harmonics(degree, d, c, mask=mask.to(device))
        colors.square().sum().backward()
        results.append(
            [
                t.detach().cpu()
                for t in (colors, c.grad, d.grad if d.grad is not None else torch.zeros_like(d))
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).norm()) < 1e-4 * max(float(ours.norm()), 1.0)


def test_passes_waste_little():
    """Every channel is blended once, and gsplat's padding stays within a quarter of what was asked for."""
    pytest.importorskip("gsplat")
    from gradiseg_ns.rendering.gsplat_backend import NATIVE, passes

    for channels in range(1, 200):
        sizes = passes(channels)
        assert sum(sizes) == channels
        padded = sum(next((n for n in NATIVE if n >= size), size) for size in sizes)
        assert padded <= 1.25 * channels + 1
    assert passes(16) == [16] and passes(0) == []


def test_groups_go_apart_where_padding_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradiseg_ns.rendering.gsplat_backend import _together

    assert not _together([3, 16]) and not _together([4, 16]), "32 channels for 19 or 20"
    assert _together([3, 1]) and _together([16]) and _together([16, 1])
    for way in ("joined", "apart"):
        monkeypatch.setenv("GRADISEG_CHANNELS", way)
        assert _together([3, 16]) == (way == "joined")
    monkeypatch.setenv("GRADISEG_CHANNELS", "both")
    with pytest.raises(ValueError, match="GRADISEG_CHANNELS is 'both': expected auto, joined or apart"):
        _together([3, 16])


@gpu
@pytest.mark.parametrize("moves", [[1.0, 0.3], [0.5, 0.3], [0.0, 1.0]])
def test_joined_and_apart_are_the_same(monkeypatch: pytest.MonkeyPatch, moves: list[float]) -> None:
    """Values and all gradients, which is how the CPU has them too."""
    seed = scenes_without_ties(1)[0]
    camera = random_camera(seed=seed)
    results = []
    for device, way in (("cpu", "joined"), ("cuda", "joined"), ("cuda", "apart")):
        monkeypatch.setenv("GRADISEG_CHANNELS", way)
        generator = torch.Generator().manual_seed(5)
        features = [torch.randn(120, c, generator=generator) for c in (3, 16)]
        leaves = [t.to(device).requires_grad_() for t in (*random_gaussians(120, seed), *features)]
        view = camera._replace(viewmat=camera.viewmat.to(device), K=camera.K.to(device))
        maps, alpha = rasterize(project(Gaussians(*leaves[:4]), view), leaves[4:], geometry_grad=moves)
        weights = [torch.randn(m.shape, generator=generator).to(device) for m in (*maps, alpha)]
        torch.stack([(m * w).sum() for m, w in zip((*maps, alpha), weights, strict=True)]).sum().backward()
        results.append([*maps, alpha, *(leaf.grad for leaf in leaves)])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert ours is not None and theirs is not None
            assert relative_error(theirs.detach().cpu(), ours.detach()) < 1e-3
