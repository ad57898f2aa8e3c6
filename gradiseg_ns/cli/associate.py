"""`gradiseg associate`: masks of single photos become id maps that agree between views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from gradiseg_ns.cli.common import MaybeCount, MaybeIds, MaybePath, MaybeText
from gradiseg_ns.tools.choices import DataParser, IdMode, Level
from gradiseg_ns.tools.terminal import default_device, say


@dataclass
class Associate:
    """Make id maps that agree between views, from masks whose ids are unrelated between photos or partly wrong.

    With a trained run (--load-config, any method of splatfacto's family) masks are compared by the Gaussians that they cover. Pieces
    of one surface become one object with parts, and the result is rendered again, which corrects missed or switched masks. Without a
    run, masks are compared by the scene's sparse points and only their ids change. The old folder is never touched.
    """

    data: MaybePath = None
    """Folder of the photos. Default with --load-config: the run's folder."""
    load_config: MaybePath = None
    """A trained run on these photos (recommended). Only open runs you trust: their config.yml can execute code."""
    masks_dir: str = "object_mask"
    """Folder of the masks, absolute or relative to the data folder."""
    output_dir: MaybePath = None
    """The new folder, which must not exist yet. Default: <masks-dir>_associated in the data folder."""
    max_objects: MaybeCount = None
    """Maps with more ids are refused; 0 takes any number. Default: the run's bound, else 3000."""
    ids: IdMode = "auto"
    """`keep` repairs maps whose ids mostly agree, `new` numbers objects anew, `auto` decides by how well they agree."""
    level: Level = "objects"
    """What training learns from the new folder: whole objects, or their parts. Maps of the other level lie in a folder inside."""
    unlabelled: MaybeIds = None
    """Ids that mean "no mask". Default: 0 with new ids, none with kept ones."""
    dataparser: DataParser = "nerfstudio-data"
    """Reader of --data, if no run names one. Without a transforms.json, a COLMAP model is looked for. Options follow the reader's name at the end, as with ns-train: `... colmap --downscale-factor 2`."""
    device: MaybeText = None
    """`cpu` or `cuda`. Default: cuda if there is a GPU."""

    def main(self) -> None:
        from gradiseg_ns import sources
        from gradiseg_ns.sources.association import associate_views, write_association
        from gradiseg_ns.sources.capture import SourceError

        splat = None
        if self.load_config is not None:
            run = sources.load_run(self.load_config, default_device(self.device))
            splat = run.splat
            scene = run.capture(masks_dir=self.masks_dir, data=self.data, max_objects=self.max_objects)
        elif self.data is not None:
            scene = sources.load_capture(
                self.data, dataparser=self.dataparser, masks_dir=self.masks_dir, device=default_device(self.device),
                max_objects=self.max_objects,
            )  # fmt: skip
        else:
            raise SourceError("give --data, or --load-config with a run that knows its data.")
        folder = self.output_dir or scene.data_folder / f"{Path(self.masks_dir).name}_associated"
        if folder.exists():
            raise SourceError(f"--output-dir {folder} exists already; name another, nothing is overwritten.")
        start = perf_counter()
        done = associate_views(scene, splat, ids=self.ids, unlabelled=self.unlabelled)
        write_association(folder, scene, done, level=self.level)
        say(
            f"{len(done.result.masks)} masks of {len(scene.train)} views: {len(done.result.ids)} ids "
            f"({'kept' if done.kept else 'new'}), {len(done.result.parts.tree)} parts, {perf_counter() - start:.0f} s."
        )
        if done.before is not None and done.after is not None:
            say(
                f"Pairs of views that show the same id at a point of the scene: {done.before.agreement:.1%} before, "
                f"{done.after.agreement:.1%} after (chance: {done.before.chance:.1%}, {done.after.chance:.1%})."
            )
        doubtful = sum(mask.trust < 0.5 for mask in done.result.masks)
        say(
            f"{doubtful} masks were overruled (trust below one half; association.json has all). Saved {folder}; "
            f"look at {folder / 'overview.jpg'}. Train with --pipeline.datamanager.masks-dir {folder}"
        )
