"""E4T's encoder (Gal et al. 2023): a picture to an offset of the class word, and offsets of the attention's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.diffusion.adapters import attention_matrices
from backbones.diffusion.vision import Vision, digest_of, load_vision, read_config, read_weights
from unified.contract.abilities import Denoises
from unified.contract.backbone import Backbone
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.shadow import pristine_tensor, shadow
from unified.contract.view import View
from unified.errors import UserError
from unified.picture_encoders import embedded_folder, picture_encoders

NAME = "e4t"
#: Noise levels of the reference at which the network's features are read, and the offsets averaged.
LEVELS = (0.125, 0.375, 0.625, 0.875)


@dataclass(frozen=True)
class Sizes:
    """Layers and width of the picture encoder, width of the UNet's pooled features, width of a word."""

    layers: int
    vision: int
    unet: int
    text: int


class WordEncoder(nn.Module):
    """Class tokens of all layers, each with the UNet's features, to an offset of the word."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.vision
        self.of_unet = nn.Sequential(nn.Linear(sizes.unet, width), nn.LeakyReLU(), nn.Linear(width, width))
        self.joined = nn.Linear(2 * width, width)
        self.of_layer = nn.ModuleList([nn.Linear(width, width) for _ in range(sizes.layers)])
        self.last = nn.Linear(width, sizes.text)

    def forward(self, states: Sequence[Tensor], features: Tensor) -> Tensor:
        """[N, 1 + patches, width] of each layer, [N, unet] -> [N, text]."""
        own = self.of_unet(features)
        mixed = [
            layer(self.joined(torch.cat([state[:, 0], own], -1)))
            for layer, state in zip(self.of_layer, states, strict=True)
        ]
        found: Tensor = self.last(nn.functional.leaky_relu(torch.stack(mixed).mean(0)))
        return found


class Offsets(nn.Module):
    """W (1 + column row + bias) for each attention matrix; starts at W.

    The paper makes the offsets of a small vector by linear layers, to have few parameters; what four such layers reach
    from one number is column and row of rank 2 and a bias along the rows, which are learnt here as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.paths = attention_matrices(network)
        shapes = [pristine_tensor(network, path).shape for path in self.paths]
        self.column = nn.ParameterList([torch.zeros(shape[0], 2) for shape in shapes])
        self.row = nn.ParameterList([torch.randn(2, shape[1]) / shape[1] ** 0.5 for shape in shapes])
        self.bias = nn.ParameterList([torch.zeros(shape[1]) for shape in shapes])

    def of(self, number: int) -> Tensor:
        return self.column[number] @ self.row[number] + self.bias[number]

    def parts(self) -> dict[str, Tensor]:
        """The three tensors of every matrix, as `<path>.<part>`."""
        return {
            f"{path}.{part}": getattr(self, part)[number].detach()
            for number, path in enumerate(self.paths)
            for part in ("column", "row", "bias")
        }


class Networks(nn.Module):
    """What is trained."""

    def __init__(self, sizes: Sizes, network: nn.Module) -> None:
        super().__init__()
        self.encoder, self.offsets = WordEncoder(sizes), Offsets(network)


def pooled_features(unet: Any, latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
    """What the UNet's downward and middle blocks give, averaged over space, [N, channels of all of them].

    `unet` gets hooks while it runs: give one of your own (a shadow).
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        samples = output[1] if isinstance(output, tuple) else (output,)
        found.extend(sample.mean((2, 3)) for sample in samples)

    handles = [block.register_forward_hook(keep) for block in (*unet.down_blocks, unet.mid_block)]
    try:
        unet(latents, time, encoder_hidden_states=text)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found, 1)


@dataclass(frozen=True)
class E4T:
    """What the spaces ask: the trained networks and the picture encoder that they read."""

    vision: Vision
    networks: Networks

    @cached_property
    def fingerprint(self) -> str:
        state = {f"networks.{k}": v for k, v in self.networks.state_dict().items()}
        return digest_of({**state, **{f"vision.{k}": v for k, v in self.vision.module.state_dict().items()}})

    @torch.no_grad()
    def encode(self, view: View, reference: Reference, *, rng: Random) -> Tensor:
        """The offset [1, text]: the mean over the pictures and a few noise levels of them.

        The authors let the encoder see every step's own latents, so that the word changes with time; here it is
        read from the reference's, once, and stays.
        """
        backbone = view.backbone
        assert isinstance(backbone, Denoises)
        states, x0 = self.vision.layers(reference.images), backbone.encode(view, reference.images)
        text = backbone.condition(view, [""] * len(x0))["text"]
        network, found = shadow(view.component("unet")), []
        for number, share in enumerate(LEVELS):
            time, a, s = backbone.random_levels(torch.full((len(x0),), share))
            noise = rng.child("level", number).normal(reference.keys, x0.shape[1:], dtype=x0.dtype)
            x = (a.view(-1, 1, 1, 1) * x0 + s.view(-1, 1, 1, 1) * noise).to(x0.dtype)
            found.append(self.networks.encoder(states, pooled_features(network, x, time, text)))
        return torch.cat(found).mean(0, keepdim=True)

    def offsets(self) -> dict[str, Tensor]:
        """The weight offsets that a concept starts from, `<path>.column` [out, 2], `.row` [2, in], `.bias` [in]."""
        return self.networks.offsets.parts()


def load(backbone: Backbone, source: str) -> E4T:
    """The networks in the folder `source`, or the embedded ones of an embedded backbone."""
    folder = Path(source).expanduser() if source else embedded_folder(backbone, NAME)
    if folder is None:
        raise UserError(f"No trained E4T is known for {backbone.id}: give the folder of one as the space's weights.")
    config = read_config(folder, NAME)
    networks = Networks(Sizes(**config["sizes"]), backbone.components["unet"])
    read_weights(folder, networks, backbone.id)
    return E4T(load_vision(folder / config["vision"]), networks)


def config_of(sizes: Sizes, vision: str) -> dict[str, Any]:
    return {"kind": NAME, "sizes": asdict(sizes), "vision": vision}


picture_encoders.register(NAME, load)
