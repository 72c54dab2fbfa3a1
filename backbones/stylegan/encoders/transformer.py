"""StyleTransformer (Hu et al. 2022): queries, one for each style, look at the picture's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.stylegan.encoders.blocks import Trunk
from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.inverter import Drawn, Inverter
from backbones.stylegan.encoders.network import pyramid
from backbones.stylegan.statistics import map_latents
from unified.contract.view import View
from unified.errors import UserError

HEADS = 4


class QueryEncoder(Trunk):
    """(pictures [N,3,R,R] in -1..1, queries [N, num_ws, w_dim]) -> offsets of w from the mean [N, num_ws, w_dim].

    A pyramid as in pSp; then three transformer layers, each of self-attention among the queries, cross-attention to
    the features and a feed-forward network, the first to the coarse features, the last to the fine ones (section 3.2).
    The features are as wide as w; `style_width` is the feed-forward width. Without dropout, so that a training that
    was interrupted goes on bit for bit.
    """

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__(config)
        channels = [width for width, _ in config.stages]
        if channels[-1] != config.w_dim or not config.pyramid or config.w_dim % HEADS:
            raise UserError(
                f"The last features of a StyleTransformer have as many channels as w, a multiple of {HEADS}, in a"
                f" pyramid; {channels[-1]} for {config.w_dim} were given."
            )
        self.latlayer1 = nn.Conv2d(channels[-2], channels[-1], 1)
        self.latlayer2 = nn.Conv2d(channels[-3], channels[-1], 1)
        self.transformerlayer_coarse = self._layer(config)
        self.transformerlayer_medium = self._layer(config)
        self.transformerlayer_fine = self._layer(config)
        self.z = nn.Parameter(torch.randn(1, config.num_ws, config.w_dim))

    @staticmethod
    def _layer(config: StyleEncoderConfig) -> nn.TransformerDecoderLayer:
        return nn.TransformerDecoderLayer(config.w_dim, HEADS, config.style_width, dropout=0.0, batch_first=True)

    def forward(self, pictures: Tensor, queries: Tensor) -> Tensor:
        layers = (self.transformerlayer_coarse, self.transformerlayer_medium, self.transformerlayer_fine)
        levels = pyramid(self.features(pictures), self.latlayer1, self.latlayer2)
        for layer, level in zip(layers, levels, strict=True):
            queries = layer(queries, level.flatten(2).transpose(1, 2))
        return queries


class QueryInverter(Inverter):
    """w = mean + E(x, f(z)): the queries are what the generator's mapping network f makes of learned latents z, one
    for each style (section 3.2)."""

    kind: ClassVar[str] = "transformer"

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config, self.resolution = config, config.resolution
        self.encoder = QueryEncoder(config)
        self.register_buffer("latent_avg", torch.zeros(config.num_ws, config.w_dim))

    def forward(self, pictures: Tensor, network: nn.Module) -> Tensor:
        """ws [N, num_ws, w_dim]. network: the generator."""
        queries = map_latents(network, self.encoder.z[0].to(next(network.parameters()).dtype)).to(pictures.dtype)
        ws: Tensor = self.latent_avg + self.encoder(pictures, queries.expand(len(pictures), -1, -1))
        return ws

    def drawn(
        self, call: Callable[..., Any], pictures: Tensor, draw: Drawer, random: torch.Generator
    ) -> Iterator[Drawn]:
        ws = call(pictures, draw.network)
        yield Drawn(draw(ws), ws)

    @torch.no_grad()
    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        ws = self(self.prepared(images), view.component("generator"))
        return {"w+": {"w": ws.to(images.dtype)}}

    def settings(self) -> Mapping[str, Any]:
        return {"encoder": self.config.to_dict()}
