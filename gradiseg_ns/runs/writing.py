"""Runs made without training: gradiseg runs of given Gaussians and identities, runs with some Gaussians only.

What is written is what nerfstudio's Trainer would have left: ns-viewer, ns-eval and ns-render open it.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.sources import checkpoints
from gradiseg_ns.sources.capture import Capture, SourceError
from gradiseg_ns.sources.run import Run
from gradiseg_ns.tools.atomic import new_folder
from gradiseg_ns.tools.terminal import say
from gradiseg_ns.votes.rendered import VIEWS, rendered_classes

if TYPE_CHECKING:
    from gradiseg_ns.scene.splat import Splat


def objects_of_run(run: Run) -> ObjectTable:
    """The objects of a gradiseg run, as its checkpoint has them."""
    return ObjectTable.from_dict(run.state["_model._extra_state"]["objects"])


def labels_of_run(run: Run) -> Tensor:
    """Object ids int32 [N] of a gradiseg run's Gaussians: those in its checkpoint, or else voted for now.

    `IGNORE` where the encoding is zero, which no training leaves: votes or an import had no label there.
    """
    state = run.state
    extra = state["_model._extra_state"]
    known = extra["strategy"]
    objects = objects_of_run(run)
    if "label" in known and known.get("label_step") == run.step and len(known["label"]) == len(run.splat):
        return objects.ids_of(known["label"]).to(torch.int32)
    identity = state["_model.gauss_params.identity"]
    weight, bias = state["_model.classifier.weight"], state["_model.classifier.bias"]

    def classify(encodings: Tensor) -> Tensor:
        classes = (encodings @ weight.T + bias).argmax(dim=-1)
        return torch.where(encodings.abs().amax(dim=-1) > 0, classes, IGNORE)

    try:
        cameras = run.capture(maps=False).training_cameras(VIEWS)
    except (OSError, ValueError, AssertionError) as error:
        say(
            f"The photos of {run.config_path} cannot be found ({error}): labels are those of the encodings, with "
            "more of the surroundings than the votes of views would leave."
        )
        return objects.ids_of(classify(identity)).to(torch.int32)
    classes = rendered_classes(run.splat.gaussians(), identity, classify, len(objects), cameras)
    return objects.ids_of(classes).to(torch.int32)


def write_gradiseg_run(
    run: Run,
    capture: Capture,
    splat: Splat,
    objects: ObjectTable,
    identity: Tensor | None,
    weight: Tensor | None,
    *,
    suffix: str,
    masks_dir: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Path:
    """A gradiseg run with these Gaussians and identities, beside the old one.

    Args:
        run: The old one, of gradiseg or splatfacto; options and data are taken from it.
        capture: Its data.
        splat: N Gaussians.
        objects: K objects.
        identity: [N, D] encodings. None: the run has none, and no objects.
        weight: [K, D] of the classifier, whose bias is zero; None with them.
        suffix: What follows the old run's timestamp, such as "lifted".
        masks_dir: Folder of the id maps, if it is not the old one.
        model_options: Options of the model by name that differ from the old run's.
        replace: Whether an older folder of that name goes away.

    Returns:
        Its config.yml.

    Raises:
        SourceError: There is such a folder, and it is not to be replaced.
    """
    config = _new_config(run, suffix)
    if not run.is_gradiseg:
        config.pipeline.datamanager = copy.deepcopy(capture.manager.config)
        for name in ("sh_degree", "rasterize_mode", "background_color"):
            setattr(config.pipeline.model, name, getattr(run.config.pipeline.model, name))
    if masks_dir is not None:
        config.pipeline.datamanager.masks_dir = masks_dir
    if identity is None:
        config.pipeline.model.identity = False
    for name, value in (model_options or {}).items():
        setattr(config.pipeline.model, name, value)
    _check_free(config, replace)
    config.load_dir = config.load_checkpoint = config.load_step = config.pipeline.model.start_from = None
    pipeline: Any = config.pipeline.setup(device=str(splat.means.device), test_mode="test")
    model = pipeline.model
    model.objects = objects
    model.adopt(splat)
    model.classifier.resize(len(objects))
    if identity is not None and weight is not None:
        with torch.no_grad():
            model.gauss_params["identity"].copy_(identity)
            model.classifier.weight.copy_(weight)
            model.classifier.bias.zero_()
    if splat.labels is not None:
        model.update_to_step(run.step)
        model.set_classes(objects.classes_of(splat.labels))
    return save_run(run, config, pipeline.state_dict(), capture, replace=replace)


def check_free(run: Run, suffix: str) -> None:
    """Look before the work is done whether `write_gradiseg_run` may write.

    Raises:
        SourceError: there is a folder of that name.
    """
    _check_free(_new_config(run, suffix), False)


def _new_config(run: Run, suffix: str) -> Any:
    """The configuration of a gradiseg run beside an old one."""
    from gradiseg_ns import config as register

    config: Any = copy.deepcopy(run.config if run.is_gradiseg else register.gradiseg_lite.config)
    if not run.is_gradiseg:
        for name in ("output_dir", "experiment_name", "data", "machine", "relative_model_dir"):
            setattr(config, name, copy.deepcopy(getattr(run.config, name)))
    config.timestamp = f"{run.config.timestamp}-{suffix}"
    return config


def write_pruned_run(run: Run, kept: Tensor) -> Path:
    """The run with some of its Gaussians, bool [N], beside the old one. Returns its config.yml."""
    config = copy.deepcopy(run.config)
    config.timestamp = f"{run.config.timestamp}-pruned"
    state = {
        key: value[kept] if ".gauss_params." in key else value for key, value in run.state.items()
    }  # fmt: skip
    extra = state.get("_model._extra_state")
    if extra is not None:  # the strategy's statistics are rows of Gaussians too
        strategy = {
            key: value[kept] if isinstance(value, Tensor) and value.shape[:1] == kept.shape else value
            for key, value in extra["strategy"].items()
        }
        state["_model._extra_state"] = {**extra, "strategy": strategy}
    return save_run(run, config, state, None)


def save_run(
    run: Run, config: Any, state: dict[str, Any], capture: Capture | None, *, replace: bool = True
) -> Path:
    """config.yml and a checkpoint in the config's folder, whole or not at all.

    Args:
        run: The old one; its step is the new one's.
        config: TrainerConfig of the new run.
        state: State of its pipeline.
        capture: Its data, if the old run may lack dataparser_transforms.json.
        replace: Whether an older folder of that name goes away.

    Returns:
        The config.yml.

    Raises:
        SourceError: There is such a folder, and it is not to be replaced.
        WriteError: It cannot be written. An older folder is still there.
    """
    _check_free(config, replace)
    folder = config.get_base_dir()
    with new_folder(folder, replace=replace) as making:
        models = making / config.relative_model_dir
        models.mkdir(parents=True)
        checkpoints.save(
            {"step": run.step, "pipeline": state, "optimizers": {}, "schedulers": {}, "scalers": {}},
            models / run.checkpoint.name,
        )
        (making / "config.yml").write_text(yaml.dump(config), "utf8")
        transforms = run.config_path.parent / "dataparser_transforms.json"
        if transforms.exists():
            shutil.copy(transforms, making)
        elif capture is not None:
            capture.manager.train_dataparser_outputs.save_dataparser_transform(making / transforms.name)
    return folder / "config.yml"


def _check_free(config: Any, replace: bool) -> None:
    folder = config.get_base_dir()
    if folder.exists() and not replace:
        raise SourceError(f"{folder} exists already; nothing is overwritten. Remove or rename it.")
