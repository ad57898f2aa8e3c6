"""Masks of phrases by Grounding DINO (arXiv 2303.05499), which finds boxes, and another maker, which makes masks of boxes.

Through transformers. All phrases of a picture go through the model together, as a sentence whose parts end with full stops. A box
counts for the phrase whose words it is most like.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns.masks.levels import distinct, small
from gradiseg_ns.masks.types import Box, Mask, Picture, PromptMaker, check_picture
from gradiseg_ns.masks.weights import load_network
from gradiseg_ns.tools.pictures import to_image

KINDS = {
    "grounding-dino": ("GroundingDinoForObjectDetection", "GroundingDinoProcessor"),
    "mm-grounding-dino": ("MMGroundingDinoForObjectDetection", "GroundingDinoProcessor"),
}
"""Classes of transformers by the `model_type` of a model's config.json."""
EXPECTED = "one that finds boxes of phrases, a Grounding DINO such as IDEA-Research/grounding-dino-tiny"

MIN_SCORE = 0.3
"""Least likeness of a box to the most fitting word of its phrase, as in the authors' examples."""
ALIKE = 0.8
"""Of two masks of one phrase with a higher IoU the less certain one goes."""


class Grounding:
    """Boxes of phrases, and masks of the boxes (`PhraseMaker`).

    Args:
        network, processor: as transformers loads them, see `KINDS`.
        prompts: what makes masks of boxes, such as `Sam` or `Wand`.
        min_score: least score of a box.
    """

    def __init__(
        self, network: Any, processor: Any, prompts: PromptMaker, *, min_score: float = MIN_SCORE
    ) -> None:
        self.network, self.processor, self.prompts, self.min_score = network, processor, prompts, min_score

    @classmethod
    def load(
        cls,
        source: str | Path,
        prompts: PromptMaker,
        *,
        device: torch.device | str = "cpu",
        offline: bool = False,
    ) -> Grounding:
        """A model by its name on the Hugging Face hub, or the folder that its weights lie in.

        Raises:
            WeightsError: as `masks.weights.load_network`.
        """
        network, processor, _ = load_network(source, KINDS, EXPECTED, device=device, offline=offline)
        return cls(network, processor, prompts)

    def phrases(self, picture: Picture, phrases: Sequence[str]) -> list[Mask]:
        """As `PhraseMaker.phrases`. The score of a mask is its box's likeness to the phrase.

        Raises:
            ValueError: the picture's parts do not fit each other.
        """
        check_picture(picture)
        found: list[Mask] = []
        for part in self._sentences(phrases):
            masks = [
                Mask(self.prompts.prompted(picture, box=box).pixels, score, phrase=phrase)
                for phrase, box, score in self.boxes(picture, part)
            ]
            masks = [mask for mask in masks if mask.pixels.any()]
            for phrase in part:
                own = [mask for mask in masks if mask.phrase == phrase]
                if own:
                    scores = torch.tensor([mask.score for mask in own])
                    kept = distinct(small([mask.pixels for mask in own]).cpu(), scores, ALIKE)
                    found += [own[i] for i in kept]
        return sorted(found, key=lambda mask: -mask.score)

    @torch.no_grad()
    def boxes(self, picture: Picture, phrases: Sequence[str]) -> list[tuple[str, Box, float]]:
        """Phrase, box and score of what is found; the phrases must fit one sentence."""
        height, width = picture.rgb.shape[:2]
        rgb = to_image(picture.rgb)
        device = next(self.network.parameters()).device
        inputs = self.processor(images=rgb, text=_sentence(phrases), return_tensors="pt").to(device)
        output = self.network(**inputs)
        words = self._words(inputs["input_ids"][0].tolist(), len(phrases))
        like = output.logits[0].float().sigmoid()  # [queries, tokens]
        score = torch.stack([like[:, own].amax(1) for own in words], dim=1)  # [queries, phrases]
        best, which = score.max(1)
        found = []
        for query in (best >= self.min_score).nonzero().flatten().tolist():
            box = _box(output.pred_boxes[0, query].float(), width, height)
            if box is not None:
                found.append((phrases[int(which[query])], box, float(best[query])))
        return found

    def _words(self, tokens: list[int], count: int) -> list[list[int]]:
        """Places of the tokens of each phrase: what lies between full stops."""
        tokenizer = self.processor.tokenizer
        stop = tokenizer.convert_tokens_to_ids(".")
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        places: list[list[int]] = [[]]
        for place, token in enumerate(tokens):
            if token == stop:
                places.append([])
            elif token not in special:
                places[-1].append(place)
        return places[:count]

    def _sentences(self, phrases: Sequence[str]) -> list[list[str]]:
        """The phrases in as few lists as fit the text that the model takes."""
        most = int(getattr(self.network.config, "max_text_len", 256)) - 2
        tokenizer = self.processor.tokenizer
        parts: list[list[str]] = []
        used = most
        for phrase in phrases:
            count = len(tokenizer(_sentence([phrase]), add_special_tokens=False)["input_ids"])
            if used + count > most:
                parts.append([])
                used = 0
            parts[-1].append(phrase)
            used += count
        return parts


def _sentence(phrases: Sequence[str]) -> str:
    """As the model was trained: small letters, and a full stop after each phrase, but none within."""
    return " ".join(f"{phrase.lower().replace('.', ' ').strip()}." for phrase in phrases)


def _box(box: Tensor, width: int, height: int) -> Box | None:
    """A box in pixels from its centre and size in parts of the picture; None if nothing of it is in the picture."""
    x, y, w, h = box.tolist()
    x0, x1 = (min(max(round((x + side * w / 2) * width), 0), width) for side in (-1, 1))
    y0, y1 = (min(max(round((y + side * h / 2) * height), 0), height) for side in (-1, 1))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
