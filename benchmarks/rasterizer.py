"""Speed of the CPU kernels: forward, and forward with backward, against plain torch, and pairs per second.

    python benchmarks/rasterizer.py                      # 20,000 Gaussians at 256x256 and 100,000 at 512x512, 20 channels
    python benchmarks/rasterizer.py --threads 1 --repeats 30
    python benchmarks/rasterizer.py --scene garden.npz   # points and camera of a real scene, as gsplat's test asset has them

The scene is made here and costs the kernels as much as a trained one: points on surfaces, flat anisotropic Gaussians whose size is the
distance to their neighbours, most of them either opaque or nearly transparent, about half of them in view. Every time is the best of
`--repeats` runs, because other work may disturb a run. Plain torch (autograd over dense 16x16 tiles) runs once. A *pair* is a pixel in
a 4x4 group that blends a Gaussian; the kernels' inner loops count pairs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

# libgomp reads this when torch loads it: its idle threads would spin on the cores that the kernels' threads need
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from gradiseg_ns.rendering import (
    Camera,
    Gaussians,
    backproject,
    project,
    rasterize,
    set_num_threads,
    spherical_harmonics,
)

CHANNELS = 20
MOVING = 4
SH_DEGREE = 3


def synthetic_points(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 3] points: a floor 12 wide, a wall behind, and thirty balls on the floor."""
    kinds = rng.choice(3, count, p=[0.35, 0.15, 0.5])
    points = rng.uniform(-6, 6, (count, 3))
    points[:, 1] = np.where(kinds == 0, 0.03 * rng.standard_normal(count), -np.abs(points[:, 1]))
    points[kinds == 1, 2] = 6
    centers = rng.uniform(-4, 4, (30, 3))
    radii = rng.uniform(0.2, 0.8, 30)
    centers[:, 1] = -radii
    ball = rng.integers(0, 30, count)
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.where((kinds == 2)[:, None], centers[ball] + radii[ball, None] * direction, points)


def make_scene(count: int, size: int, path: Path | None) -> tuple[Gaussians, Camera, Tensor]:
    """A trained-like scene: the Gaussians, a square camera, and features [count, CHANNELS]."""
    rng = np.random.default_rng(0)
    if path is None:
        points = synthetic_points(count, rng)
        viewmat = np.eye(4)
        viewmat[:3, 3] = 0, 1.5, 4.5  # stands on the near side, looks over the floor at the wall
        focal = 0.8 * size
    else:
        asset = np.load(path)
        points = asset["means3d"].astype(np.float64)
        if count > len(points):
            raise SystemExit(
                f"--scene {path} has {len(points)} points; a size asks for {count}: see --sizes."
            )
        points = points[rng.choice(len(points), count, replace=False)]
        viewmat = asset["viewmats"][0]
        focal = float(asset["Ks"][0, 0, 0]) * size / min(int(asset["width"]), int(asset["height"]))
    distance = KDTree(points).query(points, k=4)[0][:, 1:].mean(1)
    distance = np.minimum(distance, np.quantile(distance, 0.995))
    scales = distance[:, None] * np.exp(0.5 * rng.standard_normal((count, 3)) - 0.5)
    scales[np.arange(count), rng.integers(0, 3, count)] *= 0.2
    opacities = 1 / (1 + np.exp(-(0.5 + 2 * rng.standard_normal(count))))
    K = [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]

    def tensor(values: object) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float32)

    gaussians = Gaussians(
        tensor(points), tensor(rng.standard_normal((count, 4))), tensor(scales), tensor(opacities)
    )
    features = tensor(rng.standard_normal((count, CHANNELS)))
    return gaussians, Camera(tensor(viewmat), tensor(K), size, size), features


def best(function: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of `repeats` calls. The first call compiles and is not counted."""
    if repeats > 1:
        function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def measure(count: int, size: int, scene: Path | None, repeats: int, with_torch: bool) -> None:
    from gradiseg_ns.rendering.cpu_backend import count_pairs

    gaussians, camera, features = make_scene(count, size, scene)
    leaves = [t.clone().requires_grad_() for t in (*gaussians.tensors, features)]
    live, live_features = Gaussians(leaves[0], leaves[1], leaves[2], leaves[3]), leaves[4]
    cotangent = torch.randn(size, size, CHANNELS, generator=torch.Generator().manual_seed(0))
    moving_part, resting_part = cotangent[..., :MOVING].contiguous(), cotangent[..., MOVING:].contiguous()
    cover = cotangent[..., :1].contiguous()

    def forward(backend: str = "cpu") -> None:
        with torch.no_grad():
            rasterize(project(gaussians, camera, backend=backend), [features])

    def everything(backend: str = "cpu") -> None:
        projection = project(live, camera, backend=backend)
        (maps,), alpha = rasterize(projection, [live_features], absgrad=True)
        torch.autograd.backward([maps, alpha], [cotangent, cover])
        clear()

    moving, resting = (
        part.clone().requires_grad_() for part in features.split([MOVING, CHANNELS - MOVING], -1)
    )

    def joint() -> None:
        projection = project(live, camera, backend="cpu")
        maps, alpha = rasterize(projection, [moving, resting], geometry_grad=[True, False], absgrad=True)
        torch.autograd.backward([*maps, alpha], [moving_part, resting_part, cover])
        clear()

    def clear() -> None:
        for leaf in (*leaves, moving, resting):
            leaf.grad = None

    directions = torch.nn.functional.normalize(gaussians.means + 3, dim=-1)
    coeffs = torch.randn(count, (SH_DEGREE + 1) ** 2, 3).requires_grad_()
    seen = (projection := project(gaussians, camera, backend="cpu")).radii[0] > 0
    v_colors = torch.randn(count, 3)

    def harmonics(backend: str = "cpu") -> None:
        colors = spherical_harmonics(SH_DEGREE, directions, coeffs, mask=seen, backend=backend)
        torch.autograd.grad(colors, coeffs, v_colors)

    forward_ms, everything_ms = best(forward, repeats), best(everything, repeats)
    pairs = count_pairs(projection)
    rows = [
        ("projection", best(lambda: project(gaussians, camera, backend="cpu"), repeats)),
        ("forward (projection, lists, blend)", forward_ms),
        (f"forward + backward, {CHANNELS} channels move the geometry", everything_ms),
        (f"forward + backward, {MOVING} of {CHANNELS} channels do", best(joint, repeats)),
        ("backproject", best(lambda: backproject(gaussians, camera, cotangent, backend="cpu"), repeats)),
        (f"spherical harmonics of degree {SH_DEGREE}, forward + backward", best(harmonics, repeats)),
    ]
    visible = int(seen.sum())
    print(
        f"\n{count:,} Gaussians at {size}x{size}, {CHANNELS} channels: {visible:,} in view, {pairs / 1e6:.2f} M pairs"
    )
    for name, milliseconds in rows:
        print(f"  {name:<58}{milliseconds:9.1f} ms")
    print(
        f"  pairs per second, forward / forward + backward: {pairs / forward_ms / 1e6:.2f} G / {pairs / everything_ms / 1e6:.2f} G"
    )
    if with_torch:
        torch_forward, torch_everything = (
            best(lambda: forward("torch"), 1),
            best(lambda: everything("torch"), 1),
        )
        print(
            f"  plain torch, forward / forward + backward: {torch_forward:.0f} / {torch_everything:.0f} ms",
            end=", ",
        )
        print(f"{torch_forward / forward_ms:.0f} / {torch_everything / everything_ms:.0f} times as long")
        torch_harmonics = best(lambda: harmonics("torch"), min(repeats, 3))
        print(f"  plain torch, spherical harmonics: {torch_harmonics:.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None, help="default: as many as torch takes")
    parser.add_argument("--repeats", type=int, default=10, help="runs of which the best counts")
    parser.add_argument(
        "--sizes", nargs="+", default=["20000@256", "100000@512"], help="Gaussians@pixels, ..."
    )
    parser.add_argument(
        "--scene", type=Path, default=None, help="NPZ with means3d, viewmats, Ks, width, height"
    )
    parser.add_argument("--no-torch", action="store_true", help="leave out plain torch, which takes seconds")
    args = parser.parse_args()
    if args.scene is not None and not args.scene.is_file():
        parser.error(f"--scene {args.scene}: no such file")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
        set_num_threads(args.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, best of {args.repeats}")
    for size in args.sizes:
        count, pixels = (int(part) for part in size.split("@"))
        measure(count, pixels, args.scene, args.repeats, not args.no_torch)


if __name__ == "__main__":
    main()
