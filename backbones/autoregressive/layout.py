"""How an Emu3 writes a picture as tokens, as data: released checkpoints and the embedded model differ."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from unified.errors import UserError

VISUAL_TOKEN = re.compile(r"<\|visual token (\d{6})\|>")
LAYOUT_FILE = "layout.json"


def visual_token(code: int) -> str:
    """The name that transformers' Emu3 expects of a visual token."""
    return f"<|visual token {code:06d}|>"


@dataclass(frozen=True)
class PromptLayout:
    """The tokens around a picture; the defaults are those of the released Emu3 checkpoints.

    A prompt is `begin` references text `image_start` [height*width `image_token`], then the rows of visual
    tokens, each closed by `end_of_line`, then `end_of_frame`, `image_end`, `end`. A token that is None is
    left out.

    size_text: the height and width in tokens are written before `image_token`, as "8*8".
    reference_name: words that stand for what the reference pictures in the prompt show.
    height, width: of a generated picture, in visual tokens.
    mean, std: of the pixels that the image tokenizer takes.
    """

    begin: str = "<|extra_203|>"
    image_start: str = "<|image start|>"
    image_token: str | None = "<|image token|>"
    end_of_line: str | None = "<|extra_200|>"
    end_of_frame: str | None = "<|extra_201|>"
    image_end: str = "<|image end|>"
    end: str = "<|extra_204|>"
    pad: str = "<|endoftext|>"
    size_text: bool = True
    reference_name: str = "the same"
    height: int = 90
    width: int = 90
    mean: float = 0.5
    std: float = 0.5

    def save(self, folder: Path) -> None:
        path = folder / LAYOUT_FILE
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def load(folder: Path) -> PromptLayout:
        """The layout beside a checkpoint; that of the released checkpoints if there is no such file."""
        path = folder / LAYOUT_FILE
        if not path.exists():
            return PromptLayout()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            unknown = set(values) - {field.name for field in fields(PromptLayout)}
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a prompt layout ({error}); write it again from the checkpoint") from error
        if unknown:
            raise UserError(f"{path} holds unknown entries {sorted(unknown)}; remove them")
        return PromptLayout(**values)


#: avatars/emu3: pictures have one size and 8 rows, so neither rows nor sizes need tokens: 64 instead of 76.
AVATARS_LAYOUT = PromptLayout(
    image_token=None,
    end_of_line=None,
    end_of_frame=None,
    size_text=False,
    reference_name="the same person",
    height=8,
    width=8,
)


@dataclass(frozen=True)
class VisualVocabulary:
    """ids [K]: token id of every code; a contiguous or scattered part of the joint vocabulary."""

    ids: Tensor

    @staticmethod
    def of(vocabulary: Mapping[str, int]) -> VisualVocabulary:
        """From a token name -> id map, such as `Emu3Config.vocabulary_map`."""
        found = {int(m.group(1)): i for name, i in vocabulary.items() if (m := VISUAL_TOKEN.fullmatch(name))}
        if not found or sorted(found) != list(range(len(found))):
            raise UserError(
                "the vocabulary map has no complete set of visual tokens; "
                "expected '<|visual token 000000|>' and so on without gaps"
            )
        return VisualVocabulary(torch.tensor([found[code] for code in range(len(found))]))

    def to_ids(self, codes: Tensor) -> Tensor:
        """Token ids of codes, same shape."""
        return self.ids.to(codes.device)[codes]

    def to_codes(self, ids: Tensor) -> Tensor:
        """Codes of token ids, same shape; raises UserError on an id that is no visual token."""
        inverse = torch.full((int(self.ids.max()) + 1,), -1, device=ids.device)
        inverse[self.ids.to(ids.device)] = torch.arange(len(self.ids), device=ids.device)
        codes = inverse[ids.clamp(0, len(inverse) - 1)]
        if bool(((codes < 0) | (ids >= len(inverse)) | (ids < 0)).any()):
            raise UserError("a token that is no visual token was given where a picture was expected")
        return codes
