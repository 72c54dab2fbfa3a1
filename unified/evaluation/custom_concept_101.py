"""CustomConcept101 (Kumari et al. 2023, Custom Diffusion): 101 concepts of 3 to 15 pictures, 20 prompts each.

The data set, as it is published:

    DATA/dataset.json                                class_prompt, instance_data_dir and prompt_filename of each
    DATA/prompts/*.txt                               a prompt in each line, {} where the concept goes
    DATA/benchmark_dataset/<concept>/*.jpg           its pictures

and what is evaluated: GENERATED/<concept>/<prompt>/*.png, prompts numbered from 00. Text alignment is CLIPScore,
2.5 max(cosine, 0), of ViT-B/32; all scores are means over all pictures of a concept, then over concepts.
"""

from __future__ import annotations

import json
from pathlib import Path

from unified.errors import UserError
from unified.evaluation.subjects import Averaging, Measure, Protocol, Request, Subject, with_pictures
from unified.images import pictures_in

FILE = "dataset.json"
PROTOCOL = Protocol(
    name="CustomConcept101",
    measures=(
        Measure("clip-text-alignment", "clip", text=True, weight=2.5),
        Measure("clip-image-alignment", "clip"),
        Measure("dino-image-alignment", "dino"),
    ),
    averaging=Averaging.POOLED,
    extractors={"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dino-vits16"},
    source="Kumari et al. 2023, section 4; Hessel et al. 2021, equation 1",
)


def requests(data: Path) -> list[Request]:
    """What is asked for of each concept. Raises UserError for what cannot be read."""
    try:
        rows = json.loads((data / FILE).read_text(encoding="utf-8"))
        concepts = [
            (data / row["instance_data_dir"], str(row["class_prompt"]), data / row["prompt_filename"]) for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{data} is not the CustomConcept101 data: its {FILE} cannot be read ({error}).") from error
    found = []
    for pictures, word, file in concepts:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"The prompts of {pictures.name} cannot be read: {file} ({error.strerror}).") from error
        prompts = tuple(line.strip() for line in lines if line.strip())
        texts = tuple(prompt.replace("{}", word) for prompt in prompts)
        found.append(Request(pictures.name, tuple(pictures_in(pictures)), word, prompts, texts))
    return found


def read(data: Path, generated: Path, *, partial: bool = False) -> list[Subject]:
    """The concepts with their files. partial: take those that were generated. UserError for what is missing."""
    return with_pictures(requests(data), generated, partial=partial)
