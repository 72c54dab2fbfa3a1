"""Where low-rank adapters go in diffusion networks."""

from __future__ import annotations

from torch import Tensor, nn

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def attention_matrices(network: nn.Module) -> list[str]:
    """Paths of the weights of all attention projections, as diffusers names them, that can be changed."""
    found = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear) or not _here(module.weight):
            continue
        if name.endswith(tuple(f".{p}" for p in _PROJECTIONS)):
            found.append(f"{name}.weight")
    return found


def weights(network: nn.Module) -> list[str]:
    """Paths of all weights that can be changed: not quantised ones, nor those that lie on another device."""
    return [name for name, value in network.named_parameters() if _here(value)]


def _here(value: Tensor) -> bool:
    return value.is_floating_point() and value.device.type == "cpu"
