"""x"""


def check_pixels(pixels, width, height):
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel ({x}, {y}) is outside")
