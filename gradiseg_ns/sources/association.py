"""New folders of masks: what association makes of the maps of a scene, as files that training reads.

Used by `gradiseg associate` and, on the way, by training (`--pipeline.model.associate`). A folder holds maps of one level, objects or
their parts, the maps of the other level in a folder of its name, and `tree.json`, which tells what is a part of what.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.agreement import IdAgreement, id_agreement
from gradiseg_ns.data.datamanager import camera_lookup
from gradiseg_ns.data.id_maps import (
    IdMapError,
    read_frame_maps,
    read_id_map,
    resize_id_map,
    undistort_id_map,
)
from gradiseg_ns.masks.levels import LEVELS, LevelsError, Painted
from gradiseg_ns.scene.objects import colorize
from gradiseg_ns.scene.parts import PartError, Parts, PartTree
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.sources.capture import Capture, photo_names
from gradiseg_ns.sources.run import Run
from gradiseg_ns.tools.atomic import new_folder
from gradiseg_ns.tools.choices import IdMode as IdMode
from gradiseg_ns.tools.choices import Level as Level
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.pictures import overview, to_image
from gradiseg_ns.tools.terminal import say, stages, warn
from gradiseg_ns.votes.association import Association, AssociationError, associate
from gradiseg_ns.votes.labels import render_classes
from gradiseg_ns.votes.parts import vote_parts
from gradiseg_ns.votes.rendered import spread_views

OVERVIEW_VIEWS = 4
TREE = "tree.json"
"""What is a part of what, beside the maps."""


@dataclass(frozen=True)
class Associated:
    """Maps whose ids agree, and how well the ids agreed before."""

    result: Association
    maps: list[NDArray[np.int32]]
    """[H, W] a training view, as they are written: no pixel without an id, 0 where nothing is known."""
    parts: list[NDArray[np.int32]]
    """[H, W] a training view, likewise: ids of parts, and of objects where there is none."""
    held_out: dict[Level, list[NDArray[np.int32]]]
    """[H, W] a held-out view, by level: its own masks with the ids of what they show; empty where that is not known."""
    kept: bool
    """Whether the ids are the old ones."""
    before: IdAgreement | None
    after: IdAgreement | None


def associate_views(
    scene: Capture,
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
    for id_map in _with_levels(scene) if ids == "new" else views.id_maps:
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
    olds = [np.maximum(old.cpu().numpy(), 0) if ids == "keep" else np.int32(0) for old in views.id_maps]
    maps, parts = (
        [np.where(new >= 0, new, old).astype(np.int32) for new, old in zip(found, olds, strict=True)]
        for found in (result.maps, result.parts.maps)
    )
    held_out = _held_out(scene, splat, result, none, ids == "keep")
    return Associated(result, maps, parts, held_out, ids == "keep", before, _agreement(maps, scene))


def _held_out(
    scene: Capture, splat: Splat | None, result: Association, none: Sequence[int], kept: bool
) -> dict[Level, list[NDArray[np.int32]]]:
    """The masks of the held-out views with the ids of the training views, for evaluation.

    Kept ids mean the same there. Of new ids a mask gets the one that has most of its pixels in the rendered labels; where there is no
    mask, the labels themselves stand.
    """
    if scene.manager.config.eval_masks_dir is not None:  # they are compared with maps of their own
        return {}
    views = scene.test
    if not any(bool((m >= 0).any()) for m in views.id_maps):
        return {}
    if kept:
        same = [np.maximum(m.cpu().numpy(), 0).astype(np.int32) for m in views.id_maps]
        return {"objects": same, "parts": same}
    if splat is None or result.labels is None or not result.ids:
        return {}
    known = torch.tensor(result.ids, device=result.labels.classes.device)
    objects = torch.where(result.labels.seen, known[result.labels.classes.clamp(min=0)], -1)
    levels: dict[Level, Tensor] = {"objects": objects, "parts": objects}
    if result.parts.labels is not None:
        levels["parts"] = Parts(result.parts.tree, result.parts.labels).nodes(objects)
    found: dict[Level, list[NDArray[np.int32]]] = {level: [] for level in levels}
    for camera, id_map in zip(views.cameras, views.id_maps, strict=True):
        projection = splat.project(camera)
        for level, ids in levels.items():
            shown, _ = render_classes(projection, ids)
            found[level].append(_renumbered(id_map.cpu().numpy(), shown.cpu().numpy(), none))
    return found


def _renumbered(
    masks: NDArray[np.integer], labels: NDArray[np.integer], none: Sequence[int]
) -> NDArray[np.int32]:
    """A map [H, W] whose masks have the ids that most of their labels [H, W] have; labels elsewhere, 0 without any."""
    result = np.maximum(labels, 0).astype(np.int32)
    for i in np.unique(masks):
        inside = masks == i
        found = labels[inside & (labels >= 0)]
        if i >= 0 and i not in none and len(found):
            values, counts = np.unique(found, return_counts=True)
            result[inside] = values[counts.argmax()]
    return result


def _with_levels(scene: Capture) -> list[Tensor]:
    """The training maps, [L, H, W] for views whose masks inside each other lie beside them, as `gradiseg masks` writes them."""
    views = scene.train
    originals, lookups = original_cameras(scene), dict[bytes, NDArray[np.int32]]()
    result, other = [], 0
    for i, (id_map, path) in enumerate(zip(views.id_maps, views.map_paths, strict=True)):
        result.append(id_map)
        levels = None if path is None else _levels_file(scene, path)
        if path is None or levels is None:
            continue
        try:
            found = Painted.read(levels).maps
        except LevelsError as error:
            raise IdMapError(f"{error} Remove it to go without.") from error
        if len(found) < 2:
            continue
        if not np.array_equal(found[0], read_id_map(path)):
            other += 1
            continue
        size = id_map.shape
        maps = [_as_photo(level, originals[i], lookups) for level in found]
        result[i] = torch.from_numpy(np.stack([resize_id_map(m, *size) for m in maps])).to(id_map)
    if other:
        warn(
            f"{other} maps are others than those that their levels belong to: of these views the maps alone count."
        )
    return result


def _levels_file(scene: Capture, path: Path) -> Path | None:
    """Where the levels of a map are, if they are anywhere."""
    for folder in path.parents:
        if (folder / LEVELS).is_dir():
            found = (folder / LEVELS / path.relative_to(folder)).with_suffix(".npz")
            return found if found.is_file() else None
        if folder == scene.data_folder:
            break
    return None


def write_association(folder: Path, scene: Capture, done: Associated, *, level: Level = "objects") -> None:
    """Write the maps of all views, association.json and overview.jpg. The folder appears when all is there.

    Photos with lens distortion get maps that are distorted likewise, since that is what training expects. If there are parts, tree.json
    tells of them, and a folder in the new one has the maps of the other level.

    Args:
        folder: to be made.
        scene: the views.
        done: their maps.
        level: whose maps lie in the folder itself.

    Raises:
        IdMapError: the folder exists.
        WriteError: it cannot be written.
    """
    views = scene.train
    try:
        with new_folder(folder) as making:
            tree = done.result.parts.tree
            first, second = (done.maps, done.parts) if level == "objects" else (done.parts, done.maps)
            _write_maps(making, scene, first)
            if level in done.held_out:
                _write_maps(making, scene, done.held_out[level], "test")
            if len(tree):
                _write_maps(making / ("parts" if level == "objects" else "objects"), scene, second)
                (making / TREE).write_text(json.dumps(_tree_report(done), indent=1))
            names = {
                **(scene.object_names if done.kept else {}),
                **(tree.name_of if level == "parts" else {}),
            }
            if names:
                text = json.dumps({str(i): name for i, name in names.items()}, indent=1)
                (making / "object_names.json").write_text(text)
            (making / "association.json").write_text(json.dumps(_report(views.names, done), indent=1))
            overview_of(scene, done).save(making / "overview.jpg", quality=90)
    except FileExistsError as error:
        raise IdMapError(str(error)) from error
    if read_frame_maps(scene.data):
        warn(
            "transforms.json names maps of its own (object_mask_path), which go before any folder: "
            "take them out of it to train on the new ones."
        )


def _write_maps(
    folder: Path, scene: Capture, maps: Sequence[NDArray[np.int32]], split: Literal["train", "test"] = "train"
) -> None:
    """Write maps of all views of a split."""
    lookups: dict[bytes, NDArray[np.int32]] = {}
    originals = original_cameras(scene, split)
    names = (scene.train if split == "train" else scene.test).names
    largest = max((int(ids.max(initial=0)) for ids in maps), default=0)
    for i, (name, ids) in enumerate(zip(names, maps, strict=True)):
        # No PNG of one channel holds more than 16 bits.
        path = folder / (f"{name}.png" if largest < 1 << 16 else f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = distorted(ids, originals[i], lookups)
        if path.suffix == ".npy":
            np.save(path, written)
            continue
        small = int(written.max(initial=0)) < 256
        Image.fromarray(written.astype(np.uint8 if small else np.uint16)).save(path)


def _tree_report(done: Associated) -> dict[str, object]:
    """All objects and parts, the parts with the id of what they belong to."""
    tree = done.result.parts.tree
    objects = [{"id": i, "name": f"object {i}"} for i in done.result.ids]
    parts = [{"id": i, "name": tree.name_of[i], "parent": tree.parent_of[i]} for i in tree.ids]
    return {"objects": [*objects, *parts]}


def read_tree(path: Path) -> PartTree:
    """The parts that `tree.json` tells of.

    Raises:
        IdMapError: it cannot be read, or is another file.
    """
    try:
        entries = read_json(path)["objects"]
        parts = [entry for entry in entries if entry.get("parent") is not None]
        parents = {int(entry["id"]): int(entry["parent"]) for entry in parts}
        names = {int(entry["id"]): str(entry["name"]) for entry in parts}
        return PartTree.create(parents, names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = str(error) if isinstance(error, (OSError, PartError)) else "it is not what association writes"
        raise IdMapError(
            f"{path} cannot be used: {told}. Expected the objects with id, name and parent, or no such file."
        ) from error


def parents_in(folder: Path) -> dict[int, int]:
    """Parents by the ids of parts, of a folder of maps that association wrote; with a warning none if its tree cannot be used.

    Where the maps are those of the parts (`--level parts`), these are the parents of a scene's objects.
    """
    if not (folder / TREE).is_file():
        return {}
    try:
        return read_tree(folder / TREE).parent_of
    except IdMapError as error:
        warn(f"{error} No object is known to be a part of another.")
        return {}


def label_parts(scene: Capture, gaussians: rendering.Gaussians, objects: Tensor) -> Parts | None:
    """The part of each Gaussian, by the maps of parts that lie beside the training maps.

    Args:
        scene: the data; its photos are not loaded.
        gaussians: N Gaussians.
        objects: int [N], id of the object of each.

    Returns:
        None if there are no maps of parts, or, with a warning, none that can be used.
    """
    manager = scene.manager
    folder = scene.data_folder / manager.config.masks_dir
    if not ((folder / TREE).is_file() and (folder / "parts").is_dir()):
        return None
    files = manager.train_dataset.image_filenames
    names = photo_names(files, [*files, *manager.eval_dataset.image_filenames])
    originals, lookups = original_cameras(scene), dict[bytes, NDArray[np.int32]]()
    chosen = spread_views(len(names))

    def views() -> Iterator[tuple[rendering.Projection, Tensor]]:
        for i, camera in zip(chosen, scene.training_cameras(len(chosen)), strict=True):
            path = next(
                (p for p in (folder / "parts" / f"{names[i]}{s}" for s in (".png", ".npy")) if p.is_file()),
                None,
            )
            if path is None:
                continue
            ids = _as_photo(read_id_map(path), originals[i], lookups)
            ids = resize_id_map(ids, camera.height, camera.width)
            with torch.no_grad():
                yield rendering.project(gaussians, camera), torch.from_numpy(ids)

    try:
        return vote_parts(objects, read_tree(folder / TREE), views())
    except IdMapError as error:
        warn(f"{error} The objects have no parts.")
        return None


def parts_of_run(run: Run, objects: Tensor) -> Parts | None:
    """The parts of a gradiseg run's objects: those in its checkpoint, or else by the maps that it was trained on.

    Args:
        run: the run.
        objects: int [N], id of the object of each Gaussian.

    Returns:
        None if it has none.
    """
    known = run.state["_model._extra_state"]["strategy"]
    if known.get("label_step") == run.step:
        parts = Parts.from_state(known, len(run.splat))
        if parts is not None:
            return parts
    try:
        capture = run.capture(maps=False)
    except (OSError, ValueError, AssertionError):  # its photos are gone
        return None
    parts = label_parts(capture, run.splat.gaussians(), objects)
    return parts if parts is not None and bool((parts.labels >= 0).any()) else None


def _agreement(maps: Sequence[NDArray[np.integer]], scene: Capture) -> IdAgreement | None:
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


def overview_of(scene: Capture, done: Associated) -> Image.Image:
    """Photo, masks as they were and as they are now, of some views."""
    views = scene.train
    count = min(OVERVIEW_VIEWS, len(views))
    rows = []
    for i in (len(views) * k // count for k in range(count)):
        photo = views.images[i].cpu().numpy()
        old, new = views.id_maps[i].cpu(), torch.from_numpy(done.maps[i])
        pictures = [(views.names[i], Image.fromarray(photo))]
        pictures += [("masks before", to_image(colorize(old))), ("masks now", to_image(colorize(new)))]
        if len(done.result.parts.tree):
            pictures.append(("their parts", to_image(colorize(torch.from_numpy(done.parts[i])))))
        rows.append(pictures)
    return overview(rows)


def original_cameras(scene: Capture, split: Literal["train", "test"] = "train") -> Cameras:
    """The cameras of a split before undistortion, at the size of the loaded photos."""
    manager = scene.manager
    if split == "train":
        cameras = deepcopy(manager.train_dataparser_outputs.cameras)
        cameras.rescale_output_resolution(manager.train_dataset.scale_factor)
    else:
        cameras = deepcopy(manager.dataparser.get_dataparser_outputs(split=manager.test_split).cameras)
        cameras.rescale_output_resolution(manager.eval_dataset.scale_factor)
    return cameras


def distorted(
    ids: NDArray[np.int32], cameras: Cameras, lookups: dict[bytes, NDArray[np.int32]]
) -> NDArray[np.int32]:
    """A map as the camera would have taken it; pixels outside the undistorted photo get the nearest id."""
    found = _lookup(cameras, lookups)
    if found is None:
        return ids
    lookup, height, width = found
    flat = np.full(height * width, -1, np.int32)
    inside = lookup >= 0
    flat[lookup[inside]] = ids[inside]
    from scipy.ndimage import distance_transform_edt

    holes = flat.reshape(height, width) < 0
    nearest = distance_transform_edt(holes, return_distances=False, return_indices=True)
    return flat.reshape(height, width)[tuple(np.asarray(nearest))]


def _as_photo(
    ids: NDArray[np.int32], cameras: Cameras, lookups: dict[bytes, NDArray[np.int32]]
) -> NDArray[np.int32]:
    """A map as its photo is trained on: undoes `distorted`."""
    found = _lookup(cameras, lookups)
    if found is None:
        return ids
    lookup, height, width = found
    return undistort_id_map(resize_id_map(ids, height, width), lookup=lookup)


def _lookup(
    cameras: Cameras, lookups: dict[bytes, NDArray[np.int32]]
) -> tuple[NDArray[np.int32], int, int] | None:
    """Where the pixels of a camera's undistorted photo lie in the photo (`camera_lookup`), and its height and width; None if its lens
    distorts nothing."""
    camera = cameras.reshape(())
    if camera.distortion_params is None or torch.all(camera.distortion_params == 0):
        return None
    height, width = int(camera.height.item()), int(camera.width.item())
    return camera_lookup(camera, height, width, lookups), height, width
