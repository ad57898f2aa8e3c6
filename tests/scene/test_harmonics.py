"""Colours are what they were after a walk through coefficients or logits."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.models.splatfacto import RGB2SH, SH2RGB

from gradiseg_ns.rendering import spherical_harmonics
from gradiseg_ns.scene.harmonics import SH_C0, dc_of, in_degree, rgb_of

pytestmark = pytest.mark.usefixtures("device")


def test_the_constant_is_what_the_rasteriser_blends_with() -> None:
    dc = torch.rand(50, 3)
    blended = spherical_harmonics(0, torch.randn(50, 3), dc[:, None])
    torch.testing.assert_close(blended + 0.5, rgb_of(dc))
    assert torch.equal(rgb_of(dc), SH2RGB(dc)) and torch.equal(dc_of(dc), RGB2SH(dc)), (
        "bit for bit nerfstudio's"
    )
    assert float(dc_of(torch.ones(()))) == pytest.approx(0.5 / SH_C0)


@pytest.mark.parametrize("logits", [False, True])
def test_there_and_back(logits: bool) -> None:
    colors = torch.rand(100, 3)
    torch.testing.assert_close(rgb_of(dc_of(colors, logits=logits), logits=logits), colors, atol=2e-4, rtol=0)
    extreme = dc_of(torch.tensor([0.0, 1.0]), logits=logits)
    assert bool(extreme.isfinite().all())


def test_a_splat_in_another_degree() -> None:
    params = {
        "means": torch.rand(4, 3),
        "features_dc": torch.randn(4, 3),
        "features_rest": torch.randn(4, 8, 3),
    }
    more, less, none = (in_degree(params, degree) for degree in (3, 1, 0))
    assert more["features_rest"].shape == (4, 15, 3) and less["features_rest"].shape == (4, 3, 3)
    assert torch.equal(more["features_rest"][:, :8], params["features_rest"])
    assert not more["features_rest"][:, 8:].any()
    assert torch.equal(less["features_rest"], params["features_rest"][:, :3])
    assert none["features_rest"].shape == (4, 0, 3)
    seen = rgb_of(params["features_dc"]).clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(rgb_of(none["features_dc"], logits=True), seen)
    assert all(each["means"] is params["means"] for each in (more, less, none))
    assert params["features_rest"].shape[1] == 8, "the splat stays as it is"
