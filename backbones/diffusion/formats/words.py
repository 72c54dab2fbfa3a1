"""Learnt words: diffusers' learned_embeds and the embeddings of A1111's web interface."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from unified.contract.backbone import Backbone, Reads, TextComponent
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.errors import UserError
from unified.exchange import Exchange, Foreign, exchanges

_SPACE = "word"
_A1111 = "string_to_param/*"
_BARE = "emb_params"


def recognises(foreign: Foreign) -> bool:
    """One tensor of rows under its word, or A1111's entries."""
    if _A1111 in foreign.tensors or _BARE in foreign.tensors:
        return True
    return len(foreign.tensors) == 1 and next(iter(foreign.tensors.values())).ndim <= 2 and "." not in _only(foreign)


def _only(foreign: Foreign) -> str:
    return next(iter(foreign.tensors))


def read(backbone: Backbone, foreign: Foreign, partial: bool) -> list[Code]:
    text = _text(backbone)
    key = next((k for k in (_A1111, _BARE) if k in foreign.tensors), None) or _only(foreign)
    rows = foreign.tensors[key]
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.shape[1] != text.width:
        raise UserError(
            f"{foreign.path.name} holds words of width {rows.shape[1]}; the text encoder of {backbone.id} has"
            f" {text.width}: load the backbone they were made for."
        )
    settings = {"vectors": len(rows)}
    return [Code(_SPACE, {text.component: rows.to(backbone.dtype).clone()}, False, {"settings": settings})]


def _text(backbone: Backbone) -> TextComponent:
    texts = backbone.texts() if isinstance(backbone, Reads) else []
    if len(texts) != 1:
        raise UserError(
            f"These files hold words of one text encoder, and {backbone.id} has {len(texts)}: use a concept file."
        )
    return texts[0]


def _rows(backbone: Backbone, codes: Sequence[Code]) -> Tensor:
    """The last code's rows [vectors, width], with the class word's behind them where the name reads so."""
    text, tensors = _text(backbone), codes[-1].tensors
    parts = [tensors[text.component]]
    if f"row/{text.component}" in tensors:
        parts.append(tensors[f"row/{text.component}"])
    return torch.cat(parts).detach().contiguous()


def write_diffusers(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    return save({concept.name: _rows(backbone, codes)}, metadata={"format": "pt"})


def write_a1111(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    """The .pt of A1111: the rows under '*', and the name."""
    buffer = io.BytesIO()
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": _rows(backbone, codes)}, "name": concept.name}
    torch.save(content, buffer)
    return buffer.getvalue()


exchanges.register(
    "diffusers learned_embeds",
    Exchange("diffusers", _SPACE, "learned_embeds.safetensors", write_diffusers, recognises, read),
)
exchanges.register("a1111 embedding", Exchange("a1111", _SPACE, "embedding.pt", write_a1111, recognises, read))
