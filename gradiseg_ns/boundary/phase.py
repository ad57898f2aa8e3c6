"""The boundary refiner in a run: its options, its field's life, what is found anew, what a step does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from gradiseg_ns.boundary.detection import TAU
from gradiseg_ns.boundary.field import BoundaryField, BoundaryPoints
from gradiseg_ns.boundary.refinement import BoundaryRefiner, RefinerWeights


@dataclass
class BoundaryConfig:
    """Options of the boundary refiner (docs/boundaries.md says what was measured for each)."""

    tau: float = TAU
    """A Gaussian is a boundary Gaussian if its ambiguity (0 to 1) is above that."""
    measure: Literal["impurity", "variance"] = "impurity"
    """Ambiguity: `impurity` of a Gaussian's votes, or the paper's mask `variance` over views."""
    agree: bool = True
    """Where the votes of all views overrule a mask, its pixels get the label that the views agree on."""
    overshoot: Literal["split", "draw_in", "off"] = "split"
    """What is done with the axes of Gaussians that stick out of their object in most views."""
    edges: Literal["auto", "sharp", "rough"] = "auto"
    """Whether the id maps' edges are worth being sharp about: `auto` compares them with what the views agree on. Say
    `sharp` where they are exact and the splat is coarse."""
    geometry: float | None = None
    """identity-geometry while boundaries are refined; as before unless given."""
    focus: float = 1.0
    """Weight of L_2d over the pixels near edges of the id map, in addition to that over all pixels."""
    focus_photo: float = 1.0
    """Weight of the photo's L1 over these pixels, likewise; without focus there is none."""
    split: float = 0.25
    """Boundary Gaussians are split in two when they are found, at most that share of all Gaussians; the most
    ambiguous go first."""
    position_rate: float = 5.0
    """Positions learn that many times faster than their schedule says while boundaries are refined."""
    hidden: float = 0.3
    """Gaussians in which all training views together have less weight, in pixels, are removed at the end of the run. They
    lie in objects or under them, and a cut-out would show them."""
    pixels: int = 490
    """Budget of boundary pixels a step, rendered from the field; in patches of 7x7."""
    samples: int = 8
    """Samples on a ray."""
    field: bool = True
    """Train the continuous field along; without, what is left are agreement, splits and focus."""
    every: int = 4
    """The field takes part in every so many steps."""
    neighbors: int = 8
    """K: boundary Gaussians that a sample is interpolated from."""
    rbf: bool = True
    """Interpolated Gaussians modulate the field."""
    hash: bool = True
    """The field has a hash grid."""
    volume_rendering: bool = True
    """The field is rendered along rays; False looks it up at the splat's depth, without density."""
    weights: RefinerWeights = dataclasses.field(default_factory=RefinerWeights)
    """Weights of the joint losses."""


class BoundaryPhase:
    """What lives while boundaries are refined, and no part of a checkpoint's parameters.

    Attributes:
        points: the boundary Gaussians of now; None before they were found, or if there are fewer than two.
        sharp: whether the maps' edges are focused on.
        found: whether they were looked for in this process.
        agreed: id maps [H, W, 1] by index of the training view, where the votes overruled the given ones.
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
            # Random numbers of its own: until it has work to do, a run is the one that it would be without it.
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

    def update(self, means: Tensor, ambiguity: Tensor) -> None:
        """Other boundary Gaussians: centres [N, 3] and ambiguities [N] of all."""
        self.found = True
        if self.refiner is None or self.field is None:
            return
        points = BoundaryPoints.create(means, ambiguity > self.config.tau, self.config.neighbors)
        self.refiner.points = points
        if points is not None and not self.field.placed:
            self.field.place(points.means, points.spacing)

    def losses(self, step: int, **view: Any) -> dict[str, Tensor]:
        """The losses of a step (:meth:`BoundaryRefiner.losses`), none in the steps between."""
        if self.refiner is None or not self.config.field or step % self.config.every:
            return {}
        return self.refiner.losses(**view)


# Black to red to yellow to white, evenly brighter to any eye.
_HEAT = ((0.0, 0.0, 0.0), (0.55, 0.05, 0.1), (0.95, 0.45, 0.05), (1.0, 0.85, 0.3), (1.0, 1.0, 0.95))


def heat(values: Tensor) -> Tensor:
    """Colours [..., 3] of values [...] in 0..1."""
    stops = torch.tensor(_HEAT, device=values.device)
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    share = (place - low)[..., None]
    return stops[low] * (1 - share) + stops[low + 1] * share
