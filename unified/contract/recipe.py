"""A published method as data: stages of (spaces, method), a scheme and a citation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.kinds import Kind
from unified.contract.method import Method
from unified.contract.rates import Rates
from unified.contract.registry import Registry
from unified.contract.scheme import schemes
from unified.contract.space import Space, parse_spaces, spaces
from unified.errors import UserError


@dataclass(frozen=True)
class Stage:
    """`spaces` (objects, or names joined by '&') filled by `method`, with earlier stages' codes bound.

    also: spaces that are filled with them where the backbone has them (noise maps, say), and left out elsewhere.
    """

    spaces: tuple[Space, ...] | str
    method: Method
    also: tuple[Space, ...] = ()

    def resolved(self, backbone: type[Backbone]) -> tuple[Space, ...]:
        """The spaces to fill on this backbone class."""
        named = parse_spaces(self.spaces) if isinstance(self.spaces, str) else self.spaces
        return (*named, *(space for space in self.also if not lacked(backbone, space.needs)))


@dataclass(frozen=True)
class Recipe:
    """A published method.

    carrier: text for the concept in prompts where no rows carry it; `{category}` is filled in.
    target: default sampling settings. requires: what the reference must bring ('masks', 'category').
    """

    name: str
    stages: tuple[Stage, ...]
    scheme: str
    cite: str
    summary: str = ""
    carrier: str = "{category}"
    requires: frozenset[str] = frozenset()
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def with_overrides(self, *, steps: int | Sequence[int] | None = None, lr: Rates | None = None) -> Recipe:
        """The recipe with the steps or learning rates of its stages changed: one for all, or one per stage.

        Raises UserError if a list does not fit the stages, or nothing in the recipe has such a setting.
        """
        stages = list(self.stages)
        for setting, value in (("steps", steps), ("lr", lr)):
            if value is None:
                continue
            values = list(value) if isinstance(value, Sequence) else [value] * len(stages)
            if len(values) != len(stages):
                raise UserError(
                    f"{setting}={value!r} gives {len(values)} values; the recipe {self.name!r} has {len(stages)}"
                    " stages. Give one value for all, or one per stage."
                )
            able = [any(f.name == setting for f in dataclasses.fields(s.method)) for s in stages]  # type: ignore[arg-type]
            if not any(able):
                raise UserError(f"The recipe {self.name!r} has no {setting} to set: leave {setting} out.")
            stages = [
                dataclasses.replace(s, method=dataclasses.replace(s.method, **{setting: v})) if ok else s  # type: ignore[type-var]
                for s, v, ok in zip(stages, values, able, strict=True)
            ]
        return dataclasses.replace(self, stages=tuple(stages))

    def describe(self) -> str:
        """'w (optimize) > weights (optimize)'."""
        parts = []
        for stage in self.stages:
            names = stage.spaces if isinstance(stage.spaces, str) else " & ".join(s.name for s in stage.spaces)
            also = "".join(f" [& {space.name}]" for space in stage.also)
            parts.append(f"{names}{also} ({stage.method.name})")
        return " > ".join(parts)


recipes: Registry[Recipe] = Registry("recipe")


def refusal(backbone: type[Backbone], stages: Sequence[Stage]) -> str | None:
    """Why these stages cannot run on this backbone class, or None. No weights are loaded."""
    bound: set[Kind] = set()
    for stage in stages:
        resolved = stage.resolved(backbone)
        for space in resolved:
            missing = lacked(backbone, space.needs)
            if missing:
                return f"the space {space.name!r} needs a backbone that {verb(missing)}{_why(backbone, missing)}"
        missing = lacked(backbone, stage.method.needs)
        if missing:
            return f"the method {stage.method.name!r} needs a backbone that {verb(missing)}{_why(backbone, missing)}"
        reason = stage.method.refuse(backbone, resolved)
        if reason is not None:
            return reason
        bound |= {space.kind for space in resolved}
        if backbone.explains_with and not bound & backbone.explains_with:
            kinds = " or ".join(sorted(backbone.explains_with))
            return (
                f"without a code of kind {kinds} this backbone has nothing to explain the pictures with; fill such a"
                f" space first, as in '{_example(backbone)} > {resolved[0].name}'"
            )
    return None


def _example(backbone: type[Backbone]) -> str:
    """A space of a kind that explains pictures on this backbone: its default recipe's, else the first there is."""
    usual = [space for stage in recipes.get(backbone.default_recipe).stages for space in stage.resolved(backbone)]
    candidates = [*((space.name, type(space)) for space in usual), *spaces]
    return next(
        name for name, space in candidates if space.kind in backbone.explains_with and not lacked(backbone, space.needs)
    )


_VERBS = {
    "Renders": "renders from style vectors",
    "Noisy": "has noise maps",
    "Maps": "maps latents to style vectors",
    "Styled": "is modulated channel by channel",
    "Featured": "has feature maps that can be changed",
    "Denoises": "denoises",
    "Flows": "denoises along straight paths (a rectified flow)",
    "Tokenises": "tokenises pictures",
    "Reads": "reads prompts",
    "ReadsByLayer": "reads the prompt in each of several layers (cross-attention)",
    "Speaks": "has text encoders apart from its generator",
    "Attends": "has attention that can be edited",
    "SeparatesStyle": "is known to draw content and style in two separate blocks",
    "Tunable": "has weights to tune",
    "Remembers": "keeps keys and values of what it has read",
    "Quantises": "decodes visual tokens through code vectors",
    "ReadsPictures": "reads pictures before the prompt",
    "PredictsScales": "draws scale by scale",
    "Answers": "answers questions about pictures",
    "RemembersScales": "draws scale by scale beside keys and values",
    "Rectifies": "has a text encoder of which directions can be taken out",
}


def verb(missing: Sequence[str]) -> str:
    """What a backbone with these protocols does, in words."""
    return " and ".join(_VERBS.get(name, name) for name in missing)


def _why(backbone: type[Backbone], missing: Sequence[str]) -> str:
    """What this backbone class says of why it lacks one of these protocols."""
    return next((f" ({backbone.lacking[name]})" for name in missing if name in backbone.lacking), "")


def recipe_refusal(backbone: type[Backbone], recipe: Recipe) -> str | None:
    """Why this recipe cannot run on this backbone class: its stages, or its scheme's needs. None if it can."""
    reason = refusal(backbone, recipe.stages)
    if reason is not None or recipe.scheme not in schemes:
        return reason
    missing = lacked(backbone, schemes.get(recipe.scheme).needs)
    return (
        f"its scheme {recipe.scheme!r} needs a backbone that {verb(missing)}{_why(backbone, missing)}"
        if missing
        else None
    )


def runnable(backbone: type[Backbone]) -> list[str]:
    """Names of the recipes that run on this backbone class."""
    return [name for name, recipe in recipes if recipe_refusal(backbone, recipe) is None]


def check(backbone: type[Backbone], recipe: Recipe, *, id: str) -> None:
    """Raise UserError before any work if the recipe cannot run on this backbone, naming those that can."""
    reason = recipe_refusal(backbone, recipe)
    if reason is not None:
        raise UserError(
            f"The recipe {recipe.name!r} does not run on {id}: {reason}. Recipes that do:"
            f" {', '.join(runnable(backbone)) or 'none'}."
        )
