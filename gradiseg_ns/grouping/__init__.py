"""GradiSeg's ideas (arXiv 2412.00392) as functions over tensors, without nerfstudio.

In: per-Gaussian identity encodings [N, 16], rendered identity maps, id maps, gradients.
Out: losses, neighbours, and a gsplat strategy that splits Gaussians where identities conflict.
Not here: rendering (``gradiseg_ns.rendering``) and anything that knows a config file or a dataset.
"""
