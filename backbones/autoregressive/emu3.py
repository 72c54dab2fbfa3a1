"""Emu3 as a backbone: text and pictures in one vocabulary, next-token prediction (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.drawing import TokenBackbone
from backbones.autoregressive.network import Network, emu3_network
from backbones.autoregressive.prompt import PromptBatch, left_pad
from backbones.autoregressive.token_reader import BuiltPrompts
from backbones.autoregressive.token_sampling import stored_sampling
from unified.contract.backbone import backbones
from unified.contract.view import View


class Emu3(BuiltPrompts, TokenBackbone):
    """A frozen Emu3. Rows of words go to its embedding; the tied output head keeps its own."""

    name: ClassVar[str] = "emu3"
    default_recipe: ClassVar[str] = "two-stage"

    def __init__(self, id: str, parts: Emu3Parts) -> None:
        super().__init__(id, {"model": parts.model})
        self.layout = parts.layout
        self.builder = parts.prompts
        self.tokenizer = parts.prompts.tokenizer
        self.vocabulary = parts.vocabulary
        self.images = self.encoder = parts.images
        self.size = (parts.layout.height, parts.layout.width)
        self.pad = parts.prompts.pad
        self.sampling = stored_sampling(parts.model.generation_config, self.sampling)
        self.length = int(parts.model.config.text_config.max_position_embeddings)

    # --- Tunable, Reads -----------------------------------------------------------------------------------

    def tunable(self) -> tuple[str, Sequence[str]]:
        names = [name for name, _ in self.components["model"].named_parameters()]
        # The embedding is tied to the output head: changing one of the two would tear them apart.
        return "model", [n for n in names if ".vqmodel." not in n and "embed_tokens" not in n and "lm_head" not in n]

    # --- TokenBackbone ------------------------------------------------------------------------------------

    def network(self, view: View) -> Network:
        return emu3_network(view.component("model"), self.vocabulary)

    def plain_ids(self, text: str, pictures: Sequence[Tensor], *, begin: bool) -> PromptBatch:
        ids = self.builder.beginning() if begin else []
        for codes in pictures:
            ids += self.builder.picture_ids(codes)
        return left_pad([ids + self.builder.text_ids(text)], self.pad)


backbones.register(Emu3.name, Emu3)
