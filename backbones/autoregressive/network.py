"""What sampling and teacher forcing need of a model that draws with tokens, whichever model it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.layout import VisualVocabulary


@dataclass(frozen=True)
class Network:
    """The parts of one model.

    trunk: the transformer, embeddings [B,L,D] -> last hidden states, with transformers' arguments.
    embed: ids of text [...] -> [...,D]. embed_codes: visual codes [...] -> [...,D].
    head: hidden states [...,D] -> logits [...,K] of the visual codes.
    speak: hidden states [...,D] -> logits of the text's vocabulary.
    """

    trunk: Any
    embed: Callable[[Tensor], Tensor]
    embed_codes: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    speak: Callable[[Tensor], Tensor]


def joint_network(model: Any, trunk: Any, vocabulary: VisualVocabulary) -> Network:
    """A model with one vocabulary of text and visual tokens, of which the head computes the visual ones only.

    It speaks in text tokens alone: where words are due a visual token never comes.
    """
    table = model.get_input_embeddings()
    output = model.get_output_embeddings()
    ids = vocabulary.ids.to(output.weight.device)
    weight = output.weight[ids]
    bias = None if output.bias is None else output.bias[ids]
    return Network(
        trunk=trunk,
        embed=table,
        embed_codes=lambda codes: table(ids[codes]),
        head=lambda hidden: functional.linear(hidden, weight, bias),
        speak=lambda hidden: output(hidden).index_fill(-1, ids, -torch.inf),
    )


def emu3_network(model: Any, vocabulary: VisualVocabulary) -> Network:
    """An `Emu3ForConditionalGeneration`, or anything with its text model and embeddings."""
    return joint_network(model, model.model.text_model, vocabulary)
