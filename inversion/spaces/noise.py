"""Noise spaces of diffusion and flow models (survey section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unified.contract.backbone import Denoises
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


@dataclass(frozen=True)
class StartNoise(Space):
    """The latents at the noisiest level that sampling starts from: latents [pictures, *latent shape].

    The meta holds `steps` and `prompt` of the inversion; sampling takes the same steps.
    """

    name: ClassVar[str] = "start-noise"
    kind: ClassVar[Kind] = Kind.NOISE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Denoises,)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset()  # the training error draws its own noise

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Denoises)
        shape = backbone.latent_shape()
        return self.code({"latents": rng.normal(reference.keys, shape, dtype=view.backbone.dtype)})

    def bind(self, view: View, code: Code, name: str) -> None:
        view.slot("start", code, lambda: code.tensors["latents"])


spaces.register("start-noise", StartNoise)
