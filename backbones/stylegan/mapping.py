"""The mapping network z, c -> w (Karras et al. 2019, section 2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from backbones.stylegan.layers import Dense
from unified.errors import UserError


def normalise(x: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2) + eps) along axis 1."""
    return x * (x.square().mean(1, keepdim=True) + epsilon).rsqrt()


class Mapping(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim], or [N, w_dim] when num_ws is None.

    `w_avg` [w_dim] is the running mean of w: the centre of truncation.
    """

    w_avg: Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        layers: int,
        width: int | None = None,
        embed_width: int | None = None,
        multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws, self.layers = z_dim, c_dim, w_dim, num_ws, layers
        embedded = (embed_width or w_dim) if c_dim else 0
        if c_dim:
            self.embed = Dense(c_dim, embedded)
        widths = [z_dim + embedded] + [width or w_dim] * (layers - 1) + [w_dim]
        for i, (before, after) in enumerate(pairwise(widths)):
            self.add_module(f"fc{i}", Dense(before, after, act="lrelu", multiplier=multiplier))
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def map_one(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        """w [N, w_dim], neither broadcast nor truncated."""
        parts = []
        if self.z_dim:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise UserError(f"z has shape {None if z is None else tuple(z.shape)}; expected [N, {self.z_dim}].")
            parts.append(normalise(z.float()))
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise UserError(
                    f"This network is conditional: c has shape {None if c is None else tuple(c.shape)}; "
                    f"expected [N, {self.c_dim}]."
                )
            parts.append(normalise(self.embed(c.float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """w_avg + psi (w - w_avg) for the first `truncation_cutoff` layers (all when None)."""
        w = self.map_one(z, c)
        if self.num_ws is None:
            return w
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1.0:
            return ws.contiguous()
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)

    @torch.no_grad()
    def track(self, w: Tensor, *, beta: float = 0.995) -> None:
        """w_avg <- beta w_avg + (1 - beta) mean(w), for w [N, w_dim] of a training batch."""
        self.w_avg.copy_(w.detach().float().mean(0).lerp(self.w_avg, beta))
