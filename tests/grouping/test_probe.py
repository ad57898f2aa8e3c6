"""The probe's gradients are L_2d's alone."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns import rendering
from gradiseg_ns.grouping.probe import IdentityProbe

from ..rendering.scenes import random_camera, random_gaussians

pytestmark = pytest.mark.usefixtures("device")


def probe_of(share: float | torch.Tensor) -> tuple[IdentityProbe, torch.Tensor, torch.Tensor]:
    """A probe after a backward pass of the sum of squares, with the means and the identities."""
    gaussians = random_gaussians(150)
    means = gaussians.means.clone().requires_grad_()
    identity = torch.rand(150, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moved = rendering.Gaussians(means, gaussians.quats, gaussians.scales, gaussians.opacities)
    probe = IdentityProbe.render(rendering.project(moved, random_camera()), identity, share)
    probe.maps.square().sum().backward()
    return probe, means, identity


def test_nothing_is_known_before_a_backward_pass() -> None:
    projection = rendering.project(random_gaussians(20), random_camera())
    probe = IdentityProbe.render(projection, torch.rand(20, 16).requires_grad_(), 0.0)
    assert probe.gradients("conflict") == {}


def test_the_position_gradient_is_that_of_the_rendered_identities() -> None:
    probe, means, _ = probe_of(1.0)
    found = probe.gradients(None)["identity_position_gradient"]
    assert set(probe.gradients(None)) == {"identity_position_gradient", "identity_gradient"}
    # Of the three directions the probe knows the two across the view; there the means' own gradient agrees but for what moves shapes.
    viewmat = random_camera().viewmat[:2, :3].to(means)
    assert means.grad is not None
    theirs, ours = means.grad @ viewmat.T, found @ viewmat.T
    strong = theirs.norm(dim=-1) > theirs.norm(dim=-1).quantile(0.8)
    cosine = torch.cosine_similarity(theirs[strong], ours[strong], dim=-1)
    assert float(cosine.median()) > 0.99


def test_shares_scale_what_moves_and_not_what_the_probe_knows() -> None:
    whole, means, _ = probe_of(1.0)
    shares = torch.linspace(0, 1, len(means))
    probe, moved, _ = probe_of(shares)
    assert means.grad is not None and moved.grad is not None
    torch.testing.assert_close(moved.grad, shares[:, None] * means.grad, rtol=1e-4, atol=1e-4)
    known, knows = (p.gradients(None)["identity_position_gradient"] for p in (whole, probe))
    torch.testing.assert_close(knows, known)


def test_without_a_share_nothing_moves() -> None:
    probe, means, identity = probe_of(0.0)
    assert means.grad is None and identity.grad is not None
    found = probe.gradients("gradient")
    torch.testing.assert_close(found["identity_gradient"], identity.grad.norm(dim=-1))
    assert float(found["identity_position_gradient"].abs().max()) > 0, "known all the same"


def test_conflict_is_what_cancels() -> None:
    probe, _, identity = probe_of(0.0)
    assert identity.grad is not None
    absolute, conflict = probe.gradients("absolute"), probe.gradients("conflict")
    torch.testing.assert_close(
        conflict["identity_gradient"],
        (absolute["identity_gradient"] - identity.grad.norm(dim=-1)).clamp(min=0),
    )
    ones = torch.ones(*probe.maps.shape[:2], 1)
    weight = rendering.transpose(probe.projection, ones)[:, 0]
    torch.testing.assert_close(conflict["identity_weight"], weight)
