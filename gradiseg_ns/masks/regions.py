"""Everything in a picture without any weights: small patches of one colour, merged step by step.

Patches (Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004) merge in pairs until one is left, the
most alike neighbours first. A merge costs what changes across the common border, twice, and how far the means are apart, and small
patches merge earlier. Lightness counts half; depth and identity count where the picture has them. The tree of merges, cut at three
costs, gives objects, parts, and parts of parts.

It knows nothing of objects: a label on a box is a region, and two things of one colour are one. On photos of household things on a
table an object's best region had an IoU of 0.57 (docs/masks.md). On renders, which know
depth, it does better. It is there for tests, demos, and where there are no weights.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gradiseg_ns.masks.levels import SMALLER
from gradiseg_ns.masks.types import Mask, Picture, check_picture
from gradiseg_ns.masks.wand import MIN_ALPHA, arrays_of, features_of, shrunk, spread_of

SIZE = 512
"""Longer side, in pixels, of the smaller picture in which patches merge."""
CUTS = (0.08, 0.045, 0.025)
"""Costs at which the tree is cut into objects, parts, and parts of parts."""
_PATCH, _LEAST_PATCH = 0.3, 12
"""Felzenszwalb's scale, for colours of CIELAB / 100, and the least pixels of a patch."""
_BORDER = 2.0
"""What a change across the border counts, beside one between the means."""
_SMALL = 0.3
"""Power of the share of the picture that the smaller of two patches has."""
_DEPTH, _IDENTITY = 2.0, 0.3
"""What log(depth), and identities in units of their spread, count beside colours in units of 100 of CIELAB."""


@dataclass
class _Tree:
    """Patches 0 .. n - 1 and what they merge into, each merge with a number of its own."""

    patches: NDArray[np.int64]
    """[h, w]; -1 where nothing is."""
    children: dict[int, tuple[int, int]] = field(default_factory=dict)
    parent: dict[int, int] = field(default_factory=dict)
    height: list[float] = field(default_factory=list)
    """The largest cost of a merge in each; 0 for a patch."""
    area: list[float] = field(default_factory=list)
    """Pixels of each."""

    def above(self, node: int) -> Iterator[int]:
        """A node and what it merges into, one after the other."""
        while True:
            yield node
            if node not in self.parent:
                return
            node = self.parent[node]

    def leaves(self, node: int) -> list[int]:
        """The patches of a node."""
        found, open_nodes = [], [node]
        while open_nodes:
            node = open_nodes.pop()
            if node in self.children:
                open_nodes += self.children[node]
            else:
                found.append(node)
        return found

    def cut(self, cost: float) -> list[int]:
        """The nodes that are whole before a merge of this cost, and in none that is."""
        return [
            node for node, height in enumerate(self.height)
            if height <= cost and (node not in self.parent or self.height[self.parent[node]] > cost)
        ]  # fmt: skip


@dataclass(frozen=True)
class Regions:
    """Regions of like colour as masks of everything (`EverythingMaker`). Needs no weights; see the top of this file for what it is worth.

    The score says how much more a region differs from its neighbour than its own parts do: 1 minus the ratio of the costs, of
    which the parts' is at least the smallest cut.
    """

    least: float = 2e-4
    """Smaller regions, in parts of the picture, are left out."""

    def everything(self, picture: Picture) -> list[Mask]:
        """As `EverythingMaker.everything`. Regions of one level never overlap.

        Raises:
            ValueError: the picture's parts do not fit each other.
        """
        height, width = check_picture(picture)
        tree = _merged(*_prepared(picture))
        # at full size by the nearest pixel of the smaller picture
        rows = (np.arange(height) * 2 + 1) * tree.patches.shape[0] // (2 * height)
        columns = (np.arange(width) * 2 + 1) * tree.patches.shape[1] // (2 * width)
        patches = tree.patches[rows[:, None], columns[None]]
        found: list[Mask] = []
        levels: dict[int, int] = {}  # of the nodes that are taken
        for cost in CUTS:
            for node in tree.cut(cost):
                outer = next((above for above in tree.above(node) if above in levels), None)
                if outer is not None and tree.area[node] > SMALLER * tree.area[outer]:
                    continue  # nearly the same, or the same
                members = np.zeros(len(tree.height) + 1, bool)  # the last place is that of -1
                members[tree.leaves(node)] = True
                pixels = members[patches]
                if pixels.sum() < self.least * pixels.size:
                    continue
                levels[node] = 0 if outer is None else levels[outer] + 1
                own = max(tree.height[node], CUTS[-1])
                score = 1 - own / tree.height[tree.parent[node]] if node in tree.parent else 1.0
                found.append(
                    Mask(torch.from_numpy(pixels).to(picture.rgb.device), float(score), levels[node])
                )
        return sorted(found, key=lambda mask: -mask.score)


def _prepared(picture: Picture) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Patches [h, w] of a smaller picture, -1 where nothing is, and what they are compared by [h, w, C]."""
    from skimage.segmentation import felzenszwalb

    height, width = picture.rgb.shape[:2]
    solid = torch.ones(height, width)
    alpha = solid if picture.alpha is None else picture.alpha
    depth = solid if picture.depth is None else picture.depth
    parts = [picture.rgb, depth[..., None], alpha[..., None]]
    images = arrays_of([*parts, picture.identity] if picture.identity is not None else parts)
    scale = max(1.0, max(height, width) / SIZE)
    images = [shrunk(image, scale) for image in images]
    features = features_of(images, spread_of(images))
    features[..., :3] = cv2.bilateralFilter(np.ascontiguousarray(features[..., :3]), -1, 0.06, 2.0)
    features[..., 3] *= _DEPTH
    features[..., 4:] *= _IDENTITY
    with warnings.catch_warnings():  # that there are not three channels is meant so
        warnings.simplefilter("ignore", RuntimeWarning)
        patches = felzenszwalb(features, scale=_PATCH, sigma=0, min_size=_LEAST_PATCH, channel_axis=-1)
    empty = images[2][..., 0] < MIN_ALPHA
    # A patch that lies half in the empty ends there.
    patches = np.where(empty, -1, patches.astype(np.int64))
    _, dense = np.unique(patches[~empty], return_inverse=True)
    patches[~empty] = dense.reshape(-1)
    return patches, features


def _merged(patches: NDArray[np.int64], features: NDArray[np.float32]) -> _Tree:
    """The tree of merges of patches [h, w], compared by features [h, w, C]."""
    count = int(patches.max(initial=-1)) + 1
    seen = patches >= 0
    members = patches[seen]
    area = np.bincount(members, minlength=count).astype(float).tolist()
    mean = [
        np.bincount(members, features[seen][:, c], minlength=count) / np.maximum(area, 1)
        for c in range(features.shape[-1])
    ]
    means: list[NDArray[np.float64]] = list(np.stack(mean, axis=1)) if count else []
    borders = _borders(patches, features)
    near: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for (i, j), border in borders.items():
        near[i][j] = near[j][i] = border
    total = float(patches.size)
    tree = _Tree(patches, height=[0.0] * count, area=area)
    alive = [True] * count

    def cost(i: int, j: int) -> float:
        change, length = near[i][j]
        apart = float(np.sqrt(np.square(means[i] - means[j]).sum()))
        return (_BORDER * change / length + apart) * (min(area[i], area[j]) / total) ** _SMALL

    heap = [(cost(i, j), i, j) for i, j in borders]
    heapq.heapify(heap)
    while heap:
        price, i, j = heapq.heappop(heap)
        if not (alive[i] and alive[j]):
            continue
        new = len(area)
        alive[i] = alive[j] = False
        alive.append(True)
        area.append(area[i] + area[j])
        means.append((means[i] * area[i] + means[j] * area[j]) / area[new])
        tree.height.append(max(price, tree.height[i], tree.height[j]))
        tree.children[new] = (i, j)
        tree.parent[i] = tree.parent[j] = new
        joined: dict[int, tuple[float, float]] = {}
        for old in (i, j):
            for other, (change, length) in near[old].items():
                near[other].pop(old)
                if other not in (i, j):
                    before = joined.get(other, (0.0, 0.0))
                    joined[other] = (before[0] + change, before[1] + length)
            near[old] = {}
        near.append(joined)
        for other, border in joined.items():
            near[other][new] = border
            heapq.heappush(heap, (cost(new, other), new, other))
    return tree


def _borders(
    patches: NDArray[np.int64], features: NDArray[np.float32]
) -> dict[tuple[int, int], tuple[float, float]]:
    """For each pair of neighbours the sum of what changes along their common border, and its length in pixels."""
    pairs, changes = [], []
    for dy, dx in ((0, 1), (1, 0)):
        a = (slice(0, patches.shape[0] - dy), slice(0, patches.shape[1] - dx))
        b = (slice(dy, None), slice(dx, None))
        ends = (patches[a] != patches[b]) & (patches[a] >= 0) & (patches[b] >= 0)
        pairs.append(np.sort(np.stack([patches[a][ends], patches[b][ends]], axis=1), axis=1))
        changes.append(np.sqrt(np.square(features[b][ends] - features[a][ends]).sum(axis=1)))
    both, places = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    places = places.reshape(-1)
    sums = np.bincount(places, np.concatenate(changes), minlength=len(both))
    lengths = np.bincount(places, minlength=len(both))
    return {
        (int(i), int(j)): (float(change), float(length))
        for (i, j), change, length in zip(both, sums, lengths, strict=True)
    }
