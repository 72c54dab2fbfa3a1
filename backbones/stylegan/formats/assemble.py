"""From named tensors to networks: checked against the configuration before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from backbones.stylegan.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    infer_discriminator,
    infer_generator,
)
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.errors import damaged
from backbones.stylegan.generator import Generator
from backbones.stylegan.ops import make_filter
from backbones.stylegan.stylegan3.config import AliasFreeConfig
from unified.errors import UserError

Network = TypeVar("Network", Generator, Discriminator)

_SHARED = 4  # a network may be this many times as large as the values it is made of (half precision, ties)


def generator_from(tensors: Mapping[str, Tensor], **known: Any) -> Generator:
    """A StyleGAN2 generator of tensors by official names, in fp32, in eval mode, frozen.

    known: fields of the configuration that no shape tells. Raises UserError for tensors of another network.
    """
    _refuse_others(tensors)
    return fill(Generator, infer_generator(tensors, **known), tensors)


def discriminator_from(tensors: Mapping[str, Tensor], **known: Any) -> Discriminator:
    """As :func:`generator_from`."""
    return fill(Discriminator, infer_discriminator(tensors, **known), tensors)


def fill(
    kind: type[Network],
    config: GeneratorConfig | AliasFreeConfig | DiscriminatorConfig,
    tensors: Mapping[str, Tensor],
) -> Network:
    """The network with copies of the tensors. Resampling filters that are missing are rebuilt.

    Shapes are compared on the meta device, and what the network would need with the memory that its tensors share,
    so that a small file cannot ask for a large network.
    """
    family = "StyleGAN3" if isinstance(config, AliasFreeConfig) else "StyleGAN2"
    what = f"{family} {kind.__name__.lower()} of resolution {config.resolution}"
    try:
        with torch.device("meta"):
            network = kind(config)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, OverflowError, TypeError, MemoryError) as error:
        raise UserError(f"No {what} can be made of the stored shapes: {str(error)[:200]}") from None
    expected = network.state_dict()
    given = dict(tensors)
    for name in expected:
        if name.endswith("resample_filter"):
            given.setdefault(name, make_filter())
    _compare(what, expected, given)
    own: dict[str, Tensor] = {}
    for name in expected:
        value = given[name].detach()
        # A copy of its own: stored values may be unaligned, shared or part of something large.
        own[name] = value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    network.load_state_dict(own, assign=True)
    return network.eval().requires_grad_(False)


def _compare(what: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    if missing or unknown:
        parts = [
            f"{word} {', '.join(names[:4])}" for word, names in (("lacks", missing), ("has besides", unknown)) if names
        ]
        raise UserError(f"The file does not hold a {what}: it {' and '.join(parts)}. Its variant is not known.")
    for name, want in expected.items():
        got = given[name]
        if got.shape != want.shape or got.dtype.is_complex:
            raise UserError(
                f"The file does not hold a {what}: {name} has shape {tuple(got.shape)}; expected {tuple(want.shape)}."
            )
    refuse_repetition(given.values())


def refuse_repetition(tensors: Iterable[Tensor]) -> None:
    """Raise UnsafeFileError if the tensors show the same memory over and over: copying them could fill any memory."""
    listed = [tensor for tensor in tensors if not tensor.is_meta]
    storages = [tensor.untyped_storage() for tensor in listed]
    there = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if 4 * sum(tensor.numel() for tensor in listed) > _SHARED * there + 2**20:
        raise damaged("its tensors repeat a few values many times")


def _refuse_others(tensors: Mapping[str, Tensor]) -> None:
    if "synthesis.input.freqs" in tensors:
        raise UserError("The file holds a StyleGAN3 where a StyleGAN2 is expected.")
    if any(name.startswith(("g_synthesis.", "g_mapping.", "generator.progression.")) for name in tensors):
        raise UserError("The file holds a StyleGAN1, whose networks differ; expected StyleGAN2.")
