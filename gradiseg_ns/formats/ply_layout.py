"""How splats lie in PLY files: names of properties, comments, limits."""

from __future__ import annotations

import re

from gradiseg_ns.tools.errors import GradisegError

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
RGB = ("red", "green", "blue")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
REST = re.compile(r"f_rest_\d+")
LABELS = ("object_id", "label")
"""Properties that hold object ids, the preferred one first: integers, or floats that are whole."""
HIGH = "object_id_high"
"""Property of ids that a float cannot hold: what they are divided by `FLOAT_IDS`, and `object_id` is the rest."""
FLOAT_IDS = 1 << 24
"""Up to here every integer is a float32."""
FILTER = "filter_3D"
"""Mip-Splatting's property: the standard deviation of the 3-D filter that its programs convolve a Gaussian with."""
RESERVED = {*MEANS, *NORMALS, *DC, *SCALES, *QUATS, "opacity"}
ANTIALIASED = "SplatRenderMode: mip"
"""Comment by which Brush and PlayCanvas's splat-transform mark splats trained with Mip-Splatting's filter."""
RENDER_MODE = re.compile(r"(?:splatrendermode:\s*(mip|default)|antialiased\s+([01]))\s*", re.IGNORECASE)
"""That comment, or Postshot's."""
UP = re.compile(r"vertical axis:\s*([xyz]|[-+.\de]+ [-+.\de]+ [-+.\de]+)\s*", re.IGNORECASE)
"""The comment of Brush and of ns-export."""
FRAME = re.compile(r"frame:\s*(nerfstudio|original)\s*", re.IGNORECASE)
ONE_ID = re.compile(r"object_id\s+(-?\d{1,10})\s*")
"""Comment in place of the property where all Gaussians have one id."""
SURE = 20.0
"""Logit that stands for infinity: 1 - opacity is 2e-9. As a logarithm, -20 is a Gaussian without thickness."""
FAR = float(1 << 14)
"""Beyond, float32 steps are 0.002 units and more: coordinates are moved to the origin in double precision."""
MAX_ID = (1 << 31) - 1
BLOCK_BYTES = 1 << 19
"""Vertices are read and written in blocks that fit into the processor's cache: twice as fast as all at once."""
PARAMETERS = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")


class PlyError(GradisegError):
    """A PLY file cannot be read as a splat, or not be written; the message says which, why, and what to do."""
