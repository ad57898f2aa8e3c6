"""Identity-gradient-guided densification, IGD (GradiSeg, section 3.4 and algorithm 1).

A Gaussian that lies on both sides of a boundary has one identity encoding and two supervisions: its encoding's
gradient does not vanish. IGD accumulates that gradient, splits what exceeds a threshold into two, resets the
accumulator of the split ones, and prunes what is transparent or too large.

What the paper leaves open, and what is done here (measured: docs/gradiseg.md):

- *tau*. An absolute threshold depends on the resolution, the number of ids and the noise of the maps, so tau is
  a robust quantile: at every refinement the Gaussians above it are the largest ``budget / rounds`` of all, and
  only those that are also outliers (above ``outlier`` times the median of the Gaussians that have a gradient).
  ``budget`` bounds the growth of the whole phase.
- *two sub-Gaussians on either side of the boundary*. See :func:`split_in_two` for the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import _update_param_with_optimizer, remove, reset_opa, split
from torch import Tensor

SplitRule = Literal["sample", "major_axis", "boundary_axis"]
SPLIT_OFFSET = 0.75
"""Distance of the two halves from the old centre, in standard deviations along the split axis. The halves'
standard deviation sqrt(1 - 0.75^2) = 0.66 keeps the second moment of the pair equal to the parent's, and is
close to the 1 / 1.6 of 3DGS's own split."""

DIRECTION_EVERY = 5
"""Every how many steps a view is asked for directions: it costs a blend of its own."""
DIRECTION_RATE = 0.1
"""Weight of a new view in the moving average of directions: some ten views count."""


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] (w, x, y, z), which need not be normalised."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def split_axis(quats: Tensor, scales: Tensor, conflict: Tensor | None) -> Tensor:
    """Which of its own three axes a Gaussian is split along.

    Args:
        quats: [N, 4].
        scales: [N, 3] standard deviations.
        conflict: [N, 3, 3] sum of outer products g g^T of the segmentation loss's position gradients g, a
            direction without a sign; None splits the longest axis.

    Returns:
        int64 [N]: the axis a_k that maximises s_k^2 (a_k^T C a_k), that is along which the loss changes most
        over the extent of the Gaussian. Gaussians without a gradient are split along their longest axis.
    """
    longest = scales.argmax(dim=-1)
    if conflict is None:
        return longest
    rotation = rotation_matrices(quats)
    change = torch.einsum("nik,nij,njk->nk", rotation, conflict, rotation)
    across = (scales.square() * change).argmax(dim=-1)
    return torch.where(change.amax(dim=-1) > 0, across, longest)


@torch.no_grad()
def split_in_two(
    params: torch.nn.ParameterDict | dict[str, torch.nn.Parameter],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
    mask: Tensor,
    rule: SplitRule,
    axis: Tensor | None = None,
) -> None:
    """Replace every Gaussian of ``mask`` by two, in place, with their optimizer and strategy states.

    Args:
        params: means [N, 3], quats [N, 4], scales [N, 3] (logarithms) and any other per-Gaussian parameter.
        optimizers: one a parameter, of the same names.
        state: the strategy's; tensors are carried along dimension 0. ``identity_conflict`` [N, 3, 3] is read
            by the rule ``boundary_axis``.
        mask: bool [N].
        rule: ``sample``: two samples of the Gaussian, as 3DGS splits; ``major_axis``: two halves along the
            longest axis; ``boundary_axis``: two halves along the axis over which the segmentation loss changes.
        axis: int64 [N], 0 to 2: which axis to split each along, whatever the rule says.
    """
    if rule == "sample" and axis is None:
        split(params=params, optimizers=optimizers, state=state, mask=mask)  # type: ignore[arg-type]
        return
    chosen, rest = torch.where(mask)[0], torch.where(~mask)[0]
    scales = params["scales"][chosen].exp()
    quats = params["quats"][chosen]
    if axis is None:
        conflict = state["identity_conflict"][chosen] if rule == "boundary_axis" else None
        axis = split_axis(quats, scales, conflict)
    else:
        axis = axis[chosen]
    axis = axis[:, None]
    extent = scales.gather(1, axis)
    direction = rotation_matrices(quats).gather(2, axis[:, None].expand(-1, 3, 1)).squeeze(-1)
    offset = direction * extent * SPLIT_OFFSET
    halved = scales.scatter(1, axis, extent * (1 - SPLIT_OFFSET**2) ** 0.5)

    def param_fn(name: str, p: Tensor) -> torch.nn.Parameter:
        if name == "means":
            pair = torch.cat([p[chosen] + offset, p[chosen] - offset])
        elif name == "scales":
            pair = halved.log().repeat(2, 1)
        else:
            pair = p[chosen].repeat([2] + [1] * (p.dim() - 1))
        return torch.nn.Parameter(torch.cat([p[rest], pair]))

    def optimizer_fn(key: str, v: Tensor) -> Tensor:
        return torch.cat([v[rest], v.new_zeros((2 * len(chosen), *v.shape[1:]))])

    _update_param_with_optimizer(param_fn, optimizer_fn, params, optimizers)  # type: ignore[arg-type]
    for key, value in state.items():
        if isinstance(value, Tensor):
            state[key] = torch.cat([value[rest], value[chosen].repeat([2] + [1] * (value.dim() - 1))])


def in_conflict(
    gradient: Tensor, count: Tensor, fraction: float, outlier: float, *, by_extent: bool = False
) -> Tensor:
    """Which Gaussians have an accumulated identity gradient above tau.

    Args:
        gradient: [N] accumulated since the last split.
        count: [N] what it was accumulated over: steps in which the Gaussian was seen, or weight of the pixels.
        fraction: at most this share of all N Gaussians, those with the highest mean ``gradient / count``, ...
        outlier: ... and only means above that many medians of those that are not zero. Together these are tau.
        by_extent: rank by mean times gradient, so that of two Gaussians in the same conflict the one goes first
            that draws more of the wrong pixels.

    Returns:
        bool [N].
    """
    mean = gradient / count.clamp(min=torch.finfo(gradient.dtype).tiny)
    mean = torch.where(count > 0, mean, torch.zeros_like(mean))
    active = mean[mean > 0]
    allowed = int(fraction * len(mean))
    if allowed < 1 or len(active) == 0:
        return torch.zeros_like(mean, dtype=torch.bool)
    eligible = mean > outlier * active.median()
    score = torch.where(eligible, mean * gradient if by_extent else mean, torch.zeros_like(mean))
    best = score.topk(min(allowed, len(score))).indices
    return torch.zeros_like(eligible).index_fill_(0, best, True) & eligible


@dataclass
class GradisegStrategy(DefaultStrategy):
    """gsplat's DefaultStrategy, then IGD.

    1. Until ``refine_stop_iter``: duplicates, splits, prunes and resets as the DefaultStrategy.
    2. From ``igd_start_iter`` to ``igd_stop_iter``: accumulates the norm of every Gaussian's identity gradient
       (algorithm 1), and every ``refine_every`` steps splits those above tau in two and prunes those that are
       transparent (opacity below ``prune_opa``) or too large (``prune_scale3d``; on a screen ``prune_scale2d``).

    Reads from ``info``, after the backward pass, what L_2d alone leaves behind: ``identity_gradient`` [N], the norm
    of its gradient with respect to the encodings, and ``identity_position_gradient`` [N, 3] (world axes), which
    feeds the rule ``boundary_axis`` and LA-KNN's direction; where ``identity_weight`` [N] is given, the gradient is
    taken per weight instead of per view. L_3d is left out on purpose: it is large for the few
    Gaussians that a step samples, wherever they are, and would have IGD split at random.

    Args:
        igd: whether phase 2 happens at all.
        igd_start_iter, igd_stop_iter: its steps.
        igd_budget: how much the number of Gaussians may grow in phase 2, as a fraction.
        igd_outlier: tau is at least this many medians.
        igd_min_opacity: only Gaussians of more than this opacity are split.
        igd_by_extent: see :func:`in_conflict`.
        igd_split: see :func:`split_in_two`.
        direction_start_iter: from here on the state's ``identity_direction`` [N, 3] follows the position gradient
            of L_2d, a moving average over the steps in which the Gaussian is seen.
        prune_large_start_iter: from here on too large Gaussians are pruned.
    """

    igd: bool = True
    igd_start_iter: int = 12_000
    igd_stop_iter: int = 15_000
    igd_budget: float = 0.25
    igd_outlier: float = 3.0
    igd_by_extent: bool = False
    igd_min_opacity: float = 0.3
    igd_split: SplitRule = "boundary_axis"
    direction_start_iter: int = 1 << 40
    prune_large_start_iter: int = 0

    def initialize_state(self, scene_scale: float = 1.0) -> dict[str, Any]:
        """The DefaultStrategy's state, with IGD's accumulators, which are made at its first step."""
        state = super().initialize_state(scene_scale)
        state.update(
            identity_gradient=None, identity_count=None, identity_conflict=None, identity_direction=None
        )
        return state

    def in_igd(self, step: int) -> bool:
        """Whether IGD accumulates at this step."""
        return self.igd and self.igd_start_iter <= step < self.igd_stop_iter

    def needs_absgrad(self, step: int) -> bool:
        """Whether the absolute screen gradients of this step are wanted: as long as Gaussians are densified by them."""
        return self.absgrad and step < self.refine_stop_iter

    def needs_position_gradient(self, step: int) -> bool:
        """Whether L_2d's own position gradient is wanted at this step: by IGD, or for LA-KNN's direction."""
        follows = step >= self.direction_start_iter and step % DIRECTION_EVERY == 0
        return follows or self.in_igd(step)

    def step_post_backward(
        self,
        params: torch.nn.ParameterDict | dict[str, torch.nn.Parameter],  # type: ignore[override]
        optimizers: dict[str, torch.optim.Optimizer],
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """Called after every backward pass, while ``params["identity"].grad`` is there."""
        if step >= self.direction_start_iter:
            self.follow_direction(state, info)
        if self.in_igd(step):
            self.accumulate(state, info)
        super().step_post_backward(params, optimizers, state, step, info, packed)  # type: ignore[arg-type]
        if step < self.refine_stop_iter and step % self.reset_every == 0:
            # gsplat 1.5.3 never does (its condition is always false); after 1.4, which does, it changes nothing
            reset_opa(params=params, optimizers=optimizers, state=state, value=self.prune_opa * 2.0)  # type: ignore[arg-type]
        last = step == self.igd_stop_iter - 1
        if self.in_igd(step) and (last or (step > self.igd_start_iter and step % self.refine_every == 0)):
            self.refine_identities(params, optimizers, state, step)
        if step >= self.igd_stop_iter and state.get("identity_gradient") is not None:
            state.update(identity_gradient=None, identity_count=None, identity_conflict=None)

    @torch.no_grad()
    def _update_state(
        self,
        params: Any,
        state: dict[str, Any],
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """The DefaultStrategy's running sums, without picking rows out: that makes the host wait for the device."""
        assert not packed, "the model does not render packed"
        positions = info[self.key_for_gradient]
        gradient = (positions.absgrad if self.absgrad else positions.grad)[0]
        seen = info["radii"][0] > 0
        width, height = info["width"], info["height"]
        screen = torch.stack(
            [
                gradient[:, 0] * (width / 2.0 * info["n_cameras"]),
                gradient[:, 1] * (height / 2.0 * info["n_cameras"]),
            ],
            dim=-1,
        )
        for key in ("grad2d", "count", *(["radii"] if self.refine_scale2d_stop_iter > 0 else [])):
            if state[key] is None:
                state[key] = gradient.new_zeros(len(gradient))
        state["grad2d"] += torch.where(seen, screen.norm(dim=-1), 0.0)
        state["count"] += seen
        if self.refine_scale2d_stop_iter > 0:
            radii = info["radii"][0] / float(max(width, height))
            state["radii"] = torch.where(seen, torch.maximum(state["radii"], radii), state["radii"])

    @torch.no_grad()
    def follow_direction(self, state: dict[str, Any], info: dict[str, Any]) -> None:
        """The moving average of L_2d's position gradient, of the Gaussians that the step saw."""
        gradient = info.get("identity_position_gradient")
        if gradient is None:
            return
        if state["identity_direction"] is None:
            state["identity_direction"] = torch.zeros_like(gradient)
        seen = (info["radii"][0] > 0)[:, None]
        state["identity_direction"].lerp_(gradient, DIRECTION_RATE * seen.to(gradient.dtype))

    @torch.no_grad()
    def accumulate(self, state: dict[str, Any], info: dict[str, Any]) -> None:
        """gradient_i += |grad_{e_i} L_2d| (algorithm 1), and how often the Gaussian was seen."""
        gradient = info.get("identity_gradient")
        if gradient is None:
            return
        count = len(gradient)
        if state["identity_gradient"] is None:
            state["identity_gradient"] = gradient.new_zeros(count)
            state["identity_count"] = gradient.new_zeros(count)
            state["identity_conflict"] = gradient.new_zeros(count, 3, 3)
        state["identity_gradient"] += gradient
        weight = info.get("identity_weight")
        state["identity_count"] += (info["radii"][0] > 0).to(gradient.dtype) if weight is None else weight
        if isinstance(state.get("radii"), Tensor):
            size = float(max(info["width"], info["height"]))
            state["radii"] = torch.maximum(state["radii"], info["radii"][0] / size)
        position = info.get("identity_position_gradient")
        if position is not None:
            # Views see a gradient of different size; the direction is what is wanted.
            weight = gradient / position.norm(dim=-1).clamp(min=1e-20)
            state["identity_conflict"] += weight[:, None, None] * position[:, :, None] * position[:, None, :]

    @torch.no_grad()
    def refine_identities(
        self, params: Any, optimizers: dict[str, torch.optim.Optimizer], state: dict[str, Any], step: int
    ) -> tuple[int, int]:
        """Split above tau, reset what was split, prune. Returns how many were split and pruned."""
        if state["identity_gradient"] is None:
            return 0, 0
        rounds = max(1, round((self.igd_stop_iter - self.igd_start_iter) / self.refine_every))
        mask = in_conflict(
            state["identity_gradient"],
            state["identity_count"],
            self.igd_budget / rounds,
            self.igd_outlier,
            by_extent=self.igd_by_extent,
        )
        # What is nearly transparent shows no boundary; it is haze, and two of it are worse than one.
        mask &= torch.sigmoid(params["opacities"].flatten()) > self.igd_min_opacity
        n_split = int(mask.sum())
        if n_split:
            split_in_two(params, optimizers, state, mask, self.igd_split)
            for key in ("identity_gradient", "identity_count", "identity_conflict"):
                state[key][-2 * n_split :] = 0  # the halves stand last
        n_prune = self._prune_gs(params, optimizers, state, step)
        if isinstance(state.get("radii"), Tensor):
            state["radii"].zero_()
        return n_split, n_prune

    @torch.no_grad()
    def _prune_gs(
        self, params: Any, optimizers: dict[str, torch.optim.Optimizer], state: dict[str, Any], step: int
    ) -> int:
        """Remove what is transparent, too large in the scene, or too large on a screen.

        The DefaultStrategy begins with the large ones only after the first opacity reset, which a short run may
        not have. Large on a screen are above all the floaters close to one camera, which hide everything from the
        views between the cameras.
        """
        prune = torch.sigmoid(params["opacities"].flatten()) < self.prune_opa
        if step > self.prune_large_start_iter:
            prune |= params["scales"].exp().amax(dim=-1) > self.prune_scale3d * state["scene_scale"]
            if step < self.refine_scale2d_stop_iter and isinstance(state.get("radii"), Tensor):
                prune |= state["radii"] > self.prune_scale2d
        n_prune = int(prune.sum())
        if n_prune:
            remove(params=params, optimizers=optimizers, state=state, mask=prune)
        return n_prune
