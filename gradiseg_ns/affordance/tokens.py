"""Patch tokens of a vision transformer, and where its weights come from.

A model's files lie in a folder, or in the cache of the Hugging Face hub. `tools.weights` alone reaches for the network, and only for a
model that is in neither. Code that comes with a model is never run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.affordance import DEFAULT_RESOLUTION
from gradiseg_ns.tools import weights
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.extras import install_command
from gradiseg_ns.tools.json_files import read_json

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in ImageNet, 0 to 1. DINOv2 and DINOv3 subtract it."""
IMAGENET_STD = (0.229, 0.224, 0.225)

_WEIGHTS = {
    "model.safetensors": re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    "pytorch_model.bin": re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
}
"""Files of weights that transformers loads, the better kind first."""


class TokenModelError(GradisegError):
    """The image model cannot be had, or is of another kind; the message says what to do."""


class PatchTokens(Protocol):
    """What turns pictures into tokens: `TokenModel`, or anything with this method."""

    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of a picture uint8 [H, W, 3]; together they cover the picture."""
        ...


# ------------------------------------------------------------------------------------------------------ the network


@dataclass
class TokenModel:
    """Patch tokens of a vision transformer such as DINOv2."""

    network: Any
    """A model with transformers' interface: config.patch_size, pixel_values in, hidden_states out."""
    mean: tuple[float, ...]
    """Of the three colours, in 0..1. It is subtracted from a picture first."""
    std: tuple[float, ...]
    """Of the three colours. The difference is divided by it."""
    patch: int
    """Side of a patch in pixels."""
    layer: int
    """Block whose tokens are taken, counted from 1. 0 takes the patches before the first block."""
    resolution: int = DEFAULT_RESOLUTION
    """Longer side of the picture that the model sees, in pixels."""

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
        """A model by its name on the Hugging Face hub, or the folder that its files lie in.

        The folder needs config.json and the weights. preprocessor_config.json tells the mean and the deviation of the colours;
        without it they are ImageNet's, which DINOv2 and DINOv3 use.

        Args:
            name: such as facebook/dinov2-small.
            layer: block whose tokens are taken, from 1. None takes `default_layer`.
            resolution: longer side of the picture that the model sees, in pixels.
            offline: never reach for the network; the files must be in the folder or in the hub's cache.

        Raises:
            TokenModelError: transformers is not installed, the files cannot be had, the model is of another kind, or it has no
                such block.
        """
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise TokenModelError(
                f"Affordance transfer needs the package transformers, which is not installed: {install_command('masks')}"
            ) from error
        folder = find_model(name, offline=offline)
        mean, std = _colors_of(folder)
        loader: Any = AutoModel
        try:
            network, found = loader.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except Exception as error:  # config, safetensors, pickle and torch: their errors have no common class
            raise TokenModelError(
                f"--model {name}: {folder} cannot be loaded ({type(error).__name__}: {error}). Expected config.json of a "
                "vision transformer that transformers knows, and its weights (model.safetensors)."
            ) from error
        # A pooler makes one token of the whole picture, which nobody asks for here.
        missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)
        if missing:
            raise TokenModelError(
                f"--model {name}: the weights in {folder} lack {len(missing)} tensors of the model, such as {missing[0]}, which "
                "would be random numbers. Expected the weights of the whole model."
            )
        if not hasattr(network.config, "patch_size") and hasattr(network, "vision_model"):
            network = network.vision_model  # of a model for pictures and text, such as CLIP
        patch = getattr(network.config, "patch_size", None)
        if isinstance(patch, (tuple, list)):
            patch = patch[0] if len(set(patch)) == 1 else None
        if not isinstance(patch, int):
            raise TokenModelError(
                f"--model {name} is a {type(network).__name__} without a patch size: expected a vision transformer such "
                "as facebook/dinov2-small."
            )
        if resolution < patch:
            raise TokenModelError(
                f"--resolution {resolution}: expected at least one patch of {name}, {patch} pixels."
            )
        model = cls(network.eval().to(device), mean, std, patch, 0, resolution)
        depth = model._depth(name)
        if layer is not None and not 1 <= layer <= depth:
            raise TokenModelError(f"--layer {layer}: expected 1 to {depth}, the blocks of {name}.")
        model.layer = default_layer(depth) if layer is None else layer
        return model

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for a picture of this size."""
        scale = self.resolution / max(height, width) / self.patch
        return max(1, round(height * scale)), max(1, round(width * scale))

    @torch.no_grad()
    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of a picture uint8 [H, W, 3].

        Raises:
            TokenModelError: the model gives fewer tokens than there are patches.
        """
        device = next(self.network.parameters()).device
        rows, columns = self.grid(*image.shape[:2])
        pixels = torch.tensor(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255
        size = (rows * self.patch, columns * self.patch)
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (self.mean, self.std))
        found = self._states((pixels - mean) / std)[self.layer][0]
        # The tokens of the whole picture and the registers stand before the patches.
        extra = self._surplus(found, rows, columns)
        return F.normalize(found[extra:].float(), dim=-1).view(rows, columns, -1)

    def _states(self, pixels: Tensor) -> Sequence[Tensor]:
        """Tokens [1, T, C] before the first block and after each."""
        options: dict[str, Any] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters:
            options["interpolate_pos_encoding"] = True  # DINOv2 does so by itself, others ask
        return self.network(pixel_values=pixels, **options).hidden_states

    def _surplus(self, tokens: Tensor, rows: int, columns: int) -> int:
        surplus = len(tokens) - rows * columns
        if surplus < 0:
            raise TokenModelError(
                f"{type(self.network).__name__} gives {len(tokens)} tokens for {rows} x {columns} patches: expected one "
                "each. Choose a plain vision transformer such as facebook/dinov2-small."
            )
        return surplus

    @torch.no_grad()
    def _depth(self, name: str | Path) -> int:
        """How many blocks there are. A picture of 2 x 3 patches tells, and whether the model can be used at all.

        Raises:
            TokenModelError: it cannot.
        """
        device = next(self.network.parameters()).device
        try:
            states = self._states(torch.zeros(1, 3, 2 * self.patch, 3 * self.patch, device=device))
            depth = len(states) - 1
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise TokenModelError(
                f"--model {name} is a {type(self.network).__name__}, which gives no tokens for a picture of 2 x 3 patches "
                f"({error}). Expected a plain vision transformer such as facebook/dinov2-small."
            ) from error
        for tokens in states[1:]:
            self._surplus(tokens[0], 2, 3)
        return depth


def default_layer(depth: int) -> int:
    """The block at two thirds of a model's depth: 8 of 12.

    With learnt tokens the blocks 7 to 9 of 12 were 20 points of mIoU and more above the model's end (docs/affordance.md).
    """
    return max(1, round(2 * depth / 3))


@dataclass(frozen=True)
class CentredTokens:
    """Tokens of a model without what all pictures have in common at a position.

    A token of a vision transformer also tells where in the picture its patch lies. In a mirrored or moved picture that is of no
    use. The mean token of a position over many pictures holds what the position adds, and is subtracted.
    """

    model: PatchTokens
    mean: Tensor
    """[h, w, C] mean of the unit tokens."""

    @classmethod
    def over(
        cls,
        images: Sequence[NDArray[np.uint8]],
        model: PatchTokens,
        progress: Callable[[int], None] | None = None,
    ) -> CentredTokens:
        """The mean over some pictures uint8 [H, W, 3]; `progress` is called with the number of each that is done.

        Pictures of other sizes than the first are resampled to its grid of patches.

        Raises:
            ValueError: there are no pictures.
        """
        total = None
        for number, image in enumerate(images):
            tokens = model.tokens(image)
            total = (
                tokens.clone()
                if total is None
                else total + _resampled(tokens, total.shape[0], total.shape[1])
            )
            if progress is not None:
                progress(number)
        if total is None:
            raise ValueError("CentredTokens.over: no pictures.")
        return cls(model, total / len(images))

    def tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit vectors [h, w, C] of the patches of a picture uint8 [H, W, 3]."""
        tokens = self.model.tokens(image)
        return F.normalize(tokens - _resampled(self.mean, tokens.shape[0], tokens.shape[1]), dim=-1)


def _resampled(grid: Tensor, rows: int, columns: int) -> Tensor:
    """A grid [h, w, C] at another size."""
    if grid.shape[:2] == (rows, columns):
        return grid
    stacked = grid.permute(2, 0, 1)[None]
    return F.interpolate(stacked, (rows, columns), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


# -------------------------------------------------------------------------------------------------------- its files


def find_model(name: str | Path, *, offline: bool = False) -> Path:
    """The folder of a model's files: `name` itself, in the hub's cache, or fetched into it (:func:`gradiseg_ns.tools.weights.find_model`).

    Args:
        name: a folder, or a name on the hub such as facebook/dinov2-small.
        offline: do not reach for the network.

    Raises:
        TokenModelError: the model is not here and cannot be fetched.
    """
    try:
        return weights.find_model(name, offline=offline, weights=tuple(_WEIGHTS.values()))
    except weights.WeightsError as error:
        raise TokenModelError(f"--model: {error}") from error


def _colors_of(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the three colours that a model expects, from what lies beside its weights.

    Raises:
        TokenModelError: the file is there and cannot be used.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return mean, std
    try:
        content = read_json(path)
        if not content.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        mean, std = (
            tuple(
                np.broadcast_to(
                    np.asarray(default if given is None else given, dtype=np.float64), (3,)
                ).tolist()
            )
            for given, default in ((content.get("image_mean"), mean), (content.get("image_std"), std))
        )
        if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise ValueError(f"image_mean {list(mean)}, image_std {list(std)}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TokenModelError(
            f"{path} cannot be used ({error}): expected an object with image_mean and image_std, three numbers each, "
            "as transformers writes it. Without the file, ImageNet's are taken."
        ) from error
    return mean, std
