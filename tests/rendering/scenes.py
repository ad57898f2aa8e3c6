"""Small random scenes, and the dense float64 answer to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradiseg_ns.rendering import Camera, Gaussians, Projection, oracle, project, rasterize

GEOMETRY = ("means", "quats", "scales", "opacities")


def random_camera(width: int = 70, height: int = 52, seed: int = 0) -> Camera:
    """A camera near the origin that looks along +z, slightly turned; neither size is a multiple of 16."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.cat([torch.ones(1), 0.1 * torch.randn(3, generator=generator)]).double()
    viewmat = torch.eye(4)
    viewmat[:3, :3] = oracle.rotation_matrices(q[None])[0].float()
    viewmat[:3, 3] = 0.3 * torch.randn(3, generator=generator)
    K = torch.tensor([[0.9 * width, 0, width / 2 + 1.5], [0, 1.1 * height, height / 2 - 2.25], [0, 0, 1]])
    return Camera(viewmat, K, width, height)


def random_gaussians(count: int = 300, seed: int = 0) -> Gaussians:
    """Around (0, 0, 5), anisotropic; some behind the camera, off-screen, huge, tiny, fully transparent, fully opaque."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means = normal(count, 3) * 1.5 + torch.tensor([0, 0, 5.0])
    scales = torch.exp(0.7 * normal(count, 3) - 2)
    opacities = torch.sigmoid(1 + 2 * normal(count))
    kinds = torch.rand(count, generator=generator)
    means[kinds < 0.05, 2] -= 10
    means[(kinds >= 0.05) & (kinds < 0.1), 0] += 20
    scales[(kinds >= 0.1) & (kinds < 0.12)] *= 20
    scales[(kinds >= 0.12) & (kinds < 0.17)] *= 1e-3
    opacities[(kinds >= 0.17) & (kinds < 0.22)] = 0
    opacities[(kinds >= 0.22) & (kinds < 0.25)] = 1
    return Gaussians(means, 3 * normal(count, 4), scales, opacities)


@torch.no_grad()
def has_near_tie(
    gaussians: Gaussians, camera: Camera, antialiased: bool = False, margin: float = 3e-5
) -> bool:
    """Whether a pixel is so close to a threshold (1/255, 0.999, T = 1e-4), or a radius to a whole number, that float32 may
    decide otherwise than float64; one such flip is worth 1e-4 in norm and says nothing about the kernels."""
    doubles = gaussians.map(lambda t: t.double())
    projection = project(replace(doubles, antialiased=antialiased), camera, backend="torch")
    rounded = project(replace(gaussians, antialiased=antialiased), camera, backend="cpu")
    if not torch.equal(projection.radii, rounded.radii):
        return True
    for tile in oracle.tile_lists(projection):
        x0, x1, y0, y1, index = tile
        if len(index) == 0:
            continue
        ys, xs = torch.meshgrid(torch.arange(y0, y1) + 0.5, torch.arange(x0, x1) + 0.5, indexing="ij")
        offsets = (
            projection.means2d[0][index] - torch.stack([xs.reshape(-1), ys.reshape(-1)], -1).double()[:, None]
        )
        a, b, c = projection.conics[0][index].unbind(-1)
        dx, dy = offsets.unbind(-1)
        raw = projection.opacities[0][index] * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
        kept = torch.where(raw >= 1 / 255, raw.clamp(max=0.999), torch.zeros_like(raw))
        after = torch.cumprod(1 - kept, 1)
        for value, threshold in ((raw, 1 / 255), (raw, 0.999), (after, 1e-4)):
            if bool(((value / threshold - 1).abs() < margin).any()):
                return True
    return False


def scenes_without_ties(wanted: int, count: int = 120, antialiased: bool = False) -> list[int]:
    """Seeds of `random_gaussians(count, seed)` under `random_camera(seed=seed)` without near-ties."""
    seeds = []
    for seed in range(10 * wanted):
        if not has_near_tie(random_gaussians(count, seed), random_camera(seed=seed), antialiased):
            seeds.append(seed)
        if len(seeds) == wanted:
            return seeds
    raise AssertionError(f"only {len(seeds)} of {wanted} scenes without near-ties: choose smaller ones")


def run(
    gaussians: Gaussians,
    camera: Camera,
    sizes: Sequence[int],
    geometry_grad: Sequence[float | str],
    backend: str,
    dtype: torch.dtype = torch.float32,
    antialiased: bool = False,
    depth: bool = True,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Values and all gradients of a random linear loss on the maps, alpha and (if asked for) the depth map.

    Groups whose ``geometry_grad`` is "own" move each Gaussian by a share of its own; then there is no absgrad.
    """
    generator = torch.Generator().manual_seed(7)
    height, width = camera.height, camera.width

    def fixed(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype).clone().requires_grad_()

    features = [leaf(fixed(len(gaussians.means), size)) for size in sizes]
    parameters = [leaf(t) for t in gaussians.tensors]
    viewmat = leaf(camera.viewmat)
    projection = project(
        Gaussians(*parameters, antialiased=antialiased),
        camera._replace(viewmat=viewmat, K=camera.K.to(device)),
        backend=backend,
    )
    projection.means2d.retain_grad()
    shares = torch.rand(len(gaussians.means), generator=torch.Generator().manual_seed(8)).to(device, dtype)
    groups, moves = list(features), [shares if share == "own" else share for share in geometry_grad]
    if depth:
        groups.append(projection.depths[0][:, None])
        moves.append(True)
    absgrad = "own" not in geometry_grad
    maps, alpha = rasterize(projection, groups, geometry_grad=moves, absgrad=absgrad)
    loss = (alpha * fixed(height, width, 1)).sum()
    for rendered in maps:
        loss = loss + (rendered * fixed(height, width, rendered.shape[2])).sum()
    loss.backward()
    result = {f"map {k}": m for k, m in enumerate(maps)} | {"alpha": alpha}
    result |= {name: t.grad for name, t in zip(GEOMETRY, parameters, strict=True)}
    result |= {f"features {k}": f.grad for k, f in enumerate(features)}
    result |= {"viewmat": viewmat.grad, "means2d": projection.means2d.grad}
    if absgrad:
        result["absgrad"] = projection.means2d.absgrad
    return {name: t.detach().double().cpu() for name, t in result.items()}


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((value.double() - reference.double()).norm() / reference.double().norm().clamp(min=1e-12))


def assert_alike(values: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float) -> None:
    assert values.keys() == reference.keys()
    errors = {name: relative_error(values[name], reference[name]) for name in reference}
    assert max(errors.values()) < tolerance, errors


def only_visible(projection: Projection) -> Tensor:
    return torch.nonzero(projection.radii[0] > 0)[:, 0]
