"""Rotations of the weights: OFT (Qiu et al. 2023) and BOFT (Liu et al. 2024).

A rotation of the input side, W' = W R^T, turns every neuron (row of W) alike: angles between neurons, and so
the hyperspherical energy that the papers want kept, stay exactly as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import Change, MatrixSpace
from unified.contract.random import Random
from unified.contract.space import spaces
from unified.contract.view import View


def block_size(width: int, wanted: int) -> int:
    """The largest divisor of `width` that is at most `wanted`."""
    return next(size for size in range(min(wanted, width), 0, -1) if width % size == 0)


def cayley(entries: Tensor, size: int) -> Tensor:
    """Skew-symmetric Q from its upper entries [..., size (size-1) / 2] -> R = (I - Q)(I + Q)^-1, [..., size, size].

    R is orthogonal with determinant 1 (Qiu et al. 2023, section 3.3); entries 0 give the identity exactly.
    """
    rows, columns = torch.triu_indices(size, size, 1)
    flat = entries.new_zeros(*entries.shape[:-1], size * size)
    upper = flat.scatter(-1, (rows * size + columns).expand(entries.shape), entries).unflatten(-1, (size, size))
    skew = upper - upper.transpose(-1, -2)
    one = torch.eye(size, dtype=entries.dtype)
    # (I - Q) and (I + Q)^-1 commute.
    return torch.linalg.solve(one + skew, one - skew)


@dataclass(frozen=True)
class OFT(MatrixSpace):
    """W R^T with R block-diagonal, each block orthogonal by Cayley's transform: `<path>.skew` [blocks, b(b-1)/2].

    block: size b of the blocks; the largest divisor of the input width that does not exceed it is taken.
    The weight of a concept scales the skew entries, so it turns further or less far, and stays a rotation.
    """

    name: ClassVar[str] = "oft"

    block: int = 32

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        width = base[0].numel()
        size = block_size(width, self.block)
        return {"skew": torch.zeros(width // size, size * (size - 1) // 2, dtype=base.dtype)}

    def change(self, view: View, component: str, path: str) -> Change:
        def changed(base: Tensor, parts: Mapping[str, Tensor], weight: float) -> Tensor:
            flat = base.flatten(1)
            size = block_size(flat.shape[1], self.block)
            turns = cayley(weight * parts["skew"], size)
            turned = torch.einsum("onb,ncb->onc", flat.unflatten(1, (-1, size)), turns)
            return turned.reshape(base.shape)

        return changed


@dataclass(frozen=True)
class BOFT(MatrixSpace):
    """W R^T with R a product of butterfly factors (Liu et al. 2024, section 4):
    `<path>.skew` [factors, blocks, b(b-1)/2].

    Each factor is block-diagonal after a permutation: it turns together the half-blocks whose numbers differ
    in one bit, another bit in each factor, as the fast Fourier transform does. With 1 + log2(width / b)
    factors every input reaches every output. factors: at most as many as the width allows.
    """

    name: ClassVar[str] = "boft"

    block: int = 8
    factors: int = 4

    def shape(self, width: int) -> tuple[int, int]:
        """(block size, factors) for this width."""
        size = block_size(width, self.block)
        if size % 2:
            return size, 1
        units = width // (size // 2)
        available = (units & -units).bit_length() - 1  # how often 2 divides the number of half-blocks
        return size, max(1, min(self.factors, available))

    def start(self, base: Tensor, rng: Random) -> Mapping[str, Tensor]:
        width = base[0].numel()
        size, factors = self.shape(width)
        return {"skew": torch.zeros(factors, width // size, size * (size - 1) // 2, dtype=base.dtype)}

    def change(self, view: View, component: str, path: str) -> Change:
        def changed(base: Tensor, parts: Mapping[str, Tensor], weight: float) -> Tensor:
            flat = base.flatten(1)
            size, factors = self.shape(flat.shape[1])
            turns = cayley(weight * parts["skew"], size)
            for factor in range(factors):
                order = butterfly_order(flat.shape[1], size, factor)
                grouped = flat[:, order].unflatten(1, (-1, size))
                flat = torch.einsum("onb,ncb->onc", grouped, turns[factor]).flatten(1)[:, order.argsort()]
            return flat.reshape(base.shape)

        return changed


def butterfly_order(width: int, block: int, factor: int) -> Tensor:
    """The order of inputs [width] in which the blocks of a factor lie one after the other.

    Half-blocks u and u + 2^factor (bit `factor` of u is 0) make one block; factor 0 leaves the order as it is.
    """
    if factor == 0:
        return torch.arange(width)
    half = block // 2
    units = torch.arange(width // half).reshape(-1, 2, 2**factor)  # bit `factor` is the middle axis
    units = units.transpose(1, 2).flatten()
    return (units[:, None] * half + torch.arange(half)).flatten()


spaces.register("oft", OFT)
spaces.register("boft", BOFT)
