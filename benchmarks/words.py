"""Objects by words: how often an object's own name finds it, and how often a name of the vocabulary is right, wrong, or left out.

    python benchmarks/words.py --run RUN --ignore-ids 0
    python benchmarks/words.py --run RUN --ignore-ids 0 --photos
    python benchmarks/words.py --run RUN --ignore-ids 0 --model google/siglip-base-patch16-224

Names are those of the data folder's object_names.json, and never used to find something: all is by looks. Every object is asked for by its
name; its place among all objects counts. A name that `gradiseg name` would give is right if all its words are in the object's name or the
other way round, or those of another word for the same thing: "banana" for "plastic banana".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from gradiseg_ns.cli.find import MODEL, Looking, open_labelled
from gradiseg_ns.words import Finder, plain
from gradiseg_ns.words.finding import Looks, scores
from gradiseg_ns.words.naming import LEAST, Guess, guesses, read_vocabulary


@dataclass
class WordsBenchmark:
    """Objects by words."""

    run: Path
    """A gradiseg run: its folder or config.yml."""
    names: Path | None = None
    """JSON of names by object id. Default: object_names.json of the run's data."""
    ignore_ids: tuple[int, ...] = ()
    """Objects that are not asked for, such as the floor. They still can be found for another's name."""
    model: str = MODEL
    photos: bool = False
    vocabulary: Path | None = None
    """Default: the one that comes along."""
    least: float = LEAST
    offline: bool = False
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path | None = None
    """Write the figures as JSON."""

    def main(self) -> None:
        looking = Looking(model=self.model, photos=self.photos, device=self.device, offline=self.offline)
        model = looking.load_model()
        run, splat, table = open_labelled(self.run, self.device)
        if run is None and self.names is None:
            raise SystemExit(f"--run {self.run} is no run: name the JSON of the objects' names with --names.")
        data = run.capture(maps=False).data_folder if run is not None else Path()
        truth = names_of(self.names or data / "object_names.json")
        start = perf_counter()
        finder = Finder(model)
        looks = looking.looks(finder, run, splat, table)
        seconds = perf_counter() - start
        asked = {i: name for i, name in truth.items() if i in looks.features and i not in self.ignore_ids}
        vocabulary = read_vocabulary(self.vocabulary)
        places = {i: place(model, looks, i, name) for i, name in asked.items()}
        found = guesses(model, looks, vocabulary, asked)
        verdicts = {i: verdict(found[i], name, vocabulary, self.least) for i, name in asked.items()}
        figures = {
            "model": self.model, "photos": self.photos, "objects": len(asked), "among": len(looks.features), "seconds": seconds,
            "not seen": sorted(set(truth) - set(looks.features) - set(self.ignore_ids)), **rates(places.values()),
            **{key: list(verdicts.values()).count(key) for key in ("right", "wrong", "left")},
        }  # fmt: skip
        self._print(asked, places, found, verdicts)
        Console().print_json(json.dumps(figures))
        if self.output is not None:
            self.output.write_text(json.dumps(figures, indent=2))

    def _print(
        self,
        asked: Mapping[int, str],
        places: Mapping[int, int],
        found: Mapping[int, Guess],
        verdicts: Mapping[int, str],
    ) -> None:
        table = Table(title=f"{self.model}, {'photos' if self.photos else 'renders'}")
        for column in ("id", "its name", "place", "best name", "second", "verdict"):
            table.add_column(column, justify="right" if column in ("id", "place") else "left")
        for i, name in asked.items():
            guess = found[i]
            best = f"{guess.name} {guess.probability:.2f}"
            second = f"{guess.second} {guess.second_probability:.2f}"
            table.add_row(str(i), name, str(places[i]), best, second, verdicts[i])
        Console().print(table)


def names_of(path: Path) -> dict[int, str]:
    """Names by object id."""
    content: Any = json.loads(path.read_text("utf-8"))
    return {int(i): str(name) for i, name in content.items()}


def place(model: Any, looks: Looks, id: int, name: str) -> int:
    """The place, from 1, that an object has among all if its name is asked for."""
    return [found for found, _ in scores(model, name, looks)].index(id) + 1


def rates(places: Collection[int]) -> dict[str, float]:
    """Shares of objects that are first, and among the first three."""
    count = max(len(places), 1)
    return {f"top-{k}": sum(place <= k for place in places) / count for k in (1, 3)}


def verdict(guess: Guess, name: str, vocabulary: Sequence[Sequence[str]], least: float) -> str:
    """Whether a name is right, wrong, or left out because the model is not sure."""
    if not guess.sure(least):
        return "left"
    words = next((own for own in vocabulary if own[0] == guess.name), (guess.name,))
    own = set(plain(name).split())
    return (
        "right"
        if any(set(plain(w).split()) <= own or own <= set(plain(w).split()) for w in words)
        else "wrong"
    )


if __name__ == "__main__":
    tyro.cli(WordsBenchmark).main()
