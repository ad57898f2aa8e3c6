"""A fault of the websocket below viser 0.2, mended where the panel meets it.

viser sends to each browser from two tasks: what goes to all, and what goes to this one. While a browser is slow to read, as with a download of some
megabytes, both wait for the same connection to drain, which the legacy protocol of the package websockets asserts never to happen: the
connection is closed, and the page starts anew.
"""

from __future__ import annotations

import asyncio
from typing import Any


def one_drain_at_a_time(protocol: Any = None) -> None:
    """Make senders of one connection wait for each other. Done once, however often it is called.

    Args:
        protocol: the class with the coroutine `drain`; websockets' legacy one unless given.
    """
    if protocol is None:
        try:
            from websockets.legacy.protocol import WebSocketCommonProtocol as protocol
        except ImportError:  # a later websockets has no legacy protocol, and its new one not this fault
            return
    original = protocol.__dict__.get("drain")
    if original is None or getattr(original, "_in_turn", False):
        return

    async def drain(self: Any) -> None:
        lock = self.__dict__.setdefault("_gradiseg_drain_lock", asyncio.Lock())
        async with lock:
            await original(self)

    drain._in_turn = True  # type: ignore[attr-defined]
    protocol.drain = drain
