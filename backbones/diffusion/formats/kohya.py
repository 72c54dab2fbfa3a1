"""How kohya's training scripts name the modules of a LoRA: a prefix, and the path with '_' for '.'.

The UNet of Stable Diffusion 1.x and 2.x goes by diffusers' paths, that of SDXL by those of the original code.
Text encoders go by the paths they had in transformers when the format was made, with `text_model` in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from unified.contract.backbone import Backbone

# Prefixes by component; the first is for backbones with one text encoder, the second for those with two.
_PREFIXES: Mapping[str, Sequence[str]] = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_TEXT = "text_model."
#: Of the original UNet's residual blocks.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "conv_norm_out": "out.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def covers(backbone: Backbone, component: str) -> bool:
    """Whether the format has names for this component as diffusers builds it, which is with a UNet."""
    return "unet" in backbone.components and component in _PREFIXES


def places(backbone: Backbone) -> dict[str, tuple[str, str]]:
    """Every name that a file may use -> (component, path of the module in it)."""
    found: dict[str, tuple[str, str]] = {}
    for component, prefixes in _PREFIXES.items():
        if not covers(backbone, component) or component not in backbone.components:
            continue
        network = backbone.components[component]
        for path in modules(network):
            spellings = [path, original_path(path, network)] if component == "unet" else [path, _with_text(path)]
            for prefix in prefixes:
                found |= {_flat(prefix, spelling): (component, path) for spelling in spellings if spelling}
    return found


def name_of(backbone: Backbone, component: str, path: str) -> str:
    """The name that kohya's scripts write."""
    two = "text_encoder_2" in backbone.components
    prefix = _PREFIXES[component][-1 if two else 0]
    if component != "unet":
        return _flat(prefix, _with_text(path))
    original = original_path(path, backbone.components[component]) if two else None
    return _flat(prefix, original or path)


def modules(network: nn.Module) -> list[str]:
    """Paths of what low-rank changes go to."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def original_path(path: str, unet: nn.Module) -> str | None:
    """A module's path in the original UNet (Rombach et al. 2022), from diffusers'; None for what it has not.

    There the blocks of one direction are counted through: a level of L layers takes L + 1 numbers, whose last is
    the downsampling; upwards it has L + 1 layers, the last of which also upsamples.
    """
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    part, _, rest = path.partition(".")
    if part == "mid_block":
        sort, _, rest = rest.partition(".")
        number, _, rest = rest.partition(".")
        place = f"middle_block.{2 * int(number) if sort == 'resnets' else 1}"
    elif part in ("down_blocks", "up_blocks"):
        level, sort, number, *rests = rest.split(".")
        rest = ".".join(rests)
        block = unet.get_submodule(f"{part}.{level}")
        layers = len(list(block.get_submodule("resnets").children()))
        reads = hasattr(block, "attentions")
        if part == "down_blocks":
            first = 1 + int(level) * (layers + 1)
            place = f"input_blocks.{first + (layers if sort == 'downsamplers' else int(number))}"
            rest = rest.replace("conv", "op", 1) if sort == "downsamplers" else rest
        else:
            place = f"output_blocks.{int(level) * layers + (layers - 1 if sort == 'upsamplers' else int(number))}"
        inner = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2 if reads else 1}
        place = f"{place}.{inner[sort]}"
    else:
        return None
    if sort == "resnets":
        rest = _RESIDUAL.get(rest, rest)
    return f"{place}.{rest}"


def _with_text(path: str) -> str:
    return path if path.startswith(_TEXT) else _TEXT + path


def _flat(prefix: str, path: str) -> str:
    return prefix + path.replace(".", "_")
