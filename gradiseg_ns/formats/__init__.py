"""Splats as files: read whatever a person has, write what other programs read.

In: a path, or a `Splat` with names and colours of its objects. Out: a `Splat`, or files that are whole or not there. A file is recognised by
its content (`foreign` says what else it may be and what to do then). May not: run anything that is in a file, or know a model or a run.
"""
