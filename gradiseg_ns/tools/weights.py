"""Files of pretrained models: from a folder, from the cache of the Hugging Face hub, or from the hub, and then never silently.

Only data are taken: weights as safetensors, configurations as JSON, vocabularies as text. Code that comes with a model never is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.json_files import read_json
from gradiseg_ns.tools.terminal import say

HUB_TIMEOUT = 10.0
"""Seconds that the hub has for the one request that tells whether it can be reached."""
SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
"""Files of weights that cannot run code."""

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_BESIDE = re.compile(r"[\w.-]+\.json|vocab\.txt|merges\.txt|spiece\.model")
"""Configurations and vocabularies, which lie beside the weights."""


class WeightsError(GradisegError):
    """A pretrained model cannot be had, or is not what it is taken for; the message says what to do."""


def find_model(
    name: str | Path, *, offline: bool = False, weights: Sequence[re.Pattern[str]] = (SAFETENSORS,)
) -> Path:
    """The folder of a model's files.

    It is `name` itself, or the folder in the hub's cache. A model that is in neither is fetched into the cache, after one request has
    shown that the hub can be reached and has it, and after a sentence that tells its size. Without a network there is one attempt.

    Args:
        name: a folder, or a name on the hub such as facebook/sam2.1-hiera-small.
        offline: do not reach for the network.
        weights: names of files of weights, the best kind first.

    Raises:
        WeightsError: the model is not here and cannot be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    name = str(name)
    if folder.is_file():
        raise WeightsError(
            f"The model {name} is a file: expected the folder it lies in, with config.json, or a name on the hub."
        )
    if not _HUB_NAME.fullmatch(name):
        raise _no_name(name, "expected one like facebook/sam2.1-hiera-small")
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str) and _complete(Path(cached).parent, weights):
            return Path(cached).parent
    except ValueError as error:
        raise _no_name(name, str(error)) from error
    if offline:
        raise _not_here(name, "--offline forbids to fetch it")
    try:
        sizes = _files_on_hub(HfApi(), name)
        wanted = next((kind for kind in ([f for f in sizes if k.fullmatch(f)] for k in weights) if kind), [])
        if wanted:
            wanted += [file for file in sizes if _BESIDE.fullmatch(file)]
            total = sum(sizes[file] or 0 for file in wanted)
            told = f"{total / 1e6:,.0f} MB" if total else "of a size that the hub does not tell"
            say(
                f"Fetching the model {name} from the Hugging Face hub, {told}. It is kept in the hub's cache."
            )
            return Path(snapshot_download(name, allow_patterns=wanted))
    except (
        Exception
    ) as error:  # of the hub's client, requests or httpx by its version: without a common class
        lines = str(error).strip().splitlines()
        raise _not_here(
            name, f"the hub did not give it ({lines[0] if lines else type(error).__name__})"
        ) from error
    raise _not_here(name, f"the hub's model of that name has no weights as {weights[0].pattern}")


def _files_on_hub(api: Any, name: str) -> dict[str, int | None]:
    """Names and sizes in bytes of a model's files; one request."""
    known = api.model_info(name, timeout=HUB_TIMEOUT, files_metadata=True)
    return {file.rfilename: file.size for file in known.siblings or ()}


def _no_name(name: str, why: str) -> WeightsError:
    return WeightsError(f"The model {name} cannot be loaded: no such folder, and no name of the hub ({why}).")


def _not_here(name: str, why: str) -> WeightsError:
    return WeightsError(
        f"The model {name} cannot be loaded: there is no such folder, it is not in the hub's cache, and {why}. Where there is a "
        f"network, fetch it (hf download {name} --local-dir FOLDER), bring the folder here and give FOLDER."
    )


def _complete(folder: Path, weights: Sequence[re.Pattern[str]]) -> bool:
    """Whether a folder of the cache has weights, all parts of them."""
    names = {path.name for path in folder.iterdir()}
    for rule in weights:
        parts: Iterable[str] = [name for name in names if rule.fullmatch(name)]
        if parts:
            for index in folder.glob("*.index.json"):
                with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
                    listed = set(read_json(index)["weight_map"].values())
                    if listed and any(rule.fullmatch(part) for part in listed):
                        return listed <= names
            return True
    return False
