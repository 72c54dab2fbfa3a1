"""How bound concepts and a target make pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from unified.contract.backbone import Backbone, lacked
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
