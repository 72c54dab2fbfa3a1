"""Parameter spaces: the generator's own weights, or a low-rank change of them (survey sections 3.2, 4.2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inversion.spaces.matrices import selected, tunable
from unified.contract.abilities import Speaks, Tunable
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class Weights(Space):
    """The generator's weights themselves (PTI, DreamBooth): one tensor for each path matching `paths`."""

    name: ClassVar[str] = "weights"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.REPLACE
    needs: ClassVar[tuple[type, ...]] = (Tunable,)

    paths: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        component, paths = tunable(view).tunable()
        module = view.component(component)
        chosen = selected(list(paths), self.paths)
        return self.code({p: pristine_tensor(module, p).detach().clone() for p in chosen}, component=component)

    def bind(self, view: View, code: Code, name: str) -> None:
        weight = view.binding.weight
        for path in code.tensors:
            view.replace(code.meta["component"], path, replacement(code, path, weight))


def replacement(code: Code, path: str, weight: float) -> Callable[[Tensor], Tensor]:
    """A change to the code's tensor at `path`, or towards it by `weight`."""
    if weight == 1.0:
        return lambda base: code.tensors[path]
    return lambda base: base + weight * (code.tensors[path] - base)


@dataclass(frozen=True)
class LoRA(Space):
    """W + (alpha / rank) B A for the matrices matching `paths` (Hu et al. 2021, section 4.1).

    A `<path>.down` [rank, in] starts random, B `<path>.up` [out, rank] at zero, so the start is the backbone
    itself, bit for bit. Convolutions count their kernel into `in`. alpha None: equal to the rank.
    """

    name: ClassVar[str] = "lora"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.ADD
    needs: ClassVar[tuple[type, ...]] = (Tunable,)

    rank: int = 8
    alpha: float | None = None
    paths: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        component, paths = tunable(view).adaptable()
        module = view.backbone.components[component]
        tensors: dict[str, Tensor] = {}
        for path in selected(list(paths), self.paths):
            base = pristine_tensor(module, path)
            outputs, inputs = base.shape[0], base[0].numel()
            down = rng.child(path).normal(range(self.rank), (inputs,), dtype=base.dtype) / self.rank
            tensors[f"{path}.down"] = down
            tensors[f"{path}.up"] = torch.zeros(outputs, self.rank, dtype=base.dtype)
        return self.code(tensors, component=component)

    def bind(self, view: View, code: Code, name: str) -> None:
        scale = view.binding.weight * (self.rank if self.alpha is None else self.alpha) / self.rank
        for key in code.tensors:
            path, _, part = key.rpartition(".")
            if part == "up":
                view.replace(code.meta["component"], path, _low_rank(code, path, scale))


def _low_rank(code: Code, path: str, scale: float) -> Callable[[Tensor], Tensor]:
    def change(base: Tensor) -> Tensor:
        delta = code.tensors[f"{path}.up"] @ code.tensors[f"{path}.down"]
        return base + (scale * delta).reshape(base.shape).to(base.dtype)

    return change


@dataclass(frozen=True)
class TextWeights(Space):
    """The weights of the text encoders (Ruiz et al. 2023, section 4.3): `<component>/<path>`, matching `paths`.

    Of the encoders that speak token by token to the generator; the table of input embeddings stays, since
    training it would change the meaning of every word of the prompts only.
    """

    name: ClassVar[str] = "text-weights"
    kind: ClassVar[Kind] = Kind.PARAMETER
    clash: ClassVar[Clash] = Clash.REPLACE
    needs: ClassVar[tuple[type, ...]] = (Speaks,)

    paths: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Speaks)
        tensors: dict[str, Tensor] = {}
        for component in backbone.text_outputs():
            module = backbone.components[component]
            names = [n for n, _ in module.named_parameters() if not re.search(_TABLES, n)]
            for path in selected(names, self.paths):
                tensors[f"{component}/{path}"] = pristine_tensor(module, path).detach().clone()
        return self.code(tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        for key in code.tensors:
            component, _, path = key.partition("/")
            view.replace(component, path, replacement(code, key, view.binding.weight))


_TABLES = r"(token_embedding|embed_tokens|shared|position_embedding)\."

spaces.register("weights", Weights)
spaces.register("text-weights", TextWeights)
spaces.register("lora", LoRA)
