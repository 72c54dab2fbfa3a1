"""Which files of a hub repository make a diffusers pipeline."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unified.errors import UserError

INDEX = "model_index.json"
_NETWORK = r"unet|transformer|vae|text_encoder(_[23])?"
_PARTS = re.compile(rf"(?P<part>{_NETWORK}|scheduler|tokenizer(_[23])?)/(?P<file>[^/]+)")
# Not the variants (model.fp16.safetensors, ...non_ema...), which are the same weights once more.
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_SMALL = (".json", ".txt", ".model")
#: Parts of pipelines that are not used here, and so neither fetched nor loaded.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def wanted(files: Sequence[str]) -> list[str]:
    """The index, the settings and vocabularies, and the networks' weights in .safetensors.

    Left out: the whole checkpoints that often lie beside the folders, weights in other formats and precisions, and
    the safety checker. Raises UserError if a network has no plain .safetensors.
    """
    chosen = [INDEX]
    networks: dict[str, bool] = {}
    for name in files:
        match = _PARTS.fullmatch(name)
        if match is None:
            continue
        part, file = match["part"], match["file"]
        weights = _WEIGHTS.fullmatch(file) is not None
        if weights or (file.endswith(_SMALL) and ".safetensors" not in file and ".bin" not in file):
            chosen.append(name)
        if re.fullmatch(_NETWORK, part):
            networks[part] = networks.get(part, False) or (weights and file.endswith(".safetensors"))
    missing = [part for part, found in networks.items() if not found]
    if missing:
        raise UserError(
            f"The repository has no .safetensors weights of {', '.join(missing)} (other formats can run code when they"
            " are loaded, and are not read): take a repository that has, or convert it."
        )
    return chosen
