"""Identity encodings and a classifier from votes: a head start for GradiSeg, without training.

Each class gets a code c_k, a unit vector of the identity space. A Gaussian gets the code of its label, and the classifier
gets the codes as its weights: z_k = s c_k . E. A map is E = sum_i w_i c_{label(i)} = sum_k P_k c_k, with P_k the share of
class k in the pixel. Its scores are z_k = s sum_j P_j c_k . c_j. The class with the largest share wins if the codes point far
enough apart. Up to D + 1 classes the codes form a simplex (c_k . c_j = -1/D), and this is exact. More codes are spread over
the sphere by repulsion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.grouping.codes import spread_codes
from gradiseg_ns.losses.cross_entropy import identity_cross_entropy
from gradiseg_ns.votes.accumulate import VoteAccumulator, Votes
from gradiseg_ns.votes.labels import majority

FIT_EVERY = 8
"""The classifier's scale is fitted to every eighth view."""
_SCALES = tuple(2.0**power for power in range(0, 7))


def encode(classes: Tensor, codes: Tensor) -> Tensor:
    """The codes [N, D] of classes int64 [N]; zero for negative classes."""
    known = (classes >= 0)[:, None]
    return torch.where(known, codes[classes.clamp(min=0)], codes.new_zeros(()))


@torch.no_grad()
def refine(
    gaussians: rendering.Gaussians,
    views: Sequence[tuple[rendering.Camera, Tensor]],
    codes: Tensor,
    total: Tensor,
    *,
    rates: tuple[float, float] = (1.5, 0.5),
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Encodings whose rendered maps come closest to the codes of the id maps: W e = c_M, in one pass over the views.

    Votes are the first step towards this least-squares solution. This function continues view by view: the residual of each
    pixel is projected back and divided by the weight (simultaneous algebraic reconstruction, SART), with decreasing steps. A
    Gaussian on a boundary then leans to the side that its neighbours do not cover. Use it for exact maps: wrong ids in the last
    views weigh too much, while votes average them out.

    Args:
        gaussians: N Gaussians.
        views: cameras with their maps of classes [H, W], -1 where there is no label.
        codes: [K, D].
        total: [N] weight of each Gaussian over all views.
        rates: step size of the first and the last view.
        progress: called after each view.

    Returns:
        [N, D]; zero for Gaussians that are visible in no labelled pixel.
    """
    encoding = codes.new_zeros(len(gaussians.means), codes.shape[1])
    usual = total / max(len(views), 1)  # a view with little weight on a Gaussian must not decide alone
    order = torch.randperm(len(views), generator=torch.Generator().manual_seed(0)).tolist()
    for place, index in enumerate(order):
        camera, classes = views[index]
        projection = rendering.project(gaussians, camera)
        (rendered,), _ = rendering.rasterize(projection, [encoding])
        known = (classes >= 0)[..., None].to(codes.dtype)
        missing = (codes[classes.clamp(min=0)] - rendered) * known
        sums = rendering.transpose(projection, torch.cat([missing, known], dim=-1))
        rate = rates[0] + (rates[1] - rates[0]) * place / max(len(order) - 1, 1)
        weight = torch.maximum(sums[:, -1], usual).clamp(min=1e-9)
        encoding += rate * sums[:, :-1] / weight[:, None]
        if progress is not None:
            progress()
    return encoding


def head_start(
    gaussians: rendering.Gaussians,
    encoding: Tensor,
    codes: Tensor,
    views: Iterable[tuple[rendering.Camera, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Identities [N, D] and weights of the classifier [K, D] (without bias) from encodings and codes.

    Only their product matters. It is scaled so that the cross-entropy of some views is smallest (:func:`fit_scale`). Both
    get the square root of the scale, which keeps their gradients in proportion.

    Args:
        gaussians: N Gaussians.
        encoding: [N, D].
        codes: [K, D].
        views: a few cameras with their maps of classes [H, W].
    """
    maps = ((rendering.render(gaussians, camera, encoding)[0], classes) for camera, classes in views)
    share = fit_scale(codes, maps) ** 0.5
    return encoding * share, codes * share


@torch.no_grad()
def from_votes(
    gaussians: rendering.Gaussians,
    views: Iterable[tuple[rendering.Camera, Tensor]],
    count: int,
    dim: int,
) -> tuple[Tensor, Tensor, Votes]:
    """Identities and a classifier from the votes of id maps, in one pass over the views.

    Args:
        gaussians: N Gaussians.
        views: cameras with their maps of classes [H, W] (negative: no label).
        count: K.
        dim: D.

    Returns:
        identities [N, D], the classifier's weights [K, D], and the votes.
    """
    accumulator = VoteAccumulator(len(gaussians), count, gaussians.means.device)
    codes = spread_codes(count, dim).to(gaussians.means.device)
    few: list[tuple[rendering.Camera, Tensor]] = []
    for index, (camera, classes) in enumerate(views):
        accumulator.add(rendering.project(gaussians, camera), classes)
        if index % FIT_EVERY == 0:
            few.append((camera, classes))
    votes = accumulator.result()
    identity, weight = head_start(gaussians, encode(majority(votes).classes, codes), codes, few)
    return identity, weight, votes


def classify_encodings(encoding: Tensor, codes: Tensor) -> Tensor:
    """The class whose code is nearest: int64 [N], -1 where the encoding is zero."""
    known = encoding.abs().amax(dim=-1) > 0
    parts = [(part @ codes.T).argmax(dim=-1) for part in encoding.split(1 << 16)]
    return torch.where(known, torch.cat(parts), IGNORE) if parts else encoding.new_zeros(0, dtype=torch.int64)


def fit_scale(codes: Tensor, maps: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The power of two, 1 to 64, by which to scale the classifier so that the cross-entropy of some views is smallest.

    Args:
        codes: [K, D].
        maps: rendered identity maps [H, W, D] with their maps of classes [H, W], -1 where there is no label.
    """
    losses = torch.zeros(len(_SCALES), dtype=torch.float64)
    bias = codes.new_zeros(len(codes))
    with torch.no_grad():
        for identity, classes in maps:
            pixels, own = identity.reshape(-1, identity.shape[-1]), classes.reshape(-1)
            for i, scale in enumerate(_SCALES):
                losses[i] += float(identity_cross_entropy(pixels, scale * codes, bias, own))
    return _SCALES[int(losses.argmin())]
