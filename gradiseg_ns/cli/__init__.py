"""The command `gradiseg`: what ns-train and its family have no place for. A file a verb.

In: flags. Out: files, figures, pictures and sentences on the terminal. Knows all rooms and is known by none.
Each verb is a dataclass whose fields are its flags and whose `main` does the work; `stages/` holds the work of `gradiseg new`.
May not: import torch, nerfstudio or anything that does, outside the functions that need it. A help text or a wrong flag must not
wait for them, and `gradiseg doctor` has to run where they do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradiseg_ns.cli.affordance import Affordance as Affordance
    from gradiseg_ns.cli.associate import Associate as Associate
    from gradiseg_ns.cli.doctor import Doctor as Doctor
    from gradiseg_ns.cli.edit import Edit as Edit
    from gradiseg_ns.cli.export import Export as Export
    from gradiseg_ns.cli.find import Find as Find
    from gradiseg_ns.cli.import_splat import Import as Import
    from gradiseg_ns.cli.lift import Lift as Lift
    from gradiseg_ns.cli.main import VERBS as VERBS
    from gradiseg_ns.cli.main import entrypoint as entrypoint
    from gradiseg_ns.cli.masks import Masks as Masks
    from gradiseg_ns.cli.name import Name as Name
    from gradiseg_ns.cli.new import New as New
    from gradiseg_ns.cli.prune import Prune as Prune
    from gradiseg_ns.cli.segment import Segment as Segment

_HOMES = {
    "Affordance": "affordance", "Associate": "associate", "Doctor": "doctor", "Edit": "edit", "Export": "export",
    "Find": "find", "Import": "import_splat",
    "Lift": "lift", "Masks": "masks", "Name": "name", "New": "new", "Prune": "prune", "Segment": "segment", "VERBS": "main", "entrypoint": "main",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"gradiseg_ns.cli.{_HOMES[name]}"), name)
