"""What a person sees of a scene while editing it: the edits and the selection, as rows to draw.

`Editing` is shared by the threads of the viewer: its panel changes it, its renderers read it, the training between them knows
nothing of it. What they read is a snapshot; nobody waits for anybody else while Gaussians are computed with.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradiseg_ns.editing.arrangement import Arrangement, Folds, rows_before
from gradiseg_ns.editing.edit_list import EditList
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.grouping.codes import spread_codes
from gradiseg_ns.scene.objects import MIN_ACCUMULATION, NO_OBJECT, ObjectTable

GLOW = (1.0, 0.85, 0.1)
"""What selected pixels are tinted with; their outline is of this colour, in a black one."""
_GLOW_STRENGTH = 0.28
_KEPT_FLOATS = 1 << 26
"""Edited parameters up to 256 MB are kept between pictures."""
_EXACT = 16
"""Up to that many objects that the classifier does not know are told apart exactly, more by codes in as many channels."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Some objects, or a part of them. `NO_OBJECT` among the ids is what belongs to none."""

    ids: tuple[int, ...] = ()
    region: Region | None = None
    """Only what is in it, of these objects."""

    def __bool__(self) -> bool:
        return bool(self.ids)

    def rows(self, arrangement: Arrangement, means: Tensor) -> Tensor:
        """The selected rows of an arrangement, bool [M]; the scene's Gaussians are at means [N, 3]."""
        ids = torch.tensor(self.ids, dtype=torch.int64, device=arrangement.object_ids.device)
        rows = torch.isin(arrangement.object_ids, ids)
        if self.region is None:
            return rows
        return self.region.contains(arrangement.base_means(means), rows)


@dataclass
class DrawnRows:
    """The rows to draw."""

    arrangement: Arrangement
    """Without what is hidden."""
    selection: Selection
    selected: Tensor | None
    """bool [M], the rows of a part, or of what belongs to no object; None if whole objects are selected, or nothing is."""
    relabelled_ids: tuple[int, ...]
    """Objects that have rows which the classifier takes for something else: E of them."""
    relabelled: Tensor | None
    """int64 [M]: which of them a row belongs to, -1 for rows that the classifier knows. None if E is 0."""
    codes: Tensor
    """[E, C] by which they are told apart: unit vectors."""

    @property
    def features(self) -> Tensor | None:
        """[M, 1 + C + 1] to be rendered: weight of relabelled rows, their codes, weight of selected rows; each of the two
        parts only where it is needed, None if neither is."""
        parts = []
        if self.relabelled is not None:
            known = (self.relabelled >= 0)[:, None]
            codes = self.codes[self.relabelled.clamp(min=0)] * known
            parts += [known.float(), codes]
        if self.selected is not None:
            parts.append(self.selected.float()[:, None])
        return torch.cat(parts, dim=1) if parts else None

    def params(self, params: Mapping[str, Tensor], *, logits: bool = False) -> dict[str, Tensor]:
        """The rows' parameters, as `Arrangement.apply`. Identities of relabelled rows are zero: they say nothing any more."""
        result = self.arrangement.apply(params, logits=logits)
        if self.relabelled is not None and "identity" in result:
            result["identity"] = result["identity"] * (self.relabelled < 0)[:, None]
        return result

    def rows_of(self, chosen: Tensor) -> DrawnRows:
        """Only some rows: bool [M]."""
        return dataclasses.replace(
            self,
            arrangement=self.arrangement.rows(chosen),
            selected=None if self.selected is None else self.selected[chosen],
            relabelled=None if self.relabelled is None else self.relabelled[chosen],
        )

    @cached_property
    def learned_ids(self) -> Tensor:
        """Objects that have rows which the classifier knows them by: int64, ascending."""
        ids = self.arrangement.object_ids
        return (ids if self.relabelled is None else ids[self.relabelled < 0]).unique()

    def relabelled_weight(self, features: Tensor | None) -> Tensor | float:
        """Weight of relabelled rows in each pixel [H, W], of the rendered `features`."""
        return 0.0 if self.relabelled is None or features is None else features[..., 0]

    def object_ids(self, learned: Tensor, alpha: Tensor, features: Tensor | None) -> Tensor:
        """The object of each pixel.

        A pixel shows the object with the largest weight: those the classifier knows have what relabelled rows leave.

        Args:
            learned: int64 [H, W], the ids that the classifier finds.
            alpha: [H, W].
            features: the rendered `features` [H, W, C'], None if there are none.
        """
        if self.relabelled is None or features is None:
            return learned
        count = self.codes.shape[1]
        weights = features[..., 1 : 1 + count] @ self.codes.T
        ids = torch.tensor(self.relabelled_ids, device=learned.device)
        rest = alpha - features[..., 0]
        own = (learned[..., None] == ids).float()
        rest = rest + (own * weights).sum(dim=-1)
        best, which = weights.max(dim=-1)
        return torch.where(best > rest, ids[which], learned)

    def selected_pixels(self, object_ids: Tensor, alpha: Tensor, features: Tensor | None) -> Tensor | None:
        """bool [H, W]; None if nothing is selected."""
        if not self.selection:
            return None
        if self.selected is not None and features is not None:
            return (features[..., -1] > 0.5 * alpha) & (alpha > MIN_ACCUMULATION)
        ids = torch.tensor(self.selection.ids, device=object_ids.device, dtype=object_ids.dtype)
        return torch.isin(object_ids, ids)


def drawn_rows(arrangement: Arrangement, selection: Selection, means: Tensor) -> DrawnRows:
    """What is drawn of an arrangement of the Gaussians at means [N, 3]."""
    arrangement = arrangement.without_hidden()
    changed = arrangement.object_ids != arrangement.base_ids
    ids: tuple[int, ...] = ()
    which = None
    codes = torch.zeros(0, 1)
    if bool(changed.any()):
        found = arrangement.object_ids[changed].unique()
        ids = tuple(found.tolist())
        which = torch.where(changed, torch.searchsorted(found, arrangement.object_ids), -1)
        codes = torch.eye(len(ids)) if len(ids) <= _EXACT else spread_codes(len(ids), _EXACT)
    selected = None
    if selection and (selection.region is not None or NO_OBJECT in selection.ids):
        selected = selection.rows(arrangement, means)
    return DrawnRows(arrangement, selection, selected, ids, which, codes.to(means.device))


@dataclass
class Editing:
    """Edits and selection of a scene, for several threads."""

    edits: EditList = field(default_factory=EditList)
    selection: Selection = field(default_factory=Selection)
    always: bool = False
    """Edits are drawn wherever the scene is rendered for evaluation, not in the viewer alone: for ns-render."""
    version: int = 0
    """Counts changes of the selection."""
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    """What went wrong while drawing, for the panel to tell."""
    _lock: Any = field(default_factory=threading.RLock)
    _thread: threading.local = field(default_factory=threading.local)
    _folds: Folds = field(default_factory=Folds)
    _drawn: tuple[Arrangement, int, DrawnRows] | None = None
    _params: tuple[DrawnRows, Hashable, dict[str, Tensor]] | None = None

    @contextmanager
    def changing(self) -> Iterator[Editing]:
        """Holds other threads off while edits or selection are changed; for moments only."""
        with self._lock:
            yield self

    def select(self, selection: Selection) -> None:
        with self._lock:
            self.selection = selection
            self.version += 1

    @property
    def drawn(self) -> bool:
        """Whether what this thread renders shows edits and selection: the viewer's threads do, if there are any."""
        if not self.edits.steps and not self.selection:
            return False
        thread = threading.current_thread()
        return (
            self.always
            or getattr(self._thread, "drawing", False)
            or getattr(thread, "shows_edits", False)  # `viewer.nerfstudio` says so to its renderers
        )

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What this thread renders meanwhile shows edits and selection."""
        before = getattr(self._thread, "drawing", False)
        self._thread.drawing = True
        try:
            yield
        finally:
            self._thread.drawing = before

    def arrangement(
        self, key: Hashable, labels: Callable[[], Tensor], means: Tensor, objects: ObjectTable
    ) -> Arrangement:
        """The edits folded, hidden objects included; the same object until something changes.

        Args:
            key: differs if labels or means differ.
            labels: gives [N] object ids before all edits.
            means: [N, 3].
            objects: the scene's.

        Raises:
            EditError: the edits make too many Gaussians.
        """
        with self._lock:
            steps, files = tuple(self.edits.steps), dict(self.edits.files)
        return self._folds.arrange(key, lambda: rows_before(labels(), objects), steps, means, files)

    def drawn_rows(
        self, key: Hashable, labels: Callable[[], Tensor], means: Tensor, objects: ObjectTable
    ) -> DrawnRows:
        """What is to be drawn; as `arrangement`."""
        with self._lock:
            selection, version = self.selection, self.version
        arrangement = self.arrangement(key, labels, means, objects)
        drawn = self._drawn
        if drawn is None or drawn[0] is not arrangement or drawn[1] != version:
            drawn = (arrangement, version, drawn_rows(arrangement, selection, means))
            self._drawn = drawn
        return drawn[2]

    @torch.no_grad()
    def params(
        self, rows: DrawnRows, key: Hashable, params: Mapping[str, Tensor], *, logits: bool = False
    ) -> dict[str, Tensor]:
        """The parameters of what is drawn, as `DrawnRows.params`; kept from one picture to the next unless they are large.

        Args:
            key: differs if the scene's parameters differ.
        """
        cached = self._params
        if cached is not None and cached[0] is rows and cached[1] == key:
            return cached[2]
        result = rows.params(params, logits=logits)
        small = sum(value.numel() for value in result.values()) <= _KEPT_FLOATS
        self._params = (rows, key, result) if small else None
        return result


def glow(picture: Tensor, pixels: Tensor, rings: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """A picture [H, W, 3] in which some pixels, bool [H, W], are tinted and outlined.

    Args:
        rings: of `outline`, if several pictures are drawn; default: they are computed.
    """
    inner, outer = rings or outline(pixels)
    color = picture.new_tensor(GLOW)
    tinted = torch.where(pixels[..., None], picture + _GLOW_STRENGTH * (color - picture), picture)
    tinted = torch.where(outer[..., None], torch.zeros_like(color), tinted)
    return torch.where(inner[..., None], color, tinted)


def outline(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Two rings around some pixels, bool [H, W] each: the inner one, and the outer one around that."""
    width = max(1, round(pixels.shape[0] / 300))

    def wider(mask: Tensor) -> Tensor:
        # along one axis, then along the other: as wide as with a square, and cheaper
        long = F.max_pool2d(mask, (2 * width + 1, 1), stride=1, padding=(width, 0))
        return F.max_pool2d(long, (1, 2 * width + 1), stride=1, padding=(0, width))

    near = wider(pixels.float()[None, None])
    far = wider(near)[0, 0] > 0
    near = near[0, 0] > 0
    return near & ~pixels, far & ~near
