"""Affordances: what the parts of a scene are good for, taken over from a few painted photos (arXiv 2409.11681).

Exemplars are photos with painted regions. An image model turns them and the scene's views into a token for every patch.
A patch of a view gets the class that the most of its k nearest exemplar tokens have (by inner product), the patches
make a map, and the maps of all views vote on the Gaussians as masks do:

    exemplars, classes = read_exemplars(folder)
    model = TokenModel.load("facebook/dinov2-small")
    result = transfer(views, splat.gaussians(), exemplars, model, classes)
    result.labels  # a class for every Gaussian

Nothing is trained. Nothing is downloaded unless `TokenModel.load` is told to and the weights are not there.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IdMapError, read_id_map, read_object_names
from gradiseg_ns.scene.objects import object_colors
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import VoteAccumulator
from gradiseg_ns.votes.labels import majority, render_classes

AFFORDANCES: tuple[str, ...] = (
    "background",
    "grasp",
    "cut",
    "scoop",
    "contain",
    "pound",
    "support",
    "wrap-grasp",
)
"""The paper's classes, by id."""
MAX_CLASSES = 256
"""More than that are object ids rather than classes."""
DEFAULT_K = 5
"""Nearest exemplar tokens that are asked, as in the paper."""
DEFAULT_RESOLUTION = 518
"""Longer side of the image that a model sees, in pixels: what DINOv2 was trained on."""

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LABELS = "_labels"
_CHUNK = 1 << 24
"""Inner products that are held at once."""


class ExemplarError(GradisegError):
    """The exemplars cannot be used; the message says which, why, and what to do."""


class TokenModelError(GradisegError):
    """The image model cannot be had or is of another kind; the message says what to do."""


# -------------------------------------------------------------------------------------------------- exemplars


@dataclass(frozen=True)
class Exemplar:
    """A photo with painted regions."""

    name: str
    """The photo's file name without its suffix."""
    image: NDArray[np.uint8]
    """[H, W, 3]"""
    labels: NDArray[np.int32]
    """[H, W] classes; 0 is background."""


def read_exemplars(folder: str | Path) -> tuple[list[Exemplar], list[str]]:
    """Read all exemplars of a folder.

    Beside every photo lies what was painted on it, as one of:

    - `<photo>.json`, as labelme saves it: polygons, rectangles and circles, whose `label` is the name of the class; later
      shapes lie on top. It may stand alone if its `imagePath` leads to a photo of the folder, or if it holds the photo.
    - `<photo>_labels.png` or `labels/<photo>.png`: an id map.

    `classes.json`, like {"1": "grasp"}, names the ids and the classes that may occur. Without it, ids are those of
    `AFFORDANCES`; shapes may then have any names, which are numbered in alphabetical order unless all are in `AFFORDANCES`.

    Returns:
        the exemplars in the order of their names, and the names of the classes: class k is called names[k].

    Raises:
        ExemplarError: there are none, a photo has no labels, a file cannot be used, or nothing but background is painted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExemplarError(f"--exemplars {folder}: no such folder.")
    sources = _find_exemplars(folder)
    painted = {path: _read_shapes(path) for _, path in sources if path.suffix.lower() == ".json"}
    names = _class_names(
        folder,
        {shape.label for _, shapes in painted.values() for shape in shapes},
        len(painted) < len(sources),
    )
    exemplars = []
    for photo, path in sources:
        if path in painted:
            content, shapes = painted[path]
            image = _embedded_image(content, path) if photo is None else _read_photo(photo)
            height, width = image.shape[:2]
            size = content.get("imageHeight") or height, content.get("imageWidth") or width
            labels = _paint(shapes, (height, width), names)
        else:
            assert photo is not None
            image, labels = _read_photo(photo), _read_label_map(path, names)
            size = labels.shape
        if tuple(size) != image.shape[:2]:
            raise ExemplarError(
                f"{path} is for a photo of {size[1]} x {size[0]} pixels, but {photo or 'the one in it'} has "
                f"{image.shape[1]} x {image.shape[0]}. Paint on this very photo, at its full size."
            )
        exemplars.append(Exemplar((photo or path).stem, image, labels))
    if not any(exemplar.labels.any() for exemplar in exemplars):
        raise ExemplarError(
            f"{folder}: nothing but background is painted on the {len(exemplars)} exemplars. Paint at least one region "
            "of another class."
        )
    return exemplars, names


def _find_exemplars(folder: Path) -> list[tuple[Path | None, Path]]:
    """Photo (None: inside the labels) and labels of every exemplar, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    photos = [path for path in files if path.suffix.lower() in _PHOTOS and not path.stem.endswith(_LABELS)]
    shapes = [path for path in files if path.suffix.lower() == ".json" and path.name != "classes.json"]
    found: dict[str, tuple[Path | None, Path]] = {}
    for path in shapes:
        photo = _photo_of_shapes(path, photos)
        key = (photo or path).stem
        if key in found:
            raise ExemplarError(
                f"{found[key][1]} and {path} both belong to {photo or path}: remove one of them."
            )
        found[key] = (photo, path)
    for photo in photos:
        maps = [folder / f"{photo.stem}{_LABELS}.png", folder / "labels" / f"{photo.stem}.png"]
        maps = [path for path in maps if path.is_file()]
        if photo.stem in found or len(maps) > 1:
            taken = found.get(photo.stem)
            if maps or (taken is not None and taken[0] != photo):
                raise ExemplarError(
                    f"{photo} has more than one file of labels, or its name twice: keep one photo and one of "
                    f"{photo.stem}.json, {photo.stem}{_LABELS}.png and labels/{photo.stem}.png."
                )
            continue
        if not maps:
            raise ExemplarError(
                f"{photo} has no labels: expected {photo.stem}.json (labelme), {photo.stem}{_LABELS}.png or "
                f"labels/{photo.stem}.png. Label it, or take it out of the folder."
            )
        found[photo.stem] = (photo, maps[0])
    if not found:
        raise ExemplarError(
            f"--exemplars {folder} is empty: expected photos ({', '.join(_PHOTOS)}), each with a labelme JSON or an "
            f"id map (<photo>{_LABELS}.png) beside it."
        )
    return [found[key] for key in sorted(found)]


def _photo_of_shapes(path: Path, photos: Sequence[Path]) -> Path | None:
    """The photo a labelme file belongs to; None if the file holds it itself.

    Raises:
        ExemplarError: there is none.
    """
    beside = [photo for photo in photos if photo.stem == path.stem]
    if len(beside) == 1:
        return beside[0]
    content = _read_json(path)
    named = str(content.get("imagePath") or "")
    # A file from elsewhere may name any path of this machine: only photos of the folder are opened.
    if named:
        photo = (path.parent / named.replace("\\", "/")).resolve()
        for candidate in photos:
            if candidate.resolve() == photo:
                return candidate
    if content.get("imageData"):
        return None
    raise ExemplarError(
        f"{path} belongs to no photo: there is no single {path.stem}.jpg or .png beside it, its imagePath "
        f"({named or 'none'}) is no photo of this folder, and it holds none. Put the photo beside it."
    )


def _read_photo(path: Path) -> NDArray[np.uint8]:
    try:
        return _decode(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise ExemplarError(f"The photo {path} cannot be read ({error}).") from error


def _decode(source: Path | io.BytesIO) -> NDArray[np.uint8]:
    """[H, W, 3], turned as its orientation tag says: as the person who painted saw it."""
    with Image.open(source) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _embedded_image(content: Mapping[str, Any], path: Path) -> NDArray[np.uint8]:
    try:
        return _decode(io.BytesIO(base64.b64decode(content["imageData"], validate=True)))
    except (OSError, SyntaxError, ValueError, TypeError, binascii.Error) as error:
        raise ExemplarError(
            f"The photo inside {path} (imageData) cannot be read ({error}). Put the photo beside the file."
        ) from error


def _read_label_map(path: Path, names: Sequence[str]) -> NDArray[np.int32]:
    try:
        labels = read_id_map(path)
    except IdMapError as error:
        raise ExemplarError(str(error)) from error
    if labels.size and int(labels.max()) >= len(names):
        raise ExemplarError(
            f"{path} has the id {int(labels.max())}, but there are {len(names)} classes (0 to {len(names) - 1}: "
            f'{", ".join(names)}). Name the ids in classes.json, like {{"1": "grasp"}}.'
        )
    return labels


def _class_names(folder: Path, painted: set[str], with_maps: bool) -> list[str]:
    """Names of the classes, by id.

    Args:
        painted: names that occur in labelme files.
        with_maps: there are id maps too, so that ids must be known.

    Raises:
        ExemplarError: a name has no id, or there are too many classes.
    """
    given = folder / "classes.json"
    painted = painted - {"background"}
    if given.is_file():
        try:
            named = read_object_names(given)
        except IdMapError as error:
            raise ExemplarError(str(error)) from error
        if any(not 0 <= k < MAX_CLASSES for k in named):
            raise ExemplarError(f"{given}: expected ids from 0 to {MAX_CLASSES - 1}, found {sorted(named)}.")
        named = {0: "background", **named}
        names = [named.get(k, f"class {k}") for k in range(max(named) + 1)]
        if len(set(names)) < len(names):
            raise ExemplarError(f"{given}: two ids have the same name.")
    elif painted <= set(AFFORDANCES) or with_maps:
        given, names = Path("the classes of arXiv 2409.11681"), list(AFFORDANCES)
    else:
        names = ["background", *sorted(painted)]
    unknown = sorted(painted - set(names))
    if unknown:
        raise ExemplarError(
            f"{folder}: the shapes are called {', '.join(unknown)}, which {given} does not have "
            f"({', '.join(names)}). Correct the shapes, or name all classes in classes.json."
        )
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ExemplarError(
            f"{folder}: {len(names)} classes; expected background and at least one other, {MAX_CLASSES} at most."
        )
    return names


# ---------------------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True)
class _Shape:
    label: str
    kind: str
    points: NDArray[np.float64]
    """[P, 2] columns and rows, in pixels from the photo's upper left corner."""


_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}
"""Kinds of shapes, and how many points they have at least."""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ExemplarError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ExemplarError(f"{path} is not a file of labelme's: expected an object with a list of shapes.")
    return content


def _read_shapes(path: Path) -> tuple[dict[str, Any], list[_Shape]]:
    content = _read_json(path)
    shapes = []
    for i, shape in enumerate(content["shapes"]):
        where = f"{path}, shape {i}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ExemplarError(f"{where}: expected an object with a label, the name of a class.")
        kind = shape.get("shape_type") or "polygon"
        if kind not in _POINTS:
            raise ExemplarError(
                f"{where} ({shape['label']}) is a {kind}: expected {', '.join(_POINTS)}. Draw the region as a polygon."
            )
        try:
            points = np.asarray(shape.get("points"), dtype=np.float64)
        except (TypeError, ValueError):
            points = np.empty(0)
        fits = points.ndim == 2 and points.shape[1] == 2 and len(points) >= _POINTS[kind]
        if not fits or not np.isfinite(points).all():
            raise ExemplarError(
                f"{where} ({shape['label']}): a {kind} needs {_POINTS[kind]} points [x, y] or more."
            )
        name = (
            "background" if shape["label"] == "_background_" else shape["label"]
        )  # labelme's own name for it
        shapes.append(_Shape(name, kind, points))
    return content, shapes


def _paint(shapes: Sequence[_Shape], size: tuple[int, int], names: Sequence[str]) -> NDArray[np.int32]:
    """Classes [H, W] of the pixels: of those whose centre lies in a shape, the last shape's."""
    labels = np.zeros(size, np.int32)
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1])[None, :] + 0.5
    for shape in shapes:
        low, high = shape.points.min(axis=0), shape.points.max(axis=0)
        if shape.kind == "circle":  # the centre, and a point on the rim
            centre, rim = shape.points[:2]
            inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= ((rim - centre) ** 2).sum()
        elif shape.kind == "rectangle":
            inside = (x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1])
        else:
            inside = _inside_polygon(shape.points, size)
        labels[inside] = names.index(shape.label)
    return labels


def _inside_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether the centre of each pixel [H, W] lies inside, by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre the edge passes, the lower end excluded: two edges that meet are counted once.
        first, last = (int(np.clip(math.ceil(y - 0.5), 0, height)) for y in (y0, y1))
        rows = np.arange(first, last)
        if len(rows):
            column = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(column - 0.5), 0, width).astype(np.int64)] += 1
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


# ---------------------------------------------------------------------------------------------------- tokens


class PatchTokens(Protocol):
    """What turns images into tokens: `TokenModel`, or anything with this method."""

    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of an image uint8 [H, W, 3]; together they cover the image."""
        ...


@dataclass
class TokenModel:
    """Patch tokens of a vision transformer such as DINOv2."""

    network: Any
    """A model of transformers' interface: config.patch_size, pixel_values in, hidden_states out."""
    mean: tuple[float, ...]
    """Of the three colours, in 0..1: what the model expects to be subtracted."""
    std: tuple[float, ...]
    patch: int
    """Side of a patch in pixels."""
    layer: int | None = None
    """Tokens after that block, counted from 1 (0: before the first, -1: after the last); None: what the model returns
    in the end, after its final normalisation."""
    resolution: int = DEFAULT_RESOLUTION
    """Longer side of the image that the model sees, in pixels."""

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        layer: int | None = None,
        resolution: int = DEFAULT_RESOLUTION,
        device: torch.device | str = "cpu",
        offline: bool = False,
    ) -> TokenModel:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Args:
            name: such as facebook/dinov2-small.
            offline: never reach for the network; weights must be in the folder or in the hub's cache.

        Raises:
            TokenModelError: transformers is not installed, the weights cannot be had, or the model is of another kind.
        """
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise TokenModelError(
                "Affordance transfer needs the package transformers: pip install gradiseg-ns[masks]"
            ) from error
        try:
            processor: Any = AutoImageProcessor.from_pretrained(str(name), local_files_only=offline)
            network: Any = AutoModel.from_pretrained(str(name), local_files_only=offline)
        except (OSError, ValueError, ImportError) as error:
            raise TokenModelError(
                f"--model {name} cannot be loaded: {error}\nWithout a network, or with --offline, fetch the weights where "
                f"there is one (hf download {name} --local-dir FOLDER), bring the folder here and give --model FOLDER."
            ) from error
        patch = getattr(network.config, "patch_size", None)
        if isinstance(patch, (tuple, list)):
            patch = patch[0] if len(set(patch)) == 1 else None
        if not isinstance(patch, int):
            raise TokenModelError(
                f"--model {name} is a {type(network).__name__} without a patch size: expected a vision transformer such "
                "as facebook/dinov2-small."
            )
        depth = getattr(network.config, "num_hidden_layers", None)
        if layer is not None and depth is not None and not -depth <= layer <= depth:
            raise TokenModelError(f"--layer {layer}: {name} has the blocks 1 to {depth}.")
        if resolution < patch:
            raise TokenModelError(f"--resolution {resolution}: expected at least one patch, {patch} pixels.")
        mean = tuple(getattr(processor, "image_mean", None) or (0.485, 0.456, 0.406))
        std = tuple(getattr(processor, "image_std", None) or (0.229, 0.224, 0.225))
        return cls(network.eval().to(device), mean, std, patch, layer, resolution)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image of this size."""
        scale = self.resolution / max(height, width) / self.patch
        return max(1, round(height * scale)), max(1, round(width * scale))

    @torch.no_grad()
    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of an image uint8 [H, W, 3].

        Raises:
            TokenModelError: the model gives fewer tokens than there are patches.
        """
        device = next(self.network.parameters()).device
        rows, columns = self.grid(*image.shape[:2])
        pixels = torch.tensor(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255
        size = (rows * self.patch, columns * self.patch)
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (self.mean, self.std))
        options: dict[str, Any] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters:
            options["interpolate_pos_encoding"] = True  # DINOv2 does so by itself, others ask
        output = self.network(pixel_values=(pixels - mean) / std, **options)
        if self.layer is None:
            found = output.last_hidden_state[0]
        else:
            found = output.hidden_states[self.layer][0]
        extra = len(found) - rows * columns  # a token for the whole image, and registers
        if extra < 0:
            raise TokenModelError(
                f"{type(self.network).__name__} gives {len(found)} tokens for {rows} x {columns} patches: expected one "
                "each. Choose a plain vision transformer such as facebook/dinov2-small."
            )
        return F.normalize(found[extra:].float(), dim=-1).view(rows, columns, -1)


@dataclass(frozen=True)
class ExemplarBank:
    """All patches of the exemplars."""

    tokens: Tensor
    """[T, C] unit vectors"""
    shares: Tensor
    """[T, classes] part of the patch's area that each class has; rows sum to 1."""

    @classmethod
    def build(
        cls,
        exemplars: Sequence[Exemplar],
        model: PatchTokens,
        classes: int,
        *,
        progress: Callable[[], None] | None = None,
    ) -> ExemplarBank:
        """The tokens of some exemplars; `progress` is called after each.

        Raises:
            ExemplarError: a label is not one of the classes.
        """
        tokens, shares = [], []
        for exemplar in exemplars:
            labels = torch.from_numpy(exemplar.labels.astype(np.int64))
            if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
                raise ExemplarError(f"exemplar {exemplar.name}: expected labels from 0 to {classes - 1}.")
            grid = model.tokens(exemplar.image)
            tokens.append(grid.flatten(0, 1))
            shares.append(
                patch_shares(labels.to(grid.device), grid.shape[0], grid.shape[1], classes).flatten(0, 1)
            )
            if progress is not None:
                progress()
        return cls(torch.cat(tokens), torch.cat(shares))

    def classify(self, tokens: Tensor, k: int = DEFAULT_K) -> tuple[Tensor, Tensor]:
        """The classes of patches: what most of the k nearest exemplar tokens have, by inner product.

        An exemplar token votes for the class that has the most of its patch. Of classes with equally many votes the one
        of the nearest token wins.

        Args:
            tokens: [h, w, C].
            k: all tokens vote if there are fewer.

        Returns:
            classes int64 [h, w], and the share of the votes that each class got, float32 [h, w, classes].

        Raises:
            ValueError: k is less than 1.
        """
        if k < 1:
            raise ValueError(f"--k {k}: expected at least 1.")
        flat, classes = tokens.flatten(0, -2), self.shares.shape[1]
        own = self.shares.argmax(dim=1)
        labels, votes = [], []
        for part in flat.split(max(1, _CHUNK // len(self.tokens))):
            nearest = (part @ self.tokens.T).topk(min(k, len(self.tokens)), dim=1).indices
            voted = own[nearest]
            count = torch.zeros(len(part), classes, device=flat.device)
            count.scatter_add_(1, voted, torch.ones_like(voted, dtype=count.dtype))
            leads = count.gather(1, voted) == count.amax(dim=1, keepdim=True)
            # argmax of booleans as integers: the first, that is the nearest, of those that lead.
            labels.append(voted.gather(1, leads.to(torch.uint8).argmax(dim=1, keepdim=True))[:, 0])
            votes.append(count / nearest.shape[1])
        return torch.cat(labels).view(tokens.shape[:-1]), torch.cat(votes).view(*tokens.shape[:-1], classes)


def patch_shares(labels: Tensor, rows: int, columns: int, classes: int) -> Tensor:
    """Part of each patch's area that each class has, exactly, also where patches cut through pixels.

    Args:
        labels: int64 [H, W].

    Returns:
        float32 [rows, columns, classes]
    """
    return area_mean(F.one_hot(labels, classes).to(torch.float32), rows, columns)


def area_mean(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Means [rows, columns, C] of maps [H, W, C] over equal cells, whose borders may cut through pixels."""
    down, across = (_overlap(n, m).to(maps) for n, m in ((rows, maps.shape[0]), (columns, maps.shape[1])))
    return torch.einsum("ry,yxk,cx->rck", down, maps, across)


def _overlap(parts: int, pixels: int) -> Tensor:
    """[parts, pixels]: how much of each of equal parts of a line lies in each pixel; rows sum to 1."""
    edges = torch.arange(parts + 1, dtype=torch.float64) * pixels / parts
    left = torch.arange(pixels, dtype=torch.float64)
    common = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return common.clamp(min=0) * parts / pixels


def affordance_maps(
    images: Iterable[NDArray[np.uint8]],
    model: PatchTokens,
    bank: ExemplarBank,
    k: int = DEFAULT_K,
    *,
    smooth: bool = True,
    progress: Callable[[], None] | None = None,
) -> Iterator[Tensor]:
    """Classes int32 [H, W] of each image uint8 [H, W, 3], at its own size.

    Args:
        smooth: interpolate the patches' votes before the winner is taken; otherwise every patch is one block.
        progress: called after each image.
    """
    for image in images:
        labels, votes = bank.classify(model.tokens(image), k)
        size = image.shape[:2]
        if smooth:
            votes = F.interpolate(votes.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
            maps = votes[0].argmax(dim=0)
        else:
            maps = F.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0, 0]
        yield maps.to(torch.int32)
        if progress is not None:
            progress()


# ------------------------------------------------------------------------------------------------------- 3-D


View = tuple[str, rendering.Camera, NDArray[np.uint8]]
"""Name, camera and photo [H, W, 3] of a view."""


@dataclass(frozen=True)
class AffordanceResult:
    """What `transfer` found."""

    labels: Tensor
    """int64 [N] class of each Gaussian; `labels.UNSEEN` (-1) where no view sees it."""
    shares: Tensor
    """float32 [N, classes] of its votes; rows sum to 1, or are 0 where it is unseen."""
    maps_2d: dict[str, Tensor]
    """By view, the classes int32 [H, W] that its photo alone gives."""
    class_names: tuple[str, ...]
    colors: Tensor
    """float32 [classes, 3], RGB in 0..1."""


def transfer(
    views: Iterable[View],
    gaussians: rendering.Gaussians,
    exemplars: Sequence[Exemplar],
    model: PatchTokens,
    class_names: Sequence[str] = AFFORDANCES,
    *,
    k: int = DEFAULT_K,
    smooth: bool = True,
    antialiased: bool = False,
    progress: Callable[[str], None] | None = None,
) -> AffordanceResult:
    """Affordances of a scene's Gaussians from exemplars; see the top of this file.

    Args:
        views: of the scene, taken one after the other.
        gaussians: N Gaussians.
        class_names: as `read_exemplars` returns them.
        k: nearest exemplar tokens that are asked.
        smooth: as in `affordance_maps`.
        antialiased: as in `rendering.project`.
        progress: called with the name of each exemplar and each view that is done.

    Raises:
        ExemplarError: there are no exemplars, or their labels are not of these classes.
        ValueError: a photo has another size than its camera.
    """
    if not exemplars:
        raise ExemplarError("no exemplars: expected at least one photo with painted regions.")
    names = iter([exemplar.name for exemplar in exemplars])
    bank = ExemplarBank.build(
        exemplars, model, len(class_names), progress=progress and (lambda: progress(next(names)))
    )
    accumulator = VoteAccumulator(len(gaussians.means), len(class_names), gaussians.means.device)
    maps_2d = {}
    for name, camera, image in views:
        (found,) = affordance_maps([image], model, bank, k, smooth=smooth)
        maps_2d[name] = found.cpu()
        with torch.no_grad():
            projection = rendering.project(gaussians, camera, antialiased=antialiased)
        accumulator.add(projection, found)
        if progress is not None:
            progress(name)
    votes = accumulator.result()
    shares = votes.dense() / votes.total().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return AffordanceResult(
        majority(votes).classes, shares, maps_2d, tuple(class_names), object_colors(range(len(class_names)))
    )


def render_labels(projection: rendering.Projection, labels: Tensor) -> Tensor:
    """Labels of Gaussians seen by a camera again: classes int32 [H, W], background where there are none.

    One-hot labels are blended and the largest wins. Blending `AffordanceResult.shares` instead was measured: no better.

    Args:
        projection: of N Gaussians.
        labels: int64 [N], negative for none.
    """
    return render_classes(projection, labels)[0].clamp(min=0).to(torch.int32)


# ---------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class AffordanceScore:
    """How well maps of classes agree with the truth, each 0 to 1; nan for what the truth does not show."""

    recall: tuple[float, ...]
    """By class: the part of its pixels that was found."""
    iou: tuple[float, ...]
    """By class: intersection over union."""
    mean_recall: float
    """Over the classes other than 0 that the truth shows."""
    mean_iou: float
    """Over the same."""


def evaluate(predicted: Tensor, truth: Tensor, classes: int) -> AffordanceScore:
    """Recall and IoU of all classes, over all pixels given: put all views together.

    Args:
        predicted: integers [...] in 0 ... classes - 1.
        truth: integers of the same shape; negative ones are left out.
        classes: how many there are, background included.

    Raises:
        ValueError: the shapes differ, or a class is out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"evaluate: {list(predicted.shape)} predictions for {list(truth.shape)} labels.")
    known = truth >= 0
    found, right = predicted[known].long(), truth[known].long().to(predicted.device)
    for values in (found, right):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= classes):
            raise ValueError(
                f"evaluate: expected classes from 0 to {classes - 1}, found {int(values.min())} to {int(values.max())}."
            )
    counts = torch.bincount(right * classes + found, minlength=classes**2).view(classes, classes).double()
    hits, shown = counts.diag(), counts.sum(dim=1)
    recall, iou = hits / shown, hits / (shown + counts.sum(dim=0) - hits)
    iou[shown == 0] = math.nan
    judged = shown > 0
    judged[0] = False
    means = [float(values[judged].mean()) for values in (recall, iou)]
    return AffordanceScore(tuple(recall.tolist()), tuple(iou.tolist()), *means)
