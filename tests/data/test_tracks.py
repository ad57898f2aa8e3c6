"""COLMAP's tracks: views by the names of their photos, points by their order."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from gradiseg_ns.data.tracks import colmap_tracks

POINTS = "7 0 0 0 1 2 3 0.1 1 0 2 4 1 5\n3 1 0 0 1 2 3 0.1 2 0 9 9\n5 0 1 0 1 2 3 0.1 4 2\n"


def model(root: Path, scenes: ModuleType) -> tuple[Path, list[str]]:
    scenes.write_colmap(root, views=4)
    folder = root / "colmap" / "sparse" / "0"
    (folder / "points3D.txt").write_text(POINTS)
    # By name, as the dataparser sorts them; views 1 and 3 are left/0000 and left/0001.
    photos = sorted(str(path) for path in (root / "images").rglob("*.jpg"))
    return folder, photos


def test_views_and_points_find_each_other(tmp_path: Path, scenes: ModuleType) -> None:
    folder, photos = model(tmp_path, scenes)
    assert [Path(p).parent.name + Path(p).name for p in photos][:2] == ["left0000.jpg", "left0001.jpg"]
    found = colmap_tracks(folder, photos, 3)
    assert found is not None
    # Images 1 to 4 of the file are right/0000, left/0000, right/0001, left/0001: views 2, 0, 3, 1.
    assert found.tolist() == [[2, 0], [0, 0], [0, 1], [1, 2]]


def test_a_photo_that_is_held_out_has_no_tracks(tmp_path: Path, scenes: ModuleType) -> None:
    folder, photos = model(tmp_path, scenes)
    found = colmap_tracks(folder, photos[1:], 3)
    assert found is not None and found.tolist() == [[1, 0], [0, 2]]


def test_another_model_has_none(tmp_path: Path, scenes: ModuleType) -> None:
    folder, photos = model(tmp_path, scenes)
    assert colmap_tracks(folder, photos, 4) is None
    assert colmap_tracks(tmp_path, photos, 3) is None
