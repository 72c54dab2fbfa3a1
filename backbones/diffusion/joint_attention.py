"""The attention of Stable Diffusion 3's transformer, open to a view's editors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unified.contract.attention import Attending, Attention, Place, attend


def joint_places(transformer: nn.Module) -> list[Place]:
    """attn, over picture and text together, of every block; and attn2, over the picture alone, where there is one."""
    names = [n for n, _ in transformer.named_modules() if n.count(".") == 2]
    joint = [name for name in names if name.endswith(".attn")]
    own = [name for name in names if name.endswith(".attn2")]
    return [Place(n, "joint", i) for i, n in enumerate(joint)] + [Place(n, "self", i) for i, n in enumerate(own)]


class JointProcessor:
    """For `Attention` with added projections: the picture's tokens first, then the text's.

    The same calls in the same order as diffusers' own, so without an editor the output has the same bits.
    """

    def __init__(self, place: Place, attending: Attending) -> None:
        self.place, self.attending = place, attending

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        count, tokens, _ = hidden_states.shape
        query, key, value = (
            project(hidden_states).view(count, tokens, attn.heads, -1).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = _normalised(attn.norm_q, query), _normalised(attn.norm_k, key)
        if encoder_hidden_states is not None:
            text_query, text_key, text_value = (
                project(encoder_hidden_states).view(count, -1, attn.heads, query.shape[-1]).transpose(1, 2)
                for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            query = torch.cat([query, _normalised(attn.norm_added_q, text_query)], 2)
            key = torch.cat([key, _normalised(attn.norm_added_k, text_key)], 2)
            value = torch.cat([value, text_value], 2)
        picture = slice(0, tokens)
        call = Attention(
            self.place,
            self.attending.time,
            self.attending.grid(tokens),
            query,
            key,
            value,
            picture=picture,
            text=slice(tokens, key.shape[2]),
            picture_queries=picture,
        )
        mixed = attend(call, self.attending.at(self.place), mask=attention_mask).transpose(1, 2).flatten(2)
        image, text = mixed[:, :tokens], mixed[:, tokens:]
        image = attn.to_out[1](attn.to_out[0](image))
        if encoder_hidden_states is None:
            return image
        return image, text if attn.context_pre_only else attn.to_add_out(text)


def _normalised(norm: nn.Module | None, value: Tensor) -> Tensor:
    if norm is None:
        return value
    found: Tensor = norm(value)
    return found
