"""Which objects a scene has, what they are called and which colours they get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.tools.errors import GradisegError

NO_OBJECT = IGNORE
"""Stands for an id where Gaussians belong to no object: all those of a splat without id maps, at first."""
NO_OBJECT_NAME = "no object"

BACKGROUND_COLOR = 0x404040
"""Colour of id 0."""

# Colours of the ids from 1 on, found by `tests/scene/palette.py`: each as far as possible from those before
# it, in CIELAB, as seen with normal vision and with the two common kinds of colour blindness. The smallest
# difference among the first 20 is 28.8 for normal vision, 15.3 for deutan and 14.4 for protan (about 2 is
# just visible).
# fmt: off
_FIXED_COLORS = (
    0x5500FF, 0x00FF00, 0xCC1100, 0xEE55BB, 0x33BB77, 0x3377FF, 0x00CCFF, 0xDDDD77,
    0x8822BB, 0x994433, 0xDD8822, 0xFFAACC, 0x669988, 0x884477, 0x998844, 0x3399EE,
    0x00CC44, 0xAAEEBB, 0x445599, 0x4488AA, 0xCC3366, 0x3344EE, 0xFF9988, 0xAADD44,
)
# fmt: on

# Saturation and value of the ids beyond: neighbours in hue differ in lightness.
_SHADES = ((0.85, 0.95), (0.60, 0.72), (0.50, 1.00), (0.95, 0.58))

_GOLDEN_RATIO = (5**0.5 - 1) / 2

_N_TABLE = 1 << 16
"""Ids below this have their colours looked up: all that fit into a uint16 PNG."""

_QUOTED = re.compile(r'(?<![^,])\s*"[^"]*"\s*(?![^,])')
"""A name in double quotes, between commas or at an end."""
_COMMA = "\0"
"""Stands for a comma in quotes."""
_MAX_STEM = 180
"""Characters of a name that its copies keep: a name has 200 at most (`scene.edits.clean_name`)."""

MIN_ACCUMULATION = 0.1
"""Below this accumulation a pixel shows no object at all: it is drawn as background and has the id IGNORE."""


def object_colors(ids: Sequence[int]) -> Tensor:
    """Colours of objects.

    A colour depends on the id alone: it is the same in every view, run and on every machine. Id 0 is dark
    grey, ids 1 to 24 have chosen colours that colour-blind people can tell apart too, the ids beyond walk
    around the hues by the golden ratio, in four shades. Negative ids (`IGNORE`) are black.

    Args:
        ids: K object ids.

    Returns:
        `[K, 3]` float32, RGB in 0..1.
    """
    return torch.from_numpy(_colors(np.asarray(ids, dtype=np.int64).reshape(-1)))


def colorize(id_map: Tensor) -> Tensor:
    """Paints an id map with `object_colors`.

    Args:
        id_map: `[H, W]` integer object ids (any shape will do); `IGNORE` becomes black.

    Returns:
        `[H, W, 3]` float32, RGB in 0..1, on the device of the id map.
    """
    ids = id_map.to(torch.int64)
    if ids.numel() > 0 and int(ids.max()) >= _N_TABLE:
        values, inverse = torch.unique(ids, return_inverse=True)
        return object_colors(values.tolist()).to(ids.device)[inverse]
    return _table(str(ids.device))[ids.clamp(min=-1) + 1]


class ObjectNameError(GradisegError):
    """No object, or more than one, is called like this; the message tells what there is."""


def copy_name(name: str, taken: Iterable[str]) -> str:
    """What a copy of an object is called: "red ball copy", the next one "red ball copy 2".

    Args:
        name: the object's own, or that of a copy.
        taken: the names that the scene's objects have.
    """
    stem = re.sub(r"(?<!,) copy( \d+)?$", "", name)[:_MAX_STEM]
    known = {_plain(other) for other in taken}
    names = (f"{stem} copy{f' {n}' if n > 1 else ''}" for n in count(1))
    return next(candidate for candidate in names if _plain(candidate) not in known)


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The objects of a scene. A class index of the classifier is a row of this table.

    Make one with `ObjectTable.create`.
    """

    ids: tuple[int, ...]
    """Object ids as in the id maps, ascending. `ids[c]` is the id of class `c`."""
    names: tuple[str, ...]
    colors: Tensor
    """`[K, 3]` float32, RGB in 0..1."""
    parents: Mapping[int, int] = field(default_factory=dict)
    """For objects that are parts of another one: the other's id, which need not be in the table."""

    def __post_init__(self) -> None:
        if list(self.ids) != sorted(set(self.ids)) or (self.ids and self.ids[0] < 0):
            raise ValueError(
                f"Object ids must be ascending, different and not negative; found {list(self.ids)}."
            )
        if len(self.names) != len(self.ids) or self.colors.shape != (len(self.ids), 3):
            raise ValueError(
                f"Found {len(self.ids)} object ids, {len(self.names)} names and colours of shape "
                f"{tuple(self.colors.shape)}; expected a name and a colour for each id."
            )
        if any(part == parent or part not in self.ids for part, parent in self.parents.items()):
            raise ValueError(
                f"Found the parents {dict(self.parents)}: expected another id for each part, and parts among {list(self.ids)}."
            )

    @classmethod
    def create(
        cls,
        ids: Sequence[int],
        names: Mapping[int, str] | None = None,
        parents: Mapping[int, int] | None = None,
    ) -> ObjectTable:
        """A table of these ids, in any order and with repetitions, in the colours of `object_colors`.

        Args:
            ids: Object ids. Negative ones (`IGNORE`) are dropped.
            names: Names by id; "object 7" where missing.
            parents: Parents by id, of objects that are parts; those of other ids are dropped.
        """
        known = sorted({int(i) for i in ids if int(i) >= 0})
        names = names or {}
        return cls(
            ids=tuple(known),
            names=tuple(str(names.get(i, f"object {i}")) for i in known),
            colors=object_colors(known),
            parents={i: p for i, p in (parents or {}).items() if i in known},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def with_parents(self, parents: Mapping[int, int]) -> ObjectTable:
        """The same objects that also have these parents by id; those of other ids are dropped. Itself if that changes nothing."""
        own = {**self.parents, **{i: parent for i, parent in parents.items() if i in self.ids}}
        return self if own == dict(self.parents) else replace(self, parents=own)

    def find(self, *texts: str) -> tuple[int, ...]:
        """Objects that a person names: the one rule for it.

        A text names one object or several with commas between them. A number is the id of an object, if there is one; else it is a
        name. Capitals and the number of blanks do not matter. A comma may belong to a name, and the longest name counts. What stands in
        double quotes is a name, never an id, with all its commas. A name that several objects have names none of them.

        Args:
            texts: what was given, such as the words of a flag.

        Returns:
            The ids in the order in which they were named, each once.

        Raises:
            ObjectNameError: there is no such object, or there are several; the message tells all there are.
        """
        found = [i for text in texts for i in self._find(text)]
        if not found:
            raise ObjectNameError("expected ids or names of objects.")
        return tuple(dict.fromkeys(found))

    def _find(self, text: str) -> list[int]:
        parts = _QUOTED.sub(lambda m: m[0].replace(",", _COMMA), text).split(",")
        found: list[int] = []
        while parts:
            word, named, taken = "", [], 1
            for end in range(len(parts), 0, -1):  # the longest name first
                word, taken = ",".join(parts[:end]).replace(_COMMA, ",").strip(), end
                named = self._called(word)
                if named:
                    break
            parts = parts[taken:]
            if not word:
                continue
            if len(named) != 1:
                known = ", ".join(f"{i} ({name})" for i, name in zip(self.ids, self.names, strict=True))
                several = f"{', '.join(map(str, named))} have that name, of which an id names one"
                what = f"several objects of that name: {several}" if named else "no such object"
                raise ObjectNameError(f"{what} as {word!r}; the scene has {known}.")
            found += named
        return found

    def _called(self, word: str) -> list[int]:
        """Ids of the objects that one word or quoted name fits."""
        if word.isdecimal() and len(word) < 20 and int(word) in self.ids:
            return [int(word)]
        named = [i for i, name in zip(self.ids, self.names, strict=True) if _plain(name) == _plain(word)]
        if not named and len(word) > 1 and word[0] == word[-1] == '"':
            named = [
                i for i, name in zip(self.ids, self.names, strict=True) if _plain(name) == _plain(word[1:-1])
            ]
        return named

    def classes_of(self, ids: Tensor) -> Tensor:
        """Class indices of object ids: any shape, int64; `IGNORE` for ids that the table does not have."""
        ids = ids.to(torch.int64)
        if not self.ids:
            return torch.full_like(ids, IGNORE)
        largest = self.ids[-1]
        if largest >= _N_TABLE:
            known = _known(self.ids, str(ids.device))[:-1]
            classes = torch.searchsorted(known, ids).clamp_(max=len(self.ids) - 1)
            return torch.where(known[classes] == ids, classes, IGNORE)
        rows = ids.clamp(-1, largest + 1).add_(1).reshape(-1)
        return _classes(self.ids, str(ids.device)).index_select(0, rows).reshape(ids.shape)

    def ids_of(self, classes: Tensor) -> Tensor:
        """Object ids of class indices: any shape, int64; `IGNORE` stays what it is."""
        classes = classes.to(torch.int64)
        return _known(self.ids, str(classes.device))[classes]  # the last row answers to -1

    def colorize(self, id_map: Tensor) -> Tensor:
        """Paints an id map `[H, W]` in the table's colours: `[H, W, 3]`.

        Ids that the table does not have get the colours of `object_colors`; `IGNORE` becomes black.
        """
        painted = colorize(id_map)
        if not self.ids:
            return painted
        classes = self.classes_of(id_map)
        own = self.colors.to(classes.device)[classes.clamp(min=0)]
        return torch.where((classes >= 0)[..., None], own, painted)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: for JSON, and for checkpoints loaded with `weights_only`."""
        parents = [list(pair) for pair in sorted(self.parents.items())]
        return {
            "ids": list(self.ids), "names": list(self.names), "colors": self.colors.tolist(),
            **({"parents": parents} if parents else {}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ObjectTable:
        """Undoes `to_dict`.

        Raises:
            ValueError: If an entry is missing or the entries do not fit each other.
        """
        missing = [key for key in ("ids", "names", "colors") if key not in data]
        if missing:
            raise ValueError(
                f"The table of objects lacks {missing}; found {sorted(data)}. Was it saved by gradiseg_ns?"
            )
        colors = torch.tensor(data["colors"], dtype=torch.float32).reshape(-1, 3)
        parents = {int(part): int(parent) for part, parent in data.get("parents", ())}
        return cls(tuple(int(i) for i in data["ids"]), tuple(str(n) for n in data["names"]), colors, parents)


def _plain(name: str) -> str:
    """A name as it is compared."""
    return " ".join(name.split()).casefold()


def _colors(ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Colours `[K, 3]` of ids `[K]`."""
    # float64 holds the product exactly enough for the hue of any 32-bit id
    hue = (ids * _GOLDEN_RATIO) % 1.0
    saturation, value = np.asarray(_SHADES)[ids % len(_SHADES)].T
    # HSV to RGB: channel n falls from `value` where the hue is more than 60 degrees from the channel's own
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue[:, None]) % 6.0
    chroma = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    rgb = value[:, None] * (1.0 - saturation[:, None] * chroma)
    fixed = np.array([[c >> 16, c >> 8 & 255, c & 255] for c in (BACKGROUND_COLOR, *_FIXED_COLORS)]) / 255.0
    listed = (ids >= 0) & (ids < len(fixed))
    rgb[listed] = fixed[ids[listed]]
    rgb[ids < 0] = 0.0
    return rgb.astype(np.float32)


@lru_cache(maxsize=4)
def _table(device: str) -> Tensor:
    """Colours `[1 + 65536, 3]` of the ids from -1 on."""
    return object_colors(range(-1, _N_TABLE)).to(device)


# Tables live on the device: copying them there in every step would make the host wait for it.
@lru_cache(maxsize=16)
def _known(ids: tuple[int, ...], device: str) -> Tensor:
    """The ids `[K + 1]` int64, and IGNORE."""
    return torch.tensor([*ids, IGNORE], dtype=torch.int64, device=device)


@lru_cache(maxsize=16)
def _classes(ids: tuple[int, ...], device: str) -> Tensor:
    """Classes int64 by id + 1: a row for every id up to the largest, and one on either side for all that lie beyond."""
    table = torch.full((ids[-1] + 3,), IGNORE, dtype=torch.int64)
    table[torch.tensor(ids) + 1] = torch.arange(len(ids))
    return table.to(device)
