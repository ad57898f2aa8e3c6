"""What is drawn of a model: cameras, colours, objects, edits. Splatfacto without training.

The viewer, evaluation and the votes ask these methods; `model.GradisegModel` adds what training needs. Each is a few lines around a
function of Gaussians and cameras in `drawing`, `votes` or `scene`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.drawing.blends import (
    Blend,
    Look,
    activated,
    camera_of,
    cut_outs,
    empty_outputs,
    object_ids,
    weight_nearer,
)
from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.editing.display import DrawnRows, Editing
from gradiseg_ns.grouping.identity import IdentityClassifier, classify
from gradiseg_ns.scene.harmonics import dc_of, rgb_of
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.parts import Parts
from gradiseg_ns.scene.splat import Splat, sees_colors
from gradiseg_ns.votes.accumulate import views_seen
from gradiseg_ns.votes.rendered import rendered_classes, spread_views


class DrawnModel(SplatfactoModel):
    """Gaussians, objects and edits, as cameras see them."""

    config: Any
    objects: ObjectTable
    classifier: IdentityClassifier
    editing: Editing
    strategy_state: dict[str, Any]
    _identity_basis: Tensor

    @property
    def _identity_on(self) -> bool:
        return self.config.identity and len(self.objects.ids) > 0

    def _camera(self, camera: Cameras) -> rendering.Camera:
        """nerfstudio's camera (OpenGL axes, camera to world) as the rasteriser's, at the training resolution.

        A camera of the host's goes to the device in one copy, for which nothing waits.
        """
        factor = self._get_downscale_factor()
        pose = None
        if self.training and self.camera_optimizer.config.mode != "off":
            pose = self.camera_optimizer.apply_to_camera(camera.to(self.device))
        view = camera_of(camera, self.device, factor=factor, pose=pose)
        self.last_size = (view.height, view.width)
        return view

    def _class_maps(
        self, views: Iterable[tuple[Cameras, Tensor]]
    ) -> Iterator[tuple[rendering.Camera, Tensor]]:
        """nerfstudio's cameras with maps of classes [H, W], as the rasteriser's and int64 on the device."""
        for camera, classes in views:
            yield self._camera(camera), classes.to(self.device).to(torch.int64)

    def _gaussians(self) -> rendering.Gaussians:
        """All Gaussians of the scene, as they are learned."""
        return self._activated(dict(self.gauss_params.items()))

    def _activated(self, params: Mapping[str, Tensor]) -> rendering.Gaussians:
        return activated(params, antialiased=self.config.rasterize_mode == "antialiased")

    def _colors(self, params: dict[str, Tensor], camera: rendering.Camera, visible: Tensor) -> Tensor:
        """View-dependent colours [N, 3] of the visible Gaussians."""
        if self.config.sh_degree == 0:
            return rgb_of(params["features_dc"], logits=True)
        degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        coefficients = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
        return sees_colors(camera, params["means"], coefficients, degree, visible)

    def _identity_colors(self, identity: Tensor) -> Tensor:
        """Three fixed directions of encodings [H, W, D] as colours [H, W, 3]."""
        return torch.sigmoid(2 * identity @ self._identity_basis)

    @staticmethod
    def get_empty_outputs(width: int, height: int, background: Tensor) -> dict[str, Any]:  # type: ignore[override]
        """The same keys as :meth:`get_outputs` for a camera that sees nothing."""
        return empty_outputs(SplatfactoModel.get_empty_outputs(width, height, background), width, height)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: Any = None) -> dict[str, Any]:
        """Splatfacto's, without moving the camera to the device: it is read on the host."""
        self.set_crop(obb_box)
        return self.get_outputs(camera)

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

    def set_classes(self, classes: Tensor) -> None:
        """Give every Gaussian a class, int64 [N], negative for none; it holds until training goes on."""
        self.strategy_state["label"] = classes.to(self.device)
        self.strategy_state["label_step"] = int(self.step)
        self.set_parts(None)

    @property
    def parts(self) -> Parts | None:
        """The parts of the objects before all edits; None if there are none, or the Gaussians have changed since."""
        return Parts.from_state(self.strategy_state, self.num_points) if self.is_labelled else None

    def set_parts(self, parts: Parts | None) -> None:
        """Give every Gaussian a part of its object; it holds as long as its label."""
        self.strategy_state.pop("part", None)
        self.strategy_state.pop("part_tree", None)
        if parts is not None:
            self.strategy_state.update(Parts(parts.tree, parts.labels.to(self.device)).to_state())

    @torch.no_grad()
    def label_gaussians(self, cameras: Cameras, fits: Callable[[Tensor], Tensor] | None = None) -> None:
        """Label every Gaussian by what it shows in some of these views, and by what it can be (:func:`rendered_classes`)."""
        if not self._identity_on:
            return
        training = self.training
        self.eval()  # at full resolution
        views = (self._camera(cameras[i : i + 1]) for i in spread_views(len(cameras)))
        self.set_classes(
            rendered_classes(
                self._gaussians(),
                self.gauss_params["identity"],
                lambda encodings: classify(encodings, self.classifier),
                len(self.objects.ids),
                views,
                fits,
            )
        )
        self.train(training)

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

    def arrangement(self) -> Arrangement:
        """The scene's Gaussians with all edits, hidden objects included."""
        return self.editing.arrangement(self._geometry_key, self._labels, self.means, self.objects)

    def _drawn(self) -> tuple[dict[str, Tensor], DrawnRows | None, Tensor | None]:
        """What to draw: the parameters of M Gaussians; how they are edited or selected, None if nothing is; and their rows
        among the scene's, int64 [M], None for all.

        Edits are for looking: training, and the evaluation in between, do not see them.
        """
        params: dict[str, Tensor] = dict(self.gauss_params.items())
        shown = rows = None
        if not self.training and self.editing.drawn:
            try:
                key = self._geometry_key
                shown = self.editing.drawn_rows(key, self._labels, self.means, self.objects)
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
        return self._activated(self._drawn()[0])

    def rendering_camera(self, camera: Cameras) -> rendering.Camera:
        """nerfstudio's camera as the rasteriser's."""
        return self._camera(camera)

    @torch.no_grad()
    def edited_splat(self, arrangement: Arrangement) -> Splat:
        """The Gaussians of an arrangement as a splat of its own, with object ids."""
        params = arrangement.apply(dict(self.gauss_params.items()), logits=self.config.sh_degree == 0)
        if self.config.sh_degree == 0:
            params["features_dc"] = dc_of(rgb_of(params["features_dc"], logits=True))
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
        projection = rendering.project(self._activated(params), view)
        if pixel is not None:
            projection = rendering.crop(projection, *pixel)
        blend = Blend().add("depth", projection.depths[0][:, None])
        if colors:
            blend.add("color", self._colors(params, view, projection.radii[0] > 0))
        if self._identity_on:
            blend.add("identity", params["identity"])
        blend.add("edited", None if shown is None else shown.features)
        alpha = blend.rasterize(projection).alpha
        rgb = None
        if colors:
            rgb = (blend["color"] + (1 - alpha) * self._get_background_color()).clamp(0.0, 1.0)
        return Look(
            projection,
            object_ids(blend, self.objects, self.classifier, shown),
            blend.expected("depth")[..., 0],
            alpha[..., 0],
            blend.get("identity"),
            rgb,
        )

    def pick(self, camera: Cameras, x: float, y: float) -> int:
        """The object at a pixel of a camera, by rendering identities along its ray; IGNORE where nothing is.

        Args:
            x, y: in pixels from the upper left corner.
        """
        return int(self.look(self._camera(camera), pixel=(int(x), int(y))).object_ids)

    @torch.no_grad()
    def cut_outs(self, camera: Cameras, object_ids: Iterable[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Some objects, each rendered alone.

        Yields:
            id, accumulation [H, W] and depth [H, W] (0 where nothing is).
        """
        wanted = [self.objects.ids.index(i) for i in object_ids]
        pieces = cut_outs(self._gaussians(), self.gaussian_classes(), self._camera(camera), wanted)
        for which, alpha, depth in pieces:
            yield self.objects.ids[which], alpha, depth

    @torch.no_grad()
    def views_seen(self, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """How many of some views see each Gaussian, and its weight in all of them (:func:`gradiseg_ns.votes.accumulate.views_seen`)."""
        views = (self._camera(cameras[index : index + 1]) for index in range(len(cameras)))
        return views_seen(self._gaussians(), views)

    @torch.no_grad()
    def weight_nearer(self, view: rendering.Camera, depth: float) -> float:
        """The share of a picture, 0 to 1, that Gaussians nearer than a depth (world units, by their centres) have of it."""
        return weight_nearer(self._gaussians(), view, depth)
