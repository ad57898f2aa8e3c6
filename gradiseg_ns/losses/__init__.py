"""Losses over whole images, fused for the CPU: structural similarity and the identities' cross-entropy.

In: rendered maps (in the graph) and what they should show. Out: a scalar with torch's value and torch's
gradients. On a CPU in float32 one pass computes the value and the gradient together; anything else (CUDA,
float64, tiny images) goes to pytorch_msssim and torch, so callers need not ask where they run.

Not here: weights of losses, schedules, sampling of pixels (`..model` and `..grouping` have them). numba is
imported at the first use, by the private modules with the kernels, which know nothing of torch.
"""
