"""One tiny scene for all tests of the room: making it takes seconds."""

from __future__ import annotations

import pytest

from .tiny import Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("segment"))
