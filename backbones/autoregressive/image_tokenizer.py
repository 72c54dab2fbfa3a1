"""Pictures to visual tokens and back, with the gradients that `Emu3VQVAE` does not offer.

`Emu3VQVAE.encode` returns indices only. Training a tokenizer and optimising tokens both need the
continuous latents, the straight-through estimator and a decoder that takes embeddings; they are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unified.errors import UserError

if TYPE_CHECKING:
    from transformers import Emu3VQVAE


def check_sides(images: Tensor, factor: int) -> None:
    """Raises UserError unless images [N,3,H,W] have sides that a tokenizer of `factor` divides."""
    if images.ndim != 4 or images.shape[-2] % factor or images.shape[-1] % factor:
        raise UserError(
            f"images of shape {tuple(images.shape)} were given to the image tokenizer; "
            f"expected [N,3,H,W] with sides that are multiples of {factor}; resize them first"
        )


class ImageTokenizer(nn.Module):
    """The VQ model of an Emu3, with pictures in 0..1 at its edge.

    vq: shared with the model it came from, not copied.
    mean, std: pictures are given to the network as (x - mean) / std.
    """

    def __init__(self, vq: Emu3VQVAE, *, mean: float = 0.5, std: float = 0.5) -> None:
        super().__init__()
        self.vq = vq
        self.mean = mean
        self.std = std

    @property
    def factor(self) -> int:
        """Pixels a side of one token."""
        return int(self.vq.vision_spatial_factor)

    @property
    def codebook(self) -> Tensor:
        """Code vectors [codes, dimension]."""
        return self.vq.quantize.embedding.weight

    def latents(self, images: Tensor) -> Tensor:
        """Continuous latents [N,D,h,w] of images [N,3,H,W] in 0..1. Differentiable."""
        check_sides(images, self.factor)
        frames = self.vq.config.temporal_downsample_factor
        pixels = ((images - self.mean) / self.std).to(self.codebook.dtype)
        video = pixels.unsqueeze(1).repeat(1, frames, 1, 1, 1)
        hidden = self.vq.encoder(video).permute(0, 2, 1, 3, 4)
        return self.vq.quant_conv(hidden)[:, :, 0]

    def nearest(self, latents: Tensor) -> Tensor:
        """Index [N,h,w] of the code nearest (Euclidean) to each latent of [N,D,h,w]."""
        return self.vq.quantize(latents.unsqueeze(1)).squeeze(1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors [N,D,h,w] of codes [N,h,w]; differentiable in the codebook."""
        return nn.functional.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest code vectors [N,D,h,w] and codes [N,h,w].

        The gradient passes straight through to `latents` (van den Oord et al. 2017, section 3.2);
        the codebook gets none.
        """
        codes = self.nearest(latents.detach())
        vectors = self.lookup(codes).detach()
        return latents + (vectors - latents).detach(), codes

    def decode_embeddings(self, vectors: Tensor) -> Tensor:
        """Images [N,3,H,W] of code vectors [N,D,h,w], in 0..1 but not clamped. Differentiable."""
        video = vectors.unsqueeze(2)
        hidden = self.vq.post_quant_conv(video).permute(0, 2, 1, 3, 4)
        frames = self.vq.decoder(hidden, video.permute(0, 2, 1, 3, 4))
        pixels = frames.reshape(vectors.shape[0], -1, *frames.shape[1:])[:, 0]
        return pixels * self.std + self.mean

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes [N,h,w] of images [N,3,H,W] in 0..1."""
        return self.nearest(self.latents(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images [N,3,H,W] in 0..1 of codes [N,h,w]."""
        count = self.codebook.shape[0]
        if codes.ndim != 3 or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < count):
            raise UserError(
                f"codes of shape {tuple(codes.shape)} were given to the image tokenizer; "
                f"expected [N,h,w] with values 0..{count - 1}"
            )
        return self.decode_embeddings(self.lookup(codes)).clamp(0, 1)

    def forward(self, images: Tensor, *, quantized: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [N,3,H,W], latents [N,D,h,w] and codes [N,h,w] of images in 0..1.

        quantized: decode the code vectors; otherwise the latents as they are (an autoencoder).
        """
        latents = self.latents(images)
        vectors, codes = self.quantize(latents)
        return self.decode_embeddings(vectors if quantized else latents), latents, codes
