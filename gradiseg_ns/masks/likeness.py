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

    @torch.no_grad()
    def likeness(self, crops: Sequence[Tensor], phrases: Sequence[str]) -> Tensor:
        """Cosines [n, k], on the CPU, between crops and phrases.

        They are for comparing phrases of one crop, or crops of one phrase: CLIP gives 0.2 to 0.3 to what fits.

        Args:
            crops: n pictures [h, w, 3], float, 0 to 1; sizes may differ.
            phrases: k phrases, such as "red mug".

        Raises:
            ValueError: a crop has another shape or no pixels.
        """
        for crop in crops:
            if crop.dim() != 3 or crop.shape[2] != 3 or crop.numel() == 0:
                raise ValueError(f"a crop has shape {list(crop.shape)}: expected [h, w, 3].")
        if not crops or not phrases:
            return torch.zeros(len(crops), len(phrases))
        device = next(self.network.parameters()).device
        # SigLIP was trained on texts of one length, and knows nothing of padding.
        padding = "longest" if self.kind == "clip" else "max_length"
        sentences = [self.template.format(phrase) for phrase in phrases]
        length = getattr(self.network.config.text_config, "max_position_embeddings", 64)
        words = self.processor.tokenizer(
            sentences, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        text = {"input_ids": words["input_ids"].to(device)}
        if self.kind == "clip":
            text["attention_mask"] = words["attention_mask"].to(device)
        found, said = [], None
        for start in range(0, len(crops), BATCH):
            pictures = [to_image(crop) for crop in crops[start : start + BATCH]]
            seen = self.processor.image_processor(images=pictures, return_tensors="pt").to(device)
            output = self.network(**seen, **text)
            found.append(F.normalize(output.image_embeds.float(), dim=-1).cpu())
            said = F.normalize(output.text_embeds.float(), dim=-1).cpu()
        assert said is not None
        return torch.cat(found) @ said.T
