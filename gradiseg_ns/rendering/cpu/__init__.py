"""The CPU kernels: numba, sixteen pixels (or Gaussians) to an LLVM vector.

In: contiguous float32 numpy arrays that the caller owns. Out: the same, filled. Every kernel is a *range kernel*: it is
told which share of the work is its own, releases the GIL and writes only to its own rows, so that `threads.parallel` may
run any number of them at once and the result does not depend on how many there are.

Order of a frame: `projection` -> `binning` -> `blending` (forward, backward, transpose); `harmonics` stands beside them.
Nothing here knows torch or autograd (`..cpu_backend` does), and nothing here may be imported before a CPU tensor is
rendered: importing numba costs half a second.
"""
