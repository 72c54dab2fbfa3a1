"""Keys and values that are appended inside of the text encoder (CatVersion)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from inversion.spaces.class_word import check_weight, class_rows, class_text, held_rows, read_as_class, reads, said
from inversion.spaces.text_output import speaks
from unified.contract.abilities import Reads, ReadsByLayer, Speaks
from unified.contract.code import Code
from unified.contract.kinds import Clash, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View
from unified.errors import UserError

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class TextPrefix(Space):
    """One more key and value in the last self-attentions of the text encoder (Zhao et al. 2023, section 3.3).

    `<component>/<module>.key`, `.value` [1, width] for the last `layers` layers, which every token of a prompt
    with the name may attend to; the name is read as the class word. They start as the class word's own key
    and value there (our choice), so the start is near to the class word but not equal to it. For text
    encoders made of attention with q_proj, k_proj, v_proj and out_proj (CLIP's).
    """

    name: ClassVar[str] = "catversion"
    kind: ClassVar[Kind] = Kind.TEXTUAL
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Reads, ReadsByLayer, Speaks)

    layers: int = 3

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        tensors = class_rows(view, reference)
        words = class_text(reference)
        backbone = speaks(view.backbone)
        for component in backbone.text_outputs():
            encoder = view.writable(component)  # for hooks; `initial` has a view of its own
            seen = _inputs(encoder, functools.partial(backbone.say, view, component, [words]))
            for path in self._attentions(encoder):
                module: Any = encoder.get_submodule(path)
                hidden = seen[path][0, 1:2]  # the word's first token, behind the begin of the text
                tensors[f"{component}/{path}.key"] = module.k_proj(hidden).detach()
                tensors[f"{component}/{path}.value"] = module.v_proj(hidden).detach()
        return self.code(tensors)

    def _attentions(self, encoder: nn.Module) -> list[str]:
        """Paths of the last self-attentions. Raises UserError for other kinds of encoder."""
        found = [n for n, m in encoder.named_modules() if all(hasattr(m, projection) for projection in _PROJECTIONS)]
        if not found:
            raise UserError(
                f"{type(encoder).__name__} has no attention with separate projections ({', '.join(_PROJECTIONS)}) to"
                " append to: use another textual space, such as 'word'."
            )
        return found[-self.layers :]

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        return held_rows(code.tensors)

    def bind(self, view: View, code: Code, name: str) -> None:
        check_weight(view, name, "An appended key")
        read_as_class(view, code, name)
        for component in speaks(view.backbone).text_outputs():
            encoder = view.writable(component)
            if any(isinstance(module, _Appended) for module in encoder.modules()):
                raise UserError(f"{name} and another concept both append to the text encoder: bind one of them.")
            text = next(t for t in reads(view.backbone).texts() if t.component == component)
            lines = _Lines(view, name)
            encoder.get_submodule(text.embedding).register_forward_pre_hook(lines.see)
            for path in self._attentions(encoder):
                base = encoder.get_submodule(path)
                encoder.set_submodule(path, _Appended(base, _reader(code, component, path), lines))


def _reader(code: Code, component: str, path: str) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (code.tensors[f"{component}/{path}.key"], code.tensors[f"{component}/{path}.value"])


class _Lines:
    """Which lines of the batch that is being encoded say the name."""

    def __init__(self, view: View, name: str) -> None:
        self.view, self.name = view, name
        self.mask = torch.zeros(0, dtype=torch.bool)

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.mask = said(self.view, self.name, inputs[0]).any(1)


class _Appended(nn.Module):
    """Causal self-attention with one more key and value for the lines that say the name."""

    def __init__(self, base: nn.Module, read: Callable[[], tuple[Tensor, Tensor]], lines: _Lines) -> None:
        super().__init__()
        self.base, self.read, self.lines = base, read, lines

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Any:
        plain = self.base(hidden_states, attention_mask=attention_mask, **others)
        if not bool(self.lines.mask.any()):
            return plain
        module: Any = self.base
        count, tokens, _ = hidden_states.shape
        key, value = (part.expand(count, -1, -1) for part in self.read())
        query, keys, values = (
            part.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
            for part in (
                module.q_proj(hidden_states),
                torch.cat([module.k_proj(hidden_states), key], 1),
                torch.cat([module.v_proj(hidden_states), value], 1),
            )
        )
        allowed = torch.ones(tokens, keys.shape[2], dtype=torch.bool)
        allowed[:, :tokens] = allowed[:, :tokens].tril()
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=allowed)
        output = module.out_proj(mixed.transpose(1, 2).flatten(2))
        return torch.where(self.lines.mask[:, None, None], output, plain[0]), *plain[1:]


def _inputs(encoder: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """What comes into each attention of a shadow while `run` runs, [N, tokens, width] by path."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda module, inputs, options: seen.__setitem__(path, (inputs or (options["hidden_states"],))[0])

    hooks = [
        module.register_forward_pre_hook(keep(path), with_kwargs=True)
        for path, module in encoder.named_modules()
        if hasattr(module, "k_proj")
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


spaces.register("catversion", TextPrefix)
