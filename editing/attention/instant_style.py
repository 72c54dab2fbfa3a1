"""InstantStyle (Wang et al. 2024): a picture's features, let into the one block that draws style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.style_pictures import apart, style_refusal
from unified.contract.abilities import Attends, Denoises, Reads, SeparatesStyle
from unified.contract.attention import Attention, Editor, Place
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.contract.view import View
from unified.denoising.sampler import sample_latents, settings_for

Memory = dict[tuple[str, float], tuple[Tensor, Tensor]]


class InBlock(Editor):
    """Wants the self-attentions of one block."""

    def __init__(self, block: str, memory: Memory) -> None:
        self.block, self.memory = block, memory

    def wants(self, place: Place) -> bool:
        return place.kind == "self" and place.name.startswith(f"{self.block}.")


class Remember(InBlock):
    """Keeps keys and values [1, heads, pictures * tokens, width] by place and time."""

    def project(self, call: Attention) -> None:
        kept = (part.transpose(0, 1).flatten(1, 2).unsqueeze(0) for part in (call.key, call.value))
        self.memory[_place(call)] = tuple(kept)  # type: ignore[assignment]


class LookUp(InBlock):
    """What is attended to is the picture's own tokens and those remembered; `weight` 0 is without them."""

    def __init__(self, block: str, memory: Memory, weight: float) -> None:
        super().__init__(block, memory)
        self.weight = weight

    def output(self, call: Attention, mixed: Tensor) -> Tensor:
        if self.weight == 0.0:
            return mixed
        keys, values = (part.expand(len(call.query), -1, -1, -1) for part in self.memory[_place(call)])
        both = functional.scaled_dot_product_attention(
            call.query, torch.cat([call.key, keys], 2), torch.cat([call.value, values], 2)
        )
        return mixed + self.weight * (both - mixed)


def _place(call: Attention) -> tuple[str, float]:
    return call.place.name, round(float(call.time[0]), 6)


@dataclass(frozen=True)
class InstantStyle(Scheme):
    """The prompt in the style of a picture, which is seen by the style block only, so that its content stays out.

    The paper lets the tokens of an IP-Adapter into that block; here it is the reference's own keys and values there,
    from the reference at each noise level, which needs no adapter. The concept's weight says how strongly.
    """

    name: ClassVar[str] = "instant-style"
    needs: ClassVar[tuple[type, ...]] = (Attends, Denoises, Reads, SeparatesStyle)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return style_refusal(concepts, self.name)

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        assert isinstance(backbone, Denoises) and isinstance(backbone, SeparatesStyle)
        references, weight, others = apart(concepts)
        block = backbone.content_and_style()[1]
        with torch.no_grad():
            with backbone.bound() as view:
                steps = settings_for(view, target, as_inverted=False).steps
                memory = remembered(view, references, block, steps=steps, rng=rng.child("reference"))
            with backbone.bound(*others) as view:
                view.edit_attention(LookUp(block, memory, weight))
                latents = sample_latents(view, target, rng=rng)
                return backbone.decode(view, latents).clamp(0, 1)


def remembered(view: View, latents: Tensor, block: str, *, steps: int, rng: Random) -> Memory:
    """Keys and values of noised pictures in a block's self-attentions, at every level of the sampler."""
    backbone = view.backbone
    assert isinstance(backbone, Denoises)
    memory: Memory = {}
    view.edit_attention(Remember(block, memory))
    eps = rng.normal(range(len(latents)), latents.shape[1:], dtype=latents.dtype)
    condition = backbone.condition(view, [""] * len(latents))
    for level in list(backbone.levels(steps))[:-1]:
        time = torch.full((len(latents),), level.time, dtype=torch.float32)
        backbone.predict(view, level.a * latents + level.s * eps, time, condition)
    return memory


schemes.register(InstantStyle.name, InstantStyle())
