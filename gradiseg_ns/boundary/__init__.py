"""Boundaries (NG-GS, arXiv 2604.14706): which Gaussians are ambiguous, a continuous field that straightens them, and
clean cut-outs.

`detection` finds the boundary Gaussians from votes, `field` is the hash-grid NeRF on interpolated Gaussians, `refinement`
the joint losses, `cleaning` what an extracted object drags along.
"""
