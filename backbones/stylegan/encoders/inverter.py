"""Encoders at work: from pictures to codes of a generator."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.stylegan.encoders.config import StyleEncoderConfig
from backbones.stylegan.encoders.drawing import Drawer
from backbones.stylegan.encoders.network import StyleEncoder
from unified.contract.view import View
from unified.errors import UserError


@dataclass(frozen=True)
class Drawn:
    """What an encoder under training has made of pictures: its picture [N,3,H,W] in about -1..1, the style vectors
    [N, num_ws, w_dim] in it, and losses [] of its own by name, weighted."""

    picture: Tensor
    ws: Tensor
    aside: Mapping[str, Tensor] = field(default_factory=dict)


class Inverter(nn.Module, ABC):
    """Networks trained together for one generator. Its tensors have the names of the published files.

    resolution: side of the pictures it takes. generator: fingerprint of the weights it was trained for, "" where
    that is not known.
    """

    kind: ClassVar[str]
    resolution: int
    generator: str = ""
    latent_avg: Tensor

    @abstractmethod
    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """Pictures [N,3,H,W] in 0..1 -> the tensors of a code by the name of its space."""

    @abstractmethod
    def drawn(
        self, call: Callable[..., Any], pictures: Tensor, draw: Drawer, random: torch.Generator
    ) -> Iterator[Drawn]:
        """What training judges, round by round, for pictures [N,3,R,R] in -1..1.

        call: this module, or what wraps it for several devices. No round hands a gradient to the one before.
        """

    def unlocking(self) -> StyleEncoder | None:
        """The network whose offsets are unlocked one after the other while it is trained, if any."""
        return None

    def begin_with(self, base: Inverter) -> None:
        """Take over all tensors of an encoder that this one is built on. Raises UserError if they do not fit."""
        own = self.state_dict()
        given = base.state_dict()
        wrong = [name for name, value in given.items() if name not in own or own[name].shape != value.shape]
        if wrong:
            raise UserError(f"The encoder to begin with has another {wrong[0]}: build that one again first.")
        self.load_state_dict({**own, **given})

    def aliases(self) -> Mapping[str, str]:
        """Names of tensors that are others' under a second name, and these."""
        return {}

    def learned(self) -> nn.Module:
        """The part that training changes; by default all of it."""
        return self

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What `built` makes it of again, as JSON values."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every weight by name."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}:{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def prepared(self, images: Tensor) -> Tensor:
        """Pictures [N,3,H,W] in 0..1 of any size -> what the networks take: in -1..1, their size and precision."""
        size = (self.resolution, self.resolution)
        images = images.to(self.latent_avg.dtype)
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
        return images * 2 - 1

    def pooled(self, pictures: Tensor) -> Tensor:
        """Pictures of the generator in -1..1 at the size that the networks take."""
        if pictures.shape[-1] >= self.resolution:
            return functional.adaptive_avg_pool2d(pictures, self.resolution)
        return functional.interpolate(pictures, size=(self.resolution, self.resolution), mode="bilinear")

    def drawer(self, view: View) -> Drawer:
        """What draws with the view's generator."""
        return Drawer(view.component("generator"))


def average_of(latent_avg: Tensor, num_ws: int) -> Tensor:
    """A stored mean w, [w_dim] or [rows, w_dim], for each of the generator's styles: [num_ws, w_dim]."""
    rows = latent_avg.float().reshape(-1, latent_avg.shape[-1])
    return rows.expand(num_ws, -1).clone() if len(rows) == 1 else rows[:num_ws].clone()


class StyleInverter(Inverter):
    """pSp and e4e: w = mean + E(x) (Richardson et al. 2021, section 3; Tov et al. 2021, section 4). ReStyle over
    either: w_0 = mean, w_{t+1} = w_t + E(x, y_t), y_t the picture of w_t (Alaluf et al. 2021, equations 3 and 4).

    One picture as input makes it the former, two the latter. iterations: how often; 5 in the paper.
    """

    kind: ClassVar[str] = "style"

    def __init__(self, config: StyleEncoderConfig, *, iterations: int = 1) -> None:
        super().__init__()
        if config.inputs not in (3, 6):
            raise UserError(
                f"This encoder takes pictures of {config.inputs} channels: it draws from sketches or maps, and does not"
                " invert photographs."
            )
        self.config, self.iterations, self.resolution = config, iterations, config.resolution
        self.encoder = StyleEncoder(config)
        self.register_buffer("latent_avg", torch.zeros(config.num_ws, config.w_dim))

    def unlocking(self) -> StyleEncoder | None:
        return self.encoder if self.config.progressive else None

    @property
    def refines(self) -> bool:
        """Whether it sees what its last answer looks like."""
        return self.config.inputs == 6

    def forward(self, pictures: Tensor, ws: Tensor, drawn: Tensor | None = None) -> Tensor:
        """One round: better style vectors. drawn: the picture of `ws`, for encoders that see it."""
        given = pictures if drawn is None else torch.cat([pictures, self.pooled(drawn)], dim=1)
        better: Tensor = ws + self.encoder(given)
        return better

    def drawn(
        self, call: Callable[..., Any], pictures: Tensor, draw: Drawer, random: torch.Generator
    ) -> Iterator[Drawn]:
        ws = self.latent_avg.expand(len(pictures), -1, -1)
        picture = None
        if self.refines:
            with torch.no_grad():
                picture = draw(ws[:1]).expand(len(ws), -1, -1, -1)
        for _ in range(self.iterations if self.refines else 1):
            ws = call(pictures, ws, picture)
            found = draw(ws)
            yield Drawn(found, ws)
            ws, picture = ws.detach(), found.detach() if self.refines else None

    def style_vectors(self, view: View, images: Tensor) -> Tensor:
        """w [N, num_ws, w_dim] of pictures [N,3,H,W] in 0..1, with gradients where they are asked for."""
        draw, pictures = self.drawer(view), self.prepared(images)
        ws = self.latent_avg.expand(len(pictures), -1, -1)
        for _ in range(self.iterations if self.refines else 1):
            ws = self(pictures, ws, draw(ws) if self.refines else None)
        return ws.to(images.dtype)

    @torch.no_grad()
    def codes(self, view: View, images: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        return {"w+": {"w": self.style_vectors(view, images)}}

    def settings(self) -> Mapping[str, Any]:
        return {"encoder": self.config.to_dict(), "iterations": self.iterations}
