"""One click on an object that no map knew, without a viewer: the program asks the other views."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox

from gradiseg_ns.masks import Mask, Picture
from gradiseg_ns.masks.wand import Wand
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.segment.loop import Found, SegmentError
from gradiseg_ns.viewer.search import SearchEnded
from gradiseg_ns.viewer.selector import Rows
from gradiseg_ns.viewer.session import Session, SessionError

from .test_session import ids_seen, point_on, truth

pytestmark = pytest.mark.slow

BALL = 1


@pytest.fixture
def cameras(pipeline: GradisegPipeline) -> Cameras:
    return pipeline.datamanager.train_dataset.cameras


@pytest.fixture
def session(pipeline: GradisegPipeline, cameras: Cameras, tmp_path: Path) -> Iterator[Session]:
    """All is floor: no map knew the balls."""
    session = Session(lambda: pipeline.model, lambda: cameras, folder=tmp_path)
    session.select([1, 7])
    session.merge(0)
    session.clear()
    yield session
    session.new_object.close()


def clicked(session: Session, pipeline: GradisegPipeline, index: int = 0, **more: Any) -> None:
    cameras = pipeline.datamanager.train_dataset.cameras
    session.new_object.click(
        cameras[index : index + 1], *point_on(truth(pipeline, index), more.pop("id", BALL)), **more
    )


def iou(session: Session, pipeline: GradisegPipeline, id: int = BALL) -> float:
    """Of the selection, made an object, in views in which nothing was clicked."""
    cameras, scores = pipeline.datamanager.train_dataset.cameras, []
    session.make_object("found")
    new = session.selection.ids[0]
    for index in (4, 13, 22):
        seen = ids_seen(session, cameras[index : index + 1]) == new
        ball = truth(pipeline, index) == id
        scores.append(float((seen & ball).sum() / (seen | ball).sum()))
    session.undo()
    return sum(scores) / 3


def test_one_click_is_enough(session: Session, pipeline: GradisegPipeline) -> None:
    clicked(session, pipeline)
    assert session.selection.region is not None, "a first answer"
    search = session.new_object.search()
    assert search is not None and session.new_object.running is search
    told: list[tuple[int, int]] = []
    found = search.run(lambda: told.append((search.asked, search.most)))
    assert told and told[-1][1] == 16 and 3 <= len(found.views) <= 16
    assert [asked for asked, _ in told] == sorted(asked for asked, _ in told)
    assert session.new_object.accept(search)
    assert session.new_object.running is None
    assert iou(session, pipeline) > 0.75


def test_the_first_answer_alone_is_worse(session: Session, pipeline: GradisegPipeline) -> None:
    """What the search is for; and that nothing else is done when nobody wants it."""
    session.new_object.asks_others = False
    clicked(session, pipeline)
    assert session.new_object.search() is None
    first = iou(session, pipeline)
    session.new_object.asks_others = True
    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    search.run()
    session.new_object.accept(search)
    assert iou(session, pipeline) > first + 0.05


def test_views_are_kept_for_the_next_object_and_given_up_when_something_is_hidden(
    session: Session, pipeline: GradisegPipeline, cameras: Cameras
) -> None:
    clicked(session, pipeline)
    first = session.new_object.search()
    assert first is not None
    first.run()
    session.new_object.accept(first)
    sights = dict(first.frozen.views._sights)
    session.clear()
    clicked(session, pipeline, 9, id=7)
    second = session.new_object.search()
    assert second is not None and second.frozen is first.frozen
    second.run()
    photos = len(cameras)
    assert len(second.frozen.views) == photos + 1, "of clicked views only those of this object"
    assert any(second.frozen.views._sights.get(v) is sight for v, sight in sights.items() if v < photos)
    session.new_object.accept(second)
    session.hide()
    clicked(session, pipeline)
    third = session.new_object.search()
    assert third is not None and third.frozen is not first.frozen
    assert len(third.frozen.gaussians) < len(first.frozen.gaussians), "what is hidden is not there"
    with pytest.raises(SearchEnded):
        first.frozen.views.sight(0)  # nobody renders it any more
        first.frozen.views._look(first.frozen.views.cameras[0])


class Stops:
    """A wand that waits in the middle of a search until it is told to go on."""

    def __init__(self) -> None:
        self.asked, self.reached, self.go = 0, threading.Event(), threading.Event()

    def prompted(self, picture: Picture, *args: Any, **kwargs: Any) -> Mask:
        self.asked += 1
        if self.asked == 3:
            self.reached.set()
            assert self.go.wait(30)
        return Wand().prompted(picture, *args, **kwargs)


@pytest.mark.parametrize("what", ["undo", "clear", "select", "pick", "box", "close", "click"])
def test_a_search_ends_when_something_else_is_wanted(
    session: Session, pipeline: GradisegPipeline, cameras: Cameras, what: str
) -> None:
    maker = session.new_object.maker = Stops()
    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    ended: list[bool] = []

    def run() -> None:
        with pytest.raises(SearchEnded):
            search.run()
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    assert maker.reached.wait(60)
    actions = {
        "undo": session.undo,
        "clear": session.clear,
        "select": lambda: session.select([0]),
        "pick": lambda: session.pick(cameras[3:4], 0.5, 0.5),
        "box": lambda: session.box(cameras[3:4], (0.0, 0.0, 1.0, 1.0)),
        "close": session.new_object.close,
        "click": lambda: clicked(session, pipeline, 9),
    }
    asked = maker.asked
    told = actions[what]()
    before = session.selection
    maker.go.set()
    thread.join(timeout=60)
    assert ended and maker.asked <= asked + 1 + (what == "click")
    assert session.new_object.running is None
    assert not session.new_object.accept(search)
    assert session.selection is before, "what the search would have found is not selected"
    if what == "undo":
        assert told == "the click" and not session.new_object.views and not session.selection
        assert len(session.edits.steps) == 1, "the edit before it stays"


def test_a_failed_search_leaves_the_first_answer(session: Session, pipeline: GradisegPipeline) -> None:
    clicked(session, pipeline)
    before = session.selection

    class Broken:
        def prompted(self, *_: Any, **__: Any) -> Mask:
            raise SegmentError("out of order")

    session.new_object.maker = Broken()
    search = session.new_object.search()
    assert search is not None
    with pytest.raises(SegmentError, match="out of order"):
        search.run()
    assert session.new_object.failed(search)
    assert not session.new_object.failed(search), "told once"
    assert session.selection is before
    session.new_object.maker = None
    search = session.new_object.search()
    assert search is not None
    search.found = Found.empty(search.frozen.gaussians)
    with pytest.raises(SessionError, match="do not agree"):
        session.new_object.accept(search)
    assert session.selection is before and session.new_object.running is None


def blue(session: Session, pipeline: GradisegPipeline) -> float:
    """How much of the blue ball is selected, 0 to 1, of the Gaussians that the classifier takes for it."""
    with session.scene.reading() as model:
        rows = session.selection.rows(session.arrangement(), model.means)
        own = model._labels() == 7
        return float((rows & own).sum() / own.sum())


@pytest.mark.parametrize("asks", [False, True])
def test_a_click_beside_it_in_another_view_takes_away(
    session: Session, pipeline: GradisegPipeline, asks: bool
) -> None:
    """Both balls are taken for one; then the blue one is none of it."""
    new = session.new_object
    new.asks_others, new.tolerance = asks, 1.0

    def ask() -> None:
        search = new.search()
        if search is not None:
            search.run()
            new.accept(search)

    clicked(session, pipeline)
    with session.scene.reading() as model:  # as if the wand had gone too far
        rows = Rows.now(model)
        session.selector.put_rows(rows, (model._labels() == 1) | (model._labels() == 7))
    assert blue(session, pipeline) == 1
    new.tolerance = 0.5
    clicked(session, pipeline, 9, id=7, outside=True)
    view = new.views[-1]
    assert view.guessed and not view.inside
    x, y = view.guessed[0]
    ids = truth(pipeline, 9)
    assert int(ids[int(y * ids.shape[0]), int(x * ids.shape[1])]) == BALL, "a point that was clicked before"
    ask()
    assert blue(session, pipeline) < 0.3


def test_of_what_was_clicked_before_nothing_is_guessed_where_it_is_not(
    session: Session, pipeline: GradisegPipeline
) -> None:
    clicked(session, pipeline, id=7)
    clicked(session, pipeline)
    clicked(session, pipeline, 9, id=7, outside=True)
    ids, view = truth(pipeline, 9), session.new_object.views[-1]
    hit = [int(ids[int(y * ids.shape[0]), int(x * ids.shape[1])]) for x, y in view.guessed]
    assert hit == [BALL], "the click on the blue ball is contradicted"


def test_a_click_beside_everything_needs_an_object(session: Session, pipeline: GradisegPipeline) -> None:
    with pytest.raises(SessionError, match="click the object first"):
        clicked(session, pipeline, outside=True)
    assert not session.new_object.views and not session.new_object.count


def test_until_the_next_search_ends_a_click_adds_or_takes_away(
    session: Session, pipeline: GradisegPipeline
) -> None:
    def rows() -> torch.Tensor:
        with session.scene.reading() as model:
            return session.selection.rows(session.arrangement(), model.means)

    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    search.run()
    session.new_object.accept(search)
    found = rows()
    session.new_object.tolerance = 0.0  # a mask that is far too small
    clicked(session, pipeline, 9)
    assert bool((rows() | ~found).all()), "nothing is lost"
    session.new_object.tolerance = 0.5
    clicked(session, pipeline, 18, id=7)
    more = rows()
    assert int((more & ~found).sum()) > 20
    clicked(session, pipeline, 18, id=7, outside=True)
    assert int((rows() & ~more).sum()) == 0


def test_what_was_found_is_tightened(session: Session, pipeline: GradisegPipeline) -> None:
    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    search.run()
    session.new_object.accept(search)
    assert not session.selector.needs_votes
    counts = []
    for weight in (10.0, 1.0, 0.1):
        session.selector.set_weight(weight)
        with session.scene.reading() as model:
            counts.append(int(session.selection.rows(session.arrangement(), model.means).sum()))
    assert counts[0] < counts[1] < counts[2]


def test_the_person_knows_the_size(session: Session, pipeline: GradisegPipeline) -> None:
    """The next larger thing, and back to the smaller one; not before there was an answer, nor after the scene has changed."""
    new = session.new_object
    with pytest.raises(SessionError, match="nothing was found yet"):
        new.other_size(larger=True)
    clicked(session, pipeline)
    search = new.search()
    assert search is not None
    with pytest.raises(SessionError, match="nothing was found yet"):
        new.other_size(larger=True)
    found = search.run()
    assert new.accept(search)
    every = torch.arange(len(found.selected))
    assert found.start is not None
    own = int(found.start.sum())
    found.proposed = [found.start, every < 2 * own]
    with pytest.raises(SessionError, match="nothing smaller hangs together"):
        new.other_size(larger=False)
    assert new.running is None, "what was found stays"
    wider = new.other_size(larger=True)
    assert new.running is wider and wider.frozen is search.frozen
    result = wider.run()
    assert result.start is not None and int(result.start.sum()) == 2 * own
    assert new.accept(wider)
    result.proposed = found.proposed
    back = new.other_size(larger=False).run()
    assert torch.equal(back.start, found.start)  # type: ignore[arg-type]
    session.undo()
    with pytest.raises(SessionError, match="nothing was found yet"):
        new.other_size(larger=True)


def test_a_training_may_go_on_meanwhile(pipeline: GradisegPipeline, cameras: Cameras) -> None:
    """Parameters change in place while views are asked: what is searched is a copy, and the answer is found in the Gaussians of later."""
    session = Session(lambda: pipeline.model, lambda: cameras, trains=True)
    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    before = search.frozen.gaussians.means.clone()
    model = pipeline.model
    kept = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    try:
        with torch.no_grad():
            for value in model.gauss_params.values():
                value += 1e-3
        assert torch.equal(search.frozen.gaussians.means, before)
        found = search.run()
        assert session.new_object.accept(search)
        assert found.start is not None
        found.proposed = [torch.arange(len(found.start)) < 2 * int(found.start.sum())]
        assert session.new_object.other_size(larger=True).frozen is search.frozen, "still the same copy"
        session.new_object.end_search()
        session.make_object("found")
        assert search.frozen.closed.is_set(), "it is given up with the object"
        seen = ids_seen(session, cameras[4:5]) == session.selection.ids[0]
        ball = truth(pipeline, 4) == BALL
        assert float((seen & ball).sum() / (seen | ball).sum()) > 0.6
    finally:
        with torch.no_grad():
            for name, value in model.gauss_params.items():
                value.copy_(kept[name])


def test_what_the_viewer_crops_away_is_not_there(session: Session, pipeline: GradisegPipeline) -> None:
    """Rows of a cropped picture are not those of the whole scene."""
    model = pipeline.model
    ball = model.means[model._labels() == BALL].detach()
    model.crop_box = OrientedBox.from_params(
        tuple(ball.mean(dim=0).tolist()),
        (0.0, 0.0, 0.0),
        tuple((3 * (ball.quantile(0.9, 0) - ball.quantile(0.1, 0))).tolist()),
    )
    clicked(session, pipeline)
    search = session.new_object.search()
    assert search is not None
    assert 0 < len(search.frozen.gaussians) < model.num_points
    search.run()
    assert session.new_object.accept(search)
    session.selector.set_weight(2.0)
    model.crop_box = None
    again = session.new_object.search()
    assert again is not None and again.frozen is not search.frozen
