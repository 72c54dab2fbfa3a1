"""What all backbones share that draw a picture token by token in raster order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from backbones.autoregressive.decoder import Appended, Decoder
from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.prompt import PromptBatch
from backbones.autoregressive.readers import read_whole
from backbones.autoregressive.sampling import draw_codes
from backbones.autoregressive.token_reader import BATCH, TokenReader
from backbones.autoregressive.token_sampling import Grid, on_grid
from unified.contract.attempt import Attempt
from unified.contract.kinds import Evidence
from unified.contract.memory import Memory
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError
from unified.sampling import override


class TokenBackbone(TokenReader):
    """A model that also draws: its tokenizer decodes, and its layers are those that `Decoder` computes.

    images: the tokenizer, of the pristine model.
    """

    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD, Evidence.RENDER)
    images: ImageTokenizer

    @abstractmethod
    def plain_ids(self, text: str, pictures: Sequence[Tensor], *, begin: bool) -> PromptBatch:
        """One line: the beginning if asked for, pictures, text; nothing that opens a new picture."""

    def unconditional(self, view: View, text: str, prompts: Sequence[str]) -> PromptBatch:
        """What guidance of `prompts` goes away from: the negative prompt `text` without pictures."""
        return self.prompts(view, [text] * len(prompts))

    # --- Tokenises, Quantises -----------------------------------------------------------------------------

    def decode_codes(self, view: View, codes: Tensor) -> Tensor:
        return self.images.decode(codes)

    def token_latents(self, view: View, images: Tensor) -> Tensor:
        return torch.cat([self.images.latents(part) for part in images.split(BATCH)])

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.quantize(latents)

    def vectors_of(self, codes: Tensor) -> Tensor:
        return self.images.lookup(codes)

    def candidates(self, view: View, images: Tensor, count: int) -> Tensor:
        latents = self.token_latents(view, images)
        table = self.images.codebook
        distances = torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), table)
        nearest = distances.topk(min(count, len(table)), largest=False).indices
        return nearest.view(len(latents), *latents.shape[2:], -1).permute(0, 3, 1, 2)

    def decode_vectors(self, view: View, vectors: Tensor) -> Tensor:
        return self.images.decode_embeddings(vectors)

    # --- Remembers ----------------------------------------------------------------------------------------

    def memory_shape(self) -> tuple[int, int, int]:
        with self.bound() as view:
            decoder = Decoder(self.network(view).trunk)
        return len(decoder.layers), decoder.kept_heads, decoder.width

    def remember(self, view: View, text: str, pictures: Tensor | None = None) -> Memory:
        opens = pictures is not None
        batch = self.plain_ids(text, () if pictures is None else list(pictures), begin=opens)
        network, store = self.network(view), Appended()
        embeddings = network.embed(batch.ids) if batch.embeddings is None else batch.embeddings
        read_whole(Decoder(network.trunk), embeddings, batch.mask, store)
        keys, values = store.stacked()
        return Memory(keys[:, 0], values[:, 0], keys.new_zeros(len(keys), keys.shape[3]), opens)

    def embeddings_of(self, view: View, text: str, pictures: Tensor | None = None) -> Tensor:
        network = self.network(view)
        found = []
        if pictures is not None:
            found.append(network.embed_codes(pictures.flatten(1)).flatten(0, 1))
        batch = self.plain_ids(text, (), begin=False)
        if batch.ids.shape[1]:
            found.append(network.embed(batch.ids)[0])
        return torch.cat(found)

    def memory_of_inputs(self, view: View, inputs: Tensor) -> Memory:
        decoder = Decoder(self.network(view).trunk)
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        made = [decoder.keys_and_values(i, hidden, positions) for i, hidden in enumerate(inputs)]
        blank = torch.zeros_like(made[0][0])
        unseen = len(decoder.layers) - len(made)
        keys = torch.stack([*(k for k, _ in made), *[blank] * unseen])
        values = torch.stack([*(v for _, v in made), *[blank] * unseen])
        bias = keys.new_zeros(len(decoder.layers), inputs.shape[1])
        bias[len(made) :] = -torch.inf
        return Memory(keys, values, bias)

    # --- Backbone -----------------------------------------------------------------------------------------

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Likelihood: nats of each visual token, [B, h*w]. Render: squared pixels of the bound tokens' picture."""
        if evidence is Evidence.LIKELIHOOD:
            return super().attempt(view, reference, rng=rng, prompts=prompts, evidence=evidence)
        if "token-vectors" not in view.slots:
            raise UserError(
                "There are no visual tokens to render: invert in space='token-latents', or explain pictures by"
                " likelihood."
            )
        image = self.decode_vectors(view, view.slots["token-vectors"].rows(reference.index))
        return Attempt((image - reference.images).square(), reference, lambda: image)

    def expected_picture(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        vectors = logits.softmax(-1) @ self.images.codebook.to(logits.dtype)
        return self.images.decode_embeddings(vectors.transpose(1, 2).unflatten(2, tuple(size)))

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        settings = override(self.sampling, target.sampling)
        tokens = view.slots.get("tokens")
        if tokens is not None and not target.prompt and settings.redraw is None:
            count = target.n or tokens.code.pictures or 1
            return self.decode_codes(view, tokens.rows(range(count)))
        count = target.n or (tokens.code.pictures if tokens is not None and settings.redraw is not None else 0) or 1
        height, width = self.size
        with torch.no_grad():
            references = [self._context(view, first=i) for i in range(count)]
            forced = None
            if settings.redraw is not None:
                forced = self._kept(view, settings.redraw, count)
            elif tokens is not None:
                known = tokens.code.pictures or 1
                most = min(settings.references, known)
                for i, line in enumerate(references):
                    line += list(tokens.rows([(i + k) % known for k in range(most)]))
            memory = self.bound_memory(view)
            begin = memory is None or not memory.opens
            texts = [view.carry(target.prompt)] * count
            prompts = self.prompts(view, texts, references=references, begin=begin)
            slots = self.slots(height, width)
            self._check_length(prompts, slots, memory)
            unconditional = None
            if settings.guidance != 1:
                unconditional = self.unconditional(view, view.carry(target.negative_prompt), texts)
            gate = None if settings.gate is None else on_grid(settings.gate, self.size, what="gate").flatten()
            codes = draw_codes(
                self.network(view),
                prompts,
                slots=slots,
                generators=[rng.generator("tokens", i) for i in range(count)],
                settings=settings.drawing(),
                unconditional=unconditional,
                forced=forced,
                memory=memory,
                gate=gate,
                pad=self.pad,
            )
            return self.decode_codes(view, codes.view(count, height, width))

    def _kept(self, view: View, redraw: Grid, count: int) -> Tensor:
        """Codes [count, h*w] to keep, -1 where they are drawn anew."""
        if "tokens" not in view.slots:
            raise UserError("There are no visual tokens to keep: bind a concept inverted with recipe='tokenize'.")
        codes = view.slots["tokens"].rows(range(count))
        if codes.shape[1:] != self.size:
            raise UserError(f"The bound picture has {tuple(codes.shape[1:])} tokens; new ones have {self.size}.")
        drawn = on_grid(redraw, self.size, what="redraw") > 0.5
        kept: Tensor = codes.masked_fill(drawn.to(codes.device), -1)
        return kept.flatten(1)
