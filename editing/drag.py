"""Moving points of a GAN's picture to where they shall be: DragGAN (Pan et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.latent.drag import Point, at, motion_loss, still_loss, track
from editing.rendering import styled_with
from editing.styles import gan_of, own_styles, style_places, with_samples, with_styles
from unified.contract.abilities import Featured, Renders
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random
from unified.contract.scheme import EditScheme, schemes
from unified.contract.target import Drag, Target
from unified.contract.view import View
from unified.errors import UserError

_FULL_SIZE = 512  # pixels of the pictures that the paper's radii are for
_FINE_SIZE = 256  # points are followed on a grid at least this wide
_FEATURE_SIZE = 128  # of the paper's features, those of the sixth block: 4 x 4 is the first


@dataclass(frozen=True)
class DragSettings:
    """As in the paper, section 3.2 and 4.

    steps: at most. lr: of Adam for pictures of 512 pixels or more; for smaller ones more, by the root of how much
    larger their pixels are: points have as far to go in the face, but go by steps of a pixel. layers: first style
    vectors that move; the others rule colours.
    supervised, tracked: radii of motion supervision and of tracking, in pixels of a picture of 512. still: weight
    of what must not change, both terms being means as the authors take them, for pictures of 512 pixels or more; for
    smaller ones less, by as much as their pixels are larger. That is our choice: in a small picture more comes along
    with a step of one pixel, and with the whole weight points of 64-pixel pictures stay where they are.
    place: where features are taken, "" for the sixth block's (128 x 128), or the last one's of a smaller generator.
    Points are followed by fractions of a pixel in pictures smaller than 256 (a quarter of one at 64), and must come
    within half a pixel of their goals there, which is four pixels of a picture of 512.
    """

    steps: int = 300
    lr: float = 2e-3
    layers: int = 6
    supervised: float = 3.0
    tracked: float = 12.0
    still: float = 20.0
    place: str = ""


@dataclass
class _Drag:
    """One picture being dragged."""

    view: View
    row: int
    goals: list[Point]
    movable: Tensor | None
    settings: DragSettings
    place: str
    points: list[Point] = field(default_factory=list)
    steps: int = 0

    def features(self, styles: Tensor) -> Tensor:
        """[C, side, side] of styles [1, number, width], at the picture's size."""
        backbone = self.view.backbone
        assert isinstance(backbone, Featured)
        side = backbone.resolution
        with styled_with(self.view, styles):
            found = backbone.features_of(self.view, [self.row])[self.place]
        return functional.interpolate(found, (side, side), mode="bilinear", align_corners=False)[0]

    def radius(self, of_512: float, *, least: float) -> float:
        return max(of_512 * self.view.backbone.resolution / _FULL_SIZE, least)

    def arrived(self) -> bool:
        """Whether all points are at their goals: within 1 pixel for up to five points, 2 for more (section 4).

        Those are pixels of a picture of 512; at least half a pixel of a smaller one.
        """
        within = self.radius(1.0 if len(self.points) <= 5 else 2.0, least=0.5)
        return all(math.dist(p, g) <= within for p, g in zip(self.points, self.goals, strict=True))

    def run(self, styles: Tensor, progress: Progress) -> Tensor:
        """Styles [1, number, width] -> those of the dragged picture."""
        settings = self.settings
        with torch.no_grad():
            before = self.features(styles)
            wanted = at(before, torch.tensor(self.points))
        moving = styles[:, : settings.layers].clone().requires_grad_()
        fixed = styles[:, settings.layers :]
        larger = max(_FULL_SIZE / self.view.backbone.resolution, 1.0)
        optimiser = torch.optim.Adam([moving], lr=settings.lr * math.sqrt(larger))
        # One pixel is the step of a point: the disc holds its pixel and those around, the window the next step.
        supervised = self.radius(settings.supervised, least=1.5)
        tracked = self.radius(settings.tracked, least=2.0)
        fine = max(1, _FINE_SIZE // self.view.backbone.resolution)
        for _ in range(settings.steps):
            if self.arrived():
                break
            features = self.features(torch.cat([moving, fixed], 1))
            loss = motion_loss(features, self.points, self.goals, radius=supervised)
            if self.movable is not None:
                loss = loss + settings.still / larger * still_loss(features, before, self.movable)
            if not bool(torch.isfinite(loss)):
                raise UserError("Dragging met a loss that is not finite: lower its learning rate.")
            (moving.grad,) = torch.autograd.grad(loss, [moving])
            optimiser.step()
            with torch.no_grad():
                features = self.features(torch.cat([moving, fixed], 1))
                self.points = [
                    track(features, p, w, radius=tracked, fine=fine) for p, w in zip(self.points, wanted, strict=True)
                ]
            self.steps += 1
            progress.advance(self.steps, loss=float(loss.detach()))
        return torch.cat([moving, fixed], 1).detach()


def check_drags(drags: Sequence[Drag], movable: Tensor | None, *, side: int) -> None:
    """Raises UserError for points outside of the picture or of the mask, or a mask of another size."""
    if not drags:
        raise UserError("No point to drag was given: write x,y:x,y, from where to where, in pixels of the picture.")
    for drag in drags:
        for what, (x, y) in (("start", drag.start), ("goal", drag.goal)):
            if not (0 <= x <= side - 1 and 0 <= y <= side - 1):
                raise UserError(
                    f"The {what} {x:g},{y:g} of a drag lies outside of the picture: it has {side} x {side} pixels, so x"
                    f" and y go from 0 to {side - 1}."
                )
    if movable is None:
        return
    if tuple(movable.shape) != (side, side):
        raise UserError(f"The mask of what may move has shape {tuple(movable.shape)}; the picture has {(side, side)}.")
    for drag in drags:
        x, y = (round(value) for value in drag.start)
        if float(movable[y, x]) < 0.5:
            raise UserError(
                f"The point {x},{y} lies outside of the mask of what may move: drag one inside, or widen it."
            )


def place_for(backbone: Backbone, wanted: str) -> str:
    """The place of the features. Raises UserError if there is no such place, or features do not lie under pixels."""
    if not isinstance(backbone, Featured):
        raise UserError(f"{backbone.id} does not show its feature maps: points of its pictures cannot be dragged.")
    side = backbone.resolution
    shapes = {name: shape for name, shape in backbone.feature_shapes().items() if side % shape[1] == 0}
    if not shapes:
        raise UserError(f"The feature maps of {backbone.id} have margins, so that no pixel is under a point of them.")
    if wanted:
        if wanted not in shapes:
            raise UserError(f"There are no features at {wanted!r}; there are some at {', '.join(shapes)}.")
        return wanted
    # The last place of that size: what the next block gets.
    height = max(
        (h for _, h, _ in shapes.values() if h <= _FEATURE_SIZE), default=min(h for _, h, _ in shapes.values())
    )
    return [name for name, shape in shapes.items() if shape[1] == height][-1]


def drag(
    backbone: Backbone,
    concept: Concept,
    drags: Sequence[Drag],
    *,
    movable: Tensor | None = None,
    settings: DragSettings = DragSettings(),
    progress: Progress | None = None,
) -> Concept:
    """The concept with its pictures' styles changed so that what is at each start is at its goal.

    drags: in pixels of the backbone's pictures. movable: [H, W] in 0..1, 1 where the picture may change; None:
    everywhere. Each picture of the concept is dragged by itself. All other codes stay. `meta["drag"]` says
    for each picture where the points came to and after how many steps. Raises UserError for points
    outside of the picture or the mask, and for concepts without style vectors.
    """
    side = backbone.resolution
    check_drags(drags, movable, side=side)
    if torch.is_inference_mode_enabled():
        raise UserError("Dragging needs gradients: call it outside of torch.inference_mode().")
    if not style_places(concept):
        raise UserError(f"The concept {concept.name} holds no style vectors to move: invert it in 'w' or 'w+' first.")
    place = place_for(backbone, settings.place)
    progress = progress or Silent()
    outcomes, moved = [], []
    with torch.enable_grad(), backbone.bound(concept) as view:
        slot = own_styles(view)
        for row in range(slot.code.pictures or 1):
            progress.start("dragging", settings.steps)
            starts, goals = [_point(each.start) for each in drags], [_point(each.goal) for each in drags]
            one = _Drag(view, row, goals, movable, settings, place, starts)
            moved.append(one.run(slot.rows([row]).detach(), progress))
            progress.finish()
            outcomes.append({"points": [list(point) for point in one.points], "steps": one.steps})
    mean, _ = gan_of(backbone).style_statistics()
    found = with_styles(concept, torch.cat(moved), mean)
    described = [{"start": list(d.start), "goal": list(d.goal)} for d in drags]
    return replace(found, meta={**concept.meta, "drag": {"drags": described, "outcome": outcomes}})


def _point(given: tuple[float, float]) -> Point:
    """As floats: whole pixels may come as integers."""
    return float(given[0]), float(given[1])


@dataclass(frozen=True)
class DragScheme(EditScheme):
    """Render the concept, or random samples, with `target.drags` done."""

    name: ClassVar[str] = "drag"
    needs: ClassVar[tuple[type, ...]] = (Renders, Featured)
    reads: ClassVar[frozenset[str]] = frozenset({"drags"})

    settings: DragSettings = DragSettings()

    def edited(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> list[Concept]:
        if not target.drags:
            return list(concepts)
        return [
            drag(backbone, c, target.drags, movable=target.movable, settings=self.settings, progress=progress)
            if style_places(c)
            else c
            for c in with_samples(backbone, concepts, target, rng=rng)
        ]


schemes.register(DragScheme.name, DragScheme())
