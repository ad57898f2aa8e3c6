"""What must hold on any scene: no NaN, no crash, one answer for any number of threads, inputs untouched, clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace

import gsplat
import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.rendering import Camera, Gaussians, backproject, project, rasterize, render

from .scenes import GEOMETRY, random_camera, random_gaussians, relative_error, run

BAD = {
    "means": torch.tensor([[float("nan"), 0, 5], [float("inf"), 0, 5], [0, -float("inf"), 5], [1e38, 0, 1]]),
    "quats": torch.tensor([[0.0, 0, 0, 0], [float("nan"), 0, 0, 1], [float("inf"), 0, 0, 1]]),
    "scales": torch.tensor([[float("nan"), 1, 1], [float("inf"), 1, 1], [1e30, 1e30, 1e30], [0.0, 0, 0]]),
    "opacities": torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0]),
}


def finite(result: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in result.values())


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_never_a_nan(seed, antialiased):
    camera = random_camera(50 + seed, 37 + seed, seed)
    assert finite(
        run(random_gaussians(400, seed), camera, [3, 16], [True, False], "cpu", antialiased=antialiased)
    )


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("field", GEOMETRY)
def test_a_bad_gaussian_is_culled_and_harms_no_other(field, antialiased, backend):
    gaussians, camera = random_gaussians(60), random_camera()
    expected = run(gaussians, camera, [4], [True], backend, antialiased=antialiased, depth=False)
    assert finite(expected)
    for value in BAD[field]:
        spoilt = [torch.cat([t, t[:1]]) for t in gaussians.tensors]
        spoilt[0][-1] = torch.tensor([0, 0, 4.0])
        spoilt[GEOMETRY.index(field)][-1] = value
        spoilt = Gaussians(*spoilt)
        result = run(spoilt, camera, [4], [True], backend, antialiased=antialiased, depth=False)
        assert finite(result), value
        if not (field == "scales" and bool(torch.isfinite(value).all())):
            assert project(spoilt, camera, backend=backend).radii[0, -1] == 0 or field == "opacities"
            for name in ("means", "quats", "opacities"):
                assert result[name][-1].abs().sum() == 0
            assert torch.equal(result["alpha"], expected["alpha"])


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e3, 1e6])
@pytest.mark.parametrize("distance", [0.0101, 1.0, 1e6])
def test_extreme_sizes_stay_finite(scale, distance):
    n = 20
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n, 3, generator=generator) * 0.01 * distance
    means[:, 2] = distance
    gaussians = Gaussians(
        means, torch.randn(n, 4, generator=generator), torch.full((n, 3), scale), torch.ones(n)
    )
    camera = random_camera()._replace(viewmat=torch.eye(4))
    for antialiased in (False, True):
        assert finite(run(gaussians, camera, [3], [True], "cpu", antialiased=antialiased))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_nothing_to_see(backend):
    camera = random_camera()
    nobody = Gaussians(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0))
    behind = random_gaussians(20)
    behind = replace(behind, means=behind.means - torch.tensor([0, 0, 100.0]))
    transparent = replace(random_gaussians(20), opacities=torch.zeros(20))
    for gaussians in (nobody, behind, transparent):
        result = (
            run(gaussians, camera, [3, 16], [True, False], backend, depth=False)
            if len(gaussians.means)
            else {}
        )
        for name, tensor in result.items():
            assert tensor.abs().sum() == 0, name
        maps, alpha = render(gaussians, camera, torch.ones(len(gaussians.means), 3), backend=backend)
        assert maps.shape == (camera.height, camera.width, 3) and alpha.shape == (
            camera.height,
            camera.width,
            1,
        )
        assert maps.abs().sum() == 0 and alpha.abs().sum() == 0
        assert backproject(gaussians, camera, maps + 1, backend=backend).shape == (len(gaussians.means), 3)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 3), (5, 40)])
def test_lanes_outside_the_image_take_no_part(size):
    """A picture is the corner of a larger one: no pixel outside may touch an inner one or its gradients."""
    width, height = size
    camera = random_camera(48, 48)
    gaussians = random_gaussians(200)
    large, _ = render(gaussians, camera, torch.ones(200, 2), backend="cpu")
    small, alpha = render(gaussians, camera._replace(width=width, height=height), torch.ones(200, 2))
    # the Jacobian's clamp and the culling depend on the size of the image, but not for what lies well inside
    result = run(gaussians, camera._replace(width=width, height=height), [2], [True], "cpu")
    reference = run(
        gaussians, camera._replace(width=width, height=height), [2], [True], "torch", torch.float64
    )
    assert large.shape == (48, 48, 2)
    assert (
        float(
            (small.double() - render_double(gaussians, camera._replace(width=width, height=height)))
            .abs()
            .max()
        )
        < 1e-3
    )
    assert float((result["features 0"] - reference["features 0"]).abs().max()) < 2e-2
    assert alpha.shape == (height, width, 1)


def render_double(gaussians: Gaussians, camera: Camera) -> torch.Tensor:
    doubles = gaussians.map(lambda t: t.double())
    ones = torch.ones(len(gaussians.means), 2, dtype=torch.float64)
    return render(doubles, camera, ones, backend="torch")[0]


def test_a_stack_of_opaque_gaussians_stops():
    """The Gaussian at which a pixel stops is not blended: it gets no weight, forward or backward."""
    n = 12
    means = torch.zeros(n, 3)
    means[:, 2] = 2 + 0.1 * torch.arange(n)
    gaussians = Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.full((n, 3), 2.0), torch.full((n,), 0.95)
    )
    K = torch.tensor([[20.0, 0, 10], [0, 20.0, 10], [0, 0, 1]])
    camera = Camera(torch.eye(4), K, 20, 20)
    sums = backproject(gaussians, camera, torch.ones(20, 20, 1))[:, 0]
    features = torch.zeros(n, 1, requires_grad=True)
    projection = project(gaussians, camera)
    (maps,), alpha = rasterize(projection, [features])
    (expected,) = torch.autograd.grad(maps.sum(), features)
    assert torch.allclose(sums, expected[:, 0], rtol=1e-5, atol=1e-5)
    assert (sums[:2] > 0).all() and (sums[8:] == 0).all()
    assert float(1 - alpha.detach().max()) > 0.99e-4


def test_one_answer_for_any_number_of_threads():
    gaussians, camera = random_gaussians(3000, 1), random_camera(160, 120)
    results = []
    try:
        for threads in (1, 2, 3):
            rendering.set_num_threads(threads)
            results.append(run(gaussians, camera, [3, 16], [True, False], "cpu"))
    finally:
        rendering.set_num_threads(None)
    for result in results[1:]:
        for name, tensor in result.items():
            if name == "viewmat":  # a sum over the threads' shares
                assert relative_error(tensor, results[0][name]) < 1e-5
            else:
                assert torch.equal(tensor, results[0][name]), name


def test_the_same_answer_twice():
    gaussians, camera = random_gaussians(1000, 2), random_camera(90, 70)
    first, second = (run(gaussians, camera, [3, 16], [True, True], "cpu") for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_several_python_threads_at_once():
    """The viewer renders from its own thread while training goes on."""
    gaussians, camera = random_gaussians(500), random_camera()
    features = torch.rand(500, 20)
    expected, _ = render(gaussians, camera, features)
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            maps, _ = render(gaussians, camera, features)
            if not torch.equal(maps, expected):
                failures.append("another picture")

    rendering.set_num_threads(2)
    try:
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert not failures and not any(worker.is_alive() for worker in workers)
    finally:
        rendering.set_num_threads(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_renders_too():
    gaussians, camera = random_gaussians(200), random_camera()
    features = torch.rand(200, 4)
    rendering.set_num_threads(2)
    try:
        expected, _ = render(gaussians, camera, features)
        child = os.fork()
        if child == 0:
            maps, _ = render(gaussians, camera, features)
            # difference by numpy: torch's own threads do not survive a fork
            os._exit(0 if bool((maps.numpy() == expected.numpy()).all()) else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        rendering.set_num_threads(None)


def test_inputs_are_left_alone():
    gaussians, camera = random_gaussians(100), random_camera()
    features = torch.rand(100, 5)
    before = [t.clone() for t in (*gaussians.tensors, features)]
    render(gaussians, camera, features)
    backproject(gaussians, camera, torch.rand(camera.height, camera.width, 5))
    assert all(torch.equal(a, b) for a, b in zip(before, (*gaussians.tensors, features), strict=True))


def test_float64_and_strided_inputs_are_cast():
    gaussians, camera = random_gaussians(100), random_camera()
    features = torch.rand(5, 100).T
    expected, _ = render(gaussians, camera, features.contiguous())
    means = gaussians.means.double().requires_grad_()
    maps, _ = render(replace(gaussians, means=means), camera, features)
    assert maps.dtype == torch.float32 and torch.equal(maps, expected)
    maps.sum().backward()
    assert means.grad.dtype == torch.float64


def test_maps_may_be_changed_in_place():
    features = torch.rand(50, 3, requires_grad=True)
    projection = project(random_gaussians(50), random_camera())
    (rgb, other), _ = rasterize(projection, [features, features * 2])
    rgb += 1
    (rgb.sum() + other.sum()).backward()
    assert features.grad is not None


@pytest.mark.skipif(
    gsplat.__version__ >= "1.5", reason="gsplat 1.5 has other radii (rendering/gsplat_versions.py)"
)
def test_info_satisfies_gsplats_strategy():
    from gsplat import DefaultStrategy

    gaussians, camera = random_gaussians(80), random_camera()
    params = torch.nn.ParameterDict(
        {
            "means": gaussians.means,
            "quats": gaussians.quats,
            "scales": gaussians.scales.log(),
            "opacities": torch.logit(gaussians.opacities.clamp(0.01, 0.99))[:, None],
        }
    )
    for absgrad in (True, False):
        strategy = DefaultStrategy(absgrad=absgrad, refine_scale2d_stop_iter=10)
        state = strategy.initialize_state()
        live = Gaussians(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid()[:, 0]
        )
        projection = project(live, camera)
        info = projection.info()
        (rgb,), _ = rasterize(projection, [torch.rand(80, 3)], absgrad=absgrad)
        strategy.step_pre_backward(params, {}, state, 1, info)
        rgb.square().sum().backward()
        strategy.step_post_backward(params, {}, state, 1, info)
        visible = projection.radii[0] > 0
        assert torch.equal(state["count"] > 0, visible) and visible.any() and not visible.all()
        assert state["grad2d"][visible].sum() > 0 and state["grad2d"][~visible].sum() == 0


def test_errors_name_what_was_wrong(monkeypatch):
    gaussians, camera = random_gaussians(10), random_camera()
    features = torch.rand(10, 3)
    with pytest.raises(ValueError, match="gsplat backend needs CUDA tensors"):
        render(gaussians, camera, features, backend="gsplat")
    with pytest.raises(ValueError, match="expected auto, gsplat, cpu or torch"):
        render(gaussians, camera, features, backend="metal")
    with pytest.raises(ValueError, match=r"quats has shape \[10, 3\]: expected \[10, 4\]"):
        render(replace(gaussians, quats=gaussians.means), camera, features)
    with pytest.raises(ValueError, match=r"features\[0\] has shape \[9, 3\]: expected \[10, C\]"):
        render(gaussians, camera, features[:9])
    with pytest.raises(ValueError, match=r"maps has shape \[3, 3, 1\]"):
        backproject(gaussians, camera, torch.rand(3, 3, 1))
    with pytest.raises(ValueError, match="2 entries for 1 groups"):
        rasterize(project(gaussians, camera), [features], geometry_grad=[True, False])
    with pytest.raises(ValueError, match=r"geometry_grad has shape \[9\]: expected \[10\]"):
        rasterize(project(gaussians, camera), [features], geometry_grad=[torch.ones(9)])
    with pytest.raises(ValueError, match="expected one tensor for all groups and no absgrad"):
        rasterize(project(gaussians, camera), [features], geometry_grad=[torch.ones(10)], absgrad=True)
    with pytest.raises(ValueError, match="degree 3 needs 16"):
        rendering.spherical_harmonics(3, gaussians.means, torch.rand(10, 9, 3))
    monkeypatch.setenv("GRADISEG_BACKEND", "opengl")
    with pytest.raises(ValueError, match="GRADISEG_BACKEND is 'opengl'"):
        render(gaussians, camera, features)
    monkeypatch.setenv("GRADISEG_BACKEND", "torch")
    assert project(gaussians, camera).backend == "torch"
    monkeypatch.delenv("GRADISEG_BACKEND")
    assert rendering.default_backend(features) == "cpu"
    with pytest.raises(ValueError, match="at least 1 thread"):
        rendering.set_num_threads(0)


def test_threads_from_the_environment(monkeypatch):
    from gradiseg_ns.rendering.cpu import threads

    monkeypatch.setenv("GRADISEG_NUM_THREADS", "3")
    assert threads.get_num_threads() == 3
    rendering.set_num_threads(2)
    assert threads.get_num_threads() == 2
    rendering.set_num_threads(None)
    monkeypatch.setenv("GRADISEG_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="GRADISEG_NUM_THREADS is 'many'"):
        threads.get_num_threads()


def test_an_exception_in_a_task_is_raised_here():
    from gradiseg_ns.rendering.cpu import threads

    def fail(task: int) -> None:
        if task == 3:
            raise RuntimeError("task 3")

    rendering.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="task 3"):
            threads.parallel(8, fail)
    finally:
        rendering.set_num_threads(None)


def test_kernels_compile_where_nothing_can_be_kept(monkeypatch):
    from gradiseg_ns.rendering.cpu import compiling

    original = compiling.njit

    def without_cache_folder(**options: object):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(**options)

    monkeypatch.setattr(compiling, "njit", without_cache_folder)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        successor = compiling.kernel(lambda x: x + 1)
    assert successor(1) == 2


def test_import_is_light():
    code = "import sys, gradiseg_ns.rendering; print([m for m in ('numba', 'gsplat', 'nerfstudio') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
