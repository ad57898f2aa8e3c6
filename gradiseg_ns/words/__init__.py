"""Words for objects: which object a phrase means, and what an object is called.

In: what some cameras see, a picture and the object of each of its places (`View`); a model that compares pictures and words
(`masks.likeness`). Out: objects in the order in which they fit a phrase (`Finder`), names of which the model is sure (`naming`). May not:
know where views come from (a run, a PLY, the viewer), select anything, or store names.

    finder = Finder(Likeness.load("openai/clip-vit-base-patch32"))

    def see(camera):                     # called once for each camera; the caller may hold a model meanwhile
        look = model.look(camera, colors=True)
        return View(camera, look.object_ids, look.rgb)

    found = finder.find("red mug", cameras, see, names=names, key=geometry)      # the best first
    chosen = found[0].id if found and found[0].likely else None
"""

from __future__ import annotations

from gradiseg_ns.words.finding import Cancelled, Finder, Found, Looks, PhraseError, WordModel, by_name
from gradiseg_ns.words.scores import plain
from gradiseg_ns.words.views import HEIGHT, LOOKS, View

__all__ = [
    "HEIGHT", "LOOKS", "Cancelled", "Finder", "Found", "Looks", "PhraseError", "View", "WordModel", "by_name", "plain",
]  # fmt: skip
