"""A trained scene, and nerfstudio's viewer on it, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import viser
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer

from gradiseg_ns import runs
from gradiseg_ns.editing.display import Editing
from gradiseg_ns.pipeline import GradisegPipeline
from gradiseg_ns.trainer import GradisegTrainer
from gradiseg_ns.viewer.client import ViewerClient

from ..scenes import write_scene

STEPS = 300


@pytest.fixture(scope="package")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls on a floor: ids 0, 1 and 7."""
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=30)


@pytest.fixture(scope="package")
def trainer(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> GradisegTrainer:
    # These tests are about the viewer: the splat that it shows stays the same when defaults change.
    options = {"pipeline.model.boundary_refiner": False, "pipeline.model.densify_grad_thresh": 0.0008}
    config = runs.make_config(
        "gradiseg-lite", scene, tmp_path_factory.mktemp("out"), steps=STEPS, device="cpu", options=options
    )
    return runs.train(config)[0]


@pytest.fixture
def pipeline(trainer: GradisegTrainer) -> Iterator[GradisegPipeline]:
    """The trained pipeline, without any edits."""
    model = trainer.pipeline.model
    model.editing = Editing()
    model.eval()
    yield trainer.pipeline
    model.editing = Editing()
    model.crop_box = None


@dataclass
class Opened:
    """A viewer on a pipeline."""

    viewer: Viewer
    pipeline: GradisegPipeline
    folder: Path
    clients: list[ViewerClient] = field(default_factory=list)

    @property
    def server(self) -> viser.ViserServer:
        return self.viewer.viser_server

    @property
    def session(self) -> Any:
        return self.pipeline.viewer_panel.session

    @property
    def model(self) -> Any:
        return self.pipeline.model

    def connect(self) -> ViewerClient:
        """A browser more, that looks from the first training camera."""
        client = ViewerClient(self.server.get_port(), server=self.server)
        self.clients.append(client)
        frustum = self.viewer.camera_handles[0]
        client.camera(position=tuple(frustum.position), wxyz=tuple(frustum.wxyz), fov=0.9, aspect=4 / 3)
        client.wait_picture()
        return client

    def pixel_of(self, id: int) -> tuple[float, float]:
        """A point of the first training view, as shares, in the middle of what is seen of an object."""
        with self.session.scene.reading() as model:
            state = self.viewer.get_camera_state(next(iter(self.server.get_clients().values())))
            from nerfstudio.viewer.utils import get_camera

            ids = model.look(model.rendering_camera(get_camera(state, 96, 128))).object_ids
        ys, xs = (ids == id).nonzero().unbind(1)
        middle = torch.stack([ys.float(), xs.float()]).mean(dim=1)
        nearest = ((ys - middle[0]) ** 2 + (xs - middle[1]) ** 2).argmin()
        return (float(xs[nearest]) + 0.5) / 128, (float(ys[nearest]) + 0.5) / 96


def open_viewer(pipeline: GradisegPipeline, folder: Path, lock: Any, **kwargs: Any) -> Opened:
    """nerfstudio's viewer, as ns-viewer sets it up."""
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port_default=7300)
    viewer = Viewer(
        config,
        folder / "viewer_log.txt",
        pipeline.datamanager.get_datapath(),
        pipeline,
        train_lock=lock,
        **kwargs,
    )
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed")
    return Opened(viewer, pipeline, folder)


def close_viewer(opened: Opened) -> None:
    """Ends all threads: one that still computes when the process ends would abort it."""
    renderers = list(opened.viewer.render_statemachines.values())
    opened.pipeline.viewer_panel.close()
    for client in opened.clients:
        client.close()
    for renderer in renderers:
        renderer.running = False
        renderer.join(timeout=20)
    opened.server.stop()


@pytest.fixture
def opened(pipeline: GradisegPipeline, tmp_path: Path) -> Iterator[Opened]:
    opened = open_viewer(pipeline, tmp_path, threading.Lock())
    yield opened
    close_viewer(opened)
