"""A wire before the cameras of the demo scene stays when the space before the cameras is cleared; a cloud beside it goes."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from gradiseg_ns import runs
from gradiseg_ns.data.datamanager import frusta_of
from gradiseg_ns.data.free_space import Frusta, project_into
from gradiseg_ns.trainer import GradisegTrainer

DEMO = Path(__file__).parents[2] / "examples" / "demo_scene"
RADIUS = 0.006
COLOR = (200, 30, 30)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GradisegTrainer:
    config = runs.make_config("gradiseg-lite", DEMO, tmp_path_factory.mktemp("out"), steps=10, device="cpu")
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.pipeline.model.optimizers = trainer.optimizers.optimizers  # as a training's first step does
    return trainer


def draw(
    photo: torch.Tensor, frusta: Frusta, view: int, start: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """The photo, uint8 [H, W, 3], with a wire in front of everything."""
    height, width = photo.shape[:2]
    x, y, depth = project_into(frusta, view, torch.stack([start, end]))
    if bool((depth < 0.05).any()):
        return photo
    picture = photo.numpy().copy()
    thick = round(2 * RADIUS * float(frusta.intrinsics[view, 0, 0] / depth.mean()))
    ends = [(int((x[k] + 1) / 2 * width), int((y[k] + 1) / 2 * height)) for k in range(2)]
    cv2.line(picture, ends[0], ends[1], COLOR, max(1, thick), cv2.LINE_AA)
    return torch.from_numpy(picture)


def test_a_wire_stays_and_a_cloud_goes(trainer: GradisegTrainer) -> None:
    pipeline, model = trainer.pipeline, trainer.pipeline.model
    manager, space = pipeline.datamanager, pipeline.free_space
    assert space is not None
    frusta = frusta_of(manager.train_dataset.cameras)
    view = 5
    forward, up = frusta.viewmats[view, 2, :3], -frusta.viewmats[view, 1, :3]
    middle = frusta.centers[view] + 0.6 * float(space.nearest[view]) * forward
    start, end = middle - 0.15 * up, middle + 0.15 * up
    share = torch.linspace(0.05, 0.95, 40)[:, None]
    wire = start + share * (end - start)
    generator = torch.Generator().manual_seed(0)
    cloud = middle + 0.15 * torch.randn(400, 3, generator=generator)
    away = cloud - start
    along = (away @ up)[:, None] * up
    cloud = cloud[(away - along).norm(dim=1) > 0.04]
    cloud = cloud[space.contains(cloud)]
    inside = int(space.contains(wire).sum())
    assert inside > 20 and len(cloud) > 50, "both stand where nothing should be"

    for index, item in enumerate(manager.cached_train):
        item["image"] = draw(item["image"], frusta, index, start, end)
    planted = torch.cat([wire, cloud])
    before = model.num_points - int(space.contains(model.means).sum())
    rows = torch.arange(len(planted))  # the first Gaussians take their places
    with torch.no_grad():
        model.gauss_params["means"][rows] = planted
        model.gauss_params["scales"][rows] = torch.tensor([RADIUS, RADIUS, 0.02]).log()
        model.gauss_params["features_dc"][rows] = 0.123  # to know them by
    assert model.clear(space, manager.agreed_on) > 0
    left = model.means[model.gauss_params["features_dc"][:, 0] == 0.123]
    distance = torch.cdist(planted, left).amin(dim=1)
    kept = distance < 1e-6
    assert kept[: len(wire)].float().mean() > 0.9, "the wire stays"
    assert kept[len(wire) :].float().mean() < 0.03, "the cloud goes"
    assert model.num_points >= before - len(planted)
    # Without looking at the photos the wire would go too.
    assert model.clear(space) >= inside - 4
