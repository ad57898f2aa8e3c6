"""Everything in a splat at once, from masks of its views.

Masks of several views that share Gaussians are one group (`votes.association`). Where masks are right that is all there is to do. Where they are
parts of things, or regions of like colour, groups are, too. So the splat's shape tells what may be a thing (`solids`), and the masks which of
that it is: of all nodes of the tree those are taken of which none holds another and whose scores have the largest sum. A node's score is

    size^1.3 * wait * confirmed,

its Gaussians, how long it waits for a partner, and the mean IoU of the masks that fit it best. With the power 1 a thing and its parts would
count the same. A group takes the place of things if masks confirm it better than each of them and it is most of a thing, not a part; and it is
one of its own where the shape has none. Last, the masks that fit a thing move its borders, as after a click.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import EverythingMaker, Mask, Picture
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.segment.evidence import Evidence
from gradiseg_ns.segment.loop import AGREE, BESIDE, MOST_VIEWS, PROPOSED, SegmentError, Views, trust_of
from gradiseg_ns.segment.solids import LEAST, Nodes
from gradiseg_ns.votes.association import AssociationError, associate
from gradiseg_ns.votes.labels import Labels
from gradiseg_ns.votes.rendered import spread_views

_POWER = 1.3
"""Of a node's size in its score."""
_LITTLE = 0.15
"""Mean IoU of the masks that fit best, below which a node is no thing."""
_GROUND = 0.5
"""The share of a node that may be what things stand on."""
_GROUP, _BETTER = 0.6, 0.05
"""Mean IoU of the masks that fit a group best, at least, and how much more than those of the things whose place it takes."""
_MOST, _TOUCHES = 0.5, 0.1
"""The share of a thing that the group in its place has, at least; and the share of a group that a thing may have without being asked."""
_AT_ONCE = 32
"""Masks, or things, that are brought to all Gaussians at once."""

Report = Callable[[str, int, int], None]
Sums = Callable[[Tensor], Tensor]
"""Of values of N Gaussians, [N, F], over each of C sets: [C, F]."""


class Packed:
    """Masks of a picture, a bit a pixel."""

    def __init__(self, masks: Sequence[Mask], height: int, width: int) -> None:
        self.shape = (height, width)
        self._bits: list[NDArray[np.uint8]] = [np.packbits(m.pixels.cpu().numpy()) for m in masks]

    def __len__(self) -> int:
        return len(self._bits)

    def pixels(self, k: int) -> Tensor:
        """Of one mask: bool [H, W]."""
        height, width = self.shape
        bits = np.unpackbits(self._bits[k], count=height * width)
        return torch.from_numpy(bits.reshape(height, width).astype(bool))

    def only(self, chosen: Sequence[int]) -> Packed:
        """Some of them."""
        some = Packed((), *self.shape)
        some._bits = [self._bits[k] for k in chosen]
        return some


@torch.no_grad()
def find_everything(
    gaussians: rendering.Gaussians,
    views: Views,
    maker: EverythingMaker,
    *,
    most_views: int = MOST_VIEWS,
    progress: Report | None = None,
) -> Labels:
    """All objects.

    Args:
        gaussians: N Gaussians.
        views: of them.
        maker: finds what there is in a picture.
        most_views: so many views are asked, evenly spread.
        progress: called with a stage, the pieces done and their number.

    Returns:
        classes from 1; 0 for what belongs to none, -1 for what no view sees.

    Raises:
        SegmentError: there are no masks, or they fit nothing.
    """
    report = progress or (lambda stage, done, total: None)
    chosen = spread_views(len(views), most_views)
    made: dict[int, Packed] = {}
    wholes = []
    for done, view in enumerate(chosen):
        picture = views.sight(view).picture
        masks = maker.everything(picture)
        made[view] = Packed(masks, *picture.rgb.shape[:2])
        wholes.append(_map_of_wholes(masks, picture))
        report("Making masks", done + 1, len(chosen))
    if not any(len(masks) for masks in made.values()):
        raise SegmentError(f"there is no mask in any of {len(chosen)} views.")
    solids = views.solids(gaussians)
    nodes = solids.nodes
    try:
        groups = _grouped(gaussians, [views.cameras[v] for v in chosen], wholes, report)
    except SegmentError:
        if nodes is None:
            raise
        groups = torch.full_like(gaussians.opacities, -1, dtype=torch.int64)
    shown, kept, confirmed = _confirmed(views, made, nodes, groups, report)
    if nodes is None:
        classes = groups
    else:
        things, picked = _things(nodes, confirmed[: len(nodes.chosen)])
        classes = _joined(
            things.to(groups.device), confirmed[picked], groups, confirmed[len(nodes.chosen) :], shown
        )
    if not bool((classes >= 0).any()):
        raise SegmentError(f"no mask in any of {len(chosen)} views fits a thing.")
    labels = _moved(classes, kept, views, solids.known)
    return Labels(
        torch.where((labels.classes < 0) & (shown > 0), 0, labels.classes + 1).clamp(min=-1),
        labels.confidence,
    )


def _map_of_wholes(masks: Sequence[Mask], picture: Picture) -> Tensor:
    """The masks of whole things as a map of their numbers, int64 [H, W], -1 where there is none."""
    ids = torch.full(picture.rgb.shape[:2], -1, dtype=torch.int64)
    for k, mask in reversed(list(enumerate(masks))):  # the most certain last, on top
        if mask.level == 0:
            ids[mask.pixels.cpu()] = k
    if picture.alpha is not None:
        ids[picture.alpha.cpu() < MIN_ACCUMULATION] = -1
    return ids


def _grouped(
    gaussians: rendering.Gaussians,
    cameras: Sequence[rendering.Camera],
    maps: Sequence[Tensor],
    report: Report,
) -> Tensor:
    """The groups of masks that share Gaussians, from a map of each view: int64 [N], -1 for none.

    Raises:
        SegmentError: there are none.
    """
    counts: dict[str, int] = {}

    def joined(stage: str) -> None:
        counts[stage] = counts.get(stage, 0) + 1
        report(stage, counts[stage], len(maps))

    try:
        result = associate(maps, cameras, gaussians=gaussians, progress=joined)
    except AssociationError as error:
        raise SegmentError(f"masks of {len(maps)} views do not fit together: {error}") from error
    if result.labels is None or not bool(result.labels.seen.any()):
        raise SegmentError(f"no two of {len(maps)} views have a mask of the same thing.")
    return result.labels.classes


def _sums_of(classes: Tensor) -> Sums:
    """Sums over the Gaussians of each class, int64 [N] from 0."""
    rows, count = classes >= 0, int(classes.max()) + 1

    def sums(own: Tensor) -> Tensor:
        return own.new_zeros(count, own.shape[1]).index_add_(0, classes[rows], own[rows])

    return sums


def _confirmed(
    views: Views, made: dict[int, Packed], nodes: Nodes | None, groups: Tensor, report: Report
) -> tuple[Tensor, dict[int, Packed], Tensor]:
    """How well masks confirm nodes and groups.

    Returns:
        the weight that each of N Gaussians has in all views, [N] pixels; the masks of each view that fit something; and the mean over the views of
        the IoU of the mask that fits best, of each node and then of each group, where much is seen of it more than where little is.
    """
    of_groups = _sums_of(groups)

    def sums(own: Tensor) -> Tensor:
        parts = [of_groups(own).cpu()]
        if nodes is not None:
            parts.insert(0, torch.from_numpy(nodes.sums(own.cpu().numpy())).to(parts[0]))
        return torch.cat(parts)

    weight = torch.zeros_like(groups, dtype=torch.float32)
    total = said = sums(weight[:, None])[:, 0]
    kept = {}
    for done, (view, masks) in enumerate(made.items()):
        iou, shown, own = _fit(views.sight(view).projection, masks, sums)
        say = shown.sqrt()
        if len(masks):
            best, which = iou.max(dim=1)
            kept[view] = masks.only(which[best > AGREE[0]].unique().tolist())
            total = total + say * best
        said, weight = said + say, weight + own
        report("Comparing masks", done + 1, len(made))
    return weight, kept, total / said.clamp(min=1e-6)


def _things(nodes: Nodes, confirmed: Tensor) -> tuple[Tensor, Tensor]:
    """What the shape says, as the masks confirm it.

    Args:
        nodes: C.
        confirmed: [C].

    Returns:
        int64 [N] from 0, -1 for none; and int64 [T], which nodes they are.
    """
    score = nodes.tree.count[nodes.chosen] ** _POWER * nodes.wait * confirmed.numpy()
    score[(nodes.ground >= _GROUND) | (confirmed.numpy() < _LITTLE)] = 0
    classes, picked = nodes.cut(score)
    return torch.from_numpy(classes), torch.from_numpy(picked)


def _joined(
    things: Tensor, thing_confirmed: Tensor, groups: Tensor, group_confirmed: Tensor, weight: Tensor
) -> Tensor:
    """Things, with groups of masks in the place of some, and beside them: int64 [N] from 0, -1 for none.

    Args:
        things: int64 [N], of T.
        thing_confirmed: [T].
        groups: int64 [N], of G.
        group_confirmed: [G].
        weight: [N].
    """
    classes, count = things.clone(), len(thing_confirmed)
    both = torch.zeros(count + 1, len(group_confirmed), device=weight.device)
    rows = groups >= 0
    both.index_put_((things[rows] + 1, groups[rows]), weight[rows], accumulate=True)
    both = both.cpu()
    own = weight.new_zeros(count + 1).index_add_(0, things + 1, weight).cpu()
    for group, sure in enumerate(group_confirmed.tolist()):
        members = groups == group
        if sure < _GROUP or int(members.sum()) < LEAST:
            continue
        in_things = both[1:, group]
        touched = in_things > _TOUCHES * both[:, group].sum()
        if bool(touched.any()):
            holder = int(in_things.argmax())
            most = float(in_things[holder]) >= _MOST * float(own[1 + holder])
            if not most or sure < float(thing_confirmed[touched].max()) + _BETTER:
                continue
        # What it has of other things, such as one that stands on a table, stays theirs.
        free = torch.cat([touched.new_ones(1), touched]).to(things.device)[things + 1]
        classes[members & free] = count + group
    used = classes.unique()
    return torch.searchsorted(used[used >= 0], classes).where(classes >= 0, -1)


def _fit(projection: rendering.Projection, masks: Packed, sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """IoU of M masks with C sets of N Gaussians in a view, [C, M]; the pixels that each set has there, [C]; and each Gaussian, [N]."""
    device = projection.means2d.device
    parts, areas = [], []
    ones = torch.ones(masks.shape, dtype=torch.bool)
    shown = None
    for first in range(-1, len(masks), _AT_ONCE):
        some = [masks.pixels(k) if k >= 0 else ones for k in range(first, min(first + _AT_ONCE, len(masks)))]
        own = rendering.transpose(projection, torch.stack(some, dim=-1).to(device).float())
        shown = own[:, 0] if shown is None else shown
        parts.append(sums(own).float().cpu())
        areas += [float(m.sum()) for m in some]
    assert shown is not None
    both = torch.cat(parts, dim=1)
    pixels, both = both[:, 0], both[:, 1:]
    either = pixels[:, None] + torch.tensor(areas[1:]) - both
    return both / either.clamp(min=1e-6), pixels, shown


def _moved(classes: Tensor, kept: dict[int, Packed], views: Views, known: Tensor) -> Labels:
    """Things, whose borders are moved to those of the masks that fit them.

    Args:
        classes: int64 [N] from 0, -1 for what belongs to none.
        kept: masks of views.
        views: of the Gaussians.
        known: bool [N], Gaussians of which it can be told whether they belong to a thing.
    """
    count = int(classes.max()) + 1
    best = classes.new_full(classes.shape, -1)
    most = torch.zeros_like(classes, dtype=torch.float32)
    second = torch.zeros_like(most)
    sums = _sums_of(classes)
    fits = {
        view: _fit(views.sight(view).projection, masks, sums)[0].max(dim=1)
        for view, masks in kept.items()
        if len(masks)
    }
    for first in range(0, count, _AT_ONCE):
        things = range(first, min(first + _AT_ONCE, count))
        evidence = [Evidence(len(classes), classes.device) for _ in things]
        for thing, own in zip(things, evidence, strict=True):
            own.inside += PROPOSED * (known & (classes == thing))
            own.outside += BESIDE * (known & (classes != thing))
        for view, (iou, which) in fits.items():
            trust = [trust_of(float(iou[thing])) for thing in things]
            told = [k for k, t in enumerate(trust) if t > 0]
            if not told:
                continue
            pixels = [kept[view].pixels(int(which[first + k])) for k in told]
            maps = torch.stack([torch.ones_like(pixels[0]), *pixels], dim=-1).to(classes.device).float()
            own = rendering.transpose(views.sight(view).projection, maps)
            for k, inside in zip(told, own[:, 1:].T, strict=True):
                evidence[k].add(torch.stack([inside, own[:, 0] - inside], dim=1), trust[k])
        for thing, own in zip(things, evidence, strict=True):
            mean = own.mean * own.selected
            second = torch.maximum(second, torch.minimum(most, mean))
            best = torch.where(mean > most, thing, best)
            most = torch.maximum(most, mean)
    return Labels(best, most - second)
