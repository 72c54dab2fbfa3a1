"""The two branches of DisenBooth (Chen et al. 2024): what the pictures share, and what is each one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inversion.spaces.class_word import check_weight, class_text, held_rows, reads, said
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Reads, Speaks
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import PictureEncoder, encoder_of

#: Marks, among a code's tensors, that it is being learnt; which branches speak: 0 both, 1 that of the picture alone.
BRANCH = "branch"


class Embeds(PictureEncoder, Protocol):
    def embed(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TwoBranches(Space):
    """f_s + f_i while learning, f_s alone afterwards (Chen et al. 2024, section 3).

    f_s is what the text encoder says of "sks class", the identity-preserving branch: its rows stay, other spaces
    (low-rank changes) learn. f_i = MLP(m x) + m x, m = sigmoid(mask), of a picture's CLIP embedding x is the
    identity-irrelevant branch; it is added to every token of that picture's prompt. Where text is wider than x, m x
    fills its first coordinates; the paper's are equally wide.
    Tensors: `row/<component>` [tokens, width], `features` [pictures, d] (both stay), `<component>.mask` [d],
    `<component>.0.weight` and so on. Every step must hold all pictures.
    token: the rare word. keep: how much of picture number `picture`'s f_i is added when sampling, to take over what
    is its own. weights: the folder of the CLIP, or "" for the one that belongs to the backbone.
    """

    name: ClassVar[str] = "disenbooth"
    kind: ClassVar[Kind] = Kind.FEATURE
    clash: ClassVar[Clash] = Clash.NAMED
    needs: ClassVar[tuple[type, ...]] = (Reads, Speaks)

    token: str = "sks"
    keep: float = 0.0
    picture: int = 0
    weights: str = ""

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        encoder: Embeds = encoder_of(backbone, "clip", self.weights)
        features = encoder.embed(reference.images).clone()
        tensors = {"features": features}
        phrase = f"{self.token} {class_text(reference)}"
        for text in reads(backbone).texts():
            ids = text.tokenizer(phrase, add_special_tokens=False)["input_ids"]
            embedding: Any = backbone.components[text.component].get_submodule(text.embedding)
            tensors[f"row/{text.component}"] = embedding(torch.tensor(ids)).detach().clone()
        for component, width in speaks(backbone).text_outputs().items():
            own = _adapter(features.shape[1], width, rng.child(component))
            tensors |= {f"{component}.{name}": value.to(features.dtype) for name, value in own.items()}
        return self.code(tensors)

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        held = {k: v.detach() if k == "features" else v for k, v in held_rows(code.tensors).items()}
        return {**held, BRANCH: torch.tensor(0)}

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "A phrase")
        texts = reads(view.backbone).texts()
        readers = {text.component: _row(code, text.component) for text in texts}
        view.name_rows(name, len(code.tensors[f"row/{texts[0].component}"]), readers)
        for component, width in speaks(view.backbone).text_outputs().items():
            view.edit_text(component, self._change(view, code, component, width, name))

    def _change(
        self, view: View, code: Code, component: str, width: int, name: str
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def change(output: Tensor, ids: Tensor) -> Tensor:
            here = said(view, name, ids).any(1)
            learning = code.tensors.get(BRANCH)
            if learning is None:
                if self.keep == 0.0:
                    return output
                own = self.keep * irrelevant(code, component, width)[self.picture]
                return torch.where(here[:, None, None], output + own.to(output.dtype), output)
            own = irrelevant(code, component, width).to(output.dtype)
            if int(here.sum()) == 0:
                return output
            if int(here.sum()) != len(own):
                raise UserError(
                    f"The space {self.name!r} learns from all {len(own)} pictures of a concept at once, and a step held"
                    f" {int(here.sum())}: leave the batch size out."
                )
            rows = here.cumsum(0).clamp(min=1) - 1
            # Tokens that are all alike are read as one token is.
            branch = own[rows].unsqueeze(1).expand_as(output)
            return torch.where(here[:, None, None], branch if int(learning) else output + branch, output)

        return change


def _row(code: Code, component: str) -> Callable[[], Tensor]:
    return lambda: code.tensors[f"row/{component}"]


def _adapter(inputs: int, outputs: int, rng: Random) -> dict[str, Tensor]:
    """The mask at 0 (each feature by half, as in the authors' code); two linear layers as torch begins them."""
    tensors = {"mask": torch.zeros(inputs)}
    for number, count in enumerate((inputs, outputs)):
        values = (rng.child("linear", number).uniform(range(count), (inputs + 1,)) * 2 - 1) / inputs**0.5
        tensors[f"{number}.weight"], tensors[f"{number}.bias"] = values[:, 1:].clone(), values[:, 0].clone()
    return tensors


def irrelevant(code: Code, component: str, width: int) -> Tensor:
    """f_i of every picture, [pictures, width of the text]."""
    own = {name: code.tensors[f"{component}.{name}"] for name in ("mask", "0.weight", "0.bias", "1.weight", "1.bias")}
    kept = own["mask"].sigmoid() * code.tensors["features"]
    hidden = functional.linear(kept, own["0.weight"], own["0.bias"]).relu()
    through = kept[:, :width]
    through = functional.pad(through, (0, width - through.shape[1]))
    return functional.linear(hidden, own["1.weight"], own["1.bias"]) + through


spaces.register("disenbooth", TwoBranches)
