"""JSON of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is none, it is not UTF-8, or lists in lists go deeper than Python follows.
    """
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("lists or objects lie in each other too deeply") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; a byte order mark does no harm.

    Raises:
        OSError: it cannot be read.
        ValueError: as :func:`parse_json`.
    """
    return parse_json(path.read_bytes())
