"""viser's web page in a headless Chromium, for tests: what a person sees there and does.

Needs the Python package playwright and a Chromium or Chrome on the PATH (playwright's own downloads are not used).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
START = 180.0
"""Seconds the page may take to show its GUI: WebGL in software, on a busy machine."""
GUI_IS_THERE = """() => [...document.querySelectorAll("button[id], label[for]")].some(
    (element) => /^[0-9a-f]{8}-/.test(element.id || element.htmlFor) && element.offsetParent !== null)"""
"""Whether an element of the server's is visible; the page's own have other ids."""
READ_NOTIFICATIONS = """(items) => items.map((item) => ["title", "description"].map(
    (part) => item.querySelector(`.mantine-Notification-${part}`)?.innerText ?? ""))"""
HARMLESS = ("computeBoundingSphere(): Computed radius is NaN",)
"""Errors that viser's page logs by itself, here whenever it gets transform controls."""


def browser_or_skip() -> str:
    """Path of the browser; skips the test where it or playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM)} is on the PATH")


class Browser:
    """The page at `url`, open and with its GUI there once the `with` begins.

    `timeout` (s) is for everything later. What the page asks of other hosts (statistics, logos) is refused.
    """

    def __init__(self, url: str, size: tuple[int, int] = (1280, 800), timeout: float = 60.0) -> None:
        self.url = url
        self.size = size
        self.timeout = timeout
        self.errors: list[str] = []
        """What the page threw or wrote to its console as an error."""

    def __enter__(self) -> Browser:
        executable = browser_or_skip()
        from playwright.sync_api import sync_playwright

        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=1000 * START)
            stack.callback(browser.close)
            width, height = self.size
            self.page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
            self.page.set_default_timeout(1000 * self.timeout)
            self.page.on("pageerror", lambda error: self.errors.append(str(error)))
            self.page.on("console", self._log)
            self.page.route(lambda url: not url.startswith(self.url), lambda route: route.abort())
            self.page.goto(self.url, timeout=1000 * START)
            self.page.wait_for_selector("canvas[data-engine]", timeout=1000 * START)
            self.wait(lambda: self.page.evaluate(GUI_IS_THERE), START, "the GUI")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _log(self, message: Any) -> None:
        elsewhere = "Failed to load resource" in message.text and not message.location["url"].startswith(
            self.url
        )
        if message.type == "error" and not elsewhere and not any(text in message.text for text in HARMLESS):
            self.errors.append(message.text)

    # What a person does

    def press(self, label: str) -> None:
        """Click the button with this text."""
        self.page.get_by_role("button", name=label, exact=True).click()

    def open(self, label: str) -> None:
        """Click a tab, or the head of a folder, which opens or closes it."""
        tab = self.page.get_by_role("tab", name=label, exact=True)
        (tab if tab.count() else self.page.get_by_text(label, exact=True)).click()

    def set_text(self, label: str, value: str) -> None:
        """Type into a text field."""
        self._row(label).locator("input").fill(value)

    def choose(self, label: str, option: str) -> None:
        """Choose from a dropdown by typing the option and clicking it."""
        field = self._row(label).locator("input:not([type=hidden])")
        field.click()
        field.fill(option)
        self.page.get_by_role("option", name=option, exact=True).click()

    def check(self, label: str, on: bool = True) -> None:
        """Tick a checkbox, or take its tick away."""
        self._row(label).locator("input[type=checkbox]").set_checked(on)

    def slide(self, label: str, value: float) -> None:
        """Give a slider a value by the number field beside it; numbers without a slider work too."""
        self._row(label).locator("input:not([type=hidden])").fill(f"{value:g}")

    def click_scene(self, x: float, y: float) -> None:
        """Click into the picture, (0, 0) top left to (1, 1) bottom right."""
        self.page.mouse.click(*self._pixel(x, y))

    def drag_scene(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Drag with the left button over the picture."""
        self.page.mouse.move(*self._pixel(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self._pixel(x1, y1), steps=8)
        self.page.mouse.up()

    def download(self, action: Callable[[], object]) -> Path:
        """The file that the page saves because of `action`; it exists until the browser closes."""
        with self.page.expect_download() as download:
            action()
        path = self._folder / f"{time.monotonic_ns()}" / download.value.suggested_filename
        download.value.save_as(path)
        return path

    # What a person sees

    def texts(self) -> list[str]:
        """The lines of text of the panel and of open modals, without what fields contain."""
        panel = self.page.locator(".mantine-ScrollArea-viewport:visible, .mantine-Modal-content:visible")
        return [
            line.strip() for text in panel.all_inner_texts() for line in text.splitlines() if line.strip()
        ]

    def value(self, label: str) -> str:
        """What the field of this label contains."""
        return self._row(label).locator("input:not([type=hidden])").first.input_value()

    def notifications(self) -> list[tuple[str, str]]:
        """Titles and bodies of the notifications on the screen."""
        found = self.page.locator(".mantine-Notification-root").evaluate_all(READ_NOTIFICATIONS)
        return [(title, body) for title, body in found]

    def screenshot(self, path: Path | str) -> None:
        self.page.screenshot(path=path)

    def wait(self, predicate: Callable[[], Any], timeout: float | None = None, what: str = "") -> Any:
        """Poll until `predicate` returns something true, and return it."""
        timeout = self.timeout if timeout is None else timeout
        end = time.monotonic() + timeout
        while True:
            late = time.monotonic() > end
            if result := predicate():
                return result
            assert not late, (
                f"waited {timeout:g} s for {what or 'a condition'}; errors {self.errors}\n{self.texts()}"
            )
            self.page.wait_for_timeout(50)  # lets the page's events in

    def _row(self, label: str) -> Locator:
        """The smallest element that has both the label and its field."""
        exact = re.compile(rf"^\s*{re.escape(label)}\s*$")
        return (
            self.page.locator("label:visible")
            .filter(has_text=exact)
            .locator("xpath=ancestor::div[.//input][1]")
        )

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        box = self.page.locator("canvas[data-engine]").bounding_box()
        assert box is not None, "the page has no canvas"
        point = (box["x"] + x * box["width"], box["y"] + y * box["height"])
        top = self.page.evaluate("([x, y]) => document.elementFromPoint(x, y)?.tagName", list(point))
        assert top == "CANVAS", f"({x}, {y}) of the picture is covered by a {top}"
        return point
