"""Classes for cut-outs: the object that each Gaussian shows, by the votes of the maps that the scene itself renders.

A Gaussian in an object's shadow, or under it, is seen only through the object or at its edge. It learns the object's encoding and
appears as a halo when the object is cut out. Most of its blending weight (arXiv 2409.11681) lies in pixels of other objects, so we
go by weight instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.votes.accumulate import accumulate

VIEWS = 64
"""Number of views that are enough, evenly spread."""
_SEEN = 1e-3
"""Up to this weight in all views, in pixels, a Gaussian counts as unseen."""


@torch.no_grad()
def rendered_classes(
    gaussians: rendering.Gaussians,
    identity: Tensor,
    classify: Callable[[Tensor], Tensor],
    count: int,
    cameras: Iterable[rendering.Camera],
    fits: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The class that has most of each Gaussian's weight in the classified identity maps of some views.

    Pixels with an accumulation of at most 0.1 have no class.

    Args:
        gaussians: N Gaussians.
        identity: [N, D].
        classify: gives the class of each encoding, [..., D] to int64 [...]; negative for no class.
        count: K.
        cameras: of the views; `VIEWS` of them are enough.
        fits: says of classes int64 [N] whether each Gaussian can be of its class, bool [N]. None: all can.

    Returns:
        int64 [N]; a Gaussian that no view sees gets the class of its own encoding. One that does not fit gets the class with the next
        most votes, or none (`IGNORE`).
    """

    def views() -> Iterator[tuple[rendering.Camera, Tensor]]:
        for camera in cameras:
            maps, alpha = rendering.render(gaussians, camera, identity)
            classes = classify(maps)
            yield camera, torch.where(alpha[..., 0] > MIN_ACCUMULATION, classes, IGNORE)

    votes = accumulate(gaussians, views(), count)
    own = classify(identity)
    classes, weights = votes.top(2)
    found = torch.where((votes.total() > _SEEN) & (own >= 0), classes[:, 0], own)
    if fits is None:
        return found
    second = torch.where((weights[:, 1] > _SEEN) & fits(classes[:, 1]), classes[:, 1], IGNORE)
    return torch.where(fits(found), found, second)


def spread_views(count: int, most: int = VIEWS) -> list[int]:
    """Indices of at most ``most`` of ``count`` views, evenly spread."""
    return sorted({i * count // most for i in range(most)}) if count > most else list(range(count))
