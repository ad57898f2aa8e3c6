"""The tree of what hangs together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from gradiseg_ns.segment import hierarchy as room
from gradiseg_ns.segment.hierarchy import Hierarchy, hierarchy


def nodes(tree: Hierarchy) -> set[frozenset[int]]:
    return {frozenset(tree.leaves(node).tolist()) for node in range(len(tree.parent))}


def plainly(weights: np.ndarray) -> set[frozenset[int]]:
    """The same nodes: rounds over all pairs of clusters, written out."""
    clusters = [frozenset([i]) for i in range(len(weights))]
    volume = {c: float(weights[list(c)].sum()) for c in clusters}
    found = set(clusters)
    while True:
        close = {}
        for a in clusters:
            for b in clusters:
                between = float(weights[np.ix_(list(a), list(b))].sum())
                if a != b and between > 0:
                    close[a, b] = between / (volume[a] * volume[b]) ** room._POWER
        best = {
            a: max((b for b in clusters if (a, b) in close), key=lambda b: close[a, b])
            for a in clusters
            if any((a, b) in close for b in clusters)
        }
        pairs = [(a, b) for a, b in best.items() if best[b] == a and min(a) < min(b)]
        if not pairs:
            return found
        middle = np.median([close[pair] for pair in pairs])
        for a, b in pairs:
            if close[a, b] >= middle * (1 - 1e-9):
                clusters = [c for c in clusters if c not in (a, b)] + [a | b]
                volume[a | b] = volume[a] + volume[b]
                found.add(a | b)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tree_is_that_of_plain_rounds(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.random((30, 30)) * (random.random((30, 30)) < 0.2)
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    tree = hierarchy(sparse.csr_matrix(weights))
    assert nodes(tree) == plainly(weights)
    assert sorted(tree.order.tolist()) == list(range(30))


def things(joint: float = 1e-3, dirt: int = 2) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Two things of 50 leaves, with a weak joint between them, and some leaves that hang on the first by a thread."""
    random = np.random.default_rng(0)
    of = np.repeat([0, 1], 50)
    weights = np.where(of[:, None] == of[None], 0.5 + random.random((100, 100)), joint)
    everything = np.zeros((100 + dirt, 100 + dirt))
    everything[:100, :100] = weights
    everything[100:, 0] = everything[0, 100:] = 0.05
    everything = everything + everything.T
    return sparse.csr_matrix(everything), of


def test_a_thing_waits_longer_than_its_parts_and_dirt_does_not_end_the_wait() -> None:
    graph, _ = things()
    tree = hierarchy(graph)
    seed = np.zeros((102, 1))
    seed[3] = 1.0
    found = tree.around(seed, 2, 90)
    sizes = [int(tree.count[node]) for node, _ in found]
    assert sizes == sorted(sizes), "the smallest first"
    longest = max(found, key=lambda one: one[1])[0]
    assert set(range(50)) <= set(tree.leaves(longest).tolist()) <= {*range(50), 100, 101}
    waits = {int(tree.count[node]): wait for node, wait in found}
    assert waits[50] > 3, "although the dirt joins it"
    parts = [wait for size, wait in waits.items() if size < 25]
    assert parts and max(parts) < 1.5, "what is less than half of it soon finds the rest"


def test_every_seed_must_be_held() -> None:
    graph, _ = things()
    tree = hierarchy(graph)
    seeds = np.zeros((102, 2))
    seeds[3, 0] = seeds[70, 1] = 1.0
    assert min(int(tree.count[node]) for node, _ in tree.around(seeds, 1, 102)) >= 100


def test_what_is_not_connected_has_roots_of_its_own() -> None:
    tree = hierarchy(sparse.csr_matrix(sparse.block_diag([np.ones((4, 4)), np.ones((3, 3)), [[0.0]]])))
    roots = {frozenset(tree.leaves(int(r)).tolist()) for r in (tree.parent < 0).nonzero()[0]}
    assert roots == {frozenset(range(4)), frozenset(range(4, 7)), frozenset([7])}
    assert not tree.around(np.eye(8)[:, [7]], 2, 8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cut_has_the_largest_sum_of_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.random((8, 8))
    tree = hierarchy(sparse.csr_matrix(weights + weights.T))
    score = random.random(len(tree.parent)) * tree.count**1.2 - 0.5
    leaves = [frozenset(tree.leaves(node).tolist()) for node in range(len(tree.parent))]

    def largest(node: int) -> float:
        children = (tree.parent == node).nonzero()[0]
        return max(score[node], sum(largest(int(child)) for child in children), 0.0)

    cut = tree.cut(score)
    assert sum(score[cut]) == pytest.approx(
        sum(largest(int(root)) for root in (tree.parent < 0).nonzero()[0])
    )
    held = [leaf for node in cut for leaf in leaves[node]]
    assert len(held) == len(set(held)), "none holds another"


def test_of_equal_scores_the_larger_node_is_cut() -> None:
    tree = hierarchy(sparse.csr_matrix(np.ones((4, 4))))
    root = int((tree.parent < 0).nonzero()[0][0])
    assert tree.cut(tree.count.astype(float)) == [root]
    assert tree.cut(np.zeros(len(tree.parent))) == []


def test_sums_are_those_of_leaves() -> None:
    graph, _ = things()
    tree = hierarchy(graph)
    values = np.random.default_rng(0).random((102, 3))
    found = tree.sums(values)
    for node in (0, 101, 110, len(tree.parent) - 1):
        assert np.allclose(found[node], values[tree.leaves(node)].sum(axis=0))
