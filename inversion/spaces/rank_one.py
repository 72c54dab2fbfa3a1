"""Gated rank-one edits of cross-attention with key locking (Perfusion, Tewel et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified.contract.abilities import Attends, ReadsByLayer, Speaks
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.encodings import SENTENCES, encodings, inverse_covariance
from unified.errors import UserError


@dataclass(frozen=True)
class RankOne(Space):
    """h = W (e - i sim / |i|^2) + o sigmoid((sim / |i|^2 - beta) / tau), sim = e^T C^-1 i (equations 5 to 7).

    i is the concept's encoding and |i|^2 = i^T C^-1 i. For the keys o stays that of the category (key
    locking), for the values it is learnt: `<module>.output` [width]. `input` [width] is i, a running mean of
    the encoding of the concept's word while training (`decay`); it gets no gradient.
    C: of the encodings of a small set of sentences, where the paper uses 100 000 captions, so `ridge` times
    its mean diagonal is added. bias and temperature (beta, tau) hold while gradients are computed,
    sampling_bias and sampling_temperature when sampling (section 4.4).
    """

    name: ClassVar[str] = "rank-one"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Attends, ReadsByLayer, Speaks)

    bias: float = 0.75
    temperature: float = 0.1
    sampling_bias: float = 0.7
    sampling_temperature: float = 0.15
    decay: float = 0.99
    ridge: float = 1e-2

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        if not reference.category:
            raise UserError("Key locking needs the class word of the pictures: pass category='person' (or so).")
        attends, component, modules = _modules(view.backbone)
        with torch.no_grad():
            encoded = self._encoding(view, attends, reference.category)
            tensors = {"input": encoded}
            for path in modules:
                module = view.component(component).get_submodule(path)
                tensors[f"{path}.output"] = module(encoded[None])[0]
        keys = [pair[0].removesuffix(".weight") for pair in attends.text_matrices()[1]]
        return self.code(tensors, component=component, keys=keys, word=reference.name)

    def _encoding(self, view: View, attends: Attends, word: str) -> Tensor:
        """Mean encoding [width] of the word over a few sentences."""
        prompts = [sentence.format(word) for sentence in SENTENCES]
        output = encodings(view, prompts)
        said = attends.token_places(view, prompts, word)
        return output[said].mean(0)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        """Moves `input` towards the present encoding of the concept's word, then the code's own tensors.

        The outputs of keys are held by cutting their gradient: they are the category's.
        """
        word = code.meta["word"]
        if word in view.rows:
            attends, _, _ = _modules(view.backbone)
            with torch.no_grad():
                present = self._encoding(view, attends, word)
                code.tensors["input"].mul_(self.decay).add_(present, alpha=1 - self.decay)
        held = {"input", *(f"{path}.output" for path in code.meta["keys"])}
        return {name: value.detach() if name in held else value for name, value in code.tensors.items()}

    def bind(self, view: View, code: Code, name: str) -> None:
        metric = view.backbone.once(("rank-one", self.ridge), lambda: inverse_covariance(view.backbone, self.ridge))
        _, component, modules = _modules(view.backbone)
        for path in modules:
            module = view.writable(component).get_submodule(path)
            view.adjust(component, path, self._edit(code, path, module, metric, view.binding.weight))

    def _edit(
        self, code: Code, path: str, module: nn.Module, metric: Tensor, weight: float
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def edited(encoding: Tensor, output: Tensor) -> Tensor:
            if weight == 0.0:
                return output
            matrix = module.weight
            assert isinstance(matrix, Tensor)
            training = torch.is_grad_enabled()
            bias = self.bias if training else self.sampling_bias
            temperature = self.temperature if training else self.sampling_temperature
            own = code.tensors["input"]
            share = similarity(encoding, own, metric)
            gate = ((share - bias) / temperature).sigmoid()
            along = functional.linear(own, matrix)
            delta = gate * code.tensors[f"{path}.output"] - share * along
            return output + weight * delta

        return edited


def similarity(encoding: Tensor, own: Tensor, metric: Tensor) -> Tensor:
    """sim(e, i) / |i|^2 = e^T C^-1 i / i^T C^-1 i, [..., 1]; 1 for i itself."""
    seen = metric @ own
    return (encoding @ seen / (own @ seen)).unsqueeze(-1)


def _modules(backbone: Backbone) -> tuple[Attends, str, list[str]]:
    assert isinstance(backbone, Attends)
    component, pairs = backbone.text_matrices()
    return backbone, component, [path.removesuffix(".weight") for pair in pairs for path in pair]


spaces.register("rank-one", RankOne)
