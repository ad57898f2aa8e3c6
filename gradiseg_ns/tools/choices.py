"""The values that flags can take, by name. Nothing is imported here: `gradiseg --help` reads them."""

from __future__ import annotations

from typing import Literal

DataParser = Literal["nerfstudio-data", "colmap", "blender-data", "instant-ngp-data"]
"""Who reads a folder of photos."""
Frame = Literal["auto", "nerfstudio", "original"]
"""Coordinates of a splat that comes from a file."""
Format = Literal["ply", "compressed-ply", "spz"]
"""Files that an export writes."""
IdMode = Literal["auto", "keep", "new"]
"""Whether association keeps the ids of the masks."""
Level = Literal["objects", "parts"]
"""Which maps of an association are learnt."""
