"""Waiting times in the viewer: from a click to the glowing selection, during training and after it, and edited frames against plain ones.

    python benchmarks/viewer.py --run RUN [--data SCENE]
    python benchmarks/viewer.py --run RUN --new-objects --ignore-ids 0 19

Meanwhile the training goes on from the run's last checkpoint, in a temporary folder; the run is not changed. A client of the
viewer's own protocol sends clicks. The time ends when the first picture with the selection has arrived.

With `--new-objects`: one click on each object as if it were new, without a browser. The click is the most interior pixel of its exact mask in
the training view where it is largest; seconds to the first answer and to that of the search (by the clock, and of all processors), and the
IoU of both on the held-out views.
"""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.viewer import Viewer

import gradiseg_ns.drawing.blends as blends
from gradiseg_ns import rendering, sources
from gradiseg_ns.editing.display import Selection
from gradiseg_ns.editing.edits import Duplicate, Edit, Hide, Move, Remove, Similarity, Tint
from gradiseg_ns.masks.wand import innermost
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.viewer.client import ViewerClient
from gradiseg_ns.viewer.session import Session


@dataclass
class Args:
    run: Path
    """A gradiseg run: its config.yml or folder."""
    data: Path | None = None
    """Folder of its photos. Default: the run's own."""
    clicks: int = 20
    frames: int = 15
    """Number of frames of each kind."""
    steps: int = 400
    """Largest number of training steps that run meanwhile."""
    device: str | None = None
    new_objects: bool = False
    """Measure clicks on new objects instead. The run may have been trained without id maps."""
    masks_dir: str = "object_mask"
    """Of new objects: the exact maps."""
    ignore_ids: tuple[int, ...] = ()
    """Of new objects: those that are left out."""


def frames(model: Any, camera: Any, count: int) -> None:
    """Times of an edited frame and of a plain one, in turn."""
    ids = [i for i in model.objects.ids if i in set(model._labels().unique().tolist())]
    first, second = ids[len(ids) // 2], ids[-1]
    pivot = tuple(model.means[model._labels() == first].median(dim=0).values.tolist())
    turn = Similarity((0.9, 0.0, 0.0, 0.4), (0.05, 0.0, 0.0), 1.0, pivot)
    kinds: dict[str, tuple[list[Edit], Selection]] = {
        "selected": ([], Selection((first,))),
        "hidden": ([Hide((first,))], Selection()),
        "removed": ([Remove((first,))], Selection()),
        "tinted": ([Tint((first,), (1.0, 0.0, 0.0))], Selection()),
        "moved and turned": ([Move((first,), turn)], Selection()),
        "duplicated": ([Duplicate(first, max(ids) + 1, "copy")], Selection()),
        "all of it, selected": (
            [Duplicate(first, max(ids) + 1, "copy"), Move((first,), turn), Tint((first,), (1.0, 0.0, 0.0)), Hide((second,))],
            Selection((first,)),
        ),
    }  # fmt: skip

    def frame() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            model.get_outputs_for_camera(camera)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    model.eval()
    print(f"{'frame':22} {'edited':>9} {'plain':>9} {'ratio':>6}   medians of {count}")
    for name, (edits, selection) in kinds.items():
        model.editing.edits.clear()
        model.editing.edits.push(name, *edits)
        model.editing.select(selection)
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * (count + 1)):
            model.editing.always = number % 2 == 0
            times[model.editing.always].append(frame())
        edited, plain = (statistics.median(times[key][1:]) for key in (True, False))
        print(f"{name:22} {1000 * edited:6.0f} ms {1000 * plain:6.0f} ms {edited / plain:6.2f}")
    model.editing.always = False
    model.editing.edits.clear()
    model.editing.select(Selection())


def clicks(viewer: Viewer, panel: Any, count: int) -> list[float]:
    """Seconds from a click to the first picture with the selection."""
    drawn: list[tuple[float, int]] = []
    browsers: list[ViewerClient] = []
    original = blends.glow

    def glow(*args: Any) -> Any:
        drawn.append((time.perf_counter(), browsers[0].page.picture_count))
        return original(*args)

    blends.glow = glow
    waits: list[float] = []
    server = viewer.viser_server
    try:
        with ViewerClient(server.get_port(), server=server) as client:
            browsers.append(client)
            frustum = viewer.camera_handles[min(viewer.camera_handles)]
            client.camera(position=tuple(frustum.position), wxyz=tuple(frustum.wxyz), fov=0.75, aspect=4 / 3)
            client.wait_picture(timeout=120)
            random.seed(0)
            for _ in range(count):
                client.set("Select", "Pick")
                client.wait(lambda: client.page.pointer_enabled == "click", timeout=60)
                time.sleep(random.uniform(0.5, 1.0))
                version = panel.session.editing.version
                start = time.perf_counter()
                client.click(random.uniform(0.3, 0.7), random.uniform(0.3, 0.7))
                client.wait(lambda v=version: panel.session.editing.version != v, timeout=60)
                selected = time.perf_counter()
                client.wait(lambda t=selected: drawn and drawn[-1][0] > t, timeout=60)
                client.wait(lambda n=drawn[-1][1]: client.page.picture_count > n, timeout=60)
                waits.append(time.perf_counter() - start)
    finally:
        blends.glow = original
    return waits


def new_objects(args: Args) -> None:
    """Clicks on new objects: a table of times and of IoU on the held-out views, in percent."""
    run = sources.load_run(args.run)
    photos = run.capture(masks_dir=args.masks_dir)
    train, test = photos.train, photos.test
    _, pipeline, _, _ = eval_setup(run.config_path, test_mode="inference")
    cameras = pipeline.datamanager.train_dataset.cameras  # type: ignore[attr-defined]
    session = Session(lambda: pipeline.model, lambda: cameras)  # type: ignore[arg-type, return-value]
    new = session.new_object
    maps = torch.cat([m.unique() for m in train.id_maps]).unique().tolist()
    rows = []
    print(f"{pipeline.model.num_points} Gaussians; IoU in percent of the first answer and of the search's")
    print(f"{'id':>4} {'name':18} {'first':>7} {'IoU':>6} {'search':>7} {'CPU':>7} {'IoU':>6} {'views':>5}")
    for i in [i for i in maps if i >= 0 and i not in args.ignore_ids]:
        view, x, y = innermost_pixel(train, i)
        session.clear()
        start = time.perf_counter()
        new.click(cameras[view : view + 1], x / train.cameras[view].width, y / train.cameras[view].height)
        first = time.perf_counter() - start
        before = held_out_iou(session, test, i)
        search = new.search()
        assert search is not None
        start, cpu = time.perf_counter(), time.process_time()
        try:
            found = search.run()
            new.accept(search)
            asked = len(found.views) + len(found.skipped)
        except GradisegError as error:
            print(f"{i}: {error}")
            asked = 0
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows.append([first, before, seconds, cpu, held_out_iou(session, test, i), asked])
        print(_line(str(i), photos.object_names.get(i, ""), rows[-1]), flush=True)
    print(_line("", "mean", [statistics.mean(column) for column in zip(*rows, strict=True)]))


def _line(id: str, name: str, row: Sequence[float]) -> str:
    first, before, searched, cpu, after, asked = row
    times = f"{searched:5.1f} s {cpu:5.1f} s"
    return f"{id:>4} {name:18} {first:5.2f} s {100 * before:6.1f} {times} {100 * after:6.1f} {asked:5.1f}"


def innermost_pixel(train: Any, object_id: int) -> tuple[int, float, float]:
    """The view in which an object is largest, and x and y of its most interior pixel there."""
    view = max(range(len(train)), key=lambda v: int((train.id_maps[v] == object_id).sum()))
    x, y = innermost((train.id_maps[view] == object_id).numpy())
    return view, x + 0.5, y + 0.5


@torch.no_grad()
def held_out_iou(session: Session, test: Any, object_id: int) -> float:
    """Mean IoU over the held-out views: pixels in which the selection has more than half of the weight."""
    scores = []
    with session.scene.reading() as model:
        rows = session.selection.rows(model.arrangement(), model.means)
        gaussians = model.drawn_gaussians()
        for camera, ids in zip(test.cameras, test.id_maps, strict=True):
            weight, alpha = rendering.render(gaussians, camera, rows.float()[:, None])
            found = rendering.expected(weight, alpha)[..., 0] > 0.5
            found &= alpha[..., 0] >= MIN_ACCUMULATION
            truth = (ids == object_id).to(found.device)
            either = int((found | truth).sum())
            if either:
                scores.append(int((found & truth).sum()) / either)
    return statistics.mean(scores) if scores else 0.0


def report(what: str, waits: list[float]) -> None:
    ordered = sorted(waits)
    print(
        f"click to glowing selection, {what}: median {statistics.median(ordered):.2f} s, 90 % within "
        f"{ordered[int(0.9 * (len(ordered) - 1))]:.2f} s, longest {ordered[-1]:.2f} s ({len(ordered)} clicks)"
    )


def main(args: Args) -> None:
    if args.new_objects:
        new_objects(args)
        return
    run = sources.load_run(args.run)
    data = args.data or run.capture(maps=False).data
    with tempfile.TemporaryDirectory() as folder:
        config = copy.deepcopy(run.config)
        config.output_dir, config.max_num_iterations = Path(folder), args.steps
        config.machine.device_type = (
            "cuda" if (args.device or config.machine.device_type) == "cuda" else "cpu"
        )
        config.pipeline.datamanager.data = data  # type: ignore[attr-defined]
        config.load_step = config.load_checkpoint = None
        config.set_timestamp()
        config.vis = "viewer"
        config.viewer.websocket_host = "127.0.0.1"
        config.load_dir = run.checkpoint.parent
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        panel: Any = trainer.pipeline.viewer_panel
        print(f"{trainer.pipeline.model.num_points} Gaussians, {len(trainer.pipeline.model.objects)} objects")
        frames(trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset.cameras[0:1], args.frames)
        stop = threading.Event()
        original: Callable[[int], Any] = trainer.train_iteration

        def iteration(step: int) -> Any:
            if stop.is_set():
                raise KeyboardInterrupt
            return original(step)

        trainer.train_iteration = iteration
        steps: list[float] = []

        def train() -> None:
            try:
                trainer.train()
            except (KeyboardInterrupt, SystemExit):
                pass

        thread = threading.Thread(target=train, daemon=True)
        trainer.training_state = "paused"
        thread.start()
        views = len(trainer.pipeline.datamanager.train_dataset)
        while len(getattr(trainer.viewer_state, "camera_handles", ())) < min(views, 512):
            time.sleep(0.1)
        report("training paused", clicks(trainer.viewer_state, panel, args.clicks))
        trainer.pipeline.model.editing.select(Selection())
        trainer.training_state = "training"
        time.sleep(5)
        before, start = trainer.step, time.perf_counter()
        waits = clicks(trainer.viewer_state, panel, args.clicks)
        steps.append((trainer.step - before) / (time.perf_counter() - start))
        stop.set()
        thread.join(timeout=60)
        report("while training", waits)
        print(f"meanwhile {steps[0]:.1f} training steps a second")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
