"""Mask quality by LERF-Mask's definitions: IoU of the masks and IoU of their inner boundary bands.

Every figure is computed for one object in one view, averaged over this object's views, then over the objects. So a small
object counts as much as the table on which it stands. `MaskMetrics` defines the special cases (an empty union, a view without
truth).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import ndimage
from torch import Tensor

from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.tools.atomic import write_text
from gradiseg_ns.tools.terminal import printable

BOUNDARY_RATIO = 0.02
"""Width of the boundary band as a share of the image diagonal (LERF-Mask's)."""

FINE_BOUNDARY_RATIO = 0.005
"""Width of the "fine" band: 3 px at 512x384. There the band of 2 % has 13 px, which hides errors of one or two pixels."""

SHOWN_PIXELS = 200
"""An object's worst view is one of the views that show more than this number of its pixels: the IoU of ten pixels means little."""

ArrayLike = NDArray[Any] | Tensor


def band_width(height: int, width: int, ratio: float = BOUNDARY_RATIO) -> int:
    """Width in pixels of the boundary band in an image of `height` x `width` pixels, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def boundary(mask: ArrayLike, ratio: float = BOUNDARY_RATIO) -> NDArray[np.bool_]:
    """Inner boundary band of a mask: the mask minus the mask eroded by `band_width` pixels.

    The outside of the image counts as "not in the mask", so a mask that touches the image's edge has a
    boundary there.

    Args:
        mask: `[H, W]` bool.
        ratio: Width of the band as a share of the image diagonal.

    Returns:
        `[H, W]` bool. Empty only if the mask is empty.
    """
    mask_np = np.asarray(mask, dtype=bool)
    height, width = mask_np.shape
    return _band(np.ascontiguousarray(mask_np).view(np.uint8), band_width(height, width, ratio)).view(bool)


def mask_iou(predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """Intersection over union of two masks `[H, W]` bool, 0 to 1; `None` if both are empty."""
    return _iou(np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool))


def boundary_iou(predicted: ArrayLike, truth: ArrayLike, ratio: float = BOUNDARY_RATIO) -> float | None:
    """IoU of the boundary bands of two masks `[H, W]` bool, 0 to 1; `None` if both masks are empty."""
    return _iou(boundary(predicted, ratio), boundary(truth, ratio))


@dataclass(frozen=True)
class ObjectScore:
    """One object's row. Figures are in percent, means over the views that count for it."""

    id: int
    name: str
    iou: float | None
    biou: float | None
    """Boundary IoU, band of 2 % of the diagonal."""
    biou_fine: float | None
    """Boundary IoU, band of 0.5 % of the diagonal."""
    n_views: int
    """Views in which the object is in the truth, in the prediction or in both."""
    worst_view: str | None
    """Name of the view with the smallest IoU."""
    worst_iou: float | None = None
    """The smallest IoU in a view that shows more than SHOWN_PIXELS pixels of it; None if no view does."""


@dataclass(frozen=True)
class SpuriousObject:
    """An object that was predicted although no view's truth has it. Reported, not averaged."""

    id: int
    name: str
    n_views: int
    n_pixels: int


@dataclass(frozen=True)
class MaskScores:
    """The result of `MaskMetrics`. In percent; `None` (JSON null) if there was nothing to measure."""

    miou: float | None
    mbiou: float | None
    mbiou_fine: float | None
    objects: tuple[ObjectScore, ...]
    """Objects that are in the truth of some view, by id."""
    spurious: tuple[SpuriousObject, ...]
    n_views: int
    """Views that were compared."""
    n_views_without_truth: int
    """Views that were skipped because they have no truth."""
    ignore_ids: tuple[int, ...]

    @property
    def worst_iou(self) -> float | None:
        """The smallest IoU of an object in a view that shows more than SHOWN_PIXELS pixels of it."""
        return min((o.worst_iou for o in self.objects if o.worst_iou is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain types that `json.dumps` turns into valid JSON."""
        return asdict(self)


@dataclass
class _Sums:
    """Running sums of one object over the views."""

    iou: float = 0.0
    biou: float = 0.0
    biou_fine: float = 0.0
    n_views: int = 0
    n_pixels_predicted: int = 0
    in_truth: bool = False
    worst: tuple[float, str] | None = None
    worst_shown: float | None = None


class MaskMetrics:
    """Accumulates mask quality view by view; memory grows with the objects, not with the views.

    For every object that occurs in the truth of at least one view, and is not ignored: a figure per view, the mean over its
    views, then the mean over the objects. The special cases:

    - An object that is in neither map of a view: the view does not count for this object.
    - Predicted in a view whose truth does not have it: 0 in that view.
    - In the truth, not predicted: 0 in that view. Ids of the truth that the model does not know are among
      these.
    - Predicted, but in no view's truth: listed as spurious, not averaged.
    - Truth pixels without a label (negative ids) are removed from both maps first. The rim of such a hole is
      an edge of the mask in both maps.
    - A view without any labelled pixel is skipped and counted as such.
    - Nothing compared at all: the figures are `None`.

    Ignored ids only lose their own row. A pixel of an object that was predicted as an ignored id is still an
    error.

    Example:
        >>> metrics = MaskMetrics(ignore_ids=[0])
        >>> metrics.update("frame_0001", predicted, truth)
        >>> metrics.result().miou

    Args:
        object_ids: The ids that the model knows. They are used only to refuse a list of names of another length. The
            average depends on the truth alone.
        ignore_ids: Ids that get no row and are not averaged, e.g. the background.
        names: Names of objects by id. Default for a missing name: "object 7".
    """

    def __init__(
        self,
        object_ids: Iterable[int] = (),
        ignore_ids: Iterable[int] = (),
        names: Mapping[int, str] | Sequence[str] | None = None,
    ) -> None:
        self.object_ids = tuple(int(i) for i in object_ids)
        self.ignore_ids = tuple(sorted({int(i) for i in ignore_ids}))
        self.names = _names_by_id(self.object_ids, names)
        self.reset()

    def reset(self) -> None:
        """Forgets all views."""
        self._sums: dict[int, _Sums] = {}
        self._n_views = 0
        self._n_views_without_truth = 0

    def update(self, view_name: str, predicted: ArrayLike, truth: ArrayLike) -> float | None:
        """Adds a view.

        Args:
            view_name: Name of the view, for messages and for `ObjectScore.worst_view`.
            predicted: `[h, w]` or `[h, w, 1]` integer object ids (not class indices); negative: none. Resized
                to the truth by nearest neighbour if the sizes differ.
            truth: `[H, W]` or `[H, W, 1]` integer object ids; negative (`IGNORE`): pixel without label.

        Returns:
            the view's own mean IoU over the objects of its truth, in percent; `None` if its truth has no object.

        Raises:
            ValueError: If a map is not a map of integers, or has no pixels.
        """
        truth_np = _id_map(truth, f"The true id map of view '{view_name}'")
        labelled = truth_np >= 0
        if not labelled.any():
            self._n_views_without_truth += 1
            return None
        predicted_np = _id_map(predicted, f"The predicted id map of view '{view_name}'")
        if predicted_np.shape != truth_np.shape:
            predicted_np = _resize_nearest(predicted_np, truth_np.shape)
        predicted_np = np.where(labelled, predicted_np, IGNORE)
        self._n_views += 1

        height, width = truth_np.shape
        widths = band_width(height, width), band_width(height, width, FINE_BOUNDARY_RATIO)
        predicted_boxes, truth_boxes = _bounding_boxes(predicted_np), _bounding_boxes(truth_np)
        own: list[float | None] = []
        for id in sorted(predicted_boxes.keys() | truth_boxes.keys()):
            if id in self.ignore_ids:
                continue
            sums = self._sums.setdefault(id, _Sums())
            sums.n_views += 1
            sums.in_truth |= id in truth_boxes
            iou = 0.0
            if id in predicted_boxes and id in truth_boxes:
                # Outside the common box both masks are empty, and erosion treats the outside of an array as empty too. So the
                # crop gives exactly the result of the whole image.
                box = _union_box(predicted_boxes[id], truth_boxes[id])
                mask_p = (predicted_np[box] == id).view(np.uint8)
                mask_t = (truth_np[box] == id).view(np.uint8)
                sums.n_pixels_predicted += int(np.count_nonzero(mask_p))
                iou = _iou(mask_p, mask_t) or 0.0
                sums.iou += iou
                sums.biou += _iou(_band(mask_p, widths[0]), _band(mask_t, widths[0])) or 0.0
                sums.biou_fine += _iou(_band(mask_p, widths[1]), _band(mask_t, widths[1])) or 0.0
            elif id in predicted_boxes:
                sums.n_pixels_predicted += int(np.count_nonzero(predicted_np[predicted_boxes[id]] == id))
            if sums.worst is None or iou < sums.worst[0]:
                sums.worst = iou, view_name
            if id in truth_boxes:
                own.append(iou)
                shown = np.count_nonzero(truth_np[truth_boxes[id]] == id) > SHOWN_PIXELS
                if shown and (sums.worst_shown is None or iou < sums.worst_shown):
                    sums.worst_shown = iou
        mean = _mean(own)
        return None if mean is None else 100 * mean

    def result(self) -> MaskScores:
        """The figures over all views added so far. More views can be added afterwards."""
        objects: list[ObjectScore] = []
        spurious: list[SpuriousObject] = []
        for id, sums in sorted(self._sums.items()):
            name = self.names.get(id, f"object {id}")
            n = sums.n_views
            if not sums.in_truth:
                spurious.append(SpuriousObject(id, name, n, sums.n_pixels_predicted))
                continue
            objects.append(
                ObjectScore(
                    id=id,
                    name=name,
                    iou=100 * sums.iou / n,
                    biou=100 * sums.biou / n,
                    biou_fine=100 * sums.biou_fine / n,
                    n_views=n,
                    worst_view=None if sums.worst is None else sums.worst[1],
                    worst_iou=None if sums.worst_shown is None else 100 * sums.worst_shown,
                )
            )
        return MaskScores(
            miou=_mean([o.iou for o in objects]),
            mbiou=_mean([o.biou for o in objects]),
            mbiou_fine=_mean([o.biou_fine for o in objects]),
            objects=tuple(objects),
            spurious=tuple(spurious),
            n_views=self._n_views,
            n_views_without_truth=self._n_views_without_truth,
            ignore_ids=self.ignore_ids,
        )


def score_table(result: MaskScores) -> Table:
    """A rich table with one row per object, the mean, and notes on ids and views that were left out."""
    table = Table(title="Mask quality in percent")
    table.add_column("id", justify="right")
    table.add_column("object")
    for header in ("IoU", "boundary 2 %", "boundary 0.5 %", "worst IoU", "views"):
        table.add_column(header, justify="right")
    table.add_column("worst view")
    for o in result.objects:
        figures = (_text(o.iou), _text(o.biou), _text(o.biou_fine), _text(o.worst_iou), str(o.n_views))
        table.add_row(str(o.id), Text(printable(o.name)), *figures, Text(printable(o.worst_view or "")))
    table.add_section()
    means = (
        _text(result.miou), _text(result.mbiou), _text(result.mbiou_fine), _text(result.worst_iou), str(result.n_views)
    )  # fmt: skip
    table.add_row("", "mean", *means, "", style="bold")
    notes: list[str] = []
    if result.ignore_ids:
        notes.append("ids left out: " + ", ".join(map(str, result.ignore_ids)))
    if result.n_views_without_truth:
        notes.append(f"views without truth, skipped: {result.n_views_without_truth}")
    if result.spurious:
        found = ", ".join(f"{s.name} ({s.n_views} views, {s.n_pixels} px)" for s in result.spurious)
        notes.append("predicted, but in no view's truth: " + found)
    if notes:
        table.caption = Text(printable("\n".join(notes)))
    return table


def print_table(result: MaskScores, console: Console | None = None) -> None:
    """Prints `score_table` to the terminal."""
    (console or Console()).print(score_table(result))


def write_table(path: str | Path, result: MaskScores) -> Path:
    """Writes the figures per object to a file, by its suffix: `.csv`, `.json` or `.txt`.

    The file appears under its name only when it is complete. It replaces an older table.

    Args:
        path: The file. Missing folders are made.
        result: The figures.

    Returns:
        The path written.

    Raises:
        ValueError: If the suffix is none of the three.
        OSError: If the file cannot be written. An older file stays unchanged.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        text = _csv(result)
    elif suffix == ".json":
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    elif suffix == ".txt":
        console = Console(file=io.StringIO(), width=120, no_color=True)
        with console.capture() as capture:
            print_table(result, console)
        text = capture.get()
    else:
        raise ValueError(f"Cannot write a table to '{path}': expected a name ending in .csv, .json or .txt.")
    write_text(path, text)
    return path


def _band(mask: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Pixels of a 0/1 mask within `width` of a zero, the outside of the array being zero.

    Eroding `width` times with a 3x3 of ones is eroding once with a square of side 2 * width + 1. cv2's
    default border is *infinite*, i.e. would not erode from the edge, hence the explicit border of zeros.
    """
    if mask.size == 0:
        return mask.copy()
    kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    eroded = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return mask - eroded.astype(np.uint8, copy=False)


def _iou(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _id_map(value: ArrayLike, what: str) -> NDArray[np.int32]:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0:
        raise ValueError(
            f"{what} has shape {array.shape} and type {array.dtype}; "
            "expected integer object ids of shape (height, width)."
        )
    return array.astype(np.int32)


def _resize_nearest(ids: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Nearest neighbour by pixel centres, as PIL does it."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for old, new in zip(ids.shape, shape, strict=True)
    )
    return ids[rows[:, None], columns[None, :]]


def _bounding_boxes(ids: NDArray[np.int32]) -> dict[int, tuple[slice, slice]]:
    """Smallest box around each non-negative id of an id map `[H, W]`, as slices of rows and columns."""
    boxes: dict[int, tuple[slice, slice]] = {}
    values, dense = np.unique(ids, return_inverse=True)
    # find_objects makes one pass for all ids, but a list as long as the largest one, hence
    # dense numbers from 1
    for value, box in zip(values, ndimage.find_objects(dense.reshape(ids.shape) + 1), strict=True):
        if value >= 0:
            boxes[int(value)] = box
    return boxes


def _union_box(a: tuple[slice, slice], b: tuple[slice, slice]) -> tuple[slice, slice]:
    rows, columns = (slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True))
    return rows, columns


def _names_by_id(
    object_ids: Sequence[int], names: Mapping[int, str] | Sequence[str] | None
) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return {int(id): str(name) for id, name in names.items()}
    if len(names) != len(object_ids):
        raise ValueError(
            f"Found {len(names)} object names for {len(object_ids)} object ids; expected one name per id."
        )
    return {id: str(name) for id, name in zip(object_ids, names, strict=True)}


def _csv(result: MaskScores) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "name", "iou", "biou", "biou_fine", "views", "worst_view", "note", "worst_iou"])

    def figures(*values: float | None) -> list[str]:
        return ["" if value is None else f"{value:.4f}" for value in values]

    for o in result.objects:
        writer.writerow(
            [
                o.id,
                o.name,
                *figures(o.iou, o.biou, o.biou_fine),
                o.n_views,
                o.worst_view or "",
                "",
                *figures(o.worst_iou),
            ]
        )
    for s in result.spurious:
        writer.writerow(
            [s.id, s.name, "", "", "", s.n_views, "", f"{s.n_pixels} px predicted, in no view's truth", ""]
        )
    note = f"{result.n_views_without_truth} views without truth" if result.n_views_without_truth else ""
    means = figures(result.miou, result.mbiou, result.mbiou_fine)
    writer.writerow(["", "mean", *means, result.n_views, "", note, *figures(result.worst_iou)])
    return buffer.getvalue()
