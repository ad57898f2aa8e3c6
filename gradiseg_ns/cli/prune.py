"""`gradiseg prune`: fewer Gaussians, to an error that is checked on all training views."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from gradiseg_ns.cli.common import (
    MaybePath,
    Objects,
    Source,
    check_replaceable,
    colors_by_id,
    find_objects,
    names_by_id,
)
from gradiseg_ns.tools.atomic import check_writable, write_text
from gradiseg_ns.tools.terminal import say, stages


@dataclass
class Prune(Source):
    """Remove Gaussians that the training views do not need, to an error that is checked on all of these views.

    More go as long as no pixel of any training view changes by more than --max-error (docs/pruning.md). Writes a PLY, a JSON report
    beside it, and for a run also a run beside the old one.
    """

    max_error: str = "1/510"
    """Largest change of a pixel. 1/510 is half a grey level."""
    bound: Literal["pixel", "view"] = "pixel"
    """--max-error holds for each pixel, or each view's mean."""
    objects: Objects = ()
    """Remove only Gaussians of these objects: ids or names."""
    output: MaybePath = None
    """The PLY to write. Default: `pruned.ply` beside the splat."""

    def main(self) -> None:
        import torch

        from gradiseg_ns.formats.sidecar import read_objects
        from gradiseg_ns.formats.write_ply import write_ply
        from gradiseg_ns.runs.writing import labels_of_run, objects_of_run, write_pruned_run
        from gradiseg_ns.scene.objects import ObjectTable
        from gradiseg_ns.sources.capture import SourceError
        from gradiseg_ns.votes.pruning import prune

        bound = _fraction(self.max_error)
        path = self.output_path(self.output, "pruned.ply")
        check_writable(path)
        run, splat, capture, _ = self.open_splat(maps=False)
        if run is not None:
            check_replaceable(run, "pruned")
        known = read_objects(self.ply) if self.ply is not None else None
        if run is not None and run.is_gradiseg:
            splat.labels = labels_of_run(run)
            known = objects_of_run(run)
        names, colors = None, {}
        if splat.labels is not None:
            names = capture.object_names
        if known is not None:  # what the splat itself calls its objects goes before what the scene calls them
            given = names_by_id(known)
            own = {i: name for i, name in given.items() if name != f"object {i}"}
            names = {**given, **(names or {}), **own}
            colors = colors_by_id(known)
        among = None
        if self.objects:
            if splat.labels is None:
                raise SourceError(
                    "--objects needs a splat with object ids: a gradiseg run, or a PLY that `gradiseg lift` made."
                )
            there = ObjectTable.create([*splat.labels.unique().tolist(), *(names or {})], names)
            chosen = find_objects("--objects", self.objects, there)
            among = torch.isin(splat.labels, torch.tensor(chosen).to(splat.labels))
            if not bool(among.any()):
                raise SourceError(f"--objects {' '.join(self.objects)}: no Gaussian belongs to them.")
        with stages() as show:
            # Over black and over white: a PLY is seen before any background.
            result = prune(splat, capture.train.cameras, bound, None, among, show, bound=self.bound)
        removed = int((~result.kept).sum())
        say(
            f"Removed {removed} of {len(splat)} Gaussians ({result.ratio:.1%}) in {result.seconds:.0f} s. Checked on "
            f"{len(capture.train)} training views: largest change of a pixel {result.max_error:.6f} "
            f"(1/{1 / max(result.max_error, 1e-9):.0f}), mean {result.mean_error:.2e}, {result.psnr:.1f} dB."
        )
        saved = write_ply(path, splat.select(result.kept), names=names, colors=colors)
        say(f"Saved {saved}")
        report = {
            "gaussians": len(splat), "removed": removed, "ratio": result.ratio, "bound": bound, "bounds": self.bound,
            "max_error": result.max_error, "view_error": result.view_error, "mean_error": result.mean_error,
            "views": len(capture.train), "seconds": result.seconds,
            "per_object": {str(i): {"removed": a, "of": b} for i, (a, b) in result.per_object.items()},
        }  # fmt: skip
        write_text(path.with_suffix(".json"), json.dumps(report, indent=2))
        if run is not None:
            written = write_pruned_run(run, result.kept)
            say(f"Saved a run: ns-eval --load-config {written}")


def _fraction(text: str) -> float:
    from gradiseg_ns.sources.capture import SourceError

    try:
        top, _, bottom = text.partition("/")
        value = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise SourceError(
            f"--max-error {text}: expected a number or fraction above 0, at most 1, such as 1/510."
        )
    return value
