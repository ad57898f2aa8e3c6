"""Objects leave a splat as files of their own; hostile names stay names; compressed formats show the same splat."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiseg_ns.formats import export
from gradiseg_ns.formats.export import ExportError, export_bytes, export_objects, safe_name
from gradiseg_ns.formats.ply_layout import PlyError
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import ply_bytes, write_ply
from gradiseg_ns.rendering import Camera
from gradiseg_ns.scene.objects import object_colors
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.errors import WriteError

PARAMETERS = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
HOSTILE = {
    0: "../../x", 1: "", 2: "🍎🍐", 3: "a" * 300, 4: "cup", 5: "cup", 6: "/etc/passwd", 7: "..", 8: ".hidden",
    9: "C:\\x\\y", 10: "tasse à café", 11: "a\x00b\nc", 12: "con", 13: "-rf *", 14: "\ud800", 15: "CUP", 16: "№ ½ ﬁ",
}  # fmt: skip


def make_splat(n: int = 2000, degree: int = 3, ids: int = 4, seed: int = 0) -> Splat:
    """A cloud of small Gaussians; labels from -1 on."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Splat(
        means=random(n, 3),
        quats=3.0 * random(n, 4),
        scales=0.3 * random(n, 3) - 3.0,
        opacities=random(n),
        features_dc=0.8 * random(n, 3),
        features_rest=0.1 * random(n, (degree + 1) ** 2 - 1, 3),
        labels=torch.randint(-1, ids, (n,), generator=generator, dtype=torch.int32),
    )


def assert_same(read: Splat, written: Splat) -> None:
    for name in PARAMETERS:
        assert torch.equal(getattr(read, name), getattr(written, name)), name


def labels_of(splat: Splat) -> torch.Tensor:
    assert splat.labels is not None
    return splat.labels


# -------------------------------------------------------------------------------------------------------------- files


def test_one_file_and_its_sidecar(tmp_path: Path) -> None:
    splat = make_splat()
    splat.antialiased = True
    done: list[tuple[int, int]] = []
    written = export_objects(
        tmp_path / "new", splat, {1: "cup"}, colors={1: (1.0, 0.0, 0.5)}, progress=lambda *p: done.append(p)
    )
    assert written == [tmp_path / "new" / "scene.ply", tmp_path / "new" / "scene.objects.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scene.objects.json", "scene.ply"]
    read = read_ply(written[0])
    assert_same(read, splat)
    assert torch.equal(labels_of(read), labels_of(splat)) and read.antialiased
    assert done == [(1, 1)]
    write_ply(tmp_path / "scene.ply", splat, names={1: "cup"}, colors={1: (1.0, 0.0, 0.5)})
    for path in written:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    table = read_objects(written[0])
    assert table is not None and table.names[1] == "cup"
    assert table.colors.tolist() == [
        *object_colors([0]).tolist(),
        [1.0, 0.0, 0.5],
        *object_colors([2, 3]).tolist(),
    ]


def test_one_file_an_object(tmp_path: Path) -> None:
    splat = make_splat(ids=len(HOSTILE))
    done: list[tuple[int, int]] = []
    written = export_objects(
        tmp_path / "a", splat, {**HOSTILE, 99: "gone"}, separate=True, progress=lambda *p: done.append(p)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "nothing outside the folder"
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == len(HOSTILE) + 1 == len(written) and written[-1].name == "scene.objects.json"
    assert len({name.lower() for name in files}) == len(files)
    assert done == [(i, len(HOSTILE)) for i in range(1, len(HOSTILE) + 1)]
    content = json.loads(written[-1].read_text())
    objects = {entry["id"]: entry for entry in content["objects"]}
    assert objects[99]["file"] is None and objects[99]["gaussians"] == 0 and objects[99]["box"] is None
    assert content["unknown_gaussians"] == int((labels_of(splat) < 0).sum()) > 0
    for (object_id, name), path in zip(HOSTILE.items(), written[:-1], strict=True):
        assert objects[object_id]["name"] == name and objects[object_id]["file"] == path.name
        assert re.fullmatch(rf"{object_id}(_[A-Za-z0-9_-]{{1,60}})?\.ply", path.name)
        read, own = read_ply(path), splat.select(labels_of(splat) == object_id)
        assert_same(read, own)
        assert len(read) == objects[object_id]["gaussians"]
        assert labels_of(read).unique().tolist() == [object_id]
        assert objects[object_id]["box"]["min"] == own.means.amin(dim=0).tolist()
        assert path.read_bytes() == ply_bytes(own)


def test_a_second_export_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    splat = make_splat()
    export_objects(tmp_path, splat, {1: "cup", 2: "plate"}, separate=True)
    (tmp_path / "4_mine.ply").write_text("not listed")
    export_objects(tmp_path, splat.select(labels_of(splat) < 2), {1: "mug"}, separate=True)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["0.ply", "1_mug.ply", "4_mine.ply", "older", "scene.objects.json"]
    assert sorted(path.name for path in (tmp_path / "older").iterdir()) == [
        "1_cup.ply",
        "2_plate.ply",
        "3.ply",
    ]
    # a sidecar of a stranger names no file outside, and none that we would not have written
    for name in ("../9.ply", "/9.ply", "4_mine.ply.bak", ".ply", "notes.txt"):
        (tmp_path / "scene.objects.json").write_text(json.dumps({"objects": [{"id": 1, "file": name}]}))
        assert export._listed(tmp_path / "scene.objects.json") == set()


def test_safe_names() -> None:
    assert {name: safe_name(name) for name in HOSTILE.values()} == {
        "../../x": "x", "": "", "🍎🍐": "", "a" * 300: "a" * 60, "cup": "cup", "/etc/passwd": "etc_passwd", "..": "",
        ".hidden": "hidden", "C:\\x\\y": "C_x_y", "tasse à café": "tasse_a_cafe", "a\x00b\nc": "a_b_c", "con": "con",
        "-rf *": "rf", "\ud800": "", "CUP": "CUP", "№ ½ ﬁ": "No_1_2_fi",
    }  # fmt: skip
    assert safe_name("a" * 59 + " b") == "a" * 59


@pytest.mark.parametrize("stem", ["../up", "/abs", ".x", "", "a/b", "a\\b"])
def test_a_stem_never_leaves_the_folder(tmp_path: Path, stem: str) -> None:
    written = export_objects(tmp_path / "a" / "b", make_splat(20), stem=stem)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert all(path.parent == tmp_path / "a" / "b" and not path.name.startswith(".") for path in written)
    assert "/" not in export_bytes(make_splat(20), stem=stem)[0]


def test_older_files_stay_until_the_new_ones_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_objects(tmp_path, make_splat(), HOSTILE, separate=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = export.vertex_blocks
    count = iter(range(100))

    def failing(splat: Splat, *, ids: bool) -> object:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        return real(splat, ids=ids)

    monkeypatch.setattr(export, "vertex_blocks", failing)
    with pytest.raises(WriteError, match="No space left"):
        export_objects(tmp_path, make_splat(seed=1), HOSTILE, separate=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    # what a link of that name leads to is not touched
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "scene.ply").symlink_to(tmp_path / "outside")
    export_objects(tmp_path / "links", make_splat())
    assert (tmp_path / "outside").read_text() == "kept"
    assert not (tmp_path / "links" / "scene.ply").is_symlink()


@pytest.mark.parametrize("separate", [False, True])
def test_one_download(tmp_path: Path, separate: bool) -> None:
    splat = make_splat()
    names = {0: "../x", 1: "cup"}
    written = export_objects(tmp_path, splat, names, separate=separate, stem="my scene")
    name, data = export_bytes(splat, names, separate=separate, stem="my scene")
    assert name == "my_scene.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [path.name for path in written]
        for path in written:
            assert archive.read(path.name) == path.read_bytes()
            assert archive.getinfo(path.name).compress_type == zipfile.ZIP_STORED


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splat = make_splat()
    with pytest.raises(ExportError, match="expected one of ply, compressed-ply, spz"):
        export_objects(tmp_path, splat, format="obj")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="no object ids"):
        export_objects(tmp_path, replace(splat, labels=None), separate=True)
    with pytest.raises(ExportError, match="nothing to write"):
        export_objects(tmp_path, replace(splat, labels=torch.full((2000,), -1)), separate=True)
    with pytest.raises(PlyError, match="nothing to write"):
        export_objects(tmp_path, splat.select(torch.zeros(2000, dtype=torch.bool)))
    with pytest.raises(PlyError, match="color"):
        export_objects(tmp_path, splat, colors={0: (1.0, 0.0)})
    monkeypatch.setitem(sys.modules, "gsply", None)
    for format in ("compressed-ply", "spz"):
        with pytest.raises(ExportError, match=re.escape("pip install 'gsply[spz]")):
            export_objects(tmp_path, splat, format=format)
    assert list(tmp_path.iterdir()) == []


def test_gaussians_that_cannot_be_drawn_are_counted_nowhere(tmp_path: Path) -> None:
    splat = make_splat(50)
    splat.labels = torch.arange(50, dtype=torch.int32) % 2
    splat.means[:20:2] = float("nan")
    *files, sidecar = export_objects(tmp_path, splat, separate=True)
    counts = [entry["gaussians"] for entry in json.loads(sidecar.read_text())["objects"]]
    assert counts == [15, 25] == [len(read_ply(path)) for path in files]


# ------------------------------------------------------------------------------------------------- compressed formats


def camera(turned: bool = False) -> Camera:
    """Looks at the origin from the side; `turned` with the world turned by 180 degrees about x."""
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))[0]
    viewmat[:3, :3] *= torch.linalg.det(viewmat[:3, :3])
    viewmat[2, 3] = 5.0
    if turned:
        viewmat[:3, :3] = viewmat[:3, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    K = torch.tensor([[60.0, 0.0, 32.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]])
    return Camera(viewmat=viewmat, K=K, width=64, height=48)


def read_gsply(path: Path) -> Splat:
    import gsply

    data = gsply.read_spz(path) if path.suffix == ".spz" else gsply.plyread(path)
    rest = data.shN if data.shN is not None else torch.zeros(len(data.means), 0, 3).numpy()
    arrays = (data.means, data.quats, data.scales, data.opacities, data.sh0, rest)
    return Splat(*(torch.from_numpy(array.copy()) for array in arrays))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("format", ["compressed-ply", "spz"])
def test_compressed_formats_show_the_same(tmp_path: Path, format: export.Format, degree: int) -> None:
    pytest.importorskip("gsply")
    splat = make_splat(degree=degree)
    before = {name: getattr(splat, name).clone() for name in PARAMETERS}
    file, sidecar = export_objects(tmp_path, splat, {1: "cup"}, format=format)
    assert file.name == ("scene.spz" if format == "spz" else "scene.compressed.ply")
    assert sidecar.name == "scene.objects.json"
    assert all(torch.equal(getattr(splat, name), value) for name, value in before.items())
    read = read_gsply(file)
    assert len(read) == len(splat) and read.sh_degree == degree
    # SPZ's y points up and its z back
    picture = splat.render(camera())[0]
    again = read.render(camera(turned=format == "spz"))[0]
    assert float(picture.mean()) > 0.2 and float(picture.std()) > 0.1
    difference = (picture - again).abs()
    assert float(difference.mean()) < 0.006 and float(difference.max()) < 0.08
    if degree > 0:  # directions matter in the comparison
        assert float((picture - read.render(camera(turned=format != "spz"))[0]).abs().mean()) > 0.05
    count = sum(entry["gaussians"] for entry in json.loads(sidecar.read_text())["objects"])
    assert count == int((labels_of(splat) >= 0).sum())


def test_spz_keeps_the_order_and_each_value(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    splat = make_splat()
    read = read_gsply(export_objects(tmp_path, splat, format="spz")[0])
    signs = torch.tensor([1.0, -1.0, -1.0])
    assert float((read.means - splat.means * signs).abs().max()) <= 2.0**-17 + 1e-6, (
        "16 bits behind the point"
    )
    assert float((read.scales - splat.scales).abs().max()) <= 1 / 32 + 1e-6
    assert float((read.opacities.sigmoid() - splat.opacities.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((read.features_dc - splat.features_dc).abs().max()) <= 0.5 / (255 * 0.15) + 1e-6
    expected = splat.features_rest.abs().clamp(max=1.0)
    assert float((read.features_rest.abs() - expected).abs().max()) <= 1 / 128 + 1e-6
    turned = splat.quats / splat.quats.norm(dim=1, keepdim=True) * torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert float((read.quats * turned).sum(dim=1).abs().min()) > 1 - 1e-5


def test_compressed_chunks_are_neighbours(tmp_path: Path) -> None:
    """Each chunk of 256 has 10 bits for its extent: in any order of the Gaussians a centre would be far off."""
    gsply = pytest.importorskip("gsply")
    splat = make_splat(50_000, 0)
    path = export_objects(tmp_path, splat, format="compressed-ply")[0]
    read = torch.from_numpy(gsply.plyread(path).means.copy())
    order = export._morton_order(splat.means.numpy())
    assert sorted(order.tolist()) == list(range(50_000))
    error = (read - splat.means[order]).abs()
    extent = float((splat.means.amax(dim=0) - splat.means.amin(dim=0)).max())
    assert float(error.median()) < 1e-4 * extent
    one = export._morton_order(np.zeros((3, 3)))
    assert sorted(one.tolist()) == [0, 1, 2]


def test_antialiasing_is_marked(tmp_path: Path) -> None:
    gsply = pytest.importorskip("gsply")
    for antialiased in (False, True):
        splat = replace(make_splat(300), antialiased=antialiased)
        path = export_objects(tmp_path, splat, format="compressed-ply")[0]
        assert (b"comment SplatRenderMode: mip\nend_header\n" in path.read_bytes()) is antialiased
        assert len(gsply.plyread(path).means) == 300
        path = export_objects(tmp_path, splat, format="spz")[0]
        assert gzip.decompress(path.read_bytes())[14] == antialiased
        assert len(gsply.read_spz(path).means) == 300


def test_spz_of_large_scenes(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    splat = make_splat(300, 0)
    for reach, bits in ((1.0, 16), (127.9, 16), (128.1, 15), (1023.0, 13), (2047.0, 12)):
        far = replace(splat, means=splat.means / splat.means.abs().max() * reach)
        path = export_objects(tmp_path, far, format="spz")[0]
        assert gzip.decompress(path.read_bytes())[13] == bits
        error = (read_gsply(path).means - far.means * torch.tensor([1.0, -1.0, -1.0])).abs().max()
        assert float(error) <= 0.5 / 2**bits + 1e-6 * reach
    before = path.read_bytes()
    far = replace(splat, means=splat.means.clone())
    far.means[3:5, 1] = -3000.0
    with pytest.raises(ExportError, match="2 Gaussians lie more than 2048 units from the origin"):
        export_objects(tmp_path, far, format="spz")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_compressed_objects_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    splat = make_splat(600, ids=3)
    *files, sidecar = export_objects(tmp_path, splat, {0: "table"}, format="spz", separate=True)
    assert [path.name for path in files] == ["0_table.spz", "1.spz", "2.spz"]
    entries = json.loads(sidecar.read_text())["objects"]
    assert [len(read_gsply(path)) for path in files] == [entry["gaussians"] for entry in entries]
    name, data = export_bytes(splat, {0: "table"}, format="spz", separate=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert name == "scene.zip" and archive.namelist() == [path.name for path in (*files, sidecar)]
