"""What makers of masks take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

Pixel = tuple[int, int]
"""x and y, from the upper left corner."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels: x0 <= x < x1, y0 <= y < y1."""


@dataclass(frozen=True)
class Picture:
    """A photo, or a render with what else is known of its pixels."""

    rgb: Tensor
    """float [H, W, 3] in 0..1."""
    alpha: Tensor | None = None
    """[H, W] accumulation; None for a photo, which is solid."""
    depth: Tensor | None = None
    """[H, W] world units; 0 where nothing is."""
    identity: Tensor | None = None
    """[H, W, D] rendered identities."""


@dataclass(frozen=True)
class Mask:
    """Some pixels of a picture."""

    pixels: Tensor
    """bool [H, W]."""
    score: float = 1.0
    """How sure the maker is, 0 to 1."""
    level: int = 0
    """0 for a whole object, 1 for a part of one, 2 for a part of a part."""
    phrase: str = ""
    """What it was asked for by; empty if it was not."""


@runtime_checkable
class EverythingMaker(Protocol):
    """Finds what there is."""

    def everything(self, picture: Picture) -> list[Mask]:
        """Masks of all objects and parts, the most certain first. They may overlap."""
        ...


@runtime_checkable
class PromptMaker(Protocol):
    """Finds what is pointed at."""

    def prompted(
        self,
        picture: Picture,
        positive: Sequence[Pixel] = (),
        negative: Sequence[Pixel] = (),
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
    ) -> Mask:
        """One mask.

        Args:
            picture: the picture.
            positive, negative: pixels inside and outside of the object.
            box: around the object.
            mask: what is known of it already: float [H, W], 0 to 1.

        Raises:
            ValueError: there is neither a positive pixel nor a box nor a mask, or one of them does not fit the picture.
        """
        ...


@runtime_checkable
class PhraseMaker(Protocol):
    """Finds what words name."""

    def phrases(self, picture: Picture, phrases: Sequence[str]) -> list[Mask]:
        """Masks with their phrases, the most certain first; none where nothing is like a phrase."""
        ...


def check_pixels(pixels: Sequence[Pixel], width: int, height: int) -> None:
    """Raises:
    ValueError: a pixel (x, y) is outside of a picture of this size.
    """
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"the pixel ({x}, {y}) is outside of the picture of {width} x {height} pixels.")


def check_picture(picture: Picture) -> tuple[int, int]:
    """Height and width of a picture in pixels.

    Raises:
        ValueError: its parts have other shapes than `Picture` says.
    """
    if picture.rgb.dim() != 3 or picture.rgb.shape[2] != 3:
        raise ValueError(f"rgb has shape {list(picture.rgb.shape)}: expected [H, W, 3].")
    height, width = picture.rgb.shape[:2]
    for name in ("alpha", "depth", "identity"):
        part = getattr(picture, name)
        if part is not None and (part.shape[:2] != (height, width) or part.dim() != 2 + (name == "identity")):
            raise ValueError(
                f"{name} has shape {list(part.shape)}: expected {[height, width]} pixels, as rgb has."
            )
    return height, width


def check_prompt(
    picture: Picture,
    positive: Sequence[Pixel],
    negative: Sequence[Pixel],
    box: Box | None,
    mask: Tensor | None,
) -> tuple[int, int]:
    """Height and width of a picture in pixels, if a prompt fits it.

    Raises:
        ValueError: it does not, as `PromptMaker.prompted` says.
    """
    height, width = check_picture(picture)
    check_pixels([*positive, *negative], width, height)
    if box is not None and not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise ValueError(
            f"the box {box} does not fit the picture: expected 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}."
        )
    if mask is not None and tuple(mask.shape) != (height, width):
        raise ValueError(f"the mask has shape {list(mask.shape)}: expected {[height, width]}.")
    if not positive and box is None and mask is None:
        raise ValueError(
            "no pixel of the object was clicked: expected at least one positive click, a box or a mask."
        )
    return height, width
