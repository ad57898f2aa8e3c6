"""The panel in nerfstudio's viewer: click objects, see them, change them, take them along.

In: a pipeline of gradiseg, and nerfstudio's viewer. Out: edits and a selection (`editing.display`), files for download.

`session` does what a person can do, without widgets, on a `live_scene`. It hands on to `selector` (what is selected), `new_object` (clicks, and
`search` in other views), `phrases` (objects by words), `files` (edits on disk, downloads) and `listing` (what the panel shows).
`panel` has the widgets; `object_list`, `gizmo`, `new_object_folder`, `find_folder` and `files_folder` own theirs, `actions` runs what they do, one
thing at a time, and `messages` tells people. `client` and `page` are a browser for tests. `websocket` and `nerfstudio` mend faults of viser
and of nerfstudio's viewer while they run.

May not be touched here: parameters, optimizers, the training. All that is read from the model is read while the training waits.
"""
