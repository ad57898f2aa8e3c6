"""Dataset-level evaluation: what ns-eval reports.

nerfstudio averages per-picture metrics, with keys taken from the first picture and NaN where one picture has no
deviation. Mask quality is a matter of the whole set: an object's figures are averaged over its views first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.class_maps import CLASS_MAP
from gradiseg_ns.data.datamanager import GradisegDataManager
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.data.map_values import some
from gradiseg_ns.model import GradisegModel
from gradiseg_ns.ns_callers import caller, edits_path, listen_locally
from gradiseg_ns.sources.checkpoints import choose_for_commands
from gradiseg_ns.tools.atomic import WholeFile, check_writable
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.terminal import console, mend_commands, progress, say, warn

if TYPE_CHECKING:
    from gradiseg_ns.data.free_space import FreeSpace
    from gradiseg_ns.evaluation.extraction import ExtractionMetrics
    from gradiseg_ns.evaluation.metrics import MaskScores
    from gradiseg_ns.evaluation.views import FloaterScore, ViewScore
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.viewer.panel import GradisegPanel

CLEAR_EVERY = 25
"""Steps between two looks at the space that must be empty."""


@dataclass
class GradisegPipelineConfig(VanillaPipelineConfig):
    """nerfstudio's pipeline with mask quality in its evaluation."""

    _target: type = field(default_factory=lambda: GradisegPipeline)


class GradisegPipeline(VanillaPipeline):
    """Adds miou, mbiou, mbiou_fine, gaussian_count to the averages, and a table per object beside ns-eval's file."""

    datamanager: GradisegDataManager  # type: ignore[assignment]
    mask_scores: MaskScores | None = None
    """What the last evaluation found per object."""
    view_scores: Sequence[ViewScore] = ()
    """What the last evaluation found per view."""
    floater_score: FloaterScore | None = None
    """What the last evaluation found floating."""
    viewer_panel: GradisegPanel | None = None
    """The panel in the viewer, in training and in ns-viewer."""

    @property
    def model(self) -> GradisegModel:
        """The model, unwrapped."""
        return cast("GradisegModel", super().model)

    def __init__(
        self, config: GradisegPipelineConfig, device: str, test_mode: Any = "val", **kwargs: Any
    ) -> None:
        mend_commands()
        choose_for_commands(GradisegPipeline)
        self._check_output()
        super().__init__(config, device, test_mode, **kwargs)
        self.model.views = self.datamanager.view_names
        start = self.model.config.start_from
        if start is not None and test_mode == "val":
            from gradiseg_ns.sources.capture import SourceError
            from gradiseg_ns.sources.run import load_splat

            splat = load_splat(Path(start))
            if splat.frame == "original" or any(splat.offset):
                raise SourceError(
                    f"--pipeline.model.start-from {start}: this splat is in the original frame of COLMAP or "
                    "transforms.json, expected one in nerfstudio's. `gradiseg import` moves it: start from the run it makes."
                )
            self.model.adopt(splat)
            say(f"Starting from the {len(splat)} Gaussians of {start}.")
        self._use_classes()
        self._prepare_editing(training=test_mode == "val")

    @staticmethod
    def _check_output() -> None:
        """Before minutes of evaluation: whether ns-eval can write what it finds. It then writes it whole or not at all.

        Raises:
            GradisegError: it cannot, or the name is none that it takes.
        """
        command = caller().command
        path = getattr(command, "output_path", None)
        if caller().kind != "eval" or not isinstance(path, Path):
            return
        if path.suffix != ".json":
            raise GradisegError(f"--output-path {path}: expected a name that ends in .json.")
        check_writable(path)
        command.output_path = WholeFile(path)
        pictures = getattr(command, "render_output_path", None)
        if pictures is not None:
            check_writable(Path(pictures) / "picture.png")

    def _prepare_editing(self, *, training: bool) -> None:
        """The viewer's panel, where there is a viewer; the edits that were saved with a run, where they are to be seen: not in ns-eval."""
        from gradiseg_ns.editing.checking import EditError
        from gradiseg_ns.editing.edit_list import EditList

        who = caller()
        folder = who.config_path.parent if who.config_path is not None else None
        if training or who.kind == "view":
            from gradiseg_ns.viewer.panel import GradisegPanel

            self.viewer_panel = GradisegPanel(self, folder)
        if who.kind == "view" and listen_locally(who.command):
            say("The viewer listens to this machine only (--viewer.websocket-host 0.0.0.0 for all).")
        path = edits_path(who.config_path) if who.kind in ("view", "render") else None
        if path is None:
            return
        try:
            self.model.editing.edits = EditList.load(path)
        except EditError as error:
            if who.kind == "render":  # what is written to files must not lack them silently
                raise
            say(str(error), title="The edits are left out:", style="bold red")
            return
        self.model.editing.always = who.kind == "render"
        say(f"{len(self.model.editing.edits.steps)} edits of {path}")

    def _use_classes(self) -> None:
        """While training, the training maps hold classes of the model's objects, which know what they are parts of: called whenever the
        objects have changed."""
        if self.test_mode == "val" and self.model.config.identity:
            self.model.objects = self.model.objects.with_parents(self._parents())
            self.datamanager.use_classes(self.model.objects)

    def _parents(self) -> dict[int, int]:
        """Parents by object id, where the training maps are those of parts."""
        from gradiseg_ns.data.id_maps import data_folder
        from gradiseg_ns.sources.association import parents_in

        config = self.datamanager.config
        return parents_in(data_folder(config.dataparser.data) / config.masks_dir)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's, and what needs all training views: taking votes, and pruning what hardly any sees."""
        callbacks = super().get_training_callbacks(training_callback_attributes)
        return [
            *callbacks,
            TrainingCallback(
                [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
                lambda step: self.take_votes(step, training_callback_attributes.trainer),
            ),
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.refresh_boundary),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.clear_empty_space),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
                lambda step: self.model.prune_rarely_seen(self.datamanager.train_dataset.cameras, step),
            ),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.label_gaussians),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.report),
        ]

    @cached_property
    def free_space(self) -> FreeSpace | None:
        """What must be empty while training; None if it is not known, or not asked for."""
        config = self.model.config
        if config.empty_space <= 0:
            return None
        return self.datamanager.free_space(config.empty_space, virtual=config.empty_space_virtual)

    def clear_empty_space(self, step: int) -> None:
        """After a training step: remove what is where nothing can be, every CLEAR_EVERY steps and after the last."""
        if (step + 1) % CLEAR_EVERY == 0 or step + 1 == self.model.schedule.length:
            if self.free_space is not None and not self.model.views_are_missing:
                self.model.clear(self.free_space, self.datamanager.agreed_on)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        here = set(self.model.views)
        super().load_pipeline(loaded_state, step)
        self._use_classes()
        if self.test_mode == "val":
            self._compare_views(here)
        if self.model.editing.always:
            self.label_gaussians()

    def _compare_views(self, here: set[str]) -> None:
        """When a run is resumed: whether all views are here that it was trained on. What only others saw is not pruned.

        Args:
            here: the training views that there are now.
        """
        before = set(self.model.views)  # empty in checkpoints of older versions
        self.model.views = sorted(before | here)
        gone = sorted(before - here)
        self.model.views_are_missing = bool(gone)
        if gone:
            warn(
                f"the run was trained on {len(before)} views, and {len(gone)} of them are not among the {len(here)} of now "
                f"({some(gone)}). What only those saw cannot be told from what no view sees: it is kept, and nothing is "
                "pruned for being seen by few, or for being where nothing can be."
            )

    def label_gaussians(self, step: int | None = None) -> None:
        """After the last training step, or when asked for without one: every Gaussian gets the object that it shows."""
        model = self.model
        if step is not None and step + 1 != model.schedule.length:
            return
        if not model.is_labelled:
            model.label_gaussians(self.datamanager.train_dataset.cameras)
            self._label_parts()

    def _label_parts(self) -> None:
        """After the objects: the part of every Gaussian, where maps of parts lie beside those of the objects."""
        from gradiseg_ns.sources.association import label_parts
        from gradiseg_ns.sources.capture import Capture

        model, manager = self.model, self.datamanager
        if not model.is_labelled:
            return
        capture = Capture(Path(manager.config.dataparser.data), manager, torch.device(model.device))
        objects = model.objects.ids_of(model.gaussian_classes())
        model.set_parts(label_parts(capture, self._splat().gaussians(), objects))

    def take_votes(self, step: int, trainer: Any = None) -> None:
        """Before a training step: identities from the votes of all training maps, when the schedule says so.

        With ``associate`` the ids of the maps are made to agree first; the new maps are written beside the run of
        ``trainer``, whose configuration names them from then on.
        """
        model = self.model
        if step != model.schedule.votes_at or not model.config.identity or not model.objects.ids:
            return
        model.eval()  # at full resolution
        if model.config.associate != "off":
            self._associate(trainer)
        model.identities_from_votes(self._training_views())
        model.train()

    def _training_views(self) -> Iterator[tuple[Cameras, Tensor]]:
        """Cameras of the training views with their maps of classes [H, W]."""
        cameras, cached = self.datamanager.train_dataset.cameras, self.datamanager.cached_train
        for index, item in enumerate(cached):
            yield cameras[index : index + 1], item[CLASS_MAP]

    def refresh_boundary(self, step: int) -> None:
        """Before a training step: find the boundary Gaussians anew, when the schedule says so."""
        model = self.model
        schedule, phase = model.schedule, model.boundary_phase
        since = step - schedule.refine_boundary_from
        due = since % schedule.refine_boundary_every == 0 or "impurity" not in model.strategy_state
        if phase is None or since < 0 or (phase.found and not due):
            return
        model.eval()  # at full resolution
        cached = self.datamanager.cached_train
        found = model.refresh_boundary(
            list(self._training_views()), lambda index: cached[index]["image"], change=due
        )
        say(phase.told(found, model.num_points), title="Boundaries")
        model.train()

    def _splat(self) -> Splat:
        """The Gaussians as they are now."""
        from gradiseg_ns.scene.splat import Splat

        antialiased = self.model.config.rasterize_mode == "antialiased"
        return Splat.from_parameters(dict(self.model.gauss_params.items()), antialiased=antialiased)

    def _associate(self, trainer: Any) -> None:
        from gradiseg_ns.sources.association import associate_views, write_association
        from gradiseg_ns.sources.capture import Capture

        model, manager = self.model, self.datamanager
        capture = Capture(Path(manager.config.dataparser.data), manager, torch.device(model.device))
        mode = model.config.associate
        assert mode != "off"
        manager.use_classes(None)
        done = associate_views(capture, self._splat(), ids=mode)
        if trainer is not None:
            folder = Path(trainer.base_dir) / "associated_mask"
            write_association(folder, capture, done)
            # What is resumed or evaluated later reads the new maps, and leaves them as they are.
            trainer.config.pipeline.datamanager.masks_dir = str(folder.resolve())
            trainer.config.pipeline.model.associate = "off"
            trainer.config.save_config()
            say(f"Associated masks: {folder}")
        for item, ids in zip(manager.cached_train, done.maps, strict=True):
            item["id_map"] = torch.from_numpy(ids)[..., None].to(item["id_map"].device, torch.int32)
        if not done.kept:
            model.set_objects(
                sorted({int(i) for ids in done.maps for i in np.unique(ids)}), {0: "unassigned"}
            )
            if "objects" in done.held_out:
                for item, ids in zip(manager.cached_eval, done.held_out["objects"], strict=True):
                    item["id_map"] = torch.from_numpy(ids)[..., None].to(item["id_map"].device, torch.int32)
                say(
                    "Held-out photos are compared with their own masks, which have the new ids of what they show."
                )
            elif manager.config.eval_masks_dir is None:  # their ids mean nothing any more
                for item in manager.cached_eval:
                    item["id_map"] = torch.full_like(item["id_map"], IGNORE)
        self._use_classes()

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, float | None]:
        """Averages over a set of views.

        Returns:
            psnr, psnr_inside (over the pixels of objects that are not ignored), ssim, lpips (where its weights can be had),
            fps, num_rays_per_sec, gaussian_count; miou, mbiou and mbiou_fine in percent, None if no view has a label.
            With ``get_std`` also ``*_std``, None for a single view, psnr_worst of the worst view, worst_iou of the worst object in
            its worst view, floater_share and floater_share_worst in percent (None without sparse points), extracted_iou and
            extracted_biou. Never NaN, which would not be JSON.
        """
        from gradiseg_ns.evaluation.extraction import ExtractionMetrics
        from gradiseg_ns.evaluation.metrics import MaskMetrics
        from gradiseg_ns.evaluation.views import ViewScore

        del step
        self.eval()
        model = self.model
        ignored = self._ignored_ids(told=get_std)
        masks = MaskMetrics(
            object_ids=model.objects.ids,
            ignore_ids=ignored,
            names=model.objects.names,
        )
        cut_outs = ExtractionMetrics(ignored)
        if get_std:
            self.label_gaussians()
        rows: list[dict[str, float]] = []
        views: list[ViewScore] = []
        has_labels = False
        if output_path is not None:
            output_path.mkdir(parents=True, exist_ok=True)
        with progress("Evaluating views", len(data_loader), transient=True) as advance:
            for index, (camera, batch) in enumerate(data_loader):
                start = perf_counter()
                outputs = model.get_outputs_for_camera(camera=camera)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds = perf_counter() - start
                row, pictures = model.get_image_metrics_and_images(outputs, batch)
                row["fps"] = 1.0 / max(seconds, 1e-9)
                row["num_rays_per_sec"] = row["fps"] * float(camera.height * camera.width)
                rows.append(row)
                ids, name, miou = getattr(outputs, "object_ids", None), self._view_name(batch, index), None
                if model.config.identity and ids is not None and "id_map" in batch:
                    miou = masks.update(name, ids.cpu(), batch["id_map"][..., 0].cpu())
                    has_labels = True
                    if get_std:
                        self._compare_cut_outs(cut_outs, camera, batch["id_map"][..., 0], outputs["depth"])
                views.append(ViewScore(name, row["psnr"], row.get("psnr_inside"), miou))
                if output_path is not None:
                    self._save_pictures(pictures, output_path, image_prefix, index)
                advance()
        metrics = average(rows, get_std)
        metrics["gaussian_count"] = float(model.num_points)
        if has_labels:
            metrics.update(self._mask_metrics(masks.result(), cut_outs if get_std else None))
        if get_std:
            metrics.update(self._view_metrics(views))
        self.train()
        if not get_std:  # tensorboard's writer takes numbers only
            return {key: value for key, value in metrics.items() if value is not None}
        return metrics

    def _mask_metrics(
        self, scores: MaskScores, cut_outs: ExtractionMetrics | None
    ) -> dict[str, float | None]:
        """Means of the mask scores; with cut-outs also the worst and theirs, a table on the terminal and one in a file."""
        from gradiseg_ns.evaluation.metrics import print_table, write_table

        self.mask_scores = scores
        metrics: dict[str, float | None] = {
            "miou": scores.miou, "mbiou": scores.mbiou, "mbiou_fine": scores.mbiou_fine,
        }  # fmt: skip
        if cut_outs is None:
            return metrics
        metrics["worst_iou"] = scores.worst_iou
        metrics["extracted_iou"], metrics["extracted_biou"] = cut_outs.result()
        print_table(scores, console())
        table = _table_path("objects")
        if table is not None:
            write_table(table, scores)
            say(f"Saved the table per object to: {table}")
        return metrics

    def _view_metrics(self, views: Sequence[ViewScore]) -> dict[str, float | None]:
        """The worst view and what floats, with a sentence on the terminal and a table in a file."""
        from gradiseg_ns.evaluation.views import summary, worst_view, write_views

        self.view_scores, self.floater_score = views, self.floaters()
        worst, floating = worst_view(views), self.floater_score
        told = summary(views, floating)
        if told is not None:
            say(told)
        table = _table_path("views")
        if table is not None:
            write_views(table, views)
            say(f"Saved the table per view to: {table}")
        return {
            "psnr_worst": None if worst is None else worst.psnr,
            "floater_share": None if floating is None else floating.mean,
            "floater_share_worst": None if floating is None else floating.worst,
        }

    @torch.no_grad()
    def floaters(self) -> FloaterScore | None:
        """How much of the picture floats before the scene, in views between the training cameras; None without sparse points."""
        from gradiseg_ns.data.datamanager import frusta_of
        from gradiseg_ns.data.free_space import probes
        from gradiseg_ns.evaluation.views import FloaterScore

        points = self.datamanager.points
        if points is None or not len(points):
            return None
        frusta, depths = probes(frusta_of(self.datamanager.train_dataset.cameras), points.float().cpu())
        shares = []
        for viewmat, K, size, depth in zip(*frusta, depths.tolist(), strict=True):
            view = rendering.Camera(
                viewmat.to(self.model.device), K.to(self.model.device), *(int(n) for n in size)
            )
            shares.append(self.model.weight_nearer(view, depth))
        return FloaterScore.of(shares)

    def report(self, step: int) -> None:
        """After the last training step: say which held-out view is worst, and what floats."""
        from gradiseg_ns.evaluation.metrics import MaskMetrics
        from gradiseg_ns.evaluation.views import ViewScore, summary

        model = self.model
        if step + 1 != model.schedule.length:
            return
        model.eval()
        views = []
        for index, (camera, batch) in enumerate(self.datamanager.fixed_indices_eval_dataloader):
            with torch.no_grad():
                outputs = model.get_outputs_for_camera(camera=camera)
            name, miou = self._view_name(batch, index), None
            if outputs.object_ids is not None and model.config.identity:  # type: ignore[attr-defined]
                masks = MaskMetrics(ignore_ids=self._ignored_ids())
                miou = masks.update(name, outputs.object_ids.cpu(), batch["id_map"][..., 0].cpu())  # type: ignore
            views.append(ViewScore(name, *model.psnr_of(outputs, batch), miou))
        told = summary(views, self.floaters())
        if told is not None:
            say(told)
        model.train()

    def _ignored_ids(self, told: bool = False) -> tuple[int, ...]:
        """Ids without a row in the metrics: those that the user leaves out, and those that stand for nothing."""
        asked = self.model.config.metrics_ignore_ids
        empty = (
            [i for i in self.datamanager.empty_ids if i not in asked] if self.model.config.identity else []
        )
        if empty and told:
            ids = ", ".join(map(str, empty))
            say(
                f"The id {ids} is only where photos show nothing (transparent, or plain black or white): no Gaussian is there, and "
                "the metrics leave it out."
            )
        return (*asked, *empty)

    def _view_name(self, batch: dict[str, Any], index: int) -> str:
        """What a held-out view's photo is called."""
        names = self.datamanager.eval_dataset.image_filenames
        place = int(batch.get("image_idx", index))
        return str(batch.get("image_name") or (names[place].name if place < len(names) else f"view {place}"))

    def _compare_cut_outs(
        self, metrics: ExtractionMetrics, camera: Cameras, truth: Tensor, depth: Tensor
    ) -> None:
        from gradiseg_ns.evaluation.extraction import extracted_mask

        known = set(self.model.objects.ids) - metrics.ignore_ids
        shown = [id for id in truth.unique().tolist() if id in known]
        for id, alpha, own_depth in self.model.cut_outs(camera, shown):
            cut_out = extracted_mask(alpha, own_depth, depth[..., 0], truth, id, metrics.ignore_ids)
            metrics.update(id, cut_out, truth)

    @staticmethod
    def _save_pictures(pictures: dict[str, Tensor], folder: Path, prefix: str, index: int) -> None:
        from gradiseg_ns.tools.pictures import save_picture, to_image

        for key, picture in pictures.items():
            if picture.shape[-1] == 1:
                picture = picture.expand(*picture.shape[:-1], 3)
            save_picture(to_image(picture), folder / f"{prefix}_{key}_{index:04d}.png")


def average(rows: list[dict[str, float]], get_std: bool = False) -> dict[str, float | None]:
    """Means (and deviations) of per-view metrics over the views that have them; None where there is none."""
    result: dict[str, float | None] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = torch.tensor([float(row[key]) for row in rows if key in row], dtype=torch.float64)
        values = values[values.isfinite()]
        result[key] = float(values.mean()) if len(values) else None
        if get_std:
            result[f"{key}_std"] = float(values.std()) if len(values) > 1 else None
    assert not any(isinstance(value, float) and math.isnan(value) for value in result.values())
    return result


def _table_path(kind: str) -> Path | None:
    """Where a table goes: beside the JSON that ns-eval is about to write."""
    who = caller()
    if who.kind != "eval":
        return None
    path = Path(who.command.output_path)
    return path.with_name(f"{path.stem}_{kind}.csv")
