"""Contact sheets: captioned pictures in rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gradiseg_ns.tools.atomic import write_files

ERROR_COLOR = (255, 40, 40)
CAPTION_HEIGHT = 22

Captioned = tuple[str, Image.Image]


def panels(
    photo: NDArray[np.float32],
    render: NDArray[np.float32],
    segmentation: NDArray[np.float32],
    ids: NDArray[np.int32],
    truth: NDArray[np.int32],
    title: str = "photo (held out)",
) -> list[Captioned]:
    """Photo, render, segmentation and wrong ids (red on the darkened photo) of one view.

    Args:
        photo, render, segmentation: float [H, W, 3], 0 to 1.
        ids: what was found, [H, W].
        truth: what is right, [H, W]; below 0 where nobody knows.
        title: the photo's caption.
    """
    mse = float(np.mean((render - photo[..., :3]) ** 2))
    wrong = (ids != truth) & (truth >= 0)
    error = (photo[..., :3] * 90).astype(np.uint8)
    error[wrong] = ERROR_COLOR
    share = wrong.sum() / max(1, int((truth >= 0).sum()))
    return [
        (title, to_image(photo[..., :3])),
        (f"render, PSNR {-10 * np.log10(max(mse, 1e-10)):.1f} dB", to_image(render)),
        ("segmentation", to_image(segmentation)),
        (f"wrong ids: {share:.2%} of the pixels", Image.fromarray(error)),
    ]


def overview(rows: list[list[Captioned]]) -> Image.Image:
    """A sheet of captioned pictures, a row a view."""
    width = max(sum(image.width for _, image in row) for row in rows)
    height = sum(max(image.height for _, image in row) + CAPTION_HEIGHT for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for row in rows:
        x = 0
        for caption, image in row:
            draw.text((x + 5, y + 5), caption, fill="black")
            sheet.paste(image, (x, y + CAPTION_HEIGHT))
            x += image.width
        y += CAPTION_HEIGHT + max(image.height for _, image in row)
    return sheet


def save_picture(image: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture in the format of its name, whole or not at all.

    Args:
        image: the picture.
        path: ends in .png, .jpg or another suffix that Pillow knows.
        options: of Pillow's writer, such as ``quality``.

    Raises:
        WriteError: it cannot be written.
    """
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[path.suffix.lower()], **options)
    write_files({path: [content.getvalue()]})


def to_image(values: Any) -> Image.Image:
    """A picture [H, W, 3] of floats from 0 to 1 (a tensor or an array) as 8-bit RGB."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))
