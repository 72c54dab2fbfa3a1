"""One step of every training."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from unified.zoo.descent import Descent
from unified.zoo.training import ExponentialAverage


def test_a_step_is_clipped_and_scaled_and_averaged() -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = ExponentialAverage(module, half_life=1.0, ramp_up=1.0)
    accelerator = Accelerator()
    optimizer = accelerator.prepare(torch.optim.SGD([{"params": module.parameters(), "factor": 0.5}]))
    descend = Descent(accelerator, optimizer, module, rate=lambda step: 0.1 * step, average=average)
    descend(2, module(torch.tensor([[30.0, 40.0]])).sum())  # a gradient of length 50
    # Shortened to length 1, at rate 0.2 halved by the group.
    assert torch.allclose(module.weight, torch.tensor([[-0.06, -0.08]]), atol=1e-6)
    assert torch.allclose(average.module.weight, module.weight / 2)  # one half-life
    descend(4, module(torch.tensor([[0.5, 0.0]])).sum())  # short enough as it is, nothing left of the gradient before
    assert torch.allclose(module.weight, torch.tensor([[-0.16, -0.08]]), atol=1e-6)
