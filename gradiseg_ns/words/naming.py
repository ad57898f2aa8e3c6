"""Names from a vocabulary, for objects of which a model is sure. What a person named keeps its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.words.finding import Looks, WordModel
from gradiseg_ns.words.scores import NEUTRAL, plain, typical

OWN = Path(__file__).with_name("vocabulary.txt")
"""The vocabulary that comes with this room."""
LEAST = 0.5
"""Probability that a name must have."""
AHEAD = 2.0
"""So many times as probable as the second one it must be."""
MAX_WORD = 100
"""Characters of a word or phrase."""
MAX_FILE = 1 << 20

_GIVEN = re.compile(r"(object( \d+)?|\d+)((, part)| copy( \d+)?)*")
"""Names that programs give: `ObjectTable.create`'s, copies' and parts' of those, and those of `gradiseg segment` without a name."""


class VocabularyError(GradisegError):
    """A vocabulary that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Guess:
    """What an object may be called."""

    name: str
    """The best name; of a neutral word, if none is better."""
    probability: float
    """0 to 1."""
    second: str
    """The name after it; empty if there is none."""
    second_probability: float
    views: int
    """Views that were compared."""

    def sure(self, least: float = LEAST) -> bool:
        """Whether the object can be called so: probable, far ahead of the second name, and no neutral word."""
        ahead = self.probability >= AHEAD * self.second_probability
        return self.name not in NEUTRAL and self.probability >= least and ahead


def is_given(name: str) -> bool:
    """Whether a name is one that no person gave: "object 12", "12", "object 12 copy"."""
    return not name.strip() or _GIVEN.fullmatch(plain(name)) is not None


def read_vocabulary(path: Path | None = None) -> list[tuple[str, ...]]:
    """Names of a text file, one a line; other words for the same thing may follow after commas. What begins with `#` is a comment.

    Args:
        path: the file, UTF-8. None: the vocabulary that comes with this room.

    Returns:
        by line, the name and its other words.

    Raises:
        VocabularyError: the file cannot be read, a line is no name, a word stands there twice, or there are fewer than two names.
    """
    path = path or OWN
    try:
        if path.stat().st_size > MAX_FILE:
            raise VocabularyError(
                f"{path} has {path.stat().st_size} bytes: expected {MAX_FILE} at most, one name a line."
            )
        content = path.read_bytes()
    except OSError as error:
        raise VocabularyError(
            f"{path} cannot be read ({error.strerror or error}): expected a text file with one name a line."
        ) from error
    lines: dict[str, int] = {}
    names: list[tuple[str, ...]] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise VocabularyError(
                f"{path}, line {number}: found {raw[:40]!r}, expected text in UTF-8."
            ) from None
        text = text.partition("#")[0].strip()
        if not text:
            continue
        words = tuple(" ".join(word.split()) for word in text.split(","))
        for word in words:
            if not plain(word) or not word.isprintable() or len(word) > MAX_WORD:
                shown = word if len(word) <= 40 else f"{word[:40]}..."
                raise VocabularyError(
                    f"{path}, line {number}: found {shown!r}, expected a word or phrase of 1 to {MAX_WORD} printable characters; "
                    "commas stand between words for the same thing."
                )
            if plain(word) in lines:
                raise VocabularyError(
                    f"{path}, line {number}: {word!r} stands in line {lines[plain(word)]} already: expected each word once."
                )
            lines[plain(word)] = number
        names.append(words)
    if len(names) < 2:
        raise VocabularyError(
            f"{path} has {len(names)} names: expected at least two, to tell them apart, one a line."
        )
    return names


def guesses(
    model: WordModel, looks: Looks, vocabulary: Sequence[Sequence[str]], ids: Iterable[int]
) -> dict[int, Guess]:
    """What objects may be called. Names compete with each other and with neutral words; a name counts as its best word.

    Args:
        model: what made the looks.
        looks: of the objects (`Finder.look`).
        vocabulary: of `read_vocabulary`.
        ids: the objects. Those that no view shows have no guess.
    """
    wanted = [id for id in ids if id in looks.features]
    if not wanted:
        return {}
    entries = [tuple(words) for words in vocabulary]
    known = {plain(word) for words in entries for word in words}
    entries += [(word,) for word in NEUTRAL if word not in known]
    read = model.read([plain(word) for words in entries for word in words])
    names = [words[0] for words in entries]
    sizes = [len(words) for words in entries]
    return {id: _guess(looks.features[id], read, sizes, names, model.scale) for id in wanted}


def _guess(pictures: Tensor, read: Tensor, sizes: list[int], names: list[str], scale: float) -> Guess:
    fits = scale * pictures @ read.T
    fits = torch.stack([part.amax(dim=1) for part in fits.split(sizes, dim=1)], dim=1)
    # Probabilities, not their logarithms: views that contradict each other make no name sure.
    values, order = typical(fits.softmax(dim=1)).topk(2)
    (best, next_), (first, second) = values.tolist(), order.tolist()
    return Guess(names[first], best, names[second], next_, len(pictures))


def new_names(
    found: Mapping[int, Guess], names: Mapping[int, str], *, least: float = LEAST
) -> dict[int, str]:
    """New names of the objects of which the model is sure. Of two objects of one name the second gets a number: "mug", "mug 2".

    Args:
        found: guesses by object id.
        names: what all objects are called now. Those that a person named keep their names.
        least: probability that a name must have.
    """
    taken = {plain(name) for name in names.values()}
    result = {}
    for id in sorted(found):
        if not is_given(names.get(id, "")) or not found[id].sure(least):
            continue
        word = found[id].name
        name = next(n for k in count(1) if plain(n := word if k == 1 else f"{word} {k}") not in taken)
        taken.add(plain(name))
        result[id] = name
    return result
