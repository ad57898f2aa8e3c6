"""The sidecar of a splat: names, colours, counts and boxes of its objects, as JSON beside it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.formats.ply_layout import MAX_ID, PlyError
from gradiseg_ns.scene.objects import ObjectTable
from gradiseg_ns.scene.splat import Splat

MAX_SIDECAR = 16 << 20
MAX_NAME = 200


def sidecar_path(path: str | Path) -> Path:
    """Where the objects of a PLY are told of: `<stem>.objects.json` beside it, of cup.compressed.ply cup.objects.json."""
    path = Path(path)
    return path.with_name(f"{path.stem.removesuffix('.compressed')}.objects.json")


def read_objects(path: str | Path) -> ObjectTable | None:
    """What the objects of a splat are called: `<stem>.objects.json` beside its PLY, as `write_ply` writes it.

    Names are cut to 200 characters on one line without control characters, colours to 0..1. An object without
    a name or a colour gets those of `ObjectTable.create`. An object with a `parent` is a part of that one. Counts, boxes,
    file names and what else there is are passed over.

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
            data = file.read(MAX_SIDECAR + 1)
    except OSError as error:
        raise PlyError(
            f"{path} cannot be read ({error.strerror or error}). Expected a readable file."
        ) from error
    if len(data) > MAX_SIDECAR:
        raise PlyError(f"{path} is larger than {MAX_SIDECAR >> 20} MiB. {expected} in less.")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PlyError(f"{path} is not JSON ({error}). {expected}.") from None
    entries = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise PlyError(f"{path} holds {reprlib.repr(content)}. {expected}.")
    names: dict[int, str] = {}
    colors: dict[int, list[float]] = {}
    parents: dict[int, int] = {}
    for number, entry in enumerate(entries):
        try:
            object_id, name, color = _parse_object(entry)
            if object_id in names:
                raise ValueError(f"the id {object_id} a second time")
            parent = _parse_parent(entry, object_id)
        except ValueError as error:
            raise PlyError(f"{path}: found {error} in object {number}. {expected}, each id once.") from None
        names[object_id] = name or f"object {object_id}"
        if color is not None:
            colors[object_id] = color
        if parent is not None:
            parents[object_id] = parent
    return replace(_table(list(names), names, colors), parents=parents)


def _parse_object(entry: object) -> tuple[int, str, list[float] | None]:
    """Id, name ("" if there is none) and colour of an entry.

    Raises:
        ValueError: Something else than expected; the message says what was found.
    """
    if not isinstance(entry, dict):
        raise ValueError(reprlib.repr(entry))
    object_id, name, color = entry.get("id"), entry.get("name", ""), entry.get("color")
    if isinstance(object_id, bool) or not isinstance(object_id, int) or not 0 <= object_id <= MAX_ID:
        raise ValueError(f"the id {reprlib.repr(object_id)}")
    if not isinstance(name, str):
        raise ValueError(f"the name {reprlib.repr(name)}")
    if color is not None and not _is_color(color):
        raise ValueError(f"the color {reprlib.repr(color)}")
    printable = "".join(c if c.isprintable() else " " for c in name)
    return object_id, " ".join(printable.split())[:MAX_NAME], color


def _parse_parent(entry: Mapping[str, object], object_id: int) -> int | None:
    """The id of the object that an entry is a part of; None if it is none's.

    Raises:
        ValueError: Something else than expected; the message says what was found.
    """
    parent = entry.get("parent")
    if parent is None:
        return None
    if isinstance(parent, bool) or not isinstance(parent, int) or not 0 <= parent <= MAX_ID:
        raise ValueError(f"the parent {reprlib.repr(parent)}")
    if parent == object_id:
        raise ValueError(f"the id {object_id} as its own parent")
    return parent


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


def sidecar_bytes(
    splat: Splat,
    names: Mapping[int, str] | None = None,
    *,
    colors: Mapping[int, Sequence[float]] | None = None,
    files: Mapping[int, str] | None = None,
    parents: Mapping[int, int] | None = None,
) -> bytes:
    """What `<stem>.objects.json` holds (`write_ply`), one object a line.

    Args:
        splat: What `prepare_splat` gave.
        names: Names by id.
        colors: Colours by id.
        files: If given, each object also has the name of its file, null for those without.
        parents: For objects that are parts of another one, the other's id.

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
        if parents and i in parents:
            entry["parent"] = parents[i]
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
