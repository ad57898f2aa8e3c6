"""Cut-outs from every side: the truth is read with its cameras, scores are per object and side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradiseg_ns.evaluation.every_side import (
    EverySideError,
    mean_over_objects,
    read_every_side,
    score_every_side,
)

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo_scene" / "every_side"


def pose(height: float) -> list[list[float]]:
    """A camera whose own z axis points up by that sine."""
    level = (1 - height**2) ** 0.5
    return [[0, -height, level, 0], [1, 0, 0, 0], [0, level, height, 0], [0, 0, 0, 1]]


def write_truth(folder: Path, frames: list[tuple[str, int, float]], size: int = 40) -> Path:
    folder.mkdir(exist_ok=True)
    listed = []
    for name, object_id, height in frames:
        mask = np.zeros((size, size), bool)
        mask[10:30, 10:30] = True
        Image.fromarray(mask).save(folder / name)
        listed.append({"file_path": name, "object_id": object_id, "transform_matrix": pose(height)})
    contents = {"w": size, "h": size, "fl_x": 50, "fl_y": 50, "cx": 20, "cy": 20, "frames": listed}
    (folder / "cameras.json").write_text(json.dumps(contents))
    return folder


def test_the_demo_scene_has_three_objects_from_every_side() -> None:
    views = read_every_side(DEMO)
    assert len(views) == 72 and len({v.object_id for v in views}) == 3
    for object_id in {v.object_id for v in views}:
        own = [v for v in views if v.object_id == object_id]
        assert {v.side for v in own} == {"above", "around", "below"}
        for view in own:
            rows, columns = np.nonzero(view.mask)
            assert 0 < rows.min() and rows.max() < 255 and 0 < columns.min() and columns.max() < 255
            np.testing.assert_allclose(view.pose[:3, :3] @ view.pose[:3, :3].T, np.eye(3), atol=1e-5)


def test_scores_by_object_and_side(tmp_path: Path) -> None:
    views = read_every_side(
        write_truth(tmp_path / "t", [("a.png", 3, 0.9), ("b.png", 3, -0.9), ("c.png", 5, 0.0)])
    )
    assert [v.side for v in views] == ["above", "below", "around"]

    def cut_out(view):
        found = view.mask.copy()
        if view.side == "below":
            found[:, :20] = False  # half of it
        return found if view.object_id == 3 else np.zeros_like(found)

    scores = score_every_side(views, [cut_out(view) for view in views])
    by = {(s.object_id, s.side): s for s in scores}
    assert by[3, "above"].iou == 100 and by[3, "above"].biou == 100
    assert by[3, "below"].iou == pytest.approx(50) and by[3, "below"].biou < 60
    assert by[3, "all"].iou == pytest.approx(75) and by[3, "all"].n_views == 2
    assert by[5, "all"].iou == 0
    assert mean_over_objects(scores)[0] == pytest.approx(37.5)
    assert mean_over_objects(scores, "above") == (100, 100)
    assert mean_over_objects([]) == (None, None)


def test_a_folder_that_is_no_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(EverySideError, match=r"cameras\.json cannot be used"):
        read_every_side(tmp_path)
    folder = write_truth(tmp_path / "t", [("a.png", 3, 0.9)])
    (folder / "a.png").unlink()
    with pytest.raises(EverySideError, match=r"a\.png cannot be read"):
        read_every_side(folder)
    Image.fromarray(np.zeros((40, 40), bool)).save(folder / "a.png")
    with pytest.raises(EverySideError, match=r"a\.png: found a mask of 40x40 with 0 pixels"):
        read_every_side(folder)
    contents = json.loads((folder / "cameras.json").read_text())
    (folder / "cameras.json").write_text(json.dumps({**contents, "frames": []}))
    with pytest.raises(EverySideError, match="no frames"):
        read_every_side(folder)
