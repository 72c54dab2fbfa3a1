"""The style of a reference picture at the scales that make it, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from editing.injection import apart
from editing.scale_injection import ScaleInjection
from editing.token_replacement import holds_tokens
from unified.contract.abilities import Reads, Tokenises
from unified.contract.backbone import Backbone
from unified.contract.concept import Concept
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.scale_memory import RemembersScales
from unified.contract.scheme import Scheme, schemes
from unified.contract.target import Target
from unified.contract.tokens import PredictsScales
from unified.contract.view import View
from unified.errors import UserError

Change = Callable[[Tensor, Tensor], Tensor]  # (input, output) of a module -> what it gives instead


@dataclass(frozen=True)
class ScaleStyle(Scheme):
    """The prompt's content in the style of a concept's picture (bound as visual tokens).

    Lee et al. 2025, A Training-Free Style-Personalization via Scale-wise Autoregressive Model: three paths share
    one model. Key stage attention sharing: in the early to middle scales, where content and style are settled,
    the new picture also attends to the keys and values of the style's. Adaptive query sharing: at the later ones
    its queries are blended with those that the content alone has, since queries carry content; the less the two
    agree, the more of the content's is taken.

    The style path is the picture itself, read with `target.source`, where the paper draws one from a text; the
    content path is the prompt drawn with the same random numbers and no style. The blend is
    q = c q_own + (1 - c) q_content with c the cosine of the two in each head, cut at 0, which is our reading of
    "similarity-aware"; `queries` scales 1 - c; the lines without the prompt, which guidance goes away from, are treated
    alike. The concept's name says nothing of the content, so it is left out of
    the prompt. until: share of the scales that see the style, counted from the coarsest.
    """

    name: ClassVar[str] = "scale-style"
    needs: ClassVar[tuple[type, ...]] = (Tokenises, Reads, PredictsScales, RemembersScales)
    reads: ClassVar[frozenset[str]] = frozenset({"prompt", "source"})
    wants: ClassVar[frozenset[str]] = frozenset({"prompt"})

    until: float = 0.6
    queries: float = 1.0

    def refuse(self, backbone: type[Backbone], concepts: Sequence[Concept]) -> str | None:
        return ScaleInjection().refuse(backbone, concepts)

    def generate(
        self, backbone: Backbone, concepts: Sequence[Concept], target: Target, *, rng: Random, progress: Progress
    ) -> Tensor:
        reason = self.refuse(type(backbone), concepts)
        if reason is not None:
            raise UserError(f"There is no style to take: {reason}.")
        assert isinstance(backbone, PredictsScales)
        sizes = backbone.scale_sizes()
        key = tuple(range(max(1, round(self.until * len(sizes)))))
        injection = ScaleInjection(scales=key)
        styles = [concept for concept in concepts if holds_tokens(concept)]
        content = [c.with_codes(apart(c)[1]) if holds_tokens(c) else c for c in concepts]
        styled = [injection.remembered(backbone, c, target.source) if c in styles else c for c in concepts]
        prompt = target.prompt
        for concept in styles:
            prompt = prompt.replace(concept.name, "")
        plain = replace(target, prompt=" ".join(prompt.split()), source="")
        with backbone.bound(*content) as view:
            queries = Queries(view, sizes)
            if self.queries > 0 and len(key) < len(sizes):
                queries.keep()
                view.sample(plain, rng=rng)
        with backbone.bound(*styled) as view:
            queries.blend(view, later=range(len(key), len(sizes)), strength=self.queries)
            return view.sample(plain, rng=rng)


class Queries:
    """The queries of every layer at every scale, kept from one view and blended into another one's.

    sizes: number of tokens of every scale, by which a call is recognised.
    """

    def __init__(self, view: View, sizes: Sequence[int]) -> None:
        backbone = view.backbone
        assert isinstance(backbone, RemembersScales)
        self.view, self.sizes = view, list(sizes)
        self.heads = backbone.scale_memory_shape()[1]
        self.component, self.paths = backbone.scale_queries()
        self.kept: dict[tuple[str, int], Tensor] = {}

    def keep(self) -> None:
        """Remember what the view's layers ask from now on."""
        for path in self.paths:
            self.view.adjust(self.component, path, self._keeper(path))

    def _keeper(self, path: str) -> Change:
        def change(inputs: Tensor, output: Tensor) -> Tensor:
            self.kept[path, self.sizes.index(output.shape[1])] = output
            return output

        return change

    def blend(self, view: View, *, later: Sequence[int], strength: float) -> None:
        """Let another view's layers ask as the kept ones where they disagree, at these scales."""
        if not self.kept:
            return
        for path in self.paths:
            view.adjust(self.component, path, self._blender(path, set(later), strength))

    def _blender(self, path: str, later: set[int], strength: float) -> Change:
        def change(inputs: Tensor, output: Tensor) -> Tensor:
            scale = self.sizes.index(output.shape[1])
            if scale not in later:
                return output
            return blended(output, self.kept[path, scale][: len(output)], heads=self.heads, strength=strength)

        return change


def blended(own: Tensor, content: Tensor, *, heads: int, strength: float) -> Tensor:
    """Queries [B, tokens, width] moved towards the content's, in each head by strength (1 - their cosine)."""
    mine, other = (part.unflatten(-1, (heads, -1)) for part in (own, content))
    cosine = functional.cosine_similarity(mine, other, dim=-1).clamp(min=0)[..., None]
    return torch.lerp(mine, other, (strength * (1 - cosine)).clamp(max=1).expand_as(mine)).flatten(-2)


schemes.register(ScaleStyle.name, ScaleStyle())
