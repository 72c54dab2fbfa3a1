"""The official file layout of an IP-Adapter, written from diffusers' modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backbones.diffusion.ip_adapter import ENCODER, FILE
from backbones.diffusion.train import common
from backbones.diffusion.train.frozen import Frozen


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of diffusers' IPAdapterPlusImageProjection under the names of the official files."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith("layers."):
            found[name] = value
            continue
        _, number, rest = name.split(".", 2)
        if rest.startswith("attn.to_v"):
            continue  # with to_k, below
        if rest.startswith("attn.to_k"):
            value = torch.cat([value, state[name.replace("to_k", "to_v")]])
            rest = "attn.to_kv.weight"
        for ours, theirs in _OFFICIAL.items():
            rest = rest.replace(ours, theirs)
        found[f"layers.{number}.{rest}"] = value
    return found


_OFFICIAL = {
    "attn.to_out.0": "0.to_out",
    "attn.": "0.",
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


def export(frozen: Frozen, adapter: nn.Module, scores: Mapping[str, Any], *, out: Path) -> None:
    """Write the official layout: the adapter's file, and the folder of its image encoder."""
    network = frozen.pipeline.unet
    state = {
        f"image_proj.{k}": v
        for k, v in official_names(network.encoder_hid_proj.image_projection_layers[0].state_dict()).items()
    }
    for number, (name, processor) in enumerate(network.attn_processors.items()):
        if name.endswith("attn2.processor"):
            state[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            state[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    stored = {name: value.detach().cpu().half().contiguous().clone() for name, value in state.items()}
    with common.replacing(out) as folder:
        save_file(stored, folder / FILE, metadata={"format": "pt"})
        common.halved(frozen.vision.cpu()).save_pretrained(folder / ENCODER)
        common.declare_float32(folder / ENCODER / "config.json")
        common.write_scores(folder, scores)
        (folder / "card.md").write_text(card(adapter, scores), encoding="utf-8")


def card(adapter: nn.Module, scores: Mapping[str, Any]) -> str:
    """What a user should know about the model, in Markdown."""
    return f"""# avatars/ip-adapter

An IP-Adapter ("plus": it reads patches) of {common.parameters(adapter) / 1e6:.2f} M parameters for
avatars/stable-diffusion, in the layout of the official files: `{FILE}` and the folder `{ENCODER}`, which is the
picture encoder of avatars/clip, changed to take CLIP's own normalisation. Diffusers reads it with
`pipeline.load_ip_adapter(folder, subfolder="", weight_name="{FILE}")`.

Data: the avatars training split, two pictures of one person each time: one is read, the other is made, and the
caption says what differs (expression, glasses, clothes, background). Text, picture and both left out in one row of
twenty each.

Trained for {scores["steps"]} steps of {scores["batch"]}, {scores["training_seconds"] / 60:.1f} minutes.
Made by `unified zoo build avatars/ip-adapter`, after avatars/clip and avatars/stable-diffusion.

Of {scores["people"]} people of the validation split, sampled from one picture and the prompt "a person",
{100 * scores["nearest_to_own_reference"]:.0f} % are nearest to their own picture among all of them (CLIP).
"""
