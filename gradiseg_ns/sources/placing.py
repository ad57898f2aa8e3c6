"""Where the cameras of a PLY stand: its frame is the one in which its renders look like the photos."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.scene.coordinates import to_nerfstudio, to_original
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.sources.capture import Capture, SourceError, smaller
from gradiseg_ns.sources.run import Run
from gradiseg_ns.tools.choices import Frame
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.terminal import say
from gradiseg_ns.votes.rendered import spread_views

_SEES_NOTHING = 0.02
"""Below this mean accumulation the cameras look past the splat."""
_SHOWN = 0.1
"""Accumulation of a pixel that shows a splat."""
_ALIKE = 1.1
"""Up to this ratio, differences to the photos do not tell two frames apart."""
_LOOKS = 8
"""Training views in which a splat is looked for."""
_FRAMES = {"nerfstudio": "nerfstudio's frame", "original": "the original frame of COLMAP or transforms.json"}


def place_cameras(splat: Splat, capture: Capture, background: Tensor, frame: Frame = "auto") -> str:
    """Put the capture's cameras where a PLY's Gaussians are, in place, and note the frame in the splat.

    Returns:
        the frame that was taken, "nerfstudio" or "original".

    Raises:
        SourceError: the cameras see nothing of the splat.
    """
    taken = find_frame(splat, capture, background, frame)
    for split in (capture.train, capture.test):
        split.cameras[:] = [_placed(camera, splat, capture, taken) for camera in split.cameras]
    splat.frame = taken
    return taken


def find_frame(
    splat: Splat, capture: Capture, background: Tensor, frame: Frame = "auto", *, part: bool = False
) -> Literal["nerfstudio", "original"]:
    """The coordinates that a PLY's Gaussians have.

    nerfstudio turns, moves and scales a scene before training, and its exports stay so; other programs keep the
    coordinates of COLMAP or of transforms.json. `auto` renders some training views small in both and takes the frame that shows
    something; if both do, the one that looks like the photos, or if that is not clear, the one that the PLY says.

    Args:
        splat: its `offset` is taken into account.
        capture: its photos are loaded only where both frames show something.
        background: RGB [3] behind the splat.
        frame: `auto`, or the one it is.
        part: the splat may be a small object: it is enough that a pixel shows it.

    Raises:
        SourceError: the cameras see nothing of the splat.
    """
    names: tuple[Literal["nerfstudio", "original"], ...] = ("nerfstudio", "original")
    cameras = [smaller(camera) for camera in capture.training_cameras(_LOOKS)]
    shown: dict[str, list[tuple[Tensor, Tensor]]] = {}
    seen: dict[str, float] = {}
    for name in names:
        shown[name] = [splat.render(_placed(camera, splat, capture, name), background) for camera in cameras]
        alphas = [alpha for _, alpha in shown[name]]
        seen[name] = max((float(a.max() if part else a.mean()) for a in alphas), default=0.0)
    least = _SHOWN if part else _SEES_NOTHING
    asked: list[Literal["nerfstudio", "original"]] = [name for name in names if frame in ("auto", name)]
    possible: list[Literal["nerfstudio", "original"]] = [name for name in asked if seen[name] >= least]
    if not possible:
        raise SourceError(
            f"the cameras of {capture.data} see nothing of the splat ("
            + ", ".join(f"accumulation {seen[name]:.1%} in {_FRAMES[name]}" for name in asked)
            + ")."
            + (
                f" It lies around ({', '.join(f'{x:.0f}' for x in splat.offset)})."
                if any(splat.offset)
                else ""
            )
            + " Are splat and photos of the same scene? Was the splat moved?"
            + (" Try the other --frame." if frame != "auto" else "")
        )
    if frame != "auto":
        return possible[0]
    if len(possible) == 1:
        say(f"Frame of the splat: {possible[0]} (no camera sees it in the other one).")
        return possible[0]
    errors = {}
    indices = spread_views(len(capture.train), _LOOKS)
    for name in possible:
        differences = []
        for i, (rgb, _) in zip(indices, shown[name], strict=True):
            photo = capture.train.images[i].permute(2, 0, 1)[None].to(rgb) / 255
            photo = torch.nn.functional.interpolate(photo, rgb.shape[:2], mode="area")[0].permute(1, 2, 0)
            differences.append(float((rgb - photo).abs().mean()))
        errors[name] = float(np.mean(differences))
    taken = min(possible, key=lambda name: errors[name])
    if splat.frame in possible and errors[splat.frame] <= _ALIKE * errors[taken]:
        taken = splat.frame
    say(f"Frame of the splat: {taken} (mean difference to the photos {errors[taken]:.3f}).")
    return taken


def in_nerfstudio_frame(splat: Splat, capture: Capture, frame: Literal["nerfstudio", "original"]) -> Splat:
    """A splat that is in some frame, moved to where nerfstudio trains the scene."""
    if frame == "nerfstudio":
        return to_nerfstudio(splat, torch.eye(3, 4), 1.0) if any(splat.offset) else splat
    outputs = capture.manager.train_dataparser_outputs
    return to_nerfstudio(splat, outputs.dataparser_transform, outputs.dataparser_scale)


def in_original_frame(splat: Splat, run: Run) -> Splat:
    """A run's splat, moved to where COLMAP or transforms.json have its scene.

    Raises:
        SourceError: the run has no dataparser_transforms.json, and its photos are gone.
    """
    path = run.config_path.parent / "dataparser_transforms.json"
    try:
        if path.is_file():
            content = read_json(path)
            transform, scale = (
                torch.tensor(content["transform"], dtype=torch.float64),
                float(content["scale"]),
            )
        else:
            outputs = run.capture(maps=False).manager.train_dataparser_outputs
            transform, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
        if transform.shape != (3, 4) or not bool(transform.isfinite().all()) or not 0 < scale < float("inf"):
            raise ValueError(f"found a transform of shape {list(transform.shape)} and the scale {scale}")
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise SourceError(
            f"--frame original: {path} does not tell how the scene was moved ({error}). Expected the file that ns-train "
            "wrote beside the run's config.yml, or the photos of the run where they were."
        ) from error
    return to_original(splat, transform, scale)


def _placed(camera: rendering.Camera, splat: Splat, capture: Capture, frame: str) -> rendering.Camera:
    """One of the capture's cameras where the splat's means are: before the dataparser's x -> scale (R x + t) if the splat is in
    the original frame, and without its offset."""
    outputs = capture.manager.train_dataparser_outputs
    transform, scale = (
        outputs.dataparser_transform.double().to(camera.viewmat.device),
        outputs.dataparser_scale,
    )
    if frame == "nerfstudio":
        transform, scale = torch.eye(3, 4).to(transform), 1.0
    offset = transform.new_tensor(splat.offset)
    rotation, translation = camera.viewmat[:3, :3].double(), camera.viewmat[:3, 3].double()
    viewmat = torch.eye(4, dtype=torch.float64, device=camera.viewmat.device)
    viewmat[:3, :3] = rotation @ transform[:, :3]
    viewmat[:3, 3] = rotation @ (transform[:, 3] + transform[:, :3] @ offset) + translation / scale
    return camera._replace(viewmat=viewmat.to(camera.viewmat))
