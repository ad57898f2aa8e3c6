"""`gradiseg import`: a gradiseg run of a splat file, or of a run of splatfacto."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from gradiseg_ns.cli.common import MaybePath, MaybeText, colors_by_id, identity_dim, names_by_id
from gradiseg_ns.tools.choices import DataParser, Frame
from gradiseg_ns.tools.terminal import default_device, say

if TYPE_CHECKING:
    from torch import Tensor

    from gradiseg_ns.rendering import Camera
    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.scene.splat import Splat
    from gradiseg_ns.sources.capture import Capture
    from gradiseg_ns.sources.run import Run

_VIEWS = 8
"""Training views in which an import is looked at."""


@dataclass
class Import:
    """Make a gradiseg run of a 3DGS PLY or of a run of splatfacto, for ns-viewer, ns-eval and ns-render.

    The PLY may be in nerfstudio's frame (ns-export, `gradiseg export`, `gradiseg lift --load-config`) or in the original frame of
    COLMAP or transforms.json (other programs), which is converted. Object ids (`object_id`) and names (`<stem>.objects.json`) are
    kept. Without ids, everything is one object. A run of splatfacto brings its own data and has no objects: click them in the viewer.
    """

    file: tyro.conf.Positional[Path]
    """A 3DGS PLY; compressed PLY and SPZ need the package gsply. Or a run of splatfacto: its config.yml, or the folder it is in. Only open runs you trust: their config.yml can execute code."""
    load_config: MaybePath = None
    """A run of gradiseg or splatfacto that gives data and options: its config.yml, or the folder it is in. Only open runs you trust: their config.yml can execute code."""
    data: MaybePath = None
    """Folder of the photos, instead of a run."""
    dataparser: DataParser = "nerfstudio-data"
    """Reader of --data. Options follow its name at the end of the command, as with ns-train: `... colmap --colmap-path sparse/0`."""
    output_dir: MaybePath = None
    """With --data, the run goes to <output-dir>/<scene>/gradiseg-lite/<file>-imported. Default: `outputs`. With --load-config, it goes beside that run."""
    frame: Frame = "auto"
    """Coordinates of the PLY: `nerfstudio` as in training and ns-export, `original` as in COLMAP or transforms.json, `auto` takes what looks like the photos."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.formats.read_ply import read_ply
        from gradiseg_ns.formats.sidecar import read_objects
        from gradiseg_ns.grouping.codes import spread_codes
        from gradiseg_ns.runs.writing import check_free, objects_of_run, write_gradiseg_run
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.sources.placing import find_frame, in_nerfstudio_frame
        from gradiseg_ns.votes.identities import encode, head_start

        if self.file.name == "config.yml" or (self.file / "config.yml").exists():
            self._take_run(default_device(self.device))
            return
        if (self.load_config is None) == (self.data is None):
            raise SourceError("give either --load-config (a run) or --data (a folder of photos).")
        if self.load_config is not None and self.output_dir is not None:
            raise SourceError(
                "--output-dir goes with --data; with --load-config the run lies beside that run."
            )
        device = default_device(self.device)
        splat = read_ply(self.file).to(device)
        found = read_objects(self.file)
        run, capture = self._origin(splat, device)
        check_free(run, "imported")
        if splat.labels is None:  # one object: the one that the sidecar names, if it names one
            one = found.ids[0] if found is not None and len(found) == 1 else 0
            splat.labels = torch.full((len(splat),), one, dtype=torch.int32, device=device)
        names = names_by_id(objects_of_run(run)) if run.is_gradiseg else capture.object_names
        objects = _table_of(splat.labels, found, names)
        cameras = capture.training_cameras(_VIEWS)
        splat = in_nerfstudio_frame(
            splat, capture, find_frame(splat, capture, run.background.to(device), self.frame, part=True)
        )

        assert splat.labels is not None
        codes = spread_codes(len(objects), identity_dim(run)).to(device)
        encoding = encode(objects.classes_of(splat.labels), codes)
        views = [(camera, _classes_shown(splat, camera, encoding, codes)) for camera in cameras]
        identity, weight = head_start(splat.gaussians(), encoding, codes, views)
        model: Any = run.config.pipeline.model
        antialiased = splat.antialiased or model.rasterize_mode == "antialiased"
        options = {
            "sh_degree": splat.sh_degree,
            "sh_degree_interval": 1,  # all degrees are there, however few steps the run has had
            "rasterize_mode": "antialiased" if antialiased else "classic",
        }
        written = write_gradiseg_run(
            run, capture, splat, objects, identity, weight,
            suffix="imported", model_options=options, replace=False,
        )  # fmt: skip
        unknown = int((splat.labels < 0).sum())
        say(
            f"{len(splat)} Gaussians, {len(objects)} objects, {unknown} Gaussians without an object. "
            f"Saved a gradiseg run: ns-viewer --load-config {written}"
        )

    def _take_run(self, device: str) -> None:
        """A run beside one of splatfacto's, with the same Gaussians."""
        from gradiseg_ns import sources
        from gradiseg_ns.runs.writing import check_free, write_gradiseg_run
        from gradiseg_ns.scene.objects import ObjectTable
        from gradiseg_ns.sources.capture import SourceError

        if self.load_config is not None or self.data is not None:
            raise SourceError(
                f"{self.file} is a run, which brings its data: leave --load-config and --data out."
            )
        run = sources.load_run(self.file, device)
        if hasattr(run.config.pipeline.model, "identity"):
            raise SourceError(
                f"{run.config_path} is a run of gradiseg already: ns-viewer --load-config {run.config_path}"
            )
        check_free(run, "imported")
        options = {"sh_degree": run.splat.sh_degree, "sh_degree_interval": 1}
        written = write_gradiseg_run(
            run, run.capture(maps=False), run.splat, ObjectTable.create([]), None, None,
            suffix="imported", model_options=options, replace=False,
        )  # fmt: skip
        say(
            f"{len(run.splat)} Gaussians, no objects yet: click them under New object in the viewer. "
            f"Saved a gradiseg run: ns-viewer --load-config {written}"
        )

    def _origin(self, splat: Splat, device: str) -> tuple[Run, Capture]:
        """The run beside which the new one goes, and its data; with --data one that was never trained."""
        import torch

        from gradiseg_ns import config as register
        from gradiseg_ns import sources
        from gradiseg_ns.formats.export import safe_name

        if self.load_config is not None:
            run = sources.load_run(self.load_config, device)
            return run, run.capture(maps=False)
        assert self.data is not None
        capture = sources.load_capture(self.data, dataparser=self.dataparser, maps=False, device=device)
        config: Any = copy.deepcopy(register.gradiseg_lite.config)
        config.data = config.pipeline.datamanager.data = self.data
        config.output_dir = self.output_dir or Path("outputs")
        config.machine.device_type = torch.device(device).type
        digest = hashlib.sha256(self.file.stem.encode("utf-8", "backslashreplace")).hexdigest()[:6]
        config.timestamp = safe_name(self.file.stem) or f"splat-{digest}"  # of each name another one
        step = config.max_num_iterations - 1
        folder = config.get_base_dir()
        run = sources.Run(folder / "config.yml", config, folder / f"step-{step:09d}.ckpt", step, {}, splat)
        return run, capture


def _table_of(labels: Tensor, found: ObjectTable | None, names: dict[int, str]) -> ObjectTable:
    """The objects that Gaussians or the sidecar know; names of the sidecar, else those given.

    Raises:
        SourceError: there is none.
    """
    import torch

    from gradiseg_ns.scene.objects import ObjectTable
    from gradiseg_ns.sources.capture import SourceError

    known = [] if found is None else list(found.ids)
    own = {} if found is None else names_by_id(found)
    table = ObjectTable.create([*labels.unique().tolist(), *known], {**names, **own})
    if len(table) == 0:
        raise SourceError("no Gaussian of the file has an object id of 0 or more, and no object is named.")
    colors = {} if found is None else colors_by_id(found)
    rows = [colors.get(i, color) for i, color in zip(table.ids, table.colors.tolist(), strict=True)]
    return dataclasses.replace(table, colors=torch.tensor(rows))


def _classes_shown(splat: Splat, camera: Camera, encoding: Tensor, codes: Tensor) -> Tensor:
    """Classes [H, W] that a splat shows by its own encodings [N, D], -1 where it hardly covers a pixel: an import has no id maps."""
    import torch

    from gradiseg_ns import rendering
    from gradiseg_ns.data.id_maps import IGNORE
    from gradiseg_ns.scene.objects import MIN_ACCUMULATION

    with torch.no_grad():
        identity, alpha = rendering.render(splat.gaussians(), camera, encoding)
    classes = (identity @ codes.T).argmax(dim=-1)
    return torch.where(alpha[..., 0] >= MIN_ACCUMULATION, classes, IGNORE)
