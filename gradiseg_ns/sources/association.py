"""New folders of masks: what association makes of the maps of a scene, as files that training reads.

Used by `gradiseg associate` and, on the way, by training (`--pipeline.model.associate`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from PIL import Image

from gradiseg_ns.data.agreement import IdAgreement, id_agreement
from gradiseg_ns.data.datamanager import camera_lookup
from gradiseg_ns.data.id_maps import IdMapError, read_frame_maps
from gradiseg_ns.scene.objects import colorize
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.sources.scene import Scene
from gradiseg_ns.tools.atomic import new_folder
from gradiseg_ns.tools.choices import IdMode as IdMode
from gradiseg_ns.tools.pictures import overview, to_image
from gradiseg_ns.tools.terminal import say, stages, warn
from gradiseg_ns.votes.association import Association, AssociationError, associate

OVERVIEW_VIEWS = 4


@dataclass(frozen=True)
class Associated:
    """Maps whose ids agree, and how well the ids agreed before."""

    result: Association
    maps: list[NDArray[np.int32]]
    """[H, W] a training view, as they are written: no pixel without an id, 0 where nothing is known."""
    kept: bool
    """Whether the ids are the old ones."""
    before: IdAgreement | None
    after: IdAgreement | None


def associate_views(
    scene: Scene,
    splat: Splat | None,
    *,
    ids: IdMode = "auto",
    unlabelled: Sequence[int] | None = None,
) -> Associated:
    """Make the ids of a scene's training maps agree, see :func:`gradiseg_ns.votes.association.associate`.

    Args:
        scene: the views, with maps.
        splat: trained on them; None uses the sparse points.
        ids: `auto` keeps ids that agree beyond chance (`IdAgreement.consistent`).
        unlabelled: ids that mean "no mask"; 0 for new ids and none for kept ones, if None.

    Raises:
        IdMapError: there is nothing to compare the masks by.
    """
    views = scene.train
    points = None if scene.points is None else scene.points.cpu().numpy()
    before = _agreement([m.cpu().numpy() for m in views.id_maps], scene)
    if ids == "auto":
        if before is None:
            raise IdMapError(
                "--ids auto: the scene has too few sparse points to tell whether ids agree between views; "
                "say --ids keep or --ids new."
            )
        ids = "keep" if before.consistent else "new"
        say(
            f"Of the pairs of views that see a point {before.agreement:.0%} show the same id (chance "
            f"{before.chance:.0%}): ids are {'kept' if ids == 'keep' else 'made anew'}."
        )
    none = list(unlabelled) if unlabelled is not None else ([0] if ids == "new" else [])
    given = []
    for id_map in views.id_maps:
        ids_here = id_map.to(torch.int64)
        hidden = torch.isin(ids_here, torch.tensor(none, dtype=torch.int64, device=ids_here.device))
        given.append(torch.where(hidden, -1, ids_here))
    if not any(bool((m >= 0).any()) for m in given):
        raise IdMapError(f"the {len(given)} maps hold no masks, apart from the ids {none} that mean none.")
    with stages() as show:
        done: Counter[str] = Counter()

        def report(stage: str) -> None:
            done[stage] += 1
            show(stage, done[stage], len(views))

        try:
            result = associate(
                given, views.cameras, gaussians=None if splat is None else splat.gaussians(), points=points, ids=ids, progress=report
            )  # fmt: skip
        except AssociationError as error:
            raise IdMapError(f"{scene.data}: {error}") from error
    maps = []
    for new, old in zip(result.maps, views.id_maps, strict=True):
        rest = np.maximum(old.cpu().numpy(), 0) if ids == "keep" else 0
        maps.append(np.where(new >= 0, new, rest).astype(np.int32))
    return Associated(result, maps, ids == "keep", before, _agreement(maps, scene))


def write_association(folder: Path, scene: Scene, done: Associated) -> None:
    """Write the maps of all training views, association.json and overview.jpg. The folder appears when all is there.

    Photos with lens distortion get maps that are distorted likewise, since that is what training expects.

    Raises:
        IdMapError: the folder exists.
        WriteError: it cannot be written.
    """
    views = scene.train
    try:
        with new_folder(folder) as making:
            lookups: dict[bytes, NDArray[np.int32]] = {}
            originals = original_cameras(scene)
            largest = max((int(ids.max(initial=0)) for ids in done.maps), default=0)
            for i, (name, ids) in enumerate(zip(views.names, done.maps, strict=True)):
                # No PNG of one channel holds more than 16 bits.
                path = making / (f"{name}.png" if largest < 1 << 16 else f"{name}.npy")
                path.parent.mkdir(parents=True, exist_ok=True)
                written = distorted(ids, originals[i], lookups)
                if path.suffix == ".npy":
                    np.save(path, written)
                    continue
                small = int(written.max(initial=0)) < 256
                Image.fromarray(written.astype(np.uint8 if small else np.uint16)).save(path)
            if done.kept and scene.object_names:
                names = {str(i): name for i, name in scene.object_names.items()}
                (making / "object_names.json").write_text(json.dumps(names, indent=1))
            (making / "association.json").write_text(json.dumps(_report(views.names, done), indent=1))
            overview_of(scene, done).save(making / "overview.jpg", quality=90)
    except FileExistsError as error:
        raise IdMapError(str(error)) from error
    if read_frame_maps(scene.data):
        warn(
            "transforms.json names maps of its own (object_mask_path), which go before any folder: "
            "take them out of it to train on the new ones."
        )


def _agreement(maps: Sequence[NDArray[np.integer]], scene: Scene) -> IdAgreement | None:
    if scene.points is None:
        return None
    cameras = scene.train.cameras
    return id_agreement(
        maps,
        np.stack([camera.viewmat.cpu().numpy() for camera in cameras]),
        np.stack([camera.K.cpu().numpy() for camera in cameras]),
        scene.points.cpu().numpy(),
    )


def _report(names: Sequence[str], done: Associated) -> dict[str, object]:
    def agreement(found: IdAgreement | None) -> dict[str, float] | None:
        return None if found is None else {"same_id": found.agreement, "chance": found.chance}

    masks: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for mask in done.result.masks:
        masks[names[mask.view]].append(
            {"id": mask.id, "new_id": mask.new_id, "trust": round(mask.trust, 4), "pixels": mask.pixels}
        )
    return {
        "ids": "kept" if done.kept else "new",
        "objects": list(done.result.ids),
        "agreement_before": agreement(done.before),
        "agreement_after": agreement(done.after),
        "masks": masks,
    }


def overview_of(scene: Scene, done: Associated) -> Image.Image:
    """Photo, masks as they were and as they are now, of some views."""
    views = scene.train
    count = min(OVERVIEW_VIEWS, len(views))
    rows = []
    for i in (len(views) * k // count for k in range(count)):
        photo = views.images[i].cpu().numpy()
        old, new = views.id_maps[i].cpu(), torch.from_numpy(done.maps[i])
        pictures = [Image.fromarray(photo)]
        pictures += [to_image(colorize(m)) for m in (old, new)]
        rows.append(list(zip((views.names[i], "masks before", "masks now"), pictures, strict=True)))
    return overview(rows)


def original_cameras(scene: Scene) -> Cameras:
    """The training cameras before undistortion, at the size of the loaded photos."""
    manager = scene.manager
    cameras = deepcopy(manager.train_dataparser_outputs.cameras)
    cameras.rescale_output_resolution(manager.train_dataset.scale_factor)
    return cameras


def distorted(
    ids: NDArray[np.int32], cameras: Cameras, lookups: dict[bytes, NDArray[np.int32]]
) -> NDArray[np.int32]:
    """A map as the camera would have taken it; pixels outside the undistorted photo get the nearest id."""
    camera = cameras.reshape(())
    if camera.distortion_params is None or torch.all(camera.distortion_params == 0):
        return ids
    height, width = int(camera.height.item()), int(camera.width.item())
    lookup = camera_lookup(camera, height, width, lookups)
    flat = np.full(height * width, -1, np.int32)
    inside = lookup >= 0
    flat[lookup[inside]] = ids[inside]
    from scipy.ndimage import distance_transform_edt

    holes = flat.reshape(height, width) < 0
    nearest = distance_transform_edt(holes, return_distances=False, return_indices=True)
    return flat.reshape(height, width)[tuple(np.asarray(nearest))]
