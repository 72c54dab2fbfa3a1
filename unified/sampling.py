"""Changing a sampler's settings by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from unified.contract.backbone import Sampling
from unified.contract.concept import Concept
from unified.errors import UserError

S = TypeVar("S", bound=Sampling)


def override(settings: S, changes: Mapping[str, Any]) -> S:
    """`settings` with some fields changed. Raises UserError for a field this sampler does not have."""
    known = {field.name for field in dataclasses.fields(settings)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise UserError(
            f"This backbone's sampler has no setting {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}."
        )
    return dataclasses.replace(settings, **changes)


def own_sampling(concepts: Iterable[Concept]) -> dict[str, Any]:
    """The sampler's settings that concepts bring along from their recipes; the last one's count."""
    return {key: value for concept in concepts for key, value in concept.meta.get("sampling", {}).items()}
