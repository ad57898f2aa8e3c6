"""viser's web page in Chromium, against the plain server that the other client is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import viser.transforms as vtf
from PIL import Image

from gradiseg_ns.viewer.client import ViewerClient
from gradiseg_ns.viewer.page import Camera

from .browser import Browser, browser_or_skip
from .test_client import FILE, PlainServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain() -> Iterator[PlainServer]:
    browser_or_skip()
    plain = PlainServer()
    yield plain
    plain.server.stop()


@pytest.fixture(scope="module")
def page(plain: PlainServer) -> Iterator[Browser]:
    with Browser(plain.url) as page:
        page.wait(plain.server.get_clients, what="the server to count the page")
        yield page


def test_other_client_starts_where_the_page_does(plain: PlainServer, page: Browser) -> None:
    theirs = next(iter(plain.server.get_clients().values())).camera
    with ViewerClient(plain.port) as client:
        view = client.page.view
    np.testing.assert_allclose(view.position, theirs.position, atol=1e-5)
    np.testing.assert_allclose(vtf.SO3(view.wxyz).as_matrix(), vtf.SO3(theirs.wxyz).as_matrix(), atol=1e-5)
    np.testing.assert_allclose(view.look_at, theirs.look_at, atol=1e-5)
    np.testing.assert_allclose(view.up, theirs.up_direction, atol=1e-5)
    assert view.fov == pytest.approx(theirs.fov)
    assert theirs.aspect == pytest.approx(1280 / 800, rel=0.01)


@pytest.fixture
def browser(page: Browser, plain: PlainServer) -> Iterator[Browser]:
    plain.events.clear()
    yield page
    assert not page.errors


def test_panel_and_picture_are_shown(browser: Browser, tmp_path: Path) -> None:
    browser.wait(lambda: "Press me" in browser.texts(), what="the panel")
    assert {"Show it", "Size", "Kind", "Colour", "a note", "Folder", "Name", "First"} <= set(browser.texts())
    assert browser.value("Kind") == "kind 0" and browser.value("Name") == "nobody"

    def green() -> bool:
        browser.screenshot(tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
        return (
            pixels.shape == (800, 1280, 3)
            and (np.abs(pixels[400, 500].astype(int) - (10, 200, 30)) < 8).all()
        )

    browser.wait(green, what="the background image")


def test_button_and_notification(browser: Browser, plain: PlainServer) -> None:
    browser.press("Press me")
    browser.wait(lambda: plain.events, what="the press")
    client = plain.events[0][1]
    browser.wait(lambda: ("Pressed", f"by {client}") in browser.notifications(), what="the notification")


def test_inputs(browser: Browser, plain: PlainServer) -> None:
    browser.set_text("Name", "a {b} <c>")
    browser.wait(lambda: ("name", "a {b} <c>") in plain.events, what="the text")
    browser.choose("Kind", "kind 57")
    browser.wait(lambda: ("kind", "kind 57") in plain.events, what="the choice")
    browser.check("Show it", False)
    browser.wait(lambda: ("check", False) in plain.events, what="the tick")
    browser.slide("Size", 1.3)
    browser.wait(lambda: ("size", 1.3) in plain.events, what="the slider")
    assert browser.value("Name") == "a {b} <c>" and browser.value("Kind") == "kind 57"


def test_modal(browser: Browser) -> None:
    browser.press("Ask")
    browser.wait(lambda: "Yes" in browser.texts(), what="the modal")
    browser.press("Yes")
    browser.wait(lambda: "Yes" not in browser.texts(), what="the modal to close")


def test_click_into_the_scene(browser: Browser, plain: PlainServer) -> None:
    browser.press("Pick")
    browser.wait(
        lambda: browser.page.locator("canvas[data-engine]").evaluate("c => c.style.cursor") == "pointer"
    )
    browser.click_scene(0.25, 0.6)
    name, event = browser.wait(lambda: plain.events, what="the click")[0]
    assert name == "click"
    np.testing.assert_allclose(event.screen_pos[0], (0.25, 0.6), atol=2e-3)
    camera = event.client.camera
    view = Camera(
        camera.position, camera.wxyz, camera.look_at, camera.up_direction, camera.fov, camera.aspect
    )
    origin, direction = view.ray(*event.screen_pos[0])  # the other client does as the page does
    np.testing.assert_allclose(event.ray_origin, origin, atol=1e-6)
    np.testing.assert_allclose(event.ray_direction, direction, atol=1e-6)
    with pytest.raises(AssertionError, match="is covered by"):
        browser.click_scene(0.9, 0.1)  # the panel


def test_download(browser: Browser) -> None:
    path = browser.download(lambda: browser.press("Get the file"))
    assert path.name == "noise.bin" and path.read_bytes() == FILE
