"""Pruning with a guarantee: Gaussians are removed, and no training view changes by more than a bound. The bound is checked.

arXiv 2409.11681 prunes by |d mean(render) / d DC colour|, summed over the training views. Rendering is linear in the colour, so
up to a constant this is each Gaussian's blending weight over all pixels, `backproject` of ones. It shows how much of a Gaussian
is visible, not how much the picture changes without it. This change is also known: at pixel p the colour is affine in
alpha_i(p), so without Gaussian i it changes by exactly -d_i(p),

    d_i(p) = o_i dC(p) / do_i = w_i(p) (c_i - what is behind i),

if the early stop of blending (transmittance 1e-4) stays in its place. Gradients with respect to opacities give sums over
pixels of d_i with any weights, for all Gaussians at once.

Per pixel (``bound="pixel"``): Gaussians are removed if the norm of their change over all pixels is small. The norm is estimated
with random signs r: E (sum_p r(p) d_i(p))^2 = sum_p d_i(p)^2. Then all views are rendered one after the other. Where the error is
above the bound, the Gaussians that cause it are put back: the weights are the sign of the error times its excess, and the Gaussians
with the largest sums return until together they make up for the excess. If first order does not help (because of the early stop),
all Gaussians that touch these pixels are put back. A round over all views in which no Gaussian is put back ends the search.

Per view (``bound="view"``, a weaker promise): the mean error of every view. It grows rather steadily with the number of removed
Gaussians, so bisection finds one cut through the sorted contributions, and the cut is checked. docs/pruning.md has measurements.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import GradisegError

Progress = Callable[[str, int, int], None]
"""Called with the name of the pass, the number of views done, and the number of all views."""

CANDIDATES = 4.0
"""A Gaussian is removed at first if its change, as a norm over all pixels and views, is at most this number times the bound."""
MEMORY = 2 << 30
"""Bytes: pictures of the unpruned splat are kept if all fit into this size. Else they are rendered again each time."""
BISECTIONS = 10
"""Number of bisections for the cut of ``bound="view"``: it is exact to a thousandth of the candidates."""
_GROWTH = 1.6  # factor by which each attempt at a view puts back more than first order requires
_ATTEMPTS = 4  # by first order; then everything in the pixels returns
_ROUNDS = 3  # number of rounds that try first order; errors that cancel could make it continue for long


class PruneError(GradisegError):
    """The views show nothing of the splat; the message says why."""


@dataclass(frozen=True)
class PruneResult:
    """The Gaussians that stay, and the errors of exactly these."""

    kept: Tensor
    """bool [N]; at least one is true."""
    ratio: float
    """Share of removed Gaussians, 0 to 1."""
    max_error: float
    """Largest |pruned - original| over all views, pixels, channels and backgrounds, of pictures in 0..1."""
    view_error: float
    """Largest mean |pruned - original| of a view, over its pixels and channels."""
    mean_error: float
    """Mean |pruned - original| over everything."""
    psnr: float
    """dB between pruned and original, over everything; infinite if they are equal."""
    per_object: dict[int, tuple[int, int]]
    """For each object id (-1: unknown), the number of its removed Gaussians and of all its Gaussians. Empty without labels."""
    rounds: int
    """Number of rounds over all views."""
    seconds: float


@torch.no_grad()
def contributions(
    splat: Splat, cameras: Sequence[rendering.Camera], progress: Progress | None = None
) -> Tensor:
    """Blending weight of every Gaussian over all pixels of all views: float32 [N], in pixels. Zero means visible nowhere.

    Raises:
        PruneError: there are no cameras.
    """
    _check_cameras(cameras)
    total = splat.means.new_zeros(len(splat))
    for index, camera in enumerate(cameras):
        ones = splat.means.new_ones(camera.height, camera.width, 1)
        total += rendering.transpose(splat.project(camera), ones)[:, 0]
        _tell(progress, "contributions", index + 1, len(cameras))
    return total


@torch.no_grad()
def prune(
    splat: Splat,
    cameras: Sequence[rendering.Camera],
    max_error: float = 1 / 510,
    background: Tensor | None = None,
    among: Tensor | None = None,
    progress: Progress | None = None,
    *,
    bound: Literal["pixel", "view"] = "pixel",
) -> PruneResult:
    """Removes as many Gaussians as it can while every view stays within a bound. The result is checked on all views.

    Args:
        splat: N Gaussians; not changed.
        cameras: of all training views. The bound does not cover other views.
        max_error: of pictures in 0..1. 1/510 is half a grey level of 8 bits.
        background: [3] in 0..1. None: the bound holds over black and over white, and so over any background in between, except
            where a picture is overexposed. Then it also bounds changes of alpha.
        among: bool [N], the Gaussians that may be removed; None: all.
        bound: "pixel": no channel of any pixel changes by more. "view": no view changes by more on average.

    Returns:
        The Gaussians to keep (`Splat.select`), at least one, with the errors of exactly these.

    Raises:
        PruneError: there are no cameras, or no camera sees a Gaussian.
        ValueError: max_error is not a positive number, or a shape does not fit.
    """
    start = time.perf_counter()
    _check_cameras(cameras)
    if not (math.isfinite(max_error) and max_error > 0):
        raise ValueError(
            f"max_error is {max_error}: expected a number above 0, such as 1/510 = {1 / 510:.5f}."
        )
    if bound not in ("pixel", "view"):
        raise ValueError(f"bound is {bound!r}: expected 'pixel' or 'view'.")
    if among is not None and (among.shape != (len(splat),) or among.dtype != torch.bool):
        raise ValueError(f"among is {among.dtype} {list(among.shape)}: expected bool [{len(splat)}].")
    if background is not None and background.shape != (3,):
        raise ValueError(f"background has shape {list(background.shape)}: expected [3].")

    weights = contributions(splat, cameras, progress)
    if not bool((weights > 0).any()):
        raise PruneError(
            f"The {len(cameras)} cameras see nothing of the {len(splat)} Gaussians: check that splat and cameras are of one "
            "scene, in the same frame and scale (a PLY file may lack the run's transform), with z pointing forward."
        )
    may_go = torch.ones_like(weights, dtype=torch.bool) if among is None else among.to(weights.device).clone()
    may_go[weights.argmax()] = False  # at least one Gaussian stays for any bound
    views = _Views(splat, cameras, background, progress)
    if bound == "pixel":
        kept, errors, rounds = _repair(
            views, ~(may_go & (_changes(views) <= CANDIDATES * max_error)), max_error
        )
    else:
        kept, errors, rounds = _bisect(views, weights, may_go, max_error)

    removed = ~kept
    per_object = {}
    if splat.labels is not None:
        ids, index, totals = splat.labels.to(kept.device).unique(return_inverse=True, return_counts=True)
        gone = torch.bincount(index[removed], minlength=len(ids))
        per_object = dict(zip(ids.tolist(), zip(gone.tolist(), totals.tolist(), strict=True), strict=True))
    square = errors.square_sum / errors.count
    return PruneResult(
        kept=kept,
        ratio=float(removed.float().mean()),
        max_error=errors.worst,
        view_error=errors.view_mean,
        mean_error=errors.sum / errors.count,
        psnr=-10 * math.log10(square) if square > 0 else math.inf,
        per_object=per_object,
        rounds=rounds,
        seconds=time.perf_counter() - start,
    )


# ------------------------------------------------------------------------------------------------------------- views


@dataclass
class _Errors:
    """Errors of the views that were rendered so far."""

    worst: float = 0.0
    view_mean: float = 0.0
    sum: float = 0.0
    square_sum: float = 0.0
    count: int = 0

    def add(self, difference: Tensor) -> None:
        """Add the difference of a view, [B, H, W, 3] over the backgrounds."""
        size = difference.abs()
        self.worst = max(self.worst, float(size.max()))
        self.view_mean = max(self.view_mean, float(size.mean(dim=(1, 2, 3)).max()))
        self.sum += float(size.sum(dtype=torch.float64))
        self.square_sum += float(size.square().sum(dtype=torch.float64))
        self.count += size.numel()


class _Views:
    """The pictures of the unpruned splat, and the difference of a pruned one from them."""

    def __init__(
        self,
        splat: Splat,
        cameras: Sequence[rendering.Camera],
        background: Tensor | None,
        progress: Progress | None,
    ) -> None:
        self.splat, self.cameras, self.progress = splat, cameras, progress
        plain = splat.means.new_tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        self.backgrounds = plain if background is None else background.to(plain)[None]
        channels = 3 * len(self.backgrounds)
        fits = sum(c.height * c.width * channels * 4 for c in cameras) <= MEMORY
        self._originals = [self._pictures(splat, camera) for camera in cameras] if fits else None

    def _pictures(self, splat: Splat, camera: rendering.Camera) -> Tensor:
        """[B, H, W, 3] in 0..1, over each background."""
        projection = splat.project(camera)
        (rgb,), alpha = rendering.rasterize(projection, [splat.colors(camera, projection.radii[0] > 0)])
        return (rgb + (1 - alpha) * self.backgrounds[:, None, None]).clamp(0.0, 1.0)

    def difference(self, index: int, kept: Tensor) -> Tensor:
        """Pruned minus original: [B, H, W, 3]."""
        camera = self.cameras[index]
        original = self._originals[index] if self._originals else self._pictures(self.splat, camera)
        return self._pictures(self.splat.select(kept), camera) - original

    def weighted_changes(self, projection: rendering.Projection, colors: Tensor, maps: Tensor) -> Tensor:
        """sum_p maps(p) . d_i(p) of the unpruned splat, [N]; maps [B, H, W, 3] over the backgrounds."""
        projection = replace(projection, opacities=projection.opacities.detach().requires_grad_())
        over_background = (maps * self.backgrounds[:, None, None]).sum(dim=(0, 3))
        with torch.enable_grad():
            (rgb,), alpha = rendering.rasterize(projection, [colors])
            loss = (rgb * maps.sum(0)).sum() - (alpha[..., 0] * over_background).sum()
            (gradient,) = torch.autograd.grad(loss, projection.opacities)
        changes = gradient[0] * projection.opacities.detach()[0]
        return torch.where(projection.radii[0] > 0, changes, torch.zeros_like(changes))

    def tell(self, what: str, index: int) -> None:
        _tell(self.progress, what, index + 1, len(self.cameras))


def _changes(views: _Views) -> Tensor:
    """The change of the pictures without each Gaussian: an estimate of its norm over all pixels and views, [N]."""
    splat = views.splat
    generator = torch.Generator().manual_seed(0)
    squares = splat.means.new_zeros(len(splat))
    for index, camera in enumerate(views.cameras):
        shape = (len(views.backgrounds), camera.height, camera.width, 3)
        signs = (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(squares)
        projection = splat.project(camera)
        colors = splat.colors(camera, projection.radii[0] > 0)
        squares += views.weighted_changes(projection, colors, signs).square() / len(signs)
        views.tell("changes", index)
    return squares.sqrt()


# -------------------------------------------------------------------------------------------------------- strategies


def _repair(views: _Views, kept: Tensor, max_error: float) -> tuple[Tensor, _Errors, int]:
    """Puts Gaussians back, view by view, until a round over all views finds no pixel above the bound.

    It ends: every repair puts back at least one Gaussian, and with all of them the error is zero.
    """
    kept, rounds, repaired, errors = kept.clone(), 0, True, _Errors()
    while repaired:
        rounds, repaired, errors = rounds + 1, False, _Errors()
        for index in range(len(views.cameras)):
            difference = views.difference(index, kept)
            if bool((difference.abs() > max_error).any()):
                repaired = True
                difference = _repair_view(views, index, kept, difference, max_error, rounds)
            errors.add(difference)
            views.tell(f"round {rounds}, {float((~kept).float().mean()):.1%} removed", index)
    return kept, errors, rounds


def _repair_view(
    views: _Views, index: int, kept: Tensor, difference: Tensor, max_error: float, rounds: int
) -> Tensor:
    """Puts Gaussians back, into ``kept``, until a view is within the bound. Returns the final difference of the view."""
    splat, camera = views.splat, views.cameras[index]
    projection = splat.project(camera)
    colors = splat.colors(camera, projection.radii[0] > 0)
    attempt = 0 if rounds <= _ROUNDS else _ATTEMPTS
    while bool((difference.abs() > max_error).any()):
        excess = (difference.abs() - max_error).clamp(min=0)
        back = torch.zeros_like(kept)
        if attempt < _ATTEMPTS:
            # the error is -sum d_i over the removed Gaussians: those whose d_i has the opposite sign cause it
            drive = -views.weighted_changes(projection, colors, difference.sign() * excess)
            drive = torch.where(kept, 0.0, drive).clamp(min=0)
            sorted_drive, order = drive.sort(descending=True)
            needed = float(excess.square().sum()) * _GROWTH**attempt
            count = int((sorted_drive.cumsum(0) < needed).sum()) + 1
            back[order[:count]] = True
            back &= drive > 0
        else:
            above = (excess.amax(dim=(0, 3)) > 0)[..., None].to(colors)
            back = ~kept & (rendering.transpose(projection, above)[:, 0] > 0)
            if not bool(back.any()):
                # These Gaussians have no weight of their own, because they made the original stop. Rendered alone, they have.
                removed = (~kept).nonzero()[:, 0]
                alone = rendering.transpose(splat.select(removed).project(camera), above)[:, 0]
                back[removed[alone > 0]] = True
                if not bool(back.any()):  # no removed Gaussian is near, only rounding moved the picture
                    back = ~kept
        kept |= back
        attempt = attempt + 1 if bool(back.any()) else _ATTEMPTS
        difference = views.difference(index, kept)
    return difference


def _bisect(views: _Views, weights: Tensor, may_go: Tensor, max_error: float) -> tuple[Tensor, _Errors, int]:
    """The largest number of Gaussians, in order of contribution, that can be removed with every view's mean within the bound."""
    order = torch.where(may_go, weights, math.inf).argsort(stable=True)[: int(may_go.sum())]

    def measure(count: int) -> tuple[Tensor, _Errors]:
        kept, errors = torch.ones_like(may_go), _Errors()
        kept[order[:count]] = False
        for index in range(len(views.cameras)):
            errors.add(views.difference(index, kept))
            views.tell(f"{count / len(kept):.1%} removed", index)
            if errors.view_mean > max_error:
                break
        return kept, errors

    fits, too_many = measure(0), len(order) + 1
    count, rounds = 0, 1
    step = max(1, len(order) >> BISECTIONS)
    while too_many - count > step:
        middle = (count + too_many) // 2
        tried, rounds = measure(middle), rounds + 1
        if tried[1].view_mean <= max_error:
            fits, count = tried, middle
        else:
            too_many = middle
    return *fits, rounds


def _check_cameras(cameras: Sequence[rendering.Camera]) -> None:
    if not cameras:
        raise PruneError("There are no cameras: pruning compares the pictures of all training views.")


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)
