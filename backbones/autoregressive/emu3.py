"""Emu3 as a backbone: text and pictures in one vocabulary, next-token prediction (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from backbones.autoregressive.checkpoint import Emu3Parts
from backbones.autoregressive.drawing import TokenBackbone
from backbones.autoregressive.network import Network, emu3_network
from backbones.autoregressive.prompt import PromptBatch, left_pad, named_ids
from unified.contract.backbone import TextComponent, backbones
from unified.contract.view import View

_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


class Emu3(TokenBackbone):
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
        self.length = int(parts.model.config.text_config.max_position_embeddings)

    # --- Tunable, Reads -----------------------------------------------------------------------------------

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
        return [TextComponent("model", path, embedding.embedding_dim, self.tokenizer, self.length)]

    # --- TokenBackbone ------------------------------------------------------------------------------------

    def network(self, view: View) -> Network:
        return emu3_network(view.component("model"), self.vocabulary)

    def slots(self, height: int, width: int) -> Tensor:
        return self.builder.slots(height, width)

    def prompts(
        self,
        view: View,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[Tensor]] = (),
        size: tuple[int, int] | None = None,
        begin: bool = True,
    ) -> PromptBatch:
        shown = references or [()] * len(prompts)
        lines = [
            self.builder.prompt_ids(named_ids(self.tokenizer, text, view.rows), codes, size=size, begin=begin)
            for text, codes in zip(prompts, shown, strict=True)
        ]
        return left_pad(lines, self.pad)

    def plain_ids(self, text: str, pictures: Sequence[Tensor], *, begin: bool) -> PromptBatch:
        ids = self.builder.beginning() if begin else []
        for codes in pictures:
            ids += self.builder.picture_ids(codes)
        return left_pad([ids + self.builder.text_ids(text)], self.pad)


backbones.register(Emu3.name, Emu3)
