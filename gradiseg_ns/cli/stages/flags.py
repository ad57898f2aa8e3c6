"""The flags of `gradiseg new`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gradiseg_ns.cli.common import MaybeCount, MaybePath, MaybeText, Reader, Switch
from gradiseg_ns.cli.stages.state import Stage

MaybeStage = Annotated[Stage | None, tyro.conf.arg(metavar="STAGE", help_behavior_hint="")]


@dataclass
class Flags:
    """Where photos come from, where results go, and how each stage does its work."""

    source: tyro.conf.Positional[Path]
    """A folder of photos, which is not changed; or a scene that ns-train opens."""
    output: Path
    """Folder of all results."""
    model: MaybeText = None
    """What makes the masks: `regions` (default, rough), or a SAM (docs/masks.md)."""
    phrases: MaybeText = None
    """What to look for: "mug; red block". Default: everything."""
    masks_dir: MaybePath = None
    """Id maps that are there already, instead of --model. Default: `object_mask`."""
    steps: MaybeCount = None
    """Steps of training. Default: 3000 on a CPU, 30000 on a GPU."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Photos compared for poses: all pairs, or neighbours by name."""
    max_size: int = 1600
    """Longer side in pixels; larger photos become smaller copies."""
    least_registered: float = 0.5
    """Share of the photos that must get a pose."""
    only: MaybeStage = None
    """Do this stage alone, again if its result is there."""
    again: MaybeStage = None
    """Repeat this stage and those after it."""
    dataparser: Reader = "nerfstudio-data"
    """Reader of a scene; options follow its name at the end (docs/data.md)."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""
    offline: Switch = False
    """No network: weights from a folder or from the hub's cache."""
