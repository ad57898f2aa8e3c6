"""Masks by a pretrained model that takes clicks: SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714), or the half of SAM 3 (arXiv
2511.16719) that does, through transformers.

    model = Sam.load("facebook/sam2.1-hiera-tiny")
    mask = model.mask(rgb, [(120, 80)], [(30, 200)])
    masks = model.everything(Picture(rgb))

Optional: transformers comes with the extra `masks`. Where weights come from, and that nothing that is loaded can run code, is said in
`masks.weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.masks.levels import depths, distinct, parents, small
from gradiseg_ns.masks.types import Box, Mask, Picture, Pixel, check_picture, check_prompt
from gradiseg_ns.masks.wand import MIN_ALPHA, innermost
from gradiseg_ns.masks.weights import WeightsError, load_network

KINDS = {
    "sam": ("SamModel", "SamProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "sam2_video": (
        "Sam2Model",
        "Sam2Processor",
    ),  # what SAM 2's checkpoints call themselves: a picture is enough
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
}
"""Classes of transformers by the `model_type` of a model's config.json."""
EXPECTED = "one that takes clicks, a SAM 1 or SAM 2 such as facebook/sam2.1-hiera-tiny"

PromptModelError = WeightsError

GRID = 32
"""Points on a side of the grid that is asked for everything."""
BATCH = 64
"""Points that the decoder takes at a time. Halved as often as the GPU's memory asks for it."""
MIN_SCORE = {"sam": 0.88}
"""Least IoU that the model itself expects of a mask; of other models `_MIN_SCORE`. As in the authors' own generators."""
_MIN_SCORE = 0.8
MIN_STABILITY = 0.95
"""Least IoU of a mask whose logits are cut at -1 with the same cut at 1."""
ALIKE = 0.7
"""Of two masks with a higher IoU the less certain one goes."""
LEAST, MOST = 1e-4, 0.95
"""Masks with a smaller or larger part of the picture are no objects."""
_SURE = 10.0
"""Logit of a pixel that is surely in a mask that goes into the prompt; SAM was trained on its own logits."""


class Sam:
    """A model that makes masks from clicks, boxes and masks, and of everything. Make one with `Sam.load`.

    Args:
        network, processor: as transformers loads them, see `KINDS`.
        kind: the model's `model_type`.
        grid: points on a side of the grid that is asked for everything.
        batch: points that the decoder takes at a time.
        min_score: least score of a mask in `everything`; as the model's authors have it if None.
        min_stability: least stability there; `MIN_STABILITY` if None.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        kind: str = "sam2",
        *,
        grid: int = GRID,
        batch: int = BATCH,
        min_score: float | None = None,
        min_stability: float | None = None,
    ) -> None:
        self.network, self.processor, self.kind = network, processor, kind
        self.grid, self.batch = grid, batch
        self.min_score = MIN_SCORE.get(kind, _MIN_SCORE) if min_score is None else min_score
        self.min_stability = MIN_STABILITY if min_stability is None else min_stability
        self._encoded: tuple[Tensor, Any] | None = None
        """The latest picture, uint8 [H, W, 3], and what the image encoder makes of it."""

    @classmethod
    def load(cls, source: str | Path, *, device: torch.device | str = "cpu", offline: bool = False) -> Sam:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Args:
            source: such as facebook/sam2.1-hiera-tiny.
            device: where the model goes.
            offline: never reach for the network; weights must be in the folder or in the hub's cache.

        Raises:
            WeightsError: transformers is not installed or too old, the weights cannot be had or are not complete, or
                the model is of another kind.
        """
        return cls(*load_network(source, KINDS, EXPECTED, device=device, offline=offline))

    # ---------------------------------------------------------------------------------------------- what is asked

    def mask(self, rgb: Tensor, positive: Sequence[Pixel], negative: Sequence[Pixel] = ()) -> Tensor:
        """Of the masks that the model proposes for some clicks the one that it trusts most.

        Further clicks on the same picture cost little: its encoding is kept.

        Args:
            rgb: float [H, W, 3] in 0..1.
            positive, negative: pixels (x, y) of the object and of what does not belong to it.

        Returns:
            bool [H, W], on the picture's device.

        Raises:
            ValueError: the picture has another shape, there is no positive click, or a click is outside.
        """
        return self.prompted(Picture(rgb), positive, negative).pixels

    @torch.no_grad()
    def prompted(
        self,
        picture: Picture,
        positive: Sequence[Pixel] = (),
        negative: Sequence[Pixel] = (),
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
    ) -> Mask:
        """As `PromptMaker.prompted`. Its score is the IoU that the model expects.

        Of a mask that is known, the model also gets the box and, without clicks, the pixel that is deepest inside: masks alone were no
        prompts in its training. Empty, with the score 0, if that mask holds nothing.

        Raises:
            ValueError: the prompt does not fit the picture, or there is none.
        """
        height, width = check_prompt(picture, positive, negative, box, mask)
        clear = box is not None or mask is not None
        if mask is not None:
            known = mask > 0.5
            if not known.any() and box is None and not positive:
                return Mask(torch.zeros(height, width, dtype=torch.bool, device=picture.rgb.device), 0.0)
            if known.any():
                box = box or _box(known)
                positive = positive or [innermost(known.cpu().numpy())]
        inputs: dict[str, Any] = {}
        if positive or negative:
            inputs["input_points"] = [[[[float(x), float(y)] for x, y in (*positive, *negative)]]]
            inputs["input_labels"] = [[[1] * len(positive) + [0] * len(negative)]]
        if box is not None:
            inputs["input_boxes"] = [[[float(value) for value in box]]]
        rgb = _bytes(picture.rgb)
        inputs = self.processor(images=rgb.numpy(), return_tensors="pt", **inputs)
        asked = {
            name: inputs[name].to(self._device, torch.float32 if name != "input_labels" else torch.int64)
            for name in ("input_points", "input_labels", "input_boxes") if name in inputs
        }  # fmt: skip
        if mask is not None:
            asked["input_masks"] = self._mask_prompt(mask.detach().float(), inputs)
        output = self.network(image_embeddings=self._encode(rgb, inputs), multimask_output=not clear, **asked)
        scores = output.iou_scores[0, 0].float()
        best = int(scores.argmax())
        found = self._at_full_size(output.pred_masks[0, :, best : best + 1].float().cpu(), inputs)[0]
        return Mask(found.to(picture.rgb.device), float(scores[best].clamp(0, 1)))

    @torch.no_grad()
    def everything(self, picture: Picture) -> list[Mask]:
        """As `EverythingMaker.everything`: what is under the points of a grid.

        A mask stays if the model expects a good IoU of it and its outline is stable, and of any two alike the more certain one does.
        All this happens at the decoder's size, a quarter of the model's picture: memory does not grow with the photo, but for the masks
        that are returned. A mask that lies in another is a part of it.

        Raises:
            ValueError: the picture's parts do not fit each other.
        """
        height, width = check_picture(picture)
        rgb = _bytes(picture.rgb)
        places = [(k + 0.5) / self.grid for k in range(self.grid)]
        points = [[[x * width, y * height]] for y in places for x in places]
        inputs = self.processor(
            images=rgb.numpy(), input_points=[points], input_labels=[[[1]] * len(points)], return_tensors="pt"
        )
        encoded = self._encode(rgb, inputs)
        found: list[Tensor] = []
        scores: list[Tensor] = []
        start = 0
        while start < len(points):
            part = slice(start, start + self.batch)
            try:
                logits, score = self._asked(encoded, inputs, part)
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
                continue
            start += self.batch
            found.append(logits)
            scores.append(score)
        logits, score = torch.cat(found), torch.cat(scores)
        if len(logits) == 0:
            return []
        bits = small(logits > 0)
        kept = distinct(bits, score, ALIKE)
        level = depths(parents(bits[kept]))
        result = []
        for i, depth in zip(kept, level, strict=True):
            pixels = self._at_full_size(logits[i][None, None].float(), inputs)[0]
            if picture.alpha is not None:
                pixels = pixels & (picture.alpha.cpu() >= MIN_ALPHA)
            if pixels.any():
                result.append(Mask(pixels.to(picture.rgb.device), float(score[i].clamp(0, 1)), depth))
        return result

    # ------------------------------------------------------------------------------------------------- the network

    def _asked(self, encoded: Any, inputs: Any, part: slice) -> tuple[Tensor, Tensor]:
        """Logits [n, h, w] of the good masks for some points of the grid, without the padding, and their scores [n]; both on the CPU."""
        output = self.network(
            image_embeddings=encoded,
            input_points=inputs["input_points"][:, part].to(self._device, torch.float32),
            input_labels=inputs["input_labels"][:, part].to(self._device),
            multimask_output=True,
        )
        logits, scores = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten()
        rows, columns = self._seen(logits.shape[-2:], inputs)
        logits = logits[:, :rows, :columns]
        area = (logits > 0).flatten(1).float().mean(1)
        inner, outer = ((logits > cut).flatten(1).sum(1) for cut in (1, -1))
        good = (scores >= self.min_score) & (inner >= self.min_stability * outer)
        good &= (area >= LEAST) & (area <= MOST)
        # half of the memory; where a logit crosses 0 hardly moves
        return logits[good].to("cpu", torch.float16), scores[good].float().cpu()

    def _encode(self, rgb: Tensor, inputs: Any) -> Any:
        """What the image encoder makes of a picture, uint8 [H, W, 3]; the latest is kept."""
        encoded = self._encoded
        if encoded is None or not torch.equal(encoded[0], rgb):
            encoded = rgb, self.network.get_image_embeddings(inputs["pixel_values"].to(self._device))
            self._encoded = encoded
        return encoded[1]

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _seen(self, size: Sequence[int], inputs: Any) -> tuple[int, int]:
        """Rows and columns of the decoder's masks that show the picture: SAM 1 pads it to a square."""
        if "reshaped_input_sizes" not in inputs:
            return size[0], size[1]
        seen = inputs["reshaped_input_sizes"][0].tolist()
        padded = inputs["pixel_values"].shape[-2:]
        rows, columns = (
            max(1, round(n * part / whole)) for n, part, whole in zip(size, seen, padded, strict=True)
        )
        return rows, columns

    @property
    def _side(self) -> list[int]:
        """Height and width of the decoder's masks, and of those that the prompt encoder takes."""
        return [4 * n for n in self.network.prompt_encoder.image_embedding_size]

    def _mask_prompt(self, mask: Tensor, inputs: Any) -> Tensor:
        """A mask [H, W], 0 to 1, as logits [1, 1, h, w] of the size that the prompt encoder takes."""
        rows, columns = self._seen(self._side, inputs)
        logits = ((2 * mask.clamp(0, 1) - 1) * _SURE)[None, None]
        logits = F.interpolate(logits, (rows, columns), mode="bilinear", antialias=True, align_corners=False)
        rest = (0, self._side[1] - columns, 0, self._side[0] - rows)
        return F.pad(logits, rest, value=-_SURE).to(self._device)

    def _at_full_size(self, logits: Tensor, inputs: Any) -> Tensor:
        """Masks bool [n, H, W] of logits [n, 1, h, w], with the padding of SAM 1 or without."""
        height, width = inputs["original_sizes"][0].tolist()
        if "reshaped_input_sizes" in inputs:
            rest = (0, self._side[1] - logits.shape[-1], 0, self._side[0] - logits.shape[-2])
            logits = F.pad(logits, rest, mode="replicate") if any(rest) else logits
            padded = tuple(inputs["pixel_values"].shape[-2:])
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
            rows, columns = inputs["reshaped_input_sizes"][0].tolist()
            logits = logits[..., :rows, :columns]
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0


PromptModel = Sam
"""The name of before, which the viewer uses."""


def _bytes(rgb: Tensor) -> Tensor:
    """A picture of floats 0..1 as uint8 [H, W, 3] on the CPU."""
    return (rgb.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def _box(mask: Tensor) -> Box:
    """The box around the pixels of a mask [H, W]."""
    ys, xs = (mask.any(dim).nonzero().flatten() for dim in (1, 0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
