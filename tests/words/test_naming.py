"""Vocabularies, and names of which a model is sure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gradiseg_ns.words import Looks
from gradiseg_ns.words.naming import (
    MAX_WORD,
    Guess,
    VocabularyError,
    guesses,
    is_given,
    new_names,
    read_vocabulary,
)

from .models import Colours


def looks(**hues: list[tuple[float, float]]) -> Looks:
    """Objects by "o" and their id, with red minus green and blue minus green of each view."""
    made = Looks()
    for name, rows in hues.items():
        made.features[int(name[1:])] = F.normalize(torch.tensor([[*row, 0.05] for row in rows]), dim=1)
    return made


COLOURS = [("red brick",), ("blue pot",)]


def test_the_vocabulary_that_comes_along() -> None:
    names = read_vocabulary()
    assert 300 <= len(names) <= 500
    first = [words[0] for words in names]
    assert {"mug", "plate", "chair", "wall", "potted plant", "scissors"} <= set(first)
    assert ("mug", "coffee mug", "coffee cup") in names


def test_a_vocabulary_is_a_line_a_name(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# mine\n\n Red   Mug , cup\nTür # a door\r\n".encode())
    assert read_vocabulary(path) == [("Red Mug", "cup"), ("Tür",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mug\ncup, mug\n", r"words.txt, line 2: 'mug' stands in line 1 already"),
        (b"mug\nThe  MUG\n", r"line 2: 'The MUG' stands in line 1 already"),
        (b"mug\ncup,,jar\n", r"line 2: found '', expected a word"),
        (b"mug\n\xff\xfe\n", r"line 2: found b'\\xff\\xfe', expected text in UTF-8"),
        (b"mug\n" + b"x" * (MAX_WORD + 1), rf"line 2: found 'x{{40}}...', expected a word or phrase of 1 to {MAX_WORD}"),
        (b"mug\na\x07b\n", r"line 2: found 'a\\x07b'"),
        (b"# nothing\nmug\n", r"words.txt has 1 names: expected at least two"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_vocabulary_is_told_with_its_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=message):
        read_vocabulary(path)


def test_a_vocabulary_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"none.txt cannot be read \(No such file"):
        read_vocabulary(tmp_path / "none.txt")
    with pytest.raises(VocabularyError, match="cannot be read"):
        read_vocabulary(tmp_path)


def test_names_that_nobody_gave() -> None:
    for name in ("object 12", "12", "", "  ", "object", "Object 3 copy", "object 3 copy 2", "object 4, part"):
        assert is_given(name), name
    for name in ("mug", "object of art", "mug copy", "rest", "12 apples", "big object 12"):
        assert not is_given(name), name


def test_sure_names_and_others() -> None:
    red, grey, between = (1.0, 0.0), (0.0, 0.0), (0.7, 0.7)
    found = guesses(
        Colours(), looks(o1=[red] * 5, o2=[grey] * 5, o3=[between] * 5), COLOURS, ids=[1, 2, 3, 99]
    )
    assert list(found) == [1, 2, 3], "no view shows 99"
    assert found[1].name == "red brick" and found[1].probability > 0.95 and found[1].views == 5
    assert found[1].sure()
    assert found[2].name in ("object", "thing", "stuff", "texture") and not found[2].sure(0.0)
    assert {found[3].name, found[3].second} == {"red brick", "blue pot"}
    assert found[3].probability == pytest.approx(0.5, abs=0.01) and not found[3].sure(0.1), "nothing is ahead"


def test_views_that_contradict_each_other_make_nothing_sure() -> None:
    red, blue = (1.0, 0.0), (0.0, 1.0)
    model = Colours()
    split = guesses(model, looks(o1=[red, blue, red, blue]), COLOURS, [1])[1]
    assert not split.sure()
    one_bad = guesses(model, looks(o1=[red, red, blue, red, red]), COLOURS, [1])[1]
    assert one_bad.sure() and one_bad.name == "red brick"


def test_a_name_counts_as_its_best_word() -> None:
    model = Colours()
    words = [("brick", "red brick"), ("blue pot",)]
    assert guesses(model, looks(o1=[(1.0, 0.0)]), words, [1])[1].name == "brick"
    own = [("thing",), ("blue pot",)]
    grey = guesses(model, looks(o1=[(0.0, 0.0)]), own, [1])[1]
    assert grey.probability == pytest.approx(0.25, abs=0.01), (
        "a vocabulary may have a neutral word; it counts once"
    )


def test_names_of_people_stay_and_like_things_get_numbers() -> None:
    def guess(name: str, probability: float = 0.9, second: float = 0.05) -> Guess:
        return Guess(name, probability, "other", second, 5)

    found = {
        4: guess("mug"), 1: guess("mug"), 2: guess("mug"), 3: guess("cup", 0.6, 0.4), 5: guess("cup", 0.49, 0.0),
        6: guess("Mug"),
    }  # fmt: skip
    names = {1: "object 1", 2: "my own", 3: "object 3", 4: "object 4", 5: "object 5", 6: "", 7: "mug 2"}
    assert new_names(found, names) == {1: "mug", 4: "mug 3", 6: "Mug 4"}
    assert new_names(found, {**names, 7: "MUG"}, least=0.4) == {1: "mug 2", 4: "mug 3", 5: "cup", 6: "Mug 4"}
