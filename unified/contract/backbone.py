"""A pretrained generator, frozen and shared, and the protocols that say what it can do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified.contract.attempt import Attempt
from unified.contract.attention import Place
from unified.contract.concept import Concept
from unified.contract.kinds import Evidence, Kind
from unified.contract.progress import Progress
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.registry import Registry
from unified.contract.target import Drag, Target
from unified.contract.text import Tokenizer
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


# --- what a backbone can do -------------------------------------------------------------------------------


@runtime_checkable
class Tunable(Protocol):
    """Has generator weights that may be changed."""

    def tunable(self) -> tuple[str, Sequence[str]]:
        """The generating component and the paths of all its weights that tuning may change."""
        ...

    def adaptable(self) -> tuple[str, Sequence[str]]:
        """The generating component and the paths of the matrices that low-rank adapters go to by default."""
        ...


@runtime_checkable
class Renders(Protocol):
    """A GAN: one pass from style vectors to pictures."""

    def style_shape(self) -> tuple[int, int]:
        """(number of style vectors, their width)."""
        ...

    def style_statistics(self) -> tuple[Tensor, float]:
        """(mean w [width], standard deviation of w around it: sqrt(E|w - mean|^2))."""
        ...

    def render(self, view: View, styles: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """[N, number, width] -> [N,3,H,W] in 0..1 (differentiable, may leave the range slightly)."""
        ...


@runtime_checkable
class Noisy(Protocol):
    """Renders with noise maps that can be set."""

    def noise_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Name and (height, width) of each noise map."""
        ...

    def noise_maps(self) -> Mapping[str, Tensor]:
        """The constant noise maps [h,w] by name."""
        ...


@runtime_checkable
class Maps(Protocol):
    """Renders from style vectors that a mapping network makes of latents, normally distributed."""

    def latent_width(self) -> int: ...

    def map_latents(self, view: View, latents: Tensor) -> Tensor:
        """[N, latent width] -> style vectors [N, width], not truncated, differentiable."""
        ...

    def whitened(self, styles: Tensor) -> Tensor:
        """Style vectors [..., width] -> the same in axes where mapped latents have mean 0 and covariance 1.

        The squared length is the squared Mahalanobis distance from the mean, taken before the mapping network's
        last activation, where style vectors are nearly normal (Zhu et al. 2020, Improved StyleGAN Embedding: P_N).
        """
        ...

    def unwhitened(self, whitened: Tensor) -> Tensor:
        """The inverse of `whitened`."""
        ...


@runtime_checkable
class Styled(Protocol):
    """Renders through layers that are modulated channel by channel (StyleSpace, Wu et al. 2021)."""

    def style_channels(self) -> Mapping[str, int]:
        """Every modulated layer in the order of synthesis, and the number of its channels."""
        ...

    def channels_of(self, view: View, styles: Tensor) -> Mapping[str, Tensor]:
        """Style vectors [N, number, width] -> each layer's modulation [N, channels], differentiable."""
        ...

    def render_channels(
        self, view: View, channels: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Modulations of all layers -> [N,3,H,W] in about 0..1."""
        ...


@runtime_checkable
class Featured(Protocol):
    """Renders through feature maps f that can be read, and changed by the view's slot "features".

    That holds tensors by '<place>/<part>', one row a picture: f <- f (1 + scale) + shift; or f <- set; or
    f <- replace, where what coarser layers have already drawn is left out of the picture too. A weight
    [pictures] makes `set` and `replace` partial.
    """

    def feature_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Every place that has features, in the order of synthesis, and their (channels, height, width)."""
        ...

    def feature_extents(self) -> Mapping[str, float]:
        """How many widths of the picture the features at each place cover, centred: more than 1 with margins."""
        ...

    def features_of(self, view: View, index: Sequence[int]) -> Mapping[str, Tensor]:
        """The features [N, channels, height, width] at every place, while the view renders these pictures."""
        ...


@dataclass(frozen=True)
class TextComponent:
    """A text encoder's place for rows: component, path of its embedding, width of a row."""

    component: str
    embedding: str
    width: int
    tokenizer: Tokenizer
    length: int


@runtime_checkable
class Reads(Protocol):
    """Understands prompts, through one or more embeddings."""

    def texts(self) -> Sequence[TextComponent]: ...


@runtime_checkable
class ReadsByLayer(Protocol):
    """Has several layers that each read the prompt for themselves, so each can be given another text."""

    def text_layers(self) -> Sequence[str]:
        """The layers in the order of the calls; their numbers are those of the cross-attentions' places."""
        ...


@runtime_checkable
class Speaks(Protocol):
    """Its text encoders say one vector a token to the generator, and that can be changed (`View.edit_text`)."""

    def text_outputs(self) -> Mapping[str, int]:
        """Components whose output the generator sees token by token, and the width of that output."""
        ...

    def say(self, view: View, component: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(output [N, tokens, width], ids [N, tokens]) of one encoder, before any change."""
        ...


@runtime_checkable
class Attends(Protocol):
    """A generator whose attention can be edited."""

    def places(self) -> Sequence[Place]:
        """All attentions, each kind in the order of the calls."""
        ...

    def text_matrices(self) -> tuple[str, Sequence[tuple[str, str]]]:
        """The component, and in each layer the paths of the weights that make text into (keys, values)."""
        ...

    def open_attention(self, view: View) -> None:
        """Let every attention of the view's shadow ask the view's editors (`view.attending`)."""
        ...

    def token_places(self, view: View, prompts: Sequence[str], text: str) -> Tensor:
        """Which of the text tokens that the attention sees are `text`'s, bool [N, tokens]."""
        ...


@runtime_checkable
class SeparatesStyle(Protocol):
    """Has a block that decides what is shown and one that decides in which style, found by measurement."""

    def content_and_style(self) -> tuple[str, str]:
        """Paths of the two blocks in the generating component."""
        ...


@dataclass(frozen=True)
class Level:
    """A noise level of x = a x0 + s eps, and the time the network wants for it."""

    time: float
    a: float
    s: float


@runtime_checkable
class Denoises(Protocol):
    """A diffusion or flow model: eps, v and flow alike through x = a x0 + s eps."""

    def levels(self, steps: int) -> Sequence[Level]:
        """From pure noise to the data, `steps` + 1 of them; the last one is clean (or nearly)."""
        ...

    def random_levels(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training levels (time, a, s), each [N], for uniform numbers [N] in 0..1."""
        ...

    def latent_shape(self) -> tuple[int, ...]: ...

    def encode(self, view: View, images: Tensor) -> Tensor:
        """Pictures in 0..1 -> latents [N, *latent_shape]."""
        ...

    def decode(self, view: View, latents: Tensor) -> Tensor:
        """Latents -> pictures, about 0..1."""
        ...

    def condition(self, view: View, prompts: Sequence[str]) -> Any:
        """Whatever the network takes for these prompts; rows of prompts on axis 0 of every tensor."""
        ...

    def predict(self, view: View, latents: Tensor, time: Tensor, condition: Any) -> Tensor:
        """The network's raw output."""
        ...

    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What the raw output should be (eps, v or flow)."""
        ...

    def split(self, output: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) implied by a raw output."""
        ...

    def sample_latents(self, view: View, target: Target, *, rng: Random) -> Tensor:
        """What `sample` decodes: latents [n, *latent_shape]."""
        ...


@runtime_checkable
class Flows(Protocol):
    """Denoises along straight paths x = (1 - s) x0 + s eps, and at every level between the sampler's."""

    def level_at(self, s: float) -> Level:
        """The level of noise s in 0..1."""
        ...


@runtime_checkable
class Tokenises(Protocol):
    """An autoregressive model over discrete visual tokens."""

    def codes(self, view: View, images: Tensor) -> Tensor:
        """Pictures in 0..1 -> visual tokens, int64 [N, h, w]."""
        ...

    def decode_codes(self, view: View, codes: Tensor) -> Tensor:
        """Visual tokens -> pictures in 0..1."""
        ...

    def logits(self, view: View, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """Teacher-forced logits of every visual token, [N, h*w, codebook]."""
        ...


PROTOCOLS: tuple[type, ...] = (
    Tunable,
    Renders,
    Noisy,
    Maps,
    Styled,
    Featured,
    Reads,
    ReadsByLayer,
    Speaks,
    Attends,
    SeparatesStyle,
    Denoises,
    Flows,
    Tokenises,
)


def can(backbone: type[Backbone] | Backbone, protocol: type) -> bool:
    """Whether a backbone (or its class, no weights loaded) has every member of a protocol."""
    cls = backbone if isinstance(backbone, type) else type(backbone)
    members = [member for member in vars(protocol) if not member.startswith("_")]
    return all(hasattr(cls, member) for member in members)


def lacked(backbone: type[Backbone] | Backbone, needs: Iterable[type]) -> list[str]:
    """Names of the protocols in `needs` that a backbone (or its class) does not have."""
    return [protocol.__name__ for protocol in needs if not can(backbone, protocol)]


backbones: Registry[type[Backbone]] = Registry("backbone")
