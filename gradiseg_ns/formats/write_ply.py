"""Splats as PLY files that other programs read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradiseg_ns.formats.ply_layout import (
    ANTIALIASED,
    BLOCK_BYTES,
    DC,
    FLOAT_IDS,
    HIGH,
    MEANS,
    NORMALS,
    PARAMETERS,
    QUATS,
    RESERVED,
    REST,
    SCALES,
    PlyError,
)
from gradiseg_ns.formats.read_ply import _as_labels, finite, usable_only
from gradiseg_ns.formats.sidecar import sidecar_bytes, sidecar_path
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.tools.atomic import write_files


def write_ply(
    path: str | Path,
    splat: Splat,
    *,
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, Sequence[float]] | None = None,
    parents: Mapping[int, int] | None = None,
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

    sorted by id, with every id that a Gaussian or a name has; `color`, by default of `object_colors`, `box`
    that of the Gaussians' centres, null without any. A part of another object also has `"parent"`, that one's id.
    `read_objects` reads it.

    A file appears under its name only when it is complete; one from before is then replaced.

    Args:
        path: Where to. Missing folders are made.
        splat: What to write, on any device.
        names: Names of objects by id; "object 7" where missing.
        colors: Colours of objects by id, RGB in 0..1; those of `object_colors` where missing.
        parents: For objects that are parts of another one, the other's id.
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
        files[sidecar_path(path)] = [sidecar_bytes(splat, names, colors=colors, parents=parents)]
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
        for name in ("object_id", HIGH):
            kept.pop(name, None)
    splat = replace(splat, extra=kept)
    _check_extra(splat, where)
    splat = splat.to("cpu")
    parameters = {name: getattr(splat, name).detach().float() for name in PARAMETERS}
    labels = None if splat.labels is None else torch.from_numpy(_as_labels(splat.labels.numpy()))
    return usable_only(finite(replace(splat, **parameters, labels=labels)), f"to write to {where}")


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
        if name in RESERVED or name in NORMALS or REST.fullmatch(name):
            raise PlyError(
                f"Cannot write {where}: the extra property {name!r} has the name of a property of every splat. "
                "Rename it, or write with extra=False."
            )
        if name.split() != [name]:
            raise PlyError(
                f"Cannot write {where}: found the extra property {name!r}, expected a name of one word. Rename it."
            )


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
        (list(NORMALS), np.zeros((len(splat), 3), np.float32)),
        (list(DC), splat.features_dc.numpy()),
        (rest, splat.features_rest.numpy().transpose(0, 2, 1)),
        (["opacity"], splat.opacities.numpy()),
        (list(SCALES), splat.scales.numpy()),
        (list(QUATS), splat.quats.numpy()),
    ]
    comments = header_comments(splat)
    if splat.labels is not None and ids:
        labels = splat.labels.numpy().astype(np.int64)
        if (labels == labels[0]).all():
            comments.append(f"comment object_id {labels[0]}")
        elif labels.max() <= FLOAT_IDS:
            single.append((["object_id"], labels))
        else:
            single.append((["object_id"], np.where(labels < 0, labels, labels % FLOAT_IDS)))
            single.append(([HIGH], np.maximum(labels, 0) // FLOAT_IDS))
    single += [([name], value.detach().float().numpy()) for name, value in splat.extra.items()]
    properties = [f"{'double' if moved else 'float'} {name}" for name in MEANS]
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
    per_block = max(1, BLOCK_BYTES // (4 * len(properties)))
    for start in range(0, len(splat), per_block):
        rows = min(per_block, len(splat) - start)
        first = means[start : start + rows].astype("<f8" if moved else "<f4", copy=False)
        block = [part[start : start + rows].reshape(rows, -1).astype("<f4", copy=False) for part in parts]
        # A double lies among the floats as two of them: only its bytes count.
        yield np.concatenate([np.ascontiguousarray(first).view("<f4"), *block], axis=1).tobytes()
