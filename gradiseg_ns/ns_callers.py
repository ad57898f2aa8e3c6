"""Which of nerfstudio's commands this process runs, for what they do not hand on to a plugin.

ns-viewer, ns-render and ns-eval build a pipeline from a config.yml and tell it neither where that file is nor what they are going to do with
it. Both are read from the callers.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

EDITS_VARIABLE = "GRADISEG_EDITS"
"""Environment variable: a list of edits to use instead of the run's own, or `off` for none."""

_KINDS: dict[str, Literal["view", "render", "eval"]] = {
    "RunViewer": "view",
    "ComputePSNR": "eval",
    "RenderCameraPath": "render",
    "RenderInterpolated": "render",
    "SpiralRender": "render",
    "DatasetRender": "render",
}


@dataclass(frozen=True)
class Caller:
    """A command that is setting up a pipeline or evaluating it."""

    kind: Literal["view", "render", "eval", "other"] = "other"
    command: Any = None
    """nerfstudio's object of it, with its flags."""
    config_path: Path | None = None
    """The run's config.yml."""


def caller() -> Caller:
    """The command on whose behalf this function's caller runs."""
    frame = inspect.currentframe()
    config_path: Path | None = None
    while frame is not None:
        if frame.f_code.co_name == "eval_setup" and isinstance(frame.f_locals.get("config_path"), Path):
            config_path = frame.f_locals["config_path"]
        command = frame.f_locals.get("self")
        kind = _KINDS.get(type(command).__name__)
        if kind is not None:
            return Caller(kind, command, config_path or getattr(command, "load_config", None))
        frame = frame.f_back
    return Caller(config_path=config_path)


def listen_locally(command: Any, arguments: list[str] | None = None) -> bool:
    """Make ns-viewer listen to this machine only, as ns-train does here, unless its --viewer.websocket-host was given.

    Returns:
        whether that changed anything.
    """
    arguments = sys.argv if arguments is None else arguments
    given = any(a.replace("_", "-").startswith("--viewer.websocket-host") for a in arguments)
    if given or getattr(command.viewer, "websocket_host", None) != "0.0.0.0":
        return False
    command.viewer.websocket_host = "127.0.0.1"
    return True


def edits_path(config_path: Path | None) -> Path | None:
    """The list of edits of a run, if it has one and is to be used.

    Raises:
        EditError: GRADISEG_EDITS names a file that does not exist.
    """
    from gradiseg_ns.editing.checking import EditError
    from gradiseg_ns.editing.edit_list import FILE_NAME

    named = os.environ.get(EDITS_VARIABLE, "")
    if named.lower() in ("off", "0", "none"):
        return None
    if named:
        if not Path(named).is_file():
            raise EditError(f"{EDITS_VARIABLE} is {named!r}: expected a list of edits, or `off`.")
        return Path(named)
    path = config_path.parent / FILE_NAME if config_path is not None else None
    return path if path is not None and path.is_file() else None
