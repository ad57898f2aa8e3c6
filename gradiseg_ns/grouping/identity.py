"""Identity encodings, their classifier, and the 2-D loss (GradiSeg, section 3.3).

Every Gaussian carries an identity encoding e_i in R^16. The maps E = sum_i w_i e_i are alpha blended like
colours of degree 0, and a 1x1 convolution with softmax turns E into the probability of every object id.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiseg_ns.losses.cross_entropy import identity_cross_entropy

IDENTITY_DIM = 16
"""Channels of an identity encoding, the paper's 16."""


def initial_identity(
    count: int, dim: int = IDENTITY_DIM, *, generator: torch.Generator | None = None
) -> Tensor:
    """Random unit encodings [count, dim] to start from.

    The directions are uniform, so an untrained Gaussian is not closer to one object than to another.
    """
    encoding = torch.randn(count, dim, generator=generator)
    return F.normalize(encoding, dim=-1)


class IdentityClassifier(nn.Linear):
    """The 1x1 convolution over identity maps, written as a linear layer.

    It has one class per object id that occurs. So any number of ids is possible, and no class is unused (the paper has 256).
    """

    def __init__(self, num_classes: int, dim: int = IDENTITY_DIM) -> None:
        super().__init__(dim, num_classes)

    def resize(self, num_classes: int) -> None:
        """Change the number of classes in place, keeping the Parameters that optimizers already hold."""
        self.weight.data = self.weight.data.new_zeros(num_classes, self.in_features)
        self.bias.data = self.bias.data.new_zeros(num_classes)
        self.out_features = num_classes


def identity_loss(
    identity: Tensor,
    classes: Tensor,
    classifier: nn.Linear,
    *,
    max_pixels: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_2d: the cross-entropy of the classified identity map against the ids of a view.

    It is divided by log(K), so the loss of a uniform guess is 1 for any number of ids K. This is Gaussian Grouping's convention,
    and the paper's weights alpha and beta rely on it.

    Args:
        identity: [H, W, D] rendered identity map.
        classes: int [H, W] class indices, -1 where the view has no label.
        classifier: maps D channels to K logits.
        max_pixels: if positive, a uniform random sample of this number of pixels estimates the mean.
        generator: of the sample's random numbers, on the device of the classes.

    Returns:
        a scalar; zero (with a graph) if no pixel has a label.
    """
    own = classes.reshape(-1)
    pixels = identity.reshape(-1, identity.shape[-1])
    if max_pixels and max_pixels < own.numel():
        chosen = torch.randint(own.numel(), (max_pixels,), generator=generator, device=own.device)
        own = own.index_select(0, chosen)
        pixels = pixels.index_select(0, chosen)
    loss = identity_cross_entropy(pixels, classifier.weight, classifier.bias, own)
    return loss / math.log(max(classifier.out_features, 2))


@torch.no_grad()
def classify(
    identity: Tensor, classifier: nn.Linear, *, chunk: int = 1 << 22, among: Tensor | None = None
) -> Tensor:
    """Class index of every pixel or Gaussian.

    Args:
        identity: [..., D].
        classifier: maps D channels to K logits.
        chunk: largest number of logits that exist at once. All 256 logits of a 1080p picture would take 2.1 GB.
        among: bool [K], the classes to choose from; None: all.

    Returns:
        int64 [...] in 0..K-1.
    """
    flat = identity.reshape(-1, identity.shape[-1])
    rows = max(1, chunk // max(1, classifier.out_features))
    worst = 0.0 if among is None else torch.where(among, 0.0, -torch.inf)
    parts = [(classifier(part) + worst).argmax(dim=-1) for part in flat.split(rows)]
    return torch.cat(parts).reshape(identity.shape[:-1]) if parts else flat.new_zeros(0, dtype=torch.int64)
