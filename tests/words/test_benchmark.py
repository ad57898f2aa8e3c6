"""benchmarks/words.py: what it counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gradiseg_ns.words import Looks
from gradiseg_ns.words.naming import Guess

from ..benchmark import load_benchmark
from .models import Colours

benchmark = load_benchmark("words")


def test_places_and_rates() -> None:
    looks = Looks(whole={1: True, 2: True})
    looks.features = {
        1: F.normalize(torch.tensor([[1.0, 0.0, 0.05]]), dim=1), 2: F.normalize(torch.tensor([[0.0, 1.0, 0.05]]), dim=1),
    }  # fmt: skip
    assert benchmark.place(Colours(), looks, 1, "red cup") == 1
    assert benchmark.place(Colours(), looks, 1, "blue cup") == 2
    assert benchmark.rates([1, 2, 3, 4]) == {"top-1": 0.25, "top-3": 0.75}
    assert benchmark.rates([]) == {"top-1": 0.0, "top-3": 0.0}


def test_right_wrong_and_left() -> None:
    vocabulary = [("banana",), ("mug", "coffee cup"), ("plate",)]

    def verdict(found: str, name: str, probability: float = 0.9) -> str:
        return benchmark.verdict(Guess(found, probability, "x", 0.1, 5), name, vocabulary, 0.5)

    assert verdict("banana", "Plastic Banana") == "right"
    assert verdict("mug", "blue coffee cup") == "right", "another word for it"
    assert verdict("mug", "cup") == "right"
    assert verdict("plate", "mug") == "wrong"
    assert verdict("banana", "banana", 0.4) == "left" == verdict("object", "object of art")
