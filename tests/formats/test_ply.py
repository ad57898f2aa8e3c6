"""Splats survive a PLY file; files of other programs are read; what is no splat is refused in plain words."""

from __future__ import annotations

import ast
import errno
import importlib.util
import io
import json
import typing
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from gradiseg_ns.formats import foreign, sidecar
from gradiseg_ns.formats import read_ply as reading
from gradiseg_ns.formats import write_ply as writing
from gradiseg_ns.formats.ply_layout import PlyError
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import read_objects
from gradiseg_ns.formats.write_ply import ply_bytes, write_ply
from gradiseg_ns.rendering import Camera
from gradiseg_ns.scene.objects import object_colors
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools import atomic, terminal
from gradiseg_ns.tools.errors import GradisegError, WriteError

PARAMETERS = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


def make_splat(n: int = 7, degree: int = 3, *, labels: bool = False, seed: int = 0) -> Splat:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Splat(
        means=random(n, 3),
        quats=3.0 * random(n, 4),
        scales=random(n, 3) * 0.3 - 1.5,
        opacities=random(n),
        features_dc=random(n, 3),
        features_rest=0.2 * random(n, (degree + 1) ** 2 - 1, 3),
        labels=torch.randint(-1, 3, (n,), generator=generator, dtype=torch.int32) if labels else None,
    )


def assert_same(read: Splat, written: Splat) -> None:
    for name in PARAMETERS:
        assert getattr(read, name).dtype == torch.float32
        assert torch.equal(getattr(read, name), getattr(written, name)), name


def labels_of(splat: Splat) -> torch.Tensor:
    assert splat.labels is not None
    return splat.labels


def columns_of(splat: Splat) -> dict[str, tuple[str, NDArray]]:
    """Type and values of each property, as the original 3DGS writes them, without the code under test."""
    columns: dict[str, NDArray] = {}
    for name, tensor in (
        ("xyz", splat.means),
        (("nx", "ny", "nz"), torch.full((len(splat), 3), 9.0)),
        ([f"f_dc_{i}" for i in range(3)], splat.features_dc),
        (None, splat.features_rest.transpose(1, 2).flatten(1)),
        (["opacity"], splat.opacities[:, None]),
        ([f"scale_{i}" for i in range(3)], splat.scales),
        ([f"rot_{i}" for i in range(4)], splat.quats),
    ):
        names = name or [f"f_rest_{i}" for i in range(tensor.shape[1])]
        columns.update(zip(names, tensor.numpy().T, strict=True))
    return {name: ("float", values) for name, values in columns.items()}


CODES = {"float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "uchar": "u1", "uint8": "u1",
         "short": "i2", "int": "i4", "int32": "i4", "uint32": "u4", "char": "i1", "ushort": "u2"}  # fmt: skip


def write_file(
    path: Path,
    columns: dict[str, tuple[str, NDArray]],
    file_format: str = "binary_little_endian",
    *,
    before: tuple[str, bytes] = ("", b""),
    after: tuple[str, bytes] = ("", b""),
    comments: Sequence[str] = (),
    newline: str = "\n",
) -> Path:
    """A PLY file from its parts; `before` and `after` are the headers and data of other elements."""
    n = len(next(iter(columns.values()))[1])
    header = f"ply\nformat {file_format} 1.0\n" + "".join(f"comment {text}\n" for text in comments)
    header += f"{before[0]}element vertex {n}\n"
    header += "".join(f"property {kind} {name}\n" for name, (kind, _) in columns.items())
    header += f"{after[0]}end_header\n"
    if file_format == "ascii":
        rows = zip(*(values.tolist() for _, values in columns.values()), strict=True)
        data = "".join(" ".join(map(repr, row)) + "\n" for row in rows).encode()
    else:
        dtype = np.dtype([(name, ORDERS[file_format] + CODES[kind]) for name, (kind, _) in columns.items()])
        table = np.empty(n, dtype)
        for name, (_, values) in columns.items():
            table[name] = values
        data = table.tobytes()
    path.write_bytes(header.replace("\n", newline).encode() + before[1] + data + after[1])
    return path


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the user is told."""
    output = io.StringIO()
    console = Console(file=output, width=10_000)
    monkeypatch.setattr(terminal, "console", lambda: console)
    return output


# ------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip(tmp_path: Path, degree: int, said: io.StringIO) -> None:
    splat = make_splat(degree=degree)
    path = write_ply(tmp_path / "new" / "folders" / "a.ply", splat)
    assert path == tmp_path / "new" / "folders" / "a.ply"
    read = read_ply(str(path))
    assert_same(read, splat)
    assert read.sh_degree == degree and read.labels is None and read.extra == {} and not read.antialiased
    assert said.getvalue() == ""
    assert [file.name for file in path.parent.iterdir()] == ["a.ply"]


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More Gaussians than one block holds, and not a whole number of blocks."""
    splat = make_splat(50, labels=True)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(writing, "BLOCK_BYTES", 2000)
    assert_same(read_ply(write_ply(tmp_path / "a.ply", splat)), splat)
    read = read_ply(write_file(tmp_path / "b.ply", columns_of(splat), "ascii"))
    assert_same(read, splat)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    splat = make_splat(labels=True)
    splat.extra = {"age": torch.arange(7)}
    assert ply_bytes(splat) == write_ply(tmp_path / "a.ply", splat).read_bytes()
    assert ply_bytes(splat, extra=False) == write_ply(tmp_path / "a.ply", splat, extra=False).read_bytes()
    with pytest.raises(PlyError, match="nothing to write"):
        ply_bytes(make_splat(0))


def test_labels_extra_and_antialiasing(tmp_path: Path) -> None:
    splat = make_splat(labels=True)
    splat.antialiased = True
    splat.labels = torch.tensor([5, -1, 2**31 - 1, 0, 7, -9, 3], dtype=torch.int32)
    splat.extra = {"confidence": torch.rand(7), "größe": torch.tensor([1.0, float("nan"), *range(5)])}
    read = read_ply(write_ply(tmp_path / "a.ply", splat))
    assert_same(read, splat)
    assert read.antialiased
    assert read.labels is not None and read.labels.dtype == torch.int32
    assert read.labels.tolist() == [5, -1, 2**31 - 1, 0, 7, -1, 3]
    assert list(read.extra) == ["confidence", "größe"]
    for name, values in splat.extra.items():
        assert torch.equal(read.extra[name].nan_to_num(-5.0), values.nan_to_num(-5.0))
    assert read_ply(write_ply(tmp_path / "a.ply", splat, extra=False)).extra == {}


def test_layout_of_a_written_file(tmp_path: Path) -> None:
    """Byte for byte: what viewers rely on, the number of Gaussians on the third line included."""
    splat = make_splat(4, 1, labels=True)
    splat.antialiased = True
    splat.extra = {"age": torch.arange(4)}
    header, _, data = write_ply(tmp_path / "a.ply", splat).read_bytes().partition(b"end_header\n")
    floats = list(columns_of(splat))
    assert floats[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert floats[-8:] == [
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"
    ]  # fmt: skip
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 4",
        *(f"property float {name}" for name in floats),
        "property float object_id",
        "property float age",
        "comment SplatRenderMode: mip",
    ]
    assert splat.labels is not None
    dtype = np.dtype([*((name, "<f4") for name in floats), ("object_id", "<f4"), ("age", "<f4")])
    table = np.frombuffer(data, dtype)
    for name, (_, values) in columns_of(splat).items():
        assert np.array_equal(table[name], 0 * values if name in ("nx", "ny", "nz") else values), name
    assert table["object_id"].tolist() == splat.labels.tolist()
    assert table["age"].tolist() == [0, 1, 2, 3]


def test_parameters_of_a_model_can_be_written(tmp_path: Path) -> None:
    """They require gradients and may have another precision."""
    splat = make_splat()
    for name in PARAMETERS:
        setattr(splat, name, torch.nn.Parameter(getattr(splat, name).double()))
    read = read_ply(write_ply(tmp_path / "a.ply", splat))
    assert torch.equal(read.quats.double(), splat.quats)


@pytest.mark.parametrize("file_format", FORMATS)
def test_render_is_the_same(tmp_path: Path, file_format: str) -> None:
    splat = make_splat(30, 2)
    splat.antialiased = True
    K = torch.tensor([[20.0, 0.0, 12.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]])
    viewmat = torch.eye(4)
    viewmat[2, 3] = 5.0
    camera = Camera(viewmat=viewmat, K=K, width=24, height=16)
    picture, alpha = splat.render(camera)
    assert float(alpha.mean()) > 0.1 and float(picture.std()) > 0.05
    for path in (
        write_ply(tmp_path / "a.ply", splat),
        write_file(tmp_path / "b.ply", columns_of(splat), file_format, comments=["SplatRenderMode: mip"]),
    ):
        assert torch.equal(read_ply(path).render(camera)[0], picture)


# ----------------------------------------------------------------------------------- files of other programs


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("degree", [0, 3])
def test_formats(tmp_path: Path, file_format: str, degree: int, said: io.StringIO) -> None:
    splat = make_splat(degree=degree)
    read = read_ply(write_file(tmp_path / "a.ply", columns_of(splat), file_format))
    assert_same(read, splat)
    assert read.extra == {}  # normals are no extra
    assert said.getvalue() == ""


def test_windows_line_ends_and_blank_lines(tmp_path: Path) -> None:
    splat = make_splat()
    assert_same(read_ply(write_file(tmp_path / "a.ply", columns_of(splat), newline="\r\n")), splat)
    path = write_file(tmp_path / "b.ply", columns_of(splat), "ascii")
    path.write_bytes(
        path.read_bytes().replace(b"\n", b"\r\n").replace(b"end_header", b"obj_info x\r\n\r\nend_header")
    )
    path.write_bytes(path.read_bytes().rstrip())
    assert_same(read_ply(path), splat)


@pytest.mark.parametrize("file_format", FORMATS)
def test_shuffled_properties_of_other_types(tmp_path: Path, file_format: str) -> None:
    splat = make_splat()
    columns = columns_of(splat)
    for index, name in enumerate(columns):
        kind = ("double", "float64", "float32")[index % 3]
        columns[name] = (kind, columns[name][1].astype(CODES[kind]))
    columns["flags"] = ("ushort", np.array([0, 1, 65535, 3, 4, 5, 6], np.uint16))
    columns["delta"] = ("char", np.array([-128, 1, 2, 3, 4, 5, 127], np.int8))
    columns["depth"] = ("double", np.array([1e300, *np.arange(6) / 8]))
    names = list(np.random.default_rng(0).permutation(list(columns)))
    read = read_ply(write_file(tmp_path / "a.ply", {n: columns[n] for n in names}, file_format))
    assert_same(read, splat)
    assert sorted(read.extra) == ["delta", "depth", "flags"]
    assert all(values.dtype == torch.float32 for values in read.extra.values())
    assert read.extra["flags"].tolist() == [0, 1, 65535, 3, 4, 5, 6]
    assert read.extra["delta"].tolist() == [-128, 1, 2, 3, 4, 5, 127]
    assert read.extra["depth"].tolist() == [np.inf, *np.arange(6) / 8]


@pytest.mark.parametrize("file_format", FORMATS)
def test_other_elements_are_skipped(tmp_path: Path, file_format: str) -> None:
    splat = make_splat()
    header = "element face 2\nproperty list uchar int vertex_indices\nproperty float area\n"
    header += "element camera 1\nproperty double focal\nproperty short width\n"
    if file_format == "ascii":
        data = b"3 0 1 2 0.5\n5 0 1 2 3 4 0.25\n700.5 640\n"
    else:
        order = ORDERS[file_format]
        data = b"".join(
            b"%c" % len(face) + np.array(face, order + "i4").tobytes() + np.array(0.5, order + "f4").tobytes()
            for face in ((0, 1, 2), (0, 1, 2, 3, 4))
        )
        data += np.array(700.5, order + "f8").tobytes() + np.array(640, order + "i2").tobytes()
    other = (header + "element nothing 3\n", data)
    columns = columns_of(splat)
    assert_same(read_ply(write_file(tmp_path / "a.ply", columns, file_format, before=other)), splat)
    assert_same(read_ply(write_file(tmp_path / "b.ply", columns, file_format, after=other)), splat)


@pytest.mark.parametrize("file_format", FORMATS)
def test_colors_stand_in_for_spherical_harmonics(tmp_path: Path, file_format: str) -> None:
    rgb = np.array([[0, 51, 255], [102, 3, 4], [255, 255, 254]], np.uint8)
    columns = columns_of(make_splat(3, 0))
    for index, name in enumerate(("red", "green", "blue")):
        del columns[f"f_dc_{index}"]
        columns[name] = ("uchar", rgb[:, index])
    read = read_ply(write_file(tmp_path / "a.ply", columns, file_format))
    assert read.extra == {}
    assert torch.allclose(0.5 + 0.28209479177387814 * read.features_dc, torch.tensor(rgb) / 255, atol=1e-6)
    # where both are there, the colours are an extra
    columns = {**columns_of(make_splat(3, 0)), "red": ("uchar", rgb[:, 0])}
    read = read_ply(write_file(tmp_path / "b.ply", columns, file_format))
    assert_same(read, make_splat(3, 0))
    assert read.extra["red"].tolist() == [0, 102, 255]


@pytest.mark.parametrize("mode", ["sh_coeffs", "rgb"])
def test_nerfstudio_export(tmp_path: Path, mode: str) -> None:
    """Written by the installed nerfstudio's own code, taken from its file: importing it takes long."""
    spec = importlib.util.find_spec("nerfstudio")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "scripts" / "exporter.py").read_text(encoding="utf-8"))
    exporter = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "ExportGaussianSplat")
    function = next(n for n in exporter.body if isinstance(n, ast.FunctionDef) and n.name == "write_ply")
    function.decorator_list = []
    scope = {"np": np, "typing": typing, "OrderedDict": OrderedDict, "version": lambda name: "1.1.5"}
    exec(compile(ast.Module([function], []), "exporter.py", "exec"), scope)
    splat = make_splat(degree=3 if mode == "sh_coeffs" else 0)
    columns = OrderedDict((name, values[:, None]) for name, (_, values) in columns_of(splat).items())
    if mode == "rgb":
        for index, name in enumerate(("red", "green", "blue")):
            del columns[f"f_dc_{index}"]
            columns[name] = np.full(len(splat), 85 * index, np.uint8)
        splat.features_dc = ((torch.tensor([0.0, 85.0, 170.0]) / 255 - 0.5) / 0.28209479177387814).expand(
            7, 3
        )
    scope["write_ply"](str(tmp_path / "splat.ply"), len(splat), columns)
    assert b"comment Vertical Axis: z\n" in (tmp_path / "splat.ply").read_bytes()
    read = read_ply(tmp_path / "splat.ply")
    assert torch.allclose(read.features_dc, splat.features_dc, atol=1e-6)
    splat.features_dc = read.features_dc
    assert_same(read, splat)


@pytest.mark.parametrize("file_format", FORMATS)
def test_labels_of_other_programs(tmp_path: Path, file_format: str) -> None:
    columns = columns_of(make_splat(3))

    def read(**more: tuple[str, NDArray]) -> Splat:
        return read_ply(write_file(tmp_path / "a.ply", {**columns, **more}, file_format))

    ids = np.array([4, 0, 200], np.uint8)
    splat = read(label=("uchar", ids))
    assert splat.labels is not None and splat.labels.dtype == torch.int32 and splat.extra == {}
    assert splat.labels.tolist() == [4, 0, 200]
    splat = read(label=("uchar", ids), object_id=("int", np.array([-5, 1, 2**31 - 1], np.int32)))
    assert splat.labels is not None and splat.labels.tolist() == [-1, 1, 2**31 - 1]
    assert splat.extra["label"].tolist() == [4, 0, 200]
    splat = read(object_id=("uint32", np.array([2**32 - 1, 2**31, 6], np.uint32)))
    assert splat.labels is not None and splat.labels.tolist() == [-1, -1, 6]
    # an editor saved our file: every property is a float
    splat = read(object_id=("float", np.array([-1, 2**31, 7], np.float32)))
    assert splat.labels is not None and splat.labels.tolist() == [-1, -1, 7] and splat.extra == {}
    splat = read(object_id=("float", np.array([0.5, 2, 7], np.float32)), label=("float", ids.astype("f4")))
    assert splat.labels is None
    assert splat.extra["object_id"].tolist() == [0.5, 2, 7] and splat.extra["label"].tolist() == [4, 0, 200]


# ------------------------------------------------------------------------------------ what other programs write


def test_opaque_and_flat_gaussians_are_kept(tmp_path: Path, said: io.StringIO) -> None:
    """logit(1) is +inf, logit(0) is -inf, log(0) is -inf: an opaque, an invisible and a flat Gaussian."""
    splat = make_splat(4)
    splat.opacities[:] = torch.tensor([torch.inf, -torch.inf, 30.0, 1.0])
    splat.scales[3, 1] = -torch.inf
    read = read_ply(write_file(tmp_path / "a.ply", columns_of(splat)))
    assert read.opacities.tolist() == [20, -20, 30, 1] and float(read.scales[3, 1]) == -20
    assert said.getvalue() == ""
    splat.opacities[:] = torch.inf  # such as what an SPZ of a solid scene becomes
    assert read_ply(write_ply(tmp_path / "b.ply", splat)).opacities.tolist() == [20] * 4
    splat.scales[0, 0], splat.opacities[1] = torch.inf, torch.nan
    assert len(read_ply(write_file(tmp_path / "c.ply", columns_of(splat)))) == 2


def test_the_3d_filter_of_mip_splatting_is_folded_in(tmp_path: Path, said: io.StringIO) -> None:
    splat = make_splat(50, 1)
    width = torch.rand(50, generator=torch.Generator().manual_seed(1)) * 0.4
    width[:5] = 0.0
    columns = {**columns_of(splat), "filter_3D": ("float", width.numpy())}
    read = read_ply(write_file(tmp_path / "a.ply", columns))
    assert read.extra == {} and "filter_3D was folded" in said.getvalue()
    sizes = splat.scales.double().exp()
    wider = (sizes**2 + width.double()[:, None] ** 2).sqrt()
    opacity = splat.opacities.double().sigmoid() * (sizes.prod(dim=1) / wider.prod(dim=1))
    assert torch.allclose(read.scales.double().exp(), wider, rtol=1e-5)
    assert torch.allclose(read.opacities.double().sigmoid(), opacity, atol=1e-6)
    assert torch.equal(read.scales[:5], splat.scales[:5]), "nothing changes without a filter"
    assert torch.equal(read.opacities[:5], splat.opacities[:5])
    # written and read again, it is not folded twice
    assert_same(read_ply(write_ply(tmp_path / "b.ply", read)), read)


@pytest.mark.parametrize(
    ("comments", "antialiased"),
    [
        (["antialiased 1"], True),  # Postshot
        (["antialiased 0"], False),
        (["Antialiased 1"], True),
        (["SplatRenderMode: mip"], True),  # Brush
        (["SplatRenderMode: default"], False),
        (["splatrendermode: MIP"], True),
        (["SplatRenderMode: mip", "SplatRenderMode: default"], False),
        (["antialiased 0", "SplatRenderMode: mip"], True),
        (["not antialiased 1 at all"], False),
        ([], False),
    ],
)
def test_marks_of_antialiasing(tmp_path: Path, comments: list[str], antialiased: bool) -> None:
    assert (
        read_ply(write_file(tmp_path / "a.ply", columns_of(make_splat()), comments=comments)).antialiased
        is antialiased
    )


@pytest.mark.parametrize(
    ("comment", "up"),
    [
        ("Vertical Axis: z", "z"),  # ns-export
        ("Vertical axis: y", "y"),  # Brush
        ("Vertical axis: 0 -0.5 1e-3", "0 -0.5 1e-3"),
        ("Vertical axis: sideways", None),
    ],
)
def test_the_vertical_axis_stays(tmp_path: Path, comment: str, up: str | None) -> None:
    read = read_ply(write_file(tmp_path / "a.ply", columns_of(make_splat()), comments=[comment]))
    assert read.up == up
    assert read_ply(write_ply(tmp_path / "b.ply", read)).up == up


def test_values_that_are_activated_already_are_warned_of(tmp_path: Path, said: io.StringIO) -> None:
    splat = make_splat(50)
    read_ply(write_file(tmp_path / "a.ply", columns_of(splat)))
    assert said.getvalue() == ""
    splat.scales, splat.opacities = splat.scales.exp(), splat.opacities.sigmoid()
    read = read_ply(write_file(tmp_path / "a.ply", columns_of(splat)))
    assert_same(read, splat)
    assert "expected logarithms of sizes and logits" in said.getvalue() and "a.ply" in said.getvalue()


@pytest.mark.parametrize("prefix", ["scalar_", "vertex_data_", "gs."])
def test_names_with_a_prefix(tmp_path: Path, prefix: str) -> None:
    """CloudCompare calls all but coordinates and normals scalar_..."""
    splat = make_splat(5, labels=True)
    columns = {**columns_of(splat), "object_id": ("float", labels_of(splat).numpy().astype("f4"))}
    columns["age"] = ("float", np.arange(5, dtype=np.float32))
    renamed = {
        name if name in ("x", "y", "z", "nx", "ny", "nz") else prefix + name: value
        for name, value in columns.items()
    }
    read = read_ply(write_file(tmp_path / "a.ply", renamed))
    assert_same(read, splat)
    assert torch.equal(labels_of(read), labels_of(splat)) and list(read.extra) == [f"{prefix}age"]
    # some names only, and one that is there under both
    renamed = {**columns, "scalar_opacity": ("float", np.zeros(5, np.float32))}
    renamed["scalar_object_id"] = renamed.pop("object_id")
    read = read_ply(write_file(tmp_path / "a.ply", renamed))
    assert_same(read, splat)
    assert torch.equal(labels_of(read), labels_of(splat)) and set(read.extra) == {"age", "scalar_opacity"}


def test_labels_that_an_editor_made_floats(tmp_path: Path) -> None:
    columns = columns_of(make_splat(4))
    for values, ids in (
        ([4, 0, 200, 1], [4, 0, 200, 1]),
        ([4, np.nan, 200, 1], [4, -1, 200, 1]),
        ([0.5, 0, 1, 1], None),
        ([np.nan] * 4, None),
    ):
        for name in ("label", "object_id"):
            floats = np.array(values, np.float32)
            read = read_ply(write_file(tmp_path / "a.ply", {**columns, name: ("float", floats)}))
            assert (None if read.labels is None else read.labels.tolist()) == ids
            assert list(read.extra) == ([name] if ids is None else [])


# ------------------------------------------------------------------------------------------ unusable Gaussians


def broken_splat() -> Splat:
    splat = make_splat(8, 1, labels=True)
    splat.means[1, 2] = float("nan")
    splat.scales[2, 0] = -float("inf")
    splat.features_rest[3, 2, 2] = float("inf")
    splat.quats[4] = 0.0
    splat.opacities[6] = float("inf")
    splat.extra = {"age": torch.tensor([0.0, 1, 2, 3, 4, float("nan"), 6, 7])}
    return splat


@pytest.mark.parametrize("file_format", FORMATS)
def test_unusable_gaussians_are_dropped_on_reading(
    tmp_path: Path, file_format: str, said: io.StringIO
) -> None:
    splat = broken_splat()
    columns = {**columns_of(splat), "age": ("float", splat.extra["age"].numpy())}
    folder = tmp_path / "[red]"
    folder.mkdir()
    read = read_ply(write_file(folder / "a.ply", columns, file_format))
    splat.scales[2, 0], splat.opacities[6] = -20, 20  # flat, and opaque
    assert_same(read, splat.select(torch.tensor([0, 2, 5, 6, 7])))
    assert read.extra["age"].nan_to_num(-5).tolist() == [0, 2, -5, 6, 7]
    assert f"Dropped 3 of the 8 Gaussians in {folder / 'a.ply'}" in said.getvalue()
    columns["x"] = ("float", np.full(8, np.nan, np.float32))
    with pytest.raises(PlyError, match=r"None of the 8 Gaussians in .*a\.ply can be drawn"):
        read_ply(write_file(folder / "a.ply", columns, file_format))


def test_unusable_gaussians_are_not_written(tmp_path: Path, said: io.StringIO) -> None:
    splat = broken_splat()
    path = write_ply(tmp_path / "a.ply", splat)
    assert said.getvalue().count("Dropped 3 of the 8 Gaussians to write to") == 1
    assert len(splat) == 8
    read = read_ply(path)
    splat.scales[2, 0], splat.opacities[6] = -20, 20
    assert_same(read, splat.select(torch.tensor([0, 2, 5, 6, 7])))
    data = json.loads((tmp_path / "a.objects.json").read_text())
    assert sum(entry["gaussians"] for entry in data["objects"]) + data["unknown_gaussians"] == 5
    splat.means[:] = float("nan")
    with pytest.raises(PlyError, match="None of the 8 Gaussians to write"):
        write_ply(path, splat)
    assert_same(read_ply(path), read)


def test_quaternions_of_any_length(tmp_path: Path, said: io.StringIO) -> None:
    splat = make_splat(4)
    splat.quats = torch.tensor([[2.0, 0, 0, 0], [0, -30, 40, 0], [0, 0, 0, 1e-30], [3e30, 0, 0, 4e30]])
    read = read_ply(write_file(tmp_path / "a.ply", columns_of(splat)))
    assert said.getvalue() == ""
    assert torch.equal(read.quats[:2], splat.quats[:2])
    # float32 cannot hold the squares of the other two
    assert torch.allclose(read.quats[2:], torch.tensor([[0, 0, 0, 1.0], [0.6, 0, 0, 0.8]]))


# -------------------------------------------------------------------------------------------------- the sidecar


def test_sidecar(tmp_path: Path) -> None:
    splat = make_splat()
    splat.labels = torch.tensor([7, 3, 7, -1, 0, 7, -1], dtype=torch.int32)
    path = write_ply(tmp_path / "my.scene.ply", splat, names={3: "cup \ud800", 12: "tasse à café", -1: "no"})
    text = (tmp_path / "my.scene.objects.json").read_text(encoding="utf-8")
    assert "tasse à café" in text and text.endswith("\n")
    colors = object_colors([0, 3, 7, 12]).tolist()

    def box(*rows: int) -> dict[str, list[float]]:
        means = splat.means[list(rows)]
        return {"min": means.amin(dim=0).tolist(), "max": means.amax(dim=0).tolist()}

    assert json.loads(text) == {
        "objects": [
            {"id": 0, "name": "object 0", "gaussians": 1, "color": colors[0], "box": box(4)},
            {"id": 3, "name": "cup \ud800", "gaussians": 1, "color": colors[1], "box": box(1)},
            {"id": 7, "name": "object 7", "gaussians": 3, "color": colors[2], "box": box(0, 2, 5)},
            {"id": 12, "name": "tasse à café", "gaussians": 0, "color": colors[3], "box": None},
        ],
        "unknown_gaussians": 2,
    }
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "my.scene.objects.json"}
    splat.labels = None
    write_ply(tmp_path / "b.ply", splat, names={4: "cup"})
    data = json.loads((tmp_path / "b.objects.json").read_text())
    assert data["unknown_gaussians"] == 7
    assert [entry["gaussians"] for entry in data["objects"]] == [0]
    splat.labels = torch.full((7,), -1, dtype=torch.int32)
    write_ply(tmp_path / "c.ply", splat)
    assert json.loads((tmp_path / "c.objects.json").read_text()) == {"objects": [], "unknown_gaussians": 7}


def test_the_sidecar_is_read_as_it_was_written(tmp_path: Path) -> None:
    splat = make_splat(labels=True)
    splat.labels = torch.tensor([7, 3, 7, -1, 0, 7, -1], dtype=torch.int32)
    names = {3: "cup\n\x1b[31m \ud800 two", 12: "n" * 300, 7: "\t", -1: "no"}
    colors = {3: (0.25, 0.5, 2), 12: [-1.0, 0.0, 1.0], 5: (0.0, 0.0, 0.0)}
    path = write_ply(tmp_path / "a.b.ply", splat, names=names, colors=colors)
    table = read_objects(str(path))
    assert table is not None
    assert table.ids == (0, 3, 7, 12)
    assert table.names == ("object 0", "cup [31m two", "object 7", "n" * 200)
    default = object_colors([0, 7]).tolist()
    assert table.colors.tolist() == [default[0], [0.25, 0.5, 1.0], default[1], [0.0, 0.0, 1.0]]
    assert read_objects(tmp_path / "other.ply") is None
    (tmp_path / "linked.objects.json").symlink_to(tmp_path / "a.b.objects.json")
    linked = read_objects(tmp_path / "linked.ply")
    assert linked is not None and linked.names == table.names
    (tmp_path / "less.objects.json").write_text('\ufeff{"objects": [{"id": 4}, {"id": 2}]}', encoding="utf-8")
    less = read_objects(tmp_path / "less.ply")
    assert less is not None and less.ids == (2, 4) and less.names == ("object 2", "object 4")
    for wrong in ((0.0, 1.0), (0.0, 1.0, float("nan")), "red"):
        with pytest.raises(PlyError, match="color of object 3"):
            write_ply(tmp_path / "c.ply", splat, colors={3: wrong})  # type: ignore[dict-item]
    assert not (tmp_path / "c.ply").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (
            '{"objects": [{"id": ' + "9" * 5000 + "}]}",
            "",
        ),  # how large an integer may be depends on the Python
        ("[]", "holds []"),
        ("[" * 50 + "]" * 50, "holds [[["),
        ('{"objects": {"id": 1}}', "holds {'objects'"),
        ('{"objects": [[1]]}', "found [1] in object 0"),
        ('{"objects": [{"id": 1}, {"id": true}]}', "the id True in object 1"),
        ('{"objects": [{"name": "cup"}]}', "the id None"),
        ('{"objects": [{"id": "1"}]}', "the id '1'"),
        ('{"objects": [{"id": 1.0}]}', "the id 1.0"),
        ('{"objects": [{"id": -1}]}', "the id -1"),
        ('{"objects": [{"id": 2147483648}]}', "the id 2147483648"),
        ('{"objects": [{"id": 1}, {"id": 1}]}', "the id 1 a second time"),
        ('{"objects": [{"id": 1, "name": 5}]}', "the name 5"),
        ('{"objects": [{"id": 1, "name": null}]}', "the name None"),
        ('{"objects": [{"id": 1, "color": [0, 1]}]}', "the color [0, 1]"),
        ('{"objects": [{"id": 1, "color": [0, 1, NaN]}]}', "the color [0, 1, nan]"),
        ('{"objects": [{"id": 1, "color": [0, 1, 1e999]}]}', "the color [0, 1, inf]"),
        ('{"objects": [{"id": 1, "color": [0, 1, ' + "9" * 400 + "]}]}", "the color [0, 1, 99"),
        ('{"objects": [{"id": 1, "color": [0, 1, true]}]}', "the color [0, 1, True]"),
        ('{"objects": [{"id": 1, "color": "red"}]}', "the color 'red'"),
    ],
)
def test_damaged_sidecar(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "a.objects.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GradisegError) as error:
        read_objects(tmp_path / "a.ply")
    for part in (str(path), "xpected", found):
        assert part in str(error.value), str(error.value)
    assert len(str(error.value)) < 1000


def test_sidecars_that_are_no_file_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.objects.json").mkdir()
    with pytest.raises(PlyError, match=r"a\.objects\.json is not a file"):
        read_objects(tmp_path / "a.ply")
    (tmp_path / "b.objects.json").write_text('{"objects": []}' + " " * 100)
    assert read_objects(tmp_path / "b.ply") is not None
    monkeypatch.setattr(sidecar, "MAX_SIDECAR", 100)
    with pytest.raises(PlyError, match="larger than"):
        read_objects(tmp_path / "b.ply")


# ------------------------------------------------------------------------------------------------------- errors


def refused(path: Path, *expected: str) -> None:
    with pytest.raises(GradisegError) as error:
        read_ply(path)
    for text in (str(path), "xpected", *expected):
        assert text in str(error.value), str(error.value)


def without(columns: dict[str, tuple[str, NDArray]], *names: str) -> dict[str, tuple[str, NDArray]]:
    return {name: column for name, column in columns.items() if name not in names}


def test_no_ply(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    with pytest.raises(PlyError, match=r"a\.ply does not exist"):
        read_ply(path)
    refused(tmp_path, "directory")
    path.write_bytes(b"")
    refused(path, "is empty")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(path, "not a PLY file", "git-lfs", "git lfs pull")
    path.write_bytes(b"polygon\n")
    refused(path, "not a PLY file")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("format ascii 1.0\nelement vertex 1\nproperty float x\n", "has no end"),
        ("format ascii 1.0\ncomment " + "x" * (1 << 20) + "\nend_header\n", "has no end"),
        ("format binary_middle_endian 1.0\nend_header\n", "'format binary_middle_endian 1.0'"),
        ("element vertex 1\nproperty float x\nend_header\n", "no line 'format'"),
        ("format ascii 1.0\nelement vertex -1\nend_header\n", "Line 3"),
        ("format ascii 1.0\nelement vertex 9999999999999999999999\nend_header\n", "Line 3"),
        ("format ascii 1.0\nelement vertex\nend_header\n", "'element vertex'"),
        ("format ascii 1.0\nproperty float x\nend_header\n", "below an element"),
        ("format ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n", "'property quad x'"),
        ("format ascii 1.0\nelement vertex 1\nproperty\nend_header\n", "Line 4"),
        ("format ascii 1.0\nelement vertex 1\nproperty list float int x\nend_header\n", "integer type"),
        ("format ascii 1.0\n\x00\x01 vertex\nend_header\n", "Line 3"),
        ("format ascii 1.0\nelement face 3\nproperty int a\nend_header\n", "3 face"),
        ("format ascii 1.0\nend_header\n", "holds nothing"),
    ],
)
def test_damaged_header(tmp_path: Path, header: str, found: str) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(b"ply\n" + header.encode())
    refused(path, found)


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_splat(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "a.ply"
    columns = columns_of(make_splat())
    cloud = without(columns, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)))
    refused(write_file(path, cloud, file_format), "point cloud", "opacity")
    faces = ("element face 0\nproperty list uchar int vertex_indices\n", b"")
    refused(write_file(path, cloud, file_format, after=faces), "is a mesh")
    refused(write_file(path, without(columns, "scale_2"), file_format), "2DGS")
    refused(write_file(path, without(columns, "rot_3", "y"), file_format), "lack y, rot_3")
    refused(write_file(path, without(columns, "f_dc_1"), file_format), "no complete colours")
    colors = {name: ("float", columns["x"][1]) for name in ("red", "green", "blue")}
    no_sh = without(columns, "f_dc_0", "f_dc_1", "f_dc_2")
    refused(write_file(path, {**no_sh, **colors}, file_format), "uchar")
    refused(write_file(path, without(columns, "f_rest_44"), file_format), "44 properties f_rest")
    renamed = {name.replace("f_rest_44", "f_rest_45"): column for name, column in columns.items()}
    refused(write_file(path, renamed, file_format), "45 properties f_rest")
    zero = {name: (kind, values[:0]) for name, (kind, values) in columns.items()}
    refused(write_file(path, zero, file_format), "no Gaussian")


def test_compressed_needs_gsply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "gsply", lambda: None)
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    columns = {name: ("uint32", np.arange(256, dtype=np.uint32)) for name in names}
    chunk = ("element chunk 1\nproperty float min_x\nproperty float max_x\n", bytes(8))
    refused(
        write_file(tmp_path / "a.ply", columns, before=chunk), "compressed", "SuperSplat", "splat-transform"
    )


def test_lists_and_repetitions(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.ply", columns_of(make_splat()))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"end_header", b"property list uchar float weights\nend_header"))
    refused(path, "lists (weights)")
    path.write_bytes(data.replace(b"end_header", b"property float opacity\nend_header"))
    refused(path, "several properties", "opacity")
    path.write_bytes(data.replace(b"end_header", b"element vertex 3\nproperty float x\nend_header"))
    refused(path, "several elements", "vertex")


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated(tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    path = write_file(tmp_path / "a.ply", columns_of(make_splat()), file_format)
    data = path.read_bytes()
    start = data.index(b"end_header\n") + len(b"end_header\n")
    for keep in (len(data) - 20, (start + len(data)) // 2, start):
        path.write_bytes(data[:keep])
        refused(path, "is damaged" if file_format == "ascii" and keep > start else "expected 7 Gaussians")
    # no memory is taken for what the file cannot hold
    path.write_bytes(data.replace(b"vertex 7", b"vertex 999999999999999999"))
    refused(path, "999999999999999999 Gaussians")


@pytest.mark.parametrize("file_format", FORMATS[1:])
@pytest.mark.parametrize("faces", [1, 2, 10**15])
@pytest.mark.parametrize(
    ("properties", "length"),
    [
        ("list int double a", 2**31 - 1),
        ("list int double a", -1),
        ("list int double a", None),
        ("double a", None),
    ],
)
def test_truncated_element_before(
    tmp_path: Path, file_format: str, faces: int, properties: str, length: int | None
) -> None:
    """Faces that the file cannot hold: impossible lengths of lists, or nothing at all."""
    data = b"" if length is None else np.array([length], ORDERS[file_format] + "i4").tobytes()
    header = f"element face {faces}\nproperty {properties}\n"
    path = write_file(tmp_path / "a.ply", columns_of(make_splat()), file_format, before=(header, data))
    if length is None:
        path.write_bytes(path.read_bytes().partition(b"end_header\n")[0] + b"end_header\n")
    refused(path, "cut off or damaged", f"expected {faces} rows of face")


def test_truncated_element_before_in_ascii(tmp_path: Path) -> None:
    for faces, found in (
        (2, "found 5 lines of them, expected 7 Gaussians"),
        (10**15, "found 7 lines, expected"),
    ):
        before = (f"element face {faces}\nproperty list int int a\n", b"")
        refused(write_file(tmp_path / "a.ply", columns_of(make_splat()), "ascii", before=before), found)


@pytest.mark.parametrize("file_format", FORMATS)
def test_damage_anywhere_is_refused_or_read(tmp_path: Path, file_format: str, said: io.StringIO) -> None:
    """A byte is changed, or the file cut: whatever comes of it, no other error than a PlyError."""
    faces = b"3 0 1 2\n" if file_format == "ascii" else b"\3" + bytes(12)
    before = ("element face 1\nproperty list uchar int vertex_indices\n", faces)
    splat = make_splat(2, 0)
    columns = {**columns_of(splat), "object_id": ("int", np.array([1, 2], np.int32))}
    path = write_file(tmp_path / "a.ply", columns, file_format, before=before)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.choice([rng.integers(256), ord(" "), ord("9"), ord("\n")])
        path.write_bytes(damaged[: len(data) if rng.random() < 0.8 else rng.integers(len(data))])
        try:
            assert len(read_ply(path)) in range(1, 3)
        except PlyError:
            errors += 1
    assert 25 < errors < 150


def test_damaged_numbers(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.ply", columns_of(make_splat(degree=0)), "ascii")
    lines = path.read_text().splitlines()
    words = lines[-5].split()
    for changed, found in (
        ([*words[:-1], "__import__('os')"], "Gaussian 2 of"),
        ([*words[:-1], "__import__('os')"], "__import__"),
        (words[:-1], "holds 16 numbers"),
        ([*words, "1"], "holds 18 numbers"),
        ([*words[:-1], "1_0"], "from 0 on"),
    ):
        path.write_text("\n".join([*lines[:-5], " ".join(changed), *lines[-4:]]))
        refused(path, found, "expected 17 numbers")
    path.write_text("\n".join([*lines[:-7], *(line + " 1" for line in lines[-7:])]))
    refused(path, "holds 18 numbers")


def test_surplus_bytes_are_told(tmp_path: Path, said: io.StringIO) -> None:
    splat = make_splat()
    path = write_file(tmp_path / "a.ply", columns_of(splat))
    path.write_bytes(path.read_bytes() + b"more")
    assert_same(read_ply(path), splat)
    assert "4 bytes more" in said.getvalue()


# ------------------------------------------------------------------------------------------- errors of writing


def not_written(path: Path, splat: Splat, *expected: str) -> None:
    before = {file: file.read_bytes() for file in path.parent.glob("**/*") if file.is_file()}
    with pytest.raises(GradisegError) as error:
        write_ply(path, splat)
    for text in (path.stem, *expected):
        assert text in str(error.value), str(error.value)
    assert {file: file.read_bytes() for file in path.parent.glob("**/*") if file.is_file()} == before


@pytest.mark.parametrize("step", ["open", "write", "replace"])
def test_disk_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = write_ply(tmp_path / "a.ply", make_splat(labels=True))

    class Full(io.FileIO):
        written = 0

        def write(self, data: object) -> int:
            if Full.written > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            Full.written += 1
            return super().write(data)  # type: ignore[arg-type]

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    if step == "open":
        monkeypatch.setattr(atomic, "open", denied, raising=False)
    elif step == "write":
        monkeypatch.setattr(writing, "BLOCK_BYTES", 300)
        monkeypatch.setattr(atomic, "open", lambda name, mode: Full(name, mode), raising=False)
    else:
        monkeypatch.setattr(atomic.os, "replace", denied)
    not_written(path, make_splat(labels=True, seed=1), "cannot be written", str(tmp_path))


def test_bad_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file.a\.ply cannot be written"):
        write_ply(tmp_path / "file" / "a.ply", make_splat())
    (tmp_path / "b.ply").mkdir()
    not_written(tmp_path / "b.ply", make_splat(), "cannot be written")
    # the sidecar cannot be replaced: the PLY stays what it was
    write_ply(tmp_path / "c.ply", make_splat())
    (tmp_path / "c.objects.json").mkdir()
    not_written(tmp_path / "c.ply", make_splat(labels=True, seed=1), "c.objects.json cannot be written")


def test_splats_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    not_written(path, make_splat(0), "nothing to write")
    for name in ("x", "nx", "opacity", "f_rest_77", "two words", ""):
        splat = make_splat(labels=True)
        splat.extra = {name: torch.zeros(7)}
        not_written(path, splat, repr(name), "Rename it")
    splat = make_splat(labels=True)
    splat.extra = {"age": torch.zeros(7, 1)}
    not_written(path, splat, "[7, 1]", "[7]")
    splat = make_splat()
    splat.labels = torch.zeros(6, dtype=torch.int32)
    not_written(path, splat, "Splat.labels", "[6]")
    # labels replace the object_id of before; without labels, it is a name like any other
    splat = make_splat(labels=True)
    splat.extra = {"object_id": torch.arange(7) / 2}
    read = read_ply(write_ply(path, splat))
    assert read.extra == {} and torch.equal(labels_of(read), labels_of(splat))
    splat = make_splat()
    splat.extra = {"object_id": torch.arange(7) / 2}
    assert torch.equal(read_ply(write_ply(path, splat)).extra["object_id"], splat.extra["object_id"])
