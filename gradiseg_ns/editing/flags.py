"""Edits as flags: what `gradiseg edit` makes of `--tint 5=#ff0000 --move 7=0,0,0.1`."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import ImageColor
from torch import Tensor

from gradiseg_ns.editing.arrangement import Arrangement, arrange
from gradiseg_ns.editing.checking import EditError, clean_name
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.edits import (
    Assign,
    Duplicate,
    Edit,
    Hide,
    Merge,
    Move,
    Remove,
    Rename,
    Similarity,
    Step,
    Swap,
    Tint,
)
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.formats.export import safe_name
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.objects import NO_OBJECT, ObjectNameError, ObjectTable, copy_name
from gradiseg_ns.scene.parts import Parts, node_of
from gradiseg_ns.scene.splat import Splat


@dataclass
class Script:
    """A scene whose list of edits grows, flag by flag. Nothing is written before `save`."""

    splat: Splat
    """With labels, before all edits."""
    objects: ObjectTable
    edits: EditList
    parts: Parts | None = None
    """Of the splat's objects; None if it has none."""

    def __post_init__(self) -> None:
        self._new_files: dict[str, Splat] = {}

    @property
    def arrangement(self) -> Arrangement:
        """The edits so far."""
        assert self.splat.labels is not None
        return arrange(self.splat.labels, self.splat.means, self.objects, self.edits.steps, self.edits.files)

    def ids(self, text: str, flag: str) -> tuple[int, ...]:
        """Objects by ids or names, see `ObjectTable.find`.

        Raises:
            EditError: there is no such object, or several of that name.
        """
        try:
            return self.arrangement.objects.find(text)
        except ObjectNameError as error:
            raise EditError(f"{flag} {text}: {error}") from error

    def centre(self, ids: Sequence[int]) -> Tensor:
        """The middle [3] of objects as they are now."""
        means = self._means(ids)
        return means.median(dim=0).values

    def _means(self, ids: Sequence[int]) -> Tensor:
        arrangement = self.arrangement
        rows = torch.isin(arrangement.object_ids, torch.tensor(ids, device=arrangement.object_ids.device))
        if not bool(rows.any()):
            raise EditError(f"object {', '.join(map(str, ids))} has no Gaussians.")
        return arrangement.rows(rows).moved_means(self.splat.means)

    def _push(self, flag: str, text: str, *edits: Edit) -> None:
        self.edits.push(clean_name(f"{flag[2:]} {text}"), *edits)

    def apply(self, flag: str, text: str) -> None:
        """One flag with one value.

        Raises:
            EditError: the value cannot be used; it names the flag.
        """
        ACTIONS[flag](self, flag, text)

    def _plain(self, flag: str, text: str) -> None:
        ids = self.ids(text, flag)
        arrangement = self.arrangement
        others = tuple(i for i in arrangement.objects.ids if i not in ids)
        if arrangement.unassigned:
            others = (NO_OBJECT, *others)
        edits: dict[str, list[Edit]] = {
            "--hide": [Hide(ids)],
            "--show": [Hide(ids, False)],
            "--isolate": [*([Hide(others)] if others else []), Hide(ids, False)],
            "--remove": [Remove(ids)],
            "--untint": [Tint(ids, None)],
        }
        self._push(flag, text, *edits[flag])

    def _duplicate(self, flag: str, text: str) -> None:
        table = self.arrangement.objects
        taken = list(table.names)
        for id in self.ids(text, flag):
            name = clean_name(copy_name(table.names[table.ids.index(id)], taken))
            taken.append(name)
            self._push(flag, text, Duplicate(id, self.edits.new_id(table), name))

    def _split_into_parts(self, flag: str, text: str) -> None:
        """Each part one level down becomes an object of its own; what lies in no part stays."""
        if self.parts is None:
            raise EditError(
                f"{flag} {text}: this run knows no parts of its objects. Make them with `gradiseg associate`, and train on the maps that "
                "it writes."
            )
        table = self.arrangement.objects
        taken = list(table.names)
        new = self.edits.new_id(table)
        edits: list[Edit] = []
        for id in self.ids(text, flag):
            name = table.names[table.ids.index(id)]
            rest, pieces = self._pieces(id, self.parts)
            if not pieces:
                raise EditError(f"{flag} {text}: {name} has no parts.")
            for number, chosen in enumerate(pieces, 1):
                own = clean_name(f"{name} part {number}")
                own = own if own not in taken else clean_name(copy_name(own, taken))
                taken.append(own)
                edits.append(Assign((id,), Region.create(self.splat.means, chosen, rest), new, own, True))
                rest, new = rest & ~chosen, new + 1
        self._push(flag, text, *edits)

    def _pieces(self, id: int, parts: Parts) -> tuple[Tensor, list[Tensor]]:
        """The Gaussians of an object as it is now, bool [N], and those of each of its parts one level down, bool [N] each."""
        arrangement, labels = self.arrangement, self.splat.labels
        assert labels is not None
        source = arrangement.source[arrangement.object_ids == id]
        own = torch.zeros_like(labels, dtype=torch.bool)
        own[source[source < len(labels)]] = True  # the others are of splats that were swapped in
        node = node_of(labels, parts, own)
        rows = (parts.rows(part) & own for part in parts.tree.children(node))
        return own, [each for each in rows if bool(each.any())]

    def _split(self, flag: str, text: str, expected: str) -> tuple[tuple[int, ...], str]:
        """The objects before an equals sign and the value after it. A name may hold such a sign too: the longest name counts."""
        places = [place for place, c in enumerate(text) if c == "=" and text[place + 1 :].strip()]
        if not places:
            raise EditError(f"{flag} {text}: expected {expected}.")
        objects = self.arrangement.objects
        for place in reversed(places[1:]):
            with contextlib.suppress(ObjectNameError):
                return objects.find(text[:place]), text[place + 1 :].strip()
        return self.ids(text[: places[0]], flag), text[places[0] + 1 :].strip()

    def _numbers(self, flag: str, text: str, value: str, count: int) -> list[float]:
        try:
            numbers = [float(x) for x in value.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(math.isfinite(x) and abs(x) < 1e6 for x in numbers):
            raise EditError(f"{flag} {text}: found {value!r}, expected {count} number{'s' * (count > 1)}.")
        return numbers

    def _tint(self, flag: str, text: str) -> None:
        ids, value = self._split(flag, text, "OBJECT=COLOR, such as 5=#ff0000 or cup=red")
        name, _, strength = value.partition("@")
        try:
            red, green, blue = ImageColor.getrgb(name)[:3]
        except ValueError:
            raise EditError(
                f"{flag} {text}: found {name!r}, expected a color such as #ff0000 or red."
            ) from None
        share = self._numbers(flag, text, strength, 1)[0] if strength else 0.7
        if not 0.0 <= share <= 1.0:
            raise EditError(f"{flag} {text}: found the strength {share}, expected 0 to 1.")
        self._push(flag, text, Tint(ids, (red / 255, green / 255, blue / 255), share))

    def _rename(self, flag: str, text: str) -> None:
        ids, value = self._split(flag, text, "OBJECT=NAME, such as 5=cup")
        if len(ids) != 1:
            raise EditError(f"{flag} {text}: expected one object, found {len(ids)}.")
        self._push(flag, text, Rename(ids[0], clean_name(value)))

    def _merge(self, flag: str, text: str) -> None:
        ids, value = self._split(flag, text, "OBJECTS=OBJECT, such as 3,4=5")
        into = self.ids(value, flag)
        rest = tuple(i for i in ids if i not in into)
        if len(into) != 1 or not rest:
            raise EditError(f"{flag} {text}: expected other objects, and one that they become part of.")
        self._push(flag, text, Merge(rest, into[0]))

    def _move(self, flag: str, text: str) -> None:
        ids, value = self._split(flag, text, "OBJECT=X,Y,Z, in world units")
        x, y, z = self._numbers(flag, text, value, 3)
        self._push(flag, text, Move(ids, Similarity(translation=(x, y, z))))

    def _rotate(self, flag: str, text: str) -> None:
        from scipy.spatial.transform import Rotation

        ids, value = self._split(flag, text, "OBJECT=X,Y,Z, degrees about the axes, first x, then y, then z")
        turn = Rotation.from_euler("xyz", self._numbers(flag, text, value, 3), degrees=True)
        x, y, z, w = (float(v) for v in turn.as_quat())
        a, b, c = self.centre(ids).tolist()
        self._push(flag, text, Move(ids, Similarity((w, x, y, z), pivot=(a, b, c))))

    def _scale(self, flag: str, text: str) -> None:
        ids, value = self._split(flag, text, "OBJECT=FACTOR, such as 7=1.5")
        factor = self._numbers(flag, text, value, 1)[0]
        if not 1e-4 <= factor <= 1e4:
            raise EditError(f"{flag} {text}: found the factor {factor}, expected 0.0001 to 10000.")
        a, b, c = self.centre(ids).tolist()
        self._push(flag, text, Move(ids, Similarity(scale=factor, pivot=(a, b, c))))

    def _swap(self, flag: str, text: str) -> None:
        """The new splat takes the place and the size of the old object; `OBJECT=FILE@keep` leaves it where its file has it."""
        ids, value = self._split(flag, text, "OBJECT=FILE.ply, or OBJECT=FILE.ply@keep")
        if len(ids) != 1:
            raise EditError(f"{flag} {text}: expected one object, found {len(ids)}.")
        keep = value.endswith("@keep")
        path = Path(value.removesuffix("@keep"))
        splat = read_ply(path)
        if keep and (any(splat.offset) or splat.frame == "original"):
            raise EditError(
                f"{flag} {text}: {path} is in the original frame of COLMAP or transforms.json, so that it cannot stay where "
                "its file has it. Leave @keep out, or give a splat in nerfstudio's frame."
            )
        splat = replace(splat, offset=(0.0, 0.0, 0.0))
        place = Similarity()
        if not keep:
            old, new = self._means(ids), splat.means
            factor = float(_extent(old) / _extent(new).clamp(min=1e-9))
            factor = min(max(factor, 1e-4), 1e4)
            pivot = new.median(dim=0).values
            x, y, z = (old.median(dim=0).values.cpu() - pivot).tolist()
            a, b, c = pivot.tolist()
            place = Similarity((1.0, 0.0, 0.0, 0.0), (x, y, z), factor, (a, b, c))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        name = f"{safe_name(path.stem) or 'splat'}-{digest}.ply"
        self.edits.files[name] = self._new_files[name] = splat
        self._push(flag, text, Swap(ids[0], name, place))

    def save(self, path: Path) -> list[Step]:
        """Write the list, and beside it the splats that it swaps in. Returns the steps that another program had added meanwhile, and
        that are kept."""
        used = {e.file for s in self.edits.steps for e in s.edits if isinstance(e, Swap)}
        for name in used:
            target = path.parent / "edits" / name
            if name in self._new_files or not target.exists():
                write_ply(target, self.edits.files[name])
        return self.edits.save(path)


def _extent(means: Tensor) -> Tensor:
    """Length of the diagonal of the box of 90 % of some points [N, 3]."""
    if len(means) < 3:
        return torch.ones(())
    some = means[torch.linspace(0, len(means) - 1, min(len(means), 100_000)).long().to(means.device)].cpu()
    low, high = torch.quantile(some, torch.tensor([0.05, 0.95]), dim=0)
    return (high - low).norm()


ACTIONS: dict[str, Callable[[Script, str, str], None]] = {
    "--swap": Script._swap,
    "--merge": Script._merge,
    "--split-into-parts": Script._split_into_parts,
    "--duplicate": Script._duplicate,
    "--move": Script._move,
    "--rotate": Script._rotate,
    "--scale": Script._scale,
    "--tint": Script._tint,
    "--untint": Script._plain,
    "--rename": Script._rename,
    "--hide": Script._plain,
    "--show": Script._plain,
    "--isolate": Script._plain,
    "--remove": Script._plain,
}
"""Flags in the order in which `gradiseg edit` goes through them."""
