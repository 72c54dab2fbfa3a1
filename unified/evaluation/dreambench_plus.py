"""DreamBench++ (Peng et al. 2024), the automatic part without a language model: 150 subjects of one picture, 9 prompts.

The data set, as it is published:

    DATA/images/<category>/<number>.jpg       one picture; categories animal, human, object, style
    DATA/captions/<category>/<number>.txt     the subject in the first line, then a prompt in each

and what is evaluated: GENERATED/<category>-<number>/<prompt>/*.png, prompts numbered 00 to 08. The published code
takes the mean over all pictures at once; every prompt must have equally many here, and then it is the mean over
subjects. It multiplies cosines by 100, which is not done here. Scores by a language model (its concept
preservation and prompt following) are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from unified.errors import UserError
from unified.evaluation.subjects import Averaging, Measure, Protocol, Request, Subject, with_pictures

PROTOCOL = Protocol(
    name="DreamBench++",
    measures=(
        Measure("dino-i", "dino"),
        Measure("dinov2-i", "dinov2"),
        Measure("clip-i", "clip"),
        Measure("clip-t", "clip", text=True),
    ),
    averaging=Averaging.POOLED,
    extractors={
        "dino": "facebook/dino-vits8",
        "dinov2": "facebook/dinov2-small",
        "clip": "openai/clip-vit-base-patch32",
    },
    source="Peng et al. 2024, section 4.1",
)


def requests(data: Path) -> list[Request]:
    """What is asked for of each subject; the concept goes where a prompt names the subject, else before the prompt."""
    captions = sorted((data / "captions").rglob("*.txt"))
    if not captions:
        raise UserError(f"{data} is not the DreamBench++ data: it has no captions/<category>/<number>.txt.")
    found = []
    for path in captions:
        picture = data / "images" / path.parent.name / f"{path.stem}.jpg"
        if not picture.is_file():
            raise UserError(f"{path} has no picture: expected {picture}.")
        word, *texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] or [""]
        if not texts:
            raise UserError(f"{path} holds no prompt: expected the subject in its first line, then a prompt in each.")
        prompts = tuple(_with_concept(text, word) for text in texts)
        found.append(Request(f"{path.parent.name}-{path.stem}", (picture,), word, prompts, tuple(texts)))
    return found


def _with_concept(text: str, word: str) -> str:
    marked, count = re.subn(rf"\b{re.escape(word)}\b", "{}", text, count=1, flags=re.IGNORECASE)
    return marked if count else f"{{}}, {text}"


def read(data: Path, generated: Path, *, partial: bool = False) -> list[Subject]:
    """The subjects with their files. partial: take those that were generated.

    Raises UserError for what is missing, or if one prompt has more pictures than another.
    """
    subjects = with_pictures(requests(data), generated, partial=partial)
    counts = {len(pictures): f"{s.name}/{i:02d}" for s in subjects for i, pictures in enumerate(s.generated)}
    if len(counts) > 1:
        (few, first), (many, other) = sorted(counts.items())[:2]
        raise UserError(
            f"{first} has {few} pictures and {other} has {many}: DreamBench++ averages over all pictures at once, so"
            " generate equally many for every prompt."
        )
    return subjects
