"""What accompanies exported weights: a card and a picture of samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write by a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save_grid(images: Tensor, path: Path, *, columns: int) -> None:
    """Save images [N,3,H,W] in 0..1 as one picture, row by row."""
    blank = (-len(images)) % columns
    cells = torch.cat([images, torch.ones(blank, *images.shape[1:], device=images.device)])
    rows = cells.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    pixels = (rows.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    Image.fromarray(pixels).save(temporary)
    temporary.replace(path)


def write_card(
    path: Path,
    *,
    title: str,
    text: str,
    facts: Mapping[str, object],
    scores: Mapping[str, float],
    command: str,
) -> None:
    """A Markdown card: what it is, how it was made, how well it does on held-out pictures."""
    lines = [f"# {title}", "", text, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "| score (held-out pictures) | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    lines += ["", f"Made by `{command}` from the avatars data set.", ""]
    write_text(path, "\n".join(lines))
