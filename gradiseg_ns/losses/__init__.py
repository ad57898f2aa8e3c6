"""Losses over whole images, fused for the CPU: structural similarity and the identities' cross-entropy.

In: rendered maps (in the graph) and their targets. Out: a scalar with torch's value and torch's gradients. On a CPU in
float32 one pass computes the value and the gradient together. pytorch_msssim and torch compute all other cases (CUDA, float64,
tiny images), so callers need not ask where they run.

Not here: weights of losses, schedules, sampling of pixels (`..model` and `..grouping` have them). The private modules with
the kernels use the vectors and the thread pool of `..rendering.cpu`. They import numba at the first use and do not use torch.
"""
