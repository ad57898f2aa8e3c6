"""Gaussian splats in which every Gaussian knows its object: a nerfstudio plugin.

`gradiseg_ns.config` is the register that nerfstudio loads. This module imports nothing, so that it costs
nothing.
"""

__version__ = "0.1.0"
