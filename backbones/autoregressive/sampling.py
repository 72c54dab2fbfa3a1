"""Sampling pictures token by token, and the logits of given pictures.

Guidance is computed in one forward pass of 2B rows (Sun et al. 2024, LlamaGen, section 2.3):
    logits = unconditional + guidance (conditional - unconditional).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backbones.autoregressive.choosing import SamplingSettings, draw, guide
from backbones.autoregressive.decoder import Appended, Decoder, supports
from backbones.autoregressive.layout import VisualVocabulary
from backbones.autoregressive.module_reader import ModuleReader
from backbones.autoregressive.network import Network, emu3_network
from backbones.autoregressive.prompt import PromptBatch
from backbones.autoregressive.readers import FusedReader, Reader, extend, read_whole
from unified.contract.memory import Memory
from unified.errors import UserError

DEFAULT_SAMPLING = SamplingSettings()


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a picture, so that a picture depends on its seed and not on its batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture_logits(
    model: Any, prompts: PromptBatch, codes: Tensor, *, slots: Tensor, vocabulary: VisualVocabulary
) -> Tensor:
    """`teacher_forced` of an Emu3."""
    return teacher_forced(emu3_network(model, vocabulary), prompts, codes, slots=slots)


def teacher_forced(
    network: Network, prompts: PromptBatch, codes: Tensor, *, slots: Tensor, memory: Memory | None = None
) -> Tensor:
    """Logits [B,n,K] of every visual token of the pictures `codes` [B,n] (raster order), teacher-forced.

    Differentiable in the model, `prompts.embeddings` and the memory. slots: see `PromptBuilder.slots`.
    """
    slots = slots.to(codes.device)
    visual = slots == -1
    # The last token predicts nothing that is asked for.
    tail = network.embed(slots.clamp_min(0)[None, :-1]).expand(len(codes), -1, -1)
    drawn = network.embed_codes(codes)
    place = (visual.long().cumsum(0) - 1).clamp_min(0)[:-1]
    tail = torch.where(visual[:-1, None], drawn[:, place], tail)
    head = network.embed(prompts.ids) if prompts.embeddings is None else prompts.embeddings
    hidden = hidden_states(network, prompts, torch.cat([head, tail], dim=1), memory=memory)
    # Position i predicts token i + 1; the visual tokens start at head.shape[1].
    wanted = visual.nonzero()[:, 0] + head.shape[1] - 1
    return network.head(hidden[:, wanted])


def hidden_states(
    network: Network, prompts: PromptBatch, embeddings: Tensor, *, memory: Memory | None = None
) -> Tensor:
    """What the trunk makes of embeddings [B,L,D]: those of the prompts, and of what follows them. Differentiable."""
    count = embeddings.shape[1] - prompts.ids.shape[1]
    if memory is None:
        mask, positions = extend(prompts, count)
        result = network.trunk(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden: Tensor = result.last_hidden_state
        return hidden
    _require_decoder(network)
    seen = torch.cat([prompts.mask, prompts.mask.new_ones(len(prompts), count)], dim=1)
    store = Appended((memory.keys.unsqueeze(1), memory.values.unsqueeze(1)))
    return read_whole(Decoder(network.trunk), embeddings, seen, store, bias=memory.bias, offset=len(memory))


def _require_decoder(network: Network) -> None:
    if not supports(network.trunk):
        raise UserError(
            "Keys and values before the prompt need a Llama-like model whose modules are not changed by another"
            f" concept; this one is a {type(network.trunk).__name__}. Bind them alone."
        )


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
    """`draw_codes` with an Emu3."""
    return draw_codes(
        emu3_network(model, vocabulary),
        prompts,
        slots=slots,
        generators=generators,
        settings=settings,
        unconditional=unconditional,
        forced=forced,
        pad=pad,
    )


@torch.no_grad()
def draw_codes(
    network: Network,
    prompts: PromptBatch,
    *,
    slots: Tensor,
    generators: Sequence[torch.Generator],
    settings: SamplingSettings = DEFAULT_SAMPLING,
    unconditional: PromptBatch | None = None,
    forced: Tensor | None = None,
    memory: Memory | None = None,
    gate: Tensor | None = None,
    pad: int = 0,
) -> Tensor:
    """Codes [B,n] in raster order of one picture per prompt.

    slots: the tokens of the picture (`PromptBuilder.slots`); n of them are visual.
    generators: one a prompt; each gives n numbers whatever the settings, so a picture depends on its
    generator alone. (Across batch sizes the logits agree to rounding, not bit for bit.)
    unconditional: prompts to guide away from, needed when settings.guidance is not 1.
    forced: codes [B,n] to keep, -1 where the model chooses (inpainting).
    memory: what stands before the prompts; the unconditional ones do not see it. gate: [n] in 0..1, how much
    of the memory is seen when each visual token is drawn (and by that token when it is read).
    """
    visual = slots == -1
    count = int(visual.sum())
    _check(prompts, generators, settings, unconditional, forced, gate, count)
    uniform = torch.stack([torch.rand(count, generator=generator) for generator in generators], dim=1)
    device = network.embed(prompts.ids[:1, :1]).device
    uniform = uniform.to(device)
    forced = None if forced is None else forced.to(device)
    guides = None if settings.guidance == 1 or unconditional is None else unconditional.to(device)
    reader = _reader(network, prompts.to(device), guides, len(slots), settings, memory, pad)
    codes: list[Tensor] = []
    pending = network.embed(prompts.ids[:1, :1].to(device).clamp_min(0))[:, :0].expand(len(prompts), -1, -1)
    for slot in slots.tolist():
        if slot != -1:  # a fixed token: read together with the next one that is
            fixed = torch.full((len(prompts), 1), slot, device=device)
            pending = torch.cat([pending, network.embed(fixed)], dim=1)
            continue
        index = len(codes)
        guided = guides is not None and settings.guided(index / count)
        opening = 1.0 if gate is None else float(gate[index])
        hidden, other = reader.next_hidden(pending, guided=guided, gate=opening)
        logits = network.head(hidden)
        if guided and other is not None:
            logits = guide(logits, network.head(other), settings.guidance)
        chosen = draw(logits, uniform[index], settings)
        if forced is not None:
            chosen = torch.where(forced[:, index] >= 0, forced[:, index], chosen)
        codes.append(chosen)
        if len(codes) == count:
            break
        pending = network.embed_codes(chosen[:, None])
    return torch.stack(codes, dim=1)


def _reader(
    network: Network,
    prompts: PromptBatch,
    unconditional: PromptBatch | None,
    length: int,
    settings: SamplingSettings,
    memory: Memory | None,
    pad: int,
) -> Reader:
    if memory is not None:
        _require_decoder(network)
    if memory is not None or (settings.cache == "fused" and supports(network.trunk)):
        return FusedReader(network, prompts, unconditional, length=length, memory=memory)
    cache = "dynamic" if settings.cache == "fused" else settings.cache
    return ModuleReader(network, prompts, unconditional, length=length, cache=cache, pad=pad)


def _check(
    prompts: PromptBatch,
    generators: Sequence[torch.Generator],
    settings: SamplingSettings,
    unconditional: PromptBatch | None,
    forced: Tensor | None,
    gate: Tensor | None,
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
    if gate is not None and (gate.shape != (count,) or float(gate.min()) < 0):
        raise UserError(f"a gate of shape {tuple(gate.shape)} was given; expected [{count}] with values of 0 or more")
