"""A next-scale model with its tokenizers, and the folder it is stored in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones.autoregressive.next_scale import NextScale, NextScaleSettings
from backbones.autoregressive.prompt import named_ids
from backbones.autoregressive.scales import MultiScaleTokenizer, ScaleSettings
from unified.compact import packed, unpacked
from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TYPE = "unified-next-scale"


@dataclass(frozen=True)
class VarParts:
    """text: tokenizer with a beginning, an end and padding."""

    model: NextScale
    tokenizer: MultiScaleTokenizer
    text: PreTrainedTokenizerBase

    def lines(self, texts: Sequence[str], rows: Mapping[str, Sequence[int]] | None = None) -> tuple[Tensor, Tensor]:
        """(ids [B,T] padded on the right, mask). Raises UserError for a text that is too long."""
        most = self.model.settings.text
        lines: list[list[int]] = []
        for text in texts:
            line = [self.text.bos_token_id, *named_ids(self.text, text, rows or {}), self.text.eos_token_id]
            if len(line) > most:
                raise UserError(f"The prompt has {len(line) - 2} tokens; this model reads {most - 2}. Shorten it.")
            lines.append(line)
        longest = max(len(line) for line in lines)
        ids = torch.full((len(lines), longest), self.text.pad_token_id)
        mask = torch.zeros(len(lines), longest, dtype=torch.bool)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = torch.tensor(line)
            mask[row, : len(line)] = True
        return ids, mask

    def save(self, folder: Path, *, compact: bool = True) -> None:
        """Write weights (compact: a byte each, see `unified.compact`), settings and the text's tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        modules: dict[str, nn.Module] = {"model": self.model, "tokenizer": self.tokenizer}
        weights = {
            f"{name}.{key}": value.contiguous()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        config = {
            "model_type": MODEL_TYPE,
            "model": dataclasses.asdict(self.model.settings),
            "tokenizer": dataclasses.asdict(self.tokenizer.settings),
        }
        self.text.save_pretrained(folder)
        for path, write in (
            (folder / "model.safetensors", lambda to: save_file(packed(weights) if compact else weights, to)),
            (folder / "config.json", lambda to: to.write_text(json.dumps(config, indent=2), encoding="utf-8")),
        ):
            temporary = path.with_name(f".{path.name}")
            write(temporary)
            temporary.replace(path)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def load_parts(folder: Path) -> VarParts:
    """Read what `VarParts.save` wrote, in float32. Raises UserError for anything else."""
    from transformers import PreTrainedTokenizerFast

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = NextScale(NextScaleSettings(**_tuples(config["model"])))
        tokenizer = MultiScaleTokenizer(ScaleSettings(**_tuples(config["tokenizer"])))
        weights = unpacked(load_file(folder / "model.safetensors"))
        for name, module in (("model", model), ("tokenizer", tokenizer)):
            own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
            module.load_state_dict(own)
        text = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a next-scale model ({error}); build it again.") from error
    return VarParts(model.eval(), tokenizer.eval(), text)
