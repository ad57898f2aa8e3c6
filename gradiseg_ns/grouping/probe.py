"""The gradients of the segmentation loss alone, from a separate blend of the identities (GradiSeg, section 3.4).

IGD splits where L_2d's gradients are in conflict, and LA-KNN uses the direction of L_2d's position gradient. Both need gradients
without those of the photo's loss and of L_3d. So identities are blended once more, with their own copies of the screen positions and
the encodings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradiseg_ns import rendering

Signal = Literal["gradient", "absolute", "conflict"]


@dataclass
class IdentityProbe:
    """A blend of identities that keeps its gradients.

    Attributes:
        projection: of the Gaussians, with its own copy of the screen positions.
        encoding: [N, D], the copy of the parameter that is blended.
        maps: [H, W, D] rendered identities, for L_2d.
    """

    projection: rendering.Projection
    encoding: Tensor
    maps: Tensor

    @classmethod
    def render(
        cls, projection: rendering.Projection, identity: Tensor, share: float | Tensor
    ) -> IdentityProbe:
        """Blend identities [N, D].

        Args:
            projection: of N Gaussians.
            share: share of L_2d's gradient that moves the geometry, 0 to 1, of all Gaussians or of each, [N]. With 0 no gradient
                reaches the geometry. The gradients of the probe itself are whole.
        """
        moved = rendering.scale_geometry_gradient(projection, share)
        means2d = moved.means2d.view_as(moved.means2d)
        if not means2d.requires_grad:
            means2d.requires_grad_()
        means2d.retain_grad()
        separate = dataclasses.replace(moved, means2d=means2d)
        encoding = identity.view_as(identity)
        encoding.retain_grad()
        maps, _ = rendering.rasterize(separate, [encoding])
        maps[0].retain_grad()
        return cls(separate, encoding, maps[0])

    @torch.no_grad()
    def gradients(self, signal: Signal | None) -> dict[str, Tensor]:
        """The gradients of the last backward pass, by the keys that :class:`GradisegStrategy` reads; empty before the first.

        Args:
            signal: the signal that IGD accumulates; None outside IGD. ``gradient`` is the norm of a Gaussian's identity
                gradient, as in the paper; the two sides of a boundary cancel in it. ``absolute`` is the weighted sum of the
                gradient norms of the Gaussian's pixels; nothing cancels in it. ``conflict`` is ``absolute`` minus
                ``gradient``, the part that cancels.

        Returns:
            ``identity_position_gradient`` [N, 3] in world axes, ``identity_gradient`` [N], and, for ``absolute`` and
            ``conflict``, ``identity_weight`` [N], the blending weight by which the signal is divided.
        """
        found: dict[str, Tensor] = {}
        if self.maps.grad is None:
            return found
        moved = self.projection.means2d.grad
        if moved is not None:
            camera = self.projection.camera
            depth = self.projection.depths[0].detach().clamp(min=1e-6)
            right = (moved[0, :, 0] * camera.K[0, 0] / depth)[:, None] * camera.viewmat[0, :3]
            down = (moved[0, :, 1] * camera.K[1, 1] / depth)[:, None] * camera.viewmat[1, :3]
            found["identity_position_gradient"] = right + down
        if self.encoding.grad is None:
            return found
        found["identity_gradient"] = self.encoding.grad.norm(dim=-1)
        if signal in ("absolute", "conflict"):
            norms = self.maps.grad.norm(dim=-1, keepdim=True)
            sums = rendering.transpose(self.projection, torch.cat([norms, torch.ones_like(norms)], dim=-1))
            absolute, found["identity_weight"] = sums.unbind(-1)
            if signal == "conflict":
                absolute = (absolute - found["identity_gradient"]).clamp(min=0)
            found["identity_gradient"] = absolute
        return found
