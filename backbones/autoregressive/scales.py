"""A picture as token maps of growing size: a residual tokenizer with one codebook for all scales.

Tian et al. 2024, Visual Autoregressive Modeling (VAR), section 3.2, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.autoregressive.image_tokenizer import check_sides
from unified.errors import UserError


@dataclass(frozen=True)
class ScaleSettings:
    """sides: of the token maps, the last one is that of the latents. channels: of the encoder, one for each
    resolution. mix: how much of each contribution goes through its convolution.
    """

    sides: tuple[int, ...] = (1, 2, 4, 8)
    codes: int = 512
    dimension: int = 16
    channels: tuple[int, ...] = (16, 32, 64, 96)
    blocks: int = 1
    mix: float = 0.5

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.channels) - 1))

    @property
    def count(self) -> int:
        """Tokens of a picture."""
        return sum(side * side for side in self.sides)

    def levels(self) -> Tensor:
        """[count] the scale of each token."""
        return torch.cat([torch.full((side * side,), k) for k, side in enumerate(self.sides)])


@dataclass(frozen=True)
class Rounding:
    """Latents as tokens. codes: [N,count]. assigned: for every code the residual that it stands for, [N,count,D].
    sums: after each scale what has been reconstructed so far, [N,D,h,w].
    """

    codes: Tensor
    assigned: Tensor
    sums: tuple[Tensor, ...]


class MultiScaleTokenizer(nn.Module):
    """Pictures in 0..1 to tokens of all scales and back."""

    def __init__(self, settings: ScaleSettings) -> None:
        super().__init__()
        from diffusers.models.autoencoders.vae import Decoder, Encoder

        self.settings = settings
        levels = len(settings.channels)
        groups = min(16, settings.channels[0] // 2)
        self.encoder = Encoder(
            3,
            settings.dimension,
            down_block_types=("DownEncoderBlock2D",) * levels,
            block_out_channels=settings.channels,
            layers_per_block=settings.blocks,
            norm_num_groups=groups,
            double_z=False,
        )
        self.decoder = Decoder(
            settings.dimension,
            3,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=settings.channels,
            layers_per_block=settings.blocks,
            norm_num_groups=groups,
        )
        self.decoder.to(memory_format=torch.channels_last)  # its convolutions are a fifth faster so on a CPU
        self.codebook = nn.Parameter(torch.randn(settings.codes, settings.dimension))
        size = settings.dimension
        self.spread = nn.ModuleList(nn.Conv2d(size, size, 3, padding=1) for _ in settings.sides)

    @property
    def factor(self) -> int:
        return self.settings.factor

    def latents(self, images: Tensor) -> Tensor:
        """Continuous latents [N,D,h,w] of images [N,3,H,W] in 0..1."""
        check_sides(images, self.factor)
        side = self.settings.sides[-1] * self.factor
        if tuple(images.shape[-2:]) != (side, side):
            raise UserError(
                f"pictures of {images.shape[-2]} x {images.shape[-1]} pixels were given to the multi-scale tokenizer;"
                f" its scales are those of {side} x {side}: resize them first"
            )
        found: Tensor = self.encoder((images * 2 - 1).to(self.codebook.dtype))
        return found

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Images [N,3,H,W] of reconstructed latents [N,D,h,w], in 0..1 but not clamped."""
        pixels: Tensor = self.decoder(vectors)
        return pixels * 0.5 + 0.5

    def contribution(self, scale: int, vectors: Tensor) -> Tensor:
        """What the code vectors [N,D,side,side] of a scale add to the latents, [N,D,h,w]."""
        side = self.settings.sides[-1]
        if vectors.shape[-1] != side:
            vectors = functional.interpolate(vectors, size=(side, side), mode="bicubic")
        mix = self.settings.mix
        return vectors * (1 - mix) + self.spread[scale](vectors) * mix

    def nearest(self, residual: Tensor, *, count: int = 1) -> Tensor:
        """The nearest codes [N,count,side,side] of vectors [N,D,side,side]."""
        rows = residual.permute(0, 2, 3, 1).flatten(0, 2)
        found = torch.cdist(rows, self.codebook).topk(min(count, len(self.codebook)), largest=False).indices
        number, _, height, width = residual.shape
        return found.view(number, height, width, -1).permute(0, 3, 1, 2)

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors [N,D,side,side] of codes [N,side,side]."""
        return functional.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def shrink(self, latents: Tensor, scale: int) -> Tensor:
        """Latents at the size of a scale."""
        side = self.settings.sides[scale]
        return latents if latents.shape[-1] == side else functional.interpolate(latents, size=(side, side), mode="area")

    def rounding(self, latents: Tensor) -> Rounding:
        """Latents [N,D,h,w] to tokens, scale by scale of what is left (algorithm 1).

        Differentiable in the codebook and the convolutions through `sums`; not in the latents.
        """
        left, total = latents.detach(), torch.zeros_like(latents)
        codes, assigned, sums = [], [], []
        for scale in range(len(self.settings.sides)):
            residual = self.shrink(left, scale)
            chosen = self.nearest(residual)[:, 0]
            added = self.contribution(scale, self.lookup(chosen))
            total = total + added
            left = left - added.detach()
            codes.append(chosen.flatten(1))
            assigned.append(residual.flatten(2).transpose(1, 2))
            sums.append(total)
        return Rounding(torch.cat(codes, 1), torch.cat(assigned, 1), tuple(sums))

    def maps(self, codes: Tensor) -> Iterator[Tensor]:
        """The maps [N,side,side] of tokens [N,count]."""
        for part, side in zip(
            codes.split([s * s for s in self.settings.sides], dim=1), self.settings.sides, strict=True
        ):
            yield part.unflatten(1, (side, side))

    def sums(self, codes: Tensor) -> list[Tensor]:
        """What is reconstructed after each scale, [N,D,h,w] each (algorithm 2)."""
        total: Tensor | None = None
        found = []
        for scale, chosen in enumerate(self.maps(codes)):
            added = self.contribution(scale, self.lookup(chosen))
            total = added if total is None else total + added
            found.append(total)
        return found

    def inputs(self, codes: Tensor) -> Tensor:
        """What a transformer reads of a picture: the sum before each scale at its size, [N,count-1,D]."""
        sums = self.sums(codes)
        parts = [self.shrink(total, scale + 1).flatten(2) for scale, total in enumerate(sums[:-1])]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstructed latents with the gradient passed straight through, tokens [N,count])."""
        found = self.rounding(latents)
        return latents + (found.sums[-1] - latents).detach(), found.codes

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens [N,count] of images [N,3,H,W] in 0..1."""
        return self.rounding(self.latents(images)).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images [N,3,H,W] in 0..1 of tokens [N,count]."""
        return self.decode_vectors(self.sums(codes)[-1]).clamp(0, 1)
