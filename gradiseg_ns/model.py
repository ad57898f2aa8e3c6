"""GradisegModel: nerfstudio's splatfacto whose Gaussians know their object.

Thin on purpose: which maps are rendered, which losses apply when, what a checkpoint holds. The work is done by
``rendering`` (the two verbs), ``grouping`` (identity, IGD, LA-KNN) and ``scene`` (ids, names, colours).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gsplat.strategy.ops import remove
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import RGB2SH, SH2RGB, SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor
from torch.nn import Parameter

from gradiseg_ns import rendering
from gradiseg_ns.boundary.agreement import Consensus, find_consensus
from gradiseg_ns.boundary.cleaning import draw_in, find_overshoot
from gradiseg_ns.boundary.detection import MIN_WEIGHT
from gradiseg_ns.boundary.phase import BoundaryConfig, BoundaryPhase, heat
from gradiseg_ns.boundary.refinement import edge_classes
from gradiseg_ns.data.free_space import NEAR_SHARE, FreeSpace
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.densification import GradisegStrategy, SplitRule, split_in_two
from gradiseg_ns.grouping.identity import (
    IDENTITY_DIM,
    IdentityClassifier,
    classify,
    identity_loss,
    initial_identity,
)
from gradiseg_ns.grouping.neighbors import (
    NeighborSampler,
    directional_neighbors,
    literal_directional_neighbors,
    neighbor_loss,
    outstanding,
)
from gradiseg_ns.grouping.schedule import (
    Schedule,
    ScheduleConfig,
    of_trained_splat,
    resolve_schedule,
)
from gradiseg_ns.losses.psnr import PSNR, psnr
from gradiseg_ns.losses.ssim import FastSSIM
from gradiseg_ns.lpips import LazyLpips, without_lpips_download
from gradiseg_ns.scene.editing import Editing, Shown, glow, outline
from gradiseg_ns.scene.edits import Arrangement
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import VoteAccumulator, Votes
from gradiseg_ns.votes.identities import encode, fit_scale, spread_codes
from gradiseg_ns.votes.labels import majority
from gradiseg_ns.votes.rendered import rendered_labels, spread_views

MIN_ACCUMULATION = 0.1
"""Below this accumulation a pixel shows no object at all: it is drawn as background and has the id IGNORE."""


class CheckpointError(GradisegError):
    """A checkpoint that does not fit. Not a RuntimeError: nerfstudio would load what fits and carry on."""


@dataclass
class GradisegModelConfig(SplatfactoModelConfig):
    """Splatfacto's options, and those of identities, IGD and LA-KNN."""

    _target: type = field(default_factory=lambda: GradisegModel)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """When what happens, as fractions of the run. Splatfacto's own step numbers follow from it, unless set."""
    run_length: int = 30_000
    """Steps of the whole run; taken from --max-num-iterations when training starts."""
    start_from: Path | None = None
    """Start from the Gaussians of a trained splat instead of points: a run of splatfacto or gradiseg on the same data
    with the same dataparser options (its folder or config.yml), or a 3DGS PLY in nerfstudio's frame. Nothing is
    densified by position gradients then, and a few hundred steps (--max-num-iterations 300) do."""
    associate: Literal["off", "auto", "keep", "new"] = "off"
    """Make the ids of the training maps agree on the way, when the schedule takes votes: `keep` repairs ids that mostly
    agree, `new` numbers the objects of unrelated masks, `auto` looks which it is. Identities are learned from then on.
    The new maps are written beside the run, as `associated_mask`."""
    identity: bool = True
    """Learn identities at all; False is plain splatfacto on our rasteriser."""
    identity_dim: int = IDENTITY_DIM
    """Channels of an identity encoding, 16 in the paper."""
    identity_loss_weight: float = 1.0
    """alpha of the paper: weight of L_2d, the cross-entropy against the id maps (divided by log(classes))."""
    identity_pixels: int = 0
    """L_2d is taken over that many random pixels a step; 0 takes all."""
    identity_geometry: float = 0.3
    """How much of L_2d's gradient may move means, scales, rotations and opacities: 1 is all, as in Gaussian
    Grouping, 0 nothing. It sharpens boundaries, and wrong ids bend the scene (docs/gradiseg.md)."""
    neighbor_loss_weight: float = 2.0
    """beta of the paper: weight of L_3d; 0 switches it off."""
    neighbor_samples: int = 1000
    """M of the paper: Gaussians sampled for L_3d, a step."""
    neighbor_count: int = 5
    """K of the paper: neighbours of a sampled Gaussian."""
    neighbor_candidates: int = 16
    """Size of the Euclidean neighbourhood from which LA-KNN's rule `local` takes its K."""
    la_knn: Literal["local", "literal", "off"] = "local"
    """LA-KNN's rule: `local` looks among near Gaussians, `literal` is equation 4 over all of them (slow),
    `off` keeps the global KNN to the end."""
    la_knn_outlier: float = 3.0
    """A Gaussian has a neighbouring direction only if its gradient is above that many medians; the others keep
    their nearest neighbours. 0 gives every Gaussian a direction (paper)."""
    la_knn_direction: Literal["identity", "total"] = "identity"
    """Whose position gradient LA-KNN looks against: that of L_2d alone, or that of the whole loss (paper)."""
    igd: bool = True
    """Identity-gradient-guided densification."""
    igd_budget: float = 0.25
    """IGD may split that share of the Gaussians in its phase; tau, the paper's threshold, is the quantile that keeps
    to it. Fewer are added in the end, since some halves are culled."""
    igd_outlier: float = 3.0
    """Only identity gradients above that many medians are split, whatever the budget."""
    igd_split: SplitRule = "boundary_axis"
    """How IGD splits: `sample` as 3DGS does, `major_axis`, or `boundary_axis`, along which L_2d changes most."""
    igd_signal: Literal["gradient", "absolute", "conflict"] = "conflict"
    """What IGD accumulates: `gradient`, the norm of a Gaussian's identity gradient (paper), in which the two
    sides of a boundary cancel within a view; `absolute`, the weighted sum of its pixels' gradient norms, in
    which they do not; `conflict`, the second less the first: what cancels. A Gaussian whose pixels all pull
    the same way, as where a view has a wrong id for the whole object, is in no conflict. The latter two are
    taken per weight of the pixels."""
    empty_space: float = NEAR_SHARE
    """Nothing may be nearer to a training camera, or to a camera between two of them, than that share of the depth of the
    nearest sparse points that it sees; 0 switches it off. What gets there is removed: it floats before the cameras."""
    empty_space_virtual: bool = True
    """Also keep the space before cameras between neighbouring training cameras empty."""
    prune_min_views: int = 2
    """Gaussians that fewer training views than that see are removed, every `schedule.prune-unseen-every` of the
    run; 0 keeps them. Nothing holds them where they are: they float before the cameras and hide what other views
    should see."""
    boundary_refiner: bool = True
    """Refine boundaries jointly with a continuous field in the last part of the run (NG-GS); False is plain GradiSeg."""
    boundary: BoundaryConfig = field(default_factory=BoundaryConfig)
    """The boundary refiner's options."""
    metrics_ignore_ids: tuple[int, ...] = ()
    """Object ids that mIoU and mBIoU leave out, such as background and table. Ids that only stand where photos show nothing
    (transparent; for id 0 also plain black or white) are left out anyway."""


def apply_schedule(config: GradisegModelConfig) -> Schedule:
    """Derive the run's step numbers and write them into splatfacto's own fields, except those the user set."""
    phases = config.schedule if config.start_from is None else of_trained_splat(config.schedule)
    if config.associate != "off" and phases.votes_at is None:
        phases = dataclasses.replace(phases, votes_at=phases.densify_until)
    schedule = resolve_schedule(
        phases, config.run_length, num_downscales=config.num_downscales, sh_degree=config.sh_degree
    )
    if config.associate != "off":
        if schedule.votes_at >= schedule.length:
            raise ValueError(
                "--pipeline.model.associate happens when votes are taken, but schedule.votes-at is 1, never: "
                "expected less, such as 0.4"
            )
        schedule = dataclasses.replace(schedule, identity_from=max(schedule.identity_from, schedule.votes_at))
    derived = {
        "warmup_length": schedule.densify_from,
        "refine_every": schedule.refine_every,
        "resolution_schedule": schedule.resolution_interval,
        "reset_alpha_every": max(1, schedule.opacity_reset_every // schedule.refine_every),
        "sh_degree_interval": schedule.color_degree_interval,
        "stop_screen_size_at": schedule.screen_size_until,
        "stop_split_at": schedule.densify_until,
    }
    stock = {f.name: f.default for f in dataclasses.fields(SplatfactoModelConfig)}
    for name, value in derived.items():
        if getattr(config, name) == stock[name]:
            setattr(config, name, value)
    return schedule


def _activated(params: Mapping[str, Tensor]) -> rendering.Gaussians:
    """The geometry of parameters."""
    return rendering.Gaussians(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid().squeeze(-1)
    )


def _viewmat(pose: Tensor) -> Tensor:
    """World to camera [4, 4] with OpenCV's axes, from camera to world [3, 4] with OpenGL's; in the pose's graph."""
    rotation = torch.stack([pose[:, 0], -pose[:, 1], -pose[:, 2]])
    moved = -(rotation @ pose[:, 3])
    upper = torch.cat([rotation, moved[:, None]], dim=1)
    return torch.cat([upper, F.pad(torch.ones_like(pose[:1, :1]), (3, 0))])


class Outputs(dict[str, Any]):
    """The maps that nerfstudio lists by key, and those that must not appear in the viewer's list.

    Attributes:
        identity_map: [H, W, D] rendered identity encodings.
        object_ids: int32 [H, W], the id of every pixel, IGNORE where nothing is; None while training.
        boundary_view: while boundaries are refined, the camera and [H, W], the boundary Gaussians' blending weight.
    """

    identity_map: Tensor | None = None
    object_ids: Tensor | None = None
    boundary_view: tuple[rendering.Camera, Tensor] | None = None


@dataclass(frozen=True)
class Look:
    """What a camera sees of the Gaussians drawn."""

    projection: rendering.Projection
    object_ids: Tensor
    """int32 [H, W], IGNORE where nothing is."""
    depth: Tensor
    """[H, W], world units, expected; 0 where nothing is."""
    alpha: Tensor
    """[H, W]."""
    identity: Tensor | None
    """[H, W, D], None without identities."""
    rgb: Tensor | None
    """[H, W, 3] in 0..1, if asked for."""


class GradisegModel(SplatfactoModel):
    """Splatfacto with a 16-d identity encoding per Gaussian (GradiSeg, arXiv 2412.00392)."""

    config: GradisegModelConfig
    strategy: GradisegStrategy
    schedule: Schedule
    objects: ObjectTable
    classifier: IdentityClassifier
    boundary_phase: BoundaryPhase | None
    editing: Editing
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
        seed_points = self._all_seed_points()
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
            color = seed_points[1].float() / 255
            dc = RGB2SH(color) if config.sh_degree > 0 else torch.logit(color, eps=1e-10)
            self.gauss_params["features_dc"] = Parameter(dc)

        metadata = self.kwargs.get("metadata") or {}
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
        basis = torch.linalg.qr(
            torch.randn(config.identity_dim, 3, generator=torch.Generator().manual_seed(3))
        )[0]
        self.register_buffer("_identity_basis", basis, persistent=False)
        inherited = {f.name: getattr(self.strategy, f.name) for f in dataclasses.fields(type(self.strategy))}
        inherited.update(verbose=False)
        self.strategy = GradisegStrategy(
            **inherited,
            igd=config.igd and config.identity,
            igd_start_iter=self.schedule.igd_from,
            igd_stop_iter=self.schedule.igd_until,
            igd_budget=config.igd_budget,
            igd_outlier=config.igd_outlier,
            igd_by_extent=config.igd_signal != "gradient",
            igd_split=config.igd_split,
            prune_large_start_iter=self.schedule.prune_large_from,
            direction_start_iter=(
                self.schedule.la_knn_from
                if config.la_knn != "off" and config.la_knn_direction == "identity"
                else 1 << 40
            ),
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)
        self.boundary_phase = None
        if config.boundary_refiner and self._identity_on:
            self.boundary_phase = BoundaryPhase(config.boundary, config.identity_dim)

    def _all_seed_points(self) -> tuple[Tensor, Tensor] | None:
        """Sparse points and those behind the scene, with colours of 0 to 255."""
        found = self.seed_points
        background = (self.kwargs.get("metadata") or {}).get("background_points")
        if found is None or background is None or len(found[1]) != len(found[0]):
            return found
        return tuple(  # type: ignore[return-value]
            torch.cat([a.float(), b.to(a.device).float()]) for a, b in zip(found, background, strict=True)
        )

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_gaussian_param_groups()
        if self.config.identity:
            groups["identity"] = [self.gauss_params["identity"]]
        return groups

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_param_groups()
        if self.config.identity and len(self.objects.ids) > 0:
            groups["classifier"] = list(self.classifier.parameters())
        if self.boundary_phase is not None:
            groups["boundary_field"] = self.boundary_phase.parameters(self.device)
        return groups

    # --------------------------------------------------------------- head start

    def adopt(self, splat: Splat) -> None:
        """Take over the Gaussians of a trained splat, before there are optimizers. Identities start anew."""
        params = splat.to(self.device).to_parameters()
        wanted = (self.config.sh_degree + 1) ** 2 - 1
        rest = params["features_rest"][:, :wanted]
        params["features_rest"] = F.pad(rest, (0, 0, 0, wanted - rest.shape[1]))
        if self.config.sh_degree == 0:
            params["features_dc"] = torch.logit((SH2RGB(params["features_dc"])).clamp(1e-4, 1 - 1e-4))
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
            views: cameras with id maps int [H, W, 1] at their resolution.
        """
        gaussians = self._gaussians()
        antialiased = self.config.rasterize_mode == "antialiased"
        accumulator = VoteAccumulator(self.num_points, len(self.objects.ids), self.device)
        codes = spread_codes(len(self.objects.ids), self.config.identity_dim).to(self.device)
        few: list[tuple[rendering.Camera, Tensor]] = []
        for index, (camera, id_map) in enumerate(views):
            view = self._camera(camera)
            classes = self.objects.classes_of(id_map[..., 0].to(self.device))
            accumulator.add(rendering.project(gaussians, view, antialiased=antialiased), classes)
            if index % 8 == 0:
                few.append((view, classes))
        votes = accumulator.result()
        identity = encode(majority(votes).classes, codes)
        maps = (
            (rendering.render(gaussians, view, identity, antialiased=antialiased)[0], classes)
            for view, classes in few
        )
        scale = fit_scale(codes, maps)
        # The product of both is what counts; equal shares keep the gradients of both in proportion.
        share = scale**0.5
        for parameter, value in (
            (self.gauss_params["identity"], identity * share),
            (self.classifier.weight, codes * share),
            (self.classifier.bias, torch.zeros_like(self.classifier.bias)),
        ):
            parameter.copy_(value)
            for optimizer in getattr(self, "optimizers", {}).values():
                optimizer.state.pop(parameter, None)
        return votes

    # -------------------------------------------------------------- checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside parameters, in types that a weights-only load accepts."""
        return {"objects": self.objects.to_dict(), "strategy": dict(self.strategy_state)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.objects = ObjectTable.from_dict(state["objects"])
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
        state = {**dict}
        expected = set(self.state_dict())
        missing, unknown = sorted(expected - set(state)), sorted(set(state) - expected)
        if missing or unknown:
            raise CheckpointError(
                "the checkpoint is not one of this gradiseg model: "
                + (f"missing {missing}" if missing else "")
                + (" and " if missing and unknown else "")
                + (f"unknown {unknown}" if unknown else "")
                + ". Was it trained by another method, or with other model options?"
            )
        stored = ObjectTable.from_dict(state["_extra_state"]["objects"])
        new = sorted(set(self.objects.ids) - set(stored.ids))
        if new and self.training:
            raise CheckpointError(
                f"the id maps contain {len(new)} object ids that the checkpoint's classifier does not know "
                f"(first ones: {new[:8]}; it knows {len(stored.ids)}). Resume with the id maps of the first run, "
                "or train anew."
            )
        count = state["gauss_params.means"].shape[0]
        for parameter in self.gauss_params.values():
            parameter.data = parameter.data.new_zeros((count, *parameter.shape[1:]))
        self.classifier.resize(len(stored.ids))
        return super(SplatfactoModel, self).load_state_dict(state, **kwargs)

    # ---------------------------------------------------------------- rendering

    @property
    def _identity_on(self) -> bool:
        return self.config.identity and len(self.objects.ids) > 0

    def _camera(self, camera: Cameras) -> rendering.Camera:
        """nerfstudio's camera (OpenGL axes, camera to world) as the rasteriser's, at the training resolution.

        A camera of the host's goes to the device in one copy, for which nothing waits.
        """
        factor = self._get_downscale_factor()
        learned = self.training and self.camera_optimizer.config.mode != "off"
        pose = (
            self.camera_optimizer.apply_to_camera(camera.to(self.device))
            if learned
            else camera.camera_to_worlds
        )
        pose = pose.reshape(pose.shape[-2:]) if learned else pose.reshape(pose.shape[-2:]).cpu()
        width, height = int(camera.width) // factor, int(camera.height) // factor
        self.last_size = (height, width)
        zero, one = torch.zeros(1), torch.ones(1)
        fx, fy, cx, cy = (v.reshape(1).cpu() / factor for v in (camera.fx, camera.fy, camera.cx, camera.cy))
        K = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).reshape(3, 3)
        viewmat = _viewmat(pose)
        if learned or self.device.type != "cuda":
            return rendering.Camera(viewmat.to(self.device), K.to(self.device), width, height)
        both = torch.cat([viewmat.reshape(16), K.reshape(9)]).pin_memory().to(self.device, non_blocking=True)
        return rendering.Camera(both[:16].reshape(4, 4), both[16:].reshape(3, 3), width, height)

    def _gaussians(self) -> rendering.Gaussians:
        """All Gaussians of the scene, as they are learned."""
        return _activated(dict(self.gauss_params.items()))

    def _colors(self, params: dict[str, Tensor], camera: rendering.Camera, visible: Tensor) -> Tensor:
        """View-dependent colours [N, 3] of the visible Gaussians."""
        if self.config.sh_degree == 0:
            return params["features_dc"].sigmoid()
        degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        coefficients = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
        centre = -camera.viewmat[:3, :3].T @ camera.viewmat[:3, 3]
        directions = params["means"] - centre  # the kernel normalises
        colors = rendering.spherical_harmonics(degree, directions, coefficients, mask=visible)
        return torch.clamp_min(colors + 0.5, 0.0)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: Any = None) -> dict[str, Any]:
        """Splatfacto's, without moving the camera to the device: it is read on the host."""
        self.set_crop(obb_box)
        return self.get_outputs(camera)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # type: ignore[override]
        """Render a camera.

        Returns:
            float maps: rgb [H, W, 3], depth [H, W, 1], accumulation [H, W, 1], background, and when evaluating
            segmentation [H, W, 3] (the colour of each pixel's object) and identity [H, W, 3] (three fixed
            directions of the encoding). See :class:`Outputs` for the maps that have no key.
        """
        if not isinstance(camera, Cameras):
            CONSOLE.print("[yellow]gradiseg was asked to render something that is not a camera.")
            return {}
        params, shown, rows = self._drawn()
        if not len(params["means"]):
            return self.get_empty_outputs(
                int(camera.width.item()), int(camera.height.item()), self.background_color
            )
        view = self._camera(camera)
        projection = rendering.project(
            _activated(params), view, antialiased=self.config.rasterize_mode == "antialiased"
        )
        visible = projection.radii[0] > 0
        color_groups = [self._colors(params, view, visible)]
        refining = self._refining
        with_depth = self.config.output_depth_during_training or not self.training or refining
        if with_depth:
            color_groups.append(projection.depths[0][:, None])
        identity_on = self._identity_on and not (self.training and self.step < self.schedule.identity_from)
        groups, moves = [torch.cat(color_groups, dim=-1)], [1.0]
        probe = self.training and identity_on and self.strategy.needs_position_gradient(self.step)
        if identity_on and not probe:
            groups.append(params["identity"])
            moves.append(self._identity_geometry)
        edited = None if shown is None else shown.features
        if edited is not None:
            groups.append(edited)
            moves.append(0.0)
        ambiguous = self._ambiguity_feature(refining, rows)
        if ambiguous is not None:
            groups.append(ambiguous)
            moves.append(0.0)
        maps, alpha = rendering.rasterize(
            projection,
            groups,
            geometry_grad=moves,
            absgrad=self.training and self.strategy.needs_absgrad(self.step),
        )
        identity_map = maps[1] if identity_on and not probe else None
        self.info = projection.info()
        if probe:
            identity_map = self._render_identity_probe(projection, params["identity"])
        if self.training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        rgb = torch.clamp(maps[0][..., :3] + (1 - alpha) * background, 0.0, 1.0)
        if self.config.use_bilateral_grid and self.training:
            if camera.metadata is not None and "cam_idx" in camera.metadata:
                rgb = self._apply_bilateral_grid(rgb[None], camera.metadata["cam_idx"], *self.last_size)[0]
        depth = None
        if with_depth:
            depth = maps[0][..., 3:4] / alpha.clamp(min=1e-10)
            depth = torch.where(alpha > 0, depth, depth.detach().max())
        outputs = Outputs(rgb=rgb, depth=depth, accumulation=alpha, background=background)
        outputs.identity_map = identity_map
        if refining and ambiguous is not None:
            outputs.boundary_view = (view, maps[-1].detach()[..., 0])
        if not self.training:
            heights = torch.zeros_like(alpha) if ambiguous is None else maps[-1] / alpha.clamp(min=1e-10)
            outputs["boundary"] = heat(heights[..., 0]) * alpha
            outputs["background"] = background.expand(*self.last_size, 3)
            edited_map = maps[2 if identity_on else 1] if edited is not None else None
            self._add_segmentation(outputs, identity_map, alpha, background, shown, edited_map)
        return outputs

    # ------------------------------------------------------------------ editing

    @property
    def _geometry_key(self) -> Hashable:
        """Differs when Gaussians or their identities have changed."""
        tensors = (self.means, self.gauss_params.get("identity"), self.classifier.weight)
        return (self.step, self.is_labelled, *((id(t), t._version, len(t)) for t in tensors if t is not None))

    def _labels(self) -> Tensor:
        """The object id of every Gaussian before all edits: int64 [N], IGNORE where there are no objects."""
        if not self._identity_on:
            return torch.full((self.num_points,), IGNORE, dtype=torch.int64, device=self.device)
        return self.objects.ids_of(self.gaussian_classes())

    @property
    def is_labelled(self) -> bool:
        """Whether the Gaussians have labels that were voted for as they are now."""
        label, step = self.strategy_state.get("label"), self.strategy_state.get("label_step")
        return isinstance(label, Tensor) and bool(len(label) == self.num_points and step == self.step)

    def set_labels(self, classes: Tensor) -> None:
        """Give every Gaussian a class, int64 [N], negative for none; it holds until training goes on."""
        self.strategy_state["label"] = classes.to(self.device)
        self.strategy_state["label_step"] = int(self.step)

    @torch.no_grad()
    def label_gaussians(self, cameras: Cameras) -> None:
        """Label every Gaussian by what it shows in some of these views (:mod:`gradiseg_ns.votes.rendered`)."""
        if not self._identity_on:
            return
        training = self.training
        self.eval()  # at full resolution
        views = (self._camera(cameras[i : i + 1]) for i in spread_views(len(cameras)))
        self.set_labels(
            rendered_labels(
                self._gaussians(),
                self.gauss_params["identity"],
                lambda encodings: classify(encodings, self.classifier),
                len(self.objects.ids),
                views,
                antialiased=self.config.rasterize_mode == "antialiased",
            )
        )
        self.train(training)

    def arrangement(self) -> Arrangement:
        """The scene's Gaussians with all edits, hidden objects included."""
        return self.editing.arrangement(self._geometry_key, self._labels, self.means, self.objects)

    def _drawn(self) -> tuple[dict[str, Tensor], Shown | None, Tensor | None]:
        """What to draw: the parameters of M Gaussians; how they are edited or selected, None if nothing is; and their rows
        among the scene's, int64 [M], None for all.

        Edits are for looking: training, and the evaluation in between, do not see them.
        """
        params: dict[str, Tensor] = dict(self.gauss_params.items())
        shown = rows = None
        if not self.training and self.editing.drawn:
            try:
                key = self._geometry_key
                shown = self.editing.shown(key, self._labels, self.means, self.objects)
                key = (key, *((id(p), p._version) for p in params.values()))
                params = self.editing.params(shown, key, params, logits=self.config.sh_degree == 0)
                rows = shown.arrangement.source
            except IOChangeException:  # the viewer breaks off a picture that nobody waits for any more
                raise
            except Exception as error:  # an exception would end the viewer's renderer for good
                if self.editing.always:
                    raise
                self.editing.errors.append(f"edits are not drawn: {type(error).__name__}: {error}")
                params, shown, rows = dict(self.gauss_params.items()), None, None
        if self.crop_box is not None and not self.training:
            inside = self.crop_box.within(params["means"]).squeeze(-1)
            params = {name: p[inside] for name, p in params.items()}
            rows = inside.nonzero()[:, 0] if rows is None else rows[inside]
            shown = None if shown is None else shown.rows_of(inside)
        return params, shown, rows

    def drawn_gaussians(self) -> rendering.Gaussians:
        """What this thread draws, edits included if it draws them: the rows that `look` projects."""
        return _activated(self._drawn()[0])

    def rendering_camera(self, camera: Cameras) -> rendering.Camera:
        """nerfstudio's camera as the rasteriser's."""
        return self._camera(camera)

    @torch.no_grad()
    def edited_splat(self, arrangement: Arrangement) -> Splat:
        """The Gaussians of an arrangement as a splat of its own, with object ids."""
        params = arrangement.apply(dict(self.gauss_params.items()), logits=self.config.sh_degree == 0)
        if self.config.sh_degree == 0:
            params["features_dc"] = RGB2SH(params["features_dc"].sigmoid())
        splat = Splat.from_parameters(params, antialiased=self.config.rasterize_mode == "antialiased")
        labels = arrangement.object_ids.to(torch.int32)
        return dataclasses.replace(splat, labels=labels, frame="nerfstudio", up="z")

    @torch.no_grad()
    def look(
        self, view: rendering.Camera, *, colors: bool = False, pixel: tuple[int, int] | None = None
    ) -> Look:
        """What a camera sees, edits included if this thread draws them (`Editing.drawing`); without any glow.

        Args:
            colors: also render the picture.
            pixel: only that one, (x, y): all maps are 1x1 then.
        """
        params, shown, _ = self._drawn()
        antialiased = self.config.rasterize_mode == "antialiased"
        projection = rendering.project(_activated(params), view, antialiased=antialiased)
        if pixel is not None:
            projection = rendering.crop(projection, *pixel)
        groups = [projection.depths[0][:, None]]
        if colors:
            groups[0] = torch.cat([groups[0], self._colors(params, view, projection.radii[0] > 0)], dim=1)
        if self._identity_on:
            groups.append(params["identity"])
        edited = None if shown is None else shown.features
        if edited is not None:
            groups.append(edited)
        maps, alpha = rendering.rasterize(projection, groups)
        identity_map = maps[1] if self._identity_on else None
        edited_map = maps[-1] if edited is not None else None
        rgb = None
        if colors:
            rgb = (maps[0][..., 1:] + (1 - alpha) * self._get_background_color()).clamp(0.0, 1.0)
        return Look(
            projection,
            self._object_ids(identity_map, alpha, shown, edited_map),
            (maps[0][..., :1] / alpha.clamp(min=1e-10))[..., 0],
            alpha[..., 0],
            identity_map,
            rgb,
        )

    def pick(self, camera: Cameras, x: float, y: float) -> int:
        """The object at a pixel of a camera, by rendering identities along its ray; IGNORE where nothing is.

        Args:
            x, y: in pixels from the upper left corner.
        """
        return int(self.look(self._camera(camera), pixel=(int(x), int(y))).object_ids)

    @property
    def _refining(self) -> bool:
        """Whether this is a training step with the boundary refiner."""
        return (
            self.training
            and self.boundary_phase is not None
            and self.boundary_phase.points is not None
            and self.step >= self.schedule.refine_boundary_from
        )

    @property
    def _identity_geometry(self) -> float:
        """How much of L_2d's gradient moves the geometry in this step."""
        if self._refining and self.config.boundary.geometry is not None:
            return self.config.boundary.geometry
        return self.config.identity_geometry

    def _ambiguity_feature(self, refining: bool, rows: Tensor | None) -> Tensor | None:
        """What shows the boundary, [M, 1] of the Gaussians drawn: while refining, membership of the boundary set; else the
        ambiguity. None if it is not known or not needed."""
        impurity = self.strategy_state.get("impurity")
        if impurity is None or len(impurity) != self.num_points or (self.training and not refining):
            return None
        if refining:
            impurity = (impurity > self.config.boundary.tau).float()
        if rows is not None:  # those of swapped-in splats lie beyond
            impurity = torch.where(rows < len(impurity), impurity[rows.clamp(max=len(impurity) - 1)], 0.0)
        return impurity[:, None]

    def _render_identity_probe(self, projection: rendering.Projection, identity: Tensor) -> Tensor:
        """Identities in a blend of their own, from which IGD learns where the segmentation loss pushes.

        Its screen positions are a tensor of their own, so that the gradient they get is L_2d's alone; a leaf,
        cut off from the scene, if identities may not move the geometry.
        """
        share = self._identity_geometry
        if share > 0:
            means2d = projection.means2d.clone()
            means2d.retain_grad()
            separate = dataclasses.replace(projection, means2d=means2d)
        else:
            means2d = projection.means2d.detach().requires_grad_()
            separate = dataclasses.replace(
                projection,
                means2d=means2d,
                conics=projection.conics.detach(),
                opacities=projection.opacities.detach(),
                depths=projection.depths.detach(),
            )
        # A tensor between parameter and blend collects L_2d's gradient without L_3d's.
        encoding = identity.view_as(identity)
        encoding.retain_grad()
        maps, _ = rendering.rasterize(separate, [encoding], geometry_grad=[share or 1.0])
        maps[0].retain_grad()
        self._probe = (separate, encoding, maps[0])
        return maps[0]

    def _object_ids(
        self, identity_map: Tensor | None, alpha: Tensor, shown: Shown | None, edited_map: Tensor | None
    ) -> Tensor:
        """The object id of every pixel, int32 [H, W], IGNORE where nothing is."""
        if identity_map is None:
            ids = torch.full(alpha.shape[:2], IGNORE, dtype=torch.int64, device=alpha.device)
        elif shown is None:
            ids = self.objects.ids_of(classify(identity_map, self.classifier))
        else:  # where something was taken away, what is left is less than the classifier knows
            share = (alpha[..., 0] - shown.relabelled_weight(edited_map)).clamp(min=0.01)
            left = torch.isin(torch.tensor(self.objects.ids), shown.learned_ids.cpu()).to(alpha.device)
            among = left if bool(left.any()) else None
            ids = self.objects.ids_of(classify(identity_map / share[..., None], self.classifier, among=among))
            ids = shown.object_ids(ids, alpha[..., 0], edited_map)
        solid = alpha[..., 0] >= MIN_ACCUMULATION
        return torch.where(solid, ids, ids.new_full((), IGNORE)).to(torch.int32)

    def _add_segmentation(
        self,
        outputs: Outputs,
        identity_map: Tensor | None,
        alpha: Tensor,
        background: Tensor,
        shown: Shown | None,
        edited_map: Tensor | None,
    ) -> None:
        """The outputs ``segmentation`` and ``identity``, the ids that evaluation compares, and the glow of a selection."""
        ids = outputs.object_ids = self._object_ids(identity_map, alpha, shown, edited_map)
        objects = self.objects if shown is None else shown.arrangement.objects
        outputs["segmentation"] = torch.where((ids != IGNORE)[..., None], objects.colorize(ids), background)
        if identity_map is None:
            outputs["identity"] = torch.full_like(outputs["rgb"], 0.5)
        else:
            outputs["identity"] = torch.sigmoid(2 * identity_map @ self._identity_basis)
        if shown is not None:
            pixels = shown.selected_pixels(ids, alpha[..., 0], edited_map)
            if pixels is not None and bool(pixels.any()):
                rings = outline(pixels)
                outputs["rgb"] = glow(outputs["rgb"], pixels, rings)
                outputs["segmentation"] = glow(outputs["segmentation"], pixels, rings)

    @staticmethod
    def get_empty_outputs(width: int, height: int, background: Tensor) -> dict[str, Any]:  # type: ignore[override]
        """The same keys as :meth:`get_outputs` for a camera that sees nothing."""
        outputs = Outputs(SplatfactoModel.get_empty_outputs(width, height, background))
        outputs["background"] = outputs["rgb"]
        outputs["segmentation"] = outputs["rgb"].clone()
        outputs["boundary"] = torch.zeros_like(outputs["rgb"])
        outputs["identity"] = torch.full_like(outputs["rgb"], 0.5)
        outputs.object_ids = torch.full((height, width), IGNORE, dtype=torch.int32, device=background.device)
        return outputs

    # ------------------------------------------------------------------- losses

    def id_map_classes(self, id_map: Tensor) -> Tensor:
        """Class indices [H', W'] of an id map [H, W, 1] at the resolution that is trained at now.

        Pixel centres are sampled, never averaged: there is no id between two ids.
        """
        factor = self._get_downscale_factor()
        ids = id_map[..., 0].to(self.device)
        if factor > 1:
            height, width = ids.shape[0] // factor, ids.shape[1] // factor
            ids = ids[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
        return self.objects.classes_of(ids)

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """L = L_rgb + alpha L_2d + beta L_3d (equation 5), with splatfacto's L1 and D-SSIM as L_rgb."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        identity_map = getattr(outputs, "identity_map", None)
        if identity_map is None:
            return losses
        classes = self._target_classes(batch)
        if classes is not None:
            losses["identity_loss"] = self.config.identity_loss_weight * identity_loss(
                identity_map, classes, self.classifier, max_pixels=self.config.identity_pixels
            )
            if self._refining:
                photo = self._photo(outputs, batch)
                losses.update(self._focus_losses(outputs, photo, classes))
                losses.update(self._field_losses(outputs, photo, classes, batch))
        if self.training and self.config.neighbor_loss_weight > 0:
            losses["neighbor_loss"] = self.config.neighbor_loss_weight * self.neighbor_loss()
        return losses

    def _target_classes(self, batch: Any) -> Tensor | None:
        """The classes [H', W'] that a view's identities are compared with: its id map's, or, while boundaries are
        refined, those on which the views agree; negative where nothing is known. None without a map."""
        if "id_map" not in batch:
            return None
        id_map: Tensor = batch["id_map"]
        if self._refining and self.boundary_phase is not None:
            id_map = self.boundary_phase.agreed.get(int(batch["image_idx"]), id_map)
        classes = self.id_map_classes(id_map)
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"]).to(self.device)[..., 0] > 0.5
            classes = torch.where(mask, classes, classes.new_full((), -1))
        return classes

    def _photo(self, outputs: Any, batch: Any) -> Tensor:
        """The photo [H', W', 3] that a view is compared with; under a mask, what the splat shows."""
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"]).to(self.device) > 0.5
            photo = torch.where(mask, photo, outputs["rgb"].detach())
        return photo

    def _focus_losses(self, outputs: Any, photo: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """L_2d and the photo's L1 over the pixels near edges, where the maps' edges agree."""
        config = self.config.boundary
        if self.boundary_phase is None or not self.boundary_phase.sharp or config.focus <= 0:
            return {}
        edges = edge_classes(classes)
        identity = identity_loss(outputs.identity_map, edges, self.classifier)
        losses = {"boundary_focus": config.focus * identity}
        difference = (outputs["rgb"] - photo).abs()[edges >= 0]
        if len(difference):
            losses["boundary_focus_photo"] = config.focus_photo * difference.mean()
        return losses

    def _field_losses(self, outputs: Any, photo: Tensor, classes: Tensor, batch: Any) -> dict[str, Tensor]:
        """The continuous field's losses, none in the steps between."""
        if self.boundary_phase is None or outputs.boundary_view is None:
            return {}
        camera, seen = outputs.boundary_view
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"]).to(self.device)[..., 0] > 0.5
            seen = torch.where(mask, seen, 0.0)
        dc = self.gauss_params["features_dc"]
        return self.boundary_phase.losses(
            self.step,
            camera=camera,
            seen=seen,
            rgb=outputs["rgb"],
            alpha=outputs["accumulation"][..., 0],
            depth=outputs["depth"][..., 0],
            identity=outputs.identity_map,
            background=outputs["background"],
            photo=photo,
            classes=classes,
            classifier=self.classifier,
            colors=dc.sigmoid() if self.config.sh_degree == 0 else SH2RGB(dc),
            identities=self.gauss_params["identity"],
            opacities=self.gauss_params["opacities"].sigmoid()[:, 0],
            labels=self.strategy_state["vote_class"],
        )

    @torch.no_grad()
    def refresh_boundary(
        self,
        views: Sequence[tuple[Cameras, Tensor]],
        *,
        photos: Callable[[int], Tensor] | None = None,
        change: bool = True,
    ) -> Consensus:
        """Find the boundary Gaussians from the votes of id maps (:mod:`gradiseg_ns.boundary.detection`), where the
        views agree on another id than a map has, and what sticks out of its object.

        Args:
            views: cameras of all training views, in order, with their id maps int [H, W, 1].
            photos: the photo of a view by its index, as the data manager has it; masks are overruled only where the
                render looks like it. None overrules everywhere.
            change: split boundary Gaussians and draw in what sticks out; False only looks.
        """
        config, phase = self.config.boundary, self.boundary_phase
        gaussians, params = self._gaussians(), dict(self.gauss_params.items())
        antialiased = self.config.rasterize_mode == "antialiased"

        def maps() -> Iterator[tuple[rendering.Camera, Tensor]]:
            for camera, id_map in views:
                yield self._camera(camera), self.objects.classes_of(id_map[..., 0].to(self.device))

        def render_error(index: int, camera: rendering.Camera, projection: rendering.Projection) -> Tensor:
            assert photos is not None
            colors = self._colors(params, camera, projection.radii[0] > 0)
            (rgb,), alpha = rendering.rasterize(projection, [colors])
            background = self._get_background_color()
            photo = self.composite_with_background(self.get_gt_img(photos(index)), background)
            return ((rgb + (1 - alpha) * background).clamp(0, 1) - photo).abs().mean(dim=-1)

        found = find_consensus(
            gaussians, maps, len(self.objects.ids), antialiased=antialiased,
            agree=config.agree and phase is not None,
            render_error=render_error if photos is not None else None,
        )  # fmt: skip
        self.strategy_state["impurity"] = found.ambiguity.measured(config.measure)
        self.strategy_state["vote_class"] = found.labels
        if phase is None:
            return found
        phase.sharp = found.sharp if config.edges == "auto" else config.edges == "sharp"
        phase.agreed = {
            index: self.objects.ids_of(classes.to(self.device)).to(views[index][1])[..., None]
            for index, classes in found.maps.items()
        }

        def seen() -> Iterator[tuple[rendering.Camera, Tensor, Tensor]]:
            for index, (view, classes) in enumerate(maps()):
                projection = rendering.project(gaussians, view, antialiased=antialiased)
                (depth,), alpha = rendering.rasterize(projection, [projection.depths[0][:, None]])
                agreed = found.maps[index].long() if index in found.maps else classes
                yield view, agreed.to(self.device), (depth / alpha.clamp(min=1e-10))[..., 0]

        if change:
            self._sharpen(find_overshoot(gaussians, found.labels, seen()).ends())
        phase.update(self.means, self.strategy_state["impurity"])
        return found

    def _sharpen(self, ends: Tensor) -> None:
        """Split what sticks out of its object, along the axis that does, and the most ambiguous of the others along
        their longest; or draw it in.

        Args:
            ends: bool [N, 3, 2], which ends of which axes overshoot.
        """
        config = self.config.boundary
        if config.overshoot == "draw_in":
            means, scales = draw_in(self.means, self.quats, self.scales, ends)
            self.gauss_params["means"].copy_(means)
            self.gauss_params["scales"].copy_(scales)
        along = ends.any(dim=-1) & (config.overshoot == "split")
        beyond = along.any(dim=-1)
        impurity = torch.where(beyond, 0.0, self.strategy_state["impurity"])
        room = round(config.split * self.num_points)
        if room > 0:
            worst, rows = impurity.topk(min(room, len(impurity)))
            along[rows[worst > config.tau]] = True
        axis = torch.where(along, self.scales, -torch.inf).argmax(dim=-1)
        mask = along.any(dim=-1)
        if bool(mask.any()):
            split_in_two(self.gauss_params, self.optimizers, self.strategy_state, mask, "major_axis", axis)

    def neighbor_loss(self) -> Tensor:
        """L_3d of this step: global KNN until the schedule's ``la_knn_from``, LA-KNN after it."""
        config = self.config
        means = self.means.detach()
        targets, candidates = self.neighbors.draw(means)
        valid = None
        directions = self._position_gradient()
        if directions is not None:
            directions = outstanding(directions[targets], config.la_knn_outlier)
        if config.la_knn == "off" or self.step < self.schedule.la_knn_from or directions is None:
            neighbors = candidates[:, : config.neighbor_count]
        elif config.la_knn == "literal":
            neighbors, valid = literal_directional_neighbors(
                means, targets, -directions, config.neighbor_count
            )
        else:
            neighbors, valid = directional_neighbors(
                means, targets, -directions, candidates, config.neighbor_count
            )
        identity = self.gauss_params["identity"]
        chosen = torch.cat([targets, neighbors.reshape(-1)])
        logits = self.classifier(identity.index_select(0, chosen))
        target_logits, neighbor_logits = logits.split([len(targets), neighbors.numel()])
        return neighbor_loss(target_logits, neighbor_logits.reshape(*neighbors.shape, -1), valid)

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
        self._hasten_positions(optimizers, step)

    def _hasten_positions(self, optimizers: Any, step: int) -> None:
        """While boundaries are refined, positions learn faster than the schedule says, which sets their rate anew after
        every step."""
        if self.boundary_phase is None or step < self.schedule.refine_boundary_from:
            return
        if optimizers.config["means"]["scheduler"] is not None:
            for group in optimizers.optimizers["means"].param_groups:
                group["lr"] *= self.config.boundary.position_rate

    def step_post_backward(self, step: int) -> None:
        probe = self.__dict__.pop("_probe", None)
        if probe is not None and probe[2].grad is not None:
            self._hand_over_identity_gradients(*probe)
        super().step_post_backward(step)
        if self._refining and step < self.schedule.igd_until and self.boundary_phase is not None:
            self.boundary_phase.update(self.means, self.strategy_state["impurity"])

    @torch.no_grad()
    def _hand_over_identity_gradients(
        self, projection: rendering.Projection, encoding: Tensor, identity_map: Tensor
    ) -> None:
        """Give the strategy what the probe's backward pass left behind."""
        gradient = projection.means2d.grad
        if gradient is not None:
            camera = projection.camera
            depth = projection.depths[0].detach().clamp(min=1e-6)
            right = (gradient[0, :, 0] * camera.K[0, 0] / depth)[:, None] * camera.viewmat[0, :3]
            down = (gradient[0, :, 1] * camera.K[1, 1] / depth)[:, None] * camera.viewmat[1, :3]
            self.info["identity_position_gradient"] = right + down
        if encoding.grad is not None:
            self.info["identity_gradient"] = encoding.grad.norm(dim=-1)
        if (
            self.config.igd_signal != "gradient"
            and self.strategy.in_igd(self.step)
            and identity_map.grad is not None
        ):
            norms = identity_map.grad.norm(dim=-1, keepdim=True)
            norms = torch.cat([norms, torch.ones_like(norms)], dim=-1)
            gaussians = self._gaussians()
            sums = rendering.backproject(
                gaussians, projection.camera, norms, projection=projection,
                antialiased=self.config.rasterize_mode == "antialiased",
            )  # fmt: skip
            absolute, self.info["identity_weight"] = sums.unbind(-1)
            if self.config.igd_signal == "conflict":
                absolute = (absolute - self.info["identity_gradient"]).clamp(min=0)
            self.info["identity_gradient"] = absolute

    # ------------------------------------------------------------------- objects

    @torch.no_grad()
    def gaussian_classes(self) -> Tensor:
        """The class of every Gaussian, int64 [N]: its label, or by its own encoding if there are none."""
        if self.is_labelled:
            return self.strategy_state["label"]
        return classify(self.gauss_params["identity"], self.classifier)

    @torch.no_grad()
    def gaussian_confidence(self) -> Tensor:
        """How sure the classifier is of every Gaussian: [N], the probability of its class."""
        parts = self.gauss_params["identity"].split(1 << 16)
        return torch.cat([self.classifier(part).softmax(dim=-1).amax(dim=-1) for part in parts])

    @torch.no_grad()
    def cut_outs(self, camera: Cameras, object_ids: Iterable[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Some objects, each rendered alone.

        Yields:
            id, accumulation [H, W] and depth [H, W] (0 where nothing is).
        """
        view = self._camera(camera)
        gaussians = self._gaussians()
        classes = self.gaussian_classes()
        for object_id in object_ids:
            own = classes == self.objects.ids.index(object_id)
            alone = rendering.Gaussians(*(tensor[own] for tensor in gaussians))
            projection = rendering.project(
                alone, view, antialiased=self.config.rasterize_mode == "antialiased"
            )
            (depth,), alpha = rendering.rasterize(projection, [projection.depths[0][:, None]])
            yield object_id, alpha[..., 0], (depth / alpha.clamp(min=1e-10))[..., 0]

    # ------------------------------------------------------------------ pruning

    @torch.no_grad()
    def views_seen(self, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """How many of some views see each Gaussian, int64 [N], and the weight it has in all of them, in pixels [N].

        A view sees what has a blending weight in it, sum_p w_i(p) > MIN_WEIGHT: with the colour's gradient of the
        masked-gradients paper (arXiv 2409.11681) it is the same sum.
        """
        gaussians = self._gaussians()
        antialiased = self.config.rasterize_mode == "antialiased"
        count = torch.zeros(self.num_points, dtype=torch.int64, device=self.device)
        total = torch.zeros(self.num_points, device=self.device)
        for index in range(len(cameras)):
            view = self._camera(cameras[index : index + 1])
            ones = torch.ones(view.height, view.width, 1, device=self.device)
            weight = rendering.backproject(gaussians, view, ones, antialiased=antialiased)[:, 0]
            count += weight > MIN_WEIGHT
            total += weight
        return count, total

    @torch.no_grad()
    def clear(self, space: FreeSpace, agreed_on: Callable[[Tensor, Tensor], Tensor] | None = None) -> int:
        """After a training step: remove the Gaussians in space that must be empty, by their centres.

        Args:
            space: what must be empty.
            agreed_on: whether several views agree that there is something at positions [M, 3], of radii [M]: it stays.

        Returns:
            how many were removed.
        """
        inside = space.contains(self.means)
        if agreed_on is not None and bool(inside.any()):
            rows = inside.nonzero()[:, 0]
            thickness = self.scales[rows].exp().median(dim=1).values  # of a rod
            inside[rows[agreed_on(self.means[rows], thickness)]] = False
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
        if needed < 1:
            return
        count, total = self.views_seen(cameras)
        rare = count < needed
        if last and self.boundary_phase is not None:
            rare |= total < self.config.boundary.hidden
        if bool(rare.any()) and not bool(rare.all()):
            self._remove(rare)

    # ------------------------------------------------------------------ metrics

    @torch.no_grad()
    def psnr_of(self, outputs: Any, batch: Any) -> tuple[float, float | None]:
        """PSNR in dB of a picture, and over the pixels of objects that are not ignored; None if it shows none, or there is
        nothing that is ignored."""
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        picture = outputs["rgb"]
        whole = float(psnr(picture, photo))
        ignored = self.config.metrics_ignore_ids
        if "id_map" not in batch or not ignored:
            return whole, None
        ids = batch["id_map"][..., 0].to(self.device)
        counted = (ids >= 0) & ~torch.isin(ids, ids.new_tensor(ignored))
        if ids.shape != photo.shape[:2] or not bool(counted.any()):
            return whole, None
        return whole, float(psnr(picture[counted], photo[counted]))

    @torch.no_grad()
    def weight_nearer(self, view: rendering.Camera, depth: float) -> float:
        """The share of a picture, 0 to 1, that Gaussians nearer than a depth (world units, by their centres) have of it."""
        gaussians = self._gaussians()
        antialiased = self.config.rasterize_mode == "antialiased"
        projection = rendering.project(gaussians, view, antialiased=antialiased)
        nearer = (projection.depths[0] < depth) & (projection.radii[0] > 0)
        (weight,), _ = rendering.rasterize(projection, [nearer.to(gaussians.means.dtype)[:, None]])
        return float(weight.mean())

    def get_image_metrics_and_images(
        self, outputs: Any, batch: Any
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        inside = self.psnr_of(outputs, batch)[1]
        if inside is not None:
            metrics["psnr_inside"] = inside
        if metrics["lpips"] != metrics["lpips"]:  # NaN: its weights could not be had
            del metrics["lpips"]
        if self._identity_on and "id_map" in batch:
            truth = self.objects.colorize(batch["id_map"][..., 0].to(self.device))
            images["segmentation"] = torch.cat([truth, outputs["segmentation"]], dim=1)
        return metrics, images
