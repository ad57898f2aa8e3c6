"""Masks by a pretrained model that takes clicks: SAM (arXiv 2304.02643) or SAM 2 (arXiv 2408.00714), through transformers.

    model = PromptModel.load("facebook/sam2.1-hiera-tiny")
    mask = model.mask(rgb, [(120, 80)], [(30, 200)])

Optional: transformers comes with the extra `masks`, and weights are fetched only by `PromptModel.load`, only where they are
not there yet, and only as safetensors: nothing that is loaded can run code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns.scene.wand import check_pixels
from gradiseg_ns.tools.errors import GradisegError

KINDS = {
    "sam": ("SamModel", "SamProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "sam2_video": (
        "Sam2Model",
        "Sam2Processor",
    ),  # what SAM 2's checkpoints call themselves: a picture is enough
}
"""Classes of transformers by the `model_type` of a model's config.json."""


class PromptModelError(GradisegError):
    """The model cannot be had or is of another kind; the message says what to do."""


class PromptModel:
    """A model that makes masks from clicks. Make one with `PromptModel.load`.

    Args:
        network, processor: as transformers loads them, see `KINDS`.
    """

    def __init__(self, network: Any, processor: Any) -> None:
        self.network, self.processor = network, processor
        self._encoded: tuple[Tensor, Any] | None = None
        """The latest picture, uint8 [H, W, 3], and what the image encoder makes of it."""

    @classmethod
    def load(
        cls, source: str | Path, *, device: torch.device | str = "cpu", offline: bool = False
    ) -> PromptModel:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Args:
            source: such as facebook/sam2.1-hiera-tiny.
            offline: never reach for the network; weights must be in the folder or in the hub's cache.

        Raises:
            PromptModelError: transformers is not installed or too old, the weights cannot be had or are not complete, or
                the model is of another kind.
        """
        try:
            import transformers
        except ImportError as error:
            raise PromptModelError(
                f"The model {source} needs the package transformers, which is not installed: "
                "pip install 'gradiseg-ns[masks]'"
            ) from error
        local = Path(source).expanduser()
        name = str(local if local.is_dir() else source)
        options = {"local_files_only": offline or local.is_dir()}
        advice = (
            "Give a folder with config.json, model.safetensors and the processor's files, or a name on the hub such as "
            "facebook/sam2.1-hiera-tiny. Without a network, fetch it where there is one (hf download NAME --local-dir "
            "FOLDER), bring the folder here and give FOLDER."
        )
        # transformers and what it calls raise errors of a dozen kinds for a file that is missing, broken or of another kind.
        try:
            config, _ = transformers.PretrainedConfig.get_config_dict(name, **options)
        except Exception as error:
            raise PromptModelError(f"The model {source} cannot be loaded: {error}\n{advice}") from error
        kind = config.get("model_type")
        if kind is None:
            raise PromptModelError(
                f"The model {source} cannot be loaded: no config.json there names its model_type.\n{advice}"
            )
        if kind not in KINDS:
            raise PromptModelError(
                f"The model {source} is of type {kind}: expected one that takes clicks, {', '.join(KINDS)}. "
                "Try facebook/sam2.1-hiera-tiny."
            )
        network_class, processor_class = (getattr(transformers, part, None) for part in KINDS[kind])
        if network_class is None or processor_class is None:
            raise PromptModelError(
                f"The model {source} is of type {kind}, which transformers {transformers.__version__} does not have: "
                "pip install --upgrade transformers, or choose a SAM 1 such as facebook/sam-vit-base."
            )
        try:
            processor: Any = processor_class.from_pretrained(name, **options)
            network, found = network_class.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, **options
            )
        except Exception as error:
            raise PromptModelError(f"The model {source} cannot be loaded: {error}\n{advice}") from error
        # transformers fills gaps with random numbers and only warns.
        missing = sorted(found["missing_keys"])
        if missing:
            raise PromptModelError(
                f"The weights of {source} are not complete: {len(missing)} are missing, such as {missing[0]}. {advice}"
            )
        try:
            return cls(network.eval().to(device), processor)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise PromptModelError(
                f"The model {source} cannot be used on device {device}: {error}"
            ) from error

    @torch.no_grad()
    def mask(
        self, rgb: Tensor, positive: Sequence[tuple[int, int]], negative: Sequence[tuple[int, int]] = ()
    ) -> Tensor:
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
        if rgb.dim() != 3 or rgb.shape[2] != 3:
            raise ValueError(f"rgb has shape {list(rgb.shape)}: expected [H, W, 3].")
        check_pixels([*positive, *negative], rgb.shape[1], rgb.shape[0])
        if not positive:
            raise ValueError("no pixel of the object was clicked: expected at least one positive click.")
        picture = (rgb.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        inputs = self.processor(
            images=picture.numpy(),
            input_points=[[[[float(x), float(y)] for x, y in (*positive, *negative)]]],
            input_labels=[[[1] * len(positive) + [0] * len(negative)]],
            return_tensors="pt",
        )
        device = next(self.network.parameters()).device
        encoded = self._encoded
        if encoded is None or not torch.equal(encoded[0], picture):
            encoded = picture, self.network.get_image_embeddings(inputs["pixel_values"].to(device))
            self._encoded = encoded
        output = self.network(
            image_embeddings=encoded[1],
            input_points=inputs["input_points"].to(device, torch.float32),
            input_labels=inputs["input_labels"].to(device),
            multimask_output=True,
        )
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        best = int(output.iou_scores[0, 0].argmax())
        logits = output.pred_masks[:, :, best : best + 1].float().cpu()
        masks = self.processor.post_process_masks(logits, *sizes)
        return masks[0].view(rgb.shape[:2]).to(rgb.device)
