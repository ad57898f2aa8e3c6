"""Splats from PLY files of any program, and from other formats by what is in the file."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.formats import foreign
from gradiseg_ns.formats.ply_header import BYTE_ORDERS, Element, Header, read_header
from gradiseg_ns.formats.ply_layout import (
    BLOCK_BYTES,
    DC,
    FAR,
    FILTER,
    FLOAT_IDS,
    FRAME,
    HIGH,
    LABELS,
    MEANS,
    NORMALS,
    ONE_ID,
    PARAMETERS,
    QUATS,
    RENDER_MODE,
    REST,
    RGB,
    SCALES,
    SURE,
    UP,
    PlyError,
)
from gradiseg_ns.scene.harmonics import SH_C0
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.extras import install_command
from gradiseg_ns.tools.terminal import say, warn


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
            if foreign.is_spz(start) and foreign.gsply() is not None:
                splat = _by_gsply(foreign.read_spz, path)
            else:
                header = read_header(file, path)
                if _is_compressed(header) and foreign.gsply() is not None:
                    splat = _read_compressed(size - file.tell(), header, path)
                else:
                    columns = _find_columns(header, path)
                    splat = _read_columns(file, size, header, columns, path)
    except FileNotFoundError:
        raise PlyError(f"The PLY file {path} does not exist.") from None
    except IsADirectoryError:
        raise PlyError(
            f"{path} is a directory. Expected a splat as PLY; a run goes to --load-config, and an unpacked SOG has to "
            f"be converted first: {foreign.CONVERT} {path}/meta.json out.ply"
        ) from None
    except OSError as error:
        raise PlyError(
            f"The PLY file {path} cannot be read ({error.strerror or error}). Expected a readable file."
        ) from error
    splat = usable_only(_fold_filter(finite(splat), path), f"in {path}")
    _warn_activated(splat, path)
    return splat


def _by_gsply(read: Callable[[Path], Splat], path: Path) -> Splat:
    try:
        return read(path)
    except ValueError as error:
        raise PlyError(
            f"{path} is cut off or damaged: found {error}. Expected a whole file; get it again, or convert it: "
            f"{foreign.CONVERT} '{path}' out.ply"
        ) from error


def _is_compressed(header: Header) -> bool:
    vertex = header.vertex
    return vertex is not None and any(prop.name == "packed_position" for prop in vertex.properties)


def _read_compressed(left: int, header: Header, path: Path) -> Splat:
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
    splat = _by_gsply(foreign.read_compressed, path)
    if len(splat) != counts["vertex"]:
        raise _truncated(path, f"{counts['vertex']} Gaussians", f"{len(splat)}")
    return _with_comments(splat, header)


def _with_comments(splat: Splat, header: Header) -> Splat:
    """The splat with what the comments of a header say of it; of two that contradict the later holds."""
    found: dict[str, re.Match[str]] = {}
    for comment in header.comments:
        for name, pattern in (("mode", RENDER_MODE), ("up", UP), ("frame", FRAME), ("id", ONE_ID)):
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


def finite(splat: Splat) -> Splat:
    """Opacities that are infinite, and scales that are -infinity, as numbers that mean the same."""
    opacities, scales = splat.opacities, splat.scales
    if not opacities.sum().isfinite():  # ten times as fast as looking at every value
        opacities = torch.where(opacities.isinf(), opacities.sign() * SURE, opacities)
    if not scales.sum().isfinite():
        scales = torch.where(scales == -torch.inf, -SURE, scales)
    return replace(splat, opacities=opacities, scales=scales)


def _fold_filter(splat: Splat, path: Path) -> Splat:
    """Mip-Splatting's 3-D filter as part of the Gaussians (arXiv 2311.16493, eq. 9): s'^2 = s^2 + f^2 on every axis, and
    the opacity times the root of prod s^2 / prod s'^2. That is what its own create_fused_ply.py writes."""
    if FILTER not in splat.extra:
        return splat
    extra = dict(splat.extra)
    width = extra.pop(FILTER).double()[:, None]
    squared = (2.0 * splat.scales.double()).exp()
    wider = squared + width**2
    factor = (0.5 * (squared.log() - wider.log()).sum(dim=1)).exp()
    faded = splat.opacities.double().sigmoid() * factor
    plain = width[:, 0] == 0
    opacities = torch.where(plain, splat.opacities.double(), faded.clamp(1e-9, 1 - 1e-9).logit())
    scales = torch.where(plain[:, None], splat.scales.double(), 0.5 * wider.log())
    say(f"{path}: Mip-Splatting's {FILTER} was folded into scales and opacities.")
    return replace(splat, scales=scales.float(), opacities=opacities.float(), extra=extra)


def _warn_activated(splat: Splat, path: Path) -> None:
    """Says so if the values look like sizes and opacities instead of their logarithms and logits."""
    if bool((splat.scales > 0).all()) and bool(((splat.opacities >= 0) & (splat.opacities <= 1)).all()):
        warn(
            f"All scales of {path} are positive (median {float(splat.scales.median()):.3g}) and all opacities lie in "
            "0..1: they look like sizes and opacities, expected logarithms of sizes and logits of opacities. If the "
            "splat looks like fog, take logarithms and logits where it was written."
        )


@dataclass(frozen=True)
class _Columns:
    """Which properties make up which part of a splat."""

    parts: dict[str, tuple[str, ...]]
    """Parameter of the splat: its properties, in the order of the flattened parameter."""
    from_rgb: bool
    """`features_dc` are colours 0..255."""
    labels: str | None
    extra: list[str]


def _find_columns(header: Header, path: Path) -> _Columns:
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
            f"export it as PLY, not compressed, or convert it: {foreign.CONVERT} '{path}' out.ply"
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
    n_rest = sum(1 for name in types if REST.fullmatch(name))
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
    from_rgb = not any(name in types for name in DC)
    parts = {
        "means": MEANS,
        "quats": QUATS,
        "scales": SCALES,
        "opacities": ("opacity",),
        "features_dc": RGB if from_rgb else DC,
        "features_rest": rest,
    }
    labels = next((name for name in LABELS if types.get(name, "f")[0] != "f"), None)
    if "object_id" in types and labels != "object_id":
        labels = None  # floats, which are ids if all of them are whole
    used = {*itertools.chain(*parts.values()), *NORMALS, labels}
    return _Columns(parts, from_rgb, labels, [name for name in types if name not in used])


def _check_properties(types: Mapping[str, str], header: Header, path: Path) -> None:
    """Refuses vertices that lack something; `types` are those of the properties by name."""
    missing = [name for name in (*MEANS, "opacity", *SCALES, *QUATS) if name not in types]
    found = f"found {', '.join(list(types)[:12])}{', ...' if len(types) > 12 else ''}"
    if not any(name in types for name in ("opacity", *SCALES, *QUATS)):
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
    if not all(name in types for name in DC) and (
        any(name in types for name in DC) or not all(types.get(name) == "u1" for name in RGB)
    ):
        raise PlyError(
            f"The vertices of {path} have no complete colours ({found}). Expected f_dc_0, f_dc_1 and f_dc_2, "
            "or red, green and blue of type uchar; export the splat with its colours."
        )


def _read_columns(file: IO[bytes], size: int, header: Header, columns: _Columns, path: Path) -> Splat:
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
    double = header.format == "ascii" or any(types[name] == "f8" for name in MEANS)
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
    parts["means"], offset = centred(parts["means"], np.exp(np.median(parts["scales"])), path)
    if columns.from_rgb:
        parts["features_dc"] = (parts["features_dc"] / 255.0 - 0.5) / SH_C0
    tensors = {name: torch.from_numpy(values) for name, values in parts.items()}
    tensors["opacities"] = tensors["opacities"][:, 0]
    tensors["features_rest"] = tensors["features_rest"].reshape(
        count, len(columns.parts["features_rest"]) // 3, 3
    )
    means, quats, scales, opacities, dc, rest = (tensors[name] for name in PARAMETERS)
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
    for name in LABELS:
        values = extra.get(name)
        if values is None:
            continue
        finite = np.isfinite(values)
        if finite.any() and np.array_equal(values[finite], np.rint(values[finite])):
            ids = extra.pop(name).astype(np.float64)
            high = extra.pop(HIGH, None) if name == "object_id" else None
            return _as_labels(ids if high is None else ids + np.float64(FLOAT_IDS) * high)
        if name == "object_id":  # not ids at all: then a `label` beside them is not looked at either
            return None
    return None


def centred(
    means: NDArray, size: float, path: Path
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Centres [n, 3] in float32, and what was taken off them in double precision: nothing unless they are far away.

    `size` is that of a usual Gaussian, world units.
    """
    finite = means[np.isfinite(means).all(axis=1)]
    middle = np.rint(np.median(finite, axis=0)) if len(finite) else np.zeros(3)
    reach = float(np.abs(middle).max())
    if reach < FAR:
        with np.errstate(over="ignore"):
            return means.astype(np.float32), (0.0, 0.0, 0.0)
    step = float(np.spacing(np.float32(reach)))
    if means.dtype == np.float32 and step > 0.2 * size:
        warn(
            f"{path} has coordinates of {reach:.0f} as single floats, which are {step:.3g} apart there; its Gaussians "
            f"measure about {size:.3g}. What lay between was lost where the file was written: export it with doubles, "
            "or with an offset taken off."
        )
    x, y, z = middle.tolist()
    say(
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
    file: IO[bytes], size: int, header: Header, before: Sequence[Element], vertex: Element, path: Path
) -> Iterator[NDArray]:
    """Structured arrays `[n]` of the vertices of a binary file."""
    order = BYTE_ORDERS[header.format]
    for element in before:
        _skip_binary(file, size, element, order, path)
    row = np.dtype([(prop.name, order + prop.type) for prop in vertex.properties])
    left = size - file.tell()
    expected = f"{vertex.count} Gaussians of {row.itemsize} bytes"
    if left < vertex.count * row.itemsize:
        raise _truncated(path, expected, f"{max(left, 0)} bytes, {max(left, 0) // row.itemsize} Gaussians")
    if vertex is header.elements[-1] and left > vertex.count * row.itemsize:
        warn(
            f"{path} has {left - vertex.count * row.itemsize} bytes more than the {expected} that its header "
            "announces; they are ignored. If the splat looks wrong, the file was damaged on its way."
        )
    per_block = max(1, BLOCK_BYTES // row.itemsize)
    for start in range(0, vertex.count, per_block):
        rows = min(per_block, vertex.count - start)
        data = file.read(rows * row.itemsize)
        if len(data) < rows * row.itemsize:
            raise _truncated(path, expected, f"{start + len(data) // row.itemsize} Gaussians")
        yield np.frombuffer(data, row)


def _skip_binary(file: IO[bytes], size: int, element: Element, order: str, path: Path) -> None:
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
    file: IO[bytes], size: int, header: Header, before: Sequence[Element], vertex: Element, path: Path
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
        per_block = max(1, BLOCK_BYTES // row.itemsize)
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


def usable_only(splat: Splat, where: str) -> Splat:
    """Drops Gaussians that cannot be drawn, with a warning; `where` completes its sentence.

    Raises:
        PlyError: None is left.
    """
    usable = torch.ones(len(splat), dtype=torch.bool, device=splat.means.device)
    for name in PARAMETERS:
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
    warn(
        f"Dropped {dropped} of the {len(splat)} Gaussians {where}: they have values that are not finite, or a "
        "quaternion of zeros."
    )
    return splat.select(usable)
