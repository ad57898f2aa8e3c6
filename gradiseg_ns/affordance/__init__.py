"""What the parts of a scene are good for, taken over from a few painted photos (arXiv 2409.11681).

In: photos with painted regions (`exemplars`), a vision transformer (`tokens`), posed photos and a splat. Out: a class for every
Gaussian, a map of classes for every photo, and pictures of both (`transfer`). Nothing is trained::

    from gradiseg_ns.affordance.exemplars import read_exemplars
    from gradiseg_ns.affordance.tokens import TokenModel
    from gradiseg_ns.affordance.transfer import transfer

    exemplars, classes = read_exemplars(folder)
    model = TokenModel.load("facebook/dinov2-small")
    result = transfer(views, splat.gaussians(), exemplars, model, classes)
    result.classes  # a class for every Gaussian

May not be touched here: files of the scene, and the network of the machine, which only `tokens.find_model` reaches for. This page
imports nothing: `gradiseg --help` reads the defaults from it.
"""

AFFORDANCES: tuple[str, ...] = (
    "background",
    "grasp",
    "cut",
    "scoop",
    "contain",
    "pound",
    "support",
    "wrap-grasp",
)
"""The paper's classes, by id."""
MAX_CLASSES = 256
"""Most classes. A map with more ids is a map of objects."""
DEFAULT_MODEL = "facebook/dinov2-small"
DEFAULT_K = 1
"""Exemplar tokens that vote for the class of a patch. The paper asks 5; through 3-D, 1 was better with learnt and with hand-made
tokens (docs/affordance.md)."""
DEFAULT_RESOLUTION = 518
"""Longer side of the picture that a model sees, in pixels: DINOv2 was trained on pictures of this size."""
