"""Training a generator's weights against the frozen ones: what all domain shifts share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.styles import sample_styles
from unified.contract.abilities import Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.shadow import pristine_tensor
from unified.contract.space import spaces
from unified.contract.view import View
from unified.errors import UserError

DOMAIN = "<domain>"  # name of the concept that holds the shifted weights

#: (frozen, trained, styles [batch, number, width], step) -> the loss, a scalar.
DomainLoss = Callable[[View, View, Tensor, int], Tensor]


@dataclass(frozen=True)
class Training:
    """steps, batch, lr: of Adam(0, 0.99). truncation: of the samples."""

    steps: int
    batch: int
    lr: float
    truncation: float = 1.0


def weights_code(backbone: Backbone, paths: Collection[str]) -> Code:
    """A code of these weights as they are. Raises UserError in inference mode, where they cannot be trained."""
    if torch.is_inference_mode_enabled():
        raise UserError("Shifting the domain needs gradients: call it outside of torch.inference_mode().")
    assert isinstance(backbone, Tunable)
    component, _ = backbone.tunable()
    module = backbone.components[component]
    values = {path: pristine_tensor(module, path).detach() for path in paths}
    return spaces.get("weights")().code(values, component=component)


def train_weights(
    backbone: Backbone,
    code: Code,
    loss: DomainLoss,
    training: Training,
    *,
    label: str,
    rng: Random,
    progress: Progress,
    chosen: Callable[[int], Collection[str]] | None = None,
) -> None:
    """Train the code's tensors in place of the holder; they are bound to an open view as they change.

    chosen: which of them are trained at a step; None: all. Raises UserError if the loss is not finite.
    """
    code.tensors = {path: value.clone().requires_grad_() for path, value in code.tensors.items()}
    optimiser = torch.optim.Adam(code.tensors.values(), lr=training.lr, betas=(0.0, 0.99))
    progress.start(label, training.steps)
    with (
        torch.enable_grad(),
        backbone.bound() as frozen,
        backbone.bound(Concept([code], name=DOMAIN)) as trained,
    ):
        for step in range(training.steps):
            paths = code.tensors if chosen is None else chosen(step)
            leaves = [value for path, value in code.tensors.items() if path in paths]
            w = sample_styles(
                backbone, range(training.batch), truncation=training.truncation, rng=rng.child("batch", step)
            )
            value = loss(frozen, trained, w, step)
            if not bool(torch.isfinite(value)):
                raise UserError("The domain shift met a loss that is not finite: lower its learning rate.")
            optimiser.zero_grad(set_to_none=True)
            slopes = torch.autograd.grad(value, leaves, allow_unused=True)
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.grad = slope
            optimiser.step()
            progress.advance(step + 1, loss=float(value.detach()))
    progress.finish()
    code.tensors = {path: value.detach() for path, value in code.tensors.items()}
