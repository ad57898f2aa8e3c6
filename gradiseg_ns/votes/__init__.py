"""Masks onto Gaussians, without training (Gradient-driven 3-D segmentation, arXiv 2409.11681).

In: a splat, cameras, and id maps or feature maps of their views. Out: votes, the weight of every object in each Gaussian
(`accumulate`), and the results that use them: labels (`labels`, and `rendered` for cut-outs), ids that agree between views
(`association`, by `mask_groups`, `seams` and `pieces`), parts of objects (`parts`), a smaller splat (`pruning`), identity encodings to start from (`identities`).

Not here: models, optimizers, files. All functions work on tensors that `rendering.backproject` made.
"""
