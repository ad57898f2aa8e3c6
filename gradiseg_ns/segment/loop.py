"""One object from a few clicks: views one after the other, each asked for what is not known yet.

1. The masks of the clicked views are counted (`evidence`).
2. The next view is the one in which the most blending weight belongs to Gaussians near the object that are undecided, and that shows enough
   of what is decided to be prompted.
3. What the counts render there is the prompt: the middle of what is surely inside, pixels around that are surely outside, and the map itself.
4. The maker's mask is counted as far as it agrees with the rendered one, on pixels of which something is known.
5. It ends when labels hardly change any more.

The field's recipe without training (Seed2GS, B3-Seg); the counts are the votes of arXiv 2409.11681.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradiseg_ns import rendering
from gradiseg_ns.masks import Picture, PromptMaker
from gradiseg_ns.scene.objects import MIN_ACCUMULATION
from gradiseg_ns.scene.splat import Splat
from gradiseg_ns.segment import solids
from gradiseg_ns.segment.evidence import Evidence, inside_outside
from gradiseg_ns.tools.errors import GradisegError
from gradiseg_ns.votes.rendered import spread_views

HEIGHT = 256
"""Pixels of the pictures that masks are made of; smaller cameras stay as they are."""
DEBUG = False
USE_MASK = False
FIRST, FLAT, PRIOR_SAY, TWO_WAYS, CLEAR = 0.08, 0.2, 1.0, 0.6, 0.85
COARSE = 96
"""Pixels of the pictures in which the next view is chosen."""
MOST_VIEWS = 16
KEPT = 64
"""Sights that are kept for the next object."""
SURE = 0.5
"""A pixel is known where Gaussians with that much evidence have half of its weight."""
AGREE = (0.4, 0.8)
"""IoU of a mask with the rendered one below which it does not count, and from which on it counts in full."""
SETTLED = 0.005
"""Labels have settled if this share of the object's weight, or less, changed in each of the last CALM views."""
CALM = 3
POSITIVE, NEGATIVE = 4, 12
"""Pixels of a prompt."""


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

    @property
    def confidence(self) -> Tensor:
        """[N], 0 to 1; 0 for what no view saw."""
        return self.evidence.confidence


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
        self._look, self.given = look, list(cameras)
        self.cameras = [resized(camera, height) for camera in self.given]
        self._sights: OrderedDict[int, Sight] = OrderedDict()
        self._weights: list[Tensor | None] = [None] * len(self.given)
        self._surface: solids.Surface | None = None

    def __len__(self) -> int:
        return len(self.cameras)

    def sight(self, view: int) -> Sight:
        """What a view shows."""
        if view not in self._sights:
            self._sights[view] = self._look(self.cameras[view])
            if len(self._sights) > KEPT:
                self._sights.popitem(last=False)
        self._sights.move_to_end(view)
        return self._sights[view]

    def surface(self) -> solids.Surface:
        """Creases and colours of the Gaussians, from some of the views."""

        def sights():
            for view in spread_views(len(self), solids.VIEWS):
                sight = self._look(resized(self.cameras[view], solids.HEIGHT))
                assert sight.picture.depth is not None and sight.picture.alpha is not None
                yield sight.picture.rgb, sight.picture.depth, sight.picture.alpha, sight.projection

        if self._surface is None:
            self._surface = solids.surface(sights())
        return self._surface

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
    most_views: int = MOST_VIEWS,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """The object that was clicked.

    Args:
        gaussians: N Gaussians.
        views: of them.
        maker: turns pixels into masks.
        clicks: on the object, and beside it in views with a click on it.
        most_views: so many views are asked, the clicked ones included.
        progress: called with the views asked and the most there can be.

    Raises:
        SegmentError: a click is outside of its picture, on nothing, or gives no mask.
    """
    found = Found(Evidence(len(gaussians), gaussians.means.device), torch.zeros(0))
    evidence = found.evidence
    report = progress or (lambda done, total: None)
    weights = views.weights(gaussians)
    anchors = _count_clicks(found, gaussians, views, maker, clicks, weights)
    report(len(found.views), most_views)
    calm = 0
    selected = evidence.selected
    while len(found.views) + len(found.skipped) < min(most_views, len(views)):
        view = _next_view(gaussians, evidence, weights, [*found.views, *found.skipped])
        if view is None:
            break
        sight = views.sight(view)
        mask, trust, _ = _ask(sight, evidence, maker, outline=USE_MASK)
        if trust > 0:
            evidence.add(inside_outside(sight.projection, mask), trust)
            found.views.append(view)
            found.masks.append(mask)
        else:
            found.skipped.append(view)
        now = evidence.selected
        heavy = weights.float().amax(dim=0)
        changed = float(heavy[now != selected].sum() / heavy[now].sum().clamp(min=1e-6))
        selected = now
        calm = calm + 1 if changed < SETTLED else 0
        report(len(found.views) + len(found.skipped), most_views)
        if calm >= CALM:
            found.settled = True
            break
    found.selected = evidence.selected
    return found


def _count_clicks(
    found: Found, gaussians: rendering.Gaussians, views: Views, maker: PromptMaker, clicks: Sequence[Click], weights: Tensor
) -> Tensor:
    """Count the masks of the clicked views; the clicked points [P, 3], world units."""
    anchors = []
    for view in dict.fromkeys(click.view for click in clicks):
        if not 0 <= view < len(views):
            raise SegmentError(f"there is no view {view}: expected 0 to {len(views) - 1}.")
        sight, camera = views.sight(view), views.cameras[view]
        pixels: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for click in (click for click in clicks if click.view == view):
            pixels[click.outside].append(_pixel(click, views.given[view], camera))
        alpha = sight.picture.alpha
        assert alpha is not None and sight.picture.depth is not None
        if not any(float(alpha[y, x]) >= MIN_ACCUMULATION for x, y in pixels[0]):
            raise SegmentError(f"view {view}: nothing is there: expected a pixel on the object.")
        mask = maker.prompted(sight.picture, pixels[0], pixels[1]).pixels.to(alpha.device)
        here = [unprojected(camera, x, y, float(sight.picture.depth[y, x])) for x, y in pixels[0]]
        anchors += here
        seed = torch.zeros_like(alpha)
        for x, y in pixels[0]:
            seed[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 1
        shown = rendering.transpose(sight.projection, seed[..., None])[:, 0]
        sets, asked = solids.candidates(gaussians.means, gaussians.opacities, views.surface(), here[0], shown)
        choices = []
        if bool(mask.any()):
            own = Evidence(len(gaussians), alpha.device)
            own.add(inside_outside(sight.projection, mask))
            choices.append((own, mask))
        for chosen in sets:
            guess = Evidence(len(gaussians), alpha.device)
            guess.inside += 10.0 * chosen
            guess.outside += 10.0 * ~chosen
            choices.append((guess, None))
        tried = []
        for guess, known in choices:
            asking = _best_views(guess, weights, view)
            answers = [_ask(views.sight(v), guess, maker, pixels if v == view else None) for v in asking]
            score = sum(a[2] for a in answers) / len(answers)
            if DEBUG: print("   ", "A" if known is not None else "B", int(guess.selected.sum()), f"{score:.2f}", [f"{a[2]:.2f}" for a in answers])
            tried.append((score, guess, known, asking, answers))
        if not tried:
            raise SegmentError(f"view {view}: no mask came of the click: click on another part of the object.")
        solid = [t for t in tried if t[2] is None]
        best = None
        if bool(mask.any()):
            agree = [iou_of(mask, (rendered(sight.projection, t[1])[0] > 0.5) & (alpha >= MIN_ACCUMULATION)) for t in solid]
            if DEBUG: print("    agree", [f"{x:.2f}" for x in agree])
            best = next((t for t, a in zip(solid, agree, strict=True) if a >= TWO_WAYS), None)
        if best is None:
            for entry in solid:
                if best is None or entry[0] > best[0] + FIRST:
                    best = entry
            flat = next((t for t in tried if t[2] is not None), None)
            if best is None or (flat is not None and flat[0] > best[0] + FLAT):
                best = flat
        assert best is not None
        if best[2] is None and PRIOR_SAY:
            known = asked & best[1].selected | asked
            found.evidence.inside += PRIOR_SAY * (best[1].selected & known)
            found.evidence.outside += PRIOR_SAY * (~best[1].selected & known)
        for v, (m, trust, _) in zip(best[3], best[4], strict=True):
            if trust > 0:
                found.evidence.add(inside_outside(views.sight(v).projection, m), trust)
                found.views.append(v)
                found.masks.append(m)
    return torch.stack(anchors)


def iou_of(a: Tensor, b: Tensor) -> float:
    """IoU of two masks."""
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def _best_views(guess: Evidence, weights: Tensor, view: int) -> list[int]:
    """The clicked view, and others that show most of a guess."""
    score = weights.float() @ guess.selected.float()
    score[view] = -1
    return [view, *score.argsort(descending=True)[:2].tolist()]


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
    reach = torch.quantile(apart[selected][:: 1 + int(selected.sum()) // 100_000], 0.9)
    near = apart < 1.5 * reach
    rows = near.nonzero()[:, 0]
    seen = weights[:, rows].float()
    open_ = seen @ evidence.spread[rows]
    known = seen @ (selected & (evidence.total > SURE))[rows].float()
    ready = (known / known.max().clamp(min=1e-9) / 0.2).clamp(max=1.0)
    score = open_ * ready
    score[list(asked)] = -1
    best = int(score.argmax())
    return best if float(score[best]) > 0 else None


def _ask(
    sight: Sight, evidence: Evidence, maker: PromptMaker, clicked: tuple[list, list] | None = None, outline: bool = False
) -> tuple[Tensor, float, float]:
    """The mask of a view, bool [H, W], with what the counts render there as the prompt; how far to trust it; and its IoU with that."""
    mean, sure = rendered(sight.projection, evidence)
    alpha = sight.picture.alpha
    assert alpha is not None
    guess = (mean > 0.5) & (sure > 0.5) & (alpha >= MIN_ACCUMULATION)
    if not bool(guess.any()):
        return guess, 0.0, 0.0
    positive, negative = prompt_pixels(mean, sure, alpha)
    if clicked is not None:
        positive, negative = [*clicked[0], *positive], [*clicked[1], *negative]
    if not positive:
        return guess, 0.0, 0.0
    def answer(hint: Tensor | None) -> tuple[Tensor, float]:
        mask = maker.prompted(sight.picture, positive, negative, **({} if hint is None else {"mask": hint})).pixels.to(alpha.device)
        return mask, float((sure * (mask & guess)).sum() / (sure * (mask | guess)).sum().clamp(min=1e-9))

    mask, iou = answer(None)
    if outline and iou < CLEAR:
        mask, iou = answer(mean)
    low, high = AGREE
    return mask, min(max((iou - low) / (high - low), 0.0), 1.0), iou


def rendered(projection: rendering.Projection, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """What the counts show in a view: the share [H, W] that is the object's, of Gaussians with evidence, and the share of these."""
    total = evidence.total
    known = total / (total + SURE)
    (maps,), alpha = rendering.rasterize(projection, [torch.stack([known * evidence.mean, known], dim=1)])
    mean = maps[..., 0] / maps[..., 1].clamp(min=1e-6)
    return mean, rendering.expected(maps[..., 1:], alpha)[..., 0]


def prompt_pixels(mean: Tensor, sure: Tensor, alpha: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
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
