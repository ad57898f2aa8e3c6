"""A splat moved between frames shows the same from cameras that are moved with it, also far from the origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiseg_ns.formats import ply_layout
from gradiseg_ns.formats.export import ExportError, export_objects
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.coordinates import to_nerfstudio, to_original

from ..formats.test_export import assert_same, camera, make_splat
from ..formats.test_ply import columns_of, said, write_file

assert said
UTM = (500123.0, 4649876.0, 312.0)


def a_move(far: bool) -> tuple[torch.Tensor, float]:
    """R and t [3, 4], s."""
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    rotation *= torch.linalg.det(rotation)
    centre = torch.tensor(UTM if far else (1.0, 2.0, 3.0), dtype=torch.float64)
    return torch.cat([rotation, -(rotation @ centre)[:, None]], dim=1), 0.37


@pytest.mark.parametrize("far", [False, True])
def test_there_and_back(far: bool) -> None:
    transform, scale = a_move(far)
    splat = make_splat(200)
    there = to_original(splat, transform, scale)
    assert there.frame == "original" and any(there.offset) is far
    assert float(there.means.abs().max()) < 20
    back = to_nerfstudio(there, transform, scale)
    assert back.frame == "nerfstudio" and back.offset == (0.0, 0.0, 0.0)
    for name in ("means", "scales", "features_dc", "features_rest"):
        assert float((getattr(back, name) - getattr(splat, name)).abs().max()) < 1e-4, name
    assert float((back.render(camera())[0] - splat.render(camera())[0]).abs().max()) < 2e-3
    # the picture from a camera that is moved along: R_c (s (R x + t)) + t_c, divided by s
    own = camera()
    viewmat = torch.eye(4, dtype=torch.float64)
    turn, shift = own.viewmat[:3, :3].double(), own.viewmat[:3, 3].double()
    viewmat[:3, :3] = turn @ transform[:, :3]
    offset = torch.tensor(there.offset, dtype=torch.float64)
    viewmat[:3, 3] = turn @ (transform[:, 3] + transform[:, :3] @ offset) + shift / scale
    picture = there.render(own._replace(viewmat=viewmat.float()))[0]
    assert float((picture - splat.render(own)[0]).abs().mean()) < 1e-3


@pytest.mark.parametrize("file_format", ["ascii", "binary_little_endian"])
def test_georeferenced_doubles_keep_their_places(tmp_path: Path, file_format: str) -> None:
    splat = make_splat(500)
    columns = columns_of(splat)
    true = splat.means.double().numpy() + np.array(UTM)
    for axis, name in enumerate("xyz"):
        columns[name] = ("double", true[:, axis])
    read = read_ply(write_file(tmp_path / "a.ply", columns, file_format))
    found = read.means.double().numpy() + np.array(read.offset)
    assert np.abs(found - true).max() < 1e-6
    again = write_ply(tmp_path / "b.ply", replace(read, labels=None))
    header, _, data = again.read_bytes().partition(b"end_header\n")
    assert header.count(b"property double") == 3 and b"property double x" in header
    table = np.frombuffer(
        data, [("xyz", "<f8", 3), ("rest", "<f4", len(columns) - 3)]
    )  # fmt: skip
    assert np.abs(table["xyz"] - true).max() < 1e-6
    assert np.array_equal(table["rest"][:, -8], splat.opacities.numpy())
    second = read_ply(again)
    assert second.offset == read.offset
    assert_same(second, read)
    pytest.importorskip("gsply")
    with pytest.raises(ExportError, match="500123, 4649876"):
        export_objects(tmp_path / "out", read, format="spz")
    _, sidecar = export_objects(tmp_path / "out", replace(read, labels=torch.zeros(500, dtype=torch.int32)))
    assert "4649" in sidecar.read_text(), "boxes are where the file has them"


def test_single_floats_far_away_are_warned_of(tmp_path: Path, said: object) -> None:
    splat = make_splat(500)
    splat.means += torch.tensor(UTM)
    columns = columns_of(splat)
    assert read_ply(write_file(tmp_path / "a.ply", columns)).offset != (0.0, 0.0, 0.0)
    text = said.getvalue()  # type: ignore[attr-defined]
    assert "single floats" in text and "0.5 apart" in text
    assert ply_layout.FAR == 2**14
