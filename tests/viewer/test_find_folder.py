"""Objects by words in the panel, and parts of objects."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import gradiseg_ns.viewer.find_folder as find_folder
from gradiseg_ns.editing.display import Editing
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.scene.parts import Parts, PartTree
from gradiseg_ns.tools.weights import WeightsError
from gradiseg_ns.viewer.phrases import Cancelled
from gradiseg_ns.viewer.session import Session, SessionError

from .conftest import Opened
from .test_new_object_folder import told
from .test_session import camera, point_on, session, truth  # noqa: F401

pytestmark = pytest.mark.slow


class Colours:
    """Compares crops and words by how red or blue they are."""

    scale = 10.0

    def __init__(self) -> None:
        self.seen, self.go = 0, threading.Event()
        self.go.set()

    def see(self, crops: Sequence[Tensor]) -> Tensor:
        assert self.go.wait(60)
        self.seen += len(crops)
        middle = [
            c[len(c) // 3 : 2 * len(c) // 3, len(c) // 3 : 2 * len(c) // 3].mean(dim=(0, 1)) for c in crops
        ]
        # what is grey, as the floor, is like no colour
        return torch.nn.functional.normalize(torch.stack([m - m.mean() for m in middle]) + 1e-4, dim=1) * (
            torch.stack(middle).std(dim=1, keepdim=True) > 0.1
        )

    def read(self, phrases: Sequence[str]) -> Tensor:
        words = {"red": (1.0, -0.5, -0.5), "blue": (-0.5, -0.5, 1.0)}
        found = [words.get(phrase.split()[0], (0.0, 1.0, 0.0)) for phrase in phrases]
        return torch.nn.functional.normalize(torch.tensor(found), dim=1)


def test_objects_by_words_in_the_scene_as_it_is_edited(session: Session, camera: Any) -> None:  # noqa: F811
    model = Colours()
    found = session.phrases.search("blue thing").run(model)
    assert found[0].id == 7 and found[0].likely
    seen = model.seen
    assert session.phrases.search("red thing").run(model)[0].id == 1
    assert model.seen == seen, "what it looks like is kept for the next phrase"
    session.select([7])
    session.hide()
    assert 7 not in [one.id for one in session.phrases.search("blue thing").run(model)]
    assert [one.id for one in session.phrases.search("red ball").run()] == [1], "names alone"
    search = session.phrases.search("blue thing")
    search.end()
    session.show_all()
    with pytest.raises(Cancelled):
        search.run(model)


def test_a_phrase_selects_and_ranks(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Colours()

    def load(name: str, _: Any) -> Colours:
        if name != "colours":
            raise WeightsError(f"no such model: {name}")
        return model

    monkeypatch.setattr(find_folder, "load_words", load)
    client = opened.connect()
    folder = opened.pipeline.viewer_panel._find

    def find(phrase: str, name: str) -> None:
        client.set("Phrase", phrase)
        client.set("CLIP model", name)
        client.wait(lambda: (folder._phrase.value, folder._model.value) == (phrase, name))
        client.press("Find")

    find("blue thing", "colours")
    client.wait(lambda: str(client.page.find("Selected").value).startswith("blue ball ("))
    client.wait(lambda: str(client.page.find("Found").value).startswith("blue ball"))
    first = client.page.widgets("Objects")[1]
    assert "%  7  blue ball" in str(first.label), first
    model.go.clear()  # the model is busy: the panel is not
    opened.session.select([1])
    opened.session.tint((0.0, 1.0, 0.0), 0.1)
    find("red thing", "colours")
    client.set("See", "Isolate")
    client.wait(lambda: opened.model.arrangement().hidden == {0, 7})
    model.go.set()
    client.wait(
        lambda: str(client.page.find("Found").value).startswith(("red ball", "Only a guess: red ball"))
    )
    find("no such name at all", "")
    client.wait(lambda: client.page.find("Found").value == "No object is called no such name at all.")
    find("red thing", "nobody/nothing")
    client.wait(lambda: told(client, "no such model: nobody/nothing"))
    find("", "colours")
    client.wait(lambda: str(client.page.widgets("Objects")[1].label).startswith("0  floor"))
    assert not client.page.shown(client.page.find("Parts")), "no parts are known here"
    assert not client.page.errors


def test_coarser_and_finer(session: Session, camera: Any, pipeline: GradisegPipeline) -> None:  # noqa: F811
    """The red ball has an upper half, which has a left half."""
    model = pipeline.model
    labels = model._labels()
    with pytest.raises(SessionError, match="knows no parts"):
        session.select([1])
        session.finer()
    ball = labels == 1
    middle = model.means[ball].median(dim=0).values
    upper = ball & (model.means[:, 2] > middle[2])
    left = upper & (model.means[:, 0] < middle[0])
    tree = PartTree.create({20: 1, 21: 20})
    parts = torch.full_like(labels, -1)
    parts[upper], parts[left] = 20, 21

    def rows() -> Tensor:
        with session.scene.reading():
            return session.selection.rows(model.arrangement(), model.means)

    model.strategy_state.update(Parts(tree, parts).to_state())
    try:
        assert session.snapshot().parts
        session.select([1])
        session.finer()
        assert torch.equal(rows(), upper)
        session.finer()
        assert torch.equal(rows(), left)
        with pytest.raises(SessionError, match="no parts are known"):
            session.finer()
        session.coarser()
        assert torch.equal(rows(), upper)
        session.coarser()
        assert session.selection.ids == (1,) and session.selection.region is None
        with pytest.raises(SessionError, match="not a part"):
            session.coarser()
        session.pick(camera, *point_on(truth(pipeline), 1))
        session.duplicate()
        session.finer()
        assert int(rows().sum()) == int(upper.sum()), "of the copy alone"
        assert session.selection.ids == (8,)
    finally:
        del model.strategy_state["part"], model.strategy_state["part_tree"]


def test_objects_may_be_the_parts(session: Session, pipeline: GradisegPipeline) -> None:  # noqa: F811
    """As after a training on maps of parts: both balls are parts of one toy, which has no Gaussian of its own."""
    model = pipeline.model
    before = model.objects
    model.objects = before.with_parents({1: 30, 7: 30})
    model.editing = Editing()
    try:
        assert session.snapshot().parts
        session.select([1])
        session.coarser()
        assert session.selection.ids == (1, 7) and session.selection.region is None
        with pytest.raises(SessionError, match="not a part"):
            session.coarser()
        session.finer()
        assert session.selection.ids in ((1,), (7,))
        session.select([0])
        for step in (session.coarser, session.finer):
            with pytest.raises(SessionError, match="part"):
                step()
    finally:
        model.objects = before
