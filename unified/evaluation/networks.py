"""The published protocols' feature extractors: DINO, CLIP, LPIPS-squeeze, from a folder, a file or the hub.

None of their weights ship with this package. Each extractor's `name` says which weights and which crop its
features come from, and stands beside every score; the embedded extractors have names of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from unified.errors import UserError
from unified.images import to_pil

T = TypeVar("T")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageFeatures(Protocol):
    """Pictures, each [3,H,W] in 0..1 of any size, to features [N,D]. `name` of weights and crop."""

    @property
    def name(self) -> str: ...

    def images(self, pictures: Sequence[Tensor]) -> Tensor: ...


class ImageTextFeatures(ImageFeatures, Protocol):
    """Texts into the same space, [N,D]."""

    def texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class Crop:
    """Shorter side to `resize` by Pillow's bicubic, the middle `size` x `size` of it, normalised.

    Pictures are taken in 8 bits, as files hold them and as the published code does.
    """

    resize: int
    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, pictures: Sequence[Tensor]) -> Tensor:
        """[3,H,W] in 0..1 each -> [N,3,size,size]."""
        rows = torch.stack([torch.from_numpy(self._cut(to_pil(picture)[0])) for picture in pictures])
        pixels = rows.movedim(-1, 1).float() / 255
        return (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.deviation).view(3, 1, 1)

    def _cut(self, picture: Image.Image) -> np.ndarray[Any, Any]:
        width, height = picture.size
        short = min(width, height)
        shape = (int(self.resize * width / short), int(self.resize * height / short))
        if shape != picture.size:
            picture = picture.resize(shape, Image.Resampling.BICUBIC)
        left, top = (round((side - self.size) / 2) for side in picture.size)
        return np.array(picture.crop((left, top, left + self.size, top + self.size)))


DINO_CROP = Crop(256, 224, *IMAGENET)
CLIP_CROP = Crop(224, 224, *CLIP_PIXELS)


class VisionTransformer:
    """The class token of a DINO or DINOv2 model in transformers' format, frozen."""

    def __init__(self, source: str, model: Any, crop: Crop = DINO_CROP) -> None:
        self.name = f"{source}, {crop.resize} > {crop.size}"
        self.model = model.eval().requires_grad_(False)
        self.crop = crop

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        return _in_batches(lambda part: self.model(pixel_values=self.crop(part)).last_hidden_state[:, 0], pictures)

    def keys(self, pixels: Tensor) -> Tensor:
        """Keys [N,tokens,D] of the last layer's attention, all heads side by side, of prepared [N,3,H,W]."""
        layer = [m for name, m in self.model.named_modules() if name.endswith((".key", ".k_proj"))][-1]
        found: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            self.model(pixel_values=pixels, interpolate_pos_encoding=True)
        finally:
            handle.remove()
        return found[0]


class ClipFeatures:
    """Pictures and texts by a CLIPModel, frozen; not normalised."""

    def __init__(self, source: str, model: Any, tokenizer: Any, crop: Crop = CLIP_CROP) -> None:
        self.name = f"{source}, {crop.resize} > {crop.size}"
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.crop = crop

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        def features(part: Sequence[Tensor]) -> Tensor:
            pooled = self.model.vision_model(pixel_values=self.crop(part)).pooler_output
            out: Tensor = self.model.visual_projection(pooled)
            return out

        return _in_batches(features, pictures)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N,D]; what is longer than the model reads is cut."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        out: Tensor = self.model.text_projection(pooled)
        return out


def load_dino(source: str) -> VisionTransformer:
    """A DINO model ("facebook/dino-vits16") or DINOv2 ("facebook/dinov2-small") of a folder or the hub."""
    from transformers import AutoModel

    return VisionTransformer(source, _fetched(source, lambda: AutoModel.from_pretrained(source, dtype=torch.float32)))


def load_clip(source: str) -> ClipFeatures:
    """A CLIPModel ("openai/clip-vit-base-patch32") of a folder or the hub."""
    from transformers import CLIPModel, CLIPTokenizer

    model = _fetched(source, lambda: CLIPModel.from_pretrained(source, dtype=torch.float32))
    tokenizer = _fetched(source, lambda: CLIPTokenizer.from_pretrained(source))
    return ClipFeatures(source, model, tokenizer, _clip_crop(source, int(model.config.vision_config.image_size)))


def _clip_crop(source: str, size: int) -> Crop:
    """The size of the model, with mean and deviation as its preprocessor_config.json has them, if it has one."""
    from transformers import CLIPImageProcessor

    try:
        found, _ = CLIPImageProcessor.get_image_processor_dict(source)
    except OSError:
        found = {}
    mean, deviation = (
        tuple(found.get(key) or default) for key, default in zip(("image_mean", "image_std"), CLIP_PIXELS, strict=True)
    )
    return Crop(size, size, mean, deviation)


def load_lpips_squeeze(source: str | Path | None = None) -> nn.Module:
    """LPIPS v0.1 on SqueezeNet 1.1: pictures [N,3,H,W] in -1..1, two of them -> distances.

    source: file of torchvision's squeezenet1_1 weights (.pth or .safetensors); None: torchvision's download.
    """
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models import SqueezeNet1_1_Weights

    url = SqueezeNet1_1_Weights.DEFAULT.url
    trunk = read_state(source, url=url, what="SqueezeNet 1.1 of LPIPS")
    network = _LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
    slices: Any = network.net.slices
    for part in slices:
        for number, layer in part.named_children():
            prefix = f"features.{number}."
            layer.load_state_dict({k.removeprefix(prefix): v for k, v in trunk.items() if k.startswith(prefix)})
    return network.eval().requires_grad_(False)


def read_state(source: str | Path | None, *, url: str, what: str) -> dict[str, Tensor]:
    """Tensors by name of a file, or of a download. Raises UserError saying what to fetch."""
    from safetensors.torch import load_file

    def read() -> dict[str, Tensor]:
        if source is None:
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, progress=False)
        if str(source).endswith(".safetensors"):
            return load_file(source)
        found: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
        return found

    return _fetched(str(source or url), read, what=what)


def _fetched(source: str, load: Callable[[], T], *, what: str = "") -> T:
    try:
        return load()
    except Exception as error:  # many sorts for missing files, no network and damage; all are put right alike
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The weights {what or source} cannot be had from {source!r} ({reason}): give a folder or file that holds"
            " them, or a hub id while there is a network."
        ) from error


@torch.no_grad()
def _in_batches(compute: Callable[[Sequence[Tensor]], Tensor], pictures: Sequence[Tensor], size: int = 32) -> Tensor:
    if not pictures:
        raise UserError("No picture was given to compare; give at least one.")
    return torch.cat([compute(pictures[i : i + size]) for i in range(0, len(pictures), size)])


def structure_distance(network: VisionTransformer, a: Tensor, b: Tensor, *, pixels: float = 255.0) -> Tensor:
    """[N] mean squared difference of the cosine self-similarities of the last layer's keys (Tumanyan et al. 2022,
    Splicing ViT Features, section 3.1), of pictures [N,3,H,W] in 0..1; their shorter side is scaled to 224.

    pixels: what white is given as before it is normalised. PIE-Bench's published values come from 255, where
    the network was trained with 1; they can be compared with no others.
    """
    similarity = [_self_similarity(network.keys(_prepared(images * pixels))) for images in (a, b)]
    return (similarity[0] - similarity[1]).square().mean((1, 2))


def _prepared(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    short = min(height, width)
    shape = (math.floor(224 * height / short), math.floor(224 * width / short))
    scaled = functional.interpolate(images, shape, mode="bilinear", antialias=True)
    mean, deviation = (images.new_tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    return (scaled - mean) / deviation


def _self_similarity(keys: Tensor) -> Tensor:
    unit = functional.normalize(keys, dim=2, eps=1e-4)
    return unit @ unit.mT
