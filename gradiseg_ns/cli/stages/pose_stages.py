"""From a folder of photos to a scene: copies of the photos, then their poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradiseg_ns.cli.stages.job import Step, minutes
from gradiseg_ns.tools.terminal import progress, say, warn


class Photos(Step):
    """Copies of the photos that everything after works with: upright, RGB, not too large."""

    name = "photos"

    def settings(self) -> dict[str, Any]:
        flags, state = self.job.flags, self.job.state
        files = _fingerprint(flags.source)
        if files is None and self.name in state.stages:  # the source is gone, its copies are here
            files = state.stages[self.name]["settings"]["files"]
        return {"max_size": flags.max_size, "files": files}

    def files(self) -> list[Path]:
        return [self.job.folder / "scene" / "images" / name for name in self.result["sizes"]]

    def told(self) -> str:
        count = self.result["changed"]
        changed = f", {count} of them turned, converted or made smaller" if count else ""
        return f"{len(self.result['sizes'])} photos in {self.job.folder / 'scene' / 'images'}{changed}"

    def cost(self) -> str:
        from gradiseg_ns.poses.photos import photos_in

        photos = photos_in(self.job.flags.source)
        size = sum(path.stat().st_size for path in photos)
        return f"Copies {len(photos)} photos, up to {size / 1e6:,.0f} MB: {minutes(0.1 * len(photos) + size / 2e7)}."

    def do(self) -> dict[str, Any]:
        import shutil

        from gradiseg_ns.poses.photos import copy_photos, photos_in
        from gradiseg_ns.tools.atomic import new_folder

        flags, scene = self.job.flags, self.job.folder / "scene"
        photos = photos_in(flags.source)
        with new_folder(scene / "images", replace=True) as making, progress("Photos", len(photos)) as advance:
            copied = copy_photos(photos, making, largest=flags.max_size, advance=advance)
        for name in ("transforms.json", "sparse_pc.ply"):  # those of the photos before
            (scene / name).unlink(missing_ok=True)
        shutil.rmtree(scene / "colmap", ignore_errors=True)
        if copied.told:
            say(copied.told)
        return {"names": copied.names, "sizes": copied.sizes, "changed": copied.changed}


class Poses(Step):
    """Where each photo was taken, and the sparse points of all."""

    name = "poses"
    after = ("photos",)

    def settings(self) -> dict[str, Any]:
        return {"matching": self.job.flags.matching}

    def files(self) -> list[Path]:
        scene = self.job.folder / "scene"
        return [scene / "transforms.json", scene / "sparse_pc.ply"]

    def told(self) -> str:
        result = self.result
        return (
            f"poses of {result['registered']} of {result['photos']} photos and {result['points']:,} points in "
            f"{self.job.folder / 'scene'} (mean error {result['error']:.2f} px)"
        )

    def cost(self) -> str:
        from gradiseg_ns.poses.solving import pairs_of, seconds_of, way_of

        sizes, matching = self._sizes(), self.job.flags.matching
        way, pairs = way_of(len(sizes), matching), len(pairs_of(list(sizes), matching))
        compared = "all pairs" if way == "exhaustive" else "neighbours by name"
        return (
            f"pycolmap compares {compared} of {len(sizes)} photos, {pairs:,} in all: {minutes(seconds_of(sizes, pairs))}, below "
            "1 GB."
        )

    def do(self) -> dict[str, Any]:
        from gradiseg_ns.poses.solving import solve
        from gradiseg_ns.poses.writing import good_points, write_scene_files
        from gradiseg_ns.tools.atomic import new_folder
        from gradiseg_ns.tools.terminal import stages

        flags, scene, sizes = self.job.flags, self.job.folder / "scene", self._sizes()
        with new_folder(scene / "colmap", replace=True) as making:
            with stages() as report:
                solved = solve(
                    scene / "images", sizes, matching=flags.matching, report=report,
                    model_folder=making / "sparse" / "0", least=flags.least_registered,
                )  # fmt: skip
            (making / "sparse").chmod(0o755)
        write_scene_files(solved, scene)
        if solved.missing:
            warn(
                f"{len(solved.missing)} of {len(sizes)} photos got no pose and are left out: {', '.join(solved.missing[:8])}"
                + ("..." if len(solved.missing) > 8 else ".")
            )
        return {
            "registered": len(solved.names), "photos": len(sizes), "missing": list(solved.missing),
            "points": int(good_points(solved).sum()), "error": float(solved.errors.mean()),
        }  # fmt: skip

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of each copy, by its name."""
        sizes = self.job.state.result("photos")["sizes"]
        return {name: (int(size[0]), int(size[1])) for name, size in sizes.items()}


def _fingerprint(source: Path) -> str | None:
    """The photos of a folder by name, size and time, in some letters; None if they are not there any more."""
    import hashlib

    from gradiseg_ns.poses.photos import photos_in
    from gradiseg_ns.poses.solving import PosesError

    try:
        photos = photos_in(source)
    except PosesError:
        return None
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in photos]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
