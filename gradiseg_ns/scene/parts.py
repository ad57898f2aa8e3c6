"""Parts of objects: the tree of their ids, the part of every Gaussian, and the way up and down from a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.tools.errors import GradisegError


class PartError(GradisegError):
    """A tree of parts that is none."""


@dataclass(frozen=True)
class PartTree:
    """Which part belongs to which object. An id means an object or a part, never both. Make one with `PartTree.create`.

    Raises:
        PartError: the lists differ in length, an id stands twice or is negative, or a part lies in itself.
    """

    ids: tuple[int, ...] = ()
    """Of the parts, ascending."""
    parents: tuple[int, ...] = ()
    """For each part the id of the object, or of the part, that it belongs to."""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.parents) == len(self.names):
            raise PartError(
                f"found {len(self.ids)} ids of parts, {len(self.parents)} parents and {len(self.names)} names: expected one of each."
            )
        if list(self.ids) != sorted(set(self.ids)) or min((*self.ids, *self.parents), default=0) < 0:
            raise PartError(f"found the ids of parts {list(self.ids)}: expected ascending ids from 0 on.")
        for part in self.ids:
            seen = {part}
            while part in self.parent_of:
                part = self.parent_of[part]
                if part in seen:
                    raise PartError(
                        f"found a part of itself: {part}. Expected parents that end at an object."
                    )
                seen.add(part)

    @classmethod
    def create(
        cls,
        parents: Mapping[int, int],
        names: Mapping[int, str] | None = None,
        objects: Mapping[int, str] | None = None,
    ) -> PartTree:
        """The tree of these parts.

        Args:
            parents: parent by the id of each part.
            names: names by id. Default: "cup part 1", counted by id within an object.
            objects: names of the objects by id, for the default names; "object 3" where missing.
        """
        ids = tuple(sorted(parents))
        tree = cls(ids, tuple(parents[i] for i in ids), ("",) * len(ids))
        own, count = [], dict[int, int]()
        for part in ids:
            root = tree.root(part)
            count[root] = count.get(root, 0) + 1
            whole = (objects or {}).get(root, f"object {root}")
            own.append(str((names or {}).get(part) or f"{whole} part {count[root]}"))
        return cls(ids, tree.parents, tuple(own))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parent_of(self) -> dict[int, int]:
        """Parent by the id of each part."""
        return dict(zip(self.ids, self.parents, strict=True))

    @property
    def name_of(self) -> dict[int, str]:
        """Name by the id of each part."""
        return dict(zip(self.ids, self.names, strict=True))

    def root(self, id: int) -> int:
        """The object that a part belongs to; an object's own id."""
        return self.path(id)[-1]

    def path(self, id: int) -> list[int]:
        """From a part up to its object, both included."""
        above, path = self.parent_of, [id]
        while path[-1] in above:
            path.append(above[path[-1]])
        return path

    def children(self, id: int) -> list[int]:
        """The parts of an object or a part, without parts of parts."""
        return [part for part, parent in zip(self.ids, self.parents, strict=True) if parent == id]

    def within(self, id: int) -> list[int]:
        """An object or a part with all that lies in it: ids, its own among them."""
        found = [id]
        for each in found:
            found += self.children(each)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain lists: for JSON, and for checkpoints loaded with `weights_only`."""
        return {"ids": list(self.ids), "parents": list(self.parents), "names": list(self.names)}

    @classmethod
    def from_dict(cls, data: Any) -> PartTree:
        """Undoes `to_dict`.

        Raises:
            PartError: an entry is missing or is something else.
        """
        try:
            return cls(
                tuple(int(i) for i in data["ids"]), tuple(int(i) for i in data["parents"]),
                tuple(str(name) for name in data["names"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PartError):
                raise
            raise PartError(
                "the tree of parts is damaged: expected the lists ids, parents and names."
            ) from error


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a splat of N Gaussians."""

    tree: PartTree
    labels: Tensor
    """int64 [N]: the id of the smallest part that each Gaussian belongs to; `IGNORE` for none."""

    def rows(self, id: int) -> Tensor:
        """The Gaussians of a part, those of its own parts among them: bool [N]."""
        return torch.isin(self.labels, _tensor(self.tree.within(id), self.labels))

    def nodes(self, labels: Tensor) -> Tensor:
        """The smallest part of each Gaussian, or else its object: int64 [N]; labels [N] are the objects' ids."""
        return torch.where(self.labels >= 0, self.labels, labels.to(self.labels))

    def to_state(self) -> dict[str, Any]:
        """Entries of a checkpoint's strategy state: the tensor follows its Gaussians there."""
        return {"part": self.labels, "part_tree": self.tree.to_dict()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], count: int) -> Parts | None:
        """Undoes `to_state`.

        Args:
            state: the strategy state of a model or of a checkpoint.
            count: N.

        Returns:
            The parts; None if the state has none of N Gaussians.

        Raises:
            PartError: the tree is damaged.
        """
        labels = state.get("part")
        if not isinstance(labels, Tensor) or len(labels) != count or "part_tree" not in state:
            return None
        tree = PartTree.from_dict(state["part_tree"])
        return cls(tree, labels.to(torch.int64)) if len(tree) else None


def parts_as_objects(ids: Tensor, parents: Mapping[int, int]) -> tuple[Tensor, Parts]:
    """Objects of which some are parts of others, in the form that `coarser` and `finer` take.

    Args:
        ids: int [M], the object of each Gaussian.
        parents: parent by id, as in an `ObjectTable`; a parent need not have a Gaussian of its own.

    Returns:
        int64 [M], what each Gaussian belongs to in the end, and its parts.

    Raises:
        PartError: a part lies in itself.
    """
    tree = PartTree.create(parents)
    known, rows = ids.to(torch.int64).unique(return_inverse=True)
    roots = [tree.root(i) for i in known.tolist()]
    own = [i if i in tree.ids else IGNORE for i in known.tolist()]
    return _tensor(roots, ids)[rows], Parts(tree, _tensor(own, ids)[rows])


def node_of(labels: Tensor, parts: Parts, selected: Tensor) -> int:
    """The object or part that a selection stands for: the smallest one that holds at least nine tenths of it.

    Args:
        labels: int [N], the object of each Gaussian.
        parts: of these N Gaussians.
        selected: bool [N].

    Returns:
        An id; `IGNORE` if nothing is selected, or the selection is of several objects.
    """
    nodes, counts = torch.unique(parts.nodes(labels)[selected], return_counts=True)
    weight = dict[int, int]()
    for node, count in zip(nodes.tolist(), counts.tolist(), strict=True):
        for above in parts.tree.path(node):
            weight[above] = weight.get(above, 0) + count
    needed = 0.9 * sum(counts.tolist())
    holding = [node for node, count in weight.items() if node >= 0 and count >= needed > 0]
    return max(holding, key=lambda node: (len(parts.tree.path(node)), -node), default=IGNORE)


def coarser(labels: Tensor, parts: Parts, selected: Tensor) -> Tensor:
    """The selection one level up: of a part what it belongs to, of a piece of something the whole of it.

    Args:
        labels: int [N], the object of each Gaussian.
        parts: of these N Gaussians.
        selected: bool [N].

    Returns:
        bool [N]. A whole object, several objects, and nothing stay as they are.
    """
    node = node_of(labels, parts, selected)
    if node < 0:
        return selected
    whole = _rows(labels, parts, node)
    above = parts.tree.parent_of.get(node)
    if above is not None and int((whole & ~selected).sum()) <= 0.1 * int(whole.sum()):
        return _rows(labels, parts, above)
    return whole | selected


def finer(labels: Tensor, parts: Parts, selected: Tensor, near: int | None = None) -> Tensor:
    """The selection one level down: one part of what is selected.

    Args:
        labels: int [N], the object of each Gaussian.
        parts: of these N Gaussians.
        selected: bool [N].
        near: a Gaussian, such as the one that was clicked: its part is taken. Default: the largest part.

    Returns:
        bool [N]. What has no parts stays as it is.
    """
    node = node_of(labels, parts, selected)
    rows = {part: _rows(labels, parts, part) & selected for part in parts.tree.children(node)}
    rows = {part: found for part, found in rows.items() if bool(found.any())}
    if node < 0 or not rows:
        return selected
    if near is not None:
        here = [found for found in rows.values() if bool(found[near])]
        if here:
            return here[0]
    return max(rows.values(), key=lambda found: int(found.sum()))


def _rows(labels: Tensor, parts: Parts, node: int) -> Tensor:
    """The Gaussians of an object or a part: bool [N]."""
    if node in parts.tree.ids:
        return parts.rows(node)
    return labels == node


def _tensor(ids: list[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=like.device)
