"""Custom Diffusion's weights as diffusers' training script wrote them.

The library's own loader of these files has come to do nothing, without a word; here what would not be used is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import save
from torch import Tensor

from unified.contract.abilities import Attends
from unified.contract.backbone import Backbone
from unified.contract.code import Code
from unified.contract.concept import Concept
from unified.contract.shadow import pristine_tensor
from unified.errors import UserError
from unified.exchange import Exchange, Foreign, exchanges, refuse_rest

_SPACE = "kv"
_MARK = "_custom_diffusion.weight"


def recognises(foreign: Foreign) -> bool:
    return any(name.endswith(_MARK) for name in foreign.tensors)


def _path(name: str) -> str:
    """'...attn2.processor.to_k_custom_diffusion.weight' -> '...attn2.to_k.weight'."""
    return name.replace(".processor.", ".").replace(_MARK, ".weight")


def _name(path: str) -> str:
    module, _, matrix = path.removesuffix(".weight").rpartition(".")
    return f"{module}.processor.{matrix}{_MARK}"


def read(backbone: Backbone, foreign: Foreign, partial: bool) -> list[Code]:
    if not isinstance(backbone, Attends):
        raise UserError(f"{backbone.id} has no cross-attention for {foreign.path.name}.")
    component, pairs = backbone.text_matrices()
    module = backbone.components[component]
    known = {path: pristine_tensor(module, path) for pair in pairs for path in pair}
    tensors: dict[str, Tensor] = {}
    rest = []
    for name, value in foreign.tensors.items():
        path = _path(name)
        if path in known and known[path].shape == value.shape:
            tensors[path] = value.to(known[path].dtype)
        else:
            rest.append(name)
    refuse_rest(foreign.path, rest, backbone, partial=partial)
    if not tensors:
        raise UserError(f"Nothing of {foreign.path.name} fits {backbone.id}: load the backbone it was made for.")
    return [Code(_SPACE, tensors, False, {"settings": {}, "component": component})]


def write(backbone: Backbone, concept: Concept, codes: Sequence[Code]) -> bytes:
    tensors = {_name(path): value.detach().contiguous() for path, value in codes[-1].tensors.items()}
    return save(tensors, metadata={"format": "pt"})


exchanges.register(
    "custom diffusion",
    Exchange("diffusers", _SPACE, "pytorch_custom_diffusion_weights.safetensors", write, recognises, read),
)
