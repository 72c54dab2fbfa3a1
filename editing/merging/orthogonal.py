"""Adding low-rank changes that do not meet (Po et al. 2024, Orthogonal Adaptation)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.merging import Merge, codes_in, kept, merges, united, weighed

_SPACE = "orthogonal-lora"


@dataclass(frozen=True)
class OrthogonalSum(Merge):
    """W + sum of the concepts' changes (equation 4), whose inputs are orthogonal to each other, so that each concept's
    own inputs are changed by its own weights alone.

    Concepts that were inverted in `orthogonal-lora` under names that share directions are refused.
    """

    name: ClassVar[str] = "orthogonal"
    needs: ClassVar[tuple[type, ...]] = (Tunable,)
    summary: ClassVar[str] = "low-rank changes trained in orthogonal directions, added"
    cite: ClassVar[str] = "Po et al. 2024, Orthogonal Adaptation for Modular Customization of Diffusion Models"

    def refuse(self, concepts: Sequence[Concept]) -> str | None:
        for concept in concepts:
            if not codes_in(concept, _SPACE):
                return f"{concept.name} was not trained in orthogonal directions; invert with orthogonal-adaptation"
        for one, other in itertools.combinations(concepts, 2):
            if overlap(codes_in(one, _SPACE)[-1], codes_in(other, _SPACE)[-1]) > 1e-3:
                return (
                    f"{one.name} and {other.name} were trained in the same directions, which follow from their names;"
                    " invert one of them again under another name"
                )
        return None

    def merged(self, backbone: Backbone, concepts: Sequence[Concept], *, rng: Random, progress: Progress) -> Concept:
        codes = [
            weighed(code, concept.weight)
            for number, concept in enumerate(concepts)
            for code in kept(concept, without=(), first=number == 0)
        ]
        return united(concepts, codes)


def overlap(one: Code, other: Code) -> float:
    """Largest cosine between the input directions of two codes at the same weight; 0 where they are orthogonal."""
    largest = 0.0
    for key in one.tensors.keys() & other.tensors.keys():
        if key.endswith(".down"):
            rows = [_unit(code.tensors[key]) for code in (one, other)]
            largest = max(largest, float((rows[0] @ rows[1].T).abs().max()))
    return largest


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1)


merges.register(OrthogonalSum.name, OrthogonalSum())
