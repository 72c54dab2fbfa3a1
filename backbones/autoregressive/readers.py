"""Reading a sequence piece by piece while it is drawn: keys and values kept, guidance in one pass."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from backbones.autoregressive.decoder import Appended, Buffer, Decoder, Mask
from backbones.autoregressive.network import Network
from backbones.autoregressive.prompt import PromptBatch, left_pad
from unified.contract.memory import Memory

_SHARED = 8  # a common beginning of at least this many tokens is read once for all prompts


class Reader(Protocol):
    """Reads the prompts at its start, then what is drawn."""

    def next_hidden(self, embeddings: Tensor, *, guided: bool, gate: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Read [B,m,D] more (m may be 0 at first); the hidden states [B,D] after it, conditional and not.

        guided: whether the unconditional one is wanted. gate: how much of the memory the new tokens see.
        """
        ...


def extend(prompts: PromptBatch, count: int) -> tuple[Tensor | None, Tensor]:
    """Mask and positions of the prompts followed by `count` tokens; no mask where nothing is padded."""
    mask = torch.cat([prompts.mask, prompts.mask.new_ones(len(prompts), count)], dim=1)
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    return (None if bool(prompts.mask.all()) else mask.long()), positions


def read_whole(
    decoder: Decoder, embeddings: Tensor, mask: Tensor, store: Appended, *, bias: Tensor | None = None, offset: int = 0
) -> Tensor:
    """Hidden states [B,L,D] of whole sequences, embeddings [B,L,D] with mask bool [B,L]. Differentiable.

    bias: [layers,P] of what `store` has before them. offset: position of the first token.
    """
    rows, length = mask.shape
    positions = (mask.long().cumsum(1) - 1).clamp_min(0) + offset
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=mask.device)
    # Padding sees itself: a row of the softmax with nothing in it would be NaN.
    seen = (causal & mask[:, None]) | own
    base = torch.zeros(rows, 1, length, length, dtype=embeddings.dtype, device=mask.device)
    base = base.masked_fill(~seen.unsqueeze(1), -torch.inf)

    def of(layer: int) -> Tensor:
        if bias is None:
            return base
        before = bias[layer].to(base.dtype).expand(rows, 1, length, -1)
        return torch.cat([before, base], dim=-1)

    return decoder.read(embeddings, decoder.rotation(positions), store, of)


def distinct(prompts: PromptBatch) -> tuple[PromptBatch, Tensor]:
    """The different prompts of a batch, and which of them each row is; prompts given as embeddings all differ."""
    if prompts.embeddings is not None:
        return prompts, torch.arange(len(prompts), device=prompts.ids.device)
    width = prompts.ids.shape[1]
    both = torch.cat([prompts.ids.masked_fill(~prompts.mask, 0), prompts.mask.long()], dim=1)
    kinds, inverse = both.unique(dim=0, return_inverse=True)
    return PromptBatch(kinds[:, :width], kinds[:, width:].bool()), inverse


def split_beginning(prompts: PromptBatch) -> tuple[Tensor, PromptBatch]:
    """(ids [h] that all prompts begin with, what remains of each); h is 0 where sharing is not worth it.

    Something remains of every prompt.
    """
    if prompts.embeddings is not None or len(prompts) < 2:
        return prompts.ids.new_empty(0), prompts
    lines = [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    most = min(len(line) for line in lines) - 1
    shared = next((i for i in range(most) if len({line[i] for line in lines}) > 1), most)
    if shared < _SHARED:
        return prompts.ids.new_empty(0), prompts
    rest = left_pad([line[shared:] for line in lines], 0).to(prompts.ids.device)
    return torch.tensor(lines[0][:shared], device=prompts.ids.device), rest


class FusedReader:
    """Through `Decoder`, with a place for everything.

    Equal prompts are read once, and so is what different prompts have in common at their beginning (reference
    pictures); the rows get copies of the keys and values. Columns: memory, common beginning, rest of the
    prompt (padded on the left), picture. The unconditional rows do not see the memory, and read nothing while
    guidance is off: they catch up in one pass when it is on again.
    """

    def __init__(
        self,
        network: Network,
        prompts: PromptBatch,
        unconditional: PromptBatch | None,
        *,
        length: int,
        memory: Memory | None = None,
    ) -> None:
        self.network = network
        self.decoder = Decoder(network.trunk)
        self.memory = memory
        both = unconditional is not None
        count = len(prompts)
        self.conditional, self.unconditional = slice(0, count), slice(count, count * 2)
        self.start = 0 if memory is None else len(memory)
        widths = [batch.ids.shape[1] for batch in (prompts, unconditional) if batch is not None]
        self.end = self.used = self.behind = self.start + max(widths)
        rows = count * 2 if both else count
        self.buffer = Buffer(self.decoder, rows, self.end + length)
        self.seen = torch.ones(rows, self.end + length, dtype=torch.bool, device=self.decoder.norm.device)
        self.seen[:, : self.end] = False
        last = [self._read_prompts(prompts, self.conditional, memory)]
        if unconditional is not None:
            last.append(self._read_prompts(unconditional, self.unconditional, None))
        self.last = torch.cat(last)
        self.waiting: list[Tensor] = []  # what the unconditional rows have not read yet
        self.next = self.start + self.seen[:, self.start : self.end].sum(1)  # position of the next token
        places = torch.arange(self.seen.shape[1] + 1, device=self.seen.device)
        first, second = self.decoder.rotation(places[None])
        self.turns = (first[0], second[0])
        self.bias = self._bias()

    def _read_prompts(self, prompts: PromptBatch, rows: slice, memory: Memory | None) -> Tensor:
        """Read the prompts into the buffer's `rows`; the hidden states [rows,D] of their last tokens."""
        kinds, inverse = distinct(prompts)
        head, rest = split_beginning(kinds)
        before, bias = None, None
        if memory is not None:
            before, bias = (memory.keys.unsqueeze(1), memory.values.unsqueeze(1)), memory.bias
            self._keep(before, rows, 0)
        if len(head):
            store = Appended(before)
            mask = torch.ones(1, len(head), dtype=torch.bool, device=head.device)
            read_whole(self.decoder, self.network.embed(head[None]), mask, store, bias=bias, offset=self.start)
            self._keep(store.stacked(), rows, self.start)
            self.seen[rows, self.start : self.start + len(head)] = True
            before = store.everything()
            old = before[0].new_zeros(len(before[0]), 0) if bias is None else bias
            bias = torch.cat([old, old.new_zeros(len(old), len(head))], dim=1)
        store = Appended(before)
        start = self.network.embed(rest.ids) if rest.embeddings is None else rest.embeddings
        offset = self.start + len(head)
        hidden = read_whole(self.decoder, start, rest.mask, store, bias=bias, offset=offset)
        keys, values = store.stacked()
        first = self.end - keys.shape[3]
        self._keep((keys[:, inverse], values[:, inverse]), rows, first)
        self.seen[rows, first : self.end] = rest.mask[inverse]
        return hidden[inverse, -1]

    def _keep(self, pair: tuple[Tensor, Tensor], rows: slice, at: int) -> None:
        """Put keys and values [layers,1 or rows,heads,m,width] into the columns from `at` on."""
        columns = slice(at, at + pair[0].shape[3])
        self.buffer.keys[:, rows, :, columns] = pair[0]
        self.buffer.values[:, rows, :, columns] = pair[1]

    def _bias(self) -> Tensor | None:
        """What is added to the attention logits, [layers or 1,R,T]; None if everything is seen by all."""
        memory = self.memory
        bias = self.decoder.norm.new_zeros(self.seen.shape).masked_fill(~self.seen, -torch.inf)[None]
        if memory is not None:
            extra = memory.bias.to(bias.dtype)
            # One mask serves all layers that see the same.
            extra = extra if bool((extra != extra[:1]).any()) else extra[:1]
            bias = bias.repeat(len(extra), 1, 1)
            bias[:, self.conditional, : self.start] = extra.unsqueeze(1)
        return bias if bool((bias != 0).any()) else None

    def next_hidden(self, embeddings: Tensor, *, guided: bool, gate: float = 1.0) -> tuple[Tensor, Tensor | None]:
        count = embeddings.shape[1]
        both = self.unconditional.start < len(self.last)
        if count == 0:
            hidden = self.last
        elif not both:
            hidden = self._step(embeddings, self.conditional, self.used, gate)
        elif guided and not self.waiting:
            hidden = self._step(embeddings.repeat(2, 1, 1), slice(0, len(self.last)), self.used, gate)
            self.behind += count
        else:
            hidden = self._step(embeddings, self.conditional, self.used, gate)
            self.waiting.append(embeddings)
            if guided:
                late = torch.cat(self.waiting, dim=1)
                hidden = torch.cat([hidden, self._step(late, self.unconditional, self.behind, gate)])
                self.behind += late.shape[1]
                self.waiting = []
        self.used += count
        return hidden[self.conditional], hidden[self.unconditional] if both and guided else None

    def _step(self, embeddings: Tensor, rows: slice, at: int, gate: float) -> Tensor:
        """Read [rows,m,D] into the columns from `at` on; the last hidden states [rows,D]."""
        count = embeddings.shape[1]
        places = (self.next[rows] + (at - self.end))[:, None]
        if count > 1:
            places = places + torch.arange(count, device=places.device)
        rotation = (self.turns[0][places], self.turns[1][places])
        mask = self._mask(rows, at, count, gate)
        return self.decoder.read(embeddings, rotation, self.buffer.window(rows, at), mask)[:, -1]

    def _mask(self, rows: slice, at: int, count: int, gate: float) -> Mask:
        gated = gate != 1.0 and self.memory is not None
        if self.bias is None and count == 1 and not gated:
            return lambda layer: None
        end = at + count
        bias = self.bias
        if bias is None:
            bias = self.decoder.norm.new_zeros(1, *self.seen.shape)
        bias = bias[:, rows, None, None, :end]
        if gated:
            bias = bias.clone()
            bias[..., : self.start] += math.log(gate) if gate > 0 else -math.inf
        if count > 1:
            later = torch.ones(count, end, dtype=torch.bool, device=bias.device).triu(at + 1)
            bias = bias.masked_fill(later, -torch.inf)
        layers = list(bias)
        return lambda layer: layers[min(layer, len(layers) - 1)]
