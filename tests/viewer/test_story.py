"""The whole story in a real browser, against a real ns-viewer."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.trainer import GradisegTrainer

from .browser import Browser, browser_or_skip
from .story import tell_story


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_pick_isolate_tint_scale_undo_export(trainer: GradisegTrainer, tmp_path: Path) -> None:
    browser_or_skip()
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("ns-viewer")), "--load-config", str(trainer.base_dir / "config.yml"),
        "--viewer.websocket-port", str(port),
    ]  # fmt: skip
    log = tmp_path / "log.txt"
    environment = {**os.environ, "GOMP_SPINCOUNT": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        end = time.monotonic() + 240
        while "Caching" not in log.read_text() or socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        assert socket.socket().connect_ex(("127.0.0.2", port)) != 0, (
            "it listens to this machine's own address only"
        )
        with Browser(f"http://127.0.0.1:{port}", size=(1400, 1000)) as browser:
            browser.wait(
                lambda: any("red ball" in text for text in browser.texts()), what="the list of objects"
            )
            browser.wait(
                lambda: any(re.fullmatch(r"Resolution: [1-9]\d+x\d+px", text) for text in browser.texts()),
                what="a picture",
            )
            points = [(x, y) for y in (0.5, 0.6, 0.4, 0.7, 0.3) for x in (0.5, 0.4, 0.6, 0.3, 0.7)]
            name, folder = tell_story(
                browser,
                points,
                lambda word: browser.screenshot(tmp_path / f"{word}.png"),
                tmp_path / "out",
                0.2,
            )
            assert not browser.errors
        assert name in ("red ball", "blue ball")
        ply = next(folder.rglob("*.ply"))
        splat, table = read_ply(ply), read_objects(ply)
        assert table is not None and table.names == (name,)
        assert set(splat.labels.tolist()) == set(table.ids)
        assert "Traceback" not in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
