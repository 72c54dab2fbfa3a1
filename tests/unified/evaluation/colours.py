"""Pictures of one colour and extractors that see nothing but it: cosines that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unified.images import save_image

RED, GREEN, BLUE, YELLOW = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0)
HALF = 0.5**0.5  # the cosine of red and yellow


class Colour:
    """The mean colour of each picture; of a text the colours that it names, "not red" being the opposite of red."""

    def __init__(self, name: str = "mean colour") -> None:
        self.name = name

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        return torch.stack([picture.mean((1, 2)) for picture in pictures])

    def texts(self, texts: Sequence[str]) -> Tensor:
        words = {"red": RED, "green": GREEN, "blue": BLUE}
        found = torch.tensor([[float(sum(words[w][c] for w in words if w in t)) for c in range(3)] for t in texts])
        return found * torch.tensor([[-1.0 if "not" in text else 1.0] for text in texts])


def paint(path: Path, colour: tuple[float, float, float], *, size: tuple[int, int] = (8, 8)) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_image(torch.tensor(colour).view(3, 1, 1).expand(3, *size), path)
