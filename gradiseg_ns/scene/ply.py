"""Splats as PLY files in the layout of 3DGS, which viewers and other trainers read and write.

One Gaussian is one `vertex`: x y z, opacity (logit), scale_0..2 (logarithms), rot_0..3 (w x y z), f_dc_0..2
and f_rest_0..3K-1 (spherical harmonics, all coefficients of red first, then green, then blue). A header says
what follows and cannot be trusted: every size in it is compared with the file before memory is taken.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene import formats
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.atomic import write_files
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.extras import install_command

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float": "f4", "double": "f8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

_HEADER_LINES = {
    "format": f"'format' with one of {', '.join(_BYTE_ORDERS)} and 1.0",
    "element": "'element', a name and a number",
    "property": f"'property', a type and a name, below an element; types are {', '.join(_TYPES)}, and list "
    "with an integer type and a type",
}
"""What the lines of a header look like, by their first word."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_RGB = ("red", "green", "blue")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REST = re.compile(r"f_rest_\d+")
_LABELS = ("object_id", "label")
"""Properties that hold object ids, the preferred one first: integers, or floats that are whole."""
_HIGH = "object_id_high"
"""Property of ids that a float cannot hold: what they are divided by `_FLOAT_IDS`, and `object_id` is the rest."""
_FLOAT_IDS = 1 << 24
"""Up to here every integer is a float32."""
_FILTER = "filter_3D"
"""Mip-Splatting's property: the standard deviation of the 3-D filter that its programs convolve a Gaussian with."""
_RESERVED = {*_MEANS, *_NORMALS, *_DC, *_SCALES, *_QUATS, "opacity"}

_SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic."""

ANTIALIASED = "SplatRenderMode: mip"
"""Comment by which Brush and PlayCanvas's splat-transform mark splats trained with Mip-Splatting's filter."""
_RENDER_MODE = re.compile(r"(?:splatrendermode:\s*(mip|default)|antialiased\s+([01]))\s*", re.IGNORECASE)
"""That comment, or Postshot's."""
_UP = re.compile(r"vertical axis:\s*([xyz]|[-+.\de]+ [-+.\de]+ [-+.\de]+)\s*", re.IGNORECASE)
"""The comment of Brush and of ns-export."""
_FRAME = re.compile(r"frame:\s*(nerfstudio|original)\s*", re.IGNORECASE)
_ONE_ID = re.compile(r"object_id\s+(-?\d{1,10})\s*")
"""Comment in place of the property where all Gaussians have one id."""
_SURE = 20.0
"""Logit that stands for infinity: 1 - opacity is 2e-9. As a logarithm, -20 is a Gaussian without thickness."""
_FAR = float(1 << 14)
"""Beyond, float32 steps are 0.002 units and more: coordinates are moved to the origin in double precision."""

_MAX_HEADER = 1 << 20
_MAX_SIDECAR = 16 << 20
_MAX_ID = (1 << 31) - 1
_MAX_NAME = 200
_BLOCK_BYTES = 1 << 19
"""Vertices are read and written in blocks that fit into the processor's cache: twice as fast as all at once."""

_PARAMETERS = ("means", "quats", "scales", "opacities", "features_dc", "features_rest")


class PlyError(GradisegError):
    """A PLY file cannot be read as a splat, or not be written; the message says which, why, and what to do."""


# ---------------------------------------------------------------------------------------------------- reading


def read_ply(path: str | Path) -> Splat:
    """Read a splat from a PLY file of 3DGS, nerfstudio's ns-export, SuperSplat, Brush, Postshot, CloudCompare, ...

    ASCII and binary files of either byte order; degrees 0 to 3; properties in any order and of any type, and with a
    prefix such as CloudCompare's `scalar_`. Colours as `red`, `green`, `blue` of type uchar stand in for missing
    `f_dc_*`. A property `object_id` or `label`, of integers or of whole floats (editors save every property as float),
    becomes the labels. Normals and other elements than `vertex` are passed over, all other properties are kept in
    `Splat.extra`. Comments say whether the splat is antialiased (Brush's "SplatRenderMode: mip", Postshot's
    "antialiased 1"), its vertical axis, its frame, and the id of a splat that is one object.

    An opacity of +inf and a scale of -inf are a Gaussian that is opaque and one that is flat, and are kept as 20 and
    -20. Mip-Splatting's `filter_3D` is folded into scales and opacities. Coordinates beyond 16384 units are moved to the
    origin in double precision (`Splat.offset`). Gaussians with another value that is not finite, or a quaternion of
    zeros, are dropped with a warning; so is said if scales and opacities look as if they were activated already.

    SPZ and the compressed PLYs of PlayCanvas are read too where the library gsply is installed. What a file is, its
    content says, not its name.

    Args:
        path: File to read.

    Returns:
        The splat, float32, on the CPU.

    Raises:
        PlyError: The file is missing, empty, damaged, not a PLY, or holds something else than 3D Gaussians.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(4096)
            file.seek(0)
            if formats.is_spz(start) and formats.gsply() is not None:
                splat = _by_gsply(formats.read_spz, path)
            else:
                header = _read_header(file, path)
                if _is_compressed(header) and formats.gsply() is not None:
                    splat = _read_compressed(size - file.tell(), header, path)
                else:
                    columns = _find_columns(header, path)
                    splat = _read_columns(file, size, header, columns, path)
    except FileNotFoundError:
        raise PlyError(f"The PLY file {path} does not exist.") from None
    except IsADirectoryError:
        raise PlyError(
            f"{path} is a directory. Expected a splat as PLY; a run goes to --load-config, and an unpacked SOG has to "
            f"be converted first: {formats.CONVERT} {path}/meta.json out.ply"
        ) from None
    except OSError as error:
        raise PlyError(
            f"The PLY file {path} cannot be read ({error.strerror or error}). Expected a readable file."
        ) from error
    splat = _usable_only(_fold_filter(_finite(splat), path), f"in {path}")
    _warn_activated(splat, path)
    return splat


def _by_gsply(read: Callable[[Path], Splat], path: Path) -> Splat:
    try:
        return read(path)
    except ValueError as error:
        raise PlyError(
            f"{path} is cut off or damaged: found {error}. Expected a whole file; get it again, or convert it: "
            f"{formats.CONVERT} '{path}' out.ply"
        ) from error


def _is_compressed(header: _Header) -> bool:
    vertex = header.vertex
    return vertex is not None and any(prop.name == "packed_position" for prop in vertex.properties)


def _read_compressed(left: int, header: _Header, path: Path) -> Splat:
    """A compressed PLY, with `left` bytes after its header."""
    expected = sum(element.count * (element.row_bytes or 1) for element in header.elements)
    counts = {element.name: element.count for element in header.elements}
    if left < expected:
        raise _truncated(path, f"{expected} bytes after the header", f"{left}")
    if counts["vertex"] == 0 or counts.get("chunk") != -(-counts["vertex"] // 256):
        raise PlyError(
            f"{path} has {counts.get('chunk', 0)} chunks and {counts['vertex']} Gaussians. Expected a chunk for each "
            "256 Gaussians, as PlayCanvas writes them; export it again."
        )
    splat = _by_gsply(formats.read_compressed, path)
    if len(splat) != counts["vertex"]:
        raise _truncated(path, f"{counts['vertex']} Gaussians", f"{len(splat)}")
    return _with_comments(splat, header)


def _with_comments(splat: Splat, header: _Header) -> Splat:
    """The splat with what the comments of a header say of it; of two that contradict the later holds."""
    found: dict[str, re.Match[str]] = {}
    for comment in header.comments:
        for name, pattern in (("mode", _RENDER_MODE), ("up", _UP), ("frame", _FRAME), ("id", _ONE_ID)):
            match = pattern.fullmatch(comment)
            if match is not None:
                found[name] = match
    mode, up, frame, one = (found.get(name) for name in ("mode", "up", "frame", "id"))
    if mode is not None:
        splat = replace(splat, antialiased=(mode[1] or "").lower() == "mip" or mode[2] == "1")
    if up is not None:
        splat = replace(splat, up=up[1].lower())
    if frame is not None:
        splat = replace(splat, frame="original" if frame[1].lower() == "original" else "nerfstudio")
    if one is not None and splat.labels is None:
        labels = np.full(len(splat), int(one[1]), np.int64)
        splat = replace(splat, labels=torch.from_numpy(_as_labels(labels)))
    return splat


def _finite(splat: Splat) -> Splat:
    """Opacities that are infinite, and scales that are -infinity, as numbers that mean the same."""
    opacities, scales = splat.opacities, splat.scales
    if not opacities.sum().isfinite():  # ten times as fast as looking at every value
        opacities = torch.where(opacities.isinf(), opacities.sign() * _SURE, opacities)
    if not scales.sum().isfinite():
        scales = torch.where(scales == -torch.inf, -_SURE, scales)
    return replace(splat, opacities=opacities, scales=scales)


def _fold_filter(splat: Splat, path: Path) -> Splat:
    """Mip-Splatting's 3-D filter as part of the Gaussians (arXiv 2311.16493, eq. 9): s'^2 = s^2 + f^2 on every axis, and
    the opacity times the root of prod s^2 / prod s'^2. That is what its own create_fused_ply.py writes."""
    if _FILTER not in splat.extra:
        return splat
    extra = dict(splat.extra)
    width = extra.pop(_FILTER).double()[:, None]
    squared = (2.0 * splat.scales.double()).exp()
    wider = squared + width**2
    factor = (0.5 * (squared.log() - wider.log()).sum(dim=1)).exp()
    faded = splat.opacities.double().sigmoid() * factor
    plain = width[:, 0] == 0
    opacities = torch.where(plain, splat.opacities.double(), faded.clamp(1e-9, 1 - 1e-9).logit())
    scales = torch.where(plain[:, None], splat.scales.double(), 0.5 * wider.log())
    _note(f"{path}: Mip-Splatting's {_FILTER} was folded into scales and opacities.")
    return replace(splat, scales=scales.float(), opacities=opacities.float(), extra=extra)


def _warn_activated(splat: Splat, path: Path) -> None:
    """Says so if the values look like sizes and opacities instead of their logarithms and logits."""
    if bool((splat.scales > 0).all()) and bool(((splat.opacities >= 0) & (splat.opacities <= 1)).all()):
        _warn(
            f"All scales of {path} are positive (median {float(splat.scales.median()):.3g}) and all opacities lie in "
            "0..1: they look like sizes and opacities, expected logarithms of sizes and logits of opacities. If the "
            "splat looks like fog, take logarithms and logits where it was written."
        )


@dataclass(frozen=True)
class _Property:
    name: str
    type: str
    """numpy's code, without byte order."""
    length_type: str | None = None
    """For a list, the type of its length."""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def row_bytes(self) -> int | None:
        """Bytes of a row in a binary file; None if lists make them differ."""
        if any(prop.length_type for prop in self.properties):
            return None
        return sum(np.dtype(prop.type).itemsize for prop in self.properties)


@dataclass(frozen=True)
class _Header:
    format: str
    elements: list[_Element]
    comments: list[str]

    @property
    def vertex(self) -> _Element | None:
        return next((element for element in self.elements if element.name == "vertex"), None)


@dataclass(frozen=True)
class _Columns:
    """Which properties make up which part of a splat."""

    parts: dict[str, tuple[str, ...]]
    """Parameter of the splat: its properties, in the order of the flattened parameter."""
    from_rgb: bool
    """`features_dc` are colours 0..255."""
    labels: str | None
    extra: list[str]


def _read_header(file: IO[bytes], path: Path) -> _Header:
    """Reads up to the first byte of data."""
    start = file.read(16)
    if not start:
        raise PlyError(f"{path} is empty. Expected a PLY file of Gaussians; export or download it again.")
    if not re.match(rb"ply\s", start):
        raise PlyError(formats.refusal(path))
    file.seek(0)
    file_format: str | None = None
    elements: list[_Element] = []
    comments: list[str] = []
    for number in itertools.count(1):
        line = file.readline(_MAX_HEADER)
        if not line.endswith(b"\n") or file.tell() > _MAX_HEADER:
            raise PlyError(
                f"The header of {path} has no end: expected a line 'end_header' within the first "
                f"{_MAX_HEADER} bytes. The file is cut off or damaged; export or download it again."
            )
        text = line.decode("utf-8", "backslashreplace").strip()
        keyword, *words = text.split() or [""]
        if keyword == "end_header":
            break
        try:
            if keyword == "format":
                file_format, _ = words
                if file_format not in _BYTE_ORDERS:
                    raise KeyError(file_format)
            elif keyword == "element":
                elements.append(_parse_element(words))
            elif keyword == "property":
                elements[-1].properties.append(_parse_property(words))
            elif keyword == "comment":
                comments.append(" ".join(words))
            elif keyword not in ("", "obj_info") and number > 1:
                raise KeyError(keyword)
        except (KeyError, ValueError, IndexError):
            expected = _HEADER_LINES.get(keyword, f"one of {', '.join(_HEADER_LINES)}, comment, end_header")
            raise PlyError(
                f"Line {number} of the header of {path} is {text[:80]!r}: expected {expected}. The file is "
                "damaged or of a kind that is not known; export it again as a standard PLY."
            ) from None
    if file_format is None:
        raise PlyError(
            f"The header of {path} has no line 'format', expected one of {', '.join(_BYTE_ORDERS)}."
        )
    return _Header(file_format, [_without_prefix(element) for element in elements], comments)


def _without_prefix(element: _Element) -> _Element:
    """The Gaussians with the names of 3DGS: some programs put a word before those of all properties but x, y, z.

    CloudCompare's `scalar_`, and any other one that opacity, scales and rotations have in common.
    """
    names = {prop.name for prop in element.properties}
    if element.name != "vertex":
        return element
    prefixes = {
        name.removesuffix("opacity")
        for name in names
        if name.endswith("opacity")
        and all(name.removesuffix("opacity") + other in names for other in ("scale_0", "rot_0"))
    }
    if "opacity" in names:
        prefixes = {"scalar_"}
    properties = []
    for prop in element.properties:
        prefix = next(
            (p for p in sorted(prefixes, key=len, reverse=True) if p and prop.name.startswith(p)), ""
        )
        plain = prop.name[len(prefix) :]
        known = (
            plain in _RESERVED or plain in (*_LABELS, _HIGH, _FILTER) or _REST.fullmatch(plain) is not None
        )
        properties.append(replace(prop, name=plain) if prefix and known and plain not in names else prop)
    return replace(element, properties=properties)


def _parse_element(words: Sequence[str]) -> _Element:
    """Raises ValueError for anything else than a name and a number."""
    name, count = words
    if not re.fullmatch("[0-9]{1,18}", count):
        raise ValueError(count)
    return _Element(name, int(count))


def _parse_property(words: Sequence[str]) -> _Property:
    """Raises KeyError for an unknown type, ValueError for a wrong number of words."""
    if words[0] != "list":
        kind, name = words
        return _Property(name, _TYPES[kind])
    _, length, kind, name = words
    if _TYPES[length].startswith("f"):
        raise ValueError(length)
    return _Property(name, _TYPES[kind], _TYPES[length])


def _find_columns(header: _Header, path: Path) -> _Columns:
    """Finds out what a file holds from its header; all that is not a splat is refused here."""
    vertex = header.vertex
    if vertex is None:
        found = ", ".join(f"{element.count} {element.name}" for element in header.elements) or "nothing"
        raise PlyError(f"{path} holds {found}. Expected an element 'vertex', the Gaussians.")
    types = {prop.name: prop.type for prop in vertex.properties}
    if "packed_position" in types:
        raise PlyError(
            f"{path} is a compressed PLY of PlayCanvas/SuperSplat (property packed_position). Expected a standard "
            f"PLY: {install_command('compressed')}, with which it is read as it is, or open it in SuperSplat and "
            f"export it as PLY, not compressed, or convert it: {formats.CONVERT} '{path}' out.ply"
        )
    lists = [prop.name for prop in vertex.properties if prop.length_type]
    if lists:
        raise PlyError(
            f"The vertices of {path} have lists ({', '.join(lists[:5])}). Expected single numbers only; "
            "export the splat without them."
        )
    for twice, found in (("properties", vertex.properties), ("elements", header.elements)):
        names = [name for name, times in Counter(each.name for each in found).items() if times > 1]
        if names:
            raise PlyError(
                f"{path} has several {twice} of one name ({', '.join(names[:5])}). Expected different names; "
                "export it again."
            )
    _check_properties(types, header, path)
    n_rest = sum(1 for name in types if _REST.fullmatch(name))
    per_channel = n_rest // 3
    # Splat has the channel last: the file's f_rest are taken in that order, so that no copy follows.
    rest = tuple(f"f_rest_{c * per_channel + k}" for k in range(per_channel) for c in range(3))
    if n_rest not in (0, 9, 24, 45) or not types.keys() >= set(rest):
        raise PlyError(
            f"{path} has {n_rest} properties f_rest_*. Expected f_rest_0 to f_rest_8, 23 or 44 (spherical "
            "harmonics of degree 1, 2 or 3) or none; export it with such a degree."
        )
    if vertex.count == 0:
        raise PlyError(f"{path} holds no Gaussian ('element vertex 0'). Expected at least one.")
    from_rgb = not any(name in types for name in _DC)
    parts = {
        "means": _MEANS,
        "quats": _QUATS,
        "scales": _SCALES,
        "opacities": ("opacity",),
        "features_dc": _RGB if from_rgb else _DC,
        "features_rest": rest,
    }
    labels = next((name for name in _LABELS if types.get(name, "f")[0] != "f"), None)
    if "object_id" in types and labels != "object_id":
        labels = None  # floats, which are ids if all of them are whole
    used = {*itertools.chain(*parts.values()), *_NORMALS, labels}
    return _Columns(parts, from_rgb, labels, [name for name in types if name not in used])


def _check_properties(types: Mapping[str, str], header: _Header, path: Path) -> None:
    """Refuses vertices that lack something; `types` are those of the properties by name."""
    missing = [name for name in (*_MEANS, "opacity", *_SCALES, *_QUATS) if name not in types]
    found = f"found {', '.join(list(types)[:12])}{', ...' if len(types) > 12 else ''}"
    if not any(name in types for name in ("opacity", *_SCALES, *_QUATS)):
        kind = "mesh" if any(element.name == "face" for element in header.elements) else "point cloud"
        raise PlyError(
            f"{path} is a {kind}, not a splat ({found}). Expected Gaussians with opacity, scale_0 to scale_2 "
            "and rot_0 to rot_3. Such a file can start a training, but there is nothing to render in it yet."
        )
    if missing == ["scale_2"]:
        raise PlyError(
            f"{path} holds flat Gaussians (2DGS): it has scale_0 and scale_1 but no scale_2. Expected 3D "
            "Gaussians with three scales; convert it, for example with a scale_2 of -20, or train with 3DGS."
        )
    if missing:
        raise PlyError(
            f"The vertices of {path} lack {', '.join(missing)} ({found}). Expected the properties of 3DGS: "
            "x y z, opacity, scale_0 to scale_2, rot_0 to rot_3; export the splat again."
        )
    if not all(name in types for name in _DC) and (
        any(name in types for name in _DC) or not all(types.get(name) == "u1" for name in _RGB)
    ):
        raise PlyError(
            f"The vertices of {path} have no complete colours ({found}). Expected f_dc_0, f_dc_1 and f_dc_2, "
            "or red, green and blue of type uchar; export the splat with its colours."
        )


def _read_columns(file: IO[bytes], size: int, header: _Header, columns: _Columns, path: Path) -> Splat:
    """Reads the vertices: the file stands at the first byte after the header and has `size` bytes in all."""
    vertex = header.vertex
    assert vertex is not None
    before = header.elements[: header.elements.index(vertex)]
    # A generator: memory is taken when its first block is there, after the sizes were checked.
    blocks = (_ascii_blocks if header.format == "ascii" else _binary_blocks)(
        file, size, header, before, vertex, path
    )
    first = next(blocks)
    count = vertex.count
    parts: dict[str, NDArray] = {
        name: np.empty((count, len(found)), np.float32) for name, found in columns.parts.items()
    }
    extra = {name: np.empty(count, np.float32) for name in columns.extra}
    labels = np.empty(count, np.int32) if columns.labels is not None else None
    # Single floats are exact as doubles, and written to float32 in the end.
    types = {prop.name: prop.type for prop in vertex.properties}
    double = header.format == "ascii" or any(types[name] == "f8" for name in _MEANS)
    if double:
        parts["means"] = np.empty((count, 3), np.float64)
    start = 0
    with np.errstate(over="ignore"):  # a double too large becomes infinite, and its Gaussian is dropped
        for block in itertools.chain([first], blocks):
            rows = slice(start, start + len(block))
            for name, properties in columns.parts.items():
                for index, prop in enumerate(properties):
                    parts[name][rows, index] = block[prop]
            for name, values in extra.items():
                values[rows] = block[name]
            if labels is not None:
                labels[rows] = _as_labels(block[columns.labels])
            start += len(block)
    if labels is None:
        labels = _float_labels(extra)
    parts["means"], offset = _centred(parts["means"], np.exp(np.median(parts["scales"])), path)
    if columns.from_rgb:
        parts["features_dc"] = (parts["features_dc"] / 255.0 - 0.5) / _SH_C0
    tensors = {name: torch.from_numpy(values) for name, values in parts.items()}
    tensors["opacities"] = tensors["opacities"][:, 0]
    tensors["features_rest"] = tensors["features_rest"].reshape(
        count, len(columns.parts["features_rest"]) // 3, 3
    )
    means, quats, scales, opacities, dc, rest = (tensors[name] for name in _PARAMETERS)
    splat = Splat(
        means,
        quats,
        scales,
        opacities,
        dc,
        rest,
        labels=None if labels is None else torch.from_numpy(labels),
        extra={name: torch.from_numpy(values) for name, values in extra.items()},
        offset=offset,
    )
    return _with_comments(splat, header)


def _float_labels(extra: dict[str, NDArray]) -> NDArray[np.int32] | None:
    """Ids [n] of a property of whole floats, taken out of `extra`; None if there is none."""
    for name in _LABELS:
        values = extra.get(name)
        if values is None:
            continue
        finite = np.isfinite(values)
        if finite.any() and np.array_equal(values[finite], np.rint(values[finite])):
            ids = extra.pop(name).astype(np.float64)
            high = extra.pop(_HIGH, None) if name == "object_id" else None
            return _as_labels(ids if high is None else ids + np.float64(_FLOAT_IDS) * high)
        if name == "object_id":  # not ids at all: then a `label` beside them is not looked at either
            return None
    return None


def _centred(
    means: NDArray, size: float, path: Path
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Centres [n, 3] in float32, and what was taken off them in double precision: nothing unless they are far away.

    `size` is that of a usual Gaussian, world units.
    """
    finite = means[np.isfinite(means).all(axis=1)]
    middle = np.rint(np.median(finite, axis=0)) if len(finite) else np.zeros(3)
    reach = float(np.abs(middle).max())
    if reach < _FAR:
        with np.errstate(over="ignore"):
            return means.astype(np.float32), (0.0, 0.0, 0.0)
    step = float(np.spacing(np.float32(reach)))
    if means.dtype == np.float32 and step > 0.2 * size:
        _warn(
            f"{path} has coordinates of {reach:.0f} as single floats, which are {step:.3g} apart there; its Gaussians "
            f"measure about {size:.3g}. What lay between was lost where the file was written: export it with doubles, "
            "or with an offset taken off."
        )
    x, y, z = middle.tolist()
    _note(
        f"{path}: coordinates are counted from ({x:.0f}, {y:.0f}, {z:.0f}), and written back where they were."
    )
    with np.errstate(over="ignore"):
        return (means.astype(np.float64) - middle).astype(np.float32), (x, y, z)


def _as_labels(values: NDArray) -> NDArray[np.int32]:
    """int32 ids `[n]` of numbers `[n]`; `IGNORE` for those that are no id."""
    values = values.astype(np.float64)  # in float32 the largest id would be rounded to one that is too large
    known = (values >= 0) & (values <= np.iinfo(np.int32).max)
    return np.where(known, values, IGNORE).astype(np.int32)


def _truncated(path: Path, expected: str, found: str) -> PlyError:
    return PlyError(
        f"{path} is cut off or damaged: found {found}, expected {expected}, as its header says. Export or "
        "download it again."
    )


def _binary_blocks(
    file: IO[bytes], size: int, header: _Header, before: Sequence[_Element], vertex: _Element, path: Path
) -> Iterator[NDArray]:
    """Structured arrays `[n]` of the vertices of a binary file."""
    order = _BYTE_ORDERS[header.format]
    for element in before:
        _skip_binary(file, size, element, order, path)
    row = np.dtype([(prop.name, order + prop.type) for prop in vertex.properties])
    left = size - file.tell()
    expected = f"{vertex.count} Gaussians of {row.itemsize} bytes"
    if left < vertex.count * row.itemsize:
        raise _truncated(path, expected, f"{max(left, 0)} bytes, {max(left, 0) // row.itemsize} Gaussians")
    if vertex is header.elements[-1] and left > vertex.count * row.itemsize:
        _warn(
            f"{path} has {left - vertex.count * row.itemsize} bytes more than the {expected} that its header "
            "announces; they are ignored. If the splat looks wrong, the file was damaged on its way."
        )
    per_block = max(1, _BLOCK_BYTES // row.itemsize)
    for start in range(0, vertex.count, per_block):
        rows = min(per_block, vertex.count - start)
        data = file.read(rows * row.itemsize)
        if len(data) < rows * row.itemsize:
            raise _truncated(path, expected, f"{start + len(data) // row.itemsize} Gaussians")
        yield np.frombuffer(data, row)


def _skip_binary(file: IO[bytes], size: int, element: _Element, order: str, path: Path) -> None:
    """Moves behind an element."""
    if not element.properties:
        return
    row_bytes = element.row_bytes
    left = size - file.tell()
    # With lists, a row takes a byte at least.
    if left < element.count * (row_bytes or 1):
        raise _truncated(path, f"{element.count} rows of {element.name}", f"{left} bytes")
    if row_bytes is not None:
        file.seek(element.count * row_bytes, os.SEEK_CUR)
        return
    sizes = [
        (np.dtype(order + prop.length_type) if prop.length_type else None, np.dtype(prop.type).itemsize)
        for prop in element.properties
    ]
    for row in range(element.count):
        for length_type, item_bytes in sizes:
            length = 1
            if length_type is not None:
                data = file.read(length_type.itemsize)
                length = int(np.frombuffer(data, length_type)[0]) if len(data) == length_type.itemsize else -1
            if length < 0 or length * item_bytes > size - file.tell():
                raise _truncated(
                    path, f"{element.count} rows of {element.name}", f"{row} of them that are whole"
                )
            file.seek(length * item_bytes, os.SEEK_CUR)


def _ascii_blocks(
    file: IO[bytes], size: int, header: _Header, before: Sequence[_Element], vertex: _Element, path: Path
) -> Iterator[NDArray]:
    """Structured arrays `[n]`, all float64, of the vertices of an ASCII file: one line each."""
    left = size - file.tell()
    # A number takes a digit and a space or line end.
    if left + 1 < 2 * vertex.count * len(vertex.properties):
        raise _truncated(
            path, f"{vertex.count} Gaussians of {len(vertex.properties)} numbers", f"{left} characters"
        )
    with io.TextIOWrapper(file, encoding="latin-1") as text:
        lines = filter(str.strip, text)
        for element in before:
            rows = element.count if element.properties else 0
            skipped = sum(1 for _ in itertools.islice(lines, rows))
            if skipped < rows:
                raise _truncated(path, f"{rows} rows of {element.name}", f"{skipped} lines")
        row = np.dtype([(prop.name, "f8") for prop in vertex.properties])
        per_block = max(1, _BLOCK_BYTES // row.itemsize)
        for start in range(0, vertex.count, per_block):
            rows = min(per_block, vertex.count - start)
            block = list(itertools.islice(lines, rows))
            if len(block) < rows:
                raise _truncated(path, f"{vertex.count} Gaussians", f"{start + len(block)} lines of them")
            try:
                values = np.loadtxt(block, np.float64, comments=None, ndmin=2)
            except ValueError:
                values = np.empty((0, 0))
            if values.shape != (rows, len(vertex.properties)):
                raise _wrong_line(block, start, len(vertex.properties), path)
            yield values.view(row)[:, 0]


def _wrong_line(block: Sequence[str], start: int, expected: int, path: Path) -> PlyError:
    """Names the first of the lines that does not hold as many numbers as expected."""
    for index, line in enumerate(block, start):
        words = line.split()
        found = f"{len(words)} numbers" if len(words) != expected else ""
        for word in words if not found else ():
            try:
                float(word)
            except ValueError:
                found = f"{word[:40]!r}"
                break
        if found:
            return PlyError(
                f"Gaussian {index} of {path} holds {found}: expected {expected} numbers on one line. The file "
                "is damaged; export or download it again."
            )
    return PlyError(f"The Gaussians from {start} on in {path} are damaged: expected {expected} numbers each.")


def _usable_only(splat: Splat, where: str) -> Splat:
    """Drops Gaussians that cannot be drawn, with a warning; `where` completes its sentence.

    Raises:
        PlyError: None is left.
    """
    usable = torch.ones(len(splat), dtype=torch.bool, device=splat.means.device)
    for name in _PARAMETERS:
        values = getattr(splat, name)
        if not values.sum().isfinite():  # ten times as fast as looking at every value
            usable &= values.isfinite().reshape(len(splat), -1).all(dim=1)
    norms = splat.quats.double().norm(dim=1, keepdim=True)
    usable &= norms[:, 0] > 0
    # The squares of these leave the range of float32: renderers would take them for zero or infinite.
    extreme = usable[:, None] & ((norms < 1e-6) | (norms > 1e6))
    if extreme.any():
        splat = replace(
            splat, quats=torch.where(extreme, splat.quats / norms, splat.quats).to(splat.quats.dtype)
        )
    dropped = int((~usable).sum())
    if dropped == 0:
        return splat
    if dropped == len(splat):
        raise PlyError(
            f"None of the {dropped} Gaussians {where} can be drawn. Expected finite values and quaternions that "
            "are not zero; the training has diverged or the file is damaged."
        )
    _warn(
        f"Dropped {dropped} of the {len(splat)} Gaussians {where}: they have values that are not finite, or a "
        "quaternion of zeros."
    )
    return splat.select(usable)


def _note(message: str) -> None:
    CONSOLE.print(escape(message), soft_wrap=True)


def _warn(message: str) -> None:
    CONSOLE.print(f"[bold yellow]Warning:[/bold yellow] {escape(message)}")


# ---------------------------------------------------------------------------------------------------- objects


def sidecar_path(path: str | Path) -> Path:
    """Where the objects of a PLY are told of: `<stem>.objects.json` beside it, of cup.compressed.ply cup.objects.json."""
    path = Path(path)
    return path.with_name(f"{path.stem.removesuffix('.compressed')}.objects.json")


def read_objects(path: str | Path) -> ObjectTable | None:
    """What the objects of a splat are called: `<stem>.objects.json` beside its PLY, as `write_ply` writes it.

    Names are cut to 200 characters on one line without control characters, colours to 0..1. An object without
    a name or a colour gets those of `ObjectTable.create`. Counts, boxes and file names are passed over.

    Args:
        path: The PLY file.

    Returns:
        The objects, or None if there is no such file.

    Raises:
        PlyError: The file cannot be read, is larger than 16 MiB, or holds something else.
    """
    path = sidecar_path(path)
    expected = 'Expected {"objects": [{"id": 3, "name": "cup", "color": [0.8, 0.1, 0.0]}, ...]}'
    try:
        if not path.exists():
            return None
        if not path.is_file():  # a pipe would be waited for
            raise PlyError(f"{path} is not a file. {expected} in one; remove it to go without names.")
        with path.open("rb") as file:
            data = file.read(_MAX_SIDECAR + 1)
    except OSError as error:
        raise PlyError(
            f"{path} cannot be read ({error.strerror or error}). Expected a readable file."
        ) from error
    if len(data) > _MAX_SIDECAR:
        raise PlyError(f"{path} is larger than {_MAX_SIDECAR >> 20} MiB. {expected} in less.")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PlyError(f"{path} is not JSON ({error}). {expected}.") from None
    entries = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise PlyError(f"{path} holds {reprlib.repr(content)}. {expected}.")
    names: dict[int, str] = {}
    colors: dict[int, list[float]] = {}
    for number, entry in enumerate(entries):
        try:
            object_id, name, color = _parse_object(entry)
            if object_id in names:
                raise ValueError(f"the id {object_id} a second time")
        except ValueError as error:
            raise PlyError(f"{path}: found {error} in object {number}. {expected}, each id once.") from None
        names[object_id] = name or f"object {object_id}"
        if color is not None:
            colors[object_id] = color
    return _table(list(names), names, colors)


def _parse_object(entry: object) -> tuple[int, str, list[float] | None]:
    """Id, name ("" if there is none) and colour of an entry.

    Raises:
        ValueError: Something else than expected; the message says what was found.
    """
    if not isinstance(entry, dict):
        raise ValueError(reprlib.repr(entry))
    object_id, name, color = entry.get("id"), entry.get("name", ""), entry.get("color")
    if isinstance(object_id, bool) or not isinstance(object_id, int) or not 0 <= object_id <= _MAX_ID:
        raise ValueError(f"the id {reprlib.repr(object_id)}")
    if not isinstance(name, str):
        raise ValueError(f"the name {reprlib.repr(name)}")
    if color is not None and not _is_color(color):
        raise ValueError(f"the color {reprlib.repr(color)}")
    printable = "".join(c if c.isprintable() else " " for c in name)
    return object_id, " ".join(printable.split())[:_MAX_NAME], color


def _is_color(value: object) -> bool:
    """Whether it is three finite numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
        and all(abs(x) < 1e30 for x in value)  # no NaN, and no integer that is no float
    )


def _table(
    ids: Sequence[int], names: Mapping[int, str] | None, colors: Mapping[int, Sequence[float]] | None
) -> ObjectTable:
    """A table in which some objects have colours of their own."""
    table = ObjectTable.create(ids, names)
    own = table.colors.clone()
    for row, object_id in enumerate(table.ids):
        if colors is not None and object_id in colors:
            own[row] = torch.tensor([float(x) for x in colors[object_id]]).clamp(0.0, 1.0)
    return replace(table, colors=own)


# ---------------------------------------------------------------------------------------------------- writing


def write_ply(
    path: str | Path,
    splat: Splat,
    *,
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, Sequence[float]] | None = None,
    extra: bool = True,
    ids: bool = True,
) -> Path:
    """Write a splat as a binary PLY file for viewers and other programs, and what its objects are beside it.

    The properties are x y z nx ny nz f_dc_* f_rest_* opacity scale_* rot_* (in this order, the normals zero), then
    `object_id` if the splat has labels, then the extra ones. All are `float`: other types garble the file in programs
    that know no others. The exception are x y z of a splat with an `offset`, which are `double`. Floats hold ids up to
    2^24; above, `object_id` is what is left of the id divided by 2^24, and `object_id_high` the quotient. Where all
    Gaussians have one id, a comment "object_id 7" stands for the property, so that there is none that 3DGS does not know.

    Comments that others honour say that a splat is antialiased ("SplatRenderMode: mip"), and its vertical axis
    ("Vertical axis: z"); one of ours, its frame ("Frame: nerfstudio", "Frame: original"). Gaussians with a value that is
    not finite, or a quaternion of zeros, are left out with a warning: viewers fail on them.

    With labels or names, `<stem>.objects.json` is written too::

        {"objects": [{"id": 3, "name": "cup", "gaussians": 1234, "color": [0.8, 0.1, 0.0],
                      "box": {"min": [-1.0, 0.0, 0.2], "max": [0.1, 2.0, 0.9]}}, ...],
         "unknown_gaussians": 56}

    sorted by id, with every id that a Gaussian or a name has; `color` as in `object_colors` unless given, `box`
    that of the Gaussians' centres, null without any. `read_objects` reads it.

    A file appears under its name only when it is complete; one from before is then replaced.

    Args:
        path: Where to. Missing folders are made.
        splat: What to write, on any device.
        names: Names of objects by id; "object 7" where missing.
        colors: Colours of objects by id, RGB in 0..1; those of `object_colors` where missing.
        extra: Write `Splat.extra`.
        ids: Write `object_id`, as a property or a comment.

    Returns:
        The path of the PLY file.

    Raises:
        WriteError: The file cannot be written; what was there before is still there.
        PlyError: The splat is empty, its
            labels or extra properties do not fit, or a colour is not three finite numbers.
    """
    path = Path(path)
    splat = prepare_splat(splat, str(path), extra=extra)
    files: dict[Path, Iterable[bytes]] = {}
    if splat.labels is not None or names:
        files[sidecar_path(path)] = [sidecar_bytes(splat, names, colors=colors)]
    files[path] = vertex_blocks(splat, ids=ids)
    write_files(files)
    return path


def ply_bytes(splat: Splat, *, extra: bool = True, ids: bool = True) -> bytes:
    """What the PLY file that `write_ply` writes holds.

    Raises:
        PlyError: The splat is empty, or its labels or extra properties do not fit.
    """
    return b"".join(vertex_blocks(prepare_splat(splat, "a PLY", extra=extra), ids=ids))


def prepare_splat(splat: Splat, where: str, *, extra: bool = True) -> Splat:
    """The splat as `vertex_blocks` takes it: float32 on the CPU, without what cannot be drawn.

    Args:
        splat: Any splat, on any device.
        where: Where it goes, for messages.
        extra: Keep `Splat.extra`.

    Raises:
        PlyError: The splat is empty, or its labels or extra properties do not fit.
    """
    if len(splat) == 0:
        raise PlyError(
            f"There is nothing to write to {where}: the splat is empty, expected a Gaussian at least."
        )
    kept = dict(splat.extra) if extra else {}
    if splat.labels is not None:  # what the file said before of objects is replaced
        for name in ("object_id", _HIGH):
            kept.pop(name, None)
    splat = replace(splat, extra=kept)
    _check_extra(splat, where)
    splat = splat.to("cpu")
    parameters = {name: getattr(splat, name).detach().float() for name in _PARAMETERS}
    labels = None if splat.labels is None else torch.from_numpy(_as_labels(splat.labels.numpy()))
    return _usable_only(_finite(replace(splat, **parameters, labels=labels)), f"to write to {where}")


def _check_extra(splat: Splat, where: str) -> None:
    """Raises PlyError if labels or extra properties cannot be written."""
    checked: dict[str, Tensor] = {f"extra[{name!r}]": value for name, value in splat.extra.items()}
    if splat.labels is not None:
        checked["labels"] = splat.labels
    for name, value in checked.items():
        if value.shape != (len(splat),):
            raise PlyError(
                f"Cannot write {where}: Splat.{name} has shape {list(value.shape)}, expected [{len(splat)}]."
            )
    for name in splat.extra:
        if name in _RESERVED or name in _NORMALS or _REST.fullmatch(name):
            raise PlyError(
                f"Cannot write {where}: the extra property {name!r} has the name of a property of every splat. "
                "Rename it, or write with extra=False."
            )
        if name.split() != [name]:
            raise PlyError(
                f"Cannot write {where}: found the extra property {name!r}, expected a name of one word. Rename it."
            )


def sidecar_bytes(
    splat: Splat,
    names: Mapping[int, str] | None = None,
    *,
    colors: Mapping[int, Sequence[float]] | None = None,
    files: Mapping[int, str] | None = None,
) -> bytes:
    """What `<stem>.objects.json` holds (`write_ply`), one object a line.

    Args:
        splat: What `prepare_splat` gave.
        names: Names by id.
        colors: Colours by id.
        files: If given, each object also has the name of its file, null for those without.

    Raises:
        PlyError: A colour is not three finite numbers.
    """
    for object_id, color in (colors or {}).items():
        if not _is_color(color):
            raise PlyError(
                f"The color of object {object_id} is {reprlib.repr(color)}: expected three finite numbers in 0..1."
            )
    labels = torch.full((len(splat),), IGNORE) if splat.labels is None else splat.labels
    ids, rows, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    gaussians = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    boxes = [
        [[x + o for x, o in zip(corner, splat.offset, strict=True)] for corner in box]
        for box in _boxes(splat.means, rows, len(ids))
    ]
    box_of = {i: {"min": low, "max": high} for i, (low, high) in zip(ids.tolist(), boxes, strict=True)}
    table = _table([*gaussians, *(names or {})], names, colors)
    lines = []
    for i, name, color in zip(table.ids, table.names, table.colors.tolist(), strict=True):
        entry = {
            "id": i,
            "name": name,
            "gaussians": gaussians.get(i, 0),
            "color": color,
            "box": box_of.get(i),
        }
        if files is not None:
            entry["file"] = files.get(i)
        lines.append("  " + json.dumps(entry, ensure_ascii=False, allow_nan=False))
    objects = "[\n" + ",\n".join(lines) + "\n ]" if lines else "[]"
    text = f'{{"objects": {objects},\n "unknown_gaussians": {gaussians.get(IGNORE, 0)}}}\n'
    # A name of a broken file name may hold half a character: its escape is what JSON has for it.
    return text.encode("utf-8", "backslashreplace")


def _boxes(means: Tensor, rows: Tensor, count: int) -> list[list[list[float]]]:
    """Smallest and largest coordinates `[count, 2, 3]` of centres `[N, 3]` that belong to rows `[N]`."""
    index = rows[:, None].expand(-1, 3)
    low = means.new_full((count, 3), torch.inf).scatter_reduce_(0, index, means, "amin")
    high = means.new_full((count, 3), -torch.inf).scatter_reduce_(0, index, means, "amax")
    return torch.stack([low, high], dim=1).tolist()


def header_comments(splat: Splat) -> list[str]:
    """What a PLY's header says of a splat beside its numbers, line by line."""
    return [
        *([f"comment {ANTIALIASED}"] if splat.antialiased else []),
        *([f"comment Vertical axis: {splat.up}"] if splat.up is not None else []),
        *([f"comment Frame: {splat.frame}"] if splat.frame is not None else []),
    ]


def vertex_blocks(splat: Splat, *, ids: bool = True) -> Iterator[bytes]:
    """Header and vertices of a PLY, piece by piece, of what `prepare_splat` gave; with object ids, if any, unless told."""
    n_rest = 3 * splat.features_rest.shape[1]
    moved = any(splat.offset)
    means = (
        splat.means.numpy().astype(np.float64) + np.asarray(splat.offset) if moved else splat.means.numpy()
    )
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    single = [
        (list(_NORMALS), np.zeros((len(splat), 3), np.float32)),
        (list(_DC), splat.features_dc.numpy()),
        (rest, splat.features_rest.numpy().transpose(0, 2, 1)),
        (["opacity"], splat.opacities.numpy()),
        (list(_SCALES), splat.scales.numpy()),
        (list(_QUATS), splat.quats.numpy()),
    ]
    comments = header_comments(splat)
    if splat.labels is not None and ids:
        labels = splat.labels.numpy().astype(np.int64)
        if (labels == labels[0]).all():
            comments.append(f"comment object_id {labels[0]}")
        elif labels.max() <= _FLOAT_IDS:
            single.append((["object_id"], labels))
        else:
            single.append((["object_id"], np.where(labels < 0, labels, labels % _FLOAT_IDS)))
            single.append(([_HIGH], np.maximum(labels, 0) // _FLOAT_IDS))
    single += [([name], value.detach().float().numpy()) for name, value in splat.extra.items()]
    properties = [f"{'double' if moved else 'float'} {name}" for name in _MEANS]
    properties += [f"float {name}" for names, _ in single for name in names]
    # The original viewer of 3DGS expects the number of vertices on the third line: a comment has to follow it.
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(splat)}",
        *(f"property {prop}" for prop in properties),
        *comments,
        "end_header",
    ]
    yield "".join(f"{line}\n" for line in header).encode()

    parts = [values for names, values in single if names]
    per_block = max(1, _BLOCK_BYTES // (4 * len(properties)))
    for start in range(0, len(splat), per_block):
        rows = min(per_block, len(splat) - start)
        first = means[start : start + rows].astype("<f8" if moved else "<f4", copy=False)
        block = [part[start : start + rows].reshape(rows, -1).astype("<f4", copy=False) for part in parts]
        # A double lies among the floats as two of them: only its bytes count.
        yield np.concatenate([np.ascontiguousarray(first).view("<f4"), *block], axis=1).tobytes()
