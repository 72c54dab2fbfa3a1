"""The codebook as an exponential average of the latents assigned to each code.

van den Oord et al. 2017, appendix A.1 (equations 6 to 8); codes that nothing is assigned to are restarted
at latents of the current batch (Dhariwal et al. 2020, Jukebox, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class CodebookAverage:
    """Keeps `codebook` [K,D] at the running means of its latents, in place.

    decay: of the running counts and sums per step.
    dead: a code whose running count falls below this is restarted. A restart draws a latent of the batch.
    """

    def __init__(self, codebook: Tensor, *, decay: float = 0.95, dead: float = 0.05) -> None:
        self.codebook = codebook
        self.decay = decay
        self.dead = dead
        self.counts = torch.ones(codebook.shape[0])
        self.sums = codebook.detach().float().cpu().clone()

    @torch.no_grad()
    def start(self, latents: Tensor, generator: torch.Generator) -> None:
        """Put every code on a latent drawn from `latents` [M,D]; needed before the first step."""
        self._restart(torch.ones(len(self.counts), dtype=torch.bool), latents, generator)
        self.codebook.copy_(self.sums / self.counts[:, None])

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor, generator: torch.Generator, accelerator: Accelerator) -> int:
        """Move the codebook towards `latents` [M,D] assigned to `codes` [M]; returns how many restarted.

        `generator` must be the same in all processes, so that they restart the same codes alike.
        """
        latents = accelerator.gather(latents.detach().float()).cpu()
        codes = accelerator.gather(codes.detach()).cpu()
        counts = torch.bincount(codes, minlength=len(self.counts)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, latents)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.dead
        self._restart(dead, latents, generator)
        self.codebook.copy_(self.sums / self.counts[:, None])
        return int(dead.sum())

    def _restart(self, which: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        number = int(which.sum())
        if number == 0:
            return
        picks = torch.randint(len(latents), (number,), generator=generator)
        spread = latents.float().std(0) * 0.01
        noise = torch.randn(number, latents.shape[1], generator=generator) * spread.cpu()
        self.counts[which] = 1.0
        self.sums[which] = latents.float().cpu()[picks] + noise

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "sums": self.sums}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])
