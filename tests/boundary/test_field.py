"""Interpolation, the field and volume rendering, each against a slow loop or a promise of its docstring."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from gradiseg_ns.boundary.field import (
    BoundaryField,
    BoundaryPoints,
    FieldValues,
    interpolate,
    kernel,
    volume_render,
)
from tests.devices import here

from ..rendering.scenes import relative_error
from .tcnn import stand_in, tcnn_hash_grid, tcnn_perceptron

pytestmark = pytest.mark.usefixtures("device")

DIM = 4


def small_field(seed: int = 0, **options: bool | int) -> BoundaryField:
    """A field of torch whose box is -1 to 1 on each axis, spacing 0.1."""
    torch.manual_seed(seed)
    sizes = {"levels": 6, "log2_size": 12, "width": 32, "max_resolution": 256}
    field = BoundaryField(DIM, implementation="torch", **(sizes | options)).to(here())  # type: ignore[arg-type]
    field.place(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]).repeat_interleave(100, 0), 0.1)
    return field


def inputs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in the box, and what would be interpolated there."""
    generator = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(count, 3, generator=generator) - 1
    return points, torch.rand(count, 3 + DIM + 2, generator=generator)


# ------------------------------------------------------------- boundary points


def test_points_know_their_neighbours_and_bandwidths() -> None:
    torch.manual_seed(0)
    means = torch.randn(300, 3)
    means[5, 1] = torch.nan
    chosen = torch.rand(300) < 0.5
    chosen[5] = True
    points = BoundaryPoints.create(means, chosen, 6)
    assert points is not None
    chosen[5] = False
    assert torch.equal(points.indices, chosen.nonzero()[:, 0]) and len(points) == int(chosen.sum())
    assert torch.equal(points.means, means[points.indices])
    distance = torch.cdist(points.means.double(), points.means.double())
    distance.fill_diagonal_(torch.inf)
    nearest, rows = distance.topk(6, largest=False)
    assert torch.equal(points.neighbors.sort(1).values, rows.sort(1).values)
    torch.testing.assert_close(points.bandwidth.double(), nearest.mean(1), rtol=1e-5, atol=1e-6)
    assert points.spacing == float(points.bandwidth.median())


def test_coincident_points_are_not_their_own_neighbours() -> None:
    means = torch.zeros(30, 3)
    means[20:] = torch.arange(10.0)[:, None]
    points = BoundaryPoints.create(means, torch.ones(30, dtype=torch.bool), 4)
    assert points is not None
    assert points.neighbors.shape == (30, 4)
    assert not (points.neighbors == torch.arange(30)[:, None]).any()
    assert all(len(set(row)) == 4 for row in points.neighbors.tolist())
    assert 0 < float(points.bandwidth[0]) < 1e-6, "no kernel is divided by 0"
    _, values = points.nearest(torch.tensor([[0.0, 0, 0], [0.4, 0, 0]]))
    assert bool(values.isfinite().all())


def test_few_points() -> None:
    means = torch.randn(4, 3)
    nobody = torch.zeros(4, dtype=torch.bool)
    assert BoundaryPoints.create(means, nobody) is None
    alone = nobody.clone()
    alone[2] = True
    assert BoundaryPoints.create(means, alone) is None
    alone[0] = True
    points = BoundaryPoints.create(means, alone)
    assert points is not None
    assert points.neighbors.tolist() == [[1], [0]]
    rows, values = points.nearest(means)
    assert rows.shape == values.shape == (4, 1)
    assert rows[[0, 2], 0].tolist() == [0, 1]


def test_nearest_and_their_kernel_values() -> None:
    torch.manual_seed(0)
    points = BoundaryPoints.create(torch.randn(200, 3), torch.ones(200, dtype=torch.bool), 5)
    assert points is not None
    queries = torch.randn(40, 3)
    rows, values = points.nearest(queries)
    distance = torch.cdist(queries.double(), points.means.double())
    nearest, expected = distance.topk(5, largest=False)
    assert torch.equal(rows.sort(1).values, expected.sort(1).values)
    own = torch.exp(-0.5 * (nearest / points.bandwidth.double()[expected]) ** 2)
    torch.testing.assert_close(
        values.double().gather(1, rows.argsort(1)), own.gather(1, expected.argsort(1)), rtol=1e-4, atol=1e-6
    )


# --------------------------------------------------------------- interpolation


def test_interpolation_is_the_loop() -> None:
    torch.manual_seed(0)
    weights, rows = torch.rand(6, 3, dtype=torch.float64), torch.randint(5, (6, 3))
    features = torch.randn(5, 4, dtype=torch.float64)
    found, near = interpolate(weights, rows, features)
    for p in range(6):
        total, values = 0.0, torch.zeros(4, dtype=torch.float64)
        for k in range(3):
            total += float(weights[p, k])
            values += weights[p, k] * features[rows[p, k]]
        torch.testing.assert_close(found[p], values / (total + 1e-3))
        assert float(near[p]) == max(weights[p].tolist())


def test_gradients_of_the_interpolation() -> None:
    torch.manual_seed(0)
    weights, rows = torch.rand(6, 3, dtype=torch.float64), torch.randint(5, (6, 3))
    features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: interpolate(weights, rows, f), features)


def test_interpolation_keeps_constants_near_and_vanishes_far() -> None:
    torch.manual_seed(0)
    points = BoundaryPoints.create(torch.rand(500, 3), torch.ones(500, dtype=torch.bool))
    assert points is not None
    features = torch.full((500, 2), 0.7)
    rows, values = points.nearest(torch.cat([points.means[:50], torch.full((1, 3), 100.0)]))
    found, near = interpolate(values, rows, features)
    torch.testing.assert_close(found[:50], features[:50], rtol=2e-3, atol=0)
    torch.testing.assert_close(near[:50], torch.ones(50, 1))
    assert not found[50].any() and not near[50].any()
    assert float(kernel(torch.tensor(1.0))) == pytest.approx(math.exp(-0.5))


# ------------------------------------------------------------ volume rendering


def _slow(density: Tensor, rgb: Tensor, identity: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Front to back, sample after sample."""
    rays, samples = lengths.shape
    colors, identities, opacities = [], [], []
    for r in range(rays):
        transmittance = torch.ones((), dtype=lengths.dtype)
        color, ids = torch.zeros(3, dtype=lengths.dtype), torch.zeros(identity.shape[1], dtype=lengths.dtype)
        for s in range(samples):
            at = r * samples + s
            alpha = 1 - torch.exp(-density[at] * lengths[r, s])
            color = color + transmittance * alpha * rgb[at]
            ids = ids + transmittance * alpha * identity[at]
            transmittance = transmittance * (1 - alpha)
        colors.append(color)
        identities.append(ids)
        opacities.append(1 - transmittance)
    return torch.stack(colors), torch.stack(identities), torch.stack(opacities)


def test_volume_rendering_is_the_loop_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    lengths = torch.rand(3, 5, dtype=torch.float64) + 0.1
    leaves = [torch.rand(15, *shape, dtype=torch.float64) for shape in ((), (3,), (DIM,))]
    given = [torch.randn(3, *shape, dtype=torch.float64) for shape in ((3,), (DIM,), ())]
    results = []
    for render in (lambda *v: volume_render(FieldValues(*v), lengths), lambda *v: _slow(*v, lengths)):
        own = [2 * leaf.clone().requires_grad_() for leaf in leaves]
        shown = render(*own)
        loss = sum((a * b).sum() for a, b in zip(shown, given, strict=True))
        results.append((*shown, *torch.autograd.grad(loss, own)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_dense_rays_are_opaque_and_empty_ones_clear() -> None:
    rgb, identity = torch.rand(8, 3), torch.rand(8, DIM)
    lengths = torch.full((2, 4), 0.1)
    dense = volume_render(FieldValues(torch.full((8,), 1e4), rgb, identity), lengths)
    torch.testing.assert_close(dense.opacity, torch.ones(2))
    torch.testing.assert_close(dense.rgb, rgb[::4])  # the first sample of each ray hides the rest
    torch.testing.assert_close(dense.identity, identity[::4])
    empty = volume_render(FieldValues(torch.zeros(8), rgb, identity), lengths)
    assert not empty.opacity.any() and not empty.rgb.any() and not empty.identity.any()


def test_the_order_of_samples_matters() -> None:
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    density, lengths = torch.tensor([1.0, 1.0]), torch.ones(1, 2)
    shown, swapped = (
        volume_render(FieldValues(density, torch.stack(colors), torch.zeros(2, 1)), lengths)
        for colors in ((red, blue), (blue, red))
    )
    front = 1 - math.exp(-1)
    torch.testing.assert_close(shown.rgb, torch.tensor([[front, 0, math.exp(-1) * front]]))
    torch.testing.assert_close(shown.rgb, swapped.rgb.flip(1))
    torch.testing.assert_close(shown.opacity, swapped.opacity)


# ------------------------------------------------------------------- the field


def test_the_field_starts_near_what_is_interpolated() -> None:
    field = small_field()
    points, inter = inputs(300)
    with torch.no_grad():
        values, other = field(points, inter), field(points, inter + 1.0)
    assert values.density.shape == (300,)
    assert values.rgb.shape == (300, 3) and values.identity.shape == (300, DIM)
    assert float((values.rgb - inter[:, :3]).abs().max()) < 0.4
    assert float((values.identity - inter[:, 3 : 3 + DIM]).abs().max()) < 0.4
    torch.testing.assert_close(values.density * field.spacing, torch.ones(300), rtol=0, atol=0.3)
    assert float((other.rgb - values.rgb).mean()) == pytest.approx(1.0, abs=0.4)


def test_nothing_breaks_far_outside() -> None:
    field = small_field()
    points, inter = inputs(8)
    points[:4] *= torch.tensor([1e3, 1e6, 1e12, 1e18])[:, None]
    points[4], points[5] = 0.0, field.center  # where the contraction divides by nothing
    values = field(points, inter)
    assert all(bool(part.isfinite().all()) for part in values)
    (values.density.sum() * 1e-3 + values.rgb.sum() + values.identity.sum()).backward()
    gradients = [p.grad for p in field.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    place = field.encode_position(points)
    assert float(place.min()) >= 0 and float(place.max()) <= 1


def test_the_box_holds_the_points() -> None:
    field = BoundaryField(DIM, implementation="torch", levels=2, log2_size=8, width=16).to(here())
    assert not field.placed
    torch.manual_seed(0)
    points = torch.rand(2000, 3) * torch.tensor([4.0, 2, 1]) + 10
    points[0] = 1e5  # one stray
    field.place(points, 0.2)
    assert field.placed and field.spacing == pytest.approx(0.2)
    torch.testing.assert_close(field.center, torch.tensor([12.0, 11, 10.5]), rtol=0, atol=0.1)
    assert field.radius == pytest.approx(2.0, abs=0.1)
    place = field.encode_position(points[1:])
    inner = ((place >= 0.25) & (place <= 0.75)).all(dim=1)  # where nothing is contracted
    assert float(inner.float().mean()) > 0.95


def test_without_hash_grid_the_place_does_not_matter() -> None:
    field = small_field(use_hash=False)
    points, inter = inputs(50)
    here, there = field(points, inter), field(points.flip(0) * 3, inter)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(here.rgb, field(points, inter.flip(0)).rgb)


def test_without_interpolation_it_does_not_matter() -> None:
    field = small_field(use_rbf=False)
    with torch.no_grad():
        field.hash.hash_table.uniform_(-1, 1)  # as if it had learned
    points, inter = inputs(50)
    here, other = field(points, inter), field(points, inter.flip(0) + 1)
    assert all(torch.equal(a, b) for a, b in zip(here, other, strict=True))
    assert not torch.equal(here.rgb, field(points.flip(0), inter).rgb)


def _errors(use_hash: bool) -> tuple[float, float]:
    """Before and after training on two colours, identities and densities with an edge that is not interpolated."""
    field = small_field(use_hash=use_hash, levels=4, width=16)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    points, _ = inputs(256)
    side = (points[:, 0] + 0.3 * points[:, 1] > 0.1).float()[:, None]
    inter = torch.full((256, 3 + DIM + 2), 0.5)

    def loss() -> Tensor:
        values = field(points, inter)
        relative = values.density * field.spacing
        return (
            (values.rgb - side).square().mean()
            + (values.identity - side).square().mean()
            + (torch.log(relative + 1e-3) - side[:, 0]).square().mean()
        )

    before = float(loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    return before, float(loss().detach())


def test_the_field_learns_an_edge_that_is_not_interpolated() -> None:
    before, after = _errors(use_hash=True)
    assert after < 0.1 * before
    _, blurred = _errors(use_hash=False)
    assert blurred > 5 * after, "without the hash grid it can only learn the mean"


def test_the_hash_grid_is_continuous() -> None:
    field = small_field(max_resolution=64).requires_grad_(False)
    field.hash.hash_table.uniform_(-1, 1)
    torch.manual_seed(0)
    step = 1e-5
    for scaling in field.hash.scalings.tolist():
        faces = torch.arange(1, int(scaling)) / scaling  # of the cells, in the contracted box
        place = torch.rand(len(faces), 3)
        for axis in range(3):
            below, above = place.clone(), place.clone()
            below[:, axis], above[:, axis] = faces - step, faces + step
            change = (field.hash(above) - field.hash(below)).abs().max()
            bound = 2 * step * 2 * float(field.hash.scalings.max())  # values are in -1..1
            assert float(change) < 1.1 * bound + 1e-4
    for edge in (0.25, 0.75):  # and where the contraction begins
        inside, outside = (torch.rand(200, 3) * 0.4 + 0.3 for _ in range(2))
        inside[:, 0] = outside[:, 0] = 4 * edge - 2
        inside[:, 1:] = outside[:, 1:]
        inside[:, 0] *= 1 - step
        outside[:, 0] *= 1 + step
        near, far = field.encode_position(inside), field.encode_position(outside)
        torch.testing.assert_close(near, far, rtol=0, atol=2 * step)
        assert float((field.hash(near) - field.hash(far)).abs().max()) < 0.01
    apart = (field.hash(torch.rand(200, 3)) - field.hash(torch.rand(200, 3))).abs().max()
    assert float(apart) > 0.5, "over a longer way it does change"


@pytest.mark.gpu
def test_the_field_on_cuda_is_that_of_the_cpu() -> None:
    field = small_field().cpu()
    with torch.no_grad():
        field.hash.hash_table.uniform_(-0.1, 0.1)
    moved = copy.deepcopy(field).cuda()
    points, inter = inputs(300)
    points[:20] *= 10
    results = []
    for module, device in ((field, "cpu"), (moved, "cuda")):
        values = module(points.to(device), inter.to(device))
        shown = volume_render(values, torch.full((30, 10), 0.02, device=device))
        (shown.rgb.sum() + shown.identity.square().sum() + shown.opacity.sum()).backward()
        results.append([*values, *shown, *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None
        assert relative_error(b.detach().cpu(), a.detach()) < 1e-3


# ----------------------------------------------- tiny-cuda-nn against an oracle


def test_the_oracle_of_a_perceptron_is_torchs() -> None:
    torch.manual_seed(0)
    values, first, last = torch.randn(20, 16), torch.randn(32, 16), torch.randn(16, 32)
    params = torch.cat([first.reshape(-1), last.reshape(-1)])
    expected = torch.nn.functional.linear(torch.nn.functional.linear(values, first).relu(), last)[:, :5]
    torch.testing.assert_close(tcnn_perceptron(values, params, outputs=5, width=32, hidden=1), expected)
    padded = tcnn_perceptron(values[:, :14], params, outputs=5, width=32, hidden=1)
    values[:, 14:] = 1
    torch.testing.assert_close(
        tcnn_perceptron(values, params, outputs=5, width=32, hidden=1), padded
    )  # fmt: skip


def test_the_oracle_of_a_dense_level_is_trilinear() -> None:
    torch.manual_seed(0)
    table = torch.randn(512, 1)  # one level of 8^3, scale 7
    points = torch.rand(50, 3) * 0.8 + 0.1
    found = tcnn_hash_grid(points, table[:, 0], levels=1, features=1, log2_size=9, base=8, growth=1.0)
    volume = table.reshape(1, 1, 8, 8, 8)  # z, y, x
    place = (points * 7 + 0.5) / 7 * 2 - 1
    expected = torch.nn.functional.grid_sample(volume, place[None, None, None], align_corners=True)
    torch.testing.assert_close(found[:, 0], expected.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_tiny_cuda_nn_computes_what_is_expected_of_it() -> None:
    pytest.importorskip("tinycudann")
    torch.manual_seed(0)
    field = BoundaryField(DIM, implementation="tcnn").cuda()
    grid = field.hash
    params = grid.tcnn_encoding.params
    with torch.no_grad():
        params.uniform_(-1, 1)
    points = torch.rand(1000, 3, device="cuda") * 0.98 + 0.01
    expected = tcnn_hash_grid(
        points,
        params.detach().half().float(),
        levels=grid.num_levels,
        features=grid.features_per_level,
        log2_size=grid.log2_hashmap_size,
        base=grid.min_res,
        growth=float(grid.growth_factor),
    )
    found = grid(points).float()
    assert found.shape == (1000, grid.get_out_dim())
    assert relative_error(found.detach(), expected) < 5e-3
    for perceptron in (field.trunk, field.film, field.head):
        params = perceptron.tcnn_encoding.params
        with torch.no_grad():
            params.normal_(std=0.15)
        values = (2 * torch.rand(1000, perceptron.in_dim, device="cuda") - 1).half().float()
        expected = tcnn_perceptron(
            values,
            params.detach().half().float(),
            outputs=perceptron.out_dim,
            width=perceptron.layer_width,
            hidden=perceptron.num_layers - 1,
        )
        found = perceptron(values).float()
        assert found.shape == expected.shape
        assert relative_error(found.detach(), expected) < 1e-2
    values = field(*(t.cuda() for t in inputs(100)))
    assert all(part.dtype == torch.float32 and bool(part.isfinite().all()) for part in values)


# ------------------------------------------------- the field on tinycudann's habits


@pytest.fixture
def tinycudann(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("encodings", "mlp"):
        monkeypatch.setattr(f"nerfstudio.field_components.{module}.TCNN_EXISTS", True)
        monkeypatch.setattr(f"nerfstudio.field_components.{module}.tcnn", stand_in())


@pytest.mark.usefixtures("tinycudann")
def test_the_field_on_tinycudann_learns() -> None:
    """Half-precision results, flat parameters, padded batches: values are float32, every parameter learns."""
    field = BoundaryField(DIM, implementation="tcnn", levels=4, log2_size=10).to(here())
    assert {p.dim() for p in field.parameters()} == {1}, "one flat vector a module"
    field.place(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]).repeat_interleave(100, 0), 0.1)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.01)
    points, inter = inputs(333)
    wanted = torch.sin(3 * points)
    losses = []
    for _ in range(60):
        values = field(points, inter)
        assert values.density.dtype == values.rgb.dtype == values.identity.dtype == torch.float32
        loss = (values.rgb - wanted).square().mean() + values.density.mean() + values.identity.square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in field.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.usefixtures("tinycudann")
def test_the_losses_ask_tinycudann_for_first_derivatives_only() -> None:
    field = BoundaryField(DIM, implementation="tcnn", levels=2, log2_size=8).to(here())
    points, inter = inputs(20)
    points.requires_grad_()
    values = field(points, inter)
    (gradient,) = torch.autograd.grad(values.density.sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # what the smoothness must not do: it takes differences instead
