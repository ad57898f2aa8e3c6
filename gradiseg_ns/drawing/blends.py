"""What a camera sees of a model: maps that are blended together, each by its name; the object of each pixel; the glow of a selection.

In: projected Gaussians, features by name, what an edit changed. Out: maps by name, `Look`, `Outputs`. May not: know nerfstudio's model,
or train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.editing.display import DrawnRows, glow, outline
from gradiseg_ns.grouping.identity import IdentityClassifier, classify
from gradiseg_ns.scene.objects import MIN_ACCUMULATION, ObjectTable

if TYPE_CHECKING:
    from gradiseg_ns.boundary.phase import Foreign, RefinedView


class Outputs(dict[str, Any]):
    """The maps that nerfstudio lists by key, and those that must not appear in the viewer's list.

    Attributes:
        identity_map: [H, W, D] rendered identity encodings.
        object_ids: int32 [H, W], the id of every pixel, IGNORE where nothing is; None while training.
        boundary_view: while boundaries are refined, what the losses there compare.
        foreign: then, what the loss on foreign weight compares; None without that loss.
    """

    identity_map: Tensor | None = None
    object_ids: Tensor | None = None
    boundary_view: RefinedView | None = None
    foreign: Foreign | None = None


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


@dataclass
class Blend:
    """Groups of features by name, to be blended with the same weights, and their maps.

    >>> blend = Blend().add("color", colors).add("identity", encodings, geometry=0.3)
    >>> blend.rasterize(projection)
    >>> blend["identity"]  # [H, W, D]
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    """[N, C] each."""
    geometry: dict[str, float | Tensor] = field(default_factory=dict)
    """How much of each map's gradient moves the geometry, 0 to 1, of all Gaussians or of each, [N]."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """[H, W, C] each, once they are rasterised."""
    alpha: Tensor = field(default_factory=lambda: torch.zeros(0))
    """[H, W, 1], once they are rasterised."""

    def add(self, name: str, features: Tensor | None, geometry: float | Tensor = 1.0) -> Blend:
        """One more group; None adds nothing."""
        if features is not None:
            self.features[name], self.geometry[name] = features, geometry
        return self

    def rasterize(self, projection: rendering.Projection, *, absgrad: bool = False) -> Blend:
        """Blend all groups, see :func:`gradiseg_ns.rendering.rasterize`."""
        maps, self.alpha = rendering.rasterize(
            projection,
            list(self.features.values()),
            geometry_grad=list(self.geometry.values()),
            absgrad=absgrad,
        )
        self.maps = dict(zip(self.features, maps, strict=True))
        return self

    def __getitem__(self, name: str) -> Tensor:
        return self.maps[name]

    def get(self, name: str) -> Tensor | None:
        """A map, None without the group."""
        return self.maps.get(name)

    def expected(self, name: str) -> Tensor:
        """The mean of a group over the blending weight of each pixel, [H, W, C]; 0 where nothing is."""
        return rendering.expected(self.maps[name], self.alpha)


def activated(params: Any, *, antialiased: bool = False) -> rendering.Gaussians:
    """The geometry of splatfacto's parameters by name."""
    return rendering.Gaussians(
        params["means"],
        params["quats"],
        params["scales"].exp(),
        params["opacities"].sigmoid().squeeze(-1),
        antialiased,
    )


def camera_of(
    camera: Cameras, device: torch.device | str, *, factor: int = 1, pose: Tensor | None = None
) -> rendering.Camera:
    """nerfstudio's camera (OpenGL axes, camera to world) as the rasteriser's.

    A camera of the host's goes to a CUDA device in one copy, for which nothing waits.

    Args:
        camera: one camera, of shape [] or [1].
        device: where the result lies.
        factor: pictures are so many times smaller than the camera's.
        pose: camera to world [..., 3, 4] on the device, in the place of the camera's own.
    """
    width, height = int(camera.width) // factor, int(camera.height) // factor
    zero, one = torch.zeros(1), torch.ones(1)
    fx, fy, cx, cy = (v.reshape(1).cpu() / factor for v in (camera.fx, camera.fy, camera.cx, camera.cy))
    K = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).reshape(3, 3)
    if pose is not None:
        return rendering.Camera(world_to_camera(pose.reshape(3, 4)), K.to(device), width, height)
    viewmat = world_to_camera(camera.camera_to_worlds.reshape(-1, 4)[:3].cpu())
    if torch.device(device).type != "cuda":
        return rendering.Camera(viewmat.to(device), K.to(device), width, height)
    both = torch.cat([viewmat.reshape(16), K.reshape(9)]).pin_memory().to(device, non_blocking=True)
    return rendering.Camera(both[:16].reshape(4, 4), both[16:].reshape(3, 3), width, height)


def world_to_camera(pose: Tensor) -> Tensor:
    """World to camera [4, 4] with OpenCV's axes, from camera to world [3, 4] with OpenGL's; in the pose's graph."""
    rotation = torch.stack([pose[:, 0], -pose[:, 1], -pose[:, 2]])
    moved = -(rotation @ pose[:, 3])
    upper = torch.cat([rotation, moved[:, None]], dim=1)
    return torch.cat([upper, F.pad(torch.ones_like(pose[:1, :1]), (3, 0))])


def object_ids(
    blend: Blend, objects: ObjectTable, classifier: IdentityClassifier, shown: DrawnRows | None
) -> Tensor:
    """The object id of every pixel, int32 [H, W], IGNORE where nothing is.

    Args:
        blend: with ``identity`` [H, W, D] (without it there are only the ids of edited objects) and, of these, ``edited``.
        objects: the scene's.
        classifier: of encodings.
        shown: what is edited; None if nothing is.
    """
    identity, edited, alpha = blend.get("identity"), blend.get("edited"), blend.alpha[..., 0]
    if identity is None:
        ids = torch.full(alpha.shape, IGNORE, dtype=torch.int64, device=alpha.device)
    elif shown is None:
        ids = objects.ids_of(classify(identity, classifier))
    else:  # where something was taken away, what is left is less than the classifier knows
        share = (alpha - shown.relabelled_weight(edited)).clamp(min=0.01)
        left = torch.isin(torch.tensor(objects.ids), shown.learned_ids.cpu()).to(alpha.device)
        among = left if bool(left.any()) else None
        ids = objects.ids_of(classify(identity / share[..., None], classifier, among=among))
    if shown is not None:
        ids = shown.object_ids(ids, alpha, edited)
    solid = alpha >= MIN_ACCUMULATION
    return torch.where(solid, ids, ids.new_full((), IGNORE)).to(torch.int32)


def add_segmentation(
    outputs: Outputs,
    blend: Blend,
    objects: ObjectTable,
    classifier: IdentityClassifier,
    shown: DrawnRows | None,
    project_identity: Callable[[Tensor], Tensor],
) -> None:
    """The outputs ``segmentation`` and ``identity``, the ids that evaluation compares, and the glow of a selection.

    Args:
        outputs: with ``rgb`` and ``background``; changed.
        blend, objects, classifier, shown: as :func:`object_ids`.
        project_identity: encodings [H, W, D] to colours [H, W, 3].
    """
    ids = outputs.object_ids = object_ids(blend, objects, classifier, shown)
    table = objects if shown is None else shown.arrangement.objects
    background = outputs["background"]
    outputs["segmentation"] = torch.where((ids != IGNORE)[..., None], table.colorize(ids), background)
    identity = blend.get("identity")
    outputs["identity"] = (
        torch.full_like(outputs["rgb"], 0.5) if identity is None else project_identity(identity)
    )
    if shown is not None:
        pixels = shown.selected_pixels(ids, blend.alpha[..., 0], blend.get("edited"))
        if pixels is not None and bool(pixels.any()):
            rings = outline(pixels)
            for name in ("rgb", "segmentation"):
                outputs[name] = glow(outputs[name], pixels, rings)


def identity_directions(dim: int) -> Tensor:
    """Three fixed directions of encodings, [dim, 3], at right angles: what a picture of encodings shows as red, green and blue."""
    drawn = torch.randn(dim, 3, generator=torch.Generator().manual_seed(3))
    return torch.linalg.qr(drawn)[0]


def empty_outputs(outputs: dict[str, Any], width: int, height: int) -> Outputs:
    """The maps of a camera that sees nothing: splatfacto's, and ours."""
    result = Outputs(outputs)
    rgb = result["background"] = result["rgb"]
    result["segmentation"] = rgb.clone()
    result["boundary"] = torch.zeros_like(rgb)
    result["identity"] = torch.full_like(rgb, 0.5)
    result.object_ids = torch.full((height, width), IGNORE, dtype=torch.int32, device=rgb.device)
    return result


@torch.no_grad()
def cut_outs(
    gaussians: rendering.Gaussians, classes: Tensor, camera: rendering.Camera, wanted: Iterable[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Some objects, each rendered alone.

    Args:
        gaussians: N Gaussians.
        classes: int [N], which object each belongs to.
        camera: the view.
        wanted: which objects.

    Yields:
        the object, its accumulation [H, W] and its depth [H, W] (0 where nothing is).
    """
    for which in wanted:
        rows = classes == which
        depth, alpha = rendering.depth(rendering.project(gaussians.map(lambda t, rows=rows: t[rows]), camera))
        yield which, alpha, depth


@torch.no_grad()
def weight_nearer(gaussians: rendering.Gaussians, camera: rendering.Camera, depth: float) -> float:
    """The share of a picture, 0 to 1, that Gaussians nearer than a depth (world units, by their centres) have of it."""
    projection = rendering.project(gaussians, camera)
    nearer = (projection.depths[0] < depth) & (projection.radii[0] > 0)
    (weight,), _ = rendering.rasterize(projection, [nearer.to(gaussians.means.dtype)[:, None]])
    return float(weight.mean())
