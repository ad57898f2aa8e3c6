"""Objects as a person sees them: ids, names, colours.

In: object ids as they stand in the id maps. Out: tables and colours that are the same in every view, run and
machine.

May not be touched here: the Gaussians and the files of the scene. What a person changes about objects
(hidden, renamed, recoloured) is kept beside the scene, never written into it.
"""
