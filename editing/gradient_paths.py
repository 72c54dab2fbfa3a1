"""Edits by HijackGAN (Wang et al. 2021): steps along the gradient of a network that reads attributes from w."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from editing.latent.proxy import Proxy, Whitened, walk
from editing.paths import Here, Shift, path_models

KIND = "hijackgan"
_STEP = 0.1  # of strength 1


@dataclass(frozen=True, eq=False)
class GradientPaths:
    """Paths "attribute=value"; "NAME|OTHER" walks where, to first order, the proxy's OTHER stays at every step.

    root: [width, k], of the samples' covariance: steps are taken where samples are white, and strength 1 is one
    deviation there. The vectors of all layers take the step of their mean.
    """

    proxy: Proxy
    names: tuple[str, ...]
    root: Tensor

    kind: ClassVar[str] = KIND

    def settings(self) -> dict[str, Any]:
        return {"width": self.proxy.width, "proxy": list(self.proxy.hidden), "names": list(self.names)}

    def tensors(self) -> dict[str, Tensor]:
        return {**{f"proxy.{name}": value for name, value in self.proxy.state_dict().items()}, "root": self.root}

    @staticmethod
    def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GradientPaths:
        """Raises KeyError or RuntimeError for tensors that do not fit."""
        names = tuple(settings["names"])
        proxy = Proxy(settings["width"], len(names), hidden=tuple(settings["proxy"]))
        proxy.load_state_dict({k.removeprefix("proxy."): v for k, v in tensors.items() if k.startswith("proxy.")})
        return GradientPaths(proxy.requires_grad_(False), names, tensors["root"])

    def shift(self, here: Here, name: str, strength: float, keep: Sequence[str]) -> Shift:
        place = self.names.index(name)
        w = here.styles.mean(1).to(self.root.dtype)
        kept = [self.names.index(other) for other in keep]
        white = Whitened(self.proxy, self.proxy.mean, self.root)
        start = white.coordinates(w)
        moved = (walk(white, start, place, strength, keep=kept, longest=_STEP) - start) @ self.root.T
        return Shift(styles=moved.unsqueeze(1).expand(here.styles.shape).to(here.styles.dtype))


path_models.register(KIND, GradientPaths.read)
