"""The panel in nerfstudio's viewer: click objects, see them, change them, take them along.

In: a pipeline of gradiseg, and nerfstudio's viewer. Out: edits and a selection (`scene.editing`), files for download.
`session` does what a person can do, without widgets; `panel` has the widgets; `websocket` and `nerfstudio` mend faults of viser and of
nerfstudio's viewer while they run.

May not be touched here: parameters, optimizers, the training. All that is read from the model is read while the training waits.
"""
