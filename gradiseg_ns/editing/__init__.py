"""Edits of objects: hide, tint, rename, move, duplicate, remove, merge, split off, swap; a list that is replayed.

In: edits from flags (`flags`), from the viewer, or from a file that anybody may have written (`checking`). Out: an `Arrangement`: which
Gaussians are shown, where, in which tint, as which object; it makes copies when something is rendered or exported. `display` is what the
viewer draws of it. Objects are named by id, parts of objects by a region (`regions`), so that a list made in the middle of a training still
holds at its end. May not: touch the Gaussians of a scene, its parameters or its labels.
"""
