"""Emu3 checkpoints from transformers folders."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.autoregressive.checkpoint import load_emu3
from backbones.autoregressive.emu3 import Emu3
from unified.contract.backbone import Backbone
from unified.loading import Loader, loaders


def _is_emu3(path: Path) -> bool:
    config = path / "config.json"
    if not config.is_file():
        return False
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == "emu3"
    except (OSError, ValueError):
        return False


def load_folder(path: Path, id: str) -> Backbone:
    """A folder with the model and its tokenizer, as transformers writes it."""
    return Emu3(id, load_emu3(path))


loaders.register(
    "emu3 folder",
    Loader("emu3 folder", _is_emu3, load_folder, hub=("*.json", "*.txt", "*.safetensors", "*.model")),
)
