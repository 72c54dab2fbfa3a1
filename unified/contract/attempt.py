"""How a view explains pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from unified.contract.reference import Reference


@dataclass(eq=False)
class Attempt:
    """A view's explanation of a reference.

    error: [B, ...], unreduced, in native units (squared pixels, squared epsilon, nats): average it per
        picture, never over the batch.
    render: lazy and differentiable, [B,3,H,W] in about 0..1; computed at most once.
    reference: the mini-batch that was explained. maps: named attention maps, where there are any.
    """

    error: Tensor
    reference: Reference
    render_fn: Callable[[], Tensor]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    _rendered: Tensor | None = field(default=None, repr=False)

    @property
    def mask(self) -> Tensor | None:
        return self.reference.masks

    def render(self) -> Tensor:
        if self._rendered is None:
            self._rendered = self.render_fn()
        return self._rendered
