"""What a person does with a scene in the web page: the test asserts that it works, examples/viewer_tour.py makes pictures of it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from .browser import Browser


def click_object(browser: Browser, button: str, x: float, y: float) -> None:
    """Press a button that waits for a click, and click into the picture."""
    browser.press(button)
    browser.page.wait_for_timeout(700)  # the page hears that clicks are wanted
    browser.click_scene(x, y)


def selected(browser: Browser) -> str:
    return browser.value("Selected")


def tell_story(
    browser: Browser,
    points: list[tuple[float, float]],
    shot: Callable[[str], None],
    folder: Path,
) -> tuple[str, Path]:
    """Pick, isolate, tint, move with the gizmo's object, undo, export.

    Args:
        browser: the viewer's page.
        points: of the picture, as shares; the first one on an object with a name is taken.
        shot: called with a word whenever there is something to see.
        folder: where the download is unpacked.

    Returns:
        name of the object, and the folder with what was downloaded.
    """
    shot("start")
    for x, y in points:
        click_object(browser, "Pick", x, y)
        browser.page.wait_for_timeout(2500)
        if selected(browser) != "nothing" and not any(
            word in selected(browser) for word in ("floor", "table", "object 0")
        ):
            break
    name = selected(browser).rsplit(" (", 1)[0]
    shot("picked")
    browser.press("Isolate")
    browser.page.wait_for_timeout(2500)
    shot("isolated")
    browser.press("Undo")
    browser.wait(lambda: any("Undone: isolate" in body for _, body in browser.notifications()))
    browser.open("Look")
    browser.press("Tint")
    browser.page.wait_for_timeout(2500)
    shot("tinted")
    browser.open("Look")
    browser.open("Place")
    browser.check("Move and turn")
    browser.page.wait_for_timeout(2500)
    shot("gizmo")
    browser.slide("Scale by", 1.4)
    browser.press("Scale")
    browser.page.wait_for_timeout(2500)
    shot("scaled")
    browser.press("Undo")
    browser.wait(lambda: any("Undone: move" in body for _, body in browser.notifications()))
    browser.check("Move and turn", False)
    browser.open("Place")
    browser.open("Files")
    browser.page.wait_for_timeout(1500)
    archive = browser.download(lambda: browser.press("Download"))
    shot("exported")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return name, folder
