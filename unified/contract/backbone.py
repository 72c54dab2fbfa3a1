"""A pretrained generator, frozen and shared, and the protocols that say what it can do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified.contract.attempt import Attempt
from unified.contract.concept import Concept
from unified.contract.kinds import Evidence, Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.rates import Rates
from unified.contract.reference import Reference
from unified.contract.registry import Registry
from unified.contract.target import Drag, Target
from unified.edits import Edit, strengths_of
from unified.errors import UserError

if TYPE_CHECKING:
    from unified.contract.recipe import Recipe
    from unified.contract.view import View
    from unified.images import ImageInput


T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """Settings of a backbone's sampler; each backbone has its own subclass."""


class Backbone(ABC):
    """A frozen generator. Subclasses implement `attempt` and `sample`, which only views call.

    label: the family name in listings, nothing depends on it. id: how it is loaded again.
    components: the modules, all frozen and in evaluation mode. default_recipe: for `invert` without one.
    """

    label: ClassVar[str]
    evidences: ClassVar[tuple[Evidence, ...]]  # the first one is the default
    explains_with: ClassVar[frozenset[Kind]] = frozenset()  # one of these kinds must be bound to explain a picture
    lacking: ClassVar[Mapping[str, str]] = {}  # protocol -> why it is not there, where a user might expect it
    default_recipe: ClassVar[str]
    sampling: Sampling

    def __init__(self, id: str, components: Mapping[str, nn.Module]) -> None:
        self.id = id
        self.category = ""  # class word of what it draws, where it draws one thing only
        self.rates: Mapping[str, Rates] = {}  # recipe -> its learning rates here; the published are for large networks
        self.people: tuple[str, ...] = ()  # names that its text encoder knows people by; (): the well-known ones
        self.components = dict(components)
        for module in self.components.values():
            module.eval().requires_grad_(False)
        self._derived: dict[Hashable, Any] = {}

    @abstractmethod
    def attempt(
        self, view: View, reference: Reference, *, rng: Random, prompts: Sequence[str], evidence: Evidence
    ) -> Attempt:
        """Explain the reference's pictures through `view`; see :class:`Attempt`."""

    @abstractmethod
    def sample(self, view: View, target: Target, *, rng: Random) -> Tensor:
        """Make pictures [n,3,H,W] in 0..1 through `view`; picture i depends on stream i of `rng` only."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Side of the square pictures it makes and explains, in pixels."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every weight and buffer by name: two backbones agree exactly if their weights do."""
        digest = hashlib.sha256()
        for component in sorted(self.components):
            for name, tensor in sorted(self.components[component].state_dict().items()):
                digest.update(f"{component}/{name}:{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()`, done once and without gradient: for what follows from the weights alone (their SVD)."""
        if key not in self._derived:
            with torch.no_grad():
                self._derived[key] = compute()
        found: T = self._derived[key]
        return found

    @contextmanager
    def bound(self, *concepts: Concept) -> Iterator[View]:
        """A view that knows `concepts`. Raises UserError for concepts of another backbone."""
        from unified.contract.view import View

        view = View(self, concepts)
        try:
            yield view
        finally:
            view.close()

    def accept(self, concept: Concept) -> None:
        """Refuse a concept inverted on other weights."""
        if concept.fingerprint and concept.fingerprint != self.fingerprint:
            raise UserError(
                f"The concept {concept.name!r} was inverted on {concept.backbone} (weights {concept.fingerprint});"
                f" this is {self.id} (weights {self.fingerprint}). Load the backbone it was made on, or invert again."
            )

    # --- the public interface -----------------------------------------------------------------------------

    def invert(
        self,
        images: ImageInput,
        *,
        recipe: str | Recipe | None = None,
        space: str | None = None,
        method: str | None = None,
        steps: int | Sequence[int] | None = None,
        lr: float | Sequence[float] | None = None,
        name: str = "<me>",
        category: str = "",
        captions: Sequence[str] | None = None,
        masks: Tensor | None = None,
        seed: int = 0,
        checkpoints: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Concept:
        """Invert pictures of one concept; returns the concept.

        images: paths, a folder, PIL, numpy or tensors; cut to a square and scaled to this backbone's size.
        recipe: a registered name (see `unified.recipes()`), or give `space` ("w > weights") and `method`.
        steps, lr: override the recipe's, one value for all stages or one per stage.
        name: placeholder for prompts. category: class word, "person"; default: the backbone's own, if it has one.
        masks: [N,1,H,W] in 0..1, 1 on the concept. seed: same seed, same machine, same concept, bit for bit.
        checkpoints: folder to resume from, and to keep what was reached in.
        Raises UserError before any work for what cannot run.
        """
        from unified.inversion import InvertSettings, invert, recipe_for
        from unified.progress import Bar

        chosen = recipe_for(self, recipe=recipe, space=space, method=method, steps=steps, lr=lr)
        reference = self.reference(images, name=name, category=category, captions=captions, masks=masks)
        settings = InvertSettings(
            seed=seed,
            checkpoints=None if checkpoints is None else Path(checkpoints),
            progress=progress or Bar(),
        )
        return invert(self, reference, chosen, settings)

    def reference(
        self,
        images: ImageInput,
        *,
        name: str = "<me>",
        category: str = "",
        captions: Sequence[str] | None = None,
        masks: Tensor | None = None,
    ) -> Reference:
        """The user's pictures at this backbone's size and precision."""
        from unified.images import read_images

        pixels = read_images(images, size=self.resolution).to(self.dtype)
        if masks is not None and masks.shape[-2:] != pixels.shape[-2:]:
            masks = functional.interpolate(masks.float(), size=pixels.shape[-2:], mode="area")
        texts = None if captions is None else tuple(captions)
        return Reference(pixels, masks, texts, category or self.category, name)

    def generate(
        self,
        concepts: Concept | Sequence[Concept] | None = None,
        *,
        prompt: str = "",
        source: str = "",
        edits: Mapping[str, float] | Edit | None = None,
        drags: Sequence[Drag] = (),
        movable: Tensor | None = None,
        pictures: ImageInput | None = None,
        n: int | None = None,
        seed: int = 0,
        negative_prompt: str = "",
        sampling: Mapping[str, Any] | None = None,
        scheme: str | None = None,
        scheme_settings: Mapping[str, Any] | None = None,
        output: Literal["pil", "pt", "np"] = "pil",
        progress: Progress | None = None,
    ) -> Any:
        """Make pictures with the concepts bound (or of the backbone alone).

        prompt: text with the concepts' names. source: text of the pictures as they are, for schemes that edit from
        it to the prompt; default: what they were inverted with. edits: named attribute edits, {"smile": 2.0}, or an
        `Edit`.
        drags: points that shall move, Drag((x, y), (x, y)) in pixels. movable: [H, W] in 0..1, where the picture may
        change by that.
        pictures: of what is asked for, such as one of the domain that pictures shall come to.
        n: how many; None: one per picture of a per-picture concept, else one.
        sampling: settings of this backbone's sampler by name, such as {"steps": 30, "guidance": 4.0}.
        scheme: how concepts and target make pictures; None: what fits. scheme_settings: its own, by name.
        output: "pil" a list of PIL pictures; "pt" a tensor [n,3,H,W] in 0..1; "np" uint8 [n,H,W,3].
        Raises UserError if this backbone cannot do what is asked, naming what it can.
        """
        from unified.generation import generate
        from unified.images import to_numpy, to_pil
        from unified.progress import Bar

        outputs: dict[str, Callable[[Tensor], Any]] = {
            "pil": to_pil,
            "pt": lambda images: images,
            "np": to_numpy,
        }
        if output not in outputs:
            raise UserError(f"output={output!r} was asked for; choose 'pil', 'pt' or 'np'.")
        bound = [concepts] if isinstance(concepts, Concept) else list(concepts or [])
        target = Target(
            prompt=prompt,
            source=source,
            edits=strengths_of(edits),
            drags=tuple(drags),
            movable=movable,
            pictures=self._pictures(pictures),
            n=n,
            negative_prompt=negative_prompt,
            sampling=dict(sampling or {}),
        )
        images = generate(
            self, bound, target, seed=seed, scheme=scheme, settings=scheme_settings, progress=progress or Bar()
        )
        return outputs[output](images)

    def edit(
        self,
        concepts: Concept | Sequence[Concept] | None = None,
        *,
        prompt: str = "",
        source: str = "",
        edits: Mapping[str, float] | Edit | None = None,
        drags: Sequence[Drag] = (),
        movable: Tensor | None = None,
        pictures: ImageInput | None = None,
        n: int | None = None,
        seed: int = 0,
        scheme: str | None = None,
        scheme_settings: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> list[Concept]:
        """The concepts that `generate` would make pictures of with the same arguments, to be kept.

        Without a concept: of random samples, or what the edit makes of the generator itself. Raises UserError as
        `generate` does, and for schemes that change how pictures are sampled rather than concepts.
        """
        from unified.generation import edit
        from unified.progress import Bar

        bound = [concepts] if isinstance(concepts, Concept) else list(concepts or [])
        edits = strengths_of(edits)
        target = Target(
            prompt=prompt,
            source=source,
            edits=edits,
            drags=tuple(drags),
            movable=movable,
            pictures=self._pictures(pictures),
            n=n,
        )
        return edit(self, bound, target, seed=seed, scheme=scheme, settings=scheme_settings, progress=progress or Bar())

    def _pictures(self, pictures: ImageInput | None) -> Tensor | None:
        """As a target holds them, of this backbone's size."""
        from unified.images import read_images

        return None if pictures is None else read_images(pictures, size=self.resolution).to(self.dtype)

    def export(self, concept: Concept, folder: str | Path, *, software: str) -> list[Path]:
        """Write a concept's codes into `folder` as other software reads them; see :mod:`unified.exchange`."""
        from unified.exchange import export_concept

        return export_concept(self, concept, folder, software=software)

    def adopt(
        self, path: str | Path, *, name: str = "<me>", carrier: str = "", category: str = "", partial: bool = False
    ) -> Concept:
        """A concept from a file (or folder of files) of other software; see :mod:`unified.exchange`."""
        from unified.exchange import import_concept

        return import_concept(self, path, name=name, carrier=carrier, category=category, partial=partial)

    @property
    def dtype(self) -> torch.dtype:
        return next(next(iter(self.components.values())).parameters()).dtype


backbones: Registry[type[Backbone]] = Registry("backbone")
