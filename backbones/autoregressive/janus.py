"""Janus as a backbone: a language model with embeddings and a head of their own for visual tokens.

Chen et al. 2025, Janus-Pro. Prompts, guidance and sampling are ours: transformers' image mode takes no
reference pictures and no embeddings, and computes everything twice where no guidance is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.autoregressive.drawing import TokenBackbone
from backbones.autoregressive.image_tokenizer import ImageTokenizer, check_sides
from backbones.autoregressive.network import Network
from backbones.autoregressive.prompt import PromptBatch, left_pad, left_pad_embeddings, named_ids
from backbones.autoregressive.token_sampling import TokenSampling, stored_sampling
from unified.contract.backbone import backbones
from unified.contract.reference import Reference
from unified.contract.view import View
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import JanusForConditionalGeneration, PreTrainedTokenizerBase


@dataclass(frozen=True)
class JanusLayout:
    """The texts around a prompt, and the tokens around a picture; those of the released checkpoints."""

    before: str = "<|User|>: "
    after: str = "\n\n<|Assistant|>:"
    image_start: str = "<begin_of_image>"
    image_end: str = "<end_of_image>"


class JanusTokenizer(ImageTokenizer):
    """The VQ model of a Janus. Latents and code vectors have length one, as both had while it was trained.

    (transformers normalises what it decodes, but not what it encodes.)
    """

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vq.config.channel_multiplier) - 1)

    @property
    def codebook(self) -> Tensor:
        return functional.normalize(self.vq.quantize.embedding.weight, dim=-1)

    def latents(self, images: Tensor) -> Tensor:
        check_sides(images, self.factor)
        pixels = ((images - self.mean) / self.std).to(self.codebook.dtype)
        return functional.normalize(self.vq.quant_conv(self.vq.encoder(pixels)), dim=1)

    def nearest(self, latents: Tensor) -> Tensor:
        # Among vectors of length one the nearest is the one with the largest product, whatever the latent's length.
        return torch.einsum("ndhw,kd->nkhw", latents, self.codebook).argmax(1)

    def decode_embeddings(self, vectors: Tensor) -> Tensor:
        pixels: Tensor = self.vq.decoder(self.vq.post_quant_conv(vectors))
        return pixels * self.std + self.mean


class Janus(TokenBackbone):
    """A frozen Janus. Its pictures have one size; reference pictures stand in the prompt as visual tokens.

    Janus was trained to read pictures through another encoder, and to draw from text alone: reference pictures
    in the context of a released checkpoint are outside of what it has learnt.
    """

    name: ClassVar[str] = "janus"
    default_recipe: ClassVar[str] = "two-stage"
    sampling: TokenSampling = TokenSampling(guidance=5.0)

    def __init__(
        self,
        id: str,
        model: JanusForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        layout: JanusLayout | None = None,
    ) -> None:
        _check_sizes(model)
        super().__init__(id, {"model": model})
        self.layout = layout or JanusLayout()
        self.tokenizer = tokenizer
        self.sampling = stored_sampling(model.generation_config, self.sampling)
        self.images = self.encoder = JanusTokenizer(model.model.vqmodel)
        side = int(model.config.vq_config.num_patches)
        self.size = (side, side)
        self.length = int(model.config.text_config.max_position_embeddings)
        self.image_start, self.image_end = (self._special(t) for t in (self.layout.image_start, self.layout.image_end))
        self.begin = int(tokenizer.bos_token_id)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    def _special(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise UserError(f"the tokenizer of {self.id} has no token {token!r}, which opens or closes a picture")
        return int(index)

    # --- Tunable, Reads -----------------------------------------------------------------------------------

    def tunable(self) -> tuple[str, Sequence[str]]:
        names = [name for name, _ in self.components["model"].named_parameters()]
        return "model", [n for n in names if ".language_model." in n and "embed_tokens" not in n]

    # --- TokenBackbone ------------------------------------------------------------------------------------

    def network(self, view: View) -> Network:
        model: Any = view.component("model")
        parts = model.model
        return Network(
            trunk=parts.language_model,
            embed=parts.language_model.embed_tokens,
            embed_codes=lambda codes: parts.generation_aligner(parts.generation_embeddings(codes)),
            head=parts.generation_head,
            speak=model.lm_head,
        )

    def read_pictures(self, view: View, reference: Reference) -> Tensor:
        """Features [N,tokens,D] of the encoder that Janus reads pictures with; it draws with another one."""
        model: Any = self.components["model"].model  # type: ignore[union-attr]
        size = int(model.config.vision_config.image_size)

        def read(images: Tensor) -> Tensor:
            if images.shape[-1] != size:
                images = functional.interpolate(images, (size, size), mode="bicubic", antialias=True)
            seen = model.vision_model(pixel_values=(images.clamp(0, 1) * 2 - 1).to(self.dtype))
            found: Tensor = model.aligner(seen.last_hidden_state)
            return found

        found: Tensor = reference.once(("features", id(self)), read)
        return found

    def question(self, view: View, network: Network, picture: Tensor, text: str, *, begin: bool) -> Tensor:
        layout = self.layout
        start = [self.begin] if begin else []
        before = [*start, *self._plain(layout.before), self.image_start]
        after = [self.image_end, *named_ids(self.tokenizer, f"\n{text}{layout.after}", view.rows)]
        first, last = (network.embed(torch.tensor([ids]))[0] for ids in (before, after))
        return torch.cat([first, picture, last])

    def slots(self, height: int, width: int) -> Tensor:
        return torch.full((height * width,), -1)

    def prompts(
        self,
        view: View,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[Tensor]] = (),
        size: tuple[int, int] | None = None,
        begin: bool = True,
    ) -> PromptBatch:
        if size not in (None, self.size):
            raise UserError(f"Pictures of {size} tokens were given; {self.id} draws {self.size} only.")
        layout = self.layout
        ids = [
            [*named_ids(self.tokenizer, f"{layout.before}{text}{layout.after}", view.rows), self.image_start]
            for text in prompts
        ]
        shown = references or [()] * len(ids)
        return self._batch(view, [(r, line) for r, line in zip(shown, ids, strict=True)], begin=begin)

    def plain_ids(self, text: str, pictures: Sequence[Tensor], *, begin: bool) -> PromptBatch:
        with self.bound() as view:
            return self._batch(view, [(pictures, self._plain(text))], begin=begin)

    def unconditional(self, view: View, text: str, prompts: Sequence[str]) -> PromptBatch:
        """Without a negative prompt the conditional one with padding in place of its text, as it was trained."""
        if text:
            return super().unconditional(view, text, prompts)
        lengths = self.prompts(view, prompts).mask.sum(1).tolist()
        return left_pad([[self.begin, *[self.pad] * (n - 2), self.image_start] for n in lengths], self.pad)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _batch(self, view: View, lines: Sequence[tuple[Sequence[Tensor], list[int]]], *, begin: bool) -> PromptBatch:
        """Lines of pictures and ids; as embeddings if there are pictures, whose tokens have no ids."""
        start = [self.begin] if begin else []
        if not any(len(pictures) for pictures, _ in lines):
            return left_pad([start + ids for _, ids in lines], self.pad)
        network = self.network(view)

        def embed(ids: list[int]) -> Tensor:
            return network.embed(torch.tensor([ids], dtype=torch.long))[0]

        rows = []
        for pictures, ids in lines:
            parts = [embed(start)] if start else []
            for codes in pictures:
                drawn = network.embed_codes(codes.flatten()[None])[0]
                parts += [embed([self.image_start]), drawn, embed([self.image_end])]
            rows.append(torch.cat([*parts, embed(ids)] if ids else parts))
        return left_pad_embeddings(rows, self.pad)


def _check_sizes(model: JanusForConditionalGeneration) -> None:
    vq, vision = model.config.vq_config, model.config.vision_config
    if int(vision.num_image_tokens) != int(vq.num_patches) ** 2:
        raise UserError(
            f"This Janus says {vision.num_image_tokens} tokens a picture in its vision_config, but its image tokenizer"
            f" makes {vq.num_patches} x {vq.num_patches}: the configuration does not fit the weights."
        )


def load_janus(folder: Path, id: str) -> Janus:
    """Read a local folder in transformers' format. Raises UserError when it is not a whole Janus."""
    from transformers import AutoTokenizer, JanusForConditionalGeneration

    try:
        model, report = JanusForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read as a Janus checkpoint: {error}") from error
    absent = sorted(key for key in report["missing_keys"] if "generation_" in key or "vqmodel" in key)
    if absent:
        raise UserError(
            f"{folder} holds a Janus without its image head ({absent[0]} and {len(absent) - 1} more are missing): it"
            " can read pictures but not draw them. Give a checkpoint with the generation weights."
        )
    frozen: nn.Module = model.eval().requires_grad_(False)
    assert frozen is model
    return Janus(id, model, tokenizer)


backbones.register(Janus.name, Janus)
