"""What is selected, and how it is changed: objects at a pixel or in a box, parts, tighter or looser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.data.id_maps import IGNORE
from gradiseg_ns.editing.arrangement import Arrangement
from gradiseg_ns.editing.display import Selection
from gradiseg_ns.editing.regions import Region
from gradiseg_ns.scene import parts as scene_parts
from gradiseg_ns.scene import selection as selecting
from gradiseg_ns.scene.objects import MIN_ACCUMULATION, NO_OBJECT, ObjectTable
from gradiseg_ns.viewer.live_scene import LiveScene, SessionError, drawn, pixel_at, positions, scaled
from gradiseg_ns.votes.accumulate import Votes, accumulate

if TYPE_CHECKING:
    from gradiseg_ns.model import GradisegModel

VOTE_VIEWS = 24
"""Training views whose rendered maps vote when a selection is tightened or loosened."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The M rows that were drawn at some moment. A training may have changed Gaussians since: positions lead to those of now."""

    arrangement: Arrangement
    """Without what was not drawn."""
    positions: Tensor
    """[M, 3] before all moves, world units."""

    @classmethod
    def now(cls, model: GradisegModel) -> Rows:
        """Those that are drawn now."""
        arrangement = drawn(model)
        return cls(arrangement, positions(model, arrangement))

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Balance:
    """How much speaks for and against each of M rows: what a selection is tightened by."""

    rows: Rows
    inside: Tensor
    """[M]: blending weight in pixels, or counts of `segment.evidence`."""
    outside: Tensor
    """[M], in the same unit."""
    ids: tuple[int, ...] = ()
    """Objects that it is about; none for a new object."""
    version: int = 0
    """Of the edits, when it was taken."""


class Selector:
    """Changes the selection of a scene."""

    def __init__(self, scene: LiveScene) -> None:
        self._scene = scene
        self.weight = 1.0
        """w: a selection keeps what has more than w times as much for it as against it."""
        self.balance: Balance | None = None
        """What the selection is tightened by; None until it is asked for."""
        self._votes: tuple[tuple[int, int], ObjectTable, Votes, Rows] | None = None

    def need_selection(self) -> None:
        """Raises:
        SessionError: nothing is selected.
        """
        if not self._scene.selection:
            raise SessionError("nothing is selected: pick an object first.")

    def put(self, selection: Selection, balance: Balance | None = None, weight: float = 1.0) -> None:
        """Select this.

        Args:
            selection: what is selected then.
            balance: what it was made of, if it was.
            weight: w, that it was made with.
        """
        self.balance, self.weight = balance, weight
        self._scene.editing.select(selection)

    def put_rows(
        self,
        rows: Rows,
        chosen: Tensor,
        known: Tensor | None = None,
        balance: Balance | None = None,
        weight: float = 1.0,
    ) -> None:
        """Select some rows.

        Args:
            rows: M rows.
            chosen: bool [M].
            known: bool [M], rows of which it is known whether they belong; others follow the nearest of those. None: all.
            balance, weight: as `put`.
        """
        arrangement = rows.arrangement
        if not bool(chosen.any()):
            self.put(Selection(), balance, weight)
            return
        ids = arrangement.object_ids[chosen].unique()
        among = torch.isin(arrangement.object_ids, ids)
        selection = Selection(tuple(ids.tolist()))
        if not bool((among == chosen).all()):
            if known is not None:
                among &= known
            selection = Selection(selection.ids, Region.create(rows.positions, chosen, among))
        self.put(selection, balance, weight)

    def put_balance(self, balance: Balance, weight: float) -> bool:
        """Select what has more than `weight` times as much for it as against it. Returns whether anything has."""
        if weight == 1.0 and balance.ids:
            self.put(Selection(balance.ids), balance, weight)
            return True
        chosen = selecting.select_by_votes(balance.inside, balance.outside, weight)
        self.put_rows(balance.rows, chosen, (balance.inside + balance.outside) > 0, balance, weight)
        return bool(chosen.any())

    def object_at(self, camera: Cameras, x: float, y: float) -> int | None:
        """The object at a point of a picture, x and y as shares of its width and height; None: nothing is there."""
        with self._scene.reading() as model:
            width, height = int(camera.width), int(camera.height)
            found = model.pick(camera, pixel_at(x, width), pixel_at(y, height))
        return None if found == IGNORE else found

    def box(self, camera: Cameras, box: tuple[float, float, float, float], *, whole: bool = True) -> None:
        """Select what a rectangle holds.

        Args:
            camera: the view.
            box: x0, y0, x1, y1 as shares of the picture.
            whole: objects of which more than half of what is seen lies in it; else the Gaussians that do.
        """
        with self._scene.reading() as model:
            view = scaled(model, camera)
            seen = model.look(view)
            x0, x1 = sorted((box[0] * view.width, box[2] * view.width))
            y0, y1 = sorted((box[1] * view.height, box[3] * view.height))
            if not whole:
                self.put_rows(Rows.now(model), selecting.in_box(seen.projection, (x0, y0, x1, y1)))
                return
            ids, totals = seen.object_ids.unique(return_counts=True)
            lines, columns = slice(round(y0), max(round(y1), 1)), slice(round(x0), max(round(x1), 1))
            inside = seen.object_ids[lines, columns]
            share = [(inside == i).sum() / n for i, n in zip(ids, totals, strict=True)]
            chosen = [int(i) for i, s in zip(ids, share, strict=True) if s > 0.5 and i != IGNORE]
            self.put(Selection(tuple(chosen)))

    def grow(self, steps: int = 1) -> None:
        """Take in the Gaussians around the selection; negative steps give up those at its border.

        Raises:
            SessionError: nothing is selected.
        """
        self.need_selection()
        with self._scene.reading() as model:
            rows = Rows.now(model)
            chosen = self._scene.selection.rows(rows.arrangement, model.means)
            means = rows.arrangement.moved_means(model.means)
            change = selecting.grow if steps > 0 else selecting.shrink
            balance = None if self.balance is None or self.balance.ids else self.balance
            self.put_rows(rows, change(means, chosen, steps=abs(steps)), balance=balance)

    # ------------------------------------------------------------------------ parts

    def coarser(self) -> None:
        """Of a part select the part or the object that it belongs to.

        Raises:
            SessionError: nothing is selected, no parts are known, or a whole object is selected.
        """
        self.need_selection()
        with self._scene.reading() as model:
            rows = Rows.now(model)
            chosen = self._scene.selection.rows(rows.arrangement, model.means)
            for labels, parts in self._parts(model, rows.arrangement):
                wider = scene_parts.coarser(labels, parts, chosen)
                if bool((wider != chosen).any()):
                    self.put_rows(rows, wider)
                    return
            raise SessionError("what is selected is not a part of anything.")

    def finer(self, clicked: tuple[Cameras, float, float] | None = None) -> None:
        """Select a part of what is selected.

        Args:
            clicked: camera, and a point of its picture as shares: the part that it shows is taken. None: the largest.

        Raises:
            SessionError: nothing is selected, no parts are known, or what is selected has none.
        """
        self.need_selection()
        with self._scene.reading() as model:
            rows = Rows.now(model)
            trees = self._parts(model, rows.arrangement)
            chosen = self._scene.selection.rows(rows.arrangement, model.means)
            near = None
            if clicked is not None:
                view = model.rendering_camera(clicked[0])
                pixel = (pixel_at(clicked[1], view.width), pixel_at(clicked[2], view.height))
                projection = model.look(view, pixel=pixel).projection
                near = int(rendering.transpose(projection, chosen.new_ones(1, 1, 1).float())[:, 0].argmax())
            for labels, parts in trees:
                narrower = scene_parts.finer(labels, parts, chosen, near)
                if bool((narrower != chosen).any()):
                    self.put_rows(rows, narrower)
                    return
            raise SessionError("no parts are known of what is selected.")

    def _parts(
        self, model: GradisegModel, arrangement: Arrangement
    ) -> list[tuple[Tensor, scene_parts.Parts]]:
        """What is known of parts of the M rows that are drawn, as `scene.parts.coarser` takes it: parts of the selected objects as they
        were before all edits, and objects that are parts of others.

        Raises:
            SessionError: nothing.
        """
        found = []
        parts = scene_parts.Parts.from_state(model.strategy_state, model.num_points)
        if parts is not None:
            ids = torch.tensor(self._scene.selection.ids, device=arrangement.object_ids.device)
            own = torch.isin(arrangement.object_ids, ids) & (arrangement.source < model.num_points)
            source = arrangement.source.clamp(max=model.num_points - 1)
            of = parts.labels.to(source.device)[source]
            labels = torch.where(own, arrangement.base_ids, IGNORE)
            found.append((labels, scene_parts.Parts(parts.tree, torch.where(own, of, IGNORE))))
        if arrangement.objects.parents:
            found.append(scene_parts.parts_as_objects(arrangement.object_ids, arrangement.objects.parents))
        if not found:
            raise SessionError("this scene knows no parts of objects.")
        return found

    # ----------------------------------------------------------- tighter and looser

    @property
    def needs_votes(self) -> bool:
        """Whether `set_weight` has to take votes in many views first, for some seconds on a CPU."""
        stale = self._votes is None or self._votes[0][0] != self._scene.edits.version
        return self._is_stale(self.balance) and stale

    def _is_stale(self, balance: Balance | None) -> bool:
        return balance is None or (bool(balance.ids) and balance.version != self._scene.edits.version)

    def set_weight(self, weight: float) -> None:
        """Keep what has more than `weight` times as many votes for the selection as against it (arXiv 2409.11681).

        For an object the maps that are rendered of it vote; for a new object the masks of the views that were asked.

        Raises:
            SessionError: nothing is selected, or what is was not made from objects or clicks.
        """
        self.need_selection()
        balance = self.balance
        if balance is None or self._is_stale(balance):
            if self._scene.selection.region is not None:
                raise SessionError("this selection has no votes: select an object, or click a new one.")
            with self._scene.reading() as model:
                balance = self._vote(model, self._scene.selection.ids)
        self.put_balance(balance, weight)

    def _vote(self, model: GradisegModel, ids: Sequence[int]) -> Balance:
        """Votes of the maps that the scene itself renders, edits included, in some training views."""
        rows = Rows.now(model)
        key = (self._scene.edits.version, len(rows))
        kept = self._votes
        if kept is None or kept[0] != key:
            table, cameras = rows.arrangement.objects, self._scene.cameras()
            some = torch.linspace(0, len(cameras) - 1, min(VOTE_VIEWS, len(cameras))).round().long().tolist()

            def views() -> Iterator[tuple[rendering.Camera, Tensor]]:
                for i in some:
                    view = scaled(model, cameras[i : i + 1])
                    seen = model.look(view)
                    nobody = (seen.object_ids == IGNORE) & (seen.alpha >= MIN_ACCUMULATION)
                    yield view, torch.where(nobody, len(table), table.classes_of(seen.object_ids))

            votes = accumulate(model.drawn_gaussians(), views(), len(table) + 1)
            kept = self._votes = (key, table, votes, rows)
        _, table, votes, rows = kept
        known = (*table.ids, NO_OBJECT)
        own = torch.zeros(len(known), dtype=torch.bool, device=votes.rows.device)
        own[[known.index(i) for i in ids if i in known]] = True
        return Balance(rows, votes.column(own), votes.column(~own), tuple(ids), key[0])
