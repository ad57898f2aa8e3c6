"""The constant spherical harmonic: the colour that a Gaussian has from everywhere.

Splatfacto keeps its coefficients as ``features_dc``. Without harmonics (``sh_degree`` 0) it keeps the logits of plain colours there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

SH_C0 = 0.28209479177387814
"""The value of the constant harmonic, 1 / (2 sqrt(pi)), in every direction."""


def rgb_of(dc: Tensor, *, logits: bool = False) -> Tensor:
    """Colours of coefficients, any shape; in 0..1 only if the coefficients are those of such colours.

    Args:
        dc: coefficients.
        logits: they are logits of plain colours.
    """
    return dc.sigmoid() if logits else dc * SH_C0 + 0.5


def dc_of(rgb: Tensor, *, logits: bool = False, eps: float = 1e-4) -> Tensor:
    """Coefficients of colours, any shape.

    Args:
        rgb: colours, 0..1.
        logits: make logits of plain colours.
        eps: no colour is nearer to 0 or 1 than this before its logit is taken, which is finite then.
    """
    return torch.logit(rgb, eps=eps) if logits else (rgb - 0.5) / SH_C0


def in_degree(params: Mapping[str, Tensor], degree: int) -> dict[str, Tensor]:
    """A splat's parameters (:meth:`gradiseg_ns.scene.splat.Splat.to_parameters`) as splatfacto has them for another degree.

    Args:
        params: ``features_dc`` [N, 3] and ``features_rest`` [N, K, 3] are coefficients; all others stay as they are.
        degree: of the harmonics, 0 to 3. Coefficients above it are left out, missing ones are 0.
    """
    wanted = (degree + 1) ** 2 - 1
    rest = params["features_rest"][:, :wanted]
    result = {**params, "features_rest": F.pad(rest, (0, 0, 0, wanted - rest.shape[1]))}
    if degree == 0:
        result["features_dc"] = dc_of(rgb_of(params["features_dc"]), logits=True)
    return result
