#!/usr/bin/env python3
"""Everything about a card, in order of worth, in bounded time: `make gpu-check`.

    python scripts/gpu_check.py [--minutes 8] [--output outputs/gpu-check] [--data SCENE] [--stages versions tests demo ...]

Each stage is a process of its own, and writes its part of the report (report.json, report.md, and a log a stage) before the next
begins: an end in the middle loses nothing. Stages, in order:

- ``versions``: card, driver, versions; one render with its gradients against the CPU's kernels; what the doctor says.
- ``tests``: those marked gpu, the fast ones first.
- ``demo``: `make demo`'s training on the card, ns-eval of its checkpoint on the card and on the CPU: figures equal to 0.01.
- ``steps``: milliseconds and peak memory of a step in each phase against splatfacto, 200,000 and 1,000,000 Gaussians, 1080p, 256 ids.
- ``channels``: groups of features blended in one pass and apart.
- ``verbs``: a click, votes of a view, lifting all objects.
- ``train``: gradiseg's 30,000 steps on --data, as far as time allows.

Without a card it says so and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "demo_scene"
SHARES = {
    "versions": 0.15, "tests": 0.4, "demo": 0.4, "steps": 0.5, "channels": 0.25, "verbs": 0.3, "train": 1.0,
}  # fmt: skip
"""The most of the time that is left that a stage may take."""
SAME = 0.01
SMALL_STEPS = 40
"""Of the trainings of a rehearsal."""


# ------------------------------------------------------------------------------------------------------------- stages
# Each runs in a process of its own: `gpu_check.py --stage NAME`. What it prints as "RESULT {json}" goes into the report.


def result(**values: Any) -> None:
    """Tell the report; later lines add to earlier ones."""
    print("RESULT " + json.dumps(values), flush=True)


def versions(options: argparse.Namespace) -> None:
    import importlib.metadata

    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    card = torch.cuda.get_device_properties(0)
    found = {}
    for name in ("gsplat", "nerfstudio", "viser", "numpy", "tinycudann", "gradiseg-ns"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False
    ).stdout.strip() if _has("nvidia-smi") else "?"  # fmt: skip
    result(
        card=card.name, capability=f"{card.major}.{card.minor}", memory_gib=round(card.total_memory / 2**30, 1),
        driver=driver, torch=torch.__version__, cuda=torch.version.cuda, python=platform.python_version(), **found,
    )  # fmt: skip
    start = time.perf_counter()
    from tests.rendering.scenes import (
        random_camera,
        random_gaussians,
        relative_error,
        run,
        scenes_without_ties,
    )

    seed = scenes_without_ties(1)[0]
    scene = random_gaussians(120, seed), random_camera(seed=seed), [3, 16], [True, 0.3]
    theirs = run(*scene, "gsplat", device="cuda")
    torch.cuda.synchronize()
    result(first_render_s=round(time.perf_counter() - start, 2))
    ours = run(*scene, "cpu")
    errors = {name: relative_error(theirs[name], value) for name, value in ours.items()}
    result(errors={name: float(f"{error:.2e}") for name, error in errors.items()})
    wrong = {name: error for name, error in errors.items() if not error < 1e-3}
    if wrong:
        raise SystemExit(f"these differ from the CPU's kernels: {wrong}")
    code = (
        "import sys; from gradiseg_ns.cli import entrypoint; sys.argv = ['gradiseg', 'doctor']; entrypoint()"
    )
    subprocess.run([sys.executable, "-c", code], check=False)


def tests(options: argparse.Namespace) -> None:
    rooms = [
        "rendering",
        "grouping",
        "losses",
        "boundary",
        "votes",
        "scene",
        "evaluation",
        "data",
        "test_model.py",
        "viewer",
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--durations=5"]
    process = subprocess.Popen(
        [*command, *(str(ROOT / "tests" / room) for room in rooms)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    done = {"passed": 0, "failed": 0, "error": 0}
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        dots = re.fullmatch(r"([.FEsxX]+)\s*(\[ *\d+%\])?\s*", line)
        if dots:  # as it goes, for a run that does not come to its end
            for sign, name in ((".", "passed"), ("F", "failed"), ("E", "error")):
                done[name] += dots[1].count(sign)
            result(**done, finished=False)
        if line.startswith("FAILED"):
            result(**{"first failure": line.strip()})
    result(**done, finished=True)
    if process.wait():
        raise SystemExit("some failed")


def _train_demo(options: argparse.Namespace, steps: int) -> tuple[Any, float]:
    from gradiseg_ns import runs

    config = runs.make_config(
        "gradiseg-lite", options.scene, options.output / "demo", steps=steps, device="cuda",
        options={"pipeline.model.metrics_ignore_ids": (0, 13)},
    )  # fmt: skip
    config.steps_per_save = steps
    return runs.train(config, description="the demo")


def _evaluate(config: Path, output: Path, device: str) -> dict[str, float]:
    """ns-eval in a process of its own."""
    environment = dict(os.environ) if device == "cuda" else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code = "import sys; from nerfstudio.scripts.eval import entrypoint; sys.argv[0] = 'ns-eval'; entrypoint()"
    subprocess.run(
        [sys.executable, "-c", code, "--load-config", str(config), "--output-path", str(output)],
        check=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    return json.loads(output.read_text())["results"]


def demo(options: argparse.Namespace) -> None:
    import torch

    trainer, seconds = _train_demo(options, options.steps)
    peak = torch.cuda.max_memory_allocated() / 2**20
    result(
        steps=options.steps,
        seconds=round(seconds, 1),
        peak_mib=round(peak),
        gaussians=trainer.pipeline.model.num_points,
    )
    config = trainer.base_dir / "config.yml"
    keys = (
        "psnr",
        "ssim",
        "miou",
        "mbiou",
        "mbiou_fine",
        "extracted_biou",
        "psnr_worst",
        "worst_iou",
        "floater_share",
    )
    both = {}
    for device in ("cuda", "cpu"):
        found = _evaluate(config, options.output / f"demo-{device}.json", device)
        both[device] = found
        result(**{f"on {device}": {key: round(found[key], 3) for key in keys if found.get(key) is not None}})
    different = {
        key: [both["cuda"][key], both["cpu"][key]]
        for key in keys
        if both["cuda"].get(key) is not None and abs(both["cuda"][key] - both["cpu"][key]) > SAME
    }
    result(different=different)
    if different:
        raise SystemExit(f"card and CPU differ by more than {SAME}: {different}")


def steps(options: argparse.Namespace) -> None:
    counts, size, classes = (
        ((2_000,), ("96", "64"), "16") if options.small else ((200_000, 1_000_000), ("1920", "1080"), "256")
    )
    for count in counts:
        path = options.output / f"steps-{count}.json"
        command = [
            sys.executable, str(ROOT / "benchmarks" / "training.py"), "--data", str(options.scene), "--device", "cuda",
            "--gaussians", str(count), "--size", *size, "--classes", classes, "--phases", "0.2", "0.45", "0.6", "0.7",
            "--blocks", "1" if options.small else "3", "--iterations", "4" if options.small else "12", "--output", str(path),
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None:
            time.sleep(1)
            _tell_steps(count, path, size)
        _tell_steps(count, path, size)
        if process.returncode:
            raise SystemExit(f"{count} Gaussians: benchmarks/training.py ended with {process.returncode}")


_told: dict[int, int] = {}


def _tell_steps(count: int, path: Path, size: tuple[str, ...]) -> None:
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if len(rows) == _told.get(count, 0):
        return
    _told[count] = len(rows)
    table = [
        {
            "phase": row["phase"],
            **{f"{name}, ms": round(value, 2) for name, value in row["ms"].items()},
            **{f"{name}, MiB": round(value) for name, value in row["memory"].items()},
            "time ratio": round(row["ratio"]["iteration_time"], 3),
            "memory ratio": round(row["ratio"]["peak_memory"], 3),
        }
        for row in rows
    ]
    result(**{f"{count} Gaussians, {'x'.join(size)}": table})


def channels(options: argparse.Namespace) -> None:
    import torch

    from gradiseg_ns import rendering

    generator = torch.Generator().manual_seed(0)
    full = ((200_000, (1280, 720)), (1_000_000, (1920, 1080)))
    for count, (width, height) in ((500, (64, 48)),) if options.small else full:
        box, corner = torch.tensor([4.0, 2.5, 2.0]), torch.tensor([-2.0, -1.25, 2.0])
        size = 0.6 * count ** (-1 / 3)
        gaussians = rendering.Gaussians(
            torch.rand(count, 3, generator=generator) * box + corner,
            torch.randn(count, 4, generator=generator),
            torch.rand(count, 3, generator=generator) * 1.6 * size + 1e-3,
            torch.rand(count, generator=generator),
        )
        gaussians = gaussians.map(lambda t: t.cuda().requires_grad_())
        K = torch.tensor([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
        camera = rendering.Camera(torch.eye(4).cuda(), K.cuda(), width, height)
        rows = []
        for groups, moves in (
            ([3], [1.0]),
            ([3, 16], [1.0, 0.3]),
            ([4, 16], [1.0, 0.3]),
            ([3, 16], [1.0, 0.0]),
        ):
            for way in ("joined", "apart") if len(groups) > 1 and moves[1] else ("joined",):
                os.environ["GRADISEG_CHANNELS"] = way
                milliseconds, peak = _time(gaussians, camera, groups, moves)
                rows.append(
                    {"channels": groups, "moving": moves, "way": way, "ms": milliseconds, "MiB": peak}
                )
        result(**{f"{count} Gaussians, {width}x{height}": rows})


def _time(
    gaussians: Any, camera: Any, groups: list[int], moves: list[float], repeats: int = 10
) -> tuple[float, int]:
    import torch

    from gradiseg_ns import rendering

    def once() -> None:
        projection = rendering.project(gaussians, camera)
        features = [torch.zeros(len(gaussians.means), c, device="cuda", requires_grad=True) for c in groups]
        maps, alpha = rendering.rasterize(projection, features, geometry_grad=moves)
        (torch.stack([m.sum() for m in maps]).sum() + alpha.sum()).backward()

    for _ in range(3):
        once()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(repeats):
        once()
    torch.cuda.synchronize()
    return round((time.perf_counter() - start) / repeats * 1e3, 2), round(
        torch.cuda.max_memory_allocated() / 2**20
    )


def verbs(options: argparse.Namespace) -> None:
    import torch

    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.votes.accumulate import VoteAccumulator

    found = sorted(path.parents[1] / "config.yml" for path in (options.output / "demo").rglob("*.ckpt"))
    if found:
        from nerfstudio.utils.eval_utils import eval_setup

        _, pipeline, _, _ = eval_setup(found[-1], test_mode="val")
    else:
        trainer, _ = _train_demo(options, min(200, options.steps))
        pipeline = trainer.pipeline
    model: Any = pipeline.model
    pipeline.eval()
    cameras = pipeline.datamanager.train_dataset.cameras

    def milliseconds(work: Any, repeats: int) -> float:
        work(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for index in range(repeats):
            work(index)
        torch.cuda.synchronize()
        return round((time.perf_counter() - start) / repeats * 1e3, 2)

    def camera(index: int) -> Any:
        index %= len(cameras)
        return cameras[index : index + 1]

    x, y = float(cameras.width[0]) / 2, float(cameras.height[0]) / 2
    with torch.no_grad():
        rendering = milliseconds(lambda i: model.get_outputs_for_camera(camera(i)), 20)
        result(gaussians=model.num_points, render_ms=rendering)
        result(click_ms=milliseconds(lambda i: model.pick(camera(i), x, y), 20))
        splat = Splat.from_parameters(dict(model.gauss_params.items()), antialiased=False)
        views = [
            (model.rendering_camera(camera(i)), item["class_map"].to(model.device))
            for i, item in enumerate(pipeline.datamanager.cached_train)
        ]
        accumulator = VoteAccumulator(len(splat), len(model.objects.ids), model.device)

        def vote(index: int) -> None:
            view, classes = views[index]
            accumulator.add(splat.project(view), classes)

        def project_and_render(index: int) -> None:
            splat.render(views[index][0])

        lift, render = milliseconds(vote, len(views)), milliseconds(project_and_render, len(views))
        result(votes_of_a_view_ms=lift, render_of_a_view_ms=render, lift_over_render=round(lift / render, 2))


def train(options: argparse.Namespace) -> None:
    import torch

    from gradiseg_ns import runs

    if options.data is None:
        result(skipped="no --data")
        return
    steps = SMALL_STEPS if options.small else None
    config = runs.make_config("gradiseg", options.data, options.output / "train", steps=steps, device="cuda")
    config.steps_per_save = 2000
    start = time.perf_counter()

    def tell(step: int) -> None:
        if step and step % 500 == 0:
            torch.cuda.synchronize()
            result(
                step=step, seconds=round(time.perf_counter() - start), gaussians=trainer.pipeline.model.num_points,
                peak_mib=round(torch.cuda.max_memory_allocated() / 2**20),
            )  # fmt: skip

    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], tell))
    trainer.train()
    found = runs.evaluate(trainer)
    result(**{key: round(value, 3) for key, value in found.items() if isinstance(value, float)})


STAGES = {f.__name__: f for f in (versions, tests, demo, steps, channels, verbs, train)}


# ------------------------------------------------------------------------------------------------------------- the whole


def _has(command: str) -> bool:
    import shutil

    return shutil.which(command) is not None


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "?"


def run_stage(name: str, arguments: list[str], output: Path, limit: float) -> dict[str, Any]:
    """Run a stage in a process group of its own, for so many seconds at most.

    Returns:
        state (ok, failed or out of time), seconds, and what the stage told.
    """
    log = output / f"{name}.log"
    start = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", name, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        try:  # whatever it started goes with it
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    told: dict[str, Any] = {}
    lines = log.read_text(errors="replace").splitlines()
    for line in lines:
        if line.startswith("RESULT "):
            told.update(json.loads(line.removeprefix("RESULT ")))
    state = "ok" if code == 0 else "out of time" if code is None else "failed"
    found = {
        "state": state,
        "seconds": round(time.perf_counter() - start, 1),
        "command": " ".join(command),
        **told,
    }
    if state != "ok":
        found["last lines"] = [line for line in lines if not line.startswith("RESULT ")][-12:]
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = ["# GPU check", "", f"Commit {report['commit']}, {report['started']}: `{report['command']}`", ""]
    for name, stage in report["stages"].items():
        lines += [f"## {name}: {stage['state']}, {stage['seconds']} s", ""]
        for key, value in stage.items():
            if key in ("state", "seconds", "command"):
                continue
            if isinstance(value, list) and value and isinstance(value[0], dict):
                columns = list(value[0])
                lines += [f"{key}:", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
                lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in value]
                lines.append("")
            elif key == "last lines":
                lines += ["```", *value, "```"]
            else:
                lines.append(f"- {key}: {value}")
        lines.append("")
    return "\n".join(lines)


def rehearse(options: argparse.Namespace) -> None:
    """Options of a rehearsal: a scene of 64x48 pixels for all stages, and few steps."""
    options.steps = min(options.steps, SMALL_STEPS)
    if options.scene == DEMO:
        options.scene = options.output / "scene"
        if not options.scene.exists():
            from tests.scenes import write_scene

            write_scene(options.scene, views=12)
    options.data = options.data or options.scene


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="all stages together")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu-check"), help="folder of the report")
    parser.add_argument("--data", type=Path, default=None, help="a scene for the stage `train`")
    parser.add_argument("--scene", type=Path, default=DEMO, help="the scene of `demo`, `steps` and `verbs`")
    parser.add_argument("--steps", type=int, default=1200, help="of the demo's training")
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, 40 steps, a scene that is made for it: a rehearsal, whose figures say nothing",
    )
    parser.add_argument("--stages", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--stage", choices=list(STAGES), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.data = options.data.resolve() if options.data else None
    options.output.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    if options.small:
        rehearse(options)
    if options.stage:
        STAGES[options.stage](options)
        return 0
    start = time.perf_counter()
    report: dict[str, Any] = {
        "commit": _commit(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "command": " ".join(sys.argv), "stages": {},
    }  # fmt: skip
    passed_on = [
        "--output",
        str(options.output),
        "--steps",
        str(options.steps),
        "--scene",
        str(options.scene.resolve()),
    ]
    passed_on += ["--data", str(options.data)] if options.data else []
    passed_on += ["--small"] if options.small else []
    for name in options.stages:
        left = 60 * options.minutes - (time.perf_counter() - start)
        if left < 5:
            report["stages"][name] = {"state": "not begun: no time left", "seconds": 0}
        else:
            print(
                f"{name} (at most {left * SHARES[name]:.0f} s; log: {options.output / (name + '.log')})",
                flush=True,
            )
            report["stages"][name] = run_stage(name, passed_on, options.output, left * SHARES[name])
            told = {k: v for k, v in report["stages"][name].items() if k not in ("command",)}
            print("  " + json.dumps(told)[:1500], flush=True)
        (options.output / "report.json").write_text(json.dumps(report, indent=2))
        (options.output / "report.md").write_text(markdown(report))
        if name == "versions" and "card" not in report["stages"][name]:
            print("No card: nothing else is tried.", flush=True)
            break
    return int(any(stage["state"] == "failed" for stage in report["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
