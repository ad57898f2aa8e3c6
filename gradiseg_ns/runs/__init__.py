"""Runs from Python: training and evaluation without command lines (`training`), runs written without training (`writing`).

In: a method's name, a data folder, options; or Gaussians and identities. Out: a trainer; a folder that ns-viewer, ns-eval and ns-render open.

    from gradiseg_ns.runs import evaluate, make_config, train
"""

from gradiseg_ns.runs.training import NEVER, evaluate, make_config, train

__all__ = ["NEVER", "evaluate", "make_config", "train"]
