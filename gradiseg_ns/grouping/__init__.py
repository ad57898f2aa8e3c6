"""GradiSeg's ideas (arXiv 2412.00392) as functions over tensors, without nerfstudio.

In: per-Gaussian identity encodings [N, 16], rendered identity maps, id maps, gradients.
Out: losses, neighbours, and a gsplat strategy that splits Gaussians where identities conflict.
`schedule` turns fractions of a run into step numbers. `search` finds nearest points.
Not here: models, datasets, and the kernels of ``gradiseg_ns.rendering``, which `probe` calls.
"""
