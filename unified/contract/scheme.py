"""How bound concepts and a target make pictures."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from unified.contract.abilities import lacked
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.registry import Registry
from unified.contract.target import Target
from unified.errors import UserError


class Scheme(ABC):
    """A personalisation scheme.

    needs: protocols of the backbone. reads: parts of the target it honours. wants: those it cannot do without.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type, ...]] = ()
    reads: ClassVar[frozenset[str]] = frozenset()
    wants: ClassVar[frozenset[str]] = frozenset()

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        """Why it cannot work with these concepts, or None."""
        return None

    @abstractmethod
    def generate(
        self,
        backbone: Backbone,
        concepts: Sequence[Concept],
        target: Target,
        *,
        rng: Random,
        progress: Progress,
    ) -> Tensor:
        """Pictures [n,3,H,W] in 0..1."""


class EditScheme(Scheme):
    """A scheme whose edits change the concepts: the changed ones can be kept, and are then sampled as they are."""

    @abstractmethod
    def edited(
        self,
        backbone: Backbone,
        concepts: Sequence[Concept],
        target: Target,
        *,
        rng: Random,
        progress: Progress,
    ) -> list[Concept]:
        """The concepts as the target asks for them, and those that the edit adds."""

    def generate(
        self,
        backbone: Backbone,
        concepts: Sequence[Concept],
        target: Target,
        *,
        rng: Random,
        progress: Progress,
    ) -> Tensor:
        found = self.edited(backbone, concepts, target, rng=rng, progress=progress)
        with backbone.bound(*found) as view:
            return view.sample(Target(n=target.n, sampling=target.sampling), rng=rng)


schemes: Registry[Scheme] = Registry("scheme")


def with_settings(scheme: Scheme, settings: Mapping[str, Any]) -> Scheme:
    """The scheme with some of its numbers and texts changed; "part.name" reaches into a setting that has settings.

    Raises UserError for a setting that the scheme lacks, naming those it has, or a value of another kind.
    """
    for name, value in settings.items():
        scheme = _changed(scheme, name.split("."), value, scheme, name)
    return scheme


def _changed(part: Any, path: Sequence[str], value: Any, scheme: Scheme, name: str) -> Any:
    first, *rest = path
    fields = {f.name for f in dataclasses.fields(part)} if dataclasses.is_dataclass(part) else set()
    now = getattr(part, first, None) if first in fields else None
    if rest and dataclasses.is_dataclass(now):
        return dataclasses.replace(part, **{first: _changed(now, rest, value, scheme, name)})
    if rest or not isinstance(now, bool | int | float | str):
        known = ", ".join(scheme_settings(scheme)) or "none"
        raise UserError(f"The scheme {scheme.name!r} has no setting {name!r}; it has: {known}.")
    fits = isinstance(value, type(now)) or (isinstance(now, float) and isinstance(value, int))
    if not fits or isinstance(value, bool) != isinstance(now, bool):
        raise UserError(f"The setting {name}={value!r} of the scheme {scheme.name!r} must be like {now!r}.")
    return dataclasses.replace(part, **{first: type(now)(value)})


def scheme_settings(scheme: Any, *, before: str = "") -> dict[str, bool | int | float | str]:
    """The numbers and texts that `with_settings` can change, by name, with their values."""
    found: dict[str, bool | int | float | str] = {}
    for each in dataclasses.fields(scheme) if dataclasses.is_dataclass(scheme) else ():
        value = getattr(scheme, each.name)
        if isinstance(value, bool | int | float | str):
            found[before + each.name] = value
        elif not isinstance(value, type):
            found |= scheme_settings(value, before=f"{before}{each.name}.")
    return found


def choose_scheme(
    backbone: Backbone, concepts: Sequence[Concept], target: Target, *, preferred: Sequence[str] = ()
) -> Scheme:
    """The first scheme, preferred ones first, that the backbone carries and that honours all that is asked.

    Of the others, those that read the least beyond what is asked come first.
    Raises UserError naming what can be asked of this backbone.
    """
    asked = target.asked()
    others = sorted(
        (name for name in schemes.names() if name not in preferred), key=lambda n: len(schemes.get(n).reads)
    )
    order = [*preferred, *others]
    usable = [schemes.get(n) for n in order if not lacked(backbone, schemes.get(n).needs)]
    reasons: list[str] = []
    for scheme in usable:
        if scheme.wants <= asked <= scheme.reads:
            reason = scheme.refuse(type(backbone), concepts)
            if reason is None:
                return scheme
            reasons.append(f"{scheme.name}: {reason}")
    able = sorted({part for scheme in usable for part in scheme.reads})
    raise UserError(
        f"{backbone.id} has no scheme for {' and '.join(sorted(asked)) or 'this'} with these concepts"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + f"; it can be asked for: {', '.join(able) or 'nothing but the concept itself'}."
    )
