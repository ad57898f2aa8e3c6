"""Sharper borders for the labels of a splat that never saw id maps: Gaussians are split and fitted, without photos.

A splat that was trained on colours alone has Gaussians that lie across borders, and no label is right for them. Three steps:

1. *Split.* A Gaussian that overshoots its object (`cleaning.find_overshoot`) is split in two along that axis, and its halves
   again while they overshoot the object in which they lie. The halves together look as it did.
2. *Fit.* The Gaussians that put weight into more than one object are fitted: their encodings to the id maps, and their
   shapes, opacities and constant colours too, so that an axis that overflows a mask shrinks (VCAR's idea). What holds the
   picture in place are the splat's own renders before the fit.
3. *Check.* The renders after are compared with those before. If they differ more than allowed, everything is taken back.

Gaussians of one object alone never change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.cleaning import find_overshoot, standing
from gradiseg_ns.boundary.consensus import SHARP, agreed_classes
from gradiseg_ns.boundary.detection import impurity
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.densification import rotation_matrices
from gradiseg_ns.losses.cross_entropy import identity_cross_entropy
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.votes import identities
from gradiseg_ns.votes.accumulate import VoteAccumulator, Votes, accumulate
from gradiseg_ns.votes.labels import majority
from gradiseg_ns.votes.rendered import spread_views

PASSES = 3
"""How often each view is fitted."""
MOST_CHANGE = 0.004
"""Mean absolute difference of colours, 0 to 1, between the renders before and after: a grey level of 8 bits."""
MIXED = 0.02
"""Gaussians with a larger impurity are fitted; for two objects, the share of the smaller one is above 0.005."""
CHECKED = 8
"""Number of views in which edges and renders are compared, evenly spread."""
ROUNDS = 4
"""A Gaussian is split into at most 2^ROUNDS."""
OFFSET = 0.5
"""Where the halves of a Gaussian lie along the split axis, in its standard deviations."""
SCALE = 8.0
"""Codes are multiplied by this for the cross-entropy."""
IDENTITY_WEIGHT = 0.3
"""Weight of the cross-entropy; the difference to the renders before has weight 1."""
IDENTITY_RATE = 0.05
RATES = {"means": 3.2e-4, "quats": 2e-3, "scales": 0.01, "opacities": 0.04, "features_dc": 5e-3}
"""Rates of Adam at the start; they fall to a tenth. That of the means is a share of the cameras' extent."""
SEED = 0
"""Of the order of the views."""
_LAST_RATE = 0.1
_BETAS = (0.8, 0.95)
_CONSTANT = 0.28209479177387814
"""The constant spherical harmonic."""
# Two equal Gaussians at +-OFFSET whose blend is nearest to one of opacity o and scale 1: their opacity and scale (least squares on a
# line, relative error 2 to 9 %).
_OPACITY = (0.0, 0.1, 0.5, 0.8, 0.95, 0.995, 1.0)
_HALF_OPACITY = (0.0, 0.061, 0.340, 0.601, 0.751, 0.798, 0.803)
_HALF_SCALE = (0.840, 0.833, 0.791, 0.758, 0.742, 0.737, 0.736)

Mapped = Sequence[tuple[rendering.Camera, Tensor]]
"""Cameras with their maps of classes int64 [H, W], negative where there is no label."""


@dataclass(frozen=True)
class Cut:
    """A splat whose labels have sharper borders."""

    splat: Splat
    """Of M >= N Gaussians; the given one if nothing was changed."""
    encoding: Tensor
    """[M, D] for `identities.head_start`; zero where no labelled pixel sees a Gaussian."""
    votes: Votes
    """[M, K]."""
    parents: Tensor
    """int64 [M]: which of the N Gaussians each comes from."""
    split: int
    """Number of Gaussians that were split, into two or more."""
    fitted: Tensor
    """bool [M]: the Gaussians that were fitted, halves among them."""
    change: float
    """Mean absolute difference of colours, 0 to 1, between the renders before and after."""
    views: int
    """Number of views in which the renders were compared."""
    psnr: float = math.inf
    """Of the renders after, measured against those before, in dB."""
    reason: str | None = None
    """Why the splat was left as it was; None if it was changed."""

    def told(self) -> str:
        """What was done, in a line for the user."""
        if self.reason is not None:
            return f"Nothing was sharpened: {self.reason}."
        return (
            f"Sharpened: {self.split} Gaussians were split, {int(self.fitted.sum())} were fitted. The pictures changed by {self.change:.4f} "
            f"on average (colours of 0 to 1), {self.psnr:.1f} dB to those before, on {self.views} views."
        )


class _Looked(NamedTuple):
    """What the views show before anything is changed."""

    votes: Votes
    pictures: list[Tensor]
    """float16 [H, W, 3] each."""
    depths: list[Tensor]
    """float32 [H, W] each, world units."""
    displacement: float
    """As `Consensus.displacement`, from `CHECKED` views."""


def sharpen(
    splat: Splat,
    views: Mapped,
    codes: Tensor,
    background: Tensor,
    *,
    passes: int = PASSES,
    most_change: float = MOST_CHANGE,
    progress: Callable[[], None] | None = None,
) -> Cut:
    """Split and fit the Gaussians at the borders of objects; the module tells how.

    Args:
        splat: N Gaussians; it is not changed.
        views: with their id maps, which must be exact: at edges that do not agree with each other nothing is done.
        codes: [K, D] of the classes.
        background: [3] before which the splat is seen.
        passes: how often each view is fitted.
        most_change: see :data:`MOST_CHANGE`; everything that changes the renders more is taken back.
        progress: called `steps(len(views), passes)` times.

    Raises:
        ValueError: passes is negative, or as :func:`accumulate`.
    """
    if passes < 0:
        raise ValueError(f"sharpen: passes is {passes}, expected 0 or more.")
    advance = progress or (lambda: None)
    looked = _look(splat, views, len(codes), background, advance)
    start = identities.encode(majority(looked.votes).classes, codes)
    every = torch.arange(len(splat), device=splat.means.device)
    mixed = impurity(looked.votes) > MIXED
    same = Cut(splat, start, looked.votes, every, 0, torch.zeros_like(mixed), 0.0, 0)
    if not bool(mixed.any()):
        return replace(same, reason="no Gaussian lies across a border")
    if looked.displacement > 1:
        return replace(same, reason="the edges of the id maps do not agree with each other")
    cut, parents, classes = _split(splat, mixed, views, looked)
    start = identities.encode(classes, codes)
    cut, encoding = _fit(
        cut, start, mixed[parents], views, looked.pictures, codes, background, passes, advance
    )  # fmt: skip
    compared = spread_views(len(views), CHECKED)
    change, psnr = _difference(cut, [(views[i][0], looked.pictures[i]) for i in compared], background)
    if not change <= most_change:
        reason = f"the pictures would change by {change:.4f}, more than {most_change:g}"
        return replace(same, change=change, views=len(compared), psnr=psnr, reason=reason)
    votes = accumulate(cut.gaussians(), views, len(codes), progress=advance)
    split = int((torch.bincount(parents, minlength=len(splat)) > 1).sum())
    return Cut(cut, encoding, votes, parents, split, mixed[parents], change, len(compared), psnr)


def steps(views: int, passes: int = PASSES) -> int:
    """How often :func:`sharpen` reports progress."""
    return views * (passes + 2)


@torch.no_grad()
def _look(
    splat: Splat, views: Mapped, count: int, background: Tensor, advance: Callable[[], None]
) -> _Looked:
    gaussians = splat.gaussians()
    accumulator = VoteAccumulator(len(splat), count, splat.means.device)
    pictures, depths = [], []
    for camera, classes in views:
        projection = rendering.project(gaussians, camera)
        accumulator.add(projection, classes)
        colors = splat.colors(camera, projection.radii[0] > 0)
        (rgb, z), alpha = rendering.rasterize(projection, [colors, projection.depths[0][:, None]])
        pictures.append((rgb + (1 - alpha) * background).clamp(0, 1).half())
        depths.append(rendering.expected(z, alpha)[..., 0])
        advance()
    votes = accumulator.result()
    labels = majority(votes).classes
    found = []
    for index in spread_views(len(views), CHECKED):
        camera, classes = views[index]
        _, displacement = agreed_classes(rendering.project(gaussians, camera), labels, classes.long())
        found.append(displacement / max(SHARP[0], SHARP[1] * math.hypot(camera.width, camera.height)))
    every = torch.cat(found) if found else torch.zeros(0)
    return _Looked(votes, pictures, depths, float(every.median()) if len(every) else 0.0)


@torch.no_grad()
def _split(splat: Splat, mixed: Tensor, views: Mapped, looked: _Looked) -> tuple[Splat, Tensor, Tensor]:
    """Split the mixed Gaussians, bool [N], that reach out of their object along that axis, and their halves again, until they do so no more.

    Returns:
        the splat, int64 [M] which of the N Gaussians each comes from, and its class int64 [M].
    """

    def seen() -> Iterator[tuple[rendering.Camera, Tensor, Tensor]]:
        for (camera, classes), depth in zip(views, looked.depths, strict=True):
            yield camera, classes.long(), depth

    labels = majority(looked.votes).classes
    parents = torch.arange(len(splat), device=splat.means.device)
    begin = 0  # what stands before it does not overshoot
    for turn in range(ROUNDS):
        judged = splat.select(torch.arange(begin, len(splat), device=splat.means.device))
        known = labels[begin:] if turn else torch.where(mixed, labels, IGNORE)
        rows, axis = _overshooting(judged, known, seen())
        if len(rows) == 0:
            break
        splat, come_from = halves(splat, begin + rows, axis)
        parents, labels = parents[come_from], labels[come_from]
        begin = len(splat) - 2 * len(rows)
        stand = standing(splat.means[begin:], looked.votes.shape[1], seen())
        labels[begin:] = torch.where(stand >= 0, stand, labels[begin:])
    return splat, parents, labels


def _overshooting(
    splat: Splat, labels: Tensor, views: Iterator[tuple[rendering.Camera, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The Gaussians that reach out of their object, int64 [M], and the longest axis along which they do, int64 [M]."""
    along = find_overshoot(splat.gaussians(), labels, views).ends().any(dim=-1)
    rows = along.any(dim=-1).nonzero()[:, 0]
    return rows, torch.where(along, splat.scales, -torch.inf).argmax(dim=-1)[rows]


@torch.no_grad()
def halves(splat: Splat, rows: Tensor, axis: Tensor) -> tuple[Splat, Tensor]:
    """Replace Gaussians by two halves each, which together look nearly as they did.

    Args:
        splat: N Gaussians.
        rows: int64 [M] which are split.
        axis: int64 [M], 0 to 2: along which axis.

    Returns:
        the splat of N + M Gaussians, those that are not split first; and int64 [N + M] which of the N each comes from.
    """
    device = splat.means.device
    kept = torch.ones(len(splat), dtype=torch.bool, device=device)
    kept[rows] = False
    parents = torch.cat([kept.nonzero()[:, 0], rows, rows])
    axis = axis[:, None]
    scales = splat.scales[rows].exp()
    extent = scales.gather(1, axis)
    direction = rotation_matrices(splat.quats[rows]).gather(2, axis[:, None].expand(-1, 3, 1))[..., 0]
    opacity = splat.opacities[rows].sigmoid()
    halved = scales.scatter(1, axis, extent * _between(opacity, _HALF_SCALE)[:, None]).log()
    half_opacity = _between(opacity, _HALF_OPACITY).clamp(1e-6, 1 - 1e-6).logit()
    new = splat.select(parents)
    means, begin = splat.means[rows], len(parents) - 2 * len(rows)
    new.means[begin:] = torch.cat([means + OFFSET * extent * direction, means - OFFSET * extent * direction])
    new.scales[begin:] = halved.repeat(2, 1)
    new.opacities[begin:] = half_opacity.repeat(2)
    return new, parents


def _between(opacity: Tensor, values: Sequence[float]) -> Tensor:
    """The values that belong to `_OPACITY`, linearly in between: [M]."""
    at, value = opacity.new_tensor(_OPACITY), opacity.new_tensor(values)
    right = torch.searchsorted(at, opacity.contiguous()).clamp(1, len(at) - 1)
    share = (opacity - at[right - 1]) / (at[right] - at[right - 1])
    return value[right - 1] + share * (value[right] - value[right - 1])


def _fit(
    splat: Splat,
    encoding: Tensor,
    movable: Tensor,
    views: Mapped,
    pictures: Sequence[Tensor],
    codes: Tensor,
    background: Tensor,
    passes: int,
    advance: Callable[[], None],
) -> tuple[Splat, Tensor]:
    """Fit the movable Gaussians, bool [N], to the id maps and to the pictures. Returns the splat and its encodings."""
    rows = movable.nonzero()[:, 0]
    fixed: dict[str, Tensor] = {name: getattr(splat, name) for name in RATES} | {"encoding": encoding}
    moving = {name: value[rows].clone().requires_grad_() for name, value in fixed.items()}
    rates = {**RATES, "means": RATES["means"] * _extent([c for c, _ in views]), "encoding": IDENTITY_RATE}
    optimizer = torch.optim.Adam(
        [{"params": [moving[name]], "lr": rate, "first": rate} for name, rate in rates.items()],
        betas=_BETAS, eps=1e-15,
    )  # fmt: skip
    generator, count = torch.Generator().manual_seed(SEED), passes * len(views)
    order = [i for _ in range(passes) for i in torch.randperm(len(views), generator=generator).tolist()]
    weight, bias = SCALE * codes, codes.new_zeros(len(codes))
    for place, index in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = group["first"] * (1 - (1 - _LAST_RATE) * place / count)
        camera, classes = views[index]
        with torch.enable_grad():
            now = {name: value.index_put((rows,), moving[name]) for name, value in fixed.items()}
            identity = now.pop("encoding")
            rgb, maps = _blend(replace(splat, **now), identity, camera, background)
            loss = (rgb - pictures[index].float()).abs().mean()
            labels = classes.reshape(-1).long()
            if bool((labels >= 0).any()):
                pixels = maps.reshape(-1, maps.shape[-1])
                loss = loss + IDENTITY_WEIGHT * identity_cross_entropy(pixels, weight, bias, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance()
    done = {name: value.index_put((rows,), moving[name].detach()) for name, value in fixed.items()}
    found = done.pop("encoding")
    return replace(splat, **done), found


def _difference(
    splat: Splat, pictures: Sequence[tuple[rendering.Camera, Tensor]], background: Tensor
) -> tuple[float, float]:
    """Mean absolute difference of the renders from these pictures, and their PSNR in dB."""
    errors = [splat.render(camera, background)[0] - picture.float() for camera, picture in pictures]
    mean = sum(float(error.abs().mean()) for error in errors) / len(errors)
    square = sum(float(error.square().mean()) for error in errors) / len(errors)
    return mean, -10 * math.log10(square) if square > 0 else math.inf


def _blend(
    splat: Splat, encoding: Tensor, camera: rendering.Camera, background: Tensor
) -> tuple[Tensor, Tensor]:
    """The picture [H, W, 3], not clamped, and the map of encodings [H, W, D], in the graph."""
    projection = splat.project(camera)
    with torch.no_grad():
        colors = splat.colors(camera, projection.radii[0] > 0)
    dc = splat.features_dc
    colors = colors + _CONSTANT * (dc - dc.detach())  # the directions of the other harmonics hardly change
    (rgb, maps), alpha = rendering.rasterize(projection, [colors, encoding])
    return rgb + (1 - alpha) * background, maps


def _extent(cameras: Sequence[rendering.Camera]) -> float:
    """How far cameras are from their middle, at most, along an axis, world units: 1 in nerfstudio's frame."""
    centres = torch.stack([-c.viewmat[:3, :3].T @ c.viewmat[:3, 3] for c in cameras])
    return float((centres - centres.mean(dim=0)).abs().max())
