"""IP-Adapter (Ye et al. 2023): pictures as a second prompt, through keys and values of their own.

Files of the official layout (`image_proj.*`, `ip_adapter.*`) are read by diffusers' own conversions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.diffusion.vision import digest_of
from unified.contract.backbone import Backbone
from unified.errors import UserError
from unified.exchange import read_foreign
from unified.picture_encoders import embedded_folder, picture_encoders

NAME = "ip-adapter"
FILE = "ip-adapter.safetensors"
ENCODER = "image_encoder"
PARTS = ("image_proj", "ip_adapter")
#: Diffusers normalises pictures by these whatever the encoder's own configuration says.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
#: The official files by (width of the text, number of cross-attentions).
OFFICIAL = {
    (768, 16): "h94/IP-Adapter/models/ip-adapter_sd15.safetensors",
    (2048, 70): "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors",
}


@dataclass(frozen=True)
class IPAdapter:
    """encoder: a CLIPVisionModelWithProjection. projection: features to tokens of the text's width.

    matrices: name of each cross-attention -> its (K', V'), [out, width of the text] each.
    """

    encoder: Any
    projection: nn.Module
    matrices: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def reads_patches(self) -> bool:
        """Whether it reads the last but one layer's tokens ("plus") and not the picture's one embedding."""
        from diffusers.models.embeddings import ImageProjection

        return not isinstance(self.projection, ImageProjection)

    @cached_property
    def fingerprint(self) -> str:
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        tensors |= {f"projection.{k}": v for k, v in self.projection.state_dict().items()}
        for name, (key, value) in self.matrices.items():
            tensors |= {f"{name}.key": key, f"{name}.value": value}
        return digest_of(tensors)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures [N,3,H,W] in 0..1 -> features [N, width], or [N, tokens, width] for "plus"."""
        return self._features(normalised(images, self.encoder.config.image_size))

    def _features(self, pixels: Tensor) -> Tensor:
        output = self.encoder(pixels.to(self.encoder.dtype), output_hidden_states=self.reads_patches)
        features: Tensor = output.hidden_states[-2] if self.reads_patches else output.image_embeds
        return features

    def tokens(self, features: Tensor) -> Tensor:
        """Features of N pictures -> [N, tokens, width of the text], differentiable."""
        found: Tensor = self.projection(features)
        return found

    @cached_property
    def absent(self) -> Tensor:
        """The tokens [1, tokens, width] of no picture: of features 0, or ("plus") of a picture of zeros."""
        side = self.encoder.config.image_size
        with torch.no_grad():
            features = self._features(torch.zeros(1, 3, side, side))
            return self.tokens(features if self.reads_patches else torch.zeros_like(features))

    def keys_values(self, place: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, width of the text] -> (keys, values) [B, T, heads x width] of one cross-attention."""
        key, value = self.matrices[place]
        return functional.linear(tokens, key.to(tokens.dtype)), functional.linear(tokens, value.to(tokens.dtype))


def normalised(images: Tensor, side: int) -> Tensor:
    """Square pictures in 0..1 at the encoder's size, with CLIP's mean and deviation."""
    if images.shape[-1] != side:
        images = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(v, dtype=images.dtype).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return (images - mean) / deviation


def load(backbone: Backbone, source: str) -> IPAdapter:
    """The adapter at `source`: a file, a file in a hub repository ("owner/name/folder/file"), or "" for the usual one.

    The image encoder is the folder `image_encoder` beside it. Raises UserError for what does not fit.
    """
    from transformers import CLIPVisionModelWithProjection

    path = _located(backbone, source)
    folder = path.parent / ENCODER
    if not (folder / "config.json").is_file():
        raise UserError(f"There is no image encoder at {folder}: put the one that {path.name} was trained with there.")
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    projection, matrices = parts(backbone.components["unet"], state_of(path), path)
    return IPAdapter(encoder.eval().requires_grad_(False), projection.eval().requires_grad_(False), matrices)


def state_of(path: Path) -> dict[str, dict[str, Tensor]]:
    """The two parts of an adapter file, as diffusers takes them. Raises UserError for other files."""
    found: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    rest = []
    for name, value in read_foreign(path).tensors.items():
        part, _, key = name.replace("/", ".", 1).partition(".")
        if part in found:
            found[part][key] = value.float()
        else:
            rest.append(name)
    if rest or not all(found.values()):
        raise UserError(f"{path} is no IP-Adapter: it holds {', '.join(rest[:3]) or 'only one of the two parts'}.")
    if any("lora" in key for key in found["ip_adapter"]) or _reads_faces(found["image_proj"]):
        raise UserError(f"{path} reads the features of a face recogniser, not of CLIP: use an adapter without FaceID.")
    return found


def _reads_faces(projection: Mapping[str, Tensor]) -> bool:
    return "perceiver_resampler.proj_in.weight" in projection or (
        "proj.2.weight" in projection and "proj.3.weight" not in projection
    )


def parts(
    unet: Any, state: Mapping[str, Mapping[str, Tensor]], path: Path
) -> tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]:
    """The projection, and the matrices by cross-attention, of a state as diffusers takes it.

    Raises UserError if it is not for this UNet.
    """
    crosses = sum(name.endswith("attn2.processor") for name in unet.attn_processors)
    try:
        if len(state["ip_adapter"]) != 2 * crosses:
            raise ValueError(f"{len(state['ip_adapter']) // 2} cross-attentions instead of {crosses}")
        processors = unet._convert_ip_adapter_attn_to_diffusers([state], low_cpu_mem_usage=False)
        projection = unet._convert_ip_adapter_image_proj_to_diffusers(state["image_proj"], low_cpu_mem_usage=False)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit this model ({reason}): it was made for another architecture.") from error
    matrices = {
        name.removesuffix(".processor"): (processor.to_k_ip[0].weight.detach(), processor.to_v_ip[0].weight.detach())
        for name, processor in processors.items()
        if hasattr(processor, "to_k_ip")
    }
    return projection, matrices


def _located(backbone: Backbone, source: str) -> Path:
    if not source:
        folder = embedded_folder(backbone, NAME)
        if folder is not None:
            return folder / FILE
        unet: Any = backbone.components["unet"]
        crosses = sum(name.endswith("attn2.processor") for name in unet.attn_processors)
        source = OFFICIAL.get((unet.config.cross_attention_dim, crosses), "")
        if not source:
            raise UserError(f"No IP-Adapter is known for {backbone.id}: give a file, or 'owner/name/file', as weights.")
    path = Path(source).expanduser()
    if path.is_file():
        return path
    return _from_hub(source)


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download

    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not file or source.startswith((".", "/", "~")):
        raise UserError(f"There is no IP-Adapter at {source!r}: give a file, or 'owner/name/file' on the model hub.")
    folder = file.rpartition("/")[0]
    try:
        root = snapshot_download(f"{owner}/{name}", allow_patterns=[file, f"{folder}/{ENCODER}/*".lstrip("/")])
    except Exception as error:
        # The hub client raises a family of errors (absent, gated, no network); all mean the same to the user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The IP-Adapter {source!r} could not be had from the model hub ({reason}): give the path of a downloaded"
            " file with its folder image_encoder beside it."
        ) from error
    return Path(root) / file


picture_encoders.register(NAME, load)
