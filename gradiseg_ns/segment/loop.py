"""Objects from a few clicks or a phrase: views one after the other, each asked for what is not known yet.

1. A click is one pixel, and an object is more than what looks like it. `solids` proposes sets of Gaussians by the splat's shape; the maker is
   asked in the clicked view and two others, with each set as a prompt. The one that its masks confirm best is the start; where they confirm
   none, it is the mask of the click alone.
2. The next view is the one in which the most blending weight belongs to Gaussians near the object that are undecided, and that shows enough
   of what is decided to be prompted.
3. What the counts render there is the prompt: the middle of what is surely inside, pixels around that are surely outside; and if the maker's
   mask is another one then, the rendered map too.
4. The maker's mask is counted as far as it agrees with the rendered one.
5. It ends when labels hardly change any more.

The field's recipe without training (Seed2GS, B3-Seg); the counts are the votes of arXiv 2409.11681.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import PhraseMaker, Picture, PromptMaker
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment import solids
from gradiseg_ns.segment.evidence import Evidence, inside_outside
from gradiseg_ns.segment.hierarchy import LONGEST
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.rendered import spread_views

HEIGHT = 256
"""Pixels of the pictures that masks are made of; smaller cameras stay as they are."""
COARSE = 96
"""Pixels of the pictures in which the next view is chosen."""
MOST_VIEWS = 16
PHRASE_VIEWS = 8
"""Views in which a phrase is looked for before the object is followed."""
KEPT = 1 << 30
"""Bytes of sights that are kept for the next object."""
_PER_GAUSSIAN, _PER_PIXEL = 64, 32
"""Bytes of a sight, about."""
SURE = 0.5
"""A pixel is known where Gaussians with that much evidence have half of its weight."""
AGREE = (0.4, 0.8)
"""IoU of a mask with the rendered one below which it does not count, and from which on it counts in full."""
CLEAR = 0.85
"""Below this IoU, the rendered map becomes part of the prompt."""
SETTLED = 0.005
"""Labels have settled if this share of the object's weight, or less, changed in each of the last CALM views."""
CALM = 3
POSITIVE, NEGATIVE = 4, 12
"""Pixels of a prompt."""
_WAIT, _LONG = 0.5, 4.0
"""What the wait of a proposed set counts at most beside the IoU by which it is confirmed, and the wait that counts half of it."""
_SIZE = 0.03
"""What the log of its number of Gaussians counts: parts of a thing are confirmed as well as the thing."""
_CROWD, _MUCH = 0.2, 0.2
"""The share of all Gaussians from which on a set may well be several things if nothing ever doubles it, and what that costs."""
_NEARLY, _LARGER = 0.06, 2.7
"""A set that is larger, up to so many times, is taken if its score is lower by no more: the next views cut off what is too much sooner than
they find what lacks."""
_FLAT = 0.2
"""How much better the mask of the click alone must be confirmed."""
PROPOSED, BESIDE = 1.0, 0.25
"""What the proposed set says of its Gaussians, and of all others, in views: it lacks what lies at its border."""


class SegmentError(GradisegError):
    """An object that cannot be found; the message says why."""


@dataclass(frozen=True)
class Sight:
    """What a camera sees of a splat."""

    picture: Picture
    projection: rendering.Projection


Look = Callable[[rendering.Camera], Sight]
"""Renders what a camera sees."""


@dataclass(frozen=True)
class Click:
    """A pixel of a view that a person pointed at."""

    view: int
    x: float
    """Pixels of the view's camera, from the left edge."""
    y: float
    """From the upper edge."""
    outside: bool = False
    """Whether it is beside the object instead of on it."""


@dataclass
class Found:
    """An object in a splat of N Gaussians."""

    evidence: Evidence
    selected: Tensor
    """bool [N]."""
    views: list[int] = field(default_factory=list)
    """Views that counted, in the order in which they were asked."""
    masks: list[Tensor] = field(default_factory=list)
    """Their masks, bool [H, W] each."""
    skipped: list[int] = field(default_factory=list)
    """Views whose mask contradicted the others."""
    settled: bool = False
    """Whether labels stopped changing before all views were used."""
    start: Tensor | None = None
    """bool [N], the set that the first click was taken to mean."""
    proposed: list[Tensor] = field(default_factory=list)
    """bool [N] each, the sets that it may mean."""

    @classmethod
    def empty(cls, gaussians: rendering.Gaussians) -> Found:
        """Nothing yet."""
        evidence = Evidence(len(gaussians), gaussians.means.device)
        return cls(evidence, evidence.selected)

    @property
    def confidence(self) -> Tensor:
        """[N], 0 to 1; 0 for what no view saw."""
        return self.evidence.confidence

    def other_size(self, *, larger: bool) -> Tensor | None:
        """The next larger set that the click may mean, or the next smaller one, bool [N]; None if there is none."""
        if self.start is None:
            return None
        own, sets = int(self.start.sum()), {int(one.sum()): one for one in self.proposed}
        if larger:
            size = min((n for n in sets if n > own * solids.OTHER), default=None)
        else:
            size = max((n for n in sets if n * solids.OTHER < own), default=None)
        return None if size is None else sets[size]


@torch.no_grad()
def see(splat: Splat, camera: rendering.Camera, background: Tensor | None = None) -> Sight:
    """A view of a splat: colours (before a background [3], black unless given), accumulation and depth."""
    projection = splat.project(camera)
    colors = splat.colors(camera, projection.radii[0] > 0)
    (rgb, depth), alpha = rendering.rasterize(projection, [colors, projection.depths[0][:, None]])
    if background is not None:
        rgb = rgb + (1 - alpha) * background
    depth = rendering.expected(depth, alpha)[..., 0]
    return Sight(Picture(rgb.clamp(0, 1), alpha[..., 0], depth), projection)


def resized(camera: rendering.Camera, height: int) -> rendering.Camera:
    """A camera with a picture of at most that height, of the same view."""
    if camera.height <= height:
        return camera
    width = max(1, round(camera.width * height / camera.height))
    K = camera.K.clone()
    K[0] *= width / camera.width
    K[1] *= height / camera.height
    return camera._replace(K=K, width=width, height=height)


class Views:
    """The views of a splat, rendered when they are asked for, and kept for the next object.

    Args:
        look: renders a camera.
        cameras: of the views.
        height: of the pictures, at most.
    """

    def __init__(self, look: Look, cameras: Sequence[rendering.Camera], height: int = HEIGHT) -> None:
        self._look, self._height = look, height
        self.given: list[rendering.Camera] = []
        """The cameras as they were given."""
        self.cameras: list[rendering.Camera] = []
        """Those of the pictures."""
        self._sights: OrderedDict[int, Sight] = OrderedDict()
        self._weights: list[Tensor | None] = []
        self._surface: solids.Surface | None = None
        self._solids: solids.Solids | None = None
        self.add(cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    def add(self, cameras: Sequence[rendering.Camera]) -> None:
        """More views, numbered after those there are."""
        self.given += cameras
        self.cameras += [resized(camera, self._height) for camera in cameras]
        self._weights += [None] * len(cameras)

    def keep(self, count: int) -> None:
        """Give up all views but the first ones, and what is kept of them."""
        del self.given[count:], self.cameras[count:], self._weights[count:]
        for view in [view for view in self._sights if view >= count]:
            del self._sights[view]

    def sight(self, view: int) -> Sight:
        """What a view shows."""
        if view not in self._sights:
            self._sights[view] = self._look(self.cameras[view])
            camera, count = self.cameras[view], self._sights[view].projection.radii.shape[1]
            size = _PER_GAUSSIAN * count + _PER_PIXEL * camera.width * camera.height
            while len(self._sights) > max(2, KEPT // size):
                self._sights.popitem(last=False)
        self._sights.move_to_end(view)
        return self._sights[view]

    def view_of(self, picture: Picture) -> int:
        """The view that a picture was kept of.

        Raises:
            KeyError: it is not kept.
        """
        for view, sight in self._sights.items():
            if sight.picture is picture:
                return view
        raise KeyError("a picture that is not kept")

    def surface(self) -> solids.Surface:
        """Creases and colours of the Gaussians, from some of the views."""

        def sights() -> Iterator[tuple[Tensor, Tensor, Tensor, rendering.Projection]]:
            for view in spread_views(len(self), solids.VIEWS):
                sight = self._look(resized(self.cameras[view], solids.HEIGHT))
                assert sight.picture.depth is not None and sight.picture.alpha is not None
                yield sight.picture.rgb, sight.picture.depth, sight.picture.alpha, sight.projection

        if self._surface is None:
            self._surface = solids.surface(sights())
        return self._surface

    def solids(self, gaussians: rendering.Gaussians) -> solids.Solids:
        """What may be a thing."""
        if self._solids is None:
            self._solids = solids.Solids(gaussians.means, gaussians.opacities, self.surface())
        return self._solids

    @torch.no_grad()
    def weights(self, gaussians: rendering.Gaussians) -> Tensor:
        """Blending weight of each Gaussian in each view, in pixels: float16 [V, N]."""
        for view, known in enumerate(self._weights):
            if known is None:
                camera = resized(self.cameras[view], COARSE)
                scale = self.cameras[view].width * self.cameras[view].height / (camera.width * camera.height)
                ones = gaussians.means.new_ones(camera.height, camera.width, 1)
                self._weights[view] = (
                    rendering.backproject(gaussians, camera, ones)[:, 0] * scale
                ).clamp(max=6e4).half()  # fmt: skip
        return torch.stack([w for w in self._weights if w is not None])


@torch.no_grad()
def find_object(
    gaussians: rendering.Gaussians,
    views: Views,
    maker: PromptMaker,
    clicks: Sequence[Click],
    *,
    start: Tensor | None = None,
    most_views: int = MOST_VIEWS,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """The object that was clicked.

    Args:
        gaussians: N Gaussians.
        views: of them.
        maker: turns pixels into masks.
        clicks: on the object, and beside it in views with a click on it.
        start: bool [N], the set that the clicks mean, such as `Found.other_size` of the same ones. None: shape and masks tell.
        most_views: so many views are asked, the clicked ones included.
        progress: called with the views asked and the most there can be.

    Raises:
        SegmentError: a click is outside of its picture, on nothing, or gives no mask; there is none on the object.
    """
    clicked = _pixels_of(views, clicks)
    weights = views.weights(gaussians)
    found = Found.empty(gaussians)
    for view, pixels in clicked.items():
        _start(found, gaussians, views, maker, view, pixels, weights, start)
    _follow(found, gaussians, views, maker, weights, most_views, progress)
    return found


@torch.no_grad()
def find_phrase(
    gaussians: rendering.Gaussians,
    views: Views,
    maker: PhraseMaker,
    phrase: str,
    *,
    prompts: PromptMaker | None = None,
    most_views: int = MOST_VIEWS,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """All that a phrase names. What some views miss is not held against it; masks that most others contradict are taken back.

    Args:
        gaussians: N Gaussians.
        views: of them.
        maker: turns words into masks.
        phrase: such as "red mug".
        prompts: makes the masks of further views from what was found; None: there are none.
        most_views: so many views are asked in all.
        progress: called with the views asked and the most there can be.

    Raises:
        SegmentError: nothing in any view is like the phrase.
    """
    asked = spread_views(len(views), min(PHRASE_VIEWS, most_views))
    total = most_views if prompts is not None else len(asked)
    counted: list[tuple[int, Tensor, Tensor]] = []
    for done, view in enumerate(asked):
        sight = views.sight(view)
        masks = [m for m in maker.phrases(sight.picture, [phrase]) if bool(m.pixels.any())]
        if masks:
            pixels = torch.stack([m.pixels for m in masks]).any(dim=0).to(gaussians.means.device)
            counted.append((view, pixels, inside_outside(sight.projection, pixels)))
        if progress is not None:
            progress(done + 1, total)
    if not counted:
        raise SegmentError(
            f"nothing is like the phrase {phrase!r} in {len(asked)} views: try other words, or --click."
        )
    everyone = Evidence(len(gaussians), gaussians.means.device)
    for _, _, sums in counted:
        everyone.add(sums)
    found = Found.empty(gaussians)
    for view, pixels, sums in counted:
        mean, sure = rendered(views.sight(view).projection, everyone)
        if _iou(pixels, mean > 0.5, sure) >= AGREE[0]:
            _count(found, view, pixels, sums, 1.0)
        else:
            found.skipped.append(view)
    if not found.views:
        raise SegmentError(f"the views do not agree on what {phrase!r} is: try other words, or --click.")
    found.skipped += [view for view in asked if view not in found.views and view not in found.skipped]
    if prompts is not None:
        _follow(found, gaussians, views, prompts, views.weights(gaussians), most_views, progress)
    found.selected = found.evidence.selected
    return found


def segment_from_clicks(
    source: Splat | tuple[rendering.Gaussians, Look],
    cameras: Sequence[rendering.Camera],
    maker: PromptMaker,
    clicks: Sequence[Click],
    *,
    most_views: int = MOST_VIEWS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The Gaussians of an object that was clicked once or more: what a viewer calls.

    Args:
        source: a splat; or N Gaussians and what renders a camera's picture of them.
        cameras: of all views that may be asked, the clicked ones among them.
        maker: turns pixels into masks.
        clicks: in these views.
        most_views: so many views are asked.
        progress: called with the views asked and the most there can be.

    Returns:
        bool [N], and the confidence [N], 0 to 1.

    Raises:
        SegmentError: as `find_object`.
    """
    if isinstance(source, Splat):
        splat = source
        gaussians, look = splat.gaussians(), lambda camera: see(splat, camera)
    else:
        gaussians, look = source
    found = find_object(
        gaussians, Views(look, cameras), maker, clicks, most_views=most_views, progress=progress
    )
    return found.selected, found.confidence


# --------------------------------------------------------------------------------------------------- the first views

Clicked = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""Pixels (x, y) on the object and beside it."""


def _pixels_of(views: Views, clicks: Sequence[Click]) -> dict[int, Clicked]:
    """The clicks of each clicked view, in pixels of the pictures."""
    clicked: dict[int, Clicked] = {}
    for click in clicks:
        if not 0 <= click.view < len(views):
            raise SegmentError(f"there is no view {click.view}: expected 0 to {len(views) - 1}.")
        pixel = _pixel(click, views.given[click.view], views.cameras[click.view])
        clicked.setdefault(click.view, ([], []))[click.outside].append(pixel)
    if not clicked:
        raise SegmentError("there is no click: expected one on the object.")
    for view, (inside, _) in clicked.items():
        alpha = views.sight(view).picture.alpha
        if not inside:
            raise SegmentError(f"view {view} has clicks beside the object: expected one on it, too.")
        if alpha is not None and not any(float(alpha[y, x]) >= MIN_ACCUMULATION for x, y in inside):
            raise SegmentError(
                f"nothing is there: the click in view {view} is on empty background. Expected a pixel on the object."
            )
    return clicked


@dataclass
class _Guess:
    """What a click may mean, and what the maker says to it."""

    evidence: Evidence
    views: list[int]
    answers: list[tuple[Tensor, float, float]]
    wait: float = 0.0
    """How long a proposed set waits for a partner (`solids`)."""
    share: float = 0.0
    """Of the Gaussians of which anything is known, those in the guess."""

    @property
    def size(self) -> int:
        """Gaussians."""
        return int(self.evidence.selected.sum())

    @property
    def confirmed(self) -> float:
        """Mean IoU of the answers with the guess."""
        return sum(iou for _, _, iou in self.answers) / len(self.answers)

    @property
    def score(self) -> float:
        """How likely a proposed set is the thing, by the answers, its wait and its size."""
        waits = _WAIT * self.wait / (self.wait + _LONG)
        crowd = _MUCH if self.share > _CROWD and self.wait >= LONGEST else 0.0
        return self.confirmed + waits + _SIZE * math.log(max(self.size, 1)) - crowd


def _start(
    found: Found,
    gaussians: rendering.Gaussians,
    views: Views,
    maker: PromptMaker,
    view: int,
    pixels: Clicked,
    weights: Tensor,
    meant: Tensor | None,
) -> None:
    """Count the masks of a clicked view and of two more, and what the shape says of the set that is meant."""
    sight = views.sight(view)
    depth = sight.picture.depth
    assert depth is not None
    seeds = depth.new_zeros(*depth.shape, len(pixels[0]))
    for k, (x, y) in enumerate(pixels[0]):
        seeds[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2, k] = 1
    things = views.solids(gaussians)
    known = things.known
    proposed = things.around(rendering.transpose(sight.projection, seeds))
    if not found.views:
        found.proposed = [chosen for chosen, _ in proposed]

    def guess(evidence: Evidence, wait: float = 0.0, share: float = 0.0) -> _Guess:
        asked = _best_views(evidence, weights, view)
        answers = [_ask(views.sight(v), evidence, maker, pixels if v == view else None) for v in asked]
        return _Guess(evidence, asked, answers, wait, share)

    def solid(chosen: Tensor, wait: float = 0.0) -> _Guess:
        evidence = Evidence(len(gaussians), depth.device)
        evidence.inside += 10.0 * chosen  # far more than SURE
        evidence.outside += 10.0 * ~chosen
        return guess(evidence, wait, float(chosen.sum() / known.sum().clamp(min=1)))

    if meant is not None:
        best, by_shape = solid(meant), True
    else:
        best = _best_solid([solid(chosen, wait) for chosen, wait in proposed])
        by_shape = best is not None
        mask = maker.prompted(sight.picture, *pixels).pixels.to(depth.device)
        if bool(mask.any()):
            evidence = Evidence(len(gaussians), depth.device)
            evidence.add(inside_outside(sight.projection, mask))
            flat = guess(evidence)
            if best is None or flat.confirmed > best.confirmed + _FLAT:
                best, by_shape = flat, False
    if best is None:
        raise SegmentError(f"view {view}: no mask came of the click: click on another part of the object.")
    if not found.views:
        found.start = best.evidence.selected
    if by_shape:
        found.evidence.inside += PROPOSED * (known & best.evidence.selected)
        found.evidence.outside += BESIDE * (known & ~best.evidence.selected)
    for v, (answer, trust, _) in zip(best.views, best.answers, strict=True):
        if trust > 0 and v not in found.views:
            _count(found, v, answer, inside_outside(views.sight(v).projection, answer), trust)


def _best_solid(guesses: Sequence[_Guess]) -> _Guess | None:
    """The proposed set that is most likely the thing; of nearly equal ones the larger. None if there is none."""
    best = max(guesses, key=lambda one: one.score, default=None)
    if best is None:
        return None
    reach, least = _LARGER * best.size, best.score - _NEARLY
    return max((one for one in guesses if one.score > least and one.size <= reach), key=lambda one: one.size)


def _best_views(evidence: Evidence, weights: Tensor, view: int) -> list[int]:
    """The clicked view, and two others that show most of a guess."""
    score = weights.float() @ evidence.selected.float()
    score[view] = -1
    return [view, *score.argsort(descending=True)[: min(2, len(score) - 1)].tolist()]


# ---------------------------------------------------------------------------------------------------- the next views


def _count(found: Found, view: int, mask: Tensor, sums: Tensor, trust: float) -> None:
    found.evidence.add(sums, trust)
    found.views.append(view)
    found.masks.append(mask)


def _follow(
    found: Found,
    gaussians: rendering.Gaussians,
    views: Views,
    maker: PromptMaker,
    weights: Tensor,
    most_views: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Ask views until labels settle."""
    evidence = found.evidence
    report = progress or (lambda done, total: None)
    heavy = weights.amax(dim=0).float()
    selected, calm = evidence.selected, 0
    most = min(most_views, len(views))
    while True:
        asked = [*found.views, *found.skipped]
        report(min(len(asked), most), most)
        if calm >= CALM:
            found.settled = True
            break
        view = _next_view(gaussians, evidence, weights, asked) if len(asked) < most else None
        if view is None:
            break
        sight = views.sight(view)
        mask, trust, _ = _ask(sight, evidence, maker, outline=True)
        if trust > 0:
            _count(found, view, mask, inside_outside(sight.projection, mask), trust)
        else:
            found.skipped.append(view)
        now = evidence.selected
        changed = float(heavy[now != selected].sum() / heavy[now].sum().clamp(min=1e-6))
        selected = now
        calm = calm + 1 if changed < SETTLED else 0
    found.selected = selected


def _next_view(
    gaussians: rendering.Gaussians, evidence: Evidence, weights: Tensor, asked: Sequence[int]
) -> int | None:
    """The view that has the most to tell; None if none shows the object."""
    selected = evidence.selected
    if not bool(selected.any()):
        return None
    means = gaussians.means
    centre = means[selected].median(dim=0).values
    apart = (means - centre).norm(dim=1)
    own = apart[selected]
    reach = own.kthvalue(max(1, round(0.9 * len(own)))).values
    rows = (apart < 1.5 * reach).nonzero()[:, 0]
    seen = weights[:, rows].float()
    undecided = seen @ evidence.spread[rows]
    decided = seen @ (selected & (evidence.total > SURE))[rows].float()
    ready = (decided / decided.max().clamp(min=1e-9) / 0.2).clamp(max=1.0)
    score = undecided * ready
    score[list(asked)] = -1
    best = int(score.argmax())
    return best if float(score[best]) > 0 else None


def _ask(
    sight: Sight,
    evidence: Evidence,
    maker: PromptMaker,
    clicked: Clicked | None = None,
    outline: bool = False,
) -> tuple[Tensor, float, float]:
    """The mask of a view with what the counts render there as the prompt.

    Args:
        sight: the view.
        evidence: the counts.
        maker: makes the mask.
        clicked: pixels of a person, which are part of the prompt.
        outline: whether the rendered map may be part of the prompt.

    Returns:
        bool [H, W]; how far to trust it, 0 to 1; and its IoU with what the counts render.
    """
    mean, sure = rendered(sight.projection, evidence)
    alpha = sight.picture.alpha
    assert alpha is not None
    guess = (mean > 0.5) & (sure > 0.5) & (alpha >= MIN_ACCUMULATION)
    positive, negative = prompt_pixels(mean, sure, alpha) if bool(guess.any()) else ([], [])
    if clicked is not None:
        positive, negative = [*clicked[0], *positive], [*clicked[1], *negative]
    if not positive:
        return guess, 0.0, 0.0
    mask = maker.prompted(sight.picture, positive, negative).pixels.to(alpha.device)
    iou = _iou(mask, guess, sure)
    if outline and iou < CLEAR:
        mask = maker.prompted(sight.picture, positive, negative, mask=mean).pixels.to(alpha.device)
        iou = _iou(mask, guess, sure)
    return mask, trust_of(iou), iou


def trust_of(iou: float) -> float:
    """How far a mask counts, 0 to 1, by its IoU with what is rendered."""
    low, high = AGREE
    return min(max((iou - low) / (high - low), 0.0), 1.0)


def _iou(a: Tensor, b: Tensor, weight: Tensor | None = None) -> float:
    """IoU of two masks [H, W], with pixels weighted."""
    both, either = (a & b).float(), (a | b).float()
    if weight is not None:
        both, either = both * weight, either * weight
    return float(both.sum() / either.sum().clamp(min=1e-9))


def _pixel(click: Click, given: rendering.Camera, camera: rendering.Camera) -> tuple[int, int]:
    if not (0 <= click.x < given.width and 0 <= click.y < given.height):
        raise SegmentError(
            f"the click ({click.x:g}, {click.y:g}) is outside of view {click.view}, which has {given.width} x {given.height} pixels."
        )
    return int(click.x * camera.width / given.width), int(click.y * camera.height / given.height)


def unprojected(camera: rendering.Camera, x: int, y: int, depth: float) -> Tensor:
    """The point [3] at a depth behind the middle of a pixel, world units."""
    ray = torch.linalg.solve(camera.K, camera.K.new_tensor([x + 0.5, y + 0.5, 1.0]))
    return camera.viewmat[:3, :3].T @ (ray * depth - camera.viewmat[:3, 3])


def rendered(projection: rendering.Projection, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """What the counts show in a view: the share [H, W] that is the object's, of Gaussians with evidence, and the share of these."""
    total = evidence.total
    known = total / (total + SURE)
    (maps,), alpha = rendering.rasterize(projection, [torch.stack([known * evidence.mean, known], dim=1)])
    mean = maps[..., 0] / maps[..., 1].clamp(min=1e-6)
    return mean, rendering.expected(maps[..., 1:], alpha)[..., 0]


def prompt_pixels(
    mean: Tensor, sure: Tensor, alpha: Tensor
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pixels (x, y) inside of what counts render as the object, and around it.

    Args:
        mean, sure: [H, W] of `rendered`.
        alpha: [H, W].
    """
    import cv2

    certain = (sure * alpha).cpu().numpy()
    share = mean.cpu().numpy()
    inside = (share > 0.5) & (certain > 0.5)
    depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    positive = _spread_out(depth * (2 * share - 1).clip(0) * certain, POSITIVE, float(depth.max()))
    outside = (share < 0.25) & (certain > 0.5)
    away = cv2.distanceTransform((share <= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    reach = max(3.0, 0.5 * float(np.sqrt(inside.sum())))
    ring = outside & (away > 2) & (away < reach)
    depth = cv2.distanceTransform(np.pad(ring, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    negative = _spread_out(np.minimum(depth, 3.0) * (1 - share) * certain, NEGATIVE, reach)
    return positive, negative


def _spread_out(score: NDArray[np.floating], count: int, apart: float) -> list[tuple[int, int]]:
    """At most so many pixels (x, y) of high scores [H, W], the next always apart from those before it."""
    left, found = score.copy(), []
    rows, columns = np.ogrid[: score.shape[0], : score.shape[1]]
    best = float(score.max())
    for _ in range(count):
        y, x = np.unravel_index(int(left.argmax()), left.shape)
        if left[y, x] <= 0.1 * best or left[y, x] <= 0:
            break
        found.append((int(x), int(y)))
        near = (rows - y) ** 2 + (columns - x) ** 2 < max(apart, 2.0) ** 2
        left[near] = 0
    return found
