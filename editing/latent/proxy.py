"""A network that reads attributes from latents in a classifier's place, and HijackGAN's walk along its gradients.

Wang, Yu & Fritz 2021, "Hijack-GAN: Unintended-Use of Pretrained, Black-Box GANs", section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CERTAIN = 8.0  # log-odds beyond which a classifier says no more; also the range that paths go to


class Proxy(nn.Module):
    """Latents w [N, width] -> scores of attributes [N, attributes], in deviations of samples.

    mean, deviation: [width] of the latents. The activation is smooth, so that the gradient turns smoothly.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, attributes: int, *, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.width, self.attributes, self.hidden = width, attributes, tuple(hidden)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        sizes = (width, *self.hidden)
        parts: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            parts += [nn.Linear(a, b), nn.SiLU()]
        self.network = nn.Sequential(*parts, nn.Linear(sizes[-1], attributes))

    def forward(self, w: Tensor) -> Tensor:
        scores: Tensor = self.network((w - self.mean) / self.deviation)
        return scores


class Whitened(nn.Module):
    """A network of w asked in coordinates u in which samples are white: w = mean + root u, root [width, k].

    The paper walks in Z, where every direction is as likely as any other. W is not so: few directions hold its
    samples, and a proxy's gradient points mostly out of them, where it was never asked.
    """

    mean: Tensor
    root: Tensor
    inverse: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)
        self.register_buffer("inverse", torch.linalg.pinv(root.double()).to(root.dtype))

    def forward(self, u: Tensor) -> Tensor:
        scores: Tensor = self.network(self.mean + u @ self.root.T)
        return scores

    def coordinates(self, w: Tensor) -> Tensor:
        """u [N, k] of w [N, width]; what lies outside of the samples' directions is left out."""
        return (w - self.mean) @ self.inverse.T


def white_root(latents: Tensor, *, least: float = 1e-3) -> Tensor:
    """The root [width, k] of the covariance of latents [N, width].

    least: of the largest variance; directions with a smaller one hold rounding rather than pictures.
    """
    values, vectors = torch.linalg.eigh(latents.double().T.cov())
    kept = values > least * values[-1]
    return (vectors[:, kept] * values[kept].sqrt()).to(latents.dtype)


def step_direction(proxy: nn.Module, w: Tensor, target: int, keep: Sequence[int] = ()) -> Tensor:
    """The unit step [N, width] at w that raises one score the most and leaves others, to first order, as they are.

    The row of the Jacobian for the target, less its part in the span of the rows to keep; 0 for a picture where
    nothing is left of it.
    """
    with torch.enable_grad():
        at = w.detach().requires_grad_()
        scores = proxy(at)
        rows = [torch.autograd.grad(scores[:, k].sum(), at, retain_graph=True)[0] for k in (target, *keep)]
    wanted = rows[0].double()
    if keep:
        kept = torch.stack(rows[1:], dim=2).double()  # [N, width, kept]
        along = kept @ (torch.linalg.pinv(kept) @ wanted.unsqueeze(2))
        rest = wanted - along.squeeze(2)
        wanted = torch.where((rest.norm(dim=1) > 1e-4 * wanted.norm(dim=1)).unsqueeze(1), rest, torch.zeros_like(rest))
    return functional.normalize(wanted, dim=1).to(w.dtype)


def walk(
    proxy: nn.Module, w: Tensor, target: int, length: float, *, keep: Sequence[int] = (), longest: float
) -> Tensor:
    """Where steps of at most `longest` lead from w [N, width] in `length` altogether; negative: down the gradient.

    The direction is asked for anew at each step, so the way bends with the proxy.
    """
    count = max(1, round(abs(length) / longest + 0.5))
    for _ in range(count):
        w = w + length / count * step_direction(proxy, w, target, keep)
    return w


def raised(scores: Tensor, place: int, strength: float, siblings: Sequence[int], mean: Tensor, dev: Tensor) -> Tensor:
    """Scores [N, values] with one of them `strength` deviations higher, and its siblings making room for it.

    siblings: places of the other values of the same attribute: they share what the raised one leaves, as they did
    before, since an attribute has one value. mean, dev: [values], of the log-odds.
    """
    odds = (mean + dev * scores).double()
    new = odds.clone()
    new[:, place] = odds[:, place] + strength * dev[place]
    if len(siblings) and strength != 0:
        others = list(siblings)
        # p_j' = p_j (1 - p_k') / (1 - p_k), by logarithms
        less = functional.logsigmoid(-new[:, place]) - functional.logsigmoid(-odds[:, place])
        log_p = (functional.logsigmoid(odds[:, others]) + less.unsqueeze(1)).clamp(max=-1e-6)
        new[:, others] = (log_p - torch.log(-torch.expm1(log_p))).clamp(-CERTAIN, CERTAIN)
    return ((new - mean) / dev).to(scores.dtype)
