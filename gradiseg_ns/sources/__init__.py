"""Where splats and views come from: runs of gradiseg and of splatfacto, 3DGS PLY files, data folders. For everything but training.

In: paths. Out: a `Run`, a `Splat`, a `Capture` with posed photos and id maps; checkpoints that can be read (`checkpoints`); new folders of
maps whose ids agree (`association`). May not: run anything that lies in a file other than a run's config.yml, or change what it reads.

    from gradiseg_ns.sources import load_run, load_capture
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradiseg_ns.sources.capture import Capture, SourceError, Views, load_capture
    from gradiseg_ns.sources.placing import find_frame, in_nerfstudio_frame, in_original_frame, place_cameras
    from gradiseg_ns.sources.run import Run, load_run, load_splat

__all__ = [
    "Capture", "Run", "SourceError", "Views", "find_frame", "in_nerfstudio_frame", "in_original_frame", "load_capture", "load_run",
    "load_splat", "place_cameras",
]  # fmt: skip

_HOME = {
    "find_frame": "placing", "in_nerfstudio_frame": "placing", "in_original_frame": "placing", "place_cameras": "placing", "Run": "run", "load_run": "run", "load_splat": "run",
    "Capture": "capture", "SourceError": "capture", "Views": "capture", "load_capture": "capture",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The room's names, imported when they are asked for: a help text must not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
