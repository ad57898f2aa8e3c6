"""Boundaries (NG-GS, arXiv 2604.14706): ambiguous Gaussians, a continuous field that refines them, and clean cut-outs.

In: Gaussians, cameras, maps of classes, a view's rendered maps and photo.
Out: ambiguities, agreed maps, losses, Gaussians to split or shrink.

- `detection` finds the boundary Gaussians from votes.
- `consensus` replaces masks that most other views contradict.
- `cleaning` finds Gaussians that reach out of their object.
- `field` is the hash-grid NeRF on interpolated Gaussians, `refinement` holds the joint losses.
- `rounds` does the work when boundaries are found anew; `phase` keeps the options and the state during a run.

Not here: data managers and checkpoints.
"""
