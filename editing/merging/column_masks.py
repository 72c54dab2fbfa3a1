"""ZipLoRA (Shah et al. 2024): two low-rank changes through learnt masks of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contract.abilities import Denoises, Reads, Tunable
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.space import spaces
from unified.contract.target import Target
from unified.contract.view import View
from unified.merging import Merge, codes_in, kept, merges, united

_SPACE = "lora"
Pair = tuple[Tensor, Tensor]  # down [rank, in], up [out, rank] with all scales in it


@dataclass(frozen=True)
class ColumnMasks(Merge):
    """dW = m1 dW1 + m2 dW2 with one factor for each column of each matrix, learnt so that (equation 3)
    the merged model says of each concept's pictures what that concept alone does, and columns are not shared:
    |D_merged - D_1|^2 + |D_merged - D_2|^2 + penalty mean |m1 m2|, from m1 = m2 = 1.

    A stored concept has no pictures of its own with it: they are drawn from it, `pictures` of each, where the paper
    takes those that it was trained on. The masks end up in the matrices, so the result is an ordinary LoRA.
    """

    name: ClassVar[str] = "column-masks"
    needs: ClassVar[tuple[type, ...]] = (Denoises, Reads, Tunable)
    summary: ClassVar[str] = "two LoRAs, each through a learnt factor per column (ZipLoRA)"
    cite: ClassVar[str] = "Shah et al. 2024, ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs, equation 3"

    steps: int = 100
    lr: float = 1e-2
    penalty: float = 1e-2
    pictures: int = 4
    sentence: str = "a photo of {}"

    def refuse(self, concepts: Sequence[Concept]) -> str | None:
        if len(concepts) != 2:
            return f"it takes two concepts, and {len(concepts)} were given; merge the result with the next one"
        for concept in concepts:
            if not codes_in(concept, _SPACE):
                return f"{concept.name} has no LoRA; invert with dreambooth-lora"
        return None

    def merged(self, backbone: Backbone, concepts: Sequence[Concept], *, rng: Random, progress: Progress) -> Concept:
        assert isinstance(backbone, Tunable)
        component = backbone.adaptable()[0]
        pairs = [_pairs(concept, component) for concept in concepts]
        # Only what both change is masked: there is nothing to tell apart elsewhere.
        shared = sorted(pairs[0].keys() & pairs[1].keys())
        masks = [{path: torch.ones_like(own[path][0][0]) for path in shared} for own in pairs]
        code: Code = spaces.get(_SPACE)().code(masked(pairs, masks), component=component)
        others = [
            each
            for number, concept in enumerate(concepts)
            for each in kept(concept, without=[], first=number == 0)
            if each.space != _SPACE or each.meta["component"] != component
        ]
        found = united(concepts, [*others, code])
        lessons = [self._lesson(backbone, concept, rng.child(i)) for i, concept in enumerate(concepts)]
        with torch.enable_grad(), backbone.bound(found) as view:
            self._train(view, code, pairs, masks, lessons, rng.child("train"), progress)
        code.tensors = {key: value.detach() for key, value in masked(pairs, masks).items()}
        rank = max(len(value) for key, value in code.tensors.items() if key.endswith(".down"))
        code.meta["settings"] = spaces.get(_SPACE)(rank=rank).settings()  # type: ignore[call-arg]
        return found

    def _lesson(self, backbone: Backbone, concept: Concept, rng: Random) -> tuple[Concept, Tensor]:
        """The concept, and latents [pictures, ...] of pictures that it draws by itself."""
        assert isinstance(backbone, Denoises)
        target = Target(prompt=self.sentence.format(concept.name), n=self.pictures)
        with torch.no_grad(), backbone.bound(concept) as view:
            return concept, backbone.sample_latents(view, target, rng=rng)

    def _train(
        self,
        view: View,
        code: Code,
        pairs: Sequence[Mapping[str, Pair]],
        masks: Sequence[dict[str, Tensor]],
        lessons: Sequence[tuple[Concept, Tensor]],
        rng: Random,
        progress: Progress,
    ) -> None:
        leaves = [mask.requires_grad_() for own in masks for mask in own.values()]
        if not leaves:
            return
        optimizer = torch.optim.Adam(leaves, lr=self.lr)
        progress.start(self.name, self.steps)
        for step in range(self.steps):
            loss = self.penalty * shared_columns(masks)
            code.tensors = masked(pairs, masks)
            for number, (concept, latents) in enumerate(lessons):
                loss = loss + self._mismatch(view, concept, latents, rng.child(step, number))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance(step + 1, loss=float(loss.detach()))
        progress.finish()
        for mask in leaves:
            mask.requires_grad_(False)

    def _mismatch(self, view: View, concept: Concept, latents: Tensor, rng: Random) -> Tensor:
        """How far the merged view is from the concept alone, on one of its pictures at a random level."""
        backbone: Any = view.backbone
        x0 = latents[rng.integers([0], 0, len(latents))]
        time, a, s = backbone.random_levels(rng.child("level").uniform([0]))
        wide = (-1, *([1] * (x0.ndim - 1)))
        x = a.view(wide).to(x0.dtype) * x0
        x = x + s.view(wide).to(x0.dtype) * rng.child("eps").normal([0], x0.shape[1:], dtype=x0.dtype)
        prompt = self.sentence.format(concept.name)
        with torch.no_grad(), backbone.bound(concept) as alone:
            wanted = backbone.predict(alone, x, time, backbone.condition(alone, [alone.carry(prompt)]))
        said = backbone.predict(view, x, time, backbone.condition(view, [view.carry(prompt)]))
        return torch.nn.functional.mse_loss(said, wanted)


def _pairs(concept: Concept, component: str) -> dict[str, Pair]:
    """(down, up) of every matrix of the component that the concept's LoRAs change; several LoRAs side by side."""
    found: dict[str, Pair] = {}
    for code in codes_in(concept, _SPACE):
        if code.meta["component"] != component:
            continue
        settings = code.meta.get("settings", {})
        rank = settings.get("rank", 8)
        scale = concept.weight * (settings.get("alpha") or rank) / rank
        for key in code.tensors:
            path, _, part = key.rpartition(".")
            if part != "up":
                continue
            down, up = code.tensors[f"{path}.down"].detach(), scale * code.tensors[key].detach()
            before = found.get(path)
            found[path] = (
                (down, up) if before is None else (torch.cat([before[0], down]), torch.cat([before[1], up], 1))
            )
    return found


def masked(pairs: Sequence[Mapping[str, Pair]], masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of one LoRA that is the sum of the masked ones: a column's factor goes into `down`."""
    tensors: dict[str, Tensor] = {}
    for path in sorted({path for own in pairs for path in own}):
        own = [(pair[path], mask.get(path)) for pair, mask in zip(pairs, masks, strict=True) if path in pair]
        downs = [down if factor is None else down * factor for (down, _), factor in own]
        tensors[f"{path}.down"] = torch.cat(downs)
        tensors[f"{path}.up"] = torch.cat([up for (_, up), _ in own], 1)
    return tensors


def shared_columns(masks: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """mean |m1 m2| over all columns."""
    return torch.cat([(masks[0][path] * masks[1][path]).abs() for path in masks[0]]).mean()


merges.register(ColumnMasks.name, ColumnMasks())
