"""StyleFlow's conditional continuous normalising flow (Abdal et al. 2021, "StyleFlow", "CNF").

A vector field phi(w, t, a), which reads the attributes a, carries the latents w of a generator to normal noise:
dw/dt = phi, d log p / dt = -trace(d phi / d w) along the way. Going back with other attributes edits ("joint
reverse encoding" and "conditional forward editing"). Pure functions of tensors, no generator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Divergence = Callable[[Tensor, Tensor], Tensor]


class _Modulated(nn.Module):
    """(W x + b) sigmoid(G c) + B c: a layer with gate and bias from the condition c = (t, a)."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(condition, outputs)
        self.bias = nn.Linear(condition, outputs, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.layer(x) * torch.sigmoid(self.gate(condition)) + self.bias(condition)


class ConditionalFlow(nn.Module):
    """Latents w [N, width] <-> normal noise [N, width], given attributes a [N, attributes].

    hidden: widths between the layers; tanh stands between them. steps: of the fourth-order Runge-Kutta solver over
    t in 0..1. Latents are scaled by `mean` and `deviation` [width] first, which the authors' moving batch norm
    learns; attributes come in units of their deviation. The authors solve with adaptive steps; fixed ones give the
    same answer on any machine.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, attributes: int, *, hidden: tuple[int, ...], steps: int) -> None:
        super().__init__()
        self.width, self.attributes, self.hidden, self.steps = width, attributes, tuple(hidden), steps
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        sizes = (width, *self.hidden, width)
        self.layers = nn.ModuleList(_Modulated(a, b, attributes + 1) for a, b in itertools.pairwise(sizes))

    def field(self, x: Tensor, time: float, attributes: Tensor) -> Tensor:
        """phi at scaled latents x [N, width]: [N, width]."""
        condition = torch.cat([attributes, torch.full_like(attributes[:, :1], time)], 1)
        for place, layer in enumerate(self.layers):
            x = layer(x if place == 0 else torch.tanh(x), condition)
        return x

    def noise(self, w: Tensor, attributes: Tensor) -> Tensor:
        """The noise [N, width] that these latents with these attributes come from ("joint reverse encoding")."""
        return self._solve((w - self.mean) / self.deviation, attributes, 1.0, None)[0]

    def latents(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """The latents w [N, width] with these attributes ("conditional forward editing")."""
        return self.mean + self.deviation * self._solve(noise, attributes, -1.0, None)[0]

    def log_likelihood(self, w: Tensor, attributes: Tensor, *, probe: Tensor | None = None) -> Tensor:
        """log p(w | a), [N], in nats: what training raises.

        probe: signs [N, width] for Hutchinson's estimate of the trace, one product with the Jacobian instead of
        `width`; None: the trace itself.
        """
        trace = exact_trace if probe is None else hutchinson(probe)
        x, change = self._solve((w - self.mean) / self.deviation, attributes, 1.0, trace)
        normal = -0.5 * x.square().sum(1) - 0.5 * self.width * math.log(2 * math.pi)
        return normal + change - self.deviation.log().sum()

    def _solve(self, x: Tensor, a: Tensor, way: float, trace: Divergence | None) -> tuple[Tensor, Tensor]:
        """x carried over the whole time, forwards (1) or backwards (-1), and the integral of the trace [N]."""
        step, total = way / self.steps, x.new_zeros(len(x))
        start = 0.0 if way > 0 else 1.0

        def slope(at: Tensor, time: float) -> tuple[Tensor, Tensor]:
            if trace is None:
                return self.field(at, time, a), total
            with torch.enable_grad():
                at = at if at.requires_grad else at.detach().requires_grad_()
                found = self.field(at, time, a)
                return found, trace(found, at)

        for place in range(self.steps):
            time = start + place * step
            k1, t1 = slope(x, time)
            k2, t2 = slope(x + step / 2 * k1, time + step / 2)
            k3, t3 = slope(x + step / 2 * k2, time + step / 2)
            k4, t4 = slope(x + step * k3, time + step)
            x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            if trace is not None:
                total = total + step / 6 * (t1 + 2 * t2 + 2 * t3 + t4)
        return x, total


def exact_trace(found: Tensor, at: Tensor) -> Tensor:
    """trace(d found / d at) of each row, [N]."""
    rows = [torch.autograd.grad(found[:, i].sum(), at, create_graph=True)[0][:, i] for i in range(found.shape[1])]
    return torch.stack(rows).sum(0)


def hutchinson(probe: Tensor) -> Divergence:
    """The estimate e (d found / d at) e of the trace for random signs e [N, width]: right on average."""

    def trace(found: Tensor, at: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(found, at, probe, create_graph=True)
        return (product * probe).sum(1)

    return trace
