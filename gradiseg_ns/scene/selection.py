"""Selections of Gaussians, bool [N]: from masks of views, from a rectangle in one view, and by growing and shrinking."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from gradiseg_ns import rendering

MIN_WEIGHT = 0.01
"""What has no more blending weight than this in the pixels asked about, in pixels, is not there."""
NEIGHBORS = 8
"""A Gaussian's spacing is the distance to its so many-th nearest neighbour: in a plane, the ring around it."""
_REACH = (1 + 5**0.5) / 2
"""Nothing that touches a Gaussian lies farther from it than so many of its spacings; see `_Cloud`."""


def select_by_votes(foreground: Tensor, background: Tensor, weight: float = 1.0) -> Tensor:
    """What has more than `weight` times as many votes for it as against it (arXiv 2409.11681), as `votes.labels.foreground`.

    Args:
        foreground, background: [N] blending weight in pixels of the object and in other pixels, see `votes_of_masks`.
        weight: above 1 keeps only what is surely foreground, below 1 takes more in.

    Returns:
        bool [N]; false for what has no more than `MIN_WEIGHT` in the foreground.

    Raises:
        ValueError: the two differ in shape, or the weight is negative.
    """
    if foreground.shape != background.shape:
        raise ValueError(
            f"select_by_votes: {list(foreground.shape)} votes for and {list(background.shape)} votes against."
        )
    if not weight >= 0:
        raise ValueError(f"select_by_votes: the weight is {weight}, expected at least 0.")
    return (foreground > weight * background) & (foreground > MIN_WEIGHT)


@torch.no_grad()
def votes_of_masks(
    gaussians: rendering.Gaussians,
    views: Iterable[tuple[rendering.Camera, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Blending weight that Gaussians have inside and outside of masks, over some views.

    Args:
        gaussians: N Gaussians.
        views: cameras, each with its mask, bool [H, W]; taken one after the other.

    Returns:
        foreground and background, float32 [N], in pixels; both 0 for what no view sees.

    Raises:
        ValueError: a mask has another size than its camera.
    """
    sums = gaussians.means.new_zeros(len(gaussians.means), 2)
    for camera, mask in views:
        if tuple(mask.shape) != (camera.height, camera.width):
            raise ValueError(
                f"a mask has shape {list(mask.shape)}: expected its camera's [{camera.height}, {camera.width}]."
            )
        mask = mask.to(sums.device, torch.bool)
        maps = torch.stack([mask, ~mask], dim=-1).to(sums.dtype)
        sums += rendering.backproject(gaussians, camera, maps)
    return sums[:, 0].contiguous(), sums[:, 1].contiguous()


@torch.no_grad()
def in_box(
    projection: rendering.Projection, box: tuple[float, float, float, float], *, share: float = 0.5
) -> Tensor:
    """Gaussians more than a share of whose blending weight in a view lies in a rectangle.

    What is hidden behind others has no weight and is not selected.

    Args:
        projection: of N Gaussians by the view's camera.
        box: left, top, right and bottom in pixels, opposite corners in any order; pixels whose centre is inside count.
        share: 0..1.

    Returns:
        bool [N]; false for what has no more than `MIN_WEIGHT` in the view.
    """
    camera = projection.camera
    (left, right), (top, bottom) = sorted(box[0::2]), sorted(box[1::2])
    device = projection.means2d.device
    x, y = (torch.arange(size, device=device) + 0.5 for size in (camera.width, camera.height))
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    maps = torch.stack([inside, torch.ones_like(inside)], dim=-1).to(projection.means2d.dtype)
    weight, total = rendering.transpose(projection, maps).unbind(1)
    return (weight > share * total) & (total > MIN_WEIGHT)


# ------------------------------------------------------------------------------------------------ in space


def grow(means: Tensor, selected: Tensor, *, steps: int = 1, among: Tensor | None = None) -> Tensor:
    """Take in what touches the selection: dilation.

    Two Gaussians touch if they are no farther apart than the geometric mean of their spacings, a spacing being the distance
    to the `NEIGHBORS`-th nearest neighbour. So a step is one ring of Gaussians where they lie dense and where they lie thin,
    and a floater does not join what is far from it. It depends on the Gaussians alone, not on the selection (as their mean
    spacing would): a larger selection grows into a larger one, `shrink` is the same done to the complement, and growing and
    then shrinking loses nothing.

    Args:
        means: [N, 3].
        selected: bool [N].
        steps: how often.
        among: bool [N]; all others stay as they are and are nobody's neighbours. None: all. Means that are not finite are
            left out too.

    Returns:
        bool [N]

    Raises:
        ValueError: a shape does not fit, or steps is negative.
    """
    return _spread(means, selected, steps, among, outward=True)


def shrink(means: Tensor, selected: Tensor, *, steps: int = 1, among: Tensor | None = None) -> Tensor:
    """Give up what touches something that is not selected: erosion. See `grow`."""
    return _spread(means, selected, steps, among, outward=False)


def _spread(means: Tensor, selected: Tensor, steps: int, among: Tensor | None, *, outward: bool) -> Tensor:
    count = len(means)
    for name, mask in (("selected", selected), ("among", among)):
        if mask is not None and tuple(mask.shape) != (count,):
            raise ValueError(f"{name} has shape {list(mask.shape)}: expected [{count}].")
    if means.shape != (count, 3) or steps < 0:
        raise ValueError(f"expected means [N, 3] and steps >= 0, found {list(means.shape)} and {steps}.")
    points = means.detach().double().cpu().numpy()
    chosen = selected.detach().bool().cpu().numpy().copy()
    part = np.logical_and.reduce([np.isfinite(points[:, axis]) for axis in range(3)])
    if among is not None:
        part &= among.detach().bool().cpu().numpy()
    spreading = chosen[part] == outward
    if steps and spreading.any() and not spreading.all():
        cloud = _Cloud(points[part])
        for _ in range(steps):
            reached = cloud.touching(spreading)
            if not len(reached):
                break
            spreading[reached] = True
        chosen[part] = spreading == outward
    return torch.from_numpy(chosen).to(selected.device)


class _Cloud:
    """Which of N points touch: |ij| <= sqrt(r_i r_j), with r the distance to the NEIGHBORS-th nearest neighbour.

    A ball of r_i around i holds i and its neighbours, so r_j <= |ij| + r_i, and |ij|^2 <= r_i (|ij| + r_i): what touches i
    lies within the golden ratio of r_i. Spacings are looked up where they are needed only.
    """

    def __init__(self, points: NDArray[np.float64]) -> None:
        self.points = points
        # Neither balanced nor compact: made in half the time, and few points are looked up.
        self.tree = KDTree(points, balanced_tree=False, compact_nodes=False)
        self._spacing = np.full(len(points), np.nan)

    def spacing(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        unknown = np.unique(rows[np.isnan(self._spacing[rows])])
        if len(unknown):
            k = min(NEIGHBORS + 1, len(self.points))  # the first is the point itself
            self._spacing[unknown] = self.tree.query(self.points[unknown], k=k, workers=-1)[0][:, -1]
        return self._spacing[rows]

    def touching(self, spreading: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Those of the others that touch one of those which spread, bool [N]."""
        inside, outside = spreading.nonzero()[0], (~spreading).nonzero()[0]
        few, many = (inside, outside) if len(inside) <= len(outside) else (outside, inside)
        if not len(few):
            return few
        reach = _REACH * self.spacing(few)
        points = self.points[few]
        # The others that may matter lie in a box around the few; seldom more than a rim of those has one in its reach.
        low, high = points.min(axis=0) - reach.max(), points.max(axis=0) + reach.max()
        for axis in range(3):
            along = self.points[many, axis]
            many = many[(along >= low[axis]) & (along <= high[axis])]
        if not len(many):
            return many
        tree = KDTree(self.points[many], balanced_tree=False, compact_nodes=False)
        rim = tree.query(points, workers=-1)[0] <= reach
        lists = tree.query_ball_point(points[rim], reach[rim], workers=-1)
        sizes = [len(found) for found in lists]
        a = np.repeat(few[rim], sizes)
        b = many[np.fromiter((k for found in lists for k in found), dtype=np.int64, count=sum(sizes))]
        apart = np.square(self.points[a] - self.points[b]).sum(axis=1)
        touch = apart <= self.spacing(a) * self.spacing(b)
        return np.unique((b if few is inside else a)[touch])
