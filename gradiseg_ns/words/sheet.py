"""Objects as a person checks them: a row of crops each."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from gradiseg_ns.tools.pictures import Captioned, overview
from gradiseg_ns.tools.terminal import printable
from gradiseg_ns.words.finding import SHOWN, Looks


def sheet(captions: Mapping[int, str], looks: Looks) -> Image.Image:
    """The best views of some objects, a row each.

    Args:
        captions: by object id, in the order of the rows; at least one.
        looks: of the objects.
    """
    rows: list[list[Captioned]] = []
    for id, caption in captions.items():
        crops = [Image.fromarray(crop.numpy()).resize((SHOWN, SHOWN)) for crop in looks.crops.get(id, ())]
        text = caption if crops else f"{caption} (no view shows it)"
        # Pillow's font has no other letters.
        text = printable(text).encode("ascii", "replace").decode()
        # A caption is longer than a crop: it goes on over those that follow.
        rows.append(
            [
                (text if not k else "", crop)
                for k, crop in enumerate(crops or [Image.new("RGB", (SHOWN, 1), "white")])
            ]
        )
    width = max(7 * len(row[0][0]) + 10 for row in rows)
    rows[0].append(("", Image.new("RGB", (max(1, width - SHOWN * len(rows[0])), 1), "white")))
    return overview(rows)
