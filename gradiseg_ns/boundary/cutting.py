"""Sharper borders for the labels of a splat that never saw id maps: Gaussians are split and fitted, without photos.

A splat that was trained on colours alone has Gaussians that lie across borders, and no label is right for them. Three steps:

1. *Split.* A Gaussian that overshoots its object (`cleaning.find_overshoot`) is split in two along that axis, and its halves
   again while they overshoot the object in which they lie. The halves together look as it did.
2. *Fit.* The Gaussians that put weight into more than one object are fitted: their encodings to the id maps, and their
   shapes, opacities and constant colours too, so that an axis that overflows a mask shrinks (VCAR's idea). What holds the
   picture in place are the splat's own renders before the fit. Only tiles with an edge, or with a pixel that the labels show
   as another object, are drawn for it: a third of the picture, about.
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
from gradiseg_ns.votes.accumulate import Votes, accumulate
from gradiseg_ns.votes.labels import majority
from gradiseg_ns.votes.rendered import spread_views

PASSES = 2
"""How often each view is fitted."""
MOST_CHANGE = 0.004
"""Mean absolute difference of colours, 0 to 1, between the renders before and after: a grey level of 8 bits."""
MIXED = 0.02
"""Gaussians with a larger impurity are fitted; for two objects, the share of the smaller one is above 0.005."""
FEW = 24
"""With so many views or more, every second one is enough to find the Gaussians that lie across borders."""
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
RATES = {"means": 2.2e-4, "quats": 1.4e-3, "scales": 7e-3, "opacities": 0.028, "features_dc": 3.5e-3}
"""Rates of Adam at the start; they fall to a tenth. That of the means is a share of the cameras' extent."""
SEED = 0
"""Of the order of the views."""
_LAST_RATE = 0.1
_BETAS = (0.5, 0.9)
"""Of Adam. Views come in any order: what an earlier one asked for soon means nothing."""
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

    pictures: list[Tensor]
    """float16 [H, W, 3] each."""
    depths: list[Tensor]
    """float32 [H, W] each, world units."""
    tiles: list[Tensor]
    """bool [H / 16, W / 16] each, rounded up: the tiles that are worth fitting."""


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
    first = views[::2] if len(views) >= FEW else views
    votes = accumulate(splat.gaussians(), first, len(codes), progress=advance)
    labels = majority(votes).classes
    mixed = impurity(votes) > MIXED
    reason = None if bool(mixed.any()) else "no Gaussian lies across a border"
    if reason is None and _displacement(splat, views, labels) > 1:
        reason = "the edges of the id maps do not agree with each other"
    if reason is not None:
        return _same(splat, views, codes, reason, advance)
    looked = _look(splat, views, labels, codes, background, advance)
    cut, parents, classes = _split(splat, mixed, labels, len(codes), views, looked.depths)
    fitted = mixed[parents]
    start = identities.encode(classes, codes)
    cut, encoding = _fit(cut, start, fitted, views, looked, codes, background, passes, advance)
    compared = spread_views(len(views), CHECKED)
    change, psnr = _difference(cut, [(views[i][0], looked.pictures[i]) for i in compared], background)
    if not change <= most_change:
        reason = f"the pictures would change by {change:.4f}, more than {most_change:g}"
        same = _same(splat, views, codes, reason, advance)
        return replace(same, change=change, views=len(compared), psnr=psnr)
    votes = accumulate(cut.gaussians(), views, len(codes), progress=advance)
    voted = identities.encode(majority(votes).classes, codes)
    encoding = torch.where(fitted[:, None], encoding, voted)
    split = int((torch.bincount(parents, minlength=len(splat)) > 1).sum())
    return Cut(cut, encoding, votes, parents, split, fitted, change, len(compared), psnr)


def _same(splat: Splat, views: Mapped, codes: Tensor, reason: str, advance: Callable[[], None]) -> Cut:
    """The splat as it was, with the labels that all views vote for."""
    votes = accumulate(splat.gaussians(), views, len(codes), progress=advance)
    every = torch.arange(len(splat), device=splat.means.device)
    encoding = identities.encode(majority(votes).classes, codes)
    return Cut(
        splat, encoding, votes, every, 0, torch.zeros_like(every, dtype=torch.bool), 0.0, 0, reason=reason
    )


def steps(views: int, passes: int = PASSES) -> int:
    """How often :func:`sharpen` reports progress."""
    return (views + 1) // 2 + views * (passes + 2) if views >= FEW else views * (passes + 3)


@torch.no_grad()
def _displacement(splat: Splat, views: Mapped, labels: Tensor) -> float:
    """As `Consensus.displacement`, from `CHECKED` views."""
    gaussians, found = splat.gaussians(), []
    for index in spread_views(len(views), CHECKED):
        camera, classes = views[index]
        _, displacement = agreed_classes(rendering.project(gaussians, camera), labels, classes.long())
        found.append(displacement / max(SHARP[0], SHARP[1] * math.hypot(camera.width, camera.height)))
    every = torch.cat(found) if found else torch.zeros(0)
    return float(every.median()) if len(every) else 0.0


@torch.no_grad()
def _look(
    splat: Splat,
    views: Mapped,
    labels: Tensor,
    codes: Tensor,
    background: Tensor,
    advance: Callable[[], None],
) -> _Looked:
    gaussians, encoding = splat.gaussians(), identities.encode(labels, codes)
    looked = _Looked([], [], [])
    for camera, classes in views:
        projection = rendering.project(gaussians, camera)
        colors = splat.colors(camera, projection.radii[0] > 0)
        features = [colors, projection.depths[0][:, None], encoding]
        (rgb, z, maps), alpha = rendering.rasterize(projection, features)
        looked.pictures.append((rgb + (1 - alpha) * background).clamp(0, 1).half())
        looked.depths.append(rendering.expected(z, alpha)[..., 0])
        looked.tiles.append(_tiles(maps, classes.long(), codes))
        advance()
    return looked


def _tiles(maps: Tensor, classes: Tensor, codes: Tensor) -> Tensor:
    """The tiles that have an edge of a map of classes [H, W], or a pixel that the encodings [H, W, D] show as another class."""
    height, width = classes.shape
    tiles = torch.zeros(
        -(-height // rendering.TILE), -(-width // rendering.TILE), dtype=torch.bool, device=maps.device
    )
    edge = torch.zeros_like(classes, dtype=torch.bool)
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[1:] |= classes[1:] != classes[:-1]
    shown = identities.classify_encodings(maps.reshape(-1, maps.shape[-1]), codes).reshape(height, width)
    down, right = (edge | (shown != classes) & (classes >= 0)).nonzero().unbind(1)
    tiles[down // rendering.TILE, right // rendering.TILE] = True
    return tiles


@torch.no_grad()
def _split(
    splat: Splat, mixed: Tensor, labels: Tensor, count: int, views: Mapped, depths: Sequence[Tensor]
) -> tuple[Splat, Tensor, Tensor]:
    """Split the mixed Gaussians, bool [N], that reach out of their object along that axis, and their halves again, until they do so no more.

    Args:
        splat: N Gaussians.
        mixed: bool [N].
        labels: int64 [N], their classes.
        count: of the classes.
        views: with their maps.
        depths: [H, W] of each view.

    Returns:
        the splat, int64 [M] which of the N Gaussians each comes from, and its class int64 [M].
    """

    def seen() -> Iterator[tuple[rendering.Camera, Tensor, Tensor]]:
        for (camera, classes), depth in zip(views, depths, strict=True):
            yield camera, classes.long(), depth

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
        stand = standing(splat.means[begin:], count, seen())
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


class _Steps:
    """Adam on some rows at a time: a Gaussian that a step does not see is not moved by what others saw.

    Args:
        values: [M, ...] by name; they are changed in place.
        movable: bool [M]; the others keep their values.
        rates: by name, at the start.
    """

    def __init__(self, values: dict[str, Tensor], movable: Tensor, rates: dict[str, float]) -> None:
        self.values, self.rates = values, rates
        moving = movable.nonzero()[:, 0]
        self.place = torch.full_like(movable, -1, dtype=torch.int64)
        self.place[moving] = torch.arange(len(moving), device=moving.device)
        self.count = torch.zeros(len(moving), device=moving.device)
        self.moments = {
            name: tuple(value.new_zeros(len(moving), *value.shape[1:]) for _ in range(2))
            for name, value in values.items()
        }

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of some Gaussians as leaves of a graph."""
        return {name: value.index_select(0, rows).requires_grad_() for name, value in self.values.items()}

    @torch.no_grad()
    def step(self, rows: Tensor, taken: dict[str, Tensor], share: float) -> None:
        """Move the Gaussians that were taken by a share of the rates against their gradients."""
        place = self.place[rows]
        ours = (place >= 0).nonzero()[:, 0]
        rows, place = rows[ours], place[ours]
        self.count[place] += 1
        first, second = (1 - beta ** self.count[place] for beta in _BETAS)
        for name, leaf in taken.items():
            if leaf.grad is None:
                continue
            gradient, shape = leaf.grad.index_select(0, ours), (-1, *(1,) * (leaf.dim() - 1))
            mean, square = (moment.index_select(0, place) for moment in self.moments[name])
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.lerp_(gradient.square_(), 1 - _BETAS[1])
            self.moments[name][0].index_copy_(0, place, mean)
            self.moments[name][1].index_copy_(0, place, square)
            size = square.div_(second.view(shape)).sqrt_().add_(1e-15).mul_(first.view(shape))
            moved = leaf.detach().index_select(0, ours).sub_(mean.div_(size), alpha=share * self.rates[name])
            self.values[name].index_copy_(0, rows, moved)


def _fit(
    splat: Splat,
    encoding: Tensor,
    movable: Tensor,
    views: Mapped,
    looked: _Looked,
    codes: Tensor,
    background: Tensor,
    passes: int,
    advance: Callable[[], None],
) -> tuple[Splat, Tensor]:
    """Fit the movable Gaussians, bool [N], to the id maps and to the pictures. Returns the splat and its encodings."""
    values = {name: getattr(splat, name).clone() for name in RATES} | {"encoding": encoding.clone()}
    rates = {**RATES, "means": RATES["means"] * _extent([c for c, _ in views]), "encoding": IDENTITY_RATE}
    steps = _Steps(values, movable, rates)
    with torch.no_grad():  # which Gaussians reach the tiles of each view
        reached = [
            rendering.reaching(splat.project(camera), tiles).nonzero()[:, 0].int()
            for (camera, _), tiles in zip(views, looked.tiles, strict=True)
        ]
    generator, count = torch.Generator().manual_seed(SEED), passes * len(views)
    order = [i for _ in range(passes) for i in torch.randperm(len(views), generator=generator).tolist()]
    weight, bias = SCALE * codes, codes.new_zeros(len(codes))
    for place, index in enumerate(order):
        camera, classes = views[index]
        tiles, rows = looked.tiles[index], reached[index].long()
        advance()
        if len(rows) == 0:
            continue
        inside = tiles.repeat_interleave(rendering.TILE, 0).repeat_interleave(rendering.TILE, 1)
        inside = inside[: camera.height, : camera.width]
        with torch.enable_grad():
            taken = steps.take(rows)
            now = {name: value for name, value in taken.items() if name != "encoding"}
            part = replace(splat, **now, features_rest=splat.features_rest[rows], labels=None, extra={})
            rgb, maps = _blend(part, taken["encoding"], camera, background, tiles)
            error = (rgb - looked.pictures[index].float()) * inside[..., None]
            loss = error.abs().mean()
            labels = torch.where(inside, classes.long(), IGNORE)
            known = int((labels >= 0).sum())
            if known:
                share = known / max(1, int((classes >= 0).sum()))
                pixels = maps.reshape(-1, maps.shape[-1])
                told = identity_cross_entropy(pixels, weight, bias, labels.reshape(-1))
                loss = loss + IDENTITY_WEIGHT * share * told
        loss.backward()
        steps.step(rows, taken, 1 - (1 - _LAST_RATE) * place / count)
    found = values.pop("encoding")
    return replace(splat, **values), found


def _difference(
    splat: Splat, pictures: Sequence[tuple[rendering.Camera, Tensor]], background: Tensor
) -> tuple[float, float]:
    """Mean absolute difference of the renders from these pictures, and their PSNR in dB."""
    errors = [splat.render(camera, background)[0] - picture.float() for camera, picture in pictures]
    mean = sum(float(error.abs().mean()) for error in errors) / len(errors)
    square = sum(float(error.square().mean()) for error in errors) / len(errors)
    return mean, -10 * math.log10(square) if square > 0 else math.inf


def _blend(
    splat: Splat, encoding: Tensor, camera: rendering.Camera, background: Tensor, tiles: Tensor
) -> tuple[Tensor, Tensor]:
    """The picture [H, W, 3], not clamped, and the map of encodings [H, W, D], in the graph, of some tiles."""
    projection = rendering.only(splat.project(camera), tiles)
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
