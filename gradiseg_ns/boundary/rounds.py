"""Finding boundaries anew: votes are counted, masks overruled, Gaussians split or shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.boundary.agreement import Consensus, find_consensus
from gradiseg_ns.boundary.cleaning import draw_in, find_overshoot
from gradiseg_ns.boundary.phase import BoundaryConfig
from gradiseg_ns.grouping.densification import split_in_two

Views = Callable[[], Iterable[tuple[rendering.Camera, Tensor]]]
"""Gives cameras with their maps of classes int64 [H, W] (negative: no label); may be called several times."""


@torch.no_grad()
def overshooting_ends(gaussians: rendering.Gaussians, found: Consensus, views: Views) -> Tensor:
    """Ends of axes that reach out of their object, by the maps that the views agree on: bool [N, 3, 2]."""

    def seen() -> Iterator[tuple[rendering.Camera, Tensor, Tensor]]:
        for index, (camera, classes) in enumerate(views()):
            depth, _ = rendering.depth(rendering.project(gaussians, camera))
            agreed = found.maps[index].long() if index in found.maps else classes
            yield camera, agreed.to(depth.device), depth

    return find_overshoot(gaussians, found.labels, seen()).ends()


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


__all__ = ["Consensus", "Views", "find_consensus", "overshooting_ends", "sharpen"]
