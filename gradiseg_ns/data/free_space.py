"""What space must be empty: known before training, from cameras and sparse points alone.

A structure-from-motion point that a view sees says that nothing stands between the two. So

- in front of every camera, up to a share of the depth of the nearest points that it sees, there is nothing;
- between two neighbouring cameras there stands nothing before a camera that looks the same way either;
- where it is known which views see a point (COLMAP's tracks), the rays to it pass through nothing.

A splat that is trained without knowing this puts Gaussians there: near a camera few pixels see them, so nothing corrects
them, and they hide what a view between the cameras should see.

Everything is kept in one grid of voxels, so that a look-up costs the same for any number of cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEAR_SHARE = 0.9
"""Empty is what lies nearer to a camera than that share of the depth of its nearest points."""
FLOATS_BELOW = 0.8
"""What is nearer than that share of it counts as floating (`probes`): a score with a margin."""
NEAREST_QUANTILE = 0.02
"""The nearest points of a view: this quantile of their depths, since a few points are always wrong."""
WIDER = 1.2
"""The empty frustum is that much wider than the picture: a view beside it must not look into a cloud at its edge."""
AROUND = 0.5
"""Empty is also a ball around the camera, of that share of the frustum's depth."""
MIN_POINTS = 12
"""A view that sees fewer points than that has no known empty space."""
NEIGHBORS, BETWEEN = 6, 2
"""Virtual cameras stand between a camera and so many neighbours, so many on each way."""
SUPPORT = 3
"""So many points around a voxel make it no empty space, whatever a view thinks."""
PROBES = 48
"""Views from which floaters are looked for."""
_ENOUGH = 50_000
"""Points from which a view's nearest are taken."""
_RESOLUTION = 24
"""Voxels up to the typical end of the empty space in front of a camera."""
_MOST_VOXELS = 1 << 25


class Frusta(NamedTuple):
    """The pinhole cameras of V views, in the frame of the points."""

    viewmats: Tensor
    """float32 [V, 4, 4] world to camera, OpenCV axes."""
    intrinsics: Tensor
    """float32 [V, 3, 3], pixels."""
    sizes: Tensor
    """int64 [V, 2], width and height in pixels."""

    @property
    def centers(self) -> Tensor:
        """Where the cameras stand, [V, 3]."""
        return -(self.viewmats[:, :3, :3].mT @ self.viewmats[:, :3, 3:])[..., 0]

    @property
    def views(self) -> int:
        """V."""
        return len(self.viewmats)


def project_into(frusta: Frusta, view: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [P, 3] in a view: x and y in half pictures from the middle (inside are -1 to 1) and depth, [P] each.

    x and y mean nothing behind the camera (depth <= 0).
    """
    viewmat, K = frusta.viewmats[view], frusta.intrinsics[view]
    width, height = frusta.sizes[view].tolist()
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = local[:, 2]
    safe = depth.clamp(min=1e-9)
    x = (K[0, 0] * local[:, 0] / safe + K[0, 2]) * (2 / width) - 1
    y = (K[1, 1] * local[:, 1] / safe + K[1, 2]) * (2 / height) - 1
    return x, y, depth


def nearest_depths(frusta: Frusta, points: Tensor) -> Tensor:
    """The depth of the nearest points that each view sees, [V] world units; 0 where it sees fewer than MIN_POINTS.

    Args:
        points: [P, 3]; of very many, every so many-th is enough for a quantile.
    """
    points = points[:: max(1, len(points) // _ENOUGH)]
    nearest = torch.zeros(frusta.views, device=points.device)
    for view in range(frusta.views):
        x, y, depth = project_into(frusta, view, points)
        seen = depth[(depth > 0) & (x.abs() < 1) & (y.abs() < 1)]
        if len(seen) >= MIN_POINTS:
            nearest[view] = seen.kthvalue(1 + int(NEAREST_QUANTILE * (len(seen) - 1))).values
    return nearest


def between(frusta: Frusta, neighbors: int = NEIGHBORS, steps: int = BETWEEN) -> Frusta:
    """Virtual cameras on the way from each camera to its nearest neighbours.

    Args:
        neighbors: how many of them; pairs count once.
        steps: cameras on each way, evenly spaced, without its ends.

    Returns:
        Centres on straight lines, rotations on the shortest arc; the lens of the camera where the way starts. Ways
        between cameras that look more than 90 degrees apart are left out.
    """
    from scipy.spatial import KDTree
    from scipy.spatial.transform import Rotation, Slerp

    centers = frusta.centers.cpu().numpy().astype(np.float64)
    rotations = frusta.viewmats[:, :3, :3].cpu().numpy().astype(np.float64)
    count = min(neighbors, len(centers) - 1)
    if count < 1:
        return Frusta(frusta.viewmats[:0], frusta.intrinsics[:0], frusta.sizes[:0])
    found = np.asarray(KDTree(centers).query(centers, k=count + 1)[1])
    pairs = sorted({(min(i, j), max(i, j)) for i, row in enumerate(found.tolist()) for j in row if i != j})
    viewmats, origin = [], []
    for i, j in pairs:
        if rotations[i][2] @ rotations[j][2] <= 0:
            continue
        turn = Slerp([0.0, 1.0], Rotation.from_matrix(rotations[[i, j]]))
        for share in (k / (steps + 1) for k in range(1, steps + 1)):
            viewmat = np.eye(4)
            viewmat[:3, :3] = turn(share).as_matrix()
            viewmat[:3, 3] = -viewmat[:3, :3] @ ((1 - share) * centers[i] + share * centers[j])
            viewmats.append(viewmat)
            origin.append(i)
    made = torch.from_numpy(np.asarray(viewmats, dtype=np.float32).reshape(-1, 4, 4))
    rows = torch.tensor(origin, dtype=torch.int64, device=frusta.viewmats.device)
    return Frusta(made.to(frusta.viewmats), frusta.intrinsics[rows], frusta.sizes[rows])


def joined(*parts: Frusta) -> Frusta:
    """Views one after the other."""
    return Frusta(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def probes(frusta: Frusta, points: Tensor, most: int = PROBES) -> tuple[Frusta, Tensor]:
    """Views to look for floaters from, no photo needed: halfway between neighbouring cameras, evenly spread.

    Returns:
        at most so many views, and to which depth, [M] world units, nothing should be in front of them: FLOATS_BELOW of the depth of
        the nearest points that each sees.
    """
    views = between(frusta, steps=1)
    nearest = nearest_depths(views, points)
    known = nearest.nonzero()[:, 0]
    if len(known) > most:
        known = known[torch.arange(most, device=known.device) * len(known) // most]
    return Frusta(*(t[known.to(t.device)] for t in views)), FLOATS_BELOW * nearest[known]


@dataclass(frozen=True)
class FreeSpace:
    """Voxels in which nothing can be."""

    low: Tensor
    """[3] the grid's lower corner, world units."""
    voxel: float
    """Edge of a voxel, world units."""
    empty: Tensor
    """bool [X, Y, Z]"""
    nearest: Tensor
    """[V] depth of the nearest points that each given view sees (`nearest_depths`)."""

    @classmethod
    def create(
        cls,
        frusta: Frusta,
        points: Tensor,
        *,
        share: float = NEAR_SHARE,
        virtual: bool = True,
        tracks: Tensor | None = None,
    ) -> FreeSpace:
        """What must be empty for V views and P points.

        Args:
            frusta: the training views.
            points: [P, 3] sparse points in the same frame, on the same device.
            share: see NEAR_SHARE.
            virtual: also before cameras between the given ones.
            tracks: int64 [T, 2], which view sees which point; None if it is not known.
        """
        device = points.device
        every = joined(frusta, between(frusta)) if virtual else frusta
        depths = nearest_depths(every, points)
        nearest, ends = depths[: frusta.views], share * depths
        used = [view for view in range(every.views) if ends[view] > 0]
        if not used:
            nothing = torch.zeros(1, 1, 1, dtype=torch.bool, device=device)
            return cls(torch.zeros(3, device=device), 1.0, nothing, nearest)
        boxes = torch.stack([_box(every, view, float(ends[view])) for view in used])
        low, high = boxes[:, 0].amin(dim=0), boxes[:, 1].amax(dim=0)
        voxel = float(ends[used].median()) / _RESOLUTION
        extent = (high - low).double()
        voxel = max(voxel, float((extent.prod() / _MOST_VOXELS) ** (1 / 3)), float(extent.max()) / 4096)
        shape = [int(n) for n in torch.ceil((high - low) / voxel).long() + 1]
        empty = torch.zeros(shape, dtype=torch.bool, device=device)
        space = cls(low, voxel, empty, nearest)
        for view, box in zip(used, boxes, strict=True):
            space._clear_before(every, view, float(ends[view]), box)
        if tracks is not None and len(tracks):
            empty |= space._crossed(frusta, points, tracks, share)
        empty &= ~space._around_points(points)
        return space

    # What the grid is made of ---------------------------------------------------------------------

    def _clear_before(self, frusta: Frusta, view: int, end: float, box: Tensor) -> None:
        """Mark the voxels whose middle lies in the frustum of a view up to a depth, or around its camera."""
        shape = torch.tensor(self.empty.shape, device=box.device)
        start = ((box[0] - self.low) / self.voxel).floor().long().clamp(min=0)
        stop = torch.minimum(((box[1] - self.low) / self.voxel).ceil().long() + 1, shape)
        axes = [
            self.low[k] + (torch.arange(int(start[k]), int(stop[k]), device=box.device) + 0.5) * self.voxel
            for k in range(3)
        ]
        middles = torch.cartesian_prod(*axes)
        x, y, depth = project_into(frusta, view, middles)
        inside = (depth > 0) & (depth < end) & (x.abs() < WIDER) & (y.abs() < WIDER)
        inside |= (middles - frusta.centers[view]).norm(dim=1) < AROUND * end
        part = self.empty[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
        part |= inside.reshape(part.shape)

    def _crossed(self, frusta: Frusta, points: Tensor, tracks: Tensor, share: float) -> Tensor:
        """Voxels on rays from cameras to the points that they see, less those beside voxels that no ray crosses: a ray
        that grazes a surface must not clear it."""
        crossed = torch.zeros_like(self.empty)
        flat = crossed.view(-1)
        centers = frusta.centers[tracks[:, 0]]
        ways = (points[tracks[:, 1]] - centers) * share
        steps = int(ways.norm(dim=1).max() / (0.5 * self.voxel)) + 1
        stride = max(1, (1 << 22) // max(1, steps))
        places = torch.linspace(0, 1, steps, device=points.device)[:, None]
        for first in range(0, len(ways), stride):
            a, w = centers[first : first + stride], ways[first : first + stride]
            index, inside = self._voxels_of((a[:, None] + places * w[:, None]).reshape(-1, 3))
            flat[index[inside]] = True
        beside = F.max_pool3d((~crossed)[None, None].float(), 3, 1, 1)[0, 0] > 0
        return crossed & ~beside

    def _around_points(self, points: Tensor) -> Tensor:
        """Voxels that have SUPPORT points in themselves and their neighbours."""
        index, inside = self._voxels_of(points)
        count = torch.zeros(self.empty.numel(), device=points.device)
        index = index[inside]
        count.index_add_(0, index, torch.ones(len(index), device=points.device))
        kernel = torch.ones(1, 1, 3, 3, 3, device=points.device)
        grid = count.view(1, 1, *self.empty.shape)
        return F.conv3d(grid, kernel, padding=1)[0, 0] >= SUPPORT - 0.5

    def _voxels_of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Flat indices of the voxels of positions [N, 3], and whether they are in the grid: int64 [N], bool [N]."""
        place = (positions - self.low) / self.voxel
        shape = torch.tensor(self.empty.shape, device=positions.device)
        inside = ((place >= 0) & (place < shape)).all(dim=1)  # false for NaN
        cell = torch.where(inside[:, None], place, torch.zeros_like(place)).long()
        return (cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2], inside

    # What it is asked -------------------------------------------------------------------------------

    def contains(self, positions: Tensor) -> Tensor:
        """Whether positions [N, 3] lie in space that must be empty: bool [N]."""
        index, inside = self._voxels_of(positions)
        return self.empty.view(-1)[index] & inside

    def to(self, device: torch.device | str) -> FreeSpace:
        """The same on another device."""
        return FreeSpace(self.low.to(device), self.voxel, self.empty.to(device), self.nearest.to(device))

    def doubts(self, points: Tensor, names: Sequence[str]) -> str | None:
        """What makes no sense about cameras and points, as a sentence for the user; None if nothing does.

        Args:
            points: [P, 3], those that the space was made from.
            names: of the views.
        """
        blind = [name for name, depth in zip(names, self.nearest.tolist(), strict=True) if depth <= 0]
        if 2 * len(blind) > len(names):
            return (
                f"{len(blind)} of {len(names)} training views see fewer than {MIN_POINTS} of the {len(points)} sparse points "
                f"(such as {blind[0]}): are points and poses of the same reconstruction, in the same frame?"
            )
        inside = float(self.contains(points).float().mean())
        if inside > 0.1:
            return (
                f"{inside:.0%} of the {len(points)} sparse points lie nearer to a camera, or to a view between two cameras, than "
                "the nearest points that it sees: are the poses right, and is the scale that of the points?"
            )
        return None


def _box(frusta: Frusta, view: int, end: float) -> Tensor:
    """The box [2, 3] around the empty space before a view."""
    K = frusta.intrinsics[view]
    width, height = frusta.sizes[view].tolist()
    xs = [((0.5 + s * WIDER / 2) * width - float(K[0, 2])) / float(K[0, 0]) for s in (-1, 1)]
    ys = [((0.5 + s * WIDER / 2) * height - float(K[1, 2])) / float(K[1, 1]) for s in (-1, 1)]
    corners = torch.tensor([[x, y, 1.0] for x in xs for y in ys], device=K.device) * end
    center = frusta.centers[view]
    world = torch.cat([corners @ frusta.viewmats[view, :3, :3] + center, center[None]])
    around = AROUND * end
    return torch.stack(
        [torch.minimum(world.amin(0), center - around), torch.maximum(world.amax(0), center + around)]
    )


def must_go(
    space: FreeSpace, means: Tensor, scales: Tensor, agreed_on: Callable[[Tensor, Tensor], Tensor] | None
) -> Tensor:
    """Which Gaussians stand in space that must be empty, by their centres: bool [N].

    Args:
        space: what must be empty.
        means: [N, 3].
        scales: [N, 3] standard deviations, world units.
        agreed_on: whether several views agree that there is something at positions [M, 3], of radii [M]: it stays.
    """
    inside = space.contains(means)
    if agreed_on is not None and bool(inside.any()):
        rows = inside.nonzero()[:, 0]
        thickness = scales[rows].median(dim=1).values  # of a rod
        inside[rows[agreed_on(means[rows], thickness)]] = False
    return inside
