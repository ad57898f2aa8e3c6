"""GradisegModel: nerfstudio's splatfacto whose Gaussians know their object.

Thin on purpose: which maps are rendered, which losses apply when, what a checkpoint holds. The work is done by
``rendering`` (the two verbs), ``grouping`` (identity, IGD, LA-KNN) and ``scene`` (ids, names, colours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from gsplat.strategy.ops import remove
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor
from torch.nn import Parameter
from tyro.conf import Suppress

from gradiseg_ns import rendering
from gradiseg_ns.boundary import rounds
from gradiseg_ns.boundary.clean_space import class_signs, foreign_feature
from gradiseg_ns.boundary.consensus import Consensus
from gradiseg_ns.boundary.phase import (
    BoundaryConfig,
    BoundaryPhase,
    Foreign,
    RefinedGaussians,
    RefinedView,
    ambiguity_feature,
    heat,
)
from gradiseg_ns.data.class_maps import CLASS_MAP, ID_MAP, downscaled
from gradiseg_ns.data.free_space import NEAR_SHARE, FreeSpace, must_go
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.data.seeds import with_background
from gradiseg_ns.drawing.blends import Blend, Outputs, add_segmentation, identity_directions
from gradiseg_ns.drawing.drawn_model import DrawnModel
from gradiseg_ns.editing.display import Editing
from gradiseg_ns.evaluation.lpips import LazyLpips, without_lpips_download
from gradiseg_ns.evaluation.views import psnr_inside
from gradiseg_ns.grouping.densification import GradisegStrategy, SplitRule
from gradiseg_ns.grouping.identity import (
    IDENTITY_DIM,
    IdentityClassifier,
    identity_loss,
    initial_identity,
)
from gradiseg_ns.grouping.neighbors import NeighborSampler, neighbor_loss_of_step
from gradiseg_ns.grouping.probe import IdentityProbe, Signal
from gradiseg_ns.grouping.schedule import Schedule, ScheduleConfig, apply_schedule
from gradiseg_ns.losses.psnr import PSNR, psnr
from gradiseg_ns.losses.ssim import FastSSIM
from gradiseg_ns.scene.harmonics import dc_of, in_degree, rgb_of
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.sources.checkpoints import check_model_state
from gradiseg_ns.tools.terminal import say
from gradiseg_ns.votes.accumulate import Votes
from gradiseg_ns.votes.identities import from_votes


@dataclass
class GradisegModelConfig(SplatfactoModelConfig):
    """Splatfacto's options, and those of identities, IGD, LA-KNN, association, empty space and the boundary refiner."""

    _target: type = field(default_factory=lambda: GradisegModel)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Times of the phases, as fractions of the run. Splatfacto's own step numbers follow from them. A step number that you set yourself stays."""
    run_length: Suppress[int] = 30_000
    """Steps of the whole run; taken from --max-num-iterations when training starts."""
    start_from: Path | None = None
    """Start from the Gaussians of a trained splat instead of points: a run of splatfacto or gradiseg on the same data with the same dataparser options (its folder or config.yml), or a 3DGS PLY in nerfstudio's frame. Such a run does not densify by position gradients, and a few hundred steps (--max-num-iterations 300) are enough. Default: start from points."""
    associate: Literal["off", "auto", "keep", "new"] = "off"
    """Make the ids of the training maps agree during training, when the schedule takes votes: `keep` repairs ids that mostly agree, `new` gives new ids to unrelated masks, `auto` chooses between the two. Identities are learned from then on. The new maps are written beside the run, as `associated_mask`. `off` uses the maps as they are."""
    identity: bool = True
    """Learn identities. False is plain splatfacto on our rasteriser, without id maps."""
    identity_dim: int = IDENTITY_DIM
    """Channels of an identity encoding, 16 in the paper."""
    identity_loss_weight: float = 1.0
    """alpha of the paper: weight of L_2d, the cross-entropy against the id maps (divided by log(classes))."""
    identity_geometry: float = 0.3
    """Share of L_2d's gradient that moves means, scales, rotations and opacities: 1 is all of it, as in Gaussian Grouping, 0 is none. A larger share makes boundaries sharper, but then wrong ids also bend the geometry (docs/gradiseg.md)."""
    neighbor_loss_weight: float = 2.0
    """beta of the paper: weight of L_3d; 0 switches it off."""
    neighbor_samples: int = 1000
    """M of the paper: number of Gaussians that L_3d samples in a step."""
    neighbor_count: Suppress[int] = 5
    """K of the paper: number of neighbours of a sampled Gaussian."""
    neighbor_candidates: Suppress[int] = 16
    """Number of nearest Gaussians among which LA-KNN's rule `local` chooses its K neighbours."""
    la_knn: Literal["local", "literal", "off"] = "local"
    """LA-KNN's rule: `local` chooses among near Gaussians, `literal` is equation 4 over all Gaussians (slow), `off` keeps the global KNN to the end."""
    la_knn_outlier: Suppress[float] = 3.0
    """A Gaussian gets a direction for LA-KNN only if its gradient exceeds this number times the median. All others keep their nearest neighbours. 0 gives every Gaussian a direction, as in the paper."""
    la_knn_direction: Suppress[Literal["identity", "total"]] = "identity"
    """The position gradient that gives LA-KNN its direction: `identity` is that of L_2d alone, `total` that of the whole loss, as in the paper."""
    igd: bool = True
    """Use identity-gradient-guided densification (IGD): split Gaussians on which the pixels of a view disagree about the identity."""
    igd_budget: float = 0.25
    """Largest share of the Gaussians that IGD may split in its whole phase. The paper's threshold tau follows from it as a quantile. Fewer Gaussians remain in the end, because some halves are culled."""
    igd_outlier: Suppress[float] = 3.0
    """IGD splits a Gaussian only if its accumulated signal exceeds this number times the median, even if the budget would allow more."""
    igd_split: Suppress[SplitRule] = "boundary_axis"
    """How IGD splits: `sample` draws two Gaussians as 3DGS does, `major_axis` splits along the longest axis, `boundary_axis` along the axis over which L_2d changes most."""
    igd_signal: Suppress[Signal] = "conflict"
    """The signal that IGD accumulates. `gradient` is the norm of a Gaussian's identity gradient, as in the paper; the two sides of a boundary cancel in it. `absolute` is the weighted sum of the gradient norms of the Gaussian's pixels; nothing cancels in it. `conflict` is `absolute` minus `gradient`, the part that cancels: it is zero if all pixels pull in the same direction, as they do where a view has a wrong id for the whole object. `absolute` and `conflict` are divided by the weight of the pixels."""
    empty_space: float = NEAR_SHARE
    """Remove Gaussians that are nearer to a training camera than this share of the depth of the nearest sparse points that the camera sees: they float in front of the camera. 0 keeps them."""
    empty_space_virtual: Suppress[bool] = True
    """Do the same for virtual cameras between neighbouring training cameras."""
    prune_min_views: int = 2
    """Remove Gaussians that fewer than this number of training views see, at the times of `schedule.prune-unseen-every`. No photo constrains them: they float in front of the cameras and hide the scene from other views. 0 keeps them."""
    boundary_refiner: bool = True
    """Refine boundaries in the last third of the run, together with a continuous field (NG-GS). False is plain GradiSeg."""
    boundary: BoundaryConfig = field(default_factory=BoundaryConfig)
    """The boundary refiner's options."""
    metrics_ignore_ids: tuple[int, ...] = ()
    """Object ids that mIoU and mBIoU leave out, such as background and table. Ids that occur only where photos show nothing (transparent; for id 0 also plain black or white) are always left out."""


class GradisegModel(DrawnModel):
    """Splatfacto with a 16-d identity encoding per Gaussian (GradiSeg, arXiv 2412.00392)."""

    config: GradisegModelConfig
    strategy: GradisegStrategy
    schedule: Schedule
    objects: ObjectTable
    classifier: IdentityClassifier
    boundary_phase: BoundaryPhase | None
    editing: Editing
    views: Sequence[str] = ()
    """Names of the training views, those of earlier parts of a resumed run among them."""
    views_are_missing: bool = False
    """Whether some of them are not here any more."""
    _identity_basis: Tensor

    # ------------------------------------------------------------------ set-up

    def populate_modules(self) -> None:
        config = self.config
        # The config.yml of an older run is read without defaults of the fields that it does not have.
        config.__dict__.setdefault("boundary", BoundaryConfig())
        if not 0 <= config.empty_space <= 1:
            raise ValueError(
                f"--pipeline.model.empty-space is {config.empty_space}, expected 0 (off) to 1, a share of the nearest points' depth"
            )
        if getattr(config, "strategy", "default") != "default":
            raise ValueError(
                f"--pipeline.model.strategy is {config.strategy}, expected default: IGD is a part of that strategy"  # type: ignore[attr-defined]
            )
        self.schedule = apply_schedule(config)
        self.editing = Editing()
        metadata = self.kwargs.get("metadata") or {}
        seed_points = with_background(self.seed_points, metadata.get("background_points"))
        if seed_points is not None and not config.random_init:
            # The parent copies colours to CUDA; without colours it does not, and they are filled in below.
            self.seed_points = (seed_points[0].float(), seed_points[1][:0])
        with without_lpips_download():
            super().populate_modules()
        self.seed_points = seed_points
        self.lpips = LazyLpips()
        self.ssim = FastSSIM()
        self.psnr = PSNR()
        if seed_points is not None and not config.random_init and len(seed_points[1]) > 0:
            dc = dc_of(seed_points[1].float() / 255, logits=config.sh_degree == 0, eps=1e-10)
            self.gauss_params["features_dc"] = Parameter(dc)

        self.objects = ObjectTable.create(
            metadata.get("object_ids") or [], metadata.get("object_names") or {}
        )
        self.classifier = IdentityClassifier(len(self.objects.ids), config.identity_dim)
        if config.identity:
            self.gauss_params["identity"] = Parameter(initial_identity(self.num_points, config.identity_dim))
        self.neighbors = NeighborSampler(
            config.neighbor_samples,
            max(config.neighbor_candidates, config.neighbor_count),
            config.refine_every,
        )
        self.register_buffer("_identity_basis", identity_directions(config.identity_dim), persistent=False)
        self.strategy = GradisegStrategy.after(
            self.strategy,
            self.schedule,
            igd=config.igd and config.identity,
            igd_budget=config.igd_budget,
            igd_outlier=config.igd_outlier,
            igd_by_extent=config.igd_signal != "gradient",
            igd_split=config.igd_split,
            direction=config.la_knn != "off" and config.la_knn_direction == "identity",
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)
        self.boundary_phase = None
        if config.boundary_refiner and self._identity_on:
            steps = (self.schedule.refine_boundary_from, self.schedule.length)
            self.boundary_phase = BoundaryPhase(config.boundary, config.identity_dim, steps)

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_gaussian_param_groups()
        if self.config.identity:
            groups["identity"] = [self.gauss_params["identity"]]
        return groups

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_param_groups()
        if self.config.identity and len(self.objects.ids) > 0:
            groups["classifier"] = list(self.classifier.parameters())
        if self.boundary_phase is not None and self.config.boundary.field:
            groups["boundary_field"] = self.boundary_phase.parameters(self.device)
        return groups

    # --------------------------------------------------------------- head start

    def adopt(self, splat: Splat) -> None:
        """Take over the Gaussians of a trained splat, before there are optimizers. Identities start anew."""
        params = in_degree(splat.to(self.device).to_parameters(), self.config.sh_degree)
        if self.config.identity:
            params["identity"] = initial_identity(len(splat), self.config.identity_dim)
        for name, parameter in self.gauss_params.items():
            parameter.data = params[name].to(self.device, torch.float32).clone()

    def set_objects(self, ids: Iterable[int], names: Mapping[int, str]) -> None:
        """Other objects than the data had at first, while training. The classifier has to be set after that."""
        self.objects = ObjectTable.create(list(ids), names)
        self.classifier.resize(len(self.objects))

    @torch.no_grad()
    def identities_from_votes(self, views: Iterable[tuple[Cameras, Tensor]]) -> Votes:
        """Set identities and classifier from the votes of id maps (:mod:`gradiseg_ns.votes.identities`).

        What optimizers know of them is forgotten.

        Args:
            views: cameras with maps of classes int [H, W] at their resolution.
        """
        count, dim = len(self.objects.ids), self.config.identity_dim
        identity, weight, votes = from_votes(self._gaussians(), self._class_maps(views), count, dim)
        for parameter, value in (
            (self.gauss_params["identity"], identity),
            (self.classifier.weight, weight),
            (self.classifier.bias, torch.zeros_like(self.classifier.bias)),
        ):
            parameter.copy_(value)
            for optimizer in getattr(self, "optimizers", {}).values():
                optimizer.state.pop(parameter, None)
        return votes

    # -------------------------------------------------------------- checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside parameters, in types that a weights-only load accepts."""
        return {
            "objects": self.objects.to_dict(), "strategy": dict(self.strategy_state), "views": list(self.views),
        }  # fmt: skip

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.objects = ObjectTable.from_dict(state["objects"])
        self.views = [str(name) for name in state.get("views", ())]
        self.strategy_state = {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in state["strategy"].items()
        }

    def update_to_step(self, step: int) -> None:
        self.step = step

    def load_state_dict(self, dict: Mapping[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint of any number of Gaussians, keeping the Parameters that optimizers hold.

        Raises:
            CheckpointError: for missing or unknown keys, or ids in the data that the checkpoint does not know.
        """
        known = check_model_state(dict, set(self.state_dict()), self.objects.ids if self.training else ())
        count = dict["gauss_params.means"].shape[0]
        for parameter in self.gauss_params.values():
            parameter.data = parameter.data.new_zeros((count, *parameter.shape[1:]))
        self.classifier.resize(len(known))
        return super(SplatfactoModel, self).load_state_dict({**dict}, **kwargs)

    # ---------------------------------------------------------------- rendering

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # type: ignore[override]
        """Render a camera.

        Returns:
            float maps: rgb [H, W, 3], depth [H, W, 1], accumulation [H, W, 1], background, and when evaluating
            segmentation [H, W, 3] (the colour of each pixel's object) and identity [H, W, 3] (three fixed
            directions of the encoding). See :class:`Outputs` for the maps that have no key.
        """
        if not isinstance(camera, Cameras):
            say("gradiseg was asked to render something that is not a camera.")
            return {}
        params, shown, rows = self._drawn()
        if not len(params["means"]):
            return self.get_empty_outputs(
                int(camera.width.item()), int(camera.height.item()), self.background_color
            )
        view = self._camera(camera)
        projection = rendering.project(self._activated(params), view)
        colors = self._colors(params, view, projection.radii[0] > 0)
        refining = self._refining
        with_depth = self.config.output_depth_during_training or not self.training or refining
        if with_depth:
            colors = torch.cat([colors, projection.depths[0][:, None]], dim=-1)
        identity_on = self._identity_on and not (self.training and self.step < self.schedule.identity_from)
        probing = self.training and identity_on and self.strategy.needs_position_gradient(self.step)
        blend = Blend().add("color", colors)
        share = self._identity_geometry(refining)
        if identity_on and not probing:
            blend.add("identity", params["identity"], share)
        blend.add("edited", None if shown is None else shown.features, 0.0)
        blend.add("boundary", self._ambiguity_feature(refining, rows), 0.0)
        signs = None
        if refining and self.config.boundary.foreign > 0:
            phase = self.boundary_phase
            surroundings = phase.hulls.missing if phase is not None and phase.hulls is not None else None
            signs = class_signs(len(self.objects.ids), self.step, self.device, surroundings)
            blend.add("foreign", foreign_feature(self.strategy_state["vote_class"], signs))
        blend.rasterize(projection, absgrad=self.training and self.strategy.needs_absgrad(self.step))
        self.info = projection.info()
        alpha = blend.alpha
        identity_map = blend.get("identity")
        if probing:
            self._probe = IdentityProbe.render(projection, params["identity"], share)
            identity_map = self._probe.maps
        if self.training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        rgb = torch.clamp(blend["color"][..., :3] + (1 - alpha) * background, 0.0, 1.0)
        if self.config.use_bilateral_grid and self.training:
            if camera.metadata is not None and "cam_idx" in camera.metadata:
                rgb = self._apply_bilateral_grid(rgb[None], camera.metadata["cam_idx"], *self.last_size)[0]
        depth = None
        if with_depth:
            depth = blend.expected("color")[..., 3:4]
            depth = torch.where(alpha > 0, depth, depth.detach().max())
        outputs = Outputs(rgb=rgb, depth=depth, accumulation=alpha, background=background)
        outputs.identity_map = identity_map
        boundary = blend.get("boundary")
        if refining and depth is not None and identity_map is not None:
            seen = None if boundary is None else boundary.detach()[..., 0]
            outputs.boundary_view = RefinedView(
                view, seen, rgb, alpha[..., 0], depth[..., 0], identity_map, background
            )
            if signs is not None:
                outputs.foreign = Foreign(blend["foreign"][..., 0], signs)
        if not self.training:
            heights = torch.zeros_like(alpha) if boundary is None else blend.expected("boundary")
            outputs["boundary"] = heat(heights[..., 0]) * alpha
            outputs["background"] = background.expand(*self.last_size, 3)
            add_segmentation(outputs, blend, self.objects, self.classifier, shown, self._identity_colors)
        return outputs

    @property
    def _refining(self) -> bool:
        """Whether this is a training step with the boundary refiner."""
        return (
            self.training
            and self.boundary_phase is not None
            and self.boundary_phase.found
            and self.step >= self.schedule.refine_boundary_from
        )

    def _identity_geometry(self, refining: bool) -> float | Tensor:
        """Share of L_2d's gradient that moves the geometry; while boundaries are refined one for each Gaussian, [N], by its ambiguity.
        Steps that need absolute gradients have one for all: those are of everything that is blended together."""
        share, least = self.config.identity_geometry, self.config.boundary.spare
        if not refining or share == 0 or least == 0 or self.strategy.needs_absgrad(self.step):
            return share
        return share * (self.strategy_state["impurity"] / least).clamp(max=1)

    def _ambiguity_feature(self, refining: bool, rows: Tensor | None) -> Tensor | None:
        """What shows the boundary (:func:`ambiguity_feature`): while the field is trained, membership of the boundary set; else the
        ambiguity. None if it is not known or not needed."""
        impurity = self.strategy_state.get("impurity")
        if impurity is None or len(impurity) != self.num_points:
            return None
        if self.training and not (
            refining and self.boundary_phase and self.boundary_phase.points is not None
        ):
            return None
        return ambiguity_feature(impurity, rows, above=self.config.boundary.tau if refining else None)

    # ------------------------------------------------------------------- losses

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """L = L_rgb + alpha L_2d + beta L_3d (equation 5), with splatfacto's L1 and D-SSIM as L_rgb."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        identity_map = getattr(outputs, "identity_map", None)
        if identity_map is None:
            return losses
        mask = None
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"]).to(self.device)[..., 0] > 0.5
        classes = self._target_classes(batch, mask)
        if classes is not None:
            losses["identity_loss"] = self.config.identity_loss_weight * identity_loss(
                identity_map, classes, self.classifier
            )
            if self._refining and self.boundary_phase is not None and outputs.boundary_view is not None:
                photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
                losses.update(
                    self.boundary_phase.losses(
                        self.step, outputs.boundary_view, photo, classes, mask, self.classifier, self._refined_gaussians,
                        outputs.foreign,
                    )
                )  # fmt: skip
        if self.training and self.config.neighbor_loss_weight > 0:
            losses["neighbor_loss"] = self.config.neighbor_loss_weight * self.neighbor_loss()
        return losses

    def _target_classes(self, batch: Any, mask: Tensor | None) -> Tensor | None:
        """The classes [H', W'] that a view's identities are compared with: those of its map, or, while boundaries are refined,
        those on which the views agree; negative where nothing is known, or where the mask [H', W'] is False. None without a map."""
        classes = None
        if self._refining and self.boundary_phase is not None:
            classes = self.boundary_phase.agreed.get(int(batch["image_idx"]))
        if classes is None:
            classes = batch.get(CLASS_MAP)
        if classes is None and ID_MAP in batch:  # a held-out view's, or of another data manager
            classes = self.objects.classes_of(batch[ID_MAP][..., 0].to(self.device))
        if classes is None:
            return None
        classes = downscaled(classes, self._get_downscale_factor()).to(self.device).to(torch.int64)
        return classes if mask is None else torch.where(mask, classes, IGNORE)

    def _refined_gaussians(self) -> RefinedGaussians:
        return RefinedGaussians(
            colors=rgb_of(self.gauss_params["features_dc"], logits=self.config.sh_degree == 0),
            identities=self.gauss_params["identity"],
            opacities=self.gauss_params["opacities"].sigmoid()[:, 0],
            gaussian_classes=self.strategy_state["vote_class"],
            geometry=self._gaussians,
        )

    @torch.no_grad()
    def refresh_boundary(
        self,
        views: Sequence[tuple[Cameras, Tensor]],
        photos: Callable[[int], Tensor],
        *,
        change: bool = True,
    ) -> Consensus:
        """Find the boundary Gaussians anew (:func:`gradiseg_ns.boundary.rounds.refresh`).

        Args:
            views: cameras of all training views, in order, with their maps of classes int [H, W].
            photos: the photo of a view by its index, as the data manager has it; masks are overruled only where the
                render looks like it.
            change: split boundary Gaussians and draw in what sticks out; False only looks.
        """
        assert self.boundary_phase is not None
        params = dict(self.gauss_params.items())
        background = self._get_background_color()

        def photo(index: int) -> Tensor:
            return self.composite_with_background(self.get_gt_img(photos(index)), background)

        def render_error(index: int, camera: rendering.Camera, projection: rendering.Projection) -> Tensor:
            colors = self._colors(params, camera, projection.radii[0] > 0)
            (rgb,), alpha = rendering.rasterize(projection, [colors])
            return ((rgb + (1 - alpha) * background).clamp(0, 1) - photo(index)).abs().mean(dim=-1)

        return rounds.refresh(
            self.boundary_phase, self._gaussians(), lambda: self._class_maps(views), len(views), len(self.objects.ids),
            self.gauss_params, self.optimizers, self.strategy_state, render_error=render_error, photos=photo, change=change,
        )  # fmt: skip

    def neighbor_loss(self) -> Tensor:
        """L_3d of this step: global KNN until the schedule's ``la_knn_from``, LA-KNN after it."""
        config = self.config
        gradients = None
        if config.la_knn != "off" and self.step >= self.schedule.la_knn_from:
            gradients = self._position_gradient()
        return neighbor_loss_of_step(
            self.neighbors, self.means, self.gauss_params["identity"], self.classifier, config.neighbor_count,
            gradients, config.la_knn_outlier, config.la_knn,  # type: ignore[arg-type]
        )  # fmt: skip

    def _position_gradient(self) -> Tensor | None:
        """The gradient of every Gaussian's position [N, 3], averaged over the last views; None if unknown yet.

        A single view's gradient is zero for what that view does not see. The whole loss's average is Adam's
        first moment, which is there anyway; L_2d's is kept by the strategy.
        """
        if self.config.la_knn_direction == "identity":
            return self.strategy_state.get("identity_direction")
        optimizer = getattr(self, "optimizers", {}).get("means")
        moment = optimizer.state[self.means].get("exp_avg") if optimizer is not None else None
        return moment if moment is not None and len(moment) == self.num_points else None

    def step_cb(self, optimizers: Any, step: int) -> None:
        super().step_cb(optimizers, step)
        phase = self.boundary_phase
        if phase is None or step < self.schedule.refine_boundary_from:
            return
        phase.set_rates(optimizers, self.gauss_params, step)

    def step_post_backward(self, step: int) -> None:
        probe = self.__dict__.pop("_probe", None)
        if probe is not None:
            signal = self.config.igd_signal if self.strategy.in_igd(self.step) else None
            self.info.update(probe.gradients(signal))
        super().step_post_backward(step)
        if self._refining and step < self.schedule.igd_until and self.boundary_phase is not None:
            self.boundary_phase.update(self.means, self.strategy_state["impurity"])

    # ------------------------------------------------------------------ pruning

    @torch.no_grad()
    def clear(self, space: FreeSpace, agreed_on: Callable[[Tensor, Tensor], Tensor] | None = None) -> int:
        """After a training step: remove the Gaussians in space that must be empty, by their centres.

        Args:
            space: what must be empty.
            agreed_on: whether several views agree that there is something at positions [M, 3], of radii [M]: it stays.

        Returns:
            how many were removed.
        """
        inside = must_go(space, self.means, self.scales.exp(), agreed_on)
        count = int(inside.sum())
        if count and count < self.num_points:
            self._remove(inside)
        return count

    def _remove(self, mask: Tensor) -> None:
        """Take the Gaussians of a mask, bool [N], out of the training."""
        remove(params=self.gauss_params, optimizers=self.optimizers, state=self.strategy_state, mask=mask)
        if self._refining and self.boundary_phase is not None:
            self.boundary_phase.update(self.means, self.strategy_state["impurity"])

    def prune_rarely_seen(self, cameras: Cameras, step: int) -> None:
        """After a training step: remove what fewer than ``prune_min_views`` of the training views see; at the end of a run
        with the boundary refiner also what all of them together hardly see, hidden in objects or under them."""
        every, last = self.schedule.prune_unseen_every, step + 1 == self.schedule.length
        if not every or ((step + 1) % every and not last):
            return
        needed = min(self.config.prune_min_views, len(cameras) - 1)
        if needed < 1 or self.views_are_missing:
            return
        count, total = self.views_seen(cameras)
        rare = count < needed
        if last and self.boundary_phase is not None:
            rare |= total < self.config.boundary.hidden
        if bool(rare.any()) and not bool(rare.all()):
            self._remove(rare)

    @torch.no_grad()
    def label_gaussians(self, cameras: Cameras, fits: Callable[[Tensor], Tensor] | None = None) -> None:
        """As every model; after a refined training, a Gaussian out of the hull of an object is not labelled as a part of it."""
        hulls = self.boundary_phase.hulls if self.boundary_phase is not None else None
        if fits is None and hulls is not None:
            fits = partial(hulls.hold, self.means)
        super().label_gaussians(cameras, fits)

    # ------------------------------------------------------------------ metrics

    @torch.no_grad()
    def psnr_of(self, outputs: Any, batch: Any) -> tuple[float, float | None]:
        """PSNR in dB of a picture, and over the pixels of objects that are not ignored (:func:`psnr_inside`)."""
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        ids = batch[ID_MAP][..., 0].to(self.device) if ID_MAP in batch else None
        return (
            float(psnr(outputs["rgb"], photo)),
            psnr_inside(outputs["rgb"], photo, ids, self.config.metrics_ignore_ids),
        )

    def get_image_metrics_and_images(
        self, outputs: Any, batch: Any
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        inside = self.psnr_of(outputs, batch)[1]
        if inside is not None:
            metrics["psnr_inside"] = inside
        if metrics["lpips"] != metrics["lpips"]:  # NaN: its weights could not be had
            del metrics["lpips"]
        if self._identity_on and ID_MAP in batch:
            truth = self.objects.colorize(batch[ID_MAP][..., 0].to(self.device))
            images["segmentation"] = torch.cat([truth, outputs["segmentation"]], dim=1)
        return metrics, images
