"""A tour of the viewer in a real browser, as the pictures of docs/viewer.md.

    python examples/viewer_tour.py --run outputs/demo/.../config.yml

Needs the package playwright and a Chromium on the PATH. Starts ns-viewer on the run, picks an object, isolates, tints, scales and exports it, and writes
viewer.gif and viewer.jpg.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent

CAPTIONS = {
    "start": "ns-viewer: the folder GradiSeg lists the objects",
    "picked": "Pick, and a click into the picture",
    "isolated": "Isolate",
    "tinted": "Undo, then Tint",
    "gizmo": "Move and turn: a gizmo at the selection",
    "scaled": "Scale by 1.4",
    "exported": "Undo, then Download: a PLY with object ids",
}


@dataclass
class Tour:
    """Where from and where to."""

    run: Path
    """A gradiseg run: its config.yml."""
    output: Path = ROOT / "docs"
    size: tuple[int, int] = (1280, 860)
    """Of the browser's window, pixels."""
    points: tuple[float, ...] = (0.36, 0.7, 0.61, 0.67, 0.5, 0.6, 0.5, 0.7)
    """Points to click until one is on an object: x and y as shares of the picture, in turn."""
    wheel: int = 0
    """Turns of the mouse wheel before the tour: negative comes nearer."""

    def main(self) -> None:
        sys.path.insert(0, str(ROOT))
        from tests.viewer.browser import Browser
        from tests.viewer.story import tell_story

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            str(Path(sys.executable).with_name("ns-viewer")), "--load-config", str(self.run),
            "--viewer.websocket-port", str(port),
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            process = subprocess.Popen(command, start_new_session=True)
            try:
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    if process.poll() is not None:
                        raise SystemExit(f"ns-viewer ended with {process.returncode}")
                    time.sleep(0.5)
                time.sleep(15)
                shots: list[tuple[str, Path]] = []
                with Browser(f"http://127.0.0.1:{port}", size=self.size) as browser:
                    browser.page.wait_for_timeout(8000)
                    if self.wheel:
                        browser.page.mouse.move(self.size[0] * 0.3, self.size[1] * 0.5)
                        for _ in range(abs(self.wheel)):
                            browser.page.mouse.wheel(0, 100 if self.wheel > 0 else -100)
                            browser.page.wait_for_timeout(200)
                        browser.page.wait_for_timeout(3000)

                    def shot(word: str) -> None:
                        browser.page.get_by_text("GradiSeg", exact=True).first.evaluate(
                            "element => element.scrollIntoView({block: 'start'})"
                        )
                        browser.page.wait_for_timeout(500)
                        path = folder / f"{word}.png"
                        browser.screenshot(path)
                        shots.append((word, path))

                    points = list(zip(self.points[::2], self.points[1::2], strict=True))
                    found, _ = tell_story(browser, points, shot, folder / "download")
                    print(f"Picked {found}; errors of the page: {browser.errors or 'none'}")
            finally:
                os.killpg(process.pid, signal.SIGTERM)
            frames = [_captioned(Image.open(path).convert("RGB"), CAPTIONS[word]) for word, path in shots]
        self.output.mkdir(parents=True, exist_ok=True)
        frames[1].save(self.output / "viewer.jpg", quality=85)
        small = [
            frame.resize((960, 960 * frame.height // frame.width), Image.Resampling.LANCZOS)
            for frame in frames
        ]
        palette = [frame.quantize(128, dither=Image.Dither.NONE) for frame in small]
        palette[0].save(
            self.output / "viewer.gif",
            save_all=True,
            append_images=palette[1:],
            duration=1800,
            loop=0,
            optimize=True,
        )
        print(f"Saved {self.output / 'viewer.gif'} and {self.output / 'viewer.jpg'}")


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(22)
    left, top, right, bottom = draw.textbbox((20, picture.height - 52), text, font=font)
    draw.rectangle((left - 10, top - 8, right + 10, bottom + 8), fill=(0, 0, 0))
    draw.text((20, picture.height - 52), text, font=font, fill=(255, 255, 255))
    return picture


if __name__ == "__main__":
    tyro.cli(Tour, description=__doc__).main()
