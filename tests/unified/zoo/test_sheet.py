"""Sheets of samples: small files that look the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unified.zoo.sheet import save_sheet


def test_rows_in_order_enlarged_on_white(tmp_path: Path) -> None:
    images = torch.linspace(0.1, 0.5, 5).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    path = save_sheet(tmp_path / "sheet.png", images, columns=3, scale=2)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (16, 24, 3)
    wanted = (images[:, 0, 0, 0] * 255).round().tolist()
    assert [pixels[8 * (i // 3) + 1, 8 * (i % 3) + 1, 0] for i in range(5)] == wanted
    assert (pixels[8:, 16:] == 255).all()
