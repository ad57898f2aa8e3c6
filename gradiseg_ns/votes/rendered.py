"""Labels for cutting: which object each Gaussian shows, by the votes of the maps that the scene itself renders.

An encoding says to which object a Gaussian belongs by what was learned of it. What lies in the shadow of an object, or below it, is seen through it
or at its edge only, and learns its encoding from there: cut out with the object, it is a halo around it. Its blending weight
(arXiv 2409.11681) lies in pixels that show something else, and tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority

VIEWS = 64
"""Views that are enough, evenly spread."""
_SEEN = 1e-3
"""Below this weight in all views, in pixels, a Gaussian is not seen."""


@torch.no_grad()
def rendered_labels(
    gaussians: rendering.Gaussians,
    identity: Tensor,
    classify: Callable[[Tensor], Tensor],
    count: int,
    cameras: Iterable[rendering.Camera],
    *,
    antialiased: bool = False,
) -> Tensor:
    """The class that has most of each Gaussian's weight in the classified identity maps of some views.

    Args:
        gaussians: N Gaussians.
        identity: [N, D].
        classify: the class of each encoding, [..., D] to int64 [...]; negative where it has none.
        count: K.
        cameras: of the views, at most `VIEWS` make sense.
        antialiased: as in `rendering.project`.

    Returns:
        int64 [N]; for what no view sees, the class of its own encoding.
    """

    def views() -> Iterator[tuple[rendering.Camera, Tensor]]:
        for camera in cameras:
            maps, alpha = rendering.render(gaussians, camera, identity, antialiased=antialiased)
            classes = classify(maps)
            yield camera, torch.where(alpha[..., 0] > 0.1, classes, -1)

    votes = accumulate(gaussians, views(), count, antialiased=antialiased)
    own = classify(identity)
    return torch.where((votes.total() > _SEEN) & (own >= 0), majority(votes).classes, own)


def spread_views(count: int, most: int = VIEWS) -> list[int]:
    """At most so many of some views, evenly spread, by their indices."""
    return sorted({i * count // most for i in range(most)}) if count > most else list(range(count))
