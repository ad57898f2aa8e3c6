"""Time of exporting a splat, against writing the same bytes to a file.

python benchmarks/export.py --count 1000000 --objects 256
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import tyro

from gradiseg_ns.formats.export import export_bytes, export_objects
from gradiseg_ns.scene.splat import Splat


@dataclass
class Args:
    count: int = 1_000_000
    """Number of Gaussians."""
    objects: int = 256
    degree: int = 3
    """Degree of the spherical harmonics."""


def main(args: Args) -> None:
    g = torch.Generator().manual_seed(0)
    count, rest = args.count, (args.degree + 1) ** 2 - 1
    splat = Splat(
        torch.randn(count, 3, generator=g),
        torch.randn(count, 4, generator=g),
        torch.randn(count, 3, generator=g),
        torch.randn(count, generator=g),
        torch.randn(count, 3, generator=g),
        torch.randn(count, rest, 3, generator=g),
        labels=torch.randint(args.objects, (count,), generator=g, dtype=torch.int32),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def timed(what: str, action: Callable[[], object]) -> float:
            start = perf_counter()
            action()
            seconds = perf_counter() - start
            print(f"{what:32} {seconds:6.2f} s")
            return seconds

        timed("one PLY", lambda: export_objects(folder / "one", splat))
        size = (folder / "one" / "scene.ply").stat().st_size
        data = (folder / "one" / "scene.ply").read_bytes()
        timed(f"writing its {size / 1e6:.0f} MB alone", lambda: (folder / "bytes").write_bytes(data))
        timed(f"{args.objects} PLYs", lambda: export_objects(folder / "many", splat, separate=True))
        timed("one download", lambda: export_bytes(splat))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
