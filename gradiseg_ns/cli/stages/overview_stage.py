"""What came out: figures of the held-out views, a picture, the objects by size, and what to type next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradiseg_ns.cli.common import PICTURES
from gradiseg_ns.cli.masks import MODEL
from gradiseg_ns.cli.stages.job import Step, minutes
from gradiseg_ns.cli.stages.mask_stage import NO_WEIGHTS
from gradiseg_ns.tools.terminal import say

if TYPE_CHECKING:
    from gradiseg_ns.pipeline import GradisegPipeline
    from gradiseg_ns.tools.pictures import Captioned

_LEGIBLE = 14
"""Numbers in a picture of the overview, at most."""


class Overview(Step):
    """Files for a person to look at."""

    name = "overview"
    after = ("train",)

    def files(self) -> list[Path]:
        return [self.job.folder / "overview.jpg"]

    def told(self) -> str:
        return f"{self.job.folder / 'overview.jpg'}, {self.job.folder / 'metrics.json'}"

    def cost(self) -> str:
        return f"Renders the views that were held out of training: {minutes(60)}."

    def do(self) -> dict[str, Any]:
        from nerfstudio.utils.eval_utils import eval_setup

        from gradiseg_ns.tools.atomic import write_text
        from gradiseg_ns.tools.pictures import overview, save_picture

        folder = self.job.folder
        run = self.job.inside(self.job.state.result("train")["run"])
        _link(folder / "run", run)
        pipeline: Any = eval_setup(
            run / "config.yml", test_mode="test", update_config_callback=self._where_it_is_now
        )[1]
        metrics: dict[str, Any] = {}
        if len(pipeline.datamanager.eval_dataset):
            metrics = pipeline.get_average_eval_image_metrics(get_std=True)
            told = f"PSNR {metrics['psnr']:.1f} dB, SSIM {metrics['ssim']:.3f}"
            if metrics.get("miou") is not None:
                told += f", mIoU of the masks {metrics['miou']:.1f} %"
            say(f"{len(pipeline.datamanager.eval_dataset)} held-out views: {told}.")
        else:
            say(
                "There are too few photos to hold some out: no figures, and the pictures are of training views."
            )
        write_text(folder / "metrics.json", json.dumps(metrics, indent=2))
        save_picture(overview(list(rows_of(pipeline))), folder / "overview.jpg", quality=92)
        counts = objects_of(run)
        write_text(folder / "objects.csv", _csv([("id", "name", "gaussians"), *counts]))
        return {"objects": [[i, name, count] for i, name, count in counts]}

    def _where_it_is_now(self, config: Any) -> Any:
        """The run's configuration with the folders of today: the output may have been moved as a whole since it was trained."""
        folder = self.job.folder
        config.output_dir = (folder / "runs").absolute()
        manager = config.pipeline.datamanager
        config.data = manager.data = manager.dataparser.data = self.job.scene_folder.absolute()
        maps = Path(manager.masks_dir)
        if not maps.is_dir():
            known = folder.glob("runs/*/*/*/associated_mask")
            found = [path for path in known if path.parts[-2:] == maps.parts[-2:]]
            made = self.job.inside(self.job.state.result("masks")["folder"])
            manager.masks_dir = str((found[0] if found else made).absolute())
        return config

    def tell_next(self) -> None:
        """What to look at, and what to type."""
        job, folder = self.job, self.job.folder
        link = folder / "run"
        run = link if link.exists() else job.inside(job.state.result("train")["run"])
        named = [(i, name, count) for i, name, count in self.result["objects"] if i != 0 and count]
        largest = ", ".join(
            f"{i}" + (f" ({name})" if name != f"object {i}" else "") for i, name, _ in named[:8]
        )
        say(f"{len(named)} objects, by size: {largest or 'none'}; all are in {folder / 'objects.csv'}")
        first = str(named[0][0]) if named else "ID"
        word = shlex.quote(str(run))
        say(
            f"Look at {folder / 'overview.jpg'}; the numbers are the objects' ids. Then:\n"
            f"  ns-viewer --load-config {shlex.quote(str(run / 'config.yml'))}      # click, name, merge and move objects\n"
            f"  gradiseg export {word} --objects {first}      # an object as a PLY, in {run / 'export'}\n"
            f"  gradiseg edit {word} --help      # remove, tint, move objects",
            title="Next:",
        )
        if job.state.stages["masks"]["settings"].get("model") == NO_WEIGHTS:
            say(
                f"The masks are regions of like colour. For objects, once you have weights: the same command with --model {MODEL}"
            )


def rows_of(pipeline: GradisegPipeline) -> Iterator[list[Captioned]]:
    """Rows of the overview: photo, render, objects, and objects on the photo with their ids."""
    import numpy as np

    from gradiseg_ns.tools.pictures import to_image

    pipeline.eval()
    model, manager = pipeline.model, pipeline.datamanager
    held_out = len(manager.eval_dataset) > 0
    views: Any = manager.fixed_indices_eval_dataloader if held_out else _training_views(pipeline)
    names = [
        path.stem for path in (manager.eval_dataset if held_out else manager.train_dataset).image_filenames
    ]
    count = min(PICTURES, len(names))
    for k in (len(names) * i // count for i in range(count)):
        camera, batch = views[k]
        outputs: Any = model.get_outputs_for_camera(camera)
        photo = model.get_gt_img(batch["image"])[..., :3]
        mse = float(((photo - outputs["rgb"]) ** 2).mean())
        ids = outputs.object_ids.cpu().numpy()
        colors = outputs["segmentation"]
        numbered = to_image(photo * 0.45 + colors * 0.55)
        _write_ids(numbered, ids)
        yield [
            (f"{names[k]} ({'held out' if held_out else 'trained on'})", to_image(photo)),
            (f"render, PSNR {-10 * np.log10(max(mse, 1e-10)):.1f} dB", to_image(outputs["rgb"])),
            (f"segmentation, {len(np.unique(ids))} ids", to_image(colors)),
            ("ids of the largest objects", numbered),
        ]


def _training_views(pipeline: GradisegPipeline) -> list[tuple[Any, Any]]:
    manager = pipeline.datamanager
    cameras = manager.train_dataset.cameras
    return [
        (cameras[k : k + 1].to(manager.device), {"image": item["image"].to(manager.device)})
        for k, item in enumerate(manager.cached_train)
    ]


def _write_ids(picture: Any, ids: Any) -> None:
    """Write the ids of the largest objects where they are widest."""
    import cv2
    import numpy as np
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    found, counts = np.unique(ids, return_counts=True)
    for k in np.argsort(-counts)[:_LEGIBLE]:
        inside = cv2.distanceTransform(np.pad(ids == found[k], 1).astype(np.uint8), cv2.DIST_L2, 5)[
            1:-1, 1:-1
        ]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        draw.text(
            (int(x), int(y)), str(found[k]), fill="white", stroke_width=2, stroke_fill="black", anchor="mm"
        )


def objects_of(run: Path) -> list[tuple[int, str, int]]:
    """Id, name and Gaussians of each object of a run, the largest first."""
    import torch

    from gradiseg_ns import sources
    from gradiseg_ns.cli.common import labelled_splat

    splat, table = labelled_splat(sources.load_run(run))
    assert splat.labels is not None
    ids, counts = torch.unique(splat.labels, return_counts=True)
    count = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    rows = [(i, name, count.get(i, 0)) for i, name in zip(table.ids, table.names, strict=True)]
    return sorted(rows, key=lambda row: -row[2])


def _link(link: Path, target: Path) -> None:
    """A short name for a folder, where the system has such."""
    import contextlib
    import os

    with contextlib.suppress(OSError, ValueError):
        if link.exists() and not link.is_symlink():
            return
        making = link.with_name(f".{link.name}-{os.getpid()}")
        making.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        os.replace(making, link)


def _csv(rows: Sequence[tuple[Any, ...]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
