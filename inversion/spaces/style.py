"""Style spaces of a GAN: W, W+ and the noise maps (survey section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from unified.contract.abilities import Noisy, Renders
from unified.contract.code import Code
from unified.contract.kinds import Clash, Evidence, Kind
from unified.contract.random import Random
from unified.contract.reference import Reference
from unified.contract.space import Space, spaces
from unified.contract.view import View


def _gan(view: View) -> Renders:
    backbone = view.backbone
    assert isinstance(backbone, Renders)
    return backbone


@dataclass(frozen=True)
class StyleVectors(Space):
    """What all spaces of style vectors share: one code for each picture, from which its w follow."""

    kind: ClassVar[Kind] = Kind.STYLE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Renders,)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})

    def vectors(self, view: View, code: Code) -> Tensor:
        """The style vectors of the code, [pictures, width] or [pictures, number, width]."""
        return code.tensors["w"]

    def bind(self, view: View, code: Code, name: str) -> None:
        gan = _gan(view)
        number, _ = gan.style_shape()
        mean, _ = gan.style_statistics()
        weight = view.binding.weight

        def read() -> Tensor:
            """[pictures, number, width]."""
            w = self.vectors(view, code)
            w = w if weight == 1.0 else mean.to(w.dtype).lerp(w, weight)
            return w if w.ndim == 3 else w.unsqueeze(1).expand(-1, number, -1)

        view.slot("styles", code, read, instead_of=("channels",))


@dataclass(frozen=True)
class _Explored(StyleVectors):
    """What W and W+ share.

    exploration: standard deviation of the noise added while optimising, in units of W's own; it fades to
    zero over the first three quarters (Karras et al. 2020, appendix D). 0.05 in the projector.
    """

    exploration: float = 0.0

    def explore(
        self, view: View, code: Code, *, progress: float, rng: Random, keys: Sequence[int]
    ) -> Mapping[str, Tensor]:
        if self.exploration == 0.0:
            return code.tensors
        _, deviation = _gan(view).style_statistics()
        amount = deviation * self.exploration * max(0.0, 1.0 - progress / 0.75) ** 2
        w = code.tensors["w"]
        noise = rng.normal(keys, w.shape[1:], dtype=w.dtype)
        return {"w": w + amount * noise}


@dataclass(frozen=True)
class W(_Explored):
    """One w for all layers: w [pictures, width]."""

    name: ClassVar[str] = "w"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        mean, _ = _gan(view).style_statistics()
        return self.code({"w": mean.unsqueeze(0).repeat(len(reference), 1)})


@dataclass(frozen=True)
class WPlus(_Explored):
    """One w for each layer (Abdal et al. 2019, Image2StyleGAN): w [pictures, number, width].

    Starts from an earlier stage's W or W+ code if there is one, else from the mean w.
    """

    name: ClassVar[str] = "w+"

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        gan = _gan(view)
        if "styles" in view.slots:
            return self.code({"w": view.slots["styles"].read().detach().clone()})
        mean, _ = gan.style_statistics()
        number, _ = gan.style_shape()
        return self.code({"w": mean.repeat(len(reference), number, 1)})


def noise_regularity(maps: Tensor) -> Tensor:
    """How much noise maps [N,h,w] correlate with their own shifts, over a pyramid down to 8 px; [N].

    sum over levels of mean(n roll_x n)^2 + mean(n roll_y n)^2 (Karras et al. 2020, appendix D).
    """
    total = maps.new_zeros(len(maps))
    level = maps.unsqueeze(1)
    while True:
        for axis in (2, 3):
            total = total + (level * level.roll(1, axis)).mean((1, 2, 3)).square()
        if level.shape[-1] <= 8:
            return total
        level = functional.avg_pool2d(level, 2) * 2.0  # keeps the variance of white noise at one


@dataclass(frozen=True)
class NoiseMaps(Space):
    """The per-layer noise maps, one set for each picture, held to zero mean and unit variance.

    regularity: weight of `noise_regularity` in the loss (Karras et al. 2020: 1e5).
    free: start from the maps that the view has and let them take any value (Abdal et al. 2020, section 3.1:
        they then hold what the styles cannot, down to single pixels). Set `regularity` to 0 with it.
    """

    name: ClassVar[str] = "noise"
    kind: ClassVar[Kind] = Kind.NOISE
    clash: ClassVar[Clash] = Clash.SLOT
    needs: ClassVar[tuple[type, ...]] = (Noisy,)
    per_picture: ClassVar[bool] = True
    learns_from: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RENDER})

    regularity: float = 1e5
    free: bool = False

    def initial(self, view: View, reference: Reference, *, rng: Random) -> Code:
        backbone = view.backbone
        assert isinstance(backbone, Noisy)
        dtype = backbone.dtype
        shapes = backbone.noise_shapes()
        if self.free and "noise" in view.slots:
            return self.code({key: value.detach().clone() for key, value in view.slots["noise"].read().items()})
        if self.free:
            maps = backbone.noise_maps()
            return self.code({key: value.detach().repeat(len(reference), 1, 1) for key, value in maps.items()})
        return self.code({k: rng.child(k).normal(reference.keys, shape, dtype=dtype) for k, shape in shapes.items()})

    def bind(self, view: View, code: Code, name: str) -> None:
        view.slot("noise", code, lambda: code.tensors)

    def prior(self, view: View, code: Code) -> Tensor:
        # Maps under 16 px have too few pixels for their correlation to be judged; the paper leaves them out.
        maps = [value for value in code.tensors.values() if value.shape[-1] >= 16]
        if not maps or self.regularity == 0.0:
            return super().prior(view, code)
        return self.regularity * torch.stack([noise_regularity(value) for value in maps]).sum(0)

    def project(self, code: Code, *, rng: Random, keys: Sequence[int]) -> None:
        if self.free:
            return
        for value in code.tensors.values():
            value -= value.mean((1, 2), keepdim=True)
            value *= value.square().mean((1, 2), keepdim=True).rsqrt()


spaces.register("w", W)
spaces.register("w+", WPlus)
spaces.register("noise", NoiseMaps)
