"""The inputs of the two verbs, Gaussians and a camera, and the step between them, a projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """The geometry of N Gaussians, activated (no logarithms, no logits), and how it is drawn."""

    means: Tensor
    """[N, 3] centres, world units."""
    quats: Tensor
    """[N, 4] rotations (w, x, y, z); need not be normalised."""
    scales: Tensor
    """[N, 3] standard deviations along the rotated axes, world units, > 0."""
    opacities: Tensor
    """[N] in [0, 1]."""
    antialiased: bool = False
    """Whether a projection multiplies the opacities by sqrt(det(cov) / det(cov + 0.3 I)) (Mip-Splatting), as gsplat's
    rasterize_mode="antialiased"."""

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """means, quats, scales, opacities."""
        return self.means, self.quats, self.scales, self.opacities

    def map(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        """The same Gaussians with each tensor changed: another device, another type, some rows."""
        means, quats, scales, opacities = (change(tensor) for tensor in self.tensors)
        return Gaussians(means, quats, scales, opacities, self.antialiased)

    def __len__(self) -> int:
        return len(self.means)


class Camera(NamedTuple):
    """A pinhole camera."""

    viewmat: Tensor
    """[4, 4] world to camera, OpenCV axes (x right, y down, z forward)."""
    K: Tensor
    """[3, 3] intrinsics in pixels; the centre of the first pixel is at (0.5, 0.5)."""
    width: int
    """pixels"""
    height: int
    """pixels"""


@dataclass
class Projection:
    """The Gaussians as one camera sees them. `project` makes it, `rasterize` and `backproject` take it.

    Gaussians with radius 0 are culled; their other values are finite but have no meaning. The leading 1 is gsplat's camera dimension.
    """

    camera: Camera
    means2d: Tensor
    """[1, N, 2] pixels, in the graph. After a backward pass through `rasterize(..., absgrad=True)` it has `.absgrad` [1, N, 2], the
    sum over pixels of the absolute gradient. It has `.grad` if `retain_grad()` was called."""
    radii: Tensor
    """[1, N] int32 pixels (3 sigma, rounded up); 0: culled."""
    depths: Tensor
    """[1, N] z in the camera's frame, in the graph: can be blended like any feature."""
    conics: Tensor
    """[1, N, 3] inverse 2-D covariance (xx, xy, yy), 1/pixel^2, in the graph."""
    opacities: Tensor
    """[1, N] in the graph; of antialiased Gaussians, multiplied by the compensation factor."""
    backend: str
    """"gsplat", "cpu" or "torch"."""
    tiles: Tensor | None = None
    """bool [H / 16, W / 16], rounded up: the tiles that are blended, on the CPU; None: all. The others stay empty (`only`)."""
    _state: Any = field(default=None, repr=False)
    """Data that the backend keeps between blends of one projection (its tile lists)."""

    def info(self) -> dict[str, Any]:
        """The dictionary that the strategies of gsplat 1.4 read (`DefaultStrategy.step_pre_backward`, `step_post_backward`)."""
        return {
            "width": self.camera.width,
            "height": self.camera.height,
            "n_cameras": 1,
            "radii": self.radii,
            "gaussian_ids": None,
            "camera_ids": None,
            "means2d": self.means2d,
            "depths": self.depths,
            "conics": self.conics,
            "opacities": self.opacities,
        }
