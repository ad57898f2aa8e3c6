"""What a person does with a scene in the web page: the test asserts that it works, examples/viewer_tour.py makes pictures of it."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from .browser import Browser


def click_object(browser: Browser, button: str, x: float, y: float) -> None:
    """Press a button that waits for a click, and click into the picture."""
    browser.press(button)
    canvas = browser.page.locator("canvas[data-engine]")
    browser.wait(lambda: canvas.evaluate("c => c.style.cursor") == "pointer", what="the page wants clicks")
    browser.click_scene(x, y)


def selected(browser: Browser) -> str:
    return browser.value("Selected")


def tell_story(
    browser: Browser,
    points: list[tuple[float, float]],
    shot: Callable[[str], None],
    folder: Path,
    pause: float = 2.5,
) -> tuple[str, Path]:
    """Pick, isolate, tint, move with the gizmo's object, undo, export.

    Args:
        browser: the viewer's page.
        points: of the picture, as shares; the first one on an object with a name is taken.
        shot: called with a word whenever there is something to see.
        folder: where the download is unpacked.
        pause: seconds until a picture shows what was done: only for who wants to see it.

    Returns:
        name of the object, and the folder with what was downloaded.
    """

    def see() -> None:
        browser.page.wait_for_timeout(1000 * pause)

    shot("start")
    for x, y in points:
        before = selected(browser)
        click_object(browser, "Pick", x, y)
        with contextlib.suppress(AssertionError):  # the same again, or nothing
            browser.wait(lambda before=before: selected(browser) != before, 2.5)
        if selected(browser) != "nothing" and not any(
            word in selected(browser) for word in ("floor", "table", "object 0")
        ):
            break
    name = selected(browser).rsplit(" (", 1)[0]
    see()
    shot("picked")
    browser.press("Isolate")
    see()
    shot("isolated")
    browser.press("Undo")
    browser.wait(lambda: any("Undone: isolate" in body for _, body in browser.notifications()))
    browser.open("Look")
    browser.press("Tint")
    see()
    shot("tinted")
    browser.open("Look")
    browser.open("Place")
    browser.check("Move and turn")
    see()
    shot("gizmo")
    browser.slide("Scale by", 1.4)
    browser.press("Scale")
    see()
    shot("scaled")
    browser.press("Undo")
    browser.wait(lambda: any("Undone: move" in body for _, body in browser.notifications()))
    browser.check("Move and turn", False)
    browser.open("Place")
    browser.open("Files")
    see()
    archive = browser.download(lambda: browser.press("Download"))
    shot("exported")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return name, folder
