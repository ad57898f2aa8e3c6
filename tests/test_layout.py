"""The house: imports go one way, the page says so truly, and saved runs name what they always named."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter

import pytest
import yaml

from gradiseg_ns import config as register

from .benchmark import load_benchmark

layout = load_benchmark("layout", "scripts")

PINNED = {
    "boundary.phase.BoundaryConfig", "boundary.refinement.RefinerWeights", "data.datamanager.GradisegDataManager",
    "data.datamanager.GradisegDataManagerConfig", "grouping.schedule.ScheduleConfig", "model.GradisegModel",
    "model.GradisegModelConfig", "pipeline.GradisegPipeline", "pipeline.GradisegPipelineConfig",
    "trainer.FloatExponentialDecayConfig", "trainer.FloatExponentialDecayScheduler", "trainer.FusedAdamConfig",
    "trainer.GradisegTrainer", "trainer.GradisegTrainerConfig",
}  # fmt: skip
"""What a run's config.yml names. A class that moves makes every old run unreadable."""


def test_every_file_has_a_room() -> None:
    found = {layout.room(name) for name in layout.modules()} - {"gradiseg_ns"}
    assert found == set(layout.ROOMS)


def test_imports_go_one_way() -> None:
    place = {name: index for index, name in enumerate(layout.ROOMS)}
    upwards = {
        f"{one} -> {other}": who for (one, other), who in layout.arrows().items() if place[other] > place[one]
    }
    assert not upwards


def test_the_page_has_the_table_as_it_is() -> None:
    text = layout.PAGE.read_text("utf8")
    assert layout.page(text) == text, "python scripts/layout.py --write"


@pytest.mark.parametrize("method", ["gradiseg", "gradiseg_lite"])
def test_a_saved_run_names_only_what_it_names_today(method: str) -> None:
    text = yaml.dump(getattr(register, method).config)
    assert set(re.findall(r"!!python/[a-z/]+:gradiseg_ns\.([\w.]+)", text)) == PINNED


def test_no_file_imports_itself_through_others() -> None:
    """Also within a room, inside functions and for annotations alone. A room's `__init__`, which gathers names, is left out."""
    known = {name: path for name, path in layout.modules().items() if path.name != "__init__.py"}
    graph = {
        name: {
            other
            for other in layout.imports(name, path, known, annotations=True)
            if other in known and other != name
        }
        for name, path in known.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # a CycleError names the circle
