"""Faults of the websocket below viser 0.2, mended where the panel meets them.

viser serves any file of the machine to who asks for a path with `..`, and lets pages of other origins drive the viewer: `guard_requests`.

viser sends to each browser from two tasks: what goes to all, and what goes to this one. While a browser is slow to read, as with a download of some
megabytes, both wait for the same connection to drain, which the legacy protocol of the package websockets asserts never to happen: the
connection is closed, and the page starts anew.
"""

from __future__ import annotations

import asyncio
import http
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit


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


HOSTS_VARIABLE = "GRADISEG_VIEWER_HOSTS"
"""Environment variable: names, with commas between them, by which a browser may call this machine beside those of `known_host`."""
_SHARED = ".share.viser.studio"  # viser's own tunnels


def known_host(host: str) -> bool:
    """Whether a browser may call this machine so: an address in numbers, its own name, or one that the user allows.

    Any other name may belong to somebody who has it point here, so that a page of theirs drives the viewer.

    Args:
        host: of a header, with or without a port.
    """
    name = urlsplit(f"//{host}").hostname or ""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        pass
    own = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    allowed = {part.strip().lower() for part in os.environ.get(HOSTS_VARIABLE, "").split(",") if part.strip()}
    return name in own | allowed or name.endswith(_SHARED)


def refusal(path: str, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered; None if it is.

    Args:
        path: as it was sent.
        headers: Host, and the Origin that a browser names for the page that asks.
    """
    if ".." in unquote(path).replace("\\", "/").split("/"):
        return "A path never leaves the viewer's own files."
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if host and not known_host(host):
        return f"The viewer is called {host}, which is not this machine's name. {HOSTS_VARIABLE}={host.split(':')[0]} allows it."
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"A page of {origin} asks for {host}: only the viewer's own page may."
    return None


def guard_requests(protocol: Any = None) -> None:
    """Answer nobody for whom there is a `refusal`: 403. Done once, however often it is called.

    Args:
        protocol: the class with the coroutine `process_request`; websockets' legacy server's unless given.
    """
    if protocol is None:
        try:
            from websockets.legacy.server import WebSocketServerProtocol as protocol
        except ImportError:
            return
    original = protocol.__dict__.get("process_request")
    if original is None or getattr(original, "_guarded", False):
        return

    async def process_request(self: Any, path: str, request_headers: Any) -> Any:
        reason = refusal(path, request_headers)
        if reason is not None:
            return http.HTTPStatus.FORBIDDEN, {"Content-Type": "text/plain; charset=utf-8"}, reason.encode()
        return await original(self, path, request_headers)

    process_request._guarded = True  # type: ignore[attr-defined]
    protocol.process_request = process_request
