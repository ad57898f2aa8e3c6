"""The boundary refiner in a run: its options, its field, the boundary Gaussians of now, the losses of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from tyro.conf import Suppress

from gradiseg_ns import rendering
from gradiseg_ns.boundary.clean_space import SeenSpace, foreign_loss, space_loss
from gradiseg_ns.boundary.consensus import Consensus
from gradiseg_ns.boundary.detection import TAU
from gradiseg_ns.boundary.field import BoundaryField, BoundaryPoints
from gradiseg_ns.boundary.hull import Hulls
from gradiseg_ns.boundary.refinement import BoundaryRefiner, RefinerWeights, focus_losses
from gradiseg_ns.grouping.identity import IdentityClassifier

if TYPE_CHECKING:
    from nerfstudio.engine.optimizers import Optimizers


@dataclass
class BoundaryConfig:
    """Options of the boundary refiner. docs/boundaries.md has the measurements."""

    tau: float = TAU
    """A Gaussian is a boundary Gaussian if its ambiguity (0 to 1) is above this value."""
    measure: Suppress[Literal["impurity", "variance"]] = "impurity"
    """How ambiguity is measured: `impurity` of a Gaussian's votes, or the paper's mask `variance` over views."""
    agree: bool = True
    """Overrule a mask that contradicts the votes of all views: its pixels get the labels that the views agree on. False uses every map as it is."""
    snap: bool = True
    """If the photos have no edges where the maps have theirs, move these to where all views and the photo put them. Needs `agree`."""
    overshoot: Literal["split", "draw_in", "off"] = "off"
    """Treatment of a Gaussian that reaches out of its object in most views: `split` splits it along that axis, `draw_in` shortens it, `off` leaves it."""
    edges: Literal["auto", "sharp", "rough"] = "auto"
    """Whether losses are added at the edges of the id maps: `sharp` always, `rough` never, `auto` if the edges were snapped or match those that the views agree on. Choose `sharp` if the maps are exact and the splat is coarse."""
    focus: float = 1.0
    """Weight of L_2d over the pixels near edges of the id map, in addition to L_2d over all pixels. 0 switches focus off."""
    focus_photo: float = 0.3
    """Weight of the photo's L1 over the same pixels, in addition to that over all pixels. Without focus it has no effect."""
    spare: float = 0.1
    """A Gaussian whose ambiguity is below this value is moved less by L_2d, in proportion: the inside of objects keeps to the photos. 0 moves all alike."""
    split: float = 0.0
    """Largest share of all Gaussians that may be split in two when boundary Gaussians are found. The most ambiguous ones are split first. It pays on a coarse splat (0.25)."""
    position_rate: float = 5.0
    """Factor on the learning rate of the positions while boundaries are refined."""
    settle: float = 0.1
    """In the second half of the refined steps, the learning rates of colours, shapes and opacities, which have no schedule, fall to this share. 1 keeps them."""
    hull: bool = True
    """Draw Gaussians in that reach out of the hull of what the views see of their object, such as into the table under it. They would show in a cut-out."""
    foreign: float = 1.0
    """Weight of the loss on the blending weight that Gaussians of other objects have in a pixel. 0 switches it off."""
    space: float = 0.0
    """Weight of the loss on samples of Gaussians that fall where their object cannot be: space that views have seen to be empty, another object's, or out of its hull. 0 switches it off."""
    hidden: float = 0.3
    """At the end of the run, remove Gaussians whose blending weight, summed over all training views, is below this number of pixels. They lie inside or under objects and would show in a cut-out."""
    pixels: Suppress[int] = 490
    """Number of boundary pixels that are rendered from the field in a step, in patches of 7x7."""
    samples: Suppress[int] = 8
    """Number of samples on a ray."""
    field: bool = False
    """Train NG-GS's continuous field too. In no setting that was measured did it pay (docs/boundaries.md)."""
    every: Suppress[int] = 4
    """The field takes part in one step out of this number."""
    pull_after: Suppress[float] = 0.0
    """For this share of the refined steps the field only learns; then its losses move the splat too."""
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


class RefinedView(NamedTuple):
    """What the splat shows of a training view while boundaries are refined."""

    camera: rendering.Camera
    seen: Tensor | None
    """[H, W] blending weight of the boundary Gaussians, without a graph; None without the field."""
    rgb: Tensor
    """[H, W, 3]"""
    alpha: Tensor
    """[H, W]"""
    depth: Tensor
    """[H, W]"""
    identity: Tensor
    """[H, W, D]"""
    background: Tensor
    """[3]"""


class Foreign(NamedTuple):
    """What the loss on foreign weight compares (:func:`gradiseg_ns.boundary.clean_space.foreign_loss`)."""

    blended: Tensor
    """[H, W]"""
    signs: Tensor
    """[C]"""


class RefinedGaussians(NamedTuple):
    """What the field takes from the N Gaussians of the scene, and moves."""

    colors: Tensor
    """[N, 3] from everywhere, in 0..1."""
    identities: Tensor
    """[N, D]"""
    opacities: Tensor
    """[N] in 0..1."""
    gaussian_classes: Tensor
    """int64 [N], the class of their votes, negative if unseen."""
    geometry: Callable[[], rendering.Gaussians]
    """Gives their geometry, which only some losses need."""


class BoundaryPhase:
    """The state that exists while boundaries are refined. It is no part of a checkpoint's parameters.

    Args:
        config: the options.
        identity_dim: D of the encodings.
        steps: of the run, the first in which boundaries are refined and the one after the last.

    Attributes:
        points: the current boundary Gaussians, for the field; None without it, before they were found, or if there are fewer than two.
        sharp: whether losses are added at the maps' edges.
        found: whether boundary Gaussians were looked for in this process.
        boundary_count: how many there are.
        hulls: of the objects, by what views saw of their surfaces when boundaries were last found; None before, or if not asked for.
        space: where things are and where nothing is, by the same views; None before, or if not asked for.
        agreed: maps of classes int16 [H, W] by index of the training view, on the CPU, for the views in which they differ from the id maps.
    """

    def __init__(self, config: BoundaryConfig, identity_dim: int, steps: tuple[int, int] = (0, 0)) -> None:
        self.config, self.identity_dim = config, identity_dim
        self._steps = steps
        self._pull_from = steps[0] + round(config.pull_after * (steps[1] - steps[0]))
        self.field: BoundaryField | None = None
        self.refiner: BoundaryRefiner | None = None
        self.found, self.boundary_count = False, 0
        self.sharp = False
        self.agreed: dict[int, Tensor] = {}
        self.hulls: Hulls | None = None
        self.space: SeenSpace | None = None

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

    def agree(self, found: Consensus) -> None:
        """Take over the maps that the views agree on, and decide whether their edges are sharp."""
        edges = self.config.edges
        self.sharp = found.sharp if edges == "auto" else edges == "sharp"
        self.agreed = found.maps

    def told(self, found: Consensus, gaussians: int) -> str:
        """What was found among so many Gaussians, in a line for the user."""
        moved = ", and were moved to the photos'" if found.snapped else ""
        return (
            f"{self.boundary_count} of {gaussians} Gaussians; {found.overruled:.1%} of the labelled pixels overruled; edges "
            f"{'are' if self.sharp else 'are not'} focused on (the maps' lie {found.displacement:.2f} times the bound from what the "
            f"views agree on{moved})"
        )

    def update(self, means: Tensor, ambiguity: Tensor) -> None:
        """Choose the field's boundary Gaussians anew, from the centres [N, 3] and ambiguities [N] of all Gaussians."""
        self.found, self.boundary_count = True, int((ambiguity > self.config.tau).sum())
        if self.refiner is None or self.field is None:
            return
        points = BoundaryPoints.create(means, ambiguity > self.config.tau, self.config.neighbors)
        self.refiner.points = points
        if points is not None and not self.field.placed:
            self.field.place(points.means, points.spacing)

    def losses(
        self,
        step: int,
        view: RefinedView,
        photo: Tensor,
        classes: Tensor,
        mask: Tensor | None,
        classifier: IdentityClassifier,
        gaussians: Callable[[], RefinedGaussians],
        foreign: Foreign | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a step: near the edges of the maps, if these are sharp (:func:`focus_losses`), and those of the field
        in the steps in which it takes part (:meth:`BoundaryRefiner.losses`).

        Args:
            step: of the run.
            view: what the splat shows.
            photo: [H, W, 3] what it is compared with.
            classes: int64 [H, W], negative without label.
            mask: bool [H, W], False where the photo means nothing; None: it means something everywhere.
            classifier: of encodings.
            gaussians: gives what the losses take of them, in the steps in which they take part.
            foreign: what was blended for the loss on foreign weight; None without it.
        """
        config = self.config
        if mask is not None:
            photo = torch.where(mask[..., None], photo, view.rgb.detach())
            if view.seen is not None:
                view = view._replace(seen=torch.where(mask, view.seen, 0.0))
        losses: dict[str, Tensor] = {}
        if self.sharp:
            weights = (config.focus, config.focus_photo)
            losses.update(focus_losses(view.identity, view.rgb, photo, classes, classifier, weights))
        if self.refiner is not None and view.seen is not None and step % config.every == 0:
            taken = gaussians()._asdict()
            del taken["geometry"]
            losses.update(
                self.refiner.losses(
                    **view._asdict(), photo=photo, classes=classes, classifier=classifier, **taken,
                    pull=step >= self._pull_from,
                )
            )  # fmt: skip
        if foreign is not None:
            losses["boundary_foreign"] = config.foreign * foreign_loss(
                foreign.blended, view.alpha, classes, foreign.signs
            )
        if config.space > 0 and (self.space is not None or self.hulls is not None):
            own = gaussians()
            losses["boundary_space"] = config.space * space_loss(
                own.geometry(), own.gaussian_classes, self.space, self.hulls
            )
        return losses

    def set_rates(self, optimizers: Optimizers, names: Iterable[str], step: int) -> None:
        """Learning rates of a step, of the Gaussians' parameters of these names. Positions learn faster than their schedule says,
        which sets the rate anew after every step. Rates without a schedule fall exponentially from halfway on (`BoundaryConfig.settle`)."""
        first, end = self._steps
        halfway = (first + end) / 2
        share = self.config.settle ** max(0.0, (step - halfway) / max(1.0, end - halfway))
        for name in names:
            known, optimizer = optimizers.config.get(name), optimizers.optimizers.get(name)
            if known is None or optimizer is None:
                continue
            for group in optimizer.param_groups:
                if known["scheduler"] is None:
                    group["lr"] = known["optimizer"].lr * share
                elif name == "means":
                    group["lr"] *= self.config.position_rate


def ambiguity_feature(ambiguity: Tensor, rows: Tensor | None = None, *, above: float | None = None) -> Tensor:
    """What shows the boundary when it is blended: [M, 1], of the Gaussians that are drawn.

    Args:
        ambiguity: [N] of the scene's Gaussians, 0 to 1.
        rows: int64 [M], which of them are drawn; from N on others are, which have none. None: all.
        above: show the Gaussians above this value, as 1 and 0, not the ambiguity itself.
    """
    shown = ambiguity if above is None else (ambiguity > above).float()
    if rows is not None:
        shown = torch.where(rows < len(shown), shown[rows.clamp(max=len(shown) - 1)], 0.0)
    return shown[:, None]


# Black, red, yellow, white: the brightness rises evenly for every eye.
_HEAT = ((0.0, 0.0, 0.0), (0.55, 0.05, 0.1), (0.95, 0.45, 0.05), (1.0, 0.85, 0.3), (1.0, 1.0, 0.95))


def heat(values: Tensor) -> Tensor:
    """Colours [..., 3] of values [...] in 0..1."""
    stops = torch.tensor(_HEAT, device=values.device)
    place = values.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    share = (place - low)[..., None]
    return stops[low] * (1 - share) + stops[low + 1] * share
