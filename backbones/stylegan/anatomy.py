"""The layers of the synthesis networks: which are modulated by what, and where features are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Modulated:
    """A modulated layer: its path, which style vector it takes, and how many channels that modulates."""

    name: str
    style: int
    channels: int


@dataclass(frozen=True)
class Place:
    """Where features are: the path of the module that gives them [N, channels, height, width].

    coarser: the path of the block whose picture so far, made before these features, is added to theirs; or None.
    extent: how many widths of the picture they cover.
    """

    name: str
    shape: tuple[int, int, int]
    coarser: str | None = None
    extent: float = 1.0


def stylegan2_modulated(synthesis: Any) -> Sequence[Modulated]:
    """Convolutions and RGB layers, 'b16.conv0' and 'b16.torgb', in the order of synthesis."""
    layers, first = [], 0
    for size in synthesis.config.sizes:
        block = synthesis.get_submodule(f"b{size}")
        names = [name for name in ("conv0", "conv1", "torgb") if getattr(block, name, None) is not None]
        for i, name in enumerate(names):
            channels = block.get_submodule(name).weight.shape[1]
            layers.append(Modulated(f"b{size}.{name}", first + i, channels))
        # A block's RGB layer shares its style with the next block's first convolution.
        first += len([name for name in names if name != "torgb"])
    return layers


def stylegan2_places(synthesis: Any) -> Mapping[str, Place]:
    """The outputs of the convolutions, 'b16.conv0', and of the blocks, 'b16', which the next block gets.

    In a residual network of the blocks alone: its convolutions give only a part of the features.
    """
    places: list[Place] = []
    coarser: str | None = None
    sizes = synthesis.config.sizes
    for size in sizes:
        shape = (synthesis.config.channels_at(size), size, size)
        names = ("conv1",) if coarser is None else ("conv0", "conv1")
        if synthesis.config.architecture != "resnet":
            places += [Place(f"b{size}.{name}", shape, coarser) for name in names]
        if size != sizes[-1]:
            places.append(Place(f"b{size}", shape, f"b{size}"))
        coarser = f"b{size}"
    return {place.name: place for place in places}


def stylegan3_modulated(synthesis: Any) -> Sequence[Modulated]:
    """`input` turns and moves the coarsest features by its 4 numbers; the layers modulate."""
    names = ["input", *(layer.name for layer in synthesis.plan)]
    widths = [synthesis.get_submodule(f"{name}.affine").bias.shape[0] for name in names]
    return [Modulated(name, i, width) for i, (name, width) in enumerate(zip(names, widths, strict=True))]


def stylegan3_places(synthesis: Any) -> Mapping[str, Place]:
    """The outputs of the layers, with their margins."""
    places = [
        Place(
            layer.name,
            (layer.out_channels, layer.after.size, layer.after.size),
            extent=layer.after.size / layer.after.rate,
        )
        for layer in synthesis.plan
        if not layer.is_rgb
    ]
    return {place.name: place for place in places}
