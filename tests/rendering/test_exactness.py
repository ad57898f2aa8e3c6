"""float32 kernels against dense float64 torch: values, every gradient, absgrad; and the transpose against autograd."""

from __future__ import annotations

from dataclasses import replace

import gsplat
import pytest
import torch

from gradiseg_ns.rendering import (
    backproject,
    crop,
    only,
    project,
    rasterize,
    reaching,
    render,
    scale_gradient,
    spherical_harmonics,
)

from .scenes import (
    GEOMETRY,
    assert_alike,
    only_visible,
    random_camera,
    random_gaussians,
    relative_error,
    run,
    scenes_without_ties,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def seeds() -> list[int]:
    return scenes_without_ties(4)


@pytest.mark.parametrize(
    ("sizes", "geometry_grad"),
    [
        ([3, 16], [True, True]),
        ([3, 16], [True, False]),
        ([16, 3], [False, True]),
        ([3, 16], [False, False]),
        ([1, 5, 2], [True, False, True]),
        ([3, 16, 2], [1.0, 0.1, 0.0]),
        ([3, 16, 2], [1.0, "own", 0.0]),
        ([16, 1, 5, 2], ["own", 0.3, False, "own"]),
        ([16], ["own"]),
    ],
)
def test_values_and_gradients_agree_with_the_oracle(seeds, sizes, geometry_grad):
    for seed in seeds:
        scene = random_gaussians(120, seed), random_camera(seed=seed), sizes, geometry_grad
        assert_alike(run(*scene, "cpu"), run(*scene, "torch", torch.float64), TOLERANCE)


@pytest.mark.parametrize(
    ("sizes", "geometry_grad"),
    [([40], [True]), ([20, 20], [True, False]), ([5, 40], [True, False]), ([40, 5], [False, True])],
)
def test_more_channels_than_one_pass_takes(seeds, sizes, geometry_grad):
    scene = random_gaussians(120, seeds[0]), random_camera(seed=seeds[0]), sizes, geometry_grad
    assert_alike(run(*scene, "cpu"), run(*scene, "torch", torch.float64), TOLERANCE)


def test_antialiased_agrees_with_the_oracle():
    for seed in scenes_without_ties(2, antialiased=True):
        scene = random_gaussians(120, seed), random_camera(seed=seed), [3, 16], [True, False]
        assert_alike(
            run(*scene, "cpu", antialiased=True),
            run(*scene, "torch", torch.float64, antialiased=True),
            TOLERANCE,
        )


@pytest.mark.skipif(
    gsplat.__version__ >= "1.5", reason="gsplat 1.5 has other radii (rendering/gsplat_versions.py)"
)
def test_projection_agrees_with_gsplats_own_torch():
    """gsplat ships its projection in plain torch: the one part of it that runs without CUDA."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    gaussians, camera = random_gaussians(400).map(lambda t: t.double()), random_camera()
    covariances, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, True, False, triu=False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        gaussians.means,
        covariances,
        camera.viewmat.double()[None],
        camera.K.double()[None],
        camera.width,
        camera.height,
    )
    projection = project(gaussians.map(lambda t: t.float()), camera)
    assert (projection.radii != radii).double().mean() < 0.01  # a radius on the edge of a whole number
    index = only_visible(projection)
    assert 100 < len(index) < 400
    for mine, theirs in (
        (projection.means2d, means2d),
        (projection.depths, depths),
        (projection.conics, conics),
    ):
        assert relative_error(mine[0][index], theirs[0][index]) < 1e-5


def test_backproject_is_the_transpose_of_render():
    gaussians, camera = random_gaussians(), random_camera()
    for channels in (1, 3, 16, 20, 45):
        features = torch.randn(len(gaussians.means), channels, requires_grad=True)
        maps = torch.randn(camera.height, camera.width, channels)
        rendered, _ = render(gaussians, camera, features)
        (expected,) = torch.autograd.grad(rendered, features, maps)
        sums = backproject(gaussians, camera, maps)
        assert not sums.requires_grad
        assert relative_error(sums, expected) < 1e-5
        # <render(f), m> = <f, backproject(m)>
        assert float((rendered * maps).sum().detach()) == pytest.approx(
            float((features * sums).sum().detach()), rel=1e-3, abs=1e-2
        )
        reused = backproject(gaussians, camera, maps, projection=project(gaussians, camera))
        assert torch.equal(sums, reused)


def test_backproject_agrees_with_the_oracle(seeds):
    gaussians, camera = random_gaussians(120, seeds[0]), random_camera(seed=seeds[0])
    maps = torch.randn(camera.height, camera.width, 20)
    doubles = gaussians.map(lambda t: t.double())
    expected = backproject(doubles, camera, maps.double(), backend="torch")
    assert relative_error(backproject(gaussians, camera, maps), expected) < TOLERANCE


def test_a_resting_group_moves_nothing():
    """Only its features get a gradient; the same features with geometry_grad do move the means."""
    gaussians, camera = random_gaussians(), random_camera()
    for moves in (False, True):
        means = gaussians.means.clone().requires_grad_()
        features = torch.randn(len(means), 8, requires_grad=True)
        projection = project(replace(gaussians, means=means), camera)
        (rendered,), _ = rasterize(projection, [features], geometry_grad=[moves])
        rendered.square().sum().backward()
        assert features.grad.abs().sum() > 0
        assert (means.grad is not None and bool(means.grad.abs().sum() > 0)) == moves


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_goes_through(share: float) -> None:
    values = torch.randn(5, requires_grad=True)
    passed = scale_gradient(values, share)
    torch.testing.assert_close(passed, values)
    (passed * 2 + values * 0).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.full((5,), 2 * share))


def test_shares_for_each_gaussian_scale_what_moves_it():
    """With shares of 0 and 1, half of the Gaussians get the gradients of the whole and half get none."""
    gaussians, camera = random_gaussians(), random_camera()
    features, shares = torch.randn(len(gaussians), 8), (torch.arange(len(gaussians)) % 2).float()
    gradients = []
    for share in (1.0, shares):
        means = gaussians.means.clone().requires_grad_()
        (rendered,), _ = rasterize(
            project(replace(gaussians, means=means), camera), [features], geometry_grad=[share]
        )
        rendered.square().sum().backward()
        gradients.append(means.grad)
    whole, part = gradients
    assert whole[1::2].abs().sum() > 0 and part[::2].abs().sum() == 0
    assert relative_error(part[1::2], whole[1::2]) < 1e-6


def test_alpha_moves_the_geometry_without_any_moving_group():
    gaussians, camera = random_gaussians(), random_camera()
    opacities = gaussians.opacities.clone().requires_grad_()
    projection = project(replace(gaussians, opacities=opacities), camera)
    _, alpha = rasterize(projection, [torch.randn(len(opacities), 4)], geometry_grad=[False])
    alpha.sum().backward()
    assert opacities.grad.abs().sum() > 0


def test_absgrad_bounds_the_gradient():
    result = run(random_gaussians(), random_camera(), [3], [True], "cpu")
    assert (result["absgrad"] >= result["means2d"].abs() - 1e-4).all()
    assert result["absgrad"].sum() > 1.5 * result["means2d"].abs().sum()


def test_background_shows_where_alpha_does_not():
    gaussians, camera = random_gaussians(5), random_camera()
    background = torch.tensor([0.2, 0.5, 0.9])
    plain, alpha = render(gaussians, camera, torch.rand(5, 3))
    empty = alpha[..., 0] == 0
    assert empty.any()
    maps, _ = render(gaussians, camera, torch.rand(5, 3), background=background)
    assert torch.equal(maps[empty], background.expand(int(empty.sum()), 3))
    assert plain[empty].abs().max() == 0


@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics(degree):
    from gsplat.cuda._torch_impl import _spherical_harmonics

    generator = torch.Generator().manual_seed(degree)
    directions = 3 * torch.randn(200, 3, generator=generator)
    coeffs, cotangent = torch.randn(200, 25, 3, generator=generator), torch.randn(200, 3, generator=generator)
    mask = torch.rand(200, generator=generator) > 0.3

    def gradients(dtype: torch.dtype, backend: str) -> list[torch.Tensor]:
        d, c = (t.to(dtype).clone().requires_grad_() for t in (directions, coeffs))
        colors = spherical_harmonics(degree, d, c, mask=mask, backend=backend)
        (colors * cotangent).sum().backward()
        return [colors.detach(), c.grad, d.grad if d.grad is not None else torch.zeros(200, 3)]

    mine, oracle = gradients(torch.float32, "cpu"), gradients(torch.float64, "torch")
    for a, b in zip(mine, oracle, strict=True):
        assert float((a.double() - b).norm()) < 1e-5 * max(float(b.norm()), 1e-3)
    theirs = _spherical_harmonics(degree, directions.double(), coeffs.double())
    assert relative_error(mine[0][mask], theirs[mask]) < 1e-5
    assert mine[0][~mask].abs().max() == 0


def test_finite_differences_of_the_oracle():
    """The oracle's gradients are autograd's, but its hand-made detours (culling, stops) need a check of their own."""
    gaussians, camera = (
        random_gaussians(25, 3).map(lambda t: t.double()),
        random_camera(33, 17, seed=3),
    )
    weights = torch.randn(17, 33, 2, dtype=torch.float64)

    def loss(means: torch.Tensor) -> torch.Tensor:
        features = torch.linspace(0, 1, 50, dtype=torch.float64).reshape(25, 2)
        return (render(replace(gaussians, means=means), camera, features, backend="torch")[0] * weights).sum()

    means = gaussians.means.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(means), means)
    direction = torch.randn(25, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-7
    numeric = (loss(gaussians.means + step * direction) - loss(gaussians.means - step * direction)) / (
        2 * step
    )
    assert float(numeric.detach()) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_part_of_a_picture_is_blended_as_in_the_whole(backend):
    """Off-centre Gaussians that reach far are where a camera of the part alone would differ."""
    gaussians, camera = random_gaussians(200, seed=3), random_camera(seed=3)
    features = torch.rand(200, 4, generator=torch.Generator().manual_seed(1))
    projection = project(gaussians, camera, backend=backend)
    (whole,), alpha = rasterize(projection, [features])
    for x, y, width, height in ((0, 0, 1, 1), (41, 17, 1, 1), (60, 40, 10, 12), (7, 20, 33, 5)):
        (part,), part_alpha = rasterize(crop(projection, x, y, width, height), [features])
        assert torch.allclose(part, whole[y : y + height, x : x + width], atol=1e-4)
        assert torch.allclose(part_alpha, alpha[y : y + height, x : x + width], atol=1e-4)
    assert projection.camera is camera or projection.camera == camera, "the whole is as it was"


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_some_tiles_alone_are_those_of_the_whole_picture(backend):
    """Bit by bit, and with the gradients of a loss that is zero elsewhere."""
    gaussians, camera = random_gaussians(), random_camera()
    tiles = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    pixels = tiles.repeat_interleave(16, 0).repeat_interleave(16, 1)[: camera.height, : camera.width]
    features = torch.randn(len(gaussians), 5)
    cotangent = torch.randn(camera.height, camera.width, 5)
    answers = []
    for some in (False, True):
        leaves = [t.clone().requires_grad_() for t in (*gaussians.tensors, features)]
        projection = project(
            replace(gaussians, **dict(zip(GEOMETRY, leaves[:4], strict=True))), camera, backend=backend
        )
        if some:
            projection = only(projection, tiles)
        (maps,), alpha = rasterize(projection, [leaves[4]])
        if some:
            assert not bool(maps[~pixels].any()) and not bool(alpha[~pixels].any())
        weight = pixels[..., None].float()
        ((maps * cotangent + alpha.square()) * weight).sum().backward()
        maps, alpha = maps.detach()[pixels], alpha.detach()[pixels]
        answers.append([maps, alpha, *(leaf.grad for leaf in leaves)])
        sums = backproject(gaussians, camera, cotangent * weight, projection=projection)
        assert (
            relative_error(sums, backproject(gaussians, camera, cotangent * weight, backend=backend)) < 1e-6
        )
    for whole, part in zip(*answers, strict=True):
        assert torch.equal(whole, part)
    near = reaching(projection, tiles)
    touched = backproject(gaussians, camera, pixels[..., None].float(), backend=backend)[:, 0] > 0
    assert bool(near[touched].all()) and 0 < int(touched.sum()) <= int(near.sum()) < len(gaussians)
    with pytest.raises(ValueError, match="tiles"):
        only(projection, tiles[:3])


def test_channels_that_are_zero_in_a_tile_change_no_other():
    """Masks as the transpose gets them: one channel a class, most of them zero in most tiles."""
    gaussians, camera = random_gaussians(), random_camera()
    classes = torch.arange(camera.width)[None].expand(camera.height, -1) // 9
    maps = (classes[..., None] == torch.arange(9)).float()
    maps[:20] = 0
    sums = backproject(gaussians, camera, maps)
    assert relative_error(sums, backproject(gaussians, camera, maps, backend="torch")) < 1e-5
    noise = 1e-30 * torch.rand_like(maps)  # nothing is zero, so nothing is left out
    assert relative_error(sums, backproject(gaussians, camera, maps + noise)) < 1e-6
    assert float(backproject(gaussians, camera, torch.zeros_like(maps)).abs().max()) == 0
