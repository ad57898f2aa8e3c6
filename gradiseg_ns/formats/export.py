"""Objects of a splat as files for other programs: one file of all, or one an object, and a sidecar that names them.

PLY keeps everything. The compressed formats are written by the library gsply (the extra `compressed`). They keep what
is seen to some bits and have no room for object ids: only separate files keep objects apart in them.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns.formats.foreign import flipped
from gradiseg_ns.formats.sidecar import sidecar_bytes
from gradiseg_ns.formats.write_ply import header_comments, prepare_splat, vertex_blocks
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.atomic import write_files
from gradiseg_ns.tools.choices import Format
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.tools.extras import install_command

OLDER = "older"
"""Folder, in that of an export, of what an export before it left."""
_SUFFIXES: dict[str, str] = {"ply": ".ply", "compressed-ply": ".compressed.ply", "spz": ".spz"}
_OWN_NAME = re.compile(r"\d+(_[A-Za-z0-9_-]+)?(\.compressed)?\.(ply|spz)")
_MAX_NAME = 60
_SPZ_BITS = (12, 16)
"""Fewest and most bits behind the point of an SPZ's 24-bit coordinates: 12 are usual, 16 are 0.015 mm if a unit is a metre."""


class ExportError(GradisegError):
    """A splat cannot be exported like this; the message says why and what to do."""


def export_objects(
    folder: str | Path,
    splat: Splat,
    names: Mapping[int, str] | None = None,
    *,
    colors: Mapping[int, Sequence[float]] | None = None,
    parents: Mapping[int, int] | None = None,
    format: Format = "ply",
    separate: bool = False,
    stem: str = "scene",
    ids: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a splat, whole or object by object, and `<stem>.objects.json` (`write_ply`) beside it.

    Files appear under their names when all of them are complete, and replace older ones of the same names then.
    Separate files are called `<id>_<name>`, of the name what `safe_name` leaves; Gaussians without an object are
    in none of them, and the sidecar also tells each object's `file`, null where it has no Gaussian. What the sidecar of an
    older such export lists and the new one does not write is moved to `older/`: a folder holds one export.

    Args:
        folder: Where to; made if missing. Nothing is written outside.
        splat: Its `labels` are object ids. Gaussians that cannot be drawn are left out with a warning.
        names: Names of objects by id.
        colors: Colours of objects by id, RGB in 0..1, for the sidecar.
        parents: For objects that are parts of another one, the other's id, for the sidecar.
        format: Kind of file.
        separate: One file an object instead of one.
        stem: Name of the one file, and of the sidecar; made safe too.
        ids: Write the property `object_id` of a PLY.
        progress: Called after each splat file with how many are done and how many there are.

    Returns:
        The splat files, objects by ascending id, and the sidecar in the end.

    Raises:
        ExportError: gsply is missing, a separate export has no object ids, or the format cannot hold the splat.
        WriteError: The files cannot be written.
        PlyError: The splat is empty or has values that do not fit.
    """
    sidecar, files = _plan(splat, names, colors, parents, format, separate, stem, ids, progress)
    paths = [Path(folder) / name for name in (*sidecar, *files)]
    before = _listed(paths[0]) if separate else set()
    write_files(dict(zip(paths, [*sidecar.values(), *files.values()], strict=True)))
    for name in before - {path.name for path in paths}:
        old = Path(folder) / name
        if name.endswith(_SUFFIXES[format]) and old.is_file():  # an export as SPZ leaves one as PLY alone
            (Path(folder) / OLDER).mkdir(exist_ok=True)
            old.replace(Path(folder) / OLDER / name)
    return [*paths[1:], paths[0]]


def export_bytes(
    splat: Splat,
    names: Mapping[int, str] | None = None,
    *,
    colors: Mapping[int, Sequence[float]] | None = None,
    parents: Mapping[int, int] | None = None,
    format: Format = "ply",
    separate: bool = False,
    stem: str = "scene",
    ids: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, bytes]:
    """What `export_objects` writes, as one download: the name and the content of a .zip, not compressed once more.

    Raises:
        ExportError, PlyError: as in `export_objects`.
    """
    sidecar, files = _plan(splat, names, colors, parents, format, separate, stem, ids, progress)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, blocks in {**files, **sidecar}.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for block in blocks:
                    file.write(block)
    return f"{safe_name(stem) or 'scene'}.zip", buffer.getvalue()


def _listed(sidecar: Path) -> set[str]:
    """Files that the sidecar of an older separate export tells of: such as we name them, in its own folder."""
    try:
        entries = json.loads(sidecar.read_bytes())["objects"]
        names = {entry.get("file") for entry in entries if isinstance(entry, dict)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str) and _OWN_NAME.fullmatch(name)}


def safe_name(name: str) -> str:
    """What a file name may have of a name: A-Z, a-z, 0-9, _ and -, at most 60 of them, accents taken off.

    Never a dot or a separator; empty if nothing is left.
    """
    text = unicodedata.normalize("NFKD", str(name)[:1000])
    text = "".join(c for c in text if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:_MAX_NAME].rstrip("_-")


# ------------------------------------------------------------------------------------------------------------- helpers


def _plan(
    splat: Splat,
    names: Mapping[int, str] | None,
    colors: Mapping[int, Sequence[float]] | None,
    parents: Mapping[int, int] | None,
    format: Format,
    separate: bool,
    stem: str,
    ids: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Iterable[bytes]], dict[str, Iterable[bytes]]]:
    """The sidecar and the splat files by their names. What a splat file holds is made when it is asked for."""
    if format not in get_args(Format):
        raise ExportError(f"Found the format {format!r}, expected one of {', '.join(get_args(Format))}.")
    if separate and splat.labels is None:
        raise ExportError("The splat has no object ids: expected labels to write its objects separately.")
    if format != "ply":
        _gsply()  # before anything is made
    stem = safe_name(stem) or "scene"
    suffix = _SUFFIXES[format]
    if format != "ply" and any(splat.offset):
        raise ExportError(
            f"The scene lies around {', '.join(f'{x:.0f}' for x in splat.offset)}, which {format} cannot hold precisely. "
            "Export as ply, or in nerfstudio's frame."
        )
    splat = prepare_splat(splat, f"{stem}{suffix}")
    content = partial(_content, format=format, ids=ids)
    names = names or {}

    parts: dict[str, Splat] = {}
    files: dict[int, str] | None = None
    if separate:
        files = {}
        for object_id, part in _objects_of(splat):
            safe = safe_name(names.get(object_id, ""))
            files[object_id] = f"{object_id}_{safe}{suffix}" if safe else f"{object_id}{suffix}"
            parts[files[object_id]] = part
        if not parts:
            raise ExportError("No Gaussian of the splat belongs to an object: there is nothing to write.")
    else:
        parts[f"{stem}{suffix}"] = splat

    def blocks(number: int, part: Splat) -> Iterator[bytes]:
        yield from content(part)
        if progress is not None:
            progress(number, len(parts))

    sidecar = sidecar_bytes(splat, names, colors=colors, files=files, parents=parents)
    return (
        {f"{stem}.objects.json": [sidecar]},
        {name: blocks(number, part) for number, (name, part) in enumerate(parts.items(), 1)},
    )


def _objects_of(splat: Splat) -> Iterator[tuple[int, Splat]]:
    """The objects by ascending id: the Gaussians of each, in their order."""
    assert splat.labels is not None
    # Sorted once, objects are slices, which are no copies: many times as fast as looking for each.
    order = torch.argsort(splat.labels, stable=True)
    splat = splat.select(order)
    assert splat.labels is not None
    ids, counts = torch.unique_consecutive(splat.labels, return_counts=True)
    start = 0
    for object_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
        if object_id >= 0:
            yield object_id, splat.select(cast(Tensor, slice(start, start + count)))
        start += count


def _content(splat: Splat, format: Format, ids: bool) -> Iterable[bytes]:
    if format == "ply":
        return vertex_blocks(splat, ids=ids)
    return [_compressed_ply(splat) if format == "compressed-ply" else _spz(splat)]


def _gsply() -> Any:
    try:
        import gsply
    except ImportError as error:
        raise ExportError(
            f"Compressed formats need the library gsply, which is not installed: {install_command('compressed')}, or "
            "export as ply."
        ) from error
    return gsply


def _gsply_data(splat: Splat, rows: Any = slice(None)) -> Any:
    """gsply's splat of some rows; "ply" says that scales are logarithms and opacities logits, as ours are."""
    # numpy's: with torch's threads, 256 small objects took twice as long on a busy machine.
    means, scales, quats, opacities, dc, rest = (
        values.numpy()[rows]
        for values in (
            splat.means, splat.scales, splat.quats, splat.opacities, splat.features_dc, splat.features_rest
        )
    )  # fmt: skip
    return _gsply().GSData.from_arrays(
        means, scales, quats, opacities, dc, rest if splat.sh_degree > 0 else None, format="ply"
    )


def _compressed_ply(splat: Splat) -> bytes:
    # Coordinates are 10 and 11 bits between the corners of 256 Gaussians in a row, which therefore must be neighbours.
    data = _gsply().compress_to_bytes(_gsply_data(splat, _morton_order(splat.means.numpy())))
    comments = "".join(f"{line}\n" for line in header_comments(splat))
    head, end, body = data.partition(b"end_header\n")
    return b"".join([head, comments.encode(), end, body])


def _morton_order(means: NDArray) -> NDArray[np.int64]:
    """Indices `[N]` along a Z-order curve through centres `[N, 3]`."""
    means = means.astype(np.float64)
    low = means.min(axis=0)
    extent = max(float((means - low).max()), 1e-30)
    bits = ((means - low) / extent * 0x1FFFFF).astype(np.int64)
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):  # two empty bits between each of the 21
        bits = (bits | bits << shift) & mask
    return np.argsort(bits[:, 0] | bits[:, 1] << 1 | bits[:, 2] << 2, kind="stable")


def _spz(splat: Splat) -> bytes:
    reach = float(splat.means.abs().max())
    fewest, most = _SPZ_BITS
    limit = (2**23 - 1) / 2**fewest
    if reach > limit:
        beyond = int((splat.means.abs() > limit).any(dim=1).sum())
        raise ExportError(
            f"{beyond} Gaussians lie more than {limit:.0f} units from the origin (the farthest {reach:.6g}), "
            "which SPZ cannot hold precisely. Export as compressed-ply, or remove what is far away."
        )
    bits = min(most, math.floor(math.log2((2**23 - 1) / max(reach, 1.0))))
    with tempfile.TemporaryDirectory() as folder:  # gsply writes SPZ to a path only
        path = Path(folder) / "splat.spz"
        _gsply().write_spz(path, _gsply_data(flipped(splat)), version=3, fractional_bits=bits)
        data = path.read_bytes()
    if splat.antialiased:  # a flag of the header that gsply does not set
        raw = bytearray(gzip.decompress(data))
        raw[14] |= 1
        data = gzip.compress(raw, 6)
    return data
