"""A Llama-like transformer as a function of its weights, for sampling and for layers with a memory.

The module's own forward pass spends most of a small model's time outside of matrix products: it looks up
every weight through modules (and recomputes those that a view changes) at every token, builds masks, and grows
its cache. Here the weights are read once, the projections are joined, and keys and values have their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Store(Protocol):
    """Where keys and values go: takes the new ones [R,heads,m,width], gives all that may be seen."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class Mask(Protocol):
    """The additive attention mask [R or 1,1,m,keys] of a layer, or None where everything is seen."""

    def __call__(self, layer: int) -> Tensor | None: ...


@dataclass(frozen=True)
class _Layer:
    norm: Tensor
    inner: Tensor  # query, key and value projections, one above the other
    inner_bias: Tensor | None
    outer: Tensor
    outer_bias: Tensor | None
    mlp_norm: Tensor
    up: Tensor  # gate and up projections
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


def _joined(*modules: Any) -> tuple[Tensor, Tensor | None]:
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases)
    return torch.cat([module.weight for module in modules]), bias


def supports(trunk: Any) -> bool:
    """Whether `trunk` is of the plain Llama architecture that `Decoder` computes, with no module's output changed."""
    from transformers import Emu3TextModel, LlamaModel

    if not isinstance(trunk, (LlamaModel, Emu3TextModel)) or trunk.config.hidden_act != "silu":
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in trunk.modules())


class Decoder:
    """The layers of an `Emu3TextModel` or a `LlamaModel`, with the weights that it has now.

    Differentiable in the weights. Dropout is left out: it computes what the module computes in eval mode.
    """

    def __init__(self, trunk: Any) -> None:
        attention = trunk.layers[0].self_attn
        self.width = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.heads = attention.q_proj.weight.shape[0] // self.width
        self.kept_heads = attention.k_proj.weight.shape[0] // self.width
        self.epsilon = float(trunk.norm.variance_epsilon)
        self.norm = trunk.norm.weight
        self.layers = [self._read(layer) for layer in trunk.layers]
        self._rotary = trunk.rotary_emb

    @staticmethod
    def _read(layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        inner, inner_bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        up, up_bias = _joined(mlp.gate_proj, mlp.up_proj)
        return _Layer(
            norm=layer.input_layernorm.weight,
            inner=inner,
            inner_bias=inner_bias,
            outer=attention.o_proj.weight,
            outer_bias=attention.o_proj.bias,
            mlp_norm=layer.post_attention_layernorm.weight,
            up=up,
            up_bias=up_bias,
            down=mlp.down_proj.weight,
            down_bias=mlp.down_proj.bias,
        )

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [R,m,1,width] of the rotary positions [R,m]: x' = x * first + roll(x, width/2) * second."""
        cosine, sine = self._rotary(self.norm, position_ids=positions)
        half = self.width // 2
        signed = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        return cosine.unsqueeze(2), signed.unsqueeze(2)

    def rotate(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [R,m,heads,width] at its positions (Su et al. 2021, RoFormer, equation 34)."""
        return torch.addcmul(x * rotation[0], x.roll(self.width // 2, -1), rotation[1])

    def read(self, x: Tensor, rotation: tuple[Tensor, Tensor], store: Store, mask: Mask) -> Tensor:
        """Hidden states [R,m,D] after the last norm, of embeddings x [R,m,D]."""
        rows, count, size = x.shape
        rotated = self.heads + self.kept_heads
        for number, layer in enumerate(self.layers):
            normed = functional.rms_norm(x, (size,), layer.norm, self.epsilon)
            inner = functional.linear(normed, layer.inner, layer.inner_bias).view(rows, count, -1, self.width)
            turned = self.rotate(inner[:, :, :rotated], rotation).transpose(1, 2)
            keys, values = store.extend(number, turned[:, self.heads :], inner[:, :, rotated:].transpose(1, 2))
            seen = functional.scaled_dot_product_attention(
                turned[:, : self.heads],
                keys,
                values,
                attn_mask=mask(number),
                scale=self.scale,
                enable_gqa=self.heads != self.kept_heads,
            )
            seen = seen.transpose(1, 2).reshape(rows, count, -1)
            x = x + functional.linear(seen, layer.outer, layer.outer_bias)
            normed = functional.rms_norm(x, (size,), layer.mlp_norm, self.epsilon)
            gate, up = functional.linear(normed, layer.up, layer.up_bias).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down, layer.down_bias)
        return functional.rms_norm(x, (size,), self.norm, self.epsilon)

    def keys_and_values(self, layer: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [heads,m,width] that `layer` makes of its inputs `hidden` [m,D] at `positions` [m]."""
        weights = self.layers[layer]
        normed = functional.rms_norm(hidden, hidden.shape[-1:], weights.norm, self.epsilon)
        inner = functional.linear(normed, weights.inner, weights.inner_bias).view(len(hidden), -1, self.width)
        inner = inner[:, self.heads :]
        keys = self.rotate(inner[None, :, : self.kept_heads], self.rotation(positions[None]))[0]
        return keys.transpose(0, 1), inner[:, self.kept_heads :].transpose(0, 1)


class Appended:
    """Keys and values put after constant ones; keeps the new ones. Differentiable.

    before: for each layer keys and values [1 or R, heads, P, width] that were there already, or None.
    """

    def __init__(self, before: tuple[Tensor, Tensor] | None = None) -> None:
        self._before = before
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.append(keys)
        self.values.append(values)
        if self._before is None:
            return keys, values
        old_keys, old_values = (part[layer].expand(len(keys), -1, -1, -1) for part in self._before)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """The new keys and values of all layers, [layers,R,heads,m,width]."""
        return torch.stack(self.keys), torch.stack(self.values)

    def everything(self) -> tuple[Tensor, Tensor]:
        """The same with what was there before."""
        keys, values = self.stacked()
        if self._before is None:
            return keys, values
        return torch.cat([self._before[0], keys], dim=3), torch.cat([self._before[1], values], dim=3)


class Buffer:
    """Places for the keys and values [layers,R,heads,T,width] of a whole picture, allocated once."""

    def __init__(self, decoder: Decoder, rows: int, length: int) -> None:
        shape = (len(decoder.layers), rows, decoder.kept_heads, length, decoder.width)
        like = decoder.norm
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    def window(self, rows: slice, at: int) -> _Window:
        """A store that writes to these rows from column `at` on."""
        return _Window(self, rows, at)


@dataclass(frozen=True)
class _Window:
    buffer: Buffer
    rows: slice
    at: int

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = self.at + keys.shape[2]
        all_keys, all_values = self.buffer.keys[layer, self.rows], self.buffer.values[layer, self.rows]
        all_keys[:, :, self.at : end] = keys
        all_values[:, :, self.at : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]
