"""Writing trained networks that are no pipeline of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from backbones.diffusion.train import common
from backbones.diffusion.vision import CONFIG, WEIGHTS
from unified.compact import packed


def export(networks: nn.Module, *, config: Mapping[str, Any], scores: Mapping[str, Any], card: str, out: Path) -> None:
    """Write configuration, weights (see `unified.compact`), scores and card to the folder `out`."""
    with common.replacing(out) as folder:
        save_file(packed(networks.state_dict()), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        common.write_scores(folder, scores)
        (folder / "card.md").write_text(card, encoding="utf-8")
