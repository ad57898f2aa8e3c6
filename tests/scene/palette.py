"""Colour differences with and without colour blindness, and the search that made the fixed colours.

`python tests/scene/palette.py` prints the list that stands in `gradiseg_ns/scene/objects.py`. The tests use
the same functions to check that list.

Colour blindness is simulated on linear RGB with the matrices of Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1. Differences are
Euclidean in CIELAB (D65).
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

VISIONS: dict[str, Array] = {
    "normal": np.eye(3),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}

_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _RGB_TO_XYZ.sum(axis=1)


def to_lab(rgb: Array, vision: str = "normal") -> Array:
    """sRGB `[N, 3]` in 0..1 to CIELAB `[N, 3]` as seen with the given vision."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ VISIONS[vision].T, 0, 1) @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


def differences(a: Array, b: Array, vision: str) -> Array:
    """Differences between sRGB colours `[N, 3]` and `[M, 3]` as seen with the given vision: `[N, M]`."""
    return np.linalg.norm(to_lab(a, vision)[:, None] - to_lab(b, vision)[None], axis=-1)


def smallest_difference(colors: Array, vision: str) -> float:
    """Smallest difference within a set of sRGB colours `[N, 3]`."""
    between = differences(colors, colors, vision)
    return float(between[~np.eye(len(colors), dtype=bool)].min())


def _objective(a: Array, b: Array) -> Array:
    """Smallest difference over the visions, that of normal vision counted half.

    Colour-blind people see a plane of colours, the others a space. Counted fully, the search gives up red and
    green to win one unit for the former (16 instead of 13 among 24 colours) and leaves the latter a palette
    of blues and yellows (17 instead of 29).
    """
    return np.min([differences(a, b, v) * (0.5 if v == "normal" else 1.0) for v in VISIONS], axis=0)


def search(n: int) -> NDArray[np.int64]:
    """`n` colours, 8 bits per channel, `[n, 3]`: each as far as possible from those before it.

    Starts from the colours that are taken (black for IGNORE, the background's grey), then improves the set by
    moving one colour at a time as long as the nearest pair gets farther apart, then puts it in farthest-first
    order again so that few objects get the most different colours.
    """
    levels = np.arange(0, 256, 17)
    candidates = np.array(list(itertools.product(levels, repeat=3)))
    lightness = to_lab(candidates / 255)[:, 0]
    candidates = candidates[(lightness > 35) & (lightness < 93)]  # neither lost on black nor on a white page
    # White is not taken by anything, but no object should look like the bare page
    taken = np.array([[0, 0, 0], [64, 64, 64], [255, 255, 255]])
    to_taken = _objective(candidates / 255, taken / 255).min(axis=1)
    between = _objective(candidates / 255, candidates / 255)

    def farthest_first(pool: NDArray[np.int64], count: int) -> list[int]:
        chosen: list[int] = []
        nearest = to_taken[pool].copy()
        for _ in range(count):
            best = int(pool[int(np.argmax(nearest))])
            chosen.append(best)
            nearest = np.minimum(nearest, between[pool, best])
        return chosen

    chosen = farthest_first(np.arange(len(candidates)), n)
    for _ in range(400):
        gaps = between[np.ix_(chosen, chosen)] + np.diag(np.full(n, np.inf))
        nearest = np.minimum(gaps.min(axis=1), to_taken[chosen])
        order = np.argsort(nearest)
        for worst in order[:2]:
            rest = [c for i, c in enumerate(chosen) if i != worst]
            reach = np.minimum(between[:, rest].min(axis=1), to_taken)
            best = int(np.argmax(reach))
            if reach[best] > nearest[worst] + 1e-9:
                chosen[int(worst)] = best
                break
        else:
            break
    return candidates[farthest_first(np.array(chosen), n)]


if __name__ == "__main__":
    palette = search(24)
    for vision in VISIONS:
        found = {n: round(smallest_difference(palette[:n] / 255, vision), 1) for n in (6, 12, 20, 24)}
        print(f"smallest difference among the first n, {vision}: {found}")
    print(" ".join(f"{r:02X}{g:02X}{b:02X}" for r, g, b in palette))
