"""The objects that a phrase means: by their names, and by what they look like from their best views."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import cv2
import torch
from torch import Tensor

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.words.scores import LIKELY, margins, plain, rank, rivals
from gradiseg_ns.words.views import MOST, View, crop_of, object_views

BATCH = 32
"""Crops that are made at a time."""
SHOWN = 160
"""Pixels of the crops that are kept to be looked at."""

C = TypeVar("C")


class WordModel(Protocol):
    """What compares pictures and words: `masks.likeness.Likeness`."""

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        ...

    def see(self, crops: Sequence[Tensor], /) -> Tensor:
        """Unit vectors [n, d] of pictures [h, w, 3], 0 to 1."""
        ...

    def read(self, phrases: Sequence[str], /) -> Tensor:
        """Unit vectors [k, d] of phrases."""
        ...


class PhraseError(GradisegError):
    """There is nothing to look for, or nothing to look at."""


class Cancelled(Exception):
    """Whoever asked does not want to know any more."""


@dataclass(frozen=True)
class Found:
    """An object, and how well a phrase fits it."""

    id: int
    score: float
    """0 to 1: the probability that the phrase fits it rather than a neutral word. 1 if its name is the phrase, and `LIKELY` or more if
    its name has all words of the phrase and there is no model."""
    named: bool = False
    """Whether it was found by its name."""
    views: int = 0
    """Views that were compared."""

    @property
    def likely(self) -> bool:
        """Whether it can be taken for what was looked for; below, it is only the best guess."""
        return self.score >= LIKELY


@dataclass
class Looks:
    """What a model makes of each object's best views."""

    features: dict[int, Tensor] = field(default_factory=dict)
    """By object id, unit vectors [v, d], the best view first. Empty without a model."""
    whole: dict[int, bool] = field(default_factory=dict)
    """Whether some view shows the object whole: else it is a floor, a wall, a table."""
    crops: dict[int, list[Tensor]] = field(default_factory=dict)
    """Small crops uint8 [s, s, 3], to be looked at."""


def by_name(phrase: str, names: Mapping[int, str]) -> tuple[list[int], list[int]]:
    """Objects whose name is a phrase, and those whose name has all its words among others. Capitals do not matter.

    Args:
        phrase: what is looked for.
        names: by object id.
    """
    asked = plain(phrase)
    plains = {id: plain(name) for id, name in names.items()}
    same = [id for id, name in plains.items() if name == asked]
    words = set(asked.split())
    return same, [
        id for id, name in plains.items() if id not in same and words and words <= set(name.split())
    ]


class Finder:
    """Finds objects by words. What the model made of the objects is kept for the next phrase.

    Not safe for threads: its caller asks one thing at a time.

    Args:
        model: compares pictures and words. None: only names are compared.
        most: views of an object that it is shown, at most.
    """

    def __init__(self, model: WordModel | None, *, most: int = MOST) -> None:
        self.model, self.most = model, most
        self._kept: tuple[Hashable, Looks] | None = None

    def find(
        self,
        phrase: str,
        cameras: Sequence[C],
        see: Callable[[C], View],
        *,
        names: Mapping[int, str] | None = None,
        key: Hashable = None,
        progress: Callable[[str, int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Found]:
        """All objects in the order in which a phrase fits them, the best first. Objects whose name is the phrase go before all others.

        Without a model, those whose names have all words of the phrase; then no camera is asked.

        Args:
            phrase: such as "red mug".
            cameras: where to look from, in whatever form `see` takes; `views.LOOKS` of them are enough.
            see: what a camera sees; called once for each, and not at all if the looks are kept. Ids that it gives are the objects.
            names: of the objects by id. None: nothing has a name.
            key: differs if what cameras see does: the looks are kept as long as it is the same. None: they are not kept.
            progress: is told a stage ("Looking", "Comparing"), what is done of it, and its total.
            cancelled: is asked now and then whether to stop.

        Returns:
            one entry for each object that some camera sees, and for those that are so named. Without a model there may be none.

        Raises:
            PhraseError: the phrase is empty, or there is a model and no camera sees an object.
            Cancelled: `cancelled` said so; nothing is kept of what was not done.
        """
        asked = plain(phrase)
        if not asked:
            raise PhraseError("the phrase is empty: expected words such as red mug.")
        named, partly = by_name(asked, names or {})
        if self.model is None:
            words = len(asked.split())
            shares = {id: words / len((names or {})[id].split()) for id in partly}
            rest = [Found(id, LIKELY + (1 - LIKELY) * share, True) for id, share in shares.items()]
            return [Found(id, 1.0, True) for id in named] + sorted(rest, key=lambda one: -one.score)
        looks = self.look(cameras, see, key=key, progress=progress, cancelled=cancelled)
        if not looks.features and not named:
            raise PhraseError("no camera sees an object.")
        found = [
            Found(id, 1.0 if id in named else score, id in named, len(looks.features[id]))
            for id, score in scores(self.model, asked, looks)
        ]
        found += [Found(id, 1.0, True) for id in named if id not in looks.features]
        return sorted(found, key=lambda one: not one.named)

    def look(
        self,
        cameras: Sequence[C],
        see: Callable[[C], View],
        *,
        key: Hashable = None,
        progress: Callable[[str, int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Looks:
        """What the model makes of each object's best views; arguments as of `find`.

        Raises:
            Cancelled: `cancelled` said so.
        """
        if key is not None and self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        self._kept = None

        def step(stage: str, done: int, total: int) -> None:
            if cancelled is not None and cancelled():
                raise Cancelled
            if progress is not None:
                progress(stage, done, total)

        views: list[View] = []
        for number, camera in enumerate(cameras):
            step("Looking", number, len(cameras))
            view = see(camera)
            views.append(View(view.camera, view.ids.cpu(), _bytes(view.picture)))
        step("Looking", len(cameras), len(cameras))
        looks = self._compare(views, step)
        if key is not None:
            self._kept = (key, looks)
        return looks

    def _compare(self, views: Sequence[View], step: Callable[[str, int, int], None]) -> Looks:
        best = object_views(views, self.most)
        looks = Looks(whole={id: any(s.whole for s in sights) for id, sights in best.items()})
        todo = [sight for sights in best.values() for sight in sights]
        parts = []
        for start in range(0, len(todo), BATCH):
            step("Comparing", start, len(todo))
            some = todo[start : start + BATCH]
            crops = [crop_of(views[sight.view], sight) for sight in some]
            if self.model is not None:
                parts.append(self.model.see(crops))
            for sight, crop in zip(some, crops, strict=True):
                looks.crops.setdefault(sight.id, []).append(_bytes(_smaller(crop, SHOWN)))
        step("Comparing", len(todo), len(todo))
        if parts:
            sizes = [len(sights) for sights in best.values()]
            looks.features = dict(zip(best, torch.cat(parts).split(sizes), strict=True))
        return looks


def scores(model: WordModel, phrase: str, looks: Looks) -> list[tuple[int, float]]:
    """Ids and scores of all objects, the best first, by their looks alone.

    Args:
        model: what made the looks.
        phrase: what is looked for.
        looks: of the objects.
    """
    phrases = [plain(phrase), *rivals(phrase, whole=False)]
    features = dict(zip(phrases, model.read(phrases), strict=True))
    odds = {}
    for id, pictures in looks.features.items():
        others = [features[word] for word in rivals(phrase, whole=looks.whole[id])]
        against = torch.stack(others) if others else pictures[:0]
        odds[id] = margins(pictures, features[phrases[0]], against, model.scale)
    return rank(odds)


def _bytes(picture: Tensor) -> Tensor:
    """A picture [h, w, 3] as uint8 on the CPU."""
    if picture.dtype == torch.uint8:
        return picture.cpu()
    return (picture.detach().clamp(0.0, 1.0) * 255).round().to(torch.uint8).cpu()


def _smaller(crop: Tensor, size: int) -> Tensor:
    """A square crop of at most that size."""
    if len(crop) <= size:
        return crop
    return torch.from_numpy(cv2.resize(crop.numpy(), (size, size), interpolation=cv2.INTER_AREA))
