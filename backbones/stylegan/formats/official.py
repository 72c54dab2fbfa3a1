"""Files of the official torch code: {"G", "D", "G_ema", ...} in a .pkl, or one network in a .pt as PTI writes it.

Both the files of stylegan2-ada-pytorch and those of the StyleGAN3 repository are read. They give their settings in
different arguments and with different defaults, so settings are taken from the attributes of the stored layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.formats.assemble import discriminator_from, generator_from
from backbones.stylegan.formats.errors import damaged, describing
from backbones.stylegan.formats.official3 import build_alias_free_generator, is_stylegan3
from backbones.stylegan.formats.restricted import Stub, Walk, plain, read_content
from backbones.stylegan.generator import Generator
from unified.errors import UserError


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it is in the file: its class, arguments and tensors by official name.

    attributes: numbers and texts of its layers by dotted path, such as "synthesis.b8.conv0.conv_clamp".
    """

    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)


def read_official(path: str | Path, *, shapes: bool = False) -> dict[str, StoredNetwork]:
    """All networks of the file by name ("G", "D", "G_ema"), without running anything of it.

    A file of a single network gives {"G": ...}. shapes: tensors are on the meta device.
    Raises UnsafeFileError if the file asks for anything outside the allow list or is damaged.
    """
    return official_networks(read_content(path, shapes=shapes), path)


def official_networks(content: Any, path: str | Path) -> dict[str, StoredNetwork]:
    if isinstance(content, Stub):
        return {"G": _network(content)}
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}; expected a dict with G_ema, as the official StyleGAN2 "
            "training writes it."
        )
    return {key: _network(value) for key, value in content.items() if type(key) is str and isinstance(value, Stub)}


def load_official(path: str | Path) -> tuple[Generator, Discriminator | None]:
    """The averaged generator (G_ema, or G) and the discriminator if there is one, in fp32, in eval mode.

    Raises UserError for networks that are not StyleGAN2's.
    """
    content = read_content(path)
    with describing(path):
        return build_networks(official_networks(content, path), path)


def build_networks(stored: dict[str, StoredNetwork], path: str | Path) -> tuple[Generator, Discriminator | None]:
    source = stored.get("G_ema") or stored.get("G")
    if source is None:
        raise UserError(f"{path} holds {sorted(stored) or 'no networks'}; expected G_ema or G.")
    generator = build_generator(source)
    discriminator = build_discriminator(stored["D"]) if "D" in stored else None
    return generator, discriminator


def build_generator(stored: StoredNetwork) -> Generator:
    """The network of the inferred configuration, with the stored tensors."""
    if is_stylegan3(stored):
        return build_alias_free_generator(stored)
    synthesis = stored.arguments.get("synthesis_kwargs")
    known = _settings(stored, "synthesis.b4.conv1", "mapping.fc0", synthesis)
    return generator_from(stored.tensors, **known)


def build_discriminator(stored: StoredNetwork) -> Discriminator:
    known = _settings(stored, "b4.conv", "mapping.fc0", None)
    epilogue = stored.arguments.get("epilogue_kwargs")
    given = epilogue if isinstance(epilogue, dict) else {}
    group = stored.attributes.get("b4.mbstd.group_size", given.get("mbstd_group_size", 4))
    if group is not None and (type(group) is not int or group < 1):
        raise damaged("the group size of the minibatch deviation is no number")
    return discriminator_from(stored.tensors, group_size=group, **known)


def _settings(stored: StoredNetwork, layer: str, mapping: str, nested: Any) -> dict[str, Any]:
    """What no shape tells: from the attributes of a layer, else from the arguments."""
    activation = stored.attributes.get(f"{layer}.activation", "lrelu")
    if activation != "lrelu":
        raise UserError(f"The network uses the activation {str(activation)[:20]!r}; only lrelu is supported.")
    arguments = stored.arguments
    if f"{layer}.conv_clamp" in stored.attributes:
        clamp = stored.attributes[f"{layer}.conv_clamp"]
    else:
        clamp = arguments.get("conv_clamp", nested.get("conv_clamp") if isinstance(nested, dict) else None)
    kwargs = arguments.get("mapping_kwargs")
    given = kwargs.get("lr_multiplier", 0.01) if isinstance(kwargs, dict) else 0.01
    multiplier = stored.attributes.get(f"{mapping}.bias_gain", given)
    for value in (clamp, multiplier):
        if value is not None and type(value) not in (int, float):
            raise damaged("a setting of a network is no number")
    return {
        "conv_clamp": None if clamp is None else float(clamp),
        "learning_rate_multiplier": 0.01 if multiplier is None else float(multiplier),
    }


def _network(stub: Stub) -> StoredNetwork:
    tensors: dict[str, Tensor] = {}
    attributes: dict[str, Any] = {}
    walk = Walk()
    _collect(stub, "", tensors, attributes, 0, walk)
    arguments = plain(stub.state.get("_init_kwargs") or {})
    return StoredNetwork(stub.class_name, arguments if isinstance(arguments, dict) else {}, tensors, attributes)


def _collect(
    value: Any, prefix: str, tensors: dict[str, Tensor], attributes: dict[str, Any], depth: int, walk: Walk
) -> None:
    """Walk the __dict__ of a torch module: its _parameters, _buffers and _modules, and plain attributes."""
    walk.step(depth)
    if not isinstance(value, Stub):
        raise damaged(f"its module {prefix[:100]!r} is not a network")
    passing = value.state.get("_non_persistent_buffers_set")
    left_out = passing if isinstance(passing, set) else set()
    for group in ("_parameters", "_buffers"):
        for name, tensor in _members(value, group).items():
            walk.step(depth)
            if isinstance(tensor, Tensor) and name not in left_out:
                tensors[prefix + name] = tensor
    for name, item in value.state.items():
        walk.step(depth)
        if type(name) is str and not name.startswith("_") and (item is None or type(item) in (int, float, str, bool)):
            attributes[prefix + name] = item
    for name, child in _members(value, "_modules").items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", tensors, attributes, depth + 1, walk)


def _members(stub: Stub, group: str) -> dict[str, Any]:
    found = stub.state.get(group) or {}
    if not isinstance(found, dict) or not all(type(name) is str for name in found):
        raise damaged(f"the {group} of a module are no dict of names")
    return found
