"""What the panel tells people: messages in their browsers, and faults of the program on the terminal."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.terminal import say

FAULT = "An error in GradiSeg"


class Messages:
    """Messages to the browsers of a viser server."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def tell(self, client: Any, body: str, title: str = "GradiSeg", color: Any = None) -> None:
        """A message in one browser, or in all if there is none."""
        clients = [client] if client is not None else list(self._server.get_clients().values())
        for each in clients:
            with contextlib.suppress(Exception):  # it may be gone
                each.add_notification(title, body[:500], auto_close=6000, color=color)

    def complain(self, error: Exception, client: Any) -> None:
        """Say in a browser what went wrong. What the user cannot mend is a fault of the program: its traceback goes to the terminal."""
        if isinstance(error, GradisegError):
            self.tell(client, str(error), "Not done", "red")
            return
        text = f"{type(error).__name__}: {error}"
        self.tell(client, f"{text[:300]}. This is a fault of the program; see the terminal.", FAULT, "red")
        print_fault(error)


def print_fault(error: Exception) -> None:
    """An exception with its traceback, on the terminal."""
    say("".join(traceback.format_exception(error)), title="GradiSeg's panel:", style="bold red")
