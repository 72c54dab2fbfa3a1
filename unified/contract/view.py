"""A backbone with concepts bound to it: what samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from unified.contract.abilities import Attends, Reads
from unified.contract.attempt import Attempt
from unified.contract.attention import Attending, Editor, MapRecorder, OwnText, named_maps
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.kinds import Clash, Evidence
from unified.contract.random import Random
from unified.contract.reading import Reading, TextChange, Varies
from unified.contract.reference import Reference
from unified.contract.shadow import Change, compute_parameter, pristine_tensor, shadow
from unified.contract.space import Space, space_of
from unified.contract.target import Target
from unified.contract.text import RowEmbedding
from unified.errors import UserError


@dataclass(frozen=True)
class Binding:
    """One code being bound: whose it is, where it goes, how strongly."""

    concept: int
    name: str
    space: Space
    code: Code
    weight: float


@dataclass(frozen=True)
class Slot:
    """What fills a place of the view: the code, and how to read its value now."""

    code: Code
    read: Callable[[], Any]

    def rows(self, index: Sequence[int]) -> Any:
        """The value for these pictures: rows of a per-picture code (modulo its pictures), else as it is."""
        value = self.read()
        count = self.code.pictures
        if count is None:
            return value
        rows = [i % count for i in index]
        if isinstance(value, Tensor):
            return value[rows]
        return {key: item[rows] for key, item in value.items()}


@dataclass
class _Claim:
    """Who changes a parameter, and how."""

    binding: Binding
    change: Change


@dataclass
class _Parameter:
    base: Tensor
    claims: list[_Claim] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # what the shadow reads, rebuilt from the claims


class View:
    """A backbone and the concepts bound to it; private to its thread, built once, closed by its context.

    Spaces call `replace`, `name_rows` and `slot` while they bind. Nothing here writes to the backbone: the
    first structural change of a component makes a shadow of it (new module objects, the same tensors).
    """

    def __init__(self, backbone: Backbone, concepts: Sequence[Concept]) -> None:
        self.backbone = backbone
        self.concepts = tuple(concepts)
        self.slots: dict[str, Slot] = {}
        self.rows: dict[str, list[int]] = {}
        self._introductions: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.reading = Reading()
        self.attending = Attending()
        self._slot_owners: dict[str, Binding] = {}
        self._shadows: dict[str, nn.Module] = {}
        self._parameters: dict[tuple[str, str], _Parameter] = {}
        self._row_owners: dict[str, Binding] = {}
        self._row_count = 0
        self._recorder: MapRecorder | None = None
        self._attention_open = False
        self._binding: Binding | None = None
        self._closed = False
        self._check_names()
        for number, concept in enumerate(self.concepts):
            backbone.accept(concept)
            for code in concept.codes:
                name = code.meta.get("name", concept.name)
                self._bind(Binding(number, name, space_of(code), code, concept.weight))

    def _check_names(self) -> None:
        names = [name for concept in self.concepts for name in concept.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"Two concepts are both named {twice[0]}: give one another name with concept.renamed('<you>')."
            )

    def _bind(self, binding: Binding) -> None:
        self._binding = binding
        try:
            binding.space.bind(self, binding.code, binding.name)
        finally:
            self._binding = None

    # --- what spaces call ---------------------------------------------------------------------------------

    @property
    def binding(self) -> Binding:
        """The code that is being bound now (for its weight)."""
        if self._binding is None:
            raise RuntimeError("only a space's bind may change a view")
        return self._binding

    def component(self, name: str) -> nn.Module:
        """The component as this view sees it. Raises RuntimeError once the view is closed."""
        if self._closed:
            raise RuntimeError("this view is closed; open a new one with backbone.bound(...)")
        return self._shadows.get(name) or self.backbone.components[name]

    def writable(self, name: str) -> nn.Module:
        """The component's shadow, made on first use: its structure may be changed, its tensors not written."""
        if name not in self._shadows:
            self._shadows[name] = shadow(self.backbone.components[name])
        return self._shadows[name]

    def replace(self, component: str, path: str, change: Change) -> None:
        """Let the parameter at `path` be `change(what it was)`, computed at each access.

        The binding space's clash says how it meets other codes: a REPLACE of the same concept supersedes an
        earlier one, of another concept it is refused; ADDs pile up on top.
        """
        binding = self.binding
        key = (component, path)
        if key not in self._parameters:
            module = self.writable(component)
            entry = _Parameter(pristine_tensor(module, path))
            compute_parameter(module, path, entry.base, entry.changes)
            self._parameters[key] = entry
        entry = self._parameters[key]
        if binding.space.clash is Clash.REPLACE:
            for claim in entry.claims:
                if claim.binding.space.clash is Clash.REPLACE and claim.binding.concept != binding.concept:
                    raise UserError(
                        f"The concepts {claim.binding.name} and {binding.name} both replace {component}.{path}."
                        " Bind one of them, or invert one in a space that adds (such as 'lora')."
                    )
            entry.claims = [c for c in entry.claims if c.binding.space.clash is not Clash.REPLACE]
        entry.claims.append(_Claim(binding, change))
        ordered = sorted(entry.claims, key=lambda c: c.binding.space.clash is not Clash.REPLACE)
        entry.changes[:] = [claim.change for claim in ordered]

    def slot(self, key: str, code: Code, read: Callable[[], Any], *, instead_of: Sequence[str] = ()) -> None:
        """Fill the one place `key` (the styles, the start noise) with what `read()` gives when it is needed.

        A later stage of the same concept supersedes; another concept is refused. instead_of: other places that
        say the same thing in another way: emptied, as a later stage supersedes, or refused likewise.
        """
        binding = self.binding
        for other in (key, *instead_of):
            owner = self._slot_owners.get(other)
            if owner is not None and owner.concept != binding.concept:
                raise UserError(
                    f"The concepts {owner.name} and {binding.name} both set the {key}. Bind one of them, or mix their"
                    " codes into one concept first."
                )
        for other in instead_of:
            self._slot_owners.pop(other, None)
            self.slots.pop(other, None)
        self._slot_owners[key] = binding
        self.slots[key] = Slot(code, read)

    def name_rows(
        self,
        name: str,
        count: int,
        readers: Mapping[str, Callable[[], Tensor]],
        *,
        varies: frozenset[Varies] = frozenset(),
    ) -> None:
        """Let `name` in prompts stand for `count` embedding rows.

        readers: for every text component of the backbone, a function giving the rows [count, width] now.
        varies: what else the rows depend on; readers then look at `view.reading.moment` and give
        [lines, count, width]. A later stage of the same concept supersedes an earlier one's rows.
        """
        binding = self.binding
        backbone = self.backbone
        assert isinstance(backbone, Reads)
        owner = self._row_owners.get(name)
        if owner is not None and owner.concept != binding.concept:
            raise UserError(f"Two concepts bring rows for {name}: rename one with concept.renamed('<you>').")
        self._row_owners[name] = binding
        self.reading.varies |= varies
        if "layer" in varies:
            self.own_texts()
        self.rows[name] = [-1 - (self._row_count + i) for i in range(count)]
        self._row_count += count
        for text in backbone.texts():
            module = self.writable(text.component)
            embedding = module.get_submodule(text.embedding)
            if not isinstance(embedding, RowEmbedding):
                embedding = RowEmbedding(embedding)
                module.set_submodule(text.embedding, embedding)
            embedding.add(readers[text.component], self.rows[name][0])

    def introduce(self, name: str, text: str, *, instead: Sequence[str] = ()) -> None:
        """Say `text` before every prompt with `name` in it, unless one of the names `instead` is in it already."""
        self._introductions[name] = (text, tuple(instead))

    def adjust(self, component: str, path: str, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Let the module at `path` give `change(input, output)` instead of its output, at each call."""
        module = self.writable(component).get_submodule(path)
        module.register_forward_hook(lambda _, inputs, output: change(inputs[0], output))

    def edit_text(
        self, component: str, change: TextChange, *, values_only: bool = False, lengthens: bool = False
    ) -> None:
        """Let `change` see and replace what a text encoder says; see :meth:`Reading.add`."""
        self.reading.add(component, change, values_only=values_only, lengthens=lengthens)
        if values_only:
            self.own_texts()

    def own_texts(self) -> None:
        """Let each cross-attention read a text of its own."""
        if not any(isinstance(editor, OwnText) for editor in self.attending.editors):
            self.edit_attention(OwnText(self.attending))

    def edit_attention(self, *editors: Editor) -> None:
        """Let `editors` see and change the generator's attention; later ones see what earlier ones did.

        Raises UserError if this backbone's attention cannot be edited.
        """
        if not isinstance(self.backbone, Attends):
            raise UserError(
                f"The attention of {self.backbone.id} cannot be edited: use a method or scheme that does without."
            )
        if not self._attention_open:
            self._attention_open = True
            self.backbone.open_attention(self)
        self.attending.editors.extend(editors)

    def watch(self) -> None:
        """Let every attempt bring, for each concept, a map of where the picture attends to its name."""
        if self._recorder is None:
            self._recorder = MapRecorder(self.attending)
            self.edit_attention(self._recorder)

    # --- what schemes, methods and backbones call ---------------------------------------------------------

    def carry(self, prompt: str) -> str:
        """The prompt with each name that has no rows replaced by the concept's carrier text, others introduced."""
        for concept in self.concepts:
            for name, carrier in concept.names.items():
                if name in prompt and name not in self.rows:
                    prompt = prompt.replace(name, carrier)
        for name, (text, instead) in self._introductions.items():
            if name in prompt and not any(other in prompt for other in instead):
                prompt = f"{text} {prompt}"
        return prompt

    def attempt(
        self,
        reference: Reference,
        *,
        rng: Random,
        prompts: Sequence[str] = (),
        evidence: Evidence | None = None,
    ) -> Attempt:
        """Explain the reference's pictures. `prompts`: one per picture, or none."""
        chosen = evidence or self.backbone.evidences[0]
        if chosen not in self.backbone.evidences:
            able = ", ".join(e.value for e in self.backbone.evidences)
            raise UserError(f"{self.backbone.id} cannot explain pictures by {chosen.value}; it can by {able}.")
        texts = [self.carry(prompt) for prompt in (prompts or [""] * len(reference))]
        if self._recorder is not None:
            self._recorder.clear()
        attempt = self.backbone.attempt(self, reference, rng=rng, prompts=texts, evidence=chosen)
        if self._recorder is not None:
            attempt.maps = named_maps(self, self._recorder.maps(), texts)
        return attempt

    def sample(self, target: Target, *, rng: Random) -> Tensor:
        """Make pictures [n,3,H,W] in 0..1."""
        return self.backbone.sample(self, target, rng=rng)

    @contextmanager
    def bound(self, *concepts: Concept) -> Iterator[View]:
        """A view with more concepts, built from the pristine backbone and the flat list of bindings."""
        with self.backbone.bound(*self.concepts, *concepts) as view:
            yield view

    def close(self) -> None:
        self._closed = True
        self._shadows.clear()
        self._parameters.clear()
