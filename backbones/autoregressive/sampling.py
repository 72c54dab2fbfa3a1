"""Sampling pictures token by token, and the logits of given pictures.

Guidance is computed in one forward pass of 2B rows (Sun et al. 2024, LlamaGen, section 2.3):
    logits = unconditional + guidance (conditional - unconditional).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from backbones.autoregressive.layout import VisualVocabulary
from backbones.autoregressive.prompt import PromptBatch, concatenate
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import DynamicCache, StaticCache


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is drawn.

    temperature: logits are divided by it; 0 takes the most probable token.
    top_k: only that many of the most probable tokens; 0: all.
    top_p: only the most probable tokens that together have this probability; 1: all.
    guidance: 1 samples from the conditional model; larger follows the prompt more closely.
    cache: where keys and values are kept: "dynamic" grows, "static" is allocated once (for long pictures
    and compiled models), "none" computes everything again at every token (for checks).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    cache: Literal["dynamic", "static", "none"] = "dynamic"

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p} were given; "
                "expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1"
            )


DEFAULT_SAMPLING = SamplingSettings()


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


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a picture, so that a picture depends on its seed and not on its batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture_logits(
    model: Any, prompts: PromptBatch, codes: Tensor, *, slots: Tensor, vocabulary: VisualVocabulary
) -> Tensor:
    """Logits [B,n,K] of every visual token of the pictures `codes` [B,n] (raster order), teacher-forced.

    Differentiable in the model and in `prompts.embeddings`. slots: see `PromptBuilder.slots`.
    """
    visual = slots.to(codes.device) == -1
    tail = slots.to(codes.device).expand(len(codes), -1).clone()
    tail[:, visual] = vocabulary.to_ids(codes)
    table = model.get_input_embeddings()
    head = table(prompts.ids) if prompts.embeddings is None else prompts.embeddings
    # The last token predicts nothing that is asked for.
    embeddings = torch.cat([head, table(tail[:, :-1])], dim=1)
    mask, positions = _extend(prompts, embeddings.shape[1] - head.shape[1])
    # Position i predicts token i + 1; the visual tokens start at head.shape[1].
    wanted = visual.nonzero()[:, 0] + head.shape[1] - 1
    result = model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=wanted,
    )
    return result.logits[..., vocabulary.ids.to(codes.device)]


def _extend(prompts: PromptBatch, count: int) -> tuple[Tensor | None, Tensor]:
    """Mask and positions of the prompts followed by `count` tokens; no mask where nothing is padded."""
    mask = torch.cat([prompts.mask, prompts.mask.new_ones(len(prompts), count)], dim=1)
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    return (None if bool(prompts.mask.all()) else mask.long()), positions


@torch.no_grad()
def sample_codes(
    model: Any,
    prompts: PromptBatch,
    *,
    slots: Tensor,
    vocabulary: VisualVocabulary,
    generators: Sequence[torch.Generator],
    settings: SamplingSettings = DEFAULT_SAMPLING,
    unconditional: PromptBatch | None = None,
    forced: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """Codes [B,n] in raster order of one picture per prompt.

    model: an Emu3ForConditionalGeneration or anything with its forward and embeddings.
    slots: the tokens of the picture (`PromptBuilder.slots`); n of them are visual.
    generators: one a prompt; each gives n numbers whatever the settings, so a picture depends on its
    generator alone. (Across batch sizes the logits agree to rounding, not bit for bit.)
    unconditional: prompts to guide away from, needed when settings.guidance is not 1.
    forced: codes [B,n] to keep, -1 where the model chooses (inpainting).
    """
    visual = slots == -1
    count = int(visual.sum())
    _check(prompts, generators, settings, unconditional, forced, count)
    uniform = torch.stack([torch.rand(count, generator=generator) for generator in generators], dim=1)
    rows = prompts
    if settings.guidance != 1 and unconditional is not None:
        rows = concatenate(prompts, unconditional, pad)
    table = model.get_input_embeddings()
    device = table.weight.device
    ids, uniform = vocabulary.ids.to(device), uniform.to(device)
    forced = None if forced is None else forced.to(device)
    stepper = _Stepper(model, rows.to(device), len(slots), settings.cache)
    pending = table(rows.ids.to(device)) if rows.embeddings is None else rows.embeddings.to(device)
    codes: list[Tensor] = []
    for slot in slots.tolist():
        if slot != -1:  # a fixed token: read together with the next one that is
            fixed = torch.full((len(rows), 1), slot, device=device)
            pending = torch.cat([pending, table(fixed)], dim=1)
            continue
        index = len(codes)
        logits = stepper.next_logits(pending)[:, ids]
        if len(rows) > len(prompts):
            logits = guide(logits[: len(prompts)], logits[len(prompts) :], settings.guidance)
        chosen = draw(logits, uniform[index], settings)
        if forced is not None:
            chosen = torch.where(forced[:, index] >= 0, forced[:, index], chosen)
        codes.append(chosen)
        if len(codes) == count:
            break
        pending = table(ids[chosen].repeat(len(rows) // len(prompts)))[:, None]
    return torch.stack(codes, dim=1)


def _check(
    prompts: PromptBatch,
    generators: Sequence[torch.Generator],
    settings: SamplingSettings,
    unconditional: PromptBatch | None,
    forced: Tensor | None,
    count: int,
) -> None:
    if len(generators) != len(prompts):
        raise UserError(f"{len(generators)} generators were given for {len(prompts)} prompts; give one each")
    if settings.guidance != 1 and (unconditional is None or len(unconditional) != len(prompts)):
        raise UserError(
            f"guidance {settings.guidance} needs one unconditional prompt for each of the {len(prompts)} "
            "prompts; give them, or set guidance to 1"
        )
    if forced is not None and forced.shape != (len(prompts), count):
        raise UserError(f"forced codes have shape {tuple(forced.shape)}; expected {(len(prompts), count)}")


class _Stepper:
    """Feeds a model piece by piece, with or without a cache of keys and values."""

    def __init__(self, model: Any, rows: PromptBatch, length: int, cache: str) -> None:
        from transformers import DynamicCache, StaticCache

        self.model = model
        self.rows = rows
        self.read: Tensor | None = None  # embeddings so far, kept only without a cache
        self.count = 0
        self.cache: DynamicCache | StaticCache | None = None
        config = model.config.get_text_config()
        if cache == "dynamic":
            self.cache = DynamicCache(config=config)
        elif cache == "static":
            self.cache = StaticCache(config=config, max_cache_len=rows.ids.shape[1] + length)

    def next_logits(self, embeddings: Tensor) -> Tensor:
        """Read [B,m,D] more and return the logits [B,V] of the token that follows."""
        self.count += embeddings.shape[1]
        mask, positions = _extend(self.rows, self.count - self.rows.ids.shape[1])
        if self.cache is None:
            self.read = embeddings if self.read is None else torch.cat([self.read, embeddings], dim=1)
            embeddings = self.read
        result = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions[:, -embeddings.shape[1] :],
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=1,
        )
        return result.logits[:, -1]
