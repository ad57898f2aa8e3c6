"""What a splat's shape says of a click: things are bounded by creases.

Where one thing ends and another begins, surfaces meet in a valley or depth jumps, whatever is printed on them. A view shows a valley where
the inverse depth, which is linear on planes, bends upwards. Over all views these bends are brought back to the Gaussians, as votes are:
jumps that only some views see average out, and creases in space stay.

Things stand on something. Where much of what the views show is one plane, its Gaussians belong to nothing that is on it: this parts things
from a table whose grain, or whose noise, looks like creases. A table without texture is no plane in a splat, and then creases are all there is.

Neighbouring Gaussians make a graph, and creases and changes of colour make its edges weak. `hierarchy` joins what hangs together most: a tree of
Gaussians, parts and things, once for the whole splat. The sets that a click may mean are the nodes around it; a thing differs from its
parts by waiting long for a partner. That things are convex: Stein et al., "Object Partitioning using Local Convexity", CVPR 2014.
They are guesses: makers of masks have the last word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import KDTree
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.segment.hierarchy import Hierarchy, hierarchy

HEIGHT = 192
"""Pixels of the pictures in which creases are looked for."""
VIEWS = 24
"""Views that are enough, evenly spread."""
NODES = 100_000
"""Gaussians that make up the graph; in a larger splat the others go with the nearest of these."""
PROPOSED = 6
"""Sets that are proposed for a click."""
NEIGHBORS = 20
_SOLID = 0.5
"""Accumulation of pixels that have a surface."""
_STEPS = (2, 4)
"""Pixels on either side of a bend, in a picture of HEIGHT."""
_MOST_BEND = 2.0
_SEEN = 1.0
"""Weight in all views, in pixels, below which nothing is known of a Gaussian."""
_OPAQUE = 0.05
_CREASE, _COLOR = 0.5, 0.15
"""Mean bend, and change of colour in 100 of CIELAB with lightness halved, across which 1/e of the weight goes."""
LEAST = 40
"""Gaussians of a set that is proposed."""
_SHARE = 0.3
"""Of the graph, the most that such a set has."""
OTHER = 1.25
"""How much larger or smaller the next set must be."""
_SAMPLES, _TRIED = 600, 300
"""Pixels of a view, and planes through one of them, among which the one that things stand on is looked for."""
_SMOOTH = 3.0
"""Pixels of a picture of HEIGHT over which depth is averaged for normals."""
_JUMP = 0.02
"""Second difference of the inverse depth over four pixels, in parts of it, from which on a pixel has no normal."""
_THICK, _LEVEL = 0.015, 0.9
"""How far from a plane its points may be, in parts of the scene's radius, and the least cosine between its normal and theirs."""
_SUPPORT = 0.1
"""The least share of the pixels that lie on the plane that things stand on."""
_ON, _ABOVE = 2.5, 5.0
"""Distances from that plane, in units of its noise, up to which a Gaussian is a part of it and from which on it is none."""
_APART = 4.0
"""Cost of a step between the two."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """Points p with p . normal = offset, about."""

    normal: Array
    """[3] unit vector."""
    offset: float
    """World units."""
    noise: float
    """Standard deviation of the points that the views show of it, world units."""

    def belonging(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """How far points [N, 3] are a part of it, [N] in 0..1."""
        away = np.abs(points @ self.normal - self.offset) / self.noise
        return ((_ABOVE - away) / (_ABOVE - _ON)).clip(0, 1)


@dataclass(frozen=True)
class Surface:
    """What views say of N Gaussians."""

    crease: Array
    """[N] mean bend of the pixels that show it: a change of the slope, 1 for 45 degrees seen face on."""
    color: Array
    """[N, 3] mean colour, RGB in 0..1."""
    weight: Array
    """[N] blending weight in all views, pixels."""
    support: Plane | None = None
    """What things stand on, if it is a plane."""


def bends(depth: Array, alpha: Array, focal: float) -> Array:
    """How much a surface bends towards the camera, [H, W]: the slope's largest change in four directions, 0 if all are convex.

    Args:
        depth: [H, W], any unit.
        alpha: [H, W].
        focal: length in pixels.
    """
    height, width = depth.shape
    empty = alpha < MIN_ACCUMULATION
    inverse = 1 / np.maximum(depth, 1e-6)
    if empty.all():
        return np.zeros_like(inverse)
    inverse[empty] = 0.5 * inverse[~empty].min()
    inverse = cv2.GaussianBlur(inverse, (0, 0), 0.8)
    found = np.zeros_like(inverse)
    for step in _STEPS:
        padded = np.pad(inverse, step, mode="edge")
        slant = round(step * 0.7)
        for dy, dx in ((0, step), (step, 0), (slant, slant), (slant, -slant)):
            one, other = (
                padded[step + s * dy : step + s * dy + height, step + s * dx : step + s * dx + width]
                for s in (1, -1)
            )
            bend = (one + other - 2 * inverse) * (focal / np.hypot(dy, dx)) / inverse
            np.maximum(found, bend, out=found)
    return found.clip(max=_MOST_BEND)


@torch.no_grad()
def surface(sights: Iterable[tuple[Tensor, Tensor, Tensor, rendering.Projection]]) -> Surface:
    """Creases and colours of N Gaussians.

    Args:
        sights: of some views: rgb [H, W, 3], depth [H, W], alpha [H, W], and the projection.
    """
    sums: Tensor | None = None
    shown: list[tuple[Array, Array]] = []
    random = np.random.default_rng(0)
    for rgb, depth, alpha, projection in sights:
        shown.append(_sampled(depth.cpu().numpy(), alpha.cpu().numpy(), projection.camera, random))
        shape = bends(depth.cpu().numpy().copy(), alpha.cpu().numpy(), float(projection.camera.K[0, 0]))
        bend = torch.from_numpy(shape).to(rgb)[..., None]
        maps = torch.cat([bend, rgb, torch.ones_like(bend)], dim=-1) * (alpha > _SOLID)[..., None]
        part = rendering.transpose(projection, maps)
        sums = part if sums is None else sums + part
    assert sums is not None
    values = sums.cpu().numpy()
    mean = values[:, :4] / np.maximum(values[:, 4:], 1e-6)
    points, normals = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    return Surface(mean[:, 0], mean[:, 1:], values[:, 4], support_of(points, normals))


def _sampled(
    depth: Array, alpha: Array, camera: rendering.Camera, random: np.random.Generator
) -> tuple[Array, Array]:
    """Some of the points that a view shows, and the normals there: [M, 3] each, world units. Beside jumps of the depth there are none."""
    K, view = camera.K.cpu().numpy(), camera.viewmat.cpu().numpy()
    solid = alpha > _SOLID
    if not solid.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)
    inverse = np.where(solid, 1 / np.maximum(depth, 1e-6), 0.5 / depth[solid].max()).astype(np.float32)
    fine, broad = (cv2.GaussianBlur(inverse, (0, 0), sigma) for sigma in (0.8, _SMOOTH))
    jump = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        padded = np.pad(fine, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        ahead, behind = (np.roll(padded, s, axis) for s in (-2, 2))
        bent = np.abs(ahead + behind - 2 * padded)
        jump |= (bent[2:-2] if axis == 0 else bent[:, 2:-2]) > _JUMP * fine
    rows, columns = (solid & (cv2.dilate(jump.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)).nonzero()
    if len(rows) > _SAMPLES:
        chosen = random.choice(len(rows), _SAMPLES, replace=False)
        rows, columns = rows[chosen], columns[chosen]
    rays = np.stack(
        [(columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1], np.ones(len(rows))], axis=-1
    )
    # A plane's inverse depth is linear in the ray: its slopes are the normal.
    slope = [
        cv2.Sobel(broad, cv2.CV_32F, *step, ksize=3, scale=1 / 8)[rows, columns] for step in ((1, 0), (0, 1))
    ]
    across, down = slope[0] * K[0, 0], slope[1] * K[1, 1]
    normal = np.stack([across, down, broad[rows, columns] - across * rays[:, 0] - down * rays[:, 1]], axis=-1)
    normal /= -np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    points = rays * depth[rows, columns][:, None] - view[:3, 3]
    return (points @ view[:3, :3]).astype(np.float32), (normal @ view[:3, :3]).astype(np.float32)


def support_of(points: Array, normals: Array) -> Plane | None:
    """The plane on which most of some points [M, 3] with normals [M, 3] lie; None if too few do."""
    if len(points) < _TRIED:
        return None
    random = np.random.default_rng(0)
    apart = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    radius = float(np.median(apart))
    near = apart < 3 * radius
    share = near.mean()
    points, normals = points[near], normals[near]
    thick = _THICK * radius

    def on(normal: Array, offset: float) -> NDArray[np.bool_]:
        return (np.abs(points @ normal - offset) < thick) & (normals @ normal > _LEVEL)

    tried = [(normals[i], float(points[i] @ normals[i])) for i in random.choice(len(points), _TRIED)]
    normal, offset = max(tried, key=lambda plane: int(on(*plane).sum()))
    for _ in range(10):
        own = points[on(normal, offset)]
        if len(own) < 3:
            return None
        middle = own.mean(axis=0)
        axis = np.linalg.svd(own - middle, full_matrices=False)[2][2]
        normal = axis if axis @ normal > 0 else -axis
        offset = float(middle @ normal)
    own = on(normal, offset)
    if own.mean() * share < _SUPPORT:
        return None
    noise = 1.4826 * float(np.median(np.abs(points[own] @ normal - offset)))
    return Plane(normal, offset, max(noise, 1e-3 * radius))


@dataclass(frozen=True)
class Nodes:
    """Nodes of a tree over N Gaussians, that may be things."""

    tree: Hierarchy
    leaf_of: NDArray[np.int64]
    """[N], the leaf that each Gaussian goes with; -1 for those of which nothing is known."""
    chosen: NDArray[np.int64]
    """[C], which nodes they are."""
    wait: NDArray[np.floating]
    """[C], how long each waits for a partner."""
    ground: NDArray[np.floating]
    """[C], share of each that is a part of what things stand on, 0 to 1."""

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Sums of values of Gaussians, [N, F], over those of every node: [C, F]."""
        return self.tree.sums(self.onto @ values)[self.chosen]

    @cached_property
    def onto(self) -> Any:
        """[n, N], sparse: which leaf each Gaussian goes with."""
        rows = (self.leaf_of >= 0).nonzero()[0]
        shape = (len(self.tree.order), len(self.leaf_of))
        return sparse.csr_matrix((np.ones(len(rows)), (self.leaf_of[rows], rows)), shape=shape)

    def cut(self, score: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The things of N Gaussians by the nodes' scores [C] (`Hierarchy.cut`).

        Returns:
            int64 [N] from 0, -1 for what belongs to none; and int64 [T], which of the C nodes they are.
        """
        everyone = np.zeros(len(self.tree.parent))
        everyone[self.chosen] = score
        taken = np.array(self.tree.cut(everyone), dtype=np.int64)
        of_leaf = np.full(len(self.tree.order), -1)
        for k, node in enumerate(taken):
            of_leaf[self.tree.leaves(int(node))] = k
        return np.where(self.leaf_of >= 0, of_leaf[self.leaf_of], -1), np.searchsorted(self.chosen, taken)


class Solids:
    """What may be a thing in a splat of N Gaussians: the nodes of a tree.

    Args:
        means: [N, 3].
        opacities: [N].
        known: of the N Gaussians.
    """

    def __init__(self, means: Tensor, opacities: Tensor, known: Surface) -> None:
        points, self._device = means.cpu().numpy(), means.device
        usable = (
            (known.weight > _SEEN) & (opacities.cpu().numpy() > _OPAQUE) & np.isfinite(points).all(axis=1)
        )
        rows = usable.nonzero()[0]
        self._nodes = rows
        if len(rows) > NODES:
            self._nodes = np.sort(np.random.default_rng(0).choice(rows, NODES, replace=False))
        self._node_of = np.full(len(points), -1)
        """[N], the node that each Gaussian goes with; -1 for those of which nothing is known."""
        self._tree: Hierarchy | None = None
        self._ground = np.zeros(len(self._nodes))
        if len(self._nodes) <= max(NEIGHBORS, LEAST):
            return
        tree = KDTree(points[self._nodes])
        if len(rows) > len(self._nodes):
            self._node_of[rows] = tree.query(points[rows], workers=-1)[1]
        else:
            self._node_of[rows] = np.arange(len(rows))
        if known.support is not None:
            self._ground = known.support.belonging(points[self._nodes])
        self._tree = hierarchy(_graph(tree, points[self._nodes], self._nodes, known, self._ground))

    @property
    def known(self) -> Tensor:
        """bool [N]: Gaussians of which it can be told whether they belong to a thing."""
        return torch.from_numpy(self._node_of >= 0).to(self._device)

    @cached_property
    def nodes(self) -> Nodes | None:
        """All nodes that are large enough to be a thing, and small enough; None for a splat of too few Gaussians."""
        tree = self._tree
        if tree is None:
            return None
        chosen = ((tree.count >= LEAST) & (tree.count <= _SHARE * len(self._nodes))).nonzero()[0]
        wait = np.array([tree.wait(node) for node in chosen.tolist()])
        ground = tree.sums(self._ground)[chosen] / tree.count[chosen]
        return Nodes(tree, self._node_of, chosen, wait, ground)

    def around(self, seeds: Tensor, most: int = PROPOSED) -> list[tuple[Tensor, float]]:
        """Sets of Gaussians that a click may mean, those that wait longest for a partner first.

        Args:
            seeds: [N, P], what each of P clicked pixels shows.
            most: sets at most.

        Returns:
            bool [N] each, with that wait (log of a ratio, 7 at most).
        """
        own = self._node_of >= 0
        weight = seeds.double().cpu().numpy()[own]
        if self._tree is None or (weight.sum(axis=0) <= 0).any():
            return []
        start = np.zeros((len(self._nodes), weight.shape[1]))
        np.add.at(start, self._node_of[own], weight)
        found: list[tuple[int, float]] = []
        nodes = self._tree.around(start, LEAST, int(_SHARE * len(self._nodes)))
        for node, wait in sorted(reversed(nodes), key=lambda one: -one[1]):  # the larger first
            size = self._tree.count[node]
            if all(abs(np.log(size / self._tree.count[other])) > np.log(OTHER) for other, _ in found):
                found.append((node, wait))
        sets = []
        for node, wait in found[:most]:
            chosen = np.zeros(len(self._nodes), dtype=bool)
            chosen[self._tree.leaves(node)] = True
            sets.append((torch.from_numpy(own & chosen[self._node_of]).to(self._device), wait))
        return sets


def _graph(
    tree: KDTree,
    points: NDArray[np.floating],
    rows: NDArray[np.int64],
    known: Surface,
    ground: NDArray[np.floating],
) -> sparse.csr_matrix:
    """How much neighbours [n, n] among points [n, 3] hang together, 0 to 1; rows [n] are theirs in `known`, and [n] how far they are a part
    of what things stand on."""
    count = len(points)
    looked_up: Any = tree.query(points, k=NEIGHBORS + 1, workers=-1)
    apart, other = looked_up
    tail, head = np.repeat(np.arange(count), NEIGHBORS), other[:, 1:].ravel()
    apart = apart[:, 1:].ravel()
    crease = known.crease[rows]
    lab = cv2.cvtColor(known.color[rows][None].clip(0, 1), cv2.COLOR_RGB2LAB)[0] / 100
    lab[:, 0] *= 0.5
    cost = (np.maximum(crease[tail], crease[head]) / _CREASE) ** 2
    cost += np.square((lab[tail] - lab[head]) / _COLOR).sum(axis=1)
    cost += (apart / (3 * max(float(np.median(apart)), 1e-12))) ** 2
    cost += _APART * np.abs(ground[tail] - ground[head])
    near = np.exp(-np.minimum(cost, 20.0)).astype(np.float64)
    graph = sparse.coo_matrix((near, (tail, head)), shape=(count, count)).tocsr()
    return (graph + graph.T) / 2
