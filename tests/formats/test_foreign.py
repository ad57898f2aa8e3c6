"""What is given as a splat is known by its content, never by its name, and nothing in it is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiseg_ns.formats import export, foreign
from gradiseg_ns.formats.ply_layout import PlyError
from gradiseg_ns.formats.read_ply import read_ply
from gradiseg_ns.formats.sidecar import sidecar_path

from .test_export import make_splat


def splat_rows(n: int = 100) -> bytes:
    """.splat: 32 bytes a Gaussian."""
    rng = np.random.default_rng(0)
    rows = np.zeros(
        n, [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)]
    )  # fmt: skip
    rows["mean"], rows["scale"] = rng.normal(size=(n, 3)), rng.uniform(0.01, 0.1, (n, 3))
    quats = rng.normal(size=(n, 4))
    rows["quat"] = quats / np.linalg.norm(quats, axis=1, keepdims=True) * 127 + 128
    rows["rgba"] = rng.integers(0, 255, (n, 4))
    return rows.tobytes()


def ksplat() -> bytes:
    header = bytearray(4096)
    header[1] = 1
    struct.pack_into("<IIII", header, 4, 1, 1, 100, 100)
    return bytes(header) + bytes(1024 + 4400)


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"ply\n")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("point_cloud.ply"), io.BytesIO())
    return buffer.getvalue()


def spz(count: int = 5) -> bytes:
    return gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, count, 0, 12, 0, 0) + bytes(20 * count))


MALICIOUS = b'!!python/object/apply:os.system ["echo run > MARKER"]\n'
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "yaml": (MALICIOUS, ("YAML", "--load-config")),
    "splat": (splat_rows(), (".splat", "splat-transform")),
    "ksplat": (ksplat(), (".ksplat", "splat-transform")),
    "sog": (zipped("meta.json", "means_l.webp"), (".sog", "splat-transform")),
    "sog in a folder": (zipped("a/meta.json", "a/means_l.webp"), (".sog",)),
    "luma": (zipped("scene/point_cloud.ply"), ("scene/point_cloud.ply", "unzip")),
    "photos": (zipped("photo.jpg"), ("zip archive", "photo.jpg")),
    "half a zip": (zipped("scene/point_cloud.ply")[:60], ("zip", "cut off")),
    "checkpoint": (zipped("archive/data.pkl"), ("checkpoint", "--load-config")),
    "gz": (gzip.compress(b"ply\nformat ascii 1.0\n"), ("gzip", "gunzip")),
    "tar.gz": (gzip.compress(tarred()), ("tar", "tar xzf")),
    "tar": (tarred(), ("tar archive", "tar xf")),
    "packed text": (gzip.compress(b"hello"), ("gzip",)),
    "glb": (b"glTF\x02\0\0\0" + bytes(20), ("glTF", "Export a PLY")),
    "html": (b"\n<!DOCTYPE html><html>", ("web page", "download")),
    "xml": (b'<?xml version="1.0"?><Error>', ("download failed",)),
    "json error": (b'{"error": "expired"}', ("error message", "download")),
    "cameras": (json.dumps({"frames": []}).encode(), ("transforms.json", "--data")),
    "sog meta": (json.dumps({"means": 1, "quats": 1, "scales": 1}).encode(), ("SOG",)),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("git-lfs", "git lfs pull")),
    "zeros": (bytes(5000), ("nothing but zeros", "again")),
    "png": (b"\x89PNG\r\n\x1a\n", ("PNG", "--data")),
    "pickle": (b"\x80\x04\x95", ("pickle", "not opened")),
    "las": (b"LASF" + bytes(100), ("point cloud",)),
    "byte order mark": (b"\xef\xbb\xbfply\nformat ascii 1.0\n", ("byte order mark",)),
    "unknown": (b"something else", ("starts with b'something else'", "splat-transform")),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".ply", ".spz", ""])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_splat_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content, expected = FILES[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(PlyError) as error:
        read_ply(path)
    for text in (str(path), "not a PLY file", "xpected", *expected):
        assert text in str(error.value), str(error.value)
    assert os.listdir(tmp_path) == [path.name], "nothing was run"


def test_a_download_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply.crdownload"
    path.write_bytes(os.urandom(3) + b"\xff" * 100)
    with pytest.raises(PlyError, match=r"\.crdownload is that of a download that was cut"):
        read_ply(path)
    path = tmp_path / "scene.spz"
    path.write_bytes(b"\xff" * 101)
    with pytest.raises(PlyError, match=r"It is no \.spz either"):
        read_ply(path)
    with pytest.raises(PlyError, match=r"directory.*--load-config"):
        read_ply(tmp_path)


@pytest.mark.parametrize("content", [spz(), b"NGSP" + bytes(40)])
def test_spz_without_gsply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(foreign, "gsply", lambda: None)
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(PlyError, match=r"an SPZ .*splat-transform.*pip install"):
        read_ply(path)


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("format", ["compressed-ply", "spz"])
def test_what_we_write_compressed_we_read(
    tmp_path: Path, format: export.Format, degree: int, antialiased: bool
) -> None:
    """In the order of the file, which of a compressed PLY is another one."""
    pytest.importorskip("gsply")
    splat = make_splat(300, degree)
    splat.antialiased, splat.up, splat.frame = antialiased, "z", "nerfstudio"
    path, sidecar = export.export_objects(tmp_path, splat, {1: "cup"}, format=format)
    assert sidecar_path(path) == sidecar
    read = read_ply(path.rename(tmp_path / "scene.ply"))
    assert read.antialiased is antialiased and read.sh_degree == degree
    if format == "compressed-ply":
        assert read.up == "z" and read.frame == "nerfstudio"
        splat = splat.select(torch.from_numpy(export._morton_order(splat.means.numpy())))
    assert float((read.means - splat.means).abs().max()) < 0.01
    assert float((read.scales - splat.scales).abs().max()) < 0.05
    quats = splat.quats / splat.quats.norm(dim=1, keepdim=True)
    assert float((read.quats * quats).sum(dim=1).abs().min()) > 1 - 1e-4
    if degree > 0:
        assert float((read.features_rest - splat.features_rest).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: spz(1000)[:-12], "Gaussians of the 1000"),
        (lambda: gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 2**31, 0, 12, 0, 0)), "0 Gaussians of the"),
        (lambda: spz(0), "no Gaussian"),
        (lambda: gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 9, 12, 0, 0) + bytes(99)), "degree 9"),
        (lambda: gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 9, 1, 0, 12, 0, 0) + bytes(99)), "cut off or damaged"),
        (lambda: b"NGSP" + struct.pack("<IIBBBB", 4, 2**31, 0, 12, 0, 6) + bytes(99), "cut off or damaged"),
    ],
)  # fmt: skip
def test_damaged_spz(tmp_path: Path, make: Callable[[], bytes], found: str) -> None:
    """Sizes are compared with the file before memory is taken."""
    pytest.importorskip("gsply")
    path = tmp_path / "a.spz"
    path.write_bytes(make())
    with pytest.raises(PlyError, match=found):
        read_ply(path)


def test_damaged_compressed_ply(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    path = export.export_objects(tmp_path, make_splat(300), format="compressed-ply")[0]
    data = path.read_bytes()
    for content, found in (
        (data[:-10], "cut off or damaged"),
        (data.replace(b"element vertex 300", b"element vertex 3000000000"), "cut off or damaged"),
        (data.replace(b"element vertex 300", b"element vertex 200"), "2 chunks and 200 Gaussians"),
        (data.replace(b"element chunk 2", b"element chunk 1"), "chunks"),
    ):
        path.write_bytes(content)
        with pytest.raises(PlyError, match=found):
            read_ply(path)


def test_a_run_is_known_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    for text, expected in (
        ("!!python/object:gradiseg_ns.trainer.GradisegTrainerConfig\n_target: 1\n", True),
        ("# mine\n--- !!python/object:nerfstudio.engine.trainer.TrainerConfig\n", True),
        (MALICIOUS.decode(), False),
        ("!!python/object/new:os.system [echo]\n", False),
        ("a: !!python/object:nerfstudio.engine.trainer.TrainerConfig\n", False),
        ("ply\n", False),
        ("", False),
    ):
        path.write_text(text)
        assert foreign.is_run_config(path) is expected, text
