"""What a generator's text encoders say of tokens, and how those encodings are spread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unified.contract.abilities import Speaks
from unified.contract.backbone import Backbone
from unified.contract.view import View

#: Sentences whose token encodings give the uncentred covariance C, with the category and everyday words in them.
SENTENCES = ("a photo of a {}", "a {} on the beach", "a painting of a {}", "two people and a {}", "the {} of a friend")
WORDS = ("person", "dog", "cat", "house", "tree", "car", "book", "hat", "table", "flower", "teapot", "river")


def encodings(view: View, prompts: Sequence[str]) -> Tensor:
    """[N, tokens, width]: what cross-attention reads, the encoders side by side where there are several."""
    backbone = view.backbone
    assert isinstance(backbone, Speaks)
    return torch.cat([backbone.say(view, component, prompts)[0] for component in backbone.text_outputs()], -1)


def inverse_covariance(backbone: Backbone, ridge: float) -> Tensor:
    """C^-1 [width, width] of the token encodings of everyday sentences, with `ridge` times its mean diagonal in C."""
    with backbone.bound() as view, torch.no_grad():
        output = encodings(view, [sentence.format(word) for sentence in SENTENCES for word in WORDS])
    rows = output.flatten(0, 1).double()
    covariance = rows.T @ rows / len(rows)
    covariance += ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    return torch.linalg.inv(covariance).to(output.dtype)
