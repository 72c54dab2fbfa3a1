"""Edits by StyleFlow (Abdal et al. 2021): back to noise with the attributes as they are, forward with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from editing.latent.flow import ConditionalFlow
from editing.latent.proxy import Proxy, raised
from editing.paths import Here, Shift, path_models

KIND = "styleflow"
# "Edit-specific subset selection": which of the layers take an edit. Names are the paper's attributes and the
# embedded model's. Layers are counted from the coarsest, so they mean the same for every depth.
LAYERS: Mapping[str, tuple[int, ...]] = {
    "expression": (4, 5),
    "mouth": (4, 5),
    "eyes": (4, 5),
    "brows": (4, 5),
    "age": (4, 5, 6, 7),
    "gender": tuple(range(8)),
    "glasses": tuple(range(6)),
    "baldness": tuple(range(6)),
    "hair": tuple(range(6)),
    "facial_hair": (5, 6, 7, 10),
    "yaw": (0, 1, 2, 3),
    "pitch": (0, 1, 2, 3),
}


@dataclass(frozen=True, eq=False)
class FlowPaths:
    """Paths "attribute=value": strength raises the value's log-odds by deviations, the flow says how w follows.

    All other attributes are held, which is what the flow is conditioned for. The paper asks a classifier what the
    picture shows; here `proxy` reads it from w, so that a file suffices to edit. Each layer's vector goes through the
    flow with the attributes of their mean, as in the paper for W+. What one pass back and forward
    without any change would add, the error of the solver, is taken off.
    """

    flow: ConditionalFlow
    proxy: Proxy
    names: tuple[str, ...]
    mean: Tensor
    deviation: Tensor

    kind: ClassVar[str] = KIND

    def settings(self) -> dict[str, Any]:
        flow = {"width": self.flow.width, "hidden": list(self.flow.hidden), "steps": self.flow.steps}
        return {"flow": flow, "proxy": list(self.proxy.hidden), "names": list(self.names)}

    def tensors(self) -> dict[str, Tensor]:
        parts = {"flow": self.flow.state_dict(), "proxy": self.proxy.state_dict()}
        found = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return {**found, "mean": self.mean, "deviation": self.deviation}

    @staticmethod
    def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FlowPaths:
        """Raises KeyError or RuntimeError for tensors that do not fit."""
        names, shape = tuple(settings["names"]), settings["flow"]
        flow = ConditionalFlow(shape["width"], len(names), hidden=tuple(shape["hidden"]), steps=shape["steps"])
        proxy = Proxy(shape["width"], len(names), hidden=tuple(settings["proxy"]))
        for part, network in (("flow.", flow), ("proxy.", proxy)):
            own = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            network.load_state_dict(own)
            network.requires_grad_(False)
        return FlowPaths(flow, proxy, names, tensors["mean"], tensors["deviation"])

    @torch.no_grad()
    def shift(self, here: Here, name: str, strength: float, keep: Sequence[str]) -> Shift:
        place = self.names.index(name)
        attribute = name.partition("=")[0]
        siblings = [
            k
            for k, other in enumerate(self.names)
            if k != place and other.partition("=")[0] == attribute and other not in keep
        ]
        styles = here.styles
        w = styles.to(self.mean.dtype)
        old = self.proxy(w.mean(1))
        new = raised(old, place, strength, siblings, self.mean, self.deviation)
        # A w for all layers stays one: it is carried once.
        own = w[:, :1] if bool((w == w[:, :1]).all()) else w
        rows = own.flatten(0, 1)
        before, after = (each.repeat_interleave(own.shape[1], 0) for each in (old, new))
        noise = self.flow.noise(rows, before)
        step = self.flow.latents(noise, after) - self.flow.latents(noise, before)
        return Shift(styles=step.view_as(own).expand_as(w).to(styles.dtype))


path_models.register(KIND, FlowPaths.read)
