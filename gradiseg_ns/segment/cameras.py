"""Virtual cameras for a splat that has none: around where its Gaussians are dense, upright, looking at it from outside.

Number, not size, tells where a splat was meant to be looked at: photographed things are made of many small Gaussians, their surroundings of
few large ones. Rings of cameras at a few heights look at the middle. What stands in something is moved nearer, or left out; and of further
places those are taken that see most of what no camera sees well yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import GradisegError

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH, HEIGHT = 512, 384
"""Pixels of the pictures."""
FIELD_OF_VIEW = 50.0
"""Degrees, of the width."""
RINGS = ((20.0, 10), (40.0, 10), (65.0, 4))
"""Degrees above the horizontal, and cameras."""
MORE = 8
"""Cameras that gaps in the coverage may add."""
_SMALL = 8
"""So many times smaller are the pictures in which cameras are tried."""
_DENSE = 0.75
"""Share of the opacity that the dense part has, around its centre."""
_DISTANCES = (1.0, 0.75, 0.55, 0.4)
"""Of the distance from which the dense part and its surroundings fill the picture, the first that is not inside of something."""
_NEAR, _BLOCKED = 0.4, 0.25
"""A camera is inside of something if this share of the picture (the second) is nearer than this part of the way to the middle."""
_SEES_NOTHING = 0.02
"""Mean accumulation below which a camera sees nothing."""
_WELL = 3.0
"""Views that see a Gaussian from which on it is seen well."""
_SEEN = 0.05
"""Weight in a small picture, in pixels, from which on a view sees a Gaussian."""
_GAIN = 0.01
"""The least share of the dense Gaussians that a further camera must add to."""
_MOST = 200_000
"""So many Gaussians tell where a splat is dense."""


class CameraError(GradisegError):
    """No camera sees the splat; the message says why."""


@dataclass(frozen=True)
class Part:
    """Where a splat is dense."""

    centre: Tensor
    """[3] world units."""
    radius: float
    """Of a ball around the centre that holds `_DENSE` of the opacity of what is near, world units."""
    up: Tensor
    """[3] unit vector."""
    sure: bool
    """Whether the splat says so. Else the axis may point down."""


def dense_part(splat: Splat) -> Part:
    """Where a splat is dense, and which way is up: its own `up`, else an end of the axis of least spread.

    Raises:
        CameraError: the splat has no visible Gaussians.
    """
    weight = splat.opacities.sigmoid()
    usable = splat.means.isfinite().all(dim=1) & weight.isfinite() & (weight > 0.05)
    if not bool(usable.any()):
        raise CameraError(f"the splat has {len(splat)} Gaussians, and none of them can be seen.")
    points, weight = splat.means[usable], weight[usable]
    step = 1 + len(points) // _MOST
    points, weight = points[::step].float(), weight[::step].float()
    centre = torch.stack([_quantile(points[:, axis], weight, 0.5) for axis in range(3)])
    for _ in range(5):  # what is far away pulls the middle less and less
        apart = (points - centre).norm(dim=1)
        near = apart <= 2 * _quantile(apart, weight, 0.5)
        centre = torch.stack([_quantile(points[near, axis], weight[near], 0.5) for axis in range(3)])
    apart = (points - centre).norm(dim=1)
    near = apart <= 3 * _quantile(apart, weight, 0.5)
    radius = float(_quantile(apart[near], weight[near], _DENSE))
    return Part(centre, max(radius, 1e-6), *_up(splat, points[near] - centre, weight[near]))


def _quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    """The value below which a share of the weight lies."""
    order = values.argsort()
    sums = weight[order].double().cumsum(dim=0)
    index = int(torch.searchsorted(sums, share * sums[-1]))
    return values[order[min(index, len(order) - 1)]]


def _up(splat: Splat, points: Tensor, weight: Tensor) -> tuple[Tensor, bool]:
    """The vertical axis, and whether it is known which end is up."""
    known = splat.up
    if known is None and splat.frame == "nerfstudio":
        known = "z"
    if known is not None:
        text = known.replace(",", " ").split()
        try:
            axis = (
                [float(t) for t in text] if len(text) == 3 else [float(known.strip("+-") == a) for a in "xyz"]
            )
        except ValueError:
            axis = [0.0, 0.0, 0.0]
        found = torch.tensor(axis).to(points) * (-1 if known.startswith("-") and len(text) == 1 else 1)
        if float(found.norm()) > 1e-6:
            return found / found.norm(), True
    share = weight / weight.sum()
    centred = points - (share[:, None] * points).sum(dim=0)
    _, axes = torch.linalg.eigh((centred * share[:, None]).T @ centred)
    return axes[:, 0], False


def look_at(
    eye: Tensor, target: Tensor, up: Tensor, width: int = WIDTH, height: int = HEIGHT
) -> rendering.Camera:
    """A camera at a place [3] that looks at another, upright, world units."""
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, up)
    if float(right.norm()) < 1e-4:  # straight from above
        right = torch.linalg.cross(forward, up.roll(1))
    right = torch.nn.functional.normalize(right, dim=0)
    turn = torch.stack([right, torch.linalg.cross(forward, right), forward])
    view = torch.eye(4).to(eye)
    view[:3, :3], view[:3, 3] = turn, -turn @ eye
    focal = 0.5 * width / math.tan(math.radians(FIELD_OF_VIEW) / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).to(eye)
    return rendering.Camera(view, K, width, height)


@torch.no_grad()
def virtual_cameras(splat: Splat, *, more: int = MORE) -> list[rendering.Camera]:
    """Cameras around the dense part of a splat.

    Args:
        splat: N Gaussians.
        more: cameras that gaps in the coverage may add.

    Raises:
        CameraError: none of them sees anything.
    """
    part = dense_part(splat)
    gaussians = splat.gaussians()
    inner = (splat.means - part.centre).norm(dim=1) <= part.radius
    focal = 0.5 * HEIGHT / math.tan(math.radians(FIELD_OF_VIEW) / 2) * HEIGHT / WIDTH
    distance = 1.7 * part.radius * math.hypot(1.0, focal / (0.5 * HEIGHT))
    side = torch.linalg.cross(part.up, torch.eye(3).to(part.up)[int(part.up.abs().argmin())])
    side = torch.nn.functional.normalize(side, dim=0)
    front = torch.linalg.cross(part.up, side)

    def direction(elevation: float, turn: float) -> Tensor:
        flat = math.cos(turn) * side + math.sin(turn) * front
        return math.cos(math.radians(elevation)) * flat + math.sin(math.radians(elevation)) * part.up

    def place(elevation: float, turn: float) -> tuple[rendering.Camera, Tensor] | None:
        for scale in _DISTANCES:
            eye = part.centre + scale * distance * direction(elevation, turn)
            camera = look_at(eye, part.centre, part.up)
            seen = _seen(gaussians, camera, scale * distance)
            if seen is not None:
                return camera, seen
        return None

    if not part.sure:
        # What photographs were taken of is seen in detail from where they were taken: from above.
        details = []
        for up in (part.up, -part.up):
            part = replace(part, up=up)
            shown = [found[1] for k in range(4) if (found := place(45.0, 0.5 * math.pi * k)) is not None]
            details.append((sum(float((seen[inner] > _SEEN).sum()) for seen in shown), up))
        part = replace(part, up=max(details, key=lambda each: each[0])[1])
    cameras: list[rendering.Camera] = []
    coverage = torch.zeros(len(splat), device=splat.means.device)
    for ring, (elevation, count) in enumerate(RINGS):
        for k in range(count):
            placed = place(elevation, 2 * math.pi * (k + 0.5 * (ring % 2)) / count)
            if placed is not None:
                cameras.append(placed[0])
                coverage += placed[1] > _SEEN
    tried = [
        found for elevation in (5.0, 30.0, 50.0, 85.0) for k in range(8 if elevation < 80 else 1)
        if (found := place(elevation, 2 * math.pi * (k + 0.25) / 8)) is not None
    ]  # fmt: skip
    for _ in range(more):
        open_ = (1 - coverage / _WELL).clamp(min=0) * inner
        gains = [float(open_[seen > _SEEN].sum()) for _, seen in tried]
        if not gains or max(gains) < _GAIN * float(inner.sum()):
            break
        camera, seen = tried.pop(gains.index(max(gains)))
        cameras.append(camera)
        coverage += seen > _SEEN
    if not cameras:
        raise CameraError(
            f"no camera around the splat's {len(splat)} Gaussians sees anything of them: are they transparent, or too far apart?"
        )
    return cameras


def _seen(gaussians: rendering.Gaussians, camera: rendering.Camera, distance: float) -> Tensor | None:
    """Weight [N] that a small picture gives each Gaussian; None if the camera is inside of something, or sees nothing."""
    width, height = camera.width // _SMALL, camera.height // _SMALL
    K = camera.K.clone()
    K[:2] /= _SMALL
    small = camera._replace(K=K, width=width, height=height)
    projection = rendering.project(gaussians, small)
    depth, alpha = rendering.depth(projection)
    if float(alpha.mean()) < _SEES_NOTHING:
        return None
    if float(((depth < _NEAR * distance) & (alpha > 0.5)).float().mean()) > _BLOCKED:
        return None
    return rendering.transpose(projection, alpha.new_ones(height, width, 1))[:, 0]


def contact_sheet(pictures: Sequence[Tensor], sizes: Sequence[tuple[int, int]], columns: int = 6) -> Image:
    """A sheet of the views' pictures [H, W, 3], with their numbers and the sizes (width, height) that clicks are given in."""
    from gradiseg_ns.tools.pictures import Captioned, overview, to_image

    rows: list[list[Captioned]] = []
    for view, (picture, (width, height)) in enumerate(zip(pictures, sizes, strict=True)):
        if view % columns == 0:
            rows.append([])
        rows[-1].append((f"view {view}: {width} x {height} pixels", to_image(picture)))
    return overview(rows)
