"""A splat as such: Gaussians with colours, without a model, an optimizer or a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from gradiseg_ns import rendering


@dataclass
class Splat:
    """N Gaussians in the parameters that 3DGS stores, whatever they came from (a checkpoint, a PLY file).

    Raises:
        ValueError: a shape does not fit the others.
    """

    means: Tensor
    """[N, 3] centres, world units."""
    quats: Tensor
    """[N, 4] rotations (w, x, y, z); need not be normalised."""
    scales: Tensor
    """[N, 3] logarithms of the standard deviations."""
    opacities: Tensor
    """[N] logits."""
    features_dc: Tensor
    """[N, 3] coefficients of the constant spherical harmonic."""
    features_rest: Tensor
    """[N, K, 3] coefficients of the others: K is 0, 3, 8 or 15 for degrees 0 to 3."""
    antialiased: bool = False
    """Opacities are meant to be lowered by the blur of the projection (Mip-Splatting)."""
    labels: Tensor | None = None
    """int32 [N] object ids, -1 where unknown; None if the splat has none."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Any other number per Gaussian: [N], by the name of its PLY property."""
    frame: Literal["nerfstudio", "original"] | None = None
    """Coordinates, where they are known: those of nerfstudio's training, or the original ones of COLMAP or transforms.json."""
    up: str | None = None
    """The vertical axis, where it is known: x, y, z, or three numbers."""
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What has to be added to `means` for the coordinates of the file, world units: georeferenced scenes lie so far from
    the origin that float32 cannot tell neighbours apart."""

    def __post_init__(self) -> None:
        count = len(self.means)
        shapes = {
            "means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,),
            "features_dc": (count, 3), "features_rest": (count, self.features_rest.shape[1], 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"Splat.{name} has shape {list(getattr(self, name).shape)}: expected {list(shape)}."
                )
        if self.features_rest.shape[1] not in (0, 3, 8, 15):
            raise ValueError(
                f"Splat.features_rest holds {self.features_rest.shape[1]} coefficients: expected 0, 3, 8 or 15."
            )

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return {0: 0, 3: 1, 8: 2, 15: 3}[self.features_rest.shape[1]]

    @classmethod
    def from_parameters(cls, params: Mapping[str, Tensor], *, antialiased: bool = False) -> Splat:
        """The splat of splatfacto's ``gauss_params``; spherical harmonics are expected (``sh_degree`` > 0).

        Raises:
            KeyError: a parameter is missing.
        """
        means, quats, scales, opacities, dc, rest = (params[name].detach() for name in _PARAMETERS)
        return cls(means, quats, scales, opacities.flatten(), dc, rest, antialiased=antialiased)

    def to_parameters(self) -> dict[str, Tensor]:
        """splatfacto's ``gauss_params``."""
        params = {name: getattr(self, name) for name in _PARAMETERS}
        params["opacities"] = self.opacities[:, None]
        return params

    def select(self, chosen: Tensor) -> Splat:
        """Some of the Gaussians: bool [N] or indices."""
        return replace(
            self,
            **{name: getattr(self, name)[chosen] for name in _PARAMETERS},
            labels=None if self.labels is None else self.labels[chosen],
            extra={name: value[chosen] for name, value in self.extra.items()},
        )

    def to(self, device: torch.device | str) -> Splat:
        """The same on another device."""
        return replace(
            self,
            **{name: getattr(self, name).to(device) for name in _PARAMETERS},
            labels=None if self.labels is None else self.labels.to(device),
            extra={name: value.to(device) for name, value in self.extra.items()},
        )

    def gaussians(self) -> rendering.Gaussians:
        """The geometry, activated."""
        return rendering.Gaussians(
            self.means, self.quats, self.scales.exp(), self.opacities.sigmoid(), self.antialiased
        )

    def project(self, camera: rendering.Camera) -> rendering.Projection:
        """The geometry as a camera sees it."""
        return rendering.project(self.gaussians(), camera)

    def colors(self, camera: rendering.Camera, visible: Tensor | None = None) -> Tensor:
        """RGB [N, 3] as seen from a camera, not below 0; of the visible ones [N] only, if given."""
        coefficients = torch.cat([self.features_dc[:, None], self.features_rest], dim=1)
        return sees_colors(camera, self.means, coefficients, self.sh_degree, visible)

    @torch.no_grad()
    def render(
        self,
        camera: rendering.Camera,
        background: Tensor | None = None,
        *,
        projection: rendering.Projection | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The picture [H, W, 3] in 0..1 and alpha [H, W, 1]; background [3], by default black."""
        projection = projection or self.project(camera)
        (rgb,), alpha = rendering.rasterize(projection, [self.colors(camera, projection.radii[0] > 0)])
        if background is not None:
            rgb = rgb + (1 - alpha) * background
        return rgb.clamp(0.0, 1.0), alpha


def sees_colors(
    camera: rendering.Camera, means: Tensor, coefficients: Tensor, degree: int, visible: Tensor | None = None
) -> Tensor:
    """RGB [N, 3] of Gaussians as a camera sees them, not below 0.

    Args:
        camera: the view.
        means: [N, 3] centres.
        coefficients: [N, K, 3] of spherical harmonics.
        degree: up to which they are used, (degree + 1)^2 <= K.
        visible: bool [N]; the others' colours are 0.5. None: all.
    """
    centre = -camera.viewmat[:3, :3].T @ camera.viewmat[:3, 3]
    directions = means - centre  # the kernel normalises
    colors = rendering.spherical_harmonics(degree, directions, coefficients, mask=visible)
    return torch.clamp_min(colors + 0.5, 0.0)


_PARAMETERS = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
