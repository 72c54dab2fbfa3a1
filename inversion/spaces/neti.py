"""A word that a small network makes from the time and the layer (NeTI, Alaluf et al. 2023)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from inversion.spaces.class_word import check_weight, class_row, class_text, reads, said
from unified.contract.abilities import Denoises, Reads, ReadsByLayer, Speaks
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reading import Moment
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View

_TIMES = 1000.0  # the paper counts times from 0 to 1000
_HELD = (".frequencies", ".norm")


@dataclass(frozen=True)
class NeuralMapper(Space):
    """v(t, layer) by a mapper with positional encoding (sections 4.1 and 4.2), for each text encoder.

    Encoding: `frequencies` random Fourier features of (t, layer) of deviations sigma_time, sigma_layer, then a
    linear layer whose rows start as the encodings of a grid of anchors (`anchor_times` x layers). Then twice
    linear, LayerNorm, LeakyReLU, and a linear layer to [word, bypass].
    The word is rescaled to the norm of the class word's embedding. The bypass moves the name's output h of
    the text encoder to h + strength |h| b / |b|, for the values of cross-attention only.
    While training, nested dropout keeps the first k hidden features, k uniform, with probability `dropout`;
    k is drawn once a step, where the authors draw it for each picture.
    """

    name: ClassVar[str] = "neti"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, ReadsByLayer, Speaks, Denoises)

    frequencies: int = 1024
    sigma_time: float = 0.03
    sigma_layer: float = 2.0
    anchor_times: int = 10
    hidden: int = 128
    bypass: bool = True
    strength: float = 0.2
    dropout: float = 0.5

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, ReadsByLayer) and isinstance(backbone, Speaks)
        layers, words = len(backbone.text_layers()), class_text(reference)
        tensors: dict[str, Tensor] = {}
        for text in reads(backbone).texts():
            row = class_row(backbone, text, words)
            outputs = text.width + (backbone.text_outputs().get(text.component, 0) if self.bypass else 0)
            for key, value in self._mapper(layers, outputs, rng.child(text.component)).items():
                tensors[f"{text.component}.{key}"] = value.to(row.dtype)
            tensors[f"{text.component}.norm"] = row.norm().reshape(1)
        return self.code(tensors)

    def _mapper(self, layers: int, outputs: int, rng: Random) -> dict[str, Tensor]:
        scales = torch.tensor([self.sigma_time, self.sigma_layer])
        frequencies = rng.child("frequencies").normal(range(self.frequencies), (2,)) * scales
        times = torch.arange(self.anchor_times) * (_TIMES / self.anchor_times)
        grid = torch.cartesian_prod(times, torch.arange(layers).float())
        tensors = {"frequencies": frequencies, "anchors.weight": encoding(grid, frequencies)}
        tensors["anchors.bias"] = torch.zeros(len(grid))
        widths = [len(grid), self.hidden, self.hidden, outputs]
        for number, (inputs, out) in enumerate(itertools.pairwise(widths)):
            # As torch.nn.Linear begins: uniform within 1 / sqrt(inputs).
            values = rng.child("linear", number).uniform(range(out), (inputs + 1,)) * 2 - 1
            tensors[f"{number}.weight"] = values[:, 1:] / math.sqrt(inputs)
            tensors[f"{number}.bias"] = values[:, 0] / math.sqrt(inputs)
            if number < 2:
                tensors[f"{number}.scale"], tensors[f"{number}.shift"] = torch.ones(out), torch.zeros(out)
        return tensors

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        tensors = {k: v.detach() if k.endswith(_HELD) else v for k, v in code.tensors.items()}
        chance, share = rng.uniform([0], (2,))[0].tolist()
        if chance < self.dropout:
            tensors["kept"] = torch.arange(self.hidden) < int(share * self.hidden)
        return tensors

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A word")
        readers = {t.component: self._word(view, code, t.component) for t in reads(view.backbone).texts()}
        view.name_rows(name, 1, readers, varies=frozenset({"layer", "time"}))
        assert isinstance(view.backbone, Speaks)
        for component in view.backbone.text_outputs() if self.bypass else ():
            view.edit_text(component, self._pass(view, code, component, name), values_only=True)

    def _word(self, view: View, code: Code, component: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            word, _ = mapped(code.tensors, component, self._moment(view), self._word_width(view, component))
            return (functional.normalize(word, dim=-1) * code.tensors[f"{component}.norm"]).unsqueeze(1)

        return read

    def _pass(self, view: View, code: Code, component: str, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def change(output: Tensor, ids: Tensor) -> Tensor:
            here = said(view, name, ids)
            if not bool(here.any()):
                return output
            _, offset = mapped(code.tensors, component, self._moment(view), self._word_width(view, component))
            offset = functional.normalize(offset, dim=-1).unsqueeze(1)
            moved = output + self.strength * output.norm(dim=-1, keepdim=True) * offset
            return torch.where(here.unsqueeze(-1), moved, output)

        return change

    def _word_width(self, view: View, component: str) -> int:
        return next(t.width for t in reads(view.backbone).texts() if t.component == component)

    def _moment(self, view: View) -> Moment:
        moment = view.reading.moment
        assert moment is not None
        return moment


def encoding(points: Tensor, frequencies: Tensor) -> Tensor:
    """Random Fourier features [N, 2 F] of unit length for points (t, layer) [N, 2]."""
    angles = points.to(frequencies.dtype) @ frequencies.T
    return functional.normalize(torch.cat([angles.sin(), angles.cos()], -1), dim=-1)


def mapped(tensors: Mapping[str, Tensor], component: str, moment: Moment, width: int) -> tuple[Tensor, Tensor]:
    """(word [N, width], bypass [N, rest]) of the mapper at each line's time and layer."""
    own = {key.removeprefix(f"{component}."): value for key, value in tensors.items()}
    points = torch.stack([moment.time * _TIMES, moment.layer.to(moment.time.dtype)], -1)
    hidden = encoding(points, own["frequencies"])
    hidden = functional.linear(hidden, own["anchors.weight"], own["anchors.bias"])
    for number in range(2):
        hidden = functional.linear(hidden, own[f"{number}.weight"], own[f"{number}.bias"])
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], own[f"{number}.scale"], own[f"{number}.shift"])
        hidden = functional.leaky_relu(hidden)
    if "kept" in own:
        hidden = hidden * own["kept"]
    output = functional.linear(hidden, own["2.weight"], own["2.bias"])
    return output[:, :width], output[:, width:]


spaces.register("neti", NeuralMapper)
