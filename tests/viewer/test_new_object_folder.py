"""The folder "New object" over the viewer's protocol: a click, the search's progress, its end, and a model that takes long to load."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import gradiseg_ns.masks as masks
import gradiseg_ns.viewer.search as search
from gradiseg_ns.masks import Mask, Picture
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.segment.loop import SegmentError
from gradiseg_ns.tools.weights import WeightsError
from gradiseg_ns.viewer.client import ViewerClient
from gradiseg_ns.viewer.named_model import NamedModel

from .conftest import Opened

pytestmark = pytest.mark.slow


class Waiting:
    """A wand that waits at its fourth mask."""

    def __init__(self) -> None:
        self.asked, self.reached, self.go = 0, threading.Event(), threading.Event()

    def prompted(self, picture: Picture, *args: Any, **kwargs: Any) -> Mask:
        self.asked += 1
        if self.asked == 4:
            self.reached.set()
            assert self.go.wait(60)
        return Wand().prompted(picture, *args, **kwargs)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """What the name "slow sam" loads."""
    maker, load = Waiting(), masks.load
    monkeypatch.setattr(
        masks, "load", lambda name, *a, **k: maker if name == "slow sam" else load(name, *a, **k)
    )
    return maker


def click(client: ViewerClient, opened: Opened, id: int = 1, button: str = "Object") -> None:
    client.set("Click on", button)
    client.wait(lambda: client.page.pointer_enabled == "click", what="the viewer waits for a click")
    client.click(*opened.pixel_of(id))


def words(client: ViewerClient) -> str:
    return str(client.page.find("Clicks").value)


def told(client: ViewerClient, text: str) -> bool:
    return any(text in n.body for n in client.page.notifications)


def test_one_click_and_the_other_views_are_asked(opened: Opened) -> None:
    client = opened.connect()
    assert words(client) == "none"
    click(client, opened)
    client.wait(lambda: words(client).endswith("1 click"))
    assert str(client.page.find("Selected").value) != "nothing", "a first answer"
    client.wait(lambda: " agree" in words(client), timeout=120, what="the search to end")
    assert opened.session.new_object.running is None
    searched = opened.session.new_object._last
    assert searched is not None and searched.found is not None and searched.found.start is not None
    start = searched.found.start
    searched.found.proposed = [torch.arange(len(start)) < 2 * int(start.sum())]
    client.set("It is", "Smaller")
    client.wait(lambda: told(client, "nothing smaller hangs together"))
    client.set("It is", "Larger")
    client.wait(lambda: opened.session.new_object._last is not searched, timeout=120, what="another size")
    client.set("Called", "my ball")
    client.wait(lambda: opened.pipeline.viewer_panel._new_object._called.value == "my ball")
    client.press("Make object")
    client.wait(
        lambda: (
            opened.session.names().get(8) == "my ball"
            or "is an object already" in str(client.page.notifications)
        )
    )
    client.wait(lambda: words(client) == "none")
    assert not client.page.errors


@pytest.mark.parametrize("ends", ["Undo", "Clear", "closing"])
def test_the_panel_works_while_views_are_asked(opened: Opened, maker: Waiting, ends: str) -> None:
    client, panel = opened.connect(), opened.pipeline.viewer_panel
    client.set("SAM model", "slow sam")
    client.wait(lambda: panel._new_object._sam.value == "slow sam")
    click(client, opened)
    assert maker.reached.wait(60)
    client.wait(lambda: words(client).endswith("; 1 click"))
    if ends == "closing":
        threading.Timer(0.5, maker.go.set).start()
        panel.close()
        assert not panel.actions.is_busy
        return
    client.set("Edit", ends)
    client.wait(lambda: words(client) == "none", what=f"{ends}, while the search goes on")
    maker.go.set()
    client.wait(lambda: not panel.actions.is_busy, what="the search to end")
    assert str(client.page.find("Selected").value) == "nothing"
    assert not told(client, "fault of the program")


def test_errors_are_told_and_nobody_is_asked_if_nobody_wants_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise SegmentError("no view is of any help today")

    monkeypatch.setattr(search, "find_object", broken)
    client, panel = opened.connect(), opened.pipeline.viewer_panel
    click(client, opened)
    client.wait(lambda: told(client, "no view is of any help today"))
    client.wait(lambda: words(client) == "the other views were of no help; 1 click")
    assert str(client.page.find("Selected").value) != "nothing", "the first answer stays"
    client.set("Edit", "Clear")
    client.wait(lambda: words(client) == "none")
    client.set("Ask other views", False)
    client.wait(lambda: not panel._new_object._asks.value)
    click(client, opened)
    client.wait(lambda: words(client) == "1 click")
    assert not panel.actions.is_busy


def test_a_model_loads_while_the_panel_goes_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def load(name: str, *_: Any, **__: Any) -> Wand:
        begun.set()
        assert go.wait(60)
        if name == "bad":
            raise WeightsError("no such model: bad")
        return Wand()

    monkeypatch.setattr(masks, "load", load)
    client = opened.connect()
    folder = opened.pipeline.viewer_panel._new_object
    client.set("SAM model", "big")
    client.wait(lambda: folder._sam.value == "big")
    client.set("Click on", "Object")
    assert begun.wait(30)
    client.set("See", "Hide")
    client.wait(lambda: told(client, "nothing is selected"), what="another button, while the model loads")
    assert client.page.pointer_enabled is None
    go.set()
    client.wait(
        lambda: client.page.pointer_enabled == "click", what="the click that the model was loaded for"
    )
    client.set("SAM model", "bad")
    client.wait(lambda: folder._sam.value == "bad")
    client.set("Click on", "Object")
    client.wait(lambda: told(client, "no such model: bad"))


def test_a_named_model_is_loaded_once_and_given_up_for_another() -> None:
    loads: list[str] = []

    def load(name: str) -> str:
        loads.append(name)
        if name == "bad":
            raise WeightsError("bad")
        return name.upper()

    model = NamedModel(load)
    assert model.loaded("a") is None
    assert model.load("a") == model.load("a") == model.loaded("a") == "A"
    assert loads == ["a"]
    with pytest.raises(WeightsError):
        model.load("bad")
    assert model.loaded("a") is None and model.loaded("bad") is None
