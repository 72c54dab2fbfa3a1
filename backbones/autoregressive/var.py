"""The next-scale model as a backbone (VAR, Tian et al. 2024; text by cross-attention as in Infinity)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.next_scale import NextScale, Read
from backbones.autoregressive.scale_memories import Memories, memories_for
from backbones.autoregressive.scale_sampling import draw_scales
from backbones.autoregressive.token_sampling import Grid, on_grid
from backbones.autoregressive.var_parts import MODEL_TYPE, VarParts, load_parts
from backbones.autoregressive.var_sampling import VarSampling
from unified.contract.abilities import TextComponent
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone, backbones
from unified.contract.kinds import Evidence
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.scale_memory import ScaleMemory
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError
from unified.loading import Loader, loaders
from unified.sampling import override

_ADAPTED = ("query.weight", "key.weight", "value.weight", "outer.weight")


class Var(Backbone):
    """A frozen next-scale model. Its visual tokens are [N,1,tokens], the scales one after the other."""

    name: ClassVar[str] = "var"
    label: ClassVar[str] = "autoregressive"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD, Evidence.RENDER)
    default_recipe: ClassVar[str] = "two-stage"
    sampling: VarSampling = VarSampling()
    lacking: ClassVar[Mapping[str, str]] = {
        "ReadsPictures": "it was trained on text alone",
        "Answers": "it makes pictures, not words",
        "Remembers": "it draws whole scales, which have no sequence to stand before",
    }

    def __init__(self, id: str, parts: VarParts) -> None:
        super().__init__(id, {"model": parts.model, "tokenizer": parts.tokenizer})
        self.parts = parts
        # Pictures are tokenised by the pristine tokenizer: no space changes it.
        self.images = parts.tokenizer

    @property
    def resolution(self) -> int:
        return self.images.settings.sides[-1] * self.images.factor

    def tunable(self) -> tuple[str, Sequence[str]]:
        names = [name for name, _ in self.components["model"].named_parameters()]
        return "model", [name for name in names if not name.startswith("embedding.")]

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "model", [n for n in self.tunable()[1] if n.startswith("blocks.") and n.endswith(_ADAPTED)]

    def texts(self) -> Sequence[TextComponent]:
        settings = self.parts.model.settings
        return [TextComponent("model", "embedding", settings.width, self.parts.text, settings.text)]

    def scale_sizes(self) -> Sequence[int]:
        return [side * side for side in self.images.settings.sides]

    # --- Tokenises, Quantises -----------------------------------------------------------------------------

    def codes(self, view: View, images: Tensor) -> Tensor:
        return self.images.encode(images).unsqueeze(1)

    def decode_codes(self, view: View, codes: Tensor) -> Tensor:
        return self.images.decode(codes.flatten(1))

    def logits(self, view: View, prompts: Sequence[str], codes: Tensor) -> Tensor:
        inputs = self.images.inputs(codes.flatten(1))
        text, memories = self.read(view, prompts), self.memories(view, prompts)
        beside = None if memories is None else memories.beside(slice(None), rows=len(prompts))
        found: Tensor = self._model(view)(text, inputs, beside)
        return found

    def token_latents(self, view: View, images: Tensor) -> Tensor:
        return self.images.latents(images)

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        vectors, codes = self.images.quantize(latents)
        return vectors, codes.unsqueeze(1)

    def vectors_of(self, codes: Tensor) -> Tensor:
        return self.images.sums(codes.flatten(1))[-1]

    def candidates(self, view: View, images: Tensor, count: int) -> Tensor:
        """Nearest to the residuals that the nearest codes of the coarser scales leave."""
        assigned = self.images.rounding(self.images.latents(images)).assigned
        nearest = self.images.nearest(assigned.transpose(1, 2).unsqueeze(2), count=count)
        return nearest

    def decode_vectors(self, view: View, vectors: Tensor) -> Tensor:
        return self.images.decode_vectors(vectors)

    # --- RemembersScales, Rectifies -----------------------------------------------------------------------

    def scale_memory_shape(self) -> tuple[int, int, int]:
        settings = self.parts.model.settings
        return settings.depth, settings.heads, settings.width // settings.heads

    def scale_queries(self) -> tuple[str, Sequence[str]]:
        return "model", [f"blocks.{number}.attention.query" for number in range(self.parts.model.settings.depth)]

    def remember_scales(self, view: View, prompt: str, codes: Tensor) -> ScaleMemory:
        model, inputs = self._model(view), self.images.inputs(codes.flatten(1))
        text = self.read(view, [view.carry(prompt)])
        _, kept = model.run(text, model.embed(text, inputs, 0), mask=model.order)
        bias = torch.zeros_like(model.order, dtype=inputs.dtype).masked_fill(~model.order, -torch.inf)
        keys, values = (torch.cat([pair[i] for pair in kept]) for i in (0, 1))
        return ScaleMemory(keys, values, bias.expand(len(keys), -1, -1))

    def memories(self, view: View, prompts: Sequence[str], *, gate: Tensor | None = None) -> Memories | None:
        """What these lines see beside their pictures; gate: [tokens], how much of it each token sees."""
        bound = [slot.read() for key, slot in view.slots.items() if key.startswith("scale-memory/")]
        if not bound:
            return None
        return memories_for(bound, self.parts.lines(prompts, view.rows)[0], view.rows, gate=gate)

    def meaning(self, view: View, texts: Sequence[str]) -> Tensor:
        return self.read(view, texts).pooled

    # --- Backbone -----------------------------------------------------------------------------------------

    def _model(self, view: View) -> NextScale:
        model = view.component("model")
        assert isinstance(model, NextScale)
        return model

    def read(self, view: View, prompts: Sequence[str]) -> Read:
        """The prompts with the view's names in them, as the transformer takes them."""
        model = self._model(view)
        ids, mask = self.parts.lines(prompts, view.rows)
        said = model.encode(ids, mask)
        for key, slot in view.slots.items():
            if key.startswith("taken-out/"):
                directions = slot.read().to(said)
                here = torch.isin(ids, torch.tensor(view.rows[key.removeprefix("taken-out/")]))
                said = torch.where(here[..., None], said - said @ directions.T @ directions, said)
        return model.take(said, mask)

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Likelihood: nats of each visual token, [B,tokens]. Render: squared pixels of the bound tokens' picture."""
        if evidence is Evidence.RENDER:
            if "token-vectors" not in view.slots:
                raise UserError(
                    "There are no visual tokens to render: invert in space='token-latents', or explain pictures by"
                    " likelihood."
                )
            image = self.decode_vectors(view, view.slots["token-vectors"].rows(reference.index))
            return Attempt((image - reference.images).square(), reference, lambda: image)
        codes = reference.once(("codes", id(self)), lambda images: self.codes(view, images))
        logits = self.logits(view, prompts, codes)
        error = functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
        return Attempt(error, reference, lambda: self._expected_picture(logits))

    def _expected_picture(self, logits: Tensor) -> Tensor:
        """The expected code vectors of all scales, decoded."""
        vectors = logits.softmax(-1) @ self.images.codebook.to(logits.dtype)
        sizes, sides = self.scale_sizes(), self.images.settings.sides
        parts: Sequence[Any] = vectors.transpose(1, 2).split(list(sizes), dim=2)
        added = [
            self.images.contribution(scale, part.unflatten(2, (side, side)))
            for scale, (part, side) in enumerate(zip(parts, sides, strict=True))
        ]
        return self.images.decode_vectors(torch.stack(added).sum(0))

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        tokens = view.slots.get("tokens")
        if tokens is not None and settings.redraw is None:
            if target.prompt:
                raise UserError(
                    f"{self.id} reads no pictures beside a prompt: say which part of the bound one to draw anew"
                    " (sampling={'redraw': ...}), or leave the prompt out to decode it."
                )
            return self.decode_codes(view, tokens.rows(range(target.n or tokens.code.pictures or 1)))
        count = target.n or (tokens.code.pictures if tokens is not None else 0) or 1
        with torch.no_grad():
            text = view.carry(target.prompt)
            # Each text is read once, however many pictures are drawn of it.
            read = self.read(view, [text, view.carry(target.negative_prompt)])
            codes = draw_scales(
                self._model(view),
                self.images,
                read.pick([0] * count),
                unconditional=read.pick([1] * count),
                generators=[rng.generator("tokens", i) for i in range(count)],
                settings=settings.drawing(),
                forced=None if settings.redraw is None else self.kept(view, settings.redraw, count),
                memories=self.memories(view, [text] * count, gate=settings.seen(self.images.settings.sides)),
            )
            return self.images.decode(codes)

    def kept(self, view: View, redraw: Grid, count: int) -> Tensor:
        """Bound tokens [count,tokens] to keep, -1 where they are drawn anew."""
        if "tokens" not in view.slots:
            raise UserError("There are no visual tokens to keep: bind a concept inverted with recipe='tokenize'.")
        codes: Tensor = view.slots["tokens"].rows(range(count)).flatten(1)
        drawn = [on_grid(redraw, (side, side), what="redraw").flatten() > 0.5 for side in self.images.settings.sides]
        return codes.masked_fill(torch.cat(drawn).to(codes.device), -1)


def load_folder(path: Path, id: str) -> Backbone:
    """A folder that `VarParts.save` wrote."""
    return Var(id, load_parts(path))


def _is_var(path: Path) -> bool:
    try:
        return bool(json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE)
    except (OSError, ValueError, AttributeError):
        return False


backbones.register(Var.name, Var)
loaders.register(
    "next-scale folder",
    Loader("next-scale folder", _is_var, load_folder, hub=("*.json", "*.safetensors")),
)
