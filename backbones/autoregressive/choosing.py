"""Which token comes next: the settings of a sampler, guidance, truncation and the draw itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unified.errors import UserError


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is drawn.

    temperature: logits are divided by it; 0 takes the most probable token.
    top_k: only that many of the most probable tokens; 0: all.
    top_p: only the most probable tokens that together have this probability; 1: all.
    guidance: 1 samples from the conditional model; larger follows the prompt more closely.
    guidance_from, guidance_until: the part of the tokens that are guided, in 0..1; outside of it the model
    that knows no prompt is not asked (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval",
    carried over from noise levels to tokens).
    cache: "fused" is `decoder.Decoder` with places for all keys and values, and falls back to "dynamic" for
    models that it does not know. The others ask the model's own forward pass: "dynamic" grows, "static" is
    allocated once, "none" computes everything again at every token (for checks).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    cache: Literal["fused", "dynamic", "static", "none"] = "fused"

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p} were given; "
                "expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1"
            )
        if not 0 <= self.guidance_from <= self.guidance_until <= 1:
            raise UserError(
                f"guidance from {self.guidance_from} until {self.guidance_until} was given; "
                "expected 0 <= guidance_from <= guidance_until <= 1"
            )

    def guided(self, share: float) -> bool:
        """Whether the token at this share of the picture is guided."""
        return self.guidance != 1 and self.guidance_from <= share < self.guidance_until


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Guided logits; equal to guiding log-probabilities up to a constant a row, which sampling ignores."""
    return unconditional + guidance * (conditional - unconditional)


def truncate(logits: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits [..., K] with the tokens outside top_k and top_p at -inf (Holtzman et al. 2020, section 3.1)."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        # A token stays if those before it have not yet reached top_p, so the first always stays.
        drop = share.cumsum(-1) - share >= top_p
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Codes [B] of logits [B,K] by inverting the distribution function at `uniform` [B] in 0..1."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    kept = truncate(logits.double() / settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    cumulative = kept.softmax(-1).cumsum(-1)
    threshold = (uniform.double().to(logits.device) * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
