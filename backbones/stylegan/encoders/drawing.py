"""Drawing with a generator for its encoders: plain, and with what some encoders change in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from backbones.stylegan.anatomy import stylegan2_places
from backbones.stylegan.inside import changed, feature_changes
from unified.contract.shadow import shadow


class Drawer:
    """Style vectors [N, num_ws, w_dim] -> pictures [N, 3, H, W] in about -1..1, with the constant noise maps.

    network: a `Generator`, frozen. Gradients reach the style vectors, and what the pictures are changed by.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.dtype = next(network.parameters()).dtype
        self._private: nn.Module | None = None  # the same tensors, for what registers hooks

    def __call__(self, ws: Tensor) -> Tensor:
        picture: Tensor = self.network.synthesis(ws.to(self.dtype), noise="const")  # type: ignore[operator]
        return picture.to(ws.dtype)

    def offset(self, ws: Tensor, offsets: Mapping[str, Tensor]) -> Tensor:
        """The same with each picture's own weights W (1 + offset): offsets [N, *W] (or of length 1) by path."""
        weights = dict(self.network.named_parameters())
        pictures = []
        for row in range(len(ws)):
            changed = {path: weights[path] * (1 + value[row].to(self.dtype)) for path, value in offsets.items()}
            pictures.append(
                functional_call(_Synthesis(self.network), _prefixed(changed), (ws[row : row + 1].to(self.dtype),))
            )
        return torch.cat(pictures).to(ws.dtype)

    def featured(self, ws: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """The same with changed features, named '<place>/<part>' as `Featured` says."""
        if self._private is None:
            self._private = shadow(self.network)
        synthesis: Any = self._private.synthesis
        with changed(synthesis, feature_changes(stylegan2_places(synthesis), features)):
            picture: Tensor = synthesis(ws.to(self.dtype), noise="const")
        return picture.to(ws.dtype)


class _Synthesis(nn.Module):
    """The synthesis network as the whole forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ws: Tensor) -> Tensor:
        picture: Tensor = self.network.synthesis(ws, noise="const")  # type: ignore[operator]
        return picture


def _prefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"network.{path}": value for path, value in weights.items()}
