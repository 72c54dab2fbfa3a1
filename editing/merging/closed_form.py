"""The closed-form merge of Custom Diffusion (Kumari et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Attends, ReadsByLayer, Speaks
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.shadow import pristine_tensor
from unified.encodings import encodings, inverse_covariance
from unified.merging import Merge, codes_in, kept, merges, united

_SPACE = "kv"


@dataclass(frozen=True)
class ClosedForm(Merge):
    """Keys and values that say of each concept's words what its own do, and of other texts nearly what they did.

    min |(W' - W) C^1/2| with W' K*^T = V*^T (equation 4), where the rows of K* are the encodings of all concepts'
    words and those of V* what each concept's own weights make of them. C is the covariance of the encodings of
    everyday sentences, where the paper has 1000 captions. `ridge`, a share of the mean diagonal, is added to C and
    to K* C^-1 K*^T: words of one class have nearly equal encodings, and then the exact solution is huge.
    """

    name: ClassVar[str] = "closed-form"
    needs: ClassVar[tuple[type, ...]] = (Attends, ReadsByLayer, Speaks)
    summary: ClassVar[str] = "keys and values of several concepts by constrained least squares"
    cite: ClassVar[str] = "Kumari et al. 2023, Multi-Concept Customization of Text-to-Image Diffusion, equation 4"

    ridge: float = 1e-3
    sentence: str = "a photo of {}"

    def refuse(self, concepts: Sequence[Concept]) -> str | None:
        for concept in concepts:
            if not codes_in(concept, _SPACE):
                spaces = ", ".join(dict.fromkeys(code.space for code in concept.codes))
                return (
                    f"{concept.name} has no keys and values of its own (it has {spaces}); invert with custom-diffusion"
                )
        return None

    def merged(self, backbone: Backbone, concepts: Sequence[Concept], *, rng: Random, progress: Progress) -> Concept:
        with torch.no_grad():
            rows = [self._words(backbone, concept) for concept in concepts]
            metric = inverse_covariance(backbone, self.ridge)
            first = codes_in(concepts[0], _SPACE)[-1]
            module = backbone.components[first.meta["component"]]
            tensors: dict[str, Tensor] = {}
            for path in first.tensors:
                base = pristine_tensor(module, path)
                values = [
                    own @ (base + concept.weight * (codes_in(concept, _SPACE)[-1].tensors[path] - base)).T
                    for own, concept in zip(rows, concepts, strict=True)
                ]
                tensors[path] = least_change(base, torch.cat(rows), torch.cat(values), metric, ridge=self.ridge)
        others = [
            code
            for number, concept in enumerate(concepts)
            for code in kept(concept, without=[_SPACE], first=number == 0)
        ]
        return united(concepts, [*others, first.with_tensors(tensors)])

    def _words(self, backbone: Backbone, concept: Concept) -> Tensor:
        """Encodings [tokens, width] of a concept's name in a sentence, read with its own words."""
        assert isinstance(backbone, Attends)
        with backbone.bound(concept) as view:
            prompt = view.carry(self.sentence.format(concept.name))
            said = backbone.token_places(view, [prompt], view.carry(concept.name))[0]
            return encodings(view, [prompt])[0, said]


def least_change(base: Tensor, keys: Tensor, values: Tensor, metric: Tensor, *, ridge: float = 0.0) -> Tensor:
    """W' = W + v^T d with d = K* C^-1 and v = (V*^T - W K*^T)(d K*^T)^-1: [out, in].

    base W [out, in], keys K* [s, in], values V* [s, out], metric C^-1 [in, in]. With ridge 0, W' K*^T = V*^T exactly.
    """
    wide = keys.double()
    along = wide @ metric.double()
    gram = along @ wide.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    missing = values.double() - wide @ base.double().T
    return base + (missing.T @ torch.linalg.solve(gram, along)).to(base.dtype)


merges.register(ClosedForm.name, ClosedForm())
