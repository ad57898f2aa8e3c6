"""Faults of viser and of the websocket below it, each alone; `test_faults` meets them on a real server."""

from __future__ import annotations

import asyncio
import http
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gradiseg_ns.viewer.websocket import (
    guard_requests,
    index_icons,
    known_host,
    one_drain_at_a_time,
    refusal,
    release_locks,
)


def test_drains_are_taken_in_turn() -> None:
    class Protocol:
        waiting = 0
        drained = 0

        async def drain(self) -> None:
            assert self.waiting == 0, "two senders wait for one drain"
            self.waiting += 1
            await asyncio.sleep(0.01)
            self.waiting -= 1
            self.drained += 1

    async def send_from_two_tasks() -> int:
        connection = Protocol()
        await asyncio.gather(*(connection.drain() for _ in range(5)))
        return connection.drained

    one_drain_at_a_time(Protocol)
    once = Protocol.drain
    one_drain_at_a_time(Protocol)
    assert Protocol.drain is once
    assert asyncio.run(send_from_two_tasks()) == 5


def test_the_archive_of_icons_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from viser import Icon, _gui_api, _icons

    index_icons()
    with tarfile.open(_icons.ICONS_DIR / "tabler-icons.tar") as archive:
        for icon in (Icon.EYE, Icon.EYE_OFF):
            file = archive.extractfile(f"{icon}.svg")
            assert file is not None and _gui_api.svg_from_icon(icon) == file.read().decode()
    monkeypatch.setattr(tarfile, "open", None)
    assert _icons.svg_from_icon(Icon.TRASH).startswith("<svg"), "another icon, from its place"
    once = _icons.svg_from_icon
    index_icons()
    assert _icons.svg_from_icon is once


def test_the_legacy_protocol_is_mended() -> None:
    from websockets.legacy.protocol import WebSocketCommonProtocol

    one_drain_at_a_time()
    assert WebSocketCommonProtocol.drain._in_turn  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/a/../../b", "/%2e%2e/%2e%2e/etc/passwd", "/..\\..\\x", "/a/.."]
)
def test_paths_never_leave_the_viewers_files(path: str) -> None:
    assert refusal(path, {"Host": "127.0.0.1:7007"})
    assert refusal("/assets/index..js", {"Host": "127.0.0.1:7007"}) is None


def test_only_the_viewers_own_page_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("/", {"Host": "localhost:7007", "Origin": "http://localhost:7007"}) is None
    assert refusal("/", {"Host": "192.168.1.5:7007", "Origin": "http://192.168.1.5:7007"}) is None
    assert refusal("/", {"Host": "[::1]:7007"}) is None, "no browser: no origin"
    assert refusal("/", {"Host": "localhost:7007", "Origin": "https://evil.example"})
    assert refusal("/", {"Host": "localhost:7007", "Origin": "http://localhost:8000"}), (
        "another port is another page"
    )
    assert refusal("/", {"Host": "localhost:7007", "Origin": "null"})
    # a name that somebody else has point to this machine: its page and its origin agree
    rebound = {"Host": "evil.example:7007", "Origin": "http://evil.example:7007"}
    assert "GRADISEG_VIEWER_HOSTS=evil.example" in str(refusal("/", rebound))
    monkeypatch.setenv("GRADISEG_VIEWER_HOSTS", "box.lan, evil.example")
    assert refusal("/", rebound) is None and known_host("BOX.lan:7007")
    assert known_host("abc.share.viser.studio") and not known_host("share.viser.studio.evil.example")


def test_requests_are_guarded_once() -> None:
    class Protocol:
        async def process_request(self, path: str, request_headers: dict[str, str]) -> None:
            return None

    guard_requests(Protocol)
    once = Protocol.process_request
    guard_requests(Protocol)
    assert Protocol.process_request is once
    status, _, body = asyncio.run(Protocol().process_request("/../x", {"Host": "localhost"}))  # type: ignore[misc]
    assert status == http.HTTPStatus.FORBIDDEN and b"own files" in body
    assert asyncio.run(Protocol().process_request("/", {"Host": "localhost"})) is None


class Sent:
    """viser's handler of messages, with a list in place of a connection."""

    def __new__(cls) -> Any:
        from viser.infra._infra import WebsockMessageHandler

        release_locks()

        class Handler(WebsockMessageHandler):
            def unsafe_send_message(self, message: Any) -> None:
                if message == "broken":
                    raise RuntimeError("broken on purpose")
                sent.append(message)

        sent: list[Any] = []
        handler = Handler(ThreadPoolExecutor(2))
        handler.sent = sent  # type: ignore[attr-defined]
        return handler


def test_a_lock_is_given_back_after_an_error() -> None:
    handler = Sent()
    once = type(handler).__mro__[1].atomic
    release_locks()
    assert type(handler).__mro__[1].atomic is once
    with pytest.raises(KeyError), handler.atomic(), handler.atomic():
        raise KeyError
    assert not handler._atomic_lock.locked() and handler._locked_thread_id == -1
    with pytest.raises(RuntimeError, match="on purpose"):
        handler.queue_message("broken")
    handler.queue_message("one")
    assert handler.sent == ["one"]


def test_what_is_sent_together_waits_for_the_end_of_it() -> None:
    handler = Sent()
    with handler.atomic():
        with handler.atomic():
            handler.queue_message("one")
        handler.queue_message("two")
        time.sleep(0.05)
        assert handler.sent == [], "the inner one does not end it"
    handler._thread_executor.shutdown(wait=True)
    assert handler.sent == ["one", "two"]
