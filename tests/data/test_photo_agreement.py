"""A wire before the cameras is told from places where nothing is, by the photos alone."""

from __future__ import annotations

import pytest
import torch

from gradiseg_ns.data.free_space import Frusta
from gradiseg_ns.data.photo_agreement import agreed_on

from .test_free_space import FOCAL, SIZE, ring

WIRE_X, WIRE_Y, RADIUS = 1.2, 0.4, 0.03


def photos(frusta: Frusta, *, wire: bool = True, texture: bool = True) -> list[torch.Tensor]:
    """Pictures of a textured (or plain) sphere of radius 10 around everything, with a red vertical wire before it."""
    width, height = SIZE
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    local = torch.stack([(u - width / 2) / FOCAL, (v - height / 2) / FOCAL, torch.ones_like(u)], dim=-1)
    result = []
    for view in range(frusta.views):
        rays = local @ frusta.viewmats[view, :3, :3]
        rays = rays / rays.norm(dim=-1, keepdim=True)
        eye = frusta.centers[view]
        along = -(rays * eye).sum(-1)
        hit = eye + rays * (along + (100 - eye.square().sum() + along.square()).sqrt())[..., None]
        bright = 0.5 + 0.4 * torch.sin(1.7 * hit[..., 0]) * torch.cos(2.3 * hit[..., 1] + hit[..., 2])
        picture = bright[..., None].expand(-1, -1, 3).clone() if texture else torch.full_like(hit, 0.6)
        # Where a ray is nearest to the wire's axis, seen from above.
        offset, flat = torch.tensor([WIRE_X, WIRE_Y]) - eye[:2], rays[..., :2]
        at = (flat @ offset) / flat.square().sum(-1)
        miss = (flat * at[..., None] - offset).norm(dim=-1)
        if wire:
            picture[(miss < RADIUS) & (at > 0)] = torch.tensor([0.9, 0.1, 0.1])
        result.append((picture * 255).round().to(torch.uint8))
    return result


@pytest.mark.parametrize("texture", [True, False])
def test_a_wire_is_agreed_on(texture: bool, device: torch.device) -> None:
    """Cameras are on the host, Gaussians and photos on a device."""
    frusta = ring(16)
    wire = torch.tensor([[WIRE_X, WIRE_Y, 0.1 * k] for k in range(6)])
    radii = torch.full((6,), RADIUS)
    host = Frusta(*(part.cpu() for part in frusta))
    assert agreed_on(host, photos(frusta, texture=texture), wire, radii).all()
    assert not agreed_on(host, photos(frusta, texture=texture, wire=False), wire, radii).any()


@pytest.mark.parametrize("texture", [True, False])
def test_a_cloud_is_not(texture: bool) -> None:
    """Random places before the cameras, of many sizes."""
    frusta = ring(16)
    generator = torch.Generator().manual_seed(3)
    places = (torch.rand(2000, 3, generator=generator) - 0.5) * 4
    places = places[(places[:, :2] - torch.tensor([WIRE_X, WIRE_Y])).norm(dim=1) > 0.3]
    radii = 0.01 + 0.2 * torch.rand(len(places), generator=generator)
    found = agreed_on(frusta, photos(frusta, texture=texture), places, radii)
    assert float(found.float().mean()) < 0.005


def test_two_views_are_not_several() -> None:
    frusta = Frusta(*(tensor[:2] for tensor in ring(16)))
    wire = torch.tensor([[WIRE_X, WIRE_Y, 0.2]])
    assert not agreed_on(frusta, photos(frusta), wire, torch.tensor([RADIUS])).any()
    assert agreed_on(frusta, photos(frusta), wire[:0], torch.zeros(0)).shape == (0,)
