"""Emu3 folders: the model with what is needed to prompt it and to read its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backbones.autoregressive.image_tokenizer import ImageTokenizer
from backbones.autoregressive.layout import PromptLayout, VisualVocabulary
from backbones.autoregressive.prompt import PromptBuilder
from unified.errors import UserError

if TYPE_CHECKING:  # transformers takes seconds to import: only where a model is read or written
    from transformers import Emu3ForConditionalGeneration, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Emu3Parts:
    """model: eval mode, frozen. images: shares the model's VQ network. prompts: text and codes to ids."""

    model: Emu3ForConditionalGeneration
    images: ImageTokenizer
    prompts: PromptBuilder

    @property
    def vocabulary(self) -> VisualVocabulary:
        return self.prompts.vocabulary

    @property
    def layout(self) -> PromptLayout:
        return self.prompts.layout


def assemble(
    model: Emu3ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, layout: PromptLayout
) -> Emu3Parts:
    """The parts of a model already in memory."""
    vocabulary = VisualVocabulary.of(model.config.vocabulary_map or {})
    images = ImageTokenizer(model.model.vqmodel, mean=layout.mean, std=layout.std)
    return Emu3Parts(model, images, PromptBuilder(tokenizer, vocabulary, layout))


def load_emu3(folder: Path, *, dtype: torch.dtype = torch.float32) -> Emu3Parts:
    """Read a local folder in transformers' format; `layout.json` in it if its layout is not the released one.

    Raises UserError when the folder is not such a checkpoint. Runs no code from the folder.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; give the folder of an Emu3 checkpoint in transformers format")
    from transformers import AutoTokenizer, Emu3ForConditionalGeneration

    try:
        model, report = Emu3ForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read as an Emu3 checkpoint: {error}") from error
    absent = sorted(key for key in report["missing_keys"] if "vqmodel" in key or "lm_head" in key)
    if absent:
        raise UserError(
            f"{folder} holds an Emu3 without what it draws with ({absent[0]} and {len(absent) - 1} more are missing):"
            " give a checkpoint with its image tokenizer and output head."
        )
    model.eval().requires_grad_(False)
    return assemble(model, tokenizer, PromptLayout.load(folder))


def save_emu3(parts: Emu3Parts, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write model (safetensors in `dtype`), how to sample it, tokenizer and layout; the model is not changed."""
    from transformers import Emu3ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    copy = Emu3ForConditionalGeneration(parts.model.config)
    copy.load_state_dict(parts.model.state_dict())
    copy.generation_config = parts.model.generation_config
    copy.to(dtype).save_pretrained(folder)
    parts.prompts.tokenizer.save_pretrained(folder)
    parts.layout.save(folder)
