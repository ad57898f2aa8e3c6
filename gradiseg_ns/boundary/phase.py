"""The boundary refiner in a run: its options, its field, the boundary Gaussians of now, the losses of a step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from tyro.conf import Suppress

from gradiseg_ns.boundary.agreement import Consensus
from gradiseg_ns.boundary.detection import TAU
from gradiseg_ns.boundary.field import BoundaryField, BoundaryPoints
from gradiseg_ns.boundary.refinement import BoundaryRefiner, RefinerWeights


@dataclass
class BoundaryConfig:
    """Options of the boundary refiner. docs/boundaries.md has the measurements."""

    tau: float = TAU
    """A Gaussian is a boundary Gaussian if its ambiguity (0 to 1) is above this value."""
    measure: Suppress[Literal["impurity", "variance"]] = "impurity"
    """How ambiguity is measured: `impurity` of a Gaussian's votes, or the paper's mask `variance` over views."""
    agree: bool = True
    """Overrule a mask that contradicts the votes of all views: its pixels get the labels that the views agree on. False uses every map as it is."""
    overshoot: Literal["split", "draw_in", "off"] = "split"
    """Treatment of a Gaussian that reaches out of its object in most views: `split` splits it along that axis, `draw_in` shortens it, `off` leaves it."""
    edges: Literal["auto", "sharp", "rough"] = "auto"
    """Whether losses are added at the edges of the id maps: `sharp` always, `rough` never, `auto` if the edges match those that the views agree on. Choose `sharp` if the maps are exact and the splat is coarse."""
    focus: float = 1.0
    """Weight of L_2d over the pixels near edges of the id map, in addition to L_2d over all pixels. 0 switches focus off."""
    focus_photo: float = 1.0
    """Weight of the photo's L1 over the same pixels, in addition to that over all pixels. Without focus it has no effect."""
    split: float = 0.25
    """Largest share of all Gaussians that may be split in two when boundary Gaussians are found. The most ambiguous ones are split first."""
    position_rate: float = 5.0
    """Factor on the learning rate of the positions while boundaries are refined."""
    hidden: float = 0.3
    """At the end of the run, remove Gaussians whose blending weight, summed over all training views, is below this number of pixels. They lie inside or under objects and would show in a cut-out."""
    pixels: Suppress[int] = 490
    """Number of boundary pixels that are rendered from the field in a step, in patches of 7x7."""
    samples: Suppress[int] = 8
    """Number of samples on a ray."""
    field: bool = True
    """Train the continuous field too. False leaves agreement, splits and focus."""
    every: Suppress[int] = 4
    """The field takes part in one step out of this number."""
    neighbors: Suppress[int] = 8
    """K: number of boundary Gaussians from which a sample is interpolated."""
    rbf: Suppress[bool] = True
    """Interpolated Gaussians modulate the field."""
    hash: Suppress[bool] = True
    """The field has a hash grid."""
    volume_rendering: Suppress[bool] = True
    """The field is rendered along rays. False evaluates it only at the splat's depth, without density."""
    weights: RefinerWeights = dataclasses.field(default_factory=RefinerWeights)
    """Weights of the joint losses."""


class BoundaryPhase:
    """The state that exists while boundaries are refined. It is no part of a checkpoint's parameters.

    Attributes:
        points: the current boundary Gaussians; None before they were found, or if there are fewer than two.
        sharp: whether losses are added at the maps' edges.
        found: whether boundary Gaussians were looked for in this process.
        agreed: maps of classes int64 [H, W] by index of the training view, for the views in which the votes overruled a mask.
    """

    def __init__(self, config: BoundaryConfig, identity_dim: int) -> None:
        self.config, self.identity_dim = config, identity_dim
        self.field: BoundaryField | None = None
        self.refiner: BoundaryRefiner | None = None
        self.found = False
        self.sharp = False
        self.agreed: dict[int, Tensor] = {}

    @property
    def points(self) -> BoundaryPoints | None:
        return self.refiner.points if self.refiner is not None else None

    def parameters(self, device: torch.device | str) -> list[Parameter]:
        """The field's parameters, for an optimizer. The field is made here: only training asks for them."""
        if self.field is None:
            config = self.config
            # The field has random numbers of its own: until it is used, a run is the same as a run without it.
            with torch.random.fork_rng(devices=[]):
                self.field = BoundaryField(self.identity_dim, use_rbf=config.rbf, use_hash=config.hash).to(
                    device
                )
            self.refiner = BoundaryRefiner(
                self.field,
                config.weights,
                pixels=config.pixels,
                samples=config.samples,
                render=config.volume_rendering,
            )
        return list(self.field.parameters())

    def agree(self, found: Consensus, device: torch.device | str) -> None:
        """Take over the maps that the views agree on, and decide whether their edges are sharp."""
        edges = self.config.edges
        self.sharp = found.sharp if edges == "auto" else edges == "sharp"
        self.agreed = {index: classes.to(device, torch.int64) for index, classes in found.maps.items()}

    def update(self, means: Tensor, ambiguity: Tensor) -> None:
        """Choose the boundary Gaussians anew, from the centres [N, 3] and ambiguities [N] of all Gaussians."""
        self.found = True
        if self.refiner is None or self.field is None:
            return
        points = BoundaryPoints.create(means, ambiguity > self.config.tau, self.config.neighbors)
        self.refiner.points = points
        if points is not None and not self.field.placed:
            self.field.place(points.means, points.spacing)

    def losses(self, step: int, **view: Any) -> dict[str, Tensor]:
        """The losses of a step (:meth:`BoundaryRefiner.losses`); none in the steps in which the field takes no part."""
        if self.refiner is None or not self.config.field or step % self.config.every:
            return {}
        return self.refiner.losses(**view)


# Black, red, yellow, white: the brightness rises evenly for every eye.
_HEAT = ((0.0, 0.0, 0.0), (0.55, 0.05, 0.1), (0.95, 0.45, 0.05), (1.0, 0.85, 0.3), (1.0, 1.0, 0.95))


def heat(values: Tensor) -> Tensor:
    """Colours [..., 3] of values [...] in 0..1."""
    stops = torch.tensor(_HEAT, device=values.device)
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    share = (place - low)[..., None]
    return stops[low] * (1 - share) + stops[low + 1] * share
