"""Checkpoints of autoregressive models from transformers folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from backbones.autoregressive.chameleon import load_chameleon
from backbones.autoregressive.checkpoint import load_emu3
from backbones.autoregressive.emu3 import Emu3
from backbones.autoregressive.janus import load_janus
from unified.contract.backbone import Backbone
from unified.loading import Loader, loaders

_HUB = ("*.json", "*.txt", "*.safetensors", "*.model")


def _is(model_type: str) -> Callable[[Path], bool]:
    def recognises(path: Path) -> bool:
        config = path / "config.json"
        if not config.is_file():
            return False
        try:
            return bool(json.loads(config.read_text(encoding="utf-8")).get("model_type") == model_type)
        except (OSError, ValueError, AttributeError):
            return False

    return recognises


def load_folder(path: Path, id: str) -> Backbone:
    """A folder with an Emu3 and its tokenizer, as transformers writes it."""
    return Emu3(id, load_emu3(path))


for _type, _load in (("emu3", load_folder), ("janus", load_janus), ("chameleon", load_chameleon)):
    loaders.register(f"{_type} folder", Loader(f"{_type} folder", _is(_type), _load, hub=_HUB))
