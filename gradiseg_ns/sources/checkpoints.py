"""Checkpoints as files: which there are, which can be read, and how they are read and written. Nothing in them is ever run.

nerfstudio takes the newest by its name. Where that one was cut off, or something else lies beside it, resuming and evaluating would end
there: so the newest that can be read is taken, and named.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.tools.atomic import write_with
from gradiseg_ns.tools.errors import GradisegError, WriteError
from gradiseg_ns.tools.terminal import say, warn

_NAME = re.compile(r"step-(\d+)\.ckpt")
_told: set[str] = set()


class CheckpointError(GradisegError):
    """A checkpoint that cannot be read or does not fit. Not a RuntimeError: nerfstudio would load what fits and carry on."""


def in_folder(folder: Path) -> list[Path]:
    """The checkpoints of a folder, by their names, the newest first. What else lies there is passed over."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load(path: Path, device: torch.device | str = "cpu", *, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint of nerfstudio's, read without running anything in it.

    Args:
        path: the file.
        device: where its tensors go.
        mapped: leave the tensors in the file until they are used.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    # splatfacto's own checkpoints hold numpy scalars in their schedulers.
    numpy: Any = np
    scalars = [numpy.core.multiarray.scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: it is empty.")
        with torch.serialization.safe_globals(scalars):
            loaded = torch.load(path, map_location=device, weights_only=True, mmap=mapped or None)
    except CheckpointError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the errors of pickle, zip and torch have no common class
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(path, error)}.") from error
    if not isinstance(loaded, dict) or not {"pipeline", "step"} <= set(loaded):
        raise CheckpointError(
            f"{path} is not a checkpoint of nerfstudio's: expected the keys pipeline and step."
        )
    return loaded


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch cannot read, without torch's advice to read it unsafely."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
            return "its end is missing, it was cut off"
        if not zipfile.is_zipfile(path):
            return f"it is no file of torch's (it starts with {start!r})"
    except OSError as fault:
        return fault.strerror or str(fault)
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def fault(path: Path) -> str | None:
    """Why a checkpoint cannot be read; None if it can. Its tensors are compared with their checksums, but not loaded."""
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    return _fault(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _fault(path: Path, size: int, changed: int) -> str | None:
    del size, changed  # a file that is written anew is looked at anew
    try:
        load(path, mapped=True)
        damaged, whole = _checksums(path)
        if damaged and whole:  # if none is right, torch was told to write none
            return f"{path} is damaged: {damaged} of its {damaged + whole} parts are not what was written."
    except CheckpointError as error:
        return str(error)
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        return f"{path} cannot be read as a checkpoint: {error}."
    return None


def _checksums(path: Path) -> tuple[int, int]:
    """How many parts of a file do not have their checksums, which torch does not look at, and how many have."""
    right = 0
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        for part in parts:
            with contextlib.suppress(zipfile.BadZipFile), archive.open(part) as file:
                while file.read(1 << 24):
                    pass
                right += 1
    return len(parts) - right, right


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written.

    Raises:
        CheckpointError: it cannot be read.
    """
    return int(load(path, mapped=True)["step"])


def choose(folder: Path, step: int | None = None, *, flag: str = "") -> Path:
    """The newest checkpoint of a folder that can be read, with a warning that names those that cannot.

    Args:
        folder: nerfstudio_models of a run.
        step: take that one, and no other.
        flag: that named the folder, for messages.

    Raises:
        CheckpointError: there is none, or none can be read.
    """
    name = f"{flag} {folder}".strip()
    paths = in_folder(folder)
    if step is not None:
        asked = [path for path in paths if int(_NAME.fullmatch(path.name)[1]) == step]  # type: ignore[index]
        if not asked:
            there = ", ".join(path.name for path in paths) or "none"
            raise CheckpointError(f"{name}: there is no checkpoint of step {step}; found {there}.")
        wrong = fault(asked[0])
        if wrong is not None:
            others = [path.name for path in paths if path != asked[0] and fault(path) is None]
            raise CheckpointError(wrong + (f" These can be read: {', '.join(others)}." if others else ""))
        return asked[0]
    if not paths:
        if not folder.is_dir():
            found = "there is no such folder"
        else:
            found = "found " + (", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing")
        raise CheckpointError(
            f"{name} has no checkpoint: {found}. Expected step-000012345.ckpt in it (the folder nerfstudio_models of a run that was "
            "saved)."
        )
    faults: list[str] = []
    for path in paths:
        wrong = fault(path)
        if wrong is None:
            told = f"{' '.join(faults)} {path.name} is taken instead."
            if faults and told not in _told:
                _told.add(told)
                warn(told)
            return path
        faults.append(wrong)
    raise CheckpointError(f"{name} has no checkpoint that can be read. {' '.join(faults)}")


def save(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all, and put it on the disk.

    Raises:
        WriteError: it cannot be written. The older file is still there.
    """
    try:
        write_with(path, lambda file: torch.save(content, file))
    except RuntimeError as error:  # what torch's writer makes of an error of the file's
        cause = error.__cause__ or error.__context__
        reason = cause if isinstance(cause, OSError) else str(error).strip().splitlines()[0]
        raise WriteError(
            f"{path} cannot be written ({reason}). What was there before is still there."
        ) from error


def check_model_state(
    state: Mapping[str, Any], expected: Collection[str], trained_on: Collection[int] = ()
) -> tuple[int, ...]:
    """Whether a model can load a state: it has the model's keys, and knows the objects of the data.

    Args:
        state: of the checkpoint's model, by names.
        expected: the names of the model's own state.
        trained_on: object ids in the maps, if the model is to be trained.

    Returns:
        The object ids that the checkpoint knows.

    Raises:
        CheckpointError: a key is missing or unknown, or an id is in the data that the checkpoint does not know.
    """
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            "the checkpoint is not one of this gradiseg model: "
            + (f"missing {missing}" if missing else "")
            + (" and " if missing and unknown else "")
            + (f"unknown {unknown}" if unknown else "")
            + ". Was it trained by another method, or with other model options?"
        )
    known = ObjectTable.from_dict(state["_extra_state"]["objects"]).ids
    new = sorted(set(trained_on) - set(known))
    if new:
        raise CheckpointError(
            f"the id maps contain {len(new)} object ids that the checkpoint's classifier does not know "
            f"(first ones: {new[:8]}; it knows {len(known)}). Resume with the id maps of the first run, "
            "or train anew."
        )
    return known


def choose_for_commands(pipelines: type) -> None:
    """Have ns-eval, ns-viewer, ns-render and ns-export choose so too, for pipelines of a class. Done once, however often it is called.

    nerfstudio 1.1.5's `eval_setup` makes the pipeline, and then calls `eval_load_checkpoint`, which takes the newest file by name and
    ends at a name it cannot read; there is no option between the two. So that function is replaced when the first pipeline of this
    package is made.
    """
    from nerfstudio.utils import eval_utils

    original: Any = eval_utils.eval_load_checkpoint
    if getattr(original, "_chooses", False):
        return

    def eval_load_checkpoint(config: Any, pipeline: Any) -> tuple[Path, int]:
        if not isinstance(pipeline, pipelines):
            return original(config, pipeline)
        path = choose(Path(config.load_dir), config.load_step)
        loaded = load(path)
        pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
        say(f"Loaded the checkpoint {path}")
        return path, int(loaded["step"])

    eval_load_checkpoint._chooses = True  # type: ignore[attr-defined]
    eval_utils.eval_load_checkpoint = eval_load_checkpoint
