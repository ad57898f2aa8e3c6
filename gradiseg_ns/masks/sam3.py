"""Masks by SAM 3 (arXiv 2511.16719) through transformers: all objects that a phrase names, and what clicks, boxes and masks point at.

Its checkpoints hold two networks: a detector that takes phrases, and the tracker's half that takes clicks as SAM 2 does. The second is
loaded when it is asked for the first time, from the same files. A folder with the detector alone makes masks of phrases only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns.masks.sam import Sam
from gradiseg_ns.masks.types import Box, Mask, Picture, Pixel, check_picture
from gradiseg_ns.masks.weights import WeightsError, load_network
from gradiseg_ns.tools.pictures import to_image

KINDS = {"sam3": ("Sam3Model", "Sam3Processor"), "sam3_video": ("Sam3Model", "Sam3Processor")}
"""Classes of transformers by the `model_type` of a model's config.json; checkpoints call themselves by the second."""
_CLICKS = {"sam3_video": ("Sam3TrackerModel", "Sam3TrackerProcessor")}
EXPECTED = "a SAM 3 such as facebook/sam3"

MIN_SCORE = 0.5
"""Least probability that an object is what the phrase names, as the model's authors have it."""


class Sam3:
    """A model that makes masks of phrases (`PhraseMaker`), and, where its files hold both halves, of everything and of prompts.

    Args:
        network, processor: the detector, as transformers loads it.
        source: where the other half comes from; None if there is none.
        min_score: least score of a mask of a phrase.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        source: str | Path | None = None,
        *,
        offline: bool = False,
        min_score: float = MIN_SCORE,
    ) -> None:
        self.network, self.processor = network, processor
        self.source, self.offline, self.min_score = source, offline, min_score
        self._clicks: Sam | None = None

    @classmethod
    def load(cls, source: str | Path, *, device: torch.device | str = "cpu", offline: bool = False) -> Sam3:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Raises:
            WeightsError: as `masks.weights.load_network`.
        """
        network, processor, kind = load_network(source, KINDS, EXPECTED, device=device, offline=offline)
        return cls(network, processor, source if kind in _CLICKS else None, offline=offline)

    @torch.no_grad()
    def phrases(self, picture: Picture, phrases: Sequence[str]) -> list[Mask]:
        """As `PhraseMaker.phrases`. The picture is encoded once for all phrases.

        Raises:
            ValueError: the picture's parts do not fit each other.
        """
        size = check_picture(picture)
        rgb = to_image(picture.rgb)
        device = next(self.network.parameters()).device
        pixels = self.processor(images=rgb, return_tensors="pt")["pixel_values"].to(device)
        seen = self.network.get_vision_features(pixel_values=pixels)
        found = []
        for phrase in phrases:
            words = self.processor(text=phrase, return_tensors="pt")
            output = self.network(
                vision_embeds=seen, input_ids=words["input_ids"].to(device),
                attention_mask=words["attention_mask"].to(device),
            )  # fmt: skip
            (told,) = self.processor.post_process_instance_segmentation(
                output, threshold=self.min_score, target_sizes=[size]
            )
            for score, mask in zip(told["scores"].tolist(), told["masks"], strict=True):
                bits = mask.to(picture.rgb.device) > 0
                if bits.any():
                    found.append(Mask(bits, score, phrase=phrase))
        return sorted(found, key=lambda mask: -mask.score)

    def prompted(
        self,
        picture: Picture,
        positive: Sequence[Pixel] = (),
        negative: Sequence[Pixel] = (),
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
    ) -> Mask:
        """As `Sam.prompted`.

        Raises:
            WeightsError: the model's files lack that half.
        """
        return self.clicks.prompted(picture, positive, negative, box=box, mask=mask)

    def everything(self, picture: Picture) -> list[Mask]:
        """As `Sam.everything`.

        Raises:
            WeightsError: the model's files lack that half.
        """
        return self.clicks.everything(picture)

    @property
    def clicks(self) -> Sam:
        """The half that takes clicks.

        Raises:
            WeightsError: the model's files lack it.
        """
        if self._clicks is None:
            if self.source is None:
                raise WeightsError(
                    "This SAM 3 is the detector alone (model_type sam3), which takes phrases and no clicks: expected the whole "
                    "checkpoint (model_type sam3_video), such as facebook/sam3."
                )
            device = next(self.network.parameters()).device
            found = load_network(self.source, _CLICKS, EXPECTED, device=device, offline=self.offline)
            self._clicks = Sam(*found)
        return self._clicks
