"""What diffusion models take from CLIP's text encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unified.contract.abilities import TextComponent


def clip_component(component: str, encoder: Any, tokenizer: Any) -> TextComponent:
    """A CLIP text encoder's place for rows, wherever its version of the library keeps the embedding."""
    embedding = encoder.get_input_embeddings()
    path = next(name for name, module in encoder.named_modules() if module is embedding)
    return TextComponent(component, path, embedding.embedding_dim, tokenizer, tokenizer.model_max_length)


def penultimate(encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """(output of the last layer but one, not normalised, [N, tokens, width]; projected end-of-text vector [N, width]).

    What SDXL and SD3 read (Podell et al. 2023, section 2.1). The vector is None for encoders without projection.
    """
    output = encoder(ids, output_hidden_states=True)
    hidden: Tensor = output.hidden_states[-2]
    pooled: Tensor | None = getattr(output, "text_embeds", None)
    return hidden, pooled


def wordless(ids: Tensor, tokenizer: Any) -> Tensor:
    """Which lines [N, tokens] say nothing between begin and end, bool [N]."""
    return torch.as_tensor(ids[:, 1] == tokenizer.eos_token_id)
