"""The tiny scene of `scenes.py` as a splat and as runs, made in a second instead of trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gradiseg_ns import runs, sources
from gradiseg_ns.scene.coordinates import to_nerfstudio
from gradiseg_ns.scene.harmonics import dc_of
from gradiseg_ns.scene.splat import Splat

from .scenes import BALLS, trace

STEPS = 300
SINK = 1.3
"""How far Gaussians of balls lie below the surface, in pixels of the view that chose them."""


def traced_splat(scene: Path, *, every: int = 9, seed: int = 0) -> Splat:
    """Flat Gaussians where some rays of all views hit the scene, in nerfstudio's frame.

    Args:
        scene: a folder of `write_scene`.
        every: a ray of so many.
        seed: of the choice.
    """
    meta = json.loads((scene / "transforms.json").read_text())
    width, height, focal = meta["w"], meta["h"], meta["fl_x"]
    rng = np.random.default_rng(seed)
    parts = []
    for frame in meta["frames"]:
        pose = np.asarray(frame["transform_matrix"])
        count = width * height // every
        u, v = rng.uniform(0, width, count), rng.uniform(0, height, count)
        local = np.stack([(u - width / 2) / focal, -(v - height / 2) / focal, -np.ones(count)], axis=1)
        rays = local @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        colors, ids, points = trace(pose[:3, 3], rays)
        depth = np.linalg.norm(points - pose[:3, 3], axis=1)
        normals = np.tile([0.0, 0.0, 1.0], (count, 1))
        for object_id, (centre, radius) in BALLS.items():
            normals[ids == object_id] = (points[ids == object_id] - centre) / radius
        pixel = depth / focal
        # Gaussians reach beyond the surface they lie on, and many of them lie over each other: balls would be too large.
        points -= (SINK * pixel * (ids > 0))[:, None] * normals
        parts.append((points, colors, normals, np.where(ids == 0, 1.5, 0.7) * pixel))
    points, colors, normals, size = (np.concatenate(part) for part in zip(*parts, strict=True))
    x, y, z = normals.T
    turns = np.stack([1 + z, -y, x, 0 * x], axis=1)  # from the z axis to the normal
    count = len(points)
    splat = Splat(
        means=torch.from_numpy(points).float(),
        quats=torch.nn.functional.normalize(torch.from_numpy(turns + 1e-9).float(), dim=1),
        scales=torch.from_numpy(np.log(np.stack([size, size, 0.1 * size], axis=1))).float(),
        opacities=torch.full((count,), 3.0),
        features_dc=dc_of(torch.from_numpy(colors)).float(),
        features_rest=torch.zeros(count, 15, 3),
    )
    outputs = sources.load_capture(scene, maps=False).manager.train_dataparser_outputs
    return to_nerfstudio(splat, outputs.dataparser_transform, outputs.dataparser_scale)


def write_plain_run(scene: Path, folder: Path) -> Path:
    """A run of splatfacto's family without identities, which knows no id maps. Returns its folder."""
    options = {"pipeline.model.identity": False, "pipeline.datamanager.masks_dir": "nowhere"}
    config: Any = runs.make_config("gradiseg-lite", scene, folder, steps=STEPS, device="cpu", options=options)
    splat = traced_splat(scene)
    names = ("means", "quats", "scales", "features_dc", "features_rest")
    state = {f"_model.gauss_params.{name}": getattr(splat, name) for name in names}
    state["_model.gauss_params.opacities"] = splat.opacities[:, None]
    run = config.get_base_dir()
    (run / config.relative_model_dir).mkdir(parents=True)
    (run / "config.yml").write_text(yaml.dump(config))
    checkpoint = {"step": STEPS - 1, "pipeline": state, "optimizers": {}, "schedulers": {}, "scalers": {}}
    torch.save(checkpoint, run / config.relative_model_dir / f"step-{STEPS - 1:09d}.ckpt")
    return run


def write_splatfacto_run(plain: Path, scene: Path, folder: Path) -> Path:
    """The Gaussians of `write_plain_run` as nerfstudio's splatfacto saves them. Returns the run's folder."""
    from nerfstudio.configs.method_configs import method_configs

    config: Any = copy.deepcopy(method_configs["splatfacto"])
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.timestamp = folder, "run"
    config.experiment_name = "balls"
    run = sources.load_run(plain)
    models = config.get_base_dir() / "nerfstudio_models"
    models.mkdir(parents=True)
    (config.get_base_dir() / "config.yml").write_text(yaml.dump(config))
    state = {key: value for key, value in run.state.items() if ".gauss_params." in key}
    numpy_scalar = {"_last_lr": [np.float64(1e-3)]}  # stock schedulers leave those behind
    torch.save(
        {"step": 249, "pipeline": state, "optimizers": {}, "schedulers": numpy_scalar, "scalers": {}},
        models / "step-000000249.ckpt",
    )
    return config.get_base_dir()
