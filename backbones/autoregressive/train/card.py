"""The card that accompanies exported weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write by a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
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
