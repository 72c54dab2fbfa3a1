"""Chameleon as a backbone that reads: transformers has its image encoder, but not its decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from backbones.autoregressive.image_tokenizer import check_sides
from backbones.autoregressive.layout import PromptLayout, VisualVocabulary
from backbones.autoregressive.network import Network, joint_network
from backbones.autoregressive.prompt import PromptBuilder
from backbones.autoregressive.token_reader import BuiltPrompts
from unified.contract.backbone import backbones
from unified.contract.random import Random
from unified.contract.target import Target
from unified.contract.view import View
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import ChameleonForConditionalGeneration, PreTrainedTokenizerBase

_NO_DECODER = "the decoder of Chameleon's image tokens is not part of transformers"

#: The tokens around a picture in the released checkpoints.
CHAMELEON_LAYOUT = PromptLayout(
    begin="<s>",
    image_start="<racm3:break>",
    image_token=None,
    end_of_line=None,
    end_of_frame=None,
    image_end="<eoss>",
    end="</s>",
    pad="<pad>",
    size_text=False,
    height=32,
    width=32,
)


class ChameleonEncoder:
    """Pictures to codes. vq: the model's `ChameleonVQVAE`."""

    def __init__(self, vq: Any) -> None:
        self.vq = vq
        self.factor = 2 ** (len(vq.config.channel_multiplier) - 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes [N,h,w] of images [N,3,H,W] in 0..1."""
        check_sides(images, self.factor)
        pixels = (images * 2 - 1).to(next(self.vq.parameters()).dtype)
        found: Tensor = self.vq.encode(pixels).image_tokens
        return found.view(len(images), images.shape[-2] // self.factor, images.shape[-1] // self.factor)


class Chameleon(BuiltPrompts):
    """A frozen Chameleon (Chameleon team 2024): words and weights can be learnt, pictures not be drawn.

    Its own forward pass hides the logits of visual tokens; they are computed here from the output head.
    """

    name: ClassVar[str] = "chameleon"
    default_recipe: ClassVar[str] = "two-stage"
    lacking: ClassVar[Mapping[str, str]] = {
        "Tokenises": _NO_DECODER,
        "Quantises": _NO_DECODER,
        "Remembers": "its layers normalise queries and keys, which keys given from outside would have to follow",
    }

    def __init__(
        self,
        id: str,
        model: ChameleonForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        layout: PromptLayout = CHAMELEON_LAYOUT,
    ) -> None:
        super().__init__(id, {"model": model})
        self.encoder: ChameleonEncoder = ChameleonEncoder(model.model.vqmodel)
        side = int(model.config.vq_config.resolution) // self.encoder.factor
        self.layout = replace(layout, height=side, width=side)
        ids = model.model.vocabulary_mapping.img2bpe
        self.vocabulary = VisualVocabulary(torch.tensor([ids[code] for code in range(len(ids))]))
        self.builder = PromptBuilder(tokenizer, self.vocabulary, self.layout)
        self.tokenizer = tokenizer
        self.size = (side, side)
        self.pad = self.builder.pad
        self.length = int(model.config.max_position_embeddings)

    def tunable(self) -> tuple[str, Sequence[str]]:
        names = [name for name, _ in self.components["model"].named_parameters()]
        return "model", [n for n in names if ".layers." in n and ".vqmodel." not in n]

    def network(self, view: View) -> Network:
        model: Any = view.component("model")
        return joint_network(model, model.model, self.vocabulary)

    def expected_picture(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        raise UserError(f"No picture can be rendered: {_NO_DECODER}. Use objectives of the likelihood alone.")

    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        raise UserError(
            f"{self.id} cannot draw: {_NO_DECODER}. It can explain pictures, and be inverted in 'word', 'lora' and"
            " 'weights'; draw with an Emu3 or a Janus."
        )


def load_chameleon(folder: Path, id: str) -> Chameleon:
    """Read a local folder in transformers' format. Raises UserError when it cannot be read."""
    from transformers import AutoTokenizer, ChameleonForConditionalGeneration

    try:
        model = ChameleonForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read as a Chameleon checkpoint: {error}") from error
    return Chameleon(id, model, tokenizer)


backbones.register(Chameleon.name, Chameleon)
