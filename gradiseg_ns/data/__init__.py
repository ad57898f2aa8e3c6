"""Photos and id maps in, batches out.

In: the outputs of any nerfstudio dataparser and a folder of id maps (one PNG a view, one object id a pixel).
Out: batches with `id_map` (int32 `[H, W, 1]`, `IGNORE` where a pixel has no label) beside `image`, or, while training,
`class_map` (int64 `[H, W]`); and `train_dataset.metadata["object_ids"]` / `["object_names"]` for the model.

`id_maps.py` (files and arrays) and `agreement.py` know nothing of nerfstudio; `dataset.py`, `datamanager.py`
and `poses.py` are the seam. Nothing here may import another room of the package, change a file of the user's,
or interpolate ids. This module itself imports nothing, so that `gradiseg_ns.config` stays light.
"""
