"""Masks onto Gaussians, without training (Gradient-driven 3-D segmentation, arXiv 2409.11681).

In: the geometry of a splat, cameras, and id maps or feature maps of their views. Out: votes, how much of every object each
Gaussian carries (`accumulate`), and what follows from them: labels (`labels`), ids that agree between views
(`association`), a smaller splat (`pruning`), affordances (`affordance`), identity encodings to start from (`identities`).

May not be touched here: models, optimizers, files. Everything is a function of tensors that `rendering.backproject` made.
"""
