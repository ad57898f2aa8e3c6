"""Faults of viser 0.2 and of the websocket below it, mended where the panel meets them (`mend_viser`).

viser serves any file of the machine to who asks for a path with `..`, and lets pages of other origins drive the viewer: `guard_requests`.

viser sends to each browser from two tasks: what goes to all, and what goes to this one. While a browser is slow to read, as with a download of some
megabytes, both wait for the same connection to drain, which the legacy protocol of the package websockets asserts never to happen: the
connection is closed, and the page starts anew: `one_drain_at_a_time`.

viser keeps a lock for ever when something goes wrong under it, as it does when a browser leaves while its camera moves. Nothing is sent
to anybody any more, and the process cannot end: `release_locks`.

viser forgets to say goodbye to a browser that sends what is no message, and greets one whose first message comes to its turn after it
has left: `end_connections` and `see_off`.

viser sets any property of a widget that a browser names, and any choice of a list: `guard_inputs`.

viser goes through an archive of 4,000 icons for each button that has one, which are some seconds for a viewer: `index_icons`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import ipaddress
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit


def mend_viser() -> None:
    """Mend all faults that this file tells of, in every server of this process. Done once, however often it is called."""
    one_drain_at_a_time()
    guard_requests()
    release_locks()
    end_connections()
    guard_inputs()
    index_icons()


def index_icons() -> None:
    """Look once where each icon lies in viser's archive. Done once, however often it is called."""
    from viser import _gui_api, _gui_handles, _icons

    original: Any = _icons.svg_from_icon
    if hasattr(original, "cache_info"):
        return

    @functools.cache
    def places() -> dict[str, tuple[int, int]]:
        with tarfile.open(_icons.ICONS_DIR / "tabler-icons.tar", "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive}

    @functools.cache
    def svg_from_icon(icon_name: Any) -> str:
        try:
            start, size = places()[f"{icon_name}.svg"]
            with (_icons.ICONS_DIR / "tabler-icons.tar").open("rb") as archive:
                archive.seek(start)
                return archive.read(size).decode()
        except (AttributeError, OSError, KeyError, tarfile.TarError):  # another viser keeps them elsewhere
            return original(icon_name)

    for module in (_gui_api, _gui_handles, _icons):
        module.svg_from_icon = svg_from_icon  # type: ignore[attr-defined]


def one_drain_at_a_time(protocol: Any = None) -> None:
    """Make senders of one connection wait for each other. Done once, however often it is called.

    Args:
        protocol: the class with the coroutine `drain`. Default: websockets' legacy one.
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
        protocol: the class with the coroutine `process_request`. Default: websockets' legacy server's.
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


def release_locks(handler: Any = None) -> None:
    """Give the lock of a connection back whatever happens under it. Done once, however often it is called.

    Args:
        handler: the class with the methods `atomic` and `queue_message`. Default: viser's `WebsockMessageHandler`.
    """
    if handler is None:
        try:
            from viser.infra._infra import WebsockMessageHandler as handler
        except ImportError:
            return
    original = handler.__dict__.get("atomic")
    if original is None or getattr(original, "_released", False):
        return

    @contextlib.contextmanager
    def atomic(self: Any) -> Iterator[None]:
        thread = threading.get_ident()
        if thread == self._locked_thread_id:
            yield
            return
        with self._atomic_lock:
            self._locked_thread_id = thread
            try:
                yield
            finally:
                self._locked_thread_id = -1

    def queue_message(self: Any, message: Any) -> None:
        if self._record_handle is not None:
            self._record_handle._insert_message(message)
        if self._atomic_lock.acquire(blocking=False):
            try:
                self.unsafe_send_message(message)
            finally:
                self._atomic_lock.release()
            return
        self._queued_messages.put(message)

        def later() -> None:
            with self._atomic_lock:
                self.unsafe_send_message(self._queued_messages.get())

        self._thread_executor.submit(later)

    atomic._released = True  # type: ignore[attr-defined]
    handler.atomic, handler.queue_message = atomic, queue_message


_NO_MESSAGE = 1003
"""Code with which a connection is closed that brings what is no message of the viewer."""


def end_connections(infra: Any = None) -> None:
    """Make every connection end as one that the browser has closed, and drop what a browser that left had still sent. Done once,
    however often it is called.

    Args:
        infra: the module with viser's connections. Default: `viser.infra._infra`.
    """
    if infra is None:
        try:
            from viser.infra import _infra as infra
        except ImportError:
            return
    if getattr(infra, "_gradiseg_mended", False):
        return
    infra._gradiseg_mended = True
    from websockets.exceptions import ConnectionClosed, ConnectionClosedError

    def closing(task: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(task)
        async def run(websocket: Any, *rest: Any) -> None:
            try:
                await task(websocket, *rest)
            except ConnectionClosed:
                raise
            except Exception as error:  # viser says goodbye after a closed connection alone
                await websocket.close(_NO_MESSAGE)
                raise ConnectionClosedError(None, None) from error

        return run

    infra._message_consumer = closing(infra._message_consumer)
    infra._message_producer = closing(infra._message_producer)
    handler = infra.WebsockMessageHandler
    handle = handler._handle_incoming_message

    def handle_incoming(self: Any, client_id: int, message: Any) -> None:
        if _has_left(self, client_id):
            return
        try:
            handle(self, client_id, message)
        except Exception:
            if not _has_left(self, client_id):
                raise

    handler._handle_incoming_message = handle_incoming


def _has_left(handler: Any, client_id: int) -> bool:
    """Whether the browser is gone whose message a connection, or the server of all, handles."""
    own = getattr(handler, "_state", None)
    if own is None:
        own = getattr(handler, "_client_state_from_id", {}).get(client_id)
    return own is None or own.message_buffer.done


def see_off(server: Any) -> None:
    """Say goodbye to browsers that a server greets when they have left already.

    A browser counts as there when its first camera is handled, which a thread of a pool does some time after it came.

    Args:
        server: a `viser.ViserServer`, not yet in use.
    """
    from viser._messages import ViewerCameraMessage

    connections = server._websock_server

    def greet(connection: Any) -> None:
        def after(client_id: int, message: Any) -> None:
            if _has_left(connection, client_id):
                for goodbye in connections._client_disconnect_cb:
                    goodbye(connection)

        connection.register_handler(ViewerCameraMessage, after)  # after viser's own, which greets

    connections.on_client_connect(greet)
    # Each browser leaves a task that waits for the next flush of what is sent to all.
    connections.on_client_disconnect(lambda _: connections.flush())


def guard_inputs(gui: Any = None) -> None:
    """Take from a browser the value of a widget alone, and of a list only what it offers. Done once, however often it is called.

    Args:
        gui: the class with the method `_handle_gui_updates`. Default: viser's `GuiApi`.
    """
    if gui is None:
        try:
            from viser._gui_api import GuiApi as gui
        except ImportError:
            return
    original = gui.__dict__.get("_handle_gui_updates")
    if original is None or getattr(original, "_guarded", False):
        return

    def handle(self: Any, client_id: int, message: Any) -> None:
        widget = self._gui_input_handle_from_id.get(message.id)
        options = getattr(widget, "_impl_options", None)
        if set(message.updates) != {"value"} or (
            options is not None and message.updates["value"] not in options
        ):
            return
        original(self, client_id, message)

    handle._guarded = True  # type: ignore[attr-defined]
    gui._handle_gui_updates = handle
