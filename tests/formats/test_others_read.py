"""What we write, others read: opened for real by gsply, plyfile and splat-transform, and by readers that know floats only."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gradiseg_ns.formats.export import export_objects
from gradiseg_ns.formats.foreign import flipped
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.write_ply import write_ply
from gradiseg_ns.scene.splat import Splat

from .test_export import assert_same, labels_of, make_splat

FLOATS = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(45)),
          "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
"""What 3DGS itself writes: a viewer of the SIBR kind counts on these 62 and no other."""


def by_floats(path: Path) -> dict[str, NDArray]:
    """As programs read it that know the type float only, and take every property to be one."""
    header, _, data = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[0] == "ply" and lines[1] == "format binary_little_endian 1.0"
    count = int(lines[2].removeprefix("element vertex "))
    names = [line.split()[2] for line in lines if line.startswith("property")]
    assert {line.split()[1] for line in lines if line.startswith("property")} == {"float"}
    assert len(data) == 4 * len(names) * count
    return dict(zip(names, np.frombuffer(data, "<f4").reshape(count, -1).T, strict=True))


def check(splat: Splat, values: dict[str, NDArray], *, ids: bool) -> None:
    columns = {
        "x": splat.means[:, 0], "z": splat.means[:, 2], "opacity": splat.opacities, "scale_1": splat.scales[:, 1],
        "rot_3": splat.quats[:, 3], "f_dc_2": splat.features_dc[:, 2], "f_rest_1": splat.features_rest[:, 1, 0],
        "f_rest_44": splat.features_rest[:, 14, 2],
    }  # fmt: skip
    for name, expected in columns.items():
        assert np.array_equal(values[name], expected.numpy()), name
    if ids:
        assert values["object_id"].tolist() == labels_of(splat).tolist()
    else:
        assert "object_id" not in values


@pytest.mark.parametrize("ids", [True, False])
def test_one_file(tmp_path: Path, ids: bool) -> None:
    splat = make_splat(500)
    path = export_objects(tmp_path, splat, ids=ids)[0]
    found = by_floats(path)
    assert list(found) == [*FLOATS, *(["object_id"] if ids else [])]
    check(splat, found, ids=ids)
    plyfile = pytest.importorskip("plyfile")
    table = plyfile.PlyData.read(path)["vertex"].data
    check(splat, {name: table[name] for name in table.dtype.names}, ids=ids)
    read = read_ply(path)
    assert_same(read, splat)
    assert torch.equal(labels_of(read), labels_of(splat)) if ids else read.labels is None


def test_separate_files_are_plain_3dgs(tmp_path: Path) -> None:
    """Their one id is a comment: every reader of 3DGS's own files reads them, and we know the object."""
    splat = make_splat(500)
    for path in export_objects(tmp_path, splat, separate=True)[:-1]:
        object_id = int(path.stem)
        own = splat.select(labels_of(splat) == object_id)
        found = by_floats(path)
        assert list(found) == FLOATS
        check(own, found, ids=False)
        assert f"comment object_id {object_id}\n".encode() in path.read_bytes()
        assert torch.equal(labels_of(read_ply(path)), labels_of(own))
    for path in export_objects(tmp_path / "b", splat, separate=True, ids=False)[:-1]:
        assert b"object_id" not in path.read_bytes() and read_ply(path).labels is None


def test_every_id_is_kept(tmp_path: Path) -> None:
    for ids in (
        [0, 1, 2**24 - 1, 2**24, -1],
        [0, 2**24 + 1, 2**31 - 1, 2**24, -1],
        [2**31 - 1] * 5,
        [-1] * 5,
        [7, 7, 7, 7, -1],
    ):
        splat = make_splat(5)
        splat.labels = torch.tensor(ids, dtype=torch.int32)
        path = write_ply(tmp_path / "a.ply", splat)
        by_floats(path)
        read = read_ply(path)
        assert labels_of(read).tolist() == ids and read.extra == {}
    # files of before
    splat.labels = torch.tensor([0, 2**24 + 1, 2**31 - 1, 5, -1], dtype=torch.int32)
    header, end, data = (
        write_ply(tmp_path / "a.ply", splat, ids=False).read_bytes().partition(b"end_header\n")
    )
    rows = np.frombuffer(data, np.uint8).reshape(5, -1)
    old = np.concatenate([rows, splat.labels.numpy().astype("<i4").view(np.uint8).reshape(5, 4)], axis=1)
    path.write_bytes(header + b"property int object_id\n" + end + old.tobytes())
    assert torch.equal(labels_of(read_ply(path)), splat.labels)


def test_comments_that_others_honour(tmp_path: Path) -> None:
    splat = make_splat(5)
    splat.antialiased, splat.up, splat.frame = True, "z", "nerfstudio"
    path = write_ply(tmp_path / "a.ply", splat)
    lines = path.read_bytes().partition(b"end_header\n")[0].decode().splitlines()
    assert lines[2] == "element vertex 5", "SIBR looks for it there"
    assert [line for line in lines if line.startswith("comment")] == [
        "comment SplatRenderMode: mip",
        "comment Vertical axis: z",
        "comment Frame: nerfstudio",
    ]
    read = read_ply(path)
    assert (read.antialiased, read.up, read.frame) == (True, "z", "nerfstudio")


@pytest.mark.parametrize("separate", [False, True])
def test_gsply(tmp_path: Path, separate: bool) -> None:
    gsply = pytest.importorskip("gsply")
    splat = make_splat(500)
    splat.antialiased, splat.up, splat.frame = True, "z", "nerfstudio"
    for path in export_objects(tmp_path, splat, separate=separate)[:-1]:
        own = splat.select(labels_of(splat) == int(path.stem)) if separate else splat
        data = gsply.plyread(path)
        for mine, theirs in (
            (own.means, data.means), (own.quats, data.quats), (own.scales, data.scales),
            (own.opacities, data.opacities.reshape(-1)), (own.features_dc, data.sh0), (own.features_rest, data.shN),
        ):  # fmt: skip
            assert np.array_equal(mine.numpy(), theirs)


def assert_close(read: Splat, written: Splat) -> None:
    """The same Gaussians in any order, coarser: the centre of each, and its colour and opacity."""
    distance, nearest = torch.cdist(written.means, read.means).min(dim=1)
    assert len(read) == len(written) == len(nearest.unique()) and float(distance.max()) < 0.01
    assert float((read.features_dc[nearest] - written.features_dc).abs().max()) < 0.03
    assert float((read.opacities[nearest].sigmoid() - written.opacities.sigmoid()).abs().max()) < 0.005
    assert float((read.scales[nearest] - written.scales).abs().max()) < 0.05


def test_splat_transform(tmp_path: Path) -> None:
    """PlayCanvas's converter: all values, and the id as a column. Version 2.7.1 forgets the mark of antialiasing.

    Version 3.7.0 leaves SPZ's axes as they are, as Niantic's converter does: a PLY of it is turned by 180 degrees about x.
    """
    program = shutil.which("splat-transform")
    if program is None or shutil.which("node") is None:
        pytest.skip("splat-transform is not there: npm install -g @playcanvas/splat-transform")
    splat = make_splat(500)
    path = export_objects(tmp_path, splat)[0]

    def convert(source: Path, target: str, *actions: str) -> Path:
        command = [program, "-w", str(source), *actions, str(tmp_path / target)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return tmp_path / target

    again = read_ply(convert(path, "again.ply"))
    assert_same(again, splat)
    assert torch.equal(labels_of(again), labels_of(splat))
    one = read_ply(convert(path, "one.ply", "-V", "object_id,eq,2"))
    assert_same(one, splat.select(labels_of(splat) == 2))
    first = export_objects(tmp_path / "parts", splat, separate=True)[1]
    assert_same(read_ply(convert(first, "part.ply")), splat.select(labels_of(splat) == 1))
    pytest.importorskip("gsply")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120, check=True)
    told = done.stdout + done.stderr
    version = re.search(r"v?(\d+)\.", told)
    assert version is not None, told
    spz = flipped(splat) if int(version[1]) >= 3 else splat
    for format, expected in (("compressed-ply", splat), ("spz", spz)):
        packed = export_objects(tmp_path / "packed", splat, format=format)[0]
        assert_close(read_ply(convert(packed, "unpacked.ply")), expected)
    for target in ("packed.compressed.ply", "packed.spz"):  # what it packs, gsply unpacks for us
        packed = read_ply(convert(path, target, *(["--spz-version", "3"] if target.endswith("spz") else [])))
        assert_close(packed, spz if target.endswith("spz") else splat)
