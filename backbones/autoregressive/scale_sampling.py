"""Drawing a picture scale by scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.autoregressive.beside import Pair
from backbones.autoregressive.choosing import SamplingSettings, draw, guide
from backbones.autoregressive.next_scale import NextScale, Read
from backbones.autoregressive.scale_memories import Memories
from backbones.autoregressive.scales import MultiScaleTokenizer


@torch.no_grad()
def draw_scales(
    model: NextScale,
    tokenizer: MultiScaleTokenizer,
    text: Read,
    *,
    generators: Sequence[torch.Generator],
    settings: SamplingSettings,
    unconditional: Read | None = None,
    forced: Tensor | None = None,
    memories: Memories | None = None,
) -> Tensor:
    """Tokens [B,count] of one picture for each line of `text`.

    Guidance grows with the scale from 0 to `settings.guidance` - 1 above the conditional model (VAR's released
    sampler): coarse scales decide little and suffer most from it. generators: one a picture, each gives
    `count` numbers whatever the settings. forced: tokens [B,count] to keep, -1 where the model chooses.
    memories: what the lines of `text` see beside their pictures; the unconditional ones see none of it.
    """
    sides = tokenizer.settings.sides
    count = len(text)
    uniform = torch.stack([torch.rand(tokenizer.settings.count, generator=g) for g in generators])
    uniform = uniform.to(text.pooled.device)
    lines = text if unconditional is None or settings.guidance == 1 else text.above(unconditional)
    past: list[Pair] | None = None
    total: Tensor | None = None
    inputs = text.pooled.new_zeros(len(lines), 0, tokenizer.settings.dimension)
    codes: list[Tensor] = []
    first = 0
    for scale, side in enumerate(sides):
        share = scale / max(len(sides) - 1, 1)
        if past is not None and share > settings.guidance_until and len(lines) > count:
            # Nothing is guided any more: the lines without the prompt are not asked again.
            lines, inputs = text, inputs[:count]
            past = [(keys[:count], values[:count]) for keys, values in past]
        places = slice(first, first + side * side)
        beside = None if memories is None else memories.beside(places, rows=len(lines))
        logits, past = model.run(lines, model.embed(lines, inputs, first), past, beside=beside)
        if len(logits) > count:
            strength = 1 + (settings.guidance - 1) * share if share >= settings.guidance_from else 1.0
            logits = guide(logits[:count], logits[count:], strength)
        chosen = draw(logits.flatten(0, 1), uniform[:, places].flatten(), settings).view(count, -1)
        if forced is not None:
            kept = forced[:, places]
            chosen = torch.where(kept >= 0, kept, chosen)
        codes.append(chosen)
        first += side * side
        if scale + 1 == len(sides):
            break
        added = tokenizer.contribution(scale, tokenizer.lookup(chosen.unflatten(1, (side, side))))
        total = added if total is None else total + added
        inputs = tokenizer.shrink(total, scale + 1).flatten(2).transpose(1, 2)
        inputs = inputs.repeat(len(lines) // count, 1, 1)
    return torch.cat(codes, dim=1)
