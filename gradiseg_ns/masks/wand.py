"""A magic wand: the region around clicked pixels of a rendered picture that is like them in colour, identity and depth.

Seeds spread over the graph of pixels with their eight neighbours (geodesic distance, as in Bai and Sapiro, "Geodesic
Matting", IJCV 2009). A step costs what changes along it: depth, colour and identity, each beyond what slanted surfaces,
texture and noise change from pixel to pixel; and a toll for colours and identities unlike the seed's. Lightness counts half,
and chroma is compared in the seed's light too, so that a region goes around a shaded object. It ends where it grows least,
at about the radius that the tolerance sets. With seeds outside the object, a pixel belongs to the nearest seed.

All this happens in a smaller picture. Then what is surely inside and what is surely outside spread over the pixels between
them at full size, so that the outline comes to lie where the picture changes most.

In rendered pictures depth says most: objects are smooth inside and jump at their outlines. The constants were tuned on
renders of a splat of household things on a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from gradiseg_ns.masks.types import Box, Mask, Picture, Pixel, check_pixels, check_prompt

Array = NDArray[np.float32]
_Bits = NDArray[np.bool_]

SIZE = 256
"""Longer side, in pixels, of the smaller picture, and of the one that costs per pixel are meant for."""
MIN_ALPHA = 0.1
"""Pixels with less are empty."""
RADIUS = 0.5
"""Geodesic radius at tolerance 0.5; a quarter of it at 0, four times as much at 1."""
_BAND = 3.0
"""The region ends where it grows least between this part and this multiple of the radius."""
_STEP = 5e-4
"""Cost per pixel of going on where nothing changes."""
_LIGHTNESS = 0.5
"""What a difference in lightness counts, beside one in chroma."""
_COLOR, _COLOR_NOISE = 0.4, 0.009
"""Cost of a change by 100 units of CIELAB, and the change, in these units, that costs nothing."""
_DEPTH, _DEPTH_NOISE = 45.0, 0.004
"""The same for log(depth); the change that costs nothing is per pixel."""
_FLAT = 0.002
"""Where 1 / depth around a seed is linear up to this part of it per pixel, the seed lies on a plane."""
_IDENTITY, _IDENTITY_NOISE = 0.3, 0.1
"""The same for identities, in units of their spread over the picture."""
_TOLL, _TOLL_NOISE = 0.1, 0.006
"""Cost per pixel of being 100 units of CIELAB, or a spread of the identities, from the seed's; and what costs nothing."""
_DOUBT = 0.02
"""How far the outline of a mask is doubted, in parts of the picture's longer side."""
_UNLIKE = 0.25
"""How unlike its surroundings a seed in a box must be, beside the one that is most."""
_CLEAR = 0.03
"""The change of colour, in 100 units of CIELAB, along an outline of clearness one half."""
_WALL = 1e3
"""Cost of a step into an empty pixel."""
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Half of the neighbours, rows and columns; the others are their mirror images."""


def grow_region(
    rgb: Tensor,
    depth: Tensor,
    identity: Tensor | None,
    alpha: Tensor,
    positive: Sequence[tuple[int, int]],
    negative: Sequence[tuple[int, int]] = (),
    *,
    tolerance: float = 0.5,
) -> Tensor:
    """The region around clicked pixels; see the top of this file.

    Args:
        rgb: float [H, W, 3] in 0..1.
        depth: [H, W], any unit.
        identity: [H, W, D], rendered identity encodings, or None.
        alpha: [H, W] in 0..1.
        positive, negative: pixels (x, y) of the object and of what does not belong to it; those on nothing have no effect.
        tolerance: 0..1, how far the region goes.

    Returns:
        bool [H, W], on the picture's device; empty if no positive pixel has an alpha of `MIN_ALPHA`.

    Raises:
        ValueError: a pixel is outside, the tolerance is not in 0..1, or the maps have other sizes than alpha.
    """
    size = (alpha.shape[0], alpha.shape[1])
    images = {"rgb": rgb, "depth": depth[..., None], "alpha": alpha[..., None]}
    if identity is not None:
        images["identity"] = identity
    for name, image in images.items():
        if tuple(image.shape[:-1]) != size or (name == "rgb" and image.shape[-1] != 3):
            raise ValueError(
                f"{name} has shape {list(image.shape)}: expected {list(size)} pixels, as alpha has."
            )
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}: expected 0 to 1.")
    check_pixels([*positive, *negative], size[1], size[0])
    arrays = arrays_of(images.values())
    solid = arrays[2][..., 0] >= MIN_ALPHA
    inside, outside = ([(y, x) for x, y in pixels if solid[y, x]] for pixels in (positive, negative))
    if not inside:
        return torch.zeros_like(alpha, dtype=torch.bool)
    scale = max(1.0, max(size) / SIZE)
    small = [shrunk(array, scale) for array in arrays]
    rows = [[_moved(pixel, size, small[0].shape) for pixel in pixels] for pixels in (inside, outside)]
    spread = spread_of(small)
    radius = RADIUS * 4 ** (2 * tolerance - 1)
    rough = _region(features_of(small, spread), small[2][..., 0], rows[0], rows[1], radius)
    rough = cv2.resize(rough.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    region = _snapped(rough, arrays, spread, scale, inside, outside)
    return torch.from_numpy(region).to(alpha.device)


@dataclass(frozen=True)
class Wand:
    """The wand as a maker of masks: clicks, a box, or a mask that is roughly right. Needs no weights.

    A box is searched for what is unlike its surroundings. Of a mask only the outline is doubted: it moves, within 2 % of the picture's
    longer side, to where the picture changes most. The score says how clear the outline is: 0.5 where colours change by 3 units of
    CIELAB along it. A photo has no depth, and there the wand is worse than on renders.
    """

    tolerance: float = 0.5
    """How far a region goes from clicks, 0 to 1."""

    def prompted(
        self,
        picture: Picture,
        positive: Sequence[Pixel] = (),
        negative: Sequence[Pixel] = (),
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
    ) -> Mask:
        """As `PromptMaker.prompted`. Empty, with the score 0, if nothing is where the prompt is, or the mask holds nothing.

        Raises:
            ValueError: the prompt does not fit the picture, or there is none.
        """
        height, width = check_prompt(picture, positive, negative, box, mask)
        solid = torch.ones(height, width, device=picture.rgb.device)
        alpha = solid if picture.alpha is None else picture.alpha
        depth = solid if picture.depth is None else picture.depth
        parts = [picture.rgb, depth[..., None], alpha[..., None]]
        images = arrays_of([*parts, picture.identity] if picture.identity is not None else parts)
        if mask is not None:
            region = self._outlined(images, mask.detach().cpu().numpy() > 0.5, positive, negative)
        else:
            inside, outside = list(positive), list(negative)
            if box is not None:
                around = _around(box, width, height)
                outside += around
                inside += _unlike_around(images, box, outside)
            region = self._grown(images, inside, outside)
        if box is not None:
            x0, y0, x1, y1 = box
            within = np.zeros_like(region)
            within[y0:y1, x0:x1] = True
            region &= within
        return Mask(torch.from_numpy(region).to(picture.rgb.device), _clearness(region, images))

    def _grown(self, images: list[Array], inside: Sequence[Pixel], outside: Sequence[Pixel]) -> _Bits:
        rgb, depth, alpha = (torch.from_numpy(image) for image in images[:3])
        identity = torch.from_numpy(images[3]) if len(images) > 3 else None
        return grow_region(
            rgb, depth[..., 0], identity, alpha[..., 0], inside, outside, tolerance=self.tolerance
        ).numpy()

    def _outlined(
        self, images: list[Array], rough: _Bits, positive: Sequence[Pixel], negative: Sequence[Pixel]
    ) -> _Bits:
        """A rough mask [H, W] with what was clicked, and a better outline."""
        solid = images[2][..., 0] >= MIN_ALPHA
        rough = rough & solid
        missed = [(x, y) for x, y in positive if not rough[y, x]]
        wrong = [(x, y) for x, y in negative if rough[y, x]]
        if missed:
            rough = rough | self._grown(images, missed, negative)
        if wrong:
            rough = rough & ~self._grown(images, wrong, positive or [innermost(rough)])
        if not rough.any():
            return rough
        deepest = float(cv2.distanceTransform(np.pad(rough.astype(np.uint8), 1), cv2.DIST_L2, 3).max())
        margin = max(1, min(round(_DOUBT * max(rough.shape)), int(0.5 * deepest)))
        core = _eroded(rough, margin)
        core |= rough & ~_dilated(core, margin)
        reach = _dilated(rough, margin) & solid
        for x, y in positive:
            core[y, x] |= solid[y, x]
            reach[y, x] |= solid[y, x]
        for x, y in negative:
            core[y, x] = reach[y, x] = False
        return _between(core, reach, images, spread_of(images), max(1.0, max(rough.shape) / SIZE))


def arrays_of(images: Iterable[Tensor]) -> list[Array]:
    return [np.nan_to_num(image.detach().float().cpu().numpy(), posinf=1e9, neginf=0) for image in images]


def innermost(mask: _Bits) -> Pixel:
    """The pixel of a mask that is farthest from its border."""
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(column), int(row)


def _around(box: Box, width: int, height: int) -> list[Pixel]:
    """Pixels of the picture just outside of a box, on all sides."""
    x0, y0, x1, y1 = box
    gap = max(1, round(0.02 * max(x1 - x0, y1 - y0)))
    xs, ys = np.linspace(x0, x1 - 1, 8).round().astype(int), np.linspace(y0, y1 - 1, 8).round().astype(int)
    sides = [(int(x), y) for x in xs for y in (y0 - gap, y1 - 1 + gap)]
    sides += [(x, int(y)) for y in ys for x in (x0 - gap, x1 - 1 + gap)]
    return sorted({(x, y) for x, y in sides if 0 <= x < width and 0 <= y < height})


def _unlike_around(images: list[Array], box: Box, around: list[Pixel]) -> list[Pixel]:
    """Of pixels spread over a box up to a third, those least like the ones around it, or known to be outside."""
    x0, y0, x1, y1 = box
    xs, ys = (np.linspace(a + (b - a) * 0.15, b - 1 - (b - a) * 0.15, 9) for a, b in ((x0, x1), (y0, y1)))
    solid = images[2][..., 0] >= MIN_ALPHA
    inside = sorted({(round(x), round(y)) for x in xs for y in ys})
    inside = [(x, y) for x, y in inside if solid[y, x]]
    others = [(x, y) for x, y in around if solid[y, x]]
    if not inside or not others:
        return inside or [((x0 + x1) // 2, (y0 + y1) // 2)]
    smooth = [_blurred(image) for image in images]
    spread = spread_of(images)
    own, other = (
        features_of([image[[y for _, y in ps], [x for x, _ in ps]] for image in smooth], spread)
        for ps in (inside, others)
    )
    change = own[:, None] - other[None]
    unlike = (_norm(change[..., :3]) + np.abs(change[..., 3]) + _norm(change[..., 4:])).min(axis=1)
    order = np.argsort(-unlike, kind="stable")[: max(3, len(inside) // 3)]
    return [inside[k] for k in order if unlike[k] >= _UNLIKE * unlike[order[0]]]


def _blurred(image: Array) -> Array:
    """The mean over 3 x 3 pixels of an image [H, W, C]."""
    return np.stack(
        [cv2.blur(image[..., c], (3, 3)) for c in range(image.shape[-1])], axis=-1, dtype=np.float32
    )


def _clearness(region: _Bits, images: list[Array]) -> float:
    """How clear the outline of a region is, 0 to 1; see `Wand`."""
    solid = images[2][..., 0] >= MIN_ALPHA
    scale = max(1.0, max(region.shape) / SIZE)
    spread, costs = spread_of(images), []
    for dy, dx in ((0, 2), (2, 0)):  # soft edges are two pixels wide
        a = (slice(0, region.shape[0] - dy), slice(0, region.shape[1] - dx))
        b = (slice(dy, None), slice(dx, None))
        ends = region[a] != region[b]
        costs.append(np.full(int((ends & (solid[a] != solid[b])).sum()), _WALL))
        both = ends & solid[a] & solid[b]
        if not both.any():
            continue
        one, other = (features_of([image[part][both] for image in images], spread) for part in (a, b))
        costs.append(_change(one, other, 2 / scale) - _STEP * 2 / scale)
    found = np.concatenate(costs)
    if len(found) == 0:
        return 0.0
    middle = max(float(np.median(found)), 0.0)
    return middle / (middle + _COLOR * _CLEAR)


# ------------------------------------------------------------------------------------------------- what changes


def shrunk(image: Array, scale: float) -> Array:
    """[h, w, C] of an image [H, W, C], a scale smaller."""
    if scale == 1:
        return image
    size = [max(1, round(side / scale)) for side in image.shape[1::-1]]
    # OpenCV takes four channels at a time.
    parts = [np.ascontiguousarray(image[..., k : k + 4]) for k in range(0, image.shape[2], 4)]
    parts = [cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts]
    return np.concatenate([part.reshape(*size[::-1], -1) for part in parts], axis=-1, dtype=np.float32)


def _moved(pixel: tuple[int, int], size: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of a pixel in a picture of another size."""
    row, column = (int((k + 0.5) * m / n) for k, n, m in zip(pixel, size, other, strict=False))
    return row, column


def spread_of(images: list[Array]) -> float:
    """Root mean square distance of identities to their mean; 1 without any."""
    if len(images) < 4:
        return 1.0
    solid = images[2][..., 0] >= MIN_ALPHA
    seen = images[3][solid] / images[2][solid]
    if len(seen) == 0:
        return 1.0
    # Where all is one object, identities differ by noise only.
    noise = 0.1 * float(np.sqrt(np.square(seen).sum(axis=1).mean()))
    return max(float(np.sqrt(seen.var(axis=0).sum())), noise, 1e-6)


def features_of(images: list[Array], spread: float) -> Array:
    """[..., 4 + D]: CIELAB / 100 with lightness weighted, log(depth), identity / spread, of images [..., C]."""
    rgb, depth, alpha = images[:3]
    color = cv2.cvtColor(rgb.reshape(-1, 1, 3).clip(0, 1), cv2.COLOR_RGB2LAB).reshape(rgb.shape) / 100
    color[..., 0] *= _LIGHTNESS
    parts = [color, np.log(depth.clip(1e-6))]
    if len(images) > 3:
        parts.append(images[3] / (spread * alpha.clip(MIN_ALPHA)))
    return np.concatenate(parts, axis=-1)


def _change(a: Array, b: Array, pixel: float, slopes: Sequence[Array] = ()) -> Array:
    """Cost [...] of a step between neighbours with features [..., 4 + D].

    Args:
        pixel: size of one, in pixels of a picture of SIZE.
        slopes: changes [...] of log(depth) that are no more than slanted surfaces make.
    """
    change = b - a
    cost = _STEP * pixel + _COLOR * _excess(_norm(change[..., :3]), _COLOR_NOISE)
    depth = np.abs(change[..., 3])
    for slope in slopes:
        depth = np.minimum(depth, np.abs(change[..., 3] - slope))
    cost += _DEPTH * _excess(depth, _DEPTH_NOISE * pixel)
    if change.shape[-1] > 4:
        cost += _IDENTITY * _excess(_norm(change[..., 4:]), _IDENTITY_NOISE)
    return cost


# --------------------------------------------------------------------------------------------- smaller picture


def _region(
    features: Array,
    alpha: Array,
    inside: list[tuple[int, int]],
    outside: list[tuple[int, int]],
    radius: float,
) -> _Bits:
    """[h, w] of the pixels nearer to the seeds inside than a radius, and no nearer to those outside."""
    pixel = SIZE / max(alpha.shape)
    unlike = _unlike(features, inside) * pixel
    if not outside:
        distance = _distance(_steps(features, alpha, inside), unlike, inside, radius * _BAND)
        return distance < _calmest(distance, radius)
    # Half of the toll depends on which seeds a pixel is more like.
    other = _unlike(features, outside) * pixel
    share = (np.square(unlike) + 1e-4) / (np.square(unlike) + np.square(other) + 2e-4)
    distance = _distance(_steps(features, alpha, inside), unlike * (0.5 + share), inside, radius * _BAND)
    away = _distance(_steps(features, alpha, outside), other * (1.5 - share), outside, radius * _BAND)
    return (distance < _calmest(distance, radius)) & (distance <= away)


def _steps(features: Array, alpha: Array, seeds: list[tuple[int, int]]) -> list[Array]:
    """Costs [h, w] of leaving a pixel by each of _SHIFTS, without tolls.

    Planes are flat in 1 / depth. One that lies as at a seed costs nothing: log(depth) changes by -depth times the slope there.
    """
    depth = np.exp(features[..., 3])
    slopes = [_slope(1 / depth, row, column) for row, column in seeds]
    steps = []
    for dy, dx in _SHIFTS:
        planes = [-depth * (y * dy + x * dx) for y, x in slopes]
        cost = _change(features, _shift(features, dy, dx), SIZE / max(alpha.shape), planes)
        cost[np.minimum(_shift(alpha, dy, dx), alpha) < MIN_ALPHA] = _WALL
        steps.append(cost)
    return steps


def _slope(values: Array, row: int, column: int) -> tuple[float, float]:
    """Change of values [h, w] per pixel around one, downwards and to the right; 0 where there is no plane."""
    window = values[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
    slope = []
    for axis in (0, 1):
        changes = np.diff(window, axis=axis)
        middle = float(np.median(changes)) if changes.size else 0.0
        if changes.size and np.abs(changes - middle).max() > _FLAT * values[row, column]:
            return 0.0, 0.0
        slope.append(middle)
    return slope[0], slope[1]


def _unlike(features: Array, seeds: list[tuple[int, int]]) -> Array:
    """How unlike each pixel [h, w] is the seed that it is most like.

    Light scales L + 16, a and b of CIELAB by the same factor: chroma is compared as it is and as it would be as light as the
    seed's, and the smaller difference counts.
    """
    lightness, chroma, identity = features[..., :1], features[..., 1:3], features[..., 4:]
    black = 0.16 * _LIGHTNESS
    best = np.full(features.shape[:2], np.inf, dtype=np.float32)
    for row, column in seeds:
        window = features[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3, :3]
        own = window[_norm(window - features[row, column, :3]) < 0.08].mean(axis=0)
        lit = chroma * ((own[0] + black) / (lightness + black))
        apart = np.minimum(_norm(chroma - own[1:]), _norm(lit - own[1:]))
        apart = np.hypot(apart, lightness[..., 0] - own[0])
        if identity.shape[-1]:
            apart = np.maximum(apart, _norm(identity - identity[row, column]) - _IDENTITY_NOISE)
        best = np.minimum(best, apart)
    return _excess(best, _TOLL_NOISE)


def _distance(
    steps: list[Array], unlike: Array, seeds: list[tuple[int, int]], limit: float
) -> NDArray[np.float64]:
    """Geodesic distance [h, w] to the nearest seed, infinite beyond the limit.

    Args:
        steps: costs [h, w] for each of _SHIFTS at the pixel that is left; those out of the picture are not used.
        unlike: [h, w], what the toll is paid for.
    """
    height, width = unlike.shape
    neighbors, ends = _neighbors(height, width)
    costs = np.empty((height, width, 8))
    for k, (dy, dx) in enumerate(_SHIFTS):
        cost = steps[k] + 0.5 * _TOLL * (unlike + _shift(unlike, dy, dx))
        cost *= np.hypot(dy, dx)
        costs[..., k] = cost
        costs[..., 4 + k] = _shift(cost, -dy, -dx)
    graph = sparse.csr_matrix((costs.ravel(), neighbors, ends), shape=(height * width,) * 2)
    rows = [row * width + column for row, column in seeds]
    return dijkstra(graph, indices=rows, min_only=True, limit=limit).reshape(height, width)


@lru_cache(maxsize=4)
def _neighbors(height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Indices of the 8 neighbours of each pixel [8 h w], and where those of each begin and end [h w + 1].

    In place of a neighbour outside the picture stands the pixel itself: no way leads on from there.
    """
    rows, columns = np.mgrid[:height, :width]
    neighbors = np.empty((height, width, 8), dtype=np.int32)
    for k, (dy, dx) in enumerate((*_SHIFTS, *((-dy, -dx) for dy, dx in _SHIFTS))):
        y, x = rows + dy, columns + dx
        known = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        neighbors[..., k] = np.where(known, y * width + x, rows * width + columns)
    return neighbors.ravel(), np.arange(0, neighbors.size + 1, 8, dtype=np.int32)


def _calmest(distance: NDArray[np.float64], radius: float) -> float:
    """The radius near the given one at which a region grows least: there is its outline."""
    exponents = np.linspace(-1, 1, 17)
    radii = radius * _BAND**exponents
    sizes = np.searchsorted(np.sort(distance[np.isfinite(distance)]), radii).clip(1)
    growth = (sizes[2:] - sizes[:-2]) / sizes[1:-1] + 0.02 * np.abs(exponents[1:-1])
    return float(radii[1 + int(np.argmin(growth))])


# ------------------------------------------------------------------------------------------------ full size


def _snapped(
    rough: _Bits,
    images: list[Array],
    spread: float,
    scale: float,
    inside: list[tuple[int, int]],
    outside: list[tuple[int, int]],
) -> _Bits:
    """A region [H, W] whose outline moves to where the picture changes most near it.

    Args:
        images: at full size.
        spread: as `spread_of` says.
        scale: how much smaller the picture was in which the region was found.
    """
    solid = images[2][..., 0] >= MIN_ALPHA
    for row, column in inside:
        rough[row, column] = True
    rough &= solid
    margin = int(np.ceil(scale))
    core = _eroded(rough, margin)
    core |= rough & ~_dilated(core, margin)  # what is too thin to have a core
    reach = _dilated(rough, 2 * margin) & solid
    for row, column in inside:
        core[row, column] = True
    for row, column in outside:
        core[row, column] = reach[row, column] = False
    return _between(core, reach, images, spread, scale)


def _between(core: _Bits, reach: _Bits, images: list[Array], spread: float, scale: float) -> _Bits:
    """What is surely inside [H, W] and what of its surroundings [H, W] is nearer to it than to all outside of them."""
    solid = images[2][..., 0] >= MIN_ALPHA
    within = core & _dilated(~core, 1)
    around = _dilated(reach, 1) & ~reach & solid
    nodes = (reach & ~core) | within | around
    if not within.any():
        return core
    index = np.full(core.shape, -1)
    index[nodes] = np.arange(int(nodes.sum()))
    features = features_of([image[nodes] for image in images], spread)
    height, width = core.shape
    tails, heads, costs = [], [], []
    for dy, dx in _SHIFTS:
        a = index[: height - dy, max(0, -dx) : width - max(0, dx)]
        b = index[dy:, max(0, dx) : width + min(0, dx)]
        both = (a >= 0) & (b >= 0)
        tails.append(a[both])
        heads.append(b[both])
        costs.append(_change(features[a[both]], features[b[both]], 1 / scale) * np.hypot(dy, dx))
    graph = sparse.csr_matrix(
        (np.concatenate(costs).astype(float), (np.concatenate(tails), np.concatenate(heads))),
        shape=(len(features),) * 2,
    )
    seeds = np.concatenate([index[within], index[around]])
    _, _, nearest = dijkstra(graph, directed=False, indices=seeds, min_only=True, return_predecessors=True)
    won = np.zeros(len(features), dtype=bool)
    won[index[within]] = True
    region = core.copy()
    region[nodes] = won[nearest.clip(0)] & (nearest >= 0)  # negative: reached by nobody
    return region


def _eroded(mask: _Bits, radius: int) -> _Bits:
    return cv2.erode(mask.astype(np.uint8), _disc(radius), borderType=cv2.BORDER_REPLICATE).astype(bool)


def _dilated(mask: _Bits, radius: int) -> _Bits:
    return cv2.dilate(mask.astype(np.uint8), _disc(radius)).astype(bool)


def _disc(radius: int) -> NDArray[np.uint8]:
    side = 2 * radius + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- arrays


def _shift(image: Array, dy: int, dx: int) -> Array:
    """[h, w, ...] of the values dy rows below and dx columns to the right; beyond the border, that of the border."""
    height, width = image.shape[:2]
    rows = (np.arange(height) + dy).clip(0, height - 1)
    columns = (np.arange(width) + dx).clip(0, width - 1)
    return image[rows[:, None], columns]


def _norm(difference: Array) -> Array:
    return np.sqrt(np.einsum("...c,...c->...", difference, difference))


def _excess(values: Array, noise: float) -> Array:
    return np.maximum(values - noise, 0)
