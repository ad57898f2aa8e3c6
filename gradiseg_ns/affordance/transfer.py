"""From exemplars to a scene: patches get the class of their nearest exemplar tokens, Gaussians that of the photos' votes.

A patch of a photo gets the class that most of its k nearest exemplar tokens have, by inner product. The patches make a map. The maps
of all photos vote on the Gaussians as masks do (`votes`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.affordance import AFFORDANCES, DEFAULT_K
from gradiseg_ns.affordance.exemplars import Exemplar, ExemplarError
from gradiseg_ns.affordance.tokens import CentredTokens, PatchTokens
from gradiseg_ns.scene.objects import object_colors
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.accumulate import VoteAccumulator
from gradiseg_ns.votes.labels import majority, render_classes

MEAN_VIEWS = 64
"""Most photos of the scene that the means of positions are taken over."""
MIN_PICTURES = 8
"""Fewest pictures for the means of positions: of fewer, a mean is mostly what they show."""

_CHUNK = 1 << 24
"""Inner products that are held at once."""


class TransferError(GradisegError):
    """The transfer cannot be done with these options; the message says which and what to do."""


# --------------------------------------------------------------------------------------------------------- matching


def check_k(k: int) -> None:
    """Raise TransferError unless at least one exemplar token votes."""
    if k < 1:
        raise TransferError(f"--k {k}: expected at least 1.")


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
        progress: Callable[[int], None] | None = None,
    ) -> ExemplarBank:
        """The tokens of some exemplars; `progress` is called with the number of each that is done.

        Raises:
            ExemplarError: what is painted is not one of the classes.
        """
        tokens, shares = [], []
        for number, exemplar in enumerate(exemplars):
            painted = torch.from_numpy(exemplar.classes.astype(np.int64))
            if painted.numel() == 0 or int(painted.min()) < 0 or int(painted.max()) >= classes:
                raise ExemplarError(f"exemplar {exemplar.name}: expected classes from 0 to {classes - 1}.")
            grid = model.tokens(exemplar.image)
            tokens.append(grid.flatten(0, 1))
            shares.append(
                patch_shares(painted.to(grid.device), grid.shape[0], grid.shape[1], classes).flatten(0, 1)
            )
            if progress is not None:
                progress(number)
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
            TransferError: k is less than 1.
        """
        check_k(k)
        flat, classes = tokens.flatten(0, -2), self.shares.shape[1]
        own = self.shares.argmax(dim=1)
        leading, votes = [], []
        for part in flat.split(max(1, _CHUNK // len(self.tokens))):
            nearest = (part @ self.tokens.T).topk(min(k, len(self.tokens)), dim=1).indices
            voted = own[nearest]
            count = torch.zeros(len(part), classes, device=flat.device)
            count.scatter_add_(1, voted, torch.ones_like(voted, dtype=count.dtype))
            leads = count.gather(1, voted) == count.amax(dim=1, keepdim=True)
            # argmax of booleans as integers: the first, that is the nearest, of those that lead.
            leading.append(voted.gather(1, leads.to(torch.uint8).argmax(dim=1, keepdim=True))[:, 0])
            votes.append(count / nearest.shape[1])
        return torch.cat(leading).view(tokens.shape[:-1]), torch.cat(votes).view(*tokens.shape[:-1], classes)


def patch_shares(painted: Tensor, rows: int, columns: int, classes: int) -> Tensor:
    """Part of each patch's area that each class has, exactly, also where patches cut through pixels.

    Args:
        painted: int64 [H, W] class of each pixel.

    Returns:
        float32 [rows, columns, classes]
    """
    return area_mean(F.one_hot(painted, classes).to(torch.float32), rows, columns)


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
        patches, votes = bank.classify(model.tokens(image), k)
        size = image.shape[:2]
        if smooth:
            votes = F.interpolate(votes.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
            maps = votes[0].argmax(dim=0)
        else:
            maps = F.interpolate(patches[None, None].float(), size, mode="nearest-exact")[0, 0]
        yield maps.to(torch.int32)
        if progress is not None:
            progress()


# -------------------------------------------------------------------------------------------------------------- 3-D


View = tuple[str, rendering.Camera, NDArray[np.uint8]]
"""Name, camera and photo [H, W, 3] of a view."""


@dataclass(frozen=True)
class AffordanceResult:
    """What `transfer` found."""

    classes: Tensor
    """int64 [N] class of each Gaussian; `votes.labels.UNSEEN` (-1) where no view sees it."""
    shares: Tensor
    """float32 [N, classes] of its votes; rows sum to 1, or are 0 where it is unseen."""
    maps_2d: dict[str, Tensor]
    """By view, the classes int32 [H, W] that its photo alone gives."""
    class_names: tuple[str, ...]
    colors: Tensor
    """float32 [classes, 3], RGB in 0..1."""

    @property
    def labels(self) -> Tensor:
        """The name of version 0.1 of `classes`, with a DeprecationWarning."""
        warnings.warn("AffordanceResult.labels is called classes now.", DeprecationWarning, stacklevel=2)
        return self.classes


def prepare(
    images: Sequence[NDArray[np.uint8]],
    exemplars: Sequence[Exemplar],
    model: PatchTokens,
    classes: int,
    *,
    mirror: bool = False,
    position_means: bool = False,
    progress: Callable[[str], None] | None = None,
) -> tuple[PatchTokens, ExemplarBank]:
    """What photos are matched with: the model, which may be centred, and the exemplars' patches.

    Args:
        images: photos of the scene, uint8 [H, W, 3] each. Only the means of positions need them.
        classes: how many there are, background included.
        mirror: every exemplar also counts mirrored.
        position_means: subtract the mean token of each position (`CentredTokens`). It is taken over all exemplars, the mirrored
            ones included, and over the photos, of which at most `MEAN_VIEWS` evenly spread ones.
        progress: called with a name for each picture that is done, `prepare_steps` times.

    Raises:
        ExemplarError: there are no exemplars, or what is painted is not of these classes.
        TransferError: there are fewer than `MIN_PICTURES` pictures for the means of positions.
    """
    if not exemplars:
        raise ExemplarError("no exemplars: expected at least one photo with painted regions.")
    if mirror:
        exemplars = [*exemplars, *(exemplar.mirrored() for exemplar in exemplars)]

    def report(number: int) -> None:
        if progress is not None:
            progress(exemplars[number].name if number < len(exemplars) else "position means")

    if position_means:
        chosen = np.linspace(0, len(images) - 1, min(len(images), MEAN_VIEWS)).round().astype(int)
        pictures = [*(exemplar.image for exemplar in exemplars), *(images[i] for i in chosen)]
        if len(pictures) < MIN_PICTURES:
            raise TransferError(
                f"--position-means: {len(pictures)} pictures (exemplars and photos of the scene), expected at least "
                f"{MIN_PICTURES}. The mean of fewer is mostly what they show; leave the option out."
            )
        model = CentredTokens.over(pictures, model, report)
    return model, ExemplarBank.build(exemplars, model, classes, progress=report)


def prepare_steps(images: int, exemplars: int, *, mirror: bool = False, position_means: bool = False) -> int:
    """How often `prepare` calls its `progress`, for so many photos and exemplars."""
    exemplars *= 2 if mirror else 1
    return exemplars + ((exemplars + min(images, MEAN_VIEWS)) if position_means else 0)


def transfer(
    views: Iterable[View],
    gaussians: rendering.Gaussians,
    exemplars: Sequence[Exemplar],
    model: PatchTokens,
    class_names: Sequence[str] = AFFORDANCES,
    *,
    k: int = DEFAULT_K,
    mirror: bool = False,
    position_means: bool = False,
    smooth: bool = True,
    progress: Callable[[str], None] | None = None,
) -> AffordanceResult:
    """Affordances of a scene's Gaussians from exemplars; see the top of this file.

    Args:
        views: of the scene.
        gaussians: N Gaussians.
        class_names: as `read_exemplars` returns them.
        k: nearest exemplar tokens that are asked.
        mirror, position_means: as in `prepare`.
        smooth: as in `affordance_maps`.
        progress: called with a name for each picture that is done: as often as `prepare_steps` says, and once a view.

    Raises:
        ExemplarError: there are no exemplars, or what is painted is not of these classes.
        TransferError: k is less than 1, or there are too few pictures for the means of positions.
        ValueError: a photo has another size than its camera.
    """
    check_k(k)
    views = list(views)
    model, bank = prepare(
        [image for _, _, image in views], exemplars, model, len(class_names),
        mirror=mirror, position_means=position_means, progress=progress,
    )  # fmt: skip
    accumulator = VoteAccumulator(len(gaussians.means), len(class_names), gaussians.means.device)
    maps_2d = {}
    for name, camera, image in views:
        (found,) = affordance_maps([image], model, bank, k, smooth=smooth)
        maps_2d[name] = found.cpu()
        with torch.no_grad():
            projection = rendering.project(gaussians, camera)
        accumulator.add(projection, found)
        if progress is not None:
            progress(name)
    votes = accumulator.result()
    shares = votes.dense() / votes.total().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return AffordanceResult(
        majority(votes).classes, shares, maps_2d, tuple(class_names), object_colors(range(len(class_names)))
    )


def class_map(projection: rendering.Projection, classes: Tensor) -> Tensor:
    """Classes of Gaussians as a camera sees them: int32 [H, W], background where there are none.

    One-hot classes are blended and the largest wins. Blending `AffordanceResult.shares` instead was measured: no better.

    Args:
        projection: of N Gaussians.
        classes: int64 [N], negative for none.
    """
    return render_classes(projection, classes)[0].clamp(min=0).to(torch.int32)


def render_labels(projection: rendering.Projection, labels: Tensor) -> Tensor:
    """The name of version 0.1 of `class_map`, with a DeprecationWarning."""
    warnings.warn("render_labels is called class_map now.", DeprecationWarning, stacklevel=2)
    return class_map(projection, labels)


# --------------------------------------------------------------------------------------------------------- pictures


def legend(names: Sequence[str], colors: Tensor, classes: Sequence[int], width: int) -> Image.Image:
    """The colours and names of some classes, in lines of at most `width` pixels.

    Args:
        names: of all classes.
        colors: [classes, 3], RGB in 0..1.
        classes: which of them.
        width: of the picture, in pixels.
    """
    side, gap, line = 12, 6, 20
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries, x, y = [], 0, 0
    for k in classes:
        text = _drawable(f"{k} {names[k]}")
        length = side + gap + int(pen.textlength(text)) + 3 * gap
        if x > 0 and x + length > width:
            x, y = 0, y + line
        entries.append((x, y, text, tuple(round(255 * c) for c in colors[k].tolist())))
        x += length
    picture = Image.new("RGB", (width, y + line), "white")
    pen = ImageDraw.Draw(picture)
    for x, y, text, color in entries:
        top = y + (line - side) // 2
        pen.rectangle((x + gap, top, x + gap + side - 1, top + side - 1), fill=color, outline="black")
        pen.text((x + 2 * gap + side, y + line // 2), text, fill="black", anchor="lm")
    return picture


def _drawable(text: str) -> str:
    """A name of others as Pillow's own font can draw it, on one line."""
    return (
        "".join(c if c.isprintable() else "?" for c in text)
        .encode("latin-1", "replace")
        .decode("latin-1")[:60]
    )
