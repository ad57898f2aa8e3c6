"""A tree over a graph: what hangs together most is joined first.

Two nodes join if each is the other's closest one (Boruvka's rounds). How close two are is the weight of all edges between them over a power
of their volumes: without it large nodes would swallow all others, with the whole product small ones would wait for each other. Leaves of one
thing join early; the thing itself then waits long for a partner. That wait tells it from its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_POWER = 0.4
"""Of the product of two volumes, by which the weight between them is divided."""
_ALL = 5000
"""With fewer nodes than this, only the closer half of all pairs joins in a round: weights change much then."""
_GROWN = 2.0
"""Times its leaves, from which on a node has joined another thing."""
LONGEST = 7.0
"""The longest wait, and that of what nothing ever doubles."""

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Hierarchy:
    """A binary tree (or several) of M nodes over n leaves, which are nodes 0 to n - 1."""

    parent: Index
    """[M], -1 for roots."""
    bond: Array
    """[M], how close the two children were; infinite for leaves."""
    order: Index
    """[n], leaves in such an order that those of every node follow each other."""
    first: Index
    """[M], where those of a node begin."""
    count: Index
    """[M], how many there are."""

    def leaves(self, node: int) -> Index:
        """The leaves of a node."""
        return self.order[self.first[node] : self.first[node] + self.count[node]]

    def around(self, seeds: Array, least: int, most: int) -> list[tuple[int, float]]:
        """The nodes that hold more than half of the weight of each seed, the smallest first.

        Args:
            seeds: [n, P], not negative.
            least, most: leaves that such a node has.

        Returns:
            each with its wait: the log of how much closer its children were than those are by whose joining it doubles.
            Small pieces that join it late do not end it.
        """
        held = (self.sums(seeds) > 0.5 * seeds.sum(axis=0)).all(axis=1)
        node = int(seeds[:, 0].argmax())
        found = []
        while node >= 0:
            if held[node] and least <= self.count[node] <= most:
                found.append((node, self.wait(node)))
            node = int(self.parent[node])
        return found

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Sums of values of leaves, [n, ...], over those of every node: [M, ...]."""
        total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values[self.order], axis=0)])
        return total[self.first + self.count] - total[self.first]

    def cut(self, score: NDArray[np.floating]) -> list[int]:
        """The nodes of which none holds another and whose scores have the largest sum; of equal ones the larger.

        Args:
            score: [M]; nodes without a positive one are not taken.
        """
        reached, below = np.zeros(len(score)), np.zeros(len(score))
        for node in range(len(score)):  # children come before their parents
            reached[node] = max(score[node], below[node])
            if self.parent[node] >= 0:
                below[self.parent[node]] += reached[node]
        taken = (score > 0) & (score >= below)
        held = np.zeros(len(score), dtype=bool)
        for node in range(len(score) - 1, -1, -1):
            up = self.parent[node]
            held[node] = up >= 0 and (held[up] or taken[up])
        return (taken & ~held).nonzero()[0].tolist()

    def wait(self, node: int) -> float:
        """How long a node waits for a partner (`around`)."""
        up = node
        while up >= 0 and self.count[up] <= _GROWN * self.count[node]:
            up = int(self.parent[up])
        if up < 0:
            return LONGEST
        return float(np.log(self.bond[node] / max(self.bond[up], 1e-30)).clip(0, LONGEST))


def hierarchy(weights: sparse.csr_matrix) -> Hierarchy:
    """The tree of a graph.

    Args:
        weights: [n, n], symmetric, not negative; the diagonal does not count.
    """
    graph: Any = weights.copy()
    count = graph.shape[0]
    graph.setdiag(0)
    graph.eliminate_zeros()
    volume = np.asarray(graph.sum(axis=1)).ravel()
    node = np.arange(count)
    children: list[tuple[Index, Index]] = []
    bonds = [np.full(count, np.inf)]
    made = count
    while graph.nnz:
        pairs, close = _closest_pairs(graph.tocoo(), volume)
        one, other = pairs
        new = np.arange(made, made + len(one))
        children.append((node[one], node[other]))
        bonds.append(close)
        made += len(one)
        alone = np.ones(len(node), dtype=bool)
        alone[one] = alone[other] = False
        rows = np.concatenate([alone.nonzero()[0], one, other])
        left = int(alone.sum())
        columns = np.concatenate([np.arange(left), *(2 * [left + np.arange(len(one))])])
        onto = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(node), left + len(one)))
        graph = (onto.T @ graph @ onto).tocsr()
        graph.setdiag(0)
        graph.eliminate_zeros()
        volume = onto.T @ volume
        node = np.concatenate([node[alone], new])
    return _ordered(count, children, np.concatenate(bonds), node)


def _closest_pairs(edges: Any, volume: Array) -> tuple[tuple[Index, Index], Array]:
    """Nodes that are each other's closest ones, and how close they are."""
    tail, head = edges.row, edges.col
    close = edges.data / (volume[tail] * volume[head]) ** _POWER
    # Of neighbours equally close the one is taken that comes last for both of them.
    rank = np.lexsort((np.minimum(tail, head), np.maximum(tail, head), close))
    best = np.full(len(volume), -1)
    best[tail[rank]] = head[rank]
    best_close = np.zeros(len(volume))
    best_close[tail[rank]] = close[rank]
    joined = (
        (best >= 0) & (best[best] == np.arange(len(volume))) & (np.arange(len(volume)) < best)
    ).nonzero()[0]
    if len(volume) < _ALL:
        joined = joined[best_close[joined] >= np.median(best_close[joined])]
    return (joined, best[joined]), best_close[joined]


def _ordered(count: int, children: list[tuple[Index, Index]], bonds: Array, roots: Index) -> Hierarchy:
    """The tree, with its leaves in order."""
    total = len(bonds)
    parent, sizes = np.full(total, -1), np.ones(total, dtype=np.int64)
    made = count
    for one, other in children:
        new = np.arange(made, made + len(one))
        parent[one] = parent[other] = new
        sizes[new] = sizes[one] + sizes[other]
        made += len(one)
    first = np.zeros(total, dtype=np.int64)
    first[roots] = np.cumsum(sizes[roots]) - sizes[roots]
    for one, other in reversed(children):
        made -= len(one)
        first[one] = first[made : made + len(one)]
        first[other] = first[one] + sizes[one]
    order = np.empty(count, dtype=np.int64)
    order[first[:count]] = np.arange(count)
    return Hierarchy(parent, bonds, order, first, sizes)
