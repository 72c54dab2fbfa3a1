"""The StyleGAN3 generator of an official torch .pkl, from its stored tensors and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backbones.stylegan.generator import Generator
from backbones.stylegan.stylegan3.config import infer_alias_free, is_alias_free
from unified.errors import UserError

if TYPE_CHECKING:
    from backbones.stylegan.formats.official import StoredNetwork

# Arguments that no tensor tells: official name -> (field of the configuration, its type).
_ARGUMENTS: dict[str, tuple[str, type]] = {
    "num_critical": ("critical_layers", int),
    "first_cutoff": ("first_cutoff", float),
    "first_stopband": ("first_stopband", float),
    "last_stopband_rel": ("last_stopband_ratio", float),
    "margin_size": ("margin", int),
    "filter_size": ("filter_size", int),
    "lrelu_upsampling": ("upsampling", int),
    "output_scale": ("output_scale", float),
}


def is_stylegan3(stored: StoredNetwork) -> bool:
    """Whether the stored network is a StyleGAN3 generator, judged by its tensors."""
    return is_alias_free(stored.tensors)


def build_alias_free_generator(stored: StoredNetwork) -> Generator:
    """The network of the inferred configuration with the stored tensors, in fp32, in eval mode, frozen.

    Raises UserError if the tensors are no StyleGAN3 generator's.
    """
    config = infer_alias_free(stored.tensors, **_known(stored.arguments))
    network = Generator(config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in stored.tensors.items()})
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"The stored {stored.class_name} does not fit StyleGAN3: {' '.join(lines[1:3])[:400]}"
        ) from None
    return network.eval().requires_grad_(False)


def _known(arguments: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for source in (arguments.get("synthesis_kwargs") or {}, arguments):
        for name, (field, kind) in _ARGUMENTS.items():
            if name in source:
                known[field] = kind(source[name])
        if "conv_clamp" in source:
            value = source["conv_clamp"]
            known["conv_clamp"] = None if value is None else float(value)
    mapping = arguments.get("mapping_kwargs") or {}
    if "lr_multiplier" in mapping:
        known["learning_rate_multiplier"] = float(mapping["lr_multiplier"])
    return known
