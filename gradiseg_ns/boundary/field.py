"""The continuous field at the boundary: a small hash-grid NeRF on interpolated Gaussians (NG-GS, section 3.2).

    f_inter(x) = sum_k phi(|x - mu_k| / h_k) f_k / sum_k phi(|x - mu_k| / h_k),   phi(r) = exp(-r^2 / 2)

over the K boundary Gaussians nearest to x (f is colour, identity and opacity), and

    h(x) = gamma(f_inter) * trunk(hash(x)) + beta(f_inter)                        (FiLM)
    (sigma, delta c, delta e) = head(relu(h)),   c = c_inter + delta c,   e = e_inter + delta e

are volume-rendered along rays. The field learns colour and identity as differences to the interpolated values, so it starts
as a smoothed splat and learns the details that the splat lacks. Identities stay encodings until after rendering, like those
of the splat. The same classifier turns both into logits, so the cost does not depend on the number of objects.

Hash grid and perceptrons are nerfstudio's: tinycudann if it is installed, else torch. Only training uses the field;
rendering a checkpoint does not need it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiseg_ns.grouping.search import PointIndex, index_of

if TYPE_CHECKING:
    from nerfstudio.field_components.encodings import HashEncoding

Implementation = Literal["tcnn", "torch"]
OPTICAL_SCALE = 1.0
"""Optical depth per Gaussian spacing at the start of training."""


class FieldValues(NamedTuple):
    """Values of the field at P points."""

    density: Tensor
    """[P] per world unit, >= 0."""
    rgb: Tensor
    """[P, 3]; 0 to 1 where training has converged, not clamped."""
    identity: Tensor
    """[P, D]"""


class RayValues(NamedTuple):
    """Rendered values of R rays."""

    rgb: Tensor
    """[R, 3] without a background."""
    identity: Tensor
    """[R, D]"""
    opacity: Tensor
    """[R] in 0..1."""


@dataclass(frozen=True)
class BoundaryPoints:
    """The centres of the boundary Gaussians, and the data for interpolation. The indices into the splat are valid until
    Gaussians are added or removed."""

    indices: Tensor
    """int64 [B] into the splat."""
    means: Tensor
    """[B, 3]"""
    bandwidth: Tensor
    """[B] h of the kernel, world units: the mean distance to the K nearest others."""
    neighbors: Tensor
    """int64 [B, K] rows of this table: the K nearest others."""
    spacing: float
    """The median bandwidth."""
    _index: PointIndex

    @classmethod
    def create(cls, means: Tensor, chosen: Tensor, count: int = 8) -> BoundaryPoints | None:
        """From the centres [N, 3] and the boundary set, bool [N]. Returns None for fewer than two points."""
        indices = (chosen & means.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(indices) < 2:
            return None
        own = means[indices].detach()
        index = index_of(own)
        found = index.nearest(own, count, own=torch.arange(len(own), device=own.device))
        distance = (own[found] - own[:, None]).norm(dim=-1)
        bandwidth = distance.mean(dim=1).clamp(min=1e-9)
        return cls(indices, own, bandwidth, found, float(bandwidth.median()), index)

    def __len__(self) -> int:
        return len(self.indices)

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The K boundary Gaussians nearest to points [P, 3].

        Returns:
            rows int64 [P, K] of this table, and kernel values [P, K].
        """
        rows = self._index.nearest(points, self.neighbors.shape[1])
        distance = (points.detach()[:, None] - self.means[rows]).norm(dim=-1)
        return rows, kernel(distance / self.bandwidth[rows])


def kernel(distance: Tensor) -> Tensor:
    """phi(r) = exp(-r^2 / 2)."""
    return torch.exp(-0.5 * distance.square())


def interpolate(weights: Tensor, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Radial basis functions: f(x) = sum_k phi_k f_k / (sum_k phi_k + 0.001). Far from all Gaussians f goes to 0.

    Args:
        weights: [P, K] kernel values phi_k.
        rows: int64 [P, K] into features.
        features: [B, C].

    Returns:
        [P, C], and [P, 1] the largest phi_k, which shows how near the nearest Gaussian is.
    """
    count = rows.shape[1]
    share = weights / (weights.sum(dim=1, keepdim=True) + 1e-3)
    taken = features.index_select(0, rows.reshape(-1)).reshape(len(rows), count, -1)
    return (share[..., None] * taken).sum(dim=1), weights.amax(dim=1, keepdim=True)


@lru_cache(maxsize=4)
def _corners(device: str) -> tuple[Tensor, Tensor]:
    """The corners of a voxel, int64 [8, 3] of 0 and 1, and Instant-NGP's primes [3]."""
    corners = list(itertools.product((0, 1), repeat=3))
    return torch.tensor(corners, device=device), torch.tensor([1, 2654435761, 805459861], device=device)


def hash_features(encoding: HashEncoding, positions: Tensor) -> Tensor:
    """nerfstudio's hash encoding of positions [P, 3] in 0..1: [P, L * F].

    The values are those of its own torch version. But that version calls `table[index]` eight times, and its backward adds up
    in a random order, so a run could not be repeated bit for bit. Here one `index_select` takes all corners. nerfstudio also
    copies constants to the device at every call; here they are there already. tinycudann's encoding is called unchanged.
    """
    if encoding.tcnn_encoding is not None:
        return encoding(positions)
    for name in ("scalings", "hash_offset"):  # plain attributes, which .to(device) leaves where they are
        setattr(encoding, name, getattr(encoding, name).to(positions.device))
    scaled = positions[:, None, :] * encoding.scalings.to(positions.dtype)[:, None]  # [P, L, 3]
    floor = scaled.floor()
    offset = (scaled - floor)[:, :, None]  # [P, L, 1, 3]
    corners, primes = _corners(str(positions.device))
    weight = torch.where(corners.bool(), offset, 1 - offset).prod(dim=-1, keepdim=True)  # [P, L, 8, 1]
    x, y, z = ((floor.long()[:, :, None] + corners) * primes).unbind(dim=-1)  # [P, L, 8]
    index = (x ^ y ^ z) % encoding.hash_table_size + encoding.hash_offset[:, None]
    found = encoding.hash_table.index_select(0, index.reshape(-1))
    return (weight * found.reshape(*weight.shape[:3], -1)).sum(dim=2).flatten(start_dim=1)


class BoundaryField(nn.Module):
    """The field; the module explains it.

    Args:
        identity_dim: D.
        use_rbf: give the field interpolated Gaussians. False (ablation): FiLM is constant, and the interpolated values are 0.
        use_hash: give it the hash grid. False (ablation): the trunk sees a constant.
        levels, features, log2_size, min_resolution, max_resolution: of the hash grid.
        width: of the perceptrons.
        implementation: ``tcnn`` is tinycudann if it is installed, else torch.
    """

    def __init__(
        self,
        identity_dim: int,
        *,
        use_rbf: bool = True,
        use_hash: bool = True,
        levels: int = 8,
        features: int = 2,
        log2_size: int = 15,
        min_resolution: int = 16,
        max_resolution: int = 512,
        width: int = 64,
        implementation: Implementation = "tcnn",
    ) -> None:
        super().__init__()
        from nerfstudio.field_components.encodings import HashEncoding
        from nerfstudio.field_components.mlp import MLP
        from nerfstudio.field_components.spatial_distortions import SceneContraction

        self.center: Tensor
        self.register_buffer("center", torch.zeros(3))
        self.radius, self.spacing, self.identity_dim = 1.0, 1.0, identity_dim
        self.placed = False
        self.use_rbf, self.use_hash = use_rbf, use_hash
        self.contraction = SceneContraction(order=float("inf"))
        self.hash = HashEncoding(
            levels, min_resolution, max_resolution, log2_size, features, implementation=implementation
        )
        self.inter_dim = 3 + identity_dim + 2

        def perceptron(inputs: int, outputs: int) -> nn.Module:
            return MLP(inputs, 2, width, outputs, activation=nn.ReLU(), implementation=implementation)

        self.trunk = perceptron(levels * features, width)
        self.film = perceptron(self.inter_dim, 2 * width)
        self.head = perceptron(width, 1 + 3 + identity_dim)

    def place(self, points: Tensor, spacing: float) -> None:
        """Set the field's box and unit of density.

        The box holds the points [P, 3] without the outermost hundredth on each side of each axis. Space outside the box is
        contracted as in mip-NeRF 360. Densities are per ``spacing``, the typical distance of Gaussians in world units.
        """
        low, high = torch.quantile(points[:1_000_000].float(), points.new_tensor([0.01, 0.99]), dim=0)
        self.center.copy_((low + high) / 2)
        self.radius = max(float((high - low).amax()) / 2, 1e-6)
        self.spacing = max(float(spacing), 1e-9)
        self.placed = True

    def encode_position(self, points: Tensor) -> Tensor:
        """World points [P, 3] in the contracted box, 0 to 1 on each axis."""
        return (self.contraction((points - self.center) / self.radius) + 2) / 4

    def forward(self, points: Tensor, inter: Tensor) -> FieldValues:
        """The field's values.

        Args:
            points: [P, 3], world units.
            inter: [P, 3 + D + 2] interpolated colour, identity and opacity, and nearness (:func:`interpolate`).
        """
        dim = self.identity_dim
        if not self.use_rbf:
            inter = torch.zeros_like(inter)
        grid = hash_features(self.hash, self.encode_position(points)).float()
        if not self.use_hash:
            grid = torch.zeros_like(grid)
        gamma, beta = self.film(inter).float().chunk(2, dim=-1)
        hidden = torch.relu((1 + gamma) * self.trunk(grid).float() + beta)
        out = self.head(hidden).float()
        density = F.softplus(out[:, 0]) / np.log(2) * (OPTICAL_SCALE / self.spacing)
        return FieldValues(density, inter[:, :3] + out[:, 1:4], inter[:, 3 : 3 + dim] + out[:, 4 : 4 + dim])


def volume_render(values: FieldValues, lengths: Tensor) -> RayValues:
    """Render front to back along rays: w_s = T_s (1 - exp(-sigma_s l_s)), T_s = exp(-sum_{t < s} sigma_t l_t).

    Args:
        values: of R * S points, ray after ray, the samples of a ray by increasing depth.
        lengths: [R, S], world units: the length of the ray's part that each sample represents.
    """
    rays, samples = lengths.shape
    optical = values.density.reshape(rays, samples) * lengths
    before = torch.cumsum(optical, dim=1) - optical
    weights = torch.exp(-before) * (1 - torch.exp(-optical))
    rgb = torch.einsum("rs,rsc->rc", weights, values.rgb.reshape(rays, samples, 3))
    identity = torch.einsum("rs,rsd->rd", weights, values.identity.reshape(rays, samples, -1))
    return RayValues(rgb, identity, weights.sum(dim=1))
