"""From likenesses to scores: how much better a phrase fits than words that fit everything, over several views.

A cosine says little by itself: of some pictures everything is likely. As in LERF (arXiv 2303.09553), a phrase stands against neutral
ones, and its score is the probability that it fits rather than the neutral one that fits best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

NEUTRAL = ("object", "thing", "stuff", "texture")
"""Words that fit everything."""
SURROUNDINGS = ("floor", "wall", "ceiling", "ground", "table top", "room", "background")
"""Words for what no view shows whole. It wins a phrase only if it fits better than these, too."""
LIKELY = 0.5
"""From this score on a phrase fits an object better than any neutral word."""
_ARTICLES = ("a", "an", "the")


def plain(phrase: str) -> str:
    """A phrase as models and names are asked for it: small letters, single blanks, without an article in front."""
    words = phrase.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)


def rivals(phrase: str, *, whole: bool) -> tuple[str, ...]:
    """The words that a phrase stands against.

    Args:
        phrase: what is looked for. Who looks for the floor does not look for what is no floor.
        whole: whether some view shows the object whole; else the words for surroundings are among them.
    """
    asked = set(plain(phrase).split())
    words = NEUTRAL if whole else (*NEUTRAL, *SURROUNDINGS)
    return tuple(word for word in words if not asked & set(word.split()))


def margins(pictures: Tensor, phrase: Tensor, against: Tensor, scale: float) -> Tensor:
    """How much better a phrase fits pictures than the best of other words: log odds [n].

    Args:
        pictures: unit vectors [n, d].
        phrase: unit vector [d].
        against: unit vectors [k, d] of the other words.
        scale: what the model multiplies cosines with.
    """
    fits = pictures @ phrase
    return scale * (fits - (pictures @ against.T).amax(dim=1) if len(against) else fits)


def typical(values: Tensor) -> Tensor:
    """The mean over views without the extremes: of three or four views without the best and the worst, of eight without two each.

    Args:
        values: [v, ...], one row a view.

    Returns:
        [...]
    """
    count = len(values)
    cut = max(1, count // 4) if count > 2 else 0
    return values.sort(dim=0).values[cut : count - cut].mean(dim=0)


def rank(odds: Mapping[int, Sequence[float] | Tensor]) -> list[tuple[int, float]]:
    """Objects in the order in which a phrase fits them, the best first.

    Args:
        odds: by object id the log odds [v] of its views. Objects without views are left out.

    Returns:
        ids and scores, 0 to 1: the probabilities of typical views.
    """
    rows = [(id, float(typical(torch.as_tensor(own)))) for id, own in odds.items() if len(own)]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return [(id, float(torch.tensor(value).sigmoid())) for id, value in rows]
