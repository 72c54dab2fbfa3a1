"""How likely an answer in words is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.network import Network
from backbones.autoregressive.prompt import left_pad_embeddings
from backbones.autoregressive.sampling import hidden_states
from unified.contract.memory import Memory
from unified.errors import UserError


def answer_nats(
    network: Network,
    questions: Sequence[Tensor],
    answers: Sequence[Sequence[int]],
    *,
    pad: int,
    memory: Memory | None = None,
) -> Tensor:
    """Nats of each answer (ids) after its question (embeddings [L,D]), the mean over its tokens, [N].

    Differentiable in the questions, the model and the memory. Raises UserError for an empty answer.
    """
    if not all(len(answer) for answer in answers):
        raise UserError("An answer without words was given: say at least one, such as 'yes'.")
    told = [
        network.embed(torch.tensor([list(answer)], device=q.device))[0]
        for q, answer in zip(questions, answers, strict=True)
    ]
    # The last token of an answer predicts nothing that is asked for.
    lines = [torch.cat([question, answer[:-1]]) for question, answer in zip(questions, told, strict=True)]
    batch = left_pad_embeddings(lines, pad)
    assert batch.embeddings is not None
    hidden = hidden_states(network, batch, batch.embeddings, memory=memory)
    # All lines end together, each with the tokens that predict its answer.
    return torch.stack(
        [
            functional.cross_entropy(
                network.speak(row[-len(answer) :]).float(), torch.tensor(list(answer), device=row.device)
            )
            for row, answer in zip(hidden, answers, strict=True)
        ]
    )
