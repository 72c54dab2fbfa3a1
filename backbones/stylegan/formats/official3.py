"""The StyleGAN3 generator of an official torch .pkl, from its stored tensors and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backbones.stylegan.formats.assemble import fill
from backbones.stylegan.generator import Generator
from backbones.stylegan.stylegan3.config import infer_alias_free, is_alias_free
from unified.errors import UserError

if TYPE_CHECKING:
    from backbones.stylegan.formats.official import StoredNetwork

# Settings that no tensor tells: official name -> (field of the configuration, its type).
_SETTINGS: dict[str, tuple[str, type]] = {
    "num_critical": ("critical_layers", int),
    "first_cutoff": ("first_cutoff", float),
    "first_stopband": ("first_stopband", float),
    "last_stopband_rel": ("last_stopband_ratio", float),
    "margin_size": ("margin", int),
    "filter_size": ("filter_size", int),
    "lrelu_upsampling": ("upsampling", int),
    "output_scale": ("output_scale", float),
    "conv_clamp": ("conv_clamp", float),
}


def is_stylegan3(stored: StoredNetwork) -> bool:
    """Whether the stored network is a StyleGAN3 generator, judged by its tensors."""
    return is_alias_free(stored.tensors)


def build_alias_free_generator(stored: StoredNetwork) -> Generator:
    """The network of the inferred configuration with the stored tensors, in fp32, in eval mode, frozen.

    Shapes are compared before anything is allocated. Raises UserError if the tensors are no StyleGAN3
    generator's or do not fit its settings.
    """
    try:
        known = _known(stored)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"A setting of the stored {stored.class_name} is no number: {error}.") from None
    return fill(Generator, infer_alias_free(stored.tensors, **known), stored.tensors)


def _known(stored: StoredNetwork) -> dict[str, Any]:
    """From the arguments that the network was made with; what they leave out has the default of the paper."""
    nested, mapping = (_dict(stored.arguments.get(key)) for key in ("synthesis_kwargs", "mapping_kwargs"))
    given = nested | stored.arguments
    known = {
        field: None if name == "conv_clamp" and given[name] is None else kind(given[name])
        for name, (field, kind) in _SETTINGS.items()
        if name in given
    }
    if "lr_multiplier" in mapping:
        known["learning_rate_multiplier"] = float(mapping["lr_multiplier"])
    return known


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
