"""The tiny scene with a splat of it, for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment.loop import Click, Views, see
from gradiseg_ns.sources.capture import load_capture
from gradiseg_ns.votes.accumulate import accumulate
from gradiseg_ns.votes.labels import majority

from ..scenes import write_scene
from ..splats import traced_splat

RED = 1
"""Class of the red ball; 0 is the floor, 2 the blue ball."""


class Tiny:
    """The scene, its splat, and the class of every Gaussian by the votes of exact maps."""

    def __init__(self, folder: Path) -> None:
        path = write_scene(folder / "tiny", views=12, width=96, height=72)
        scene = load_capture(path)
        self.splat: Splat = traced_splat(path, every=6)
        self.gaussians = self.splat.gaussians()
        self.cameras = scene.train.cameras
        lookup = torch.tensor([0, 1, 0, 0, 0, 0, 0, 2])
        self.maps = [torch.where(m >= 0, lookup[m.long().clamp(min=0)], -1) for m in scene.train.id_maps]
        self.truth = majority(
            accumulate(self.gaussians, zip(self.cameras, self.maps, strict=True), 3)
        ).classes
        self.looked = 0

    def views(self) -> Views:
        def look(camera: rendering.Camera) -> Any:
            self.looked += 1
            return see(self.splat, camera)

        return Views(look, self.cameras)

    def click(self, view: int = 0, object_class: int = RED) -> Click:
        ys, xs = (self.maps[view] == object_class).nonzero().float().mean(dim=0).tolist()
        return Click(view, xs, ys)


def iou(tiny: Tiny, selected: Tensor, object_class: int = RED) -> float:
    """Mean IoU of what is rendered of some Gaussians with the maps."""
    scores = []
    for camera, truth in zip(tiny.cameras, tiny.maps, strict=True):
        maps, alpha = rendering.render(tiny.gaussians, camera, selected.float()[:, None])
        found, own = rendering.expected(maps, alpha)[..., 0] > 0.5, truth == object_class
        scores.append(float((found & own).sum() / (found | own).sum()))
    return sum(scores) / len(scores)
