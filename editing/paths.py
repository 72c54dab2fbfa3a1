"""Edits that depend on the code: paths through a GAN's style space that bend, beside directions that do not.

A direction adds the same to every code. A path asks where the code is: a flow, the gradient of a network or a
field of warps says how far each picture moves. Paths have names, strengths and layers as directions have, they are
stored in the same files, and what several edits do is added up: each is followed from the code as it was before
the edit, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from editing.affine import nearest_styles
from editing.styles import gan_of, joined, styled_of
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.registry import Registry
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Shift:
    """What an edit adds: to styles [number, width], to style channels [channels], or to both; None: nothing.

    With an axis of pictures in front, [pictures, number, width] or [pictures, channels], each one moves by its own.
    """

    styles: Tensor | None = None
    channels: Tensor | None = None

    def within(self, layers: Sequence[int], sizes: Mapping[str, int]) -> Shift:
        """The shift with all layers but these at zero; `sizes` are those of the style channels."""
        styles, channels = self.styles, self.channels
        if styles is not None:
            styles = styles * _chosen(layers, styles.shape[-2], styles).unsqueeze(1)
        if channels is not None:
            each = torch.tensor(list(sizes.values()))
            channels = channels * _chosen(layers, len(sizes), channels).repeat_interleave(each)
        return Shift(styles, channels)


def _chosen(layers: Sequence[int], depth: int, like: Tensor) -> Tensor:
    chosen = like.new_zeros(depth)
    chosen[[layer for layer in layers if layer < depth]] = 1
    return chosen


@dataclass(frozen=True, eq=False)
class Here:
    """Where an edit starts: the pictures of one concept, as bound to `view`, or those of given styles.

    given: [pictures, number, width], rendered by the view; None: the view's own pictures.
    """

    view: View
    given: Tensor | None = None

    @cached_property
    def styles(self) -> Tensor:
        """[pictures, number, width]; of a concept of style channels, the styles nearest to it."""
        if self.given is not None:
            return self.given
        slots = self.view.slots
        with torch.no_grad():
            if "channels" in slots:
                return nearest_styles(self.view.backbone, slots["channels"].read())
            found: Tensor = slots["styles"].read().detach()
        return found

    @cached_property
    def channels(self) -> Tensor:
        """[pictures, channels], the layers side by side."""
        slots = self.view.slots
        with torch.no_grad():
            gan = styled_of(self.view.backbone)
            bound = self.given is None and "channels" in slots
            channels = slots["channels"].read() if bound else gan.channels_of(self.view, self.styles)
            return joined(channels, gan.style_channels())

    @cached_property
    def images(self) -> Tensor:
        """[pictures,3,H,W] in 0..1."""
        with torch.no_grad():
            if self.given is not None:
                return gan_of(self.view.backbone).render(self.view, self.given).clamp(0, 1)
            side, count = self.view.backbone.resolution, len(self.styles)
            blank = Reference(self.styles.new_zeros(count, 3, side, side), index=tuple(range(count)))
            return self.view.attempt(blank, rng=Random(0)).render().clamp(0, 1)


class PathModel(Protocol):
    """What the paths of one file share, such as a network. kind: under which it is found in `path_models`."""

    kind: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """All but its tensors, for JSON."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        ...

    def shift(self, here: Here, name: str, strength: float, keep: Sequence[str]) -> Shift:
        """What the path `name` adds to each picture; others of its paths, `keep`, shall not change.

        A strength of 0 adds nothing. Raises UserError if it cannot keep them.
        """
        ...


@dataclass(frozen=True, eq=False)
class Path:
    """One path. name: within its model. layers: that it moves, where an edit names none; empty: all.

    channels: layer -> size for a path of style channels. accuracy, share, changes: as for a direction.
    """

    name: str
    model: PathModel
    layers: tuple[int, ...] = ()
    accuracy: float = float("nan")
    share: float = float("nan")
    changes: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)

    def depth(self, number: int) -> int:
        """How many layers a range can name: those of w, or of the style channels."""
        return len(self.channels) or number

    def shift(
        self,
        here: Here,
        strength: float,
        *,
        keep: Sequence[object] = (),
        span: tuple[int, int] | None = None,
    ) -> Shift:
        """What `strength` of it adds to the pictures here. keep: paths that it shall leave alone. span: layers."""
        names = []
        for other in keep:
            if not isinstance(other, Path) or other.model is not self.model:
                raise UserError(f"The path {self.name!r} can leave alone only what was found together with it.")
            names.append(other.name)
        moved = self.model.shift(here, self.name, strength, names)
        layers = self.layers if span is None else tuple(range(span[0], span[1] + 1))
        return moved.within(layers, self.channels) if layers else moved


PathReader = Callable[[Mapping[str, Any], Mapping[str, Tensor]], PathModel]
path_models: Registry[PathReader] = Registry("kind of path")
