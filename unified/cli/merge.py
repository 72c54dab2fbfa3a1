"""`unified merge`: several concepts into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified.cli.concepts import ConceptFiles, check_output, model_of, read_concepts
from unified.cli.options import Seed, console


def merge(
    concept: ConceptFiles,
    output: Annotated[Path, typer.Option("--output", "-o", help="The concept file to write (.safetensors).")],
    by: Annotated[str, typer.Option(help="How: closed-form, column-masks, orthogonal or content-style.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the model of the concepts.")] = None,
    seed: Seed = 0,
) -> None:
    """Make one concept of several that were inverted on the same model; prompts may then say all their names.

    Example: unified merge cat.safetensors painting.safetensors --by column-masks --output both.safetensors
    """
    from unified.merging import merge as merged
    from unified.merging import merges
    from unified.progress import Bar

    merges.get(by)
    check_output(output)
    concepts = read_concepts(concept)
    found = merged(model_of(concepts, model), concepts, by, seed=seed, progress=Bar())
    console.print(str(found.save(output)), markup=False)
