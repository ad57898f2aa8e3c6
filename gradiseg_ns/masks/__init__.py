"""Masks of pictures: everything in a picture, the object under a click, the objects that a phrase names.

In: a `Picture`, a photo or a render. Out: `Mask`s of that picture alone; which masks of several pictures are one object is decided in
`votes.association`. Makers are models that somebody named (`sam`, `sam3`, `grounding`, through transformers), or need no weights
(`wand`, `regions`). May not: fetch weights that nobody asked for, or know cameras and Gaussians.

    maker = load("facebook/sam2.1-hiera-small")     # or "regions", "wand"
    masks = maker.everything(Picture(rgb))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradiseg_ns.masks.types import EverythingMaker, Mask, PhraseMaker, Picture, PromptMaker

if TYPE_CHECKING:
    import torch

    from gradiseg_ns.masks.grounding import Grounding
    from gradiseg_ns.masks.regions import Regions
    from gradiseg_ns.masks.sam import Sam
    from gradiseg_ns.masks.sam3 import Sam3
    from gradiseg_ns.masks.wand import Wand

__all__ = ["WEIGHTLESS", "EverythingMaker", "Mask", "PhraseMaker", "Picture", "PromptMaker", "load"]

WEIGHTLESS = ("wand", "regions")
"""Names of the makers that need no weights. A folder of that name is meant by `./wand`."""


def load(
    name: str | Path,
    device: torch.device | str = "cpu",
    offline: bool = False,
    *,
    prompts: PromptMaker | None = None,
) -> Wand | Regions | Sam | Sam3 | Grounding:
    """A maker by its name: one of `WEIGHTLESS`, or a model, whose config.json tells what it is.

    Args:
        name: `wand`, `regions`, a name on the Hugging Face hub, or a folder with a model's files.
        device: where a model goes.
        offline: never reach for the network.
        prompts: what makes masks of the boxes that Grounding DINO finds; the wand if None.

    Raises:
        WeightsError: the model cannot be had, or makes no masks.
    """
    from gradiseg_ns.masks.grounding import KINDS as DETECTORS
    from gradiseg_ns.masks.grounding import Grounding
    from gradiseg_ns.masks.sam import KINDS as SAMS
    from gradiseg_ns.masks.sam import Sam
    from gradiseg_ns.masks.sam3 import KINDS as SAM3S
    from gradiseg_ns.masks.sam3 import Sam3
    from gradiseg_ns.masks.wand import Wand

    if name == "wand":
        return Wand()
    if name == "regions":
        from gradiseg_ns.masks.regions import Regions

        return Regions()
    from gradiseg_ns.masks.weights import WeightsError, model_type

    kind = model_type(name, offline=offline)
    if kind in SAMS:
        return Sam.load(name, device=device, offline=offline)
    if kind in SAM3S:
        return Sam3.load(name, device=device, offline=offline)
    if kind in DETECTORS:
        return Grounding.load(name, prompts or Wand(), device=device, offline=offline)
    known = ", ".join([*SAMS, *SAM3S, *DETECTORS])
    raise WeightsError(
        f"The model {name} is of type {kind}, which makes no masks: expected {known}, such as facebook/sam2.1-hiera-small; "
        f"or {' or '.join(WEIGHTLESS)}, which need no weights."
    )
