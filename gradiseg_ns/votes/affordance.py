"""Moved to `gradiseg_ns.affordance`. The names of version 0.1 still lead there from here, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_MOVED = {
    "gradiseg_ns.affordance": ("AFFORDANCES", "DEFAULT_K", "DEFAULT_RESOLUTION", "MAX_CLASSES"),
    "gradiseg_ns.affordance.exemplars": ("Exemplar", "ExemplarError", "read_exemplars"),
    "gradiseg_ns.affordance.tokens": ("PatchTokens", "TokenModel", "TokenModelError"),
    "gradiseg_ns.affordance.transfer": (
        "AffordanceResult", "ExemplarBank", "View", "affordance_maps", "area_mean", "patch_shares", "render_labels", "transfer",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _MOVED.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("AffordanceScore", "evaluate"):
        raise AttributeError(f"{name} is in gradiseg_ns.evaluation.affordance now, and tells percent.")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"gradiseg_ns.votes.affordance has moved: import {name} from {_HOME[name]}.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module(_HOME[name]), name)
