"""What the commands tell a person: names of files and objects as they are, whatever stands in them."""

from __future__ import annotations


def say(message: str) -> None:
    """Print a sentence: brackets are no markup, and a path is not broken over lines."""
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(message, markup=False, soft_wrap=True)
