"""What pyproject.toml's extras install: for the sentence that asks for it.

The packages are named, never this project with an extra: it is installed from a checkout, and on PyPI its name may be a stranger's.
"""

from __future__ import annotations

from typing import Literal

Extra = Literal["masks", "compressed", "poses"]

PACKAGES: dict[Extra, str] = {
    "masks": "transformers>=4.45",
    "compressed": "gsply[spz]>=0.4.6,<0.5",
    "poses": "pycolmap>=4.0,<5",
}
"""Requirements by extra, as in pyproject.toml (a test compares them)."""


def install_command(extra: Extra) -> str:
    """The command that installs what an extra needs."""
    return f"pip install '{PACKAGES[extra]}'"
