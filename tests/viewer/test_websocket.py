"""Senders of one connection do not wait for its drain at the same time."""

from __future__ import annotations

import asyncio

from gradiseg_ns.viewer.websocket import one_drain_at_a_time


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


def test_the_legacy_protocol_is_mended() -> None:
    from websockets.legacy.protocol import WebSocketCommonProtocol

    one_drain_at_a_time()
    assert WebSocketCommonProtocol.drain._in_turn  # type: ignore[attr-defined]
