"""Reading a sequence piece by piece through a model's own forward pass."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backbones.autoregressive.network import Network
from backbones.autoregressive.prompt import PromptBatch, concatenate
from backbones.autoregressive.readers import extend


def embedded(network: Network, prompts: PromptBatch) -> PromptBatch:
    """The prompts as embeddings."""
    return prompts if prompts.embeddings is not None else replace(prompts, embeddings=network.embed(prompts.ids))


class ModuleReader:
    """Through the module's own forward pass, for models that `Decoder` does not know and for checks.

    cache: "dynamic" grows, "static" is allocated once, "none" computes everything again at every token.
    """

    def __init__(
        self,
        network: Network,
        prompts: PromptBatch,
        unconditional: PromptBatch | None,
        *,
        length: int,
        cache: str,
        pad: int,
    ) -> None:
        from transformers import DynamicCache, StaticCache

        self.network = network
        self.conditional = len(prompts)
        self.rows = prompts
        if unconditional is not None:
            both = (prompts, unconditional)
            if len({batch.embeddings is None for batch in both}) > 1:
                both = tuple(embedded(network, batch) for batch in both)  # type: ignore[assignment]
            self.rows = concatenate(*both, pad)
        self.read: Tensor | None = None  # embeddings so far, kept only without a cache
        self.count = 0
        self.cache: DynamicCache | StaticCache | None = None
        config = network.trunk.config
        if cache == "dynamic":
            self.cache = DynamicCache(config=config)
        elif cache == "static":
            self.cache = StaticCache(config=config, max_cache_len=self.rows.ids.shape[1] + length)

    def next_hidden(self, embeddings: Tensor, *, guided: bool, gate: float = 1.0) -> tuple[Tensor, Tensor | None]:
        embeddings = embeddings.repeat(len(self.rows) // self.conditional, 1, 1)
        if self.count == 0:
            rows = self.rows
            start = self.network.embed(rows.ids) if rows.embeddings is None else rows.embeddings
            embeddings = torch.cat([start, embeddings], dim=1)
        hidden = self._step(embeddings)[:, -1]
        if len(self.rows) == self.conditional:
            return hidden, None
        return hidden[: self.conditional], hidden[self.conditional :]

    def _step(self, embeddings: Tensor) -> Tensor:
        """Read [R,m,D] more of all rows; their hidden states (of everything so far without a cache)."""
        self.count += embeddings.shape[1]
        mask, positions = extend(self.rows, self.count - self.rows.ids.shape[1])
        if self.cache is None:
            self.read = embeddings if self.read is None else torch.cat([self.read, embeddings], dim=1)
            embeddings = self.read
        result = self.network.trunk(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions[:, -embeddings.shape[1] :],
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        )
        hidden: Tensor = result.last_hidden_state
        return hidden
