"""Options of nerfstudio's dataparsers for the verbs of `gradiseg`, given as ns-train takes them.

`ns-train gradiseg --data SCENE colmap --colmap-path sparse/0` and `gradiseg lift --ply P --data SCENE colmap --colmap-path sparse/0`:
a dataparser's name ends the verb's own options, and what follows is the dataparser's. nerfstudio is imported only where there is one.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

NAMES = (
    "nerfstudio-data", "minimal-parser", "arkit-data", "blender-data", "instant-ngp-data", "nuscenes-data", "dnerf-data",
    "phototourism-data", "dycheck-data", "scannet-data", "sdfstudio-data", "nerfosr-data", "sitcoms3d-data", "scannetpp-data", "colmap",
)  # fmt: skip


def split(args: Sequence[str], switches: Collection[str] = ()) -> tuple[list[str], str | None, list[str]]:
    """The arguments of a verb, the dataparser's name if one ends them, and the dataparser's arguments.

    A name that is the value of a flag (`--dataparser colmap`, `--masks-dir colmap`) ends nothing.

    Args:
        args: the verb and what follows.
        switches: the verb's flags that take no value, as its fields are named.
    """
    for index, word in enumerate(args):
        if word in NAMES and index > 0 and not _takes_a_value(args[index - 1], switches):
            return list(args[:index]), word, list(args[index + 1 :])
    return list(args), None, []


def _takes_a_value(word: str, switches: Collection[str]) -> bool:
    if not word.startswith("--") or "=" in word:
        return False
    name = word[2:].replace("-", "_")
    return name not in switches and name.removeprefix("no_") not in switches


def config_of(name: str, args: Sequence[str] = (), *, prog: str = "gradiseg") -> Any:
    """A dataparser's configuration by its name, and its options.

    nerfstudio-data loads sparse points, as the methods of gradiseg do.
    """
    import tyro
    from nerfstudio.configs.dataparser_configs import dataparsers
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    default = dataparsers[name]
    if isinstance(default, NerfstudioDataParserConfig):
        default = NerfstudioDataParserConfig(load_3D_points=True)
    if not args:
        return copy.deepcopy(default)
    return tyro.cli(type(default), default=default, args=list(args), prog=f"{prog} {name}")
