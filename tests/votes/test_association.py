"""Masks without a tracker: clustering, parts, repair, on cases worked out by hand and on the traced balls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradiseg_ns.votes.accumulate import Votes
from gradiseg_ns.votes.association import associate
from gradiseg_ns.votes.mask_groups import (
    HIDDEN,
    Containment,
    MaskTable,
    cluster_masks,
    connected_pieces,
    find_parents,
    groups_in_several_views,
    overlaps,
    paint,
    relabel,
    roots,
    tree_by_containment,
)
from gradiseg_ns.votes.pieces import overruled

pytestmark = pytest.mark.usefixtures("device")


def _table(rows: list[str]) -> MaskTable:
    """Views as strings of points: a letter a mask, `.` no mask, a blank hidden."""
    labels = np.array([[ord(c) if c not in ". " else -1 for c in row] for row in rows])
    seen = np.array([[c != " " for c in row] for row in rows])
    return MaskTable.of_labels(labels, seen, np.ones(labels.shape[1], np.float32))


def _groups(table: MaskTable, cluster: np.ndarray) -> set[frozenset[tuple[int, str]]]:
    return {
        frozenset((int(table.views[m]), chr(table.ids[m])) for m in np.flatnonzero(cluster == c))
        for c in np.unique(cluster[cluster >= 0])
    }


def test_masks_of_the_same_points_are_one_object() -> None:
    table = _table(["aaaabbbb", "xxxxyyyy", "ppppqqqq"])
    cluster = cluster_masks(table, overlaps(table))
    assert _groups(table, cluster) == {
        frozenset({(0, "a"), (1, "x"), (2, "p")}), frozenset({(0, "b"), (1, "y"), (2, "q")})
    }  # fmt: skip


def test_only_what_both_views_see_is_compared() -> None:
    # view 1 sees the right half of a only, and all of it is x
    table = _table(["aaaaaaaabbbb", "    xxxxyyyy"])
    pairs = overlaps(table)
    assert _groups(table, cluster_masks(table, pairs, min_score=0.99)) == {
        frozenset({(0, "a"), (1, "x")}), frozenset({(0, "b"), (1, "y")})
    }  # fmt: skip
    assert (table.points[1, :4] == HIDDEN).all()


def test_two_masks_of_a_view_never_merge_and_parts_are_attached() -> None:
    # view 1 cuts the object of views 0 and 2 in two
    table = _table(["aaaaaaaacccc", "xxxxxyyyzzzz", "ppppppppqqqq"])
    pairs = overlaps(table)
    cluster = cluster_masks(table, pairs)
    for c in np.unique(cluster):
        views = table.views[cluster == c]
        assert len(set(views.tolist())) == len(views)
    assert cluster[3] != cluster[2]
    groups = _groups(table, roots(find_parents(Containment.of(table, pairs, cluster)))[cluster])
    assert frozenset({(0, "a"), (1, "x"), (1, "y"), (2, "p")}) in groups and len(groups) == 2


def test_the_result_does_not_depend_on_the_order_of_views() -> None:
    rng = np.random.default_rng(0)
    objects = np.repeat(np.arange(6), 20)
    rows = []
    for view in range(7):
        noisy = np.where(rng.random(120) < 0.15, rng.integers(0, 6, 120), objects)
        rows.append("".join(chr(97 + (o * 5 + view) % 26) for o in noisy))
    expected = None
    for order in (range(7), reversed(range(7)), [3, 1, 6, 0, 5, 2, 4]):
        places = list(order)
        table = _table([rows[v] for v in places])
        groups = {
            frozenset((places[v], letter) for v, letter in group)
            for group in _groups(table, tree_by_containment(table).objects)
        }
        expected = expected or groups
        assert groups == expected
    assert expected is not None and len(expected) == 6 and all(len(group) == 7 for group in expected)


def test_groups_of_one_view_are_dropped_and_the_rest_painted() -> None:
    table = _table(["aaabb", "xxxyy", "ppp.."])
    group = groups_in_several_views(table, np.array([0, 1, 0, 2, 0]))
    assert group.tolist() == [0, -1, 0, -1, 0]
    maps = [np.array([[ord(c) if c != "." else -1 for c in row]]) for row in ("aaabb", "xxxyy", "ppp..")]
    assert [m.tolist() for m in paint(maps, table, group)] == [
        [[0, 0, 0, -1, -1]], [[0, 0, 0, -1, -1]], [[0, 0, 0, -1, -1]]
    ]  # fmt: skip


def test_switched_masks_take_the_id_of_the_others() -> None:
    table = _table(["aaabbb", "aaabbb", "bbbaaa", "aaabbb", "zzzbbb"])
    found = relabel(table)
    assert [chr(i) for i in found] == list("ab" * 2 + "ba" + "ab" + "ba"), "masks are listed by their old id"
    assert chr(found[np.flatnonzero(table.ids == ord("z"))[0]]) == "a"


def _balls(views: int = 12):
    """A splat of two balls on a floor, cameras around it, and its exact ids."""
    from gradiseg_ns import rendering
    from gradiseg_ns.votes.labels import render_classes

    generator = torch.Generator().manual_seed(0)

    def sphere(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)

    floor = torch.rand(1500, 3, generator=generator) * torch.tensor([4.0, 4, 0]) - torch.tensor([2.0, 2, 0])
    balls = [
        0.5 * sphere(500) + torch.tensor([-0.6, 0, 0.5]),
        0.4 * sphere(500) + torch.tensor([0.6, 0, 0.4]),
    ]
    means = torch.cat([floor, *balls])
    truth = torch.repeat_interleave(torch.arange(3), torch.tensor([1500, 500, 500]))
    gaussians = rendering.Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).expand(2500, 4).contiguous(), torch.full((2500, 3), 0.06),
        torch.full((2500,), 0.95),
    )  # fmt: skip
    cameras, maps = [], []
    for v in range(views):
        angle = torch.tensor(2 * torch.pi * v / views)
        eye = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.tensor(1.8)])
        forward = torch.nn.functional.normalize(torch.tensor([0, 0, 0.3]) - eye, dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0, 1])), dim=0)
        viewmat = torch.eye(4)
        viewmat[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
        viewmat[:3, 3] = -viewmat[:3, :3] @ eye
        K = torch.tensor([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]])
        camera = rendering.Camera(viewmat, K, 80, 60)
        cameras.append(camera)
        maps.append(render_classes(rendering.project(gaussians, camera), truth)[0])
    return gaussians, means, cameras, maps


def _agreement(found: list[np.ndarray], truth: list[torch.Tensor], pairs: dict[int, int]) -> float:
    right = [
        (np.vectorize(lambda i: pairs.get(i, -9))(f) == t.cpu().numpy())[t.cpu().numpy() >= 0]
        for f, t in zip(found, truth, strict=True)
    ]
    return float(np.concatenate(right).mean())


def test_unrelated_ids_become_objects_with_a_splat_and_with_points() -> None:
    gaussians, means, cameras, truth = _balls()
    given = []
    for v, ids in enumerate(truth):  # other numbers in every view; every third view lacks the first ball
        scrambled = torch.where(ids >= 0, (ids + v) % 3 + 10 * v, -1)
        given.append(torch.where(ids == 1, -1, scrambled) if v % 3 == 0 else scrambled)
    words: list[str] = []
    found = associate(given, cameras, gaussians=gaussians, ids="new", progress=words.append)
    assert set(words) == {"Comparing masks", "Finding objects", "Rendering labels"}
    # which group is which: what most pixels of view 1 say
    pairs = {
        int(np.bincount(found.maps[1][(truth[1] == k).cpu().numpy()].clip(0)).argmax()): k for k in range(3)
    }
    assert len(pairs) == 3 and _agreement(found.maps, truth, pairs) > 0.97
    holes = [(f[(t == 1).cpu().numpy()]) for f, t in list(zip(found.maps, truth, strict=True))[::3]]
    assert min((pairs.get(int(np.bincount(h).argmax()), -9) == 1) for h in holes if len(h)), (
        "holes are filled"
    )
    sparse = associate(given, cameras, points=means.cpu().numpy(), ids="new")
    assert sparse.labels is None and 3 <= len(sparse.ids) <= 6
    with pytest.raises(ValueError, match="sparse points"):
        associate(given, cameras)


def test_repair_keeps_ids_and_overrules_switched_and_missed_masks() -> None:
    gaussians, means, cameras, truth = _balls()
    given = [ids.clone() for ids in truth]
    given[2][truth[2] == 1] = 2  # switched
    given[5][truth[5] == 2] = 0  # missed
    found = associate(given, cameras, gaussians=gaussians, ids="keep")
    assert found.ids == (0, 1, 2)
    assert _agreement(found.maps, truth, {0: 0, 1: 1, 2: 2}) > 0.97
    trust = {(m.view, m.id): m for m in found.masks}
    wrong = given[2] == 2
    share = float((truth[2] == 2)[wrong].float().mean())
    assert trust[2, 2].trust == pytest.approx(share, abs=0.1) and trust[1, 1].trust > 0.9
    assert torch.equal(given[0], truth[0]), "inputs stay as they are"
    sparse = associate(given, cameras, points=means.cpu().numpy(), ids="keep")
    assert set(sparse.ids) == {0, 1, 2}


def test_pieces_of_one_id_are_masks_of_their_own() -> None:
    ids = np.array([[4, 4, 0, 4], [0, 0, 0, 4], [-1, 0, 0, 0]])
    (pieces,), own = connected_pieces([ids])
    assert own.tolist() == [[0, 4, 4]]
    assert pieces.tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [-1, 0, 0, 0]]


@pytest.mark.gpu
def test_association_on_cuda() -> None:
    gaussians, _, cameras, truth = _balls()
    on_cuda = gaussians.map(lambda t: t.cuda())
    moved = [c._replace(viewmat=c.viewmat.cuda(), K=c.K.cuda()) for c in cameras]
    given = [torch.where(ids >= 0, (ids + v) % 3 + 10 * v, -1) for v, ids in enumerate(truth)]
    found = associate([ids.cuda() for ids in given], moved, gaussians=on_cuda, ids="new")
    on_cpu = associate(given, cameras, gaussians=gaussians, ids="new")
    assert found.ids == on_cpu.ids
    same = np.concatenate([(a == b).ravel() for a, b in zip(found.maps, on_cpu.maps, strict=True)])
    assert same.mean() > 0.99


def test_a_piece_that_other_views_overrule_belongs_to_what_it_lies_in() -> None:
    # Gaussians 0 to 5 are of piece 0, 6 of piece 1. Piece 2 has no Gaussian of its own, piece 3 has most of itself, 4 was never voted for
    rows = torch.tensor([0, 0, 1, 1, 2, 6, 6, 6, 7, 7])
    columns = torch.tensor([0, 2, 0, 2, 0, 1, 2, 3, 2, 3])
    weights = torch.tensor([9.0, 4, 9, 4, 9, 9, 3, 1, 1, 5])
    votes = Votes((8, 5), rows, columns, weights)
    pieces = torch.tensor([0, 0, 0, 0, 0, -1, 1, 3])
    assert overruled(votes, pieces) == {2: 0}
    assert overruled(Votes((8, 0), rows[:0], columns[:0], weights[:0]), pieces) == {}
