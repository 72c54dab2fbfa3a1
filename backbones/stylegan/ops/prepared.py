"""What a modulated convolution takes from its weight alone, computed once for as long as the weight stands still."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prepared:
    """weight [O, I, kh, kw] in the type of the activations; energy [O, I], the sum of its squares over kh and kw.

    In float16 the weight is first divided by max |weight[o]| sqrt(I kh kw), so that no sum leaves the range of
    numbers; demodulation divides by the norm, which takes the factor away again.
    """

    weight: Tensor
    energy: Tensor


def prepare(weight: Tensor, dtype: torch.dtype) -> Prepared:
    """weight [O, I, kh, kw] for activations of type `dtype`; differentiable."""
    if dtype == torch.float16:
        weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel())).clamp_min(1e-30)
    return Prepared(weight.to(dtype), weight.square().sum((2, 3)))


def bounded(styles: Tensor, dtype: torch.dtype) -> Tensor:
    """styles [N, I], in float16 divided by max |styles[n]|: the same for the factor on the activations."""
    if dtype != torch.float16:
        return styles
    return styles / styles.abs().amax(1, keepdim=True).clamp_min(1e-30)


class PreparedWeight:
    """:func:`prepare`, kept while it is asked for the same frozen parameter, unchanged.

    A parameter that is trained is prepared at each call, and so is a tensor that is computed (a view's): their
    values change. Writing through `Tensor.data` is not noticed; no code here does.
    """

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[Tensor], tuple[Any, ...], Prepared] | None = None

    def __call__(self, weight: Tensor, dtype: torch.dtype) -> Prepared:
        if not _stands_still(weight):
            return prepare(weight, dtype)
        key = (weight._version, weight.data_ptr(), weight.dtype, weight.device, dtype)
        kept = self._kept  # read once: other threads may replace it
        if kept is not None and kept[0]() is weight and kept[1] == key:
            return kept[2]
        # What is kept serves calls with and without gradient, in inference mode and out of it.
        with torch.inference_mode(False), torch.no_grad():
            prepared = prepare(weight, dtype)
        self._kept = (weakref.ref(weight), key, prepared)
        return prepared

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedWeight:
        """Copies of a module that share its tensors share what is kept; others find another parameter."""
        copy = PreparedWeight()
        copy._kept = self._kept
        return copy

    def __reduce__(self) -> tuple[type[PreparedWeight], tuple[()]]:
        return PreparedWeight, ()


def _stands_still(weight: Tensor) -> bool:
    return (
        type(weight) is nn.Parameter
        and not weight.requires_grad
        and not torch.compiler.is_compiling()
        and not weight.is_inference()
        and weight.device.type != "meta"
    )
