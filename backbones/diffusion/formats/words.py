"""Learnt words: diffusers' learned_embeds and the embeddings of A1111's web interface.

Of models with several text encoders the rows stand under the encoders' names (clip_l, clip_g, t5).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from unified.contract.abilities import Reads, TextComponent
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.errors import UserError
from unified.exchange import Exchange, Foreign, exchanges

_SPACE = "word"
_A1111 = "string_to_param/*"
_BARE = "emb_params"
_ENCODERS = ("clip_l", "clip_g", "t5")  # as diffusers' scripts and A1111 name them


def recognises(foreign: Foreign) -> bool:
    """One tensor of rows under its word, A1111's entries, or rows by text encoder."""
    if _A1111 in foreign.tensors or _BARE in foreign.tensors or set(foreign.tensors) <= set(_ENCODERS):
        return bool(foreign.tensors)
    return len(foreign.tensors) == 1 and next(iter(foreign.tensors.values())).ndim <= 2 and "." not in _only(foreign)


def _only(foreign: Foreign) -> str:
    return next(iter(foreign.tensors))


def read(backbone: Backbone, foreign: Foreign, partial: bool) -> list[Code]:
    """Rows for every text encoder: of a word in one of several, the others would read nothing."""
    texts = named_texts(backbone)
    if set(foreign.tensors) <= set(_ENCODERS):
        given = dict(foreign.tensors)
    else:
        key = next((k for k in (_A1111, _BARE) if k in foreign.tensors), None) or _only(foreign)
        given = {_ENCODERS[0]: foreign.tensors[key]}
    if set(given) != set(texts):
        raise UserError(
            f"{foreign.path.name} holds words for {', '.join(given) or 'nothing'}, and {backbone.id} reads"
            f" {', '.join(texts) or 'none'}: load the backbone they were made for."
        )
    tensors = {}
    for name, rows in given.items():
        text, rows = texts[name], rows[None] if rows.ndim == 1 else rows
        if rows.shape[1] != text.width:
            raise UserError(
                f"{foreign.path.name} holds words of width {rows.shape[1]}; the text encoder of {backbone.id} has"
                f" {text.width}: load the backbone they were made for."
            )
        tensors[text.component] = rows.to(backbone.dtype).clone()
    counts = {len(rows) for rows in tensors.values()}
    if len(counts) > 1:
        raise UserError(
            f"{foreign.path.name} holds {sorted(counts)} rows for its text encoders: it needs as many for each."
        )
    return [Code(_SPACE, tensors, False, {"settings": {"vectors": counts.pop()}})]


def named_texts(backbone: Backbone) -> dict[str, TextComponent]:
    """The text encoders by the names that files have for them: CLIP-L first, then the larger CLIP, and T5."""
    texts = backbone.texts() if isinstance(backbone, Reads) else []
    clips = [text for text in texts if not _is_t5(backbone, text)]
    others = [text for text in texts if _is_t5(backbone, text)]
    return {**dict(zip(_ENCODERS, clips, strict=False)), **dict(zip(_ENCODERS[2:], others, strict=False))}


def _is_t5(backbone: Backbone, text: TextComponent) -> bool:
    return bool(getattr(getattr(backbone.components[text.component], "config", None), "model_type", "") == "t5")


def _rows(backbone: Backbone, codes: Sequence[Code]) -> dict[str, Tensor]:
    """The last code's rows [vectors, width] by encoder, with the class word's behind them where the name reads so."""
    found, tensors = {}, codes[-1].tensors
    for name, text in named_texts(backbone).items():
        parts = [tensors[key] for key in (text.component, f"row/{text.component}") if key in tensors]
        found[name] = torch.cat(parts).detach().contiguous()
    if not found:
        raise UserError(f"{backbone.id} has no text encoder whose words these files hold: use a concept file.")
    return found


def write_diffusers(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    """Of one text encoder the rows under their word; of several the rows under the encoder's name."""
    rows = _rows(backbone, codes)
    if len(rows) == 1:
        rows = {concept.name: next(iter(rows.values()))}
    return save(rows, metadata={"format": "pt"})


def write_a1111(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    """The .pt of A1111: the rows under '*', and the name; of two CLIP encoders the rows under the encoders' names."""
    rows = _rows(backbone, codes)
    content: dict[str, object] = dict(rows)
    if len(rows) == 1:
        only = next(iter(rows.values()))
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": only}, "name": concept.name}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


exchanges.register(
    "diffusers learned_embeds",
    Exchange("diffusers", _SPACE, "learned_embeds.safetensors", write_diffusers, recognises, read),
)
exchanges.register("a1111 embedding", Exchange("a1111", _SPACE, "embedding.pt", write_a1111, recognises, read))
