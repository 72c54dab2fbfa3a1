"""Emu3 as a backbone: text and pictures in one vocabulary, next-token prediction (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.prompt import PromptBatch, left_pad
from backbones.autoregressive.sampling import SamplingSettings, picture_logits, sample_codes
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone, Sampling, TextComponent, backbones
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.text import token_ids
from unified.contract.view import View
from unified.sampling import override

_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
_BATCH = 64  # pictures that are tokenised at a time


@dataclass(frozen=True)
class Emu3Sampling(Sampling):
    """See `SamplingSettings`. references: pictures put in the context when a concept of visual tokens is bound."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 3.0
    references: int = 1


class Emu3(Backbone):
    """A frozen Emu3. Rows of words go to its embedding; the tied output head keeps its own."""

    name: ClassVar[str] = "emu3"
    label: ClassVar[str] = "autoregressive"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD,)
    default_recipe: ClassVar[str] = "two-stage"
    sampling: Emu3Sampling = Emu3Sampling()

    def __init__(self, id: str, parts: Emu3Parts) -> None:
        super().__init__(id, {"model": parts.model})
        self.layout = parts.layout
        self.builder = parts.prompts
        self.tokenizer = parts.prompts.tokenizer
        self.vocabulary = parts.vocabulary
        # Pictures are tokenised by the pristine model: no space changes its tokenizer.
        self.images = parts.images
        self._length = int(parts.model.config.text_config.max_position_embeddings)

    @property
    def resolution(self) -> int:
        return self.layout.height * self.images.factor

    def _language(self) -> list[str]:
        names = [name for name, _ in self.components["model"].named_parameters()]
        # The embedding is tied to the output head: changing one of the two would tear them apart.
        return [n for n in names if ".vqmodel." not in n and "embed_tokens" not in n and "lm_head" not in n]

    def tunable(self) -> tuple[str, Sequence[str]]:
        return "model", self._language()

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "model", [n for n in self._language() if n.endswith(tuple(f"{p}.weight" for p in _ADAPTED))]

    def texts(self) -> Sequence[TextComponent]:
        model: Any = self.components["model"]
        embedding = model.get_input_embeddings()
        path = next(name for name, module in model.named_modules() if module is embedding)
        return [TextComponent("model", path, embedding.embedding_dim, self.tokenizer, self._length)]

    # --- Tokenises ----------------------------------------------------------------------------------------

    def codes(self, view: View, images: Tensor) -> Tensor:
        return torch.cat([self.images.encode(part) for part in images.split(_BATCH)])

    def decode_codes(self, view: View, codes: Tensor) -> Tensor:
        return self.images.decode(codes)

    def logits(self, view: View, prompts: Sequence[str], codes: Tensor) -> Tensor:
        height, width = codes.shape[1:]
        return picture_logits(
            view.component("model"),
            self.prompts(view, prompts, size=(height, width)),
            codes.flatten(1),
            slots=self.builder.slots(height, width),
            vocabulary=self.vocabulary,
        )

    def prompts(
        self,
        view: View,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[Tensor]] = (),
        size: tuple[int, int] | None = None,
    ) -> PromptBatch:
        """Prompts with the view's names as (negative) ids; `references`: codes [h,w] shown to each prompt."""
        shown = references or [()] * len(prompts)
        lines = [
            self.builder.prompt_ids(token_ids(self.tokenizer, text, view.rows), codes, size=size)
            for text, codes in zip(prompts, shown, strict=True)
        ]
        return left_pad(lines, self.builder.pad)

    # --- Backbone -----------------------------------------------------------------------------------------

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Negative log-likelihood of each visual token, in nats, [B, h*w]."""
        codes = reference.once(("codes", id(self)), lambda images: self.codes(view, images))
        logits = self.logits(view, prompts, codes)
        error = functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")

        def render() -> Tensor:
            """The expected code vectors, decoded."""
            height, width = codes.shape[1:]
            vectors = logits.softmax(-1) @ self.images.codebook.to(logits.dtype)
            return self.images.decode_embeddings(vectors.transpose(1, 2).reshape(len(codes), -1, height, width))

        return Attempt(error, reference, render)

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        tokens = view.slots.get("tokens")
        if tokens is not None and not target.prompt:
            count = target.n or tokens.code.pictures or 1
            return self.decode_codes(view, tokens.rows(range(count)))
        count = target.n or 1
        references: list[list[Tensor]] = []
        if tokens is not None:
            known = tokens.code.pictures or 1
            # Each picture gets other references first, so that several show more than one view of the concept.
            references = [
                list(tokens.rows([(i + k) % known for k in range(min(settings.references, known))]))
                for i in range(count)
            ]
        with torch.no_grad():
            prompts = self.prompts(view, [view.carry(target.prompt)] * count, references=references)
            unconditional = self.prompts(view, [view.carry(target.negative_prompt)] * count)
            height, width = self.layout.height, self.layout.width
            codes = sample_codes(
                view.component("model"),
                prompts,
                slots=self.builder.slots(height, width),
                vocabulary=self.vocabulary,
                generators=[rng.generator("tokens", i) for i in range(count)],
                settings=SamplingSettings(
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    top_p=settings.top_p,
                    guidance=settings.guidance,
                ),
                unconditional=unconditional if settings.guidance != 1 else None,
                pad=self.builder.pad,
            )
            return self.decode_codes(view, codes.view(count, height, width))


backbones.register(Emu3.name, Emu3)
