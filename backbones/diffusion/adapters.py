"""Where low-rank adapters go in diffusion networks."""

from __future__ import annotations

from torch import nn

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def attention_matrices(network: nn.Module) -> list[str]:
    """Paths of the weights of all attention projections, as diffusers names them; quantised ones are left out."""
    found = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear) or not module.weight.is_floating_point():
            continue
        if name.endswith(tuple(f".{p}" for p in _PROJECTIONS)):
            found.append(f"{name}.weight")
    return found


def weights(network: nn.Module) -> list[str]:
    """Paths of all weights that can be tuned: not of quantised ones."""
    return [name for name, value in network.named_parameters() if value.is_floating_point()]
