"""What backbones can do: protocols, which spaces, methods and schemes ask for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from unified.contract.attention import Place
from unified.contract.random import Random
from unified.contract.target import Target
from unified.contract.text import Tokenizer

if TYPE_CHECKING:
    from unified.contract.backbone import Backbone
    from unified.contract.view import View


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
