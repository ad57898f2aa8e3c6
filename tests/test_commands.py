"""nerfstudio's own commands on a CPU, offline, as a user types them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .scenes import write_scene

pytestmark = pytest.mark.slow

STEPS = 120
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200", "GOMP_SPINCOUNT": "0"}


def run(*arguments: str | Path, ok: bool = True) -> str:
    """Run a nerfstudio script of this environment; returns what it printed."""
    script, *rest = map(str, arguments)
    done = subprocess.run(
        [sys.executable, "-m", f"nerfstudio.scripts.{script}", *rest],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert (done.returncode == 0) is ok, printed[-4000:]
    return printed


def train(scene: Path, output: Path, *options: str, ok: bool = True) -> str:
    return run(
        "train", "gradiseg-lite", "--data", scene, "--output-dir", output, "--timestamp", "run",
        "--max-num-iterations", str(STEPS), "--machine.device-type", "cpu", "--vis", "tensorboard", *options, ok=ok,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "balls", views=20, distortion=0.02)


@pytest.fixture(scope="module")
def config(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out")
    printed = train(scene, output)
    assert "Schedule" in printed and f"{STEPS} steps" in printed
    path = output / "balls" / "gradiseg-lite" / "run" / "config.yml"
    assert path.exists()
    assert list(path.parent.glob("events.out.tfevents*")), "tensorboard wrote nothing"
    return path


def test_eval_writes_valid_json_and_a_table(config: Path, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    output = tmp_path / "metrics.json"
    run(
        "eval", "--load-config", config, "--output-path", output, "--render-output-path", tmp_path / "renders"
    )
    results = json.loads(output.read_text(), parse_constant=refuse)["results"]
    assert {"psnr", "ssim", "fps", "gaussian_count", "miou", "mbiou", "mbiou_fine", "extracted_biou"} <= set(
        results
    )
    assert 0 <= results["miou"] <= 100 and 0 <= results["extracted_biou"] <= 100
    table = (tmp_path / "metrics_objects.csv").read_text()
    assert "blue ball" in table
    assert list((tmp_path / "renders").glob("*segmentation*.png"))


def test_render_dataset(config: Path, tmp_path: Path) -> None:
    run(
        "render", "dataset", "--load-config", config, "--output-path", tmp_path,
        "--rendered-output-names", "rgb", "segmentation", "identity", "boundary",
    )  # fmt: skip
    images = sorted(tmp_path.rglob("*.jpg"))
    names = ("boundary", "identity", "rgb", "segmentation")
    assert [path.parent.name for path in images] == [name for name in names for _ in range(2)]
    assert all(np.asarray(Image.open(path)).std() > 1 for path in images)


def test_render_interpolate(config: Path, tmp_path: Path) -> None:
    import shutil

    if shutil.which("ffmpeg") is None:
        pytest.skip("ns-render interpolate needs ffmpeg")
    run(
        "render", "interpolate", "--load-config", config, "--output-path", tmp_path / "frames",
        "--rendered-output-names", "segmentation", "--output-format", "images", "--interpolation-steps", "2",
    )  # fmt: skip
    assert len(list((tmp_path / "frames").glob("*.jpg"))) == 2


def test_export_gaussian_splat(config: Path, tmp_path: Path) -> None:
    run("exporter", "gaussian-splat", "--load-config", config, "--output-dir", tmp_path)
    header = (tmp_path / "splat.ply").read_bytes()[:3000].decode("latin1")
    assert "element vertex" in header and "property float f_dc_0" in header


def test_resume_from_the_command_line(config: Path, scene: Path, tmp_path: Path) -> None:
    printed = train(scene, tmp_path, "--load-dir", str(config.parent / "nerfstudio_models"))
    assert f"{2 * STEPS} steps" in printed
    folder = tmp_path / "balls" / "gradiseg-lite" / "run" / "nerfstudio_models"
    assert [path.name for path in folder.iterdir()] == [f"step-{2 * STEPS - 1:09d}.ckpt"]


def hears_ctrl_c() -> None:
    """In a new process: as in a terminal. A test run in the background has SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_saves_and_the_line_goes_on(scene: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nerfstudio.scripts.train", "gradiseg-lite", "--data", str(scene), "--output-dir",
         str(tmp_path), "--timestamp", "first", "--max-num-iterations", "60", "--machine.device-type", "cpu",
         "--vis", "tensorboard", "--steps-per-save", "5"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, text=True, cwd=tmp_path,
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    folder = tmp_path / "balls" / "gradiseg-lite"
    limit = time.monotonic() + 240
    while process.poll() is None and not list(folder.glob("first/nerfstudio_models/*.ckpt")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed[-4000:]
    assert "The training ends after this step" in printed and "Traceback" not in printed
    (saved,) = (folder / "first" / "nerfstudio_models").iterdir()
    done = int(saved.stem.partition("-")[2]) + 1
    assert f"Ended after {done} of 60 steps" in printed
    assert [path.name for path in (folder / "first").glob(".*")] == []
    line = next(line for line in printed.splitlines() if line.startswith("Go on with: "))
    command = shlex.split(line.partition(": ")[2])
    assert command[:2] == ["ns-train", "gradiseg-lite"]
    printed = run("train", *command[1:], "--timestamp", "second")
    assert "60 steps" in printed
    assert [path.name for path in (folder / "second" / "nerfstudio_models").iterdir()] == [
        "step-000000059.ckpt"
    ]


def test_a_second_ctrl_c_ends_at_once(scene: Path, tmp_path: Path) -> None:
    code = (
        "import time, sys; from pathlib import Path; from gradiseg_ns import runs\n"
        f"config = runs.make_config('gradiseg-lite', Path({str(scene)!r}), Path({str(tmp_path)!r}), steps=50, device='cpu')\n"
        "trainer = config.setup(local_rank=0, world_size=1); trainer.setup()\n"
        "trainer.train_iteration = lambda step: (print('in a step', flush=True), time.sleep(120))\n"
        "trainer.train()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, text=True,
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    assert process.stdout is not None
    while "in a step" not in (line := process.stdout.readline()):
        assert line, process.wait()
    process.send_signal(signal.SIGINT)
    while "Once more: at once" not in (line := process.stdout.readline()):
        assert line, process.wait()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT  # a shell says 130
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_the_viewer_serves_its_page(config: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "nerfstudio.scripts.viewer.run_viewer", "--load-config", str(config),
         "--viewer.websocket-port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, text=True,
    )  # fmt: skip
    try:
        for _ in range(240):
            time.sleep(0.5)
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as page:
                    assert b"<html" in page.read().lower()
                    break
            except OSError:
                continue
        else:
            pytest.fail("the viewer did not answer within two minutes")
    finally:
        process.terminate()
        process.wait(30)


def test_missing_masks_stop_a_training_with_one_clear_line(scene: Path, tmp_path: Path) -> None:
    printed = train(scene, tmp_path, "--pipeline.datamanager.masks-dir", "nowhere", ok=False)
    assert "nowhere" in printed and "masks-dir" in printed
    assert "IdMapError: " in printed and "Traceback" not in printed
