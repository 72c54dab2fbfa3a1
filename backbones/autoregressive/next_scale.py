"""A transformer that predicts the token maps of a picture scale by scale.

Tian et al. 2024 (VAR), sections 3.2 and 3.3: all tokens of a scale at once, each seeing its own and all coarser
scales; adaptive norms. VAR knows classes; here the condition is a text, read by a small encoder of its own, where every
word begins with its neighbours: its mean drives the norms and starts the sequence, its tokens are read by
cross-attention (Han et al. 2024, Infinity, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.autoregressive.beside import Beside, Pair


@dataclass(frozen=True)
class NextScaleSettings:
    """words: of the text's vocabulary. text: most tokens of a text. sides, codes, dimension: of the tokenizer."""

    sides: tuple[int, ...]
    codes: int
    dimension: int
    words: int
    width: int = 256
    depth: int = 6
    heads: int = 4
    text_depth: int = 2
    text: int = 64


class _Attention(nn.Module):
    """Multi-head attention to itself, or to `memory` of the same width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a bias of the keys would change nothing
        self.value = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_and_values(self, memory: Tensor) -> Pair:
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(self, x: Tensor, pair: Pair, mask: Tensor | None) -> Tensor:
        """x [B,m,width] reads keys and values [B,heads,n,...]; mask: bool, True is seen, or what is added."""
        seen = functional.scaled_dot_product_attention(self._split(self.query(x)), *pair, attn_mask=mask)
        out: Tensor = self.outer(seen.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.gelu(self.up(x), approximate="tanh"))
        return out


class TextBlock(nn.Module):
    """A layer of the text encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, self.attention.keys_and_values(normed), mask)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class ScaleBlock(nn.Module):
    """A layer over the token maps: self-attention, the text, and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.cross_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = _Attention(width, heads)
        self.cross = _Attention(width, heads)
        self.mlp = _Mlp(width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Pair,
        text_mask: Tensor,
        past: Pair | None,
        mask: Tensor | None,
        beside: Beside | None = None,
    ) -> tuple[Tensor, Pair]:
        """(x [B,m,width] after the layer, keys and values of everything read so far); modulation [B,1,6 width]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        normed = self.norm(x) * (1 + scale) + shift
        keys, values = self.attention.keys_and_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        seen, seen_mask = ((keys, values), mask) if beside is None else beside.after((keys, values), mask)
        x = x + gate * self.attention(normed, seen, seen_mask)
        x = x + self.cross(self.cross_norm(x), text, text_mask)
        normed = self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.mlp(normed), (keys, values)


@dataclass(frozen=True)
class Read:
    """Texts as the blocks take them, so that what depends on a text alone is computed once, not once a scale.

    pooled [B,width]; for every block the keys and values that it reads, and the modulation of its norms
    [B,1,6 width]; the head's [B,1,2 width]; mask: what attention to the text adds, [B,1,1,T].
    """

    pooled: Tensor
    pairs: tuple[Pair, ...]
    modulations: tuple[Tensor, ...]
    head: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def pick(self, rows: list[int]) -> Read:
        """These lines of it."""
        pairs = tuple((keys[rows], values[rows]) for keys, values in self.pairs)
        return Read(
            self.pooled[rows], pairs, tuple(m[rows] for m in self.modulations), self.head[rows], self.mask[rows]
        )

    def above(self, other: Read) -> Read:
        """Its lines, and those of another of the same length below."""
        pairs = zip(self.pairs, other.pairs, strict=True)
        return Read(
            torch.cat([self.pooled, other.pooled]),
            tuple((torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in pairs),
            tuple(torch.cat(pair) for pair in zip(self.modulations, other.modulations, strict=True)),
            torch.cat([self.head, other.head]),
            torch.cat([self.mask, other.mask]),
        )


class NextScale(nn.Module):
    """Logits of every scale's tokens given the coarser ones and a text."""

    def __init__(self, settings: NextScaleSettings) -> None:
        super().__init__()
        self.settings = settings
        width, heads = settings.width, settings.heads
        count = sum(side * side for side in settings.sides)
        self.embedding = nn.Embedding(settings.words, width)
        # What stands beside a word, without which the text was read as a bag of words: colours changed places.
        self.neighbours = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.text_position = nn.Parameter(torch.randn(settings.text, width) * 0.02)
        self.text_blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(settings.text_depth))
        self.text_norm = nn.LayerNorm(width)
        self.start = nn.Linear(width, width)
        self.word = nn.Linear(settings.dimension, width)
        self.position = nn.Parameter(torch.randn(count, width) * 0.02)
        self.level = nn.Embedding(len(settings.sides), width)
        self.blocks = nn.ModuleList(ScaleBlock(width, heads) for _ in range(settings.depth))
        self.head_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, settings.codes)
        levels = torch.cat([torch.full((side * side,), k) for k, side in enumerate(settings.sides)])
        self.register_buffer("levels", levels, persistent=False)
        self._start_weights()

    def _start_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.neighbours.weight)
        nn.init.normal_(self.level.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, ScaleBlock)
            # Adaptive norms start as plain ones, with open gates and a cross-attention that adds little.
            nn.init.zeros_(block.modulation.weight)
            nn.init.zeros_(block.modulation.bias)
            with torch.no_grad():
                gates = block.modulation.bias.view(6, -1)
                gates[2], gates[5] = 1.0, 1.0
            nn.init.normal_(block.cross.outer.weight, std=0.02)
        nn.init.zeros_(self.head_modulation.weight)
        nn.init.zeros_(self.head_modulation.bias)
        nn.init.normal_(self.head.weight, std=0.02)

    def read(self, ids: Tensor, mask: Tensor) -> Read:
        """Texts: ids [B,T] padded on the right, mask bool [B,T]."""
        return self.take(self.encode(ids, mask), mask)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the text encoder says of every token, [B,T,width]."""
        words = self.embedding(ids) * mask[..., None]
        x = words + self.neighbours(words.transpose(1, 2)).transpose(1, 2) + self.text_position[: ids.shape[1]]
        for block in self.text_blocks:
            x = block(x, mask[:, None, None])
        said: Tensor = self.text_norm(x)
        return said

    def take(self, x: Tensor, mask: Tensor) -> Read:
        """What the encoder said, x [B,T,width], as the blocks take it."""
        weights = mask.to(x.dtype) / mask.sum(1, keepdim=True)
        pooled = (x * weights[..., None]).sum(1)
        driven = functional.silu(pooled)[:, None]
        pairs = tuple(block.cross.keys_and_values(x) for block in self.blocks)  # type: ignore[union-attr,operator]
        modulations = tuple(block.modulation(driven) for block in self.blocks)  # type: ignore[union-attr,operator]
        hidden = x.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        return Read(pooled, pairs, modulations, self.head_modulation(driven), hidden)  # type: ignore[arg-type]

    def embed(self, text: Read, inputs: Tensor, first: int) -> Tensor:
        """What the blocks take for tokens `first`...: inputs [B,m,dimension]; token 0 takes the text alone."""
        x = self.word(inputs)
        if first == 0:
            x = torch.cat([self.start(text.pooled)[:, None], x], dim=1)
        places = slice(first, first + x.shape[1])
        return x + self.position[places] + self.level(self.levels[places])  # type: ignore[index]

    def run(
        self,
        text: Read,
        x: Tensor,
        past: list[Pair] | None = None,
        *,
        mask: Tensor | None = None,
        beside: Sequence[Beside] | None = None,
    ) -> tuple[Tensor, list[Pair]]:
        """(logits [B,m,codes], keys and values of every block so far) of embedded tokens x [B,m,width].

        beside: for every block what else it sees; not a part of what is kept.
        """
        kept = []
        for number, block in enumerate(self.blocks):
            before = None if past is None else past[number]
            other = None if beside is None else beside[number]
            x, pair = block(x, text.modulations[number], text.pairs[number], text.mask, before, mask, other)
            kept.append(pair)
        shift, scale = text.head.chunk(2, dim=-1)
        logits: Tensor = self.head(self.head_norm(x) * (1 + scale) + shift)
        return logits, kept

    def forward(self, text: Read, inputs: Tensor, beside: Sequence[Beside] | None = None) -> Tensor:
        """Logits [B,count,codes] of whole pictures, teacher-forced; inputs: `MultiScaleTokenizer.inputs`."""
        return self.run(text, self.embed(text, inputs, 0), mask=self.order, beside=beside)[0]

    @property
    def order(self) -> Tensor:
        """Which tokens see which, bool [count,count]: their own scale and all coarser ones."""
        levels: Tensor = self.levels  # type: ignore[assignment]
        return levels[:, None] >= levels[None]
