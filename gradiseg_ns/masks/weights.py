"""Pretrained models of transformers by the `model_type` of their config.json: the one loader of this room.

Weights are safetensors and complete, or there is an error. Code that comes with a model is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gradiseg_ns.tools.extras import install_command
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.weights import WeightsError, find_model

Kinds = Mapping[str, tuple[str, str]]
"""Classes of transformers, network and processor, by the `model_type` of a model's config.json."""


def model_type(source: str | Path, *, offline: bool = False) -> str:
    """What a model calls itself. A model that is not here is fetched.

    Raises:
        WeightsError: it cannot be had, or its config.json does not say.
    """
    folder = find_model(source, offline=offline)
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"The model {source} cannot be loaded: {folder / 'config.json'} cannot be read ({error}).\n{_ADVICE}"
        ) from error
    if not isinstance(kind, str):
        raise WeightsError(
            f"The model {source} cannot be loaded: no config.json there names its model_type.\n{_ADVICE}"
        )
    return kind


_ADVICE = (
    "Expected a folder with config.json, model.safetensors and the processor's files, or a name on the hub such as "
    "facebook/sam2.1-hiera-tiny. Without a network, fetch it where there is one (hf download NAME --local-dir FOLDER), bring "
    "the folder here and give FOLDER."
)


def load_network(
    source: str | Path,
    kinds: Kinds,
    expected: str,
    *,
    device: torch.device | str = "cpu",
    offline: bool = False,
) -> tuple[Any, Any, str]:
    """A network, ready for use, its processor, and its `model_type`.

    Args:
        source: a name on the Hugging Face hub such as facebook/sam2.1-hiera-tiny, or the folder that the files lie in.
        kinds: the classes that will do.
        expected: what kind of model they are, and an example: for the message.
        device: where the network goes.
        offline: never reach for the network; the files must be in the folder or in the hub's cache.

    Raises:
        WeightsError: transformers is not installed or too old, the files cannot be had or are not complete, the model is of another
            kind, or it does not fit the device.
    """
    try:
        import transformers
    except ImportError as error:
        raise WeightsError(
            f"The model {source} needs the package transformers, which is not installed: {install_command('masks')}"
        ) from error
    kind = model_type(source, offline=offline)
    folder = str(find_model(source, offline=offline))
    if kind not in kinds:
        raise WeightsError(
            f"The model {source} is of type {kind}: expected {expected}; its type is one of {', '.join(kinds)}."
        )
    network_class, processor_class = (getattr(transformers, part, None) for part in kinds[kind])
    if network_class is None or processor_class is None:
        raise WeightsError(
            f"The model {source} is of type {kind}, which transformers {transformers.__version__} does not have: "
            "pip install --upgrade transformers, or choose an older kind of model such as facebook/sam-vit-base."
        )
    # What it warns of here is wanted (a checkpoint for videos used for pictures) or an error below (weights that are missing).
    told = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    # transformers and what it calls raise errors of a dozen kinds for a file that is missing, broken or of another kind.
    try:
        processor: Any = processor_class.from_pretrained(folder, local_files_only=True)
        network, found = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )  # fmt: skip
    except Exception as error:
        raise WeightsError(f"The model {source} cannot be loaded: {error}\n{_ADVICE}") from error
    finally:
        transformers.logging.set_verbosity(told)
    # transformers fills gaps with random numbers and only warns.
    missing = sorted(found["missing_keys"])
    if missing:
        raise WeightsError(
            f"The weights of {source} are not complete: {len(missing)} are missing, such as {missing[0]}. {_ADVICE}"
        )
    try:
        return network.eval().to(device), processor, kind
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise WeightsError(f"The model {source} cannot be used on device {device}: {error}") from error
