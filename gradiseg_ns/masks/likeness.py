"""How like words and pictures are, by CLIP (arXiv 2103.00020) or SigLIP (arXiv 2303.15343, 2502.14786), through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.masks.weights import load_network
from gradiseg_ns.tools.pictures import to_image

KINDS = {
    "clip": ("CLIPModel", "CLIPProcessor"),
    "siglip": ("SiglipModel", "SiglipProcessor"),
    "siglip2": ("Siglip2Model", "Siglip2Processor"),
}
"""Classes of transformers by the `model_type` of a model's config.json. SigLIP 2 of a fixed size calls itself siglip."""
EXPECTED = "one that compares pictures and words, such as openai/clip-vit-base-patch32 or google/siglip-base-patch16-224"

TEMPLATE = "a photo of a {}"
BATCH = 32
"""Crops that the model sees at a time."""
TEXTS = 128
"""Phrases that it reads at a time."""


class Likeness:
    """A model that compares pictures and words. Make one with `Likeness.load`.

    Args:
        network, processor, kind: as `masks.weights.load_network` gives them.
        template: the sentence into which a phrase is put.
    """

    def __init__(self, network: Any, processor: Any, kind: str, *, template: str = TEMPLATE) -> None:
        self.network, self.processor, self.kind, self.template = network, processor, kind, template

    @classmethod
    def load(
        cls, source: str | Path, *, device: torch.device | str = "cpu", offline: bool = False
    ) -> Likeness:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Raises:
            WeightsError: as `masks.weights.load_network`.
        """
        return cls(*load_network(source, KINDS, EXPECTED, device=device, offline=offline))

    @property
    def scale(self) -> float:
        """What the model was trained to multiply cosines with before a softmax or a sigmoid: about 100."""
        return float(self.network.logit_scale.detach().exp())

    @torch.no_grad()
    def see(self, crops: Sequence[Tensor]) -> Tensor:
        """What the model makes of pictures: unit vectors [n, d], on the CPU.

        Args:
            crops: n pictures [h, w, 3], float, 0 to 1; sizes may differ.

        Raises:
            ValueError: a crop has another shape or no pixels.
        """
        for crop in crops:
            if crop.dim() != 3 or crop.shape[2] != 3 or crop.numel() == 0:
                raise ValueError(f"a crop has shape {list(crop.shape)}: expected [h, w, 3].")
        found = []
        for start in range(0, len(crops), BATCH):
            pictures = [to_image(crop) for crop in crops[start : start + BATCH]]
            inputs = self.processor.image_processor(images=pictures, return_tensors="pt").to(self._device)
            found.append(_unit(self.network.get_image_features(**inputs)))
        return torch.cat(found) if found else torch.zeros(0, 0)

    @torch.no_grad()
    def read(self, phrases: Sequence[str]) -> Tensor:
        """What the model makes of phrases: unit vectors [k, d], on the CPU.

        Args:
            phrases: k phrases, such as "red mug".
        """
        # SigLIP was trained on texts of one length, and knows nothing of padding.
        padding = "longest" if self.kind == "clip" else "max_length"
        length = getattr(self.network.config.text_config, "max_position_embeddings", 64)
        found = []
        for start in range(0, len(phrases), TEXTS):
            sentences = [self.template.format(phrase) for phrase in phrases[start : start + TEXTS]]
            words = self.processor.tokenizer(
                sentences, padding=padding, truncation=True, max_length=length, return_tensors="pt"
            )
            inputs = {"input_ids": words["input_ids"].to(self._device)}
            if self.kind == "clip":
                inputs["attention_mask"] = words["attention_mask"].to(self._device)
            found.append(_unit(self.network.get_text_features(**inputs)))
        return torch.cat(found) if found else torch.zeros(0, 0)

    def likeness(self, crops: Sequence[Tensor], phrases: Sequence[str]) -> Tensor:
        """Cosines [n, k], on the CPU, between crops and phrases.

        They are for comparing phrases of one crop, or crops of one phrase: CLIP gives 0.2 to 0.3 to what fits.

        Args:
            crops, phrases: as `see` and `read` take them.

        Raises:
            ValueError: as `see`.
        """
        pictures = self.see(crops)
        if not len(pictures) or not phrases:
            return torch.zeros(len(crops), len(phrases))
        return pictures @ self.read(phrases).T

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def _unit(features: Any) -> Tensor:
    """Features [n, d] as unit vectors on the CPU: transformers gives a tensor before version 5, and an output since."""
    features = getattr(features, "pooler_output", features)
    return F.normalize(features.float(), dim=-1).cpu()
