"""ELITE's two mappings (Wei et al. 2023): a picture to words, and its patches to keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.diffusion.attention import unet_places
from backbones.diffusion.vision import Vision, digest_of, load_vision, read_config, read_weights
from unified.contract.attention import Attention
from unified.contract.backbone import Backbone
from unified.contract.shadow import pristine_tensor
from unified.errors import UserError
from unified.picture_encoders import embedded_folder, picture_encoders

NAME = "elite"


@dataclass(frozen=True)
class Sizes:
    """layers: of the picture encoder that are read, the deepest first. hidden: width inside of the mappers."""

    layers: tuple[int, ...]
    hidden: int
    vision: int
    text: int


class Mapper(nn.Sequential):
    """One layer's features to the text's width: linear, LayerNorm and LeakyReLU twice, then linear."""

    def __init__(self, sizes: Sizes) -> None:
        parts: list[nn.Module] = []
        for inputs in (sizes.vision, sizes.hidden):
            parts += [nn.Linear(inputs, sizes.hidden), nn.LayerNorm(sizes.hidden), nn.LeakyReLU()]
        super().__init__(*parts, nn.Linear(sizes.hidden, sizes.text))


class MappingNetwork(nn.Module):
    """A mapper of the class token and one of the patches for every layer that is read, and keys and values.

    matrices: [places, 2, (out, in)], the keys and values of every cross-attention for this mapping's texts.
    """

    def __init__(self, sizes: Sizes, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.layers = sizes.layers
        self.whole = nn.ModuleList([Mapper(sizes) for _ in sizes.layers])
        self.patch = nn.ModuleList([Mapper(sizes) for _ in sizes.layers])
        self.keys = nn.ParameterList([torch.zeros(shape) for shape in shapes])
        self.values = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def of_layers(self, states: Sequence[Tensor]) -> Tensor:
        """[N, layers, patches, text]: class token and each patch of each layer, mapped and added."""
        found = [
            whole(states[layer][:, :1]) + patch(states[layer][:, 1:])
            for layer, whole, patch in zip(self.layers, self.whole, self.patch, strict=True)
        ]
        return torch.stack(found, 1)


class Networks(nn.Module):
    """The global and the local mapping network; `names` are the cross-attentions in the order of their matrices."""

    def __init__(self, sizes: Sizes, matrices: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self.sizes, self.names = sizes, tuple(matrices)
        self.whole = MappingNetwork(sizes, list(matrices.values()))
        self.local = MappingNetwork(sizes, list(matrices.values()))

    def words(self, states: Sequence[Tensor]) -> Tensor:
        """One word for each layer, [N, layers, text]; the first, of the deepest layer, is the primary one."""
        return self.whole.of_layers(states).mean(2)

    def patches(self, states: Sequence[Tensor]) -> Tensor:
        """Patch features in the text's space, [N, patches, text]: the mean over the layers."""
        return self.local.of_layers(states).mean(1)


def cross_shapes(unet: nn.Module) -> dict[str, torch.Size]:
    """Shape of the key matrix of every cross-attention, in the order of the calls."""
    names = [place.name for place in unet_places(unet) if place.kind == "cross"]
    return {name: pristine_tensor(unet, f"{name}.to_k.weight").shape for name in names}


def begin_as_text(networks: Networks, unet: nn.Module) -> None:
    """Let keys and values of both mappings start as those of the text."""
    for number, name in enumerate(networks.names):
        attention: Any = unet.get_submodule(name)
        for mapping in (networks.whole, networks.local):
            mapping.keys[number].data.copy_(attention.to_k.weight)
            mapping.values[number].data.copy_(attention.to_v.weight)


def local_attention(call: Attention, said: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attn(Q, K', V'), each place of the picture as strong as it attends to the primary word (Wei et al. 2023, 3.3).

    said [B, tokens]: 1 at the word. key, value [B or 1, patches, heads x width]. The word's attention is divided by
    its largest value over the row; the authors divide by that of the whole batch, which would let a picture's
    company change it.
    """
    heads, rows = call.query.shape[1], len(call.query)
    logits = call.query @ call.key.transpose(-1, -2) / call.query.shape[-1] ** 0.5
    attention = (logits.softmax(-1) * said[:, None, None, :].to(logits.dtype)).sum(-1)  # [B, heads, queries]
    most = attention.amax((1, 2), keepdim=True)
    gate = attention / most.clamp(min=1e-12)
    key, value = (part.expand(rows, -1, -1).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (key, value))
    return gate.unsqueeze(-1) * functional.scaled_dot_product_attention(call.query, key, value)


@dataclass(frozen=True)
class Elite:
    """What the space asks: the trained networks and the picture encoder that they read."""

    vision: Vision
    networks: Networks

    @cached_property
    def fingerprint(self) -> str:
        state = {f"networks.{k}": v for k, v in self.networks.state_dict().items()}
        return digest_of({**state, **{f"vision.{k}": v for k, v in self.vision.module.state_dict().items()}})

    @torch.no_grad()
    def encode(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """(words [N, layers, text], patches [N, patches, text]); the patches see the concept alone, by its mask."""
        states = self.vision.layers(images)
        alone = states if masks is None else self.vision.layers(images * masks)
        return self.networks.words(states), self.networks.patches(alone)

    def matrices(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The keys' and values' matrices of text, by cross-attention."""
        own = zip(self.networks.names, self.networks.whole.keys, self.networks.whole.values, strict=True)
        return {name: (key, value) for name, key, value in own}

    def add(self, call: Attention, said: Tensor, patches: Tensor) -> Tensor:
        """`local_attention` with this network's keys and values of the patches [1, patches, text]."""
        number, local = self.networks.names.index(call.place.name), self.networks.local
        key, value = (functional.linear(patches, part[number]) for part in (local.keys, local.values))
        return local_attention(call, said, key, value)


def load(backbone: Backbone, source: str) -> Elite:
    """The networks in the folder `source`, or the embedded ones of an embedded backbone."""
    folder = Path(source).expanduser() if source else embedded_folder(backbone, NAME)
    if folder is None:
        raise UserError(f"No trained ELITE is known for {backbone.id}: give the folder of one as the space's weights.")
    config = read_config(folder, NAME)
    sizes = Sizes(**{**config["sizes"], "layers": tuple(config["sizes"]["layers"])})
    networks = Networks(sizes, cross_shapes(backbone.components["unet"]))
    read_weights(folder, networks, backbone.id)
    return Elite(load_vision(folder / config["vision"]), networks)


def config_of(sizes: Sizes, vision: str) -> dict[str, Any]:
    return {"kind": NAME, "sizes": asdict(sizes), "vision": vision}


picture_encoders.register(NAME, load)
