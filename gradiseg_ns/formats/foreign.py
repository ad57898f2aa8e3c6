"""What a file that was given as a splat is, by its content: what is no PLY is named, with what to do about it.

Nothing is run and nothing is unpacked here but the first bytes of an archive. SPZ and compressed PLYs are read by the
library gsply where it is installed (the extra `compressed`); sizes are compared with the file before memory is taken.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.extras import install_command

CONVERT = "npx @playcanvas/splat-transform"
"""The command that converts most formats of splats."""

_HEAD = 4096
_SPZ_MAGIC = b"NGSP"
_SPZ_HARMONICS = (0, 3, 8, 15)
_INSTALL = f"or {install_command('compressed')}, with which it is read as it is"

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself", "Get the file: git lfs pull."),
    (b"glTF", "a binary glTF (.glb)", "Export a PLY from the program that made it."),
    (b"<?xml", "XML, as servers send with an error", "The download failed: get the file again."),
    (b"<Error>", "an error message of a server", "The download failed: get the file again."),
    (b"%PDF", "a PDF", "Give the splat itself."),
    (b"\x89PNG", "a PNG image", "Give the splat itself; photos go to --data."),
    (b"\xff\xd8\xff", "a JPEG image", "Give the splat itself; photos go to --data."),
    (b"GIF8", "a GIF image", "Give the splat itself."),
    (b"RIFF", "a WebP image or another RIFF file", "A SOG that was unpacked is given as its .sog, or converted."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first: 7z x."),
    (b"Rar!", "a RAR archive", "Unpack it first: unrar x."),
    (b"BZh", "a file packed with bzip2", "Unpack it first: bunzip2."),
    (b"\xfd7zXZ", "a file packed with xz", "Unpack it first: unxz."),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd", "Unpack it first: unzstd."),
    (b"PXR-USDC", "a USD file", "Export a PLY from the program that made it."),
    (b"#usda", "a USD file", "Export a PLY from the program that made it."),
    (b"LASF", "a point cloud (LAS or LAZ), not a splat", "Train a splat first."),
    (b"# .PCD", "a point cloud (PCD), not a splat", "Train a splat first."),
    (b"ASTM-E57", "a point cloud (E57), not a splat", "Train a splat first."),
    (b"\x93NUMPY", "an array of numpy", "Give the PLY of the splat."),
    (b"\x89HDF", "an HDF5 file", "Give the PLY of the splat."),
    (b"SQLite format 3", "a database such as COLMAP's", "Give the PLY of the splat."),
    (b"\x80\x02", "a pickle, such as an old checkpoint, which is not opened", "Give the PLY of the splat."),
    (b"\x80\x04", "a pickle, which is not opened", "Give the PLY of the splat."),
    (b"!!python/", "YAML such as a run's config.yml, which is not opened", "A run goes to --load-config RUN."),
)  # fmt: skip
"""First bytes of files; what they are; what to do."""
_PARTIAL = (".crdownload", ".part", ".partial", ".download", ".aria2", ".tmp", ".opdownload")
"""What browsers call a download that is not complete."""


def refusal(path: Path) -> str:
    """The message for a file that is no PLY: what it is, and what to do.

    Args:
        path: an existing file that does not start with "ply".

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    found = _what(path, head, size)
    if found is None:
        shown = head[:16]
        hint = ""
        if path.suffix.lower() in _PARTIAL:
            hint = (
                f" A name that ends in {path.suffix} is that of a download that was cut: get the file again."
            )
        elif path.suffix.lower() in (".splat", ".ksplat", ".spz", ".sog"):
            hint = f" It is no {path.suffix} either: a download that failed or was cut? Get the file again."
        return (
            f"{path} is not a PLY file: it starts with {shown!r}, expected 'ply' on a line of its own.{hint} Other "
            f"formats of splats (.splat, .spz, .ksplat, .sog) have to be converted to PLY first: {CONVERT} FILE out.ply"
        )
    what, advice = found
    return f"{path} is not a PLY file: it is {what}. Expected a splat as PLY. {advice}"


def _what(path: Path, head: bytes, size: int) -> tuple[str, str] | None:
    """What a file is and what to do, or None if that is not known."""
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            return what, advice
    if not head.strip(b"\0"):
        return (
            "nothing but zeros, as a download leaves that stopped after room was made",
            "Get the file again.",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return (
            "a web page (HTML), as a failed download leaves",
            "Open the address in a browser and download the file itself.",
        )
    if text.startswith(b"ply") and not head.startswith(b"ply"):
        return "a PLY with other bytes before 'ply' (a byte order mark, spaces, or ply in capitals)", (
            "Remove them, or export the splat again."
        )
    if head.startswith(_SPZ_MAGIC):
        return _spz_advice(path)
    if head.startswith(b"\x1f\x8b"):
        return _gzip(path, head)
    if head.startswith(b"PK"):
        return _zip(path)
    if head[257:262] == b"ustar":
        return "a tar archive", f"Unpack it first: tar xf {path}"
    if text.startswith((b"{", b"[")):
        return _json(path, size)
    if _is_ksplat(head, size):
        return "a .ksplat (of GaussianSplats3D)", f"Convert it: {_converted(path, '.ksplat')}"
    if size % 32 == 0 and _is_splat(head):
        return "a .splat (32 bytes a Gaussian, no harmonics)", f"Convert it: {_converted(path, '.splat')}"
    return None


def _converted(path: Path, suffix: str) -> str:
    """The command that converts a file; splat-transform goes by its name."""
    name = str(path) if path.name.lower().endswith(suffix) else f"{path}{suffix}"
    renamed = "" if name == str(path) else f" (rename it to {Path(name).name} first)"
    return f"{CONVERT} '{name}' '{path.with_name(path.stem)}.ply'{renamed}"


def _spz_advice(path: Path) -> tuple[str, str]:
    return "an SPZ (of Niantic)", f"Convert it: {_converted(path, '.spz')}, {_INSTALL}."


def _gzip(path: Path, head: bytes) -> tuple[str, str]:
    inner = _unpacked(head, 512)
    if inner.startswith(_SPZ_MAGIC):
        return _spz_advice(path)
    if inner.startswith(b"ply"):
        return "a PLY packed with gzip", f"Unpack it first: gunzip -k '{path}' (the name has to end in .gz)"
    if inner[257:262] == b"ustar":
        return "a packed tar archive", f"Unpack it first: tar xzf '{path}'"
    return "a file packed with gzip", "Unpack it first (gunzip), and give the PLY in it."


def _unpacked(data: bytes, most: int) -> bytes:
    """The first bytes of what is packed with gzip; empty if it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(data, most)
    except zlib.error:
        return b""


def _zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a zip archive that is damaged or cut off", "Download it again."
    lower = [name.lower() for name in names]
    if any(name.rsplit("/", 1)[-1] == "meta.json" for name in lower) and any(
        name.endswith(".webp") for name in lower
    ):
        return "a .sog (of PlayCanvas)", f"Convert it: {_converted(path, '.sog')}"
    if any(name.endswith("data.pkl") for name in lower):
        return "a checkpoint of PyTorch", "A run goes to --load-config, by its folder or its config.yml."
    if lower and all(name.endswith(".npy") for name in lower):
        return "an archive of numpy's arrays (.npz)", "Give the PLY of the splat."
    inside = next((name for name, low in zip(names, lower, strict=True) if low.endswith(".ply")), None)
    if inside is not None:
        return f"a zip archive that holds {inside}", f"Unpack it first: unzip '{path}', and give that file."
    shown = ", ".join(names[:3]) or "nothing"
    return f"a zip archive that holds {shown}", "Unpack it first (unzip), and give the PLY of the splat."


def _json(path: Path, size: int) -> tuple[str, str] | None:
    if size > 1 << 20:
        return "JSON", "Give the PLY of the splat."
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    keys = set(content) if isinstance(content, dict) else set()
    if {"means", "quats", "scales"} <= keys:
        return "the meta.json of an unpacked SOG", f"Convert it: {CONVERT} '{path}' out.ply"
    if "asset" in keys:
        return "a glTF (.gltf)", "Export a PLY from the program that made it."
    if keys & {"frames", "camera_model", "fl_x"}:
        return "a file of cameras such as transforms.json", "Photos go to --data; give the PLY of the splat."
    if keys & {"error", "message", "detail"}:
        return "an error message of a server", "The download failed: get the file again."
    return "JSON", "Give the PLY of the splat."


def _is_splat(head: bytes) -> bool:
    """Whether these are rows of .splat: 3 floats, 3 positive floats, RGBA, a quaternion of bytes."""
    rows = len(head) // 32
    if rows == 0:
        return False
    table = np.frombuffer(
        head[: 32 * rows], [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)]
    )
    with np.errstate(all="ignore"):
        norms = np.linalg.norm((table["quat"].astype(float) - 128.0) / 128.0, axis=1)
        good = np.isfinite(table["mean"]).all(axis=1) & (np.abs(table["mean"]) < 1e7).all(axis=1)
        good &= (table["scale"] >= 0).all(axis=1) & (table["scale"] < 1e5).all(axis=1)
        good &= (norms > 0.9) & (norms < 1.1)
    return bool(good.mean() > 0.9)


def _is_ksplat(head: bytes, size: int) -> bool:
    """Whether it starts as a .ksplat: version 0.x, and numbers of sections and Gaussians that fit each other."""
    if size < 4096 + 1024 or len(head) < 32 or head[0] != 0 or head[1] == 0:
        return False
    sections_max, sections, most, count = struct.unpack_from("<IIII", head, 4)
    return 1 <= sections <= sections_max <= 1 << 16 and 1 <= count <= most <= size


# ------------------------------------------------------------------------------------------------------- read by gsply


def is_spz(head: bytes) -> bool:
    """Whether a file that starts like this is an SPZ: packed with gzip (versions 1 to 3), or version 4."""
    return head.startswith(_SPZ_MAGIC) or (
        head.startswith(b"\x1f\x8b") and _unpacked(head, 16).startswith(_SPZ_MAGIC)
    )


def gsply() -> Any | None:
    """The library, or None where it is not installed."""
    try:
        import gsply as library
    except ImportError:
        return None
    return library


def read_spz(path: Path) -> Splat:
    """An SPZ as a splat in a PLY's frame, by gsply.

    Raises:
        ValueError: it is damaged, or of a version that gsply does not know; the message says what was found.
    """
    library = gsply()
    assert library is not None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    header = head[:16] if head.startswith(_SPZ_MAGIC) else _unpacked(head, 16)
    if len(header) < 16:
        raise ValueError("no whole header of 16 bytes")
    _, version, count, degree, _, flags, _ = struct.unpack("<IIIBBBB", header)
    if count == 0:
        raise ValueError("no Gaussian, expected at least one")
    if degree > 3:
        raise ValueError(f"spherical harmonics of degree {degree}, expected 0 to 3")
    if version <= 3:
        size = _packed_size(path)
        row = (9 if version > 1 else 6) + 7 + (4 if version > 2 else 3) + 3 * _SPZ_HARMONICS[degree]
        if size < 16 + row * count:
            raise ValueError(f"{max(size - 16, 0) // row} Gaussians of the {count} that its header announces")
    splat = _splat(lambda: library.read_spz(path))
    return replace(flipped(splat), antialiased=bool(flags & 1))


def _packed_size(path: Path) -> int:
    """Bytes that a gzip file holds, counted piece by piece; those before the damage, if it is cut off."""
    inflater, size = zlib.decompressobj(31), 0
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                while data:
                    size += len(inflater.decompress(data, 1 << 22))
                    data = inflater.unconsumed_tail
    except zlib.error:
        pass
    return size


def read_compressed(path: Path) -> Splat:
    """A compressed PLY of PlayCanvas as a splat, by gsply; the caller has compared its sizes with the file.

    Raises:
        ValueError: it is damaged.
    """
    library = gsply()
    assert library is not None
    return _splat(lambda: library.decompress_from_bytes(path.read_bytes()))


def _splat(read: Callable[[], Any]) -> Splat:
    """What gsply read, whose errors are of many kinds, as ours."""
    try:
        data = read()
        count = len(data.means)
        rest = data.shN if data.shN is not None and data.shN.size else np.zeros((count, 0, 3), np.float32)
        arrays = (data.means, data.quats, data.scales, data.opacities.reshape(-1), data.sh0, rest)
        means, quats, scales, opacities, dc, rest = (
            torch.from_numpy(np.array(a, np.float32)) for a in arrays
        )
        return Splat(means, quats, scales, opacities, dc, rest)
    except Exception as error:  # a stranger's file in a stranger's reader
        raise ValueError(str(error) or type(error).__name__) from error


def flipped(splat: Splat) -> Splat:
    """Turned by 180 degrees about x.

    SPZ's y points up and its z back (RUB), a 3DGS PLY's y down and its z forward (RDF): programs that know show both
    the same way up. gsply writes and reads what it gets.
    """
    signs = splat.means.new_tensor([1.0, -1.0, -1.0])
    # What a harmonic of some degree and order becomes when y and z change their signs.
    harmonics = [
        (-1.0) ** (degree + order + (order < 0))
        for degree in (1, 2, 3)
        for order in range(-degree, degree + 1)
    ]
    count = splat.features_rest.shape[1]
    return replace(
        splat,
        means=splat.means * signs,
        quats=splat.quats * splat.quats.new_tensor([1.0, 1.0, -1.0, -1.0]),
        features_rest=splat.features_rest * splat.means.new_tensor(harmonics[:count])[:, None],
    )


_RUN_HEAD = re.compile(rb"\A(?:\s|#[^\n]*\n|---)*!!python/object:[\w.]*Config\s")


def is_run_config(path: Path) -> bool:
    """Whether a file starts as nerfstudio writes a run's config.yml: with an object of a class ...Config."""
    with path.open("rb") as file:
        return _RUN_HEAD.match(file.read(_HEAD)) is not None
