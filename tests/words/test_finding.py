"""Scores over several views, and the objects that a phrase means, by names and by looks."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.words import Cancelled, Finder, PhraseError, View, by_name, plain
from gradiseg_ns.words.scores import LIKELY, NEUTRAL, SURROUNDINGS, margins, rank, rivals, typical

from .models import Colours
from .test_views import view

RED, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.5, 0.5, 0.5)
BOXES = {3: (10, 10, 30, 30), 5: (40, 10, 60, 30), 8: (10, 40, 30, 55)}


def scene(degrees: float, colors: dict[int, tuple[float, float, float]]) -> View:
    """Things of one colour each, before grey."""
    one = view(*((id, *BOXES[id]) for id in colors), degrees=degrees)
    one.picture[:] = torch.tensor(GREY)
    for id, color in colors.items():
        one.picture[one.ids == id] = torch.tensor(color)
    return one


def around(count: int = 5) -> list[View]:
    return [scene(72.0 * k, {3: RED, 5: BLUE, 8: GREY}) for k in range(count)]


# ------------------------------------------------------------------------------------------------------------ scores


def test_phrases_are_asked_for_in_one_form() -> None:
    assert plain("  The Red\tMUG ") == "red mug" and plain("a") == "a" and plain("  ") == ""
    assert plain("theatre an") == "theatre an"


def test_a_phrase_does_not_stand_against_itself() -> None:
    assert rivals("red mug", whole=True) == NEUTRAL
    assert rivals("thing", whole=True) == tuple(word for word in NEUTRAL if word != "thing")
    assert rivals("red mug", whole=False) == (*NEUTRAL, *SURROUNDINGS)
    assert "table top" not in rivals("wooden table", whole=False)


def test_margins_are_log_odds_against_the_best_rival() -> None:
    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    phrase, others = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(margins(pictures, phrase, others, 10.0), torch.tensor([10.0, -2.0]))
    torch.testing.assert_close(margins(pictures, phrase, others[:0], 10.0), torch.tensor([10.0, 6.0]))


def test_extremes_do_not_count() -> None:
    assert float(typical(torch.tensor([2.0]))) == 2.0
    assert float(typical(torch.tensor([1.0, 2.0]))) == 1.5
    assert float(typical(torch.tensor([1.0, 2.0, 90.0]))) == 2.0
    assert float(typical(torch.tensor([1.0, 2.0, 3.0, -90.0, 90.0]))) == 2.0
    assert float(typical(torch.tensor([-90.0, -90.0, 1.0, 2.0, 3.0, 2.0, 90.0, 90.0]))) == 2.0
    torch.testing.assert_close(
        typical(torch.tensor([[1.0, 5.0], [2.0, 4.0], [9.0, 0.0]])), torch.tensor([2.0, 4.0])
    )


def test_one_bad_view_changes_no_rank() -> None:
    good = rank({1: [2.0, 2.1, 2.0, 2.0, -50.0], 2: [1.0, 1.0, 1.0, 1.0, 60.0], 4: []})
    assert [id for id, _ in good] == [1, 2]
    assert good[0][1] == pytest.approx(0.8808, abs=1e-3) and good[1][1] == pytest.approx(0.7311, abs=1e-3)
    assert [id for id, _ in rank({9: [0.0], 2: [0.0]})] == [2, 9]


# ----------------------------------------------------------------------------------------------------------- finding


def test_colours_are_found() -> None:
    finder = Finder(Colours())
    found = finder.find("the red mug", around(), lambda v: v)
    assert found[0].id == 3 and len(found) == 3
    assert found[0].likely and found[0].score > 0.9 and found[0].views == 5 and not found[0].named
    assert not any(one.likely for one in found[1:])
    assert finder.find("blue", around(), lambda v: v)[0].id == 5
    none = finder.find("green", around(), lambda v: v)
    assert not none[0].likely, "there is nothing green: the first is a guess"


def test_a_view_that_is_wrong_changes_nothing() -> None:
    views = around()
    views[2] = scene(144.0, {3: BLUE, 5: RED, 8: RED})
    assert [one.id for one in Finder(Colours()).find("red", views, lambda v: v) if one.likely] == [3]


def test_looks_are_kept_while_the_scene_is_the_same() -> None:
    model, asked = Colours(), []
    finder = Finder(model, most=2)

    def see(number: int) -> View:
        asked.append(number)
        return around()[number]

    first = finder.find("red", range(5), see, key=("geometry", 1))
    assert asked == [0, 1, 2, 3, 4] and model.pictures == 6
    assert first[0].views == 2
    assert finder.find("blue", range(5), see, key=("geometry", 1))[0].id == 5
    assert len(asked) == 5 and model.pictures == 6, "nothing was looked at again"
    finder.find("blue", range(5), see, key=("geometry", 2))
    assert len(asked) == 10
    finder.find("blue", range(5), see)
    finder.find("blue", range(5), see)
    assert len(asked) == 20, "without a key nothing is kept"


def test_progress_goes_to_the_end_and_a_search_can_be_cancelled() -> None:
    told: list[tuple[str, int, int]] = []
    finder = Finder(Colours())
    finder.find("red", around(), lambda v: v, key=1, progress=lambda *step: told.append(step))
    assert told[0] == ("Looking", 0, 5) and ("Looking", 5, 5) in told and told[-1] == ("Comparing", 15, 15)
    seen: list[View] = []

    def see(one: View) -> View:
        seen.append(one)
        return one

    with pytest.raises(Cancelled):
        finder.find("red", around(), see, key=2, cancelled=lambda: len(seen) == 2)
    assert len(seen) == 2
    finder.find("red", around(), see, key=2)
    assert len(seen) == 7, "what was broken off is not kept"


def test_crops_are_kept_to_be_looked_at() -> None:
    looks = Finder(Colours(), most=3).look(around(), lambda v: v)
    assert [len(crops) for crops in looks.crops.values()] == [3, 3, 3]
    crop = looks.crops[3][0]
    assert crop.dtype == torch.uint8 and crop[13, 13].tolist() == [230, 26, 26]
    assert looks.whole == {3: True, 5: True, 8: True}


def test_surroundings_win_only_if_the_phrase_says_so() -> None:
    class Walls(Colours):
        """A model for which every wall is somewhat red, and what is asked for is a wall."""

        def read(self, phrases):  # type: ignore[no-untyped-def]
            rows = super().read(phrases)
            for k, phrase in enumerate(phrases):
                if "wall" in phrase:
                    rows[k] = torch.tensor([1.0, 0.0, 0.0])
            return rows

    views = [view((3, 10, 10, 30, 30), degrees=72.0 * k) for k in range(3)]
    for one in views:
        one.ids[one.ids < 0] = 6
        one.picture[:] = torch.tensor(RED)
    found = {one.id: one.score for one in Finder(Walls()).find("red", views, lambda v: v)}
    assert found[3] > 0.9 and found[6] <= LIKELY, (
        "6 is cut off in each view: it is as much a wall as it is red"
    )
    found = {one.id: one.score for one in Finder(Walls()).find("the wall", views, lambda v: v)}
    assert found[6] > 0.9


# ------------------------------------------------------------------------------------------------------------- names


def test_names_are_compared_as_people_write_them() -> None:
    names = {1: "Red  Mug", 2: "mug", 3: "big red mug", 4: "mugs"}
    assert by_name("the red mug", names) == ([1], [3])
    assert by_name("MUG", names) == ([2], [1, 3])
    assert by_name("cup", names) == ([], [])


def test_who_has_the_name_is_first_whatever_it_looks_like() -> None:
    finder = Finder(Colours())
    found = finder.find("Red", around(), lambda v: v, names={5: "red", 3: "tomato", 77: "RED"})
    assert [(one.id, one.score, one.named) for one in found[:2]] == [(5, 1.0, True), (77, 1.0, True)]
    assert found[1].views == 0, "no view shows it"
    assert found[2].id == 3 and not found[2].named


def test_without_a_model_names_are_all_there_is() -> None:
    finder = Finder(None)

    def see(_: View) -> View:
        raise AssertionError("nothing is to be looked at")

    found = finder.find("mug", around(), see, names={1: "big red mug", 2: "red mug", 3: "mug", 4: "cup"})
    assert [one.id for one in found] == [3, 2, 1] and all(one.named and one.likely for one in found)
    assert found[0].score == 1.0 > found[1].score > found[2].score
    assert finder.find("spoon", around(), see, names={1: "mug"}) == []
    looks = finder.look(around(), lambda v: v)
    assert set(looks.crops) == {3, 5, 8} and looks.features == {}


def test_nothing_to_look_for_and_nothing_to_look_at() -> None:
    finder = Finder(Colours())
    with pytest.raises(PhraseError, match="the phrase is empty"):
        finder.find(" ", around(), lambda v: v)
    with pytest.raises(PhraseError, match="no camera sees an object"):
        finder.find("red", [view()], lambda v: v)
    assert finder.find("red", [view()], lambda v: v, names={2: "red"})[0].id == 2
