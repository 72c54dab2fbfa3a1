"""DreamBench (Ruiz et al. 2023, DreamBooth, section 4.1): 30 subjects, 25 prompts each, usually 4 pictures a prompt.

The data set is the folder `dataset` of github.com/google/dreambooth (CC-BY-4.0), as it is:

    DATA/prompts_and_classes.txt     which subject is of which class; the prompts of objects and of live subjects
    DATA/<subject>/*.jpg             4 to 6 pictures each

and what is evaluated: GENERATED/<subject>/<prompt>/*.png, the prompts numbered 00 to 24 in the file's order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unified.errors import UserError
from unified.evaluation.subjects import Averaging, Measure, Protocol, Request, Subject, with_pictures
from unified.images import pictures_in

FILE = "prompts_and_classes.txt"
LIVE = frozenset({"cat", "dog"})
PROTOCOL = Protocol(
    name="DreamBench",
    measures=(
        Measure("dino-i", "dino"),
        Measure("clip-i", "clip"),
        Measure("clip-t", "clip", text=True),
    ),
    averaging=Averaging.BY_PROMPT,
    extractors={"dino": "facebook/dino-vits16", "clip": "openai/clip-vit-base-patch32"},
    source="Ruiz et al. 2023, section 4.1",
)


@dataclass(frozen=True)
class Prompts:
    """classes: subject -> class word. objects, live: prompts with {0} for the identifier and {1} for the class."""

    classes: dict[str, str]
    objects: tuple[str, ...]
    live: tuple[str, ...]

    def texts(self, subject: str) -> tuple[str, ...]:
        """The subject's prompts without an identifier: 'a dog in the snow'."""
        return tuple(prompt.format(self.classes[subject]) for prompt in self.prompts(subject))

    def prompts(self, subject: str) -> tuple[str, ...]:
        """The subject's prompts with {} for identifier and class together: 'a {} in the snow'."""
        given = self.live if self.classes[subject] in LIVE else self.objects
        return tuple(text.replace("{0} {1}", "{}") for text in given)


def read_prompts(data: Path) -> Prompts:
    """Read the data set's list of classes and prompts. Raises UserError if it is not there or reads otherwise."""
    path = data / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{data} is not the DreamBench data: it has no {FILE}; give the folder `dataset` of google/dreambooth."
        ) from error
    head, *lists = re.split(r"prompt_list\s*=", text)
    classes = dict(re.findall(r"^([a-z0-9_]+),([a-z ]+?)\s*$", head, re.MULTILINE))
    classes.pop("subject_name", None)
    found = [tuple(re.findall(r"'([^'\n]*\{0\} \{1\}[^'\n]*)'", part)) for part in lists]
    if len(found) != 2 or not classes or not all(found):
        raise UserError(
            f"{path} does not read as the file of google/dreambooth: expected classes and two prompt lists."
        )
    return Prompts(classes, *found)


def requests(data: Path) -> list[Request]:
    """What is asked for of each subject."""
    found = read_prompts(data)
    return [
        Request(name, tuple(pictures_in(data / name)), word, found.prompts(name), found.texts(name))
        for name, word in sorted(found.classes.items())
    ]


def read(data: Path, generated: Path, *, partial: bool = False) -> list[Subject]:
    """The subjects with their files. partial: take those that were generated. UserError for what is missing."""
    return with_pictures(requests(data), generated, partial=partial)
