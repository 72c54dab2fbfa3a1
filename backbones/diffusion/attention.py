"""Attention processors for diffusers' networks that ask a view's editors.

They do what diffusers' own processors do, with the same calls in the same order, so without an editor for
their place the output has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unified.contract.attention import Attending, Attention, Place, attend
from unified.errors import UserError

_PLAIN = ("AttnProcessor", "AttnProcessor2_0", "FluxAttnProcessor", "JointAttnProcessor2_0")


def unet_places(unet: nn.Module) -> list[Place]:
    """attn1 (self) and attn2 (cross) of every transformer block, in the order of the calls."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    names = [n for n, _ in unet.named_modules() if n.rpartition(".")[2] in ("attn1", "attn2")]
    names.sort(key=lambda name: order[name.partition(".")[0]])  # stable: within a part they are in order
    own = [name for name in names if name.endswith("attn1")]
    cross = [name for name in names if name.endswith("attn2")]
    return [Place(n, "self", i) for i, n in enumerate(own)] + [Place(n, "cross", i) for i, n in enumerate(cross)]


def flux_places(transformer: nn.Module) -> list[Place]:
    """The attention of the double blocks, then of the single blocks: all over text and picture together."""
    names = [n for n, _ in transformer.named_modules() if n.count(".") == 2 and n.endswith(".attn")]
    return [Place(name, "joint", number) for number, name in enumerate(names)]


def install(
    network: nn.Module, places: Sequence[Place], make: Callable[[Place, Attending], Any], attending: Attending
) -> None:
    """Put a processor of ours at every place of a shadow. Raises UserError where another one stands already."""
    for place in places:
        module: Any = network.get_submodule(place.name)
        present = type(module.processor).__name__
        if present not in _PLAIN:
            raise UserError(
                f"{place.name} has the attention processor {present}, which editing attention would switch off:"
                " load the pipeline without what installed it (an adapter), and bind that as a concept."
            )
        module.processor = make(place, attending)


class UNetProcessor:
    """For `diffusers.models.attention_processor.Attention` in the transformer blocks of a UNet."""

    def __init__(self, place: Place, attending: Attending) -> None:
        self.place, self.attending = place, attending

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        editors = self.attending.at(self.place)
        count, tokens, _ = hidden_states.shape
        if attention_mask is not None:
            length = tokens if encoder_hidden_states is None else encoder_hidden_states.shape[1]
            attention_mask = attn.prepare_attention_mask(attention_mask, length, count)
            attention_mask = attention_mask.view(count, attn.heads, -1, attention_mask.shape[-1])
        if encoder_hidden_states is not None and attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        query = attn.to_q(hidden_states)
        keys = values = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None:
            for editor in editors:
                keys, values = editor.inputs(self.place, keys, values)
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, attn.to_k(keys), attn.to_v(values))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        nothing, everything = slice(0, 0), slice(0, key.shape[2])
        call = Attention(
            self.place,
            self.attending.time,
            self.attending.grid(tokens),
            query,
            key,
            value,
            picture=everything if self.place.kind == "self" else nothing,
            text=nothing if self.place.kind == "self" else everything,
            picture_queries=slice(0, tokens),
        )
        mixed = attend(call, editors, mask=attention_mask)
        output: Tensor = attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor


class FluxProcessor:
    """For `FluxAttention`: text tokens first, then the picture's; in single blocks they arrive joined."""

    def __init__(self, place: Place, attending: Attending) -> None:
        self.place, self.attending = place, attending

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        query, key, value = (
            project(hidden_states).unflatten(-1, (-1, attn.head_dim)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            text_query, text_key, text_value = (
                project(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
                for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            text_query, text_key = attn.norm_added_q(text_query), attn.norm_added_k(text_key)
            query = torch.cat([text_query, query], 1)
            key = torch.cat([text_key, key], 1)
            value = torch.cat([text_value, value], 1)
        if image_rotary_emb is not None:
            query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
            key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        words = self.attending.text_tokens
        picture = slice(words, query.shape[1])
        call = Attention(
            self.place,
            self.attending.time,
            self.attending.grid(query.shape[1] - words),
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            picture=picture,
            text=slice(0, words),
            picture_queries=picture,
        )
        mixed = attend(call, self.attending.at(self.place), mask=attention_mask).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        text, image = mixed.split_with_sizes([words, mixed.shape[1] - words], dim=1)
        return attn.to_out[1](attn.to_out[0](image.contiguous())), attn.to_add_out(text.contiguous())
