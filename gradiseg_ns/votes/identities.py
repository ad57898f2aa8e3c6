"""Identity encodings and a classifier from votes: a head start for GradiSeg, without training.

Each class gets a code c_k, a unit vector of the identity space, a Gaussian the code of its label, and the classifier
the codes as its weights: z_k = s c_k . E. A map E = sum_i w_i c_{label(i)} = sum_k P_k c_k, with P_k the share of
class k in the pixel, then has the scores z_k = s sum_j P_j c_k . c_j, and the class with the largest share wins if the codes
point far enough apart. Up to D + 1 classes the codes form a simplex (c_k . c_j = -1/D), which makes that exact; beyond, they are
spread over the sphere by repulsion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.losses.cross_entropy import identity_cross_entropy

_SCALES = tuple(2.0**power for power in range(0, 7))


def spread_codes(count: int, dim: int, *, seed: int = 0) -> Tensor:
    """Unit vectors [count, dim] that point as far apart as can be had: the largest c_k . c_j is made small.

    Deterministic. In 16 dimensions the largest is -1/16 for 17 classes, about 0.02 for 20, 0.2 for 62, 0.5 for 1,000.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = F.normalize(torch.randn(count, dim, generator=generator), dim=-1)
    if count < 2:
        return codes
    if count <= dim + 1:  # a simplex: unit axes, moved to their centre, in the space they span
        centred = torch.eye(count) - 1.0 / count
        axes = torch.linalg.svd(centred)[2][: count - 1]
        return F.pad(F.normalize(centred @ axes.T, dim=-1), (0, dim - count + 1))
    steps = 300 if count <= 256 else 100
    for step in range(steps):
        # Each code is pushed away from the others, more and more from the nearest ones only.
        sharpness = 50.0 ** (step / steps)
        close = codes @ codes.T
        close.fill_diagonal_(-1.0)
        codes = F.normalize(codes - 0.1 * torch.softmax(sharpness * close, dim=1) @ codes, dim=-1)
    return codes


def encode(classes: Tensor, codes: Tensor) -> Tensor:
    """The codes [N, D] of classes int64 [N]; zero, which says nothing, for negative ones."""
    known = (classes >= 0)[:, None]
    return torch.where(known, codes[classes.clamp(min=0)], codes.new_zeros(()))


@torch.no_grad()
def refine(
    gaussians: rendering.Gaussians,
    views: Sequence[tuple[rendering.Camera, Tensor]],
    codes: Tensor,
    total: Tensor,
    *,
    antialiased: bool = False,
    rates: tuple[float, float] = (1.5, 0.5),
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Encodings whose rendered maps come closest to the codes of the id maps: W e = c_M, in one pass over the views.

    Votes are the first step towards that least-squares solution. This goes on: view after view, what is missing in each
    pixel is projected back and divided by the weight (simultaneous algebraic reconstruction, SART), the steps growing
    smaller. A Gaussian on a boundary then leans to the side that its neighbours do not cover. Right for maps that are
    right; wrong ids of the last views weigh too much, where votes average them out.

    Args:
        gaussians: N Gaussians.
        views: cameras with their maps of classes [H, W], -1 where there is no label.
        codes: [K, D].
        total: [N] weight of each Gaussian over all views.
        antialiased: as in `rendering.project`.
        rates: step size of the first and the last view.
        progress: called after each view.

    Returns:
        [N, D]; zero for what no labelled pixel sees.
    """
    encoding = codes.new_zeros(len(gaussians.means), codes.shape[1])
    usual = total / max(len(views), 1)  # a view that hardly sees a Gaussian must not decide alone
    order = torch.randperm(len(views), generator=torch.Generator().manual_seed(0)).tolist()
    for place, index in enumerate(order):
        camera, classes = views[index]
        projection = rendering.project(gaussians, camera, antialiased=antialiased)
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


def classify_encodings(encoding: Tensor, codes: Tensor) -> Tensor:
    """The class whose code is nearest: int64 [N], -1 where the encoding is zero."""
    known = encoding.abs().amax(dim=-1) > 0
    parts = [(part @ codes.T).argmax(dim=-1) for part in encoding.split(1 << 16)]
    return torch.where(known, torch.cat(parts), -1) if parts else encoding.new_zeros(0, dtype=torch.int64)


def fit_scale(codes: Tensor, maps: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The scale s of the classifier for which the cross-entropy of some views is smallest, of a few powers of two.

    Args:
        codes: [K, D].
        maps: rendered identity maps [H, W, D] with their maps of classes [H, W], -1 where there is no label.
    """
    losses = torch.zeros(len(_SCALES), dtype=torch.float64)
    bias = codes.new_zeros(len(codes))
    with torch.no_grad():
        for identity, classes in maps:
            pixels, labels = identity.reshape(-1, identity.shape[-1]), classes.reshape(-1)
            for i, scale in enumerate(_SCALES):
                losses[i] += float(identity_cross_entropy(pixels, scale * codes, bias, labels))
    return _SCALES[int(losses.argmin())]
