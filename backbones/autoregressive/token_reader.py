"""What all backbones share that read text and visual tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from backbones.autoregressive.answering import answer_nats
from backbones.autoregressive.network import Network
from backbones.autoregressive.prompt import PromptBatch, PromptBuilder, left_pad, named_ids
from backbones.autoregressive.sampling import teacher_forced
from backbones.autoregressive.token_sampling import TokenSampling
from unified.contract.abilities import TextComponent
from unified.contract.attempt import Attempt
from unified.contract.backbone import Backbone
from unified.contract.kinds import Evidence
from unified.contract.memory import Memory, join_memories
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.view import View
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 64  # pictures that are tokenised at a time
_ADAPTED = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")


class Encodes(Protocol):
    """Pictures to visual tokens. factor: pixels a side of one token."""

    @property
    def factor(self) -> int: ...

    def encode(self, images: Tensor) -> Tensor:
        """Codes [N,h,w] of images [N,3,H,W] in 0..1."""
        ...


class TokenReader(Backbone):
    """A frozen model that reads text and visual tokens. Subclasses say how its parts are put together.

    encoder: pictures to codes, of the pristine model: no space changes its tokenizer.
    tokenizer: text to ids. size: height and width of its pictures in tokens. length: tokens that its context holds.
    """

    label: ClassVar[str] = "autoregressive"
    evidences: ClassVar[tuple[Evidence, ...]] = (Evidence.LIKELIHOOD,)
    sampling: TokenSampling = TokenSampling()
    encoder: Encodes
    tokenizer: PreTrainedTokenizerBase
    size: tuple[int, int]
    length: int
    pad: int = 0

    @abstractmethod
    def network(self, view: View) -> Network:
        """The model as the view sees it."""

    @abstractmethod
    def prompts(
        self,
        view: View,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[Tensor]] = (),
        size: tuple[int, int] | None = None,
        begin: bool = True,
    ) -> PromptBatch:
        """Prompts with the view's names in them; `references`: codes [h,w] shown to each prompt."""

    @abstractmethod
    def slots(self, height: int, width: int) -> Tensor:
        """The tokens of a picture in order, see `PromptBuilder.slots`."""

    @abstractmethod
    def tunable(self) -> tuple[str, Sequence[str]]:
        """As in `Tunable`."""

    def adaptable(self) -> tuple[str, Sequence[str]]:
        return "model", [n for n in self.tunable()[1] if n.endswith(_ADAPTED)]

    def texts(self) -> Sequence[TextComponent]:
        model: Any = self.components["model"]
        embedding = model.get_input_embeddings()
        path = next(name for name, module in model.named_modules() if module is embedding)
        return [TextComponent("model", path, embedding.embedding_dim, self.tokenizer, self.length)]

    @property
    def resolution(self) -> int:
        return self.size[0] * self.encoder.factor

    def codes(self, view: View, images: Tensor) -> Tensor:
        return torch.cat([self.encoder.encode(part) for part in images.split(BATCH)])

    def logits(self, view: View, prompts: Sequence[str], codes: Tensor) -> Tensor:
        return self._logits(view, prompts, codes, references=[[] for _ in prompts])

    def _logits(
        self, view: View, prompts: Sequence[str], codes: Tensor, *, references: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        height, width = codes.shape[1:]
        memory = self.bound_memory(view)
        begin = memory is None or not memory.opens
        batch = self.prompts(view, prompts, references=references, size=(height, width), begin=begin)
        slots = self.slots(height, width)
        self._check_length(batch, slots, memory)
        return teacher_forced(self.network(view), batch, codes.flatten(1), slots=slots, memory=memory)

    def _context(self, view: View, *, first: int = 0, except_for: int | None = None) -> list[Tensor]:
        """Codes of the pictures bound to stand in the context, of every concept as many as `references` says.

        first: picture to begin with, so that several samples show more than one view of the concept; 0 where
        `except_for` is given.
        except_for: a picture that is being explained: it must not be shown itself.
        """
        shown: list[Tensor] = []
        for key, slot in view.slots.items():
            if key.startswith("context/"):
                known = slot.code.pictures or 1
                most = min(slot.code.meta["settings"]["references"], known)
                # Where all are shown they come in one order, so that all samples share what is read of them.
                begin = first if most < known else 0
                order = [(begin + k) % known for k in range(known) if k != except_for]
                shown += list(slot.rows(order[:most]))
        return shown

    def most_pictures(self) -> int:
        """Of this model's own size; the text takes some room too."""
        height, width = self.size
        new = len(self.slots(height, width))
        return (self.length - new) // (new + 2) - 1

    def _check_length(self, prompts: PromptBatch, slots: Tensor, memory: Memory | None) -> None:
        longest = int(prompts.mask.sum(1).max()) + len(slots) + (0 if memory is None else len(memory))
        if longest > self.length:
            raise UserError(
                f"The prompt, its reference pictures and the new picture take {longest} tokens; {self.id} reads"
                f" {self.length}. Show fewer pictures (references=...) or shorten the prompt."
            )

    def bound_memory(self, view: View) -> Memory | None:
        """All memories bound to the view, side by side."""
        return join_memories([slot.read() for key, slot in view.slots.items() if key.startswith("memory/")])

    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Nats of each visual token, [B, h*w]; pictures of a bound context stand before each, except itself."""
        codes = reference.once(("codes", id(self)), lambda images: self.codes(view, images))
        shown = [self._context(view, except_for=i) for i in reference.index]
        logits = self._logits(view, prompts, codes, references=shown)
        error = functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
        return Attempt(error, reference, lambda: self.expected_picture(logits, codes.shape[1:]))

    # --- Answers ------------------------------------------------------------------------------------------

    def answer_error(
        self, view: View, reference: Reference, questions: Sequence[str], answers: Sequence[str]
    ) -> Tensor:
        network, memory = self.network(view), self.bound_memory(view)
        begin = memory is None or not memory.opens
        asked = [
            self.question(view, network, picture, text, begin=begin)
            for picture, text in zip(self.read_pictures(view, reference), questions, strict=True)
        ]
        said = [
            list(self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]) if text.strip() else []
            for text in answers
        ]
        return answer_nats(network, asked, said, pad=self.pad, memory=memory)

    def read_pictures(self, view: View, reference: Reference) -> Tensor:
        """What stands for each picture where a question is asked about it: its codes [N,h,w]."""
        found: Tensor = reference.once(("codes", id(self)), lambda images: self.codes(view, images))
        return found

    @abstractmethod
    def question(self, view: View, network: Network, picture: Tensor, text: str, *, begin: bool) -> Tensor:
        """Embeddings [L,D] of a picture (a row of `read_pictures`) and a question about it."""

    @abstractmethod
    def expected_picture(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """The picture of the expected code vectors, from logits [B,h*w,K]."""


class BuiltPrompts(TokenReader):
    """A reader whose prompts a `PromptBuilder` writes."""

    builder: PromptBuilder

    def slots(self, height: int, width: int) -> Tensor:
        return self.builder.slots(height, width)

    def prompts(
        self,
        view: View,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[Tensor]] = (),
        size: tuple[int, int] | None = None,
        begin: bool = True,
    ) -> PromptBatch:
        shown = references or [()] * len(prompts)
        lines = [
            self.builder.prompt_ids(named_ids(self.tokenizer, text, view.rows), codes, size=size, begin=begin)
            for text, codes in zip(prompts, shown, strict=True)
        ]
        return left_pad(lines, self.pad)

    def question(self, view: View, network: Network, picture: Tensor, text: str, *, begin: bool) -> Tensor:
        ids = self.builder.beginning() if begin else []
        ids += [*self.builder.picture_ids(picture), *named_ids(self.tokenizer, text, view.rows)]
        return network.embed(torch.tensor([ids]))[0]
