"""From a folder of photos to a scene: where each photo was taken, by pycolmap in a process of its own.

In: plain photos. Out: photos as a scene has them (`photos`), poses and sparse points (`solving`, as arrays), transforms.json and
sparse_pc.ply (`writing`), and how far poses are from true ones (`comparison`). May not: import pycolmap, which does not bear Pillow
beside it; only the other process does, in `solver`, and that file imports nothing of ours. Changes nothing of the user's.
"""
