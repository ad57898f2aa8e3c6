"""Finding boundaries anew: votes are counted, masks overruled, Gaussians split or shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.clean_space import see_space
from gradiseg_ns.boundary.cleaning import draw_in, find_overshoot
from gradiseg_ns.boundary.consensus import Consensus, find_consensus
from gradiseg_ns.boundary.hull import SOLID, Hulls, SurfacePoints, drawn_in, reaching_out
from gradiseg_ns.boundary.phase import BoundaryConfig, BoundaryPhase
from gradiseg_ns.grouping.densification import split_in_two

Watch = Callable[[rendering.Camera, Tensor, Tensor, Tensor], None]
"""Takes a camera, its map of classes [H, W], and the depth [H, W] and accumulation [H, W] of what it sees."""
Views = Callable[[], Iterable[tuple[rendering.Camera, Tensor]]]
"""Gives cameras with their maps of classes int64 [H, W] (negative: no label); may be called several times."""


@torch.no_grad()
def overshooting_ends(
    gaussians: rendering.Gaussians, found: Consensus, views: Views, watch: Watch | None = None
) -> Tensor:
    """Ends of axes that reach out of their object, by the maps that the views agree on: bool [N, 3, 2]; ``watch`` as for :func:`_seen`."""
    return find_overshoot(gaussians, found.classes, _seen(gaussians, found, views, watch)).ends()


def _seen(
    gaussians: rendering.Gaussians, found: Consensus, views: Views, watch: Watch | None
) -> Iterator[tuple[rendering.Camera, Tensor, Tensor]]:
    """Each camera with the map of classes that the views agree on, and the depth [H, W] that it sees.

    ``watch`` is called with each camera, that map and the depth and accumulation [H, W].
    """
    for index, (camera, classes) in enumerate(views()):
        depth, alpha = rendering.depth(rendering.project(gaussians, camera))
        agreed = found.maps[index].long() if index in found.maps else classes
        agreed = agreed.to(depth.device)
        if watch is not None:
            watch(camera, agreed, depth, alpha)
        yield camera, agreed, depth


@torch.no_grad()
def sharpen(
    params: torch.nn.ParameterDict,
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
    ends: Tensor,
    config: BoundaryConfig,
) -> None:
    """Split (or shrink) each Gaussian that reaches out of its object along that axis, in place. Also split the most ambiguous of the
    others along their longest axis: at most the share `BoundaryConfig.split` of all Gaussians.

    Args:
        params: means [N, 3], quats [N, 4], scales [N, 3] (logarithms) and any other parameter per Gaussian.
        optimizers: one per parameter, with the same names.
        state: the strategy's, with ``impurity`` [N].
        ends: bool [N, 3, 2], which ends of which axes overshoot.
        config: the options ``overshoot``, ``split`` and ``tau``.
    """
    if config.overshoot == "draw_in":
        means, scales = draw_in(params["means"], params["quats"], params["scales"], ends)
        params["means"].copy_(means)
        params["scales"].copy_(scales)
    along = ends.any(dim=-1) & (config.overshoot == "split")
    beyond = along.any(dim=-1)
    impurity = torch.where(beyond, 0.0, state["impurity"])
    room = round(config.split * len(impurity))
    if room > 0:
        worst, rows = impurity.topk(min(room, len(impurity)))
        along[rows[worst > config.tau]] = True
    axis = torch.where(along, params["scales"], -torch.inf).argmax(dim=-1)
    mask = along.any(dim=-1)
    if bool(mask.any()):
        split_in_two(params, optimizers, state, mask, "major_axis", axis)


class Surroundings:
    """Collects what views see of surfaces, for hulls and space.

    Args:
        views: number of views to come.
        config: which of them are asked for.
    """

    def __init__(self, views: int, config: BoundaryConfig) -> None:
        self.surfaces = SurfacePoints(views)
        self._config = config
        self.wanted = config.hull or config.space > 0
        """Whether anything is asked for."""
        self._depths: list[tuple[rendering.Camera, Tensor]] = []

    def watch(self, camera: rendering.Camera, classes: Tensor, depth: Tensor, alpha: Tensor) -> None:
        """Add a view, see `Watch`."""
        if self.wanted:
            self.surfaces.add(camera, classes, depth, alpha)
        if self._config.space <= 0:
            return
        step = max(1, max(depth.shape) // _COARSE)
        seen = torch.where(alpha > SOLID, depth, torch.inf)[step // 2 :: step, step // 2 :: step]
        K = camera.K.clone()
        K[:2] /= step
        self._depths.append((camera._replace(K=K, width=seen.shape[1], height=seen.shape[0]), seen))

    def tell(self, phase: BoundaryPhase, classes: int) -> None:
        """Give the phase what its options ask for, of ``classes`` classes."""
        phase.hulls = self.surfaces.hulls(classes) if self._config.hull else None
        phase.space = see_space(self.surfaces.points, self._depths) if self._config.space > 0 else None


@torch.no_grad()
def draw_into_hulls(params: torch.nn.ParameterDict, classes: Tensor, hulls: Hulls) -> int:
    """Draw in, in place, the Gaussians that reach out of the hull of their object (:mod:`gradiseg_ns.boundary.hull`).

    Args:
        params: means [N, 3], quats [N, 4] and scales [N, 3] (logarithms).
        classes: int64 [N], negative if unknown.
        hulls: of the classes.

    Returns:
        how many.
    """
    solid = torch.ones_like(params["means"][:, 0])
    gaussians = rendering.Gaussians(params["means"], params["quats"], params["scales"].exp(), solid)
    out = reaching_out(gaussians, classes, hulls)
    means, quats, scales = drawn_in(gaussians, classes, hulls, out)
    for name, value in (("means", means), ("quats", quats), ("scales", scales.log())):
        params[name][out] = value
    return len(means)


@torch.no_grad()
def refresh(
    phase: BoundaryPhase,
    gaussians: rendering.Gaussians,
    views: Views,
    view_count: int,
    classes: int,
    params: torch.nn.ParameterDict,
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    render_error: Callable[[int, rendering.Camera, rendering.Projection], Tensor],
    photos: Callable[[int], Tensor],
    change: bool = True,
) -> Consensus:
    """Find the boundary Gaussians anew, and where the views agree on another class than a map has. The phase keeps both.

    Args:
        phase: keeps what was found.
        gaussians: N Gaussians, those of ``params``.
        views: all training views, in order.
        view_count: their number.
        classes: K.
        params, optimizers: as :func:`sharpen`.
        state: the strategy's; gets ``impurity`` [N], as it is measured, and ``vote_class`` int64 [N].
        render_error, photos: as :func:`find_consensus`.
        change: split boundary Gaussians, split or draw in what sticks out, and draw in what reaches out of the hulls; False only
            looks.
    """
    config = phase.config
    found = find_consensus(
        gaussians,
        views,
        classes,
        agree=config.agree,
        render_error=render_error,
        photos=photos if config.snap else None,
    )
    state["impurity"] = found.ambiguity.measured(config.measure)
    state["vote_class"] = found.classes
    phase.agree(found)
    if change:
        around = Surroundings(view_count, config)
        if config.overshoot == "off":
            if around.wanted:
                for _ in _seen(gaussians, found, views, around.watch):
                    pass  # it is watched
            ends = torch.zeros(*gaussians.means.shape, 2, dtype=torch.bool, device=gaussians.means.device)
        else:
            ends = overshooting_ends(gaussians, found, views, around.watch)
        sharpen(params, optimizers, state, ends, config)
        around.tell(phase, classes)
        if phase.hulls is not None:
            draw_into_hulls(params, state["vote_class"], phase.hulls)
    phase.update(params["means"], state["impurity"])
    return found


_COARSE = 256
"""Pixels of the depths that are kept, along the longer side."""

__all__ = ["Consensus", "Views", "find_consensus", "overshooting_ends", "refresh", "sharpen"]
