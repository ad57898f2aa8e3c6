"""Votes V [N, K]: the blending weight that each Gaussian puts into the pixels of each object, over all views.

V_ik = sum_v sum_{p : M_v(p) = k} w_ip is the transpose of rendering applied to one-hot id maps, and with any loss that is
linear in the features it is the *masked gradient* of arXiv 2409.11681: d/df_i sum_p [M(p) = k] F(p) = V_ik. All
objects of a view come from one backward pass per `CHUNK` objects; objects that a view does not show cost nothing.

A Gaussian has votes for few objects, so votes are stored as a sparse matrix, 20 bytes an entry: 1e6 Gaussians with a few of
1,000 ids each take less than 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.scene.selection import MIN_WEIGHT

CHUNK = 32
"""Objects of one transposed blend."""
DENSE_ENTRIES = 1 << 26
"""Up to this number of entries (256 MB) votes are summed in a dense matrix, which is faster."""
_PENDING = 1 << 24
"""Number of entries that are collected before they are sorted into the sparse matrix."""


@dataclass(frozen=True)
class Votes:
    """A sparse matrix [N, K] of blending weights, in pixels; rows are Gaussians, columns classes."""

    shape: tuple[int, int]
    rows: Tensor
    """int64 [E], ascending."""
    columns: Tensor
    """int64 [E], ascending within a row."""
    weights: Tensor
    """float32 [E], above 0."""

    def total(self) -> Tensor:
        """Weight of each Gaussian over all classes, in pixels: float32 [N]. Zero means never seen."""
        return self.weights.new_zeros(self.shape[0]).index_add_(0, self.rows, self.weights)

    def per_class(self) -> Tensor:
        """Weight of each class over all Gaussians, in pixels: float64 [K]."""
        sums = torch.zeros(self.shape[1], dtype=torch.float64, device=self.weights.device)
        return sums.index_add_(0, self.columns, self.weights.double())

    def column(self, classes: Tensor) -> Tensor:
        """Summed weight of some classes: float32 [N]; ``classes`` is bool [K]."""
        taken = torch.where(classes[self.columns], self.weights, 0.0)
        return self.weights.new_zeros(self.shape[0]).index_add_(0, self.rows, taken)

    def top(self, count: int) -> tuple[Tensor, Tensor]:
        """The classes of each Gaussian with the most weight.

        Returns:
            classes int64 [N, count] and their weights float32 [N, count]; -1 and 0 where a Gaussian has fewer classes. Of classes
            with equal weights the smaller one comes first.
        """
        order = torch.argsort(self.weights, descending=True, stable=True)
        order = order[torch.argsort(self.rows[order], stable=True)]
        rows = self.rows[order]
        place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
        kept = place < count
        classes = torch.full((self.shape[0], count), IGNORE, dtype=torch.int64, device=rows.device)
        weights = self.weights.new_zeros(self.shape[0], count)
        classes[rows[kept], place[kept]] = self.columns[order][kept]
        weights[rows[kept], place[kept]] = self.weights[order][kept]
        return classes, weights

    def dense(self) -> Tensor:
        """The whole matrix: float32 [N, K]. It may be very large."""
        matrix = self.weights.new_zeros(self.shape)
        matrix[self.rows, self.columns] = self.weights
        return matrix

    def project(self, codes: Tensor) -> Tensor:
        """V @ codes: [N, D] from codes [K, D], without the dense V."""
        sums = codes.new_zeros(self.shape[0], codes.shape[1])
        for part in torch.arange(len(self.rows), device=self.rows.device).split(1 << 22):
            rows, columns, weights = self.rows[part], self.columns[part], self.weights[part]
            sums.index_add_(0, rows, codes[columns] * weights[:, None])
        return sums

    def bytes(self) -> int:
        """Memory of the three arrays, in bytes."""
        return sum(part.numel() * part.element_size() for part in (self.rows, self.columns, self.weights))


@torch.no_grad()
def view_sums(
    projection: rendering.Projection, classes: Tensor, count: int, weight: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blending weight that Gaussians put into the pixels of each class in one view, one chunk of classes at a time.

    Args:
        projection: of N Gaussians by the view's camera.
        classes: integer [H, W] in 0 ... count - 1, negative where there is no label.
        count: K.
        weight: float [H, W], weight of each pixel. Default: 1.

    Yields:
        classes that the view shows, int64 [C], and their weights [N, C].

    Raises:
        ValueError: a class is K or more, or the map has another size than the camera.
    """
    camera = projection.camera
    if tuple(classes.shape) != (camera.height, camera.width):
        raise ValueError(
            f"the id map has {list(classes.shape)} pixels, the camera {[camera.height, camera.width]}."
        )
    classes = classes.to(torch.int64)
    present = classes.unique()
    present = present[present >= 0]
    if len(present) and int(present[-1]) >= count:
        raise ValueError(f"the id map holds class {int(present[-1])}, expected at most {count - 1}.")
    for part in present.split(CHUNK) if len(present) else ():
        maps = (classes[..., None] == part).to(torch.float32)
        if weight is not None:
            maps = maps * weight.to(maps)[..., None]
        yield part, rendering.transpose(projection, maps)


class VoteAccumulator:
    """Adds up the votes of one view after another.

    Args:
        count: N.
        classes: K.
        device: of the tensors.
    """

    def __init__(self, count: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.shape = (count, classes)
        self.device = torch.device(device)
        dense = count * classes <= DENSE_ENTRIES
        self._dense = torch.zeros(self.shape, device=self.device) if dense else None
        self._keys = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._weights = torch.zeros(0, device=self.device)
        self._pending: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, projection: rendering.Projection, classes: Tensor, weight: Tensor | None = None) -> None:
        """Add a view.

        Args:
            projection: of the N Gaussians by the view's camera.
            classes: integer [H, W] in 0 ... K - 1, negative where there is no label.
            weight: float [H, W], weight of each pixel. Default: 1.

        Raises:
            ValueError: a class is K or more, or the map has another size than the camera.
        """
        for part, sums in view_sums(projection, classes.to(self.device), self.shape[1], weight):
            self.add_sums(part, sums)

    @torch.no_grad()
    def add_sums(self, columns: Tensor, sums: Tensor) -> None:
        """Add the weights [N, C] of C different classes, int64 [C]."""
        if self._dense is not None:
            self._dense.index_add_(1, columns, sums)
            return
        where = sums.nonzero()
        keys = where[:, 0] * self.shape[1] + columns[where[:, 1]]
        self._pending.append((keys, sums[where[:, 0], where[:, 1]]))
        if sum(len(keys) for keys, _ in self._pending) > _PENDING:
            self._merge()

    def _merge(self) -> None:
        keys = torch.cat([self._keys, *(part for part, _ in self._pending)])
        weights = torch.cat([self._weights, *(part for _, part in self._pending)])
        self._pending = []
        self._keys, place = torch.unique(keys, return_inverse=True)
        self._weights = weights.new_zeros(len(self._keys)).index_add_(0, place, weights)

    def result(self) -> Votes:
        """The votes of the views that were added so far."""
        if self._dense is not None:
            where = (self._dense > 0).nonzero()
            rows, columns = where.unbind(1)
            return Votes(self.shape, rows.contiguous(), columns.contiguous(), self._dense[rows, columns])
        self._merge()
        kept = self._weights > 0
        keys = self._keys[kept]
        rows = torch.div(keys, self.shape[1], rounding_mode="floor")
        return Votes(self.shape, rows, keys - rows * self.shape[1], self._weights[kept])


@torch.no_grad()
def views_seen(
    gaussians: rendering.Gaussians,
    cameras: Iterable[rendering.Camera],
    progress: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The number of views that see each Gaussian, int64 [N], and its blending weight in all views, in pixels [N].

    A view sees a Gaussian if sum_p w_i(p) > `MIN_WEIGHT`. For a constant colour this sum is the gradient of the masked-gradients
    paper (arXiv 2409.11681).

    Args:
        gaussians: N Gaussians.
        cameras: of the views.
        progress: called after each view.
    """
    count = torch.zeros(len(gaussians), dtype=torch.int64, device=gaussians.means.device)
    total = gaussians.means.new_zeros(len(gaussians))
    for camera in cameras:
        ones = total.new_ones(camera.height, camera.width, 1)
        weight = rendering.backproject(gaussians, camera, ones)[:, 0]
        count += weight > MIN_WEIGHT
        total += weight
        if progress is not None:
            progress()
    return count, total


def accumulate(
    gaussians: rendering.Gaussians,
    views: Iterable[tuple[rendering.Camera, Tensor]],
    classes: int,
    *,
    progress: Callable[[], None] | None = None,
) -> Votes:
    """Votes of views, counted one view after the other.

    Args:
        gaussians: N Gaussians.
        views: cameras with their maps of classes [H, W] (negative: no label).
        classes: K.
        progress: called after each view.

    Raises:
        ValueError: as :meth:`VoteAccumulator.add`.
    """
    accumulator = VoteAccumulator(len(gaussians.means), classes, gaussians.means.device)
    for camera, maps in views:
        with torch.no_grad():
            projection = rendering.project(gaussians, camera)
        accumulator.add(projection, maps)
        if progress is not None:
            progress()
    return accumulator.result()
