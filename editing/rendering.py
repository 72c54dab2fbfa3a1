"""Pictures of moved styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from editing.paths import Here, Shift
from editing.styles import gan_of, joined, split, styled_of
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.view import Slot, View

Mover = Callable[[Here], Shift]  # what an edit adds, where it depends on the code


def render_shifted(backbone: Backbone, styles: Tensor, shift: Shift | Mover | None = None) -> Tensor:
    """Styles [N, number, width] moved by `shift`, rendered by the bare backbone: [N,3,H,W] in 0..1."""
    with backbone.bound() as view:
        shift = shift(Here(view, styles)) if callable(shift) else shift
        return render_moved(view, styles, shift).clamp(0, 1)


def render_moved(
    view: View, styles: Tensor, shift: Shift | None = None, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Styles [N, number, width] moved by `shift`: [N,3,H,W], about 0..1, differentiable."""
    if shift is not None and shift.styles is not None:
        styles = styles + shift.styles.to(styles.dtype)
    if shift is None or shift.channels is None:
        return gan_of(view.backbone).render(view, styles, noise)
    gan = styled_of(view.backbone)
    sizes = gan.style_channels()
    channels = joined(gan.channels_of(view, styles), sizes)
    moved = channels + shift.channels.to(channels.dtype)
    return gan.render_channels(view, split(moved, sizes), noise)


@contextmanager
def styled_with(view: View, styles: Tensor) -> Iterator[None]:
    """While open, the view's pictures have these styles [N, number, width], whatever its own are.

    Everything else that is bound (features, tuned weights, noise maps) stays. For views that are asked for as
    many pictures as there are styles.
    """
    before = view.slots.get("styles")
    # A shared code: `rows` then gives the styles as they are, in the order of the pictures asked for.
    view.slots["styles"] = Slot(Code("w+", {"w": styles}), lambda: styles)
    try:
        yield
    finally:
        if before is None:
            del view.slots["styles"]
        else:
            view.slots["styles"] = before


def render_rows(view: View, rows: Sequence[int], styles: Tensor) -> Tensor:
    """The view's pictures `rows` with styles [len(rows), number, width]: [N,3,H,W], about 0..1, differentiable."""
    side = view.backbone.resolution
    blank = Reference(styles.new_zeros(len(rows), 3, side, side), index=tuple(rows))
    with styled_with(view, styles):
        return view.attempt(blank, rng=Random(0)).render()
