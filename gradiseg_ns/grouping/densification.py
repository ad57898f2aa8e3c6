"""Identity-gradient-guided densification, IGD (GradiSeg, section 3.4 and algorithm 1).

A Gaussian that lies on both sides of a boundary has one identity encoding, but the maps ask for two. So the gradient of its
encoding does not vanish. IGD accumulates this gradient. It splits the Gaussians above a threshold in two, resets their
accumulators, and prunes Gaussians that are transparent or too large.

The paper leaves two points open. They are decided as follows (docs/gradiseg.md has the measurements):

- *tau*. An absolute threshold depends on the resolution, the number of ids and the noise of the maps. So tau is a robust
  quantile: at every refinement at most the share ``budget / rounds`` of all Gaussians is split, those with the largest
  gradients, and only outliers (above ``outlier`` times the median of the Gaussians that have a gradient). ``budget``
  bounds the growth in the whole phase.
- *two sub-Gaussians on either side of the boundary*. :func:`split_in_two` explains the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import _update_param_with_optimizer, remove, reset_opa, split
from gsplat.utils import normalized_quat_to_rotmat
from torch import Tensor

from gradiseg_ns.grouping.schedule import Schedule

NEVER = 1 << 40
"""A step number that no run reaches."""
SplitRule = Literal["sample", "major_axis", "boundary_axis"]
SPLIT_OFFSET = 0.75
"""Distance of the two halves from the old centre, in standard deviations along the split axis. The halves'
standard deviation sqrt(1 - 0.75^2) = 0.66 keeps the second moment of the pair equal to the parent's, and is
close to the 1 / 1.6 of 3DGS's own split."""

DIRECTION_EVERY = 5
"""Interval in steps between two measurements of directions. Each one costs an extra blend."""
DIRECTION_RATE = 0.1
"""Weight of a new view in the moving average of directions: about ten views count."""


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] (w, x, y, z), which need not be normalised."""
    return normalized_quat_to_rotmat(F.normalize(quats, dim=-1))


def split_axis(quats: Tensor, scales: Tensor, conflict: Tensor | None) -> Tensor:
    """The axis along which each Gaussian is split, one of its own three.

    Args:
        quats: [N, 4].
        scales: [N, 3] standard deviations.
        conflict: [N, 3, 3] sum of outer products g g^T of the segmentation loss's position gradients g, a
            direction without a sign; None chooses the longest axis.

    Returns:
        int64 [N]: the axis a_k that maximises s_k^2 (a_k^T C a_k). Along it, the loss changes most over the extent of the
        Gaussian. For Gaussians without a gradient it is the longest axis.
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
        optimizers: one per parameter, with the same names.
        state: the strategy's; tensors are carried along dimension 0. ``identity_conflict`` [N, 3, 3] is read
            by the rule ``boundary_axis``.
        mask: bool [N].
        rule: ``sample``: two samples of the Gaussian, as 3DGS splits; ``major_axis``: two halves along the
            longest axis; ``boundary_axis``: two halves along the axis over which the segmentation loss changes.
        axis: int64 [N], 0 to 2: the axis along which each Gaussian is split; it replaces the rule.
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
    """The Gaussians whose accumulated identity gradient is above tau.

    Args:
        gradient: [N] accumulated since the last split.
        count: [N] divisor of the gradient: the number of steps in which the Gaussian was seen, or the weight of its pixels.
        fraction: at most this share of all N Gaussians, those with the highest mean ``gradient / count``, ...
        outlier: ... and only means above this number times the median of the nonzero means. Both bounds together are tau.
        by_extent: rank by mean times gradient. Then, of two Gaussians with the same mean, the one with more pixels comes first.

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

    After the backward pass it reads the gradients of L_2d alone from ``info``: ``identity_gradient`` [N], the norm of the gradient
    with respect to the encodings, and ``identity_position_gradient`` [N, 3] (world axes), which the rule ``boundary_axis`` and
    LA-KNN's direction use. If ``info`` holds ``identity_weight`` [N], the gradient is divided by this weight instead of the
    number of views. L_3d is left out on purpose: its gradient is large for the few Gaussians that a step samples, wherever
    they are, so IGD would split at random.

    Args:
        igd: whether phase 2 happens. Default: True.
        igd_start_iter, igd_stop_iter: first step of phase 2 and the step after its last. Default: 12,000 and 15,000.
        igd_budget: largest growth of the number of Gaussians in phase 2, as a fraction. Default: 0.25.
        igd_outlier: tau is at least this number times the median. Default: 3.
        igd_min_opacity: only Gaussians with an opacity (0 to 1) above this are split. Default: 0.3.
        igd_by_extent: see :func:`in_conflict`.
        igd_split: see :func:`split_in_two`.
        direction_start_iter: from this step on the state's ``identity_direction`` [N, 3] is the moving average of the position
            gradient of L_2d over the steps in which the Gaussian is seen. Default: never.
        prune_large_start_iter: from this step on Gaussians that are too large are pruned. Default: 0.
    """

    igd: bool = True
    igd_start_iter: int = 12_000
    igd_stop_iter: int = 15_000
    igd_budget: float = 0.25
    igd_outlier: float = 3.0
    igd_by_extent: bool = False
    igd_min_opacity: float = 0.3
    igd_split: SplitRule = "boundary_axis"
    direction_start_iter: int = NEVER
    prune_large_start_iter: int = 0

    @classmethod
    def after(
        cls, base: DefaultStrategy, schedule: Schedule, *, direction: bool, **options: Any
    ) -> GradisegStrategy:
        """A strategy with the options of a DefaultStrategy and the steps of a schedule.

        Args:
            base: the strategy whose options are taken over.
            schedule: the step numbers of the run.
            direction: whether LA-KNN needs a direction.
            options: further options of this class.
        """
        inherited = {f.name: getattr(base, f.name) for f in fields(type(base))}
        return cls(
            **{**inherited, "verbose": False},
            igd_start_iter=schedule.igd_from,
            igd_stop_iter=schedule.igd_until,
            prune_large_start_iter=schedule.prune_large_from,
            direction_start_iter=schedule.la_knn_from if direction else NEVER,
            **options,
        )

    def initialize_state(self, scene_scale: float = 1.0) -> dict[str, Any]:
        """The DefaultStrategy's state, and IGD's accumulators, which are made at IGD's first step."""
        state = super().initialize_state(scene_scale)
        state.update(
            identity_gradient=None, identity_count=None, identity_conflict=None, identity_direction=None
        )
        return state

    def in_igd(self, step: int) -> bool:
        """Whether IGD accumulates at this step."""
        return self.igd and self.igd_start_iter <= step < self.igd_stop_iter

    def needs_absgrad(self, step: int) -> bool:
        """Whether this step needs absolute screen gradients: as long as Gaussians are densified by them."""
        return self.absgrad and step < self.refine_stop_iter

    def needs_position_gradient(self, step: int) -> bool:
        """Whether this step needs L_2d's own position gradient, for IGD or for LA-KNN's direction."""
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
        """Called after every backward pass, while ``params["identity"].grad`` exists."""
        if step >= self.direction_start_iter:
            self.follow_direction(state, info)
        if self.in_igd(step):
            self.accumulate(state, info)
        super().step_post_backward(params, optimizers, state, step, info, packed)  # type: ignore[arg-type]
        if step < self.refine_stop_iter and step % self.reset_every == 0:
            # gsplat 1.5.3 never resets opacities (its condition is always false). gsplat 1.4 does; then this changes nothing.
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
        """The DefaultStrategy's running sums, without a boolean index: that would make the host wait for the device."""
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
        """gradient_i += |grad_{e_i} L_2d| (algorithm 1), and count the views that see the Gaussian, or add up its weight."""
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
            # The size of the gradient differs between views; only its direction is used.
            weight = gradient / position.norm(dim=-1).clamp(min=1e-20)
            state["identity_conflict"] += weight[:, None, None] * position[:, :, None] * position[:, None, :]

    @torch.no_grad()
    def refine_identities(
        self, params: Any, optimizers: dict[str, torch.optim.Optimizer], state: dict[str, Any], step: int
    ) -> tuple[int, int]:
        """Split the Gaussians above tau, reset their accumulators, prune. Returns the numbers of split and pruned Gaussians."""
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
        # A nearly transparent Gaussian shows no boundary. It is haze, and two of them are worse than one.
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
        """Remove Gaussians that are transparent, too large in the scene, or too large on the screen. Returns their number.

        The DefaultStrategy removes large Gaussians only after the first opacity reset, and a short run may have no reset. Most
        Gaussians that are large on the screen are floaters close to one camera. They hide the scene from views between the cameras.
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
