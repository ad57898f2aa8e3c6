"""The stages of `gradiseg new`: photos, poses, masks, train, overview. A file for each that does something of its own.

In: the flags and what `new.json` says is there (`state`). Out: files below the output, each with the stage that wrote it in
`new.json`. `work` goes through the stages; `job` is what a stage is and what all of them know. May not: know a stage that comes later,
or write anything outside of the output.
"""
